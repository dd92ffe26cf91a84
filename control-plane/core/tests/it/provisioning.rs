//! What directories provision, who leaves by it or otherwise, and what of that manifests may say.

mod reserved;

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Change, Command, Decision, Fulfilled, Kind, Rejection, Wish,
    provisioning::{
        MEMBERS_AT_ONCE_MAX, version_of_person,
        wish::{Fault, MembersWritten, Operation, Outcome, PersonWritten, Provision},
    },
    revocation::{Revoke, Target},
    scim_token::{self, CreateScimToken},
    sign_in::SignIn,
};

use crate::world::{START_MICROS, World, document, lines, types, wish};

pub(crate) const JANE: &str = "jane@example.com";

pub(crate) fn person(user_name: &str, active: bool) -> PersonWritten {
    let (user_name, external_id) = (user_name.to_owned(), format!("ext-{user_name}"));
    PersonWritten { user_name, external_id, active, profile: r#"{"displayName":"Somebody"}"#.to_owned() }
}

pub(crate) fn create(id: &str, name: &str) -> Operation {
    Operation::CreatePerson { id: id.into(), person: person(name, true) }
}

pub(crate) fn replace(id: &str, name: &str, active: bool) -> Operation {
    Operation::ReplacePerson { id: id.into(), version: None, person: person(name, active) }
}

pub(crate) fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(ToString::to_string).collect()
}

pub(crate) fn group(id: &str, display: &str, members: &[&str]) -> Operation {
    let (display, external_id) = (display.to_owned(), String::new());
    Operation::CreateGroup { id: id.into(), display, external_id, members: set(members) }
}

fn change(id: &str, members: MembersWritten) -> Operation {
    Operation::ChangeGroup { id: id.into(), version: None, display: None, external_id: None, members }
}

fn joins(id: &str, added: &[&str], removed: &[&str]) -> Operation {
    change(id, MembersWritten::Changed { added: set(added), removed: set(removed) })
}

impl World {
    pub(crate) fn provision_all(&mut self, operations: Vec<Operation>) -> (Decision, Vec<Outcome>) {
        let decision = self
            .run(Command::Wish(Wish::Provision(Provision { operations, faults_max: None, reserved: BTreeSet::new() })))
            .unwrap();
        self.invariant_members_are_those_who_are_in_the_group();
        let Answer::Fulfilled(Fulfilled::Provisioned(outcomes)) = &decision.answer else { panic!("no outcomes") };
        let outcomes = outcomes.clone();
        (decision, outcomes)
    }

    pub(crate) fn provision(&mut self, operation: Operation) -> Decision {
        let (decision, outcomes) = self.provision_all(vec![operation]);
        assert!(matches!(&outcomes[..], [Outcome::Done(_)]), "{outcomes:?}");
        decision
    }

    fn refused(&mut self, operation: Operation) -> Fault {
        let (decision, mut outcomes) = self.provision_all(vec![operation]);
        assert_eq!(decision.events, []);
        let Some(Outcome::Refused(fault)) = outcomes.pop() else { panic!("it is done") };
        fault
    }

    pub(crate) fn groups(&self, user: &str) -> Vec<&str> {
        self.state.users.get(user).unwrap().spec.groups.iter().map(String::as_str).collect()
    }

    pub(crate) fn is_active(&self, user: &str) -> bool {
        self.state.users.get(user).unwrap().spec.active
    }

    fn invariant_members_are_those_who_are_in_the_group(&self) {
        let own = &self.state.provisioned;
        let mut seen = BTreeSet::new();
        for name in own.people.keys() {
            for group in &self.state.users.get(name).unwrap().spec.groups {
                assert!(own.members.get(group).is_some_and(|members| members.contains(name)), "{name} in {group}");
                seen.insert((group.clone(), name.clone()));
            }
        }
        let indexed = own.members.iter().map(|(_, members)| members.len()).sum::<usize>();
        assert_eq!(indexed, seen.len(), "nobody else is in the index");
        assert_eq!(own.ids.len(), own.people.len() + own.groups.len() + own.agents.len());
        for (id, external_ids) in own.people.values().map(|one| (&one.id, &one.external_id)) {
            assert!(external_ids.is_empty() || own.external_ids.get(external_ids).unwrap().contains(id));
        }
        assert!(own.external_ids.values().flatten().all(|id| own.ids.contains_key(id)));
    }
}

