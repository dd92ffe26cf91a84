//! What an operator may set about traces and metrics. Off unless a collector is named.
//!
//! Part of a role's section of the configuration file; checked with it, before anything binds.

use std::path::PathBuf;

use serde::Deserialize;

use crate::{config::ConfigProblems, connect::Targets};

/// Where telemetry goes, and how much of it. Every key has a default.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// An OpenTelemetry collector that takes OTLP over gRPC: `http://host:port` or `https://host:port`. None: telemetry
    /// leaves this node by `/metrics` only.
    pub endpoint: Option<String>,
    /// PEM certificates that may have signed the collector's; needed with `https`.
    pub ca_file: Option<PathBuf>,
    /// Whether spans are sent.
    pub traces: bool,
    /// Whether metrics are sent.
    pub metrics: bool,
    /// Of a thousand traces that begin at this cluster, how many are recorded.
    pub sampled_thousandths: u32,
    /// Whether traces that a client began are recorded if, and only if, the client records them.
    pub follow_client_sampling: bool,
    /// Between two reports of metrics, milliseconds.
    pub metrics_interval_ms: u64,
    /// Whether spans hold arguments and results of tools. They may hold secrets.
    pub capture_content: bool,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            endpoint: None,
            ca_file: None,
            traces: true,
            metrics: true,
            sampled_thousandths: 1_000,
            follow_client_sampling: true,
            metrics_interval_ms: 60_000,
            capture_content: false,
        }
    }
}

impl TelemetryConfig {
    /// Adds what is wrong to `problems`, each key with `section` before it.
    pub fn check(&self, section: &str, problems: &mut ConfigProblems) {
        let mut require = |holds: bool, key: &str, problem: &str| {
            if !holds {
                problems.add(format!("{section}.{key}"), problem);
            }
        };
        if let Some(endpoint) = &self.endpoint {
            match Targets::parse(&[endpoint]) {
                Err(error) => require(false, "endpoint", &error.to_string()),
                Ok(collector) => {
                    let tls = collector.all_tls();
                    require(!tls || self.ca_file.is_some(), "ca_file", "is needed with https");
                    require(tls || self.ca_file.is_none(), "ca_file", "is of no use without https");
                    let stays_secret = tls || is_loopback(endpoint);
                    let problem = "arguments and results do not leave this machine in plain text: use https";
                    require(!self.capture_content || stays_secret, "capture_content", problem);
                }
            }
        }
        require(self.sampled_thousandths <= 1_000, "sampled_thousandths", "is at most 1000");
        require(self.metrics_interval_ms >= 1_000, "metrics_interval_ms", "is at least 1000");
    }
}

fn is_loopback(url: &str) -> bool {
    let host = url.parse::<tonic::transport::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned));
    let host = host.unwrap_or_default();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(config: &TelemetryConfig) -> Vec<String> {
        let mut problems = ConfigProblems::default();
        config.check("telemetry", &mut problems);
        problems.0.into_iter().map(|problem| problem.key).collect()
    }

    fn with(endpoint: &str) -> TelemetryConfig {
        TelemetryConfig { endpoint: Some(endpoint.to_owned()), ..TelemetryConfig::default() }
    }

    #[test]
    fn a_collector_is_a_bare_url_and_https_names_who_may_sign() {
        assert!(mistakes(&TelemetryConfig::default()).is_empty());
        assert!(mistakes(&with("http://collector.internal:4317")).is_empty());
        assert_eq!(mistakes(&with("collector:4317")), ["telemetry.endpoint"]);
        assert_eq!(mistakes(&with("http://collector:4317/v1/traces")), ["telemetry.endpoint"]);
        assert_eq!(mistakes(&with("https://collector:4317")), ["telemetry.ca_file"]);
        assert_eq!(
            mistakes(&TelemetryConfig { ca_file: Some("ca.pem".into()), ..with("http://[::1]:1") }),
            ["telemetry.ca_file"]
        );
        let wrong = TelemetryConfig { sampled_thousandths: 1_001, metrics_interval_ms: 10, ..with("http://c:1") };
        assert_eq!(mistakes(&wrong), ["telemetry.sampled_thousandths", "telemetry.metrics_interval_ms"]);
    }

    #[test]
    fn content_does_not_leave_the_machine_in_plain_text() {
        let capturing = |endpoint| TelemetryConfig { capture_content: true, ..with(endpoint) };
        for local in ["http://127.0.0.1:4317", "http://[::1]:4317", "http://localhost:4317"] {
            assert!(mistakes(&capturing(local)).is_empty(), "{local}");
        }
        assert_eq!(mistakes(&capturing("http://collector.internal:4317")), ["telemetry.capture_content"]);
        let sealed = TelemetryConfig { ca_file: Some("ca.pem".into()), ..capturing("https://collector.internal:4317") };
        assert!(mistakes(&sealed).is_empty());
    }
}
