//! A whole node on loopback, between a control plane, a ledger and a server played by `fakes`.

use std::time::{Duration, Instant};

use bailiwick_ledger_core::record::{Effect, Kind, Record, Status};
use bailiwick_proto::v1::{Discover, Entry, Server, config_frame::Frame, node_message::Message as Up};
use bailiwick_runtime::{EventStream, Shutdown};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::{
    DataPlaneConfig, Running,
    config::UpstreamConfig,
    fakes::{
        control_plane::FakeControlPlane,
        eventually,
        ledger::FakeLedger,
        server::{FakeServer, Mode, Speaks, result_text},
        world::{PERMIT_ALL, PERMIT_READS, claims, consent, entries, policy, token},
    },
    serve,
};

struct World {
    server: FakeServer,
    control: FakeControlPlane,
    ledger: Option<FakeLedger>,
    node: Node,
}

struct Node {
    running: Option<Running>,
    shutdown: Shutdown,
    url: String,
    dir: tempfile::TempDir,
    stream: EventStream,
}

impl Node {
    async fn start(control_plane: &str, stream: EventStream) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let config = DataPlaneConfig {
            data_dir: dir.path().to_owned(),
            node: "dp-1".into(),
            listen: ([127, 0, 0, 1], 0).into(),
            ops_listen: ([127, 0, 0, 1], 0).into(),
            control_plane: control_plane.into(),
            allowed_origins: vec!["https://app.example".into()],
            drain_ms: 3_000,
            upstream: UpstreamConfig { response_bytes_max: 1024 * 1024, ..UpstreamConfig::default() },
            ..DataPlaneConfig::default()
        };
        let running = serve(config, stream.clone(), shutdown.clone()).await.unwrap();
        let url = format!("http://{}", running.mcp_addr);
        Self { running: Some(running), shutdown, url, dir, stream }
    }

    async fn stop(&mut self) {
        self.shutdown.request();
        self.running.take().unwrap().stopped().await.unwrap();
    }
}

impl World {
    async fn start(speaks: Speaks, cedar: &str) -> Self {
        Self::with(speaks, |url| entries(url, cedar, true), true).await
    }

    async fn with(speaks: Speaks, entries: impl FnOnce(&str) -> Vec<Entry>, with_ledger: bool) -> Self {
        let server = FakeServer::start(speaks).await;
        let control = FakeControlPlane::start(entries(&server.url)).await;
        let stream = EventStream::in_process();
        let ledger = if with_ledger { Some(FakeLedger::start(&stream).await) } else { None };
        let node = Node::start(&control.url, stream).await;
        eventually("ready", || node.running.as_ref().unwrap().is_ready()).await;
        Self { server, control, ledger, node }
    }

    fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        Client::new()
            .post(format!("{}/mcp/finance", self.node.url))
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(body)
    }

    fn modern(&self, method: &str, name: Option<&str>, params: &str) -> RequestBuilder {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}"#;
        let comma = if params.is_empty() { "" } else { "," };
        let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"{method}","params":{{{params}{comma}{meta}}}}}"#);
        let request = self.post(body).header("mcp-protocol-version", "2026-07-28").header("mcp-method", method);
        let request = request.bearer_auth(token(&claims()));
        match name {
            Some(name) => request.header("mcp-name", name),
            None => request,
        }
    }

    fn call(&self, tool: &str) -> RequestBuilder {
        self.modern("tools/call", Some(tool), &format!(r#""name":"{tool}","arguments":{{"q":1.50}}"#))
    }

    /// The records of the request that answered so, once the outcome or denial is there.
    async fn records(&self, request_id: &str) -> Vec<Record> {
        let ledger = self.ledger.as_ref().unwrap();
        let last = |record: &Record| matches!(record.kind, Kind::CallOutcome | Kind::CallDenied);
        eventually("recorded", || ledger.of_request(request_id).iter().any(last)).await;
        ledger.of_request(request_id)
    }

    async fn last_outcome(&self) -> Vec<Record> {
        let ledger = self.ledger.as_ref().unwrap();
        eventually("an outcome", || !ledger.of_kind(Kind::CallOutcome).is_empty()).await;
        let outcome = ledger.of_kind(Kind::CallOutcome).pop().unwrap();
        self.records(outcome.request_id.as_deref().unwrap()).await
    }
}

async fn json_of(response: Response) -> (u16, Value) {
    (response.status().as_u16(), response.json().await.unwrap())
}

fn refusal(body: &Value) -> (i64, &str, &str) {
    let error = &body["error"];
    let data = &error["data"];
    (error["code"].as_i64().unwrap(), data["reason"].as_str().unwrap(), data["requestId"].as_str().unwrap())
}

#[tokio::test]
async fn before_a_configuration_nothing_is_served() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut node = Node::start(&format!("http://{closed}"), EventStream::in_process()).await;
    let get = |path: &str| Client::new().get(format!("{}{path}", node.url)).send();
    let posted = Client::new().post(format!("{}/mcp/finance", node.url)).body("{}").send().await.unwrap();
    assert_eq!(posted.status(), 503);
    assert_eq!(get("/.well-known/oauth-protected-resource").await.unwrap().status(), 503);
    assert!(!node.running.as_ref().unwrap().is_ready());
    node.stop().await;
}

