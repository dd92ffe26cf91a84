//! What the first call with a fresh token waits: it is good from a revision on that its data plane may not have yet.
//!
//! Compared with the first call with a token that has been lying for a while: both have their signature verified, and
//! only the fresh one may have to wait for its revision (`min_revision`). Without load, and while others get tokens.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    grants::{Kind, step},
    world::{Node, World},
};
use crate::control_plane::figures::Latencies;

/// Tokens of each sort.
const TOKENS: usize = 200;
/// Callers that get tokens meanwhile.
const CALLERS: usize = 16;
/// Longest time for that; it ends sooner where the calls do.
const LOAD: Duration = Duration::from_secs(60);
/// Longest wait for a data plane to know the virtual server and its issuer's keys.
const SERVED_WAIT_MAX: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const PROTOCOL: &str = "2026-07-28";

/// First calls with tokens of one node.
#[derive(Clone, Debug)]
pub(super) struct FirstCalls {
    pub(super) node: String,
    /// Who else got tokens meanwhile.
    pub(super) others: usize,
    pub(super) fresh: Latencies,
    pub(super) settled: Latencies,
}

/// With tokens of this node, without and with others that get some.
pub(super) async fn measure(world: &Arc<World>, node: &Node) -> Result<[FirstCalls; 2]> {
    served(world, node).await?;
    let alone = first_calls(world, node, 0).await?;
    let beside = tokio::select! {
        beside = first_calls(world, node, CALLERS) => beside?,
        loaded = step(world, node, Kind::Credentials, CALLERS, LOAD) => {
            loaded?;
            anyhow::bail!("the calls took longer than {LOAD:?}")
        }
    };
    Ok([alone, beside])
}

async fn first_calls(world: &World, node: &Node, others: usize) -> Result<FirstCalls> {
    let (mut fresh, mut settled, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TOKENS {
        let token = world.credentials(node).await?;
        fresh.push(list(world, &token).await?);
    }
    for _ in 0..TOKENS {
        kept.push(world.credentials(node).await?);
    }
    // The last of them is as fresh as any above.
    list(world, kept.last().context("no token")?).await?;
    kept.pop();
    for token in kept {
        settled.push(list(world, &token).await?);
    }
    let [fresh, settled] = [fresh, settled].map(Latencies::new);
    Ok(FirstCalls { node: node.name.clone(), others, fresh, settled })
}

async fn served(world: &World, node: &Node) -> Result<()> {
    let began = Instant::now();
    loop {
        match list(world, &world.credentials(node).await?).await {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > SERVED_WAIT_MAX => return Err(error),
            Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

/// Lists the tools there; how long the answer took.
async fn list(world: &World, token: &str) -> Result<Duration> {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": PROTOCOL,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "bailiwick-loadtest", "version": "1"},
    });
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": meta}});
    let request = world.http.post(&world.resource).bearer_auth(token).body(body.to_string());
    let request = request.header("content-type", "application/json").header("mcp-protocol-version", PROTOCOL);
    let request = request.header("accept", "application/json, text/event-stream").header("mcp-method", "tools/list");
    let began = Instant::now();
    let answer = request.send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    let took = began.elapsed();
    ensure!(status.is_success() && text.contains("\"result\""), "tools/list: {status} {text}");
    Ok(took)
}
