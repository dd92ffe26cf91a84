//! The same engine at the same revision: whatever a call gets, the service that asks is told, at every node.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::{digest, rand};
use bailiwick_tests::{
    Answer, McpClient, Shape, both, eventually,
    manifests::{manifest, virtual_server},
};
use bailiwick_token::{
    TokenHash,
    binding::BindingKey,
    proof::{PROOF_HEADER, Proven, prove},
};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{AGENT, JANE, World, asks, verdict};

/// What a call got: `permit` where the server answered.
fn outcome(answer: &Answer) -> String {
    if answer.body.get("result").is_some() {
        return "permit".to_owned();
    }
    // An unknown tool is a protocol error without a reason word.
    if answer.code() == Some(-32602) { "tool_unknown".to_owned() } else { answer.reason().to_owned() }
}

async fn called(client: &McpClient, tool: &str) -> Result<String> {
    Ok(outcome(&client.call(tool, json!({})).await?))
}

/// Compares call and answer for each tool, with the consent named and not, at every node.
async fn agree(world: &World, clients: &[McpClient], consent: &str, expected: &[(&str, &str)]) -> Result<()> {
    for (client, service) in clients.iter().zip(&world.services) {
        for (tool, expected) in expected {
            eventually(&format!("{expected} for a call of {tool}"), async || {
                (called(client, tool).await.ok()? == *expected).then_some(())
            })
            .await?;
            let mut named = asks(tool);
            named["subject"]["properties"]["consent"] = consent.into();
            let answer = service.one(&named).await?;
            ensure!(verdict(&answer.body) == *expected, "{tool}, {consent}: {} is not {expected}", answer.text);
        }
    }
    Ok(())
}

/// A bound token of Jane's agent, and its key.
struct Holder {
    token: String,
    key: BindingKey,
    consent: String,
}

impl Holder {
    fn new(world: &World) -> Result<Self> {
        let arguments = ["token", "issue", "--user", JANE, "--agent", AGENT, "--virtual-server", "shop"];
        let more = ["--level", "destructive", "--bind", "-o", "json"];
        let issued: Value = serde_json::from_str(&world.deployment.cli_ok(&[&arguments[..], &more[..]].concat())?)?;
        let text = |name: &str| issued[name].as_str().map(str::to_owned).with_context(|| format!("no {name}"));
        let key = BindingKey::from_base64url(&text("binding_key")?).context("no key")?;
        Ok(Self { token: text("access_token")?, key, consent: text("consent_id")? })
    }

    /// What a call gets, with a proof of its own.
    async fn called(&self, mcp: &str, tool: &str) -> Result<String> {
        let client = McpClient::new(mcp, "shop", &self.token);
        let request = client.modern_request(json!({}), "tools/call", json!({"name": tool, "arguments": {}})).build()?;
        let body = request.body().and_then(reqwest::Body::as_bytes).context("no body")?;
        let body: [u8; 32] = digest::digest(&digest::SHA256, body).as_ref().try_into()?;
        let token = TokenHash::of(&self.token);
        let proven = Proven { token: &token, method: "POST", path: "/mcp/shop", body: &body };
        let mut nonce = [0; 12];
        rand::fill(&mut nonce)?;
        let unix_ms = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
        let proof = prove(&self.key, &proven, unix_ms, nonce).context("no proof")?.to_string();
        let request = RequestBuilder::from_parts(client.http.clone(), request).header(PROOF_HEADER, proof);
        Ok(outcome(&Answer::to(request).await?))
    }
}

/// Compares call and answer for each tool at every node: without a binding, said so or not said, and with one.
async fn agree_on_binding(
    world: &World,
    (bearers, bearing): (&[McpClient], &str),
    holder: &Holder,
    expected: &[(&str, &str)],
) -> Result<()> {
    agree(world, bearers, bearing, expected).await?;
    for ((mcp, service), (tool, of_bearer)) in
        world.deployment.mcp.iter().zip(&world.services).flat_map(|node| expected.iter().map(move |row| (node, row)))
    {
        eventually(&format!("a bound call of {tool}"), async || {
            (holder.called(mcp, tool).await.ok()? == "permit").then_some(())
        })
        .await?;
        for (consent, bound, expected) in
            [(bearing, false, *of_bearer), (bearing, true, "permit"), (holder.consent.as_str(), true, "permit")]
        {
            let mut question = asks(tool);
            question["subject"]["properties"]["consent"] = consent.into();
            question["context"] = json!({"bound": bound});
            let answer = service.one(&question).await?;
            ensure!(verdict(&answer.body) == expected, "{question}: {} is not {expected}", answer.text);
        }
    }
    Ok(())
}

fn agent(more: &str) -> String {
    manifest("Agent", AGENT, &format!("{{owner: {JANE}, project: billing{more}}}"))
}

const POLICY: &str = "permit (principal, action, resource in Server::\"shop\")";

fn policy(condition: &str) -> String {
    manifest("Policy", "shop", &format!("\n  cedar: {POLICY}{condition};"))
}

