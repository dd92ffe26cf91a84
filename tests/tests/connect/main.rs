//! `bailiwick connect` and `bailiwick client`, end to end: real processes, other people's clients, a real browser.
//!
//! A [`Desk`] is a person's home folder with a browser that only notes where it is sent; the test is the person. Over
//! `bailiwick dev` in most claims (`life`, `clients`), over a server that plays tricks in `servers`, `dpop`, `scope`;
//! what nobody honest does is in `attacks` and `local`, configuration files are in `setup`; the official suite is run
//! in `suite`.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod attacks;
mod clients;
mod dpop;
mod fake;
mod life;
mod local;
mod scope;
mod servers;
mod setup;
mod suite;

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Stdio};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, McpClient, ScriptedServer, Shape, deployment::binary, eventually, manifests::manifest,
    scripted::tool, visitor::Visitor,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

const JANE: &str = "jane@example.com";
const AGENT: &str = "assistant";
/// What a process of ours must not get from whoever runs the tests.
const SURROUNDINGS: [&str; 8] = [
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "DBUS_SESSION_BUS_ADDRESS",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "SSH_CONNECTION",
    "SSH_TTY",
];

/// A person's home folder, and where their browser was sent.
struct Desk {
    home: TempDir,
}

impl Desk {
    fn new() -> Result<Self> {
        let home = tempfile::tempdir()?;
        let browser = home.path().join("browser");
        fs::write(&browser, "#!/bin/sh\nprintf '%s\\n' \"$1\" >> \"$HOME/visits\"\n")?;
        fs::set_permissions(&browser, fs::Permissions::from_mode(0o700))?;
        Ok(Self { home })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("bailiwick"));
        command.args(arguments).env("HOME", self.home.path()).env("BROWSER", self.home.path().join("browser"));
        for name in SURROUNDINGS {
            command.env_remove(name);
        }
        command.current_dir(self.home.path()).kill_on_drop(true);
        command
    }

    /// Runs it to its end; status and what it said on both streams.
    async fn run(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = self.command(arguments).stdin(Stdio::null()).output().await?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned()))
    }

    /// Where keys are, when they are in files.
    fn keys(&self) -> PathBuf {
        self.home.path().join(".local/share/bailiwick/connect")
    }

    /// What is kept, of the one URL that there is.
    fn kept(&self) -> Result<Value> {
        let files = fs::read_dir(self.keys())?.filter_map(|entry| Some(entry.ok()?.path()));
        let file =
            files.into_iter().find(|path| path.extension().is_some_and(|end| end == "json")).context("no keys")?;
        Ok(serde_json::from_str(&fs::read_to_string(file)?)?)
    }

    fn visits(&self) -> Vec<String> {
        let text = fs::read_to_string(self.home.path().join("visits")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// What the browser was started with, the first time it was opened after `before`.
    async fn opened(&self, before: usize) -> Result<String> {
        eventually("the browser is opened", async || self.visits().get(before).cloned()).await
    }

    /// Where that leads to.
    async fn visit(&self, before: usize) -> Result<String> {
        let way = self.opened(before).await?;
        let led = visit(&way, &[]).await?;
        ensure!(led.status == 303, "{way}: {}", led.status);
        Ok(led.headers["location"].to_str()?.to_owned())
    }

    fn bridge(&self, url: &str, more: &[&str]) -> Result<Bridge> {
        let arguments = [&["connect", url, "--keys", "file"], more].concat();
        Bridge::start(self.command(&arguments))
    }
}

/// A running bridge, and a client that says what a test says.
struct Bridge {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Bridge {
    fn start(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        if std::env::var_os("CONNECT_LOG").is_none() {
            command.stderr(Stdio::null());
        }
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take().context("stdout")?);
        Ok(Self { child, input, lines: BufReader::new(output).lines() })
    }

    async fn say(&mut self, message: &Value) -> Result<()> {
        self.write(&format!("{message}\n")).await
    }

    async fn write(&mut self, text: &str) -> Result<()> {
        Ok(self.input.as_mut().context("it is closed")?.write_all(text.as_bytes()).await?)
    }

    /// The next message.
    async fn hear(&mut self) -> Result<Value> {
        let line =
            timeout(bailiwick_tests::wait::WAIT_MAX, self.lines.next_line()).await.context("it says nothing")??;
        Ok(serde_json::from_str(&line.context("it has ended")?)?)
    }

    /// The answer to a request; what else is said before is read over.
    async fn ask(&mut self, id: u64, method: &str, params: Value) -> Result<Value> {
        self.say(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await?;
        loop {
            let message = self.hear().await?;
            if message["id"] == id && message.get("method").is_none() {
                return Ok(message);
            }
        }
    }

    async fn call(&mut self, id: u64, tool: &str) -> Result<Value> {
        self.ask(id, "tools/call", modern(json!({"name": tool, "arguments": {}}))).await
    }

    /// Closes what it reads from; its status.
    async fn end(mut self) -> Result<i32> {
        drop(self.input.take());
        let status = timeout(bailiwick_tests::wait::WAIT_MAX, self.child.wait()).await.context("it does not end")??;
        Ok(status.code().unwrap_or(-1))
    }
}

/// Parameters of a modern request.
fn modern(mut params: Value) -> Value {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
    });
    params
}

