//! A running cluster of `deploy/local-cluster`: where its nodes listen, and which processes they are.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// URLs of the control planes.
    pub(crate) admins: Vec<String>,
    /// Their processes.
    pub(crate) control_planes: Vec<u32>,
    /// URLs of the data planes, without a virtual server.
    pub(crate) mcp: Vec<String>,
    nodes: Vec<Value>,
    /// Ports by node and listener.
    listen: Value,
}

/// A control plane, and its URLs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    /// Of its administration.
    pub(crate) admin: String,
    /// Of the authorization server.
    pub(crate) http: String,
}

impl Cluster {
    /// Reads what `up` wrote down.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let read = |file: &str| {
            let text =
                fs::read_to_string(folder.join(file)).with_context(|| format!("no {file}; is the cluster up?"))?;
            anyhow::Ok(serde_json::from_str::<Value>(&text)?)
        };
        let (cluster, topology) = (read("cluster.json")?, read("topology.json")?);
        let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
        let texts = |key: &str| list(cluster.get(key)).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let (admins, mcp) = (texts("admins"), texts("mcp"));
        let nodes = list(cluster.get("nodes"));
        let is_control_plane = |node: &&Value| node.get("role").and_then(Value::as_str) == Some("control-plane");
        let control_planes = nodes.iter().filter(is_control_plane).filter_map(pid_of).collect();
        let listen = topology.get("listen").cloned().unwrap_or_default();
        Ok(Self { admins, control_planes, mcp, nodes, listen })
    }

    /// The process of a node.
    pub(crate) fn pid(&self, name: &str) -> Result<u32> {
        self.node(name).and_then(pid_of).with_context(|| format!("{name} does not run"))
    }

    /// The port of a node's metrics.
    pub(crate) fn ops_port(&self, name: &str) -> Result<u64> {
        let port = self.listen.get(name).and_then(|ports| ports.get("ops")?.as_u64());
        port.with_context(|| format!("{name} has no port for operations"))
    }

    /// Processors' time of all control planes so far.
    pub(crate) fn cpu(&self) -> Duration {
        self.control_planes.iter().map(|pid| cpu_of(*pid).unwrap_or_default()).sum()
    }

    /// Every control plane, and where it listens.
    pub(crate) fn control_planes_at(&self) -> Result<Vec<Place>> {
        let place = |node: &Value| {
            let text = |pointer: &str| node.pointer(pointer).and_then(Value::as_str);
            let url = |pointer: &str| text(pointer).map(|address| format!("http://{address}"));
            Some(Place { name: text("/name")?.to_owned(), admin: url("/listen/grpc")?, http: url("/listen/http")? })
        };
        let is_control_plane = |node: &&Value| node.get("role").and_then(Value::as_str) == Some("control-plane");
        let all = self.nodes.iter().filter(is_control_plane);
        all.map(|node| place(node).context("a control plane that listens nowhere")).collect()
    }

    fn node(&self, name: &str) -> Option<&Value> {
        self.nodes.iter().find(|node| node.get("name").and_then(Value::as_str) == Some(name))
    }
}

fn pid_of(node: &Value) -> Option<u32> {
    node.get("pid")?.as_u64().and_then(|pid| u32::try_from(pid).ok())
}

/// User and system time of a process; the kernel counts in hundredths of a second.
fn cpu_of(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Fields 14 and 15; the second one, the name, may hold blanks and ends with the last parenthesis.
    let mut after_name = stat.rsplit(')').next()?.split_whitespace().skip(11);
    let ticks = after_name.next()?.parse::<u64>().ok()? + after_name.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}
