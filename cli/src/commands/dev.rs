//! `dev`: control plane, ledger and data plane in one process, over an in-process event stream.
//!
//! The same code as the roles, over the same gRPC config stream; only the transport of records differs. Ports are
//! kept in `DIR/ports.json`, so that tokens issued before a restart stay good; `DIR/cluster.json` describes what runs,
//! in the shape of `deploy/local-cluster`. People sign in locally (`sign_in_code`), and clients register themselves.

mod sign_in_code;

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use bailiwick_control_plane::ControlPlaneConfig;
use bailiwick_data_plane::{DataPlaneConfig, config::AllowedCommand};
use bailiwick_ledger::LedgerConfig;
use bailiwick_proto::v1::{IssueTokenRequest, ManifestFile};
use bailiwick_runtime::{EventStream, MasterKeyConfig, Shutdown};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    resources::{read, request_id, send_apply},
    role::{refuse, start_logging, stop_on_signal},
    token,
};
use crate::{
    admin::{self, ControlPlanes},
    args::{DevArgs, Place, Upstream},
    config,
    failure::Failure,
    output::show,
};

/// How long the ready token lasts.
const TOKEN_TTL: Duration = Duration::from_secs(24 * 3600);
/// Longest wait for the data plane's listener to answer before the banner is printed.
const READY_WAIT_MAX: Duration = Duration::from_secs(30);

/// Where everything listens; loopback only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ports {
    mcp: u16,
    data_plane_ops: u16,
    http: u16,
    grpc: u16,
    control_plane_ops: u16,
    /// UDP; data of a version that had none takes any.
    #[serde(default)]
    peer: u16,
    ledger: u16,
    ledger_ops: u16,
}

/// How many listeners there are.
const PORTS: usize = 8;

const USUAL_PORTS: Ports = Ports {
    mcp: 8420,
    data_plane_ops: 8421,
    http: 8430,
    grpc: 8431,
    control_plane_ops: 8433,
    peer: 8432,
    ledger: 8440,
    ledger_ops: 8441,
};

/// Whoever runs `dev` reaches these anyway: servers under development are on this machine or beside it. Where clouds keep
/// secrets is not among them.
const SERVER_NETWORKS: [&str; 6] =
    ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"];

pub(crate) async fn run(args: DevArgs) -> Result<(), Failure> {
    start_logging();
    let data = args.data.clone().unwrap_or_else(|| bailiwick_runtime::config::default_data_dir().join("dev"));
    fs::create_dir_all(&data).map_err(|error| Failure::Usage(format!("cannot use {}: {error}", data.display())))?;
    let ports = if args.free_ports { kept_ports(&data)? } else { USUAL_PORTS };
    let manifests = manifests(&args)?;

    let stop = stop_on_signal();
    let code = sign_in_code::fresh(&data)?;
    let running = Box::pin(serve(&data, ports, &args, &code, &stop)).await?;
    if let Err(failure) = introduce(&data, ports, manifests, &code).await {
        stop.request();
        running.stopped().await?;
        return Err(failure);
    }
    running.stopped().await?;
    drop(fs::remove_file(data.join("cluster.json")));
    Ok(())
}

/// The three roles, running.
struct Running {
    control_plane: bailiwick_control_plane::Running,
    ledger: bailiwick_ledger::Running,
    data_plane: bailiwick_data_plane::Running,
    stop_ledger: Shutdown,
    stop_control_plane: Shutdown,
}

impl Running {
    /// Waits for the end, in the order in which records flow: who writes them stops first.
    async fn stopped(self) -> Result<(), Failure> {
        let data_plane = self.data_plane.stopped().await.map_err(Failure::refused);
        self.stop_ledger.request();
        let ledger = self.ledger.stopped().await.map_err(Failure::refused);
        self.stop_control_plane.request();
        let control_plane = self.control_plane.stopped().await.map_err(Failure::refused);
        data_plane.and(ledger).and(control_plane)
    }
}

