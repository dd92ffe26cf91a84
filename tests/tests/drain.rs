//! A rolling restart loses no call, with real processes: every data plane is stopped and started again, one by one,
//! while clients of both eras call over HTTP/1.1 and HTTP/2, going round over the nodes without asking
//! which of them are ready. A client tries the next node only where its connection was refused.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{
    error::Error as _,
    io,
    sync::atomic::{AtomicUsize, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use bailiwick_tests::{Deployment, McpClient, ScriptedServer, Shape, eventually, manifests::JANE, scripted::tool};
use serde_json::json;
use tokio::sync::watch;

/// Clients of each era over each HTTP.
const OF_EACH: usize = 3;
/// Calls that each of them has made between two restarts.
const STAGE: usize = 20;
/// How long a node goes on accepting.
const DELAY_MS: &str = "1000";

/// How it goes.
#[derive(Debug)]
struct Load {
    nodes: Vec<String>,
    stop: watch::Sender<bool>,
    answered: Vec<AtomicUsize>,
    refused: AtomicUsize,
}

impl Load {
    async fn goes_on(&self) -> Result<()> {
        let from: Vec<usize> = self.answered.iter().map(|calls| calls.load(Ordering::SeqCst)).collect();
        eventually("every client goes on", async || {
            let on = self.answered.iter().zip(&from).all(|(calls, from)| calls.load(Ordering::SeqCst) >= from + STAGE);
            (on || *self.stop.borrow()).then_some(())
        })
        .await
    }
}

fn was_refused(error: &anyhow::Error) -> bool {
    let mut cause = error.downcast_ref::<reqwest::Error>().and_then(|error| error.source());
    while let Some(error) = cause {
        if error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// Calls one node after the other until told to stop.
async fn call_on(load: &Load, client: &McpClient, number: usize) -> Result<()> {
    for turn in number.. {
        if *load.stop.borrow() {
            return Ok(());
        }
        let arguments = json!({"turn": turn});
        let mut answered = None;
        for attempt in 0..load.nodes.len() {
            let at = client.at(&load.nodes[(turn + attempt) % load.nodes.len()]);
            let asked = match client.session.is_some() {
                true => at.legacy("tools/call", json!({"name": "read", "arguments": arguments})).await,
                false => at.call("read", arguments.clone()).await,
            };
            match asked {
                Ok(answer) => {
                    answered = Some(answer);
                    break;
                }
                Err(error) if was_refused(&error) => drop(load.refused.fetch_add(1, Ordering::SeqCst)),
                Err(error) => bail!("client {number}, call {turn}: {error:?}"),
            }
        }
        let answer = answered.with_context(|| format!("client {number}, call {turn}: every node refuses"))?;
        ensure!(
            answer.body["result"]["structuredContent"]["turn"] == turn,
            "client {number}, call {turn}: {} {}",
            answer.status,
            answer.text
        );
        load.answered[number].fetch_add(1, Ordering::SeqCst);
    }
    Ok(())
}

async fn keep_calling(load: &Load, client: McpClient, number: usize) -> Result<()> {
    let ended = call_on(load, &client, number).await;
    if ended.is_err() {
        load.stop.send_replace(true);
    }
    ended
}

/// Clients of both eras over both versions of HTTP.
async fn clients(deployment: &Deployment) -> Result<Vec<McpClient>> {
    let token = deployment.token("shop", "retrieval")?;
    let mut clients = Vec::new();
    for _ in 0..OF_EACH {
        for version in 1..=2 {
            // Each with connections of its own: a client that waits for another's does not learn why there is none.
            let client = || {
                let http = reqwest::Client::builder().no_proxy();
                let http = if version == 2 { http.http2_prior_knowledge() } else { http.http1_only() };
                Ok::<_, anyhow::Error>(McpClient {
                    http: http.build()?,
                    ..McpClient::new(&deployment.mcp[0], "shop", &token)
                })
            };
            let (modern, mut legacy) = (client()?, client()?);
            modern.until_listed(&["read"]).await?;
            legacy.initialize().await?;
            clients.extend([modern, legacy]);
        }
    }
    Ok(clients)
}

async fn restart_all(deployment: &mut Deployment, load: &Load) -> Result<()> {
    for _ in 0..2 {
        for name in ["data-plane-1", "data-plane-2"] {
            load.goes_on().await?;
            deployment.end(name, "TERM").await?;
            load.goes_on().await?;
            deployment.up(&[]).await?;
        }
    }
    load.goes_on().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_under_load_loses_no_call() -> Result<()> {
    let environment = [("BAILIWICK_DATA_PLANE__DRAIN_DELAY_MS", DELAY_MS)];
    let mut deployment = Deployment::start_with(Shape::Processes, &environment).await?;
    let server = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
    deployment.apply(&(server.manifests("shop", "plain") + JANE))?;
    let clients = clients(&deployment).await?;
    let load = Load {
        nodes: deployment.mcp.clone(),
        stop: watch::Sender::new(false),
        answered: clients.iter().map(|_| AtomicUsize::new(0)).collect(),
        refused: AtomicUsize::new(0),
    };
    let calling = clients.into_iter().enumerate().map(|(number, client)| keep_calling(&load, client, number));
    let (called, restarted) = tokio::join!(futures::future::join_all(calling), async {
        let done = restart_all(&mut deployment, &load).await;
        load.stop.send_replace(true);
        done
    });
    called.into_iter().collect::<Result<Vec<()>>>()?;
    restarted?;
    let answered: usize = load.answered.iter().map(|calls| calls.load(Ordering::SeqCst)).sum();
    println!("{answered} calls answered, none lost; {} connections refused", load.refused.load(Ordering::SeqCst));
    let seen = server.seen().len();
    ensure!(seen == answered, "{seen} calls were made of {answered}");
    deployment.proven(&[("call.intent", answered), ("call.outcome", answered)]).await
}
