//! No node remembers a client, with real processes: requests of both eras go round over all data planes while those are
//! killed, started and added, and servers forget their sessions; no client ever learns of it, and whoever listens is
//! told of changes wherever that is now. What a server asks of a client is asked through one node and answered through
//! another; a call that is kept dies with its node, and its client learns that soon.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{
    sync::{
        RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bailiwick_tests::{
    Deployment, Events, McpClient, ScriptedServer, Shape, eventually, manifests::JANE, scripted::Reply, scripted::tool,
};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};

/// Requests each client has made at every stage.
const STAGE: usize = 60;
/// The change that listeners are told of.
const CHANGED: &str = "notifications/prompts/list_changed";
/// Longest wait for word of a node that died with a call: it counts as gone after five seconds.
const LOST_MAX: Duration = Duration::from_secs(10);

/// Who goes round, and how it went.
#[derive(Debug)]
struct Round {
    nodes: RwLock<Vec<String>>,
    stop: watch::Sender<bool>,
    /// Requests that were answered as they should be, by client.
    good: [AtomicUsize; 4],
    /// Changes that each client was told of.
    told: [AtomicUsize; 4],
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
            (on || *self.stop.borrow()).then_some(())
        })
        .await
    }

    /// Every listener is told of what changes from now on.
    async fn hear(&self, servers: [&ScriptedServer; 2]) -> Result<()> {
        let from: Vec<usize> = self.told.iter().map(|told| told.load(Ordering::SeqCst)).collect();
        eventually("every listener is told", async || {
            servers.iter().for_each(|server| server.tell_changed(CHANGED, &json!({})));
            let all = self.told.iter().zip(&from).all(|(told, from)| told.load(Ordering::SeqCst) > *from);
            (all || *self.stop.borrow()).then_some(())
        })
        .await
    }
}