async fn serve(data: &Path, ports: Ports, args: &DevArgs, code: &str, stop: &Shutdown) -> Result<Running, Failure> {
    // Beside the roles' folders, so that a copy of one of those holds no secret in clear.
    let master_key = MasterKeyConfig::ensure_file(&data.join("master.key")).map_err(Failure::refused)?;
    let grpc_url = format!("http://{}", loopback(ports.grpc));
    // Whom it fetches from is the one thing of its surroundings that it cannot know.
    let outside = config::load(None)?.control_plane.unwrap_or_default();
    let control_plane = ControlPlaneConfig {
        data_dir: data.join("control-plane"),
        listen: loopback(ports.grpc),
        http_listen: loopback(ports.http),
        ops_listen: loopback(ports.control_plane_ops),
        peer_listen: loopback(ports.peer),
        found: true,
        local_sign_in_code: Some(code.to_owned()),
        client_registration: true,
        auditor_groups: vec!["developers".to_owned()],
        issuer: format!("http://{}", loopback(ports.http)),
        mcp_url: format!("http://{}/mcp", loopback(ports.mcp)),
        outbound_ca_file: outside.outbound_ca_file,
        client_document_networks: outside.client_document_networks,
        scim_agents: outside.scim_agents,
        master_key: master_key.clone(),
        ..ControlPlaneConfig::default()
    };
    let ledger = LedgerConfig {
        data_dir: data.join("ledger"),
        control_plane: grpc_url.clone().into(),
        master_key: master_key.clone(),
        listen: loopback(ports.ledger),
        ops_listen: loopback(ports.ledger_ops),
        ..LedgerConfig::default()
    };
    let mut data_plane = DataPlaneConfig {
        data_dir: data.join("data-plane"),
        node: "data-plane-1".to_owned(),
        control_plane: grpc_url.into(),
        master_key,
        listen: loopback(ports.mcp),
        ops_listen: loopback(ports.data_plane_ops),
        // Nobody balances between this one and others.
        drain_delay_ms: 0,
        ..DataPlaneConfig::default()
    };
    data_plane.upstream.allowed_networks = SERVER_NETWORKS.map(str::to_owned).to_vec();
    allow_commands(&mut data_plane, &args.upstream);
    if let Some(bytes) = args.spool_bytes_max {
        data_plane.spool_bytes_max = bytes;
    }
    refuse("control_plane", control_plane.check())?;
    refuse("ledger", ledger.check())?;
    refuse("data_plane", data_plane.check())?;

    let stream = EventStream::in_process();
    // The ledger and the control plane outlive the data plane, so that its last records arrive.
    let (stop_control_plane, stop_ledger) = (Shutdown::new(), Shutdown::new());
    let control_plane =
        Box::pin(bailiwick_control_plane::serve(control_plane, stream.clone(), stop_control_plane.clone()))
            .await
            .map_err(Failure::refused)?;
    let ledger = Box::pin(bailiwick_ledger::serve(ledger, stream.clone(), stop_ledger.clone()))
        .await
        .map_err(Failure::refused)?;
    let data_plane =
        Box::pin(bailiwick_data_plane::serve(data_plane, stream, stop.clone())).await.map_err(Failure::refused)?;
    Ok(Running { control_plane, ledger, data_plane, stop_ledger, stop_control_plane })
}

/// Programs named on the command line may be run, exactly so; they search where whoever named them does.
fn allow_commands(data_plane: &mut DataPlaneConfig, upstreams: &[Upstream]) {
    let commands = upstreams.iter().filter_map(|upstream| match &upstream.place {
        Place::Command(words) => Some(AllowedCommand::Beginning(words.clone())),
        Place::Url(_) | Place::Sse(_) => None,
    });
    data_plane.upstream.commands.extend(commands);
    if let Some(path) = bailiwick_runtime::config::env("PATH") {
        data_plane.upstream.command_path = path;
    }
}

