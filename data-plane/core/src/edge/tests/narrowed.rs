//! A consent for a few tools at the client's edge: lists, searches, calls by every way, and what goes with a server.

use bailiwick_proto::v1::resource::Resource as Kind;

use super::*;
use crate::{
    fixture::{World, consent, entry, finance_with, narrowed, policy},
    listening::{Listener, Tasks, Wishes},
    sealed::task::Task,
};

const OPEN: &str = "permit (principal, action, resource);";

/// A client whose consent lists these; policies permit everything.
fn listing(world: World, virtual_server: &'static str, tools: &[&str]) -> Client {
    let consent = v1::Consent { virtual_server: virtual_server.into(), ..narrowed(tools) };
    let config = world.with(entry("consent/c-1", Kind::Consent(consent))).with(policy("open", 1, OPEN)).config();
    Client { config, caller: Caller { virtual_server: virtual_server.into(), ..caller() }, virtual_server, ..client() }
}

fn searched() -> World {
    world().with(finance_with(|listed| listed.tools = "search".into()))
}

fn modern(client: &Client, rpc_method: &str, name: &str, params: &str) -> Step {
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", rpc_method), ("Mcp-Name", name)];
    client.send(&headers, &modern_body(rpc_method, params))
}

fn legacy(client: &Client, rpc_method: &str, params: &str) -> Step {
    let session = client.session();
    let headers = [("Mcp-Session-Id", session.as_str()), ("MCP-Protocol-Version", "2025-11-25")];
    client.send(&headers, &legacy_body(rpc_method, params))
}

/// Whether it may be had. A refusal must be the consent's, on record as such, and name it.
fn is_had(step: Step) -> bool {
    let reply = match step {
        Step::Call(_) | Step::Subscribe(_) => return true,
        Step::Deny(denied) => {
            assert_eq!(denied.decision.reason, Some(Reason::ConsentToolNotListed));
            denied.reply
        }
        Step::Respond(reply) => reply,
        other => panic!("{other:?}"),
    };
    let error = &json_of(&reply)["error"];
    assert_eq!((reply.status, &error["code"], &error["data"]["consent"]), (200, &json!(403), &json!("c-1")));
    assert_eq!((reply.reason, &reply.scope_needed), (Some(Reason::ConsentToolNotListed), &None));
    false
}

#[test]
fn both_eras_list_what_the_consent_lists_and_two_consents_share_nothing() {
    let other = v1::Consent { id: "c-2".into(), ..narrowed(&["finance/create_charge", "finance/query_data"]) };
    let whole = v1::Consent { id: "c-3".into(), ..consent() };
    let world =
        world().with(entry("consent/c-2", Kind::Consent(other))).with(entry("consent/c-3", Kind::Consent(whole)));
    let config = listing(world, "finance", &["finance/by_region", "finance/gone", "hr/query_data"]).config;
    for _again in 0..2 {
        for (consent, expected) in [
            ("c-1", vec!["by_region"]),
            ("c-2", vec!["create_charge", "query_data"]),
            ("c-3", vec!["by_region", "create_charge", "drop_ledger", "query_data"]),
        ] {
            let caller = Caller { consent: consent.into(), ..caller() };
            let client = Client { config: Arc::clone(&config), caller, ..client() };
            for reply in [client.modern("tools/list", "", None), client.legacy("tools/list", "")] {
                assert_eq!(listed(&reply), expected, "{consent}");
                let hidden = u64::try_from(4 - expected.len()).unwrap() * 250;
                assert_eq!(reply.hidden_thousandths, Some(hidden));
            }
        }
    }
}

