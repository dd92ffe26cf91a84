//! Tools: pinning at first sight, quarantine of what changed, hiding of what is new, collisions.

use bailiwick_control_plane_core::{Command, Kind, Rejection, command::ToolDefinition};
use bailiwick_proto::v1::{self, resource::Resource};
use prost::Message;

use crate::world::{EXAMPLE, World, document, finance_tools, lines, tool, types};

fn streamed(world: &World, tool: &str) -> Option<v1::Tool> {
    let value = world.entries.get(&format!("tool/finance/{tool}"))?;
    match v1::Resource::decode(value).unwrap().resource {
        Some(Resource::Tool(tool)) => Some(tool),
        other => panic!("not a tool: {other:?}"),
    }
}

fn states(world: &World) -> Vec<String> {
    let server = world.show(Kind::Server, "finance");
    let line =
        |tool: &serde_json::Value| format!("{} {}", tool["name"].as_str().unwrap(), tool["state"].as_str().unwrap());
    server["status"]["tools"].as_array().unwrap().iter().map(line).collect()
}

fn pin(tools: &[&str], discovered: Option<Vec<ToolDefinition>>) -> Command {
    let tools = tools.iter().map(|tool| (*tool).to_owned()).collect();
    Command::PinTools { server: "finance".into(), tools, discovered }
}

#[test]
fn the_first_sight_pins_with_tier_and_cost() {
    let world = World::example();
    let tiers: Vec<_> =
        ["create_charge", "delete_account", "query_data"].map(|name| streamed(&world, name).unwrap().tier).into();
    assert_eq!(tiers, ["transactional", "destructive", "retrieval"]);
    let charge = streamed(&world, "create_charge").unwrap();
    assert_eq!((charge.cost.as_str(), charge.quarantined), ("0.02", false));
    assert_eq!(
        charge.json,
        r#"{"annotations":{"destructiveHint":true},"inputSchema":{"type":"object"},"name":"create_charge"}"#
    );
}

#[test]
fn a_tier_that_is_overridden_later_reaches_the_stream() {
    let mut world = World::example();
    world.apply(&EXAMPLE.replace("tier: transactional", "tier: destructive")).unwrap();
    assert_eq!(streamed(&world, "create_charge").unwrap().tier, "destructive");
}

#[test]
fn a_report_after_an_unseen_apply_pins_and_says_nothing_twice() {
    let mut world = World::default();
    world.apply(EXAMPLE).unwrap();
    assert_eq!(world.show(Kind::Server, "finance")["status"]["conditions"][0]["type"], "not_seen");
    assert_eq!(types(&world.report("finance", &[]).unwrap()), [""; 0], "an empty sight is no first sight");
    assert_eq!(types(&world.report("finance", &finance_tools()).unwrap()), ["tools_pinned"]);
    assert_eq!(types(&world.report("finance", &finance_tools()).unwrap()), [""; 0]);
    let mut reordered = finance_tools();
    reordered[0].json =
        r#"{"annotations":{"readOnlyHint":true}, "name":"query_data","inputSchema":{"type":"object"}}"#.into();
    assert_eq!(types(&world.report("finance", &reordered).unwrap()), [""; 0], "order of keys is no difference");
}

