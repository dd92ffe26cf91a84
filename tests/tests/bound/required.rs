//! Where the manifest requires binding, a bearer token neither sees nor calls, and its client is told what to get.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, eventually,
    manifests::{manifest, policy},
};
use serde_json::json;

use super::{World, is_served, refusal};

#[tokio::test]
async fn tools_from_a_tier_on_are_for_bound_tokens_only() -> Result<()> {
    let world = World::start().await?;
    let spec = "{naming: plain, binding: {from: transactional}, servers: [{server: shop}]}";
    world.deployment.apply(&manifest("VirtualServer", "shop", spec))?;
    let jane = world.holder()?;
    for at in 0..2 {
        let bearer = world.bearer(at)?;
        bearer.until_listed(&["read"]).await?;
        ensure!(is_served(&bearer.call("read", json!({})).await?), "what is below goes on");
        let refused = bearer.call("charge", json!({})).await?;
        ensure!(refusal(&refused) == (401, "binding_required"), "{}", refused.text);
        let challenges: Vec<_> = refused.headers.get_all("www-authenticate").iter().collect();
        ensure!(challenges.iter().any(|challenge| challenge.to_str().is_ok_and(|one| one.starts_with("DPoP algs="))));
        eventually("a bound one", async || is_served(&jane.call(at, "charge").await.ok()?).then_some(())).await?;
    }
    let record = eventually("it is on record", async || {
        world.deployment.audit(&["--binding", "missing"]).ok()?.into_iter().next()
    })
    .await?;
    ensure!(record["decision"]["reason"] == "binding_required" && record["tool"] == "charge", "{record}");
    let id = record["request_id"].as_str().context("no id")?.to_owned();
    let explained = world.deployment.cli_ok(&["explain", &id])?;
    ensure!(explained.contains("missing") && explained.contains("binding_required"), "{explained}");
    let base = world.deployment.mcp[0].strip_suffix("/mcp").context("an MCP URL")?;
    let metadata =
        Answer::to(reqwest::Client::new().get(format!("{base}/.well-known/oauth-protected-resource/mcp/shop")));
    let metadata = metadata.await?.body;
    ensure!(metadata["bailiwick_binding_algs_supported"] == json!(["aes-256-gcm"]), "{metadata}");
    ensure!(metadata["dpop_signing_alg_values_supported"] == json!(["ES256", "EdDSA", "PS256", "RS256"]), "{metadata}");
    Ok(())
}

#[tokio::test]
async fn a_policy_may_ask_whether_a_token_is_bound() -> Result<()> {
    let world = World::start().await?;
    let rule = "permit (principal, action, resource in Server::\"shop\") when { context.bound || resource.tier == \"retrieval\" };";
    world.deployment.apply(&policy("shop", rule))?;
    let (bearer, jane) = (world.bearer(0)?, world.holder()?);
    bearer.until_listed(&["read"]).await?;
    ensure!(refusal(&bearer.call("erase", json!({})).await?) == (200, "policy_denied"), "by the policy");
    eventually("a bound one", async || is_served(&jane.call(0, "erase").await.ok()?).then_some(())).await
}
