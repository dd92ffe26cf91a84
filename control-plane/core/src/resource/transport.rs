//! How data planes reach a server: where it may be, who it is, what it is shown, and how much of it is asked at once.
//!
//! All of it is optional and says less than the data plane's own configuration would without it. Secrets are named,
//! never written: `secret` keeps them. Called by `checks`, `apply` and `view`. Absent: doing any of it
//! (`data-plane/server`).

use bailiwick_proto::{address::Network, names, v1};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ServerSpec,
    checks::{Fault, timeout_ms},
};

/// Most networks of one server.
const NETWORKS_MAX: usize = 32;
/// Longest text with certificates: several of them, and a spec has room for it.
const CA_BYTES_MAX: usize = 16 * 1024;
/// Longest scheme; real ones have a word.
const SCHEME_CHARS_MAX: usize = 32;
/// Longest name of a header.
const HEADER_CHARS_MAX: usize = 64;
/// Most requests under way at once that may be asked for, and most that may wait.
const CONNECTIONS_MAX: u32 = 100_000;
/// Most faults in a row that may be asked for.
const FAULTS_MAX: u32 = 1_000;
/// Most times that a request may be sent: each costs the server.
const ATTEMPTS_MAX: u32 = 5;
/// The header a credential stands in, where nothing is said, and what stands before it there.
const HEADER_DEFAULT: &str = "authorization";
const SCHEME_DEFAULT: &str = "Bearer";
/// Headers that HTTP, MCP or tracing use themselves.
const TAKEN: [&str; 29] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "age",
    "allow",
    "baggage",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "date",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "last-event-id",
    "max-forwards",
    "origin",
    "range",
    "referer",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "via",
];
/// Beginnings of such headers.
const TAKEN_PREFIXES: [&str; 6] = ["mcp-", "access-control-", "proxy-", "sec-", "x-forwarded-", "bailiwick-"];
const TIME_RULE: &str = "must be a whole number with a unit, from \"1ms\" to \"10m\", e.g. \"5s\"";
const SECRET_RULE: &str = "must be 1 to 63 lower-case letters, digits and inner hyphens, dots or underscores";

/// How a server proves who it is, and how the gateway does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsSpec {
    /// Certificates in PEM that are trusted instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<String>,
    /// The name in the server's certificate, where it is not the URL's host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// The gateway's own certificate chain and key in PEM: a sealed secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<SecretRef>,
}

/// A sealed secret, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretRef {
    /// Its name; `bailiwick secret set` seals it.
    pub secret: String,
}

/// What the server is shown with every request. The caller's own token never is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CredentialSpec {
    /// Name of the sealed secret; `bailiwick secret set` seals it.
    pub secret: String,
    /// The header it stands in; Authorization where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The word before it; "Bearer" in Authorization, and nothing in other headers, where absent. May be empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
}

/// How long things may take, and how much may be asked at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsSpec {
    /// Longest wait for a connection, from resolving the name to the end of the TLS handshake, e.g. "5s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connect: Option<String>,
    /// How long an unused connection is kept, e.g. "90s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// Most requests under way at once on one data plane. Over HTTP/1.1 each has a connection of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
    /// Most requests that wait for one of those to end; more are refused at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<u32>,
}

/// When a server that fails is left alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BreakerSpec {
    /// Faults of the connection in a row after which the server is left alone; 0: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults: Option<u32>,
    /// For how long, the first time; doubles while the server goes on failing, e.g. "1s".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<String>,
}

/// What is sent again when a connection fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RetrySpec {
    /// How often a request is sent at most, the first time included: 1 to 5. Once it has left, only what reads or is
    /// idempotent, by the tool's approved annotations, is sent again.
    pub attempts: u32,
    /// Before the second time; doubles, and is jittered; 100ms where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<String>,
}

impl ServerSpec {
    /// The names of the secrets it needs, each with its key.
    pub fn secrets(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let client = self.endpoint.tls.as_ref().and_then(|tls| tls.client.as_ref());
        let client = client.map(|client| ("spec.endpoint.tls.client.secret", client.secret.as_str()));
        let credential = self.credential.as_ref().map(|shown| ("spec.credential.secret", shown.secret.as_str()));
        let command = self.endpoint.command.iter().flat_map(|command| command.secrets());
        client.into_iter().chain(credential).chain(command.map(|name| ("spec.endpoint.command.env", name)))
    }