pub(crate) fn one_of_each(world: &mut World) {
    let token = CreateScimToken { name: "okta".into(), hash: [7; 32], expires_at: Some(START_MICROS) };
    world.run(Command::CreateScimToken(token)).unwrap();
    world.provision(create("p-1", "ann@example.com"));
    world.provision(create("p-2", "bob@example.com"));
    world.provision(group("g-1", "Finance Team", &["p-1"]));
    world.provision(joins("g-1", &["p-2"], &["p-1"]));
    let (display, members) = (Some("Accounting".to_owned()), MembersWritten::All(set(&["p-1"])));
    world.provision(Operation::ChangeGroup { id: "g-1".into(), version: None, display, external_id: None, members });
    world.provision(replace("p-1", "anna@example.com", true));
    world.provision(Operation::DeleteGroup { id: "g-1".into(), version: None });
    world.provision(Operation::DeletePerson { id: "p-1".into(), version: None });
    world.run(Command::RevokeScimToken { name: "okta".into() }).unwrap();
}

/// Jane, provisioned as `p-1`, with a consent for her agent.
pub(crate) fn jane() -> (World, String) {
    let mut world = World::example();
    world.provision(create("p-1", JANE));
    let Answer::Granted(grant) = world.run(Command::IssueToken(wish())).unwrap().answer else { panic!("no grant") };
    (world, grant.consent)
}

pub(crate) fn agent(name: &str, successor: &str) -> String {
    document("Agent", name, &format!("{{owner: {JANE}, project: p, ceiling: destructive, successor: {successor}}}"))
}

pub(crate) fn owner(world: &World, agent: &str) -> String {
    world.state.agents.get(agent).unwrap().spec.owner.clone()
}

#[test]
fn who_is_deactivated_or_deleted_loses_everything_in_the_same_change() {
    let leave = [
        replace("p-1", JANE, false),
        Operation::DeletePerson { id: "p-1".into(), version: None },
        replace("p-1", "jane.doe@example.com", true),
    ];
    for operation in leave {
        let (mut world, consent) = jane();
        let decision = world.provision(operation.clone());
        assert!(!world.is_active(JANE), "{operation:?}");
        assert_eq!(world.show(Kind::Consent, &consent)["status"]["state"], "revoked", "{operation:?}");
        assert!(types(&decision).contains(&"consent_revoked"));
    }
}

