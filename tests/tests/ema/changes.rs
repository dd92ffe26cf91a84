//! What changes after a token was given: people leave, clients and agents are stopped, the company grants less,
//! consents are revoked here, keys change and the provider is away.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_active_any_more_gets_no_token() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let acme = world.provider.manifest("acme", &["shop"]);
    let inactive = acme.replacen("spec: {", "spec: {\"active\":false,", 1);
    let agent = |more: &str| {
        let spec = format!("{{owner: {JANE}, project: billing, ceiling: destructive{more}}}");
        manifest("Agent", AGENT, &spec)
    };
    let user = |more: &str| manifest("User", JANE, &format!("{{groups: [buyers]{more}}}"));
    let cases = [
        ("the client", client(SECRET, ", active: false"), client(SECRET, ""), 401, "invalid_client", "unknown"),
        ("the person", user(", active: false"), user(""), 400, "invalid_grant", "User"),
        ("the agent", agent(", active: false"), agent(""), 400, "invalid_grant", "Agent"),
        ("the provider", inactive, acme, 400, "invalid_grant", "issuer"),
    ];
    for (who, stopped, back, status, error, why) in cases {
        world.token().await.with_context(|| format!("before {who} was stopped"))?;
        world.deployment.apply(&stopped)?;
        is_refused(&world.exchange_minted(json!({})).await?, status, error, why).context(who)?;
        world.deployment.apply(&back)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_revoked_here_does_not_come_back_with_the_next_assertion() -> Result<()> {
    let world = World::start(Shape::Processes).await?;
    let token = world.token().await?;
    let before = world.clients(&token);
    for client in &before {
        ensure!(is_permitted(client, "charge").await?, "the token is not good at {}", client.url);
    }
    let consent = world.consent_of_last_call().await?;
    world.deployment.cli_ok(&["revoke", "consent", &consent, "--reason", "stolen", "--wait"])?;
    for client in &before {
        let answer = client.call("charge", json!({})).await?;
        ensure!(answer.reason() == "consent_revoked", "{}", answer.text);
    }
    for _ in 0..2 {
        is_refused(&world.exchange_minted(json!({})).await?, 400, "invalid_grant", "revoked")?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_company_grants_no_longer_is_refused_after_the_next_exchange() -> Result<()> {
    let world = World::start(Shape::Processes).await?;
    let id_token = world.provider.sign_in("jane").await?;
    world.provider.policy(&[world.rule("mcp:read mcp:write")]).await?;
    let wide = world.by_policy(&id_token, "mcp:read mcp:write").await?;
    ensure!(wide["scope"] == "mcp:write", "{wide}");
    let before = world.clients(&wide);
    for client in &before {
        ensure!(is_permitted(client, "charge").await?, "the token is not good at {}", client.url);
    }
    world.provider.policy(&[world.rule("mcp:read")]).await?;
    let narrow = world.by_policy(&id_token, "mcp:read mcp:write").await?;
    ensure!(narrow["scope"] == "mcp:read", "{narrow}");
    for client in &before {
        eventually("the old token is refused", async || {
            (client.call("charge", json!({})).await.ok()?.reason() == "consent_revoked").then_some(())
        })
        .await?;
        ensure!(!is_permitted(client, "read").await?, "the old token still reads");
    }
    let charged = world.server.seen().len();
    for client in world.clients(&narrow) {
        ensure!(is_permitted(&client, "read").await?, "the new token does not read at {}", client.url);
        ensure!(!is_permitted(&client, "charge").await?, "the new token charges at {}", client.url);
    }
    ensure!(world.server.seen().len() == charged + before.len(), "a refused call reached the server");
    // The company refuses the person altogether: no assertion, and so no token.
    world.provider.policy(&[]).await?;
    ensure!(world.by_policy(&id_token, "mcp:read").await.is_err(), "the company's refusal counts for nothing");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_provider_took_away_signs_nothing_any_more() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    world.token().await?;
    let by_old_key = world.provider.mint(json!({})).await?;
    world.provider.change_keys("RS256", &["assertions-1"]).await?;
    let by_new_key = world.provider.mint(json!({})).await?;
    // Known within half a minute, so that strangers with unknown key ids cannot have keys fetched at will.
    eventually("the new key is known", async || {
        let answer = world.exchange(&world.issuer, &by_new_key).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await?;
    is_refused(&world.exchange(&world.issuer, &by_old_key).await?, 400, "invalid_grant", "signature")?;
    let fetches = world.provider.fetches_of_keys().await?;
    ensure!(fetches == 2, "{fetches} fetches of keys");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_provider_is_away_known_keys_count_and_unknown_ones_give_nothing() -> Result<()> {
    let world = World::start(Shape::Cluster).await?;
    let nodes = world.nodes();
    let (knows, never_asked) = (&nodes[0], &nodes[1]);
    let assertion = world.provider.mint(json!({})).await?;
    ensure!(world.exchange(knows, &assertion).await?.status == 200, "{}", world.deployment.log());
    world.provider.listen(false).await?;
    let assertion = world.provider.mint(json!({})).await?;
    is_refused(&world.exchange(never_asked, &assertion).await?, 503, "temporarily_unavailable", "keys")?;
    let answer = world.exchange(knows, &assertion).await?;
    ensure!(answer.status == 200, "a key that is known does not count: {}", answer.text);
    world.provider.listen(true).await?;
    let assertion = world.provider.mint(json!({})).await?;
    eventually("the other node fetches the keys", async || {
        let answer = world.exchange(never_asked, &assertion).await.ok()?;
        (answer.status == 200).then_some(())
    })
    .await
}

impl World {
    /// A token by the company's own policy: from the ID token to the assertion, and on.
    async fn by_policy(&self, id_token: &str, scope: &str) -> Result<Value> {
        let assertion = self.provider.assertion(id_token, &self.issuer, &self.resource, scope).await?;
        let answer = self.exchange(&self.issuer, &assertion).await?;
        ensure!(answer.status == 200, "{}\n{}", answer.text, self.deployment.log());
        Ok(answer.body)
    }

    /// The consent that the last recorded call rested on.
    async fn consent_of_last_call(&self) -> Result<String> {
        let records = self.deployment.records_of("tools/call", 1).await?;
        let consent = records.last().and_then(|record| record["consent"].as_str());
        Ok(consent.context("a call without a consent")?.to_owned())
    }
}
