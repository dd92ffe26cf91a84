//! The connector against servers of both eras, good and bad.

use std::{sync::atomic::Ordering, time::Instant};

use bailiwick_data_plane_core::{Call, Decision, config::Tool};
use bailiwick_proto::{Tier, mcp::Era};
use serde_json::json;

use super::*;
use crate::fakes::{
    self, loopback,
    server::{FakeServer, Mode, Speaks, raw_server, result_text, secure},
};

mod api;
mod bad;
mod isolation;
mod sse;
mod streams;
mod transport;

fn upstream() -> Upstream {
    upstream_within(UpstreamConfig { response_bytes_max: 256 * 1024, ..loopback() }, Means::default())
}

fn upstream_within(limits: UpstreamConfig, means: Means) -> Upstream {
    Upstream::new(limits, &Supervisor::new(Shutdown::new()), means).unwrap()
}

fn server(url: &str) -> Server {
    Server { name: "finance".into(), url: url.into(), timeout_ms: 10_000, ..Server::default() }
}

fn call(arguments: &str) -> PermittedCall {
    call_of(arguments, None)
}

fn call_of(arguments: &str, definition: Option<Box<RawValue>>) -> PermittedCall {
    let tool = Arc::new(Tool {
        server: "finance".into(),
        name: "query_data".into(),
        hash: String::new(),
        tier: Tier::Retrieval,
        cost: None,
        quarantined: false,
        header_params: Vec::new(),
        definition,
    });
    let decision = Decision {
        reason: None,
        policies: Arc::default(),
        scope_needed: None,
        policy_error: None,
        revision: 1,
        rollout: None,
        earlier_agents: Arc::default(),
        owner: None,
        project: None,
        found: Some(bailiwick_data_plane_core::wanted::Found::Tool(Arc::clone(&tool))),
    };
    let call = Call {
        id: RequestId::from(9),
        era: Era::Modern,
        virtual_server: "finance".into(),
        name: "finance__query_data".into(),
        arguments: Some(RawValue::from_string(arguments.into()).unwrap()),
        meta: None,
        client_name: None,
        client_version: None,
        capabilities: None,
        method: mcp::method::TOOLS_CALL,
        completion: None,
        task: None,
        retry: bailiwick_data_plane_core::edge::Retry::default(),
        trace_id: None,
        unrecognised_params: Vec::new(),
    };
    PermittedCall { call, decision, found: bailiwick_data_plane_core::wanted::Found::Tool(tool) }
}

async fn ask(upstream: &Upstream, url: &str) -> Result<String, UpstreamFault> {
    ask_server(upstream, &server(url)).await
}

async fn ask_server(upstream: &Upstream, server: &Server) -> Result<String, UpstreamFault> {
    ask_as(upstream, server, "jane").await
}

fn principal(user: &str) -> Principal {
    Principal::Caller { user: user.into(), agent: "coder".into(), capabilities: None }
}

/// As a call is: what the server says beside its answer is heard, and who hears it ends what takes too long.
async fn ask_through(
    upstream: &Upstream,
    server: &Server,
    user: &str,
    gate: &Gate,
    arguments: &str,
) -> Result<(Response, u64), UpstreamFault> {
    let (heard, mut hearing) = tokio::sync::mpsc::channel(4);
    let (principal, permitted, id) = (principal(user), call(arguments), upstream.next_id());
    let aside = Aside { gate: Some(gate), heard: Some(&heard), ..Aside::default() };
    let mut answer = std::pin::pin!(upstream.call(server, &principal, &permitted, &id, aside));
    let patience = upstream.patience(server);
    let late = tokio::time::Instant::now() + patience;
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            Some(_) = hearing.recv() => {}
            () = tokio::time::sleep_until(late) => return Err(UpstreamFault::Timeout(u64::try_from(patience.as_millis()).unwrap())),
        }
    }
}

