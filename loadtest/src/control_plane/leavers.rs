//! `leavers`: how long after a directory says that somebody has left their agent's calls are still let through.
//!
//! Callers call a tool with the leaver's token at every real data plane of a cluster, without pause, while light nodes
//! listen as many more data planes would. By turns the directory deactivates the person (SCIM) and an administrator
//! revokes the user, so that one can be compared with the other. Times count from before the word is sent. A call that
//! is let through after one was refused fails the run.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use super::{
    admin::Admin,
    cluster::Cluster,
    directory::Directory,
    figures::Latencies,
    light::{Heard, connect, register},
};
use crate::{mcp::children::Child, upstream::Form};

const VIRTUAL_SERVER: &str = "leavers";
const TOOL: &str = "leavers-upstream__tool-0000";
const PROTOCOL: &str = "2026-07-28";
/// Longest wait for a data plane to know what was applied, and for it to refuse.
const WAIT_MAX: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// Calls that are let through at each data plane before anybody leaves.
const BEFORE: u64 = 20;
/// Calls that have to be refused after the first refusal.
const AFTER: u64 = 50;

/// Leavers by SCIM and revoked users by turns: until the last call that is let through, and until all nodes know.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The folder of a cluster made with deploy/local-cluster.
    #[arg(long, value_name = "DIR")]
    cluster: PathBuf,
    /// Light nodes beside the real data planes.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=2_000))]
    nodes: u16,
    /// How many leave in each of the two ways.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    leavers: u16,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Directory,
    Administrator,
}

/// What one way took, leaver by leaver.
#[derive(Default)]
struct Times {
    /// Until the word was answered: the write alone.
    answered: Vec<Duration>,
    /// Until each light node had read it.
    heard: Vec<Duration>,
    /// Until the last call began that a data plane let through; zero if none did after the word.
    admitted: Vec<Duration>,
    /// Until a data plane had refused one.
    refused: Vec<Duration>,
}

/// What is needed all the time.
struct World {
    admin: Admin,
    directory: Directory,
    http: Client,
    mcp: Vec<String>,
    nodes: usize,
    heard: Arc<Heard>,
}

pub(crate) async fn run(args: Args) -> Result<()> {
    let cluster = Cluster::read(&args.cluster)?;
    ensure!(!cluster.mcp.is_empty(), "the cluster has no data plane");
    let admin = Admin::connect(&cluster.admins).await?;
    let upstream = Child::upstream(Form::Json, None)?;
    admin.apply(&manifests(&upstream.url)).await?;
    let nodes = register(&cluster, args.nodes.into()).await?;
    let heard = Arc::new(Heard::default());
    let connected = connect(&cluster, &nodes, &heard).await?;
    let places = cluster.control_planes_at()?;
    let world = World {
        directory: Directory::new(&admin, places.first().context("no control plane")?).await?,
        admin,
        http: Client::builder().timeout(WAIT_MAX).no_proxy().build()?,
        mcp: cluster.mcp.iter().map(|url| format!("{url}/{VIRTUAL_SERVER}")).collect(),
        nodes: nodes.len(),
        heard,
    };
    let mut ways = [(Way::Directory, Times::default()), (Way::Administrator, Times::default())];
    for number in 0..args.leavers {
        for (way, times) in &mut ways {
            leave(&world, *way, number, times).await.with_context(|| format!("leaver {number} ({way:?})"))?;
        }
        if (number + 1) % 10 == 0 {
            eprintln!("{} leavers of each", number + 1);
        }
    }
    drop(connected);
    print(&args, ways);
    Ok(())
}

fn manifests(upstream: &str) -> String {
    format!(
        "apiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: leavers-upstream}}\nspec: {{endpoint: {{url: \"{upstream}\"}}}}\n\
         ---\napiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: {VIRTUAL_SERVER}}}\n\
         spec: {{servers: [{{server: leavers-upstream}}]}}\n\
         ---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: leavers}}\nspec:\n  cedar: |\n    \
         permit (principal, action in Action::\"call_tool\", resource) when {{ resource.tier == \"retrieval\" }};\n"
    )
}

