//! The same engine at the same revision: whatever a call gets, the service that asks is told, at every node.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{McpClient, Shape, both, eventually, manifests::manifest};
use serde_json::{Value, json};

use super::{AGENT, JANE, World, asks, verdict};

/// What a call gets: `permit` where the server answered.
async fn called(client: &McpClient, tool: &str) -> Result<String> {
    let answer = client.call(tool, json!({})).await?;
    if answer.body.get("result").is_some() {
        return Ok("permit".to_owned());
    }
    // An unknown tool is a protocol error without a reason word.
    Ok(if answer.code() == Some(-32602) { "tool_unknown".to_owned() } else { answer.reason().to_owned() })
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
    nodes_answer_alike_and_say_by_which_revision
    a_service_for_a_server_asks_by_the_servers_own_names
}
