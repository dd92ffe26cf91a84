//! Somebody has stolen a bound token, or whole requests with their proofs, and tries what there is to try.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{McpClient, eventually};
use bailiwick_token::{Claims, SigningKey, mint};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::{Holder, Says, World, call_of, is_served, refusal, unix_ms};

/// Until a replay is tried at the other node, which hears of the use within some 50 ms.
pub(crate) const TOLD_WITHIN: Duration = Duration::from_millis(200);

fn claims_of(token: &str) -> Result<Claims> {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).context("no payload")?)?;
    Ok(serde_json::from_slice(&payload)?)
}

#[tokio::test]
async fn a_stolen_token_is_of_no_use_and_a_stolen_request_only_for_what_it_was() -> Result<()> {
    let world = World::start().await?;
    let (jane, thief) = (world.holder()?, world.holder()?);
    eventually("the token works", async || is_served(&jane.call(0, "read").await.ok()?).then_some(())).await?;
    let stolen = Holder { token: jane.token.clone(), ..thief.clone() };
    let body = call_of("charge");
    let says = Says::post(&body);
    let now = unix_ms();
    let attempts = [
        ("without a proof", None, "proof_missing"),
        ("proved with another key", Some(stolen.proof(says)?), "proof_invalid"),
        ("with a proof of another token", Some(thief.proof(says)?), "proof_invalid"),
        ("of another path", Some(jane.proof(Says { path: "/mcp/other", ..says })?), "proof_invalid"),
        ("of another method", Some(jane.proof(Says { method: "GET", ..says })?), "proof_invalid"),
        ("of another body", Some(jane.proof(Says { body: &call_of("read"), ..says })?), "proof_invalid"),
        ("from the past", Some(jane.proof(Says { unix_ms: now - 61_000, ..says })?), "proof_stale"),
        ("from the future", Some(jane.proof(Says { unix_ms: now + 15_000, ..says })?), "proof_stale"),
        ("that is none", Some("v1.0.0.0".to_owned()), "proof_invalid"),
    ];
    for (how, proof, expected) in attempts {
        for at in 0..2 {
            let answer = jane.send(at, "charge", proof.as_deref()).await?;
            ensure!(refusal(&answer) == (401, expected), "{how}: {}", answer.text);
            ensure!(answer.headers.contains_key("www-authenticate"), "{how}: no challenge");
        }
    }
    ensure!(world.called().iter().all(|tool| tool == "read"), "charged");
    let charged = jane.send(0, "charge", Some(&jane.proof(says)?)).await?;
    ensure!(is_served(&charged), "none of this used anything up: {}", charged.text);
    Ok(())
}