async fn ask_as(upstream: &Upstream, server: &Server, user: &str) -> Result<String, UpstreamFault> {
    let gate = Gate::new(|| None);
    let answer = ask_through(upstream, server, user, &gate, r#"{"q":1.50}"#).await?;
    let (Response::Result(result), bytes) = answer else { panic!("an error: {answer:?}") };
    assert!(bytes > result.get().len() as u64);
    Ok(result.get().to_owned())
}

#[tokio::test]
async fn servers_of_both_eras_are_called_and_the_result_arrives_as_it_was_written() {
    for speaks in [Speaks::Modern, Speaks::Legacy, Speaks::LegacyThatDiscovers, Speaks::LegacyWith400] {
        let (fake, upstream) = (FakeServer::start(speaks).await, upstream());
        for mode in [Mode::Good, Mode::Stream] {
            fake.set(mode);
            assert_eq!(ask(&upstream, &fake.url).await.unwrap(), result_text(r#"{"q":1.50}"#), "{speaks:?}");
        }
        assert_eq!(fake.seen("server/discover").len(), 1, "the era is remembered");
        let modern = speaks == Speaks::Modern;
        assert_eq!(fake.seen("initialize").len(), usize::from(!modern));
        assert_eq!(fake.seen("notifications/initialized").len(), usize::from(!modern));
        let seen = fake.seen("tools/call").remove(0);
        let header = |name: &str| seen.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(header("mcp-session-id").is_some(), !modern);
        assert_eq!(header("mcp-name"), modern.then(|| "query_data".to_owned()));
        assert_eq!(header("mcp-protocol-version").as_deref(), Some(if modern { "2026-07-28" } else { "2025-11-25" }));
        assert_eq!(header("authorization"), None);
        assert_eq!(seen.body["params"]["name"], "query_data");
    }
}

#[tokio::test]
async fn callers_that_come_together_share_one_handshake() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    let calls = (0..20).map(|_| ask(&upstream, &fake.url));
    assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!((fake.seen("server/discover").len(), fake.seen("initialize").len()), (1, 1));
}

#[tokio::test]
async fn a_legacy_session_serves_one_caller_only() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    let server = server(&fake.url);
    for user in ["jane", "max", "jane", "max"] {
        ask_as(&upstream, &server, user).await.unwrap();
    }
    upstream.list_tools(&server).await.unwrap();
    let session = |seen: &crate::fakes::server::Seen| seen.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let calls: Vec<_> = fake.seen("tools/call").iter().map(session).collect();
    assert!(calls[0] == calls[2] && calls[1] == calls[3] && calls[0] != calls[1], "{calls:?}");
    assert!(!calls.contains(&session(&fake.seen("tools/list")[0])), "the gateway's own session is nobody's");
    assert_eq!(fake.seen("server/discover").len(), 1, "the era is known to all");
}

#[tokio::test]
async fn a_lost_session_is_opened_anew_without_the_caller_noticing() {
    for speaks in [Speaks::Legacy, Speaks::LegacyWith400] {
        let (fake, upstream) = (FakeServer::start(speaks).await, upstream());
        ask(&upstream, &fake.url).await.unwrap();
        fake.forget_sessions();
        let calls = (0..5).map(|_| ask(&upstream, &fake.url));
        assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok), "{speaks:?}");
        assert_eq!(fake.seen("initialize").len(), 2);
    }
}

#[tokio::test]
async fn trouble_says_nothing_about_the_era_and_is_not_remembered() {
    let (fake, upstream) = (FakeServer::start(Speaks::Modern).await, upstream());
    for status in [401, 403, 429, 500, 503] {
        fake.set_trouble(Some(status));
        assert_eq!(ask(&upstream, &fake.url).await, Err(UpstreamFault::Status(status)));
    }
    assert_eq!(fake.seen("initialize").len(), 0);
    fake.set_trouble(None);
    ask(&upstream, &fake.url).await.unwrap();
}

#[tokio::test]
async fn whatever_a_server_does_the_call_ends_in_time_with_a_named_fault() {
    let (fake, upstream) = (FakeServer::start(Speaks::Modern).await, upstream());
    ask(&upstream, &fake.url).await.unwrap();
    for (mode, expected) in [
        (Mode::Hang, "upstream_timeout"),
        (Mode::HangInBody, "upstream_timeout"),
        (Mode::Malformed, "upstream_invalid"),
        (Mode::RepeatedKey, "upstream_invalid"),
        (Mode::WrongId, "upstream_invalid"),
        (Mode::WrongType, "upstream_invalid"),
        (Mode::StreamWithoutAnswer, "upstream_invalid"),
        (Mode::Endless, "upstream_too_large"),
        (Mode::EndlessStream, "upstream_too_large"),
        (Mode::Huge, "upstream_too_large"),
        (Mode::Redirect, "upstream_refused"),
        (Mode::Status(500), "upstream_refused"),
    ] {
        fake.set(mode);
        let (started, before) = (Instant::now(), fake.seen("tools/call").len());
        let timeout_ms = if expected == "upstream_timeout" { 300 } else { 10_000 };
        let fault = ask_server(&upstream, &Server { timeout_ms, ..server(&fake.url) }).await.unwrap_err();
        assert_eq!(fault.reason().as_str(), expected, "{mode:?}: {fault}");
        assert!(started.elapsed() < Duration::from_secs(10), "{mode:?}");
        assert_eq!(fake.seen("tools/call").len(), before + 1, "{mode:?}: a call is never sent twice");
    }
    fake.set(Mode::Good);
    ask(&upstream, &fake.url).await.unwrap();
}

