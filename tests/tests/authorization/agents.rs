//! Agents: paused, resumed, retired; and headless ones, which act for their owner without a person at hand.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_tests::{Answer, eventually, manifests::manifest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::{AGENT, CLIENT, JANE, World, text};

const NIGHTLY: &str = "nightly";
const SIGNED: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[tokio::test]
async fn a_paused_agent_stops_at_once_goes_on_where_it_was_and_retires_for_ever() -> Result<()> {
    let world = World::start().await?;
    let tokens = world.tokens(CLIENT, "retrieval").await?;
    let mcp = world.mcp(&tokens);
    mcp.until_listed(&["read"]).await?;
    world.deployment.cli_ok(&["agent", "pause", AGENT, "--reason", "odd calls", "--wait"])?;
    let paused = mcp.call("read", json!({})).await?;
    assert_eq!(paused.reason(), "agent_inactive", "{}", paused.text);
    let answer = world.refresh(CLIENT, text(&tokens, "refresh_token")).await?;
    assert_eq!(text(&answer.body, "error"), "invalid_grant");
    let page = world.asked_page(CLIENT).await?;
    assert!(page.text.contains("No agent takes this program"), "{}", page.text);

    world.deployment.cli_ok(&["agent", "resume", AGENT, "--wait"])?;
    let resumed = eventually("the agent goes on", async || {
        let answer = mcp.call("read", json!({})).await.ok()?;
        answer.body["result"].is_object().then_some(answer)
    });
    resumed.await?;
    let tokens = world.refresh(CLIENT, text(&tokens, "refresh_token")).await?;
    assert_eq!(tokens.status, 200, "nothing was taken away: {}", tokens.text);

    let retired =
        world.deployment.cli_ok(&["agent", "retire", AGENT, "--reason", "replaced", "--wait", "-o", "json"])?;
    assert!(retired.contains("revoked"), "its consents end: {retired}");
    let refused = mcp.call("read", json!({})).await?;
    assert!(refused.body["result"].is_null(), "{}", refused.text);
    let back = world.deployment.cli(&["agent", "resume", AGENT])?;
    assert_eq!(back.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&back.stderr).contains("for ever"), "{back:?}");
    Ok(())
}

/// A client's key, and what it signs with it.
struct Key(Ed25519KeyPair);

impl Key {
    fn new() -> Result<Self> {
        Ok(Self(Ed25519KeyPair::generate()?))
    }

    fn jwks(&self) -> String {
        let x = URL_SAFE_NO_PAD.encode(self.0.public_key().as_ref());
        json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "k", "x": x}]}).to_string()
    }

    fn sign(&self, world: &World, jti: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims = json!({
            "iss": NIGHTLY, "sub": NIGHTLY, "aud": world.issuer, "jti": jti, "iat": now, "exp": now + 60,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "EdDSA", "typ": "JWT", "kid": "k"})), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.0.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

async fn credentials(world: &World, assertion: &str, more: &[(&str, &str)]) -> Result<Answer> {
    let form =
        [("grant_type", "client_credentials"), ("client_assertion_type", SIGNED), ("client_assertion", assertion)];
    world.post("/oauth/token", &[&form, more].concat()).await
}

#[tokio::test]
async fn a_headless_agent_signs_who_it_is_and_acts_for_its_owner() -> Result<()> {
    let world = World::start().await?;
    let key = Key::new()?;
    let spec = |more: &str| format!("{{agent: {AGENT}, auth: private_key_jwt, jwks: '{}'{more}}}", key.jwks());
    world.deployment.apply(&manifest("Client", NIGHTLY, &spec("")))?;
    let before = credentials(&world, &key.sign(&world, "j-1"), &[("resource", &world.resource)]).await?;
    assert_eq!((before.status.as_u16(), text(&before.body, "error")), (400, "invalid_grant"), "{}", before.text);
    let headless = spec(", headless: {virtual_servers: [shop]}, ceiling: retrieval");
    world.deployment.apply(&manifest("Client", NIGHTLY, &headless))?;
    let signed = key.sign(&world, "j-2");
    let answer = credentials(&world, &signed, &[]).await?;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert!(answer.body.get("refresh_token").is_none(), "it signs again: {}", answer.text);
    assert_eq!(text(&answer.body, "scope"), "mcp:read");
    world.mcp(&answer.body).until_listed(&["read"]).await?;
    assert!(world.mcp(&answer.body).call("read", json!({})).await?.body["result"].is_object());
    let record = eventually("the call's record", async || {
        let calls = world.deployment.audit(&["--tool", "read"]).ok()?;
        calls.into_iter().find(|record| record["client"] == NIGHTLY)
    })
    .await?;
    assert_eq!(
        (text(&record, "user"), text(&record, "owner"), text(&record, "agent")),
        (JANE, JANE, AGENT),
        "{record}"
    );

    let again = credentials(&world, &signed, &[]).await?;
    assert_eq!(text(&again.body, "error"), "invalid_grant", "what it signed is good once: {}", again.text);
    let stranger = Key::new()?.sign(&world, "j-3");
    assert_eq!(text(&credentials(&world, &stranger, &[]).await?.body, "error"), "invalid_client");
    let elsewhere = credentials(&world, &key.sign(&world, "j-4"), &[("resource", "https://evil.example/mcp")]).await?;
    assert_eq!(text(&elsewhere.body, "error"), "invalid_target");
    let by_name = world.post("/oauth/token", &[("grant_type", "client_credentials"), ("client_id", CLIENT)]).await?;
    assert_eq!(text(&by_name.body, "error"), "unauthorized_client", "{}", by_name.text);
    world.deployment.cli_ok(&["revoke", "client", NIGHTLY, "--wait"])?;
    let held = credentials(&world, &key.sign(&world, "j-5"), &[]).await?;
    assert_eq!(text(&held.body, "error"), "invalid_grant", "it does not come back by itself: {}", held.text);
    Ok(())
}
