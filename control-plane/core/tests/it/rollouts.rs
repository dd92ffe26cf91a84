//! Rollouts: what is handed to data planes, what is refused meanwhile, and how each ends.

use std::collections::BTreeMap;

use bailiwick_control_plane_core::{
    Answer, Command, Decision, Kind, Rejection, decide,
    node::Role,
    rejection::Class,
    rollout::{
        AdvanceRollout, BeginRollout, ENDED_KEPT_MAX, Outcome, Plan, Rollout, STAGED_MAX, Stepped, TakeBackRollout,
    },
    view,
};
use bailiwick_proto::v1::{self, resource::Resource};
use prost::Message as _;

use crate::world::{World, actions, document, finance_tools, lines, parse, tool, types};

const NARROW: &str =
    r#"'permit (principal in Group::"finance", action, resource) when { resource.tier == "transactional" };'"#;

pub(crate) fn plan(shares: &[u64]) -> Plan {
    Plan { shares: shares.to_vec(), watch_seconds: 60, denials_max: 5, refusals_max: 0 }
}

pub(crate) fn begin(world: &mut World, yaml: &str, shares: &[u64]) -> Result<Decision, Rejection> {
    let manifests = parse(yaml).map_err(Rejection::Invalid)?;
    world.run(Command::BeginRollout(BeginRollout { manifests, plan: plan(shares) }))
}

pub(crate) fn advance(from: Option<u64>) -> Command {
    Command::AdvanceRollout(AdvanceRollout { rollout: None, from, reason: "all is well".into() })
}

pub(crate) fn back(rollout: Option<u64>) -> Command {
    Command::TakeBackRollout(TakeBackRollout { rollout, reason: "not good".into() })
}

pub(crate) fn register(world: &mut World, name: &str) -> Result<Decision, Rejection> {
    let public_key = [u8::try_from(name.len()).unwrap(); 32];
    world.run(Command::RegisterNode { node: name.into(), role: Role::DataPlane, public_key })
}

pub(crate) fn one_of_each(world: &mut World) {
    world.apply_seen(crate::world::EXAMPLE, "finance", &finance_tools()).unwrap();
    register(world, "dp-1").unwrap();
    begin(world, &policy(NARROW), &[10, 50]).unwrap();
    world.run(advance(None)).unwrap();
    world.run(back(None)).unwrap();
}

/// The example with some data planes.
fn world() -> World {
    let mut world = World::example();
    for name in ["dp-1", "dp-22", "dp-333", "dp-4444"] {
        register(&mut world, name).unwrap();
    }
    world
}

fn policy(cedar: &str) -> String {
    document("Policy", "finance-reads", &format!("{{cedar: {cedar}}}"))
}

fn server(tools: &str) -> String {
    document("Server", "finance", &format!("{{endpoint: {{url: 'http://127.0.0.1:9801/mcp'}}, tools: {tools}}}"))
}

fn under_way(world: &World) -> &Rollout {
    world.state.rollouts.under_way.as_ref().unwrap()
}

/// The rollout's entries, by the keys they change.
fn staged(world: &World) -> BTreeMap<String, Resource> {
    let read = |bytes: &[u8]| v1::Resource::decode(bytes).unwrap().resource.unwrap();
    let entries = view::entries(&world.state);
    let changes = entries.iter().filter_map(|(_, value)| match read(value) {
        Resource::RolloutChange(change) => Some((change.key, read(&change.value))),
        _ => None,
    });
    changes.collect()
}

fn shared(world: &World) -> Vec<&'static str> {
    ["dp-1", "dp-22", "dp-333", "dp-4444"].into_iter().filter(|name| under_way(world).has_in_share(name)).collect()
}

