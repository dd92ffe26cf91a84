//! A running Bailiwick: everything in one process, or real processes with a real NATS server.
//!
//! Both write the same `cluster.json` (`deploy/local-cluster` and `bailiwick dev`), so tests need not care which
//! shape they drive, and fault tests find the pids they want to kill.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::wait::eventually;

/// How Bailiwick is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `bailiwick dev`: one process.
    Embedded,
    /// `deploy/local-cluster up`: one control plane, two data planes, a ledger, NATS.
    Processes,
    /// `deploy/local-cluster up --control-planes 3`: a cluster that outlives the loss of any one of them.
    Cluster,
}

/// One process of a deployment.
#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    pub name: String,
    pub role: String,
    pub pid: u32,
    #[serde(default)]
    pub listen: Value,
    /// What a command is prefixed with to run where the node runs.
    #[serde(default)]
    pub run: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct ClusterFile {
    nodes: Vec<Node>,
    admin: String,
    #[serde(default)]
    admins: Vec<String>,
    mcp: Vec<String>,
    ledger: String,
}

/// A running Bailiwick; stopped when dropped.
#[derive(Debug)]
pub struct Deployment {
    shape: Shape,
    folder: TempDir,
    data: PathBuf,
    dev: Option<Child>,
    environment: Vec<(String, String)>,
    /// Its processes.
    pub nodes: Vec<Node>,
    /// The admin endpoint; in a cluster the first control plane's.
    pub admin: String,
    /// The admin endpoints of all control planes.
    pub admins: Vec<String>,
    /// URLs up to `/mcp`, one per data plane.
    pub mcp: Vec<String>,
    /// The ledger's URL.
    pub ledger: String,
}

impl Deployment {
    /// Starts a fresh deployment and waits until all of it is ready.
    ///
    /// # Errors
    /// When it does not start; its log is in the message.
    pub async fn start(shape: Shape) -> Result<Self> {
        Self::start_with(shape, &[]).await
    }

    /// As [`Self::start`], with variables in the environment of its processes, restarts included.
    ///
    /// # Errors
    /// When it does not start; its log is in the message.
    pub async fn start_with(shape: Shape, environment: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let data = folder.path().join("data");
        Self::start_in(shape, folder, data, environment).await
    }

    /// As [`Self::start`], with its data in a folder of the caller's.
    ///
    /// # Errors
    /// When it does not start; its log is in the message.
    pub async fn start_on(shape: Shape, data: PathBuf) -> Result<Self> {
        Self::start_in(shape, tempfile::tempdir()?, data, &[]).await
    }

    async fn start_in(shape: Shape, folder: TempDir, data: PathBuf, environment: &[(&str, &str)]) -> Result<Self> {
        let mut deployment = Self {
            environment: environment.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            shape,
            folder,
            data,
            dev: None,
            nodes: Vec::new(),
            admin: String::new(),
            admins: Vec::new(),
            mcp: Vec::new(),
            ledger: String::new(),
        };
        deployment.run().await?;
        Ok(deployment)
    }

    /// Starts again on the same data after [`Self::kill`] or [`Self::stop`].
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_again(&mut self) -> Result<()> {
        if self.shape == Shape::Embedded {
            drop(fs::remove_file(self.cluster_file()));
        }
        self.run().await
    }

    async fn run(&mut self) -> Result<()> {
        match self.shape {
            Shape::Embedded => self.run_dev()?,
            Shape::Processes => drop(self.local_cluster(&["up", "--ports", "free"])?),
            Shape::Cluster => drop(self.local_cluster(&["up", "--ports", "free", "--control-planes", "3"])?),
        }
        self.describe().await
    }

    /// Reads anew which nodes there are, and waits until all of them are ready.
    ///
    /// # Errors
    /// When they do not become ready; their log is in the message.
    pub async fn describe(&mut self) -> Result<()> {
        let file = self.cluster_file();
        let mut exited = None;
        let found = eventually("cluster.json", async || {
            exited = self.dev.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if exited.is_some() {
                return Some(None);
            }
            let text = fs::read_to_string(&file).ok()?;
            serde_json::from_str::<ClusterFile>(&text).ok().map(Some)
        })
        .await;
        let Ok(Some(cluster)) = found else {
            bail!("the deployment did not start ({exited:?}):\n{}", self.log());
        };
        self.nodes = cluster.nodes;
        self.admins = if cluster.admins.is_empty() { vec![cluster.admin.clone()] } else { cluster.admins };
        self.admin = cluster.admin;
        self.mcp = cluster.mcp;
        self.ledger = cluster.ledger;
        self.ready().await.with_context(|| self.log())
    }

