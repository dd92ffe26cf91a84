//! One agent hands work on to another (token exchange, RFC 8693), end to end: what its token then does at the data
//! plane, what auditors see of it, that it ends with what it came of, and what nobody is given.

use std::{
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::{
    digest,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use bailiwick_tests::{Answer, deployment::repository, eventually, manifests::manifest, peers::place};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{AGENT, CLIENT, JANE, World, text};

const EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";
const SECRET: &str = "1e9bd2a2c0f04f6a8c5d";
const SIGNED: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A client with the secret, of the agent that has its name without `-client`, which takes over from others.
fn taking_over(agent: &str, from: &[&str]) -> String {
    let hash = hex::encode(digest::digest(&digest::SHA256, SECRET.as_bytes()));
    let mut spec = json!({"agent": agent, "auth": "client_secret", "secret_sha256": hash});
    if !from.is_empty() {
        spec["exchange"] = json!({"agents": from});
    }
    manifest("Client", &format!("{agent}-client"), &spec.to_string())
}

fn agent(name: &str) -> String {
    manifest("Agent", name, &format!("{{owner: {JANE}, project: {name}s, ceiling: destructive}}"))
}

/// A researcher takes over from Jane's assistant, a reader from that, a writer from the reader, a fifth from it.
async fn start() -> Result<World> {
    let world = World::start().await?;
    let chain = [AGENT, "researcher", "reader", "writer", "fifth"];
    let agents: String = chain[1..].iter().map(|name| agent(name)).collect();
    let clients: String = chain.windows(2).map(|pair| taking_over(pair[1], &[pair[0]])).collect();
    world.deployment.apply(&(agents + &agent("stranger") + &clients + &taking_over("stranger", &["reader"])))?;
    Ok(world)
}

/// What an agent's client asks, with this token.
async fn ask(world: &World, agent: &str, token: &str, more: &[(&str, &str)]) -> Result<Answer> {
    let client = format!("{agent}-client");
    let usual = [
        ("grant_type", EXCHANGE),
        ("client_id", &client),
        ("client_secret", SECRET),
        ("subject_token", token),
        ("subject_token_type", ACCESS_TOKEN),
    ];
    let kept = usual.into_iter().filter(|(name, _)| !more.iter().any(|(known, _)| known == name));
    let form: Vec<_> = kept.chain(more.iter().copied()).filter(|(_, value)| !value.is_empty()).collect();
    world.post("/oauth/token", &form).await
}

/// The same, which gives a token.
async fn hand_on(world: &World, agent: &str, from: &Value, more: &[(&str, &str)]) -> Result<Value> {
    let answer = ask(world, agent, text(from, "access_token"), more).await?;
    ensure!(answer.status == 200, "{agent}: {}: {}", answer.status, answer.text);
    Ok(answer.body)
}

fn claims(token: &Value) -> Result<Value> {
    let payload = text(token, "access_token").split('.').nth(1).context("no JWT")?;
    Ok(serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?)
}

#[tokio::test]
async fn an_agent_acts_for_another_and_every_call_says_through_whom() -> Result<()> {
    let world = start().await?;
    let assistants = world.tokens(CLIENT, "transactional").await?;
    let given = hand_on(&world, "researcher", &assistants, &[("resource", &world.resource)]).await?;
    assert_eq!((text(&given, "issued_token_type"), text(&given, "token_type")), (ACCESS_TOKEN, "Bearer"));
    assert_eq!(text(&given, "scope"), "mcp:write");
    assert!(given["refresh_token"].is_null() && given["expires_in"].as_u64().is_some_and(|it| it <= 600), "{given}");
    let (own, above) = (claims(&given)?, claims(&assistants)?);
    assert_eq!(
        (&own["sub"], &own["agent_sub"], &own["client_id"]),
        (&json!(JANE), &json!("researcher"), &json!("researcher-client"))
    );
    assert_eq!(own["act"], json!({"sub": "researcher", "act": {"sub": AGENT}}));
    assert_eq!((&own["sid"], &own["aud"]), (&above["sid"], &above["aud"]), "one sign-in, one place");
    assert!(own["exp"].as_i64() <= above["exp"].as_i64() && own["consent_id"] != above["consent_id"], "{own}");

    let mcp = world.mcp(&given);
    mcp.until_listed(&["charge", "read"]).await?;
    assert!(mcp.call("charge", json!({})).await?.body["result"].is_object());
    assert_eq!(mcp.call("erase", json!({})).await?.reason(), "consent_level_exceeded");
    let record = eventually("the call's record", async || {
        let calls = world.deployment.audit(&["--kind", "call.intent", "--tool", "charge"]).ok()?;
        calls.into_iter().find(|record| record["client"] == "researcher-client")
    })
    .await?;
    assert_eq!(
        (text(&record, "user"), text(&record, "agent"), text(&record, "project")),
        (JANE, "researcher", "researchers")
    );
    assert_eq!((&record["earlier_agents"], &record["session"]), (&json!([AGENT]), &above["sid"]), "{record}");
    let event = world.event("token_exchanged").await?;
    assert_eq!((&event["jti"], &event["parent"]), (&own["jti"], &above["consent_id"]), "{event}");
    assert_eq!(
        (text(&event, "agent"), &event["earlier_agents"], text(&event, "actor")),
        ("researcher", &json!([AGENT]), "client:researcher-client")
    );
    assert!(!event.to_string().contains(text(&given, "access_token")));

    let request = text(&record, "request_id");
    let told = eventually("the whole story", async || {
        let told = world.deployment.cli_ok(&["explain", request]).ok()?;
        (told.contains("came of") && told.contains("OPS-12") && told.contains("ended ok")).then_some(told)
    })
    .await?;
    for line in [
        format!("who       {JANE}, through researcher (owner {JANE}) and client researcher-client\n"),
        format!("            for {AGENT}, which handed it on\n"),
        format!("why       \"handed on by Agent {AGENT}, under consent {}\"", text(&above, "consent_id")),
        format!("came of   {}\n", text(&above, "consent_id")),
        format!("to {AGENT} through {CLIENT}, on behalf of {JANE}"),
    ] {
        assert!(told.contains(&line), "{line} is not in:\n{told}");
    }
    let shown: Value =
        serde_json::from_str(&world.deployment.cli_ok(&["get", "consent", text(&own, "consent_id"), "-o", "json"])?)?;
    assert!(shown.to_string().contains(text(&above, "consent_id")), "{shown}");
    Ok(())
}

#[tokio::test]
async fn what_ends_a_consent_ends_at_data_planes_what_was_handed_on_of_it() -> Result<()> {
    let world = start().await?;
    let assistants = world.tokens(CLIENT, "retrieval").await?;
    let researchers = hand_on(&world, "researcher", &assistants, &[]).await?;
    let readers = hand_on(&world, "reader", &researchers, &[]).await?;
    for token in [&researchers, &readers] {
        world.mcp(token).until_listed(&["read"]).await?;
        assert!(world.mcp(token).call("read", json!({})).await?.body["result"].is_object());
    }
    // Who is paused hands on nothing, and nobody acts for them meanwhile.
    world.deployment.cli_ok(&["agent", "pause", AGENT, "--reason", "odd calls", "--wait"])?;
    assert_eq!(world.mcp(&readers).call("read", json!({})).await?.reason(), "agent_inactive");
    let refused = ask(&world, "reader", text(&researchers, "access_token"), &[]).await?;
    assert_eq!(text(&refused.body, "error"), "invalid_request", "{}", refused.text);
    world.deployment.cli_ok(&["agent", "resume", AGENT, "--wait"])?;
    eventually("they go on", async || {
        let answer = world.mcp(&readers).call("read", json!({})).await.ok()?;
        answer.body["result"].is_object().then_some(())
    })
    .await?;

    let consent = claims(&assistants)?["consent_id"].as_str().context("a consent")?.to_owned();
    let revoked =
        world.deployment.cli_ok(&["revoke", "consent", &consent, "--reason", "enough", "--wait", "-o", "json"])?;
    for token in [&assistants, &researchers, &readers] {
        assert!(revoked.contains(text(&claims(token)?, "consent_id")), "{revoked}");
        // At once: the answer waited until every data plane held to all of it.
        assert_eq!(world.mcp(token).call("read", json!({})).await?.reason(), "consent_revoked");
    }
    let refused = ask(&world, "reader", text(&researchers, "access_token"), &[]).await?;
    assert_eq!(text(&refused.body, "error"), "invalid_request", "{}", refused.text);

    // A client that gives its own up (RFC 7009) ends what others have of it, and may come again.
    let assistants = world.tokens(CLIENT, "retrieval").await?;
    let researchers = hand_on(&world, "researcher", &assistants, &[]).await?;
    let readers = hand_on(&world, "reader", &researchers, &[]).await?;
    world.mcp(&readers).until_listed(&["read"]).await?;
    let form =
        [("client_id", "researcher-client"), ("client_secret", SECRET), ("token", text(&researchers, "access_token"))];
    assert_eq!(world.post("/oauth/revoke", &form).await?.status, 200);
    eventually("the reader's consent ends at the data plane", async || {
        let answer = world.mcp(&readers).call("read", json!({})).await.ok()?;
        (answer.reason() == "consent_revoked").then_some(())
    })
    .await?;
    assert!(world.mcp(&assistants).call("read", json!({})).await?.body["result"].is_object());
    let again = hand_on(&world, "researcher", &assistants, &[]).await?;
    world.mcp(&again).until_listed(&["read"]).await
}

#[tokio::test]
async fn what_is_handed_on_reaches_no_further_and_not_to_a_fifth_agent() -> Result<()> {
    let world = start().await?;
    let (mut jane, page) = world.asked(CLIENT).await?;
    let narrowed = [("level", "transactional"), ("only", "listed"), ("tool", "shop/charge"), ("decision", "allow")];
    let page = world.answer(&mut jane, &page, &narrowed).await?;
    let code = page.parameter("code")?.context("a code")?;
    let assistants = world.redeem(CLIENT, &code).await?.body;
    let researchers = hand_on(&world, "researcher", &assistants, &[("scope", "mcp:tools")]).await?;
    assert_eq!(text(&researchers, "scope"), "mcp:write", "no wider, whatever is asked for");
    let mcp = world.mcp(&researchers);
    mcp.until_listed(&["charge"]).await?;
    assert!(mcp.call("charge", json!({})).await?.body["result"].is_object());
    assert_eq!(mcp.call("read", json!({})).await?.reason(), "consent_tool_not_listed");

    let more = [("scope", "mcp:read"), ("requested_token_type", JWT), ("subject_token_type", JWT)];
    let readers = hand_on(&world, "reader", &researchers, &more).await?;
    assert_eq!((text(&readers, "scope"), text(&readers, "issued_token_type")), ("mcp:read", JWT));
    let writers = hand_on(&world, "writer", &readers, &[("scope", "mcp:tools")]).await?;
    assert_eq!(text(&writers, "scope"), "mcp:read", "the token that is shown bounds it, not its consent alone");
    let act = &claims(&writers)?["act"];
    let chain = json!({"sub": "writer", "act": {"sub": "reader", "act": {"sub": "researcher", "act": {"sub": AGENT}}}});
    assert_eq!(*act, chain);
    let fifth = ask(&world, "fifth", text(&writers, "access_token"), &[]).await?;
    assert_eq!((fifth.status.as_u16(), text(&fifth.body, "error")), (400, "invalid_request"));
    assert!(text(&fifth.body, "error_description").contains("at most four agents"), "{}", fifth.text);
    let form = [("client_id", "writer-client"), ("client_secret", SECRET), ("token", text(&writers, "access_token"))];
    let told = world.post("/oauth/introspect", &form).await?.body;
    assert_eq!((&told["active"], &told["act"]), (&json!(true), &chain), "{told}");
    Ok(())
}

/// The token with another header or other claims, and the signature it had.
fn forged(token: &str, part: usize, change: impl FnOnce(&mut Value)) -> Result<String> {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut json: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&parts[part])?)?;
    change(&mut json);
    parts[part] = URL_SAFE_NO_PAD.encode(json.to_string());
    Ok(parts.join("."))
}

