//! Searching at the client's edge: what is found is what would be listed, and what is called through `call_tool` is
//! decided and sent as if it were called directly.

use std::collections::BTreeSet;

use bailiwick_proto::{
    mcp::{Era, RequestId},
    v1::resource::Resource as Kind,
};
use serde_json::json;

use super::*;
use crate::{
    fixture::{World, agent, consent, definition, entry, finance_with, narrowed, policy, tool, tool_entry},
    forward::call_request,
};

fn searched(world: World) -> Client {
    Client { config: world.with(finance_with(|listed| listed.tools = "search".into())).config(), ..client() }
}

/// The structured part of a search's result.
fn found(client: &Client, is_modern: bool, arguments: &str) -> Value {
    let params = format!(r#""name":"search_tools","arguments":{arguments}"#);
    let reply = match is_modern {
        true => client.modern("tools/call", &params, Some("search_tools")),
        false => client.legacy("tools/call", &params),
    };
    let result = json_of(&reply)["result"].clone();
    let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(text, result["structuredContent"], "older clients read the same");
    assert_eq!(result["resultType"], if is_modern { json!("complete") } else { Value::Null });
    result["structuredContent"].clone()
}

fn names(found: &Value) -> Vec<String> {
    found["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn two_tools_are_listed_for_those_who_have_any_authority() {
    let client = searched(world());
    for reply in [client.modern("tools/list", "", None), client.legacy("tools/list", "")] {
        assert_eq!(listed(&reply), ["search_tools", "call_tool"]);
    }
    let nobody = searched(world().with(entry("agent/coder", agent("destructive", false))));
    assert_eq!(listed(&nobody.modern("tools/list", "", None)), [""; 0]);
    assert_eq!(found(&nobody, true, "{}"), json!({"tools": []}));
}

#[test]
fn searches_find_definitions_in_pages() {
    let client = searched(world());
    for is_modern in [true, false] {
        let all = found(&client, is_modern, "{}");
        assert_eq!(names(&all), ["by_region", "create_charge", "drop_ledger", "query_data"]);
        assert_eq!(all["tools"][3], definition("query_data"));
        assert_eq!(
            names(&found(&client, is_modern, r#"{"query":"charge for data"}"#)),
            ["create_charge", "query_data"]
        );
        let page = found(&client, is_modern, r#"{"limit":3}"#);
        assert_eq!((names(&page).len(), &page["nextOffset"]), (3, &json!(3)));
        let rest = found(&client, is_modern, r#"{"limit":3,"offset":3}"#);
        assert_eq!((names(&rest), rest.get("nextOffset")), (vec!["query_data".to_owned()], None));
        assert_eq!(names(&found(&client, is_modern, r#"{"offset":18446744073709551615}"#)), [""; 0]);
    }
}

#[test]
fn large_definitions_make_small_pages() {
    let mut world = world();
    for number in 0..5 {
        let mut large = definition(&format!("large_{number}"));
        large["description"] = "x".repeat(60 * 1024).into();
        world = world.with(tool_entry(tool("finance", &large, "retrieval")));
    }
    let client = searched(world);
    let page = found(&client, true, r#"{"query":"large"}"#);
    assert_eq!((names(&page).len(), &page["nextOffset"]), (2, &json!(2)));
    assert_eq!(names(&found(&client, true, r#"{"query":"large","offset":4}"#)), ["large_4"]);
}

#[test]
fn arguments_that_the_two_tools_do_not_take_are_refused() {
    let client = searched(world());
    let long = format!(r#"{{"query":"{}"}}"#, "x".repeat(2_000));
    for (name, arguments) in [
        ("search_tools", r#"{"query":7}"#),
        ("search_tools", &long),
        ("search_tools", r#"{"limit":0}"#),
        ("search_tools", r#"{"limit":51}"#),
        ("search_tools", r#"{"limit":"5"}"#),
        ("search_tools", r#"{"offset":-1}"#),
        ("call_tool", "{}"),
        ("call_tool", r#"{"name":""}"#),
        ("call_tool", r#"{"name":"query_data","arguments":[1]}"#),
        ("call_tool", r#"{"name":"query_data","arguments":null}"#),
    ] {
        let params = format!(r#""name":"{name}","arguments":{arguments}"#);
        for reply in [client.modern("tools/call", &params, Some(name)), client.legacy("tools/call", &params)] {
            assert_eq!(refusal(&reply), (200, -32602, Some("request_malformed".into())), "{name} {arguments}");
        }
    }
    let params = r#""name":"call_tool","arguments":{"name":"absent"}"#;
    assert_eq!(refusal(&client.legacy("tools/call", params)), (200, -32602, Some("tool_unknown".into())));
}

#[test]
fn where_tools_are_listed_the_two_names_are_like_any_others() {
    let unknown = (200, -32602, Some("tool_unknown".into()));
    for name in ["search_tools", "call_tool"] {
        assert_eq!(refusal(&client().modern("tools/call", &format!(r#""name":"{name}""#), Some(name))), unknown);
    }
    let own = world().with(tool_entry(tool("finance", &definition("call_tool"), "retrieval")));
    let plain = Client { config: own.config(), ..client() };
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "call_tool")];
    let step = plain.send(&headers, &modern_body("tools/call", r#""name":"call_tool""#));
    assert!(matches!(step, Step::Call(_)), "{step:?}");
}

#[test]
fn telemetry_tells_of_the_tool_that_is_called() {
    let client = searched(world());
    let exchange = Exchange {
        config: &client.config,
        caller: &client.caller,
        virtual_server: "finance",
        sealing_keys: &client.keys,
        nonce: [3; 24],
        now_unix: NOW,
        request_id: "r-1",
    };
    for (name, expected) in [("query_data", "query_data"), ("absent", "absent")] {
        let params = format!(r#""name":"call_tool","arguments":{{"name":"{name}"}}"#);
        let headers: [(&str, &[u8]); 5] = [
            ("Content-Type", b"application/json"),
            ("Accept", b"*/*"),
            ("MCP-Protocol-Version", b"2026-07-28"),
            ("Mcp-Method", b"tools/call"),
            ("Mcp-Name", b"call_tool"),
        ];
        let (_, seen) = handle(&exchange, headers, modern_body("tools/call", &params).as_bytes());
        assert_eq!(seen.unwrap().operation.target, crate::operation::Target::Tool(expected.into()));
    }
}

/// How a call was judged and what would be sent, for comparison.
fn outcome(step: Step) -> String {
    match step {
        Step::Call(permitted) => {
            let id = RequestId::Integer("7".into());
            let requests = [Era::Modern, Era::Legacy("2025-11-25")].map(|era| {
                let request = call_request(&permitted, era, &id);
                (request.headers, String::from_utf8(request.body).unwrap())
            });
            let recorded = permitted.call.recorded().map(|arguments| arguments.get().to_owned());
            format!("{:?} {:?} {recorded:?} {requests:?}", permitted.call.tool(), permitted.decision)
        }
        Step::Deny(denied) => {
            let recorded = denied.call.recorded().map(|arguments| arguments.get().to_owned());
            let body = String::from_utf8(denied.reply.body.unwrap()).unwrap();
            format!("{:?} {:?} {recorded:?} {body}", denied.call.tool(), denied.decision)
        }
        other => format!("{other:?}"),
    }
}

fn call(client: &Client, is_modern: bool, name: &str, arguments: &str) -> Step {
    let params = format!(r#""name":"{name}","arguments":{arguments}"#);
    if is_modern {
        let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", name)];
        return client.send(&headers, &modern_body("tools/call", &params));
    }
    let session = client.session();
    let headers = [("Mcp-Session-Id", session.as_str()), ("MCP-Protocol-Version", "2025-11-25")];
    client.send(&headers, &legacy_body("tools/call", &params))
}

/// What consents are narrowed to, where they are.
const LISTED: [&str; 4] = ["finance/alpha", "finance/beta_charge", "finance/gamma", "other/epsilon"];
const TOOLS: [&str; 5] = ["alpha", "beta_charge", "gamma", "delta_charge", "epsilon"];

/// Two clients of one world: one is listed the tools, the other searches them.
fn twins(
    (tiers, quarantined): (Vec<usize>, Vec<bool>),
    (level, ceiling, listed): (usize, usize, Vec<&str>),
    cedar: &str,
    (hide, given): (Vec<String>, bool),
) -> (Client, Client) {
    let words = ["retrieval", "transactional", "destructive"];
    let level = words[level].to_owned();
    let consent = match listed.as_slice() {
        [] => v1::Consent { level, ..consent() },
        listed => v1::Consent { listed_level: level, ..narrowed(listed) },
    };
    let mut world = World(vec![
        entry("consent/c-1", Kind::Consent(consent)),
        entry("user/jane@example.com", crate::fixture::user(true)),
        entry("agent/coder", agent(words[ceiling], true)),
        crate::fixture::server("finance"),
        policy("one", 1, cedar),
    ]);
    for ((name, tier), quarantined) in TOOLS.iter().zip(tiers).zip(quarantined) {
        let mut definition = definition(name);
        definition["inputSchema"] = json!({"type": "object", "properties": {"region": {"type": "string"}}});
        let tool = v1::Tool { quarantined, ..tool("finance", &definition, words[tier]) };
        world = world.with(tool_entry(tool));
    }
    let views = vec![v1::ServerView {
        server: "finance".into(),
        hide,
        tools: vec![v1::ToolView {
            tool: "gamma".into(),
            name: if given { "third".into() } else { String::new() },
            fixed: if given { r#"{"region":"eu"}"#.into() } else { String::new() },
            ..v1::ToolView::default()
        }],
        ..v1::ServerView::default()
    }];
    let with = |tools: &str| {
        let listed = finance_with(|listed| (listed.tools, listed.views) = (tools.into(), views.clone()));
        Client { config: world.clone().with(listed).config(), ..client() }
    };
    (with(""), with("search"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn search_shows_what_a_list_would_and_call_tool_does_what_a_call_would(
        tools in (prop::collection::vec(0_usize..3, 5), prop::collection::vec(any::<bool>(), 5)),
        bounds in (0_usize..3, 0_usize..3, prop::sample::subsequence(LISTED.to_vec(), 0..=LISTED.len())),
        cedar in prop::sample::select(vec![
            "permit (principal, action, resource);",
            "permit (principal, action, resource) when { resource has tier && resource.tier == \"retrieval\" };",
            "permit (principal, action == Action::\"finance__alpha\", resource);",
            "permit (principal, action, resource); forbid (principal, action == Action::\"finance__beta_charge\", resource);",
            "forbid (principal, action, resource);",
        ]),
        view in (prop::collection::vec("alpha|epsilon", 0..2), any::<bool>()),
        query in "(charge|a|b|gam|eps| ){0,3}",
        arguments in prop::sample::select(vec!["{}", r#"{"region":"us","n":1.50}"#, r#"{"x":[1]}"#]),
        is_modern in any::<bool>(),
    ) {
        let (lists, searches) = twins(tools, bounds, cedar, view);
        let shown = json_of(&lists.modern("tools/list", "", None))["result"]["tools"].clone();
        let shown: BTreeSet<String> = shown.as_array().unwrap().iter().map(ToString::to_string).collect();
        let all = |query: &str| {
            let (mut all, mut offset) = (Vec::new(), json!(0));
            loop {
                let page = found(&searches, is_modern, &json!({"query": query, "limit": 2, "offset": offset}).to_string());
                all.extend(page["tools"].as_array().unwrap().iter().map(ToString::to_string));
                match page.get("nextOffset") {
                    Some(next) => offset = next.clone(),
                    None => return all,
                }
            }
        };
        let unasked = all("");
        prop_assert_eq!(unasked.len(), shown.len(), "none twice");
        prop_assert_eq!(&unasked.into_iter().collect::<BTreeSet<_>>(), &shown);
        let some = all(&query);
        let different: BTreeSet<String> = some.iter().cloned().collect();
        prop_assert_eq!(different.len(), some.len(), "none twice");
        prop_assert!(different.is_subset(&shown));
        for name in TOOLS.into_iter().chain(["third", "absent", "search_tools"]) {
            let wrapped = json!({"name": name}).to_string();
            let wrapped = format!(r#"{},"arguments":{arguments}}}"#, wrapped.trim_end_matches('}'));
            let through = outcome(call(&searches, is_modern, "call_tool", &wrapped));
            prop_assert_eq!(&through, &outcome(call(&lists, is_modern, name, arguments)));
            if name != "search_tools" {
                prop_assert_eq!(&through, &outcome(call(&searches, is_modern, name, arguments)));
            }
        }
    }
}
