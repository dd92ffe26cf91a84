//! Agents that directories provision: what a directory gets of it, what it does not, and what manifests may still say.

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Command, Kind, Rejection, Wish,
    agent::life::SetAgentState,
    command::IssueToken,
    decide, evolve,
    provisioning::{
        agents::{unfinished, version_of_agent},
        wish::{AgentWritten, Fault, Operation, Outcome, Provision, SuccessorWritten, Whom},
    },
    resource::{AgentSpec, AgentState},
    revocation::{REVOKED_AT_ONCE_MAX, Revoke, Target},
};
use bailiwick_proto::Tier;

use crate::{
    provisioning::{JANE, create, replace},
    world::{World, document, lines, types, wish},
};

fn written(name: &str, active: bool) -> AgentWritten {
    AgentWritten {
        name: name.into(),
        external_id: format!("ext-{name}"),
        owner: Some(Whom::Said("p-1".into())),
        successor: SuccessorWritten::AsItIs,
        project: Some("sandbox".into()),
        active,
        profile: r#"{"displayName":"A helper"}"#.into(),
    }
}

fn made(id: &str, name: &str) -> Operation {
    Operation::CreateAgent { id: id.into(), agent: written(name, true) }
}

fn owned(id: &str, name: &str, owner: &str) -> Operation {
    let agent = AgentWritten { owner: Some(Whom::Said(owner.into())), ..written(name, true) };
    Operation::CreateAgent { id: id.into(), agent }
}

fn said(id: &str, agent: AgentWritten) -> Operation {
    Operation::ReplaceAgent { id: id.into(), version: None, agent }
}

fn gone(id: &str) -> Operation {
    Operation::DeleteAgent { id: id.into(), version: None }
}

fn says(active: bool) -> Operation {
    said("a-1", written("helper", active))
}

/// Jane, provisioned as `p-1`, and her directory's agent `helper`, `a-1`.
fn helper() -> World {
    let mut world = World::example();
    world.provision(create("p-1", JANE));
    world.provision(made("a-1", "helper"));
    world
}

impl World {
    fn spec(&self, agent: &str) -> &AgentSpec {
        &self.state.agents.get(agent).unwrap().spec
    }

    fn acts(&self) -> bool {
        self.spec("helper").acts()
    }

    fn is_refused(&mut self, operation: Operation) -> Fault {
        let (decision, mut outcomes) = self.provision_all(vec![operation]);
        assert_eq!(decision.events, []);
        let Some(Outcome::Refused(fault)) = outcomes.pop() else { panic!("it is done") };
        fault
    }

    fn set(&mut self, state: AgentState) -> Result<(), Rejection> {
        let wish = SetAgentState { agent: "helper".into(), state, reason: "a look".into() };
        self.run(Command::SetAgentState(wish)).map(|_| ())
    }

    fn allow(&mut self, agent: &str) -> Result<String, Rejection> {
        let wish = IssueToken { agent: agent.into(), ..wish() };
        match self.run(Command::IssueToken(wish))?.answer {
            Answer::Granted(grant) => Ok(grant.consent),
            _ => panic!("no grant"),
        }
    }

    fn is_revoked(&self, consent: &str) -> bool {
        self.state.consents.get(consent).unwrap().revoked.is_some()
    }
}

pub(crate) fn one_of_each(world: &mut World) {
    world.provision(create("p-7", "owner@example.com"));
    world.provision(owned("a-7", "helper-7", "p-7"));
    world.provision(gone("a-7"));
}

