//! Surviving without the control plane, with real processes: a data plane that is killed while every control plane is
//! away comes back from its own disk, serves what can do no harm, for as long as it may, and has all of it on record.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, McpClient, ScriptedServer, Shape,
    deployment::{as_url, binary},
    eventually,
    scripted::tool,
};
use serde_json::{Value, json};

const NODE: &str = "data-plane-1";
const JANE: &str = "jane@example.com";

struct World {
    deployment: Deployment,
    _server: ScriptedServer,
    /// The data plane, when it was started here.
    restarted: Option<Child>,
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(mut child) = self.restarted.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

impl World {
    async fn start() -> Result<Self> {
        let deployment = Deployment::start(Shape::Cluster).await?;
        let tools = vec![tool("charge", "transactional"), tool("read", "retrieval"), tool("wipe", "destructive")];
        let server = ScriptedServer::start_at("127.0.0.1", tools).await?;
        deployment.apply(&server.manifests("shop", "plain"))?;
        deployment.apply(&people())?;
        Ok(Self { deployment, _server: server, restarted: None })
    }

    /// Jane's agent at the data plane, and its consent.
    fn somebody(&self) -> Result<(McpClient, String)> {
        let issued = self.deployment.token_for(JANE, "assistant", "shop", "destructive", "20m")?;
        let token = issued["access_token"].as_str().context("no token")?;
        let consent = issued["consent_id"].as_str().context("no consent")?;
        Ok((McpClient::new(&self.deployment.mcp[0], "shop", token), consent.to_owned()))
    }

    fn kept(&self, name: &str) -> PathBuf {
        self.deployment.data().join("data").join(NODE).join(name)
    }

    /// Waits until what is in force now is on the node's disk, and its next runs are registered.
    async fn everything_is_kept(&self) -> Result<()> {
        let modified = || fs::metadata(self.kept("snapshot/config.snapshot")).ok()?.modified().ok();
        let mut last = SystemTime::now();
        // The first statement after now may be of a moment before; the second is not.
        for what in ["a statement is kept", "another one is kept"] {
            last = eventually(what, async || modified().filter(|modified| *modified > last)).await?;
        }
        eventually("there are reserves", async || {
            let reserves = self.metric("bailiwick_data_plane_reserves_kept").await?;
            (reserves == 3.0 && self.metric("bailiwick_data_plane_snapshot_kept").await? == 1.0).then_some(())
        })
        .await
    }

    fn ops(&self) -> Result<String> {
        let node = self.deployment.node(NODE)?;
        Ok(as_url(node.listen.get("ops").and_then(Value::as_str).context("no ops listener")?))
    }

    async fn metric(&self, name: &str) -> Option<f64> {
        let text = reqwest::get(format!("{}/metrics", self.ops().ok()?)).await.ok()?.text().await.ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
    }

