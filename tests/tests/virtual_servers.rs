//! Virtual servers over many servers, with real processes and other people's clients and servers: views, tools that are
//! searched for, and a server that is dead among others.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, Events, McpClient, ScriptedServer, Shape, TaskServer, eventually,
    mcp::{MODERN, modern_meta},
    peers::{PeerServer, SdkClient},
    scripted::{Reply, tool},
    task_server::TASKS,
};
use serde_json::{Value, json};

const ERAS: [&str; 3] = ["legacy", "modern", "auto"];
const PEOPLE: &str = "---
apiVersion: bailiwick/v1
kind: User
metadata: {name: jane@example.com}
spec: {groups: [finance]}
---
apiVersion: bailiwick/v1
kind: Agent
metadata: {name: coding-assistant}
spec: {owner: jane@example.com, project: platform, ceiling: destructive}
---
apiVersion: bailiwick/v1
kind: Policy
metadata: {name: all}
spec:
  cedar: permit (principal, action, resource);
";

fn server(name: &str, url: &str) -> String {
    format!(
        "---\napiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: {name}}}\nspec: {{endpoint: {{url: \"{url}\"}}}}\n"
    )
}

fn virtual_server(name: &str, spec: &str) -> String {
    format!("---\napiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// A client at each data plane, once all of them list these tools.
async fn clients(deployment: &Deployment, name: &str, level: &str, tools: &[&str]) -> Result<Vec<McpClient>> {
    let token = deployment.token(name, level)?;
    let mut clients = Vec::new();
    for mcp in &deployment.mcp {
        let client = McpClient::new(mcp, name, &token);
        eventually("the tools are listed", async || {
            let listed = client.modern("tools/list", json!({})).await.ok()?;
            (listed.tools() == tools).then_some(())
        })
        .await
        .with_context(|| deployment.log())?;
        clients.push(client);
    }
    Ok(clients)
}

fn names(result: &Value) -> Vec<&str> {
    let tools = result["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
    tools.iter().filter_map(|tool| tool["name"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_clients_see_and_call_tools_as_a_view_shows_them() -> Result<()> {
    let upstream = PeerServer::typescript()?;
    let deployment = Deployment::start(Shape::Embedded).await?;
    let view = "{naming: plain, servers: [{server: both, hide: [danger, slow], tools: {add: {name: add_three, title: Add \
                three, description: Adds three., fixed: {b: 3}}}}]}";
    deployment.apply(&(server("both", &upstream.url) + &virtual_server("both", view) + PEOPLE))?;
    let client = clients(&deployment, "both", "destructive", &["add_three", "echo", "fail"]).await?.swap_remove(0);
    let (urls, token) = ([client.url.clone()], client.token.clone());
    for sdk in [SdkClient::Python, SdkClient::TypeScript] {
        for era in ERAS {
            let listed = sdk.run(&urls, &token, era, &["list"]).await?;
            ensure!(names(&listed["results"][0]) == ["add_three", "echo", "fail"], "{sdk:?} {era}: {listed:#}");
            let shown = &listed["results"][0]["tools"][0];
            ensure!(shown["title"] == "Add three" && shown["description"] == "Adds three.", "{shown:#}");
            ensure!(shown["inputSchema"]["required"] == json!(["a"]), "{shown:#}");
            let called = sdk.run(&urls, &token, era, &["call", "add_three", r#"{"a":2}"#]).await?;
            ensure!(called["results"][0]["content"][0]["text"] == "5", "{sdk:?} {era}: {called:#}");
            let refused = sdk.run(&urls, &token, era, &["call", "add_three", r#"{"a":2,"b":4}"#]).await?;
            ensure!(refused["error"]["code"] == -32602, "{sdk:?} {era}: {refused:#}");
            ensure!(refused["error"]["data"]["reason"] == "argument_fixed", "{sdk:?} {era}: {refused:#}");
            let hidden = sdk.run(&urls, &token, era, &["call", "danger"]).await?;
            ensure!(hidden["error"]["data"]["reason"] == "tool_unknown", "{sdk:?} {era}: {hidden:#}");
        }
    }
    let counts: Value = reqwest::get(upstream.url.replace("/mcp", "/calls")).await?.json().await?;
    ensure!((&counts["add"], &counts["danger"]) == (&json!(6), &json!(0)), "{counts}");
    let on_record = eventually("all calls are on record", async || {
        let found = deployment.audit(&["--kind", "call.outcome", "--tool", "add", "--server", "both"]).ok()?;
        (found.len() == 6).then_some(())
    });
    on_record.await.with_context(|| deployment.log())
}

#[tokio::test(flavor = "multi_thread")]
async fn sdk_clients_find_tools_of_many_servers_and_call_them() -> Result<()> {
    let (both, everything) = (PeerServer::typescript()?, PeerServer::everything().await?);
    let deployment = Deployment::start(Shape::Embedded).await?;
    let servers = server("both", &both.url) + &server("everything", &everything.url);
    let searched = virtual_server("many", "{tools: search, servers: [{server: both}, {server: everything}]}");
    deployment.apply(&(servers + &searched + PEOPLE))?;
    let two = ["search_tools", "call_tool"];
    let client = clients(&deployment, "many", "transactional", &two).await?.swap_remove(0);
    let (urls, token) = ([client.url.clone()], client.token.clone());
    for sdk in [SdkClient::Python, SdkClient::TypeScript] {
        for era in ERAS {
            let listed = sdk.run(&urls, &token, era, &["list"]).await?;
            ensure!(names(&listed["results"][0]) == two, "{sdk:?} {era}: {listed:#}");
            let run = async |tool: &str, arguments: Value| {
                sdk.run(&urls, &token, era, &["call", tool, &arguments.to_string()]).await
            };
            let found = run("search_tools", json!({"query": "add two numbers"})).await?;
            let best = &found["results"][0]["structuredContent"]["tools"][0];
            ensure!(best["name"] == "both__add" && best["inputSchema"]["required"] == json!(["a", "b"]), "{found:#}");
            let dangerous = run("search_tools", json!({"query": "danger destroys"})).await?;
            ensure!(dangerous["results"][0]["structuredContent"] == json!({"tools": []}), "{dangerous:#}");
            let sum = run("call_tool", json!({"name": "both__add", "arguments": {"a": 2, "b": 3}})).await?;
            ensure!(sum["results"][0]["structuredContent"]["sum"] == 5, "{sdk:?} {era}: {sum:#}");
            let echo = run("call_tool", json!({"name": "everything__echo", "arguments": {"message": "hi"}})).await?;
            ensure!(echo["results"][0]["content"][0]["text"] == "Echo: hi", "{sdk:?} {era}: {echo:#}");
            let refused = run("call_tool", json!({"name": "both__danger"})).await?;
            ensure!(refused["error"]["data"]["reason"] == "consent_level_exceeded", "{sdk:?} {era}: {refused:#}");
            let unknown = run("call_tool", json!({"name": "both__absent"})).await?;
            ensure!(unknown["error"]["data"]["reason"] == "tool_unknown", "{sdk:?} {era}: {unknown:#}");
        }
    }
    eventually("calls are on record as those of their tools", async || {
        let found = deployment.audit(&["--kind", "call.outcome", "--tool", "add", "--server", "both"]).ok()?;
        (found.len() == 6).then_some(())
    })
    .await?;
    let of = |tool: &str| deployment.audit(&["--tool", tool]);
    ensure!(of("call_tool")?.is_empty() && of("search_tools")?.is_empty(), "the two are no server's tools");
    Ok(())
}

/// A tool that wants its region mirrored.
fn by_region() -> Value {
    let mut tool = tool("by_region", "retrieval");
    tool["inputSchema"]["properties"] = json!({"region": {"type": "string", "x-mcp-header": "Region"}, "year": {"type": "integer", "x-mcp-header": "Year"}});
    tool
}

#[tokio::test(flavor = "multi_thread")]
async fn what_reaches_a_server_agrees_in_headers_and_body_however_it_was_called() -> Result<()> {
    let upstream = ScriptedServer::start(vec![by_region()]).await?;
    upstream.speak_modern(true);
    let deployment = Deployment::start(Shape::Processes).await?;
    let fixed = "{tools: search, servers: [{server: old, tools: {by_region: {name: here, fixed: {region: eu}}}}]}";
    let manifests = server("old", upstream.url())
        + &virtual_server("fixed", fixed)
        + &virtual_server("all", "{servers: [{server: old}]}");
    deployment.apply(&(manifests + PEOPLE))?;
    let fixed = clients(&deployment, "fixed", "retrieval", &["search_tools", "call_tool"]).await?;
    let all = clients(&deployment, "all", "retrieval", &["old__by_region"]).await?;
    for (turn, client) in fixed.iter().enumerate() {
        let mut legacy = client.clone();
        legacy.initialize().await?;
        let wrapped = json!({"name": "call_tool", "arguments": {"name": "here", "arguments": {"year": 2026}}});
        for answer in [client.modern("tools/call", wrapped.clone()).await?, legacy.legacy("tools/call", wrapped).await?]
        {
            let content = &answer.body["result"]["structuredContent"];
            ensure!(*content == json!({"year": 2026, "region": "eu"}), "{}", answer.text);
        }
        // A client that knows the name mirrors what it was shown.
        let params = json!({"name": "here", "arguments": {"year": 2026}, "_meta": modern_meta()});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
        let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "here")];
        let direct = client.raw(body.clone(), &[&headers[..], &[("mcp-param-year", "2026")]].concat()).await?;
        ensure!(direct.status == 200 && direct.body["result"].is_object(), "{}", direct.text);
        let lacking = client.raw(body, &headers).await?;
        ensure!(lacking.status == 400 && lacking.code() == Some(-32020), "{}", lacking.text);
        for seen in upstream.seen().iter().skip(turn * 3) {
            let header = |name: &str| seen.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
            let body: Value = serde_json::from_str(&seen.body)?;
            ensure!(
                header("mcp-name").as_deref() == Some("by_region") && body["params"]["name"] == "by_region",
                "{seen:?}"
            );
            ensure!(header("mcp-method").as_deref() == Some("tools/call"), "{seen:?}");
            ensure!(header("mcp-param-region").as_deref() == Some("eu"), "{seen:?}");
            ensure!(header("mcp-param-year").as_deref() == Some("2026"), "{seen:?}");
            ensure!(body["params"]["arguments"] == json!({"year": 2026, "region": "eu"}), "{seen:?}");
        }
        ensure!(upstream.seen().len() == (turn + 1) * 3, "{:?}", upstream.seen());
    }
    // The same tool without the view, at the same time.
    let listed = all[0].modern("tools/list", json!({})).await?;
    ensure!(listed.body["result"]["tools"][0]["inputSchema"]["properties"]["region"].is_object(), "{}", listed.text);
    Ok(())
}

/// A modern `tools/call` of `call_tool`, by a client that can be asked and has tasks.
async fn through(client: &McpClient, tool: &str, more: Value) -> Result<Value> {
    let mut params =
        json!({"name": "call_tool", "arguments": {"name": tool, "arguments": {"n": 1}}, "_meta": modern_meta()});
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] =
        json!({"elicitation": {}, "extensions": {TASKS: {}}});
    if let (Some(params), Value::Object(more)) = (params.as_object_mut(), more) {
        params.extend(more);
    }
    let body = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params});
    let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tools/call"), ("mcp-name", "call_tool")];
    Ok(client.raw(body.to_string(), &headers).await?.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_progress_and_tasks_pass_through_call_tool() -> Result<()> {
    let old = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
    let jobs = TaskServer::start(vec![tool("pay", "retrieval")]).await?;
    let deployment = Deployment::start(Shape::Processes).await?;
    let servers = server("old", old.url()) + &server("jobs", &jobs.url);
    let searched = virtual_server("many", "{tools: search, servers: [{server: old}, {server: jobs}]}");
    deployment.apply(&(servers + &searched + PEOPLE))?;
    let clients = clients(&deployment, "many", "retrieval", &["search_tools", "call_tool"]).await?;
    let [one, other] = &clients[..] else { anyhow::bail!("two data planes") };
    let given = json!({"action": "accept", "content": {"name": "jane"}});

    // A legacy client is asked on the stream of its call, and answers at the other node.
    old.reply(Reply::Asks);
    let mut legacy = one.clone();
    legacy.initialize_with(json!({"elicitation": {}})).await?;
    let session = legacy.session.clone().context("no session")?;
    let params = json!({"name": "call_tool", "arguments": {"name": "old__read"}, "_meta": {"progressToken": "p"}});
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let mut stream = Events::of(legacy.post(call.to_string()).header("mcp-session-id", &session)).await?;
    let question = stream.message().await?;
    ensure!(question["method"] == "elicitation/create", "{question}");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": given});
    let taken = other.raw(answer.to_string(), &[("mcp-session-id", &session)]).await?;
    ensure!(taken.status == 202, "{taken:?}");
    let result = stream.message().await?;
    ensure!(result["result"]["structuredContent"] == given, "{result}");

    // A modern one is asked with a result, and repeats its call at the other node.
    let wish = through(one, "old__read", json!({})).await?;
    ensure!(wish["result"]["resultType"] == "input_required", "{wish}");
    let state = wish["result"]["requestState"].clone();
    let again = json!({"inputResponses": {"1": given}, "requestState": state});
    let again = through(other, "old__read", again).await?;
    ensure!(again["result"]["structuredContent"] == given, "{again}");

    // Progress under the client's own token, before the answer.
    let progress =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":$TOKEN,"progress":1}}"#;
    let done = r#"{"jsonrpc":"2.0","id":$ID,"result":{"content":[]}}"#;
    let events = [progress, done].map(|event| format!("data: {event}\n\n")).to_vec();
    old.reply_once(Reply::Says(events, bailiwick_tests::scripted::End::Done));
    let mut stream = Events::of(legacy.post(call.to_string()).header("mcp-session-id", &session)).await?;
    let told = stream.message().await?;
    ensure!(told["method"] == "notifications/progress" && told["params"]["progressToken"] == "p", "{told}");
    ensure!(stream.message().await?["result"]["content"] == json!([]));

    // A task that begins through it is that of its tool, at any node.
    let begun = through(one, "jobs__pay", json!({})).await?;
    ensure!(begun["result"]["resultType"] == "task", "{begun}");
    let mut params = json!({"taskId": begun["result"]["taskId"], "_meta": modern_meta()});
    params["_meta"]["io.modelcontextprotocol/clientCapabilities"] = json!({"extensions": {TASKS: {}}});
    let body = json!({"jsonrpc": "2.0", "id": 3, "method": "tasks/get", "params": params.clone()});
    let id = params["taskId"].as_str().context("an id")?;
    let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "tasks/get"), ("mcp-name", id)];
    let seen = other.raw(body.to_string(), &headers).await?;
    ensure!(seen.body["result"]["status"] == "working", "{}", seen.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_server_hides_no_other_and_its_own_tools_fail_by_name() -> Result<()> {
    let (alive, dead) = (
        ScriptedServer::start(vec![tool("read", "retrieval")]).await?,
        ScriptedServer::start(vec![tool("write", "retrieval")]).await?,
    );
    let deployment = Deployment::start(Shape::Processes).await?;
    let servers = server("alive", alive.url()) + &server("dead", dead.url());
    deployment.apply(&(servers + &virtual_server("many", "{servers: [{server: alive}, {server: dead}]}") + PEOPLE))?;
    let both = ["alive__read", "dead__write"];
    let clients = clients(&deployment, "many", "retrieval", &both).await?;
    drop(dead);
    let asked = alive.requests();
    for client in &clients {
        ensure!(client.modern("tools/list", json!({})).await?.tools() == both);
        let mut legacy = client.clone();
        legacy.initialize().await?;
        ensure!(legacy.legacy("tools/list", json!({})).await?.tools() == both);
    }
    // A handshake looks what servers can do; a list of tools asks nobody.
    let between = alive.requests();
    for client in &clients {
        client.modern("tools/list", json!({})).await?;
    }
    ensure!(alive.requests() == between, "{asked} {between} {}", alive.requests());
    for client in &clients {
        let gone = client.call("dead__write", json!({})).await?;
        ensure!(gone.reason() == "upstream_unreachable", "{}", gone.text);
        let there = client.call("alive__read", json!({"n": 1})).await?;
        ensure!(there.body["result"]["structuredContent"]["n"] == 1, "{}", there.text);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_view_reaches_every_data_plane_and_its_listeners() -> Result<()> {
    let upstream = ScriptedServer::start(vec![tool("read", "retrieval"), tool("write", "transactional")]).await?;
    let deployment = Deployment::start(Shape::Processes).await?;
    let view = |view: &str| virtual_server("finance", &format!("{{naming: plain, servers: [{{server: old{view}}}]}}"));
    deployment.apply(&(server("old", upstream.url()) + &view("") + PEOPLE))?;
    let before = clients(&deployment, "finance", "destructive", &["read", "write"]).await?;
    let mut streams = Vec::new();
    for client in &before {
        let mut events = Events::modern(client, &json!({"toolsListChanged": true})).await?;
        ensure!(events.message().await?["method"] == "notifications/subscriptions/acknowledged");
        streams.push(events);
    }
    let renamed = view(", hide: [write], tools: {read: {name: look}}");
    deployment.apply(&renamed)?;
    for events in &mut streams {
        ensure!(events.message().await?["method"] == "notifications/tools/list_changed");
    }
    for client in &before {
        ensure!(client.modern("tools/list", json!({})).await?.tools() == ["look"]);
        ensure!(client.call("look", json!({"n": 1})).await?.body["result"].is_object());
        ensure!(client.call("read", json!({})).await?.reason() == "tool_unknown");
    }
    let shown: Value = serde_json::from_str(&deployment.cli_ok(&["get", "virtualserver", "finance", "-o", "json"])?)?;
    ensure!(shown["status"]["approved_tools"] == 1, "{shown:#}");
    Ok(())
}