/// One client: each request to the next node. What is not answered there goes to the one after; any answer counts.
async fn client(round: &Round, client: McpClient, number: usize) -> Result<()> {
    let is_legacy = client.session.is_some();
    for turn in number.. {
        if *round.stop.borrow() {
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
            round.stop.send_replace(true);
            bail!("client {number}, request {turn}: {} {}", answer.status, answer.text);
        }
        round.good[number].fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

/// One client that listens, each time at the next node; a legacy one says what it has seen.
async fn listener(round: &Round, client: McpClient, number: usize) -> Result<()> {
    let (mut last_id, mut stop) = (None, round.stop.subscribe());
    for turn in number.. {
        let nodes = round.nodes();
        let at = client.at(&nodes[turn % nodes.len()]);
        let opened = match client.session.is_some() {
            true => Events::legacy(&at, last_id.as_deref()).await,
            false => Events::modern(&at, &json!({"promptsListChanged": true})).await,
        };
        let mut events = match opened {
            Ok(events) => events,
            Err(error) if error.to_string().contains("404") => {
                round.stop.send_replace(true);
                return Err(error);
            }
            Err(_away) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                if *round.stop.borrow() {
                    return Ok(());
                }
                continue;
            }
        };
        loop {
            let next = tokio::select! {
                next = events.next() => next,
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            };
            // A node that goes ends its streams, or breaks them.
            let Ok(Some(message)) = next else { break };
            if message["method"] == CHANGED {
                round.told[number].fetch_add(1, Ordering::SeqCst);
            }
        }
        last_id = events.last_id;
    }
    Ok(())
}

async fn servers(deployment: &Deployment) -> Result<(ScriptedServer, ScriptedServer)> {
    let (old, new) = (
        ScriptedServer::start(vec![tool("read", "retrieval")]).await?,
        ScriptedServer::start(vec![tool("read", "retrieval")]).await?,
    );
    new.speak_modern(true);
    [&old, &new].iter().for_each(|server| server.offer_more());
    deployment.apply(&(old.manifests("old", "plain") + &new.manifests("new", "plain") + JANE))?;
    Ok((old, new))
}

async fn clients(deployment: &Deployment) -> Result<Vec<McpClient>> {
    let mut clients = Vec::new();
    for server in ["old", "new"] {
        let token = deployment.token(server, "retrieval")?;
        let modern = McpClient::new(&deployment.mcp[0], server, &token);
        modern.until_listed(&["read"]).await?;
        let mut legacy = modern.clone();
        legacy.initialize().await?;
        clients.extend([modern, legacy]);
    }
    Ok(clients)
}

/// A node is added, two are killed one after the other, and a server forgets its sessions each time.
async fn come_and_go(deployment: &mut Deployment, servers: [&ScriptedServer; 2], round: &Round) -> Result<()> {
    round.go_on().await?;
    round.hear(servers).await?;
    deployment.up(&["--data-planes", "3"]).await?;
    ensure!(deployment.mcp.len() == 3, "a node was added: {:?}", deployment.mcp);
    if let Ok(mut nodes) = round.nodes.write() {
        nodes.clone_from(&deployment.mcp);
    }
    round.go_on().await?;
    for name in ["data-plane-2", "data-plane-1"] {
        deployment.end(name, "KILL").await?;
        servers[0].forget_sessions();
        round.go_on().await?;
        round.hear(servers).await?;
        deployment.up(&[]).await?;
        round.go_on().await?;
        round.hear(servers).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_both_eras_go_round_over_all_nodes_while_those_come_and_go() -> Result<()> {
    let mut deployment = Deployment::start(Shape::Cluster).await?;
    let (old, new) = servers(&deployment).await?;
    let round = Round {
        nodes: RwLock::new(deployment.mcp.clone()),
        stop: watch::Sender::new(false),
        good: Default::default(),
        told: Default::default(),
        passed_on: AtomicUsize::new(0),
    };
    let clients = clients(&deployment).await?;
    let listening = clients.clone().into_iter().enumerate().map(|(number, one)| listener(&round, one, number));
    let working = clients.into_iter().enumerate().map(|(number, one)| client(&round, one, number));
    let (worked, listened) = (futures::future::join_all(working), futures::future::join_all(listening));
    let (worked, listened, came_and_went) = tokio::join!(worked, listened, async {
        let done = come_and_go(&mut deployment, [&old, &new], &round).await;
        round.stop.send_replace(true);
        done
    });
    worked.into_iter().chain(listened).collect::<Result<Vec<()>>>()?;
    came_and_went?;
    let counts = |all: &[AtomicUsize; 4]| all.each_ref().map(|one| one.load(Ordering::SeqCst));
    let (good, told) = (counts(&round.good), counts(&round.told));
    let passed_on = round.passed_on.load(Ordering::SeqCst);
    println!("{good:?} requests, {passed_on} sent again as a node was away; {told:?} changes told");
    ensure!(old.sessions_opened() > 2 && !new.seen().is_empty(), "sessions were forgotten and opened again");
    Ok(())
}

/// A modern call of a client that can be asked.
async fn asked_call(client: &McpClient, more: Value) -> Result<Value> {
    let mut params = json!({"name": "read"});
    if let (Some(params), Value::Object(more)) = (params.as_object_mut(), more) {
        params.extend(more);
    }
    Ok(client.declaring(json!({"elicitation": {}}), "tools/call", params).await?.body)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_asks_through_one_node_is_answered_through_another() -> Result<()> {
    let deployment = Deployment::start(Shape::Cluster).await?;
    let (old, _new) = servers(&deployment).await?;
    let modern = clients(&deployment).await?.swap_remove(0);
    old.reply(Reply::Asks);
    let given = json!({"action": "accept", "content": {"name": "jane"}});

    // A legacy client is asked on the stream of its call, and posts its answer to the other node.
    let mut legacy = modern.clone();
    legacy.initialize_with(json!({"elicitation": {}})).await?;
    let session = legacy.session.clone().context("no session")?;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read"}});
    let mut stream = Events::of(legacy.post(call.to_string()).header("mcp-session-id", &session)).await?;
    let question = stream.message().await?;
    ensure!(question["method"] == "elicitation/create", "{question}");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": given});
    let other = modern.at(&deployment.mcp[1]);
    let taken = other.raw(answer.to_string(), &[("mcp-session-id", &session)]).await?;
    ensure!(taken.status == 202, "{taken:?}");
    let result = stream.message().await?;
    ensure!(result["result"]["structuredContent"] == given, "{result}");

    // A modern client is asked with a result, and repeats its call at the other node.
    let wish = asked_call(&modern, json!({})).await?;
    ensure!(wish["result"]["resultType"] == "input_required", "{wish}");
    let state = wish["result"]["requestState"].clone();
    let again = asked_call(&other, json!({"inputResponses": {"1": given}, "requestState": state})).await?;
    ensure!(again["result"]["structuredContent"] == given, "{again}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_is_kept_dies_with_its_node_and_its_client_learns_it_soon() -> Result<()> {
    let mut deployment = Deployment::start(Shape::Cluster).await?;
    let (old, _new) = servers(&deployment).await?;
    let first = clients(&deployment).await?.swap_remove(0);
    let second = first.at(&deployment.mcp[1]);
    let given = json!({"action": "accept", "content": {"name": "jane"}});
    let retry = |wish: &Value| json!({"inputResponses": {"1": given}, "requestState": wish["result"]["requestState"]});
    old.reply(Reply::AsksAndHolds);
    let (asked, idle) = (asked_call(&first, json!({})).await?, asked_call(&first, json!({})).await?);
    ensure!(asked["result"]["resultType"] == "input_required", "{asked}");

    // One call has been taken up again, through the other node; its keeper says now and then that it goes on.
    let (lost, died) = tokio::join!(asked_call(&second, retry(&asked)), async {
        eventually("the server has its answer", async || (old.answered()["result"] == given).then_some(())).await?;
        deployment.end("data-plane-1", "KILL").await?;
        Ok::<_, anyhow::Error>(Instant::now())
    });
    let (lost, waited) = (lost?, died?.elapsed());
    ensure!(lost["error"]["data"]["reason"] == "input_lost" && waited < LOST_MAX, "{waited:?}: {lost}");
    // The other one's client had not answered yet.
    let began = Instant::now();
    let lost = asked_call(&second, retry(&idle)).await?;
    ensure!(lost["error"]["data"]["reason"] == "input_lost" && began.elapsed() < LOST_MAX, "{lost}");

    // It calls again, and the other node keeps the new call.
    old.reply(Reply::Asks);
    let wish = asked_call(&second, json!({})).await?;
    let result = asked_call(&second, retry(&wish)).await?;
    ensure!(result["result"]["structuredContent"] == given, "{result}");
    deployment.up(&[]).await?;
    eventually("every intent has an outcome", async || {
        let of = |kind: &str| deployment.audit(&["--kind", kind, "--limit", "1000"]).map(|found| found.len());
        (of("call.intent").ok()? == 6 && of("call.outcome").ok()? == 6).then_some(())
    })
    .await
}
