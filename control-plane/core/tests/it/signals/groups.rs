//! Which of a provider's words on somebody's groups is the latest: what a sign-in said, or what a signal did.

use super::*;

/// Signs Jane in with what her provider said so many seconds ago.
fn signed_in(world: &mut World, ago: u64, groups: &[&str]) -> Decision {
    let said_at = Some((START + world.seconds).saturating_sub(ago));
    let groups = Some(groups.iter().map(ToString::to_string).collect());
    let (user, provider, session) = (JANE.into(), "acme".into(), format!("b-{ago}"));
    let wish = SignIn { user, provider, groups, may_join: false, session, said_at };
    let context = Context { request_id: String::new(), ..world.context() };
    world.run_as(Command::Wish(Wish::SignIn(wish)), &context).unwrap()
}

/// Jane is in these groups since so many seconds ago.
fn moved(world: &mut World, number: u64, ago: u64, groups: &[&str]) -> SignalOutcome {
    let happened_at = (START + world.seconds).saturating_sub(ago);
    let groups = Some(groups.iter().map(ToString::to_string).collect());
    let known = signal(world, number, SignalKind::TokenClaimsChange);
    outcome(&take(world, TakeSignal { groups, happened_at, is_worse: false, ..known }).unwrap())
}

fn groups(world: &World) -> String {
    world.state.users.get(JANE).unwrap().spec.groups.iter().cloned().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_newer_word_on_groups_counts_whichever_arrives_last() {
    // The signal is older than what the sign-in said, and comes after it.
    let mut world = example();
    signed_in(&mut world, 10, &["audit"]);
    assert_eq!(moved(&mut world, 1, 71, &["finance"]), SignalOutcome::Outdated);
    assert_eq!(groups(&world), "audit");
    // It is newer.
    assert_eq!(moved(&mut world, 2, 5, &["finance"]), SignalOutcome::GroupsChanged);
    assert_eq!(groups(&world), "finance");
    // A word of a sign-in that was given before that comes late: whoever signs in does, and groups stay.
    let decision = signed_in(&mut world, 7, &["audit"]);
    assert_eq!((types(&decision), groups(&world).as_str()), (vec!["person_signed_in"], "finance"));
    // It dates nothing either.
    assert_eq!(moved(&mut world, 3, 5, &["audit"]), SignalOutcome::GroupsChanged);
    signed_in(&mut world, 0, &["finance"]);
    assert_eq!(moved(&mut world, 4, 61, &["audit"]), SignalOutcome::Outdated);
    assert_eq!(groups(&world), "finance");
}

#[test]
fn a_signal_from_just_before_a_sign_in_only_takes_away() {
    let mut world = example();
    signed_in(&mut world, 0, &["audit", "finance"]);
    assert_eq!(moved(&mut world, 1, 60, &["finance", "managers"]), SignalOutcome::GroupsChanged);
    assert_eq!(groups(&world), "finance");
    assert_eq!(moved(&mut world, 2, 30, &["audit", "finance"]), SignalOutcome::GroupsUnchanged);
    assert_eq!(moved(&mut world, 3, 31, &[]), SignalOutcome::Outdated, "signals are in order among themselves");
    let mut world = example();
    signed_in(&mut world, 0, &["audit", "finance"]);
    assert_eq!(moved(&mut world, 3, 61, &[]), SignalOutcome::Outdated);
    assert_eq!(groups(&world), "audit finance");
}

#[test]
fn a_sign_in_that_changes_no_groups_is_the_latest_word_on_them_too() {
    let mut world = example();
    let now: Vec<String> = world.state.users.get(JANE).unwrap().spec.groups.iter().cloned().collect();
    let decision = signed_in(&mut world, 0, &now.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(types(&decision), ["person_signed_in"]);
    assert_eq!(moved(&mut world, 1, 61, &["elsewhere"]), SignalOutcome::Outdated);
    // A clock that is ahead does not hold later groups back.
    let (user, provider, session) = (JANE.into(), "acme".into(), "b-x".to_owned());
    let ahead = SignIn {
        user,
        provider,
        groups: Some(BTreeSet::from(["audit".to_owned()])),
        may_join: false,
        session,
        said_at: Some(START * 1_000),
    };
    let context = Context { request_id: String::new(), ..world.context() };
    world.run_as(Command::Wish(Wish::SignIn(ahead)), &context).unwrap();
    world.seconds += 1;
    assert_eq!(moved(&mut world, 2, 0, &["finance"]), SignalOutcome::GroupsChanged);
}

#[test]
fn a_word_of_another_provider_is_no_older_or_newer_than_this_ones() {
    let mut world = example();
    let (user, session) = (JANE.into(), "b-1".to_owned());
    let local = SignIn { user, provider: String::new(), groups: None, may_join: false, session, said_at: None };
    world.run(Command::Wish(Wish::SignIn(local))).unwrap();
    assert_eq!(moved(&mut world, 1, 300, &["audit"]), SignalOutcome::GroupsChanged);
}
