//! Both eras of the client's edge: what each message gets, and every refusal's status and code.

mod authority;
mod narrowed;
mod search;
mod tasks;
mod views;

use std::sync::Arc;

use bailiwick_proto::{
    mcp::{Response, read_response},
    v1,
};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{
    fixture::{NOW, caller, world},
    sealed::SealingKeys,
};

const MODERN_META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"probe","version":"1"},"traceparent":"00-0af7651916cd43dd8448eb211c80319c-00f067aa0ba902b7-01"}"#;

struct Client {
    config: Arc<Config>,
    keys: SealingKeys,
    caller: Caller,
    virtual_server: &'static str,
}

fn client() -> Client {
    let key = v1::SealingKey { id: "k".into(), key: vec![1; 32] };
    Client {
        config: world().config(),
        keys: SealingKeys::new(&[key]).unwrap(),
        caller: caller(),
        virtual_server: "finance",
    }
}

impl Client {
    fn send(&self, headers: &[(&str, &str)], body: &str) -> Step {
        let media = [("Content-Type", "application/json"), ("Accept", "application/json, text/event-stream")];
        let overridden = |name: &str| headers.iter().any(|(given, _)| given.eq_ignore_ascii_case(name));
        let media = media.into_iter().filter(|(name, _)| !overridden(name));
        let all: Vec<_> = media.chain(headers.iter().copied().filter(|(_, value)| !value.is_empty())).collect();
        let exchange = Exchange {
            config: &self.config,
            caller: &self.caller,
            virtual_server: self.virtual_server,
            sealing_keys: &self.keys,
            nonce: [3; 24],
            now_unix: NOW,
            request_id: "r-1",
        };
        handle(&exchange, all.iter().map(|(name, value)| (*name, value.as_bytes())), body.as_bytes()).0
    }

    fn reply(&self, headers: &[(&str, &str)], body: &str) -> HttpReply {
        match self.send(headers, body) {
            Step::Respond(reply) => reply,
            Step::Deny(denied) => denied.reply,
            Step::Introduce(introduction) => introduction.reply(&[]),
            Step::SetLevel(level) => level.reply(),
            Step::List(list) => panic!("a list: {list:?}"),
            Step::Answer(answer) => panic!("an answer: {answer:?}"),
            Step::Call(call) => panic!("permitted: {call:?}"),
            Step::Listen(listen) => panic!("a stream: {listen:?}"),
            Step::Subscribe(subscribe) => panic!("a subscription: {subscribe:?}"),
        }
    }

    fn modern(&self, rpc_method: &str, params: &str, name: Option<&str>) -> HttpReply {
        let mut headers = vec![("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", rpc_method)];
        headers.extend(name.map(|name| ("Mcp-Name", name)));
        self.reply(&headers, &modern_body(rpc_method, params))
    }

    fn session(&self) -> String {
        let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"old","version":"9"}}}"#;
        self.reply(&[], body).session_id.unwrap()
    }

    fn legacy(&self, rpc_method: &str, params: &str) -> HttpReply {
        let session = self.session();
        self.reply(
            &[("Mcp-Session-Id", &session), ("MCP-Protocol-Version", "2025-11-25")],
            &legacy_body(rpc_method, params),
        )
    }
}

fn modern_body(rpc_method: &str, params: &str) -> String {
    let comma = if params.is_empty() { "" } else { "," };
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{rpc_method}","params":{{{params}{comma}{MODERN_META}}}}}"#)
}

fn legacy_body(rpc_method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{rpc_method}","params":{{{params}}}}}"#)
}

fn json_of(reply: &HttpReply) -> Value {
    serde_json::from_slice(reply.body.as_deref().unwrap_or(b"null")).unwrap()
}

/// Status, JSON-RPC code and reason word of a refusal.
fn refusal(reply: &HttpReply) -> (u16, i64, Option<String>) {
    let body = json_of(reply);
    let reason = body["error"]["data"]["reason"].as_str().map(ToOwned::to_owned);
    (reply.status, body["error"]["code"].as_i64().unwrap_or(0), reason)
}

