//! A cluster whose links break: each control plane on a host of its own, in network namespaces that the test makes.
//!
//! A node that is cut off from a majority acknowledges nothing and answers no read that it cannot vouch for, even to a
//! client on its own host; the majority goes on; afterwards all nodes hold the same event log. Needs the right to make
//! namespaces, and fails without.

use std::{future::Future, process::Output, thread, time::Duration};

use anyhow::{Context as _, Result, anyhow, ensure};
use bailiwick_tests::{Callers, Deployment, Network, SampleServer, Shape, eventually, within_namespaces};
use serde_json::json;
use tokio::time::Instant;

const NODES: [&str; 3] = ["control-plane-1", "control-plane-2", "control-plane-3"];
/// Longer than elections take, shorter than clients retry.
const SECONDS_MAX: u32 = 5;

struct Scene {
    deployment: Deployment,
    network: Network,
    server: SampleServer,
    _folder: tempfile::TempDir,
}

/// Runs a claim on a fresh cluster in namespaces.
async fn partitioned<F: Future<Output = Result<()>>>(test: &str, claim: impl FnOnce(Scene) -> F) -> Result<()> {
    within_namespaces(test, async || {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let network = Network::make(&data, &NODES)?;
        let deployment = Deployment::start_on(Shape::Cluster, data).await?;
        let server = SampleServer::start().await?;
        deployment.apply(&server.manifests())?;
        claim(Scene { deployment, network, server, _folder: folder }).await
    })
    .await
}

impl Scene {
    /// A write by a client on that node's own host.
    fn write_at(&self, node: &str, name: &str) -> Result<Output> {
        let file = self.deployment.data().join(format!("{name}.yaml"));
        let (metadata, spec) = (json!({"name": name}), json!({"groups": ["g"]}));
        let user = json!({"apiVersion": "bailiwick/v1", "kind": "User", "metadata": metadata, "spec": spec});
        std::fs::write(&file, user.to_string())?;
        self.deployment.cli_at(node, SECONDS_MAX, &["apply", "-f", &file.display().to_string()])
    }

    fn written_at(&self, node: &str, name: &str) -> Result<()> {
        let output = self.write_at(node, name)?;
        ensure!(output.status.success(), "{node}: {}\n{}", said(&output), self.deployment.log());
        Ok(())
    }

    fn read_at(&self, node: &str, name: &str) -> Result<Output> {
        self.deployment.cli_at(node, SECONDS_MAX, &["get", "user", name, "-o", "json"])
    }

    /// Everybody reads the same of these names at every node: there or not.
    fn agreed(&self, there: &[&str]) -> Result<()> {
        for node in NODES {
            for name in there {
                let output = self.read_at(node, name)?;
                ensure!(output.status.success(), "{name} is not at {node}: {}", said(&output));
            }
        }
        Ok(())
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_leader_acknowledges_nothing_while_the_majority_goes_on() -> Result<()> {
    partitioned("a_cut_off_leader_acknowledges_nothing_while_the_majority_goes_on", async |scene| {
        let callers = Callers::start(&scene.deployment).await?;
        let old = scene.deployment.leader().await?;
        scene.written_at(&old, "before")?;
        scene.network.isolate(&old)?;
        // At once, while it still believes that it leads.
        let refused = scene.write_at(&old, "cut-off")?;
        ensure!(!refused.status.success(), "a cut-off leader acknowledged a write");
        let began = Instant::now();
        let new = scene.deployment.next_leader(&old).await?;
        println!("{:?} until the others followed {new}", began.elapsed());
        scene.written_at(&new, "meanwhile")?;
        let stale = scene.read_at(&old, "meanwhile")?;
        ensure!(stale.status.code() != Some(0) && stale.status.code() != Some(1), "a stale answer: {}", said(&stale));
        callers.stop().await?;
        ensure!(scene.server.calls("query_data").await? > 0, "no call ran");

        scene.network.heal()?;
        scene.written_at(&old, "after")?;
        scene.agreed(&["before", "meanwhile", "after"])?;
        let unknown = NODES.iter().map(|node| scene.read_at(node, "cut-off").map(|output| output.status.success()));
        let unknown = unknown.collect::<Result<Vec<_>>>()?;
        ensure!(unknown.iter().all(|there| Some(there) == unknown.first()), "the nodes differ: {unknown:?}");
        scene.deployment.logs_agree().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_nobody_acknowledges_and_healing_needs_nobodys_help() -> Result<()> {
    partitioned("without_a_majority_nobody_acknowledges_and_healing_needs_nobodys_help", async |scene| {
        let leader = scene.deployment.leader().await?;
        scene.written_at(&leader, "before")?;
        for node in NODES {
            scene.network.isolate(node)?;
        }
        // All at once, as each is waited for until it has given up.
        let scene_now = &scene;
        let alone = thread::scope(|scope| {
            let asked = NODES.map(|node| {
                let write = scope.spawn(move || scene_now.write_at(node, &format!("alone-{node}")));
                (node, write, scope.spawn(move || scene_now.read_at(node, "before")))
            });
            asked.map(|(node, write, read)| (node, write.join(), read.join()))
        });
        for (node, write, read) in alone {
            let (write, read) = (write.map_err(|_| anyhow!("panicked"))??, read.map_err(|_| anyhow!("panicked"))??);
            ensure!(!write.status.success(), "{node} acknowledged a write alone");
            ensure!(!read.status.success(), "{node} vouched for a read alone");
        }
        scene.network.heal()?;
        scene.deployment.leader().await?;
        scene.written_at(NODES[0], "after")?;
        scene.agreed(&["before", "after"])?;
        scene.deployment.logs_agree().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_heard_but_hears_nobody_is_replaced() -> Result<()> {
    partitioned("a_leader_that_is_heard_but_hears_nobody_is_replaced", async |scene| {
        let old = scene.deployment.leader().await?;
        scene.written_at(&old, "before")?;
        for node in NODES.iter().filter(|node| **node != old) {
            scene.network.cut_one_way(node, &old)?;
        }
        let refused = scene.write_at(&old, "deaf")?;
        ensure!(!refused.status.success(), "a deaf leader acknowledged a write");
        let new = scene.deployment.next_leader(&old).await?;
        scene.written_at(&new, "meanwhile")?;
        scene.network.heal()?;
        scene.agreed(&["before", "meanwhile"])?;
        scene.deployment.logs_agree().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_cable_wobbles_unseats_nobody() -> Result<()> {
    partitioned("a_follower_whose_cable_wobbles_unseats_nobody", async |scene| {
        let leader = scene.deployment.leader().await?;
        let follower = NODES.iter().find(|node| **node != leader).context("a follower")?;
        for round in 0..4 {
            scene.network.cable(follower, false)?;
            let began = Instant::now();
            scene.written_at(&leader, &format!("unplugged-{round}"))?;
            // Long enough for it to have stood for election over and over.
            eventually("some elections' time passed", async || {
                (began.elapsed() > Duration::from_secs(2)).then_some(())
            })
            .await?;
            scene.network.cable(follower, true)?;
            scene.written_at(&leader, &format!("plugged-{round}"))?;
            let now = scene.deployment.leader().await?;
            ensure!(now == leader, "{follower} came back and unseated {leader}: {now} leads");
        }
        scene.agreed(&["unplugged-0", "plugged-3"])?;
        scene.deployment.logs_agree().await
    })
    .await
}
