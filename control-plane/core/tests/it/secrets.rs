//! Sealed secrets: editions in order, the master key they agree on, and what a later edition makes void.

use bailiwick_control_plane_core::{
    Command, Decision, Event, Rejection, State,
    credential::{self, Audience, CREDENTIALS_MAX},
    evolve,
    secret::{SECRETS_MAX, SealSecret, made_void_by, master_in_use, name},
};

use crate::world::World;

const OLD: &str = "00112233445566aa";
const NEW: &str = "ff112233445566aa";

fn wish(column: &str, edition: u64, master: &str) -> SealSecret {
    let (nonce, sealed) = (format!("{edition:024x}"), "00ff".repeat(24));
    SealSecret { column: column.into(), key: "1".into(), edition, master: master.into(), nonce, sealed }
}

fn seal(world: &mut World, column: &str, edition: u64, master: &str) -> Result<Decision, Rejection> {
    world.run(Command::SealSecret(wish(column, edition, master)))
}

fn rotate(world: &mut World, master: &str) -> Result<Decision, Rejection> {
    world.run(Command::RotateMasterKey { master: master.into() })
}

pub(crate) fn one_of_each(world: &mut World) {
    seal(world, "session_sealing", 1, OLD).unwrap();
    rotate(world, OLD).unwrap();
}

pub(crate) fn one_for_servers(world: &mut World) {
    world.run(Command::SetCredential { name: "finance-key".into(), audience: Audience::Servers }).unwrap();
    world.run(Command::DeleteCredential { name: "finance-key".into() }).unwrap();
}

#[test]
fn a_secret_for_servers_is_there_from_the_word_on_until_it_is_deleted() {
    let mut world = World::default();
    let audience = Audience::Servers;
    let set = |world: &mut World, name: &str| world.run(Command::SetCredential { name: name.into(), audience });
    let delete = |world: &mut World, name: &str| world.run(Command::DeleteCredential { name: name.into() });
    assert_eq!(delete(&mut world, "key").unwrap_err(), Rejection::SecretUnknown { name: "key".into() });
    set(&mut world, "key").unwrap();
    set(&mut world, "key").unwrap();
    assert!(credential::is_set(&world.state, "key", audience));
    for bad in ["", "A", "a/b", "a b"] {
        assert!(matches!(set(&mut world, bad), Err(Rejection::Malformed { .. })), "{bad}");
    }
    delete(&mut world, "key").unwrap();
    assert!(!credential::is_set(&world.state, "key", audience));
    for number in 0..CREDENTIALS_MAX {
        set(&mut world, &format!("k{number}")).unwrap();
    }
    assert!(matches!(set(&mut world, "more"), Err(Rejection::TooMany { .. })));
    set(&mut world, "k0").unwrap();
}

#[test]
fn editions_come_one_after_the_other() {
    let mut world = World::default();
    assert_eq!(seal(&mut world, "a", 2, OLD).unwrap_err(), edition("a", 1));
    seal(&mut world, "a", 1, OLD).unwrap();
    assert!(seal(&mut world, "a", 1, OLD).unwrap().events.is_empty(), "the answer to the same sealing was lost");
    let other = SealSecret { sealed: "ff".into(), ..wish("a", 1, OLD) };
    assert_eq!(world.run(Command::SealSecret(other)).unwrap_err(), edition("a", 2), "two leaders, one winner");
    seal(&mut world, "a", 2, OLD).unwrap();
    assert_eq!(world.state.secrets.get(&name("a", "1")).unwrap().edition, 2);
}

fn edition(column: &str, next: u64) -> Rejection {
    Rejection::SecretEdition { column: column.into(), key: "1".into(), next }
}

#[test]
fn a_rotation_counts_once_every_secret_is_under_the_new_key() {
    let mut world = World::default();
    assert_eq!(master_in_use(&world.state), None);
    seal(&mut world, "a", 1, OLD).unwrap();
    seal(&mut world, "b", 1, OLD).unwrap();
    assert_eq!(master_in_use(&world.state), Some(OLD), "what the first secret has is in use");
    seal(&mut world, "a", 2, NEW).unwrap();
    assert_eq!(master_in_use(&world.state), Some(OLD));
    assert_eq!(rotate(&mut world, NEW).unwrap_err(), Rejection::SecretsUnderOther { master: NEW.into() });
    seal(&mut world, "b", 2, NEW).unwrap();
    rotate(&mut world, NEW).unwrap();
    assert_eq!(master_in_use(&world.state), Some(NEW));
    assert!(rotate(&mut world, NEW).unwrap().events.is_empty(), "asked again, nothing changes");
}

#[test]
fn an_older_edition_can_be_forgotten() {
    let mut world = World::default();
    for (column, edition) in [("a", 1), ("b", 1), ("a", 2), ("a", 3)] {
        seal(&mut world, column, edition, OLD).unwrap();
    }
    let (mut all, mut void) = (State::default(), Vec::new());
    for (revision, event) in (1..).zip(&world.events) {
        assert_eq!(event.request_id, "", "nothing else follows from the change");
        void.push(made_void_by(&all, std::slice::from_ref(event)));
        evolve(&mut all, event, revision);
    }
    assert_eq!(void, [None, None, Some(1), Some(3)]);
    let mut some = State::default();
    for (revision, event) in (1..).zip(&world.events).filter(|(revision, _)| !void.contains(&Some(*revision))) {
        evolve(&mut some, event, revision);
    }
    assert_eq!(some, all);
    let two: Vec<Event> = world.events.iter().take(2).cloned().collect();
    assert_eq!(made_void_by(&all, &two), None, "only a change of its own");
}

#[test]
fn what_is_no_sealed_secret_is_refused() {
    let mut world = World::default();
    let good = wish("a", 1, OLD);
    let bad = [
        SealSecret { column: String::new(), ..good.clone() },
        SealSecret { column: "a/b".into(), ..good.clone() },
        SealSecret { key: "x y".into(), ..good.clone() },
        SealSecret { master: "short".into(), ..good.clone() },
        SealSecret { nonce: "00".into(), ..good.clone() },
        SealSecret { sealed: String::new(), ..good.clone() },
        SealSecret { sealed: "0G".into(), ..good.clone() },
        SealSecret { sealed: "00".repeat(9_000), ..good },
    ];
    for wish in bad {
        assert!(matches!(world.run(Command::SealSecret(wish)), Err(Rejection::Malformed { .. })));
    }
    assert!(matches!(rotate(&mut world, "NOT A KEY"), Err(Rejection::Malformed { .. })));
    for number in 0..SECRETS_MAX {
        seal(&mut world, &format!("c{number}"), 1, OLD).unwrap();
    }
    assert!(matches!(seal(&mut world, "one-more", 1, OLD), Err(Rejection::TooMany { .. })));
}
