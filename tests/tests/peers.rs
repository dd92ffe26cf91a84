//! Driven by other people's software: official Python and TypeScript clients and the Inspector, onto the official
//! legacy-only everything server and a server of both eras, through both shapes of Bailiwick.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, McpClient, Shape, eventually,
    peers::{PeerServer, SdkClient, inspector},
};
use serde_json::{Value, json};

const ERAS: [&str; 3] = ["legacy", "modern", "auto"];

fn manifests(name: &str, url: &str) -> String {
    format!(
        "apiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: {name}}}\nspec: {{endpoint: {{url: \"{url}\"}}}}\n\
         ---\napiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: {name}}}\nspec: {{naming: plain, servers: [{{server: {name}}}]}}\n\
         ---\napiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: jane@example.com}}\nspec: {{groups: [finance]}}\n\
         ---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: coding-assistant}}\nspec: {{owner: jane@example.com, project: platform, ceiling: destructive}}\n\
         ---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  cedar: permit (principal in Group::\"finance\", action, resource in Server::\"{name}\");\n"
    )
}

/// A deployment in front of one upstream, and a token good on every data plane.
async fn behind(shape: Shape, name: &str, upstream: &str, level: &str) -> Result<(Deployment, Vec<String>, String)> {
    let deployment = Deployment::start(shape).await?;
    deployment.apply(&manifests(name, upstream))?;
    let token = deployment.token(name, level)?;
    let urls: Vec<String> = deployment.mcp.iter().map(|mcp| format!("{mcp}/{name}")).collect();
    for mcp in &deployment.mcp {
        let raw = McpClient::new(mcp, name, &token);
        eventually("the token works", async || {
            raw.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
        })
        .await
        .with_context(|| deployment.log())?;
    }
    Ok((deployment, urls, token))
}

fn names(result: &Value) -> Vec<&str> {
    let tools = result["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    tools.iter().filter_map(|tool| tool["name"].as_str()).collect()
}

async fn sdk_clients_of_every_era_work(
    shape: Shape,
    name: &str,
    upstream: &str,
    tool: &str,
    arguments: &str,
) -> Result<()> {
    let (deployment, urls, token) = behind(shape, name, upstream, "destructive").await?;
    for client in [SdkClient::Python, SdkClient::TypeScript] {
        for era in ERAS {
            let listed = client.run(&urls, &token, era, &["--times", "2", "list"]).await?;
            ensure!(listed["ok"] == true, "{client:?} {era} list: {listed:#}");
            ensure!(names(&listed["results"][0]).contains(&tool), "{client:?} {era}: {listed:#}");
            let through = client.run(&urls, &token, era, &["--times", "4", "call", tool, arguments]).await?;
            ensure!(through["ok"] == true, "{client:?} {era} call: {through:#}\n{}", deployment.log());
            let direct = client.run(&[upstream.to_owned()], "", "legacy", &["call", tool, arguments]).await?;
            for turn in 0..4 {
                ensure!(
                    through["results"][turn]["content"] == direct["results"][0]["content"],
                    "{client:?} {era} turn {turn}: {through:#}\ndirect: {direct:#}"
                );
            }
            let asked = through["requests"].as_object().context("requests")?;
            ensure!(
                asked.values().all(|count| count.as_u64() > Some(0)),
                "not every data plane was asked: {through:#}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_clients_reach_the_legacy_everything_server_through_one_process() -> Result<()> {
    let server = PeerServer::everything().await?;
    sdk_clients_of_every_era_work(Shape::Embedded, "everything", &server.url, "echo", r#"{"message":"hello"}"#).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_clients_alternate_between_data_planes_onto_a_legacy_server() -> Result<()> {
    let server = PeerServer::everything().await?;
    sdk_clients_of_every_era_work(Shape::Processes, "everything", &server.url, "echo", r#"{"message":"hello"}"#).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_clients_alternate_between_data_planes_onto_a_server_of_both_eras() -> Result<()> {
    let server = PeerServer::typescript()?;
    sdk_clients_of_every_era_work(Shape::Processes, "both", &server.url, "add", r#"{"a":2,"b":3}"#).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_clients_see_a_refusal_with_its_reason() -> Result<()> {
    let server = PeerServer::typescript()?;
    let (_deployment, urls, token) = behind(Shape::Embedded, "both", &server.url, "retrieval").await?;
    for client in [SdkClient::Python, SdkClient::TypeScript] {
        for era in ERAS {
            let listed = client.run(&urls, &token, era, &["list"]).await?;
            ensure!(!names(&listed["results"][0]).contains(&"danger"), "{client:?} {era}: {listed:#}");
            let refused = client.run(&urls, &token, era, &["call", "danger"]).await?;
            ensure!(refused["error"]["code"] == 403, "{client:?} {era}: {refused:#}");
            ensure!(refused["error"]["data"]["reason"] == "consent_level_exceeded", "{client:?} {era}: {refused:#}");
            let stranger = client.run(&urls, "", era, &["list"]).await?;
            ensure!(stranger["ok"] == false && stranger["error"]["status"] == 401, "{client:?} {era}: {stranger:#}");
        }
    }
    let counts: Value = reqwest::get(server.url.replace("/mcp", "/calls")).await?.json().await?;
    ensure!(counts["danger"] == 0, "a refused call reached the server: {counts}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inspector_lists_and_calls_in_both_eras() -> Result<()> {
    let server = PeerServer::typescript()?;
    let (_deployment, urls, token) = behind(Shape::Embedded, "both", &server.url, "destructive").await?;
    for era in ["legacy", "modern", "auto"] {
        let listed = inspector(&urls[0], &token, era, &["--method", "tools/list"]).await?;
        let tools = listed.get("result").unwrap_or(&listed);
        ensure!(names(tools).contains(&"echo"), "{era}: {listed:#}");
        let call = ["--method", "tools/call", "--tool-name", "add", "--tool-arg", "a=2", "--tool-arg", "b=3"];
        let called = inspector(&urls[0], &token, era, &call).await?;
        ensure!(called.to_string().contains('5'), "{era}: {called:#}");
    }
    Ok(())
}
