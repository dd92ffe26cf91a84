//! Unmodified clients through the bridge: the official SDKs and the Inspector start it as their server, by the line
//! that `client setup` wrote, or find it at its local endpoint; a real Chromium signs in.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    browser::{Browser, On},
    deployment::{binary, repository},
    eventually,
    peers::{SdkClient, place},
    upstream::free_port,
};
use serde_json::Value;
use tokio::process::Command;

use crate::{Bridge, Desk, JANE, SURROUNDINGS, World, life::bindings};

/// A driver with the surroundings that a desktop would give it.
fn driver(desk: &Desk, interpreter: &str, script: &str) -> Result<Command> {
    let mut command = Command::new(place(interpreter)?);
    command.arg(script).current_dir(repository()).env("HOME", desk.home.path()).kill_on_drop(true);
    for name in SURROUNDINGS {
        command.env_remove(name);
    }
    Ok(command)
}

async fn said(mut command: Command) -> Result<Value> {
    let output = command.output().await?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("{}{errors}", String::from_utf8_lossy(&output.stdout)))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdks_use_it_as_their_server_in_each_era() -> Result<()> {
    let world = World::start().await?;
    world.sign_in("transactional").await?;
    let program = binary("bailiwick").display().to_string();
    let bridge = [program.as_str(), "connect", &world.url, "--keys", "file"];
    for era in ["legacy", "modern", "auto"] {
        let mut python = driver(&world.desk, "PEER_PYTHON", "tests/peers/python_stdio_client.py")?;
        python.args(["--era", era, "read"]).args(bridge);
        let mut node = driver(&world.desk, "PEER_NODE", "tests/peers/ts_stdio_client.mjs")?;
        node.args([era, "read"]).args(bridge);
        for (sdk, command) in [("python", python), ("typescript", node)] {
            let said = said(command).await.with_context(|| format!("{sdk} {era}"))?;
            ensure!(said["ok"] == true, "{sdk} {era}: {said:#}\n{}", world.deployment.log());
            ensure!(said["tools"] == serde_json::json!(["charge", "read"]), "{sdk} {era}: {said:#}");
            let is_modern = said["protocol_version"] == "2026-07-28";
            ensure!(is_modern == (era != "legacy"), "{sdk} {era}: {said:#}");
        }
    }
    ensure!(world.desk.visits().len() == 1, "nobody was asked but once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdks_use_its_local_endpoint_in_each_era() -> Result<()> {
    let world = World::start().await?;
    world.sign_in("transactional").await?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let _bridge = Bridge::start(world.desk.command(&["connect", &world.url, "--keys", "file", "--http", &address]))?;
    let secret = eventually("it listens", async || {
        tokio::net::TcpStream::connect(&address).await.ok()?;
        world.desk.kept().ok()?["endpoint_secret"].as_str().map(str::to_owned)
    })
    .await?;
    let url = [format!("http://{address}/mcp")];
    let mut calls = 0;
    for era in ["legacy", "modern", "auto"] {
        for sdk in [SdkClient::Python, SdkClient::TypeScript] {
            let said = sdk.run(&url, &secret, era, &["call", "read"]).await?;
            calls += 1;
            let is_called = said["ok"] == true && said["results"][0]["isError"] != true;
            ensure!(is_called, "{sdk:?} {era}: {said:#}\n{}", world.deployment.log());
            ensure!((said["protocol_version"] == "2026-07-28") == (era != "legacy"), "{sdk:?} {era}: {said:#}");
            ensure!(world.server.seen().len() == calls, "{sdk:?} {era}: the call arrived");
            let said = sdk.run(&url, "wrong", era, &["call", "read"]).await?;
            ensure!(said["ok"] == false && world.server.seen().len() == calls, "{sdk:?} {era}: {said:#}");
        }
    }
    let bindings = bindings(&world, calls).await?;
    ensure!(bindings.iter().all(|binding| *binding == "bound"), "{bindings:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_starts_it_by_the_line_that_setup_wrote() -> Result<()> {
    let world = World::start().await?;
    world.sign_in("transactional").await?;
    let setup = ["client", "setup", "cursor", "--url", &world.url, "--keys", "file", "--yes"];
    let (status, text) = world.desk.run(&setup).await?;
    ensure!(status == 0, "{text}");
    let file = world.desk.home.path().join(".cursor/mcp.json").display().to_string();
    let inspector = |what: &[&str]| -> Result<Command> {
        let mut command = driver(&world.desk, "PEER_NODE", place("PEER_INSPECTOR")?)?;
        command.args(["--cli", "--config", &file, "--server", "shop", "--format", "json"]).args(what);
        command.env("MCP_INSPECTOR_SECRET_STORE", "file");
        Ok(command)
    };
    let listed = said(inspector(&["--method", "tools/list"])?).await?;
    ensure!(listed["result"]["tools"].as_array().is_some_and(|tools| tools.len() == 2), "{listed:#}");
    let called = said(inspector(&["--method", "tools/call", "--tool-name", "charge"])?).await?;
    ensure!(called["result"].is_object() && called["result"]["isError"] != true, "{called:#}");
    ensure!(world.server.seen().len() == 1, "the call arrived");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_signs_in_with_a_real_browser() -> Result<()> {
    let world = World::start().await?;
    let mut browser = Browser::start().await?;
    let mut bridge = world.desk.bridge(&world.url, &[])?;
    let person = async {
        let way = world.desk.opened(0).await?;
        let status = browser.goto(&way).await?;
        ensure!(status == 200 && browser.requests().await?.first() == Some(&way), "{status}: {way}");
        let led = browser.redirects().await?;
        ensure!(led.first().is_some_and(|url| url.contains("code_challenge=")), "the bridge leads it on: {led:?}");
        browser.select(On::label("User"), JANE).await?;
        browser.fill(On::label("Sign-in code"), &world.code).await?;
        browser.click(On::role("button", "Sign in")).await?;
        browser.fill(On::label("Why?"), "OPS-12").await?;
        browser.click(On::role("button", "Allow")).await?;
        browser.wait_url("http://127.0.0.1:*/callback?*").await?;
        browser.text().await
    };
    let (called, page) = tokio::join!(bridge.call(1, "read"), person);
    let page = page?;
    ensure!(page.contains("You can close this page"), "{page}");
    let called = called?;
    ensure!(called["result"].is_object(), "{called:#}");
    let code = browser.url().await?;
    let code = url::Url::parse(&code)?.query_pairs().find(|(name, _)| name == "code").context("a code")?.1.into_owned();
    ensure!(!page.contains(&code), "the page says nothing of the code");
    Ok(())
}
