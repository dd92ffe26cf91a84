//! What servers are told of calls, on the wire: a signed context with each forwarded request, of that request and no
//! other, over every transport and in both eras; nothing of the caller's token; nothing that a client made up.
//!
//! `libraries`: the verification libraries in `docs/downstream/` against real contexts and forgeries of them.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod libraries;
mod wire;

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bailiwick_tests::{
    Deployment, McpClient, Shape, Tapped, eventually,
    manifests::{JANE, manifest, permits_all_of, virtual_server},
};
use bailiwick_token::{
    VerifyingKeys,
    context::{self, ContextClaims, ContextError, ExpectContext},
};
use serde_json::Value;

/// A deployment with one server, and whoever verifies what it is told.
struct World {
    deployment: Deployment,
    client: McpClient,
    /// URL of the server as its manifest has it.
    audience: String,
    issuer: String,
}

impl World {
    /// `spec` is that of the server `shop`, whose tools are these.
    async fn start(shape: Shape, spec: &Value, tools: &[&str]) -> Result<Self> {
        let deployment = Deployment::start(shape).await?;
        let others = virtual_server("shop", "plain", "shop") + JANE + &permits_all_of("shop");
        deployment.apply(&(manifest("Server", "shop", &spec.to_string()) + &others))?;
        let client = McpClient::new(&deployment.mcp[0], "shop", &deployment.token("shop", "destructive")?);
        client.until_listed(tools).await?;
        let audience = spec["endpoint"]["url"].as_str().context("url")?.to_owned();
        let issuer = issuer(&client).await?;
        Ok(Self { deployment, client, audience, issuer })
    }

    async fn key_ids(&self) -> Result<Vec<String>> {
        let set = key_set(&self.issuer).await?;
        let ids = set["keys"].as_array().context("keys")?.iter().filter_map(|key| key["kid"].as_str());
        Ok(ids.map(str::to_owned).collect())
    }

    async fn keys(&self) -> Result<VerifyingKeys> {
        let set = key_set(&self.issuer).await?;
        let keys = set["keys"].as_array().context("keys")?.iter();
        let keys: Vec<_> = keys.map(|key| (key["kid"].as_str().unwrap_or_default(), key.to_string())).collect();
        Ok(VerifyingKeys::from_jwks(keys.iter().map(|(kid, jwk)| (*kid, "EdDSA", jwk.as_str())))?)
    }

    /// What a service with this audience makes of a request.
    async fn judged(&self, request: &Tapped, audience: &str) -> Result<Result<ContextClaims<'static>, ContextError>> {
        let contexts = request.header("bailiwick-context");
        ensure!(contexts.len() == 1, "{contexts:?} with {request:?}");
        let expect = ExpectContext {
            issuer: &self.issuer,
            audience,
            htm: &request.method,
            target: &request.target,
            body: request.body.as_bytes(),
        };
        Ok(context::verify(&self.keys().await?, contexts[0], &expect, now()))
    }

    /// What the server itself is told.
    async fn told(&self, request: &Tapped) -> Result<ContextClaims<'static>> {
        Ok(self.judged(request, &self.audience).await??)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// As the gateway's own metadata says it.
async fn issuer(client: &McpClient) -> Result<String> {
    let (host, path) =
        client.url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("no http URL")?;
    let url = format!("http://{host}/.well-known/oauth-protected-resource/{path}");
    let metadata: Value = reqwest::get(url).await?.json().await?;
    Ok(metadata["authorization_servers"][0].as_str().context("issuer")?.to_owned())
}

/// Where the metadata says that it is.
async fn key_set(issuer: &str) -> Result<Value> {
    let metadata: Value =
        reqwest::get(format!("{issuer}/.well-known/oauth-authorization-server")).await?.json().await?;
    let uri = metadata["bailiwick_context_jwks_uri"].as_str().context("bailiwick_context_jwks_uri")?;
    ensure!(metadata["jwks_uri"] != uri, "a set of its own");
    let answer = reqwest::get(uri).await?;
    ensure!(answer.headers()["cache-control"] == "public, max-age=300", "{:?}", answer.headers());
    Ok(answer.json().await?)
}

/// Until the data plane signs with this key.
async fn until_signed_with(world: &World, kid: &str, tapped: impl Fn() -> Option<Tapped>) -> Result<()> {
    eventually("another key signs", async || {
        world.client.call("read", serde_json::json!({})).await.ok()?;
        (kid_of(&tapped()?).as_deref() == Some(kid)).then_some(())
    })
    .await
}

fn kid_of(request: &Tapped) -> Option<String> {
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    let header = request.header("bailiwick-context").first()?.split('.').next()?.to_owned();
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    Some(header["kid"].as_str()?.to_owned())
}
