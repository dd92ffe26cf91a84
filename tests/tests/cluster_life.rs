//! The life of a cluster: it grows and shrinks, nodes die and are replaced, disks rot, backups are restored.
//!
//! A node id is given once and never again; a node whose data is gone, old or rotten does not pass for the one it was;
//! and whoever steals the data directories of all control planes has nothing. Real processes on loopback.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use bailiwick_tests::{
    Deployment, Member, SampleServer, Shape, Writers, deployment::binary, eventually, load, upstream::free_port,
};
use serde_json::Value;

const WRITERS: usize = 3;
const SOME: u64 = 30;
/// What a copy of a file's every so many bytes is flipped to: no block of it stays whole.
const ROT_EVERY: usize = 512;

async fn cluster() -> Result<(Deployment, SampleServer)> {
    let (deployment, server) = (Deployment::start(Shape::Cluster).await?, SampleServer::start().await?);
    deployment.apply(&server.manifests())?;
    Ok((deployment, server))
}

fn control_planes(deployment: &Deployment) -> Result<Vec<Member>> {
    Ok(deployment.members()?.into_iter().filter(|member| member.role == "control-plane").collect())
}

fn ids(deployment: &Deployment) -> Result<BTreeSet<u64>> {
    let ids: BTreeSet<_> = control_planes(deployment)?.iter().map(|member| member.node_id).collect();
    ensure!(!ids.contains(&0), "a control plane without an id: {ids:?}");
    Ok(ids)
}

fn data_of(deployment: &Deployment, name: &str) -> PathBuf {
    deployment.data().join("data").join(name)
}

