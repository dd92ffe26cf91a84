//! Servers that play tricks, and servers that are otherwise than ours: what the bridge believes, and where it sends
//! what is secret. Each test's server is a `Fake`.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{Bridge, Desk, fake::Fake, visit};

/// Answers the sign-in as an honest server's browser would.
pub(crate) async fn come_back(desk: &Desk, before: usize, issuer: &str) -> Result<()> {
    let url = url::Url::parse(&desk.visit(before).await?)?;
    let parameter =
        |name: &str| url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
    ensure!(parameter("client_id").as_deref() == Some("bailiwick-connect"), "the usual client: {url}");
    ensure!(parameter("code_challenge_method").as_deref() == Some("S256"));
    let mut back = url::Url::parse(&parameter("redirect_uri").context("redirect_uri")?)?;
    let state = parameter("state").context("state")?;
    back.query_pairs_mut().extend_pairs([("code", "c-1"), ("state", &state), ("iss", issuer)]);
    let answer = visit(back.as_str(), &[]).await?;
    ensure!(answer.status == 200, "{}", answer.status);
    Ok(())
}

pub(crate) async fn signed_in(fake: &Fake) -> Result<(Desk, Bridge, Value)> {
    let desk = Desk::new()?;
    let mut bridge = desk.bridge(&fake.url(), &[])?;
    let (called, back) = tokio::join!(bridge.call(1, "x"), come_back(&desk, 0, &fake.base));
    back?;
    let called = called?;
    Ok((desk, bridge, called))
}

