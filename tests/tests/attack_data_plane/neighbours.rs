//! Callers beside each other, and what must stay between one caller and one server: nothing crosses, nothing leaks.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Answer, McpClient, Reply, ScriptedServer, eventually, scripted::tool};
use serde_json::{Value, json};

use super::{CALL_HEADERS, World, agent, call_body, client, people, servers::answer};

const NAMES: [&str; 4] = ["ann@example.com", "ben@example.com", "cy@example.com", "di@example.com"];
/// Rounds of every caller, all at once.
const TURNS: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_crosses_between_callers_however_they_interleave() -> Result<()> {
    let tools: Vec<Value> =
        NAMES.iter().map(|name| tool(&agent(name), "retrieval")).chain([tool("read", "retrieval")]).collect();
    let world = World::start(tools).await?;
    world.deployment.apply(&people(&NAMES))?;
    // Everybody may read; besides, each sees a tool of their own only.
    let own = |name: &&str| {
        let agent = agent(name);
        format!("    permit (principal == User::\"{name}\", action == Action::\"shop__{agent}\", resource);\n")
    };
    let own: String = NAMES.iter().map(own).collect();
    world.deployment.apply(&format!(
        "apiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: shop}}\nspec:\n  cedar: |\n    permit (principal, action == Action::\"shop__read\", resource);\n{own}"
    ))?;
    let mut work = Vec::new();
    for name in NAMES {
        let mut client = client(&world.deployment, name).await?;
        client.initialize().await?;
        let expected = vec![agent(name), "read".to_owned()];
        eventually("the policy is in force", async || {
            (client.modern("tools/list", json!({})).await.ok()?.tools() == expected).then_some(())
        })
        .await?;
        for turn in 0..TURNS {
            let (client, expected) = (client.clone(), expected.clone());
            work.push(tokio::spawn(turn_of(client, name, turn, expected)));
        }
    }
    for one in work {
        one.await??;
    }
    for name in NAMES {
        let intents = eventually("all intents are on record", async || {
            let found = world.deployment.audit(&["--kind", "call.intent", "--user", name, "--limit", "1000"]).ok()?;
            (found.len() == 2 * TURNS).then_some(found)
        })
        .await?;
        for record in intents {
            ensure!(record["agent"] == agent(name).as_str(), "{record:#}");
            let id = record["trace"]["jsonrpc_id"].as_str().context("id")?;
            ensure!(id == "1" || id.starts_with(&format!("\"{name}/")), "{record:#}");
        }
    }
    each_session_serves_one(&world.server)?;
    let reached = world.server.seen().iter().filter(|call| !call.body.contains("\"read\"")).count();
    ensure!(reached == 0, "a tool of somebody else was called");
    Ok(())
}

async fn turn_of(client: McpClient, name: &str, turn: usize, expected: Vec<String>) -> Result<()> {
    let id = format!("{name}/{turn}");
    let body = call_body(&json!({"secret": id})).replacen("\"id\":1", &format!("\"id\":\"{id}\""), 1);
    let answer = client.raw(body, &CALL_HEADERS).await?;
    ensure!(answer.body["id"] == id.as_str(), "{id}: {}", answer.text);
    ensure!(answer.body["result"]["structuredContent"] == json!({"secret": id}), "{id}: {}", answer.text);
    let legacy = client.legacy("tools/call", json!({"name": "read", "arguments": {"secret": id}})).await?;
    ensure!(legacy.body["result"]["structuredContent"] == json!({"secret": id}), "{id}: {}", legacy.text);
    ensure!(client.modern("tools/list", json!({})).await?.tools() == expected, "{id}: another's list");
    ensure!(client.legacy("tools/list", json!({})).await?.tools() == expected, "{id}: another's list");
    for other in NAMES.iter().filter(|other| **other != name) {
        let refused = client.call(&agent(other), json!({})).await?;
        ensure!(refused.reason() == "policy_denied", "{id}: {}", refused.text);
    }
    Ok(())
}

