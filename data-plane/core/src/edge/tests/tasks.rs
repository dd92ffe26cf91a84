//! Tasks at the client's edge: whose they are, what they need, and what closes them.

use bailiwick_proto::Tier;

use super::*;
use crate::{
    admission::Found,
    fixture::{PERMIT_FINANCE, consent, definition, entry, narrowed, policy, server, tool, tool_entry, virtual_server},
    sealed::task::Task,
};

const DECLARED: &str = r#"{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{},"a/b":{"n":1.0}}}"#;
const METHODS: [&str; 3] = ["tasks/get", "tasks/update", "tasks/cancel"];

fn task(tool: &str) -> Task {
    Task { server: "finance".into(), tool: tool.into(), id: "own-1".into(), lasts_seconds: None }
}

fn sealed(client: &Client, task: &Task) -> String {
    task.seal(&client.keys, &client.caller, NOW, [4; 24]).unwrap()
}

/// What a client that declared this gets.
fn ask(client: &Client, rpc_method: &str, params: &str, name: &str, declared: &str) -> Step {
    let headers = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", rpc_method), ("Mcp-Name", name)];
    let declared = format!(r#"clientCapabilities":{declared}"#);
    client.send(&headers, &modern_body(rpc_method, params).replace(r#"clientCapabilities":{}"#, &declared))
}

/// What a client with tasks gets for one of them.
fn about(client: &Client, rpc_method: &str, id: &str) -> Step {
    ask(client, rpc_method, &format!(r#""taskId":"{id}","inputResponses":{{"k":{{}}}}"#), id, DECLARED)
}

fn denied(step: Step) -> (i64, Option<String>) {
    let Step::Deny(denied) = step else { panic!("{step:?}") };
    assert_eq!(denied.decision.reason.map(|reason| reason.to_string()), refusal(&denied.reply).2);
    let (status, code, reason) = refusal(&denied.reply);
    assert_eq!(status, 200);
    (code, reason)
}

#[test]
fn a_modern_clients_declaration_travels_with_its_call_and_a_legacy_ones_does_not() {
    let client = client();
    let declared = |step| {
        let Step::Call(permitted) = step else { panic!("refused") };
        permitted.call.capabilities.unwrap().get().to_owned()
    };
    let call = ask(&client, "tools/call", r#""name":"query_data""#, "query_data", DECLARED);
    assert_eq!(declared(call), DECLARED);
    let opening = format!(r#""protocolVersion":"2025-11-25","capabilities":{DECLARED}"#);
    let opened = client.reply(&[], &legacy_body("initialize", &opening));
    let call = client
        .send(&[("Mcp-Session-Id", &opened.session_id.unwrap())], &legacy_body("tools/call", r#""name":"query_data""#));
    assert_eq!(declared(call), r#"{"elicitation":{},"extensions":{"a/b":{"n":1.0}}}"#);
}

#[test]
fn without_the_declaration_nothing_is_said_of_tasks() {
    let client = client();
    let id = sealed(&client, &task("query_data"));
    let listen = ("subscriptions/listen", format!(r#""notifications":{{"taskIds":["{id}"]}}"#), "");
    let asked = METHODS.map(|method| (method, format!(r#""taskId":"{id}""#), id.as_str()));
    for (rpc_method, params, name) in asked.into_iter().chain([listen]) {
        for declared in ["{}", r#"{"extensions":{}}"#, r#"{"extensions":{"a/b":{}}}"#, r#"{"extensions":7}"#] {
            let Step::Respond(reply) = ask(&client, rpc_method, &params, name, declared) else {
                panic!("{rpc_method}")
            };
            let error = json_of(&reply)["error"].clone();
            assert_eq!((reply.status, &error["code"]), (400, &json!(-32021)), "{rpc_method} {declared}");
            let required = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
            assert_eq!(error["data"], json!({"requiredCapabilities": required}));
        }
    }
}

#[test]
fn methods_of_other_kinds_of_tasks_and_of_another_era_are_not_served() {
    let client = client();
    for rpc_method in ["tasks/list", "tasks/result"] {
        let Step::Respond(reply) = ask(&client, rpc_method, r#""taskId":"x""#, "", DECLARED) else { panic!("served") };
        assert_eq!(refusal(&reply), (404, -32601, Some("method_unsupported".into())));
    }
    for rpc_method in METHODS {
        let reply = client.legacy(rpc_method, r#""taskId":"x""#);
        assert_eq!(refusal(&reply), (200, -32601, Some("method_unsupported".into())));
    }
}

#[test]
fn looking_at_a_task_is_reading_and_the_rest_is_as_much_as_the_call() {
    let client = client();
    let id = sealed(&client, &task("create_charge"));
    for (rpc_method, tier, recorded) in [
        ("tasks/get", Tier::Retrieval, r#"{"taskId":"own-1"}"#),
        ("tasks/update", Tier::Transactional, r#"{"taskId":"own-1","inputResponses":{"k":{}}}"#),
        ("tasks/cancel", Tier::Transactional, r#"{"taskId":"own-1"}"#),
    ] {
        let Step::Call(permitted) = about(&client, rpc_method, &id) else { panic!("{rpc_method}") };
        assert_eq!((permitted.found.tier(), permitted.decision.tier()), (tier, tier));
        assert_eq!((permitted.call.tool(), permitted.found.server()), (Some("create_charge"), "finance"));
        assert_eq!(matches!(permitted.found, Found::Task(_)), rpc_method == "tasks/get");
        assert_eq!(permitted.call.recorded().unwrap().get(), recorded);
    }
}

#[test]
fn a_task_is_its_callers_own_and_for_as_long_as_it_lasts() {
    let mine = client();
    let unknown = || (-32602, Some("task_unknown".to_owned()));
    let id = sealed(&mine, &task("query_data"));
    let mut forged = id;
    forged.replace_range(20..21, if forged.as_bytes()[20] == b'A' { "B" } else { "A" });
    let other_kind = mine.session();
    for id in ["own-1", &forged, &other_kind] {
        assert_eq!(denied(about(&mine, "tasks/get", id)), unknown(), "{id}");
    }
    let changes: [fn(&mut Caller); 3] =
        [|it| it.user = "joe".into(), |it| it.agent = "other".into(), |it| it.client = "other".into()];
    for change in changes {
        let mut theirs = client();
        change(&mut theirs.caller);
        let id = sealed(&theirs, &task("query_data"));
        for rpc_method in METHODS {
            assert_eq!(denied(about(&mine, rpc_method, &id)), unknown());
        }
    }
    let short = Task { lasts_seconds: Some(Task::seconds_of(1_500)), ..task("query_data") };
    for (age, is_known) in [(61, true), (62, false)] {
        let id = short.seal(&mine.keys, &mine.caller, NOW - age, [4; 24]).unwrap();
        assert_eq!(matches!(about(&mine, "tasks/get", &id), Step::Call(_)), is_known, "{age}");
    }
}

#[test]
fn what_closes_a_tool_closes_its_tasks() {
    let revoked = entry("consent/c-1", v1::resource::Resource::Consent(v1::Consent { revoked: true, ..consent() }));
    let read_only = v1::Consent { level: "retrieval".into(), ..consent() };
    let unlisted = narrowed(&["finance/query_data", "hr/create_charge"]);
    let quarantined = v1::Tool { quarantined: true, ..tool("finance", &definition("create_charge"), "transactional") };
    let elsewhere = virtual_server("finance", &["hr"], "plain");
    for (changed, code, reason) in [
        (revoked, 403, "consent_revoked"),
        (entry("consent/c-1", v1::resource::Resource::Consent(read_only)), 403, "consent_level_exceeded"),
        (entry("consent/c-1", v1::resource::Resource::Consent(unlisted)), 403, "consent_tool_not_listed"),
        (tool_entry(quarantined), 403, "tool_quarantined"),
        (policy("finance", 4, &PERMIT_FINANCE.replace("permit", "forbid")), 403, "policy_denied"),
        (entry("virtual_server/finance", elsewhere), -32602, "tool_unknown"),
        (server("other"), 0, ""),
    ] {
        let mut client = client();
        client.config = world().with(changed).config();
        let id = sealed(&client, &task("create_charge"));
        for rpc_method in METHODS {
            let step = about(&client, rpc_method, &id);
            match reason {
                "" => assert!(matches!(step, Step::Call(_)), "nothing of it changed"),
                reason => assert_eq!(denied(step), (code, Some(reason.to_owned())), "{rpc_method}"),
            }
        }
    }
}

#[test]
fn a_request_about_a_task_must_be_well_formed_and_mirrored() {
    let client = client();
    let id = sealed(&client, &task("query_data"));
    let long = format!(r#""taskId":"{}""#, "x".repeat(2049));
    for (rpc_method, params) in [
        ("tasks/get", ""),
        ("tasks/get", r#""taskId":7"#),
        ("tasks/cancel", r#""taskId":null"#),
        ("tasks/update", r#""taskId":"x""#),
        ("tasks/update", r#""taskId":"x","inputResponses":[]"#),
        ("tasks/get", long.as_str()),
    ] {
        let name = if params == long { "x".repeat(2049) } else { "x".to_owned() };
        let name = if params.contains('"') && params.contains("\"x") { name } else { String::new() };
        let Step::Respond(reply) = ask(&client, rpc_method, params, &name, DECLARED) else { panic!("{params}") };
        assert_eq!(refusal(&reply), (200, -32602, Some("request_malformed".into())), "{rpc_method} {params}");
    }
    for name in ["", "other"] {
        let Step::Respond(reply) = ask(&client, "tasks/get", &format!(r#""taskId":"{id}""#), name, DECLARED) else {
            panic!("{name}")
        };
        assert_eq!(refusal(&reply).1, -32020);
    }
}

#[test]
fn a_listener_follows_the_tasks_of_tools_it_may_call() {
    let mut client = client();
    let ids = [task("query_data"), task("create_charge"), task("gone")].map(|task| sealed(&client, &task));
    client.config = world()
        .with(policy(
            "finance",
            4,
            &PERMIT_FINANCE.replace(r#"resource in Server::"finance""#, r#"resource == Tool::"finance__query_data""#),
        ))
        .config();
    let listed = format!(r#""notifications":{{"taskIds":["{}","{}","{}","own-1"]}}"#, ids[0], ids[1], ids[2]);
    let Step::Listen(listen) = ask(&client, "subscriptions/listen", &listed, "", DECLARED) else { panic!("refused") };
    assert_eq!(listen.wishes.tasks, [ids[0].clone()].into());
    assert_eq!(listen.tasks[&ids[0]], task("query_data"));
    let many: Vec<String> = (0..65).map(|number| format!(r#""{number}""#)).collect();
    for list in [many.join(","), "7".to_owned(), r#""""#.to_owned()] {
        let params = format!(r#""notifications":{{"taskIds":[{list}]}}"#);
        let Step::Respond(reply) = ask(&client, "subscriptions/listen", &params, "", DECLARED) else {
            panic!("{list}")
        };
        assert_eq!(refusal(&reply).1, -32602);
    }
}
