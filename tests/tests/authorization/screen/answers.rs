//! Honest people: they sign in, narrow, allow, deny, change their minds and take back.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    browser::{Focused, Look, On},
    eventually,
};
use serde_json::{Value, json};

use super::{ALLOW, DENY, REASON, SIGN_OUT, Screen};
use crate::{AGENT, CLIENT, JANE, client, text};

#[tokio::test]
async fn a_person_signs_in_narrows_and_allows_and_the_client_gets_that() -> Result<()> {
    let mut screen = Screen::start().await?;
    screen.browser.goto(&screen.question(CLIENT, "st-1")).await?;
    assert_eq!(screen.browser.title().await?, "Sign in – Bailiwick");
    screen.browser.select(On::label("User"), JANE).await?;
    screen.browser.fill(On::label("Sign-in code"), "0000-0000").await?;
    screen.browser.click(On::role("button", "Sign in")).await?;
    screen.reads("That is not the sign-in code, which").await?;
    ensure!(screen.browser.cookies().await?.is_empty(), "nobody is signed in");
    screen.picture("sign-in-wrong", Look::DESK).await?;

    screen.sign_in().await?;
    let redirect_host = screen.site.neighbour().replace("http://", "");
    for shown in
        [CLIENT, AGENT, JANE, &redirect_host, "The application runs on this computer.", "Everything, also what"]
    {
        screen.reads(shown).await?;
    }
    let erase = On::css("[value='shop/erase']");
    assert_eq!(screen.browser.count(erase).await?, 0, "single tools are not asked about at first");
    screen.browser.check(On::css("[name=only][value=listed]")).await?;
    assert_eq!(screen.browser.count(erase).await?, 0, "what destroys is not chosen at first");
    screen.browser.check(On::css("[name=level][value=destructive]")).await?;
    assert_eq!(screen.browser.count(erase).await?, 1);
    screen.browser.check(On::css("[name=level][value=transactional]")).await?;
    assert_eq!(screen.browser.count(erase).await?, 0, "above the level");
    screen.browser.uncheck(On::css("[value='shop/read']")).await?;
    screen.browser.check(On::css("[name=duration][value='3600']")).await?;
    screen.browser.fill(REASON, "x").await?;
    screen.browser.click(ALLOW).await?;
    screen.reads("That did not work.").await?;
    screen.picture("consent-problem", Look::DESK).await?;
    for kept in [
        "[name=level][value=transactional]",
        "[name=only][value=listed]",
        "[value='shop/charge']",
        "[name=duration][value='3600']",
    ] {
        assert_eq!(screen.browser.count(On::css(&format!("{kept}:checked"))).await?, 1, "{kept}");
    }
    assert_eq!(screen.browser.count(On::css("[value='shop/read']:not(:checked)")).await?, 1);

    screen.allow("OPS-12").await?;
    let told = screen.site.arrival(0).await?;
    assert_eq!((told["state"].as_str(), told["iss"].as_str()), ("st-1", screen.world.issuer.as_str()));
    let mcp = screen.world.mcp(&screen.tokens(CLIENT, &told).await?);
    mcp.until_listed(&["charge"]).await?;
    ensure!(mcp.call("charge", json!({})).await?.body["result"].is_object());
    assert_eq!(mcp.call("read", json!({})).await?.reason(), "consent_tool_not_listed");
    assert_eq!(mcp.call("erase", json!({})).await?.reason(), "consent_tool_not_listed");
    let granted = screen.world.event("consent_granted").await?;
    assert_eq!((&granted["tools"], text(&granted, "reason")), (&json!(["shop/charge"]), "OPS-12"));
    screen.is_by_itself().await
}

fn stop(focused: &Focused) -> String {
    let what = if focused.name.is_empty() { &focused.text } else { &focused.name };
    if focused.tag == "button" && !focused.value.is_empty() { focused.value.clone() } else { what.trim().to_owned() }
}

