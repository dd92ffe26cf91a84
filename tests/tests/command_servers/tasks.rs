//! Tasks of servers at the other end of a channel: a program on the published Rust SDK, and a server over HTTP+SSE.
//! Each step is decided and recorded as it is of servers over HTTP (`tests/tasks.rs`).

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, Events, McpClient, Shape, TaskServer, deployment::binary, eventually, manifests,
    scripted::tool, task_server::TASKS,
};
use serde_json::{Value, json};

use super::{Bench, gone, text, wardens};

fn capabilities() -> Value {
    json!({"elicitation": {}, "extensions": {TASKS: {}}})
}

async fn ask(client: &McpClient, method: &str, params: Value) -> Result<Answer> {
    client.declaring(capabilities(), method, params).await
}

async fn begin(client: &McpClient, tool: &str, arguments: Value) -> Result<String> {
    let begun = ask(client, "tools/call", json!({"name": tool, "arguments": arguments})).await?;
    ensure!(begun.body["result"]["resultType"] == "task", "{}", begun.text);
    Ok(begun.body["result"]["taskId"].as_str().filter(|id| id.starts_with("t2.")).context("a sealed id")?.to_owned())
}

async fn until(client: &McpClient, task: &str, status: &str) -> Result<Value> {
    eventually(status, async || {
        let seen = ask(client, "tasks/get", json!({"taskId": task})).await.ok()?.body["result"].take();
        (seen["status"] == status).then_some(seen)
    })
    .await
}

/// Kind, tier, status and error code or reason of a method's records, oldest first, each once.
async fn recorded(deployment: &Deployment, method: &str, count: usize) -> Result<Vec<[String; 4]>> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row = |record: &Value| {
        let outcome = &record["outcome"];
        let why = if outcome.is_null() { &record["decision"]["reason"] } else { &outcome["error_code"] };
        [&record["kind"], &record["tier"], &outcome["status"], why].map(text)
    };
    let mut rows = Vec::new();
    for row in deployment.records_of(method, count).await?.iter().map(row) {
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    Ok(rows)
}

