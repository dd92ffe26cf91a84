//! Prompts and resources, end to end: what is listed is what may be used, what a policy does not permit never reaches
//! the server, every use is on record, and a virtual server of several servers shows names that lead back.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, McpClient, SampleServer, Shape, both, eventually};
use serde_json::{Value, json};

both! {
    what_is_listed_is_what_may_be_used_and_the_rest_never_reaches_the_server
    every_use_is_on_record_without_names_or_contents
    a_virtual_server_of_several_servers_shows_names_that_lead_back
}

const PUBLIC: &str = "finance://handbook/public/expenses";
const INTERNAL: &str = "finance://handbook/internal/margins";

/// A second view, over two servers, with a policy that permits everything there.
const BOTH: &str = r#"
---
apiVersion: bailiwick/v1
kind: Server
metadata: {name: books}
spec: {endpoint: {url: "URL"}}
---
apiVersion: bailiwick/v1
kind: VirtualServer
metadata: {name: both}
spec: {servers: [{server: books}, {server: finance}]}
---
apiVersion: bailiwick/v1
kind: Policy
metadata: {name: both-reads}
spec:
  cedar: |
    permit (principal, action in [Action::"get_prompt", Action::"read_resource"], resource)
    when { context.virtual_server == "both" };
"#;

async fn start(shape: Shape, virtual_server: &str) -> Result<(Deployment, SampleServer, McpClient)> {
    let (deployment, server) = (Deployment::start(shape).await?, SampleServer::start().await?);
    deployment.apply(&format!("{}{}", server.manifests(), BOTH.replace("URL", &server.url())))?;
    let token = deployment.token(virtual_server, "retrieval")?;
    let client = McpClient::new(deployment.mcp.first().context("no data plane")?, virtual_server, &token);
    eventually("the token works", async || {
        let listed = client.modern("prompts/list", json!({})).await.ok()?;
        (!texts(&listed.body, "/result/prompts", "name").is_empty()).then_some(())
    })
    .await?;
    Ok((deployment, server, client))
}

/// One member of every item of a list.
fn texts(body: &Value, list: &str, member: &str) -> Vec<String> {
    let items = body.pointer(list).and_then(Value::as_array).cloned().unwrap_or_default();
    items.iter().filter_map(|item| item[member].as_str().map(str::to_owned)).collect()
}

async fn what_is_listed_is_what_may_be_used_and_the_rest_never_reaches_the_server(shape: Shape) -> Result<()> {
    let (_deployment, server, mut client) = start(shape, "finance").await?;
    client.initialize().await?;
    for is_modern in [true, false] {
        let send = async |method: &str, params: Value| match is_modern {
            true => client.modern(method, params).await,
            false => client.legacy(method, params).await,
        };
        let before = server.reads().await?;
        let prompts = send("prompts/list", json!({})).await?;
        assert_eq!(texts(&prompts.body, "/result/prompts", "name"), ["summarise_invoices"], "{}", prompts.text);
        let resources = send("resources/list", json!({})).await?;
        assert_eq!(texts(&resources.body, "/result/resources", "uri"), [PUBLIC], "{}", resources.text);
        let templates = send("resources/templates/list", json!({})).await?;
        let templates = texts(&templates.body, "/result/resourceTemplates", "uriTemplate");
        assert_eq!(templates, ["finance://datasets/{dataset}"]);

        let customer = json!({"customer": "acme"});
        let prompt = send("prompts/get", json!({"name": "summarise_invoices", "arguments": customer})).await?;
        let text = &prompt.body["result"]["messages"][0]["content"]["text"];
        assert_eq!(text, "Summarise the open invoices of acme in three sentences.", "{}", prompt.text);
        for uri in [PUBLIC, "finance://datasets/invoices"] {
            let read = send("resources/read", json!({"uri": uri})).await?;
            assert_eq!(read.body["result"]["contents"][0]["uri"], uri, "{}", read.text);
        }
        let after = server.reads().await?;
        assert_eq!((after.0 - before.0, after.1 - before.1), (1, 2));

        for (method, params, code, reason) in [
            ("prompts/get", json!({"name": "draft_reminder", "arguments": customer}), 403, "policy_denied"),
            ("resources/read", json!({"uri": INTERNAL}), 403, "policy_denied"),
            (
                "resources/read",
                json!({"uri": "finance://handbook/public/../internal/margins"}),
                -32602,
                "resource_uri_invalid",
            ),
            (
                "resources/read",
                json!({"uri": "finance://handbook/public/%2e%2e/internal/margins"}),
                -32602,
                "resource_uri_invalid",
            ),
        ] {
            let refused = send(method, params.clone()).await?;
            assert_eq!((refused.code(), refused.reason()), (Some(code), reason), "{params}: {}", refused.text);
        }
        assert_eq!(server.reads().await?, after, "what was refused has reached the server");
    }
    Ok(())
}

