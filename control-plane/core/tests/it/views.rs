//! Views: which tools a virtual server shows and how, and what is refused before it can mislead anybody.

use bailiwick_control_plane_core::{Command, Kind, Rejection, command::ToolDefinition};
use bailiwick_proto::v1::{self, resource::Resource};
use prost::Message;

use crate::world::{World, actions, document, finance_tools, lines, tool, types};

fn charge(schema: &str) -> ToolDefinition {
    let json = format!(r#"{{"name":"create_charge","inputSchema":{schema}}}"#);
    ToolDefinition { name: "create_charge".into(), json }
}

const CHARGE: &str = r#"{"type":"object","required":["account","amount"],"properties":{
    "account":{"type":"string","minLength":2},"amount":{"type":"integer","maximum":100},"note":{"pattern":"^a"}}}"#;

/// The example, where `create_charge` has parameters.
fn world() -> World {
    let mut world = World::default();
    let tools = [finance_tools().remove(0), charge(CHARGE), tool("drop", "{}")];
    world.apply_seen(crate::world::EXAMPLE, "finance", &tools).unwrap();
    world
}

fn finance(view: &str) -> String {
    document("VirtualServer", "finance", &format!("{{naming: plain, servers: [{{server: finance, {view}}}]}}"))
}

fn streamed(world: &World) -> v1::VirtualServer {
    let value = world.entries.get("virtual_server/finance").unwrap();
    match v1::Resource::decode(value).unwrap().resource {
        Some(Resource::VirtualServer(server)) => server,
        other => panic!("not a virtual server: {other:?}"),
    }
}

/// The problems of an apply that is refused.
fn refused(world: &mut World, yaml: &str) -> Vec<String> {
    lines(&world.apply(yaml).unwrap_err().problems())
}

#[test]
fn a_view_reaches_data_planes_as_it_is_written() {
    let mut world = world();
    assert!(streamed(&world).views.is_empty() && streamed(&world).tools.is_empty());
    let view = "hide: [drop], tools: {create_charge: {name: charge, title: Charge, description: Takes money., \
                fixed: {amount: 7, account: shop}}}";
    let decision = world.apply(&finance(view)).unwrap();
    assert_eq!(actions(&decision), ["configured VirtualServer/finance"]);
    assert_eq!((types(&decision), decision.warnings), (vec!["virtual_server_applied"], vec![]));
    let [seen] = &streamed(&world).views[..] else { panic!("no view") };
    assert_eq!((seen.server.as_str(), &seen.only[..], &seen.hide[..]), ("finance", &[][..], &["drop".to_owned()][..]));
    let expected = v1::ToolView {
        tool: "create_charge".into(),
        name: "charge".into(),
        title: "Charge".into(),
        description: "Takes money.".into(),
        fixed: r#"{"account":"shop","amount":7}"#.into(),
    };
    assert_eq!(seen.tools, [expected]);
    assert_eq!(world.show(Kind::VirtualServer, "finance")["status"]["approved_tools"], 2);
    assert_eq!(actions(&world.apply(&finance(view)).unwrap()), ["unchanged VirtualServer/finance"]);
}

/// As the first version with views wrote it: never edited.
const SHIPPED: &str = r#"{"actor":"admin","name":"finance","request_id":"r-2","spec":{"naming":"plain","servers":[{"hide":["drop"],"server":"finance","tools":{"create_charge":{"description":"Takes money.","fixed":{"account":"shop","amount":7},"name":"charge","title":"Charge"}}},{"only":["post"],"server":"ledger"}],"tools":"search"},"time":"1795219200000000","type":"virtual_server_applied"}"#;

