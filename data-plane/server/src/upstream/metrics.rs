//! What is counted of each server. The label is the server's name in manifests, of which there are only so many.
//!
//! Each route holds its own counters, so counting a request looks nothing up.

use std::sync::atomic::AtomicI64;

use bailiwick_proto::Reason;
use bailiwick_runtime::metrics::Registry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};

use super::fault::UpstreamFault;
use crate::metrics::Counted;

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ServerLabel {
    server: String,
}

/// A server, and why it gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct FaultLabel {
    server: String,
    reason: &'static str,
}

/// A server, and how a session with it ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct EndLabel {
    server: String,
    how: &'static str,
}

/// Of all servers; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct UpstreamMetrics {
    connections: Family<ServerLabel, Counter>,
    faults: Family<FaultLabel, Counter>,
    repeated: Family<ServerLabel, Counter>,
    left_alone: Family<ServerLabel, Gauge<i64, AtomicI64>>,
    sessions: Family<ServerLabel, Gauge<i64, AtomicI64>>,
    ends: Family<EndLabel, Counter>,
}

/// Of one server.
#[derive(Clone, Debug)]
pub(super) struct OfServer {
    server: String,
    connections: Counter,
    repeated: Counter,
    left_alone: Gauge<i64, AtomicI64>,
    faults: Family<FaultLabel, Counter>,
    sessions: Family<ServerLabel, Gauge<i64, AtomicI64>>,
    ends: Family<EndLabel, Counter>,
}

impl UpstreamMetrics {
    pub(crate) fn register(&self, registry: &Registry) {
        let named = |name: &str| format!("bailiwick_data_plane_server_{name}");
        let opened = "Connections opened to a server";
        registry.register(&named("connections_opened"), opened, self.connections.clone());
        let faults = "Requests to a server that got no usable answer, by reason";
        registry.register(&named("faults"), faults, self.faults.clone());
        let repeated = "Requests to a server that were sent again after a fault";
        registry.register(&named("requests_repeated"), repeated, self.repeated.clone());
        let left_alone = "1 while a server is left alone, because its connections failed again and again";
        registry.register(&named("left_alone"), left_alone, self.left_alone.clone());
        let sessions = "Programs that run as a server, or streams of one over HTTP+SSE";
        registry.register(&named("sessions"), sessions, self.sessions.clone());
        let ends = "Those that ended: because nobody needed them (wished), or by themselves (itself)";
        registry.register(&named("sessions_ended"), ends, self.ends.clone());
    }

    pub(super) fn of(&self, server: &str) -> OfServer {
        let label = ServerLabel { server: server.to_owned() };
        OfServer {
            server: server.to_owned(),
            connections: self.connections.get_or_create(&label).clone(),
            repeated: self.repeated.get_or_create(&label).clone(),
            left_alone: self.left_alone.get_or_create(&label).clone(),
            faults: self.faults.clone(),
            sessions: self.sessions.clone(),
            ends: self.ends.clone(),
        }
    }

    /// Forgets what was counted, with the servers it was counted of.
    pub(super) fn clear(&self) {
        self.connections.clear();
        self.faults.clear();
        self.repeated.clear();
        self.left_alone.clear();
        self.sessions.clear();
        self.ends.clear();
    }
}

impl OfServer {
    pub(super) fn connected(&self) {
        self.connections.inc();
    }

    pub(super) fn repeated(&self) {
        self.repeated.inc();
    }

    pub(super) fn left_alone(&self, is_left: bool) {
        self.left_alone.set(i64::from(is_left));
    }

    /// A session over a channel is there, until this is dropped.
    pub(super) fn session(&self) -> Counted {
        Counted::of(&self.sessions.get_or_create(&ServerLabel { server: self.server.clone() }))
    }

    /// One has ended.
    pub(super) fn ended(&self, by_itself: bool) {
        let how = if by_itself { "itself" } else { "wished" };
        self.ends.get_or_create(&EndLabel { server: self.server.clone(), how }).inc();
    }

    /// Counts what was the server's doing, or the way to it.
    pub(super) fn fault(&self, fault: &UpstreamFault) {
        let reason: Reason = match fault {
            UpstreamFault::Withheld(_) | UpstreamFault::InputRefused | UpstreamFault::SessionGone => return,
            fault => fault.reason(),
        };
        self.faults.get_or_create(&FaultLabel { server: self.server.clone(), reason: reason.as_str() }).inc();
    }
}