#[test]
fn what_is_staged_stands_beside_what_counts_for_all_until_it_counts_for_all() {
    let mut world = world();
    let before = world.show(Kind::Policy, "finance-reads");
    let begun = begin(&mut world, &policy(NARROW), &[25, 75]).unwrap();
    assert_eq!(types(&begun), ["rollout_begun", "rollout_staged"]);
    assert_eq!(actions(&begun), ["configured Policy/finance-reads"]);
    let Answer::Rollout(Stepped { rollout: 1, first_share, .. }) = begun.answer else { panic!("{begun:?}") };
    assert_eq!(first_share, shared(&world));
    assert_eq!(world.show(Kind::Policy, "finance-reads"), before, "for all it is as it was");
    let staged_at = world.state.revision;
    let changes = staged(&world);
    assert_eq!(changes.keys().collect::<Vec<_>>(), ["policy/finance-reads"]);
    let Resource::Policy(candidate) = &changes["policy/finance-reads"] else { unreachable!() };
    assert_eq!(candidate.version, staged_at, "decisions under it name the change that staged it");
    assert_eq!(shared(&world).len(), 1);

    let first = shared(&world);
    let context = world.context();
    let step = decide(&world.state, advance(Some(0)), &context).unwrap();
    let sent = view::evolve_all(&mut world.state.clone(), &step.events, staged_at + 1);
    assert_eq!(sent.iter().map(|change| change.key.as_str()).collect::<Vec<_>>(), ["rollout/1"], "a small change");
    assert_eq!(types(&world.run(advance(Some(0))).unwrap()), ["rollout_stepped"]);
    assert_eq!((shared(&world).len(), under_way(&world).share()), (3, 75));
    assert!(first.iter().all(|node| shared(&world).contains(node)));
    assert_eq!(types(&world.run(advance(Some(0))).unwrap()), Vec::<&str>::new(), "a step happens once");

    let finished = world.run(advance(Some(1))).unwrap();
    assert_eq!(types(&finished), ["policy_applied", "rollout_ended"]);
    assert_eq!(staged(&world), BTreeMap::new());
    assert!(world.state.rollouts.under_way.is_none());
    let ended = &world.state.rollouts.ended[0];
    assert_eq!((ended.id, ended.outcome, ended.reason.as_str(), ended.step), (1, Outcome::Finished, "all is well", 1));
    let text = world.show(Kind::Policy, "finance-reads");
    assert!(text["spec"]["cedar"].as_str().unwrap().contains("transactional"), "{text}");
    let Err(error) = world.run(back(Some(1))) else { panic!("it counts for all already") };
    assert_eq!((error.class(), error.to_string()), (Class::Conflict, "rollout 1 is finished already".into()));
}

#[test]
fn what_is_taken_back_leaves_nothing_and_says_why() {
    let mut world = world();
    let before = view::entries(&world.state).digest();
    begin(&mut world, &policy(NARROW), &[25]).unwrap();
    assert_ne!(view::entries(&world.state).digest(), before);
    assert_eq!(types(&world.run(back(None)).unwrap()), ["rollout_ended"]);
    assert_eq!(view::entries(&world.state).digest(), before);
    let ended = &world.state.rollouts.ended[0];
    assert_eq!((ended.outcome, ended.reason.as_str(), ended.resources.len()), (Outcome::TakenBack, "not good", 1));
    assert_eq!(types(&world.run(back(Some(1))).unwrap()), Vec::<&str>::new(), "it is back already");
    for command in [back(None), advance(None)] {
        assert_eq!(world.run(command).unwrap_err(), Rejection::NoRollout);
    }
    assert_eq!(world.run(back(Some(9))).unwrap_err(), Rejection::RolloutUnknown(9));
}