#[test]
fn the_event_of_a_view_is_written_and_read_as_it_was_shipped() {
    let event = bailiwick_control_plane_core::stored::read(SHIPPED.as_bytes()).unwrap();
    assert_eq!(serde_json_canonicalizer::to_string(&event).unwrap(), SHIPPED);
    let recorded = bailiwick_control_plane_core::recorded(&event, 42).unwrap();
    bailiwick_ledger_core::canonical::to_canonical(&recorded).unwrap();
    let later = SHIPPED.replace(r#""hide""#, r#""conceal""#);
    assert!(
        bailiwick_control_plane_core::stored::read(later.as_bytes()).is_err(),
        "an unknown part of a view is no less"
    );
}

#[test]
fn search_reaches_data_planes_in_one_word() {
    let mut world = world();
    world.apply(&document("VirtualServer", "finance", "{tools: search, servers: [{server: finance}]}")).unwrap();
    assert_eq!((streamed(&world).tools.as_str(), streamed(&world).naming.as_str()), ("search", "prefixed"));
}

#[test]
fn fixed_arguments_must_be_parameters_that_can_be_left_out_and_fit_them() {
    let fixed = |fixed: &str| finance(&format!("tools: {{create_charge: {{fixed: {fixed}}}}}"));
    let place = "f.yaml:5: spec.servers[0].tools.create_charge.fixed";
    for (values, problem) in [
        ("{acount: x}", ": the tool has no parameter \"acount\"; did you mean \"account\"?"),
        ("{account: 7}", ".account: must be of type string"),
        ("{account: x}", ".account: must have at least 2 characters"),
        ("{amount: 101}", ".amount: must keep to `maximum`: 100"),
        (
            "{amount: 0.5}",
            ".amount: must be a text, a whole number of at most 53 bits, true or false, or a list or mapping of these",
        ),
    ] {
        assert_eq!(refused(&mut world(), &fixed(values)), [format!("{place}{problem}")], "{values}");
    }
    let decision = world().apply(&fixed("{note: b}")).unwrap();
    assert_eq!(decision.warnings.len(), 1, "a pattern is not run here: {:?}", decision.warnings);
    assert!(decision.warnings[0].contains("`pattern`"));
}

#[test]
fn a_schema_that_speaks_of_its_parameters_otherwise_lets_none_be_fixed() {
    let mut world = World::default();
    let entangled = r#"{"properties":{"account":{}},"anyOf":[{"required":["account"]}]}"#;
    world.apply_seen(crate::world::EXAMPLE, "finance", &[charge(entangled)]).unwrap();
    let problems = refused(&mut world, &finance("tools: {create_charge: {fixed: {account: x}}}"));
    assert!(problems[0].contains("`anyOf`"), "{problems:?}");
}

#[test]
fn what_names_no_tool_so_far_is_warned_of() {
    let mut world = world();
    let decision = world.apply(&finance("only: [query_dat, create_charge]")).unwrap();
    let expected = "VirtualServer finance: spec.servers[0].only: Server finance has no tool \"query_dat\" so far; did \
                    you mean \"query_data\"?";
    assert_eq!(decision.warnings, [expected]);
    let status = &world.show(Kind::VirtualServer, "finance")["status"];
    assert_eq!((&status["approved_tools"], status["misfits"].as_array().unwrap().len()), (&1.into(), 1));
    // Nothing is known of a server that was never seen.
    let mut unseen = World::default();
    unseen.apply(crate::world::EXAMPLE).unwrap();
    assert!(unseen.apply(&finance("hide: [anything]")).unwrap().warnings.is_empty());
}

#[test]
fn a_tool_that_changes_so_that_a_view_does_not_fit_can_be_approved_with_a_warning() {
    let mut world = world();
    world.apply(&finance("tools: {create_charge: {fixed: {account: shop}}}")).unwrap();
    let changed = [charge(r#"{"type":"object","properties":{"amount":{}}}"#)];
    assert_eq!(types(&world.report("finance", &changed).unwrap()), ["tool_drift_observed"]);
    let decision = world.run(Command::PinTools { server: "finance".into(), tools: vec![], discovered: None }).unwrap();
    assert_eq!(types(&decision), ["tool_approved"]);
    let expected = "VirtualServer finance: spec.servers[0].tools.create_charge.fixed: the tool has no parameter \"account\"; \
                    did you mean \"amount\"?";
    assert_eq!(decision.warnings, [expected]);
    assert_eq!(world.show(Kind::VirtualServer, "finance")["status"]["misfits"].as_array().unwrap().len(), 1);
}

const LEDGER: &str = "{endpoint: {url: 'http://l/'}}";

#[test]
fn given_names_collide_as_others_do_and_hidden_tools_do_not() {
    let two = |views: [&str; 2]| {
        let [finance, ledger] = views;
        let servers = format!("[{{server: finance{finance}}}, {{server: ledger{ledger}}}]");
        document("VirtualServer", "both", &format!("{{naming: plain, servers: {servers}}}"))
    };
    let with_ledger = || {
        let mut world = world();
        let ledger = [tool("query_data", "{}"), tool("post", "{}")];
        world.apply_seen(&document("Server", "ledger", LEDGER), "ledger", &ledger).unwrap();
        world
    };
    for (views, problem) in [
        (["", ""], Some("Server finance and Server ledger both show the tool \"query_data\"")),
        (["", ", hide: [query_data]"], None),
        ([", only: [drop]", ""], None),
        (["", ", tools: {query_data: {name: query_ledger}}"], None),
        (
            ["", ", only: [post], tools: {post: {name: query_data}}"],
            Some(
                "tool \"query_data\" of Server finance and tool \"post\" of Server ledger would both be \"query_data\"",
            ),
        ),
        ([", hide: [query_data], tools: {drop: {name: query_data}}", ", only: [post]"], None),
        (
            [", tools: {drop: {name: query_data}}", ", only: [post]"],
            Some(
                "tool \"drop\" of Server finance and tool \"query_data\" of Server finance would both be \"query_data\"",
            ),
        ),
    ] {
        let mut world = with_ledger();
        match (world.apply(&two(views)), problem) {
            (Ok(_), None) => {}
            (Err(rejection), Some(problem)) => {
                let problems = lines(&rejection.problems());
                assert!(problems.iter().any(|one| one.contains(problem)), "{views:?}: {problems:?}");
            }
            (outcome, _) => panic!("{views:?}: {outcome:?}"),
        }
    }
}

#[test]
fn a_renamed_tool_keeps_its_name_when_another_server_comes_to_show_one_of_that_name() {
    let mut world = world();
    world.apply(&document("Server", "ledger", LEDGER)).unwrap();
    let servers = "[{server: finance, tools: {create_charge: {name: post}}}, {server: ledger}]";
    world.apply(&document("VirtualServer", "both", &format!("{{naming: plain, servers: {servers}}}"))).unwrap();
    let decision = world.report("ledger", &[tool("post", "{}"), tool("balance", "{}")]).unwrap();
    assert_eq!(types(&decision), ["tools_pinned", "tool_drift_observed"]);
    let warned = "tool \"post\" of Server ledger stays hidden: it collides with tool \"create_charge\" of Server finance \
                  under VirtualServer both (naming: plain)";
    assert_eq!(decision.warnings, [warned]);
    let approve = Command::PinTools { server: "ledger".into(), tools: vec!["post".into()], discovered: None };
    assert!(matches!(world.run(approve), Err(Rejection::ToolCollision { .. })));
    // The own name of the renamed tool is free.
    assert_eq!(types(&world.report("ledger", &[tool("create_charge", "{}")]).unwrap()), ["tool_drift_observed"]);
    let approve = Command::PinTools { server: "ledger".into(), tools: vec!["create_charge".into()], discovered: None };
    assert_eq!(types(&world.run(approve).unwrap()), ["tool_approved"]);
}

#[test]
fn a_view_is_rolled_out_in_stages_like_the_rest_of_its_virtual_server() {
    use bailiwick_control_plane_core::{
        node::Role,
        rollout::{BeginRollout, Plan},
    };
    let mut world = world();
    world.run(Command::RegisterNode { node: "dp-1".into(), role: Role::DataPlane, public_key: [7; 32] }).unwrap();
    let manifests = crate::world::parse(&finance("only: [query_data]")).unwrap();
    let plan = Plan { shares: vec![50], watch_seconds: 60, denials_max: 1, refusals_max: 0 };
    let begun = world.run(Command::BeginRollout(BeginRollout { manifests, plan })).unwrap();
    assert_eq!(types(&begun), ["rollout_begun", "rollout_staged"]);
    assert!(streamed(&world).views.is_empty(), "it does not count for all yet");
    let value = world.entries.get("rollout_change/1/virtual_server/finance").unwrap();
    let Some(Resource::RolloutChange(change)) = v1::Resource::decode(value).unwrap().resource else { panic!() };
    let Some(Resource::VirtualServer(staged)) = v1::Resource::decode(&change.value[..]).unwrap().resource else {
        panic!()
    };
    assert_eq!(staged.views[0].only, ["query_data"]);
}
