//! A bridge's life with Bailiwick: it signs in once, goes on, refreshes, is told of what is taken back, and ends.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Reply, deployment::kill, eventually};
use serde_json::{Value, json};

use crate::{World, modern};

fn echoed(answer: &Value) -> Result<()> {
    ensure!(answer["result"].is_object() && answer["result"]["isError"] != true, "{answer:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_signs_in_and_the_next_start_goes_on_without_asking() -> Result<()> {
    let world = World::start().await?;
    let mut bridge = world.desk.bridge(&world.url, &[])?;
    let (listed, allowed) =
        tokio::join!(bridge.ask(1, "tools/list", modern(json!({}))), world.allows(0, "transactional"));
    allowed?;
    let listed = listed?;
    let names: Vec<_> =
        listed["result"]["tools"].as_array().context("tools")?.iter().map(|tool| &tool["name"]).collect();
    ensure!(names == ["charge", "read"], "{listed:#}");
    echoed(&bridge.call(2, "read").await?)?;
    let refused = bridge.call(3, "erase").await?;
    ensure!(refused["error"]["data"]["reason"] == "consent_level_exceeded", "as it was said: {refused:#}");
    ensure!(bridge.end().await? == 0);

    let mut bridge = world.desk.bridge(&world.url, &[])?;
    echoed(&bridge.call(1, "charge").await?)?;
    ensure!(world.desk.visits().len() == 1, "nobody was asked again: {:?}", world.desk.visits());
    eventually("the refresh is on record", async || {
        world.events("token_refreshed").ok().filter(|events| !events.is_empty())
    })
    .await?;
    // It ends at a signal, too, with a request on its way.
    world.server.reply(Reply::Held);
    let call = modern(json!({"name": "read", "arguments": {}}));
    bridge.say(&json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})).await?;
    eventually("the call is on its way", async || (world.server.underway() == 1).then_some(())).await?;
    kill(bridge.child.id().context("its id")?, "TERM");
    ensure!(bridge.child.wait().await?.code() == Some(0), "it ends in order");
    eventually("the call was given up", async || (world.server.underway() == 0).then_some(())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_sessions_is_served_too() -> Result<()> {
    let world = World::start().await?;
    world.sign_in("transactional").await?;
    let mut bridge = world.desk.bridge(&world.url, &[])?;
    let about = json!({"name": "t", "version": "1"});
    let client = json!({"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}, "clientInfo": about});
    let greeted = bridge.ask(1, "initialize", client).await?;
    ensure!(greeted["result"]["protocolVersion"] == "2025-11-25", "{greeted:#}");
    bridge.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await?;
    let listed = bridge.ask(2, "tools/list", json!({})).await?;
    ensure!(listed["result"]["tools"].as_array().is_some_and(|tools| tools.len() == 2), "{listed:#}");
    // What the server asks on the way, the client answers.
    world.server.reply(Reply::Asks);
    bridge
        .say(&json!({"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "read", "arguments": {}}}))
        .await?;
    let asked = bridge.hear().await?;
    ensure!(asked["method"] == "elicitation/create", "{asked:#}");
    bridge
        .say(&json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "content": {"a": "b"}}}))
        .await?;
    let answered = bridge.hear().await?;
    ensure!(answered["id"] == 3 && answered["result"].is_object(), "{answered:#}");
    ensure!(bridge.end().await? == 0);
    Ok(())
}

/// What the ledger says of how each call of a tool was bound, once there are so many.
pub(crate) async fn bindings(world: &World, calls: usize) -> Result<Vec<Value>> {
    eventually("the calls are in the ledger", async || {
        let records = world.deployment.audit(&["--limit", "400"]).ok()?;
        let ours = records.iter().filter(|record| record["client"].as_str().is_some_and(|name| name.starts_with("r-")));
        let said = ours.filter(|record| record["tool"].is_string()).map(|record| record["binding"].clone());
        let said: Vec<_> = said.collect();
        (said.len() >= calls).then_some(said)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_is_bound_in_either_era() -> Result<()> {
    let world = World::start().await?;
    let said = world.sign_in("transactional").await?;
    ensure!(!said.contains("no bound tokens"), "{said}");
    let mut modern = world.desk.bridge(&world.url, &[])?;
    echoed(&modern.call(1, "read").await?)?;
    let mut legacy = world.desk.bridge(&world.url, &[])?;
    let client =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    legacy.ask(1, "initialize", client).await?;
    legacy.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await?;
    echoed(&legacy.ask(2, "tools/call", json!({"name": "read", "arguments": {}})).await?)?;
    let bindings = bindings(&world, 2).await?;
    ensure!(bindings.iter().all(|binding| *binding == "bound"), "{bindings:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_refused_and_what_is_taken_back_has_no_answer() -> Result<()> {
    let world = World::start().await?;
    world.sign_in("transactional").await?;
    let mut bridge = world.desk.bridge(&world.url, &[])?;
    for (line, code) in [("nonsense", -32_700), ("[]", -32_600), (r#"{"jsonrpc":"2.0","id":1}"#, -32_600)] {
        bridge.write(&format!("{line}\n")).await?;
        let refused = bridge.hear().await?;
        ensure!(refused["error"]["code"] == code, "{line}: {refused}");
    }
    world.server.reply(Reply::Held);
    let call = modern(json!({"name": "read", "arguments": {}}));
    bridge.say(&json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": call})).await?;
    eventually("the call is on its way", async || (world.server.underway() == 1).then_some(())).await?;
    bridge.say(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}})).await?;
    eventually("the server hears of it", async || (world.server.underway() == 0).then_some(())).await?;
    world.server.reply(Reply::Echo);
    let next = bridge.call(8, "read").await?;
    ensure!(next["id"] == 8 && next["result"].is_object(), "the next message is the next answer: {next}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_bridges_at_once_ask_once_and_do_not_use_up_each_other_s_token() -> Result<()> {
    let world = World::start().await?;
    let mut bridges = [world.desk.bridge(&world.url, &[])?, world.desk.bridge(&world.url, &[])?];
    let [one, other] = &mut bridges;
    let (first, second, allowed) =
        tokio::join!(one.call(1, "read"), other.call(1, "read"), world.allows(0, "retrieval"));
    allowed?;
    echoed(&first?)?;
    echoed(&second?)?;
    ensure!(world.desk.visits().len() == 1, "{:?}", world.desk.visits());
    for _ in 0..3 {
        let mut more = [world.desk.bridge(&world.url, &[])?, world.desk.bridge(&world.url, &[])?];
        let [one, other] = &mut more;
        let (first, second) = tokio::join!(one.call(1, "read"), other.call(1, "read"));
        echoed(&first?)?;
        echoed(&second?)?;
    }
    ensure!(world.desk.visits().len() == 1 && world.events("consent_revoked")?.is_empty(), "the consent lives");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consent_that_was_taken_back_is_told_and_then_asked_for_anew() -> Result<()> {
    let world = World::start().await?;
    let mut bridge = world.desk.bridge(&world.url, &[])?;
    let (called, allowed) = tokio::join!(bridge.call(1, "read"), world.allows(0, "retrieval"));
    allowed?;
    echoed(&called?)?;
    let granted = world.events("consent_granted")?;
    let mine = granted.iter().find(|event| event["client"] != "bailiwick-admin").context("a consent")?;
    world.deployment.cli_ok(&["revoke", "consent", mine["consent"].as_str().context("its id")?])?;
    let mut id = 2;
    let told = eventually("the call is refused", async || {
        id += 1;
        let told = bridge.call(id, "read").await.ok()?;
        (told["error"]["data"]["reason"] == "consent_revoked").then_some(told)
    });
    told.await?;
    ensure!(world.desk.visits().len() == 1, "the person was told first");
    let (called, allowed) = tokio::join!(bridge.call(1000, "read"), world.allows(1, "retrieval"));
    allowed?;
    echoed(&called?)?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_signs_out_gives_back_what_was_granted() -> Result<()> {
    let world = World::start().await?;
    world.sign_in("retrieval").await?;
    ensure!(world.desk.kept()?["refresh_token"].is_string());
    let arguments = ["connect", &world.url, "--keys", "file", "--sign-out"];
    let (status, text) = world.desk.run(&arguments).await?;
    ensure!(status == 0 && text.contains("signed out") && world.desk.kept().is_err(), "{text}");
    let revoked = eventually("the consent ends", async || world.events("consent_revoked").ok()?.into_iter().next());
    revoked.await?;
    let (status, text) = world.desk.run(&arguments).await?;
    ensure!(status == 0 && text.contains("was not signed in"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_browser_a_client_is_told_and_a_terminal_takes_the_address() -> Result<()> {
    let world = World::start().await?;
    let mut bridge = world.desk.bridge(&world.url, &["--no-browser"])?;
    let refused = bridge.call(1, "read").await?;
    let message = refused["error"]["message"].as_str().unwrap_or_default();
    let command = format!("bailiwick connect {} --keys file --sign-in", world.url);
    ensure!(message.contains(&command) && refused["error"]["data"]["reason"] == "sign_in_required", "{refused:#}");

    let arguments = ["connect", &world.url, "--keys", "file", "--sign-in", "--no-browser"];
    let mut command = world.desk.command(&arguments);
    command.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn()?;
    let mut said = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stderr.take().context("stderr")?));
    let url = loop {
        let line = said.next_line().await?.context("no URL")?;
        if line.trim().starts_with("http") {
            break line.trim().to_owned();
        }
    };
    let back = world.allowed(&url, "retrieval").await?;
    let mut stdin = child.stdin.take().context("stdin")?;
    tokio::io::AsyncWriteExt::write_all(&mut stdin, format!("wrong\n{back}\n").as_bytes()).await?;
    ensure!(child.wait().await?.success() && world.desk.visits().is_empty());
    echoed(&bridge.call(2, "read").await?)
}
