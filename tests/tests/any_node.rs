//! No node remembers a client, with real processes: requests of both eras go round over all data planes while those are
//! killed, started and added, and servers forget their sessions; no client ever learns of it. What a server asks of a
//! client is asked through one node and answered through another.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{
    sync::{
        RwLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bailiwick_tests::{
    Deployment, McpClient, ScriptedServer, Shape, eventually, mcp::modern_meta, scripted::Reply, scripted::tool,
};
use serde_json::{Value, json};

const PEOPLE: &str = "---
apiVersion: bailiwick/v1
kind: User
metadata: {name: jane@example.com}
spec: {}
---
apiVersion: bailiwick/v1
kind: Agent
metadata: {name: coding-assistant}
spec: {owner: jane@example.com, project: billing, ceiling: destructive}
";
/// Requests each client has made at every stage.
const STAGE: usize = 60;

/// Who goes round, and how it went.
#[derive(Debug)]
struct Round {
    nodes: RwLock<Vec<String>>,
    stop: AtomicBool,
    /// Requests that were answered as they should be, by client.
    good: [AtomicUsize; 4],
    /// Requests that were sent again because a node was away: what any load balancer does.
    passed_on: AtomicUsize,
}

impl Round {
    fn nodes(&self) -> Vec<String> {
        self.nodes.read().map(|nodes| nodes.clone()).unwrap_or_default()
    }

    /// Every client goes on for a while.
    async fn go_on(&self) -> Result<()> {
        let from: Vec<usize> = self.good.iter().map(|good| good.load(Ordering::SeqCst)).collect();
        eventually("every client goes on", async || {
            let on = self.good.iter().zip(&from).all(|(good, from)| good.load(Ordering::SeqCst) >= from + STAGE);
            (on || self.stop.load(Ordering::SeqCst)).then_some(())
        })
        .await
    }
}

/// One client: each request to the next node. What is not answered there goes to the one after; any answer counts.
async fn client(round: &Round, client: McpClient, number: usize) -> Result<()> {
    let is_legacy = client.session.is_some();
    for turn in number.. {
        if round.stop.load(Ordering::SeqCst) {
            return Ok(());
        }
        let nodes = round.nodes();
        let mut answered = None;
        for attempt in 0..nodes.len() * 40 {
            let at = client.at(&nodes[(turn + attempt) % nodes.len()]);
            let arguments = json!({"turn": turn});
            let asked = match (is_legacy, turn % 3) {
                (true, 0) => at.legacy("tools/list", json!({})).await,
                (false, 0) => at.modern("tools/list", json!({})).await,
                (true, _) => at.legacy("tools/call", json!({"name": "read", "arguments": arguments})).await,
                (false, _) => at.call("read", arguments).await,
            };
            match asked {
                // A node that has just started is not ready, which a load balancer would have asked.
                Ok(answer) if answer.status != 503 && answer.reason() != "config_stale" => {
                    answered = Some(answer);
                    break;
                }
                Ok(_) | Err(_) => {
                    round.passed_on.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        }
        let answer = answered.context("no node answers")?;
        let is_right = match turn % 3 {
            0 => answer.tools() == ["read"],
            _ => answer.body["result"]["structuredContent"]["turn"] == turn,
        };
        if !is_right {
            round.stop.store(true, Ordering::SeqCst);
            bail!("client {number}, request {turn}: {} {}", answer.status, answer.text);
        }
        round.good[number].fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

async fn servers(deployment: &Deployment) -> Result<(ScriptedServer, ScriptedServer)> {
    let (old, new) = (
        ScriptedServer::start(vec![tool("read", "retrieval")]).await?,
        ScriptedServer::start(vec![tool("read", "retrieval")]).await?,
    );
    new.speak_modern(true);
    for (server, name) in [(&old, "old"), (&new, "new")] {
        deployment.apply(&server.manifests(name, "plain"))?;
    }
    deployment.apply(PEOPLE)?;
    Ok((old, new))
}

async fn clients(deployment: &Deployment) -> Result<Vec<McpClient>> {
    let mut clients = Vec::new();
    for server in ["old", "new"] {
        let token = deployment.token(server, "retrieval")?;
        let modern = McpClient::new(&deployment.mcp[0], server, &token);
        eventually("the tool is there", async || {
            let listed = modern.modern("tools/list", json!({})).await.ok()?;
            (listed.tools() == ["read"]).then_some(())
        })
        .await?;
        let mut legacy = modern.clone();
        legacy.initialize().await?;
        clients.extend([modern, legacy]);
    }
    Ok(clients)
}

/// A node is added, two are killed one after the other, and a server forgets its sessions each time.
async fn come_and_go(deployment: &mut Deployment, old: &ScriptedServer, round: &Round) -> Result<()> {
    round.go_on().await?;
    deployment.up(&["--data-planes", "3"]).await?;
    ensure!(deployment.mcp.len() == 3, "a node was added: {:?}", deployment.mcp);
    if let Ok(mut nodes) = round.nodes.write() {
        nodes.clone_from(&deployment.mcp);
    }
    round.go_on().await?;
    for name in ["data-plane-2", "data-plane-1"] {
        deployment.end(name, "KILL").await?;
        old.forget_sessions();
        round.go_on().await?;
        deployment.up(&[]).await?;
        round.go_on().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_both_eras_go_round_over_all_nodes_while_those_come_and_go() -> Result<()> {
    let mut deployment = Deployment::start(Shape::Cluster).await?;
    let (old, new) = servers(&deployment).await?;
    let round = Round {
        nodes: RwLock::new(deployment.mcp.clone()),
        stop: AtomicBool::new(false),
        good: Default::default(),
        passed_on: AtomicUsize::new(0),
    };
    let clients = clients(&deployment).await?;
    let working = clients.into_iter().enumerate().map(|(number, one)| client(&round, one, number));
    let (worked, came_and_went) = tokio::join!(futures::future::join_all(working), async {
        let done = come_and_go(&mut deployment, &old, &round).await;
        round.stop.store(true, Ordering::SeqCst);
        done
    });
    worked.into_iter().collect::<Result<Vec<()>>>()?;
    came_and_went?;
    let good: Vec<usize> = round.good.iter().map(|good| good.load(Ordering::SeqCst)).collect();
    println!("{good:?} requests, {} sent again as a node was away", round.passed_on.load(Ordering::SeqCst));
    ensure!(old.sessions_opened() > 2 && !new.seen().is_empty(), "sessions were forgotten and opened again");
    Ok(())
}

/// The first event of a stream, and the rest of it.
async fn first_event(mut response: reqwest::Response) -> Result<(Value, reqwest::Response, Vec<u8>)> {
    let mut read = Vec::new();
    loop {
        if let Some(event) = event_in(&mut read)? {
            return Ok((event, response, read));
        }
        read.extend_from_slice(&response.chunk().await?.context("the stream ended")?);
    }
}

fn event_in(read: &mut Vec<u8>) -> Result<Option<Value>> {
    let text = String::from_utf8(read.clone())?;
    let Some((event, rest)) = text.split_once("\n\n") else { return Ok(None) };
    *read = rest.as_bytes().to_vec();
    match event.lines().find_map(|line| line.strip_prefix("data: ")) {
        Some(data) => Ok(Some(serde_json::from_str(data)?)),
        None => event_in(read),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_asks_through_one_node_is_answered_through_another() -> Result<()> {
    let deployment = Deployment::start(Shape::Cluster).await?;
    let (old, _new) = servers(&deployment).await?;
    let modern = clients(&deployment).await?.swap_remove(0);
    old.reply(Reply::Asks);
    let given = json!({"action": "accept", "content": {"name": "jane"}});

    // A legacy client is asked on the stream of its call, and posts its answer to the other node.
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}, "clientInfo": {"name": "raw", "version": "1"}});
    let opening = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    let session = modern.raw(opening.to_string(), &[]).await?;
    let session = session.headers.get("mcp-session-id").context("no session")?.to_str()?.to_owned();
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read"}});
    let stream = modern
        .http
        .post(&modern.url)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("authorization", format!("Bearer {}", modern.token))
        .header("mcp-session-id", &session)
        .body(call.to_string())
        .send()
        .await?;
    ensure!(stream.headers().get("content-type").is_some_and(|kind| kind == "text/event-stream"));
    let (question, mut stream, mut read) = first_event(stream).await?;
    ensure!(question["method"] == "elicitation/create", "{question}");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": given});
    let other = modern.at(&deployment.mcp[1]);
    let taken = other.raw(answer.to_string(), &[("mcp-session-id", &session)]).await?;
    ensure!(taken.status == 202, "{taken:?}");
    let result = loop {
        if let Some(event) = event_in(&mut read)? {
            break event;
        }
        read.extend_from_slice(&stream.chunk().await?.context("the stream ended")?);
    };
    ensure!(result["result"]["structuredContent"] == given, "{result}");

    // A modern client is asked with a result, and repeats its call at the other node.
    let mut meta = modern_meta();
    meta["io.modelcontextprotocol/clientCapabilities"] = json!({"elicitation": {}});
    let call = |more: Value| {
        let mut params = json!({"name": "read", "_meta": meta.clone()});
        if let (Some(params), Value::Object(more)) = (params.as_object_mut(), more) {
            params.extend(more);
        }
        json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}).to_string()
    };
    let headers = [("mcp-protocol-version", "2026-07-28"), ("mcp-method", "tools/call"), ("mcp-name", "read")];
    let wish = modern.raw(call(json!({})), &headers).await?;
    ensure!(wish.body["result"]["resultType"] == "input_required", "{wish:?}");
    let state = wish.body["result"]["requestState"].clone();
    let again = other.raw(call(json!({"inputResponses": {"1": given}, "requestState": state})), &headers).await?;
    ensure!(again.body["result"]["structuredContent"] == given, "{again:?}");
    Ok(())
}