#[tokio::test]
async fn by_keyboard_nobody_allows_by_accident_but_everybody_can() -> Result<()> {
    let mut screen = Screen::start().await?;
    screen.browser.goto(&screen.question(CLIENT, "st-1")).await?;
    screen.browser.tab_to(|focused| focused.name == "user").await?;
    screen.browser.type_text(JANE).await?;
    screen.browser.tab_to(|focused| focused.name == "code").await?;
    let code = screen.world.code.clone();
    screen.browser.type_text(&code).await?;
    screen.browser.press("Enter").await?;
    eventually("the question", async || {
        screen.browser.title().await.ok().filter(|title| title.starts_with("Allow access?"))
    })
    .await?;
    let asked_at = screen.browser.url().await?;

    let mut order = Vec::new();
    while order.last().is_none_or(|last| last != "deny") {
        screen.browser.press("Tab").await?;
        let focused = screen.browser.focused().await?.with_context(|| format!("nothing after {order:?}"))?;
        order.push(stop(&focused));
    }
    assert_eq!(order, ["Sign out", "level", "only", "duration", "reason", "allow", "deny"]);
    screen.browser.goto(&asked_at).await?;

    let level = screen.browser.tab_to(|focused| focused.name == "level").await?;
    assert_eq!(level.value, "transactional", "whatever the client asked for: nothing that destroys by a mere click");
    screen.browser.press("Enter").await?;
    screen.browser.tab_to(|focused| focused.name == "only").await?;
    screen.browser.press("ArrowDown").await?;
    screen.browser.press("Enter").await?;
    screen.browser.tab_to(|focused| focused.value == "shop/read").await?;
    screen.browser.press("Space").await?;
    screen.browser.press("Enter").await?;
    screen.browser.tab_to(|focused| focused.name == "reason").await?;
    screen.browser.type_text("by keyboard").await?;
    screen.browser.press("Enter").await?;
    screen.picture("consent-keyboard", Look::DESK).await?;
    // What Enter would have sent is gone by now, and so would be what was typed.
    assert_eq!(screen.browser.value(REASON).await?, "by keyboard");
    assert_eq!((screen.browser.url().await?, screen.site.arrivals().len()), (asked_at, 0));
    screen.browser.tab_to(|focused| focused.value == "allow").await?;
    screen.browser.press("Enter").await?;
    screen.browser.wait_url("**/done").await?;
    let told = screen.site.arrival(0).await?;
    screen.world.mcp(&screen.tokens(CLIENT, &told).await?).until_listed(&["charge"]).await?;
    let granted = screen.world.event("consent_granted").await?;
    assert_eq!((text(&granted, "level"), text(&granted, "reason")), ("transactional", "by keyboard"));
    assert_eq!(screen.granted()?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn a_client_is_told_no() -> Result<()> {
    let mut screen = Screen::start().await?;
    screen.asked().await?;
    screen.browser.click(DENY).await?;
    screen.browser.wait_url("**/done").await?;
    let told = screen.site.arrival(0).await?;
    assert_eq!((told["error"].as_str(), told["state"].as_str()), ("access_denied", "st-1"));
    assert_eq!((told["iss"].as_str(), told.get("code")), (screen.world.issuer.as_str(), None));
    screen.world.event("consent_declined").await?;
    assert_eq!(screen.granted()?.len(), 0);
    screen.is_by_itself().await
}

#[tokio::test]
async fn who_goes_back_is_asked_anew() -> Result<()> {
    let mut screen = Screen::start().await?;
    screen.asked().await?;
    let question = screen.browser.value(On::css("[name=request]")).await?;
    screen.allow("first").await?;
    let url = screen.browser.back().await?;
    ensure!(url.starts_with(&format!("{}/oauth/authorize?", screen.world.issuer)), "{url}");
    ensure!(screen.browser.value(On::css("[name=request]")).await? != question, "it is another question");
    screen.allow("second").await?;
    let (first, second) = (screen.site.arrival(0).await?, screen.site.arrival(1).await?);
    for told in [first, second] {
        screen.world.mcp(&screen.tokens(CLIENT, &told).await?).until_listed(&["charge", "read"]).await?;
    }
    assert_eq!(screen.granted()?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_sent_again_counts_once() -> Result<()> {
    let mut screen = Screen::start().await?;
    screen.asked().await?;
    screen.site.sleep(true);
    screen.browser.fill(REASON, "OPS-12").await?;
    screen.browser.click(ALLOW).await?;
    let told = screen.site.arrival(0).await?;
    screen.reads("Going back").await?;
    screen.tokens(CLIENT, &told).await?;
    screen.browser.reload().await?;
    screen.reads("does not count any more").await?;
    screen.picture("answered-before", Look::DESK).await?;
    assert_eq!((screen.granted()?.len(), screen.site.arrivals().len()), (1, 1));
    Ok(())
}

#[tokio::test]
async fn two_tabs_answer_a_question_each() -> Result<()> {
    let mut screen = Screen::start().await?;
    screen.world.deployment.apply(&client("other", ""))?;
    screen.asked().await?;
    screen.browser.tab(1).await?;
    screen.browser.goto(&screen.question("other", "st-2")).await?;
    screen.reads("Allow other to use shop?").await?;
    screen.browser.check(On::css("[name=level][value=retrieval]")).await?;
    screen.browser.tab(0).await?;
    screen.reads("Allow editor to use shop?").await?;
    screen.allow("for the editor").await?;
    screen.browser.tab(1).await?;
    screen.allow("for the other").await?;
    let (first, second) = (screen.site.arrival(0).await?, screen.site.arrival(1).await?);
    assert_eq!((first["state"].as_str(), second["state"].as_str()), ("st-1", "st-2"));
    screen.world.mcp(&screen.tokens(CLIENT, &first).await?).until_listed(&["charge", "read"]).await?;
    screen.world.mcp(&screen.tokens("other", &second).await?).until_listed(&["read"]).await?;
    let mut granted: Vec<_> = screen.granted()?;
    granted.sort_by_key(|event| text(event, "client").to_owned());
    let said: Vec<_> = granted.iter().map(|event| (text(event, "client"), text(event, "reason"))).collect();
    assert_eq!(said, [(CLIENT, "for the editor"), ("other", "for the other")]);
    Ok(())
}

#[tokio::test]
async fn who_signs_out_has_no_question_open_any_more() -> Result<()> {
    let mut screen = Screen::start().await?;
    screen.asked().await?;
    screen.browser.tab(1).await?;
    screen.browser.goto(&screen.consents()).await?;
    screen.browser.click(SIGN_OUT).await?;
    screen.reads("You are signed out").await?;
    screen.picture("signed-out", Look::DESK).await?;
    ensure!(screen.browser.cookies().await?.is_empty());
    let refused = async |screen: &mut Screen, reason: &str| {
        screen.browser.tab(0).await?;
        screen.browser.fill(REASON, reason).await?;
        screen.browser.click(ALLOW).await?;
        screen.reads("This page does not count any more").await
    };
    refused(&mut screen, "signed out").await?;
    screen.picture("problem", Look::DESK).await?;
    // Nor does it when the same person signs in again: that is another session.
    screen.asked().await?;
    screen.browser.tab(1).await?;
    screen.browser.goto(&screen.consents()).await?;
    screen.browser.click(SIGN_OUT).await?;
    screen.browser.goto(&screen.consents()).await?;
    screen.sign_in().await?;
    refused(&mut screen, "of another session").await?;
    assert_eq!((screen.granted()?.len(), screen.site.arrivals().len()), (0, 0));
    Ok(())
}

#[tokio::test]
async fn what_was_allowed_is_taken_back_one_by_one_and_together() -> Result<()> {
    let mut screen = Screen::start().await?;
    let mut held = Vec::<(&str, Value)>::new();
    for name in ["batch", CLIENT, "report"] {
        screen.world.deployment.apply(&client(name, ""))?;
        let tokens = screen.world.tokens(name, "retrieval").await?;
        screen.world.mcp(&tokens).until_listed(&["read"]).await?;
        held.push((name, tokens));
    }
    screen.browser.goto(&screen.consents()).await?;
    screen.sign_in().await?;
    screen.picture("consents", Look::DESK).await?;
    screen.browser.click(On::role("button", "Revoke editor as agent assistant")).await?;
    screen.reads("One consent was taken back.").await?;
    assert_eq!(screen.browser.count(On::role("button", "Revoke editor as agent assistant")).await?, 0);
    let ended = async |screen: &Screen, name: &str| {
        let (_, tokens) = held.iter().find(|(known, _)| *known == name).context("its tokens")?;
        let granted = screen.granted()?.into_iter().find(|event| text(event, "client") == name);
        let consent = text(&granted.context("its consent")?, "consent").to_owned();
        let refused = eventually("the consent ends at the data plane", async || {
            let answer = screen.world.mcp(tokens).call("read", json!({})).await.ok()?;
            (answer.reason() == "consent_revoked").then_some(answer)
        });
        let refused = refused.await?;
        ensure!(refused.text.contains(&consent), "it names the consent: {}", refused.text);
        anyhow::Ok(())
    };
    ended(&screen, CLIENT).await?;
    for (name, tokens) in held.iter().filter(|(name, _)| *name != CLIENT) {
        ensure!(screen.world.mcp(tokens).call("read", json!({})).await?.body["result"].is_object(), "{name} goes on");
        screen.browser.check(On::role("checkbox", &format!("{name} as agent assistant"))).await?;
    }
    screen.browser.check(On::role("checkbox", "bailiwick-admin as agent assistant")).await?;
    screen.picture("consents-ticked", Look::DESK).await?;
    screen.browser.press("Enter").await?;
    screen.browser.click(On::role("button", "Revoke those ticked")).await?;
    screen.reads("3 consents were taken back.").await?;
    screen.reads("You have allowed nothing that is still in force.").await?;
    screen.picture("consents-none", Look::DESK).await?;
    ended(&screen, "batch").await?;
    ended(&screen, "report").await?;
    screen.is_by_itself().await
}