/// Starts a node in the foreground with the configuration it had; it is expected to refuse.
fn refusal(deployment: &Deployment, name: &str) -> Result<Output> {
    let config = deployment.data().join(format!("config/{name}.toml"));
    let mut command = Command::new("timeout");
    command.arg("30").arg(binary("bailiwick")).args(["control-plane", "--config"]).arg(config);
    Ok(command.stdin(Stdio::null()).output()?)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn three_become_five_and_three_again_under_load_and_no_id_returns() -> Result<()> {
    let (mut deployment, _server) = cluster().await?;
    let first = ids(&deployment)?;
    ensure!(first.len() == 3, "{first:?}");
    let writers = Writers::start(&deployment, "grow", WRITERS);
    deployment.up(&["--control-planes", "5"]).await?;
    writers.go_on(SOME).await?;
    let five = control_planes(&deployment)?;
    ensure!(five.len() == 5 && five.iter().all(|member| member.membership == "voter"), "{five:?}");
    let five = ids(&deployment)?;
    // Five lose two and go on.
    for name in ["control-plane-4", "control-plane-5"] {
        deployment.end(name, "KILL").await?;
    }
    writers.go_on(SOME).await?;
    deployment.up(&[]).await?;
    // The leader is among those that go, unless it is the one that the issuer's URL names.
    let leader = deployment.leader().await?;
    let leaving = if leader == "control-plane-1" { "control-plane-2".to_owned() } else { leader };
    let other = deployment.control_planes().into_iter().rfind(|name| *name != leaving).context("another")?;
    for name in [leaving, other] {
        deployment.local_cluster(&["remove", &name])?;
        deployment.describe().await?;
        writers.go_on(SOME).await?;
    }
    let three = ids(&deployment)?;
    ensure!(three.len() == 3 && three.is_subset(&five), "{three:?} of {five:?}");
    let gone: BTreeSet<_> = five.difference(&three).copied().collect();
    deployment.up(&["--control-planes", "5"]).await?;
    let five_again = ids(&deployment)?;
    ensure!(five_again.len() == 5 && five_again.is_disjoint(&gone), "{gone:?} returned: {five_again:?}");
    load::check(&deployment, "grow", &writers.stop().await?)?;
    deployment.logs_agree().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_does_not_pass_for_the_one_it_was_and_is_replaced_by_a_new_one() -> Result<()> {
    let (mut deployment, _server) = cluster().await?;
    let before = ids(&deployment)?;
    let old = control_planes(&deployment)?.into_iter().find(|member| member.name == "control-plane-2");
    let old = old.context("control-plane-2")?.node_id;
    deployment.end("control-plane-2", "KILL").await?;
    fs::remove_dir_all(data_of(&deployment, "control-plane-2"))?;
    let refused = refusal(&deployment, "control-plane-2")?;
    ensure!(!refused.status.success() && said(&refused).contains("join"), "no advice: {}", said(&refused));
    ensure!(ids(&deployment)? == before, "a wiped node changed who is a member");
    // Its name is taken until it is removed: a token alone does not make it the node it was.
    let writers = Writers::start(&deployment, "replace", WRITERS);
    deployment.local_cluster(&["remove", "control-plane-2"])?;
    deployment.up(&["--control-planes", "3"]).await?;
    writers.go_on(SOME).await?;
    let after = ids(&deployment)?;
    ensure!(after.len() == 3 && !after.contains(&old), "id {old} returned: {after:?}");
    ensure!(after.iter().max() > before.iter().max(), "{before:?}, then {after:?}");
    load::check(&deployment, "replace", &writers.stop().await?)?;
    deployment.logs_agree().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_files_rotted_refuses_to_serve_and_is_rebuilt() -> Result<()> {
    let (mut deployment, _server) = cluster().await?;
    // Several starts, so that what was written is in tables and not only in the log's file.
    let writers = Writers::start(&deployment, "rot", WRITERS);
    let rotten = "control-plane-3";
    for _ in 0..2 {
        writers.go_on(SOME).await?;
        deployment.end(rotten, "TERM").await?;
        deployment.up(&[]).await?;
    }
    writers.go_on(SOME).await?;
    deployment.end(rotten, "TERM").await?;
    let tables = files(&data_of(&deployment, rotten), "sst")?;
    ensure!(!tables.is_empty(), "no table files in {}", data_of(&deployment, rotten).display());
    for table in tables {
        let mut bytes = fs::read(&table)?;
        bytes.iter_mut().step_by(ROT_EVERY).for_each(|byte| *byte ^= 0x55);
        fs::write(&table, bytes)?;
    }
    let refused = refusal(&deployment, rotten)?;
    let words = said(&refused);
    ensure!(!refused.status.success() && refused.status.code() != Some(124), "it served rotten data: {words}");
    ensure!(words.contains("cluster remove"), "no advice: {words}");
    writers.go_on(SOME).await?;
    deployment.local_cluster(&["remove", rotten])?;
    deployment.up(&["--control-planes", "3"]).await?;
    load::check(&deployment, "rot", &writers.stop().await?)?;
    deployment.logs_agree().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_put_back_from_a_copy_does_not_come_back_silently() -> Result<()> {
    let (mut deployment, _server) = cluster().await?;
    let (name, copy) = ("control-plane-3", deployment.data().join("copy"));
    deployment.end(name, "TERM").await?;
    let data = data_of(&deployment, name);
    ensure!(Command::new("cp").arg("-a").args([&data, &copy]).status()?.success());
    deployment.up(&[]).await?;
    let writers = Writers::start(&deployment, "copy", WRITERS);
    writers.go_on(SOME).await?;
    deployment.end(name, "KILL").await?;
    fs::remove_dir_all(&data)?;
    fs::rename(&copy, &data)?;
    // It may have promised its vote in between and would not know: the others must not take it back.
    let refused = refusal(&deployment, name)?;
    ensure!(!refused.status.success() && refused.status.code() != Some(124), "it served: {}", said(&refused));
    ensure!(said(&refused).contains("cluster remove"), "no advice: {}", said(&refused));
    writers.go_on(SOME).await?;
    deployment.local_cluster(&["remove", name])?;
    deployment.up(&["--control-planes", "3"]).await?;
    load::check(&deployment, "copy", &writers.stop().await?)?;
    deployment.logs_agree().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_backup_is_a_cluster_of_its_own() -> Result<()> {
    let (deployment, _server) = cluster().await?;
    let writers = Writers::start(&deployment, "backup", WRITERS);
    writers.go_on(SOME).await?;
    let file = deployment.data().join("backup.bailiwick").display().to_string();
    let written_before = load::writes_there(&deployment, "backup")?;
    deployment.cli_ok(&["cluster", "backup", &file])?;
    writers.go_on(SOME).await?;
    load::check(&deployment, "backup", &writers.stop().await?)?;
    let cluster: Value = serde_json::from_str(&deployment.cli_ok(&["cluster", "members", "-o", "json"])?)?;

    // A backup in which one byte is wrong is refused.
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let rotten = deployment.data().join("rotten.bailiwick");
    fs::write(&rotten, bytes)?;
    let mut restored = Guest::new(&deployment, "restored", "")?;
    let config = restored.config.display().to_string();
    let refused = deployment.cli(&["cluster", "restore", &rotten.display().to_string(), "--config", &config])?;
    ensure!(!refused.status.success(), "a rotten backup was restored");

    deployment.cli_ok(&["cluster", "restore", &file, "--config", &config])?;
    restored.start()?;
    let ask = |arguments: &[&str]| restored.ask(&deployment, arguments);
    let alone = eventually("the restored node leads a cluster of its own", async || {
        let members: Value = serde_json::from_str(&ask(&["cluster", "members", "-o", "json"]).ok()?).ok()?;
        let items = members["items"].as_array()?.clone();
        items.iter().any(|item| item["leader"] == true).then_some(members)
    })
    .await?;
    ensure!(alone["incarnation"] != cluster["incarnation"], "the same life of the cluster: {alone:#}");
    let there = serde_json::from_str::<Value>(&ask(&["get", "consent", "-o", "json"])?)?["items"].to_string();
    let missing: Vec<_> = written_before.keys().filter(|id| !there.contains(&format!("\"{id}\""))).collect();
    ensure!(missing.is_empty(), "in the backup and not restored: {missing:?}");
    // The old cluster has not noticed anything.
    ensure!(control_planes(&deployment)?.len() == 3, "the restored node joined the old cluster");
    deployment.logs_agree().await
}

/// A node that `deploy/local-cluster` does not know of; ended when dropped.
struct Guest {
    config: PathBuf,
    log: PathBuf,
    admin: String,
    process: Option<Child>,
}

impl Guest {
    /// A configuration as control-plane-2's, with a name, data and ports of its own.
    fn new(deployment: &Deployment, name: &str, more: &str) -> Result<Self> {
        let text = fs::read_to_string(deployment.data().join("config/control-plane-2.toml"))?;
        let folder = deployment.data();
        let (mut lines, mut admin) = (Vec::new(), String::new());
        for line in text.lines() {
            let key = line.split(" = ").next().unwrap_or_default();
            let address = || anyhow::Ok(format!("127.0.0.1:{}", free_port()?));
            match key {
                "data_dir" => lines.push(format!("data_dir = \"{}\"", folder.join("data").join(name).display())),
                "node" => lines.push(format!("node = \"{name}\"\n{more}")),
                "listen" => {
                    let address = address()?;
                    lines.push(format!("listen = \"{address}\""));
                    admin = format!("http://{address}");
                }
                "peer_listen" | "http_listen" | "ops_listen" => lines.push(format!("{key} = \"{}\"", address()?)),
                "advertise_api" | "advertise_peer" | "join_token_file" => {}
                _ => lines.push(line.to_owned()),
            }
        }
        let config = folder.join(format!("config/{name}.toml"));
        fs::write(&config, lines.join("\n"))?;
        Ok(Self { config, log: folder.join(format!("log/{name}.log")), admin, process: None })
    }

    fn start(&mut self) -> Result<()> {
        let log = fs::File::create(&self.log)?;
        let mut command = Command::new(binary("bailiwick"));
        command.args(["control-plane", "--config"]).arg(&self.config).stdin(Stdio::null());
        self.process = Some(command.stdout(log.try_clone()?).stderr(log).spawn()?);
        Ok(())
    }

    /// Runs `bailiwick` against this node only; it must succeed.
    fn ask(&self, deployment: &Deployment, arguments: &[&str]) -> Result<String> {
        deployment.cli_ok(&[&["--admin", &self.admin], arguments].concat())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_replicates_and_serves_and_never_votes() -> Result<()> {
    let (mut deployment, _server) = cluster().await?;
    let asked = ["cluster", "join-token", "control-plane", "--learner", "--name", "far-1", "-o", "json"];
    let answer: Value = serde_json::from_str(&deployment.cli_ok(&asked)?)?;
    let token = answer["token"].as_str().context("token")?;
    let mut far = Guest::new(&deployment, "far-1", &format!("join_token = \"{token}\""))?;
    far.start()?;
    eventually("it is a learner that has caught up", async || {
        let members = control_planes(&deployment).ok()?;
        let leader = members.iter().find(|member| member.leader)?;
        let learner = members.iter().find(|member| member.name == "far-1" && member.membership == "learner")?;
        (learner.log_size == leader.log_size && learner.log_root == leader.log_root).then_some(())
    })
    .await
    .with_context(|| deployment.log_of("far-1"))?;
    // Reads and writes through it are as anywhere.
    let manifest = deployment.data().join("far.yaml");
    let user = "apiVersion: bailiwick/v1\nkind: User\nmetadata: {name: far}\nspec: {groups: [g]}\n";
    fs::write(&manifest, user)?;
    far.ask(&deployment, &["apply", "-f", &manifest.display().to_string()])?;
    far.ask(&deployment, &["get", "user", "far"])?;
    // One voter of three and a learner are no majority.
    for name in ["control-plane-2", "control-plane-3"] {
        deployment.end(name, "KILL").await?;
    }
    let alone = deployment.cli_at("control-plane-1", 5, &["get", "user", "far"])?;
    ensure!(!alone.status.success(), "a learner was counted");
    deployment.up(&[]).await?;
    let voters = control_planes(&deployment)?.into_iter().filter(|member| member.membership == "voter").count();
    ensure!(voters == 3, "{voters} voters");
    // The token was good once.
    let mut other = Guest::new(&deployment, "far-1", &format!("join_token = \"{token}\""))?;
    fs::remove_dir_all(data_of(&deployment, "far-1"))?;
    drop(far);
    other.start()?;
    eventually("a used token is refused", async || {
        let ended = other.process.as_mut()?.try_wait().ok()??;
        (!ended.success()).then_some(())
    })
    .await?;
    ensure!(control_planes(&deployment)?.len() == 4, "a used token let somebody in");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn stolen_data_directories_hold_no_secret_in_clear() -> Result<()> {
    let (mut deployment, _server) = cluster().await?;
    let token = deployment.token("finance", "retrieval")?;
    let answer: Value =
        serde_json::from_str(&deployment.cli_ok(&["cluster", "join-token", "data-plane", "-o", "json"])?)?;
    let join_token = answer["token"].as_str().context("token")?.to_owned();
    let join_secret = join_token.split('.').nth(3).context("the token's secret")?.to_owned();
    let master_key = fs::read_to_string(deployment.data().join("keys/master.key"))?;
    let signature = token.rsplit('.').next().context("a signature")?.to_owned();
    deployment.stop()?;
    let secrets: [(&str, Vec<u8>); 10] = [
        ("an access token's signature", signature.into_bytes()),
        ("a join token", join_token.into_bytes()),
        ("a join token's secret", join_secret.into_bytes()),
        ("the master key", master_key.trim().as_bytes().to_vec()),
        ("the master key's bytes", unhex(master_key.trim())?),
        ("a PEM private key", b"PRIVATE KEY".to_vec()),
        ("a JWK private key", b"\"d\":\"".to_vec()),
        // Beginnings of PKCS #8 (RFC 5958): Ed25519; and P-256 with and without the public key.
        ("an Ed25519 private key", unhex("302e020100300506032b657004220420")?),
        ("a P-256 private key", unhex("020100301306072a8648ce3d020106082a8648ce3d030107")?),
        ("an EC private key", unhex("30770201010420")?),
    ];
    let mut searched = 0;
    for node in fs::read_dir(deployment.data().join("data"))?.collect::<Result<Vec<_>, _>>()? {
        if node.file_name() == "nats" {
            continue;
        }
        for file in files(&node.path(), "")? {
            let bytes = fs::read(&file)?;
            searched += bytes.len();
            for (what, secret) in &secrets {
                let found = bytes.windows(secret.len()).any(|window| window == secret);
                ensure!(!found, "{what} is in {}", file.display());
            }
        }
    }
    ensure!(searched > 10_000, "only {searched} bytes were searched");
    Ok(())
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?)).collect()
}

/// All files below a folder whose names end so.
fn files(folder: &Path, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path, ending)?);
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    Ok(found)
}
