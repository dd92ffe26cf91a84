//! Attacks on the data plane from both sides: hostile clients, hostile servers, other people's tokens.
//!
//! Whatever they do, nothing runs that was not permitted, nothing crosses from one caller to another, the gateway
//! answers with a stable refusal, and the next good call works.

#![expect(
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "a test that panics fails, as it should; tests have no supervisor"
)]

mod chatter;
mod envelopes;
mod listeners;
mod neighbours;
mod recorded;
mod requests;
mod servers;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, McpClient, ScriptedServer, Shape, eventually,
    mcp::{MODERN, modern_meta},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, timeout},
};

const JANE: &str = "jane@example.com";
/// Longer than any answer to an attack takes; a hang fails the test instead of holding it.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

struct World {
    deployment: Deployment,
    server: ScriptedServer,
    client: McpClient,
}

impl World {
    async fn start(tools: Vec<Value>) -> Result<Self> {
        Self::start_with(tools, "plain", &[]).await
    }

    async fn start_with(tools: Vec<Value>, naming: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let deployment = Deployment::start_with(Shape::Embedded, environment).await?;
        let server = ScriptedServer::start(tools).await?;
        deployment.apply(&server.manifests("shop", naming))?;
        deployment.apply(&people(&[JANE]))?;
        let client = client(&deployment, JANE).await?;
        Ok(Self { deployment, server, client })
    }

    async fn read(&self) -> Result<Value> {
        let answer = self.client.call("read", json!({"n": 1})).await?;
        ensure!(answer.body.get("result").is_some(), "a good call fails: {}", answer.text);
        Ok(answer.body["result"].clone())
    }

    /// `host:port` and path of the virtual server.
    fn place(&self) -> Result<(&str, String)> {
        let (authority, path) =
            self.client.url.strip_prefix("http://").and_then(|url| url.split_once('/')).context("url")?;
        Ok((authority, format!("/{path}")))
    }

    /// Sends bytes on a connection of its own and reads until it ends.
    async fn send(&self, bytes: &[u8]) -> Result<String> {
        let mut connection = TcpStream::connect(self.place()?.0).await?;
        // A server that refuses early may close before everything is written.
        drop(connection.write_all(bytes).await);
        let mut answer = Vec::new();
        drop(timeout(ANSWER_WAIT_MAX, connection.read_to_end(&mut answer)).await.context("no end of the answer")?);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// The head of a modern call of `read`, without its end and without a length.
    fn head(&self) -> Result<String> {
        let (authority, path) = self.place()?;
        Ok(format!(
            "POST {path} HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             accept: application/json, text/event-stream\r\nmcp-protocol-version: {MODERN}\r\nmcp-method: tools/call\r\n\
             mcp-name: read\r\n",
            self.client.token
        ))
    }
}

fn people(names: &[&str]) -> String {
    let one = |name: &&str| {
        let agent = agent(name);
        format!(
            "---\napiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: {name}}}\nspec: {{groups: [staff]}}\n\
             ---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: {agent}}}\nspec: {{owner: {name}, project: p, ceiling: destructive}}\n"
        )
    };
    names.iter().map(one).collect()
}

fn agent(user: &str) -> String {
    format!("agent-of-{}", user.split('@').next().unwrap_or_default())
}

async fn client(deployment: &Deployment, user: &str) -> Result<McpClient> {
    client_of(deployment, (user, &agent(user)), "shop").await
}

/// Somebody through an agent at a virtual server.
async fn client_of(deployment: &Deployment, (user, agent): (&str, &str), virtual_server: &str) -> Result<McpClient> {
    let issued = deployment.token_for(user, agent, virtual_server, "destructive", "10m")?;
    let token = issued["access_token"].as_str().context("token")?;
    let client = McpClient::new(&deployment.mcp[0], virtual_server, token);
    eventually("the token works", async || {
        client.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
    })
    .await?;
    Ok(client)
}

fn call_body(arguments: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
           "params": {"name": "read", "arguments": arguments, "_meta": modern_meta()}})
    .to_string()
}

const CALL_HEADERS: [(&str, &str); 3] =
    [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "read")];