#[tokio::test]
async fn a_permitted_call_returns_the_result_unchanged_between_its_two_records() {
    for speaks in [Speaks::Modern, Speaks::Legacy] {
        let world = World::start(speaks, PERMIT_ALL).await;
        for (tool, tier) in [("query_data", "retrieval"), ("create_charge", "transactional"), ("drop_ledger", "destructive")] {
            let answer = world.call(tool).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let text = answer.text().await.unwrap();
            let result = result_text(r#"{"q":1.50}"#);
            let rest = result.strip_prefix('{').unwrap();
            assert_eq!(text, format!(r#"{{"jsonrpc":"2.0","id":7,"result":{{"resultType":"complete",{rest}}}"#));
            let ledger = world.ledger.as_ref().unwrap();
            let outcome_of_tier = |record: &Record| record.tier.as_deref() == Some(tier);
            eventually("outcome", || ledger.of_kind(Kind::CallOutcome).iter().any(outcome_of_tier)).await;
            let outcome = ledger.of_kind(Kind::CallOutcome).into_iter().find(outcome_of_tier).unwrap();
            let records = ledger.of_request(outcome.request_id.as_deref().unwrap());
            let [intent, outcome] = records.as_slice() else { panic!("{records:?}") };
            assert_eq!((intent.kind, outcome.kind), (Kind::CallIntent, Kind::CallOutcome));
            assert_eq!(intent.decision.as_ref().unwrap().effect, Effect::Permit);
            assert_eq!(intent.decision.as_ref().unwrap().policies[0].name, "all");
            assert_eq!(outcome.outcome.as_ref().unwrap().status, Status::Ok);
            assert_eq!(outcome.outcome.as_ref().unwrap().cost.as_deref(), Some("0.02"));
            assert_eq!(intent.args.as_ref().unwrap().bytes, 10);
            assert_eq!(outcome.result.as_ref().unwrap().bytes, result.len() as u64);
            for record in [intent, outcome] {
                assert_eq!(record.user.as_deref(), Some("jane@example.com"));
                assert_eq!((record.agent.as_deref(), record.owner.as_deref()), (Some("coder"), Some("jane@example.com")));
                assert_eq!((record.server.as_deref(), record.tool.as_deref()), (Some("finance"), Some(tool)));
                assert_eq!((record.rev, record.consent.as_deref()), (Some(100), Some("c-1")));
            }
        }
    }
}

#[tokio::test]
async fn a_legacy_client_initialises_lists_and_calls() {
    let world = World::start(Speaks::Modern, PERMIT_READS).await;
    let bearer = token(&claims());
    let send = |body: Value, session: Option<String>| {
        let request = world.post(body.to_string()).bearer_auth(&bearer);
        match session {
            Some(session) => request.header("mcp-session-id", session).send(),
            None => request.send(),
        }
    };
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}});
    let opened = send(json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}), None).await.unwrap();
    let session = opened.headers()["mcp-session-id"].to_str().unwrap().to_owned();
    assert_eq!(opened.json::<Value>().await.unwrap()["result"]["protocolVersion"], "2025-11-25");
    let ready = send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}), Some(session.clone())).await;
    assert_eq!(ready.unwrap().status(), 202);
    let list = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"});
    let (_, list) = json_of(send(list, Some(session.clone())).await.unwrap()).await;
    assert_eq!(list["result"]["tools"].as_array().unwrap().len(), 1);
    let call = json!({"jsonrpc": "2.0", "id": "x", "method": "tools/call", "params": {"name": "query_data"}});
    let (status, answer) = json_of(send(call.clone(), Some(session)).await.unwrap()).await;
    assert_eq!((status, &answer["id"], answer["result"]["structuredContent"]["sent"].clone()), (200, &json!("x"), json!({})));
    assert_eq!(world.last_outcome().await[0].trace.as_ref().unwrap().client_name.as_deref(), Some("old"));
    assert_eq!(send(call, Some("v1.unknown".into())).await.unwrap().status(), 404);
}

