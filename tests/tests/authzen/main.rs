//! Decisions for services (AuthZEN 1.0), end to end: a service asks the data planes what a call would get.
//!
//! The client is written from the specification's text and examples. That the answer is the one a call gets is in
//! `agreement`, what changes while services ask in `changes`, what is on record of it in `recorded`, and what nobody
//! honest sends in `attacks`.
//! Specification: AuthZEN Authorization API 1.0 §5 to §7, §9 and §10, and its certification scenario.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod agreement;
mod attacks;
mod batches;
mod changes;
mod recorded;

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use bailiwick_tests::{
    Answer, Deployment, McpClient, ScriptedServer, Shape, both, eventually,
    manifests::{manifest, person},
    scripted::tool,
};
use serde_json::{Value, json};

const TIERS: [(&str, &str); 3] = [("charge", "transactional"), ("erase", "destructive"), ("read", "retrieval")];
const JANE: &str = "jane@example.com";
const AGENT: &str = "assistant";
const SERVICE: &str = "billing";
const SECRET: &str = "4f0c1ea2b7e94d0c9c1b4a9d1f0e8a77";

/// Jane and her agent at the virtual server `shop`, and a service that may ask about it.
struct World {
    deployment: Deployment,
    /// Answers as long as it is there.
    _server: ScriptedServer,
    /// One for each data plane.
    services: Vec<Service>,
}

impl World {
    async fn start(shape: Shape) -> Result<Self> {
        Self::start_with(shape, &[]).await
    }

    async fn start_with(shape: Shape, environment: &[(&str, &str)]) -> Result<Self> {
        let deployment = Deployment::start_with(shape, environment).await?;
        let server = ScriptedServer::start(TIERS.map(|(name, tier)| tool(name, tier)).to_vec()).await?;
        let people = person(JANE, "buyers", AGENT);
        deployment.apply(&(server.manifests("shop", "plain") + &people))?;
        deployment.apply(&service(SERVICE, &[SECRET], "virtual_servers: [shop]"))?;
        let services = deployment.mcp.iter().map(|mcp| Service::at(mcp)).collect::<Result<Vec<_>>>()?;
        for service in &services {
            eventually("the service is known", async || {
                service.one(&asks("read")).await.ok().filter(|answer| answer.status == 200)
            })
            .await?;
        }
        Ok(Self { deployment, _server: server, services })
    }

    /// A token of Jane's agent, on a consent of its own, and calls work at every node with it.
    async fn consent(&self, level: &str) -> Result<(Vec<McpClient>, String)> {
        let issued = self.deployment.token_for(JANE, AGENT, "shop", level, "10m")?;
        let text = |key: &str| issued[key].as_str().map(str::to_owned).with_context(|| format!("no {key}: {issued}"));
        let token = text("access_token")?;
        let clients: Vec<_> = self.deployment.mcp.iter().map(|mcp| McpClient::new(mcp, "shop", &token)).collect();
        for client in &clients {
            eventually("the token works", async || {
                client.call("read", json!({})).await.ok().filter(|answer| answer.body.get("result").is_some())
            })
            .await?;
        }
        Ok((clients, text("consent_id")?))
    }

    /// Waits until every node answers so.
    async fn until(&self, question: &Value, expected: &str) -> Result<()> {
        for service in &self.services {
            eventually(&format!("{expected} for {question}"), async || {
                let answer = service.one(question).await.ok()?;
                (verdict(&answer.body) == expected).then_some(())
            })
            .await?;
        }
        Ok(())
    }
}

/// A service that asks one data plane, as the specification says.
#[derive(Clone, Debug)]
struct Service {
    http: reqwest::Client,
    base: String,
    secret: String,
}

impl Service {
    fn at(mcp: &str) -> Result<Self> {
        let base = mcp.strip_suffix("/mcp").context("an MCP URL")?.to_owned();
        Ok(Self { http: reqwest::Client::builder().no_proxy().build()?, base, secret: SECRET.to_owned() })
    }

    fn with_secret(&self, secret: &str) -> Self {
        Self { secret: secret.to_owned(), ..self.clone() }
    }

    fn post(&self, path: &str) -> reqwest::RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.base)).header("content-type", "application/json");
        if self.secret.is_empty() { request } else { request.bearer_auth(&self.secret) }
    }

    async fn one(&self, question: &Value) -> Result<Answer> {
        Answer::to(self.post("/access/v1/evaluation").body(question.to_string())).await
    }

    async fn several(&self, questions: &Value) -> Result<Answer> {
        Answer::to(self.post("/access/v1/evaluations").body(questions.to_string())).await
    }
}

/// A service's manifest, with what it may ask about.
fn service(name: &str, secrets: &[&str], about: &str) -> String {
    let hash = |secret: &&str| format!("\"{}\"", hex::encode(digest::digest(&digest::SHA256, secret.as_bytes())));
    let hashes = secrets.iter().map(hash).collect::<Vec<_>>().join(", ");
    manifest("DecisionClient", name, &format!("{{secret_sha256: [{hashes}], {about}}}"))
}

