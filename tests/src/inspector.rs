//! The Inspector (npm `@modelcontextprotocol/inspector`), its command line, as somebody at a desk uses it.
//!
//! An [`Inspector`] has a home folder of its own, where it keeps what it was given and what it got. It prints where a
//! person has to go and listens for where the browser is sent back to; the person is the test.

use std::{fs, path::PathBuf, process::Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{peers::place, upstream::free_port};

/// Its home, and where it listens for a browser that comes back.
#[derive(Debug)]
pub struct Inspector {
    home: tempfile::TempDir,
    http: reqwest::Client,
    /// What is registered as its redirect URI.
    pub callback: String,
}

/// One run of it.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit status; 0 is well, 3 that it is not let in.
    pub status: i32,
    /// What it printed as JSON, or nothing.
    pub said: Value,
    /// What else it said.
    pub errors: String,
    /// How often it sent somebody to sign in.
    pub asked: usize,
}

impl Ran {
    /// The result of what it asked the server for.
    ///
    /// # Errors
    /// When it failed, or the server answered with an error.
    pub fn result(&self) -> Result<&Value> {
        let result = self.said.get("result").filter(|result| result.is_object() && self.status == 0);
        result.filter(|result| result.get("isError") != Some(&Value::Bool(true))).with_context(|| format!("{self:#?}"))
    }
}

impl Inspector {
    /// One that has never been started.
    ///
    /// # Errors
    /// When it finds no folder or no port.
    pub fn new() -> Result<Self> {
        let callback = format!("http://127.0.0.1:{}/oauth/callback", free_port()?);
        Ok(Self { home: tempfile::tempdir()?, http: reqwest::Client::builder().no_proxy().build()?, callback })
    }

    /// Writes a file of its own below the home folder, and says where.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &str, content: &Value) -> Result<PathBuf> {
        let file = self.home.path().join(path);
        fs::create_dir_all(file.parent().context("a folder")?)?;
        fs::write(&file, content.to_string())?;
        Ok(file)
    }

    /// What it keeps of signing in; nothing when it keeps nothing.
    ///
    /// # Errors
    /// When that is no JSON.
    pub fn stored(&self) -> Result<Value> {
        let text = fs::read_to_string(self.home.path().join(".mcp-inspector/storage/oauth.json"));
        text.map_or(Ok(Value::Null), |text| serde_json::from_str(&text).with_context(|| text.clone()))
    }

    /// Spoils the signature of the access token that it keeps.
    ///
    /// # Errors
    /// When it keeps none.
    pub fn spoil_token(&self) -> Result<()> {
        let file = self.home.path().join(".mcp-inspector/secrets.json");
        let text = fs::read_to_string(&file)?;
        let at = text.find("eyJ").context("no token is kept")?;
        let end = at + text.get(at..).and_then(|rest| rest.find(['"', '\\'])).context("a token without an end")?;
        let signature = at + text.get(at..end).and_then(|token| token.rfind('.')).context("no JWT")? + 1;
        let (before, after) = (text.get(..signature).unwrap_or_default(), text.get(end..).unwrap_or_default());
        let other = "A".repeat(end - signature);
        fs::write(&file, format!("{before}{other}{after}"))?;
        Ok(())
    }

    /// Runs it until it ends. Where it wants somebody to sign in, `person` is given the URL, and says where the browser
    /// is sent back to.
    ///
    /// # Errors
    /// When it does not run, or the person does not get back.
    pub async fn run(&self, arguments: &[&str], mut person: impl AsyncFnMut(&str) -> Result<String>) -> Result<Ran> {
        let mut command = Command::new(place("PEER_NODE")?);
        command.arg(place("PEER_INSPECTOR")?).args(["--cli", "--format", "json", "--callback-url", &self.callback]);
        command.args(arguments).env("HOME", self.home.path());
        // Without a terminal it asks for a person only when told that there is a browser: this one opens nothing.
        command.env("MCP_AUTO_OPEN_ENABLED", "true").env("BROWSER", "true");
        for desktop in ["DISPLAY", "WAYLAND_DISPLAY", "XDG_CURRENT_DESKTOP"] {
            command.env_remove(desktop);
        }
        // In its home folder, as no machine of a test has a keychain.
        command.env("MCP_INSPECTOR_SECRET_STORE", "file");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut lines = BufReader::new(child.stderr.take().context("stderr")?).lines();
        let (mut asked, mut errors) = (0, String::new());
        while let Some(line) = lines.next_line().await? {
            if let Some(url) = line.strip_prefix("Please navigate to: ") {
                asked += 1;
                let back = person(url.trim()).await?;
                ensure!(back.starts_with(&self.callback), "sent back to {back}");
                let answer = self.http.get(&back).send().await?;
                ensure!(answer.status().is_success(), "its listener answers {}", answer.status());
            }
            errors.push_str(&line);
            errors.push('\n');
        }
        let output = child.wait_with_output().await?;
        let said = serde_json::from_slice(&output.stdout).unwrap_or_default();
        Ok(Ran { status: output.status.code().unwrap_or(-1), said, errors, asked })
    }
}
