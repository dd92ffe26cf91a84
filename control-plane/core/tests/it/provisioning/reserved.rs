//! Groups that no directory fills: by creation, by renaming, by members, and whatever their names are written like.

use super::*;

/// The outcome where `auditors` and `It-Audit` are reserved.
fn asked(world: &mut World, operation: Operation) -> Outcome {
    let (operations, reserved) = (vec![operation], set(&["auditors", "It-Audit"]));
    let wish = Provision { operations, faults_max: None, reserved };
    let decision = world.run(Command::Wish(Wish::Provision(wish))).unwrap();
    let Answer::Fulfilled(Fulfilled::Provisioned(outcomes)) = &decision.answer else { panic!("no outcomes") };
    if matches!(outcomes[..], [Outcome::Refused(_)]) {
        assert_eq!(decision.events, []);
    }
    outcomes[0].clone()
}

fn named(id: &str, display: &str) -> Operation {
    let members = MembersWritten::Changed { added: set(&[]), removed: set(&[]) };
    let display = Some(display.to_owned());
    Operation::ChangeGroup { id: id.into(), version: None, display, external_id: None, members }
}

fn is_reserved(outcome: &Outcome, name: &str) -> bool {
    *outcome == Outcome::Refused(Fault::Reserved(name.to_owned()))
}

#[test]
fn no_directory_makes_anybody_an_auditor() {
    let mut world = World::example();
    world.provision(create("p-1", JANE));
    for (display, name) in [("auditors", "auditors"), (" auditors ", "auditors"), ("It Audit", "It-Audit")] {
        for members in [&["p-1"][..], &[]] {
            assert!(is_reserved(&asked(&mut world, group("g-1", display, members)), name), "{display} {members:?}");
        }
    }
    world.provision(group("g-1", "staff", &["p-1"]));
    for (display, name) in [("auditors", "auditors"), ("It / Audit", "It-Audit")] {
        assert!(is_reserved(&asked(&mut world, named("g-1", display)), name), "{display}");
    }
    assert_eq!(world.groups(JANE), ["finance", "staff"]);
    // What only looks like one is one like any other.
    assert!(matches!(asked(&mut world, group("g-2", "Auditors", &["p-1"])), Outcome::Done(_)));
}

#[test]
fn of_a_group_that_was_there_before_it_was_reserved_people_only_leave() {
    let mut world = World::example();
    world.provision_all(vec![
        create("p-1", JANE),
        create("p-2", "bob@example.com"),
        group("g-1", "auditors", &["p-1"]),
    ]);
    assert!(is_reserved(&asked(&mut world, joins("g-1", &["p-2"], &[])), "auditors"));
    assert!(is_reserved(&asked(&mut world, change("g-1", MembersWritten::All(set(&["p-1", "p-2"])))), "auditors"));
    assert!(matches!(asked(&mut world, joins("g-1", &["p-1"], &[])), Outcome::Done(_)), "she is in it");
    assert!(matches!(asked(&mut world, joins("g-1", &[], &["p-1"])), Outcome::Done(_)));
    assert!(!world.groups(JANE).contains(&"auditors"));
    assert!(is_reserved(&asked(&mut world, joins("g-1", &["p-1"], &[])), "auditors"));
    assert!(matches!(asked(&mut world, Operation::DeleteGroup { id: "g-1".into(), version: None }), Outcome::Done(_)));
}

#[test]
fn an_auditor_is_not_somebody_else_by_another_name() {
    let mut world = World::example();
    world.apply(&document("User", JANE, "{groups: [finance, auditors]}")).unwrap();
    world.provision(create("p-1", JANE));
    assert_eq!(world.groups(JANE), ["auditors", "finance"]);
    assert!(is_reserved(&asked(&mut world, replace("p-1", "eve@example.com", true)), "auditors"));
    world.apply(&document("User", JANE, "{groups: [finance]}")).unwrap();
    assert!(matches!(asked(&mut world, replace("p-1", "eve@example.com", true)), Outcome::Done(_)));
}
