//! What a ledger needs to know before it starts: where its data lives, who it is, whom it talks to.
//!
//! Read from TOML by the command line (through `runtime`), or built in code for the embedded mode. `check` is pure
//! and reports every mistake at once, before anything binds or opens. The event stream's address is not here: the
//! caller connects it and passes it to `serve`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use bailiwick_enrolment::{TokenText, Urls};
use bailiwick_proto::{names, subjects};
use bailiwick_runtime::{MasterKeyConfig, config::ConfigProblems};
use serde::{Deserialize, Serialize};

/// The control plane keeps one committed checkpoint per origin and takes no longer names.
const ORIGIN_CHARS_MAX: usize = 128;
/// A region is one token of a subject.
const REGION_CHARS_MAX: usize = 32;

/// Configuration of one ledger. Every key has a default fit for one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LedgerConfig {
    /// Holds `db/` (the log) and `keys/` (the signing key, sealed).
    pub data_dir: PathBuf,
    /// The log's name: first line of every checkpoint and name of its key. Must never change for one log.
    pub origin: String,
    /// Whose `checkpoint.<region>` subject carries this ledger's notices.
    pub region: String,
    /// Name of this node among the members of the cluster.
    pub node: String,
    /// gRPC of the control planes: one URL or a list, any of which will do. `https`, or `http` on this machine.
    pub control_plane: Urls,
    /// Leave to join, for the first start with `https`.
    #[serde(skip_serializing)]
    pub join_token: Option<TokenText>,
    /// A file with that.
    pub join_token_file: Option<PathBuf>,
    /// The section `[master_key]` of the file: what this node's keys are sealed under.
    #[serde(skip)]
    pub master_key: MasterKeyConfig,
    /// Queries, tiles and proofs.
    pub listen: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`.
    pub ops_listen: SocketAddr,
    /// Both listeners are plain text without authentication: beyond loopback, anyone in reach reads the whole log.
    pub danger_listen_beyond_loopback: bool,
}

impl Default for LedgerConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("bailiwick-data/ledger"),
            origin: "bailiwick.local/ledger".to_owned(),
            region: subjects::DEFAULT_REGION.to_owned(),
            node: "ledger".to_owned(),
            control_plane: "http://127.0.0.1:8431".into(),
            join_token: None,
            join_token_file: None,
            master_key: MasterKeyConfig::default(),
            listen: loopback(8440),
            ops_listen: loopback(8441),
            danger_listen_beyond_loopback: false,
        }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl LedgerConfig {
    /// A ledger that keeps its data under `data_dir`, asks `control_plane`, and takes any free loopback ports.
    #[must_use]
    pub fn embedded(data_dir: PathBuf, control_plane: String) -> Self {
        Self {
            data_dir,
            control_plane: control_plane.into(),
            listen: loopback(0),
            ops_listen: loopback(0),
            ..Self::default()
        }
    }

    /// # Errors
    /// Every mistake found; never just the first.
    pub fn check(&self) -> Result<(), ConfigProblems> {
        let mut problems = ConfigProblems::default();
        let mut wrong = |key: &str, message: String| problems.add(key, message);
        if self.data_dir.as_os_str().is_empty() {
            wrong("data_dir", "must name a folder".to_owned());
        }
        if !is_origin(&self.origin) {
            let rule = format!(
                "must be 1 to {ORIGIN_CHARS_MAX} visible ASCII characters without `+`, like a URL without its scheme"
            );
            wrong("origin", rule);
        }
        if !is_region(&self.region) {
            let rule = format!("must be 1 to {REGION_CHARS_MAX} lower-case letters, digits or hyphens");
            wrong("region", rule);
        }
        if !names::is_resource_name(&self.node) {
            let rule = "must be 1 to 63 lower-case letters, digits and inner hyphens, dots or underscores";
            wrong("node", rule.to_owned());
        }
        if let Err(why) = self.control_plane.check() {
            wrong("control_plane", why);
        }
        for (key, address) in [("listen", self.listen), ("ops_listen", self.ops_listen)] {
            if !address.ip().is_loopback() && !self.danger_listen_beyond_loopback {
                let why =
                    "the listener has no authentication: use a loopback address, or set danger_listen_beyond_loopback";
                wrong(key, format!("{address}: {why}"));
            }
        }
        if self.listen == self.ops_listen && self.listen.port() != 0 {
            wrong("ops_listen", "must differ from `listen`".to_owned());
        }
        problems.into_result()
    }
}

fn is_origin(origin: &str) -> bool {
    !origin.is_empty() && origin.len() <= ORIGIN_CHARS_MAX && origin.chars().all(|c| c.is_ascii_graphic() && c != '+')
}

fn is_region(region: &str) -> bool {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !region.is_empty() && region.len() <= REGION_CHARS_MAX && region.chars().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right() {
        assert_eq!(LedgerConfig::default().check(), Ok(()));
        assert_eq!(LedgerConfig::embedded("x".into(), "http://[::1]:8431".into()).check(), Ok(()));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let config = LedgerConfig {
            data_dir: PathBuf::new(),
            origin: "two words".into(),
            region: "EU.west".into(),
            control_plane: "127.0.0.1:8431".into(),
            listen: "0.0.0.0:8440".parse().unwrap(),
            ops_listen: "0.0.0.0:8440".parse().unwrap(),
            danger_listen_beyond_loopback: false,
            ..LedgerConfig::default()
        };
        let keys: Vec<_> = config.check().unwrap_err().0.into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["data_dir", "origin", "region", "control_plane", "listen", "ops_listen", "ops_listen"]);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<LedgerConfig>(r#"{"lissten": "127.0.0.1:1"}"#).unwrap_err();
        assert!(error.to_string().contains("lissten"), "{error}");
    }
}