#[test]
fn an_agent_of_a_directory_begins_with_the_least_that_there_is() {
    let mut world = helper();
    let spec = world.spec("helper").clone();
    assert_eq!((spec.owner.as_str(), spec.project.as_str(), spec.ceiling), (JANE, "sandbox", Tier::Retrieval));
    assert!(spec.successor.is_none() && spec.clients == Default::default() && spec.acts());
    // What an administrator adds stays, whatever the directory writes.
    let spec = format!("{{owner: {JANE}, project: sandbox, ceiling: transactional, review_by: \"2090-01-01\"}}");
    world.apply(&document("Agent", "helper", &spec)).unwrap();
    let agent = AgentWritten { project: Some("lab".into()), external_id: "other".into(), ..written("helper", true) };
    world.provision(said("a-1", agent));
    let spec = world.spec("helper");
    assert_eq!((spec.ceiling, spec.project.as_str()), (Tier::Transactional, "lab"));
    assert_eq!(spec.review_by.as_deref(), Some("2090-01-01"));
    let known = world.state.provisioned.agents.get("helper").unwrap();
    assert_eq!((known.external_id.as_str(), known.held), ("other", false));
    assert!(world.state.provisioned.external_ids.get("ext-helper").is_none());
}

#[test]
fn nothing_changes_by_saying_it_again() {
    let mut world = helper();
    let (version, events) = (version_of_agent(&world.state, "helper"), world.events.len());
    world.provision(says(true));
    assert_eq!((version_of_agent(&world.state, "helper"), world.events.len()), (version, events));
    let stale = Operation::ReplaceAgent { id: "a-1".into(), version: Some(1), agent: written("helper", false) };
    assert_eq!(world.is_refused(stale), Fault::Version);
    assert_eq!(world.is_refused(Operation::DeleteAgent { id: "a-1".into(), version: Some(1) }), Fault::Version);
    let current = Operation::ReplaceAgent { id: "a-1".into(), version, agent: written("helper", false) };
    world.provision(current);
    assert!(version_of_agent(&world.state, "helper") > version);
}

#[test]
fn a_directory_takes_over_no_agent_and_renames_none() {
    let mut world = helper();
    for name in ["coding-assistant", "helper"] {
        assert!(matches!(world.is_refused(made("a-2", name)), Fault::Taken(_)), "{name}");
    }
    for name in ["coding-assistant", "other", ""] {
        assert!(matches!(world.is_refused(said("a-1", written(name, true))), Fault::Value(_)), "{name}");
    }
    for name in ["Helper", "two words", "-x", "x/../y", "", "agent\u{0}", &"x".repeat(64)] {
        assert!(matches!(world.is_refused(made("a-2", name)), Fault::Value(_)), "{name}");
    }
    // An id is one thing's: nobody is an agent, and no agent is somebody.
    assert!(matches!(world.is_refused(made("p-1", "second")), Fault::Value(_)));
    assert!(matches!(world.is_refused(create("a-1", "ann@example.com")), Fault::Value(_)));
    assert_eq!(world.is_refused(gone("p-1")), Fault::Unknown);
    assert_eq!(world.is_refused(replace("a-1", JANE, false)), Fault::Unknown);
}

#[test]
fn an_owner_is_one_active_user() {
    let mut world = helper();
    world.provision(create("p-2", "bob@example.com"));
    world.provision(create("p-3", "gone@example.com"));
    world.provision(replace("p-3", "gone@example.com", false));
    world.apply(&document("User", "manifest@example.com", "{}")).unwrap();
    let none =
        Operation::CreateAgent { id: "a-2".into(), agent: AgentWritten { owner: None, ..written("second", true) } };
    assert!(matches!(world.is_refused(none), Fault::Value(_)));
    for owner in ["p-9", "p-3", "g-1", "a-1", "", "nobody@example.com", "bob@example.com"] {
        assert!(matches!(world.is_refused(owned("a-2", "second", owner)), Fault::Value(_)), "{owner}");
        let other = AgentWritten { owner: Some(Whom::Said(owner.into())), ..written("helper", true) };
        assert!(matches!(world.is_refused(said("a-1", other)), Fault::Value(_)), "{owner}");
    }
    // Whom no directory provisions has no id: the name stands for them.
    world.provision(owned("a-2", "second", "manifest@example.com"));
    assert_eq!(world.spec("second").owner, "manifest@example.com");
    let bob = AgentWritten { owner: Some(Whom::Said("p-2".into())), ..written("helper", true) };
    world.provision(said("a-1", bob.clone()));
    assert_eq!(world.spec("helper").owner, "bob@example.com");
    // Who owns it stays in what is written of it after they have left; nobody comes to it who has.
    world.provision(replace("p-2", "bob@example.com", false));
    world.provision(said("a-1", AgentWritten { external_id: "new".into(), ..bob.clone() }));
    assert_eq!(world.spec("helper").owner, "bob@example.com");
    let itself = SuccessorWritten::User(Whom::Said("p-2".into()));
    assert!(matches!(world.is_refused(said("a-1", AgentWritten { successor: itself, ..bob })), Fault::Value(_)));
}

