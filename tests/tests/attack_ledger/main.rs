//! Attacks on the record's way into the one history: a NATS server that loses everything, forged batches (`forger`),
//! a restored or doubled ledger, a ledger killed again and again.
//!
//! After each of them the same holds: every call that ran is in the log once, with its outcome, the log verifies, and
//! nobody had to restart anything but what was killed.

#![expect(clippy::disallowed_methods, clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

mod forger;

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, McpClient, SampleServer, Shape,
    deployment::{as_url, binary, kill},
    eventually,
};
use serde_json::{Value, json};

const ALL: &str = "---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {name: finance-all}\nspec:\n  cedar: |\n    permit (principal in Group::\"finance\", action in Action::\"call_tool\", resource in Server::\"finance\");\n";

/// A cluster on which Jane's assistant may do everything, and her client.
async fn cluster() -> Result<(Deployment, SampleServer, McpClient)> {
    cluster_with(&[]).await
}

async fn cluster_with(environment: &[(&str, &str)]) -> Result<(Deployment, SampleServer, McpClient)> {
    let deployment = Deployment::start_with(Shape::Processes, environment).await?;
    let (server, client) = permitted(&deployment).await?;
    Ok((deployment, server, client))
}

async fn permitted(deployment: &Deployment) -> Result<(SampleServer, McpClient)> {
    let server = SampleServer::start().await?;
    deployment.apply(&(server.manifests() + ALL))?;
    let client = McpClient::new(&deployment.mcp[0], "finance", &deployment.token("finance", "destructive")?);
    for mcp in &deployment.mcp {
        let there = client.at(mcp);
        eventually("all is permitted", async || ran(&erase(&there).await.ok()?).then_some(())).await?;
    }
    Ok((server, client))
}

async fn query(client: &McpClient) -> Result<Answer> {
    client.call("query_data", json!({"dataset": "invoices"})).await
}

async fn erase(client: &McpClient) -> Result<Answer> {
    client.call("delete_ledger", json!({"ledger": "2019"})).await
}

fn ran(answer: &Answer) -> bool {
    answer.body.get("result").is_some()
}

fn pids(deployment: &Deployment, role: &str) -> Vec<u32> {
    deployment.role(role).iter().map(|node| node.pid).collect()
}

fn kill_role(deployment: &Deployment, role: &str) {
    pids(deployment, role).into_iter().for_each(|pid| kill(pid, "KILL"));
}

/// Kills NATS and takes everything it ever stored.
fn wipe_nats(deployment: &Deployment) -> Result<()> {
    kill_role(deployment, "nats");
    Ok(fs::remove_dir_all(deployment.data().join("data/nats"))?)
}

/// Every call that ran is in `ledger`'s published log, each with its outcome, and the log verifies.
async fn all_on_record(deployment: &Deployment, ledger: &str, server: &SampleServer) -> Result<()> {
    let calls = server.calls("query_data").await? + server.calls("delete_ledger").await?;
    let out = deployment.data().join("export").display().to_string();
    let mut last = Value::Null;
    let recorded = eventually("every call is on record", async || {
        drop(fs::remove_dir_all(&out));
        deployment.cli_ok(&["ledger", "export", ledger, &out]).ok()?;
        last = serde_json::from_str(&deployment.cli_ok(&["ledger", "verify", &out, "-o", "json"]).ok()?).ok()?;
        let intents = last["kinds"]["call.intent"].as_u64()?;
        (intents >= calls && last["kinds"]["call.outcome"].as_u64()? == intents).then_some(())
    });
    recorded.await.with_context(|| format!("{calls} calls ran; the log holds {last:#}"))
}

/// Calls without a pause until it is dropped.
struct Load(Arc<AtomicBool>);

