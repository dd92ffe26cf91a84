//! Leavers and who comes after them: nothing of before is left to anybody, whatever else happens in the same change.

mod stopped;

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Command, Decision, Kind, Rejection, Wish,
    command::IssueToken,
    consent::Consent,
    decide, evolve, leaver,
    leaver::AGENTS_AT_ONCE_MAX,
    provisioning::wish::{Operation, Provision},
    resource::AgentState,
    revocation::{REVOKED_AT_ONCE_MAX, Revoke, Target},
};

use crate::{
    provisioning::{JANE, agent, create, group, jane, owner, replace, set},
    world::{START_MICROS, World, document, types, wish},
};

const DOE: &str = "jane.doe@example.com";
const AGENT: &str = "coding-assistant";

fn delete(id: &str) -> Operation {
    Operation::DeletePerson { id: id.into(), version: None }
}

fn bulk(operations: Vec<Operation>) -> Command {
    Command::Wish(Wish::Provision(Provision { operations, faults_max: None, reserved: BTreeSet::new() }))
}

fn revoke(world: &mut World) -> Decision {
    world.run(Command::Revoke(Revoke { target: Target::User(JANE.into()), reason: "stolen".into() })).unwrap()
}

fn see_off(world: &mut World, user: &str) -> bool {
    let decision = world.run(Command::SeeOff { user: user.into() }).unwrap();
    matches!(decision.answer, Answer::Revoked(revoked) if revoked.more)
}

fn state_of(world: &World, agent: &str) -> AgentState {
    world.state.agents.get(agent).unwrap().spec.state
}

fn stands(world: &World, consent: &str) -> bool {
    world.show(Kind::Consent, consent)["status"]["state"] != "revoked"
}

/// Many consents of Jane's.
fn consents(world: &mut World, number: usize) {
    for _ in 0..number {
        let wish = IssueToken { ttl_seconds: 86_400, ..wish() };
        let context = world.context();
        let decision = decide(&world.state, Command::IssueToken(wish), &context).unwrap();
        let revision = world.state.revision + 1;
        decision.events.iter().for_each(|event| evolve(&mut world.state, event, revision));
    }
    world.entries = bailiwick_control_plane_core::view::entries(&world.state);
}

/// Many agents of Jane's like the one there is, with a successor.
fn agents(world: &mut World, number: usize, successor: Option<&str>) {
    let known = world.state.agents.get(AGENT).unwrap().clone();
    for n in 0..number {
        let mut agent = known.clone();
        agent.spec.successor = successor.map(str::to_owned);
        world.state.agents.insert(format!("many-{n}"), agent);
    }
    world.entries = bailiwick_control_plane_core::view::entries(&world.state);
}

#[test]
fn who_leaves_a_name_and_who_has_it_next_are_two_even_in_one_change() {
    for goes in [delete("p-1"), replace("p-1", DOE, true)] {
        let (mut world, consent) = jane();
        world.apply(&document("User", "sue@example.com", "{}")).unwrap();
        world.apply(&agent("helper", "sue@example.com")).unwrap();
        let is_renamed = matches!(goes, Operation::ReplacePerson { .. });
        world.provision_all(vec![goes, create("p-2", JANE)]);
        assert!(world.is_active(JANE));
        assert!(!stands(&world, &consent), "the next one has nothing of what was allowed");
        if is_renamed {
            assert_eq!((owner(&world, AGENT), owner(&world, "helper")), (DOE.to_owned(), DOE.to_owned()));
            assert_eq!(state_of(&world, AGENT), AgentState::Active);
        } else {
            assert_eq!(owner(&world, "helper"), "sue@example.com");
            assert_eq!((owner(&world, AGENT), state_of(&world, AGENT)), (JANE.to_owned(), AgentState::Paused));
        }
    }
}

#[test]
fn who_gets_a_name_later_begins_without_agents_consents_and_groups_of_before() {
    for active_at_first in [true, false] {
        let (mut world, consent) = jane();
        world.provision(group("g-1", "ops", &["p-1"]));
        world.provision(delete("p-1"));
        let mut comes = replace("p-2", JANE, active_at_first);
        if let Operation::ReplacePerson { person, .. } = comes {
            comes = Operation::CreatePerson { id: "p-2".into(), person };
        }
        world.provision(comes);
        world.provision(replace("p-2", JANE, true));
        assert!(world.is_active(JANE));
        assert_eq!(state_of(&world, AGENT), AgentState::Paused);
        assert!(!stands(&world, &consent));
        assert!(world.groups(JANE).is_empty());
    }
    // Nor does whom a manifest named come into a group of the directory's by it.
    let mut world = World::example();
    world.provision(group("g-1", "ops", &[]));
    world.apply(&document("User", "ann@example.com", "{groups: [ops, other]}")).unwrap();
    world.provision(create("p-1", "ann@example.com"));
    assert_eq!(world.groups("ann@example.com"), ["other"]);
}

#[test]
fn no_directory_undoes_a_revocation_by_leaving_and_coming_back() {
    for goes in [delete("p-1"), replace("p-1", DOE, true)] {
        let (mut world, _) = jane();
        revoke(&mut world);
        world.provision(goes.clone());
        world.provision(create("p-2", JANE));
        assert!(!world.is_active(JANE), "{goes:?}");
        assert!(world.state.users.get(DOE).is_none_or(|doe| !doe.spec.active), "{goes:?}");
    }
    // Into a name that is held nobody is renamed either.
    let (mut world, _) = jane();
    revoke(&mut world);
    world.provision(delete("p-1"));
    world.provision(create("p-2", "ann@example.com"));
    world.provision(replace("p-2", JANE, true));
    assert!(!world.is_active(JANE));
}

