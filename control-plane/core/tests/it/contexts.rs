//! Rotation of the key that data planes sign contexts with: what it signed counts for as long as a data plane may go on
//! without control planes, or ends at once.

use bailiwick_control_plane_core::{
    Command, Decision, Rejection,
    key_rotation::{
        CONTEXT_KEYS_MAX, CONTEXT_SECONDS_MAX, CONTEXT_SIGNING, KEPT_SECONDS, KeyKind, KeyWish, KeysStay, RotateSeal,
        in_use, overdue,
    },
};

use crate::{
    key_rotations::seal,
    world::{START_MICROS, World},
};

const START: u64 = START_MICROS / 1_000_000;

pub(crate) fn one_of_each(world: &mut World) {
    rotate(world, "x2", "x1", false).unwrap();
    rotate(world, "x3", "x2", true).unwrap();
}

fn rotate(world: &mut World, id: &str, before: &str, at_once: bool) -> Result<Decision, Rejection> {
    let edition = seal(world, CONTEXT_SIGNING);
    let rotate = RotateSeal { key: id.into(), replaces: before.into(), edition, at_once, reason: "OPS-4".into() };
    world.run(Command::Keys(KeyWish::RotateContext(rotate)))
}

fn types(decision: &Decision) -> Vec<&'static str> {
    decision.events.iter().map(|event| event.change.type_word()).collect()
}

#[test]
fn a_replaced_context_key_counts_while_a_data_plane_may_be_alone_and_not_after_at_once() {
    let mut world = World::example();
    assert_eq!(types(&rotate(&mut world, "x2", "x1", false).unwrap()), ["context_key_rotated"]);
    assert_eq!(in_use(&world.state.context_keys).unwrap().0, "x2");
    let until = START + CONTEXT_SECONDS_MAX + KEPT_SECONDS;
    assert_eq!(world.state.context_keys["x1"].replaced.unwrap().until, until);
    assert_eq!(overdue(&world.state, until - 1), []);
    let retire = KeyWish::Retire { kind: KeyKind::ContextSigning, key: "x1".into() };
    assert_eq!(overdue(&world.state, until), std::slice::from_ref(&retire));
    let early = world.run(Command::Keys(retire.clone())).unwrap_err();
    assert_eq!(early, KeysStay::StillCounts { key: "x1".into(), until }.into());
    world.seconds = until - START;
    assert_eq!(types(&world.run(Command::Keys(retire)).unwrap()), ["context_key_retired"]);

    let at_once = rotate(&mut world, "x3", "x2", true).unwrap();
    assert_eq!(types(&at_once), ["context_key_rotated", "context_key_retired"]);
    assert_eq!(world.state.context_keys.keys().collect::<Vec<_>>(), ["x3"]);
    let refused = world.run(Command::Keys(KeyWish::Retire { kind: KeyKind::ContextSigning, key: "x3".into() }));
    assert_eq!(refused.unwrap_err(), KeysStay::InUse { key: "x3".into() }.into());
}

#[test]
fn so_many_context_keys_are_kept_and_no_more() {
    let mut world = World::example();
    for number in 1..CONTEXT_KEYS_MAX {
        rotate(&mut world, &format!("x{}", number + 1), &format!("x{number}"), false).unwrap();
    }
    let (next, last) = (format!("x{}", CONTEXT_KEYS_MAX + 1), format!("x{CONTEXT_KEYS_MAX}"));
    let refused = rotate(&mut world, &next, &last, false).unwrap_err();
    let until = START + CONTEXT_SECONDS_MAX + KEPT_SECONDS;
    assert_eq!(refused, KeysStay::Kept { max: CONTEXT_KEYS_MAX, until }.into());
    rotate(&mut world, &next, &last, true).unwrap();
    assert_eq!(world.state.context_keys.len(), 1);
}