    /// Writes it as data planes see it.
    pub(crate) fn view_transport(&self, server: &mut v1::Server) {
        let ms = |text: &Option<String>| text.as_deref().and_then(timeout_ms).unwrap_or_default();
        server.networks.clone_from(&self.endpoint.networks);
        if let Some(limits) = &self.limits {
            server.connect_timeout_ms = ms(&limits.connect);
            server.idle_timeout_ms = ms(&limits.idle);
            server.connections = limits.connections.unwrap_or_default();
            server.waiting = limits.waiting;
        }
        if let Some(breaker) = &self.breaker {
            server.breaker_faults = match breaker.faults {
                Some(0) => u32::MAX,
                faults => faults.unwrap_or_default(),
            };
            server.breaker_pause_ms = ms(&breaker.pause);
        }
        server.retry =
            self.retry.as_ref().map(|retry| v1::Retry { attempts: retry.attempts, pause_ms: ms(&retry.pause) });
        server.tls = self.endpoint.tls.as_ref().map(|tls| v1::Tls {
            ca: tls.ca.clone().unwrap_or_default(),
            server_name: tls.server_name.clone().unwrap_or_default(),
            client: tls.client.as_ref().map(|client| client.secret.clone()).unwrap_or_default(),
        });
        server.credential = self.credential.as_ref().map(CredentialSpec::view);
        server.no_context = self.context == Some(false);
    }

    /// What is wrong with it.
    pub(super) fn transport_faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut require = |holds: bool, key: &str, message: &str| {
            if !holds {
                faults.push(Fault::new(format!("spec.{key}"), message));
            }
        };
        let networks = &self.endpoint.networks;
        require(networks.len() <= NETWORKS_MAX, "endpoint.networks", "must be at most 32 networks");
        for (index, network) in networks.iter().enumerate() {
            let read = network.parse::<Network>();
            let message = read.as_ref().err().map(ToString::to_string).unwrap_or_default();
            require(read.is_ok(), &format!("endpoint.networks[{index}]"), &message);
        }
        if let Some(tls) = &self.endpoint.tls {
            let is_pem = tls.ca.as_deref().is_none_or(|ca| ca.len() <= CA_BYTES_MAX && holds_certificates(ca));
            require(
                is_pem,
                "endpoint.tls.ca",
                "must be certificates in PEM (-----BEGIN CERTIFICATE-----), at most 16 KiB",
            );
            let is_name =
                tls.server_name.as_deref().is_none_or(|name| name.parse::<bailiwick_proto::address::Host>().is_ok());
            require(is_name, "endpoint.tls.server_name", "must be a name, or an address as in a URL");
            let is_secret = tls.client.as_ref().is_none_or(|client| names::is_resource_name(&client.secret));
            require(is_secret, "endpoint.tls.client.secret", SECRET_RULE);
            let is_https = self.endpoint.url.starts_with("https://");
            require(is_https, "endpoint.tls", "is only for a URL that begins with https://");
        }
        if let Some(shown) = &self.credential {
            require(names::is_resource_name(&shown.secret), "credential.secret", SECRET_RULE);
            require(is_free_header(&shown.header()), "credential.header", HEADER_RULE);
            let is_scheme = shown.scheme.as_deref().is_none_or(is_scheme);
            require(is_scheme, "credential.scheme", "must be at most 32 letters, digits and hyphens");
        }
        let is_time = |text: &Option<String>| text.as_deref().is_none_or(|text| timeout_ms(text).is_some());
        let limits = self.limits.clone().unwrap_or_default();
        require(is_time(&limits.connect), "limits.connect", TIME_RULE);
        require(is_time(&limits.idle), "limits.idle", TIME_RULE);
        let are_some = limits.connections.is_none_or(|most| (1..=CONNECTIONS_MAX).contains(&most));
        require(are_some, "limits.connections", "must be from 1 to 100000");
        require(
            limits.waiting.is_none_or(|most| most <= CONNECTIONS_MAX),
            "limits.waiting",
            "must be from 0 to 100000",
        );
        let breaker = self.breaker.clone().unwrap_or_default();
        require(breaker.faults.is_none_or(|faults| faults <= FAULTS_MAX), "breaker.faults", "must be from 0 to 1000");
        require(is_time(&breaker.pause), "breaker.pause", TIME_RULE);
        if let Some(retry) = &self.retry {
            require((1..=ATTEMPTS_MAX).contains(&retry.attempts), "retry.attempts", "must be from 1 to 5");
            require(is_time(&retry.pause), "retry.pause", TIME_RULE);
        }
        faults
    }
}

const HEADER_RULE: &str = "must be a header's name that HTTP, MCP and tracing do not use themselves";

impl CredentialSpec {
    fn header(&self) -> String {
        self.header.as_deref().unwrap_or(HEADER_DEFAULT).to_ascii_lowercase()
    }

    fn view(&self) -> v1::Credential {
        let header = self.header();
        let scheme_default = if header == HEADER_DEFAULT { SCHEME_DEFAULT } else { "" };
        let scheme = self.scheme.as_deref().unwrap_or(scheme_default).to_owned();
        v1::Credential { secret: self.secret.clone(), header, scheme }
    }
}

