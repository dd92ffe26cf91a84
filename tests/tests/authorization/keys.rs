//! Rotation of the cluster's own keys, while people, clients and calls go on; and at once, which ends what it says.
//!
//! Several control planes, and leaders that go away: `control-plane/server/tests/server/keys.rs`.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{eventually, visitor::Visitor};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{CLIENT, JANE, World, stock, text};

/// The key id that a token says it was signed with.
fn kid(tokens: &Value) -> Result<String> {
    let header = text(tokens, "access_token").split('.').next().context("a header")?;
    let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header)?)?;
    Ok(text(&header, "kid").to_owned())
}

impl World {
    pub(crate) fn rotate(&self, key: &str, more: &[&str]) -> Result<Value> {
        let arguments = [&["keys", "rotate", key, "-o", "json"], more].concat();
        Ok(serde_json::from_str(&self.deployment.cli_ok(&arguments)?)?)
    }

    async fn published(&self) -> Result<Vec<String>> {
        let set: Value = self.http.get(format!("{}/.well-known/jwks.json", self.issuer)).send().await?.json().await?;
        Ok(set["keys"].as_array().context("keys")?.iter().map(|key| text(key, "kid").to_owned()).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_on_over_a_rotation_of_both_keys() -> Result<()> {
    let world = World::start().await?;
    let before = world.tokens(CLIENT, "retrieval").await?;
    let code = world.code(CLIENT, "retrieval").await?;
    world.mcp(&before).until_listed(&["read"]).await?;
    let first = kid(&before)?;

    let rotated = world.rotate("token-signing", &["--reason", "yearly"])?;
    let second = text(&rotated, "id").to_owned();
    assert_eq!(rotated["kept"][0]["id"], first.as_str(), "{rotated:#}");
    world.rotate("authorization", &[])?;
    let mut published = world.published().await?;
    published.sort();
    let mut both = [first.clone(), second.clone()];
    both.sort();
    assert_eq!(published, both);

    let called = world.mcp(&before).call("read", json!({})).await?;
    assert!(called.body["result"].is_object(), "{}", called.text);
    let refreshed = world.refresh(CLIENT, text(&before, "refresh_token")).await?;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text);
    let redeemed = world.redeem(CLIENT, &code).await?;
    assert_eq!(redeemed.status, 200, "a code from before: {}", redeemed.text);
    for after in [&refreshed.body, &redeemed.body] {
        assert_eq!(kid(after)?, second);
        // It names the revision of its key, so a data plane that is behind says so rather than to refuse it as unknown.
        let called = eventually("the new key at the data plane", async || {
            let called = world.mcp(after).call("read", json!({})).await.ok()?;
            (called.reason() != "config_stale").then_some(called)
        })
        .await?;
        assert!(called.body["result"].is_object(), "{}", called.text);
    }
    let again = world.refresh(CLIENT, text(&refreshed.body, "refresh_token")).await?;
    assert_eq!(again.status, 200, "one made by the new key: {}", again.text);

    let event = world.event("token_key_rotated").await?;
    assert_eq!([text(&event, "kid"), text(&event, "reason"), text(&event, "actor")], [&second, "yearly", "admin"]);
    assert_eq!(event["replaces"], json!([first]));
    world.event("authorization_key_rotated").await?;
    let listed = world.deployment.cli_ok(&["keys", "list"])?;
    for word in [first.as_str(), second.as_str(), "in use", "kept", "EdDSA", "authorization"] {
        assert!(listed.contains(word), "{word}:\n{listed}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_program_verifies_tokens_of_the_new_key_while_the_old_one_is_published() -> Result<()> {
    let world = World::start().await?;
    world.rotate("token-signing", &[])?;
    ensure!(world.published().await?.len() == 2);
    let arguments = ["--auth", "none", "--client-id", CLIENT];
    let served = stock::serve(&world, "PEER_NODE", "strict_client.mjs", &arguments).await?;
    assert_eq!(text(&served.said["claims"], "sub"), JANE, "{:#}", served.said);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn at_once_what_a_key_made_counts_no_more_and_nothing_else() -> Result<()> {
    let world = World::start().await?;
    let before = world.tokens(CLIENT, "retrieval").await?;
    world.mcp(&before).until_listed(&["read"]).await?;
    let mut jane = Visitor::new()?;
    let consents = format!("{}/consents", world.issuer);
    let page = jane.go(&consents).await?;
    let page = jane.sign_in(&page, JANE, &world.code).await?;
    assert!(page.text.contains("OPS-12"), "{}", page.text);

    let said = world.deployment.cli_ok(&["keys", "rotate", "token-signing", "--at-once", "--reason", "stolen"])?;
    assert!(said.contains("access tokens signed before are refused") && said.contains("live consents"), "{said}");
    assert_eq!(world.published().await?.len(), 1);
    let refused = eventually("the data plane refuses what the key signed", async || {
        let answer = world.mcp(&before).call("read", json!({})).await.ok()?;
        (answer.status == 401).then_some(answer)
    })
    .await?;
    assert!(!refused.text.contains("result"), "{}", refused.text);
    assert!(jane.go(&consents).await?.text.contains("OPS-12"), "sessions go on");
    let refreshed = world.refresh(CLIENT, text(&before, "refresh_token")).await?;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text);
    world.mcp(&refreshed.body).until_listed(&["read"]).await?;

    let code = world.code(CLIENT, "retrieval").await?;
    let said = world.deployment.cli_ok(&["keys", "rotate", "authorization", "--at-once"])?;
    assert!(said.contains("refresh tokens, codes and sessions made before have ended"), "{said}");
    let ended = world.refresh(CLIENT, text(&refreshed.body, "refresh_token")).await?;
    assert_eq!((ended.status.as_u16(), text(&ended.body, "error")), (400, "invalid_grant"));
    assert_eq!(world.redeem(CLIENT, &code).await?.status, 400);
    let page = jane.go(&consents).await?;
    assert!(!page.text.contains("OPS-12"), "{}", page.text);
    let page = jane.sign_in(&page, JANE, &world.code).await?;
    assert!(page.text.contains("OPS-12"), "who signs in again is where they were: {}", page.text);
    let called = world.mcp(&refreshed.body).call("read", json!({})).await?;
    assert!(called.body["result"].is_object(), "access tokens go on to their end: {}", called.text);
    assert_eq!(text(&world.event("token_key_retired").await?, "reason"), "replaced at once");
    world.event("authorization_key_retired").await?;
    Ok(())
}
