//! Telling the control plane what the servers show: first sight pins, a later difference is drift.
//!
//! One task. Looks at every server at a steady interval, and at servers without pinned tools soon after a
//! configuration change, again and again until they have some. A server that cannot be read is reported with the
//! error. Deliberately absent: pinning and quarantine (control plane).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bailiwick_data_plane_core::Config;
use bailiwick_enrolment::ControlPlane;
use bailiwick_proto::v1::{ReportToolsRequest, Server};
use futures::{StreamExt, stream};
use tokio::time::Instant;

use crate::{
    config_client::{self, Backoff, Client},
    config_state::ConfigState,
    upstream::Upstream,
};

/// How often every server is looked at: drift is noticed within it.
const INTERVAL: Duration = Duration::from_secs(30);
/// Servers looked at side by side.
const SERVERS_AT_ONCE: usize = 4;
/// Longest wait for the control plane to take a report.
const REPORT_WAIT_MAX: Duration = Duration::from_secs(10);

/// What the task needs.
#[derive(Debug)]
pub(crate) struct ToolReports {
    pub(crate) control_plane: ControlPlane,
    pub(crate) client: Client,
    pub(crate) node: String,
    pub(crate) state: Arc<ConfigState>,
    pub(crate) upstream: Arc<Upstream>,
}

impl ToolReports {
    /// Reports for ever.
    pub(crate) async fn run(mut self) {
        let mut changes = self.state.changes();
        let mut backoff = Backoff::default();
        let mut waiting = BTreeSet::new();
        let mut next_round = Instant::now();
        loop {
            let Some(config) = self.state.config() else {
                if changes.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let unpinned = unpinned(&config);
            if !unpinned.is_subset(&waiting) {
                backoff = Backoff::default();
            }
            waiting = unpinned;
            let whole_round = Instant::now() >= next_round;
            if whole_round {
                next_round = Instant::now() + INTERVAL;
            }
            let due = config.servers.values().filter(|server| whole_round || waiting.contains(&server.name));
            if !self.report_all(due.cloned().collect()).await {
                // It may be cut off from the others; whoever is tried first now is the config stream's affair.
                self.client = config_client::client(&self.control_plane);
            }
            let pause = if waiting.is_empty() { INTERVAL } else { backoff.next() };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = tokio::time::sleep_until(next_round) => {}
                changed = changes.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Whether all reports were taken.
    async fn report_all(&self, servers: Vec<Arc<Server>>) -> bool {
        let taken = stream::iter(servers).map(|server| self.report(server)).buffer_unordered(SERVERS_AT_ONCE);
        taken.fold(true, |all, taken| async move { all && taken }).await
    }

    async fn report(&self, server: Arc<Server>) -> bool {
        let (tools, error) = match self.upstream.list_tools(&server).await {
            Ok(tools) => (tools, String::new()),
            Err(fault) => {
                tracing::warn!(server = server.name, %fault, "a server's tools cannot be listed");
                (Vec::new(), fault.to_string())
            }
        };
        let request = ReportToolsRequest { node: self.node.clone(), server: server.name.clone(), tools, error };
        let mut client = self.client.clone();
        match tokio::time::timeout(REPORT_WAIT_MAX, client.report_tools(request)).await {
            Ok(Ok(_)) => true,
            Ok(Err(status)) => {
                tracing::debug!(%status, "a tool report was not taken");
                false
            }
            Err(_) => {
                tracing::debug!("no answer to a tool report");
                false
            }
        }
    }
}

/// Servers of which no tool is pinned yet.
fn unpinned(config: &Config) -> BTreeSet<String> {
    let pinned: BTreeSet<&String> = config.tools.keys().map(|(server, _)| server).collect();
    config.servers.keys().filter(|server| !pinned.contains(server)).cloned().collect()
}