async fn every_use_is_on_record_without_names_or_contents(shape: Shape) -> Result<()> {
    let (deployment, _server, client) = start(shape, "finance").await?;
    client.modern("resources/read", json!({"uri": PUBLIC})).await?;
    client.modern("resources/read", json!({"uri": INTERNAL})).await?;
    client.modern("prompts/get", json!({"name": "summarise_invoices", "arguments": {"customer": "acme"}})).await?;
    let records = eventually("two outcomes and a denial", async || {
        let all = deployment.audit(&["--server", "finance", "--limit", "100"]).ok()?;
        let count = |kind: &str| all.iter().filter(|record| record["kind"] == kind).count();
        (count("call.outcome") >= 2 && count("call.denied") >= 1).then_some(all)
    })
    .await?;
    for (kind, method) in [
        ("call.intent", "resources/read"),
        ("call.outcome", "resources/read"),
        ("call.denied", "resources/read"),
        ("call.intent", "prompts/get"),
        ("call.outcome", "prompts/get"),
    ] {
        let is_it = |record: &&Value| record["kind"] == kind && record["trace"]["method"] == method;
        let record = records.iter().find(is_it).with_context(|| format!("no {kind} of {method}"))?;
        assert_eq!((record["server"].as_str(), record["tier"].as_str()), (Some("finance"), Some("retrieval")));
        assert!(record.get("tool").is_none_or(Value::is_null), "{record:#}");
        let text = record.to_string();
        ensure!(!text.contains("handbook") && !text.contains("summarise") && !text.contains("acme"), "{record:#}");
    }
    let denied = records.iter().find(|record| record["kind"] == "call.denied").context("no denial")?;
    assert_eq!(denied["decision"]["reason"], "policy_denied");
    Ok(())
}

async fn a_virtual_server_of_several_servers_shows_names_that_lead_back(shape: Shape) -> Result<()> {
    let (deployment, server, client) = start(shape, "both").await?;
    let prompts = client.modern("prompts/list", json!({})).await?;
    let expected = [
        "books__summarise_invoices",
        "books__draft_reminder",
        "finance__summarise_invoices",
        "finance__draft_reminder",
    ];
    assert_eq!(texts(&prompts.body, "/result/prompts", "name"), expected, "{}", prompts.text);
    assert_eq!(prompts.body["result"]["cacheScope"], "private");
    let resources = client.modern("resources/list", json!({})).await?;
    let uris = texts(&resources.body, "/result/resources", "uri");
    assert_eq!(uris[0], format!("mcp+books+{PUBLIC}"), "{}", resources.text);
    for uri in &uris {
        let read = client.modern("resources/read", json!({"uri": uri})).await?;
        assert_eq!(read.body["result"]["contents"][0]["uri"], **uri, "{}", read.text);
    }
    let missing = "mcp+books+finance://datasets/salaries";
    let refused = client.modern("resources/read", json!({"uri": missing})).await?;
    assert_eq!(refused.code(), Some(-32602), "what is not there is said by the server: {}", refused.text);
    let name = json!({"name": "books__draft_reminder", "arguments": {"customer": "acme"}});
    let prompt = client.modern("prompts/get", name).await?;
    ensure!(prompt.body["result"]["messages"].is_array(), "{}", prompt.text);
    for (method, params) in [
        ("prompts/get", json!({"name": "draft_reminder"})),
        ("prompts/get", json!({"name": "other__draft_reminder"})),
        ("resources/read", json!({"uri": PUBLIC})),
    ] {
        let refused = client.modern(method, params).await?;
        assert_eq!(refused.code(), Some(-32602), "{}", refused.text);
    }
    assert_eq!(server.reads().await?, (1, 5));

    // A policy that goes takes what it permitted with it, at once.
    deployment.cli_ok(&["delete", "policy", "both-reads"])?;
    eventually("nothing is permitted any more", async || {
        let refused = client.modern("prompts/get", json!({"name": "books__draft_reminder"})).await.ok()?;
        (refused.reason() == "policy_denied").then_some(())
    })
    .await?;
    let prompts = tokio::time::timeout(Duration::from_secs(10), client.modern("prompts/list", json!({}))).await??;
    // What another policy permits of the server, it permits here as well.
    assert_eq!(texts(&prompts.body, "/result/prompts", "name"), ["finance__summarise_invoices"]);
    Ok(())
}
