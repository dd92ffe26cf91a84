//! What a control-plane node needs to know before it starts: where its data lives, who it is, where it listens.
//!
//! Read from TOML by the command line (through `runtime`), or built in code for the embedded mode. `check` is pure
//! and reports every mistake at once, before anything binds or opens. Which cluster the node belongs to, and its id,
//! are in its data directory; an empty one needs a join token, unless it is to begin a cluster. The event stream's
//! address is not here: the caller connects it and passes it to `serve`.

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use axum::http::Uri;
use bailiwick_proto::{address::Network, names};
use bailiwick_runtime::{MasterKeyConfig, config::ConfigProblems, connect::Targets};
use serde::{Deserialize, Serialize};

mod http_limits;
mod scim_agents;

pub(crate) use self::{http_limits::AT_ONCE_MAX, scim_agents::Draft};
pub use self::{http_limits::HttpLimits, scim_agents::ScimAgents};

/// Configuration of one control-plane node. Every key has a default fit for one machine.
/// Prints no join token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlPlaneConfig {
    /// Holds `raft/` (the log and the state) and `keys/` (this node's own key, sealed).
    pub data_dir: PathBuf,
    /// This node's name; unique in its cluster.
    pub node: String,
    /// Administration, configuration and checkpoints (gRPC): TLS, and plain text from this machine.
    pub listen: SocketAddr,
    /// The other control planes (QUIC, UDP).
    pub peer_listen: SocketAddr,
    /// Token keys and authorization-server metadata (HTTP).
    pub http_listen: SocketAddr,
    /// Networks of proxies in front of `http_listen`, as `address/bits`: from there the client's address is the
    /// right-most of `X-Forwarded-For` that is not in such a network.
    pub http_proxies: Vec<String>,
    /// Whether those proxies say which certificate the client has shown (`Client-Cert`, RFC 9440), and pass on nobody
    /// else's word about that.
    pub http_client_certificates: bool,
    /// Authorities (PEM) whose certificates prove who a client is (`tls_client_auth`); needs `http_client_certificates`.
    pub http_client_ca_file: Option<PathBuf>,
    /// The URL at which clients that show certificates reach `http_listen`, where that is another than `issuer`.
    pub http_mtls_url: Option<String>,
    /// How much `http_listen` takes from one address or client.
    pub http_limits: HttpLimits,
    /// `/livez`, `/readyz`, `/metrics`.
    pub ops_listen: SocketAddr,
    /// Where the other control planes reach `peer_listen` (`host:port`); the address itself if absent.
    pub advertise_peer: Option<String>,
    /// Where everybody reaches `listen` (`https://host:port`); the address itself if absent.
    pub advertise_api: Option<String>,
    /// With an empty data directory: control planes of the cluster to join, any that answers (`https://host:port`).
    pub join: Vec<String>,
    /// With an empty data directory: what `bailiwick cluster join-token` printed. Used once, then of no use to anybody.
    #[serde(skip_serializing)]
    pub join_token: Option<String>,
    /// A file that holds the join token.
    pub join_token_file: Option<PathBuf>,
    /// Whether `listen` takes plain text from this machine, whose users then are administrators.
    pub loopback_plaintext: bool,
    /// `iss` of every token: the URL at which clients reach `http_listen`.
    pub issuer: String,
    /// The URL at which agents reach the data planes, up to `/mcp`: audiences are this, `/`, and the virtual server.
    pub mcp_url: String,
    /// Certificates (PEM) of authorities that are believed beside the system's when keys of identity providers and
    /// descriptions of clients are fetched.
    pub outbound_ca_file: Option<PathBuf>,
    /// Networks, as `address/bits`, in which documents that describe clients may be although they are not public.
    pub client_document_networks: Vec<String>,
    /// Whether programs that nobody knows may register themselves as clients (RFC 7591); they can only ask people.
    pub client_registration: bool,
    /// After how many days another key signs tokens; 0: never by itself.
    pub token_key_days: u64,
    /// Whether directories provision agents; not where nothing is said.
    pub scim_agents: ScimAgents,
    /// Groups whose members see everybody's consent timeline; everybody else sees their own.
    pub auditor_groups: Vec<String>,
    /// Whether directories (SCIM) may put people into these groups.
    pub scim_auditor_groups: bool,
    /// The operations listener is plain text without authentication: beyond loopback, anyone in reach reads metrics.
    pub danger_listen_beyond_loopback: bool,
    /// With an empty data directory: begin a cluster of this node alone. For the embedded mode; others say
    /// `bailiwick cluster init`.
    #[serde(skip)]
    pub found: bool,
    /// With this code anybody signs in as anybody; for the embedded mode, to try it out.
    #[serde(skip)]
    pub local_sign_in_code: Option<String>,
    /// The section `[master_key]` of the file: what the cluster's secrets are sealed under.
    #[serde(skip)]
    pub master_key: MasterKeyConfig,
}