#[tokio::test]
async fn what_is_refused_never_reaches_the_server_and_is_recorded_with_its_reason() {
    let world = World::start(Speaks::Modern, PERMIT_READS).await;
    for (tool, code, reason) in [("create_charge", 403, "policy_denied"), ("nothing_here", -32602, "tool_unknown")] {
        let (status, body) = json_of(world.call(tool).send().await.unwrap()).await;
        let (found, word, request_id) = refusal(&body);
        assert_eq!((status, found, word), (200, code, reason));
        let records = world.records(request_id).await;
        assert_eq!((records.len(), records[0].kind), (1, Kind::CallDenied));
        let decision = records[0].decision.as_ref().unwrap();
        assert_eq!((decision.effect, decision.reason.as_deref()), (Effect::Deny, Some(reason)));
        assert_eq!(records[0].user.as_deref(), Some("jane@example.com"));
    }
    assert_eq!(world.server.seen("tools/call").len(), 0);
}

#[tokio::test]
async fn the_list_shows_exactly_what_may_be_called() {
    let world = World::start(Speaks::Modern, PERMIT_READS).await;
    let (status, body) = json_of(world.modern("tools/list", None, "").send().await.unwrap()).await;
    let names: Vec<_> = body["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()).collect();
    assert_eq!((status, names), (200, vec![json!("query_data")]));
    assert_eq!(body["result"]["cacheScope"], "private");
    world.control.change(policy(PERMIT_ALL), true).await;
    eventually("applied", || world.control.acknowledged(101)).await;
    let (_, body) = json_of(world.modern("tools/list", None, "").send().await.unwrap()).await;
    assert_eq!(body["result"]["tools"].as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn who_is_not_authenticated_is_told_where_to_sign_in() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let challenge = |response: &Response| response.headers()["www-authenticate"].to_str().unwrap().to_owned();
    let missing = world.post("{}").send().await.unwrap();
    assert_eq!(missing.status(), 401);
    let expected = r#"resource_metadata="http://gateway.test/.well-known/oauth-protected-resource/mcp/finance", scope="mcp:tools""#;
    assert_eq!(challenge(&missing), format!("Bearer {expected}"));
    assert_eq!(missing.json::<Value>().await.unwrap()["error"]["data"]["reason"], "token_missing");
    let narrow = token(&bailiwick_token::Claims { scope: "openid".into(), ..claims() });
    let narrow = world.post("{}").bearer_auth(narrow).send().await.unwrap();
    assert_eq!(narrow.status(), 403);
    assert!(challenge(&narrow).contains(r#"error="insufficient_scope""#));
    let get = |path: &str| Client::new().get(format!("{}/.well-known/oauth-protected-resource{path}", world.node.url)).send();
    let (status, metadata) = json_of(get("/mcp/finance").await.unwrap()).await;
    assert_eq!((status, &metadata["resource"]), (200, &json!("http://gateway.test/mcp/finance")));
    assert_eq!(metadata["authorization_servers"], json!(["http://issuer.test"]));
    assert_eq!(json_of(get("").await.unwrap()).await.1["resource"], "http://gateway.test/mcp");
    assert_eq!(get("/mcp/none").await.unwrap().status(), 404);
    let stranger = world.post("{}").bearer_auth("a.b.c").send().await.unwrap();
    assert_eq!(stranger.status(), 401);
}

#[tokio::test]
async fn an_authentic_but_expired_token_is_refused_and_attributed() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let expired = bailiwick_token::Claims { exp: claims().iat + 1, ..claims() };
    let (status, body) = json_of(world.post("{}").bearer_auth(token(&expired)).send().await.unwrap()).await;
    let (_, reason, request_id) = refusal(&body);
    assert_eq!((status, reason), (401, "token_expired"));
    let records = world.records(request_id).await;
    assert_eq!((records[0].kind, records[0].user.as_deref()), (Kind::CallDenied, Some("jane@example.com")));
}

#[tokio::test]
async fn malformed_bodies_are_refused_and_those_meant_as_calls_are_recorded() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","name":"b"}}"#;
    let bodies: [(Vec<u8>, u16, &str); 5] = [
        (call.into(), 400, "request_malformed"),
        (format!("[{call}]").into_bytes(), 400, "request_malformed"),
        (b"\xff\xfe tools/call".to_vec(), 400, "request_malformed"),
        (br#"{"jsonrpc":"2.0","method":"tools/call""#.to_vec(), 400, "request_malformed"),
        (vec![b' '; 4 * 1024 * 1024 + 1], 413, "request_too_large"),
    ];
    for (body, expected, word) in bodies {
        let (status, body) = json_of(world.post(body).bearer_auth(token(&claims())).send().await.unwrap()).await;
        let (_, reason, request_id) = refusal(&body);
        assert_eq!((status, reason), (expected, word));
        let records = world.records(request_id).await;
        assert_eq!(records[0].decision.as_ref().unwrap().reason.as_deref(), Some(word));
    }
    let request = world.post(call).bearer_auth(token(&claims()));
    assert_eq!(request.header("content-type", "text/plain").send().await.unwrap().status(), 415);
}

#[tokio::test]
async fn strangers_pages_foreign_hosts_and_other_methods_are_turned_away() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    for (header, value, expected) in [
        ("origin", "https://evil.example", 403),
        ("origin", "https://app.example", 200),
        ("origin", "http://localhost:6274", 200),
        ("host", "rebound.evil.example", 403),
        ("host", "gateway.test", 200),
    ] {
        let answer = world.call("query_data").header(header, value).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{header}: {value}");
    }
    for method in ["GET", "DELETE", "PUT"] {
        let request = Client::new().request(method.parse().unwrap(), format!("{}/mcp/finance", world.node.url));
        assert_eq!(request.bearer_auth(token(&claims())).send().await.unwrap().status(), 405, "{method}");
    }
}

#[tokio::test]
async fn http_2_without_negotiation_is_served_too() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let request = world.call("query_data").build().unwrap();
    let client = Client::builder().http2_prior_knowledge().build().unwrap();
    let answer = client.execute(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
}

#[tokio::test]
async fn servers_that_misbehave_become_errors_with_a_reason_and_recorded_outcomes() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    for (mode, reason) in [
        (Mode::Malformed, "upstream_invalid"),
        (Mode::WrongId, "upstream_invalid"),
        (Mode::Hang, "upstream_timeout"),
        (Mode::Endless, "upstream_too_large"),
        (Mode::Status(502), "upstream_refused"),
    ] {
        world.server.set(mode);
        let (status, body) = json_of(world.call("query_data").send().await.unwrap()).await;
        let (_, word, request_id) = refusal(&body);
        assert_eq!((status, word), (200, reason), "{mode:?}");
        let outcome = world.records(request_id).await.pop().unwrap().outcome.unwrap();
        assert_eq!((outcome.status, outcome.error_code.as_deref()), (Status::Error, Some(reason)));
    }
    world.server.set(Mode::ToolError);
    let (_, body) = json_of(world.call("query_data").send().await.unwrap()).await;
    assert_eq!(body["result"]["isError"], true);
}

#[tokio::test]
async fn without_a_ledger_reading_goes_on_and_destruction_does_not() {
    let world = World::with(Speaks::Modern, |url| entries(url, PERMIT_ALL, true), false).await;
    assert!(json_of(world.call("query_data").send().await.unwrap()).await.1["result"].is_object());
    assert!(json_of(world.call("create_charge").send().await.unwrap()).await.1["result"].is_object());
    let before = Instant::now();
    let (_, body) = json_of(world.call("drop_ledger").send().await.unwrap()).await;
    assert_eq!(refusal(&body).1, "ledger_unreachable");
    assert!(before.elapsed() < Duration::from_secs(8));
    let called: Vec<_> = world.server.seen("tools/call").iter().map(|seen| seen.body["params"]["name"].clone()).collect();
    assert_eq!(called, ["query_data", "create_charge"]);
}

#[tokio::test]
async fn calls_go_on_while_the_control_plane_is_gone() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.control.vanish();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(json_of(world.call("query_data").send().await.unwrap()).await.1["result"].is_object());
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_recorded_outcome() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.server.set(Mode::Hang);
    let gone = world.call("create_charge").timeout(Duration::from_millis(200)).send().await;
    assert!(gone.unwrap_err().is_timeout());
    let records = world.last_outcome().await;
    let outcome = records[1].outcome.as_ref().unwrap();
    assert_eq!((outcome.status, outcome.error_code.as_deref()), (Status::Unknown, Some("cancelled")));
    assert!(outcome.latency_us.unwrap() < 1_000_000, "the node did not wait for the server");
}

