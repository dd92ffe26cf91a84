//! Shared Signals, end to end: what a transmitter says of somebody ends what they have begun, at every data plane.
//!
//! The transmitter is the tests' own; it signs with another JOSE library. Pushed signals are in `push`, fetched ones
//! in `poll`, streams that are set up from here in `streams`, those that nobody honest sends in `attacks`.
//! Specifications: OpenID SSF 1.0, CAEP 1.0, RFC 8935, RFC 8936.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod attacks;
mod poll;
mod push;
mod streams;
mod transmitter;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, McpClient, ScriptedServer, Shape,
    deployment::as_url,
    eventually,
    manifests::{person, policy},
    scripted::tool,
};
use serde_json::{Value, json};

use self::transmitter::{CAEP, Transmitter};

const JANE: &str = "jane@example.com";
const AGENT: &str = "assistant";

/// Jane, of the group `buyers`, which alone may use the shop; her agent; and a transmitter that speaks for her.
struct World {
    deployment: Deployment,
    _server: ScriptedServer,
    transmitter: Transmitter,
}

impl World {
    async fn start(shape: Shape, push: bool, poll: bool) -> Result<Self> {
        let deployment = Deployment::start(shape).await?;
        let server = ScriptedServer::start(vec![tool("charge", "transactional"), tool("read", "retrieval")]).await?;
        let buyers = policy("shop", "permit (principal in Group::\"buyers\", action, resource in Server::\"shop\");");
        deployment.apply(&(server.manifests("shop", "plain") + &person(JANE, "buyers", AGENT)))?;
        deployment.apply(&buyers)?;
        let transmitter = Transmitter::start().await?;
        if poll {
            Transmitter::seal(&deployment)?;
        }
        deployment.apply(&transmitter.manifest(push, poll, &json!({})))?;
        Ok(Self { deployment, _server: server, transmitter })
    }

    /// Every control plane, where it listens for HTTP.
    async fn nodes(&self) -> Result<Vec<String>> {
        let nodes = self.deployment.role("control-plane").into_iter();
        let listens = nodes.filter_map(|node| Some(as_url(node.listen.get("http")?.as_str()?)));
        let nodes: Vec<_> = listens.collect();
        if !nodes.is_empty() {
            return Ok(nodes);
        }
        let base = self.deployment.mcp[0].strip_suffix("/mcp").context("an MCP URL")?;
        let url = format!("{base}/.well-known/oauth-protected-resource/mcp/shop");
        let metadata = Answer::to(reqwest::Client::builder().no_proxy().build()?.get(url)).await?.body;
        Ok(vec![metadata["authorization_servers"][0].as_str().context("issuer")?.to_owned()])
    }

    async fn node(&self) -> Result<String> {
        self.nodes().await?.into_iter().next().context("no node")
    }

    /// Clients of every data plane that have a new token of Jane's agent, which is good there.
    async fn clients(&self) -> Result<Vec<McpClient>> {
        let issued = self.deployment.token_for(JANE, AGENT, "shop", "transactional", "10m")?;
        let token = issued["access_token"].as_str().with_context(|| issued.to_string())?;
        let clients: Vec<_> = self.deployment.mcp.iter().map(|mcp| McpClient::new(mcp, "shop", token)).collect();
        for client in &clients {
            eventually("the token works", async || is_permitted(client).await.ok()?.then_some(())).await?;
        }
        Ok(clients)
    }

    /// The `control` parts of all events of a type, once there are so many.
    async fn events(&self, kind: &str, count: usize) -> Result<Vec<Value>> {
        let mut seen = 0;
        let found = eventually("the events are in the ledger", async || {
            let records = self.deployment.audit(&["--kind", "control.event", "--limit", "1000"]).ok()?;
            let controls = records.into_iter().map(|record| record["control"].clone());
            let found: Vec<_> = controls.filter(|control| control["type"] == kind).collect();
            seen = found.len();
            (found.len() >= count).then_some(found)
        });
        found.await.with_context(|| format!("{count} of {kind}, not {seen}\n{}", self.deployment.log()))
    }
}

async fn is_permitted(client: &McpClient) -> Result<bool> {
    Ok(client.call("charge", json!({})).await?.body.get("result").is_some())
}

/// Every client's call is refused, and why the first one's is.
async fn are_refused(clients: &[McpClient]) -> Result<String> {
    let mut why = String::new();
    for client in clients {
        let answer = eventually("the call is refused", async || {
            let answer = client.call("charge", json!({})).await.ok()?;
            answer.body.get("result").is_none().then_some(answer)
        })
        .await?;
        if why.is_empty() {
            why = format!("{} {}", answer.reason(), answer.text);
        }
    }
    Ok(why)
}

async fn are_permitted(clients: &[McpClient]) -> Result<()> {
    for client in clients {
        let answer = client.call("charge", json!({})).await?;
        ensure!(answer.body.get("result").is_some(), "{} {}", answer.status, answer.text);
    }
    Ok(())
}

fn session_revoked() -> String {
    format!("{CAEP}/session-revoked")
}
