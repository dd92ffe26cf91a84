//! Every grant, bound both ways: codes, refresh tokens, client credentials, token exchange, administrators' tokens.
//! Identity assertions: `tests/ema`. Workloads are client credentials here.

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use bailiwick_tests::{Answer, manifests::manifest, prover::Prover};
use serde_json::{Value, json};

use super::{ENVELOPE, claims, is_of_key, is_refused, is_with_key, more, refreshing};
use crate::{AGENT, CLIENT, JANE, REDIRECT, World, client, text};

const SECRET: &str = "1e9bd2a2c0f04f6a8c5d";
const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

fn hash() -> String {
    hex::encode(digest::digest(&digest::SHA256, SECRET.as_bytes()))
}

/// A client of Jane's that proves who it is.
fn portal(world: &World) -> Result<()> {
    let spec = json!({"agent": AGENT, "auth": "client_secret", "secret_sha256": hash(), "redirect_uris": [REDIRECT]});
    world.deployment.apply(&manifest("Client", "portal", &spec.to_string()))?;
    Ok(())
}

#[tokio::test]
async fn metadata_says_how_tokens_are_bound() -> Result<()> {
    let world = World::start().await?;
    let url = format!("{}/.well-known/oauth-authorization-server", world.issuer);
    let metadata = Answer::to(world.http.get(url)).await?.body;
    assert_eq!(metadata["bailiwick_binding_algs_supported"], json!(["aes-256-gcm"]));
    assert_eq!(metadata["dpop_signing_alg_values_supported"], json!(["ES256", "EdDSA", "PS256", "RS256"]));
    Ok(())
}

#[tokio::test]
async fn a_code_and_its_refresh_tokens_give_tokens_with_a_key_each() -> Result<()> {
    let world = World::start().await?;
    let code = world.code(CLIENT, "retrieval").await?;
    let unknown =
        world.post("/oauth/token", &more(world.redeeming(CLIENT, &code), &[("binding_alg", "rot13")])).await?;
    is_refused(&unknown, "invalid_request", "an unknown way");
    let first = world.post("/oauth/token", &more(world.redeeming(CLIENT, &code), &[ENVELOPE])).await?;
    let mut keys = vec![is_with_key(&first, "code")?];
    let bearer = world.refresh(CLIENT, text(&first.body, "refresh_token")).await?;
    is_refused(&bearer, "invalid_grant", "a grant that was bound gives nothing that anybody can use");
    let mut token = text(&first.body, "refresh_token").to_owned();
    for _ in 0..2 {
        let next = world.post("/oauth/token", &more(refreshing(CLIENT, &token), &[ENVELOPE])).await?;
        keys.push(is_with_key(&next, "refresh")?);
        token = text(&next.body, "refresh_token").to_owned();
    }
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3, "each token has its own");
    let event = world.event("grant_bound").await?;
    assert_eq!(event["bound"], json!({"by": "envelope"}), "{event}");
    let records = world.deployment.audit(&["--limit", "500"])?;
    let told = serde_json::to_string(&records)? + &world.deployment.log();
    for secret in keys.iter().map(String::as_str).chain([text(&first.body, "access_token"), token.as_str()]) {
        assert!(!told.contains(secret), "a secret is in a record or a log");
    }
    Ok(())
}

#[tokio::test]
async fn a_code_and_its_refresh_tokens_give_tokens_of_the_clients_key_and_of_no_other() -> Result<()> {
    let world = World::start().await?;
    let (own, other) = (Prover::new()?, Prover::new()?);
    let code = world.code(CLIENT, "retrieval").await?;
    let first = is_of_key(&world.with_key(&own, &world.redeeming(CLIENT, &code)).await?, &own, "code")?;
    let token = text(&first, "refresh_token");
    for (what, answer) in [
        ("no proof", world.refresh(CLIENT, token).await?),
        ("another key", world.with_key(&other, &refreshing(CLIENT, token)).await?),
        ("a key given out", world.post("/oauth/token", &more(refreshing(CLIENT, token), &[ENVELOPE])).await?),
    ] {
        is_refused(&answer, "invalid_grant", what);
        assert!(text(&answer.body, "error_description").contains("bound to a key"), "{what}: {}", answer.text);
    }
    is_of_key(&world.with_key(&own, &refreshing(CLIENT, token)).await?, &own, "refresh")?;
    let event = world.event("grant_bound").await?;
    assert_eq!(event["bound"], json!({"by": "key", "jkt": own.jkt()}), "{event}");
    Ok(())
}