#[tokio::test]
async fn a_revocation_is_in_force_even_when_its_delta_does_not_match() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let revision = world.control.change(consent(true), false).await;
    let refused = || async { json_of(world.call("query_data").send().await.unwrap()).await.1["error"].clone() };
    let mut error = refused().await;
    while error.is_null() {
        tokio::time::sleep(Duration::from_millis(10)).await;
        error = refused().await;
    }
    assert_eq!(error["data"]["reason"], "consent_revoked");
    eventually("a fresh snapshot was applied", || world.control.acknowledged(revision)).await;
    let hellos = world.control.shared.hellos.lock().unwrap().clone();
    assert_eq!((hellos[0].last_revision, hellos[1].last_revision), (0, 0), "after a mismatch everything is asked anew");
    assert!(world.control.shared.said.lock().unwrap().iter().any(|said| matches!(said, Up::Nack(_))));
}

#[tokio::test]
async fn policies_that_do_not_compile_are_refused_and_the_older_ones_stay() {
    let world = World::start(Speaks::Modern, PERMIT_READS).await;
    let revision = world.control.change(policy("permit (principal"), true).await;
    let nacked = |said: &Up| matches!(said, Up::Nack(nack) if nack.revision == revision && !nack.error.is_empty());
    eventually("nack", || world.control.shared.said.lock().unwrap().iter().any(nacked)).await;
    assert!(json_of(world.call("query_data").send().await.unwrap()).await.1["result"].is_object());
    let (_, body) = json_of(world.call("create_charge").send().await.unwrap()).await;
    assert_eq!(refusal(&body).1, "policy_denied");
}