/// A way of leaving, by its name.
type Leave = (&'static str, fn(&mut World));

#[test]
fn agents_pass_to_an_active_successor_however_their_owner_leaves() {
    let leaves: [Leave; 4] = [
        ("a directory", |world| {
            world.provision(create("p-1", JANE));
            world.provision(replace("p-1", JANE, false));
        }),
        ("a deletion", |world| {
            world.provision(create("p-1", JANE));
            world.provision(Operation::DeletePerson { id: "p-1".into(), version: None });
        }),
        ("a revocation", |world| {
            let revoke = Revoke { target: Target::User(JANE.into()), reason: "left".into() };
            world.run(Command::Revoke(revoke)).unwrap();
        }),
        ("a manifest", |world| {
            world.apply(&document("User", JANE, "{groups: [finance], active: false}")).unwrap();
        }),
    ];
    for (how, leave) in leaves {
        let mut world = World::example();
        world.apply(&document("User", "sue@example.com", "{}")).unwrap();
        world.apply(&document("User", "gone@example.com", "{active: false}")).unwrap();
        world.apply(&agent("helper", "sue@example.com")).unwrap();
        world.apply(&agent("stuck", "gone@example.com")).unwrap();
        let Answer::Granted(grant) = world.run(Command::IssueToken(wish())).unwrap().answer else { panic!("no grant") };
        leave(&mut world);
        assert_eq!(owner(&world, "helper"), "sue@example.com", "{how}");
        assert!(world.state.agents.get("helper").unwrap().spec.successor.is_none(), "{how}");
        assert_eq!(owner(&world, "stuck"), JANE, "{how}");
        assert_eq!(owner(&world, "coding-assistant"), JANE, "{how}");
        assert_eq!(world.show(Kind::Agent, "stuck")["status"]["conditions"][0]["type"], "ownerless", "{how}");
        assert!(world.show(Kind::Agent, "helper")["status"].get("conditions").is_none(), "{how}");
        assert_eq!(world.show(Kind::Consent, &grant.consent)["status"]["state"], "revoked", "{how}");
        // The manifest as it was written does not give the agent back.
        world.apply(&agent("helper", "sue@example.com")).unwrap();
        assert_eq!(owner(&world, "helper"), "sue@example.com", "{how}");
    }
}

#[test]
fn a_successor_is_a_user_that_exists_and_is_not_the_owner() {
    let mut world = World::example();
    for (successor, key) in [(JANE, "spec.successor"), ("nobody@example.com", "spec.successor")] {
        let Err(Rejection::Invalid(problems)) = world.apply(&agent("helper", successor)) else { panic!("{successor}") };
        assert!(lines(&problems)[0].contains(key), "{problems:?}");
    }
    world.apply(&document("User", "sue@example.com", "{}")).unwrap();
    world.apply(&agent("helper", "sue@example.com")).unwrap();
    let Err(Rejection::InUse(problems)) = world.delete(&[(Kind::User, "sue@example.com")]) else { panic!("deleted") };
    assert!(lines(&problems)[0].contains("Agent helper"), "{problems:?}");
}

#[test]
fn who_is_renamed_takes_agents_and_groups_along_and_leaves_an_inactive_user() {
    let (mut world, _) = jane();
    world.provision(group("g-1", "ops", &["p-1"]));
    world.provision(replace("p-1", "jane.doe@example.com", true));
    assert_eq!(owner(&world, "coding-assistant"), "jane.doe@example.com");
    assert_eq!(world.groups("jane.doe@example.com"), ["finance", "ops"]);
    assert!(!world.is_active(JANE) && world.is_active("jane.doe@example.com"));
    assert_eq!(world.state.provisioned.person("p-1").unwrap().0, "jane.doe@example.com");
    world.provision(replace("p-1", JANE, true));
    assert!(world.is_active(JANE), "and back");
    assert_eq!(owner(&world, "coding-assistant"), JANE);
}

#[test]
fn what_was_taken_away_here_the_directory_does_not_give_back() {
    let (mut world, _) = jane();
    world.run(Command::Revoke(Revoke { target: Target::User(JANE.into()), reason: "stolen".into() })).unwrap();
    world.provision(replace("p-1", JANE, true));
    assert!(!world.is_active(JANE), "the same word again");
    world.provision(replace("p-1", JANE, false));
    world.provision(replace("p-1", JANE, true));
    assert!(!world.is_active(JANE), "nor off and on");
    world.apply(&document("User", JANE, "{groups: [finance]}")).unwrap();
    assert!(world.is_active(JANE), "an administrator does");
    world.provision(replace("p-1", JANE, false));
    world.provision(replace("p-1", JANE, true));
    assert!(world.is_active(JANE), "what the directory took away, it gives back");
    // Somebody who was deactivated before any directory knew them stays so.
    world.apply(&document("User", "ann@example.com", "{active: false}")).unwrap();
    world.provision(create("p-2", "ann@example.com"));
    assert!(!world.is_active("ann@example.com"));
}

#[test]
fn whom_a_directory_deleted_may_come_back_by_it_with_another_id_and_by_nobody_else() {
    let (mut world, _) = jane();
    world.provision(group("g-1", "ops", &["p-1"]));
    world.provision(Operation::DeletePerson { id: "p-1".into(), version: None });
    assert_eq!(world.groups(JANE), ["finance"], "what a manifest said stands, what the directory said does not");
    assert_eq!(world.refused(replace("p-1", JANE, true)), Fault::Unknown);
    let sign_in = SignIn {
        user: JANE.into(),
        provider: String::new(),
        groups: None,
        may_join: true,
        session: "s".into(),
        said_at: None,
    };
    assert!(matches!(world.run(Command::Wish(Wish::SignIn(sign_in))), Err(Rejection::Inactive(_))));
    world.provision(create("p-9", JANE));
    assert!(world.is_active(JANE));
    world.delete(&[(Kind::Agent, "coding-assistant")]).unwrap();
    world.delete(&[(Kind::User, JANE)]).unwrap();
    assert_eq!(world.refused(replace("p-9", JANE, true)), Fault::Unknown, "an administrator deletes all of it");
    world.invariant_members_are_those_who_are_in_the_group();
}

#[test]
fn membership_follows_each_change_and_the_end_of_its_group() {
    let mut world = World::example();
    for (id, name) in [("p-1", "a@x"), ("p-2", "b@x"), ("p-3", "c@x")] {
        world.provision(create(id, name));
    }
    world.provision(group("g-1", "Finance Team", &["p-1", "p-2"]));
    assert_eq!(world.groups("a@x"), ["Finance-Team"]);
    world.provision(joins("g-1", &["p-3"], &["p-1", "unknown"]));
    assert_eq!((world.groups("a@x").len(), world.groups("c@x")), (0, vec!["Finance-Team"]));
    let before = world.events.len();
    world.provision(joins("g-1", &["p-3"], &["p-1"]));
    assert_eq!(world.events.len(), before, "nothing changes");
    world.provision(change("g-1", MembersWritten::All(set(&["p-1"]))));
    assert_eq!((world.groups("a@x"), world.groups("b@x").len()), (vec!["Finance-Team"], 0));
    let members = MembersWritten::Changed { added: set(&["p-2"]), removed: set(&[]) };
    let display = Some("Accounting".to_owned());
    world.provision(Operation::ChangeGroup { id: "g-1".into(), version: None, display, external_id: None, members });
    assert_eq!((world.groups("a@x"), world.groups("b@x")), (vec!["Accounting"], vec!["Accounting"]));
    world.provision(Operation::DeletePerson { id: "p-2".into(), version: None });
    world.provision(Operation::DeleteGroup { id: "g-1".into(), version: None });
    assert_eq!((world.groups("a@x").len(), world.groups("b@x").len()), (0, 0));
}

#[test]
fn who_comes_into_a_new_group_is_who_its_directory_says() {
    let (mut world, _) = jane();
    world.provision(create("p-2", "b@x"));
    world.apply(&document("User", "manifest@x", "{groups: [finance]}")).unwrap();
    world.provision(group("g-1", "finance", &["p-2"]));
    assert_eq!((world.groups(JANE).len(), world.groups("b@x")), (0, vec!["finance"]));
    assert_eq!(world.groups("manifest@x"), ["finance"], "whom no directory provisions is not its to say");
}

#[test]
fn names_are_unique_whatever_their_case() {
    let mut world = World::example();
    world.apply(&document("User", "Old@Example.com", "{}")).unwrap();
    for name in ["JANE@example.com", "old@example.com", "OLD@EXAMPLE.COM"] {
        assert!(matches!(world.refused(create("p-1", name)), Fault::Taken(_)), "{name}");
    }
    world.provision(create("p-1", "Old@Example.com"));
    assert!(matches!(world.refused(create("p-2", "Old@Example.com")), Fault::Taken(_)));
    world.provision(replace("p-1", "old@example.com", true));
    assert!(matches!(world.refused(replace("p-1", JANE, true)), Fault::Taken(_)), "a user that is not theirs");
    world.provision(group("g-1", "Ops Team", &[]));
    assert!(matches!(world.refused(group("g-2", "Ops-Team", &[])), Fault::Taken(_)));
    assert!(matches!(world.refused(group("g-1", "other", &[])), Fault::Value(_)), "ids are not used twice");
    assert!(matches!(world.refused(group("g-3", "", &[])), Fault::Value(_)));
    assert!(matches!(world.refused(group("g-3", "x", &["p-7"])), Fault::Value(_)));
    for bad in ["", "a b", "a/b", "<a>", "a\"b", &"x".repeat(300)] {
        assert!(matches!(world.refused(create("p-9", bad)), Fault::Value(_)), "{bad}");
    }
    let mut large = person("l@x", true);
    large.profile = "x".repeat(10_000);
    assert!(matches!(world.refused(Operation::CreatePerson { id: "p-9".into(), person: large }), Fault::Full { .. }));
}

#[test]
fn an_older_version_changes_nothing_and_others_of_the_request_are_carried_out() {
    let (mut world, _) = jane();
    let version = version_of_person(&world.state, JANE);
    let written = |version| Operation::ReplacePerson { id: "p-1".into(), version, person: person(JANE, false) };
    assert_eq!(world.refused(written(Some(version.unwrap() - 1))), Fault::Version);
    let (_, outcomes) =
        world.provision_all(vec![create("p-1", "x@x"), create("p-2", "y@x"), group("g-1", "g", &["p-2"])]);
    assert!(matches!(&outcomes[..], [Outcome::Refused(_), Outcome::Done(_), Outcome::Done(_)]), "{outcomes:?}");
    assert_eq!(world.groups("y@x"), ["g"]);
    world.provision(written(version));
    assert!(!world.is_active(JANE));
}

#[test]
fn manifests_say_nothing_of_what_the_directory_decides_and_may_take_away() {
    let (mut world, _) = jane();
    world.provision(group("g-1", "ops", &["p-1"]));
    for spec in ["{groups: [finance]}", "{groups: [finance, ops, other]}"] {
        let is_refused = matches!(world.apply(&document("User", JANE, spec)), Err(Rejection::Invalid(_)));
        assert_eq!(is_refused, !spec.contains("ops"), "{spec}");
    }
    assert_eq!(world.groups(JANE), ["finance", "ops", "other"], "groups that no directory made are the manifest's");
    world.apply(&document("User", JANE, "{groups: [finance, ops], active: false}")).unwrap();
    assert!(!world.is_active(JANE));
    world.apply(&document("User", JANE, "{groups: [finance, ops], active: true}")).unwrap();
    world.provision(replace("p-1", JANE, false));
    let Err(Rejection::Invalid(problems)) = world.apply(&document("User", JANE, "{groups: [finance, ops]}")) else {
        panic!("whom the directory deactivated is active")
    };
    assert!(lines(&problems)[0].contains("spec.active"), "{problems:?}");
}

#[test]
fn a_token_lets_in_until_it_is_revoked_or_ends_and_no_other_does() {
    let mut world = World::default();
    let token = |name: &str, hash, expires_at| CreateScimToken { name: name.into(), hash, expires_at };
    let now = START_MICROS / 1_000_000;
    world.run(Command::CreateScimToken(token("okta", [1; 32], None))).unwrap();
    world.run(Command::CreateScimToken(token("entra", [2; 32], Some(now + 10)))).unwrap();
    assert_eq!(scim_token::holder(&world.state, &[1; 32], now), Some("okta"));
    assert_eq!(scim_token::holder(&world.state, &[2; 32], now + 9), Some("entra"));
    assert_eq!(scim_token::holder(&world.state, &[2; 32], now + 10), None);
    assert_eq!(scim_token::holder(&world.state, &[3; 32], now), None);
    for (name, end) in [("okta", None), ("Bad Name", None), ("late", Some(now))] {
        assert!(world.run(Command::CreateScimToken(token(name, [9; 32], end))).is_err(), "{name}");
    }
    world.run(Command::RevokeScimToken { name: "okta".into() }).unwrap();
    assert_eq!(scim_token::holder(&world.state, &[1; 32], now), None);
    assert!(world.run(Command::RevokeScimToken { name: "okta".into() }).is_err());
    let holds_text =
        world.events.iter().any(|event| matches!(&event.change, Change::ScimTokenCreated(one) if one.hash.len() != 64));
    assert!(!holds_text);
}

#[test]
fn too_many_members_at_once_are_refused_and_attributes_are_not_recorded() {
    let mut world = World::example();
    world.provision(create("p-1", JANE));
    let many: Vec<String> = (0..=MEMBERS_AT_ONCE_MAX).map(|n| format!("p-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    world.provision(group("g-1", "ops", &[]));
    for operation in [group("g-2", "x", &many), joins("g-1", &many, &[]), joins("g-1", &[], &many)] {
        assert!(matches!(world.refused(operation), Fault::Full { .. }));
    }
    let made = world.events.iter().find(|event| event.change.type_word() == "person_provisioned").unwrap();
    let recorded = bailiwick_control_plane_core::recorded(made, 1).unwrap();
    assert!(recorded.get("profile").is_none() && recorded["name"] == JANE, "{recorded}");
}