fn listed(reply: &HttpReply) -> Vec<String> {
    let body = json_of(reply);
    body["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn bodies_that_are_no_message_are_refused_in_any_era() {
    let malformed = |status, code| (status, code, Some("request_malformed".to_owned()));
    for (body, expected) in [
        ("{", malformed(400, -32700)),
        ("[]", malformed(400, -32600)),
        (r#"{"jsonrpc":"2.0","id":1,"id":1,"method":"ping"}"#, malformed(400, -32600)),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, malformed(400, -32600)),
        (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, malformed(400, -32600)),
    ] {
        assert_eq!(refusal(&client().reply(&[], body)), expected, "{body}");
    }
    let with_id = client().reply(&[], r#"{"jsonrpc":"2.0","id":"x","method":"ping","more":1}"#);
    assert_eq!(json_of(&with_id)["id"], "x");
    assert_eq!(json_of(&with_id)["error"]["data"]["requestId"], "r-1");
    assert!(json_of(&client().reply(&[], "{")).get("id").is_none());
}

#[test]
fn content_type_and_accept_must_fit() {
    let body = legacy_body("ping", "");
    for (name, value, status) in [
        ("Content-Type", "text/plain", 415),
        ("Content-Type", "", 415),
        ("Content-Type", "application/json; charset=utf-8", 400),
        ("Accept", "application/json", 406),
        ("Accept", "text/event-stream", 406),
        ("Accept", "", 406),
        ("Accept", "*/*", 400),
        ("Accept", "text/*;q=0.5, application/*", 400),
    ] {
        // 400 is what comes next: there is no session yet.
        assert_eq!(client().reply(&[(name, value)], &body).status, status, "{name}: {value}");
    }
}

#[test]
fn an_unknown_virtual_server_is_not_found() {
    let client = Client { virtual_server: "nowhere", ..client() };
    let reply = client.modern("tools/list", "", None);
    assert_eq!(refusal(&reply), (404, -32602, Some("virtual_server_unknown".into())));
}

#[test]
fn modern_requests_are_refused_with_the_specified_status_and_code() {
    let version = ("MCP-Protocol-Version", "2026-07-28");
    let list = ("Mcp-Method", "tools/list");
    let call = ("Mcp-Method", "tools/call");
    let meta = |inner: &str| legacy_body("tools/list", &format!(r#""_meta":{{{inner}}}"#));
    let capabilities = r#""io.modelcontextprotocol/clientCapabilities":{}"#;
    let of = |version: &str| format!(r#""io.modelcontextprotocol/protocolVersion":{version}"#);
    let call_body = modern_body("tools/call", r#""name":"query_data","arguments":{}"#);
    for (headers, body, status, code) in [
        (vec![version, list], legacy_body("tools/list", ""), 400, -32602),
        (vec![version, list], legacy_body("tools/list", r#""_meta":7"#), 400, -32602),
        (vec![version, list], meta(capabilities), 400, -32602),
        (vec![version, list], meta(&of(r#""2026-07-28""#)), 400, -32602),
        (vec![version, list], meta(&format!("{},{capabilities}", of("7"))), 400, -32602),
        (vec![list], modern_body("tools/list", ""), 400, -32020),
        (vec![("MCP-Protocol-Version", "2025-11-25"), list], modern_body("tools/list", ""), 400, -32020),
        (
            vec![("MCP-Protocol-Version", "1900-01-01"), list],
            meta(&format!("{},{capabilities}", of(r#""1900-01-01""#))),
            400,
            -32022,
        ),
        (vec![version], modern_body("tools/list", ""), 400, -32020),
        (vec![version, call], modern_body("tools/list", ""), 400, -32020),
        (vec![version, call], call_body.clone(), 400, -32020),
        (vec![version, call, ("Mcp-Name", "create_charge")], call_body.clone(), 400, -32020),
        (vec![version, call, ("Mcp-Name", "=?base64?!?=")], call_body.clone(), 400, -32020),
        (vec![version, call, ("Mcp-Name", "query_data"), ("mcp-name", "query_data")], call_body, 400, -32020),
    ] {
        let reply = client().reply(&headers, &body);
        let (got_status, got_code, _) = refusal(&reply);
        assert_eq!((got_status, got_code), (status, code), "{headers:?} {body}");
        assert_eq!(json_of(&reply)["id"], 1);
    }
    let unsupported = client().reply(
        &[("MCP-Protocol-Version", "1900-01-01"), list],
        &meta(&format!("{},{capabilities}", of(r#""1900-01-01""#))),
    );
    assert_eq!(json_of(&unsupported)["error"]["data"], json!({"supported": ["2026-07-28"], "requested": "1900-01-01"}));
}

#[test]
fn legacy_methods_and_unknown_ones_are_not_found_in_the_modern_era() {
    for rpc_method in ["initialize", "ping", "logging/setLevel", "resources/subscribe", "x/y"] {
        let reply = client().modern(rpc_method, "", None);
        assert_eq!(refusal(&reply), (404, -32601, Some("method_unsupported".into())), "{rpc_method}");
    }
}

#[test]
fn modern_discovery_says_what_is_served() {
    let reply = client().modern("server/discover", "", None);
    let result = &json_of(&reply)["result"];
    assert_eq!(result["resultType"], "complete");
    assert_eq!(result["supportedVersions"], json!(["2026-07-28"]));
    assert_eq!(
        (&result["capabilities"], &result["cacheScope"]),
        (&json!({"tools": {"listChanged": true}}), &json!("private"))
    );
    assert!(result["ttlMs"].is_u64());
    assert_eq!(result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "bailiwick");
}

#[test]
fn both_eras_list_the_same_tools_in_the_order_of_their_names() {
    let expected = ["by_region", "create_charge", "drop_ledger", "query_data"];
    let modern = client().modern("tools/list", "", None);
    assert_eq!(listed(&modern), expected);
    let result = &json_of(&modern)["result"];
    assert_eq!((&result["resultType"], &result["cacheScope"]), (&json!("complete"), &json!("private")));
    let legacy = client().legacy("tools/list", "");
    assert_eq!(listed(&legacy), expected);
    assert_eq!(json_of(&legacy)["result"].as_object().unwrap().len(), 1);
    let body = String::from_utf8(legacy.body.unwrap()).unwrap();
    assert!(body.contains(r#"{"description":"Does query_data.","inputSchema":{"type":"object"},"name":"query_data"}"#));
    assert_eq!(refusal(&client().legacy("tools/list", r#""cursor":"2""#)).1, -32602);
}

#[test]
fn a_permitted_call_is_handed_on_with_its_arguments_as_they_were() {
    let params = r#""name":"query_data","arguments":{"n":1.10,"big":12345678901234567890123}"#;
    let headers = [
        ("MCP-Protocol-Version", "2026-07-28"),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "=?base64?cXVlcnlfZGF0YQ==?="),
    ];
    let Step::Call(permitted) = client().send(&headers, &modern_body("tools/call", params)) else { panic!("refused") };
    assert_eq!(permitted.call.arguments.as_ref().unwrap().get(), r#"{"n":1.10,"big":12345678901234567890123}"#);
    assert_eq!(permitted.call.trace_id.as_deref(), Some("0af7651916cd43dd8448eb211c80319c"));
    assert_eq!(permitted.call.client_name.as_deref(), Some("probe"));
    assert!(permitted.call.era.is_modern() && permitted.decision.permits());

    let client = client();
    let session = client.session();
    let Step::Call(permitted) = client.send(&[("Mcp-Session-Id", &session)], &legacy_body("tools/call", params)) else {
        panic!("refused")
    };
    assert_eq!(permitted.call.client_name.as_deref(), Some("old"));
    assert_eq!(permitted.call.era.version(), "2025-11-25");
    assert_eq!(permitted.found.server(), "finance");
}

#[test]
fn a_refused_call_is_http_200_with_the_reason() {
    let mut restricted = client();
    restricted.config = world().without("policy/finance").config();
    for reply in [
        restricted.modern("tools/call", r#""name":"query_data""#, Some("query_data")),
        restricted.legacy("tools/call", r#""name":"query_data""#),
    ] {
        assert_eq!(refusal(&reply), (200, 403, Some("policy_denied".into())));
        assert_eq!(
            json_of(&reply)["error"]["data"],
            json!({"reason": "policy_denied", "requestId": "r-1", "policies": []})
        );
        assert_eq!(reply.reason, Some(Reason::PolicyDenied));
    }
    let unknown = client().legacy("tools/call", r#""name":"no_such_tool""#);
    assert_eq!(refusal(&unknown), (200, -32602, Some("tool_unknown".into())));
    let Step::Deny(denied) = restricted.send(
        &[("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "query_data")],
        &modern_body("tools/call", r#""name":"query_data""#),
    ) else {
        panic!("not denied")
    };
    assert_eq!(denied.decision.reason, Some(Reason::PolicyDenied));
}

#[test]
fn calls_with_wrong_parameters_are_invalid() {
    let long = format!(r#""name":"{}""#, "x".repeat(TOOL_NAME_BYTES_MAX + 1));
    for params in
        ["", r#""name":7"#, r#""name":"""#, r#""name":"a","arguments":[]"#, r#""name":"a","arguments":null"#, &long]
    {
        assert_eq!(
            refusal(&client().legacy("tools/call", params)),
            (200, -32602, Some("request_malformed".into())),
            "{params:.60}"
        );
    }
    assert_eq!(refusal(&client().legacy("tools/call", r#""name":"a","_meta":1"#)).1, -32602);
}

#[test]
fn mirrored_arguments_must_agree_in_the_modern_era_only() {
    let params = r#""name":"by_region","arguments":{"region":"eu"}"#;
    let base = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call"), ("Mcp-Name", "by_region")];
    let with = |param: Option<&'static str>| {
        let mut headers = base.to_vec();
        headers.extend(param.map(|value| ("Mcp-Param-Region", value)));
        client().send(&headers, &modern_body("tools/call", params))
    };
    assert!(matches!(with(Some("eu")), Step::Call(_)));
    for param in [None, Some("us"), Some("=?base64?@?=")] {
        let Step::Respond(reply) = with(param) else { panic!("accepted {param:?}") };
        assert_eq!(refusal(&reply), (400, -32020, None));
    }
    let client = client();
    let session = client.session();
    assert!(matches!(client.send(&[("Mcp-Session-Id", &session)], &legacy_body("tools/call", params)), Step::Call(_)));
}

#[test]
fn initialize_negotiates_a_version_and_opens_a_session() {
    let ask = |version: &str| {
        let body = legacy_body("initialize", &format!(r#""protocolVersion":"{version}","capabilities":{{}}"#));
        client().reply(&[], &body)
    };
    for (asked, given) in [
        ("2025-11-25", "2025-11-25"),
        ("2025-06-18", "2025-06-18"),
        ("2025-03-26", "2025-03-26"),
        ("2024-11-05", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("tomorrow", "2025-11-25"),
    ] {
        let reply = ask(asked);
        let result = &json_of(&reply)["result"];
        assert_eq!(result["protocolVersion"], given, "{asked}");
        assert_eq!(result["capabilities"], json!({"tools": {"listChanged": true}}));
        assert_eq!(result["serverInfo"]["name"], "bailiwick");
        assert!(reply.session_id.is_some());
    }
    assert_eq!(refusal(&client().reply(&[], &legacy_body("initialize", ""))).1, -32602);
    let keyless = Client { keys: SealingKeys::default(), ..client() };
    let reply = keyless.reply(&[], &legacy_body("initialize", r#""protocolVersion":"2025-11-25""#));
    assert_eq!(refusal(&reply), (503, -32603, Some("config_stale".into())));
}

#[test]
fn legacy_requests_need_a_session_that_opens() {
    let ping = legacy_body("ping", "");
    assert_eq!(refusal(&client().reply(&[], &ping)), (400, -32600, Some("request_malformed".into())));
    let unknown = client().reply(&[("Mcp-Session-Id", "v1.AAAA")], &ping);
    assert_eq!(refusal(&unknown), (404, -32600, Some("session_unknown".into())));
    let session = client().session();
    let eve = Client { caller: Caller { user: "eve@example.com".into(), ..caller() }, ..client() };
    assert_eq!(eve.reply(&[("Mcp-Session-Id", &session)], &ping).status, 404);
    let version = client().reply(&[("Mcp-Session-Id", &session), ("MCP-Protocol-Version", "2024-11-05")], &ping);
    assert_eq!(refusal(&version), (400, -32022, None));
    assert_eq!(json_of(&client().legacy("ping", ""))["result"], json!({}));
    assert_eq!(refusal(&client().legacy("x/y", "")), (200, -32601, Some("method_unsupported".into())));
}

#[test]
fn notifications_are_accepted_without_a_body() {
    let ended = crate::operation::Ended::well();
    let (session_id, body, reason, scope_needed) = (None, None, None, None);
    let accepted = HttpReply { status: 202, session_id, body, reason, scope_needed, hidden_thousandths: None, ended };
    let session = client().session();
    for rpc_method in ["notifications/initialized", "notifications/cancelled", "notifications/whatever"] {
        let body = format!(r#"{{"jsonrpc":"2.0","method":"{rpc_method}"}}"#);
        assert_eq!(client().reply(&[("Mcp-Session-Id", &session)], &body), accepted);
        assert_eq!(client().reply(&[], &body).status, 400);
        let modern = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", rpc_method)];
        assert_eq!(client().reply(&modern, &body), accepted);
        let contradicting = [("MCP-Protocol-Version", "2026-07-28"), ("Mcp-Method", "tools/call")];
        assert_eq!(client().reply(&contradicting, &body).status, 400);
    }
}

#[test]
fn every_reply_with_a_body_is_a_message_a_client_can_read() {
    let id = bailiwick_proto::mcp::RequestId::from(1);
    for reply in [
        client().modern("server/discover", "", None),
        client().modern("tools/list", "", None),
        client().legacy("tools/list", ""),
        client().modern("tools/call", r#""name":"none""#, Some("none")),
    ] {
        let body = reply.body.unwrap();
        assert!(matches!(read_response(&body, &id), Ok(Response::Result(_) | Response::Error(_))));
    }
}

proptest! {
    #[test]
    fn any_headers_and_body_get_a_reply_and_never_a_call_by_accident(
        version in prop::option::of("2026-07-28|2025-11-25|[ -~]{0,12}"),
        session in prop::option::of("v1\\.[A-Za-z0-9_-]{0,40}|[ -~]{0,8}"),
        body in prop_oneof![
            "[\\[{\\]}:,\"a-z0-9 \\\\]{0,60}",
            "[a-z/]{1,12}".prop_map(|rpc_method| legacy_body(&rpc_method, "")),
            "[a-z_\"]{0,12}".prop_map(|name| legacy_body("tools/call", &format!(r#""name":"{name}""#))),
            "[a-z_]{0,12}".prop_map(|name| modern_body("tools/call", &format!(r#""name":"{name}""#))),
        ],
    ) {
        let mut headers = Vec::new();
        headers.extend(version.as_deref().map(|version| ("MCP-Protocol-Version", version)));
        headers.extend(session.as_deref().map(|session| ("Mcp-Session-Id", session)));
        // A call would need the mirrored headers or a session that opens; neither is among these.
        let Step::Respond(reply) = client().send(&headers, &body) else {
            return Err(TestCaseError::fail("taken for a call"));
        };
        prop_assert!((200..=503).contains(&reply.status));
    }
}
