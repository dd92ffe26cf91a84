//! What fault tests do to a deployment of several control planes: ask who leads, stop single nodes, let nodes join
//! and leave.
//!
//! Nodes are ended by signals to the pids of `cluster.json`; `deploy/local-cluster up` brings them back. What the
//! members are is asked with `bailiwick cluster members`, as an operator would.

use std::{
    fs,
    process::{Output, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    deployment::{Deployment, Node, kill},
    wait::eventually,
};

/// One line of `bailiwick cluster members`.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    pub name: String,
    pub role: String,
    pub leader: bool,
    /// Control planes only; 0 elsewhere.
    #[serde(default, deserialize_with = "number")]
    pub node_id: u64,
    /// `voter`, `learner`, `joining`, `leaving`; empty for other roles.
    #[serde(default)]
    pub membership: String,
    #[serde(default)]
    pub reachable: bool,
    #[serde(default, deserialize_with = "number")]
    pub revision: u64,
    #[serde(default, deserialize_with = "number")]
    pub log_size: u64,
    /// Merkle root of its event log at `log_size`.
    #[serde(default)]
    pub log_root: String,
}

/// Revisions are decimal strings where JSON numbers might lose digits; both are read.
fn number<'de, D: serde::Deserializer<'de>>(value: D) -> Result<u64, D::Error> {
    let value = Value::deserialize(value)?;
    let parsed = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    Ok(parsed.unwrap_or_default())
}

impl Deployment {
    /// The node of that name, as it runs now.
    ///
    /// # Errors
    /// When there is none.
    pub fn node(&self, name: &str) -> Result<Node> {
        self.nodes.iter().find(|node| node.name == name).cloned().with_context(|| format!("no node {name}"))
    }

    /// The control planes' names.
    #[must_use]
    pub fn control_planes(&self) -> Vec<String> {
        self.role("control-plane").into_iter().map(|node| node.name).collect()
    }

    /// The plain loopback endpoint of one control plane; it answers only where the node runs.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn admin_of(&self, name: &str) -> Result<String> {
        let node = self.node(name)?;
        let address = node.listen.get("grpc").and_then(Value::as_str).context("no gRPC listener")?;
        let (_, port) = address.rsplit_once(':').context("no port")?;
        Ok(format!("http://127.0.0.1:{port}"))
    }

    /// Runs `bailiwick` where a control plane runs, against that one only, and ends it after some seconds: an answer
    /// that has not come by then counts as none.
    ///
    /// # Errors
    /// When it cannot be run at all.
    pub fn cli_at(&self, name: &str, seconds_max: u32, arguments: &[&str]) -> Result<Output> {
        let mut run = self.node(name)?.run;
        run.extend(["timeout".to_owned(), seconds_max.to_string()]);
        let mut command = Self::beside(&run);
        command.args(arguments).env("BAILIWICK_ADMIN", self.admin_of(name)?);
        Ok(command.stdin(Stdio::null()).output()?)
    }

    /// The members, asked of whichever control plane answers.
    ///
    /// # Errors
    /// When none answers.
    pub fn members(&self) -> Result<Vec<Member>> {
        members_in(&self.cli_ok(&["cluster", "members", "-o", "json"])?)
    }

    /// The members as one control plane sees them.
    ///
    /// # Errors
    /// When it does not answer in time.
    pub fn members_at(&self, name: &str) -> Result<Vec<Member>> {
        let output = self.cli_at(name, 5, &["cluster", "members", "-o", "json"])?;
        if !output.status.success() {
            bail!("{name}: {}", String::from_utf8_lossy(&output.stderr));
        }
        members_in(&String::from_utf8(output.stdout)?)
    }

    /// Who leads.
    ///
    /// # Errors
    /// When nobody does for long.
    pub async fn leader(&self) -> Result<String> {
        eventually("somebody leads", async || leader_in(&self.members().ok()?)).await
    }

    /// Who leads in the eyes of the others, once that is not `old` any more.
    ///
    /// # Errors
    /// When they choose nobody for long.
    pub async fn next_leader(&self, old: &str) -> Result<String> {
        let others: Vec<_> = self.control_planes().into_iter().filter(|name| name != old).collect();
        eventually("the others choose another leader", async || {
            let seen = others.iter().find_map(|name| leader_in(&self.members_at(name).ok()?));
            seen.filter(|leader| leader != old)
        })
        .await
    }

    /// Sends a signal to a node.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn signal(&self, name: &str, signal: &str) -> Result<()> {
        kill(self.node(name)?.pid, signal);
        Ok(())
    }

    /// Sends a signal to a node and waits until its process has ended.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end(&self, name: &str, signal: &str) -> Result<()> {
        self.signal(name, signal)?;
        self.ended(name).await
    }

    /// Waits until a node's process has ended.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ended(&self, name: &str) -> Result<()> {
        let pid = self.node(name)?.pid;
        eventually(&format!("{name} ends"), async || (!is_alive(pid)).then_some(())).await
    }

    /// Starts again what does not run, and waits until everything is ready and every control plane votes.
    ///
    /// # Errors
    /// When that does not come about.
    pub async fn up(&mut self, arguments: &[&str]) -> Result<()> {
        self.local_cluster(&[&["up", "--ports", "free"], arguments].concat())?;
        self.describe().await
    }

    /// What one node has logged.
    #[must_use]
    pub fn log_of(&self, name: &str) -> String {
        let bytes = fs::read(self.data().join(format!("log/{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Waits until every control plane names the same event log: same size, same root.
    ///
    /// # Errors
    /// When they do not agree.
    pub async fn logs_agree(&self) -> Result<()> {
        let count = self.control_planes().len();
        let mut last = Vec::new();
        let agreed = eventually("all control planes hold the same event log", async || {
            let members = self.members().ok()?;
            let logs = members.into_iter().filter(|member| member.role == "control-plane");
            last = logs.map(|member| (member.log_size, member.log_root)).collect();
            let first = last.first()?;
            let same = !first.1.is_empty() && last.iter().all(|log| log == first);
            (same && last.len() == count).then_some(())
        })
        .await;
        agreed.with_context(|| format!("{last:?}\n{}", self.log()))
    }
}

fn members_in(text: &str) -> Result<Vec<Member>> {
    let mut answer: Value = serde_json::from_str(text)?;
    let items = answer.get_mut("items").map(Value::take).context("no items")?;
    Ok(serde_json::from_value(items)?)
}

fn leader_in(members: &[Member]) -> Option<String> {
    members.iter().find(|member| member.leader).map(|member| member.name.clone())
}

/// Whether a process still runs; one that ended and waits to be reaped does not.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
