//! Tokens that are bound by DPoP, as other servers have it: by a key of the sign-in, with the nonces of each side.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    Bridge, Desk,
    fake::Fake,
    servers::{come_back, signed_in},
};

/// A server that says what it takes, and one whose resource alone does.
async fn strict(metadata: Value) -> Result<Fake> {
    let fake = Fake::start().await?;
    {
        let mut says = fake.says();
        (says.dpop, says.server) = (true, metadata);
        says.nonce = "rs-1".to_owned();
    }
    Ok(fake)
}

/// The first parameter of a visit with this name.
fn parameter(visit: &str, name: &str) -> Result<String> {
    let url = url::Url::parse(visit)?;
    let found = url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned());
    found.with_context(|| format!("{name} in {visit}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_dpop_gets_it_with_one_key_for_each_sign_in() -> Result<()> {
    for metadata in [json!({"dpop_signing_alg_values_supported": ["PS256", "ES256"]}), json!({})] {
        let fake = strict(metadata.clone()).await?;
        let (desk, mut bridge, called) = signed_in(&fake).await?;
        ensure!(called["result"]["by"] == "t-1", "{metadata}: {called:#}");
        // Once without the nonce, at each side; then with it.
        ensure!(fake.asked("POST /token") == 2 && fake.says().ids.len() == 4, "{:?}", fake.says().ids);
        ensure!(bridge.call(2, "x").await?["result"].is_object() && fake.says().ids.len() == 5, "the nonce is kept");
        fake.says().nonce = "rs-2".to_owned();
        ensure!(bridge.call(3, "x").await?["result"].is_object() && fake.says().ids.len() == 7, "and the next one");
        ensure!(fake.asked("binding_alg") == 0, "one way of binding is asked for");
        ensure!(bridge.end().await? == 0);

        // The next start has the key of the sign-in.
        let mut bridge = desk.bridge(&fake.url(), &[])?;
        ensure!(bridge.call(1, "x").await?["result"]["by"] == "t-2", "by the refresh token");
        let [token_keys, call_keys] = fake.says().keys.clone();
        ensure!(token_keys.len() == 1 && token_keys == call_keys, "{token_keys:?} {call_keys:?}");
        ensure!(desk.visits().len() == 1);
        let kept = desk.kept()?;
        let key = kept["dpop_key"].as_str().context("it is kept beside the refresh token")?;
        ensure!(fake.asked(key) == 0, "and goes nowhere");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_sign_in_has_another_key_and_the_code_is_for_its_holder() -> Result<()> {
    let fake = strict(json!({"dpop_signing_alg_values_supported": ["ES256"]})).await?;
    for _ in 0..2 {
        let desk = Desk::new()?;
        let mut bridge = desk.bridge(&fake.url(), &[])?;
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "x"}});
        bridge.say(&message).await?;
        let question = desk.visit(0).await?;
        let (redirect, state) = (parameter(&question, "redirect_uri")?, parameter(&question, "state")?);
        let back =
            format!("{redirect}?code=c-1&state={state}&iss={}", fake.base.replace(':', "%3A").replace('/', "%2F"));
        ensure!(crate::visit(&back, &[]).await?.status == 200);
        ensure!(bridge.hear().await?["result"].is_object());
        ensure!(fake.says().keys[0].contains(&parameter(&question, "dpop_jkt")?));
    }
    ensure!(fake.says().keys[0].len() == 2, "{:?}", fake.says().keys);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_wants_dpop_from_now_on_gets_it_after_one_sign_in() -> Result<()> {
    let fake = Fake::start().await?;
    let (desk, mut bridge, called) = signed_in(&fake).await?;
    ensure!(called["result"]["by"] == "t-1", "{called:#}");
    {
        let mut says = fake.says();
        (says.dpop, says.nonce) = (true, "rs-1".to_owned());
    }
    let (called, back) = tokio::join!(bridge.call(2, "x"), come_back(&desk, 1, &fake.base));
    back?;
    ensure!(called?["result"]["by"] == "t-2" && fake.says().keys[1].len() == 1);
    ensure!(bridge.call(3, "x").await?["result"].is_object() && desk.visits().len() == 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_that_wants_what_its_server_does_not_give_asks_a_person_once() -> Result<()> {
    let fake = Fake::start().await?;
    let (desk, mut bridge, _) = signed_in(&fake).await?;
    fake.says().only_challenges_dpop = true;
    let (called, back) = tokio::join!(bridge.call(2, "x"), come_back(&desk, 1, &fake.base));
    back?;
    ensure!(called?["error"]["data"]["reason"] == "token_turned_away");
    for id in 3..6 {
        let called = bridge.call(id, "x").await?;
        ensure!(called["error"]["data"]["reason"] == "token_turned_away", "{called:#}");
    }
    ensure!(desk.visits().len() == 2, "{:?}", desk.visits());
    Ok(())
}

async fn with_binding(fake: &Fake, binding: &str) -> Result<(Bridge, Value, Desk)> {
    let desk = Desk::new()?;
    let mut bridge = desk.bridge(&fake.url(), &["--binding", binding])?;
    let (called, back) = tokio::join!(bridge.call(1, "x"), come_back(&desk, 0, &fake.base));
    back?;
    Ok((bridge, called?, desk))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_by_name_is_had_or_nothing() -> Result<()> {
    // It offers both, gives an envelope to whoever asks, and a bearer token to whoever does not.
    let offers = json!({
        "dpop_signing_alg_values_supported": ["ES256"], "bailiwick_binding_algs_supported": ["aes-256-gcm"],
    });
    for (binding, binds, dpop, is_had) in [
        ("auto", true, false, true),
        ("auto", false, false, false),
        ("envelope", true, false, true),
        ("envelope", false, false, false),
        ("dpop", false, true, true),
        ("dpop", true, false, false),
        ("none", false, false, true),
    ] {
        let fake = Fake::start().await?;
        {
            let mut says = fake.says();
            (says.binds, says.dpop, says.server) = (binds, dpop, offers.clone());
            says.nonce = "rs-1".to_owned();
        }
        let (mut bridge, called, _desk) = with_binding(&fake, binding).await?;
        ensure!(called["result"].is_object() == is_had, "{binding} {binds} {dpop}: {called:#}");
        if !is_had {
            let message = called["error"]["message"].as_str().unwrap_or_default();
            ensure!(message.contains("no bound token"), "{binding}: {message}");
        }
        let (asked_envelope, has_key) = (fake.asked("binding_alg=aes-256-gcm") > 0, !fake.says().keys[0].is_empty());
        ensure!(asked_envelope == ["auto", "envelope"].contains(&binding), "{binding}");
        ensure!(has_key == dpop, "{binding}");
        ensure!(is_had == bridge.call(2, "x").await?["result"].is_object(), "{binding}: it is so later too");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_bound_is_not_followed_by_one_that_is_not() -> Result<()> {
    for (dpop, word, alg) in [
        (false, "bailiwick_binding_algs_supported", "aes-256-gcm"),
        (true, "dpop_signing_alg_values_supported", "ES256"),
    ] {
        let fake = strict(json!({word: [alg]})).await?;
        {
            let mut says = fake.says();
            (says.binds, says.dpop, says.expires_in) = (!dpop, dpop, 0);
        }
        let (desk, mut bridge, called) = signed_in(&fake).await?;
        ensure!(called["result"]["by"] == "t-1" && desk.kept()?["is_bound"] == true, "{word}: {called:#}");
        let sent = fake.asked("tools/call");
        {
            let mut says = fake.says();
            (says.binds, says.dpop, says.expires_in) = (false, false, 600);
        }
        let refused = bridge.call(2, "x").await?;
        let message = refused["error"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains("bound no longer"), "{word}: {refused:#}");
        ensure!(fake.asked("grant_type=refresh_token") >= 1 && desk.kept()?["refresh_token"] == "r-1", "{word}");
        // Nor at a new sign-in, as it says that it can.
        let (called, back) = tokio::join!(bridge.call(3, "x"), come_back(&desk, 1, &fake.base));
        back?;
        let called = called?;
        let message = called["error"]["message"].as_str().unwrap_or_default();
        ensure!(message.contains("no bound token"), "{word}: {called:#}");
        ensure!(fake.asked("tools/call") == sent, "{word}: nothing is sent with what is bound to nothing");
        ensure!(desk.kept()?["refresh_token"].is_null(), "{word}: nothing of it is kept");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn our_own_servers_take_dpop_too() -> Result<()> {
    let world = crate::World::start().await?;
    let mut bridge = world.desk.bridge(&world.url, &["--binding", "dpop"])?;
    let (called, allowed) = tokio::join!(bridge.call(1, "read"), world.allows(0, "transactional"));
    allowed?;
    let called = called?;
    ensure!(called["result"].is_object() && called["result"]["isError"] != true, "{called:#}");
    ensure!(bridge.call(2, "read").await?["result"].is_object());
    ensure!(bridge.end().await? == 0);
    let mut bridge = world.desk.bridge(&world.url, &["--binding", "dpop"])?;
    let called = bridge.call(1, "read").await?;
    ensure!(called["result"].is_object(), "with the same key: {called:#}");
    ensure!(world.desk.visits().len() == 1);
    let bindings = crate::life::bindings(&world, 3).await?;
    ensure!(bindings.iter().all(|binding| *binding == "bound"), "{bindings:?}");
    Ok(())
}
