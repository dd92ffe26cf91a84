//! Proofs that nobody honest makes, at the token endpoint: each is refused, and uses nothing up.

use anyhow::{Context, Result};
use aws_lc_rs::hmac;
use bailiwick_tests::prover::{Prover, now};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{ENVELOPE, is_of_key, is_refused, more, refreshing};
use crate::{CLIENT, World, text};

/// An object with other members; null takes one away.
fn changed(mut object: Value, members: &Value) -> Value {
    for (name, value) in members.as_object().into_iter().flatten() {
        match value {
            Value::Null => object.as_object_mut().and_then(|object| object.remove(name)),
            value => object.as_object_mut().and_then(|object| object.insert(name.clone(), value.clone())),
        };
    }
    object
}

#[tokio::test]
async fn forged_proofs_get_no_token_and_use_nothing_up() -> Result<()> {
    let world = World::start().await?;
    let (own, other) = (Prover::new()?, Prover::new()?);
    let (url, nonce) = (world.token_url(), world.nonce().await?);
    let code = world.code(CLIENT, "retrieval").await?;
    let form = world.redeeming(CLIENT, &code);
    let with = |header: Value, claims: Value| -> Result<String> {
        let honest = Prover::claims("POST", &url, Some(&nonce))?;
        Ok(own.sign(&changed(own.header(), &header), &changed(honest, &claims)))
    };
    let b64 = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let hs256 = {
        let header = json!({"typ": "dpop+jwt", "alg": "HS256", "jwk": own.jwk()});
        let message = format!("{}.{}", b64(&header), b64(&Prover::claims("POST", &url, Some(&nonce))?));
        let secret = URL_SAFE_NO_PAD.decode(text(&own.jwk(), "x"))?;
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
    };
    let none = {
        let header = json!({"typ": "dpop+jwt", "alg": "none", "jwk": own.jwk()});
        format!("{}.{}.", b64(&header), b64(&Prover::claims("POST", &url, Some(&nonce))?))
    };
    let private = changed(own.jwk(), &json!({"d": "AAAA"}));
    let attacks = [
        ("alg none", none),
        ("the public key as an HMAC secret", hs256),
        ("a private key in the header", with(json!({"jwk": private}), json!({}))?),
        ("another's key in the header", with(json!({"jwk": other.jwk()}), json!({}))?),
        ("a key by its place", with(json!({"jku": "https://evil.example/jwks"}), json!({}))?),
        ("another type", with(json!({"typ": "JWT"}), json!({}))?),
        ("another method", with(json!({}), json!({"htm": "GET"}))?),
        ("another endpoint", with(json!({}), json!({"htu": format!("{}/oauth/revoke", world.issuer)}))?),
        ("a data plane", with(json!({}), json!({"htu": world.resource}))?),
        ("another server", with(json!({}), json!({"htu": "https://as.example/oauth/token"}))?),
        ("an hour ago", with(json!({}), json!({"iat": now()? - 3_600}))?),
        ("in an hour", with(json!({}), json!({"iat": now()? + 3_600}))?),
        ("without jti", with(json!({}), json!({"jti": null}))?),
        ("for an access token", with(json!({}), json!({"ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"}))?),
        (
            "for another body",
            with(json!({}), json!({"content_digest": "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:"}))?,
        ),
        ("nothing", "x".to_owned()),
        ("two in one", format!("{0}, {0}", with(json!({}), json!({}))?)),
        ("a signature changed", with(json!({}), json!({}))? + "AAAA"),
        ("very long", "a".repeat(20_000)),
    ];
    for (what, proof) in &attacks {
        let answer = world.proving(&[proof], &form).await?;
        is_refused(&answer, "invalid_dpop_proof", what);
    }
    let (one, two) = (with(json!({}), json!({}))?, with(json!({}), json!({}))?);
    is_refused(&world.proving(&[&one, &two], &form).await?, "invalid_dpop_proof", "two proofs");
    let both = world.proving(&[&one], &more(form.clone(), &[ENVELOPE])).await?;
    is_refused(&both, "invalid_request", "both ways at once");
    for (what, nonce) in [
        ("no nonce", None),
        ("a made-up nonce", Some("eyJub25jZSI6MX0".to_owned())),
        ("a changed nonce", Some(format!("A{}", nonce.get(1..).context("a nonce")?))),
    ] {
        let answer = world.proving(&[&own.proof("POST", &url, nonce.as_deref())?], &form).await?;
        is_refused(&answer, "use_dpop_nonce", what);
        super::nonce(&answer)?;
    }
    is_of_key(&world.proving(&[&two], &form).await?, &own, "the code is as good as before")?;
    Ok(())
}