/// Applies the manifests, issues the ready token, and says what there is.
async fn introduce(data: &Path, ports: Ports, manifests: Vec<ManifestFile>, code: &str) -> Result<(), Failure> {
    wait_ready(ports).await?;
    let mut admin = admin::connect(&format!("http://{}", loopback(ports.grpc))).await?;
    let first = first_of_each(&mut admin, manifests).await?;
    write_cluster(data, ports)?;
    show(&format!("{}\n", banner(data, ports, code)));
    if let Some((user, agent, virtual_server)) = first {
        let request = IssueTokenRequest {
            user: user.clone(),
            agent: agent.clone(),
            virtual_server,
            level: String::new(),
            ttl_seconds: TOKEN_TTL.as_secs(),
            reason: "ready token of bailiwick dev".to_owned(),
            request_id: request_id()?,
            binding_alg: String::new(),
            dpop_jkt: String::new(),
        };
        let token = token::send(&mut admin, request).await?;
        show(&format!("\n  MCP URL  {}\n  Token    {}\n", token.resource, token.access_token));
        show(&format!("           for {user} through {agent}, level {}, 24 hours\n", token.level));
    } else {
        show("\n  Apply a User, an Agent, a Server and a VirtualServer, then: bailiwick token issue --help\n");
    }
    show("\nCtrl-C stops everything.\n");
    Ok(())
}

/// Applies the manifests and gives the first user, agent and virtual server in them.
async fn first_of_each(
    admin: &mut ControlPlanes,
    manifests: Vec<ManifestFile>,
) -> Result<Option<(String, String, String)>, Failure> {
    if manifests.is_empty() {
        return Ok(None);
    }
    let applied = send_apply(admin, manifests, false).await?;
    let first =
        |kind: &str| applied.changes.iter().find(|change| change.kind == kind).map(|change| change.name.clone());
    Ok(first("User")
        .zip(first("Agent"))
        .zip(first("VirtualServer"))
        .map(|((user, agent), server)| (user, agent, server)))
}

/// The files of `-f`, and resources for every `--upstream`.
fn manifests(args: &DevArgs) -> Result<Vec<ManifestFile>, Failure> {
    let mut files = read(&args.files)?;
    if !args.upstream.is_empty() {
        let directory = std::env::current_dir().map_err(Failure::refused)?;
        files
            .push(ManifestFile { name: "--upstream".to_owned(), text: upstream_manifests(&args.upstream, &directory) });
    }
    Ok(files)
}

