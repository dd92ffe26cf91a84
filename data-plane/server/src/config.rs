//! What an operator may set on a data-plane node.
//!
//! Read by `cli` through `bailiwick_runtime::config`; checked here by a pure function that reports every mistake at
//! once, before anything binds. What every node must agree on (issuer, MCP URL, keys, policies) is not here: it
//! arrives on the config stream. Every bound names its reason.

mod command;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use bailiwick_enrolment::{TokenText, Urls};
use bailiwick_ledger_core::{
    chain::{CONTROL_NODE, LEDGER_NODE},
    record::is_node_name,
};
use bailiwick_proto::{address::Network, subjects};
use bailiwick_runtime::{
    MasterKeyConfig, config::ConfigProblems, served_certificate::CertificateFiles, telemetry::TelemetryConfig,
};
use serde::Deserialize;

pub use self::command::AllowedCommand;

/// What programs find as their search path where nothing is said.
const COMMAND_PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// Most programs at once that may be configured: each is two processes.
pub const COMMAND_PROCESSES_MAX: usize = 10_000;
/// Smallest useful spool: some hundred records and a reserve for the outcomes of calls under way.
pub const SPOOL_BYTES_MIN: u64 = 1024 * 1024;
/// Most calls under way at once that may be configured; each holds its arguments in memory.
pub const CALLS_MAX: usize = 1_000_000;
/// Most connections at once that may be configured: as many as one address has ports, several times.
pub const CONNECTIONS_MAX: usize = 1_000_000;
/// Largest request body accepted from a client, in bytes; MCP requests carry arguments, not files.
pub const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The file's content; every key has a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataPlaneConfig {
    /// Spool and keys of this node.
    pub data_dir: PathBuf,
    /// Name of this node: a DNS label, unique among all nodes, bound to the data folder.
    pub node: String,
    /// Region of this node: one subject token.
    pub region: String,
    /// MCP listener. Port 0 picks a free one.
    pub listen: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`. Port 0 picks a free one.
    pub ops_listen: SocketAddr,
    /// gRPC of the control planes: one URL or a list, any of which will do. `https`, or `http` on this machine.
    pub control_plane: Urls,
    /// Leave to join, for the first start with `https`.
    pub join_token: Option<TokenText>,
    /// A file with that.
    pub join_token_file: Option<PathBuf>,
    /// The section `[master_key]` of the file: what this node's keys are sealed under.
    #[serde(skip)]
    pub master_key: MasterKeyConfig,
    /// The files with the certificate that clients see, and its key. Without them the MCP listener speaks plain text.
    pub tls: Option<CertificateFiles>,
    /// HTTP/3 at the same port, UDP; only with `tls`.
    pub http3: bool,
    /// Clients may show a certificate, which tokens can be bound to (RFC 8705); only with `tls`. Browsers then ask people
    /// which one.
    pub client_certificates: bool,
    /// Networks of balancers, as `address/bits`. Whoever connects from there must say for whom, by the PROXY protocol.
    pub proxy_protocol: Vec<String>,
    /// Browser origins that may call, besides loopback ones, as `scheme://host[:port]`.
    pub allowed_origins: Vec<String>,
    /// Bytes of records kept on disk until a published checkpoint covers them.
    pub spool_bytes_max: u64,
    /// Without word from the control plane for so long, nothing is decided any more, milliseconds.
    pub max_staleness_ms: u64,
    /// After a restart without control planes, the configuration kept on disk counts until it is so old, milliseconds;
    /// never longer than `max_staleness_ms`. 0: none is kept.
    pub snapshot_max_age_ms: u64,
    /// How long connections are still accepted at shutdown, milliseconds: so that balancers notice that this node is not
    /// ready any more.
    pub drain_delay_ms: u64,
    /// How long calls under way may take to finish after that, milliseconds.
    pub drain_ms: u64,
    /// Connections of clients at once; each costs some ten KiB while idle.
    pub connections_max: usize,
    /// Calls under way at once; more are refused, so that memory stays bounded.
    pub calls_max: usize,
    /// Whoever takes nothing for so long of what is there for them is let go, milliseconds.
    pub unread_ms: u64,
    /// Towards MCP servers.
    pub upstream: UpstreamConfig,
    /// Traces and metrics for an OpenTelemetry collector.
    pub telemetry: TelemetryConfig,
}

