//! Hosts that can be cut off from each other: network namespaces around a bridge, all inside a test's own namespaces.
//!
//! [`within_namespaces`] runs a test anew as a child in user, mount, process and network namespaces of its own, where
//! it may do everything and the machine sees nothing of it; whatever it started ends with it. There [`Network`] gives
//! each control plane an address and an interface of its own; everything else shares the bridge's. A machine that does
//! not allow such namespaces fails the test and says so.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

/// Set in the child.
const INSIDE: &str = "TEST_INSIDE_NAMESPACES";
/// The address that everything without a host of its own can be reached at.
pub const BRIDGE: &str = "10.99.0.1";

/// Runs `body` inside namespaces; `test` is the calling test's full name.
///
/// # Errors
/// The body's, or that this machine does not allow namespaces.
pub async fn within_namespaces(test: &str, body: impl AsyncFnOnce() -> Result<()>) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "how the child knows that it is one")]
    if std::env::var(INSIDE).is_ok() {
        sh("mount -t tmpfs tmpfs /run && ip link set lo up").context("prepare the namespaces")?;
        return Box::pin(body()).await;
    }
    let flags = ["--user", "--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    let may = Command::new("unshare").args(flags).args(["ip", "link", "set", "lo", "up"]).output();
    let allowed = may.as_ref().is_ok_and(|output| output.status.success());
    ensure!(
        allowed,
        "this machine does not let tests make user and network namespaces (util-linux and iproute2, and \
         kernel.unprivileged_userns_clone or root): {may:?}"
    );
    let mut child = Command::new("unshare");
    child.args(flags).arg(std::env::current_exe()?).args(["--exact", test, "--nocapture", "--test-threads=1"]);
    let output = tokio::task::spawn_blocking(move || child.env(INSIDE, "yes").output()).await??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "inside the namespaces:\n{said}");
    ensure!(said.contains("1 passed"), "no test named {test} ran inside the namespaces:\n{said}");
    Ok(())
}

/// One address per host, all on one bridge.
#[derive(Clone, Debug)]
pub struct Network {
    hosts: Vec<String>,
}

impl Network {
    /// Makes the hosts and tells a cluster's folder to run its nodes of these names on them.
    ///
    /// # Errors
    /// When a step fails.
    pub fn make(cluster: &Path, nodes: &[&str]) -> Result<Self> {
        sh(&format!("ip link add hub type bridge && ip addr add {BRIDGE}/24 dev hub && ip link set hub up"))?;
        let network = Self { hosts: nodes.iter().map(|node| (*node).to_owned()).collect() };
        let mut hosts = serde_json::Map::from_iter([("nats".to_owned(), json!({ "address": BRIDGE }))]);
        for (number, node) in nodes.iter().enumerate() {
            let address = network.address(node)?;
            sh(&format!(
                "ip netns add {node} && ip link add port{number} type veth peer name eth0 netns {node} && \
                 ip link set port{number} master hub && ip link set port{number} up && \
                 ip -n {node} addr add {address}/24 dev eth0 && ip -n {node} link set eth0 up && \
                 ip -n {node} link set lo up"
            ))?;
            let run = ["nsenter".to_owned(), format!("--net=/run/netns/{node}")];
            hosts.insert((*node).to_owned(), json!({"address": address, "run": run}));
        }
        fs::create_dir_all(cluster)?;
        fs::write(cluster.join("hosts.json"), serde_json::Value::from(hosts).to_string())?;
        Ok(network)
    }

    fn number(&self, host: &str) -> Result<usize> {
        self.hosts.iter().position(|other| other == host).with_context(|| format!("no host {host}"))
    }

    fn address(&self, host: &str) -> Result<String> {
        Ok(format!("10.99.0.{}", 11 + self.number(host)?))
    }

    /// Nothing that `from` sends reaches `to` any more; the other way stays open.
    ///
    /// # Errors
    /// When a step fails.
    pub fn cut_one_way(&self, from: &str, to: &str) -> Result<()> {
        sh(&format!("ip -n {from} route replace blackhole {}/32", self.address(to)?))
    }

    /// Cuts a host off from all others, but not from what shares the bridge: the event stream and the clients.
    ///
    /// # Errors
    /// When a step fails.
    pub fn isolate(&self, host: &str) -> Result<()> {
        for other in self.hosts.iter().filter(|other| *other != host) {
            self.cut_one_way(host, other)?;
            self.cut_one_way(other, host)?;
        }
        Ok(())
    }

    /// Pulls or plugs a host's cable: with it down it reaches nothing at all.
    ///
    /// # Errors
    /// When a step fails.
    pub fn cable(&self, host: &str, plugged: bool) -> Result<()> {
        let state = if plugged { "up" } else { "down" };
        sh(&format!("ip link set port{} {state}", self.number(host)?))
    }

    /// Everything reaches everything again.
    ///
    /// # Errors
    /// When a step fails.
    pub fn heal(&self) -> Result<()> {
        for host in &self.hosts {
            sh(&format!("ip -n {host} route flush type blackhole"))?;
            self.cable(host, true)?;
        }
        Ok(())
    }
}

fn sh(script: &str) -> Result<()> {
    let output = Command::new("sh").args(["-ec", script]).output()?;
    if !output.status.success() {
        bail!("{script}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