/// A legacy server may keep state in its sessions, so none is shared.
fn each_session_serves_one(server: &ScriptedServer) -> Result<()> {
    let mut sessions: BTreeMap<String, String> = BTreeMap::new();
    for call in server.seen() {
        let body: Value = serde_json::from_str(&call.body)?;
        let Some((name, _)) = body["params"]["arguments"]["secret"].as_str().and_then(|id| id.split_once('/')) else {
            continue;
        };
        let session = call.headers.get("mcp-session-id").context("no session")?.to_str()?.to_owned();
        let owner = sessions.entry(session).or_insert_with(|| name.to_owned());
        ensure!(owner == name, "{name} was let into a session of {owner}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_arguments_and_results_are_in_no_log_file_metric_or_error() -> Result<()> {
    let tools = vec![tool("read", "retrieval"), tool("pay", "transactional"), tool("erase", "destructive")];
    let world = World::start_with(tools, "plain", &[("BAILIWICK_LOG", "trace")]).await?;
    let mut client = world.client.clone();
    client.initialize().await?;
    let session = client.session.clone().context("session")?;
    let (argument, result) = ("canary-argument-5f1c", "canary-result-8d2e");
    let errors = provoke(&world, &client, argument, result).await?;
    let is_result = |text: &str| text.contains("\"result\"");
    let texts: Vec<_> = errors.iter().map(|answer| answer.text.as_str()).filter(|text| !is_result(text)).collect();
    ensure!(texts.len() >= 12, "{texts:?}");

    let signature = client.token.rsplit('.').next().context("signature")?.to_owned();
    let secrets = [argument.to_owned(), result.to_owned(), signature, session];
    let mut leaks = Vec::new();
    let mut look = |place: &str, bytes: &[u8]| {
        for secret in &secrets {
            if let Some(found) = bytes.windows(secret.len()).position(|window| window == secret.as_bytes()) {
                let around = &bytes[found.saturating_sub(300)..(found + 100).min(bytes.len())];
                leaks.push(format!("{place}: {}", String::from_utf8_lossy(around)));
            }
        }
    };
    texts.iter().for_each(|text| look("an error", text.as_bytes()));
    for node in &world.deployment.nodes {
        for ops in node.listen.as_object().into_iter().flatten().filter(|(name, _)| name.contains("ops")) {
            let address = ops.1.as_str().context("ops")?;
            let metrics = reqwest::get(format!("{}/metrics", bailiwick_tests::deployment::as_url(address))).await?;
            look("metrics", metrics.text().await?.as_bytes());
        }
    }
    let mut deployment = world.deployment;
    deployment.stop()?;
    let log = deployment.log();
    ensure!(log.contains("TRACE") && log.contains("a call has no answer"), "nothing was logged at trace level");
    look("the log", log.as_bytes());
    let mut files = 0;
    walk(&deployment.data(), &mut |path, bytes| {
        files += 1;
        look(&path.display().to_string(), bytes);
    })?;
    ensure!(files > 10, "only {files} files were read");
    ensure!(leaks.is_empty(), "{} leaks, the first:\n{}", leaks.len(), leaks.join("\n\n"));
    Ok(())
}

/// Calls that carry the two canaries through every kind of end; what came back.
async fn provoke(world: &World, client: &McpClient, argument: &str, result: &str) -> Result<Vec<Answer>> {
    let good = answer(&format!(r#"{{"content":[{{"type":"text","text":"{result}"}}]}}"#));
    let arguments = json!({"key": argument});
    let mut errors = Vec::new();
    for name in ["read", "pay", "erase", "canary_tool"] {
        world.server.reply_once(Reply::ok("application/json", good.clone()));
        errors.push(client.call(name, arguments.clone()).await?);
    }
    for bad in [
        format!("{good},"),
        good.replace("\"content\"", "\"content\":1,\"content\""),
        good.replace(':', ""),
        answer(&format!(r#"{{"resultType":"{result}"}}"#)),
        good.replace("$ID", &format!("\"{result}\"")),
    ] {
        world.server.reply_once(Reply::ok("application/json", bad.clone()));
        errors.push(client.call("read", arguments.clone()).await?);
        world.server.reply_once(Reply::ok("text/event-stream", format!("data: {bad}\n\n")));
        errors.push(client.call("read", arguments.clone()).await?);
    }
    for bad in [call_body(&arguments) + "}", call_body(&arguments).replace("\"key\"", "\"key\":1,\"key\"")] {
        errors.push(client.raw(bad, &CALL_HEADERS).await?);
    }
    world.deployment.cli_ok(&["delete", "policy", "shop"])?;
    eventually("nothing is permitted", async || {
        (client.call("read", arguments.clone()).await.ok()?.reason() == "policy_denied").then_some(())
    })
    .await?;
    errors.push(client.call("read", arguments.clone()).await?);
    errors.push(
        McpClient { token: format!("{}x", client.token), ..client.clone() }.call("read", arguments.clone()).await?,
    );
    Ok(errors)
}

fn walk(folder: &Path, look: &mut impl FnMut(&Path, &[u8])) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, look)?;
        } else {
            look(&path, &fs::read(&path)?);
        }
    }
    Ok(())
}
