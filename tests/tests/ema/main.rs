//! Enterprise-Managed Authorization (ID-JAG), end to end: a company's provider says who may use what, and a client gets
//! a token by its word.
//!
//! The provider is npm `oidc-provider`; the clients of `flows` are other people's. What nobody honest sends is in
//! `attacks`, what is used up once in `once`, and what changes after a token was given in `changes`.
//! Specification: MCP ext-auth enterprise-managed-authorization §5 to §7; draft ID-JAG §4.4.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod attacks;
mod bound;
mod changes;
mod flood;
mod flows;
mod inspector;
mod once;
mod refusals;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use bailiwick_tests::{
    Answer, Deployment, McpClient, ScriptedServer, Shape,
    deployment::as_url,
    eventually,
    idp::{IdentityProvider, Rule},
    manifests::{manifest, person},
    scripted::tool,
};
use serde_json::{Value, json};

const TIERS: [(&str, &str); 3] = [("charge", "transactional"), ("erase", "destructive"), ("read", "retrieval")];
const JANE: &str = "jane@example.com";
const AGENT: &str = "assistant";
const CLIENT: &str = "assistant-here";
/// Of characters that need no escaping, as `bailiwick client new-secret` makes them: the official SDK escapes none.
const SECRET: &str = "1e9bd2a2c0f04f6a8c5d";
const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// Jane, her agent, a client of that agent, the company's provider, and a server with one tool of each tier.
struct World {
    deployment: Deployment,
    server: ScriptedServer,
    provider: IdentityProvider,
    /// As the data plane's metadata names it.
    issuer: String,
    resource: String,
    http: reqwest::Client,
}

impl World {
    async fn start(shape: Shape) -> Result<Self> {
        let deployment = Deployment::start(shape).await?;
        let server = ScriptedServer::start(TIERS.map(|(name, tier)| tool(name, tier)).to_vec()).await?;
        deployment.apply(&(server.manifests("shop", "plain") + &person(JANE, "buyers", AGENT)))?;
        let issued = deployment.token_for(JANE, AGENT, "shop", "destructive", "10m")?;
        let token = issued["access_token"].as_str().context("token")?;
        for mcp in &deployment.mcp {
            McpClient::new(mcp, "shop", token).until_listed(&TIERS.map(|(name, _)| name)).await?;
        }
        let http = reqwest::Client::builder().no_proxy().build()?;
        let (issuer, resource) = discovered(&http, &deployment.mcp[0]).await?;
        let provider = IdentityProvider::start(&[])?;
        let world = Self { deployment, server, provider, issuer, resource, http };
        world.provider.policy(&[world.rule("mcp:read mcp:write mcp:tools")]).await?;
        world.deployment.apply(&(world.provider.manifest("acme", &["shop"]) + &client(SECRET, "")))?;
        Ok(world)
    }

    /// The company lets the client have these scopes.
    fn rule(&self, scopes: &str) -> Rule {
        Rule {
            audience: self.issuer.clone(),
            resource: self.resource.clone(),
            client_id: CLIENT.to_owned(),
            scopes: scopes.split(' ').map(str::to_owned).collect(),
        }
    }

    /// Every control plane, where it listens for HTTP.
    fn nodes(&self) -> Vec<String> {
        let nodes = self.deployment.role("control-plane").into_iter();
        let listens = nodes.filter_map(|node| Some(as_url(node.listen.get("http")?.as_str()?)));
        let nodes: Vec<_> = listens.collect();
        if nodes.is_empty() { vec![self.issuer.clone()] } else { nodes }
    }

    /// Asks a node for a token, as the client that it is registered as.
    async fn ask(&self, node: &str, form: &[(&str, &str)]) -> Result<Answer> {
        Answer::to(
            self.http.post(format!("{node}/oauth/token")).header("authorization", basic(CLIENT, SECRET)).form(form),
        )
        .await
    }

    /// Exchanges an assertion at a node, for the resource.
    async fn exchange(&self, node: &str, assertion: &str) -> Result<Answer> {
        self.ask(node, &[("grant_type", JWT_BEARER), ("assertion", assertion), ("resource", &self.resource)]).await
    }

    /// Has an assertion forged, or an honest one made, and exchanges it where the issuer is.
    async fn exchange_minted(&self, order: Value) -> Result<Answer> {
        let assertion = self.provider.mint(order).await?;
        self.exchange(&self.issuer, &assertion).await
    }

    /// A token, and what else the answer says; it must be one.
    async fn token(&self) -> Result<Value> {
        let answer = self.exchange_minted(json!({})).await?;
        ensure!(answer.status == 200, "no token: {}\n{}", answer.text, self.deployment.log());
        Ok(answer.body)
    }

    /// A client of every data plane that has this token.
    fn clients(&self, token: &Value) -> Vec<McpClient> {
        let token = token["access_token"].as_str().unwrap_or_default();
        self.deployment.mcp.iter().map(|mcp| McpClient::new(mcp, "shop", token)).collect()
    }
}

/// The issuer and the resource, from the metadata of the data plane once it knows the virtual server.
async fn discovered(http: &reqwest::Client, mcp: &str) -> Result<(String, String)> {
    let base = mcp.strip_suffix("/mcp").context("an MCP URL")?;
    let url = format!("{base}/.well-known/oauth-protected-resource/mcp/shop");
    let metadata = eventually("the resource's metadata", async || {
        Answer::to(http.get(&url)).await.ok().filter(|answer| answer.body["resource"].is_string())
    })
    .await?
    .body;
    let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| metadata.to_string());
    Ok((text(&metadata["authorization_servers"][0])?, text(&metadata["resource"])?))
}

/// The client's manifest, with more in its specification.
fn client(secret: &str, more: &str) -> String {
    let hash = hex::encode(digest::digest(&digest::SHA256, secret.as_bytes()));
    manifest("Client", CLIENT, &format!("{{agent: {AGENT}, auth: client_secret, secret_sha256: \"{hash}\"{more}}}"))
}

/// Each part escaped as in a form, and then base64.
fn basic(client: &str, secret: &str) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    let escaped = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", escaped(client), escaped(secret))))
}

/// Whether a tool's answer came.
async fn is_permitted(client: &McpClient, tool: &str) -> Result<bool> {
    Ok(client.call(tool, json!({})).await?.body.get("result").is_some())
}

/// A refusal as OAuth has it: this status and word, nothing to keep, no token; and for this reason, not another.
fn is_refused(answer: &Answer, status: u16, error: &str, why: &str) -> Result<()> {
    let described = answer.body["error_description"].as_str().unwrap_or_default();
    ensure!(answer.status == status && answer.body["error"] == error, "{} {}", answer.status, answer.text);
    ensure!(described.contains(why), "refused for another reason than {why:?}: {described}");
    ensure!(answer.body.get("access_token").is_none(), "{}", answer.text);
    ensure!(answer.headers.get("cache-control").is_some_and(|value| value == "no-store"), "it may be kept");
    Ok(())
}
