//! Upstream MCP servers for tests: the sample server, started on a free port, that counts the calls it ran.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    net::TcpListener,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    deployment::{binary, kill},
    wait::eventually,
};

/// A running sample server; stopped when dropped.
#[derive(Debug)]
pub struct SampleServer {
    child: Child,
    base: String,
}

impl SampleServer {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start() -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let child = Command::new(binary("bailiwick-sample-server"))
            .args(["--listen", &address])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("start bailiwick-sample-server")?;
        let server = Self { child, base: format!("http://{address}") };
        eventually("the sample server", async || reqwest::get(format!("{}/calls", server.base)).await.ok()).await?;
        Ok(server)
    }

    /// Its MCP endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/mcp", self.base)
    }

    /// How often it ran a tool.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn calls(&self, tool: &str) -> Result<u64> {
        let counts: Value = reqwest::get(format!("{}/calls", self.base)).await?.json().await?;
        Ok(counts.get(tool).and_then(Value::as_u64).unwrap_or(0))
    }

    /// How many prompts and resources it was asked for.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn reads(&self) -> Result<(u64, u64)> {
        let counts: Value = reqwest::get(format!("{}/reads", self.base)).await?.json().await?;
        let count = |kind| counts.get(kind).and_then(Value::as_u64).unwrap_or(0);
        Ok((count("prompts"), count("resources")))
    }

    /// The manifests, pointed at this server.
    #[must_use]
    pub fn manifests(&self) -> String {
        include_str!("../../deploy/quickstart.yaml").replace("http://127.0.0.1:9801/mcp", &self.url())
    }
}

impl Drop for SampleServer {
    fn drop(&mut self) {
        kill(self.child.id(), "TERM");
        drop(self.child.wait());
    }
}

/// A port that was free a moment ago, below those that Linux gives to outgoing connections.
///
/// # Errors
/// When there is none.
pub fn free_port() -> Result<u16> {
    for _ in 0..1_000 {
        // The hasher's keys are random in every process and differ with every use.
        let random = RandomState::new().build_hasher().finish();
        let port = u16::try_from(4_000 + random % 4_000)?;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}