#[test]
fn searching_finds_what_the_consent_lists() {
    let client = listing(searched(), "finance", &["finance/create_charge", "finance/gone"]);
    for reply in [client.modern("tools/list", "", None), client.legacy("tools/list", "")] {
        assert_eq!(listed(&reply), ["search_tools", "call_tool"]);
    }
    for arguments in ["{}", r#"{"query":"charge query data region drop ledger"}"#] {
        let params = format!(r#""name":"search_tools","arguments":{arguments}"#);
        for reply in [client.modern("tools/call", &params, Some("search_tools")), client.legacy("tools/call", &params)]
        {
            let found = json_of(&reply)["result"]["structuredContent"].clone();
            let names: Vec<_> = found["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
            assert_eq!((names, found.get("nextOffset")), (vec![json!("create_charge")], None));
        }
    }
}

#[test]
fn a_tool_is_called_directly_or_through_another_by_the_same_rule() {
    let tools = ["finance/create_charge"];
    for (tool, expected) in [("create_charge", true), ("query_data", false)] {
        let direct = format!(r#""name":"{tool}""#);
        let through = format!(r#""name":"call_tool","arguments":{{"name":"{tool}"}}"#);
        for world in [world(), searched()] {
            let client = listing(world, "finance", &tools);
            assert_eq!(is_had(modern(&client, "tools/call", tool, &direct)), expected, "{tool}");
            assert_eq!(is_had(legacy(&client, "tools/call", &direct)), expected, "{tool}");
        }
        let client = listing(searched(), "finance", &tools);
        assert_eq!(is_had(modern(&client, "tools/call", "call_tool", &through)), expected, "{tool}");
        assert_eq!(is_had(legacy(&client, "tools/call", &through)), expected, "{tool}");
        let prefixed = format!("finance__{tool}");
        let client = listing(world(), "all", &tools);
        let step = modern(&client, "tools/call", &prefixed, &format!(r#""name":"{prefixed}""#));
        assert_eq!(is_had(step), expected, "{prefixed}");
    }
}

#[test]
fn prompts_resources_completion_and_subscriptions_need_a_listed_tool_of_their_server() {
    let client = listing(world(), "all", &["finance/query_data"]);
    for (server, expected) in [("finance", true), ("hr", false)] {
        let (prompt, uri) = (format!("{server}__p"), format!("mcp+{server}+file:///a"));
        let template = format!("mcp+{server}+file:///{{a}}");
        let argument = r#""argument":{"name":"a","value":""}"#;
        let of_prompt = format!(r#""ref":{{"type":"ref/prompt","name":"{prompt}"}},{argument}"#);
        let of_template = format!(r#""ref":{{"type":"ref/resource","uri":"{template}"}},{argument}"#);
        for (rpc_method, name, params) in [
            ("prompts/get", prompt.as_str(), format!(r#""name":"{prompt}""#)),
            ("resources/read", &uri, format!(r#""uri":"{uri}""#)),
            ("completion/complete", "", of_prompt),
            ("completion/complete", "", of_template),
        ] {
            assert_eq!(is_had(modern(&client, rpc_method, name, &params)), expected, "{rpc_method} {params}");
            assert_eq!(is_had(legacy(&client, rpc_method, &params)), expected, "{rpc_method} {params}");
        }
        for rpc_method in ["resources/subscribe", "resources/unsubscribe"] {
            let step = legacy(&client, rpc_method, &format!(r#""uri":"{uri}""#));
            assert_eq!(is_had(step), expected, "{rpc_method} {uri}");
        }
    }
}

#[test]
fn a_listener_follows_no_task_and_no_resource_that_the_consent_does_not_lead_to() {
    let client = listing(world(), "all", &["finance/query_data"]);
    let tasks = [("finance", "query_data"), ("finance", "create_charge"), ("hr", "list_people")];
    let ids = tasks.map(|(server, tool)| {
        let task = Task { server: server.into(), tool: tool.into(), id: "own-1".into(), lasts_seconds: None };
        task.seal(&client.keys, &client.caller, NOW, [4; 24]).unwrap()
    });
    let wishes = json!({"taskIds": ids, "resourceSubscriptions": ["mcp+finance+file:///a", "mcp+hr+file:///a"]});
    let declared = r#"clientCapabilities":{"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;
    let body = modern_body("subscriptions/listen", &format!(r#""notifications":{wishes}"#));
    let body = body.replace(r#"clientCapabilities":{}"#, declared);
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "subscriptions/listen")];
    let Step::Listen(listen) = client.send(&headers, &body) else { panic!("no stream") };
    assert!(matches!(listen.listener, Listener::Modern(_)));
    let expected = Wishes {
        tasks: [ids[0].clone()].into(),
        uris: ["mcp+finance+file:///a".to_owned()].into(),
        ..Wishes::default()
    };
    assert_eq!(listen.wishes, expected);
    let known: Tasks = listen.tasks;
    assert_eq!(known.len(), 3, "those it has are its own; what becomes of them it is not told");
}
