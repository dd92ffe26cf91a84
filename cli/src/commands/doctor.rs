//! `doctor`: looks at this machine, the nodes its configuration names, and the cluster, and says what to do.
//!
//! Facts are gathered here, as many as can be: a node that is down hides its own, never the others'. What facts mean
//! is decided by pure checks, one file each. Changes nothing, except for a small file it writes into each data folder
//! and removes again. Exit code 1 if anything fails; warnings do not.

mod clock;
mod data;
mod disk;
mod finding;
mod limits;
mod look;
mod members;
mod reach;
mod secrets;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bailiwick_proto::v1::{Member, MembersRequest};
use bailiwick_runtime::MasterKeyConfig;
use serde_json::json;

use self::finding::{Finding, Level, worst};
use crate::{
    admin,
    args::DoctorArgs,
    config::{self, NodeConfig},
    failure::Failure,
    output::{print, table},
};

/// Longest wait for the cluster's description: the node asked asks the others.
const MEMBERS_WAIT_MAX: Duration = Duration::from_secs(10);

/// The listener of a control plane that speaks TLS.
const GRPC: &str = "gRPC";

/// A node that the configuration names.
struct Node {
    name: String,
    data_dir: PathBuf,
    ops: SocketAddr,
    listeners: Vec<(&'static str, SocketAddr)>,
    /// Whether it holds the event log.
    replicates: bool,
}

pub(crate) async fn run(urls: &str, args: DoctorArgs) -> Result<(), Failure> {
    let begun = clock::Moment::now();
    let config = config::load(args.config.as_deref())?;
    let nodes = nodes(&config);
    let mut findings = vec![limits::check(&limits::look())];
    findings.extend(disks(&nodes));
    findings.extend(master_key(&config.master_key, &nodes));
    findings.extend(running(&nodes).await?);
    findings.extend(stream(&config).await);
    findings.extend(cluster(urls, &nodes).await);
    findings.push(clock::check_step(begun.stepped()));
    let result = worst(&findings);
    let items: Vec<_> = findings.iter().map(Finding::to_json).collect();
    print(args.output, &json!({ "result": result.as_str(), "items": items }), || report(&findings));
    if result == Level::Fail { Err(Failure::Said) } else { Ok(()) }
}

/// Everything, the worst last, where a terminal shows it.
fn report(findings: &[Finding]) -> String {
    let mut sorted: Vec<&Finding> = findings.iter().collect();
    sorted.sort_by_key(|finding| finding.level);
    let row = |finding: &&Finding| {
        let said = [finding.detail.as_str(), finding.advice].into_iter().filter(|text| !text.is_empty());
        let said = said.collect::<Vec<_>>().join(" — ");
        vec![finding.level.as_str().to_owned(), finding.check.to_owned(), finding.subject.clone(), said]
    };
    let rows: Vec<Vec<String>> = sorted.iter().map(row).collect();
    table(&["RESULT", "CHECK", "OF", "FOUND"], &rows)
}

fn nodes(config: &NodeConfig) -> Vec<Node> {
    let node = |name: &str, data_dir: &Path, ops, listeners| {
        let (name, data_dir) = (name.to_owned(), data_dir.to_owned());
        Node { name, data_dir, ops, listeners, replicates: false }
    };
    let mut nodes = Vec::new();
    if let Some(one) = &config.control_plane {
        let listeners = vec![(GRPC, one.listen), ("HTTP", one.http_listen)];
        let node = node(&one.node, &one.data_dir, one.ops_listen, listeners);
        nodes.push(Node { replicates: true, ..node });
    }
    if let Some(one) = &config.data_plane {
        nodes.push(node(&one.node, &one.data_dir, one.ops_listen, vec![("MCP", one.listen)]));
    }
    if let Some(one) = &config.ledger {
        nodes.push(node(&one.node, &one.data_dir, one.ops_listen, vec![("HTTP", one.listen)]));
    }
    nodes
}

fn disks(nodes: &[Node]) -> Vec<Finding> {
    let look = |node: &Node| match disk::look(&node.data_dir) {
        Ok(disk) => disk::check(&disk),
        Err(error) => {
            let advice = "it is made at the first start; if the node ran before, its disk is not mounted";
            vec![Finding::warn("disk", node.data_dir.display().to_string(), error.to_string(), advice)]
        }
    };
    nodes.iter().flat_map(look).collect()
}

fn master_key(config: &MasterKeyConfig, nodes: &[Node]) -> Vec<Finding> {
    let folders: Vec<PathBuf> = nodes.iter().map(|node| node.data_dir.clone()).collect();
    let files = [&config.file, &config.passphrase_file];
    let files = files.into_iter().flatten().map(|file| secrets::check_key_file(&secrets::look(file, &folders)));
    if nodes.is_empty() || !config.is_empty() {
        return files.collect();
    }
    let advice = "set `file` in [master_key] to a file made with `openssl rand -hex 32`, mode 0600";
    vec![Finding::fail("master-key", "configuration", "no master key is named", advice)]
}

async fn running(nodes: &[Node]) -> Result<Vec<Finding>, Failure> {
    let client = reach::client().map_err(Failure::refused)?;
    let mut findings = Vec::new();
    for node in nodes {
        let health = reach::health(&client, node.ops).await;
        findings.push(reach::check_health(&node.name, health.as_ref()));
        if health.is_none() {
            if node.replicates {
                findings.push(data::check(&node.name, &data::look(data::database(&node.data_dir)).await));
            }
            continue;
        }
        findings.extend(secrets::renewed(&node.data_dir).map(|age| secrets::check_renewal(&node.name, age)));
        for (what, address) in &node.listeners {
            findings.push(reach::check_listener(&node.name, what, *address, reach::listens(*address).await));
        }
    }
    Ok(findings)
}

async fn stream(config: &NodeConfig) -> Option<Finding> {
    let address = reach::stream_address(&config.nats.as_ref()?.url)?;
    let connects = reach::connects(&address).await;
    Some(reach::check_stream(&address, connects))
}

/// The cluster as whoever answers describes it, and a look at each of its control planes.
async fn cluster(urls: &str, nodes: &[Node]) -> Vec<Finding> {
    let asked = tokio::time::timeout(MEMBERS_WAIT_MAX, Box::pin(members_of(urls))).await;
    let members = asked.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let mut findings = match &members {
        Ok(members) => members::check(members),
        Err(why) => {
            let advice =
                "name control planes that run with --admin or BAILIWICK_ADMIN; before `cluster init` there is none";
            vec![Finding::fail("members", "cluster", why.clone(), advice)]
        }
    };
    findings.extend(listeners_of(&members.unwrap_or_default(), nodes).await);
    findings
}

async fn members_of(urls: &str) -> Result<Vec<Member>, String> {
    let ask = async |channel, asked| admin::cluster(channel).members(asked).await;
    let mut control_planes = admin::connect(urls).await.map_err(|failure| failure.to_string())?;
    let answer = control_planes.ask(MembersRequest {}, ask).await.map_err(|failure| failure.to_string())?;
    Ok(answer.items)
}

/// Certificate and clock of every control-plane node, the configuration's own included.
async fn listeners_of(members: &[Member], nodes: &[Node]) -> Vec<Finding> {
    let mut addresses: BTreeMap<String, String> = BTreeMap::new();
    for node in nodes {
        if let Some((_, address)) = node.listeners.iter().find(|(what, _)| *what == GRPC) {
            addresses.insert(node.name.clone(), reach::connectable(*address).to_string());
        }
    }
    for member in members {
        if let Some(authority) = member.api_address.strip_prefix("https://") {
            addresses.insert(member.name.clone(), authority.trim_end_matches('/').to_owned());
        }
    }
    let looks = addresses.iter().map(|(name, address)| async move { listener_of(name, look::look(address).await) });
    futures::future::join_all(looks).await.into_iter().flatten().collect()
}

/// What a look at the TLS listener of `name` came to; nothing where nobody listens, which others report.
fn listener_of(name: &str, seen: std::io::Result<look::Seen>) -> Vec<Finding> {
    let Ok(seen) = seen else { return Vec::new() };
    let now = clock::now_millis() / 1_000;
    let certificate = match secrets::read_certificate(&seen.certificate) {
        Ok(certificate) => secrets::check_certificate(name, &certificate, now),
        Err(error) => {
            let advice = "something else listens there, or a proxy ends TLS before the node: let TCP through";
            Finding::fail("certificate", name, error, advice)
        }
    };
    let clock = seen.skew.map(|skew| clock::check(name, skew));
    std::iter::once(certificate).chain(clock).collect()
}