#[tokio::test]
async fn a_changed_token_is_nobody_s() -> Result<()> {
    let world = World::start().await?;
    let jane = world.holder()?;
    eventually("the token works", async || is_served(&jane.call(0, "read").await.ok()?).then_some(())).await?;
    let changes: [fn(&mut Claims); 7] = [
        |claims| claims.agent_sub = "other".into(),
        |claims| claims.sub = "eve@example.com".into(),
        |claims| claims.project_id = "other".into(),
        |claims| claims.exp += 3_600,
        |claims| claims.aud.push('x'),
        |claims| (claims.binding, claims.binding_alg) = (None, None),
        |claims| claims.binding_alg = None,
    ];
    let forger = SigningKey::from_ed25519_seed(&[9; 32])?;
    for change in changes {
        let mut claims = claims_of(&jane.token)?;
        change(&mut claims);
        let mut parts = jane.token.split('.');
        let (header, _, signature) =
            (parts.next().context("header")?, parts.next(), parts.next().context("signature")?);
        let payload = URL_SAFE_NO_PAD.encode(serde_json::to_string(&claims)?);
        let kept = format!("{header}.{payload}.{signature}");
        for token in [kept, mint(&claims, &forger)?.expose().to_owned()] {
            let changed = Holder { token, ..jane.clone() };
            let answer = changed.call(0, "read").await?;
            ensure!(refusal(&answer) == (401, "token_signature"), "{}", answer.text);
            let bearer = changed.send(0, "read", None).await?;
            ensure!(refusal(&bearer) == (401, "token_signature"), "{}", bearer.text);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_captured_request_counts_once_at_its_node_and_at_every_other() -> Result<()> {
    let world = World::start().await?;
    let jane = world.holder()?;
    for at in 0..2 {
        eventually("the token works", async || is_served(&jane.call(at, "read").await.ok()?).then_some(())).await?;
    }
    let mut served = 0;
    for (first, other) in [(0, 1), (1, 0)] {
        // On a busy machine the other node may hear of it later; then another proof has to show it.
        let proof = eventually("the other node hears of it in time", async || {
            let proof = jane.proof(Says::post(&call_of("erase"))).ok()?;
            served += usize::from(is_served(&jane.send(first, "erase", Some(&proof)).await.ok()?));
            tokio::time::sleep(TOLD_WITHIN).await;
            let answer = jane.send(other, "erase", Some(&proof)).await.ok()?;
            served += usize::from(is_served(&answer));
            (refusal(&answer) == (401, "proof_replayed")).then_some(proof)
        });
        let proof = proof.await?;
        let answer = jane.send(first, "erase", Some(&proof)).await?;
        ensure!(refusal(&answer) == (401, "proof_replayed"), "{}", answer.text);
        let mangled = proof.replace("v1.", "v1.0");
        ensure!(refusal(&jane.send(other, "erase", Some(&mangled)).await?) == (401, "proof_invalid"), "{mangled}");
    }
    let called = world.called();
    ensure!(called.iter().filter(|tool| *tool == "erase").count() == served, "{called:?}");
    // Nothing that proves anything went on to the server.
    for call in world.server.seen() {
        let told = format!("{:?} {}", call.headers, call.body);
        ensure!(!told.contains("bailiwick-proof") && !told.contains(&jane.token), "{told}");
        ensure!(!call.headers.contains_key("authorization"), "{told}");
    }
    // All of it is on record, under what it was.
    let records = eventually("the refusals are on record", async || {
        let found = world.deployment.audit(&["--binding", "replayed"]).ok()?;
        (found.len() >= 4).then_some(found)
    })
    .await?;
    ensure!(records.iter().all(|record| record["decision"]["reason"] == "proof_replayed"), "{records:?}");
    ensure!(records.iter().all(|record| record["user"] == super::JANE), "{records:?}");
    let bound = world.deployment.audit(&["--binding", "bound", "--tool", "erase"])?;
    ensure!(!bound.is_empty() && world.deployment.audit(&["--binding", "stale"])?.is_empty(), "{bound:?}");
    Ok(())
}

#[tokio::test]
async fn a_session_of_a_bound_token_is_of_no_use_with_another() -> Result<()> {
    let world = World::start().await?;
    let jane = world.holder()?;
    eventually("the token works", async || is_served(&jane.call(0, "read").await.ok()?).then_some(())).await?;
    let client = McpClient::new(&jane.mcp[0], "shop", &jane.token);
    let body = r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"raw","version":"1"}}}"#;
    let proof = jane.proof(Says::post(body))?;
    let begun = client.raw(body, &[("bailiwick-proof", &proof)]).await?;
    let session = begun.headers.get("mcp-session-id").context("no session")?.to_str()?.to_owned();
    // A GET proves itself, too: it has no body.
    let stream = |proof: Option<String>| {
        let mut request = reqwest::Client::new().get(&client.url).bearer_auth(&jane.token);
        request = request.header("accept", "text/event-stream").header("mcp-session-id", &session);
        request = request.header("mcp-protocol-version", "2025-11-25");
        proof.into_iter().fold(request, |request, proof| request.header("bailiwick-proof", proof))
    };
    ensure!(stream(None).send().await?.status() == 401, "a stream without a proof");
    let wrong = jane.proof(Says { body: "", ..Says::post("") })?;
    ensure!(stream(Some(wrong)).send().await?.status() == 401, "a stream with a proof of a POST");
    let right = jane.proof(Says { method: "GET", ..Says::post("") })?;
    let opened = stream(Some(right)).send().await?;
    ensure!(opened.status() == 200, "{:?}", opened.text().await);
    let other = McpClient { session: Some(session), ..world.bearer(0)? };
    let listed = other.legacy("tools/list", Value::Object(serde_json::Map::new())).await?;
    ensure!(listed.status == 404, "an unbound token goes on with a bound one's session: {}", listed.text);
    Ok(())
}
