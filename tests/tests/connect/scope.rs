//! A token that is good for too little: one sign-in for more, and never two for the same.

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::{
    Bridge, Desk,
    fake::Fake,
    servers::{come_back, signed_in},
    visit,
};

fn parameter(visit: &str, name: &str) -> Result<String> {
    let url = url::Url::parse(visit)?;
    let found = url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
    found.with_context(|| format!("{name} in {visit}"))
}

/// Somebody who signed in for `mcp:tools`, and a server that needs `mcp:more` for each call.
async fn narrow() -> Result<(Fake, Desk, Bridge)> {
    let fake = Fake::start().await?;
    fake.says().scope = Some("mcp:tools".to_owned());
    let (desk, bridge, called) = signed_in(&fake).await?;
    ensure!(called["result"].is_object(), "{called:#}");
    fake.says().needs = Some("mcp:more".to_owned());
    Ok((fake, desk, bridge))
}

/// The person at the second sign-in, who allows what they are asked for; what that was.
async fn allow(fake: &Fake, desk: &Desk, before: usize) -> Result<String> {
    let question = desk.visit(before).await?;
    let asked = parameter(&question, "scope")?;
    fake.says().scope = Some(asked.clone());
    let mut back = url::Url::parse(&parameter(&question, "redirect_uri")?)?;
    let state = parameter(&question, "state")?;
    back.query_pairs_mut().extend_pairs([("code", "c-2"), ("state", &state), ("iss", &fake.base)]);
    ensure!(visit(back.as_str(), &[]).await?.status == 200);
    Ok(asked)
}

async fn say_call(bridge: &mut Bridge, id: u64) -> Result<()> {
    bridge.say(&json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "x"}})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_needs_more_signs_in_once_for_all_of_it_and_goes_on() -> Result<()> {
    let (fake, desk, mut bridge) = narrow().await?;
    for id in 2..7 {
        say_call(&mut bridge, id).await?;
    }
    let asked = allow(&fake, &desk, 1).await?;
    ensure!(asked == "mcp:more mcp:tools", "what there was, and what is needed: {asked}");
    let mut answered = Vec::new();
    for _ in 2..7 {
        let answer = bridge.hear().await?;
        ensure!(answer["result"]["by"] == "t-2", "{answer:#}");
        answered.extend(answer["id"].as_u64());
    }
    answered.sort_unstable();
    ensure!(answered == [2, 3, 4, 5, 6] && desk.visits().len() == 2, "all of them waited for the one: {answered:?}");
    ensure!(bridge.end().await? == 0);
    // The next start has as much, and asks for what there is and no less when it needs more.
    let mut bridge = desk.bridge(&fake.url(), &[])?;
    ensure!(bridge.call(1, "x").await?["result"].is_object() && desk.visits().len() == 2);
    fake.says().needs = Some("mcp:most".to_owned());
    say_call(&mut bridge, 2).await?;
    let asked = allow(&fake, &desk, 2).await?;
    ensure!(asked == "mcp:more mcp:most mcp:tools", "{asked}");
    ensure!(bridge.hear().await?["result"].is_object());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_more_is_not_asked_again_and_keeps_what_there_is() -> Result<()> {
    let (fake, desk, mut bridge) = narrow().await?;
    let before = desk.kept()?["refresh_token"].clone();
    say_call(&mut bridge, 2).await?;
    let question = desk.visit(1).await?;
    let mut back = url::Url::parse(&parameter(&question, "redirect_uri")?)?;
    let state = parameter(&question, "state")?;
    back.query_pairs_mut().extend_pairs([("error", "access_denied"), ("state", &state), ("iss", &fake.base)]);
    visit(back.as_str(), &[]).await?;
    let told = bridge.hear().await?;
    ensure!(told["error"]["data"]["reason"] == "scope_refused" && told["error"]["code"] == 403, "{told:#}");
    let message = told["error"]["message"].as_str().unwrap_or_default();
    ensure!(message.contains("`mcp:more mcp:tools`") && message.contains("access_denied"), "{message}");
    for id in 3..6 {
        let told = bridge.call(id, "x").await?;
        ensure!(told["error"]["message"] == "too narrow", "the server's own words: {told:#}");
    }
    fake.says().needs = None;
    ensure!(bridge.call(6, "x").await?["result"]["by"] == "t-1", "the token that there was is as good as before");
    ensure!(desk.visits().len() == 2 && desk.kept()?["refresh_token"] == before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_has_enough_asks_once() -> Result<()> {
    let (fake, desk, mut bridge) = narrow().await?;
    let (called, back) = tokio::join!(bridge.call(2, "x"), come_back(&desk, 1, &fake.base));
    back?;
    // It was granted, and the server says that it was not.
    ensure!(called?["error"]["message"] == "too narrow");
    for id in 3..6 {
        ensure!(bridge.call(id, "x").await?["error"]["message"] == "too narrow");
    }
    ensure!(desk.visits().len() == 2 && fake.asked("grant_type=authorization_code") == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scope_that_was_given_is_the_most_that_is_asked_for() -> Result<()> {
    let fake = Fake::start().await?;
    fake.says().scope = Some("mcp:read".to_owned());
    fake.says().needs = Some("mcp:tools".to_owned());
    let desk = Desk::new()?;
    let mut bridge = desk.bridge(&fake.url(), &["--scope", "mcp:read"])?;
    let (called, back) = tokio::join!(bridge.call(1, "x"), come_back(&desk, 0, &fake.base));
    back?;
    ensure!(called?["error"]["message"] == "too narrow" && desk.visits().len() == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_be_asked_the_client_is_told_what_to_do() -> Result<()> {
    let (fake, desk, bridge) = narrow().await?;
    ensure!(bridge.end().await? == 0);
    let mut bridge = desk.bridge(&fake.url(), &["--no-browser"])?;
    for id in 1..3 {
        let told = bridge.call(id, "x").await?;
        let message = told["error"]["message"].as_str().unwrap_or_default();
        ensure!(told["error"]["data"]["reason"] == "scope_refused", "{told:#}");
        ensure!(message.contains("--scope 'mcp:more mcp:tools'"), "{message}");
    }
    fake.says().needs = None;
    ensure!(bridge.call(3, "x").await?["result"].is_object());
    Ok(())
}