#[tokio::test]
async fn servers_are_looked_at_when_asked_and_when_nothing_is_pinned() {
    let world = World::with(Speaks::Modern, |url| entries(url, PERMIT_ALL, false), true).await;
    let reported = || world.control.shared.reports.lock().unwrap().iter().filter(|report| report.tools.len() == 3).count();
    eventually("reports until something is pinned", || reported() >= 2).await;
    let server = |url: &str| Some(Server { name: "new".into(), url: url.into(), timeout_ms: 1000 });
    world.control.send(Frame::Discover(Discover { id: 1, server: server(&world.server.url) })).await;
    world.control.send(Frame::Discover(Discover { id: 2, server: server("http://127.0.0.1:1/mcp") })).await;
    let discovered = |wanted: u64, good: bool| {
        let said = world.control.shared.said.lock().unwrap();
        said.iter().any(|up| {
            matches!(up, Up::Discovered(found) if found.id == wanted && found.error.is_empty() == good && found.tools.is_empty() != good)
        })
    };
    eventually("discovered", || discovered(1, true) && discovered(2, false)).await;
}

#[tokio::test]
async fn shutdown_lets_a_call_finish_and_closes_the_chain() {
    let mut world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.server.set(Mode::Slow(Duration::from_millis(500)));
    let request = world.call("create_charge");
    let stop = world.node.shutdown.clone();
    let server = &world.server;
    let (answer, ()) = tokio::join!(request.send(), async {
        eventually("forwarded", || !server.seen("tools/call").is_empty()).await;
        stop.request();
    });
    assert!(json_of(answer.unwrap()).await.1["result"].is_object());
    world.node.stop().await;
    let ledger = world.ledger.as_ref().unwrap();
    eventually("closed", || !ledger.of_kind(Kind::NodeEpochClose).is_empty()).await;
    let (outcome, close) = (ledger.of_kind(Kind::CallOutcome).remove(0), ledger.of_kind(Kind::NodeEpochClose).remove(0));
    assert!(outcome.seq < close.seq);
    assert_eq!(close.epoch, 11);
}

