//! Bound tokens with real processes: two data planes that hear of each other through NATS, tokens of the real control
//! plane, thieves of all kinds, the published vectors and the reference clients.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod certificates;
mod clients;
mod dpop;
mod life;
mod required;
mod thieves;
mod vectors;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use aws_lc_rs::{digest, rand};
use bailiwick_tests::{
    Answer, Deployment, McpClient, ScriptedServer, Shape,
    manifests::person,
    mcp::{MODERN, modern_meta},
    scripted::tool,
};
use bailiwick_token::{
    TokenHash,
    binding::BindingKey,
    proof::{PROOF_HEADER, Proven, prove},
};
use serde_json::{Value, json};

const JANE: &str = "jane@example.com";
const AGENT: &str = "coding-assistant";
const TOOLS: [(&str, &str); 3] = [("charge", "transactional"), ("erase", "destructive"), ("read", "retrieval")];
/// The path of the resource's public URL, at whichever node it is asked for.
const PATH: &str = "/mcp/shop";

struct World {
    deployment: Deployment,
    server: ScriptedServer,
}

impl World {
    async fn start() -> Result<Self> {
        let deployment = Deployment::start(Shape::Processes).await?;
        let server = ScriptedServer::start(TOOLS.map(|(name, tier)| tool(name, tier)).to_vec()).await?;
        deployment.apply(&(server.manifests("shop", "plain") + &person(JANE, "buyers", AGENT)))?;
        let world = Self { deployment, server };
        // Once a token is good at both nodes, so is the next one a moment later.
        for at in 0..world.deployment.mcp.len() {
            world.bearer(at)?.until_listed(&TOOLS.map(|(name, _)| name)).await?;
        }
        Ok(world)
    }

    /// The tools that the server was called for.
    fn called(&self) -> Vec<String> {
        let name = |body: &str| Some(serde_json::from_str::<Value>(body).ok()?["params"]["name"].as_str()?.to_owned());
        self.server.seen().iter().filter_map(|call| name(&call.body)).collect()
    }

    /// A client whose token is not bound.
    fn bearer(&self, at: usize) -> Result<McpClient> {
        Ok(McpClient::new(&self.deployment.mcp[at], "shop", &self.deployment.token("shop", "destructive")?))
    }

    /// A bound token and its key, good at both nodes.
    fn holder(&self) -> Result<Holder> {
        let arguments = ["token", "issue", "--user", JANE, "--agent", AGENT, "--virtual-server", "shop"];
        let more = ["--level", "destructive", "--bind", "-o", "json"];
        let issued: Value = serde_json::from_str(&self.deployment.cli_ok(&[&arguments[..], &more[..]].concat())?)?;
        let text = |name: &str| issued[name].as_str().context("not in the answer").map(str::to_owned);
        let key = BindingKey::from_base64url(&text("binding_key")?).context("no key")?;
        Ok(Holder { token: text("access_token")?, key, mcp: self.deployment.mcp.clone() })
    }
}

/// Who has a token, and a key that it may be bound to.
#[derive(Clone)]
struct Holder {
    token: String,
    key: BindingKey,
    mcp: Vec<String>,
}

/// What a proof says.
#[derive(Clone, Copy)]
struct Says<'a> {
    method: &'a str,
    path: &'a str,
    body: &'a str,
    unix_ms: u64,
}

impl<'a> Says<'a> {
    fn post(body: &'a str) -> Self {
        Self { method: "POST", path: PATH, body, unix_ms: unix_ms() }
    }
}

impl Holder {
    fn proof(&self, says: Says<'_>) -> Result<String> {
        let mut nonce = [0; 12];
        rand::fill(&mut nonce)?;
        let body: [u8; 32] = digest::digest(&digest::SHA256, says.body.as_bytes()).as_ref().try_into()?;
        let token = TokenHash::of(&self.token);
        let proven = Proven { token: &token, method: says.method, path: says.path, body: &body };
        Ok(prove(&self.key, &proven, says.unix_ms, nonce).context("no proof")?.to_string())
    }

    /// Calls a tool at a node with a proof that was made before.
    async fn send(&self, at: usize, tool: &str, proof: Option<&str>) -> Result<Answer> {
        let client = McpClient::new(&self.mcp[at], "shop", &self.token);
        let body = call_of(tool);
        let mut headers = vec![("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", tool)];
        headers.extend(proof.map(|proof| (PROOF_HEADER, proof)));
        client.raw(body, &headers).await
    }

    /// Calls a tool as it should be.
    async fn call(&self, at: usize, tool: &str) -> Result<Answer> {
        self.send(at, tool, Some(&self.proof(Says::post(&call_of(tool)))?)).await
    }
}

fn call_of(tool: &str) -> String {
    let params = json!({"name": tool, "arguments": {}, "_meta": modern_meta()});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
}

fn is_served(answer: &Answer) -> bool {
    answer.status == 200 && answer.body["result"].is_object()
}

fn refusal(answer: &Answer) -> (u16, &str) {
    (answer.status.as_u16(), answer.reason())
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
