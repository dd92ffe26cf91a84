//! What a control-plane node needs to know before it starts: where its data lives, who it is, where it listens.
//!
//! Read from TOML by the command line (through `runtime`), or built in code for the embedded mode. `check` is pure
//! and reports every mistake at once, before anything binds or opens. The event stream's address is not here: the
//! caller connects it and passes it to `serve`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use axum::http::Uri;
use bailiwick_proto::names;
use bailiwick_runtime::config::ConfigProblems;
use serde::{Deserialize, Serialize};

/// Configuration of one control-plane node. Every key has a default fit for one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlPlaneConfig {
    /// Holds `raft/` (the log and the state) and `keys/` (secret keys, mode 0600).
    pub data_dir: PathBuf,
    /// This node's name, for people.
    pub node: String,
    /// This node's id in the cluster. Must never change for one data directory.
    pub node_id: u64,
    /// Administration, configuration and checkpoints (gRPC).
    pub listen: SocketAddr,
    /// Token keys and authorization-server metadata (HTTP).
    pub http_listen: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`.
    pub ops_listen: SocketAddr,
    /// `iss` of every token: the URL at which clients reach `http_listen`.
    pub issuer: String,
    /// The URL at which agents reach the data planes, up to `/mcp`: audiences are this, `/`, and the virtual server.
    pub mcp_url: String,
    /// The gRPC and operations listeners are plain text without authentication: beyond loopback, anyone in reach is
    /// an administrator.
    pub danger_listen_beyond_loopback: bool,
}

impl Default for ControlPlaneConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("bailiwick-data/control-plane"),
            node: "control-plane-1".to_owned(),
            node_id: 1,
            listen: loopback(8431),
            http_listen: loopback(8430),
            ops_listen: loopback(8433),
            issuer: "http://127.0.0.1:8430".to_owned(),
            mcp_url: "http://127.0.0.1:8420/mcp".to_owned(),
            danger_listen_beyond_loopback: false,
        }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl ControlPlaneConfig {
    /// A node that keeps its data under `data_dir` and takes any free loopback ports.
    #[must_use]
    pub fn embedded(data_dir: PathBuf) -> Self {
        let (listen, http_listen, ops_listen) = (loopback(0), loopback(0), loopback(0));
        Self { data_dir, listen, http_listen, ops_listen, ..Self::default() }
    }

    /// # Errors
    /// Every mistake found; never just the first.
    pub fn check(&self) -> Result<(), ConfigProblems> {
        let mut problems = ConfigProblems::default();
        let mut wrong = |key: &str, message: String| problems.add(key, message);
        if self.data_dir.as_os_str().is_empty() {
            wrong("data_dir", "must name a folder".to_owned());
        }
        if !names::is_resource_name(&self.node) {
            let rule = "must be 1 to 63 lower-case letters, digits and inner hyphens, dots or underscores";
            wrong("node", rule.to_owned());
        }
        if self.node_id == 0 {
            wrong("node_id", "must be at least 1".to_owned());
        }
        for (key, address) in [("listen", self.listen), ("ops_listen", self.ops_listen)] {
            if !address.ip().is_loopback() && !self.danger_listen_beyond_loopback {
                let why =
                    "the listener has no authentication: use a loopback address, or set danger_listen_beyond_loopback";
                wrong(key, format!("{address}: {why}"));
            }
        }
        let (listen, http, ops) = (self.listen, self.http_listen, self.ops_listen);
        for (key, address, others) in [("http_listen", http, &[listen][..]), ("ops_listen", ops, &[listen, http])] {
            if address.port() != 0 && others.contains(&address) {
                wrong(key, format!("{address} is taken by another listener of this file"));
            }
        }
        for (key, url) in [("issuer", &self.issuer), ("mcp_url", &self.mcp_url)] {
            if !is_base_url(url) {
                wrong(key, "must be an http or https URL without query and without a final slash".to_owned());
            }
        }
        problems.into_result()
    }
}

fn is_base_url(url: &str) -> bool {
    let parsed = url.parse::<Uri>();
    let is_http = parsed.is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
    });
    is_http && !url.ends_with('/') && !url.contains('#')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_right() {
        assert_eq!(ControlPlaneConfig::default().check(), Ok(()));
        assert_eq!(ControlPlaneConfig::embedded("x".into()).check(), Ok(()));
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let config = ControlPlaneConfig {
            data_dir: PathBuf::new(),
            node: "Node 1".into(),
            node_id: 0,
            listen: "0.0.0.0:8431".parse().unwrap(),
            http_listen: "0.0.0.0:8431".parse().unwrap(),
            ops_listen: "0.0.0.0:8431".parse().unwrap(),
            issuer: "ftp://x".into(),
            mcp_url: "http://127.0.0.1:8420/mcp/".into(),
            danger_listen_beyond_loopback: false,
        };
        let keys: Vec<_> = config.check().unwrap_err().0.into_iter().map(|problem| problem.key).collect();
        let expected =
            ["data_dir", "node", "node_id", "listen", "ops_listen", "http_listen", "ops_listen", "issuer", "mcp_url"];
        assert_eq!(keys, expected);
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<ControlPlaneConfig>(r#"{"lissten": "127.0.0.1:1"}"#).unwrap_err();
        assert!(error.to_string().contains("lissten"), "{error}");
    }
}