/// What it is, whose client asks with which token and what else, and the word it is refused with.
type Attempt<'a> = (&'a str, &'a str, &'a str, &'a [(&'a str, &'a str)], &'a str);

#[tokio::test]
async fn nobody_else_is_given_anything() -> Result<()> {
    let world = start().await?;
    let tokens = world.tokens(CLIENT, "transactional").await?;
    let token = text(&tokens, "access_token");
    let none =
        format!("{}.", forged(token, 0, |header| header["alg"] = "none".into())?.rsplit_once('.').context("JWT")?.0);
    let researchers = hand_on(&world, "researcher", &tokens, &[]).await?;
    let (invalid, unauthorized, target) = ("invalid_request", "unauthorized_client", "invalid_target");
    let cases: &[Attempt<'_>] = &[
        (
            "another subject",
            "researcher",
            &forged(token, 1, |claims| claims["sub"] = "eve@example.com".into())?,
            &[],
            invalid,
        ),
        (
            "another issuer",
            "researcher",
            &forged(token, 1, |claims| claims["iss"] = "https://evil.example".into())?,
            &[],
            invalid,
        ),
        ("no signature", "researcher", &none, &[], invalid),
        ("another key", "researcher", &forged(token, 0, |header| header["kid"] = "k".into())?, &[], invalid),
        ("a refresh token", "researcher", text(&tokens, "refresh_token"), &[], invalid),
        ("no token", "researcher", "", &[], invalid),
        ("twice", "researcher", token, &[("scope", "mcp:read"), ("scope", "mcp:read")], invalid),
        (
            "an ID token",
            "researcher",
            token,
            &[("subject_token_type", "urn:ietf:params:oauth:token-type:id_token")],
            invalid,
        ),
        ("no type", "researcher", token, &[("subject_token_type", "")], invalid),
        (
            "for a refresh token",
            "researcher",
            token,
            &[("requested_token_type", "urn:ietf:params:oauth:token-type:refresh_token")],
            invalid,
        ),
        (
            "an actor's token",
            "researcher",
            token,
            &[("actor_token", token), ("actor_token_type", ACCESS_TOKEN)],
            invalid,
        ),
        ("another resource", "researcher", token, &[("resource", "https://evil.example/mcp")], target),
        ("another audience", "researcher", token, &[("audience", "hr")], target),
        ("two resources", "researcher", token, &[("resource", &world.resource), ("audience", &world.resource)], target),
        ("no scope that there is", "researcher", token, &[("scope", "openid")], "invalid_scope"),
        ("a client that takes over from others", "stranger", token, &[], invalid),
        ("and from whom it was handed to", "reader", token, &[], invalid),
        ("to oneself", "researcher", text(&researchers, "access_token"), &[], invalid),
        ("a wrong secret", "researcher", token, &[("client_secret", "guessed")], "invalid_client"),
        ("no proof", "researcher", token, &[("client_secret", "")], "invalid_client"),
        ("a public client", "editor", token, &[("client_id", CLIENT), ("client_secret", "")], "invalid_client"),
    ];
    for (what, agent, token, more, word) in cases {
        let answer = ask(&world, agent, token, more).await?;
        assert_eq!(text(&answer.body, "error"), *word, "{what}: {}", answer.text);
        assert!(answer.body["access_token"].is_null() && !answer.text.contains(SECRET), "{what}: {}", answer.text);
    }
    world.deployment.apply(&taking_over("stranger", &[]))?;
    let answer = ask(&world, "stranger", token, &[]).await?;
    assert_eq!(text(&answer.body, "error"), unauthorized, "{}", answer.text);
    // Whoever may no longer take over gets nothing more.
    world.deployment.apply(&taking_over("researcher", &["reader"]))?;
    assert_eq!(text(&ask(&world, "researcher", token, &[]).await?.body, "error"), invalid);
    // A token that has ended is as good as none.
    let issued = world.deployment.token_for(JANE, AGENT, "shop", "retrieval", "1s")?;
    world.deployment.apply(&taking_over("researcher", &[AGENT]))?;
    eventually("it has expired", async || {
        let answer = ask(&world, "researcher", text(&issued, "access_token"), &[]).await.ok()?;
        (text(&answer.body, "error") == invalid).then_some(())
    })
    .await
}

