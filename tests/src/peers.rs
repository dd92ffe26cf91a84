//! Other people's software: official SDK clients, the Inspector, servers on official SDKs.
//!
//! `tests/peers/install` puts pinned versions into a cache outside the repository and prints where they are; it is
//! asked once per test process. Each driver prints one JSON line, which is what the functions here give back.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::OnceLock,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    deployment::{binary, kill, repository},
    upstream::free_port,
    wait::eventually,
};

/// Where the installed peers are: `PEER_PYTHON`, `PEER_NODE`, `PEER_INSPECTOR`, `PEER_EVERYTHING`, `PEER_CONFORMANCE`.
fn places() -> Result<&'static BTreeMap<String, String>> {
    static PLACES: OnceLock<Result<BTreeMap<String, String>, String>> = OnceLock::new();
    let found = PLACES.get_or_init(|| install().map_err(|error| format!("{error:#}")));
    found.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn install() -> Result<BTreeMap<String, String>> {
    let shell = "set -eu; eval \"$(tests/peers/install)\"; env | grep ^PEER_";
    let output = Command::new("bash").args(["-c", shell]).current_dir(repository()).stdin(Stdio::null()).output()?;
    ensure!(output.status.success(), "tests/peers/install: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout)?;
    Ok(text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// Where something installed is, by its variable.
///
/// # Errors
/// When it is not installed.
pub fn place(name: &str) -> Result<&'static str> {
    places()?.get(name).map(String::as_str).with_context(|| format!("{name} is not installed"))
}

/// A client that somebody else wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SdkClient {
    /// PyPI `mcp`.
    Python,
    /// npm `@modelcontextprotocol/client`.
    TypeScript,
}

impl SdkClient {
    /// Runs one session; its requests go to the URLs in turn. Gives the driver's JSON line, `ok` or not.
    ///
    /// # Errors
    /// When the driver cannot be run or says nothing.
    pub async fn run(self, urls: &[String], token: &str, era: &str, operation: &[&str]) -> Result<Value> {
        let mut command = match self {
            Self::Python => {
                let mut command = tokio::process::Command::new(place("PEER_PYTHON")?);
                command.arg("tests/peers/python_client.py");
                command
            }
            Self::TypeScript => {
                let mut command = tokio::process::Command::new(place("PEER_NODE")?);
                command.arg("tests/peers/ts_client.mjs");
                command
            }
        };
        for url in urls {
            command.args(["--url", url]);
        }
        if !token.is_empty() {
            command.args(["--token", token]);
        }
        command.args(["--era", era]).args(operation).current_dir(repository()).stdin(Stdio::null());
        last_json(&command.output().await?)
    }
}

/// Runs the Inspector's command line against one URL.
///
/// # Errors
/// When it cannot be run or says nothing.
pub async fn inspector(url: &str, token: &str, era: &str, arguments: &[&str]) -> Result<Value> {
    let header = format!("Authorization: Bearer {token}");
    let mut command = tokio::process::Command::new(place("PEER_NODE")?);
    command.arg(place("PEER_INSPECTOR")?).args(["--cli", url, "--transport", "http", "--protocol-era", era]);
    command.args(["--format", "json", "--stored-auth-only", "--header", &header]).args(arguments);
    // It keeps state in the home folder; tests give it one of their own.
    let home = tempfile::tempdir()?;
    last_json(&command.env("HOME", home.path()).stdin(Stdio::null()).output().await?)
}

fn last_json(output: &std::process::Output) -> Result<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    if let Ok(whole) = serde_json::from_str(&text) {
        return Ok(whole);
    }
    let line = text.lines().rev().find_map(|line| serde_json::from_str(line).ok());
    line.with_context(|| format!("no JSON: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

/// The eras that a server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eras {
    Both,
    Modern,
    Legacy,
}

/// A server that somebody else wrote; stopped when dropped.
#[derive(Debug)]
pub struct PeerServer {
    child: Child,
    /// Its MCP endpoint.
    pub url: String,
}

impl PeerServer {
    /// npm `@modelcontextprotocol/server-everything`: speaks only the legacy era.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn everything() -> Result<Self> {
        let port = free_port()?.to_string();
        let mut command = Command::new(place("PEER_NODE")?);
        command.arg(place("PEER_EVERYTHING")?).arg("streamableHttp").env("PORT", &port);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let server = Self { child, url: format!("http://127.0.0.1:{port}/mcp") };
        eventually("server-everything", async || reqwest::get(&server.url).await.ok()).await?;
        Ok(server)
    }

    /// The same over HTTP+SSE; its endpoint is that of the stream.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn everything_over_sse() -> Result<Self> {
        let port = free_port()?.to_string();
        let mut command = Command::new(place("PEER_NODE")?);
        command.arg(place("PEER_EVERYTHING")?).arg("sse").env("PORT", &port);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let server = Self { child, url: format!("http://127.0.0.1:{port}/sse") };
        let listens = format!("http://127.0.0.1:{port}/");
        eventually("server-everything over SSE", async || reqwest::get(&listens).await.ok()).await?;
        Ok(server)
    }

    /// A server on the official Python SDK over HTTP+SSE.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn python_over_sse() -> Result<Self> {
        let port = free_port()?.to_string();
        let mut command = Command::new(place("PEER_PYTHON")?);
        command.args(["tests/peers/stdio_sdk_server.py", "--sse", &port]).current_dir(repository());
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let server = Self { child, url: format!("http://127.0.0.1:{port}/sse") };
        let listens = format!("http://127.0.0.1:{port}/");
        eventually("the Python server over SSE", async || reqwest::get(&listens).await.ok()).await?;
        Ok(server)
    }

    /// A server of both eras on npm `@modelcontextprotocol/server`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn typescript() -> Result<Self> {
        Self::script("tests/peers/ts_server.mjs", &[])
    }

    /// The server that the conformance suite is run against, with one of its eras left out or none.
    ///
    /// # Errors
    /// When it does not start.
    pub fn conformance(eras: Eras) -> Result<Self> {
        let eras = match eras {
            Eras::Both => "both",
            Eras::Modern => "modern",
            Eras::Legacy => "legacy",
        };
        Self::script("tests/peers/conformance_server.mjs", &["--eras", eras])
    }

    /// A server with tasks on crate `rmcp`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn tasks() -> Result<Self> {
        Self::announced("tasks-server", &mut Command::new(binary("tasks-server")))
    }

    fn script(script: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(place("PEER_NODE")?);
        command.arg(script).args(arguments).current_dir(repository());
        Self::announced(script, &mut command)
    }

    /// A server that says first where it listens.
    fn announced(what: &str, command: &mut Command) -> Result<Self> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let Some(url) = line.split(['"', ' ', '\n']).find(|word| word.starts_with("http://")) else {
            kill(child.id(), "KILL");
            bail!("{what} said: {line}");
        };
        Ok(Self { child, url: url.to_owned() })
    }
}

impl Drop for PeerServer {
    fn drop(&mut self) {
        kill(self.child.id(), "KILL");
        drop(self.child.wait());
    }
}