#[tokio::test]
async fn lengths_that_lie_and_broken_connections_are_faults() {
    for (answer, expected) in [
        (&b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{\"jsonrpc\":\"2.0\"}"[..], "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}", "upstream_invalid"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n{", "upstream_too_large"),
        (b"not http at all\r\n\r\n", "upstream_unreachable"),
        (b"", "upstream_unreachable"),
    ] {
        let (address, _, stop) = raw_server(answer).await;
        let fault = ask(&upstream(), &format!("http://{address}/mcp")).await.unwrap_err();
        assert_eq!(fault.reason().as_str(), expected, "{fault}");
        stop.request();
    }
    let (closed, _held) = fakes::closed();
    let fault = ask(&upstream(), &format!("http://{closed}/mcp")).await.unwrap_err();
    assert_eq!(fault.reason().as_str(), "upstream_unreachable");
}

#[tokio::test]
async fn a_call_on_a_connection_that_breaks_is_not_sent_again() {
    let (address, count, stop) = raw_server(b"").await;
    let (upstream, url) = (upstream(), format!("http://{address}/mcp"));
    let known = upstream.known(&server(&url));
    let peer = Arc::new(Peer::linked_to_modern(known.origin.as_ref().unwrap(), upstream.room.clone()));
    known.peers().insert(principal("jane"), peer);
    assert!(ask(&upstream, &url).await.is_err());
    assert_eq!(count.load(Ordering::SeqCst), 1);
    stop.request();
}

#[tokio::test]
async fn tools_are_listed_over_all_pages_in_canonical_form() {
    for speaks in [Speaks::Modern, Speaks::Legacy] {
        let fake = FakeServer::start(speaks).await;
        fake.show_also(json!({"name": "extra", "inputSchema": {"type": "object"}, "annotations": {"weight": 0.50}}));
        let tools = upstream().list_tools(&server(&fake.url)).await.unwrap();
        let names: Vec<_> = tools.iter().map(|tool| tool.name.as_str()).collect();
        assert_eq!(names, ["create_charge", "drop_ledger", "extra", "query_data"]);
        assert_eq!(tools[2].json, r#"{"annotations":{"weight":0.5},"inputSchema":{"type":"object"},"name":"extra"}"#);
    }
}

#[tokio::test]
async fn a_legacy_server_is_told_that_nobody_waits_any_more() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    ask(&upstream, &fake.url).await.unwrap();
    upstream.cancel(&server(&fake.url), &principal("jane"), &RequestId::from(7)).await;
    let seen = fake.seen("notifications/cancelled").remove(0);
    assert_eq!(seen.body["params"]["requestId"], 7);
    assert!(seen.headers.contains_key("mcp-session-id"));
}

#[tokio::test]
async fn the_gate_is_asked_after_the_handshake_and_what_it_keeps_never_arrives() {
    for speaks in [Speaks::Modern, Speaks::Legacy] {
        let (fake, upstream) = (Arc::new(FakeServer::start(speaks).await), upstream());
        let (to, watched) = (server(&fake.url), Arc::clone(&fake));
        let gate = Gate::new(move || {
            assert!(!watched.seen("server/discover").is_empty(), "the handshake comes first");
            Some(bailiwick_proto::Reason::ConfigStale)
        });
        let kept = ask_through(&upstream, &to, "jane", &gate, "{}").await;
        assert_eq!(kept.unwrap_err(), UpstreamFault::Withheld(bailiwick_proto::Reason::ConfigStale));
        assert_eq!(fake.seen("tools/call").len(), 0);
        assert!(ask(&upstream, &fake.url).await.is_ok(), "the next one leaves");
        assert_eq!(fake.seen("tools/call").len(), 1);
    }
}

#[tokio::test]
async fn without_a_connection_the_gate_is_not_asked() {
    let gate = Gate::new(|| Some(bailiwick_proto::Reason::ConfigStale));
    let (upstream, to) = (upstream(), server("http://127.0.0.1:1/mcp"));
    let answer = ask_through(&upstream, &to, "jane", &gate, "{}").await;
    assert!(matches!(answer, Err(UpstreamFault::Unreachable(_))));
}

#[tokio::test]
async fn whoever_declares_something_new_each_time_opens_no_sessions_without_end() {
    let (fake, upstream) = (FakeServer::start(Speaks::Legacy).await, upstream());
    for number in 0..VARIANTS_MAX * 3 {
        let capabilities = Some(format!(r#"{{"experimental":{{"n":{number}}}}}"#).into());
        let principal = Principal::Caller { user: "jane".into(), agent: "coder".into(), capabilities };
        upstream.capabilities(&server(&fake.url), &principal).await.unwrap();
    }
    assert_eq!(fake.seen("initialize").len(), VARIANTS_MAX + 1, "all the others share one that declares nothing");
    let principal = Principal::Caller { user: "joe".into(), agent: "coder".into(), capabilities: Some("{}".into()) };
    upstream.capabilities(&server(&fake.url), &principal).await.unwrap();
    assert_eq!(fake.seen("initialize").len(), VARIANTS_MAX + 2, "nobody else is concerned");
}
