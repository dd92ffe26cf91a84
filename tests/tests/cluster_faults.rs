//! A cluster of three control planes loses parts: a leader, all of it at once, its clock, its disk.
//!
//! Whatever is lost, every acknowledged write is there afterwards and none happened twice, calls go on, and all nodes
//! hold the same event log. Real processes on loopback; links that break are `partitions`.

use std::{fs, io::Write as _, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bailiwick_tests::{
    Callers, Deployment, Knobs, SampleServer, Shape, Writers, cluster::is_alive, eventually, load, within_namespaces,
};
use serde_json::{Value, json};

const WRITERS: usize = 4;
/// Writes that show that the cluster is at work.
const SOME: u64 = 40;
const NODES: [&str; 3] = ["control-plane-1", "control-plane-2", "control-plane-3"];

async fn cluster() -> Result<(Deployment, SampleServer)> {
    prepared(Deployment::start(Shape::Cluster).await?).await
}

async fn prepared(deployment: Deployment) -> Result<(Deployment, SampleServer)> {
    let server = SampleServer::start().await?;
    deployment.apply(&server.manifests())?;
    Ok((deployment, server))
}

fn user(name: &str) -> String {
    let manifest =
        json!({"apiVersion": "bailiwick/v1", "kind": "User", "metadata": {"name": name}, "spec": {"groups": ["g"]}});
    manifest.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_killed_under_load_takes_no_acknowledged_write_with_it() -> Result<()> {
    let (mut deployment, _server) = cluster().await?;
    let callers = Callers::start(&deployment).await?;
    let writers = Writers::start(&deployment, "kill", WRITERS);
    for _ in 0..3 {
        writers.go_on(SOME).await?;
        let leader = deployment.leader().await?;
        deployment.end(&leader, "KILL").await?;
        deployment.next_leader(&leader).await?;
        writers.go_on(SOME).await.with_context(|| deployment.log())?;
        deployment.up(&[]).await?;
    }
    let written = writers.stop().await?;
    callers.stop().await?;
    load::check(&deployment, "kill", &written)?;
    println!("{} writes, longest gap {:?}", written.acknowledged.len(), written.longest_gap);
    deployment.logs_agree().await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_killed_at_once_come_back_with_all_they_acknowledged() -> Result<()> {
    let (mut deployment, _server) = cluster().await?;
    for round in ["first", "second"] {
        let writers = Writers::start(&deployment, round, WRITERS);
        writers.go_on(SOME).await?;
        deployment.kill();
        deployment.start_again().await?;
        writers.go_on(SOME).await?;
        load::check(&deployment, round, &writers.stop().await?)?;
    }
    deployment.logs_agree().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_neither_acknowledges_nor_answers_as_if_nothing_had_happened() -> Result<()> {
    let (deployment, _server) = cluster().await?;
    for round in 0..2 {
        let old = deployment.leader().await?;
        let name = format!("meanwhile-{round}");
        // Sent while it sleeps: all of it is waiting at the old leader when it wakes up believing that it leads.
        deployment.signal(&old, "STOP")?;
        let reads = (0..4).map(|_| spawn_at(&deployment, &old, &["get", "user", &name, "-o", "json"]));
        let reads = reads.collect::<Result<Vec<_>>>()?;
        let lost = format!("late-{round}");
        let grant = ["token", "issue", "--user", "jane@example.com", "--agent", "coding-assistant"];
        let more = ["--virtual-server", "finance", "--level", "retrieval", "--reason", &lost, "-o", "json"];
        let writes = spawn_at(&deployment, &old, &[&grant[..], &more[..]].concat())?;
        let new = deployment.next_leader(&old).await?;
        let manifest = deployment.data().join("meanwhile.yaml");
        fs::write(&manifest, user(&name))?;
        let applied = deployment.cli_at(&new, 20, &["apply", "-f", &manifest.display().to_string()])?;
        ensure!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
        deployment.signal(&old, "CONT")?;
        for read in reads {
            let output = read.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            // It may have to give up; it may not say that there is no such user, because there is.
            ensure!(output.status.success() || output.status.code() == Some(3), "a stale read: {said}");
        }
        let acknowledged = writes.wait_with_output()?.status.success();
        let there = load::writes_there(&deployment, "late")?.get(&lost).copied().unwrap_or(0);
        ensure!(there == 1 || (there == 0 && !acknowledged), "acknowledged: {acknowledged}, there: {there}");
    }
    deployment.logs_agree().await
}

/// Starts `bailiwick` against one control plane only.
fn spawn_at(deployment: &Deployment, name: &str, arguments: &[&str]) -> Result<std::process::Child> {
    let mut command = std::process::Command::new(bailiwick_tests::deployment::binary("bailiwick"));
    command.args(arguments).env("BAILIWICK_ADMIN", deployment.admin_of(name)?);
    let piped = std::process::Stdio::piped;
    Ok(command.stdin(std::process::Stdio::null()).stdout(piped()).stderr(piped()).spawn()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_under_load_fails_no_write_and_no_call() -> Result<()> {
    let (mut deployment, _server) = cluster().await?;
    let callers = Callers::start(&deployment).await?;
    let writers = Writers::start(&deployment, "rolling", WRITERS);
    for name in NODES {
        writers.go_on(SOME).await?;
        deployment.end(name, "TERM").await?;
        writers.go_on(SOME).await?;
        deployment.up(&[]).await?;
    }
    let written = writers.stop().await?;
    callers.stop().await?;
    ensure!(written.unknown.is_empty(), "never answered: {:?}", written.unknown);
    load::check(&deployment, "rolling", &written)?;
    println!("{} writes, longest gap {:?}", written.acknowledged.len(), written.longest_gap);
    deployment.logs_agree().await
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_clocks_and_slow_disks_cost_no_acknowledged_write() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let data = folder.path().join("data");
    let mut knobs = Knobs::install(&data, &NODES)?;
    let (mut deployment, _server) = prepared(Deployment::start_on(Shape::Cluster, data).await?).await?;
    let writers = Writers::start(&deployment, "knobs", WRITERS);
    let number = |name: &str| NODES.iter().position(|node| *node == name).context("a control plane");

    // Forward, backward, and as far as certificates no longer hold.
    for seconds in [600, -600, 3 * 3600, -3 * 3600, 0] {
        let leader = number(&deployment.leader().await?)?;
        knobs[leader].clock_off_by(seconds)?;
        writers.go_on(SOME).await.with_context(|| format!("{} off by {seconds} s", NODES[leader]))?;
        knobs[leader].clock_off_by(0)?;
    }
    // A follower that takes a second for every sync holds nobody up: the other two are a majority.
    let leader = number(&deployment.leader().await?)?;
    let follower = (leader + 1) % NODES.len();
    knobs[follower].slow_disk(Duration::from_secs(1))?;
    writers.go_on(4 * SOME).await?;
    knobs[follower].slow_disk(Duration::ZERO)?;
    // A slow leader is slow, and correct.
    knobs[leader].slow_disk(Duration::from_millis(400))?;
    writers.go_on(SOME).await?;
    knobs[leader].slow_disk(Duration::ZERO)?;

    // A disk whose syncs fail: the node ends and says why; the others go on; it comes back whole.
    let failing = deployment.leader().await?;
    let number_failing = number(&failing)?;
    knobs[number_failing].failing_disk(true)?;
    deployment.ended(&failing).await.with_context(|| deployment.log_of(&failing))?;
    writers.go_on(SOME).await?;
    knobs[number_failing].failing_disk(false)?;
    deployment.up(&[]).await?;
    writers.go_on(SOME).await?;
    load::check(&deployment, "knobs", &writers.stop().await?)?;
    deployment.logs_agree().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_one_node_and_not_the_cluster() -> Result<()> {
    within_namespaces("a_full_disk_ends_one_node_and_not_the_cluster", async || {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        let disk = data.join("data/control-plane-1");
        fs::create_dir_all(&disk)?;
        let tmpfs = ["-t", "tmpfs", "-o", "size=24m", "tmpfs"];
        let mounted = std::process::Command::new("mount").args(tmpfs).arg(&disk).status()?;
        ensure!(mounted.success(), "the namespaces do not allow a tmpfs");
        let (mut deployment, _server) = prepared(Deployment::start_on(Shape::Cluster, data).await?).await?;
        let writers = Writers::start(&deployment, "full", WRITERS);
        writers.go_on(SOME).await?;

        let filler = disk.join("filler");
        let node = deployment.node("control-plane-1")?;
        eventually("the node whose disk is full ends", async || {
            // What little space a freed file gives back is filled again.
            let mut file = fs::File::options().create(true).append(true).open(&filler).ok()?;
            while file.write_all(&[0; 4096]).is_ok() {}
            (!is_alive(node.pid)).then_some(())
        })
        .await?;
        writers.go_on(SOME).await?;
        ensure!(deployment.log_of("control-plane-1").contains("start again once the disk works"), "it did not say why");

        fs::remove_file(&filler)?;
        deployment.up(&[]).await?;
        writers.go_on(SOME).await?;
        load::check(&deployment, "full", &writers.stop().await?)?;
        deployment.logs_agree().await
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_serves_the_api_and_says_who_leads() -> Result<()> {
    let (deployment, _server) = cluster().await?;
    let leader = deployment.leader().await?;
    for (n, name) in NODES.iter().enumerate() {
        let manifest = deployment.data().join("user.yaml");
        fs::write(&manifest, user(&format!("by-{n}")))?;
        let applied = deployment.cli_at(name, 20, &["apply", "-f", &manifest.display().to_string()])?;
        ensure!(applied.status.success(), "{name}: {}", String::from_utf8_lossy(&applied.stderr));
        // Read at another node at once: reads are of the latest committed state wherever they are asked.
        let other = NODES[(n + 1) % NODES.len()];
        let read = deployment.cli_at(other, 20, &["get", "user", &format!("by-{n}"), "-o", "json"])?;
        ensure!(read.status.success(), "{other}: {}", String::from_utf8_lossy(&read.stderr));
        let seen = deployment.members_at(name)?.into_iter().find(|member| member.leader).map(|member| member.name);
        ensure!(seen.as_deref() == Some(&leader), "{name} names {seen:?}, {leader} leads");
    }
    // A token of any node works at every data plane.
    Callers::start(&deployment).await?.stop().await?;
    let status: Value = serde_json::from_str(&deployment.cli_ok(&["cluster", "members", "-o", "json"])?)?;
    let items = status["items"].as_array().context("items")?;
    ensure!(items.iter().filter(|item| item["role"] == "control-plane").count() == NODES.len(), "{status:#}");
    ensure!(items.iter().filter(|item| item["leader"] == json!(true)).count() == 1, "{status:#}");
    Ok(())
}
