//! Tasks between a modern client and a modern server: which ids each sees, and what of a task passes.

use super::*;
use crate::sealed::task::Task;

const DECLARED: &str = r#"{"elicitation":{},"extensions":{"io.modelcontextprotocol/tasks":{}}}"#;

fn declaring(rpc_method: &'static str) -> Call {
    Call { method: rpc_method, capabilities: Some(raw(DECLARED)), ..call(Era::Modern, None, None) }
}

/// A request about a task that the client knows as `t2.x` and the server as `own-1`.
fn asking(rpc_method: &'static str) -> Call {
    let task = Task { server: "hr".into(), tool: "list_people".into(), id: "own-1".into(), lasts_seconds: None };
    Call { task: Some(task), name: "t2.x".into(), ..declaring(rpc_method) }
}

fn answered(call: &Call, said: Response, era: Option<Era>) -> (Answer, Option<Keepsake>) {
    let mut kept = None;
    let of = Answerer { naming: &Naming::Prefixed, server: "hr", era };
    let seal = |keepsake| {
        kept = Some(keepsake);
        Some("t2.new".to_owned())
    };
    (answer(call, "r-1", Ok(said), of, seal), kept)
}

fn result(text: &str) -> Response {
    Response::Result(raw(text))
}

fn is_invalid(answer: &Answer) -> bool {
    json_of(&answer.reply)["error"]["data"]["reason"] == "upstream_invalid"
}

#[test]
fn a_task_that_was_begun_gets_an_id_for_the_client_and_shows_nothing_yet() {
    let said = r#"{"resultType":"task","taskId":"own-1","status":"working","ttlMs":1500,"pollIntervalMs":7,"createdAt":"c","lastUpdatedAt":"l","inputRequests":{"a":{"method":"roots/list"}},"result":{},"error":{}}"#;
    let (answer, kept) = answered(&declaring(method::TOOLS_CALL), result(said), Some(Era::Modern));
    assert_eq!(kept, Some(Keepsake::Task { id: "own-1".into(), ttl_ms: Some(1500) }));
    let shown = r#"{"resultType":"task","taskId":"t2.new","status":"working","ttlMs":1500,"pollIntervalMs":7,"createdAt":"c","lastUpdatedAt":"l"}"#;
    assert_eq!(json_of(&answer.reply)["result"], serde_json::from_str::<Value>(shown).unwrap());
    assert_eq!((answer.status, answer.error_code.as_deref()), (Status::Ok, Some("task")));
    assert_eq!(answer.payload.unwrap().get(), said);
    let for_ever = r#"{"resultType":"task","taskId":"own-1","status":"working","ttlMs":null}"#;
    let (_, kept) = answered(&declaring(method::TOOLS_CALL), result(for_ever), None);
    assert_eq!(kept, Some(Keepsake::Task { id: "own-1".into(), ttl_ms: None }));
}

