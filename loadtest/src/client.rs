//! Calls one tool over and over, as many at a time as there are connections.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

const PROTOCOL_VERSION: &str = "2026-07-28";
/// Longer than any server's own timeout.
const CALL_WAIT_MAX: Duration = Duration::from_secs(60);

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) tool: String,
    pub(crate) arguments: Value,
    pub(crate) calls: u32,
    pub(crate) connections: u32,
}

/// Where to send it.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: &'static str,
    url: String,
    token: String,
    http: reqwest::Client,
}

/// One round: how long it took, and each call's latency.
#[derive(Clone, Debug)]
pub(crate) struct Round {
    pub(crate) took: Duration,
    pub(crate) latencies: Vec<Duration>,
}

impl Target {
    pub(crate) fn new(name: &'static str, url: String, token: String) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(CALL_WAIT_MAX).build()?;
        Ok(Self { name, url, token, http })
    }

    /// One call, which must succeed.
    pub(crate) async fn call(&self, load: &Load) -> Result<()> {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": PROTOCOL_VERSION,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "bailiwick-loadtest", "version": env!("CARGO_PKG_VERSION")},
        });
        let params = json!({"name": load.tool, "arguments": load.arguments, "_meta": meta});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
        let mut request = self
            .http
            .post(&self.url)
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", PROTOCOL_VERSION)
            .header("mcp-method", "tools/call")
            .header("mcp-name", &load.tool)
            .json(&body);
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        let response = request.send().await.context("no answer")?;
        let status = response.status();
        let text = response.text().await.context("no answer")?;
        ensure!(status.is_success() && text.contains("\"result\""), "{status}: {text}");
        Ok(())
    }
}

/// One round of calls, none of which may fail.
pub(crate) async fn run(target: &Target, load: &Load) -> Result<Round> {
    let sent = Arc::new(AtomicU32::new(0));
    let began = Instant::now();
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..load.connections {
        let (target, load, sent) = (target.clone(), load.clone(), Arc::clone(&sent));
        connections.spawn(async move {
            let mut latencies = Vec::new();
            while sent.fetch_add(1, Ordering::Relaxed) < load.calls {
                let called = Instant::now();
                target.call(&load).await?;
                latencies.push(called.elapsed());
            }
            Ok::<_, anyhow::Error>(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(finished) = connections.join_next().await {
        latencies.extend(finished??);
    }
    Ok(Round { took: began.elapsed(), latencies })
}
