//! What servers are sent and what clients get back, across the eras.

mod tasks;

use bailiwick_proto::mcp::{Message, Request, RpcError, VERSION_2025_11_25, read_message};
use serde_json::Value;

use super::*;
use crate::{
    admission::{ToolRef, admit},
    edge::Retry,
    fixture::{self, NOW, caller, world},
    naming::Own,
    trace::SpanContext,
};

const LEGACY: Era = Era::Legacy(VERSION_2025_11_25);

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn call(era: Era, arguments: Option<&str>, meta: Option<&str>) -> Call {
    Call {
        id: RequestId::Text("c".into()),
        era,
        virtual_server: "finance".into(),
        name: "by_region".into(),
        arguments: arguments.map(raw),
        meta: meta.map(raw),
        client_name: None,
        client_version: None,
        capabilities: None,
        method: method::TOOLS_CALL,
        completion: None,
        task: None,
        retry: Retry::default(),
        trace_id: None,
        unrecognised_params: Vec::new(),
    }
}

fn unsealed(keepsake: Keepsake) -> Option<String> {
    panic!("nothing is sealed here: {keepsake:?}")
}

fn permitted(call: Call) -> PermittedCall {
    let config = world().config();
    let decision = admit(&config, &caller(), ToolRef { virtual_server: "finance", name: &call.name }, NOW);
    PermittedCall { found: decision.found.clone().unwrap(), call, decision }
}

fn sent(request: &ServerRequest) -> Request {
    let Ok(Message::Request(request)) = read_message(&request.body) else { panic!("not a request") };
    request
}

fn json_of(reply: &HttpReply) -> Value {
    serde_json::from_slice(reply.body.as_deref().unwrap()).unwrap()
}

#[test]
fn a_legacy_server_gets_the_tools_own_name_and_the_arguments_as_they_were() {
    let arguments = r#"{"region":"eu","n":1.10,"big":12345678901234567890123}"#;
    let call = Call { name: "finance__by_region".into(), ..call(Era::Modern, Some(arguments), None) };
    let config = world()
        .with(fixture::entry("virtual_server/finance", fixture::virtual_server("finance", &["finance"], "prefixed")))
        .config();
    let decision = admit(&config, &caller(), ToolRef { virtual_server: "finance", name: &call.name }, NOW);
    let permitted = PermittedCall { found: decision.found.clone().unwrap(), call, decision };
    let request = call_request(&permitted, LEGACY, &RequestId::from(4));
    assert_eq!(
        String::from_utf8(request.body).unwrap(),
        format!(
            r#"{{"jsonrpc":"2.0","id":4,"method":"tools/call","params":{{"name":"by_region","arguments":{arguments}}}}}"#
        )
    );
    assert_eq!(request.headers, [("mcp-protocol-version".to_owned(), "2025-11-25".to_owned())]);
    let oldest = call_request(&permitted, Era::Legacy(VERSION_2025_03_26), &RequestId::from(4));
    assert!(oldest.headers.is_empty());
}

