//! What an operator may set on a data-plane node.
//!
//! Read by `cli` through `bailiwick_runtime::config`; checked here by a pure function that reports every mistake at
//! once, before anything binds. What every node must agree on (issuer, MCP URL, keys, policies) is not here: it
//! arrives on the config stream. Every bound names its reason.

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
use bailiwick_proto::subjects;
use bailiwick_runtime::{MasterKeyConfig, config::ConfigProblems, telemetry::TelemetryConfig};
use serde::Deserialize;

/// Smallest useful spool: some hundred records and a reserve for the outcomes of calls under way.
pub const SPOOL_BYTES_MIN: u64 = 1024 * 1024;
/// Most calls under way at once that may be configured; each holds its arguments in memory.
pub const CALLS_MAX: usize = 1_000_000;
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
    /// Browser origins that may call, besides loopback ones, as `scheme://host[:port]`.
    pub allowed_origins: Vec<String>,
    /// Bytes of records kept on disk until a published checkpoint covers them.
    pub spool_bytes_max: u64,
    /// Without word from the control plane for so long, nothing is decided any more, milliseconds.
    pub max_staleness_ms: u64,
    /// After a restart without control planes, the configuration kept on disk counts until it is so old, milliseconds;
    /// never longer than `max_staleness_ms`. 0: none is kept.
    pub snapshot_max_age_ms: u64,
    /// How long calls under way may take to finish at shutdown, milliseconds.
    pub drain_ms: u64,
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
            allowed_origins: Vec::new(),
            spool_bytes_max: 256 * 1024 * 1024,
            max_staleness_ms: 24 * 60 * 60 * 1000,
            snapshot_max_age_ms: 60 * 60 * 1000,
            drain_ms: 30_000,
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
        ] {
            require(value > 0, &format!("upstream.{key}"), "must be more than 0".to_owned());
        }
        self.telemetry.check("telemetry", &mut problems);
        problems.into_result()
    }

    /// How old a configuration from disk may become; zero: none is kept.
    #[must_use]
    pub fn snapshot_max_age(&self) -> Duration {
        Duration::from_millis(self.snapshot_max_age_ms.min(self.max_staleness_ms))
    }

    /// [`Self::unread_ms`] as a duration.
    #[must_use]
    pub const fn unread(&self) -> Duration {
        Duration::from_millis(self.unread_ms)
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
            allowed_origins: vec!["https://app.example/path".into(), "https://app.example".into()],
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
                "allowed_origins",
                "spool_bytes_max",
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