/// Limits towards MCP servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamConfig {
    /// Largest answer, in bytes, a stream's notifications included.
    pub response_bytes_max: usize,
    /// Longest wait for a connection, milliseconds.
    pub connect_timeout_ms: u64,
    /// Longest call of a server that sets no timeout of its own, milliseconds.
    pub call_timeout_ms: u64,
    /// Longest handshake or page of a tool list, milliseconds; never more than the server's own timeout.
    pub handshake_timeout_ms: u64,
    /// How long an unused connection is kept where the server's manifest says nothing, milliseconds.
    pub idle_timeout_ms: u64,
    /// Requests under way at once at a server whose manifest says nothing: so one that hangs holds up its own callers only.
    pub connections: usize,
    /// Requests that wait for one of those to end; more are refused at once.
    pub waiting: usize,
    /// Faults of the connection in a row after which a server is left alone; 0: never.
    pub breaker_faults: u32,
    /// For how long, the first time, milliseconds.
    pub breaker_pause_ms: u64,
    /// Networks that are not public in which any server may be, as CIDR; that of a cloud's metadata as one address.
    pub allowed_networks: Vec<String>,
    /// Programs that this node may run as servers, by their absolute paths: a text, or a list of the path and the
    /// arguments it must begin with. None: nothing is run.
    pub commands: Vec<AllowedCommand>,
    /// The search path that these programs find in their environment.
    pub command_path: String,
    /// Programs at once, of all servers together.
    pub command_processes_max: usize,
}

impl Default for DataPlaneConfig {
    fn default() -> Self {
        Self {
            data_dir: bailiwick_runtime::config::default_data_dir().join("data-plane"),
            node: "data-plane".to_owned(),
            region: subjects::DEFAULT_REGION.to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8420)),
            ops_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8421)),
            control_plane: "http://127.0.0.1:8431".into(),
            join_token: None,
            join_token_file: None,
            master_key: MasterKeyConfig::default(),
            tls: None,
            http3: false,
            client_certificates: false,
            proxy_protocol: Vec::new(),
            allowed_origins: Vec::new(),
            spool_bytes_max: 256 * 1024 * 1024,
            max_staleness_ms: 24 * 60 * 60 * 1000,
            snapshot_max_age_ms: 60 * 60 * 1000,
            drain_delay_ms: 5_000,
            drain_ms: 30_000,
            connections_max: 10_000,
            calls_max: 4096,
            unread_ms: 30_000,
            upstream: UpstreamConfig::default(),
            telemetry: TelemetryConfig::default(),
        }
    }
}

impl Default for UpstreamConfig {
    fn default() -> Self {
        Self {
            response_bytes_max: 8 * 1024 * 1024,
            connect_timeout_ms: 5_000,
            call_timeout_ms: 30_000,
            handshake_timeout_ms: 10_000,
            idle_timeout_ms: 90_000,
            connections: 512,
            waiting: 512,
            breaker_faults: 8,
            breaker_pause_ms: 1_000,
            allowed_networks: Vec::new(),
            commands: Vec::new(),
            command_path: COMMAND_PATH.to_owned(),
            command_processes_max: 64,
        }
    }
}

