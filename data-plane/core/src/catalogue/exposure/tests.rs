//! What is shown of a tool under a view.

use bailiwick_proto::v1::{ServerView, ToolView, VirtualServer, resource::Resource as Kind};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    Catalogue, Config,
    fixture::{World, definition as simple, entry, tool, tool_entry, world},
};

fn charge() -> Value {
    json!({
        "name": "create_charge",
        "title": "Own title",
        "annotations": {"title": "Older title", "readOnlyHint": false},
        "inputSchema": {
            "type": "object",
            "properties": {
                "region": {"type": "string", "x-mcp-header": "Region"},
                "amount": {"type": "number", "maximum": 1.50},
                "account": {"type": "object", "properties": {"id": {"type": "string", "x-mcp-header": "Account"}}},
            },
            "required": ["region", "amount"],
        },
        "_meta": {"n": 1.50},
    })
}

fn seen(naming: &str, views: Vec<ServerView>) -> World {
    let (name, servers) = ("all".into(), vec!["finance".into(), "hr".into()]);
    let listed =
        VirtualServer { name, servers, naming: naming.into(), tools: String::new(), views, ..VirtualServer::default() };
    let charge = tool("finance", &charge(), "transactional");
    world().with(entry("virtual_server/all", Kind::VirtualServer(listed))).with(tool_entry(charge))
}

fn finance(tools: Vec<ToolView>) -> ServerView {
    ServerView { server: "finance".into(), tools, ..ServerView::default() }
}

fn view(tool: &str) -> ToolView {
    ToolView { tool: tool.into(), ..ToolView::default() }
}

fn names(config: &Config) -> Vec<&str> {
    config.virtual_servers["all"].tools.keys().map(String::as_str).collect()
}

#[test]
fn a_view_leaves_tools_out_and_gives_others_names() {
    let all = ["finance__by_region", "finance__create_charge", "finance__drop_ledger", "finance__query_data"];
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<String>>();
    for (view, left) in [
        (finance(vec![]), words(&all)),
        (ServerView { only: words(&["query_data", "absent"]), ..finance(vec![]) }, words(&all[3..])),
        (ServerView { hide: words(&["query_data", "by_region", "absent"]), ..finance(vec![]) }, words(&all[1..3])),
    ] {
        let expected = [left, words(&["hr__list_people"])].concat();
        assert_eq!(names(&seen("prefixed", vec![view]).config()), expected);
    }
    let given = ToolView { name: "query".into(), ..view("query_data") };
    let config = seen("prefixed", vec![finance(vec![given.clone()])]).config();
    assert_eq!(names(&config), [&all[..3], &["hr__list_people", "query"]].concat());
    assert_eq!(config.exposed("all", "query").unwrap().definition.get(), {
        let mut renamed = simple("query_data");
        renamed["name"] = "query".into();
        serde_json_canonicalizer::to_string(&renamed).unwrap()
    });
    let config = seen("plain", vec![finance(vec![given])]).config();
    assert!(config.exposed("all", "query").is_some() && config.exposed("all", "query_data").is_none());
}

#[test]
fn what_a_view_says_stands_in_the_definition_and_all_else_stays_as_it_was_approved() {
    let said = ToolView {
        title: "Charge".into(),
        description: "Takes \"money\".".into(),
        fixed: r#"{"account":{"id":"a-1"},"region":"eu"}"#.into(),
        ..view("create_charge")
    };
    let config = seen("plain", vec![finance(vec![said])]).config();
    let exposed = config.exposed("all", "create_charge").unwrap();
    let expected = concat!(
        r#"{"_meta":{"n":1.5},"annotations":{"readOnlyHint":false,"title":"Charge"},"#,
        r#""inputSchema":{"properties":{"amount":{"maximum":1.5,"type":"number"}},"required":["amount"],"type":"object"},"#,
        r#""name":"create_charge","title":"Charge","description":"Takes \"money\"."}"#
    );
    assert_eq!(exposed.definition.get(), expected);
    let view = exposed.view.as_ref().unwrap();
    assert!(view.header_params.is_empty(), "what clients do not send, they do not mirror");
    assert_eq!(exposed.tool.header_params.len(), 2, "what is sent is mirrored all the same");
    assert!(config.virtual_servers["all"].fixes && config.warnings.is_empty());
}