impl fmt::Debug for ControlPlaneConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlaneConfig")
            .field("data_dir", &self.data_dir)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

impl Default for ControlPlaneConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("bailiwick-data/control-plane"),
            node: "control-plane-1".to_owned(),
            listen: loopback(8431),
            peer_listen: loopback(8432),
            http_listen: loopback(8430),
            http_proxies: Vec::new(),
            http_client_certificates: false,
            http_client_ca_file: None,
            http_mtls_url: None,
            http_limits: HttpLimits::default(),
            ops_listen: loopback(8433),
            advertise_peer: None,
            advertise_api: None,
            join: Vec::new(),
            join_token: None,
            join_token_file: None,
            loopback_plaintext: true,
            issuer: "http://127.0.0.1:8430".to_owned(),
            mcp_url: "http://127.0.0.1:8420/mcp".to_owned(),
            outbound_ca_file: None,
            client_document_networks: Vec::new(),
            client_registration: false,
            token_key_days: 90,
            scim_agents: ScimAgents::default(),
            auditor_groups: Vec::new(),
            scim_auditor_groups: false,
            danger_listen_beyond_loopback: false,
            found: false,
            local_sign_in_code: None,
            master_key: MasterKeyConfig::default(),
        }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

impl ControlPlaneConfig {
    /// A node that keeps its data under `data_dir`, begins a cluster there if there is none, and takes any free
    /// loopback ports.
    #[must_use]
    pub fn embedded(data_dir: PathBuf) -> Self {
        let free = loopback(0);
        let (listen, peer_listen, http_listen, ops_listen) = (free, free, free, free);
        Self { data_dir, listen, peer_listen, http_listen, ops_listen, found: true, ..Self::default() }
    }

    /// Where the other control planes reach this node, which listens on `bound`.
    #[must_use]
    pub fn peer_address(&self, bound: SocketAddr) -> String {
        self.advertise_peer.clone().unwrap_or_else(|| bound.to_string())
    }

    /// Where everybody reaches this node's API, which listens on `bound`.
    #[must_use]
    pub fn api_address(&self, bound: SocketAddr) -> String {
        self.advertise_api.clone().unwrap_or_else(|| format!("https://{bound}"))
    }

    /// The networks in `http_proxies`.
    pub(crate) fn http_proxies(&self) -> Vec<Network> {
        self.http_proxies.iter().filter_map(|network| network.parse().ok()).collect()
    }

    /// The networks in `client_document_networks`.
    pub(crate) fn client_document_networks(&self) -> Vec<Network> {
        self.client_document_networks.iter().filter_map(|network| network.parse().ok()).collect()
    }