#[test]
fn tools_are_staged_with_their_servers_and_follow_what_is_seen_of_them() {
    let mut world = world();
    let settings = r#"{create_charge: {tier: destructive, cost: "0.02"}, query_data: {cost: "9.0"}}"#;
    begin(&mut world, &server(settings), &[50]).unwrap();
    let changes = staged(&world);
    assert_eq!(changes.keys().collect::<Vec<_>>(), ["tool/finance/create_charge", "tool/finance/query_data"]);
    let tier = |world: &World, key: &str| match &staged(world)[key] {
        Resource::Tool(tool) => (tool.tier.clone(), tool.cost.clone(), tool.quarantined),
        other => panic!("{other:?}"),
    };
    assert_eq!(tier(&world, "tool/finance/create_charge"), ("destructive".into(), "0.02".into(), false));
    // A tool that drifts is quarantined for those in the share as well.
    world.report("finance", &[tool("query_data", r#"{"readOnlyHint": false}"#)]).unwrap();
    assert!(tier(&world, "tool/finance/query_data").2);
    let pin = Command::PinTools { server: "finance".into(), tools: vec![], discovered: None };
    world.run(pin).unwrap();
    assert_eq!(tier(&world, "tool/finance/query_data"), ("destructive".into(), "9.0".into(), false));
    world.run(advance(None)).unwrap();
    assert_eq!(world.show(Kind::Server, "finance")["spec"]["tools"]["query_data"]["cost"], "9.0");
}

#[test]
fn nothing_else_changes_what_is_being_rolled_out() {
    let mut world = world();
    begin(&mut world, &policy(NARROW), &[50]).unwrap();
    let refused = |result: Result<Decision, Rejection>| {
        let error = result.unwrap_err();
        assert_eq!(error.class(), Class::Conflict);
        assert!(error.to_string().contains("`bailiwick rollout back`"), "{error}");
    };
    let other = policy("'forbid (principal, action, resource);'");
    refused(world.apply(&other));
    refused(world.delete(&[(Kind::Policy, "finance-reads")]));
    refused(begin(&mut world, &document("Policy", "p", "{cedar: 'forbid (principal, action, resource);'}"), &[50]));
    // What is as it was, and everything else, may be applied.
    assert_eq!(types(&world.apply(crate::world::EXAMPLE).unwrap()), Vec::<&str>::new());
    world.apply(&document("User", "eve@example.com", "{}")).unwrap();
    world.apply(&server("{query_data: {cost: \"1.0\"}}")).unwrap();
    world.run(back(None)).unwrap();
    world.apply(&other).unwrap();
}

#[test]
fn only_what_gives_nobody_authority_is_staged_and_only_where_it_can_be_applied() {
    let mut world = world();
    for (yaml, expected) in [
        (document("User", "eve@example.com", "{}"), "a User cannot be rolled out in stages"),
        (
            document("Agent", "coding-assistant", "{owner: jane@example.com, project: other}"),
            "an Agent cannot be rolled out in stages",
        ),
        (document("Server", "new", "{endpoint: {url: 'http://h/'}}"), "a new Server cannot be rolled out in stages"),
        (document("Server", "finance", "{endpoint: {url: 'http://h/'}}"), "where a Server is cannot be rolled out"),
        (policy("'permit (principal, action, resource in Server::\"none\");'"), "Server"),
        (document("VirtualServer", "v", "{servers: [{server: none}]}"), "Server \"none\" does not exist"),
    ] {
        let Err(Rejection::Invalid(problems)) = begin(&mut world, &yaml, &[50]) else { panic!("{yaml}") };
        assert!(lines(&problems).join("\n").contains(expected), "{:?}", lines(&problems));
        assert!(lines(&problems)[0].starts_with("f.yaml:"), "{:?}", lines(&problems));
    }
    let same = begin(&mut world, crate::world::EXAMPLE, &[50]).unwrap();
    assert_eq!(types(&same), Vec::<&str>::new(), "there are people in it, but they stay as they are");
    let same = begin(
        &mut world,
        &document("VirtualServer", "finance", "{naming: plain, servers: [{server: finance}]}"),
        &[50],
    );
    assert_eq!(types(&same.unwrap()), Vec::<&str>::new(), "nothing differs, so there is nothing to roll out");
    for shares in [&[][..], &[0], &[101], &[50, 50], &[50, 10], &[1; 17]] {
        assert_eq!(begin(&mut world, &policy(NARROW), shares).unwrap_err().class(), Class::Invalid, "{shares:?}");
    }
    let many: String = (0..=STAGED_MAX)
        .map(|n| document("VirtualServer", &format!("v-{n}"), "{servers: [{server: finance}]}"))
        .collect();
    assert_eq!(begin(&mut world, &many, &[50]).unwrap_err().class(), Class::Conflict);
    let mut alone = World::example();
    assert_eq!(begin(&mut alone, &policy(NARROW), &[50]).unwrap_err(), Rejection::NobodyToRollOutTo);
}

#[test]
fn what_can_no_longer_be_applied_goes_back_with_the_reason() {
    let mut world = world();
    world.apply(&document("User", "eve@example.com", "{}")).unwrap();
    let names = policy("'permit (principal == User::\"eve@example.com\", action, resource);'");
    begin(&mut world, &names, &[50]).unwrap();
    world.delete(&[(Kind::User, "eve@example.com")]).unwrap();
    let ended = world.run(advance(None)).unwrap();
    assert_eq!(types(&ended), ["rollout_ended"]);
    let ended = &world.state.rollouts.ended[0];
    assert_eq!(ended.outcome, Outcome::TakenBack);
    assert!(
        ended.reason.starts_with("it can no longer be applied: ") && ended.reason.contains("eve@example.com"),
        "{}",
        ended.reason
    );
}

#[test]
fn a_share_never_shrinks_and_old_rollouts_are_forgotten() {
    let mut world = world();
    begin(&mut world, &policy(NARROW), &[50, 51]).unwrap();
    let before = under_way(&world).below;
    for name in ["dp-1", "dp-22", "dp-333"] {
        world.delete(&[(Kind::Node, name)]).unwrap();
    }
    world.run(advance(None)).unwrap();
    assert!(under_way(&world).below >= before);
    world.run(back(None)).unwrap();
    for _ in 0..ENDED_KEPT_MAX {
        begin(&mut world, &policy(NARROW), &[50]).unwrap();
        world.run(back(None)).unwrap();
    }
    assert_eq!(world.state.rollouts.ended.len(), ENDED_KEPT_MAX);
    assert_eq!((world.state.rollouts.ended[0].id, world.state.rollouts.begun), (2, 33));
}

#[test]
fn a_rollout_that_is_begun_again_under_the_same_request_is_the_same_one() {
    let mut world = world();
    let context = world.context();
    let command = || {
        let manifests = parse(&policy(NARROW)).unwrap();
        Command::BeginRollout(BeginRollout { manifests, plan: plan(&[50]) })
    };
    world.run_as(command(), &context).unwrap();
    let again = world.run_as(command(), &context).unwrap();
    assert_eq!((types(&again).len(), again.repeated), (0, Some(world.state.revision)));
    assert!(matches!(again.answer, Answer::Rollout(Stepped { rollout: 1, .. })));
}