    fn run_dev(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.folder.path().join("dev.log"))?;
        let mut command = Command::new(binary("bailiwick"));
        command.arg("dev").arg("--free-ports").arg("--data").arg(self.data()).envs(self.environment.clone());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.dev = Some(command.spawn().context("start bailiwick dev")?);
        Ok(())
    }

    /// Runs `deploy/local-cluster` on this deployment and gives what it printed.
    ///
    /// # Errors
    /// When it fails; what it and the nodes said is in the message.
    pub fn local_cluster(&self, arguments: &[&str]) -> Result<String> {
        let output = local_cluster(&self.data()).args(arguments).envs(self.environment.clone()).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "local-cluster {arguments:?} failed: {said}\n{}", self.log());
        Ok(String::from_utf8(output.stdout)?)
    }

    async fn ready(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.role != "nats") {
            let Some(ops) = node.listen.get("ops").and_then(Value::as_str) else { continue };
            let url = format!("{}/readyz", as_url(ops));
            eventually(&format!("{} ready", node.name), async || {
                reqwest::get(&url).await.ok().filter(|response| response.status().is_success())
            })
            .await?;
        }
        Ok(())
    }

    /// Where it keeps its data.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.data.clone()
    }

    fn cluster_file(&self) -> PathBuf {
        self.data().join("cluster.json")
    }

    /// Everything it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        let mut text = fs::read_to_string(self.folder.path().join("dev.log")).unwrap_or_default();
        let mut folders = vec![self.data()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|ending| ending == "log")
                    && path.parent().is_some_and(|parent| parent.ends_with("log"))
                {
                    text.push_str(&String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()));
                }
            }
        }
        text
    }

    /// The processes of a role.
    #[must_use]
    pub fn role(&self, role: &str) -> Vec<Node> {
        self.nodes.iter().filter(|node| node.role == role).cloned().collect()
    }

    /// Runs `bailiwick` against this deployment.
    ///
    /// # Errors
    /// When the binary cannot be run at all; its own failures are in the output.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let at = self.nodes.iter().find(|node| node.role == "control-plane");
        let mut command = Self::beside(at.map_or(&[], |node| &node.run));
        command.args(arguments).env("BAILIWICK_ADMIN", self.admins.join(",")).env("BAILIWICK_LEDGER", &self.ledger);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// `bailiwick`, to be run where a node runs.
    pub(crate) fn beside(run: &[String]) -> Command {
        let Some((first, rest)) = run.split_first() else { return Command::new(binary("bailiwick")) };
        let mut command = Command::new(first);
        command.args(rest).arg(binary("bailiwick"));
        command
    }

    /// Runs `bailiwick`, which must succeed, and gives its standard output.
    ///
    /// # Errors
    /// When it exits otherwise than 0; what it said is in the message.
    pub fn cli_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.cli(arguments)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "bailiwick {arguments:?} failed: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Applies manifests given as text; they must be accepted.
    ///
    /// # Errors
    /// When they are refused.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        let file = self.folder.path().join("manifests.yaml");
        fs::write(&file, manifests)?;
        self.cli_ok(&["apply", "-f", &file.display().to_string()])
    }

    /// Issues a token for Jane's coding assistant on a virtual server at a level.
    ///
    /// # Errors
    /// When it is refused.
    pub fn token(&self, virtual_server: &str, level: &str) -> Result<String> {
        let issued = self.token_for("jane@example.com", "coding-assistant", virtual_server, level, "10m")?;
        Ok(issued.get("access_token").and_then(Value::as_str).context("no access_token")?.to_owned())
    }

    /// Issues a token and gives the whole answer.
    ///
    /// # Errors
    /// When it is refused.
    pub fn token_for(&self, user: &str, agent: &str, virtual_server: &str, level: &str, ttl: &str) -> Result<Value> {
        let arguments = ["token", "issue", "--user", user, "--agent", agent, "--virtual-server", virtual_server];
        let more = ["--level", level, "--ttl", ttl, "-o", "json"];
        Ok(serde_json::from_str(&self.cli_ok(&[&arguments[..], &more[..]].concat())?)?)
    }

    /// Records that match `filter`, newest first.
    ///
    /// # Errors
    /// When the ledger does not answer.
    pub fn audit(&self, filter: &[&str]) -> Result<Vec<Value>> {
        let arguments = [&["audit", "query", "-o", "json"], filter].concat();
        let answer: Value = serde_json::from_str(&self.cli_ok(&arguments)?)?;
        Ok(answer.get("items").and_then(Value::as_array).cloned().unwrap_or_default())
    }

    /// Ends every process at once, as a power cut would.
    pub fn kill(&mut self) {
        for node in &self.nodes {
            kill(node.pid, "KILL");
        }
        if let Some(mut dev) = self.dev.take() {
            drop(dev.wait());
        }
    }

    /// Asks every process to stop and waits until it has.
    ///
    /// # Errors
    /// When one does not stop cleanly.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(mut dev) = self.dev.take() {
            kill(dev.id(), "TERM");
            let status = dev.wait()?;
            ensure!(status.success(), "bailiwick dev stopped with {status}:\n{}", self.log());
            return Ok(());
        }
        if self.shape != Shape::Embedded {
            self.local_cluster(&["down"])?;
        }
        Ok(())
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("log of the deployment:\n{}", self.log());
        }
        // A cluster's nodes hand over the lead before they go; the last ones would wait for nobody.
        if self.shape != Shape::Cluster {
            drop(self.stop());
        }
        for node in &self.nodes {
            if node.role != "embedded" {
                kill(node.pid, "KILL");
            }
        }
    }
}

fn local_cluster(data: &Path) -> Command {
    let mut command = Command::new(repository().join("deploy/local-cluster"));
    command.arg("--data").arg(data).env("BAILIWICK_BIN", binary("bailiwick")).stdin(Stdio::null());
    command
}

/// Sends a signal to a process that may be gone.
pub fn kill(pid: u32, signal: &str) {
    drop(Command::new("kill").arg(format!("-{signal}")).arg(pid.to_string()).stderr(Stdio::null()).status());
}

/// The repository's root.
#[must_use]
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// A binary of this workspace, built into the same target folder as the running test.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap_or_default();
    let profile = test.ancestors().find(|folder| folder.join("deps").is_dir()).unwrap_or(Path::new("target/debug"));
    profile.join(name)
}

/// `host:port` or a URL, as a URL without a trailing slash.
#[must_use]
pub fn as_url(address: &str) -> String {
    if address.contains("://") { address.trim_end_matches('/').to_owned() } else { format!("http://{address}") }
}