/// A server and a view of it for every upstream; one person, one agent, and a policy that allows them everything.
fn upstream_manifests(upstreams: &[Upstream], directory: &Path) -> String {
    let home = bailiwick_runtime::config::env("HOME");
    let document = |kind: &str, name: &str, spec: Value| {
        json!({"apiVersion": "bailiwick/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}).to_string()
    };
    let permit = "permit (principal in Group::\"developers\", \
        action in [Action::\"call_tool\", Action::\"get_prompt\", Action::\"read_resource\"], resource);";
    let mut documents = vec![
        document("User", "dev@localhost", json!({"groups": ["developers"]})),
        document(
            "Agent",
            "dev-agent",
            json!({
                "owner": "dev@localhost", "project": "dev", "ceiling": "destructive", "clients": {"self_registered": true},
            }),
        ),
        document("Policy", "dev-allow", json!({ "cedar": permit })),
    ];
    for upstream in upstreams {
        let name = &upstream.name;
        documents.push(document("Server", name, json!({"endpoint": upstream.endpoint(directory, home.as_deref())})));
        documents.push(document("VirtualServer", name, json!({"naming": "plain", "servers": [{"server": name}]})));
    }
    documents.join("\n---\n")
}

async fn wait_ready(ports: Ports) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + READY_WAIT_MAX;
    let url = format!("http://{}/readyz", loopback(ports.data_plane_ops));
    let client = reqwest::Client::builder().no_proxy().build().map_err(Failure::refused)?;
    loop {
        match client.get(&url).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            _ if tokio::time::Instant::now() > deadline => {
                return Err(Failure::Refused(format!("the data plane did not become ready; see {url}")));
            }
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

fn banner(data: &Path, ports: Ports, code: &str) -> String {
    let url = |port| format!("http://{}", loopback(port));
    format!(
        "Bailiwick is running.\n\n  MCP      {}/mcp/<virtual server>\n  Admin    {}  (BAILIWICK_ADMIN)\n  Issuer   {}\n  Sign-in  code {code}, as anybody, at pages of the issuer (dev only)\n  Ledger   {}  (BAILIWICK_LEDGER)\n  Health   {}/readyz\n  Data     {}",
        url(ports.mcp),
        url(ports.grpc),
        url(ports.http),
        url(ports.ledger),
        url(ports.data_plane_ops),
        data.display(),
    )
}

fn write_cluster(data: &Path, ports: Ports) -> Result<(), Failure> {
    let address = |port: u16| loopback(port).to_string();
    let node = |name: &str, role: &str, listen: Value| json!({"name": name, "role": role, "pid": std::process::id(), "listen": listen});
    let cluster = json!({
        "nodes": [
            node("control-plane", "control-plane", json!({"http": address(ports.http), "grpc": address(ports.grpc), "ops": address(ports.control_plane_ops)})),
            node("ledger", "ledger", json!({"http": address(ports.ledger), "ops": address(ports.ledger_ops)})),
            node("data-plane-1", "data-plane", json!({"mcp": address(ports.mcp), "ops": address(ports.data_plane_ops)})),
        ],
        "admin": format!("http://{}", address(ports.grpc)),
        "mcp": [format!("http://{}/mcp", address(ports.mcp))],
        "ledger": format!("http://{}", address(ports.ledger)),
    });
    let partial = data.join("cluster.json.partial");
    fs::write(&partial, format!("{cluster:#}\n")).map_err(Failure::refused)?;
    fs::rename(partial, data.join("cluster.json")).map_err(Failure::refused)
}

/// Free ports, the same at every start on the same data.
fn kept_ports(data: &Path) -> Result<Ports, Failure> {
    let path: PathBuf = data.join("ports.json");
    if let Ok(text) = fs::read_to_string(&path) {
        return serde_json::from_str(&text).map_err(Failure::refused);
    }
    // All are held until all are known, so that they differ.
    let mut held = Vec::new();
    let mut taken = FreePorts::open()?;
    while held.len() < PORTS {
        let port = taken.next_port();
        held.extend(TcpListener::bind(loopback(port)).ok().map(|listener| (port, listener)));
    }
    taken.close();
    let mut free = held.iter().map(|(port, _)| *port);
    let mut next = || free.next().ok_or_else(|| Failure::Refused("no free port".to_owned()));
    let ports = Ports {
        mcp: next()?,
        data_plane_ops: next()?,
        http: next()?,
        grpc: next()?,
        control_plane_ops: next()?,
        peer: next()?,
        ledger: next()?,
        ledger_ops: next()?,
    };
    fs::write(&path, json!(ports).to_string()).map_err(Failure::refused)?;
    Ok(ports)
}

/// Free ports, from a counter that all of this user's take them from, so that those who start at the same time get
/// different ones. Below those that Linux gives to outgoing connections, which could take one before it is listened on.
struct FreePorts {
    /// Locked while it is open.
    counter: Option<File>,
    last: u16,
}

impl FreePorts {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 10_000;

    /// From where the counter stands; from anywhere, where there can be none.
    fn open() -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("bailiwick-dev-port-{}", rustix::process::getuid().as_raw()));
        let opened = File::options().read(true).write(true).create(true).truncate(false).open(path);
        let counter = opened.and_then(|file| file.lock().map(|()| file)).ok();
        let mut text = String::new();
        let read = counter.as_ref().and_then(|mut file| file.read_to_string(&mut text).ok());
        let last = match read.and_then(|_| text.trim().parse::<u16>().ok()) {
            Some(last) => last,
            None => anywhere()?,
        };
        Ok(Self { counter, last })
    }

    fn next_port(&mut self) -> u16 {
        let step = self.last.wrapping_sub(Self::FIRST).wrapping_add(1) % Self::COUNT;
        self.last = Self::FIRST + step;
        self.last
    }

    /// Lets others go on from here.
    fn close(self) {
        if let Some(mut file) = self.counter {
            let written = file.rewind().and_then(|()| write!(file, "{:5}", self.last));
            drop(written);
        }
    }
}

fn anywhere() -> Result<u16, Failure> {
    let mut bytes = [0_u8; 2];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| Failure::Refused("the system gives no randomness".to_owned()))?;
    Ok(u16::from_be_bytes(bytes))
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn who_asks_after_another_gets_other_ports() {
        let take = || {
            let mut ports = FreePorts::open().unwrap();
            let port = ports.next_port();
            ports.close();
            port
        };
        let taken: BTreeSet<u16> = (0..50).map(|_| take()).collect();
        assert_eq!(taken.len(), 50);
        assert!(taken.iter().all(|port| (10_000..20_000).contains(port)), "{taken:?}");
    }
}
