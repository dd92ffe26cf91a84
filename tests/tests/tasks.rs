//! Tasks through the gateway, with real processes, in what the conformance suite does not look at: whose a task is,
//! what closes it, other nodes, listeners, and the records of all of it.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, Events, McpClient, Shape, TaskServer, eventually,
    manifests::{JANE, person, policy, virtual_server},
    scripted::tool,
    task_server::TASKS,
};
use serde_json::{Value, json};

const TOOLS: [&str; 2] = ["jobs__pay", "jobs__read"];

struct World {
    deployment: Deployment,
    server: TaskServer,
    /// The same client at each of two nodes.
    at: [McpClient; 2],
}

async fn world() -> Result<World> {
    let server = TaskServer::start(vec![tool("pay", "transactional"), tool("read", "retrieval")]).await?;
    let deployment = Deployment::start(Shape::Processes).await?;
    let others = [
        virtual_server("jobs", "prefixed", "jobs"),
        virtual_server("more", "prefixed", "jobs"),
        JANE.to_owned(),
        person("joe@example.com", "", "other-assistant"),
    ];
    deployment.apply(&(server.manifests("jobs") + &others.concat()))?;
    let token = deployment.token("jobs", "transactional")?;
    let client = McpClient::new(&deployment.mcp[0], "jobs", &token);
    let at = [client.clone(), client.at(&deployment.mcp[1])];
    for client in &at {
        client.until_listed(&TOOLS).await?;
    }
    Ok(World { deployment, server, at })
}

fn capabilities() -> Value {
    json!({"elicitation": {}, "extensions": {TASKS: {}}})
}

/// A request of a client that has tasks.
async fn ask(client: &McpClient, method: &str, params: Value) -> Result<Answer> {
    client.declaring(capabilities(), method, params).await
}

async fn get(client: &McpClient, task: &str) -> Result<Answer> {
    ask(client, "tasks/get", json!({"taskId": task})).await
}

/// Begins a task; its id as the client knows it.
async fn begin(client: &McpClient, tool: &str) -> Result<String> {
    let begun = ask(client, "tools/call", json!({"name": tool, "arguments": {"n": 1}})).await?;
    ensure!(begun.body["result"]["resultType"] == "task", "{}", begun.text);
    let id = begun.body["result"]["taskId"].as_str().context("an id")?.to_owned();
    ensure!(id.starts_with("t2.") && !begun.text.contains("own-"), "{}", begun.text);
    Ok(id)
}

async fn follow(client: &McpClient, tasks: &[&str]) -> Result<(Events, Value)> {
    let wished = json!({"notifications": {"taskIds": tasks}});
    let mut events = Events::of(client.modern_request(capabilities(), "subscriptions/listen", wished)).await?;
    let acknowledged = events.message().await?;
    Ok((events, acknowledged["params"]["notifications"]["taskIds"].clone()))
}