#[test]
fn a_changed_tool_is_quarantined_until_it_is_approved() {
    let mut world = World::example();
    let mut changed = finance_tools();
    changed[0] = tool("query_data", r#"{"readOnlyHint": true, "title": "Look here"}"#);
    let before = streamed(&world, "query_data").unwrap();
    assert_eq!(types(&world.report("finance", &changed).unwrap()), ["tool_drift_observed"]);
    let during = streamed(&world, "query_data").unwrap();
    assert!(during.quarantined && during.hash == before.hash, "what was approved stays what is shown");
    // Showing something else again, even the approved definition, changes nothing: people decide.
    changed[0] = tool("query_data", r#"{"readOnlyHint": false}"#);
    assert_eq!(types(&world.report("finance", &changed).unwrap()), [""; 0]);
    assert_eq!(types(&world.report("finance", &finance_tools()).unwrap()), [""; 0]);
    assert_eq!(types(&world.run(pin(&["query_data"], Some(changed))).unwrap()), ["tool_approved"]);
    let after = streamed(&world, "query_data").unwrap();
    assert!(!after.quarantined && after.hash != before.hash && after.tier == "destructive");
}

#[test]
fn a_new_tool_is_hidden_until_it_is_approved() {
    let mut world = World::example();
    let mut more = finance_tools();
    more.push(tool("export", "{}"));
    assert_eq!(types(&world.report("finance", &more).unwrap()), ["tool_drift_observed"]);
    assert_eq!(streamed(&world, "export"), None);
    assert_eq!(
        states(&world),
        ["create_charge approved", "delete_account approved", "export hidden", "query_data approved"]
    );
    assert_eq!(types(&world.run(pin(&[], None)).unwrap()), ["tool_approved"]);
    assert!(streamed(&world, "export").is_some());
    assert_eq!(types(&world.run(pin(&[], None)).unwrap()), [""; 0]);
    let unknown = world.run(pin(&["nope"], None)).unwrap_err();
    assert_eq!(unknown, Rejection::ToolUnknown { server: "finance".into(), tool: "nope".into() });
}

#[test]
fn a_tool_that_is_not_shown_any_more_stays_approved() {
    let mut world = World::example();
    assert_eq!(types(&world.report("finance", &finance_tools()[..1]).unwrap()), [""; 0]);
    assert!(!streamed(&world, "delete_account").unwrap().quarantined);
}

#[test]
fn definitions_that_cannot_be_trusted_are_left_out() {
    let mut world = World::default();
    world.apply(EXAMPLE).unwrap();
    let odd = |name: &str, json: &str| ToolDefinition { name: name.into(), json: json.into() };
    let large = format!(r#"{{"name":"large","description":"{}"}}"#, "x".repeat(65 * 1024));
    let mut shown = vec![
        odd("a", "not json"),
        odd("b", r#"{"name":"other"}"#),
        odd("", r#"{"name":""}"#),
        odd("large", &large),
        odd("c\u{7}", r#"{"name":"c\u0007"}"#),
        odd("d", r#"["d"]"#),
    ];
    shown.extend(finance_tools());
    shown.push(tool("query_data", "{}"));
    let decision = world.report("finance", &shown).unwrap();
    assert_eq!(decision.warnings.len(), 7, "{:?}", decision.warnings);
    assert_eq!(world.state.servers.get("finance").unwrap().tools.len(), 3);
    let many: Vec<_> = (0..2_000).map(|number| tool(&format!("t{number}"), "{}")).collect();
    world.report("finance", &many).unwrap();
    assert_eq!(world.state.servers.get("finance").unwrap().tools.len(), 1_024);
}

const TWO_PLAIN: &str = "{naming: plain, servers: [{server: finance}, {server: ledger}]}";

fn two_servers() -> World {
    let mut world = World::example();
    world.apply(&document("Server", "ledger", "{endpoint: {url: 'http://h/'}}")).unwrap();
    world
}

#[test]
fn plain_names_that_collide_are_refused_at_apply() {
    let mut world = two_servers();
    world.report("ledger", &[tool("query_data", "{}")]).unwrap();
    let rejection = world.apply(&document("VirtualServer", "both", TWO_PLAIN)).unwrap_err();
    assert_eq!(
        lines(&rejection.problems()),
        [
            "f.yaml:5: spec.servers[1].server: naming: plain, but Server finance and Server ledger both show the tool \"query_data\""
        ]
    );
    let prefixed = TWO_PLAIN.replace("plain", "prefixed");
    world.apply(&document("VirtualServer", "both", &prefixed)).unwrap();
    let yaml =
        [document("VirtualServer", "all", TWO_PLAIN), document("Server", "ledger", "{endpoint: {url: 'http://i/'}}")];
    assert!(world.apply_seen(&yaml.concat(), "ledger", &[tool("query_data", "{}")]).is_err());
}

#[test]
fn a_collision_at_first_sight_in_the_same_apply_is_refused() {
    let mut world = World::example();
    let yaml =
        [document("VirtualServer", "both", TWO_PLAIN), document("Server", "ledger", "{endpoint: {url: 'http://h/'}}")];
    let rejection = world.apply_seen(&yaml.concat(), "ledger", &[tool("query_data", "{}")]).unwrap_err();
    assert!(rejection.problems()[0].message.starts_with("naming: plain"), "{rejection:?}");
}

#[test]
fn a_tool_whose_plain_name_is_taken_stays_hidden_when_it_is_first_seen() {
    let mut world = two_servers();
    world.apply(&document("VirtualServer", "both", TWO_PLAIN)).unwrap();
    let shown = [tool("query_data", "{}"), tool("post", "{}")];
    let decision = world.report("ledger", &shown).unwrap();
    assert_eq!(types(&decision), ["tools_pinned", "tool_drift_observed"]);
    assert!(world.entries.get("tool/ledger/post").is_some() && world.entries.get("tool/ledger/query_data").is_none());
    assert_eq!(world.show(Kind::Server, "ledger")["status"]["conditions"][0]["type"], "tool_collides");
    let approve = || Command::PinTools { server: "ledger".into(), tools: vec!["query_data".into()], discovered: None };
    assert!(matches!(world.run(approve()), Err(Rejection::ToolCollision { .. })));
    world.delete(&[(Kind::VirtualServer, "both")]).unwrap();
    world.run(approve()).unwrap();
}

#[test]
fn an_override_for_a_tool_that_is_not_shown_is_a_condition() {
    let mut world = World::default();
    world.apply_seen(EXAMPLE, "finance", &finance_tools()[..1]).unwrap();
    let server = world.show(Kind::Server, "finance");
    assert_eq!(server["status"]["conditions"][0]["type"], "tool_not_shown");
}