    /// # Errors
    /// Every mistake found; never just the first.
    pub fn check(&self) -> Result<(), ConfigProblems> {
        let mut problems = ConfigProblems::default();
        let mut wrong = |key: &str, message: String| problems.add(key, message);
        if self.data_dir.as_os_str().is_empty() {
            wrong("data_dir", "must name a folder".to_owned());
        }
        if !names::is_resource_name(&self.node) || self.node.chars().all(|c| c.is_ascii_digit()) {
            let rule = "must be 1 to 63 lower-case letters, digits and inner hyphens, dots or underscores";
            wrong("node", rule.to_owned());
        }
        if !self.ops_listen.ip().is_loopback() && !self.danger_listen_beyond_loopback {
            let why =
                "the listener has no authentication: use a loopback address, or set danger_listen_beyond_loopback";
            wrong("ops_listen", format!("{}: {why}", self.ops_listen));
        }
        let (listen, http, ops) = (self.listen, self.http_listen, self.ops_listen);
        for (key, address, others) in [("http_listen", http, &[listen][..]), ("ops_listen", ops, &[listen, http])] {
            if address.port() != 0 && others.contains(&address) {
                wrong(key, format!("{address} is taken by another listener of this file"));
            }
        }
        // Others have to find this node.
        for (key, address, told) in [
            ("advertise_api", self.listen, &self.advertise_api),
            ("advertise_peer", self.peer_listen, &self.advertise_peer),
        ] {
            if address.ip().is_unspecified() && told.is_none() {
                wrong(key, format!("needed, as {address} says nothing about where others reach this node"));
            }
        }
        if let Some(url) = &self.advertise_api
            && !Targets::parse(&[url]).is_ok_and(|targets| targets.all_tls())
        {
            wrong("advertise_api", "must be of the form https://host:port".to_owned());
        }
        if let Some(peer) = &self.advertise_peer
            && !is_host_and_port(peer)
        {
            wrong("advertise_peer", "must be of the form host:port".to_owned());
        }
        if !self.join.is_empty() && !Targets::parse(&self.join).is_ok_and(|targets| targets.all_tls()) {
            wrong("join", "must be URLs of the form https://host:port".to_owned());
        }
        if self.join_token.is_some() && self.join_token_file.is_some() {
            wrong("join_token_file", "there is a join_token already".to_owned());
        }
        let networks =
            [("http_proxies", &self.http_proxies), ("client_document_networks", &self.client_document_networks)];
        for (key, networks) in networks {
            for fault in networks.iter().filter_map(|network| network.parse::<Network>().err()) {
                wrong(key, fault.to_string());
            }
        }
        if self.http_client_certificates && self.http_proxies.is_empty() {
            wrong("http_client_certificates", "needs http_proxies: who is to say it?".to_owned());
        }
        let of_certificates = [
            ("http_client_ca_file", self.http_client_ca_file.is_some()),
            ("http_mtls_url", self.http_mtls_url.is_some()),
        ];
        for (key, _) in of_certificates.into_iter().filter(|(_, is_set)| *is_set && !self.http_client_certificates) {
            wrong(key, "needs http_client_certificates: nobody says which certificate a client has shown".to_owned());
        }
        if self.http_mtls_url.as_deref().is_some_and(|url| !url.starts_with("https://") || !is_base_url(url)) {
            wrong("http_mtls_url", "must be an https URL without query and without a final slash".to_owned());
        }
        for group in self.auditor_groups.iter().filter(|group| !names::is_person_name(group)) {
            wrong("auditor_groups", format!("`{group}` cannot be a group's name"));
        }
        for (key, url) in [("issuer", &self.issuer), ("mcp_url", &self.mcp_url)] {
            if !is_base_url(url) {
                wrong(key, "must be an http or https URL without query and without a final slash".to_owned());
            }
        }
        self.http_limits.check(&mut problems);
        self.scim_agents.check(&mut problems);
        problems.into_result()
    }
}

