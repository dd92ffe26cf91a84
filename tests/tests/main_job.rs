//! The main job, end to end, in both shapes: a client calls tools on a real server through a data plane that knows
//! the human, the agent, the consent and the policy; refused calls never reach the server; every call is on record.
//!
//! Each claim is one function over a [`Shape`]; `both!` runs it against the embedded deployment and against real
//! processes.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use anyhow::{Context, Result};
use bailiwick_tests::{Deployment, McpClient, SampleServer, Shape, both, deployment::kill, eventually};
use serde_json::{Value, json};

both! {
    a_permitted_call_returns_the_servers_result_and_others_never_reach_it
    the_list_shows_exactly_what_may_be_called
    clients_of_both_eras_may_alternate_between_data_planes
    every_call_is_on_record_and_the_log_verifies_offline
    a_restart_loses_nothing_that_was_acknowledged
}

async fn finance(shape: Shape) -> Result<(Deployment, SampleServer)> {
    let (deployment, server) = (Deployment::start(shape).await?, SampleServer::start().await?);
    deployment.apply(&server.manifests())?;
    Ok((deployment, server))
}

/// Data planes learn of a token's consent a moment after it was committed.
async fn client(deployment: &Deployment, level: &str) -> Result<McpClient> {
    let token = deployment.token("finance", level)?;
    let client = McpClient::new(deployment.mcp.first().context("no data plane")?, "finance", &token);
    for mcp in &deployment.mcp {
        let there = client.at(mcp);
        eventually("the token works", async || {
            there.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
        })
        .await?;
    }
    Ok(client)
}

async fn a_permitted_call_returns_the_servers_result_and_others_never_reach_it(shape: Shape) -> Result<()> {
    let (deployment, server) = finance(shape).await?;
    let client = client(&deployment, "retrieval").await?;

    let arguments = json!({"dataset": "invoices", "limit": 2});
    let through = client.call("query_data", arguments.clone()).await?;
    let direct =
        McpClient { url: server.url(), token: String::new(), ..client.clone() }.call("query_data", arguments).await?;
    assert_eq!(through.body["result"]["content"], direct.body["result"]["content"], "{}", through.text);
    assert_eq!(through.body["result"]["structuredContent"], direct.body["result"]["structuredContent"]);

    let beyond = client.call("create_charge", json!({"customer": "c1", "amount_cents": 100})).await?;
    assert_eq!((beyond.status.as_u16(), beyond.code(), beyond.reason()), (200, Some(403), "consent_level_exceeded"));
    assert!(beyond.body.pointer("/error/data/requestId").is_some_and(Value::is_string), "{}", beyond.text);

    let charging = McpClient { token: deployment.token("finance", "transactional")?, ..client.clone() };
    let denied = eventually("the second consent is known", async || {
        let answer = charging.call("create_charge", json!({"customer": "c1", "amount_cents": 100})).await.ok()?;
        (answer.reason() != "consent_missing").then_some(answer)
    })
    .await?;
    assert_eq!(denied.reason(), "policy_denied", "{}", denied.text);
    assert_eq!(server.calls("create_charge").await?, 0);
    assert_eq!(server.calls("query_data").await?, 2);
    Ok(())
}

async fn the_list_shows_exactly_what_may_be_called(shape: Shape) -> Result<()> {
    let (deployment, _server) = finance(shape).await?;
    let mut client = client(&deployment, "destructive").await?;
    assert_eq!(client.modern("tools/list", json!({})).await?.tools(), ["query_data"]);
    client.initialize().await?;
    assert_eq!(client.legacy("tools/list", json!({})).await?.tools(), ["query_data"]);

    deployment.apply(
        "apiVersion: bailiwick/v1\nkind: Policy\nmetadata: {name: finance-all}\nspec:\n  cedar: |\n    permit (principal in Group::\"finance\", action in Action::\"call_tool\", resource in Server::\"finance\");\n",
    )?;
    for mcp in &deployment.mcp {
        let there = client.at(mcp);
        let tools = eventually("the policy is in force", async || {
            let tools = there.modern("tools/list", json!({})).await.ok()?.tools();
            (tools.len() == 3).then_some(tools)
        })
        .await?;
        assert_eq!(tools, ["create_charge", "delete_ledger", "query_data"]);
    }
    for (tool, arguments) in [
        ("create_charge", json!({"customer": "c1", "amount_cents": 100})),
        ("delete_ledger", json!({"ledger": "2019"})),
        ("query_data", json!({"dataset": "invoices"})),
    ] {
        let answer = client.call(tool, arguments).await?;
        assert!(answer.body.get("result").is_some(), "{tool}: {}", answer.text);
    }
    Ok(())
}

async fn clients_of_both_eras_may_alternate_between_data_planes(shape: Shape) -> Result<()> {
    let (deployment, server) = finance(shape).await?;
    let mut client = client(&deployment, "retrieval").await?;
    client.initialize().await?;
    for turn in 0..20_usize {
        let mcp = deployment.mcp.get(turn % deployment.mcp.len()).context("no data plane")?;
        let there = client.at(mcp);
        let params = json!({"name": "query_data", "arguments": {"dataset": "invoices"}});
        for answer in [there.legacy("tools/call", params.clone()).await?, there.modern("tools/call", params).await?] {
            assert!(answer.body.get("result").is_some(), "turn {turn}: {}", answer.text);
        }
        assert_eq!(there.legacy("ping", json!({})).await?.body["result"], json!({}));
    }
    assert_eq!(server.calls("query_data").await?, 40);
    Ok(())
}

