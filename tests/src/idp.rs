//! A company's identity provider (`tests/peers/idp.mjs`, on npm `oidc-provider`), and other people's clients that get
//! tokens by its word.
//!
//! The provider runs as a process of its own and issues identity assertions (ID-JAG) by a policy that a test states; a
//! test may have it forge some, change keys, or go away. People sign in by script, or as `browser` does it; clients may
//! register themselves, and a test says what claims somebody has. The clients are drivers beside it:
//! each prints one JSON line, which is what [`EmaClient::run`] gives back.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    deployment::{kill, repository},
    manifests::manifest,
    mcp::Answer,
    peers::place,
    upstream::free_port,
};

/// What the company lets its people use: by which client, and with which of the scopes.
#[derive(Clone, Debug, Serialize)]
pub struct Rule {
    /// The authorization server's issuer.
    pub audience: String,
    /// The MCP server's URL.
    pub resource: String,
    /// What the client is called at that authorization server.
    pub client_id: String,
    pub scopes: Vec<String>,
}

/// A running provider; stopped when dropped.
#[derive(Debug)]
pub struct IdentityProvider {
    child: Child,
    http: reqwest::Client,
    /// The `iss` of what it signs.
    pub issuer: String,
    control: String,
}

#[derive(Deserialize)]
struct Listens {
    issuer: String,
    control: String,
}

impl IdentityProvider {
    /// Starts it with a policy.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(policy: &[Rule]) -> Result<Self> {
        let mut command = Command::new(place("PEER_NODE")?);
        command.args(["tests/peers/idp.mjs", "--port", &free_port()?.to_string()]);
        command.args(["--policy", &serde_json::to_string(policy)?]).current_dir(repository());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let Ok(Listens { issuer, control }) = serde_json::from_str(&line) else {
            kill(child.id(), "KILL");
            drop(child.wait());
            anyhow::bail!("the provider said: {line}");
        };
        Ok(Self { child, http: reqwest::Client::builder().no_proxy().build()?, issuer, control })
    }

    /// Its manifest: it vouches for these virtual servers, and its people are called by their e-mail addresses here.
    #[must_use]
    pub fn manifest(&self, name: &str, virtual_servers: &[&str]) -> String {
        let spec = json!({
            "issuer": self.issuer,
            "networks": ["127.0.0.0/8"],
            "assertions": {"virtual_servers": virtual_servers},
            "people": {"user": "email"},
        });
        manifest("IdentityProvider", name, &spec.to_string())
    }

    /// The ID token of somebody who signs in; `jane` has the address `jane@example.com`.
    ///
    /// # Errors
    /// When nobody can.
    pub async fn sign_in(&self, login: &str) -> Result<String> {
        let mut command = tokio::process::Command::new(place("PEER_NODE")?);
        command.args(["tests/peers/sign_in.mjs", &self.issuer, login]).current_dir(repository());
        let said = line(&command.stdin(Stdio::null()).output().await?)?;
        let token = said.get("id_token").and_then(Value::as_str);
        Ok(token.with_context(|| said.to_string())?.to_owned())
    }

    /// An assertion by the policy, for who signed in: the first exchange, as its registered client makes it.
    ///
    /// # Errors
    /// When the company refuses; what it said is in the message.
    pub async fn assertion(&self, id_token: &str, audience: &str, resource: &str, scope: &str) -> Result<String> {
        const TYPE: &str = "urn:ietf:params:oauth:token-type";
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("requested_token_type", &format!("{TYPE}:id-jag")),
            ("subject_token_type", &format!("{TYPE}:id_token")),
            ("subject_token", id_token),
            ("audience", audience),
            ("resource", resource),
            ("scope", scope),
            ("client_id", "assistant-at-acme"),
            ("client_secret", "assistant-secret-at-acme"),
        ];
        let answer = Answer::to(self.http.post(format!("{}/token", self.issuer)).form(&form)).await?;
        let assertion = answer.body.get("access_token").and_then(Value::as_str);
        Ok(assertion.with_context(|| answer.text.clone())?.to_owned())
    }

    /// An assertion about Jane by the first rule of the policy, in some way other than it would be: see `forge.mjs`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub async fn mint(&self, order: Value) -> Result<String> {
        let made = self.steer("mint", order).await?;
        Ok(made.get("assertion").and_then(Value::as_str).context("no assertion")?.to_owned())
    }

    /// A client of the provider that sends people back there: its id, and its secret if it has one. `more` is of
    /// RFC 7591.
    ///
    /// # Errors
    /// When it is not registered.
    pub async fn register(&self, redirect_uri: &str, more: &Value) -> Result<(String, Option<String>)> {
        let mut client = json!({"redirect_uris": [redirect_uri], "id_token_signed_response_alg": "ES256"});
        if let (Some(client), Some(more)) = (client.as_object_mut(), more.as_object()) {
            client.extend(more.clone());
        }
        let answer = Answer::to(self.http.post(format!("{}/reg", self.issuer)).json(&client)).await?;
        let text = |name: &str| answer.body.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok((text("client_id").with_context(|| answer.text.clone())?, text("client_secret")))
    }

    /// More claims about who signs in as `login`, in place of what was told before.
    ///
    /// # Errors
    /// When it does not take them.
    pub async fn person(&self, login: &str, claims: Value) -> Result<()> {
        self.steer("people", json!({login: claims})).await.map(drop)
    }

    /// Another policy from now on.
    ///
    /// # Errors
    /// When it does not take it.
    pub async fn policy(&self, rules: &[Rule]) -> Result<()> {
        self.steer("policy", json!(rules)).await.map(drop)
    }

    /// Signs with a new key of this algorithm, and shows these no more.
    ///
    /// # Errors
    /// When it does not.
    pub async fn change_keys(&self, add: &str, remove: &[&str]) -> Result<()> {
        self.steer("keys", json!({"add": add, "remove": remove})).await.map(drop)
    }

    /// Whether anybody reaches it.
    ///
    /// # Errors
    /// When it does not do so.
    pub async fn listen(&self, on: bool) -> Result<()> {
        self.steer("listen", json!({"on": on})).await.map(drop)
    }

    /// How often its keys were fetched.
    ///
    /// # Errors
    /// When it does not say.
    pub async fn fetches_of_keys(&self) -> Result<u64> {
        let counts = Answer::to(self.http.get(format!("{}/counts", self.control))).await?.body;
        counts.get("jwks").and_then(Value::as_u64).context("no count")
    }

    async fn steer(&self, what: &str, order: Value) -> Result<Value> {
        let request = self.http.post(format!("{}/{what}", self.control)).body(order.to_string());
        let answer = Answer::to(request).await?;
        ensure!(answer.status.is_success(), "{what} {order}: {}", answer.text);
        Ok(answer.body)
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        kill(self.child.id(), "KILL");
        drop(self.child.wait());
    }
}