#[tokio::test]
async fn a_client_that_proves_who_it_is_changes_keys_and_never_goes_back() -> Result<()> {
    let world = World::start().await?;
    portal(&world)?;
    let secret = ("client_secret", SECRET);
    let (one, other) = (Prover::new()?, Prover::new()?);
    let code = world.code("portal", "retrieval").await?;
    let first = world.with_key(&one, &more(world.redeeming("portal", &code), &[secret])).await?;
    let first = is_of_key(&first, &one, "code")?;
    let token = text(&first, "refresh_token");
    let bearer = world.post("/oauth/token", &more(refreshing("portal", token), &[secret])).await?;
    is_refused(&bearer, "invalid_grant", "without a key");
    let second = world.with_key(&other, &more(refreshing("portal", token), &[secret])).await?;
    let second = is_of_key(&second, &other, "another key of the same client")?;
    let token = text(&second, "refresh_token");
    let third = world.post("/oauth/token", &more(refreshing("portal", token), &[secret, ENVELOPE])).await?;
    is_with_key(&third, "another way")?;
    let told = |token: &str| {
        let form = [("client_id", "portal"), secret, ("token", token)].map(|(a, b)| (a.to_owned(), b.to_owned()));
        Answer::to(world.http.post(format!("{}/oauth/introspect", world.issuer)).form(&form))
    };
    let of_key = told(text(&second, "access_token")).await?.body;
    assert_eq!((&of_key["token_type"], &of_key["cnf"]), (&json!("DPoP"), &json!({"jkt": other.jkt()})), "{of_key}");
    let with_key = told(text(&third.body, "access_token")).await?.body;
    assert_eq!((&with_key["token_type"], &with_key["binding_alg"]), (&json!("Bearer"), &json!("aes-256-gcm")));
    assert!(with_key.get("cnf").is_none() && with_key.get("binding").is_none(), "{with_key}");
    Ok(())
}

#[tokio::test]
async fn clients_without_a_person_get_bound_tokens() -> Result<()> {
    let world = World::start().await?;
    let key = Prover::new()?;
    let mut jwk = key.jwk();
    jwk["alg"] = json!("EdDSA");
    let spec = json!({
        "agent": AGENT, "auth": "private_key_jwt", "jwks": json!({"keys": [jwk]}).to_string(),
        "headless": {"virtual_servers": ["shop"]},
    });
    world.deployment.apply(&manifest("Client", "nightly", &spec.to_string()))?;
    let assertion = || -> Result<String> {
        let mut claims = Prover::claims("", "", None)?;
        let exp = claims["iat"].as_i64().context("iat")? + 60;
        claims = json!({"iss": "nightly", "sub": "nightly", "aud": world.issuer, "jti": claims["jti"], "exp": exp});
        Ok(key.sign(&json!({"alg": "EdDSA"}), &claims))
    };
    let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
    let form = |signed: &str, with: &[(&str, &str)]| -> Vec<(String, String)> {
        let usual =
            [("grant_type", "client_credentials"), ("client_assertion_type", kind), ("client_assertion", signed)];
        usual.iter().chain(with).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    };
    let ask = async |with: &[(&str, &str)], prover: Option<&Prover>| -> Result<Answer> {
        let form = form(&assertion()?, with);
        let form: Vec<_> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match prover {
            Some(prover) => world.with_key(prover, &form).await,
            None => world.post("/oauth/token", &form).await,
        }
    };
    is_with_key(&ask(&[ENVELOPE], None).await?, "client credentials")?;
    let prover = Prover::new()?;
    is_of_key(&ask(&[], Some(&prover)).await?, &prover, "client credentials")?;
    let bearer = ask(&[], None).await?;
    assert_eq!(bearer.body["token_type"], "Bearer", "who proves itself anew each time is not held to it");

    // An assertion is not used up by the first answer, which brings the nonce.
    let signed = assertion()?;
    let form = form(&signed, &[]);
    let form: Vec<_> = form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let first = world.proving(&[&prover.proof("POST", &world.token_url(), None)?], &form).await?;
    is_refused(&first, "use_dpop_nonce", "no nonce yet");
    let nonce = super::nonce(&first)?;
    let second = world.proving(&[&prover.proof("POST", &world.token_url(), Some(&nonce))?], &form).await?;
    is_of_key(&second, &prover, "with the nonce it was given")?;
    Ok(())
}

