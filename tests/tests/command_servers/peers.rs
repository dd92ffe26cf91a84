//! Other people's servers as programs, under other people's clients of both eras.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::peers::{PeerServer, SdkClient, place};
use serde_json::{Value, json};

use super::{Bench, python, text};

async fn sdk_clients_call(bench: &Bench, tool: &str, arguments: &str, expected: &str) -> Result<()> {
    let client = bench.client(0).await?;
    for sdk in [SdkClient::Python, SdkClient::TypeScript] {
        for era in ["legacy", "modern"] {
            let urls = [client.url.clone()];
            let called = sdk.run(&urls, &client.token, era, &["--times", "2", "call", tool, arguments]).await?;
            ensure!(called["ok"] == true, "{sdk:?} {era}: {called:#}\n{}", bench.deployment.log());
            ensure!(called["results"][1]["content"][0]["text"] == expected, "{sdk:?} {era}: {called:#}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_everything_server_works_as_a_program() -> Result<()> {
    let command = format!("{{program: {:?}, args: [{:?}, stdio]}}", place("PEER_NODE")?, place("PEER_EVERYTHING")?);
    let bench = Bench::start("everything", &command, 1).await?;
    sdk_clients_call(&bench, "echo", r#"{"message": "hi"}"#, "Echo: hi").await?;
    everything_else_works(&bench).await
}

/// Progress, prompts, resources, questions.
async fn everything_else_works(bench: &Bench) -> Result<()> {
    let mut client = bench.client(0).await?;
    let operation = json!({"name": "trigger-long-running-operation", "arguments": {"duration": 1, "steps": 3}});
    let mut told = operation.clone();
    told["_meta"] = json!({"progressToken": "mine"});
    client.initialize_with(json!({"elicitation": {}})).await?;
    let answer = client.legacy("tools/call", told).await?;
    let progress = answer.text.matches(r#""progressToken":"mine""#).count();
    ensure!(progress >= 2, "progress under the client's own token: {}", answer.text);
    for (method, member) in [("prompts/list", "prompts"), ("resources/list", "resources")] {
        let listed = client.legacy(method, json!({})).await?;
        let items = listed.body["result"][member].as_array().map(Vec::len).unwrap_or_default();
        ensure!(items > 0, "{method}: {listed:?}");
    }
    let listed = client.legacy("resources/list", json!({})).await?;
    let uri = listed.body["result"]["resources"][0]["uri"].as_str().context("a resource")?.to_owned();
    let read = client.legacy("resources/read", json!({"uri": uri})).await?;
    ensure!(read.body.pointer("/result/contents/0").is_some(), "{read:?}");
    let prompt = client.legacy("prompts/get", json!({"name": "simple-prompt"})).await?;
    ensure!(prompt.body.pointer("/result/messages/0").is_some(), "{prompt:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_everything_server_works_over_sse() -> Result<()> {
    let server = PeerServer::everything_over_sse().await?;
    let bench = Bench::over_sse("everything", &server.url).await?;
    sdk_clients_call(&bench, "echo", r#"{"message": "hi"}"#, "Echo: hi").await?;
    everything_else_works(&bench).await?;

    // Its sessions are gone with it; there are others when it is back.
    let client = bench.client(0).await?;
    drop(server);
    let gone = client.call("echo", json!({"message": "hi"})).await?;
    ensure!(gone.reason() == "upstream_unreachable", "{gone:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_the_python_sdk_works_over_sse() -> Result<()> {
    let server = PeerServer::python_over_sse().await?;
    let bench = Bench::over_sse("sdk", &server.url).await?;
    sdk_clients_call(&bench, "add", r#"{"a": 2, "b": 3}"#, "5").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_server_on_the_python_sdk_works_as_a_program() -> Result<()> {
    let bench = Bench::start("sdk", &python("stdio_sdk_server.py", &[], "")?, 1).await?;
    sdk_clients_call(&bench, "add", r#"{"a": 2, "b": 3}"#, "5").await?;
    let client = bench.client(0).await?;
    let mut meta = bailiwick_tests::mcp::modern_meta();
    meta["progressToken"] = json!("mine");
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call",
        "params": {"name": "work", "arguments": {"steps": 3}, "_meta": meta}});
    let headers =
        [("mcp-protocol-version", bailiwick_tests::mcp::MODERN), ("mcp-method", "tools/call"), ("mcp-name", "work")];
    let answer = client.raw(call.to_string(), &headers).await?;
    ensure!(text(&answer)? == "done" && answer.text.contains(r#""progressToken":"mine""#), "{answer:?}");
    let prompts = client.modern("prompts/list", json!({})).await?;
    ensure!(prompts.body.pointer("/result/prompts/0/name") == Some(&Value::from("greet")), "{prompts:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_s_question_reaches_the_client_and_its_answer_the_program() -> Result<()> {
    let bench = Bench::start("scripted", &python("stdio_server.py", &[], "")?, 1).await?;
    let client = bench.client(0).await?;
    let mut meta = bailiwick_tests::mcp::modern_meta();
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    let headers =
        [("mcp-protocol-version", bailiwick_tests::mcp::MODERN), ("mcp-method", "tools/call"), ("mcp-name", "ask")];
    let call = |more: Value| {
        let mut params = json!({"name": "ask", "arguments": {}, "_meta": meta.clone()});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
    };
    let asked = client.raw(call(json!({})), &headers).await?;
    let result = &asked.body["result"];
    ensure!(result["resultType"] == "input_required", "{asked:?}\n{}", bench.deployment.log());
    let (key, request) = result["inputRequests"].as_object().context("requests")?.iter().next().context("a request")?;
    ensure!(request["params"]["message"] == "Really?", "{request:#}");
    let responses = json!({key: {"action": "accept", "content": {"sure": true}}});
    let retry = json!({"inputResponses": responses, "requestState": result["requestState"]});
    let answered = client.raw(call(retry), &headers).await?;
    ensure!(text(&answered)?.contains(r#""sure": true"#), "{answered:?}");

    // A client that can be asked for nothing is not asked.
    let refused = client.call("ask", json!({})).await?;
    ensure!(text(&refused)?.contains("-32601"), "{refused:?}");
    Ok(())
}