/// A client that somebody else wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmaClient {
    /// npm `@modelcontextprotocol/client`, its `CrossAppAccessProvider`.
    TypeScript,
    /// The same, its `exchangeJwtAuthGrant`, which names neither resource nor scope.
    TypeScriptBare,
    /// npm `oauth4webapi`, which checks everything that it gets; the client's secret in the header.
    StrictBasic,
    /// The same, the secret in the body.
    StrictPost,
    /// The same, with a key instead of a secret: [`Asking::secret`] is then the file of it.
    StrictKey,
    /// PyPI `mcp`, its `IdentityAssertionOAuthProvider`.
    Python,
}

/// What a client is told.
#[derive(Clone, Debug)]
pub struct Asking<'a> {
    /// The person's, of the provider.
    pub id_token: &'a str,
    /// The MCP endpoint.
    pub url: &'a str,
    /// The authorization server that the client is registered at.
    pub issuer: &'a str,
    pub client_id: &'a str,
    pub secret: &'a str,
    /// What it asks for; else what it finds.
    pub scope: Option<&'a str>,
}

impl EmaClient {
    /// Gets a token and calls a tool with it. Gives the driver's JSON line, `ok` or not.
    ///
    /// # Errors
    /// When the driver cannot be run or says nothing.
    pub async fn run(self, provider: &IdentityProvider, asking: &Asking<'_>, tool: &str) -> Result<Value> {
        let (program, script, own): (_, _, &[&str]) = match self {
            Self::TypeScript => ("PEER_NODE", "ema_client.mjs", &["--as", "sdk"]),
            Self::TypeScriptBare => ("PEER_NODE", "ema_client.mjs", &["--as", "bare"]),
            Self::StrictBasic => ("PEER_NODE", "ema_client.mjs", &["--as", "strict", "--auth", "basic"]),
            Self::StrictPost => ("PEER_NODE", "ema_client.mjs", &["--as", "strict", "--auth", "post"]),
            Self::StrictKey => ("PEER_NODE", "ema_client.mjs", &["--as", "strict", "--auth", "key"]),
            Self::Python => ("PEER_PYTHON", "python_ema_client.py", &["--issuer", asking.issuer]),
        };
        let mut command = tokio::process::Command::new(place(program)?);
        command.arg(format!("tests/peers/{script}")).args(own).current_dir(repository());
        command.args(["--idp", &provider.issuer, "--id-token", asking.id_token, "--url", asking.url]);
        let proof = if self == Self::StrictKey { "--key" } else { "--secret" };
        command.args(["--client-id", asking.client_id, proof, asking.secret]);
        if let Some(scope) = asking.scope {
            command.args(["--scope", scope]);
        }
        line(&command.args(["call", tool]).stdin(Stdio::null()).output().await?)
    }
}

/// The one line that a driver prints.
fn line(output: &Output) -> Result<Value> {
    let said = || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).with_context(said)
}