/// Whether Jane's agent may call a tool, in the specification's words.
fn asks(tool: &str) -> Value {
    json!({
        "subject": {"type": "user", "id": JANE, "properties": {"agent": AGENT}},
        "action": {"name": "tools/call"},
        "resource": {"type": "tool", "id": tool, "properties": {"virtual_server": "shop"}},
    })
}

/// `permit`, or the reason why not.
fn verdict(decision: &Value) -> &str {
    match decision["decision"].as_bool() {
        Some(true) => "permit",
        Some(false) => decision["context"]["reason"].as_str().unwrap_or("denied without a reason"),
        None => "no decision",
    }
}

/// The metadata says where to ask; following it works, as a client does that knows nothing but the base URL.
async fn a_client_finds_its_way_by_metadata(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    world.consent("destructive").await?;
    let service = &world.services[0];
    let found = Answer::to(service.http.get(format!("{}/.well-known/authzen-configuration", service.base))).await?;
    ensure!(found.status == 200, "{}", found.text);
    ensure!(found.headers["content-type"] == "application/json", "{:?}", found.headers);
    let point = found.body["policy_decision_point"].as_str().context("no policy_decision_point")?;
    ensure!(point == service.base, "{point} is not the URL that was asked, {}", service.base);
    for (endpoint, body) in [
        ("access_evaluation_endpoint", asks("read")),
        ("access_evaluations_endpoint", json!({"evaluations": [asks("read")]})),
    ] {
        let url = found.body[endpoint].as_str().with_context(|| format!("no {endpoint}"))?;
        ensure!(url.starts_with(point), "{url}");
        let request = service.http.post(url).bearer_auth(SECRET).header("content-type", "application/json");
        let id = "bfe9eb29-ab87-4ca3-be83-a1d5d8305716";
        let answer = Answer::to(request.header("X-Request-ID", id).body(body.to_string())).await?;
        ensure!(answer.status == 200 && answer.headers["content-type"] == "application/json", "{}", answer.text);
        ensure!(answer.headers["x-request-id"] == id, "the request's id does not come back");
        let first = answer.body.pointer("/evaluations/0").unwrap_or(&answer.body);
        ensure!(verdict(first) == "permit", "{}", answer.text);
    }
    let wrong = Answer::to(service.http.get(format!("{}/.well-known/authzen-configuration/a", service.base))).await?;
    ensure!(wrong.status == 404, "metadata of another base URL: {}", wrong.text);
    Ok(())
}

/// What the certification scenario asks of a decision point, with our words for subjects, actions and resources.
async fn requests_of_the_certification_scenario_are_taken(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let (_, consent) = world.consent("destructive").await?;
    let service = &world.services[0];
    let mut more = asks("read");
    more["context"] = json!({"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"});
    more["subject"]["properties"]["department"] = "Sales".into();
    more["action"]["properties"] = json!({"method": "GET"});
    more["foo"] = "bar".into();
    more["futureField"] = json!({"nested": true});
    for question in [asks("read"), more] {
        for _ in 0..3 {
            let answer = service.one(&question).await?;
            ensure!(answer.status == 200 && answer.body["decision"] == true, "{question}: {}", answer.text);
            ensure!(answer.body["context"]["consent"] == *consent, "{}", answer.text);
            ensure!(answer.body["context"]["revision"].is_string(), "{}", answer.text);
        }
    }
    for path in [
        "/subject",
        "/action",
        "/resource",
        "/subject/type",
        "/subject/id",
        "/action/name",
        "/resource/type",
        "/resource/id",
    ] {
        for odd in [None, Some(Value::Null), Some(json!(123))] {
            let mut question = asks("read");
            let (parent, key) = path.rsplit_once('/').context("a path")?;
            let parent = question.pointer_mut(parent).and_then(Value::as_object_mut).context("an object")?;
            match odd {
                Some(odd) => drop(parent.insert(key.to_owned(), odd)),
                None => drop(parent.remove(key)),
            }
            let answer = service.one(&question).await?;
            ensure!(answer.status == 400, "{question}: {} {}", answer.status, answer.text);
            ensure!(answer.body["error"] == "question_malformed", "{}", answer.text);
        }
    }
    for (kind, expected) in [
        ("application/json; charset=utf-8", 200),
        ("APPLICATION/JSON", 200),
        ("text/plain", 400),
        ("application/jsonp", 400),
        ("application/x-www-form-urlencoded", 400),
    ] {
        let request = service.http.post(format!("{}/access/v1/evaluation", service.base)).bearer_auth(SECRET);
        let answer = Answer::to(request.header("content-type", kind).body(asks("read").to_string())).await?;
        ensure!(answer.status == expected, "{kind}: {} {}", answer.status, answer.text);
    }
    Ok(())
}

both! { a_client_finds_its_way_by_metadata requests_of_the_certification_scenario_are_taken }