/// What a bridge says that never got to a browser.
async fn refused(fake: &Fake) -> Result<String> {
    let desk = Desk::new()?;
    let mut bridge = desk.bridge(&fake.url(), &[])?;
    let answer = bridge.call(1, "x").await?;
    ensure!(desk.visits().is_empty(), "a person was sent somewhere: {:?}", desk.visits());
    Ok(answer["error"]["message"].as_str().with_context(|| answer.to_string())?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_that_is_of_somebody_else_leads_nowhere() -> Result<()> {
    for (resource, server, words) in [
        (json!({"resource": "https://mcp.example/mcp/shop"}), json!({}), "of another resource"),
        (json!({"authorization_servers": ["http://login.example"]}), json!({}), "not to be asked"),
        (json!({"authorization_servers": ["file:///etc/passwd"]}), json!({}), "not to be asked"),
        (json!({"authorization_servers": []}), json!({}), "names no authorization server"),
        (json!({}), json!({"issuer": "https://login.example"}), "of another issuer"),
        (json!({}), json!({"token_endpoint": "http://login.example/token"}), "not to be asked"),
        (json!({}), json!({"authorization_endpoint": "javascript:alert(1)"}), "not to be asked"),
        (json!({}), json!({"code_challenge_methods_supported": ["plain"]}), "PKCE"),
    ] {
        let fake = Fake::start().await?;
        (fake.says().resource, fake.says().server) = (Value::Null, Value::Null);
        fake.says().resource = resource.clone();
        fake.says().server = server.clone();
        let message = refused(&fake).await?;
        ensure!(message.contains(words), "{resource} {server}: {message}");
    }
    let fake = Fake::start().await?;
    fake.says().metadata_at = Some("https://evil.example/.well-known/oauth-protected-resource".to_owned());
    let message = refused(&fake).await?;
    ensure!(message.contains("with another host"), "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_gets_no_token() -> Result<()> {
    let (fake, elsewhere) = (Fake::start().await?, Fake::start().await?);
    fake.says().redirect = Some(elsewhere.url());
    let (_desk, _bridge, answer) = signed_in(&fake).await?;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("it redirects"), "{answer:#}");
    ensure!(elsewhere.says().asked.is_empty(), "{:?}", elsewhere.says().asked);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_of_whatever_it_asks_on_the_way_gets_nothing() -> Result<()> {
    let elsewhere = Fake::start().await?;
    let registration = |fake: &Fake| json!({"registration_endpoint": format!("{}/register", fake.base)});
    for path in [
        "/mcp/shop",
        "/.well-known/oauth-protected-resource/mcp/shop",
        "/.well-known/oauth-authorization-server",
        "/register",
    ] {
        let fake = Fake::start().await?;
        fake.says().server = registration(&fake);
        fake.says().moved = Some((path, format!("{}{path}", elsewhere.base)));
        let message = refused(&fake).await?;
        ensure!(message.contains("it redirects") && fake.asked(path) > 0, "{path}: {message}");
    }
    // The code, and then the refresh token.
    let fake = Fake::start().await?;
    let moved = |path: &'static str| Some((path, format!("{}{path}", elsewhere.base)));
    fake.says().moved = moved("/token");
    let (_desk, _bridge, answer) = signed_in(&fake).await?;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("it redirects") && fake.asked("code=c-1") == 1, "{answer:#}");
    (fake.says().moved, fake.says().expires_in) = (None, 0);
    fake.says().server = json!({"revocation_endpoint": format!("{}/revoke", fake.base)});
    let (desk, mut bridge, answer) = signed_in(&fake).await?;
    ensure!(answer["result"]["by"] == "t-1", "{answer:#}");
    fake.says().moved = moved("/token");
    let answer = bridge.call(2, "x").await?;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("it redirects") && fake.asked("refresh_token=r-1") == 1, "{answer:#}");
    ensure!(bridge.end().await? == 0);
    fake.says().moved = moved("/revoke");
    let (status, text) = desk.run(&["connect", &fake.url(), "--keys", "file", "--sign-out"]).await?;
    ensure!(status == 1 && text.contains("it redirects") && fake.asked("token=r-1") == 2, "{status}: {text}");
    ensure!(elsewhere.says().asked.is_empty(), "{:?}", elsewhere.says().asked);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_renewed_before_it_ends_and_when_it_is_turned_away() -> Result<()> {
    let fake = Fake::start().await?;
    fake.says().expires_in = 0;
    let (desk, mut bridge, called) = signed_in(&fake).await?;
    ensure!(called["result"]["by"] == "t-1", "{called:#}");
    // Its end has come: the next call brings another, and nobody is asked.
    fake.says().expires_in = 600;
    let called = bridge.call(2, "x").await?;
    ensure!(called["result"]["by"] == "t-2", "{called:#}");
    ensure!(bridge.call(3, "x").await?["result"]["by"] == "t-2", "one that is good is kept");
    // Somebody else's bridge has taken the next one, so this one's is turned away.
    let mut other = desk.bridge(&fake.url(), &[])?;
    ensure!(other.call(1, "x").await?["result"]["by"] == "t-3");
    let called = bridge.call(4, "x").await?;
    ensure!(called["result"]["by"] == "t-4", "by the refresh token that the other one left: {called:#}");
    ensure!(fake.asked("grant_type=authorization_code") == 1 && fake.asked("invalid") == 0);
    let forms = fake.asked("resource=http");
    ensure!(forms == fake.asked("POST /token"), "each asks for the one resource");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refresh_token_that_is_refused_asks_the_person() -> Result<()> {
    let fake = Fake::start().await?;
    let (desk, bridge, _) = signed_in(&fake).await?;
    ensure!(bridge.end().await? == 0);
    // Somebody used it up.
    let http = reqwest::Client::builder().no_proxy().build()?;
    http.post(format!("{}/token", fake.base)).body("grant_type=refresh_token&refresh_token=r-1").send().await?;
    let mut bridge = desk.bridge(&fake.url(), &[])?;
    let (called, back) = tokio::join!(bridge.call(1, "x"), come_back(&desk, 1, &fake.base));
    back?;
    ensure!(called?["result"]["by"] == "t-3");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_is_proven_by_the_server_s_clock() -> Result<()> {
    let fake = Fake::start().await?;
    fake.says().binds = true;
    let (_desk, mut bridge, called) = signed_in(&fake).await?;
    ensure!(called["result"].is_object() && fake.says().proofs == (1, 0), "{called:#} {:?}", fake.says().proofs);
    // What whoever is between says of the time changes nothing.
    fake.says().seconds_ahead = -3600;
    fake.says().proxy_seconds_ahead = 86_400;
    ensure!(bridge.call(2, "x").await?["result"].is_object());
    ensure!(fake.says().proofs == (2, 1), "once refused, once more with the clock set: {:?}", fake.says().proofs);
    ensure!(bridge.call(3, "x").await?["result"].is_object() && fake.says().proofs == (3, 1));
    ensure!(fake.asked("POST /token") == 1, "the token was good all the time");
    // Nor does a time that is out of all reason, or none.
    for time in [json!(0), json!(4_000_000_000_000_u64), json!("now"), Value::Null] {
        fake.says().seconds_ahead = 7200;
        fake.says().server_time = Some(time.clone());
        let (held, failed) = fake.says().proofs;
        let refused = bridge.call(4, "x").await?;
        ensure!(refused["error"]["data"]["reason"] == "token_turned_away", "{time}: {refused:#}");
        ensure!(fake.says().proofs.0 == held && fake.says().proofs.1 > failed, "{time}");
        fake.says().seconds_ahead = -3600;
        ensure!(bridge.call(5, "x").await?["result"].is_object(), "{time}: its clock is as it was");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_bind_is_used_with_a_warning() -> Result<()> {
    let fake = Fake::start().await?;
    let desk = Desk::new()?;
    let url = fake.url();
    let arguments = ["connect", &url, "--keys", "file", "--sign-in"];
    let (ended, back) = tokio::join!(desk.run(&arguments), come_back(&desk, 0, &fake.base));
    back?;
    let (status, text) = ended?;
    ensure!(status == 0 && text.contains("gives no bound tokens"), "{text}");
    for secret in ["t-1", "r-1", "c-1"] {
        ensure!(!text.contains(secret), "{secret} is told: {text}");
    }
    Ok(())
}