#[tokio::test]
async fn a_proof_counts_once() -> Result<()> {
    let world = World::start().await?;
    let own = Prover::new()?;
    let proof = own.proof("POST", &world.token_url(), Some(&world.nonce().await?))?;
    let code = world.code(CLIENT, "retrieval").await?;
    let first = is_of_key(&world.proving(&[&proof], &world.redeeming(CLIENT, &code)).await?, &own, "first")?;
    let form = refreshing(CLIENT, text(&first, "refresh_token"));
    let again = world.proving(&[&proof], &form).await?;
    is_refused(&again, "invalid_dpop_proof", "again");
    // Signatures of another form, or a nonce of another time, make no other proof of it.
    let payload = URL_SAFE_NO_PAD.decode(proof.split('.').nth(1).context("claims")?)?;
    let mut claims: Value = serde_json::from_slice(&payload)?;
    claims["nonce"] = json!(world.nonce().await?);
    let renewed = own.sign(&own.header(), &claims);
    is_refused(&world.proving(&[&renewed], &form).await?, "invalid_dpop_proof", "the same jti");
    is_of_key(&world.with_key(&own, &form).await?, &own, "another proof")?;
    Ok(())
}

#[tokio::test]
async fn a_code_for_a_key_is_of_no_use_to_whoever_has_another() -> Result<()> {
    let world = World::start().await?;
    let (own, thief) = (Prover::new()?, Prover::new()?);
    let asked = async |jkt: &str| -> Result<(bailiwick_tests::visitor::Visitor, bailiwick_tests::visitor::Page)> {
        let mut parameters = world.request(CLIENT);
        parameters.push(("dpop_jkt", jkt.to_owned()));
        let mut jane = bailiwick_tests::visitor::Visitor::new()?;
        let page = jane.go(&world.authorize_url(&parameters)).await?;
        Ok((jane, page))
    };
    let (_, page) = asked("short").await?;
    assert_eq!(page.parameter("error")?.as_deref(), Some("invalid_request"), "{:?}", page.elsewhere);
    let (mut jane, page) = asked(&own.jkt()).await?;
    let page = jane.sign_in(&page, crate::JANE, &world.code).await?;
    let page = world.answer(&mut jane, &page, &[("level", "retrieval"), ("decision", "allow")]).await?;
    let code = page.parameter("code")?.context("a code")?;
    let form = world.redeeming(CLIENT, &code);
    is_refused(&world.post("/oauth/token", &form).await?, "invalid_grant", "without a proof");
    is_refused(&world.with_key(&thief, &form).await?, "invalid_grant", "with another key");
    is_refused(&world.post("/oauth/token", &more(form.clone(), &[ENVELOPE])).await?, "invalid_grant", "another way");
    is_of_key(&world.with_key(&own, &form).await?, &own, "with the key")?;
    Ok(())
}

#[tokio::test]
async fn a_stolen_refresh_token_is_of_no_use_and_does_not_end_the_grant() -> Result<()> {
    let world = World::start().await?;
    let (own, thief) = (Prover::new()?, Prover::new()?);
    let code = world.code(CLIENT, "retrieval").await?;
    let first = is_of_key(&world.with_key(&own, &world.redeeming(CLIENT, &code)).await?, &own, "code")?;
    let second = world.with_key(&own, &refreshing(CLIENT, text(&first, "refresh_token"))).await?;
    let second = is_of_key(&second, &own, "refresh")?;
    // The present one, and one that was replaced long ago.
    for token in [text(&second, "refresh_token"), text(&first, "refresh_token")] {
        is_refused(&world.with_key(&thief, &refreshing(CLIENT, token)).await?, "invalid_grant", "the thief's key");
        is_refused(&world.refresh(CLIENT, token).await?, "invalid_grant", "no key");
    }
    let third = world.with_key(&own, &refreshing(CLIENT, text(&second, "refresh_token"))).await?;
    is_of_key(&third, &own, "its client goes on")?;
    Ok(())
}

#[tokio::test]
async fn a_first_nonce_is_no_refusal_on_record() -> Result<()> {
    let world = World::start().await?;
    world.nonce().await?;
    let own = Prover::new()?;
    let proof = own.proof("GET", &world.token_url(), None)?;
    is_refused(&world.proving(&[&proof], &refreshing(CLIENT, "x")).await?, "invalid_dpop_proof", "another method");
    let event = world.event("request_refused").await?;
    let records = world.deployment.audit(&["--kind", "control.event", "--limit", "200"])?;
    let refused: Vec<_> =
        records.iter().map(|record| &record["control"]).filter(|event| event["type"] == "request_refused").collect();
    assert!(refused.iter().any(|event| event["error"] == "invalid_dpop_proof"), "{refused:?}");
    assert!(refused.iter().all(|event| event["error"] != "use_dpop_nonce"), "the nonce came before: {refused:?}");
    assert!(!event.to_string().contains(&proof), "{event}");
    Ok(())
}