async fn an_answer_is_what_a_call_gets(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let (clients, consent) = world.consent("transactional").await?;
    let all = [("read", "permit"), ("charge", "permit"), ("erase", "consent_level_exceeded"), ("none", "tool_unknown")];
    agree(&world, &clients, &consent, &all).await?;
    world.deployment.apply(&agent(", ceiling: retrieval"))?;
    agree(&world, &clients, &consent, &[("charge", "ceiling_exceeded"), ("read", "permit")]).await?;
    world.deployment.apply(&agent(", ceiling: destructive"))?;
    agree(&world, &clients, &consent, &[("charge", "permit")]).await?;
    world.deployment.apply(&policy(" when { resource.tier == \"retrieval\" }"))?;
    agree(&world, &clients, &consent, &[("charge", "policy_denied"), ("read", "permit")]).await?;
    world.deployment.apply(&policy(""))?;
    agree(&world, &clients, &consent, &[("charge", "permit")]).await?;
    world.deployment.apply(&agent(", ceiling: destructive, state: paused"))?;
    agree(&world, &clients, &consent, &[("read", "agent_inactive")]).await?;
    world.deployment.apply(&agent(", ceiling: destructive"))?;
    agree(&world, &clients, &consent, &[("read", "permit")]).await?;
    world.deployment.cli_ok(&["revoke", "consent", &consent])?;
    agree(&world, &clients, &consent, &[("read", "consent_revoked")]).await?;
    let (clients, consent) = world.consent("transactional").await?;
    agree(&world, &clients, &consent, &[("read", "permit")]).await?;
    world.deployment.apply(&manifest("User", JANE, "{active: false}"))?;
    agree(&world, &clients, &consent, &[("read", "user_inactive")]).await
}

async fn what_is_for_bound_tokens_is_permitted_to_who_says_that_theirs_is(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let (clients, consent) = world.consent("destructive").await?;
    let (holder, bearer) = (Holder::new(&world)?, (clients.as_slice(), consent.as_str()));
    let of = |charge, erase| [("charge", charge), ("erase", erase), ("read", "permit")];
    agree_on_binding(&world, bearer, &holder, &of("permit", "permit")).await?;
    let from = |tier: &str| {
        let spec = format!("{{naming: plain, binding: {{from: {tier}}}, servers: [{{server: shop}}]}}");
        manifest("VirtualServer", "shop", &spec)
    };
    world.deployment.apply(&from("transactional"))?;
    agree_on_binding(&world, bearer, &holder, &of("binding_required", "binding_required")).await?;
    world.deployment.apply(&from("destructive"))?;
    agree_on_binding(&world, bearer, &holder, &of("permit", "binding_required")).await?;
    world.deployment.apply(&virtual_server("shop", "plain", "shop"))?;
    world.deployment.apply(&policy(" when { context.bound || resource.tier == \"retrieval\" }"))?;
    agree_on_binding(&world, bearer, &holder, &of("policy_denied", "policy_denied")).await
}

async fn nodes_answer_alike_and_say_by_which_revision(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let (_, consent) = world.consent("destructive").await?;
    world.until(&asks("erase"), "permit").await?;
    let mut answers = Vec::new();
    for service in &world.services {
        let Value::Object(mut context) = service.one(&asks("erase")).await?.body["context"].take() else {
            anyhow::bail!("no context")
        };
        let age = context.remove("config_age_ms").context("no age")?;
        ensure!(age.as_u64().is_some_and(|age| age < 60_000), "{age}");
        context.remove("revision").context("no revision")?;
        context.remove("request_id").context("no request id")?;
        answers.push(Value::Object(context));
    }
    let expected = json!({"policies": ["shop"], "tier": "destructive", "consent": consent});
    ensure!(answers.iter().all(|answer| *answer == expected), "{answers:?}");
    Ok(())
}

async fn a_service_for_a_server_asks_by_the_servers_own_names(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    world.consent("destructive").await?;
    world.deployment.apply(&super::service(super::SERVICE, &[super::SECRET], "servers: [shop]"))?;
    let by_server = |tool: &str| {
        let mut question = asks(tool);
        question["resource"]["properties"] = json!({"server": "shop"});
        question
    };
    world.until(&by_server("none"), "tool_unknown").await?;
    world.until(&asks("none"), "decision_not_for_client").await?;
    for service in &world.services {
        for question in [by_server("read"), asks("read")] {
            ensure!(verdict(&service.one(&question).await?.body) == "permit", "{question}");
        }
        let mut other = by_server("read");
        other["resource"]["properties"]["server"] = "ledger".into();
        let answer = service.one(&other).await?;
        ensure!(verdict(&answer.body) == "decision_not_for_client", "{}", answer.text);
    }
    Ok(())
}

both! {
    an_answer_is_what_a_call_gets
    what_is_for_bound_tokens_is_permitted_to_who_says_that_theirs_is
    nodes_answer_alike_and_say_by_which_revision
    a_service_for_a_server_asks_by_the_servers_own_names
}