#[tokio::test]
async fn a_bound_token_is_handed_on_by_who_holds_its_key_alone() -> Result<()> {
    let world = World::start().await?;
    let researcher = format!("{{owner: {JANE}, project: research, ceiling: destructive}}");
    let spec = json!({"agent": "researcher", "auth": "client_secret", "secret_sha256": hash(), "exchange": {"agents": [AGENT]}});
    world
        .deployment
        .apply(&(manifest("Agent", "researcher", &researcher) + &manifest("Client", "rc", &spec.to_string())))?;
    let exchanging = |token: &str| -> Vec<(String, String)> {
        let form = [
            ("grant_type", EXCHANGE),
            ("client_id", "rc"),
            ("client_secret", SECRET),
            ("subject_token", token),
            ("subject_token_type", ACCESS_TOKEN),
        ];
        form.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
    };
    let ask = async |token: &Value, with: &[(&str, &str)], prover: Option<&Prover>| -> Result<Answer> {
        let form = exchanging(text(token, "access_token"));
        let form: Vec<_> = form.iter().map(|(a, b)| (a.as_str(), b.as_str())).chain(with.iter().copied()).collect();
        match prover {
            Some(prover) => world.with_key(prover, &form).await,
            None => world.post("/oauth/token", &form).await,
        }
    };
    let (own, other) = (Prover::new()?, Prover::new()?);
    let bearer = world.tokens(CLIENT, "retrieval").await?;
    is_with_key(&ask(&bearer, &[ENVELOPE], None).await?, "exchange")?;
    is_of_key(&ask(&bearer, &[], Some(&own)).await?, &own, "exchange")?;

    let code = world.code(CLIENT, "retrieval").await?;
    let of_key = is_of_key(&world.with_key(&own, &world.redeeming(CLIENT, &code)).await?, &own, "code")?;
    for (what, answer) in [
        ("without its key", ask(&of_key, &[], None).await?),
        ("with another key", ask(&of_key, &[], Some(&other)).await?),
        ("with a key given out", ask(&of_key, &[ENVELOPE], None).await?),
    ] {
        is_refused(&answer, "invalid_request", what);
    }
    is_of_key(&ask(&of_key, &[], Some(&own)).await?, &own, "with its key")?;

    let code = world.code(CLIENT, "retrieval").await?;
    let with_key = world.post("/oauth/token", &more(world.redeeming(CLIENT, &code), &[ENVELOPE])).await?.body;
    for prover in [None, Some(&own)] {
        let refused = ask(&with_key, &[], prover).await?;
        is_refused(&refused, "invalid_request", "bound to a key that was given out");
        assert!(text(&refused.body, "error_description").contains("given out with it"), "{}", refused.text);
    }
    Ok(())
}

#[tokio::test]
async fn an_administrator_issues_a_bound_token() -> Result<()> {
    let world = World::start().await?;
    let issue = ["token", "issue", "--user", JANE, "--agent", AGENT, "--virtual-server", "shop"];
    let bound: Value =
        serde_json::from_str(&world.deployment.cli_ok(&[&issue[..], &["--bind", "-o", "json"]].concat())?)?;
    assert_eq!((text(&bound, "binding_alg"), text(&bound, "binding_key").len()), ("aes-256-gcm", 43), "{bound}");
    assert_eq!(claims(&bound)?["binding_alg"], "aes-256-gcm");
    let plain: Value = serde_json::from_str(&world.deployment.cli_ok(&[&issue[..], &["-o", "json"]].concat())?)?;
    assert!(plain.get("binding_key").is_none() && claims(&plain)?.get("binding").is_none(), "{plain}");
    let key = text(&bound, "binding_key");
    ensure!(!world.deployment.log().contains(key), "the key is in a log");
    Ok(())
}

#[tokio::test]
async fn a_client_whose_tokens_must_be_bound_gets_no_other() -> Result<()> {
    let world = World::start().await?;
    let prover = Prover::new()?;
    for (demand, parameter, proof) in [("any", true, true), ("dpop", false, true), ("envelope", true, false)] {
        let name = format!("strict-{demand}");
        world.deployment.apply(&client(&name, &format!(", binding: {demand}")))?;
        let code = world.code(&name, "retrieval").await?;
        let bearer = world.redeem(&name, &code).await?;
        is_refused(&bearer, "invalid_request", demand);
        assert!(text(&bearer.body, "error_description").contains("must be bound"), "{}", bearer.text);
        if !parameter {
            let form = more(world.redeeming(&name, &code), &[ENVELOPE]);
            is_refused(&world.post("/oauth/token", &form).await?, "invalid_request", demand);
        }
        if !proof {
            is_refused(&world.with_key(&prover, &world.redeeming(&name, &code)).await?, "invalid_request", demand);
        }
        // The code was not used up by any of that.
        let given = match proof {
            true => world.with_key(&prover, &world.redeeming(&name, &code)).await?,
            false => world.post("/oauth/token", &more(world.redeeming(&name, &code), &[ENVELOPE])).await?,
        };
        assert_eq!(given.status, 200, "{demand}: {}", given.text);
    }
    Ok(())
}

#[tokio::test]
async fn a_program_that_registers_itself_may_demand_it() -> Result<()> {
    let world = World::start().await?;
    let agent = format!("{{owner: {JANE}, project: shop, ceiling: destructive, clients: {{self_registered: true}}}}");
    world.deployment.apply(&manifest("Agent", AGENT, &agent))?;
    let metadata = json!({
        "redirect_uris": [REDIRECT], "token_endpoint_auth_method": "none", "dpop_bound_access_tokens": true,
    });
    let registered = Answer::to(world.http.post(format!("{}/oauth/register", world.issuer)).json(&metadata)).await?;
    assert_eq!(registered.body["dpop_bound_access_tokens"], true, "{}", registered.text);
    let id = text(&registered.body, "client_id").to_owned();
    let code = world.code(&id, "retrieval").await?;
    is_refused(&world.redeem(&id, &code).await?, "invalid_request", "without a proof");
    let prover = Prover::new()?;
    is_of_key(&world.with_key(&prover, &world.redeeming(&id, &code)).await?, &prover, "with one")?;
    Ok(())
}
