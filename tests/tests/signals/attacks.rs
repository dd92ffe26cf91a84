//! Signals that nobody honest sends: none has an effect, and each is answered by RFC 8935's words.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

use super::*;
use crate::transmitter::{AUDIENCE, PUSH_SECRET, now};

/// Claims with another member; `null` takes it away.
fn with(mut claims: Value, name: &str, value: Value) -> Value {
    match value {
        Value::Null => drop(claims.as_object_mut().and_then(|members| members.remove(name))),
        value => claims[name] = value,
    }
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_signals_are_refused_by_their_words_and_do_nothing() -> Result<()> {
    let world = World::start(Shape::Processes, true, false).await?;
    let (node, clients) = (world.node().await?, world.clients().await?);
    let said = &world.transmitter;
    let honest = || said.claims(&said.jti(), &session_revoked(), JANE, json!({}));
    let set = |name: &str, value: Value| said.sign(&with(honest(), name, value));
    let two = json!({session_revoked(): {}, format!("{CAEP}/credential-change"): {}});
    let none = {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.", part(json!({"alg": "none", "typ": "secevent+jwt"})), part(honest()))
    };
    let id_token = with(with(with(honest(), "sub", json!(JANE)), "exp", json!(now() + 300)), "email", json!(JANE));
    let table = [
        ("with exp", set("exp", json!(now() + 300))?, "invalid_request"),
        ("with sub", set("sub", json!(JANE))?, "invalid_request"),
        ("another issuer", set("iss", json!("https://evil.example"))?, "invalid_issuer"),
        ("the provider's own issuer", set("iss", json!("http://127.0.0.1:9/acme"))?, "invalid_issuer"),
        ("another audience", set("aud", json!("https://other.example"))?, "invalid_audience"),
        ("two audiences", set("aud", json!([AUDIENCE, "https://other.example"]))?, "invalid_audience"),
        ("no audience", set("aud", Value::Null)?, "invalid_request"),
        ("no jti", set("jti", Value::Null)?, "invalid_request"),
        ("no iat", set("iat", Value::Null)?, "invalid_request"),
        ("from the future", set("iat", json!(now() + 3_600))?, "invalid_request"),
        ("from long ago", set("iat", json!(now() - 8 * 24 * 3_600))?, "invalid_request"),
        ("two events", set("events", two)?, "invalid_request"),
        ("no event", set("events", json!({}))?, "invalid_request"),
        ("no subject", set("sub_id", Value::Null)?, "invalid_request"),
        ("an unknown key", said.sign_unknown(&honest(), "k2")?, "invalid_key"),
        ("another key of the same name", said.sign_unknown(&honest(), "k1")?, "invalid_key"),
        ("unsigned", none, "invalid_key"),
        ("HMAC with the public key", said.sign_hmac(&honest())?, "invalid_key"),
        ("an ID token", said.sign_typed(&id_token, "JWT")?, "invalid_request"),
        ("an ID-JAG", said.sign_typed(&honest(), "oauth-id-jag+jwt")?, "invalid_request"),
        ("an access token", said.sign_typed(&honest(), "at+jwt")?, "invalid_request"),
        ("giant", set("padding", json!("x".repeat(20_000)))?, "invalid_request"),
        ("no token", "hello".to_owned(), "invalid_request"),
        ("nothing", String::new(), "invalid_request"),
    ];
    for (what, jwt, word) in table {
        let answer = said.push(&node, &jwt).await?;
        ensure!(answer.status == 400 && answer.body["err"] == word, "{what}: {} {}", answer.status, answer.text);
        let description = answer.body["description"].as_str().unwrap_or_default();
        ensure!(
            !description.is_empty() && !description.contains("evil") && !description.contains(JANE),
            "{description}"
        );
    }
    are_permitted(&clients).await?;
    let log = world.deployment.log();
    ensure!(!log.contains(PUSH_SECRET) && !log.contains("evil.example"), "what was sent is in the log");
    // And an honest one has its effect after all of them.
    said.pushed(&node, &session_revoked(), JANE, json!({})).await?;
    are_refused(&clients).await?;
    ensure!(world.events("signal_received", 1).await?.len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_secret_nothing_is_read_and_nobody_learns_who_is_there() -> Result<()> {
    let world = World::start(Shape::Processes, true, false).await?;
    let (node, clients) = (world.node().await?, world.clients().await?);
    let said = &world.transmitter;
    let jwt = said.sign(&said.claims(&said.jti(), &session_revoked(), JANE, json!({})))?;
    let kind = "application/secevent+jwt";
    let mut answers = Vec::new();
    for (provider, authorization) in [
        ("acme", "Bearer wrong".to_owned()),
        ("acme", String::new()),
        ("acme", format!("Basic {PUSH_SECRET}")),
        ("acme", PUSH_SECRET.to_owned()),
        ("acme", format!("Bearer {PUSH_SECRET}x")),
        ("nobody", format!("Bearer {PUSH_SECRET}")),
    ] {
        let answer = said.push_with(&node, provider, &authorization, kind, &jwt).await?;
        ensure!(answer.status == 400, "{provider} {authorization}: {} {}", answer.status, answer.text);
        answers.push(answer.text);
    }
    ensure!(answers.iter().all(|answer| answer.contains("authentication_failed")), "{answers:?}");
    answers.dedup();
    ensure!(answers.len() == 1, "the answers differ: {answers:?}");
    let form = said.push_with(&node, "acme", &format!("Bearer {PUSH_SECRET}"), "application/jwt", &jwt).await?;
    ensure!(form.status == 400 && form.body["err"] == "invalid_request", "{}", form.text);
    are_permitted(&clients).await?;
    // Each is counted, for whoever is to be alarmed.
    let other =
        with(said.claims(&said.jti(), &session_revoked(), JANE, json!({})), "aud", json!("https://else.example"));
    ensure!(said.push(&node, &said.sign(&other)?).await?.status == 400);
    let metrics = world.deployment.metrics_of("control-plane-1").await?;
    for (outcome, count) in [("authentication_failed", 6), ("invalid_request", 1), ("invalid_audience", 1)] {
        let line = format!("bailiwick_control_plane_signals_total{{event=\"none\",outcome=\"{outcome}\"}} {count}");
        ensure!(metrics.contains(&line), "{line}\n{metrics}");
    }
    ensure!(metrics.contains("bailiwick_control_plane_signal_verified_at 0"), "{metrics}");
    // Whoever goes on guessing waits.
    let mut turned_away = false;
    for _ in 0..200 {
        let answer = said.push_with(&node, "acme", "Bearer wrong", kind, &jwt).await?;
        turned_away |= answer.status == 429;
        if turned_away {
            break;
        }
    }
    ensure!(turned_away, "guessing goes on without end");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_comes_again_by_whichever_way_acts_once() -> Result<()> {
    let world = World::start(Shape::Processes, true, true).await?;
    let (node, before) = (world.node().await?, world.clients().await?);
    let said = &world.transmitter;
    let jti = said.jti();
    let jwt = said.sign(&said.claims(&jti, &session_revoked(), JANE, json!({})))?;
    ensure!(said.push(&node, &jwt).await?.status == 202);
    are_refused(&before).await?;
    let after = world.clients().await?;
    ensure!(said.push(&node, &jwt).await?.status == 202);
    said.offer(&jti, &jwt);
    eventually("it is acknowledged", async || said.said().acknowledged.contains(&jti).then_some(())).await?;
    are_permitted(&after).await?;
    // A signal of after them all, so that everything before it is on record.
    said.pushed(&node, &session_revoked(), "nobody@example.com", json!({})).await?;
    let received = world.events("signal_received", 2).await?;
    ensure!(received.iter().filter(|event| event["jti"] == jti.as_str()).count() == 1, "{received:?}");
    ensure!(world.events("sessions_ended", 1).await?.len() == 1);
    Ok(())
}