impl ControlPlaneConfig {
    /// Groups that no directory fills: who is in them sees what others do.
    pub(crate) fn scim_reserved_groups(&self) -> BTreeSet<String> {
        let reserved = self.auditor_groups.iter().filter(|_| !self.scim_auditor_groups);
        reserved.cloned().collect()
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains(['/', '@', ' ']) && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
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
    fn no_directory_fills_groups_of_auditors_unless_the_operator_says_so() {
        let groups = vec!["auditors".to_owned()];
        let mut config = ControlPlaneConfig { auditor_groups: groups.clone(), ..ControlPlaneConfig::default() };
        assert!(config.scim_reserved_groups().into_iter().eq(groups));
        config.scim_auditor_groups = true;
        assert!(config.scim_reserved_groups().is_empty());
    }

    #[test]
    fn all_mistakes_are_reported_at_once() {
        let config = ControlPlaneConfig {
            data_dir: PathBuf::new(),
            node: "Node 1".into(),
            listen: "0.0.0.0:8431".parse().unwrap(),
            peer_listen: "0.0.0.0:8432".parse().unwrap(),
            http_listen: "0.0.0.0:8431".parse().unwrap(),
            ops_listen: "0.0.0.0:8431".parse().unwrap(),
            issuer: "ftp://x".into(),
            mcp_url: "http://127.0.0.1:8420/mcp/".into(),
            advertise_api: Some("http://plain:1".into()),
            join: vec!["https://h:1/path".into()],
            join_token: Some("bwj1".into()),
            join_token_file: Some("token".into()),
            http_proxies: vec!["10.0.0.0/8".into(), "10.0.0.1/8".into(), "proxy".into()],
            client_document_networks: vec!["10.0.0.0/8".into(), "intranet".into()],
            auditor_groups: vec!["developers".into(), "two words".into()],
            http_limits: HttpLimits { failures_burst: 0, requests_at_once: 257, ..HttpLimits::default() },
            ..ControlPlaneConfig::default()
        };
        let keys: Vec<_> = config.check().unwrap_err().0.into_iter().map(|problem| problem.key).collect();
        let expected = [
            "data_dir",
            "node",
            "ops_listen",
            "http_listen",
            "ops_listen",
            "advertise_peer",
            "advertise_api",
            "join",
            "join_token_file",
            "http_proxies",
            "http_proxies",
            "client_document_networks",
            "auditor_groups",
            "issuer",
            "mcp_url",
            "http_limits.requests_at_once",
            "http_limits.failures_burst",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn certificates_are_told_by_proxies_only() {
        let config = ControlPlaneConfig { http_client_certificates: true, ..ControlPlaneConfig::default() };
        let problem = config.check().unwrap_err().0.remove(0);
        assert_eq!(problem.key, "http_client_certificates");
        let named = ControlPlaneConfig { http_proxies: vec!["10.0.0.0/8".into()], ..config };
        assert!(named.check().is_ok());
        let (ca, url) = (Some("ca.pem".into()), Some("https://mtls.example".to_owned()));
        let whole = ControlPlaneConfig { http_client_ca_file: ca, http_mtls_url: url, ..named };
        assert!(whole.check().is_ok());
        let untold = ControlPlaneConfig { http_client_certificates: false, ..whole.clone() };
        let keys: Vec<_> = untold.check().unwrap_err().0.into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, ["http_client_ca_file", "http_mtls_url"]);
        for bad in ["http://mtls.example", "https://mtls.example/", "mtls.example"] {
            let config = ControlPlaneConfig { http_mtls_url: Some(bad.to_owned()), ..whole.clone() };
            assert_eq!(config.check().unwrap_err().0.remove(0).key, "http_mtls_url", "{bad}");
        }
    }

    #[test]
    fn an_unknown_key_is_refused() {
        let error = serde_json::from_str::<ControlPlaneConfig>(r#"{"lissten": "127.0.0.1:1"}"#).unwrap_err();
        assert!(error.to_string().contains("lissten"), "{error}");
    }
}
