//! Views at the client's edge: fixed arguments, given names, and that a call is decided and sent as that of the tool.

use bailiwick_proto::mcp::{Era, RequestId};

use super::*;
use crate::{fixture::finance_with, forward::call_request, records::Attempt};

/// `by_region` with its region fixed, and `query_data` under another name.
fn viewed() -> Client {
    let views = vec![v1::ServerView {
        server: "finance".into(),
        tools: vec![
            v1::ToolView { tool: "by_region".into(), fixed: r#"{"region":"eu"}"#.into(), ..v1::ToolView::default() },
            v1::ToolView { tool: "query_data".into(), name: "query".into(), ..v1::ToolView::default() },
        ],
        hide: vec!["drop_ledger".into()],
        ..v1::ServerView::default()
    }];
    Client { config: world().with(finance_with(|listed| listed.views = views)).config(), ..client() }
}

fn permitted(step: Step) -> PermittedCall {
    match step {
        Step::Call(permitted) => *permitted,
        other => panic!("not permitted: {other:?}"),
    }
}

fn modern_call(client: &Client, headers: &[(&str, &str)], name: &str, arguments: &str) -> Step {
    let standard = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", name)];
    let params = format!(r#""name":"{name}","arguments":{arguments}"#);
    client.send(&[&standard, headers].concat(), &modern_body("tools/call", &params))
}

fn legacy_call(client: &Client, name: &str, arguments: &str) -> Step {
    let session = client.session();
    let headers = [("Mcp-Session-Id", session.as_str()), ("MCP-Protocol-Version", "2025-11-25")];
    client.send(&headers, &legacy_body("tools/call", &format!(r#""name":"{name}","arguments":{arguments}"#)))
}

#[test]
fn fixed_arguments_are_those_that_are_sent_mirrored_and_recorded_in_both_eras() {
    let client = viewed();
    for step in [modern_call(&client, &[], "by_region", r#"{"n":1}"#), legacy_call(&client, "by_region", r#"{"n":1}"#)]
    {
        let permitted = permitted(step);
        assert_eq!(permitted.call.recorded().unwrap().get(), r#"{"n":1,"region":"eu"}"#);
        let request = call_request(&permitted, Era::Modern, &RequestId::Integer("7".into()));
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body["params"]["arguments"], serde_json::json!({"n": 1, "region": "eu"}));
        assert!(request.headers.contains(&("mcp-param-region".to_owned(), "eu".to_owned())), "{:?}", request.headers);
    }
    let without = modern_body("tools/call", r#""name":"by_region""#);
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "by_region")];
    let permitted = permitted(client.send(&headers, &without));
    assert_eq!(permitted.call.recorded().unwrap().get(), r#"{"region":"eu"}"#);
}

#[test]
fn a_client_that_sends_a_fixed_argument_is_refused_and_told_which() {
    let client = viewed();
    for arguments in [r#"{"region":"us"}"#, r#"{"region":"eu"}"#, r#"{"region":null}"#] {
        for step in [modern_call(&client, &[], "by_region", arguments), legacy_call(&client, "by_region", arguments)] {
            let Step::Deny(denied) = step else { panic!("not refused: {step:?}") };
            assert_eq!(refusal(&denied.reply), (200, -32602, Some("argument_fixed".into())));
            assert!(denied.reply.body.unwrap().windows(8).any(|part| part == b"`region`"));
            assert_eq!(denied.decision.reason, Some(Reason::ArgumentFixed));
            assert_eq!(denied.call.recorded().unwrap().get(), arguments, "on record is what was asked");
        }
    }
    // Whoever may not call the tool does not learn what is fixed.
    let denied = Client { config: world().without("policy/finance").config(), ..viewed() };
    let reply = denied.modern("tools/call", r#""name":"by_region","arguments":{"region":"us"}"#, Some("by_region"));
    assert_ne!(refusal(&reply).2.as_deref(), Some("argument_fixed"));
}

#[test]
fn a_header_for_a_fixed_argument_reaches_no_server() {
    let step = modern_call(&viewed(), &[("Mcp-Param-Region", "us"), ("Mcp-Param-Other", "x")], "by_region", "{}");
    let request = call_request(&permitted(step), Era::Modern, &RequestId::Integer("7".into()));
    let sent: Vec<_> = request.headers.iter().filter(|(name, _)| name.starts_with("mcp-param-")).collect();
    let expected = [("mcp-param-region", "eu"), ("mcp-param-other", "x")];
    assert_eq!(sent, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).iter().collect::<Vec<_>>());
}

#[test]
fn a_tool_under_a_given_name_is_decided_recorded_and_called_as_itself() {
    let client = viewed();
    let permitted = permitted(modern_call(&client, &[], "query", r#"{"q":1}"#));
    let attempt = Attempt {
        caller: &client.caller,
        call: (&permitted.call).into(),
        decision: &permitted.decision,
        request_id: "r-1",
        config_age_ms: 0,
    };
    let record = attempt.intent("2026-11-21T00:00:00.000000Z".into(), crate::records::committed(&[0; 32], None));
    assert_eq!((record.server.as_deref(), record.tool.as_deref()), (Some("finance"), Some("query_data")));
    let request = call_request(&permitted, Era::Modern, &RequestId::Integer("7".into()));
    assert!(request.headers.contains(&("mcp-name".to_owned(), "query_data".to_owned())));
    let body: Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["params"]["name"], "query_data");
    for hidden in ["query_data", "drop_ledger"] {
        let reply = client.modern("tools/call", &format!(r#""name":"{hidden}""#), Some(hidden));
        assert_eq!(refusal(&reply), (200, -32602, Some("tool_unknown".into())));
    }
}

#[test]
fn lists_show_the_view_in_both_eras_and_its_changes_are_told() {
    use crate::listening::{Hearer, Tasks};
    let client = viewed();
    for reply in [client.modern("tools/list", "", None), client.legacy("tools/list", "")] {
        assert_eq!(listed(&reply), ["by_region", "create_charge", "query"]);
        assert_eq!(json_of(&reply)["result"]["tools"][0]["inputSchema"]["properties"], serde_json::json!({}));
    }
    let sight = |config: &Config| {
        let tasks = Tasks::new();
        let hearer = Hearer {
            config,
            caller: &client.caller,
            virtual_server: "finance",
            now_unix: NOW,
            tasks: &tasks,
            capabilities: None,
        };
        hearer.sight().tools
    };
    let titled = |title: &str| {
        let tools = vec![v1::ToolView { tool: "query_data".into(), title: title.into(), ..v1::ToolView::default() }];
        let views = vec![v1::ServerView { server: "finance".into(), tools, ..v1::ServerView::default() }];
        world().with(finance_with(|listed| listed.views = views)).config()
    };
    assert_eq!(sight(&titled("a")), sight(&titled("a")));
    assert_ne!(sight(&titled("a")), sight(&titled("b")));
    assert_ne!(sight(&world().config()), sight(&titled("b")));
}