#[tokio::test]
async fn a_call_that_outlasts_the_shutdown_is_recorded_as_unknown() {
    let world = World::with(
        Speaks::Modern,
        |url| {
            let patient = Server { name: "finance".into(), url: url.into(), timeout_ms: 60_000 };
            let patient = bailiwick_proto::v1::resource::Resource::Server(patient);
            let mut entries = entries(url, PERMIT_ALL, true);
            entries.retain(|entry| entry.key != "server/finance");
            entries.push(crate::fakes::world::entry("server/finance", patient));
            entries
        },
        true,
    )
    .await;
    world.server.set(Mode::Hang);
    let World { server, ledger, mut node, control: _control } = world;
    let ledger = ledger.unwrap();
    let url = format!("{}/mcp/finance", node.url);
    let world = (&server, &ledger);
    let body = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"create_charge","_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let request = Client::new()
        .post(url)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "create_charge")
        .bearer_auth(token(&claims()))
        .body(body);
    let (_answer, ()) = tokio::join!(request.send(), async {
        eventually("forwarded", || !world.0.seen("tools/call").is_empty()).await;
        node.stop().await;
    });
    let outcome = world.1.of_kind(Kind::CallOutcome).remove(0).outcome.unwrap();
    assert_eq!((outcome.status, outcome.error_code.as_deref()), (Status::Unknown, Some("cancelled")));
}

#[tokio::test]
async fn each_run_has_a_key_and_an_epoch_of_its_own() {
    let mut world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.call("query_data").send().await.unwrap();
    world.node.stop().await;
    let config = DataPlaneConfig {
        data_dir: world.node.dir.path().to_owned(),
        node: "dp-1".into(),
        listen: ([127, 0, 0, 1], 0).into(),
        ops_listen: ([127, 0, 0, 1], 0).into(),
        control_plane: world.control.url.clone(),
        ..DataPlaneConfig::default()
    };
    let shutdown = Shutdown::new();
    let again = serve(config, world.node.stream.clone(), shutdown.clone()).await.unwrap();
    eventually("ready", || again.is_ready()).await;
    shutdown.request();
    again.stopped().await.unwrap();
    let registered = world.control.shared.registered.lock().unwrap().clone();
    assert_eq!(registered.len(), 2);
    assert_ne!(registered[0].public_key, registered[1].public_key);
    let ledger = world.ledger.as_ref().unwrap();
    eventually("both runs closed", || ledger.of_kind(Kind::NodeEpochClose).len() == 2).await;
    let epochs: Vec<_> = ledger.of_kind(Kind::NodeEpochOpen).iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, [11, 12]);
}
