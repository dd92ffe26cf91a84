//! Requests that are not well-formed, and clients without any authority, in both eras: what was meant as a governed
//! request is on record as refused, and no server hears of it.

use anyhow::{Result, ensure};
use bailiwick_tests::{
    eventually,
    mcp::{LEGACY, MODERN, modern_meta},
    scripted::tool,
};
use serde_json::{Value, json};

use super::{JANE, World, agent};

/// Governed methods, the key of what each is about, and that.
const GOVERNED: [(&str, &str, &str); 4] = [
    ("tools/call", "name", "read"),
    ("prompts/get", "name", "prompt-1"),
    ("resources/read", "uri", "note:///1"),
    ("completion/complete", "name", "prompt-1"),
];

#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_of_every_governed_method_are_on_record_in_both_eras() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    world.server.offer_more();
    let mut legacy = world.client.clone();
    legacy.initialize().await?;
    let session = legacy.session.clone().unwrap_or_default();
    let (before, mut sent) = (world.server.requests(), 0);
    for (method, key, name) in GOVERNED {
        let meta = modern_meta();
        let modern = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"{key}":"{name}","{key}":"x","_meta":{meta}}}}}"#
        );
        let old =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"{key}":"{name}","{key}":"x"}}}}"#);
        let escaped = old.replacen('/', "\\u002f", 1);
        let headers = [("mcp-protocol-version", MODERN), ("mcp-method", method), ("mcp-name", name)];
        let in_session = [("mcp-protocol-version", LEGACY), ("mcp-session-id", session.as_str())];
        for (body, headers) in [(modern, &headers[..]), (old, &in_session), (escaped, &in_session)] {
            let answer = world.client.raw(body, headers).await?;
            ensure!((answer.status.as_u16(), answer.code()) == (400, Some(-32600)), "{method}: {}", answer.text);
            sent += 1;
        }
    }
    let denials = eventually("all are on record", async || {
        let found = world.deployment.audit(&["--kind", "call.denied", "--user", JANE, "--limit", "100"]).ok()?;
        (found.len() >= sent).then_some(found)
    })
    .await?;
    ensure!(denials.len() == sent, "{} for {sent}", denials.len());
    for denial in denials {
        ensure!(denial["decision"]["reason"] == "request_malformed", "{denial:#}");
        ensure!(denial["agent"] == agent(JANE).as_str() && denial["virtual_server"] == "shop", "{denial:#}");
    }
    ensure!(world.server.requests() == before, "a server heard of it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_server_hears_of_a_client_without_authority() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    world.server.offer_more();
    let mut legacy = world.client.clone();
    legacy.initialize().await?;
    world.read().await?;
    world.deployment.cli_ok(&["revoke", "agent", &agent(JANE), "--reason", "left", "--wait"])?;
    let before = world.server.requests();
    let mut answers = Vec::new();
    for (method, params) in [
        ("server/discover", json!({})),
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/list", json!({})),
        ("resources/templates/list", json!({})),
        ("subscriptions/listen", json!({"notifications": {"promptsListChanged": true}})),
        ("tools/call", json!({"name": "read"})),
        ("prompts/get", json!({"name": "prompt-1"})),
        ("resources/read", json!({"uri": "note:///1"})),
    ] {
        answers.push((method, world.client.modern(method, params).await?));
    }
    for (method, params) in [
        ("initialize", json!({"protocolVersion": LEGACY, "capabilities": {}})),
        ("tools/list", json!({})),
        ("prompts/list", json!({})),
        ("resources/subscribe", json!({"uri": "note:///1"})),
        ("logging/setLevel", json!({"level": "info"})),
        ("tools/call", json!({"name": "read"})),
    ] {
        answers.push((method, legacy.legacy(method, params).await?));
    }
    for (method, answer) in answers {
        let shown = ["tools", "prompts", "resources", "resourceTemplates"].map(|key| &answer.body["result"][key]);
        let shows = shown.into_iter().filter_map(Value::as_array).any(|items| !items.is_empty());
        let ran = answer.body["result"].get("content").is_some();
        ensure!(!shows && !ran && !answer.text.contains("note:///"), "{method}: {}", answer.text);
    }
    ensure!(world.server.requests() == before, "a server heard of it");
    Ok(())
}