async fn every_call_is_on_record_and_the_log_verifies_offline(shape: Shape) -> Result<()> {
    let (deployment, _server) = finance(shape).await?;
    let client = client(&deployment, "retrieval").await?;
    client.call("query_data", json!({"dataset": "invoices"})).await?;
    client.call("create_charge", json!({"customer": "c1", "amount_cents": 100})).await?;
    client.call("no_such_tool", json!({})).await?;

    let outcome = eventually("the outcome is in the ledger", async || {
        deployment.audit(&["--kind", "call.outcome", "--user", "jane@example.com"]).ok()?.into_iter().next()
    })
    .await?;
    let intent = deployment.audit(&["--kind", "call.intent"])?.into_iter().next().context("no intent")?;
    assert_eq!(outcome["intent"], intent["leaf_content_hash"].as_str().map_or(outcome["intent"].clone(), Value::from));
    for (field, value) in [
        ("user", "jane@example.com"),
        ("agent", "coding-assistant"),
        ("owner", "jane@example.com"),
        ("project", "platform"),
        ("server", "finance"),
        ("tool", "query_data"),
        ("tier", "retrieval"),
        ("virtual_server", "finance"),
    ] {
        assert_eq!(intent[field], value, "{intent:#}");
    }
    assert_eq!(intent["decision"]["policies"][0]["name"], "finance-reads");
    assert!(
        intent["consent"].is_string() && intent["rev"].is_string() && intent["tool_hash"].is_string(),
        "{intent:#}"
    );
    assert!(!intent.to_string().contains("\"invoices\""), "arguments are committed to, never stored: {intent:#}");

    let denied = eventually("both denials", async || {
        let denied = deployment.audit(&["--kind", "call.denied", "--decision", "deny"]).ok()?;
        (denied.len() >= 2).then_some(denied)
    })
    .await?;
    let reasons: Vec<&str> = denied.iter().filter_map(|record| record["decision"]["reason"].as_str()).collect();
    assert!(reasons.contains(&"consent_level_exceeded") && reasons.contains(&"tool_unknown"), "{reasons:?}");
    let events = deployment.audit(&["--kind", "control.event", "--limit", "1000"])?;
    for kind in ["policy_applied", "consent_granted", "node_epoch_opened", "tools_pinned"] {
        assert!(events.iter().any(|record| record["control"]["type"] == kind), "no {kind} in {events:#?}");
    }

    let out = deployment.data().join("export");
    let out = out.to_str().context("path")?;
    eventually("a checkpoint covers the outcome", async || {
        drop(std::fs::remove_dir_all(out));
        deployment.cli_ok(&["ledger", "export", &deployment.ledger, out]).ok()?;
        let report: Value =
            serde_json::from_str(&deployment.cli_ok(&["ledger", "verify", out, "-o", "json"]).ok()?).ok()?;
        (report["kinds"]["call.outcome"].as_u64()? >= 1 && report["kinds"]["call.denied"].as_u64()? >= 2).then_some(())
    })
    .await
}

async fn a_restart_loses_nothing_that_was_acknowledged(shape: Shape) -> Result<()> {
    let (mut deployment, server) = finance(shape).await?;
    let before = client(&deployment, "retrieval").await?;
    for _ in 0..10 {
        let answer = before.call("query_data", json!({"dataset": "invoices"})).await?;
        assert!(answer.body.get("result").is_some(), "{}", answer.text);
    }
    deployment.kill();
    deployment.start_again().await?;

    let policies: Value = serde_json::from_str(&deployment.cli_ok(&["get", "policy", "-o", "json"])?)?;
    assert_eq!(policies["items"][0]["metadata"]["name"], "finance-reads");
    eventually("all ten intents and outcomes are in the ledger", async || {
        let count = |kind| deployment.audit(&["--kind", kind, "--tool", "query_data"]).map_or(0, |found| found.len());
        (count("call.intent") == 10 && count("call.outcome") == 10).then_some(())
    })
    .await?;
    let after = client(&deployment, "retrieval").await?;
    assert!(after.call("query_data", json!({"dataset": "invoices"})).await?.body.get("result").is_some());
    assert_eq!(server.calls("query_data").await?, 11);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_without_the_control_plane() -> Result<()> {
    let (deployment, _server) = finance(Shape::Processes).await?;
    let client = client(&deployment, "retrieval").await?;
    for node in deployment.role("control-plane") {
        kill(node.pid, "KILL");
    }
    for _ in 0..5 {
        let answer = client.call("query_data", json!({"dataset": "invoices"})).await?;
        assert!(answer.body.get("result").is_some(), "{}", answer.text);
    }
    let refused = deployment.cli(&["get", "policy"])?;
    assert_eq!(refused.status.code(), Some(3), "{}", String::from_utf8_lossy(&refused.stderr));
    Ok(())
}
