//! Revocation with real processes: what `revoke --wait` promises holds at every data plane the moment it returns.
//!
//! Three control planes, two data planes. A node that is silent gets a deadline instead of an acknowledgement, and after
//! that deadline lets nothing through that could do harm, whatever it has missed and whoever kept it from hearing.

#![expect(clippy::disallowed_methods, clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    BRIDGE, Deployment, McpClient, Network, ScriptedServer, Shape, eventually, scripted::tool, within_namespaces,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};

const JANE: &str = "jane@example.com";
const DATA_PLANES: [&str; 2] = ["data-plane-1", "data-plane-2"];
/// A node counts a lease from when it asked; nothing risky starts later than this after it has lost touch.
const LEASE: Duration = Duration::from_secs(3);
/// What starting programs and sending requests may take here, on top of what is promised.
const SLACK: Duration = Duration::from_secs(2);

struct World {
    deployment: Deployment,
    server: ScriptedServer,
}

/// Somebody with a token, at each data plane.
struct Somebody {
    at: Vec<McpClient>,
    consent: String,
    session: String,
}

impl World {
    async fn start() -> Result<Self> {
        Self::start_with(Deployment::start(Shape::Cluster).await?, "127.0.0.1").await
    }

    /// On a deployment, with a server at this address.
    async fn start_with(deployment: Deployment, address: &str) -> Result<Self> {
        let tools = vec![tool("charge", "transactional"), tool("read", "retrieval")];
        let server = ScriptedServer::start_at(address, tools).await?;
        deployment.apply(&server.manifests("shop", "plain"))?;
        deployment.apply(&people())?;
        Ok(Self { deployment, server })
    }

    /// A token of Jane's agent that works at both data planes.
    async fn somebody(&self) -> Result<Somebody> {
        let issued = self.deployment.token_for(JANE, "assistant", "shop", "transactional", "10m")?;
        let text = |key: &str| issued[key].as_str().map(str::to_owned).with_context(|| format!("no {key}: {issued}"));
        let token = text("access_token")?;
        let at: Vec<_> = self.deployment.mcp.iter().map(|mcp| McpClient::new(mcp, "shop", &token)).collect();
        let somebody = Somebody { at, consent: text("consent_id")?, session: text("session_id")? };
        for client in &somebody.at {
            eventually("the token works", async || permitted(client, "charge").await.ok()?.then_some(())).await?;
        }
        Ok(somebody)
    }

    fn revoke(&self, kind: &str, name: &str) -> Result<Value> {
        let arguments = ["revoke", kind, name, "--reason", "left", "--wait", "-o", "json"];
        Ok(serde_json::from_str(&self.deployment.cli_ok(&arguments)?)?)
    }

    /// The receipt that the ledger holds of this answer.
    async fn receipt(&self, answer: &Value) -> Result<Value> {
        let revision = answer["receipt"]["revision"].as_str().with_context(|| format!("no receipt: {answer}"))?;
        eventually("the receipt is in the ledger", async || {
            let records = self.deployment.audit(&["--kind", "revocation.receipt"]).ok()?;
            records.into_iter().find(|record| record["rev"] == revision)
        })
        .await
    }
}

fn people() -> String {
    format!(
        "---\napiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: {JANE}}}\nspec: {{groups: [buyers], active: true}}\n\
         ---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: assistant}}\nspec: {{owner: {JANE}, project: shop, ceiling: destructive, active: true}}\n"
    )
}

async fn permitted(client: &McpClient, tool: &str) -> Result<bool> {
    Ok(client.call(tool, json!({})).await?.body.get("result").is_some())
}

async fn reason(client: &McpClient, tool: &str) -> Result<String> {
    Ok(client.call(tool, json!({})).await?.reason().to_owned())
}

fn time(text: &Value) -> Result<SystemTime> {
    let time: Timestamp = text.as_str().context("no time")?.parse()?;
    Ok(time.into())
}