impl World {
    /// Records of a method: kind, tool, tier, status and error code or reason; oldest first.
    async fn records(&self, method: &str, count: usize) -> Result<Vec<[String; 5]>> {
        let found = self.deployment.records_of(method, count).await?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let row = |record: &Value| {
            let outcome = &record["outcome"];
            let why = if outcome.is_null() { &record["decision"]["reason"] } else { &outcome["error_code"] };
            [&record["kind"], &record["tool"], &record["tier"], &outcome["status"], why].map(text)
        };
        Ok(found.iter().map(row).collect())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_goes_on_at_any_node_and_all_of_it_is_on_record() -> Result<()> {
    let world = world().await?;
    let [one, other] = &world.at;
    let id = begin(one, "jobs__pay").await?;
    let working = get(other, &id).await?;
    assert_eq!((&working.body["result"]["taskId"], &working.body["result"]["status"]), (&json!(id), &json!("working")));
    let asking = json!({"k": {"method": "elicitation/create", "params": {"message": "sure?"}}});
    world.server.becomes("own-1", &json!({"status": "input_required", "inputRequests": asking}));
    assert_eq!(get(one, &id).await?.body["result"]["inputRequests"], asking);
    let responses = json!({"k": {"action": "accept", "content": {}}});
    let update = ask(other, "tasks/update", json!({"taskId": id, "inputResponses": responses})).await?;
    assert_eq!(update.body["result"], json!({"resultType": "complete"}));
    let link = |uri: &str| json!({"isError": true, "content": [{"type": "resource_link", "uri": uri, "name": "n"}]});
    world.server.becomes("own-1", &json!({"status": "completed", "result": link("file:///a")}));
    assert_eq!(get(other, &id).await?.body["result"]["result"], link("mcp+jobs+file:///a"));
    ask(one, "tasks/cancel", json!({"taskId": id})).await?;
    world.server.forget("own-1");
    let gone = get(one, &id).await?;
    ensure!(gone.code() == Some(-32602) && !gone.text.contains("own-1"), "{}", gone.text);

    let asked = world.server.asked();
    ensure!(asked.iter().all(|asked| asked.task == "own-1" && asked.name == "own-1"), "{asked:?}");
    ensure!(asked.iter().any(|asked| asked.params["inputResponses"] == responses), "{asked:?}");
    let row = |kind: &str, tier: &str, status: &str, why: &str| [kind, "pay", tier, status, why].map(str::to_owned);
    let intent = |tier| row("call.intent", tier, "", "");
    let outcome = |tier, status, why| row("call.outcome", tier, status, why);
    assert_eq!(
        world.records("tools/call", 2).await?,
        [intent("transactional"), outcome("transactional", "ok", "task")]
    );
    let looks = [("ok", "working"), ("ok", "input_required"), ("tool_error", ""), ("error", "-32602")];
    let looks: Vec<_> =
        looks.iter().flat_map(|(status, why)| [intent("retrieval"), outcome("retrieval", status, why)]).collect();
    assert_eq!(world.records("tasks/get", 8).await?, looks);
    for method in ["tasks/update", "tasks/cancel"] {
        let both = [intent("transactional"), outcome("transactional", "ok", "")];
        assert_eq!(world.records(method, 2).await?, both, "{method}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_nobody_elses() -> Result<()> {
    let world = world().await?;
    let id = begin(&world.at[0], "jobs__pay").await?;
    let mut others = Vec::new();
    for (user, agent, virtual_server) in [
        ("joe@example.com", "coding-assistant", "jobs"),
        ("jane@example.com", "other-assistant", "jobs"),
        ("jane@example.com", "coding-assistant", "more"),
    ] {
        let issued = world.deployment.token_for(user, agent, virtual_server, "destructive", "10m")?;
        let token = issued["access_token"].as_str().context("a token")?;
        let other = McpClient::new(&world.deployment.mcp[1], virtual_server, token);
        other.until_listed(&TOOLS).await?;
        others.push((other, id.clone()));
    }
    let mut forged = id.clone();
    forged.replace_range(40..41, if id.get(40..41) == Some("A") { "B" } else { "A" });
    others.push((world.at[1].clone(), forged));
    others.push((world.at[1].clone(), "own-1".to_owned()));
    for (client, id) in &others {
        for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
            let refused = ask(client, method, json!({"taskId": id, "inputResponses": {}})).await?;
            assert_eq!((refused.code(), refused.reason()), (Some(-32602), "task_unknown"), "{method} {}", client.url);
        }
        let (_, honoured) = follow(client, &[id]).await?;
        ensure!(honoured.is_null(), "{honoured}");
    }
    ensure!(world.server.asked().is_empty(), "{:?}", world.server.asked());
    ensure!(get(&world.at[1], &id).await?.status == 200);
    let denied = world.records("tasks/cancel", others.len()).await?;
    let row = ["call.denied", "", "", "", "task_unknown"].map(str::to_owned);
    assert_eq!(denied, vec![row; others.len()]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_closes_a_tool_closes_its_tasks_at_every_node() -> Result<()> {
    let world = world().await?;
    let id = begin(&world.at[0], "jobs__pay").await?;
    let reading = begin(&world.at[0], "jobs__read").await?;
    let undeclared = world.at[0].modern("tasks/get", json!({"taskId": id})).await?;
    assert_eq!((undeclared.status.as_u16(), undeclared.code()), (400, Some(-32021)), "{}", undeclared.text);
    let forbid = "forbid (principal, action, resource == Tool::\"jobs__pay\");";
    world.deployment.apply(&policy("no-paying", forbid))?;
    for client in &world.at {
        let refused = eventually("the policy counts", async || {
            get(client, &id).await.ok().filter(|answer| answer.body.get("error").is_some())
        })
        .await?;
        assert_eq!((refused.code(), refused.reason()), (Some(403), "policy_denied"), "{}", refused.text);
        ensure!(get(client, &reading).await?.body["result"]["status"] == "working");
    }
    let asked = world.server.asked().len();
    world.deployment.cli_ok(&["revoke", "agent", "coding-assistant", "--wait"])?;
    for client in &world.at {
        let refused = get(client, &reading).await?;
        ensure!(refused.body.get("result").is_none(), "{}", refused.text);
    }
    assert_eq!(world.server.asked().len(), asked, "nothing was asked of the server any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_is_told_what_becomes_of_its_tasks_and_that_is_on_record_first() -> Result<()> {
    let world = world().await?;
    let (paying, reading) = (begin(&world.at[0], "jobs__pay").await?, begin(&world.at[0], "jobs__read").await?);
    let (mut events, honoured) = follow(&world.at[1], &[&paying, &reading, "own-1"]).await?;
    let mut expected = [paying.clone(), reading.clone()];
    expected.sort();
    assert_eq!(honoured, json!(expected));
    world.server.becomes("own-1", &json!({"status": "working", "statusMessage": "half"}));
    let told = events.message().await?;
    assert_eq!((&told["method"], &told["params"]["taskId"]), (&json!("notifications/tasks"), &json!(paying)));
    assert_eq!(told["params"]["_meta"], json!({"io.modelcontextprotocol/subscriptionId": 1}));
    world.server.becomes("own-1", &json!({"status": "completed", "result": {"content": [], "secret": 1}}));
    let told = events.message().await?;
    assert_eq!((&told["params"]["status"], &told["params"]["result"]["secret"]), (&json!("completed"), &json!(1)));
    let row = |kind: &str, status: &str, why: &str| [kind, "pay", "retrieval", status, why].map(str::to_owned);
    let records = [
        row("call.intent", "", ""),
        row("call.outcome", "ok", "working"),
        row("call.intent", "", ""),
        row("call.outcome", "ok", ""),
    ];
    assert_eq!(world.records("notifications/tasks", 4).await?, records);

    // Of a task that is over nothing more is told; the other one goes on, until its server lets go.
    world.server.becomes("own-1", &json!({"status": "working"}));
    world.server.becomes("own-2", &json!({"status": "working"}));
    let told = events.message().await?;
    assert_eq!(told["params"]["taskId"], json!(reading));
    world.server.let_listeners_go();
    let farewell = events.message().await?;
    assert_eq!(farewell["result"]["resultType"], "complete", "{farewell}");
    ensure!(events.next().await?.is_none());

    let (mut events, _) = follow(&world.at[1], &[&reading]).await?;
    world.server.becomes("own-2", &json!({"status": "cancelled"}));
    ensure!(events.message().await?["params"]["status"] == "cancelled");
    ensure!(events.message().await?["result"]["resultType"] == "complete", "nothing else can come");
    ensure!(events.next().await?.is_none());
    Ok(())
}
