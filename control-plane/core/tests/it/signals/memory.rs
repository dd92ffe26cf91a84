//! What is remembered of signals: which groups are the latest, and how much room each provider's signals have.

use std::collections::BTreeMap;

use bailiwick_control_plane_core::signal::{SEEN_OF_ONE_MAX, Signals};

use super::*;

/// The signal of this number: Jane is in these groups since so many seconds ago.
fn moved(world: &World, number: u64, ago: u64, groups: &[&str]) -> TakeSignal {
    let groups = Some(groups.iter().map(ToString::to_string).collect());
    let now = START + world.seconds;
    let happened_at = now.saturating_sub(ago);
    TakeSignal { groups, happened_at, is_worse: false, ..signal(world, number, SignalKind::TokenClaimsChange) }
}

fn groups_of_jane(world: &World) -> String {
    world.state.users.get(JANE).unwrap().spec.groups.iter().cloned().collect::<Vec<_>>().join(" ")
}

#[test]
fn older_groups_never_undo_newer_ones() {
    use SignalOutcome::*;
    let mut world = example();
    world.seconds += 1_000;
    for (number, (ago, groups, expected, now)) in [
        (50, "audit", GroupsChanged, "audit"),
        (60, "finance", Outdated, "audit"),
        (50, "finance", GroupsChanged, "finance"),
        // What is so already is the latest word too.
        (20, "finance", GroupsUnchanged, "finance"),
        (30, "audit", Outdated, "finance"),
        (10, "audit", GroupsChanged, "audit"),
    ]
    .into_iter()
    .enumerate()
    {
        let wish = moved(&world, number as u64, ago, &[groups]);
        let decision = take(&mut world, wish).unwrap();
        assert_eq!((outcome(&decision), groups_of_jane(&world).as_str()), (expected, now), "{number}");
    }
    // One that ends sessions as well still ends them.
    let worse = TakeSignal { is_worse: true, ..moved(&world, 20, 40, &["finance"]) };
    assert_eq!(types(&take(&mut world, worse).unwrap()), ["signal_received", "sessions_ended"]);
    assert_eq!(groups_of_jane(&world), "audit");
    // A clock that is ahead does not hold back what comes after it.
    let ahead = TakeSignal { happened_at: START * 1_000, ..moved(&world, 21, 0, &["finance"]) };
    assert_eq!(outcome(&take(&mut world, ahead).unwrap()), GroupsChanged);
    world.seconds += 1;
    let next = moved(&world, 22, 0, &["audit"]);
    assert_eq!(outcome(&take(&mut world, next).unwrap()), GroupsChanged);
    // It is kept as the rest of the state is.
    let kept: Signals = serde_json::from_value(serde_json::to_value(&world.state.signals).unwrap()).unwrap();
    assert_eq!(kept, world.state.signals);
}

#[test]
fn a_name_that_is_almost_somebodys_takes_groups_and_gives_none() {
    let mut world = example();
    let almost = |wish: TakeSignal| TakeSignal { user: Some("Jane@Example.COM".into()), ..wish };
    let more = almost(moved(&world, 1, 0, &["finance", "audit"]));
    assert_eq!(outcome(&take(&mut world, more).unwrap()), SignalOutcome::GroupsUnchanged);
    let other = almost(moved(&world, 2, 0, &["audit"]));
    assert_eq!(outcome(&take(&mut world, other).unwrap()), SignalOutcome::GroupsChanged);
    assert_eq!(groups_of_jane(&world), "");
    let exact = moved(&world, 3, 0, &["audit"]);
    take(&mut world, exact).unwrap();
    assert_eq!(groups_of_jane(&world), "audit");
}

/// Signals of so many of a provider's, all of them until then.
fn full(provider: &str, until: u64) -> Signals {
    let key = |number: usize| format!("{:064x}", number + 1_000_000);
    let keys = || (0..SEEN_OF_ONE_MAX).map(key);
    let seen: BTreeMap<_, _> = keys().map(|key| (key, json!({"until": until, "provider": provider}))).collect();
    let expiries: Vec<_> = keys().map(|key| json!([until, key])).collect();
    let held = json!({provider: SEEN_OF_ONE_MAX});
    serde_json::from_value(json!({"seen": seen, "expiries": expiries, "held": held, "groups_at": {}, "last": {}}))
        .unwrap()
}

#[test]
fn no_provider_fills_the_memory_of_all_and_a_full_one_still_ends_what_is_to_end() {
    let until = START + 20_000;
    let mut world = example();
    world.state.signals = full("other", until);
    let wish = moved(&world, 1, 0, &["audit"]);
    assert_eq!(outcome(&take(&mut world, wish).unwrap()), SignalOutcome::GroupsChanged, "another's is full");

    world.state.signals = full("acme", until);
    let wish = moved(&world, 2, 0, &["finance"]);
    let refused = take(&mut world, wish.clone());
    assert!(matches!(refused, Err(Rejection::TooMany { what: "signals", max: SEEN_OF_ONE_MAX })), "{refused:?}");
    let worse = TakeSignal { is_worse: true, ..wish.clone() };
    assert_eq!(types(&take(&mut world, worse).unwrap()), ["signal_received", "sessions_ended"]);
    assert_eq!(groups_of_jane(&world), "audit");
    let consent = token(&mut world);
    world.seconds += 1;
    for (event, expected) in [
        (SignalKind::SessionRevoked, SignalOutcome::SessionsEnded),
        (SignalKind::AccountDisabled, SignalOutcome::Deactivated),
    ] {
        let wish = signal(&world, 3, event);
        assert_eq!(outcome(&take(&mut world, wish).unwrap()), expected);
    }
    assert!(!is_live(&world, &consent) && !world.state.users.get(JANE).unwrap().spec.active);
    // There is room again once some of them could not come any more.
    world.seconds = until - START + 601;
    assert_eq!(outcome(&take(&mut world, wish).unwrap()), SignalOutcome::GroupsChanged);
}

#[test]
fn what_has_no_effect_takes_no_place() {
    let mut world = example();
    let nobody = TakeSignal { user: None, ..signal(&world, 1, SignalKind::SessionRevoked) };
    for wish in [nobody, signal(&world, 2, SignalKind::Verification), signal(&world, 3, SignalKind::StreamUpdated)] {
        for _ in 0..2 {
            assert_ne!(outcome(&take(&mut world, wish.clone()).unwrap()), SignalOutcome::Repeated, "{wish:?}");
        }
    }
    assert_eq!(serde_json::to_value(&world.state.signals).unwrap()["seen"], json!({}));
}