fn node<'a>(answer: &'a Value, name: &str) -> Result<&'a Value> {
    let nodes = answer["nodes"].as_array().context("no nodes")?;
    nodes.iter().find(|node| node["name"] == name).with_context(|| format!("{name} is not in {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_refused_at_every_node_the_moment_the_command_returns() -> Result<()> {
    let world = World::start().await?;
    for kind in ["consent", "session", "agent", "user"] {
        let (revoked, other) = (world.somebody().await?, world.somebody().await?);
        let (name, expected) = match kind {
            "consent" => (revoked.consent.as_str(), "consent_revoked"),
            "session" => (revoked.session.as_str(), "consent_revoked"),
            "agent" => ("assistant", "agent_inactive"),
            _ => (JANE, "user_inactive"),
        };
        let answer = world.revoke(kind, name)?;
        for client in &revoked.at {
            for tool in ["charge", "read"] {
                let reason = reason(client, tool).await?;
                ensure!(reason == expected, "{kind}: {tool} is not refused as {expected}, but {reason:?}");
            }
        }
        for name in DATA_PLANES {
            let enforced = node(&answer, name)?;
            ensure!(enforced["acknowledged_at"].is_string() && enforced.get("deadline").is_none(), "{enforced}");
        }
        let record = world.receipt(&answer).await?;
        ensure!(record["node"] == answer["receipt"]["node"], "{record:#}");
        let is_alone = matches!(kind, "consent" | "session");
        for client in &other.at {
            ensure!(permitted(client, "charge").await? == is_alone, "{kind}: another session is treated wrongly");
        }
        // Being active again gives no consent back.
        world.deployment.apply(&people())?;
        let back = world.somebody().await?;
        ensure!(permitted(&back.at[0], "charge").await?, "{kind}: nobody can come back");
        for client in &revoked.at {
            ensure!(
                reason(client, "charge").await? == "consent_revoked",
                "{kind}: a revoked consent came back to life"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_gets_a_deadline_and_lets_nothing_risky_through_after_it() -> Result<()> {
    let world = World::start().await?;
    let somebody = world.somebody().await?;
    let silent = &somebody.at[0];
    world.deployment.signal("data-plane-1", "STOP")?;
    let began = SystemTime::now();
    let answer = world.revoke("consent", &somebody.consent)?;
    let returned = SystemTime::now();
    ensure!(node(&answer, "data-plane-2")?["acknowledged_at"].is_string(), "{answer:#}");
    let deadline = time(&node(&answer, "data-plane-1")?["deadline"])?;
    ensure!(deadline <= returned, "it returned before the deadline it names");
    ensure!(
        deadline <= began + LEASE + SLACK,
        "the deadline is {:?} after the command",
        deadline.duration_since(began)
    );
    // Requests wait at the paused node; it meets them before it can hear of anything.
    let before = world.server.seen().len();
    let calls: Vec<_> = (0..8).map(|_| silent.call("charge", json!({}))).collect();
    let waiting = futures::future::join_all(calls);
    tokio::pin!(waiting);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    ensure!(early.is_err(), "a stopped process answered");
    world.deployment.signal("data-plane-1", "CONT")?;
    for answer in waiting.await {
        let answer = answer?;
        ensure!(answer.body.get("result").is_none(), "admitted after the deadline: {}", answer.text);
    }
    ensure!(world.server.seen().len() == before, "a call reached the server after the deadline");
    eventually("it hears of the revocation", async || {
        (reason(silent, "read").await.ok()? == "consent_revoked").then_some(())
    })
    .await?;
    let record = world.receipt(&answer).await?;
    ensure!(record.to_string().contains("data-plane-1"), "{record:#}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_from_the_control_planes_lets_nothing_risky_through_after_the_deadline() -> Result<()> {
    let test = "a_node_that_is_cut_off_from_the_control_planes_lets_nothing_risky_through_after_the_deadline";
    within_namespaces(test, async || {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let network = Network::make(&data, &["control-plane-1", "control-plane-2", "control-plane-3", "data-plane-1"])?;
        let world = World::start_with(Deployment::start_on(Shape::Cluster, data).await?, BRIDGE).await?;
        let somebody = world.somebody().await?;
        // Its clients, its servers and the event stream still reach it.
        network.isolate("data-plane-1")?;
        let calls = Calls::start(somebody.at[0].clone());
        let answer = world.revoke("consent", &somebody.consent)?;
        let deadline = time(&node(&answer, "data-plane-1")?["deadline"])?;
        let (admitted, refused) = calls.stop().await?;
        let latest = admitted.last().context("no call was admitted before the deadline")?;
        println!("{} admitted, the latest {:?} before the deadline", admitted.len(), deadline.duration_since(*latest));
        ensure!(*latest <= deadline, "admitted {:?} after the deadline", latest.duration_since(deadline));
        ensure!(refused.last().is_some_and(|reason| reason == "config_stale"), "refused as {refused:?}");
        ensure!(permitted(&somebody.at[0], "read").await?, "reading does not go on");
        network.heal()?;
        eventually("it hears of the revocation", async || {
            (reason(&somebody.at[0], "read").await.ok()? == "consent_revoked").then_some(())
        })
        .await
    })
    .await
}

/// Calls of a risky tool, one after the other, until stopped.
struct Calls(Arc<AtomicBool>, JoinHandle<(Vec<SystemTime>, Vec<String>)>);

impl Calls {
    fn start(client: McpClient) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        Self(
            stop,
            tokio::spawn(async move {
                let (mut admitted, mut refused) = (Vec::new(), Vec::new());
                while !stopped.load(Ordering::Relaxed) {
                    let sent = SystemTime::now();
                    match client.call("charge", json!({})).await {
                        Ok(answer) if answer.body.get("result").is_some() => admitted.push(sent),
                        Ok(answer) => refused.push(answer.reason().to_owned()),
                        Err(error) => refused.push(format!("{error:#}")),
                    }
                }
                (admitted, refused)
            }),
        )
    }

    /// When each admitted call was sent, and why the others were refused.
    async fn stop(self) -> Result<(Vec<SystemTime>, Vec<String>)> {
        self.0.store(true, Ordering::Relaxed);
        Ok(self.1.await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_control_planes_risky_calls_end_within_the_lease_and_come_back_with_them() -> Result<()> {
    let world = World::start().await?;
    let somebody = world.somebody().await?;
    for name in world.deployment.control_planes() {
        world.deployment.signal(&name, "STOP")?;
    }
    let stopped = Instant::now();
    for client in &somebody.at {
        let mut last_admitted = Duration::ZERO;
        eventually("risky calls end", async || {
            let asked = stopped.elapsed();
            match client.call("charge", json!({})).await.ok()? {
                answer if answer.body.get("result").is_some() => {
                    last_admitted = last_admitted.max(asked);
                    None
                }
                answer => (answer.reason() == "config_stale").then_some(()),
            }
        })
        .await?;
        println!("the latest admitted call was sent {last_admitted:?} after the control planes stopped");
        ensure!(last_admitted <= LEASE, "admitted {last_admitted:?} after the last lease could be asked for");
        ensure!(permitted(client, "read").await?, "reading does not go on");
    }
    for name in world.deployment.control_planes() {
        world.deployment.signal(&name, "CONT")?;
    }
    for client in &somebody.at {
        eventually("risky calls come back", async || permitted(client, "charge").await.ok()?.then_some(())).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_works_at_every_node_the_moment_it_is_issued() -> Result<()> {
    let world = World::start().await?;
    world.somebody().await?;
    for round in 0..20 {
        let issued = world.deployment.token_for(JANE, "assistant", "shop", "transactional", "10m")?;
        let token = issued["access_token"].as_str().context("no token")?;
        let calls = world.deployment.mcp.iter().map(|mcp| {
            let client = McpClient::new(mcp, "shop", token);
            async move { client.call("charge", json!({})).await }
        });
        for answer in futures::future::join_all(calls).await {
            let answer = answer?;
            ensure!(answer.body.get("result").is_some(), "round {round}: {}", answer.text);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_shown_with_their_lag_their_lease_and_whether_they_differ() -> Result<()> {
    let world = World::start().await?;
    world.somebody().await?;
    let shown = eventually("both nodes are current", async || {
        let shown: Value = serde_json::from_str(&world.deployment.cli_ok(&["get", "node", "-o", "json"]).ok()?).ok()?;
        let status = |name: &str| {
            let node = shown["items"].as_array()?.iter().find(|item| item["metadata"]["name"] == name)?;
            Some(node["status"].clone())
        };
        let is_current = |name: &&str| status(name).is_some_and(|node| node["lag"] == "0" && node["digest"] == "equal");
        DATA_PLANES.iter().all(is_current).then(|| DATA_PLANES.map(|name| status(name).unwrap_or_default()))
    })
    .await?;
    for node in shown {
        let age: u64 = node["lease_age_ms"].as_str().context("no lease")?.parse()?;
        ensure!(node["connected"] == true && age < 3_000, "{node:#}");
    }
    Ok(())
}