fn rows<const N: usize>(expected: [[&str; 4]; N]) -> Vec<[String; 4]> {
    expected.map(|row| row.map(str::to_owned)).into()
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_program_go_on_are_asked_about_and_are_cancelled() -> Result<()> {
    let command = json!({"program": binary("tasks-server"), "args": ["--stdio"], "idle": "1s"});
    let bench = Bench::start("jobs", &command.to_string(), 2).await?;
    let (one, other) = (bench.client(0).await?, bench.client(1).await?);

    // Others' programs idle meanwhile; that of the tasks does not, for they are nowhere else.
    let long = begin(&one, "slow_compute", json!({"seconds": 600})).await?;
    until(&one, &long, "working").await?;
    let short = begin(&one, "slow_compute", json!({"seconds": 0.5})).await?;
    let programs = wardens(bench.node()?);
    ensure!(text(&other.call("greet", json!({})).await?)? == "Hello, you!");
    let of_other: Vec<u64> = wardens(bench.node()?).into_iter().filter(|warden| !programs.contains(warden)).collect();
    ensure!(of_other.len() == 1, "{programs:?} {of_other:?}");
    gone("the other's program idles", &of_other).await?;
    let done = until(&one, &short, "completed").await?;
    ensure!(done["result"]["content"][0]["text"] == "computed for 500 ms", "{done:#}");

    // Somebody else's id means nothing.
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        let refused = ask(&other, method, json!({"taskId": long, "inputResponses": {}})).await?;
        ensure!((refused.code(), refused.reason()) == (Some(-32602), "task_unknown"), "{method}: {refused:?}");
    }
    // It asks, and is answered.
    let asking = begin(&one, "confirm_delete", json!({})).await?;
    let wish = until(&one, &asking, "input_required").await?;
    ensure!(wish["inputRequests"]["confirm"]["method"] == "elicitation/create", "{wish:#}");
    let responses = json!({"confirm": {"action": "accept", "content": {"confirm": "yes"}}});
    ask(&one, "tasks/update", json!({"taskId": asking, "inputResponses": responses})).await?;
    let done = until(&one, &asking, "completed").await?;
    ensure!(done["result"]["content"][0]["text"] == "deleted: \"yes\"", "{done:#}");
    // What fails, fails by name.
    let failing = begin(&one, "failing_job", json!({})).await?;
    ensure!(until(&one, &failing, "completed").await?["result"]["isError"] == true);
    let failing = begin(&one, "protocol_error_job", json!({})).await?;
    ensure!(until(&one, &failing, "failed").await?["error"]["code"] == -32603);
    let cancelled = ask(&one, "tasks/cancel", json!({"taskId": long})).await?;
    ensure!(cancelled.body["result"]["resultType"] == "complete", "{cancelled:?}");
    until(&one, &long, "cancelled").await?;
    // A client without tasks waits for the answer.
    ensure!(text(&one.call("slow_compute", json!({"seconds": 0.1})).await?)? == "computed for 100 ms");

    let of = |method, count| recorded(&bench.deployment, method, count);
    ensure!(
        of("tools/call", 12).await?
            == rows([
                ["call.intent", "destructive", "", ""],
                ["call.outcome", "destructive", "ok", "task"],
                ["call.outcome", "destructive", "ok", ""]
            ]),
        "{:?}",
        of("tools/call", 12).await?
    );
    let seen = of("tasks/get", 13).await?;
    let looks = [("ok", "working"), ("ok", ""), ("ok", "input_required"), ("tool_error", ""), ("error", "-32603")];
    for (status, why) in looks {
        let row = ["call.outcome", "retrieval", status, why].map(str::to_owned);
        ensure!(seen.contains(&row), "{row:?} is not among {seen:?}");
    }
    for method in ["tasks/update", "tasks/cancel"] {
        let expected = rows([
            ["call.denied", "", "", "task_unknown"],
            ["call.intent", "destructive", "", ""],
            ["call.outcome", "destructive", "ok", ""],
        ]);
        ensure!(of(method, 3).await? == expected, "{method}: {:?}", of(method, 3).await?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_a_server_over_sse_go_on_at_any_node_and_their_listeners_are_told() -> Result<()> {
    let server = TaskServer::start(vec![tool("pay", "transactional")]).await?;
    let deployment = Deployment::start(Shape::Processes).await?;
    let endpoint = json!({"url": server.sse_url, "transport": "sse"});
    let manifests = [
        manifests::server("jobs", &endpoint),
        manifests::virtual_server("jobs", "plain", "jobs"),
        manifests::permits_all_of("jobs"),
        manifests::JANE.to_owned(),
    ];
    deployment.apply(&manifests.concat())?;
    let one = McpClient::new(&deployment.mcp[0], "jobs", &deployment.token("jobs", "transactional")?);
    let other = one.at(&deployment.mcp[1]);
    one.until_listed(&["pay"]).await?;
    other.until_listed(&["pay"]).await?;

    let task = begin(&one, "pay", json!({"n": 1})).await?;
    until(&other, &task, "working").await?;
    let wished = json!({"notifications": {"taskIds": [task]}});
    let mut events = Events::of(other.modern_request(capabilities(), "subscriptions/listen", wished)).await?;
    let acknowledged = events.message().await?;
    ensure!(acknowledged["params"]["notifications"]["taskIds"] == json!([task]), "{acknowledged:#}");
    server.becomes("own-1", &json!({"status": "completed", "result": {"content": [], "paid": true}}));
    let told = events.message().await?;
    ensure!(told["method"] == "notifications/tasks" && told["params"]["result"]["paid"] == true, "{told:#}");
    ensure!(until(&one, &task, "completed").await?["result"]["paid"] == true);
    let cancelled = ask(&other, "tasks/cancel", json!({"taskId": task})).await?;
    ensure!(cancelled.body["result"]["resultType"] == "complete", "{cancelled:?}");

    let asked = server.asked();
    ensure!(asked.iter().filter(|asked| !asked.task.is_empty()).all(|asked| asked.task == "own-1"), "{asked:?}");
    for (method, tier) in [("tools/call", "transactional"), ("tasks/cancel", "transactional")] {
        let why = if method == "tools/call" { "task" } else { "" };
        let expected = rows([["call.intent", tier, "", ""], ["call.outcome", tier, "ok", why]]);
        let seen = recorded(&deployment, method, 2).await?;
        ensure!(seen == expected, "{method}: {seen:?}");
    }
    ensure!(recorded(&deployment, "notifications/tasks", 2).await?.len() == 2);
    Ok(())
}