#[test]
fn a_tool_whose_definition_does_not_let_a_view_do_what_it_says_is_not_offered() {
    for (fixed, why) in [
        (r#"{"absent":1}"#, "the tool has no parameter \"absent\""),
        ("none", "what its view fixes is no JSON object"),
        ("[1]", "what its view fixes is no JSON object"),
        (r#"{"region":1,"region":2}"#, "what its view fixes is no JSON object"),
    ] {
        let said = ToolView { fixed: fixed.into(), ..view("create_charge") };
        let config = seen("plain", vec![finance(vec![said])]).config();
        let warning = format!("virtual_server/all: tool `create_charge` of `finance` is not offered: {why}");
        assert_eq!(config.warnings, [warning]);
        assert!(config.exposed("all", "create_charge").is_none() && config.exposed("all", "query_data").is_some());
    }
    let odd = ToolView { name: "no name".into(), ..view("query_data") };
    assert!(seen("plain", vec![finance(vec![odd])]).config().exposed("all", "no name").is_none());
}

#[test]
fn two_tools_that_are_given_one_name_are_both_left_out() {
    let given = |tool: &str| ToolView { name: "same".into(), ..view(tool) };
    let config = seen("plain", vec![finance(vec![given("query_data"), given("drop_ledger")])]).config();
    assert_eq!(names(&config), ["by_region", "create_charge", "list_people"]);
    assert_eq!(config.warnings, ["virtual_server/all: `same` is the name of two tools; neither is offered"]);
}

#[test]
fn a_changed_view_is_shown_and_an_unchanged_one_is_taken_over() {
    let titled =
        |title: &str| seen("plain", vec![finance(vec![ToolView { title: title.into(), ..view("query_data") }])]);
    let mut catalogue = Catalogue::new();
    let first = titled("One").apply(&mut catalogue, 1).config;
    let policy = crate::fixture::policy("other", 1, "permit (principal, action, resource);");
    let second = titled("One").with(policy).apply(&mut catalogue, 2).config;
    let third = titled("Two").apply(&mut catalogue, 3).config;
    let last = seen("plain", vec![]).apply(&mut catalogue, 4).config;
    let of = |config: &Config| Arc::clone(config.exposed("all", "query_data").unwrap());
    assert!(Arc::ptr_eq(&of(&first), &of(&second)));
    assert!(of(&third).definition.get().contains("Two") && !of(&last).definition.get().contains("title"));
    assert!(Arc::ptr_eq(&of(&first).tool, &of(&last).tool));
}

/// Schemas as hostile servers might write them: keywords anywhere, of any type.
fn any_schema() -> impl Strategy<Value = Value> {
    let word = "properties|required|p|q|\\$ref|#|#/properties/p|anyOf|type|x-mcp-header|a/b";
    let leaf =
        prop_oneof![any::<bool>().prop_map(Value::from), any::<i8>().prop_map(Value::from), word.prop_map(Value::from)];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(word, inner, 0..5).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_a_definition_says_what_is_fixed_is_not_in_what_is_shown_and_nothing_else_is_lost(
        schema in any_schema(),
        properties in prop::option::of(prop::collection::btree_map("[pqr]", any_schema(), 0..4)),
    ) {
        let mut definition = json!({"name": "query_data", "inputSchema": schema});
        if let (Some(schema), Some(properties)) = (definition["inputSchema"].as_object_mut(), properties) {
            schema.insert("properties".into(), properties.into_iter().collect());
        }
        let pinned = Tool {
            server: "finance".into(),
            name: "query_data".into(),
            hash: String::new(),
            tier: bailiwick_proto::Tier::Retrieval,
            cost: None,
            quarantined: false,
            definition: Some(mcp::raw(&definition)),
            header_params: Vec::new(),
        };
        let said = ToolView { fixed: r#"{"p":1}"#.into(), ..view("query_data") };
        let face = Face { name: "query_data".into(), said: Some(&said) };
        let Ok(exposed) = face.show(&Arc::new(pinned)) else { return Ok(()) };
        let shown: Value = serde_json::from_str(exposed.unwrap().definition.get()).unwrap();
        let properties = shown["inputSchema"]["properties"].as_object().unwrap();
        prop_assert!(!properties.contains_key("p"));
        prop_assert!(!shown["inputSchema"]["required"].as_array().is_some_and(|all| all.contains(&"p".into())));
        let approved = definition["inputSchema"].as_object().unwrap();
        for (key, value) in approved.iter().filter(|(key, _)| !["properties", "required"].contains(&key.as_str())) {
            prop_assert_eq!(&shown["inputSchema"][key], value);
        }
        for (name, parameter) in approved["properties"].as_object().unwrap().iter().filter(|(name, _)| *name != "p") {
            prop_assert_eq!(&properties[name], parameter);
        }
    }

    /// However servers come and go, a tool of one that stays keeps its name, which is one that any client takes.
    #[test]
    fn names_do_not_depend_on_other_servers(
        tools in prop::collection::btree_set(("[a-c]", "[a-zA-Z_.ä-]{1,70}"), 1..12),
        gone in "[a-c]",
    ) {
        let entries: Vec<_> = tools
            .iter()
            .map(|(server, name)| tool_entry(tool(server, &simple(name), "retrieval")))
            .chain(["a", "b", "c"].map(crate::fixture::server))
            .collect();
        let listed = |servers: &[&str]| {
            let servers = servers.iter().map(|server| (*server).to_owned()).collect();
            let (name, naming) = ("all".into(), "prefixed".into());
            entry("virtual_server/all", Kind::VirtualServer(VirtualServer { name, servers, naming, ..Default::default() }))
        };
        let named = |servers: &[&str]| {
            let config = World(entries.clone()).with(listed(servers)).config();
            let of = |exposed: &Arc<ExposedTool>| (exposed.tool.server.clone(), exposed.tool.name.clone(), exposed.name.clone());
            config.virtual_servers["all"].tools.values().map(of).collect::<std::collections::BTreeSet<_>>()
        };
        let all = named(&["a", "b", "c"]);
        prop_assert!(all.iter().all(|(_, _, name)| names::is_client_tool_name(name)));
        prop_assert_eq!(all.len(), tools.len(), "none hides another");
        let rest: Vec<&str> = ["c", "b", "a"].into_iter().filter(|server| *server != gone).collect();
        let left = all.into_iter().filter(|(server, _, _)| *server != gone).collect();
        prop_assert_eq!(named(&rest), left);
    }
}
