//! Spans and durations say what the conventions prescribe, and nothing that was not asked for.

use bailiwick_proto::mcp::{self, RpcError, read_message};
use serde_json::value::RawValue;

use super::*;

fn seen(method: &str, params: &str) -> Seen {
    let body = format!(r#"{{"jsonrpc":"2.0","id":"a-7","method":"{method}","params":{params}}}"#);
    let message = read_message(body.as_bytes()).unwrap();
    Seen::of(&message, &Params::of(&message), None).unwrap()
}

fn operation(method: &str, params: &str) -> Operation {
    Operation { era: Some(Era::Modern), ..seen(method, params).operation }
}

fn shown(attributes: &Attributes) -> Vec<String> {
    let value = |value: &Value| match value {
        Value::Text(text) => text.to_string(),
        Value::Whole(number) => number.to_string(),
    };
    attributes.iter().map(|(name, text)| format!("{name}={}", value(text))).collect()
}

fn labels(labels: &Labels) -> Vec<String> {
    labels.iter().map(|(name, text)| format!("{name}={text}")).collect()
}

#[test]
fn a_span_is_named_after_method_and_tool_and_says_what_the_conventions_prescribe() {
    let call = operation("tools/call", r#"{"name":"query_data","arguments":{"secret":"hunter2"}}"#);
    assert_eq!(call.span_name(), "tools/call query_data");
    assert_eq!(
        shown(&call.attributes(&Ended::refused(code::DENIED, Some(Reason::ToolUnknown)))),
        [
            "mcp.method.name=tools/call",
            "gen_ai.tool.name=query_data",
            "gen_ai.operation.name=execute_tool",
            "mcp.protocol.version=2026-07-28",
            "jsonrpc.request.id=a-7",
            "error.type=403",
            "rpc.response.status_code=403",
        ]
    );
    let prompt = operation("prompts/get", r#"{"name":"review"}"#);
    assert_eq!(prompt.span_name(), "prompts/get review");
    let shown = shown(&prompt.attributes(&Ended::well()));
    assert!(shown.contains(&"gen_ai.prompt.name=review".to_owned()) && !shown.join(" ").contains("error.type"));
    assert!(!shown.join(" ").contains("gen_ai.operation.name"), "only tool calls have one");
}

#[test]
fn a_uri_is_no_part_of_a_name_and_loses_what_may_be_secret() {
    let read = operation("resources/read", r#"{"uri":"https://files.example/a?token=s3cret#x"}"#);
    assert_eq!(read.span_name(), "resources/read");
    assert!(shown(&read.attributes(&Ended::well())).contains(&"mcp.resource.uri=https://files.example/a".to_owned()));
    let with_password = operation("resources/read", r#"{"uri":"postgres://u:s3cret@db/t"}"#);
    assert!(!shown(&with_password.attributes(&Ended::well())).join(" ").contains("s3cret"));
}

#[test]
fn durations_hold_closed_lists_and_known_names_only() {
    let call = operation("tools/call", r#"{"name":"made-up-by-a-client"}"#);
    assert_eq!(
        labels(&call.labels(&Ended::refused(-31_999, None))),
        [
            "mcp.method.name=tools/call",
            "gen_ai.operation.name=execute_tool",
            "mcp.protocol.version=2026-07-28",
            "error.type=_OTHER",
            "rpc.response.status_code=_OTHER",
        ]
    );
    let known = Operation { is_target_known: true, ..call };
    assert!(labels(&known.labels(&Ended::well())).contains(&"gen_ai.tool.name=made-up-by-a-client".to_owned()));
    let unknown = operation("evil/method", "{}");
    assert_eq!((unknown.method, unknown.span_name().as_str()), (OTHER, OTHER));
    assert!(METHODS.iter().all(|method| operation(method, "{}").method == *method));
}

#[test]
fn a_request_says_which_revision_it_speaks_and_whose_span_it_belongs_to() {
    let traced = r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}}"#;
    let seen_traced = seen("tools/list", traced);
    assert_eq!(seen_traced.operation.era, Some(Era::Modern));
    assert!(seen_traced.carried.parent.is_some());
    let opening = seen("initialize", r#"{"protocolVersion":"2025-11-25"}"#);
    assert_eq!(opening.operation.era, Era::of_version("2025-11-25"));
    assert_eq!(seen("ping", r#"{"protocolVersion":"1999-01-01"}"#).operation.era, None);
    let answer = read_message(br#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
    assert!(
        answer.is_ok_and(|answer| Seen::of(&answer, &Params::of(&answer), None).is_none()),
        "an answer begins no operation"
    );
}

#[test]
fn an_answer_says_how_the_operation_ended() {
    let result = |text: &str| Ended::of_response(&Response::Result(RawValue::from_string(text.to_owned()).unwrap()));
    assert_eq!(result(r#"{"content":[]}"#), Ended::well());
    assert_eq!(result(r#"{"content":[],"isError":false}"#), Ended::well());
    assert_eq!(result(r#"{"content":[],"isError":true}"#), Ended::tool_failed());
    let error = RpcError { code: -32602, message: "no such customer: hunter2".into(), data: None };
    let ended = Ended::of_response(&Response::Error(error));
    assert_eq!((ended.clone(), ended.failure()), (Ended::refused(-32602, None), Some("")));
    let ours = Ended::refused(code::DENIED, Some(Reason::ConfigStale));
    assert_eq!(ours.failure(), Some(Reason::ConfigStale.sentence()), "our own sentences tell no secret");
}

#[test]
fn a_completion_is_about_what_it_completes() {
    let prompt = operation("completion/complete", r#"{"ref":{"type":"ref/prompt","name":"review"},"argument":{}}"#);
    assert_eq!(prompt.target, Target::Prompt("review".into()));
    let template = operation("completion/complete", r#"{"ref":{"type":"ref/resource","uri":"file:///{path}"}}"#);
    assert_eq!(template.target, Target::Resource("file:///{path}".into()));
    assert_eq!(operation("completion/complete", "{}").target, Target::Nothing);
}

#[test]
fn attributes_are_bounded_at_a_whole_character() {
    let long = "é".repeat(10_000);
    let call = operation("tools/call", mcp::raw(&serde_json::json!({"name": long})).get());
    assert!(call.span_name().len() <= NAME_BYTES_MAX + "tools/call ".len());
    let Value::Text(content) = Value::content(&long) else { panic!("no text") };
    assert_eq!(content.len(), CONTENT_BYTES_MAX);
}