/// Jane, whose agent takes clients that register themselves; a server with three tools; and her desk.
struct World {
    deployment: Deployment,
    server: ScriptedServer,
    desk: Desk,
    url: String,
    code: String,
}

impl World {
    async fn start() -> Result<Self> {
        let deployment = Deployment::start(Shape::Embedded).await?;
        let tiers = [("charge", "transactional"), ("erase", "destructive"), ("read", "retrieval")];
        let server = ScriptedServer::start(tiers.map(|(name, tier)| tool(name, tier)).to_vec()).await?;
        let agent = json!({
            "owner": JANE, "project": "billing", "ceiling": "destructive", "clients": {"self_registered": true},
        });
        let people = manifest("User", JANE, "{}") + &manifest("Agent", AGENT, &agent.to_string());
        deployment.apply(&(server.manifests("shop", "plain") + &people))?;
        let issued = deployment.token_for(JANE, AGENT, "shop", "destructive", "10m")?;
        let token = issued["access_token"].as_str().context("token")?;
        McpClient::new(&deployment.mcp[0], "shop", token).until_listed(&["charge", "erase", "read"]).await?;
        let code = fs::read_to_string(deployment.data().join("sign-in-code"))?;
        let url = format!("{}/shop", deployment.mcp[0]);
        Ok(Self { deployment, server, desk: Desk::new()?, url, code })
    }

    /// Jane, wherever her browser is sent: signs in and allows up to a level. Where she is sent back to, unvisited.
    async fn allowed(&self, visit: &str, level: &str) -> Result<String> {
        let mut jane = Visitor::new()?;
        let page = jane.go(visit).await?;
        let page = jane.sign_in(&page, JANE, &self.code).await?;
        let request = page.field("request")?;
        let form = [
            ("request", request.as_str()),
            ("agent", AGENT),
            ("only", "all"),
            ("duration", "3600"),
            ("reason", "OPS-12"),
            ("level", level),
            ("decision", "allow"),
        ];
        let url = url::Url::parse(&page.url)?.join("/oauth/consent")?;
        let page = jane.send(url.as_str(), &form).await?;
        page.elsewhere.with_context(|| format!("{}:\n{}", page.status, page.text))
    }

    /// The same, and back to the bridge.
    async fn allows(&self, before: usize, level: &str) -> Result<()> {
        let back = self.allowed(&self.desk.visit(before).await?, level).await?;
        let answer = visit(&back, &[]).await?;
        ensure!(answer.status == 200 && answer.text.contains("close this page"), "{} {}", answer.status, answer.text);
        Ok(())
    }

    /// Signs Jane in ahead of any client; what she was told.
    async fn sign_in(&self, level: &str) -> Result<String> {
        let before = self.desk.visits().len();
        let arguments = ["connect", &self.url, "--keys", "file", "--sign-in"];
        let (ended, allowed) = tokio::join!(self.desk.run(&arguments), self.allows(before, level));
        allowed?;
        let (status, text) = ended?;
        ensure!(status == 0 && text.contains("Signed in."), "{status}: {text}");
        Ok(text)
    }

    /// What happened, by type.
    fn events(&self, word: &str) -> Result<Vec<Value>> {
        let records = self.deployment.audit(&["--kind", "control.event", "--limit", "400"])?;
        let events = records.into_iter().map(|mut record| record["control"].take());
        Ok(events.filter(|event| event["type"] == word).collect())
    }
}

/// Asks for a page with these headers.
async fn visit(url: &str, headers: &[(&str, &str)]) -> Result<Answer> {
    let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
    Answer::to(headers.iter().fold(http.get(url), |request, (name, value)| request.header(*name, *value))).await
}
