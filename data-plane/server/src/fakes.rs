//! The other processes, as far as this node's tests need them: an MCP server that misbehaves on demand, a control plane
//! that streams what it is told, and a ledger that stores, all on loopback and in this process.

pub(crate) mod control_plane;
pub(crate) mod holder;
pub(crate) mod ledger;
pub(crate) mod server;
pub(crate) mod teller;
pub(crate) mod world;

use std::{net::SocketAddr, time::Duration};

use tokio::net::TcpSocket;

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

/// An address that refuses connections. It is held, so that no other test listens there, as long as the socket lives.
pub(crate) fn closed() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    (socket.local_addr().unwrap(), socket)
}