    async fn readiness(&self) -> Option<(u16, String)> {
        let answer = reqwest::get(format!("{}/readyz", self.ops().ok()?)).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    async fn until_ready(&self, ready: bool) -> Result<String> {
        let expected = if ready { 200 } else { 503 };
        eventually(&format!("readiness is {expected}"), async || {
            let (status, text) = self.readiness().await?;
            (status == expected).then_some(text)
        })
        .await
        .with_context(|| self.deployment.log_of(NODE))
    }

    async fn kill_control_planes(&self) -> Result<()> {
        let names = self.deployment.control_planes();
        names.iter().try_for_each(|name| self.deployment.signal(name, "KILL"))?;
        for name in &names {
            self.deployment.ended(name).await?;
        }
        Ok(())
    }

    /// Kills the data plane, and starts it again with this in its environment. What is put into `cluster.json` lets
    /// `local-cluster up` know that it runs.
    async fn restart(&mut self, environment: &[(&str, &str)]) -> Result<()> {
        self.kill().await?;
        let folder = self.deployment.data();
        let log = File::options().append(true).open(folder.join(format!("log/{NODE}.log")))?;
        let mut command = Command::new(binary("bailiwick"));
        command.arg("data-plane").arg("--config").arg(folder.join(format!("config/{NODE}.toml")));
        command.envs(environment.iter().copied()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn()?;
        let file = folder.join("cluster.json");
        let mut cluster: Value = serde_json::from_slice(&fs::read(&file)?)?;
        let nodes = cluster["nodes"].as_array_mut().context("no nodes")?;
        let node = nodes.iter_mut().find(|node| node["name"] == NODE).context("no such node")?;
        node["pid"] = child.id().into();
        fs::write(&file, cluster.to_string())?;
        let node = self.deployment.nodes.iter_mut().find(|node| node.name == NODE).context("no such node")?;
        node.pid = child.id();
        self.restarted = Some(child);
        Ok(())
    }

    async fn kill(&mut self) -> Result<()> {
        self.deployment.signal(NODE, "KILL")?;
        match self.restarted.take() {
            Some(mut child) => drop(child.wait()?),
            None => self.deployment.ended(NODE).await?,
        }
        Ok(())
    }

    /// Exports the ledger until the export holds `wanted` records of the node's calls, and verifies it.
    async fn verified(&self, is_wanted: impl Fn(&Value) -> bool) -> Result<Vec<Value>> {
        let wanted = eventually("the calls are in the ledger", async || {
            let records = self.deployment.audit(&["--server", "shop", "--limit", "1000"]).ok()?;
            let wanted: Vec<_> = records.into_iter().filter(|record| is_wanted(record)).collect();
            (!wanted.is_empty()).then_some(wanted)
        })
        .await?;
        let out = self.deployment.data().join("export");
        let path = out.display().to_string();
        let report = eventually("an export verifies with every call's outcome", async || {
            drop(fs::remove_dir_all(&out));
            self.deployment.cli_ok(&["ledger", "export", &self.deployment.ledger, &path]).ok()?;
            let said = self.deployment.cli_ok(&["ledger", "verify", &path, "-o", "json"]).ok()?;
            serde_json::from_str::<Value>(&said).ok()
        })
        .await?;
        ensure!(report["result"] == "VALID", "{report}");
        Ok(wanted)
    }
}

fn people() -> String {
    format!(
        "---\napiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: {JANE}}}\nspec: {{groups: [buyers], active: true}}\n\
         ---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: assistant}}\nspec: {{owner: {JANE}, project: shop, ceiling: destructive, active: true}}\n"
    )
}

/// Writes a file that only its owner may read.
fn write(path: &Path, content: &[u8]) -> Result<()> {
    drop(fs::remove_file(path));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    Ok(file.write_all(content)?)
}

/// Numbers that might lose digits are texts.
fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}

async fn permitted(client: &McpClient, tool: &str) -> Result<bool> {
    Ok(client.call(tool, json!({})).await?.body.get("result").is_some())
}

async fn reason(client: &McpClient, tool: &str) -> Result<String> {
    Ok(client.call(tool, json!({})).await?.reason().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_plane_killed_without_control_planes_serves_reads_again_and_has_them_on_record() -> Result<()> {
    let mut world = World::start().await?;
    let ((client, _), (revoked, consent)) = (world.somebody()?, world.somebody()?);
    for somebody in [&client, &revoked] {
        eventually("the token works", async || permitted(somebody, "charge").await.ok()?.then_some(())).await?;
    }
    world.everything_is_kept().await?;
    // Acknowledged a moment before everything ends: a restart must not forget it.
    world.deployment.cli_ok(&["revoke", "consent", &consent, "--wait"])?;
    world.kill_control_planes().await?;
    world.restart(&[]).await?;
    world.until_ready(true).await?;
    ensure!(world.metric("bailiwick_data_plane_snapshot_in_use").await == Some(1.0));
    ensure!(permitted(&client, "read").await?, "{}", world.deployment.log_of(NODE));
    for risky in ["charge", "wipe"] {
        ensure!(reason(&client, risky).await? == "config_stale", "{risky}");
    }
    ensure!(reason(&revoked, "read").await? == "consent_revoked");

    // Once more, and now the age allowed is soon over.
    world.restart(&[("BAILIWICK_DATA_PLANE__SNAPSHOT_MAX_AGE_MS", "50000")]).await?;
    world.until_ready(true).await?;
    ensure!(permitted(&client, "read").await?, "{}", world.deployment.log_of(NODE));
    let said = world.until_ready(false).await?;
    ensure!(said.contains("snapshot_max_age_ms"), "{said}");
    ensure!(reason(&client, "read").await? == "config_stale");

    world.deployment.up(&["--control-planes", "3"]).await?;
    eventually("the node has a lease again", async || permitted(&client, "charge").await.ok()?.then_some(())).await?;
    ensure!(world.metric("bailiwick_data_plane_snapshot_in_use").await == Some(0.0));
    ensure!(reason(&revoked, "read").await? == "consent_revoked");
    let alone = world.verified(|record| {
        let stale = number(&record["rev_age_ms"]);
        record["kind"] == "call.intent" && record["node"] == NODE && stale > 3_000
    });
    let alone = alone.await?;
    ensure!(alone.len() == 2, "{alone:?}");
    ensure!(alone[0]["epoch"] != alone[1]["epoch"], "each run has its own: {alone:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_usable_snapshot_or_a_reserve_a_node_waits_for_a_control_plane() -> Result<()> {
    let mut world = World::start().await?;
    let (client, _) = world.somebody()?;
    eventually("the token works", async || permitted(&client, "read").await.ok()?.then_some(())).await?;
    world.everything_is_kept().await?;
    let (snapshot, reserves) = (world.kept("snapshot/config.snapshot"), world.kept("keys/reserve.key"));
    world.kill().await?;
    world.kill_control_planes().await?;
    let (whole, reserved) = (fs::read(&snapshot)?, fs::read(&reserves)?);
    let mut damaged = whole.clone();
    *damaged.last_mut().context("empty")? ^= 1;
    for (content, said) in [(damaged, "damaged"), (b"something else".to_vec(), "in no format")] {
        write(&snapshot, &content)?;
        world.restart(&[]).await?;
        eventually("the log says why", async || world.deployment.log_of(NODE).contains(said).then_some(())).await?;
        ensure!(!snapshot.exists(), "it is put away");
    }
    write(&snapshot, &whole)?;
    fs::remove_file(&reserves)?;
    world.restart(&[]).await?;
    let said = "there is no reserve";
    eventually("the log says why", async || world.deployment.log_of(NODE).contains(said).then_some(())).await?;
    ensure!(world.until_ready(false).await?.contains("config"));
    // With both it would have served.
    write(&reserves, &reserved)?;
    world.restart(&[]).await?;
    world.until_ready(true).await?;
    // Turned off, nothing is kept, nor served.
    world.restart(&[("BAILIWICK_DATA_PLANE__SNAPSHOT_MAX_AGE_MS", "0")]).await?;
    eventually("it is put away", async || (!snapshot.exists()).then_some(())).await?;
    world.deployment.up(&["--control-planes", "3"]).await?;
    eventually("all is well", async || permitted(&client, "charge").await.ok()?.then_some(())).await?;
    tokio::time::timeout(Duration::from_secs(60), world.verified(|record| record["node"] == NODE)).await??;
    Ok(())
}
