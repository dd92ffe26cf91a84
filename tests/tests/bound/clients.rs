//! The reference clients in `docs/clients`: they make the published proofs, call with a token they were given, and get
//! one of their own.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_tests::{Answer, deployment::repository, eventually, manifests::manifest, peers::place};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::process::Command;

use super::{AGENT, World, is_served, unix_ms};

pub(crate) const CLIENT: &str = "nightly";
/// Each reference client, and what runs it.
const CLIENTS: [(&str, &str); 2] = [("PEER_PYTHON", "proof.py"), ("PEER_NODE", "proof.ts")];

async fn run((program, file): (&str, &str), arguments: &[&str], environment: &[(&str, &str)]) -> Result<Value> {
    let script = repository().join("docs/clients").join(file);
    let mut command = Command::new(place(program)?);
    command.arg(script).args(arguments).envs(environment.iter().copied()).kill_on_drop(true);
    let output = command.output().await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{file} {arguments:?}: {said}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// A client that signs who it is.
pub(crate) struct SigningClient {
    key: Ed25519KeyPair,
    issuer: String,
    /// Public URL of the resource.
    pub(crate) resource: String,
    pub(crate) token_url: String,
}

impl SigningClient {
    /// Registers it: it acts for its owner by itself, up to everything.
    pub(crate) async fn register(world: &World, more: &str) -> Result<Self> {
        Self::register_by(&reqwest::Client::new(), world, more).await
    }

    /// As [`Self::register`], where nodes are reached by a client of the caller's.
    pub(crate) async fn register_by(http: &reqwest::Client, world: &World, more: &str) -> Result<Self> {
        let key = Ed25519KeyPair::generate()?;
        let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "k", "x": x}]});
        let spec = format!(
            "{{agent: {AGENT}, auth: private_key_jwt, jwks: '{jwks}', headless: {{virtual_servers: [shop]}}{more}}}"
        );
        world.deployment.apply(&manifest("Client", CLIENT, &spec))?;
        let base = world.deployment.mcp[0].strip_suffix("/mcp").context("an MCP URL")?;
        let url = format!("{base}/.well-known/oauth-protected-resource/mcp/shop");
        let metadata = Answer::to(http.get(url)).await?.body;
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| metadata.to_string());
        let issuer = text(&metadata["authorization_servers"][0])?;
        Ok(Self { key, resource: text(&metadata["resource"])?, token_url: format!("{issuer}/oauth/token"), issuer })
    }

    pub(crate) fn assertion(&self, jti: &str) -> String {
        let now = unix_ms() / 1000;
        let claims = json!({"iss": CLIENT, "sub": CLIENT, "aud": self.issuer, "jti": jti, "iat": now, "exp": now + 60});
        sign(&self.key, &json!({"alg": "EdDSA", "typ": "JWT", "kid": "k"}), &claims)
    }
}

/// A JWT.
pub(crate) fn sign(key: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

#[tokio::test]
async fn the_reference_clients_make_the_published_proofs() -> Result<()> {
    let vectors = repository().join("docs/reference/proof-vectors.json").display().to_string();
    for client in CLIENTS {
        let text = std::fs::read_to_string(repository().join("docs/clients").join(client.1))?;
        ensure!(text.lines().count() < 100, "{} is short", client.1);
        let said = run(client, &["vectors", &vectors], &[]).await?;
        ensure!(said["checked"] == 5, "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_reference_clients_call_with_a_token_they_have_and_with_one_they_get() -> Result<()> {
    let world = World::start().await?;
    let jane = world.holder()?;
    eventually("the token works", async || is_served(&jane.call(1, "read").await.ok()?).then_some(())).await?;
    let signer = SigningClient::register(&world, "").await?;
    for (number, client) in CLIENTS.into_iter().enumerate() {
        // At a node that is not where the public URL leads.
        let url = format!("{}/shop", jane.mcp[1]);
        let key = jane.key.expose();
        let given = [("ACCESS_TOKEN", jane.token.as_str()), ("BINDING_KEY", key.as_str())];
        let said = run(client, &["call", &url, "read", r#"{"q":"é"}"#], &given).await?;
        ensure!(said["status"] == 200 && said["answer"]["result"].is_object(), "{said}");
        let wrong = URL_SAFE_NO_PAD.encode([7; 32]);
        let given = [("ACCESS_TOKEN", jane.token.as_str()), ("BINDING_KEY", wrong.as_str())];
        let said = run(client, &["call", &url, "read"], &given).await?;
        ensure!(said["status"] == 401 && said["answer"]["error"]["data"]["reason"] == "proof_invalid", "{said}");
        let mut attempt = 0;
        let own = eventually("a token of its own", async || {
            attempt += 1;
            let assertion = signer.assertion(&format!("j-{number}-{attempt}"));
            let ask = [
                ("TOKEN_URL", signer.token_url.as_str()),
                ("CLIENT_ASSERTION", &assertion),
                ("RESOURCE", &signer.resource),
            ];
            let said = run(client, &["call", &url, "charge"], &ask).await.ok()?;
            (said["status"] == 200).then_some(said)
        })
        .await?;
        ensure!(own["answer"]["result"].is_object(), "{own}");
    }
    let records = eventually("they are on record as bound", async || {
        let found = world.deployment.audit(&["--binding", "bound", "--tool", "charge"]).ok()?;
        (found.len() >= 2).then_some(found)
    })
    .await?;
    ensure!(records.iter().all(|record| record["client"] == CLIENT), "{records:?}");
    Ok(())
}