#[test]
fn a_revocation_of_who_is_inactive_already_holds_them() {
    let (mut world, _) = jane();
    world.provision(replace("p-1", JANE, false));
    // Their consents, which had ended with them, hold them back from now on too.
    assert_eq!(types(&revoke(&mut world)), ["user_applied", "consent_revoked"]);
    assert_eq!(revoke(&mut world).events, [], "once");
    world.provision(replace("p-1", JANE, true));
    assert!(!world.is_active(JANE));

    let (mut world, _) = jane();
    world.provision(replace("p-1", JANE, false));
    world.apply(&document("User", JANE, "{groups: [finance], active: false}")).unwrap();
    world.provision(replace("p-1", JANE, true));
    assert!(!world.is_active(JANE), "an administrator wrote so");

    let (mut world, _) = jane();
    world.provision(delete("p-1"));
    revoke(&mut world);
    world.provision(create("p-2", JANE));
    assert!(!world.is_active(JANE), "whom a directory deleted is held as well");
    world.apply(&document("User", JANE, "{}")).unwrap();
    assert!(world.is_active(JANE), "until an administrator says otherwise");
}

#[test]
fn large_leavers_go_on_in_further_changes() {
    let mut world = World::example();
    world.provision(create("p-1", JANE));
    world.apply(&document("User", "sue@example.com", "{}")).unwrap();
    consents(&mut world, REVOKED_AT_ONCE_MAX + 1);
    agents(&mut world, AGENTS_AT_ONCE_MAX + 1, Some("sue@example.com"));
    let decision = world.provision(replace("p-1", JANE, false));
    let count = |decision: &Decision, word: &str| types(decision).iter().filter(|one| **one == word).count();
    assert_eq!(count(&decision, "consent_revoked"), REVOKED_AT_ONCE_MAX);
    assert_eq!(count(&decision, "agent_applied"), AGENTS_AT_ONCE_MAX);
    let now = START_MICROS / 1_000_000;
    assert_eq!(leaver::unfinished(&world.state, &set(&[JANE]), now), set(&[JANE]));
    assert!(!see_off(&mut world, JANE));
    assert!(leaver::unfinished(&world.state, &set(&[JANE]), now).is_empty());
    assert!(!world.state.provisioned.people.get(JANE).unwrap().held, "that was no administrator's word on them");
    let left = world.state.agents.values().filter(|agent| agent.spec.owner == JANE).count();
    assert_eq!(left, 1, "the one without a successor");
}

#[test]
fn who_is_active_again_begins_anew_once_all_of_before_has_ended() {
    for by_manifest in [false, true] {
        let mut world = World::example();
        world.provision(create("p-1", JANE));
        consents(&mut world, 2 * REVOKED_AT_ONCE_MAX + 1);
        let again = |world: &mut World| {
            if by_manifest {
                world.apply(&document("User", JANE, "{groups: [finance]}")).map(|_| ())
            } else {
                world.run(bulk(vec![replace("p-1", JANE, true)])).map(|_| ())
            }
        };
        if by_manifest {
            world.apply(&document("User", JANE, "{groups: [finance], active: false}")).unwrap();
        } else {
            world.provision(replace("p-1", JANE, false));
        }
        assert!(matches!(again(&mut world), Err(Rejection::StillEnding(_))), "{by_manifest}");
        assert!(!world.is_active(JANE));
        assert!(see_off(&mut world, JANE), "one is left for the change that activates");
        again(&mut world).unwrap();
        assert!(world.is_active(JANE));
        assert!(world.state.consents.values().all(|one| one.revoked.is_some()), "nothing of before stands");
        assert!(world.state.consents.values().all(Consent::may_be_revoked), "and nothing is held against them");
        assert!(!see_off(&mut world, JANE));
        assert!(world.is_active(JANE), "who goes on with leavers deactivates nobody");
    }
}

#[test]
fn agents_follow_who_is_renamed_or_pass_on_if_they_leave_with_that() {
    let (mut world, _) = jane();
    world.apply(&document("User", "sue@example.com", "{}")).unwrap();
    world.apply(&agent("helper", "sue@example.com")).unwrap();
    world.provision(replace("p-1", DOE, true));
    assert_eq!(owner(&world, "helper"), DOE);
    let before = world.events.len();
    world.apply(&agent("helper", "sue@example.com")).unwrap();
    assert_eq!((owner(&world, "helper").as_str(), world.events.len()), (DOE, before), "the manifest as it was");

    let (mut world, _) = jane();
    world.apply(&document("User", "sue@example.com", "{}")).unwrap();
    world.apply(&agent("helper", "sue@example.com")).unwrap();
    world.provision(replace("p-1", DOE, false));
    assert_eq!((owner(&world, "helper").as_str(), owner(&world, AGENT).as_str()), ("sue@example.com", DOE));
}

#[test]
fn nobody_begins_by_a_name_with_more_agents_than_one_change_pauses() {
    let (mut world, _) = jane();
    agents(&mut world, AGENTS_AT_ONCE_MAX, None);
    let both = vec![delete("p-1"), create("p-2", JANE)];
    assert!(matches!(world.run(bulk(both)), Err(Rejection::StillEnding(_))));
    world.provision(delete("p-1"));
    assert!(!see_off(&mut world, JANE));
    world.provision(create("p-2", JANE));
    assert!(world.is_active(JANE));
    assert!(world.state.agents.values().all(|agent| agent.spec.state == AgentState::Paused));
}