#[test]
fn a_successor_follows_and_stays_where_nothing_is_said_of_them() {
    let mut world = helper();
    world.provision(create("p-2", "bob@example.com"));
    let successor = |successor| said("a-1", AgentWritten { successor, ..written("helper", true) });
    world.provision(successor(SuccessorWritten::User(Whom::Said("p-2".into()))));
    world.provision(says(true));
    assert_eq!(world.spec("helper").successor.as_deref(), Some("bob@example.com"));
    world.provision(successor(SuccessorWritten::Nobody));
    assert_eq!(world.spec("helper").successor, None);
    world.provision(successor(SuccessorWritten::User(Whom::Said("p-2".into()))));
    world.provision(replace("p-1", JANE, false));
    assert_eq!(world.spec("helper").owner, "bob@example.com");
    assert!(matches!(world.is_refused(says(true)), Fault::Value(_)), "the owner of before has left");
}

#[test]
fn what_the_directory_pauses_it_sets_going_and_what_it_was_allowed_stands() {
    let mut world = helper();
    let consent = world.allow("helper").unwrap();
    world.provision(says(false));
    assert_eq!(world.spec("helper").state, AgentState::Paused);
    assert!(matches!(world.allow("helper"), Err(Rejection::Inactive(_))));
    world.provision(says(true));
    assert!(world.acts() && !world.is_revoked(&consent));
}