/// Whether a credential may stand in a header of this name, which is in lower case.
fn is_free_header(name: &str) -> bool {
    let is_name = http::HeaderName::from_bytes(name.as_bytes()).is_ok() && name.len() <= HEADER_CHARS_MAX;
    is_name && !TAKEN.contains(&name) && !TAKEN_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn is_scheme(scheme: &str) -> bool {
    scheme.len() <= SCHEME_CHARS_MAX && scheme.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Whether a text is certificates in PEM and nothing else; what is in them, a data plane finds out.
fn holds_certificates(text: &str) -> bool {
    let (mut inside, mut some) = (false, false);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        match (line, inside) {
            ("-----BEGIN CERTIFICATE-----", false) => inside = true,
            ("-----END CERTIFICATE-----", true) => (inside, some) = (false, true),
            // Whose certificate it is, often stands above it.
            (line, false) if !line.starts_with("-----") => {}
            (line, true) if line.chars().all(|c| c.is_ascii_alphanumeric() || "+/=".contains(c)) => {}
            _ => return false,
        }
    }
    some && !inside
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(rest: &str) -> ServerSpec {
        let text = format!(r#"{{"endpoint": {{"url": "https://h/"}}, {rest}}}"#);
        serde_json::from_str(&text.replace(", }", "}")).unwrap()
    }

    fn at(endpoint: &str) -> ServerSpec {
        serde_json::from_str(&format!(r#"{{"endpoint": {{"url": "https://h/", {endpoint}}}}}"#)).unwrap()
    }

    #[test]
    fn without_a_word_everything_is_as_the_node_says() {
        let mut server = v1::Server::default();
        spec("").view_transport(&mut server);
        assert_eq!(server, v1::Server::default());
    }

    #[test]
    fn what_is_said_travels_with_its_defaults() {
        let mut server = v1::Server::default();
        let said = spec(
            r#""credential": {"secret": "key"}, "limits": {"connect": "2s", "connections": 3, "waiting": 0},
            "breaker": {"faults": 0}, "retry": {"attempts": 2}, "context": false"#,
        );
        assert!(said.transport_faults().is_empty());
        said.view_transport(&mut server);
        assert_eq!((server.connect_timeout_ms, server.connections, server.waiting), (2_000, 3, Some(0)));
        assert_eq!((server.breaker_faults, server.retry.unwrap().attempts), (u32::MAX, 2));
        assert!(server.no_context);
        let shown = |header: &str, scheme: &str| v1::Credential {
            secret: "key".into(),
            header: header.into(),
            scheme: scheme.into(),
        };
        assert_eq!(server.credential.unwrap(), shown("authorization", "Bearer"));
        let other = spec(r#""credential": {"secret": "key", "header": "X-API-Key"}"#).credential.unwrap();
        assert_eq!(other.view(), shown("x-api-key", ""));
    }

    #[test]
    fn values_that_do_not_fit_are_told_by_key() {
        for (said, key) in [
            (at(r#""networks": ["10.0.0.1/8"]"#), "endpoint.networks[0]"),
            (at(r#""tls": {"ca": "none"}"#), "endpoint.tls.ca"),
            (at(r#""tls": {"server_name": "a b"}"#), "endpoint.tls.server_name"),
            (at(r#""tls": {"client": {"secret": "A B"}}"#), "endpoint.tls.client.secret"),
            (spec(r#""credential": {"secret": ""}"#), "credential.secret"),
            (spec(r#""credential": {"secret": "k", "header": "Mcp-Session-Id"}"#), "credential.header"),
            (spec(r#""credential": {"secret": "k", "header": "Host"}"#), "credential.header"),
            (spec(r#""credential": {"secret": "k", "header": "a b"}"#), "credential.header"),
            (spec(r#""credential": {"secret": "k", "scheme": "a b"}"#), "credential.scheme"),
            (spec(r#""limits": {"connect": "1h"}"#), "limits.connect"),
            (spec(r#""limits": {"connections": 0}"#), "limits.connections"),
            (spec(r#""breaker": {"faults": 1001}"#), "breaker.faults"),
            (spec(r#""retry": {"attempts": 6}"#), "retry.attempts"),
            (spec(r#""retry": {"attempts": 2, "pause": "x"}"#), "retry.pause"),
        ] {
            let keys: Vec<_> = said.transport_faults().into_iter().map(|fault| fault.key).collect();
            assert_eq!(keys, [format!("spec.{key}")]);
        }
    }

    #[test]
    fn certificates_are_told_from_keys_and_prose() {
        let certificate = "subject=x\n-----BEGIN CERTIFICATE-----\nAAA+/=\n-----END CERTIFICATE-----\n";
        assert!(holds_certificates(certificate) && holds_certificates(&certificate.repeat(2)));
        for bad in
            ["", "x", "-----BEGIN CERTIFICATE-----\nAA\n", "-----BEGIN PRIVATE KEY-----\nAA\n-----END PRIVATE KEY-----"]
        {
            assert!(!holds_certificates(bad), "{bad}");
        }
        assert!(!holds_certificates(&format!("{certificate}-----BEGIN PRIVATE KEY-----\n")));
    }
}