impl Load {
    fn start(client: &McpClient) -> Self {
        let goes_on = Arc::new(AtomicBool::new(true));
        for _ in 0..4 {
            let (client, goes_on) = (client.clone(), Arc::clone(&goes_on));
            tokio::spawn(async move {
                while goes_on.load(Ordering::Relaxed) {
                    drop(query(&client).await);
                }
            });
        }
        Self(goes_on)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

async fn more_calls(server: &SampleServer, more: u64) -> Result<()> {
    let seen = server.calls("query_data").await?;
    eventually("calls go on", async || (server.calls("query_data").await.ok()? >= seen + more).then_some(())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nats_server_that_loses_all_its_data_costs_no_record() -> Result<()> {
    let (mut deployment, server, client) = cluster().await?;
    let load = Load::start(&client);
    more_calls(&server, 50).await?;
    wipe_nats(&deployment)?;
    more_calls(&server, 50).await?;
    drop(load);
    let others = |deployment: &Deployment| ["control-plane", "ledger", "data-plane"].map(|role| pids(deployment, role));
    let before = others(&deployment);
    deployment.start_again().await?;
    assert_eq!(others(&deployment), before, "only NATS was started again");
    all_on_record(&deployment, &deployment.ledger, &server).await?;
    eventually("destructive calls go on", async || ran(&erase(&client).await.ok()?).then_some(())).await?;

    // What NATS had acknowledged and the ledger never saw.
    kill_role(&deployment, "ledger");
    for _ in 0..20 {
        ensure!(ran(&query(&client).await?), "retrieval needs neither NATS nor the ledger");
    }
    wipe_nats(&deployment)?;
    deployment.start_again().await?;
    all_on_record(&deployment, &deployment.ledger, &server).await
}

/// A process that hangs keeps its connections open, which is harder to see than its end.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_hangs_stops_only_what_needs_it_and_only_so_long() -> Result<()> {
    let (deployment, server, client) = cluster().await?;
    for (role, reason) in
        [("ledger", "ledger_unreachable"), ("nats", "ledger_unreachable"), ("control-plane", "config_stale")]
    {
        let pid = pids(&deployment, role)[0];
        kill(pid, "STOP");
        let refused = eventually(role, async || erase(&client).await.ok().filter(|answer| !ran(answer))).await?;
        ensure!(refused.reason() == reason, "{role} hangs: {}", refused.text);
        ensure!(ran(&query(&client).await?), "{role} hangs and takes retrieval with it");
        kill(pid, "CONT");
        eventually("all goes on", async || ran(&erase(&client).await.ok()?).then_some(())).await.context(role)?;
    }
    all_on_record(&deployment, &deployment.ledger, &server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn more_records_than_the_stream_holds_go_through_it() -> Result<()> {
    let (deployment, server, client) = cluster_with(&[("BAILIWICK_NATS__STREAM_BYTES_MAX", "131072")]).await?;
    for _ in 0..200 {
        ensure!(ran(&query(&client).await?));
    }
    all_on_record(&deployment, &deployment.ledger, &server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_killed_again_and_again_under_load_loses_and_repeats_nothing() -> Result<()> {
    let (mut deployment, server, client) = cluster().await?;
    let load = Load::start(&client);
    for round in 0..4 {
        more_calls(&server, 20 + 15 * round).await?;
        kill_role(&deployment, "ledger");
        more_calls(&server, 10).await?;
        deployment.start_again().await?;
        // What is exported while more is written verifies as well.
        let out = deployment.data().join(format!("export-{round}")).display().to_string();
        eventually("there is a checkpoint", async || {
            deployment.cli_ok(&["ledger", "export", &deployment.ledger, &out]).ok()
        })
        .await?;
        deployment.cli_ok(&["ledger", "verify", &out])?;
    }
    drop(load);
    all_on_record(&deployment, &deployment.ledger, &server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_whose_disk_is_full_vouches_for_nothing_and_goes_on_when_there_is_room() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("data/data/ledger");
    fs::create_dir_all(&disk)?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=32m", "tmpfs"]).arg(&disk).status()?;
    ensure!(mounted.success(), "this test mounts a small tmpfs: run it as root");
    let _unmount = Unmount(disk.clone());
    let deployment = Deployment::start_on(Shape::Processes, folder.path().join("data")).await?;
    let (server, client) = permitted(&deployment).await?;

    let filler = disk.join("filler");
    let refused = eventually("a destructive call is refused", async || {
        // What little space the database gives back is filled again.
        if let Ok(mut file) = File::options().create(true).append(true).open(&filler) {
            while file.write_all(&[0; 4096]).is_ok() {}
        }
        erase(&client).await.ok().filter(|answer| !ran(answer))
    })
    .await?;
    ensure!(refused.reason() == "ledger_unreachable", "{}", refused.text);
    ensure!(ran(&query(&client).await?), "retrieval goes on");
    fs::remove_file(&filler)?;
    eventually("destructive calls go on", async || ran(&erase(&client).await.ok()?).then_some(())).await?;
    all_on_record(&deployment, &deployment.ledger, &server).await
}

struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A ledger started by hand.
struct Ledger {
    child: Child,
    ops: String,
    url: String,
}

impl Ledger {
    /// Starts one with the cluster's own configuration and `changes` (key, value) in its environment.
    fn start(deployment: &Deployment, changes: &[(&str, String)]) -> Result<Self> {
        let node = deployment.role("ledger").pop().context("no ledger")?;
        let address = |name: &str| node.listen[name].as_str().unwrap_or_default().to_owned();
        let of = |key: &str| changes.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone());
        let log = File::create(deployment.data().join("log/ledger-by-hand.log"))?;
        let child = Command::new(binary("bailiwick"))
            .args(["ledger", "--config"])
            .arg(deployment.data().join("config/ledger.toml"))
            .envs(changes.iter().map(|(key, value)| (format!("BAILIWICK_LEDGER__{key}"), value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let ops = as_url(&of("OPS_LISTEN").unwrap_or_else(|| address("ops")));
        Ok(Self { child, ops, url: as_url(&of("LISTEN").unwrap_or_else(|| address("http"))) })
    }

    async fn readyz(&self) -> Option<(u16, String)> {
        let answer = reqwest::get(format!("{}/readyz", self.ops)).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn says(&self, words: &str) -> Result<()> {
        let said = eventually(words, async || self.readyz().await.filter(|(_, text)| text.contains(words)));
        let (status, _) = said.await?;
        ensure!(status == 503, "ready although {words}");
        Ok(())
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        kill(self.child.id(), "KILL");
        drop(self.child.wait());
    }
}

async fn end_ledger(deployment: &Deployment) -> Result<PathBuf> {
    let node = deployment.role("ledger").pop().context("no ledger")?;
    kill(node.pid, "TERM");
    let url = format!("{}/livez", as_url(node.listen["ops"].as_str().context("ops")?));
    eventually("the ledger has stopped", async || {
        (reqwest::get(&url).await.is_err() && !still_runs(node.pid)).then_some(())
    })
    .await?;
    Ok(deployment.data().join("data/ledger"))
}

fn still_runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(status.success(), "cp");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_destructive_runs_on_the_word_of_a_restored_ledger() -> Result<()> {
    let (mut deployment, server, client) = cluster().await?;
    let data = end_ledger(&deployment).await?;
    let (backup, whole) = (deployment.data().join("backup"), deployment.data().join("whole"));
    copy(&data, &backup)?;
    deployment.start_again().await?;
    eventually("calls go on", async || ran(&erase(&client).await.ok()?).then_some(())).await?;
    all_on_record(&deployment, &deployment.ledger, &server).await?;
    let erased = server.calls("delete_ledger").await?;

    end_ledger(&deployment).await?;
    fs::rename(&data, &whole)?;
    fs::rename(&backup, &data)?;
    let restored = Ledger::start(&deployment, &[])?;
    restored.says("is this a restored backup?").await?;
    let refused = erase(&client).await?;
    ensure!(refused.reason() == "ledger_unreachable", "{}", refused.text);
    ensure!(ran(&query(&client).await?), "retrieval goes on");
    ensure!(server.calls("delete_ledger").await? == erased, "a destructive call ran on the word of a restored ledger");
    drop(restored);

    fs::remove_dir_all(&data)?;
    fs::rename(&whole, &data)?;
    deployment.start_again().await?;
    eventually("calls go on", async || ran(&erase(&client).await.ok()?).then_some(())).await?;
    all_on_record(&deployment, &deployment.ledger, &server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_ledgers_on_copies_of_one_log_only_one_publishes_and_it_has_everything() -> Result<()> {
    let (mut deployment, server, client) = cluster().await?;
    let data = end_ledger(&deployment).await?;
    let copied = deployment.data().join("data/ledger-2");
    copy(&data, &copied)?;
    deployment.start_again().await?;
    let listen = || Ok::<_, anyhow::Error>(format!("127.0.0.1:{}", bailiwick_tests::upstream::free_port()?));
    let changes = [("DATA_DIR", copied.display().to_string()), ("LISTEN", listen()?), ("OPS_LISTEN", listen()?)];
    let second = Ledger::start(&deployment, &changes)?;
    eventually("the second ledger is up", async || second.readyz().await).await?;
    let load = Load::start(&client);
    more_calls(&server, 100).await?;

    let node = deployment.role("ledger").pop().context("no ledger")?;
    let first_ops = format!("{}/readyz", as_url(node.listen["ops"].as_str().context("ops")?));
    let mut seen = (0, (0, String::new()));
    let winner = eventually("one of them gives way", async || {
        seen = (reqwest::get(&first_ops).await.ok()?.status().as_u16(), second.readyz().await?);
        match (seen.0, seen.1.0) {
            (200, 503) => Some(deployment.ledger.clone()),
            (503, 200) => Some(second.url.clone()),
            _ => None,
        }
    })
    .await
    .with_context(|| format!("{seen:?}\n{}", deployment.log()))?;
    more_calls(&server, 20).await?;
    drop(load);
    all_on_record(&deployment, &winner, &server).await
}