#[test]
fn a_modern_server_gets_metadata_and_mirrored_headers() {
    let request =
        call_request(&permitted(call(LEGACY, Some(r#"{"region":"ü"}"#), None)), Era::Modern, &RequestId::from(4));
    let expected = [
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "by_region"),
        ("mcp-param-region", "=?base64?w7w=?="),
    ];
    assert_eq!(request.headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let request = sent(&request);
    let meta = request.members().object("_meta").unwrap().unwrap();
    assert_eq!(meta.string("io.modelcontextprotocol/protocolVersion"), Ok(Some("2026-07-28".into())));
    assert!(meta.object("io.modelcontextprotocol/clientCapabilities").unwrap().unwrap().is_empty());
    let info = meta.object("io.modelcontextprotocol/clientInfo").unwrap().unwrap();
    assert_eq!(info.string("name"), Ok(Some("bailiwick".into())));
}

#[test]
fn headers_that_the_definition_does_not_declare_reach_modern_servers_only() {
    let zone = ("mcp-param-zone".to_owned(), "eu".to_owned());
    let call = Call { unrecognised_params: vec![zone.clone()], ..call(Era::Modern, None, None) };
    let permitted = permitted(call);
    assert!(call_request(&permitted, Era::Modern, &RequestId::from(4)).headers.contains(&zone));
    assert!(!call_request(&permitted, LEGACY, &RequestId::from(4)).headers.contains(&zone));
}

#[test]
fn of_the_clients_metadata_trace_context_vendors_keys_and_wishes_pass_progress_under_a_token_of_our_own() {
    let meta = r#"{"traceparent":"00-1","com.example/x":{"a":1.0},"progressToken":7,"io.modelcontextprotocol/clientCapabilities":{"sampling":{}},"io.modelcontextprotocol/logLevel":"debug"}"#;
    let legacy = sent(&call_request(&permitted(call(Era::Modern, None, Some(meta))), LEGACY, &RequestId::from(1)));
    assert_eq!(
        legacy.params.unwrap().get(),
        r#"{"name":"by_region","_meta":{"progressToken":1,"traceparent":"00-1","com.example/x":{"a":1.0}}}"#
    );
    let modern = sent(&call_request(&permitted(call(Era::Modern, None, Some(meta))), Era::Modern, &RequestId::from(1)));
    let members = modern.members();
    let meta = members.object("_meta").unwrap().unwrap();
    let keys: Vec<_> = meta.iter().map(|(key, _)| key).collect();
    assert_eq!(
        keys,
        [
            "com.example/x",
            "io.modelcontextprotocol/clientCapabilities",
            "io.modelcontextprotocol/clientInfo",
            "io.modelcontextprotocol/logLevel",
            "io.modelcontextprotocol/protocolVersion",
            "progressToken",
            "traceparent",
        ]
    );
    assert!(meta.object("io.modelcontextprotocol/clientCapabilities").unwrap().unwrap().is_empty());
}

#[test]
fn results_pass_unchanged_but_for_the_result_type_a_modern_client_needs() {
    for (era, result, expected) in [
        (LEGACY, r#"{"content":[],"n": 1.0}"#, r#"{"content":[],"n": 1.0}"#),
        (LEGACY, r#"{"resultType":"complete","content":[]}"#, r#"{"resultType":"complete","content":[]}"#),
        (Era::Modern, r#"{"content":[],"n": 1.0}"#, r#"{"resultType":"complete","content":[],"n":1.0}"#),
        (Era::Modern, "{}", r#"{"resultType":"complete"}"#),
        (Era::Modern, r#"{ "a":1.0}"#, r#"{"resultType":"complete","a":1.0}"#),
        (Era::Modern, r#"{"content":[],"resultType":"complete"}"#, r#"{"content":[],"resultType":"complete"}"#),
    ] {
        let answer = answer(
            &call(era, None, None),
            "r-1",
            Ok(Response::Result(raw(result))),
            Answerer { naming: &Naming::Plain("finance".into()), server: "finance", era: None },
            unsealed,
        );
        let body = String::from_utf8(answer.reply.body.unwrap()).unwrap();
        assert_eq!(body, format!(r#"{{"jsonrpc":"2.0","id":"c","result":{expected}}}"#));
        assert_eq!((answer.status, answer.reply.status), (Status::Ok, 200));
        assert_eq!(answer.payload.unwrap().get(), result);
    }
}

#[test]
fn a_tool_that_says_it_failed_is_recorded_as_such() {
    let result = raw(r#"{"content":[],"isError":true}"#);
    let answer = answer(
        &call(LEGACY, None, None),
        "r-1",
        Ok(Response::Result(result)),
        Answerer { naming: &Naming::Plain("finance".into()), server: "finance", era: None },
        unsealed,
    );
    assert_eq!((answer.status, answer.error_code, answer.reply.reason), (Status::ToolError, None, None));
}

#[test]
fn unfinished_and_unknown_results_are_invalid() {
    for result in [
        r#"{"resultType":"input_required","inputRequests":{"a":{}}}"#,
        r#"{"resultType":"input_required"}"#,
        r#"{"resultType":"task"}"#,
        r#"{"resultType":7}"#,
    ] {
        let answer = answer(
            &call(Era::Modern, None, None),
            "r-1",
            Ok(Response::Result(raw(result))),
            Answerer { naming: &Naming::Plain("finance".into()), server: "finance", era: None },
            unsealed,
        );
        let error = &json_of(&answer.reply)["error"];
        assert_eq!((&error["code"], &error["data"]["reason"]), (&json!(-32603), &json!("upstream_invalid")));
        assert_eq!((answer.status, answer.error_code.as_deref()), (Status::Error, Some("upstream_invalid")));
    }
}

#[test]
fn a_servers_own_errors_pass_but_not_those_about_our_request() {
    let ask = |code: i64| {
        let error = RpcError { code, message: "no".into(), data: Some(raw(r#"{"x":1.0}"#)) };
        answer(
            &call(Era::Modern, None, None),
            "r-1",
            Ok(Response::Error(error)),
            Answerer { naming: &Naming::Plain("finance".into()), server: "finance", era: None },
            unsealed,
        )
    };
    for code in [-32602, -32603, -32002, -1, 7] {
        let answer = ask(code);
        assert_eq!(json_of(&answer.reply)["error"], json!({"code": code, "message": "no", "data": {"x": 1.0}}));
        assert_eq!((answer.reply.status, answer.error_code), (200, Some(code.to_string())));
    }
    for code in [-32700, -32600, -32601, -32020, -32022, -32099] {
        let answer = ask(code);
        assert_eq!(json_of(&answer.reply)["error"]["data"]["reason"], "upstream_invalid", "{code}");
    }
}

#[test]
fn what_the_client_did_not_declare_it_learns_in_the_words_of_its_era() {
    let ask = |era: Era, code: i64, rpc_method: &'static str| {
        let error = RpcError { code, message: "no".into(), data: Some(raw(r#"{"uri":"file:///a"}"#)) };
        let call = Call { method: rpc_method, ..call(era, None, None) };
        let answer = answer(
            &call,
            "r-1",
            Ok(Response::Error(error)),
            Answerer { naming: &Naming::Plain("finance".into()), server: "finance", era: None },
            unsealed,
        );
        (answer.reply.status, json_of(&answer.reply)["error"]["code"].as_i64().unwrap())
    };
    assert_eq!(ask(Era::Modern, -32021, method::TOOLS_CALL), (400, -32021));
    assert_eq!(ask(LEGACY, -32021, method::TOOLS_CALL), (200, -32021));
    assert_eq!(ask(Era::Modern, -32002, method::RESOURCES_READ), (200, -32602));
    assert_eq!(ask(LEGACY, -32002, method::RESOURCES_READ), (200, -32002));
    assert_eq!(ask(Era::Modern, -32002, method::TOOLS_CALL), (200, -32002));
}

#[test]
fn prompts_resources_and_completions_are_asked_under_the_servers_own_names() {
    let own = Own { server: "hr".into(), name: "file:///a b".into() };
    let ask = |call: Call, found: Found| {
        let decision = permitted(self::call(LEGACY, None, None)).decision;
        let request = call_request(&PermittedCall { call, decision, found }, Era::Modern, &RequestId::from(4));
        let name = request.headers.iter().find(|(key, _)| key == "mcp-name").map(|(_, value)| value.clone());
        (sent(&request).params.unwrap().get().split(r#","_meta""#).next().unwrap().to_owned(), name)
    };
    let read = Call { method: method::RESOURCES_READ, name: "mcp+hr+file:///a b".into(), ..call(LEGACY, None, None) };
    let (params, name) = ask(read, Found::Resource(own.clone()));
    assert_eq!((params.as_str(), name.as_deref()), (r#"{"uri":"file:///a b""#, Some("file:///a b")));
    let prompt = Call { method: method::PROMPTS_GET, ..call(LEGACY, Some(r#"{"n":"1"}"#), None) };
    let (params, _) = ask(prompt, Found::Prompt(Own { name: "sum".into(), ..own.clone() }));
    assert_eq!(params, r#"{"name":"sum","arguments":{"n":"1"}"#);
    let completion = Completion { of_template: true, argument: raw(r#"{"name":"p","value":"x"}"#), context: None };
    let complete = Call { method: method::COMPLETE, completion: Some(completion), ..call(LEGACY, None, None) };
    let (params, name) = ask(complete, Found::Resource(own));
    assert_eq!(params, r#"{"ref":{"type":"ref/resource","uri":"file:///a b"},"argument":{"name":"p","value":"x"}"#);
    assert_eq!(name, None);
}

#[test]
fn without_an_answer_the_client_learns_why() {
    for reason in [Reason::UpstreamTimeout, Reason::UpstreamUnreachable, Reason::UpstreamTooLarge] {
        let answer = answer(
            &call(LEGACY, None, None),
            "r-1",
            Err(reason),
            Answerer { naming: &Naming::Plain("finance".into()), server: "finance", era: None },
            unsealed,
        );
        let error = &json_of(&answer.reply)["error"];
        assert_eq!((&error["code"], &error["data"]["requestId"]), (&json!(-32603), &json!("r-1")));
        assert_eq!((answer.status, answer.error_code.as_deref()), (Status::Error, Some(reason.as_str())));
        assert!(answer.payload.is_none());
    }
}

#[test]
fn a_list_carries_the_trace_in_either_era_and_nothing_when_there_is_none() {
    let parent = SpanContext::parse("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let traced = Carried { parent, ..Carried::default() };
    let meta = |era, trace: &Carried| {
        let request = sent(&list_request(era, &RequestId::from(1), (method::TOOLS_LIST, &[]), None, trace));
        request.members().object("_meta").unwrap().map(|meta| meta.string("traceparent").unwrap())
    };
    let text = parent.map(|parent| parent.to_string());
    assert_eq!((meta(Era::Modern, &traced), meta(LEGACY, &traced)), (Some(text.clone()), Some(text)));
    assert_eq!((meta(Era::Modern, &Carried::default()), meta(LEGACY, &Carried::default())), (Some(None), None));
}