/// One person joins, calls, and leaves.
async fn leave(world: &World, way: Way, number: u16, times: &mut Times) -> Result<()> {
    let name = format!("leaver-{}-{way:?}-{number}@example.com", std::process::id()).to_lowercase();
    let agent = name.replace(['@', '.'], "-");
    let id = world.directory.user(&name).await?;
    world
        .admin
        .apply(&format!(
            "apiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: {agent}}}\n\
         spec: {{owner: {name}, project: leavers, ceiling: retrieval}}\n"
        ))
        .await?;
    let token: Arc<str> = world.admin.token_for(&name, &agent, VIRTUAL_SERVER).await?.into();

    let (counted, mut calls) = (watch::Sender::new(0_usize), JoinSet::new());
    for url in &world.mcp {
        calls.spawn(call(world.http.clone(), url.clone(), Arc::clone(&token), counted.clone()));
    }
    let mut ready = counted.subscribe();
    let everywhere = ready.wait_for(|ready| *ready == world.mcp.len());
    tokio::select! {
        ready = tokio::time::timeout(WAIT_MAX, everywhere) => drop(ready.context("calls are not let through")??),
        Some(ended) = calls.join_next() => { ended??; bail!("calls ended before anybody left") }
    }

    let sent = Instant::now();
    let revision = match way {
        Way::Directory => world.directory.deactivate(&id).await?,
        Way::Administrator => world.admin.revoke_named("user", &name).await?,
    };
    times.answered.push(sent.elapsed());
    let heard = world.heard.denials.all(revision, world.nodes).await?;
    times.heard.extend(heard.into_iter().map(|at| at.saturating_duration_since(sent)));
    while let Some(ended) = calls.join_next().await {
        let (admitted, refused) = ended??;
        times.admitted.push(admitted.saturating_duration_since(sent));
        times.refused.push(refused.saturating_duration_since(sent));
    }
    Ok(())
}

/// Calls until it is refused: when the last call that was let through began, and when the first refusal came.
async fn call(http: Client, url: String, token: Arc<str>, ready: watch::Sender<usize>) -> Result<(Instant, Instant)> {
    let (began, mut admitted, mut through) = (Instant::now(), None, 0);
    loop {
        let called = Instant::now();
        let is_through = once(&http, &url, &token).await?;
        match (is_through, admitted) {
            (true, _) => {
                (admitted, through) = (Some(called), through + 1);
                if through == BEFORE {
                    ready.send_modify(|ready| *ready += 1);
                }
            }
            // What was applied is in force at the data plane a moment later.
            (false, None) => {
                ensure!(began.elapsed() < WAIT_MAX, "not one call is let through at {url}");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            (false, Some(admitted)) => {
                let refused = Instant::now();
                for _ in 0..AFTER {
                    ensure!(!once(&http, &url, &token).await?, "a call was let through after one was refused at {url}");
                }
                return Ok((admitted, refused));
            }
        }
        ensure!(began.elapsed() < WAIT_MAX, "calls are still let through at {url}");
    }
}

/// Whether a call is let through.
async fn once(http: &Client, url: &str, token: &str) -> Result<bool> {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": PROTOCOL,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "bailiwick-loadtest", "version": "1"},
    });
    let params = json!({"name": TOOL, "arguments": {}, "_meta": meta});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params});
    let request = http.post(url).bearer_auth(token).body(body.to_string());
    let request = request.header("content-type", "application/json").header("mcp-protocol-version", PROTOCOL);
    let request = request.header("accept", "application/json, text/event-stream");
    let answer = request.header("mcp-method", "tools/call").header("mcp-name", TOOL).send().await?;
    let (status, text) = (answer.status(), answer.text().await?);
    ensure!(!status.is_server_error(), "{url}: {status} {text}");
    Ok(status.is_success() && text.contains("\"result\""))
}

fn print(args: &Args, ways: [(Way, Times); 2]) {
    let rows: Vec<(&str, [(&str, Latencies); 4])> = ways
        .into_iter()
        .map(|(way, times)| {
            let name = if way == Way::Directory { "SCIM: active false" } else { "revoke user" };
            let all = [
                ("answered", times.answered),
                ("heard by light nodes", times.heard),
                ("last call let through", times.admitted),
                ("first refusal", times.refused),
            ];
            (name, all.map(|(what, times)| (what, Latencies::new(times))))
        })
        .collect();
    if args.json {
        let rows = rows.iter().map(|(way, all)| {
            let all =
                all.iter().map(|(what, times)| ((*what).to_owned(), times.json())).collect::<serde_json::Map<_, _>>();
            json!({"way": way, "times": Value::Object(all)})
        });
        println!("{:#}", json!({"light_nodes": args.nodes, "items": rows.collect::<Vec<_>>()}));
        return;
    }
    println!("{} light nodes, {} leavers each; times from before the word is sent", args.nodes, args.leavers);
    for (way, all) in &rows {
        for (what, times) in all {
            println!("{way:<20} {what:<24} {times}");
        }
    }
}