/// A way to stop the helper, by its name.
type Stop = (&'static str, fn(&mut World));

const STOPS: [Stop; 5] = [
    ("paused", |world| world.set(AgentState::Paused).unwrap()),
    ("revoked", |world| {
        let revoke = Revoke { target: Target::Agent("helper".into()), reason: "stolen".into() };
        world.run(Command::Revoke(revoke)).unwrap();
    }),
    ("paused by manifest", |world| {
        let spec = format!("{{owner: {JANE}, project: sandbox, state: paused}}");
        world.apply(&document("Agent", "helper", &spec)).unwrap();
    }),
    ("switched off by manifest", |world| {
        let spec = format!("{{owner: {JANE}, project: sandbox, active: false}}");
        world.apply(&document("Agent", "helper", &spec)).unwrap();
    }),
    ("retired", |world| world.set(AgentState::Retired).unwrap()),
];

#[test]
fn what_was_stopped_here_the_directory_does_not_set_going() {
    for (how, stop) in STOPS {
        for paused_before in [false, true] {
            let mut world = helper();
            if paused_before {
                world.provision(says(false));
            }
            stop(&mut world);
            world.provision(says(true));
            assert!(!world.acts(), "{how}, {paused_before}");
            world.provision(says(false));
            world.provision(says(true));
            assert!(!world.acts(), "{how}, {paused_before}: nor off and on");
            let resumed = world.set(AgentState::Active);
            assert_eq!(resumed.is_ok(), how != "retired", "{how}");
            assert_eq!(world.acts(), how != "retired", "{how}: an administrator does");
            if how != "retired" {
                world.provision(says(false));
                world.provision(says(true));
                assert!(world.acts(), "{how}: what the directory took away, it gives back");
            }
        }
    }
}

#[test]
fn what_the_directory_says_no_manifest_denies() {
    let mut world = helper();
    world.provision(create("p-2", "bob@example.com"));
    let refused = |world: &mut World, spec: &str| {
        let Err(Rejection::Invalid(problems)) = world.apply(&document("Agent", "helper", spec)) else {
            panic!("{spec}")
        };
        lines(&problems).remove(0)
    };
    let line = refused(&mut world, "{owner: bob@example.com, project: sandbox}");
    assert!(line.contains("spec.owner") && line.contains("the directory"), "{line}");
    world.provision(says(false));
    let line = refused(&mut world, &format!("{{owner: {JANE}, project: sandbox}}"));
    assert!(line.contains("spec.state"), "{line}");
    assert!(matches!(world.set(AgentState::Active), Err(Rejection::Invalid(_))));
    world.apply(&document("Agent", "helper", &format!("{{owner: {JANE}, project: lab, state: paused}}"))).unwrap();
    assert_eq!(world.spec("helper").project, "lab");
    world.provision(says(true));
    assert!(!world.acts(), "a manifest that says paused has said it");
    // An agent whose owner has left gets another one by manifest, too.
    world.provision(replace("p-1", JANE, false));
    world.apply(&document("Agent", "helper", "{owner: bob@example.com, project: lab}")).unwrap();
    assert_eq!(world.spec("helper").owner, "bob@example.com");
}

#[test]
fn nobody_comes_to_own_what_acts_for_its_owner_without_them() {
    let mut world = helper();
    world.provision(create("p-2", "boss@example.com"));
    let jwks = r#"jwks: '{"keys":[{"kty":"OKP"}]}'"#;
    let spec = format!("{{agent: helper, auth: private_key_jwt, {jwks}, headless: {{virtual_servers: [finance]}}}}");
    world.apply(&document("Client", "nightly", &spec)).unwrap();
    let boss = || Whom::Said("p-2".into());
    let owned = AgentWritten { owner: Some(boss()), ..written("helper", true) };
    assert!(matches!(world.is_refused(said("a-1", owned)), Fault::Value(_)));
    let followed = AgentWritten { successor: SuccessorWritten::User(boss()), ..written("helper", true) };
    assert!(matches!(world.is_refused(said("a-1", followed)), Fault::Value(_)));
    assert_eq!((world.spec("helper").owner.as_str(), &world.spec("helper").successor), (JANE, &None));
    world.provision(says(false));
    assert!(!world.acts(), "it can be stopped all the same");
}

#[test]
fn whoever_follows_its_owner_does_not_come_to_own_what_acts_without_them() {
    for is_headless in [false, true] {
        let mut world = helper();
        world.provision(create("p-2", "boss@example.com"));
        let followed = SuccessorWritten::User(Whom::Said("p-2".into()));
        world.provision(said("a-1", AgentWritten { successor: followed, ..written("helper", true) }));
        if is_headless {
            let jwks = r#"jwks: '{"keys":[{"kty":"OKP"}]}'"#;
            let headless = "headless: {virtual_servers: [finance]}";
            let spec = format!("{{agent: helper, auth: private_key_jwt, {jwks}, {headless}}}");
            world.apply(&document("Client", "nightly", &spec)).unwrap();
        }
        world.provision(replace("p-1", JANE, false));
        let owner = if is_headless { JANE } else { "boss@example.com" };
        assert_eq!(world.spec("helper").owner, owner);
    }
}

#[test]
fn who_is_renamed_does_not_take_along_what_acts_without_them() {
    let mut world = helper();
    let jwks = r#"jwks: '{"keys":[{"kty":"OKP"}]}'"#;
    let spec = format!("{{agent: helper, auth: private_key_jwt, {jwks}, headless: {{virtual_servers: [finance]}}}}");
    world.apply(&document("Client", "nightly", &spec)).unwrap();
    world.provision(replace("p-1", "jane.doe@example.com", true));
    assert_eq!(world.spec("helper").owner, JANE);
    assert!(!world.acts());
    // Nor does the manifest of before say anything new.
    let written = format!("{{owner: {JANE}, project: lab, ceiling: transactional}}");
    world.apply(&document("Agent", "helper", &written)).unwrap();
    assert_eq!(world.spec("helper").owner, JANE);
    assert!(!world.acts());
    world.apply(&document("Agent", "helper", "{owner: jane.doe@example.com, project: lab}")).unwrap();
    assert!(world.acts(), "an administrator says who owns it");
}

#[test]
fn deleted_it_is_retired_for_ever_with_all_that_it_was_allowed() {
    let mut world = helper();
    let consents = [world.allow("helper").unwrap(), world.allow("helper").unwrap()];
    let other = world.allow("coding-assistant").unwrap();
    let decision = world.provision(gone("a-1"));
    assert_eq!(types(&decision)[0], "agent_deprovisioned");
    assert!(consents.iter().all(|consent| world.is_revoked(consent)) && !world.is_revoked(&other));
    assert_eq!(world.spec("helper").state, AgentState::Retired);
    assert_eq!(world.is_refused(says(true)), Fault::Unknown);
    assert_eq!(world.is_refused(gone("a-1")), Fault::Unknown);
    assert!(matches!(world.set(AgentState::Active), Err(Rejection::Retired { .. })));
    // Nobody gets what is somewhere said of that name.
    assert!(matches!(world.is_refused(made("a-2", "helper")), Fault::Taken(_)));
    world.delete(&[(Kind::Agent, "helper")]).unwrap();
    world.provision(made("a-3", "helper"));
    assert!(world.acts() && consents.iter().all(|consent| world.is_revoked(consent)));
}

#[test]
fn deleted_and_made_again_at_once_it_is_not_made_again() {
    let mut world = helper();
    let consent = world.allow("helper").unwrap();
    let (_, outcomes) = world.provision_all(vec![gone("a-1"), made("a-2", "helper"), made("a-3", "second")]);
    assert!(matches!(&outcomes[..], [Outcome::Done(_), Outcome::Refused(Fault::Taken(_)), Outcome::Done(_)]));
    assert!(world.is_revoked(&consent) && !world.acts());
}

#[test]
fn an_administrator_who_deletes_an_agent_deletes_what_its_directory_said() {
    let mut world = helper();
    world.delete(&[(Kind::Agent, "helper")]).unwrap();
    assert_eq!(world.is_refused(says(true)), Fault::Unknown);
    assert!(world.state.provisioned.agents.is_empty());
}

#[test]
fn whoever_gets_the_name_of_an_owner_finds_no_agent_of_theirs_at_work() {
    for paused_before in [false, true] {
        let mut world = World::example();
        world.provision(create("p-1", "ann@example.com"));
        world.provision(owned("a-1", "helper", "p-1"));
        if paused_before {
            world.provision(says(false));
        }
        world.provision(Operation::DeletePerson { id: "p-1".into(), version: None });
        world.provision(create("p-2", "ann@example.com"));
        world.provision(said("a-1", AgentWritten { owner: None, ..written("helper", true) }));
        assert!(!world.acts(), "{paused_before}");
        world.set(AgentState::Active).unwrap();
        assert!(world.acts());
    }
}

/// Jane's directory has deleted her, and the helper is paused; of somebody else whom it makes by her name it says more.
fn after_jane(more: Vec<Operation>) -> World {
    let mut world = helper();
    world.provision(create("p-3", "bob@example.com"));
    world.provision(Operation::DeletePerson { id: "p-1".into(), version: None });
    assert!(!world.acts());
    let (_, outcomes) = world.provision_all([vec![create("p-2", JANE)], more].concat());
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{outcomes:?}");
    world
}

#[test]
fn whoever_gets_the_name_of_an_owner_may_be_given_agents_at_once() {
    let bob = SuccessorWritten::User(Whom::Said("p-3".into()));
    for successor in [SuccessorWritten::AsItIs, bob] {
        let agent = AgentWritten { owner: Some(Whom::Said("p-2".into())), successor, ..written("second", true) };
        let world = after_jane(vec![Operation::CreateAgent { id: "a-2".into(), agent }]);
        assert_eq!(world.spec("second").owner, JANE);
        assert!(world.spec("second").acts() && !world.state.provisioned.agents.get("second").unwrap().held);
        assert!(!world.acts(), "the agent of before is not given to them by that");
    }
    // Given by whoever else had it.
    let second = AgentWritten { owner: Some(Whom::Said("p-2".into())), ..written("second", true) };
    let world = after_jane(vec![owned("a-2", "second", "p-3"), said("a-2", second)]);
    assert!(world.spec("second").owner == JANE && world.spec("second").acts());
}

#[test]
fn nobody_comes_by_an_agent_of_which_something_else_is_said_in_the_change_that_gives_them_the_name() {
    let leaves = || Operation::DeletePerson { id: "p-1".into(), version: None };
    let other = |owner| AgentWritten { owner, external_id: "other".into(), ..written("helper", true) };
    let table = [
        ("said before", vec![said("a-1", other(Some(Whom::Said("p-1".into())))), leaves(), create("p-2", JANE)]),
        ("said after", vec![leaves(), create("p-2", JANE), said("a-1", other(None))]),
        ("said after, by name", vec![leaves(), create("p-2", JANE), said("a-1", other(Some(Whom::Name(JANE.into()))))]),
    ];
    for (how, operations) in table {
        let mut world = helper();
        let (_, outcomes) = world.provision_all(operations);
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{how}: {outcomes:?}");
        assert!(!world.acts() && world.state.provisioned.agents.get("helper").unwrap().held, "{how}");
    }
    // Passed to whoever leaves then, it is not passed to whoever has the name after them.
    let mut world = helper();
    world.provision(create("p-3", "bob@example.com"));
    world.provision(owned("a-2", "second", "p-3"));
    let (_, outcomes) = world.provision_all(vec![said("a-2", written("second", true)), leaves(), create("p-2", JANE)]);
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Done(_))), "{outcomes:?}");
    assert!(world.spec("second").owner == JANE && !world.spec("second").acts());
}

