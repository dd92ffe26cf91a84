//! What answers: a node's health listener, its other listeners, the event stream.
//!
//! A node of this machine's configuration that does not run is a warning, so that the doctor can look at a machine
//! before the first start; one that runs and is not ready is a failure.

use std::{net::SocketAddr, time::Duration};

use reqwest::Client;
use tokio::net::TcpStream;

use super::{
    clock::{self, Skew},
    finding::Finding,
};

/// Longest wait for an answer on this machine or in this region.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Most of a health answer that is read: a line for each condition.
const HEALTH_CHARS_MAX: usize = 1_000;

/// What a health listener said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) ready: bool,
    /// One condition a line, `name: ok` or `name: why not`.
    pub(crate) conditions: String,
    pub(crate) skew: Option<Skew>,
}

/// Asks `/readyz`; `None` if nobody answers.
pub(crate) async fn health(client: &Client, listen: SocketAddr) -> Option<Health> {
    let sent = clock::now_millis();
    let answer = client.get(format!("http://{}/readyz", connectable(listen))).send().await.ok()?;
    let received = clock::now_millis();
    let date = answer.headers().get("date").and_then(|date| date.to_str().ok()).and_then(clock::date_millis);
    let ready = answer.status().is_success();
    let conditions = answer.text().await.ok()?.chars().take(HEALTH_CHARS_MAX).collect();
    Some(Health { ready, conditions, skew: date.map(|date| Skew::of(date, sent, received)) })
}

/// A client for health listeners.
pub(crate) fn client() -> reqwest::Result<Client> {
    Client::builder().timeout(ANSWER_WAIT_MAX).no_proxy().build()
}

/// A listener on all addresses is asked on loopback.
pub(crate) fn connectable(listen: SocketAddr) -> SocketAddr {
    if !listen.ip().is_unspecified() {
        return listen;
    }
    let loopback = match listen {
        SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(loopback, listen.port())
}

/// A node of this machine.
pub(crate) fn check_health(node: &str, health: Option<&Health>) -> Finding {
    match health {
        None => Finding::warn("running", node, "does not answer at its health listener", "start it, and see its log"),
        Some(health) if health.ready => Finding::ok("running", node, "ready"),
        Some(health) => {
            let waiting: Vec<&str> = health.conditions.lines().filter(|line| !line.ends_with(": ok")).collect();
            Finding::fail("running", node, waiting.join("; "), "see its log; the page on failures names each condition")
        }
    }
}

/// Whether something takes a TCP connection at `address` (`host:port`).
pub(crate) async fn connects(address: &str) -> bool {
    matches!(tokio::time::timeout(ANSWER_WAIT_MAX, TcpStream::connect(address)).await, Ok(Ok(_)))
}

/// The listener of a node that runs.
pub(crate) async fn listens(address: SocketAddr) -> bool {
    connects(&connectable(address).to_string()).await
}

pub(crate) fn check_listener(node: &str, what: &str, address: SocketAddr, connects: bool) -> Finding {
    let subject = format!("{node} {what}");
    if connects {
        Finding::ok("port", subject, address.to_string())
    } else {
        let advice = "the node runs but does not take connections here: too many open files, or a local firewall";
        Finding::fail("port", subject, address.to_string(), advice)
    }
}

/// The event stream's address as `host:port`.
pub(crate) fn stream_address(url: &str) -> Option<String> {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest).split('/').next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    Some(if has_port { host.to_owned() } else { format!("{host}:4222") })
}

pub(crate) fn check_stream(address: &str, connects: bool) -> Finding {
    if connects {
        return Finding::ok("event-stream", address, "takes connections");
    }
    let advice = "nodes keep their records until it is back; start NATS, or correct `url` in [nats]";
    Finding::fail("event-stream", address, "takes no connection", advice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    #[test]
    fn a_node_that_runs_without_being_ready_fails_and_says_why() {
        let health = |ready, conditions: &str| Health { ready, conditions: conditions.into(), skew: None };
        assert_eq!(check_health("dp", None).level, Level::Warn);
        assert_eq!(check_health("dp", Some(&health(true, "config: ok\n"))).level, Level::Ok);
        let found = check_health("dp", Some(&health(false, "config: ok\nspool: full\n")));
        assert_eq!((found.level, found.detail.as_str()), (Level::Fail, "spool: full"));
    }

    #[test]
    fn the_event_streams_address_is_read_out_of_its_url() {
        for (url, expected) in [
            ("nats://127.0.0.1:4222", "127.0.0.1:4222"),
            ("nats://nats.internal", "nats.internal:4222"),
            ("tls://user:pass@nats.internal:4333/x", "nats.internal:4333"),
            ("nats.internal:4222", "nats.internal:4222"),
            ("nats://[::1]:4222", "[::1]:4222"),
            ("nats://[::1]", "[::1]:4222"),
        ] {
            assert_eq!(stream_address(url).as_deref(), Some(expected), "{url}");
        }
    }

    #[tokio::test]
    async fn a_listener_on_all_addresses_is_asked_on_loopback() {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert!(listens(address).await);
        // Held without listening, so that nobody else does there.
        let silent = tokio::net::TcpSocket::new_v4().unwrap();
        silent.bind("0.0.0.0:0".parse().unwrap()).unwrap();
        let address = silent.local_addr().unwrap();
        assert!(!listens(address).await);
        assert_eq!(check_listener("dp", "mcp", address, false).level, Level::Fail);
    }
}
