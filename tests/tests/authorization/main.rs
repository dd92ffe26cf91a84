//! Authorization by people, end to end: a client sends somebody here, who signs in, is asked, narrows and allows; the
//! client gets tokens for as long as that counts.
//!
//! Over `bailiwick dev`, whose local sign-in needs no provider. What nobody honest does is in `attacks`; the grants in
//! `journey`. Specification: OAuth 2.1; RFC 7009, 7591, 7636, 7662, 8414, 8707, 9207.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod agents;
mod attacks;
mod bound;
mod conformance;
mod described;
mod exchange;
mod inspector;
mod journey;
mod keys;
mod mutual_tls;
mod often;
mod openid_client;
mod refusals;
mod screen;
mod stock;
mod timeline;
mod workloads;

use std::fs;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use bailiwick_tests::{
    Answer, Deployment, McpClient, ScriptedServer, Shape, eventually,
    manifests::{manifest, person},
    scripted::tool,
    visitor::{Page, Visitor},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

const TIERS: [(&str, &str); 3] = [("charge", "transactional"), ("erase", "destructive"), ("read", "retrieval")];
const JANE: &str = "jane@example.com";
const AGENT: &str = "assistant";
const CLIENT: &str = "editor";
const REDIRECT: &str = "http://127.0.0.1:3000/cb";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// Jane, her agent, an editor that is a client of that agent, and a server with one tool of each tier.
struct World {
    deployment: Deployment,
    server: ScriptedServer,
    /// As the data plane's metadata names it.
    issuer: String,
    resource: String,
    code: String,
    http: reqwest::Client,
}

impl World {
    async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with variables in its environment.
    async fn start_with(environment: &[(&str, &str)]) -> Result<Self> {
        let deployment = Deployment::start_with(Shape::Embedded, environment).await?;
        let server = ScriptedServer::start(TIERS.map(|(name, tier)| tool(name, tier)).to_vec()).await?;
        deployment.apply(&(server.manifests("shop", "plain") + &person(JANE, "buyers", AGENT)))?;
        deployment.apply(&client(CLIENT, ""))?;
        let issued = deployment.token_for(JANE, AGENT, "shop", "destructive", "10m")?;
        let token = issued["access_token"].as_str().context("token")?;
        McpClient::new(&deployment.mcp[0], "shop", token).until_listed(&TIERS.map(|(name, _)| name)).await?;
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build()?;
        let base = deployment.mcp[0].strip_suffix("/mcp").context("an MCP URL")?;
        let url = format!("{base}/.well-known/oauth-protected-resource/mcp/shop");
        let metadata = Answer::to(http.get(url)).await?.body;
        let text = |value: &Value| value.as_str().map(str::to_owned).with_context(|| metadata.to_string());
        let (issuer, resource) = (text(&metadata["authorization_servers"][0])?, text(&metadata["resource"])?);
        let code = fs::read_to_string(deployment.data().join("sign-in-code"))?;
        Ok(Self { deployment, server, issuer, resource, code, http })
    }

    /// The parameters of an honest request of a client.
    fn request<'a>(&'a self, client: &'a str) -> Vec<(&'a str, String)> {
        vec![
            ("response_type", "code".to_owned()),
            ("client_id", client.to_owned()),
            ("redirect_uri", REDIRECT.to_owned()),
            ("code_challenge", challenge(VERIFIER)),
            ("code_challenge_method", "S256".to_owned()),
            ("resource", self.resource.clone()),
            ("scope", "mcp:tools".to_owned()),
            ("state", "st-1".to_owned()),
        ]
    }

    fn authorize_url(&self, parameters: &[(&str, String)]) -> String {
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.extend_pairs(parameters);
        format!("{}/oauth/authorize?{}", self.issuer, query.finish())
    }

    /// Jane's browser at the question.
    async fn asked(&self, client: &str) -> Result<(Visitor, Page)> {
        let mut jane = Visitor::new()?;
        let page = jane.go(&self.authorize_url(&self.request(client))).await?;
        let page = jane.sign_in(&page, JANE, &self.code).await?;
        ensure!(page.status == 200 && page.text.contains("Allow"), "{}:\n{}", page.status, page.text);
        Ok((jane, page))
    }

    /// What Jane's browser shows once she has signed in, whatever it is.
    async fn asked_page(&self, client: &str) -> Result<Page> {
        let mut jane = Visitor::new()?;
        let page = jane.go(&self.authorize_url(&self.request(client))).await?;
        jane.sign_in(&page, JANE, &self.code).await
    }

    /// Answers the question; where the way led.
    async fn answer(&self, jane: &mut Visitor, page: &Page, more: &[(&str, &str)]) -> Result<Page> {
        let request = page.field("request")?;
        let usual = [("agent", AGENT), ("only", "all"), ("duration", "3600"), ("reason", "OPS-12")];
        let kept = usual.into_iter().filter(|(name, _)| !more.iter().any(|(known, _)| known == name));
        let form: Vec<_> =
            [("request", request.as_str())].into_iter().chain(kept).chain(more.iter().copied()).collect();
        jane.send(&format!("{}/oauth/consent", self.issuer), &form).await
    }

    /// A code that Jane allowed, up to a level.
    async fn code(&self, client: &str, level: &str) -> Result<String> {
        let (mut jane, page) = self.asked(client).await?;
        let page = self.answer(&mut jane, &page, &[("level", level), ("decision", "allow")]).await?;
        page.parameter("code")?.with_context(|| format!("no code: {:?}", page.elsewhere))
    }

    async fn post(&self, path: &str, form: &[(&str, &str)]) -> Result<Answer> {
        Answer::to(self.http.post(format!("{}{path}", self.issuer)).form(form)).await
    }

    async fn redeem(&self, client: &str, code: &str) -> Result<Answer> {
        let form = [
            ("grant_type", "authorization_code"),
            ("client_id", client),
            ("code", code),
            ("code_verifier", VERIFIER),
            ("redirect_uri", REDIRECT),
            ("resource", &self.resource),
        ];
        self.post("/oauth/token", &form).await
    }

    async fn refresh(&self, client: &str, token: &str) -> Result<Answer> {
        let form = [("grant_type", "refresh_token"), ("client_id", client), ("refresh_token", token)];
        self.post("/oauth/token", &form).await
    }

    /// What a client has that Jane allowed up to a level: the token endpoint's answer.
    async fn tokens(&self, client: &str, level: &str) -> Result<Value> {
        let code = self.code(client, level).await?;
        let answer = self.redeem(client, &code).await?;
        ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
        Ok(answer.body)
    }

    fn mcp(&self, tokens: &Value) -> McpClient {
        McpClient::new(&self.deployment.mcp[0], "shop", tokens["access_token"].as_str().unwrap_or_default())
    }

    /// Control events of a type, once there is one.
    async fn event(&self, word: &str) -> Result<Value> {
        eventually(word, async || {
            let records = self.deployment.audit(&["--kind", "control.event", "--limit", "200"]).ok()?;
            records.into_iter().map(|record| record["control"].clone()).find(|event| event["type"] == word)
        })
        .await
    }
}

fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, verifier.as_bytes()))
}

fn client(name: &str, more: &str) -> String {
    manifest("Client", name, &format!("{{agent: {AGENT}, auth: none, redirect_uris: [\"{REDIRECT}\"]{more}}}"))
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}