#[test]
fn a_task_for_nobody_who_could_have_it_is_invalid() {
    let begun = r#"{"resultType":"task","taskId":"own-1","status":"working","ttlMs":null}"#;
    let undeclared = call(Era::Modern, None, None);
    let legacy = Call { era: LEGACY, ..declaring(method::TOOLS_CALL) };
    for (call, era) in [
        (undeclared, Some(Era::Modern)),
        (legacy, Some(Era::Modern)),
        (declaring(method::PROMPTS_GET), Some(Era::Modern)),
        (asking(method::TASKS_GET), Some(Era::Modern)),
        (declaring(method::TOOLS_CALL), Some(LEGACY)),
    ] {
        let (answer, kept) = answered(&call, result(begun), era);
        assert!(is_invalid(&answer) && kept.is_none(), "{call:?}");
    }
    let long = format!(r#"{{"resultType":"task","taskId":"{}","status":"working"}}"#, "x".repeat(513));
    for said in [
        r#"{"resultType":"task","status":"working"}"#,
        r#"{"resultType":"task","taskId":"","status":"working"}"#,
        r#"{"resultType":"task","taskId":"a"}"#,
        r#"{"resultType":"task","taskId":"a","status":"odd"}"#,
        &long,
    ] {
        assert!(is_invalid(&answered(&declaring(method::TOOLS_CALL), result(said), None).0), "{said}");
    }
}

#[test]
fn a_server_is_asked_about_a_task_under_its_own_id() {
    let decision = permitted(call(LEGACY, None, None)).decision;
    let found = decision.found.clone().unwrap();
    for rpc_method in [method::TASKS_GET, method::TASKS_UPDATE, method::TASKS_CANCEL] {
        let retry = Retry { responses: Some(raw(r#"{"k":1.0}"#)), ..Retry::default() };
        let call = Call { retry, ..asking(rpc_method) };
        let permitted = PermittedCall { call, decision: decision.clone(), found: found.clone() };
        let request = call_request(&permitted, Era::Modern, &RequestId::from(4));
        assert!(request.headers.contains(&("mcp-name".to_owned(), "own-1".to_owned())), "{request:?}");
        let members = sent(&request);
        let members = members.members();
        assert_eq!(members.string("taskId"), Ok(Some("own-1".into())));
        assert_eq!(members.get("inputResponses").unwrap().get(), r#"{"k":1.0}"#);
        let meta = members.object("_meta").unwrap().unwrap();
        assert_eq!(meta.get(meta_key::CLIENT_CAPABILITIES).unwrap().get(), DECLARED);
    }
}

#[test]
fn what_has_become_of_a_task_is_shown_under_the_clients_names_and_recorded_as_the_server_said_it() {
    let link = |uri: &str| format!(r#"{{"content":[{{"type":"resource_link","uri":"{uri}","name":"n"}}]}}"#);
    let failed = r#"{"code":-32603,"message":"no"}"#;
    let asked = r#"{"k":{"method":"elicitation/create"}}"#;
    for (status, own, shown, recorded) in [
        ("working", String::new(), String::new(), (Status::Ok, Some("working"), None)),
        ("cancelled", String::new(), String::new(), (Status::Ok, Some("cancelled"), None)),
        (
            "input_required",
            format!(r#","inputRequests":{asked}"#),
            format!(r#","inputRequests":{asked}"#),
            (Status::Ok, Some("input_required"), None),
        ),
        (
            "completed",
            format!(r#","result":{}"#, link("file:///a")),
            format!(r#","result":{}"#, link("mcp+hr+file:///a")),
            (Status::Ok, None, Some(link("file:///a"))),
        ),
        (
            "completed",
            r#","result":{"isError":true}"#.to_owned(),
            r#","result":{"isError":true}"#.to_owned(),
            (Status::ToolError, None, Some(r#"{"isError":true}"#.to_owned())),
        ),
        (
            "failed",
            format!(r#","error":{failed}"#),
            format!(r#","error":{failed}"#),
            (Status::Error, Some("-32603"), Some(failed.to_owned())),
        ),
    ] {
        let of =
            |id: &str, more: &str| format!(r#"{{"resultType":"complete","taskId":"{id}","status":"{status}"{more}}}"#);
        let said = of("own-1", &own);
        let (answer, _) = answered(&asking(method::TASKS_GET), result(&said), Some(Era::Modern));
        let expected: Value = serde_json::from_str(&of("t2.x", &shown)).unwrap();
        assert_eq!(json_of(&answer.reply)["result"], expected, "{status}");
        let payload = recorded.2.unwrap_or(said);
        assert_eq!((answer.status, answer.error_code.as_deref()), (recorded.0, recorded.1), "{status}");
        assert_eq!(answer.payload.unwrap().get(), payload);
    }
}

#[test]
fn of_a_task_only_what_belongs_to_its_status_is_shown() {
    let more = r#""inputRequests":{"k":{"method":"sampling/createMessage"}},"result":{},"error":{"code":1}"#;
    let (answer, _) = answered(
        &asking(method::TASKS_GET),
        result(&format!(r#"{{"taskId":"own-1","status":"working","n":1.50,{more}}}"#)),
        Some(Era::Modern),
    );
    let body = String::from_utf8(answer.reply.body.unwrap()).unwrap();
    assert!(body.contains(r#"{"resultType":"complete","taskId":"t2.x","status":"working","n":1.50}"#), "{body}");
}

#[test]
fn a_server_that_says_of_a_task_what_it_may_not_is_not_believed() {
    for said in [
        r#"{"taskId":"own-2","status":"working"}"#,
        r#"{"status":"working"}"#,
        r#"{"taskId":"own-1"}"#,
        r#"{"taskId":"own-1","status":"done"}"#,
        r#"{"taskId":"own-1","status":"completed"}"#,
        r#"{"taskId":"own-1","status":"completed","result":[]}"#,
        r#"{"taskId":"own-1","status":"completed","result":{"resultType":"task"}}"#,
        r#"{"taskId":"own-1","status":"failed"}"#,
        r#"{"taskId":"own-1","status":"failed","error":{"message":"no code"}}"#,
        r#"{"taskId":"own-1","status":"input_required"}"#,
        r#"{"taskId":"own-1","status":"input_required","inputRequests":{"k":{"method":"sampling/createMessage"}}}"#,
        r#"{"taskId":"own-1","status":"input_required","inputRequests":{"k":{"method":"tools/call"}}}"#,
        r#"{"resultType":"input_required","requestState":"s","taskId":"own-1","status":"working"}"#,
        r#"{"resultType":"task","taskId":"own-1","status":"working"}"#,
    ] {
        let (answer, _) = answered(&asking(method::TASKS_GET), result(said), Some(Era::Modern));
        assert!(is_invalid(&answer), "{said}");
    }
}

#[test]
fn acknowledgements_pass_and_errors_do_not_name_the_servers_id() {
    for rpc_method in [method::TASKS_UPDATE, method::TASKS_CANCEL] {
        let (answer, _) = answered(&asking(rpc_method), result("{}"), Some(Era::Modern));
        assert_eq!(json_of(&answer.reply)["result"], json!({"resultType": "complete"}));
    }
    let said = |message: &str, data: &str| {
        let error = RpcError { code: -32602, message: message.into(), data: Some(raw(data)) };
        json_of(&answered(&asking(method::TASKS_GET), Response::Error(error), Some(Era::Modern)).0.reply)
    };
    let plain = said("expired", r#"{"n":1}"#);
    assert_eq!(plain["error"], json!({"code": -32602, "message": "expired", "data": {"n": 1}}));
    let named = said("no task own-1", r#"{"task":"own-1"}"#);
    assert_eq!(named["error"], json!({"code": -32602, "message": "the server does not do this for the task"}));
}
