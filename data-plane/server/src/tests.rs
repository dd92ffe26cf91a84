//! A whole node on loopback, between a control plane, a ledger and a server played by `fakes`.

mod allocations;
mod bound;
mod calls;
mod edge;
mod http3;
mod key_rotation;
mod lane;
mod lifecycle;
mod listener;
mod listening;
mod lists;
mod narrowed;
mod rollouts;
mod unproven;

use std::time::{Duration, Instant};

use bailiwick_ledger_core::record::{Effect, Kind, Record, Status};
use bailiwick_proto::v1::{Discover, Entry, Server, config_frame::Frame, node_message::Message as Up};
use bailiwick_runtime::{EventStream, MasterKeyConfig, Shutdown};
use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::{
    DataPlaneConfig, Running,
    config::UpstreamConfig,
    fakes::{
        self,
        control_plane::FakeControlPlane,
        eventually,
        ledger::FakeLedger,
        server::{FakeServer, Mode, Speaks, result_text},
        world::{PERMIT_ALL, PERMIT_READS, claims, consent, entries, narrowed, policy, token},
    },
    serve,
};

/// Few, so that a test can fill them.
const CALLS_MAX: usize = 8;

pub(crate) fn master_key() -> MasterKeyConfig {
    MasterKeyConfig { key: Some("0123".repeat(16)), ..MasterKeyConfig::default() }
}

pub(crate) fn master_keys() -> bailiwick_runtime::MasterKeys {
    bailiwick_runtime::MasterKeys::load(&master_key()).unwrap()
}

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
        Self::start_as(control_plane, stream, |config| config).await
    }

    async fn start_as(
        control_plane: &str,
        stream: EventStream,
        configured: impl FnOnce(DataPlaneConfig) -> DataPlaneConfig,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let config = DataPlaneConfig {
            data_dir: dir.path().to_owned(),
            node: "dp-1".into(),
            listen: ([127, 0, 0, 1], 0).into(),
            ops_listen: ([127, 0, 0, 1], 0).into(),
            control_plane: control_plane.into(),
            master_key: master_key(),
            allowed_origins: vec!["https://app.example".into()],
            drain_delay_ms: 0,
            drain_ms: 3_000,
            calls_max: CALLS_MAX,
            // Servers that hang are asked again and again here.
            upstream: UpstreamConfig { response_bytes_max: 1024 * 1024, breaker_faults: 0, ..crate::fakes::loopback() },
            ..DataPlaneConfig::default()
        };
        let running = serve(configured(config), stream.clone(), shutdown.clone()).await.unwrap();
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