#[test]
fn one_change_ends_so_many_consents_and_the_rest_is_found() {
    let mut world = helper();
    world.provision(made("a-2", "second"));
    let consents = [world.allow("helper").unwrap(), world.allow("second").unwrap()];
    let mut state = world.state.clone();
    let one = state.consents.get(&consents[0]).unwrap().clone();
    for number in 0..REVOKED_AT_ONCE_MAX {
        state.consents.insert(format!("c-more-{number}"), one.clone());
    }
    let context = world.context();
    let (names, now) = (["helper", "second"].map(str::to_owned).into(), context.now_micros / 1_000_000);
    assert!(unfinished(&state, &names, now).is_empty(), "nothing is left of what is at work");
    let wish = Provision { operations: vec![gone("a-2"), gone("a-1")], faults_max: None, reserved: BTreeSet::new() };
    let decision = decide(&state, Command::Wish(Wish::Provision(wish)), &context).unwrap();
    let revoked = types(&decision).iter().filter(|word| **word == "consent_revoked").count();
    assert_eq!(revoked, REVOKED_AT_ONCE_MAX);
    let revision = state.revision + 1;
    decision.events.iter().for_each(|event| evolve(&mut state, event, revision));
    assert!(state.agents.values().filter(|agent| agent.spec.project == "sandbox").all(|agent| !agent.spec.acts()));
    assert_eq!(unfinished(&state, &names, now), ["helper".to_owned()].into());
    let revoke = Revoke { target: Target::Agent("helper".into()), reason: "the rest".into() };
    let decision = decide(&state, Command::Revoke(revoke), &world.context()).unwrap();
    decision.events.iter().for_each(|event| evolve(&mut state, event, revision + 1));
    assert!(unfinished(&state, &names, now).is_empty());
}