impl DataPlaneConfig {
    /// # Errors
    /// Every mistake found; never just the first.
    pub fn check(&self) -> Result<(), ConfigProblems> {
        let is_token = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        };
        let is_reserved = [CONTROL_NODE, LEDGER_NODE].contains(&self.node.as_str());
        let mut problems = ConfigProblems::default();
        let mut require = |holds: bool, key: &str, problem: String| {
            if !holds {
                problems.add(key, problem);
            }
        };
        require(
            is_node_name(&self.node) && !self.node.contains('.') && !is_reserved,
            "node",
            format!("`{}` is not a DNS label (lower-case letters, digits, inner hyphens), or is reserved", self.node),
        );
        require(
            is_token(&self.region),
            "region",
            format!("`{}` is not lower-case letters, digits and hyphens", self.region),
        );
        let urls = self.control_plane.check();
        require(urls.is_ok(), "control_plane", urls.err().unwrap_or_default());
        let needs_tls = || "needs a certificate: set `tls`".to_owned();
        require(!self.http3 || self.tls.is_some(), "http3", needs_tls());
        require(!self.client_certificates || self.tls.is_some(), "client_certificates", needs_tls());
        for network in &self.proxy_protocol {
            let read = network.parse::<Network>();
            require(read.is_ok(), "proxy_protocol", read.err().map(|fault| fault.to_string()).unwrap_or_default());
        }
        for origin in &self.allowed_origins {
            let is_origin = http_authority(origin).is_some_and(|authority| origin.ends_with(authority));
            require(is_origin, "allowed_origins", format!("`{origin}` is not of the form scheme://host[:port]"));
        }
        require(
            self.spool_bytes_max >= SPOOL_BYTES_MIN,
            "spool_bytes_max",
            format!("{} is below {SPOOL_BYTES_MIN}", self.spool_bytes_max),
        );
        require(
            (1..=CALLS_MAX).contains(&self.calls_max),
            "calls_max",
            format!("{} is not between 1 and {CALLS_MAX}", self.calls_max),
        );
        require(
            (1..=CONNECTIONS_MAX).contains(&self.connections_max),
            "connections_max",
            format!("{} is not between 1 and {CONNECTIONS_MAX}", self.connections_max),
        );
        require(self.unread_ms > 0, "unread_ms", "must be more than 0".to_owned());
        let fixed_ports = self.listen.port() != 0 || self.ops_listen.port() != 0;
        require(
            !fixed_ports || self.listen != self.ops_listen,
            "ops_listen",
            format!("{} is also `listen`", self.ops_listen),
        );
        let upstream = &self.upstream;
        for (key, value) in [
            ("response_bytes_max", upstream.response_bytes_max as u64),
            ("connect_timeout_ms", upstream.connect_timeout_ms),
            ("call_timeout_ms", upstream.call_timeout_ms),
            ("handshake_timeout_ms", upstream.handshake_timeout_ms),
            ("idle_timeout_ms", upstream.idle_timeout_ms),
            ("connections", upstream.connections as u64),
            ("breaker_pause_ms", upstream.breaker_pause_ms),
        ] {
            require(value > 0, &format!("upstream.{key}"), "must be more than 0".to_owned());
        }
        let are_plain = upstream.commands.iter().all(AllowedCommand::is_plain);
        require(are_plain, "upstream.commands", "each must begin with an absolute path without . and ..".to_owned());
        require(
            (1..=COMMAND_PROCESSES_MAX).contains(&upstream.command_processes_max),
            "upstream.command_processes_max",
            format!("{} is not between 1 and {COMMAND_PROCESSES_MAX}", upstream.command_processes_max),
        );
        let most = (upstream.connections, upstream.waiting);
        require(
            most.0 <= CALLS_MAX && most.1 <= CALLS_MAX,
            "upstream.connections",
            format!("with `upstream.waiting`, each is at most {CALLS_MAX}"),
        );
        for network in &upstream.allowed_networks {
            let read = network.parse::<Network>();
            require(
                read.is_ok(),
                "upstream.allowed_networks",
                read.err().map(|fault| fault.to_string()).unwrap_or_default(),
            );
        }
        self.telemetry.check("telemetry", &mut problems);
        problems.into_result()
    }

    /// How old a configuration from disk may become; zero: none is kept.
    #[must_use]
    pub fn snapshot_max_age(&self) -> Duration {
        Duration::from_millis(self.snapshot_max_age_ms.min(self.max_staleness_ms))
    }

    /// Whose connections begin with the PROXY protocol.
    #[must_use]
    pub fn balancers(&self) -> Vec<Network> {
        self.proxy_protocol.iter().filter_map(|network| network.parse().ok()).collect()
    }

    /// [`Self::unread_ms`] as a duration.
    #[must_use]
    pub const fn unread(&self) -> Duration {
        Duration::from_millis(self.unread_ms)
    }

    /// [`Self::drain_delay_ms`] as a duration.
    #[must_use]
    pub const fn drain_delay(&self) -> Duration {
        Duration::from_millis(self.drain_delay_ms)
    }

    /// [`Self::drain_ms`] as a duration.
    #[must_use]
    pub const fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

/// The `host[:port]` of an HTTP URL.
pub(crate) fn http_authority(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let plain = !authority.is_empty() && !authority.contains(['@', ' ', '\\']);
    (plain && authority.parse::<http::uri::Authority>().is_ok()).then_some(authority)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_no_mistake() {
        assert_eq!(DataPlaneConfig::default().check(), Ok(()));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let config = DataPlaneConfig {
            node: "Node 1".into(),
            region: "a.b".into(),
            control_plane: "127.0.0.1:8431".into(),
            http3: true,
            client_certificates: true,
            proxy_protocol: vec!["10.0.0.0/8".into(), "10.0.0.1/8".into()],
            allowed_origins: vec!["https://app.example/path".into(), "https://app.example".into()],
            connections_max: 0,
            spool_bytes_max: 10,
            ops_listen: DataPlaneConfig::default().listen,
            upstream: UpstreamConfig { call_timeout_ms: 0, ..UpstreamConfig::default() },
            telemetry: TelemetryConfig { endpoint: Some("collector".into()), ..TelemetryConfig::default() },
            ..DataPlaneConfig::default()
        };
        let keys: Vec<_> = config.check().unwrap_err().0.into_iter().map(|problem| problem.key).collect();
        assert_eq!(
            keys,
            [
                "node",
                "region",
                "control_plane",
                "http3",
                "client_certificates",
                "proxy_protocol",
                "allowed_origins",
                "spool_bytes_max",
                "connections_max",
                "ops_listen",
                "upstream.call_timeout_ms",
                "telemetry.endpoint"
            ]
        );
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let wrong = serde_json::from_str::<DataPlaneConfig>(r#"{"listenn": "127.0.0.1:1"}"#);
        assert!(wrong.unwrap_err().to_string().contains("listenn"));
        let right: DataPlaneConfig = serde_json::from_str(r#"{"listen": "0.0.0.0:8420"}"#).unwrap();
        assert_eq!(right.check(), Ok(()), "the MCP listener may be reachable from anywhere");
    }
}
