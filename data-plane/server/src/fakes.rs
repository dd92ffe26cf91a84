//! The other processes, as far as this node's tests need them: an MCP server that misbehaves on demand, a control plane
//! that streams what it is told, and a ledger that stores, all on loopback and in this process.

pub(crate) mod control_plane;
pub(crate) mod holder;
pub(crate) mod ledger;
pub(crate) mod server;
pub(crate) mod teller;
pub(crate) mod world;

use std::time::Duration;

use crate::config::UpstreamConfig;

/// Waits until `done` holds; fails the test after ten seconds.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

/// Servers of tests are on this machine.
pub(crate) fn loopback() -> UpstreamConfig {
    UpstreamConfig { allowed_networks: vec!["127.0.0.0/8".into()], ..UpstreamConfig::default() }
}