#[tokio::test]
async fn a_client_that_signs_is_believed_once_and_a_headless_agent_hands_on_too() -> Result<()> {
    let world = start().await?;
    let key = Ed25519KeyPair::generate()?;
    let x = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
    let jwks = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": "k", "x": x}]}).to_string();
    let spec = |agent: &str, more: Value| {
        let mut spec = json!({"agent": agent, "auth": "private_key_jwt", "jwks": jwks});
        spec.as_object_mut().into_iter().for_each(|spec| spec.extend(more.as_object().cloned().unwrap_or_default()));
        spec.to_string()
    };
    let nightly = spec(AGENT, json!({"headless": {"virtual_servers": ["shop"]}}));
    let signing = spec("researcher", json!({"exchange": {"agents": [AGENT]}}));
    world.deployment.apply(&(manifest("Client", "nightly", &nightly) + &manifest("Client", "signing", &signing)))?;
    let sign = |client: &str, jti: &str| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let claims =
            json!({"iss": client, "sub": client, "aud": world.issuer, "jti": jti, "iat": now, "exp": now + 60});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "EdDSA", "typ": "JWT", "kid": "k"})), part(&claims));
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes())))
    };
    let post = async |form: &[(&str, &str)], assertion: &str| {
        let proof = [("client_assertion_type", SIGNED), ("client_assertion", assertion)];
        world.post("/oauth/token", &[form, &proof].concat()).await
    };
    let nightly = post(&[("grant_type", "client_credentials")], &sign("nightly", "j-1")).await?;
    let token = text(&nightly.body, "access_token");
    ensure!(nightly.status == 200, "{}", nightly.text);
    let form = [("grant_type", EXCHANGE), ("subject_token", token), ("subject_token_type", ACCESS_TOKEN)];
    let signed = sign("signing", "j-2");
    let answer = post(&form, &signed).await?;
    ensure!(answer.status == 200, "{}", answer.text);
    world.mcp(&answer.body).until_listed(&["charge", "erase", "read"]).await?;
    let again = post(&form, &signed).await?;
    assert_eq!(text(&again.body, "error"), "invalid_request", "what it signed is good once: {}", again.text);
    let next = post(&form, &sign("signing", "j-3")).await?;
    assert_eq!(claims(&next.body)?["consent_id"], claims(&answer.body)?["consent_id"], "one consent serves them all");
    Ok(())
}

/// The library checks the answer by RFC 6749 and 8693, and the token by RFC 9068.
#[tokio::test(flavor = "multi_thread")]
async fn a_strict_library_exchanges_without_an_objection() -> Result<()> {
    let world = start().await?;
    let assistants = world.tokens(CLIENT, "retrieval").await?;
    let mut command = Command::new(place("PEER_NODE")?);
    command.arg("tests/peers/exchange_client.mjs").args(["--url", &world.resource]);
    command.args(["--client-id", "researcher-client", "--subject", text(&assistants, "access_token")]);
    command.env("CLIENT_SECRET", SECRET).current_dir(repository()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await?;
    let said = String::from_utf8_lossy(&output.stdout);
    let said: Value =
        serde_json::from_str(&said).with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(said["ok"] == true, "{said:#}");
    ensure!(said["claims"]["act"] == json!({"sub": "researcher", "act": {"sub": AGENT}}), "{said:#}");
    ensure!(said["given"]["issued_token_type"] == ACCESS_TOKEN && said["refused"] == "invalid_request", "{said:#}");
    Ok(())
}
