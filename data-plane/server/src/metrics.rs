//! Every metric of a data-plane node, with its help text. No label is unbounded.
//!
//! Set by the modules that own what is measured; rendered by the operations listener.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64},
};

use bailiwick_proto::{Reason, v1};
use bailiwick_runtime::metrics::Registry;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};

use crate::{telemetry::Operations, upstream::UpstreamMetrics};

/// Seconds; what the semantic conventions for MCP prescribe, with finer steps for the gateway's own part.
const DURATION_BUCKETS: [f64; 16] =
    [0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0];

/// One stable reason.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    reason: &'static str,
}

/// What a service was told, and why not more.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct DecisionLabel {
    decision: &'static str,
    reason: &'static str,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct StatusLabel {
    status: &'static str,
}

/// What kind of stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct KindLabel {
    kind: &'static str,
}

/// The streams of events that clients have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamKind {
    /// A modern client listens to changes.
    Listen,
    /// A legacy client does.
    Get,
    /// Something was said before an answer.
    Call,
}

/// Why a connection was not served, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct PartingLabel {
    why: &'static str,
}

/// Why a connection was not served, or no longer, where that was this side's doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parting {
    /// Every place is taken, and nobody gives way.
    Full,
    /// Somebody else needed the place.
    GaveWay,
    /// The client does not take what is there for it.
    Untaken,
    /// What a balancer must say first is not there.
    Balancer,
    /// No TLS, or nothing for too long.
    NotOpened,
}

/// Counted for as long as it is there.
#[derive(Debug)]
pub(crate) struct Counted(Gauge<i64, AtomicI64>);

impl Counted {
    pub(crate) fn of(gauge: &Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// All of them; cheap to share by reference.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) calls: Family<StatusLabel, Counter>,
    pub(crate) calls_decided: Counter,
    pub(crate) calls_denied: Counter,
    pub(crate) lists: Counter,
    pub(crate) lists_hidden: Counter,
    evaluations: Family<DecisionLabel, Counter>,
    pub(crate) proofs_used_twice: Counter,
    pub(crate) proofs_from_the_future: Counter,
    pub(crate) servers_left_out: Family<ReasonLabel, Counter>,
    pub(crate) refusals: Family<ReasonLabel, Counter>,
    pub(crate) connections: Gauge<i64, AtomicI64>,
    partings: Family<PartingLabel, Counter>,
    pub(crate) certificate_not_after: Gauge<i64, AtomicI64>,
    pub(crate) certificates_renewed: Counter,
    pub(crate) certificates_refused: Counter,
    open_streams: Family<KindLabel, Gauge<i64, AtomicI64>>,
    pub(crate) call_seconds: Histogram,
    pub(crate) upstream_seconds: Histogram,
    pub(crate) records: Counter,
    pub(crate) publish_failures: Counter,
    pub(crate) spool_bytes: Gauge<i64, AtomicI64>,
    pub(crate) records_unpublished: Gauge<i64, AtomicI64>,
    pub(crate) oldest_open_call_seconds: Gauge<i64, AtomicI64>,
    pub(crate) config_revision: Gauge<i64, AtomicI64>,
    pub(crate) in_rollout: Gauge<i64, AtomicI64>,
    /// The rollout that counts here, and what was counted before it did.
    before_rollout: Mutex<Option<(Arc<str>, v1::Counts)>>,
    pub(crate) config_connected: Gauge<i64, AtomicI64>,
    pub(crate) config_refused: Counter<u64, AtomicU64>,
    pub(crate) lane_connected: Gauge<i64, AtomicI64>,
    pub(crate) lanes_refused: Counter<u64, AtomicU64>,
    pub(crate) lease_age_seconds: Gauge<f64, AtomicU64>,
    pub(crate) denials: Counter,
    pub(crate) snapshot_kept: Gauge<i64, AtomicI64>,
    pub(crate) snapshot_in_use: Gauge<i64, AtomicI64>,
    pub(crate) snapshot_failures: Counter,
    pub(crate) reserves_kept: Gauge<i64, AtomicI64>,
    pub(crate) operations: Operations,
    pub(crate) upstream: UpstreamMetrics,
    pub(crate) spans_lost: Counter,
}

impl Metrics {
    /// Makes and registers all metrics.
    pub(crate) fn new(registry: &Registry) -> Self {
        let metrics = Self {
            calls: Family::default(),
            calls_decided: Counter::default(),
            calls_denied: Counter::default(),
            lists: Counter::default(),
            lists_hidden: Counter::default(),
            evaluations: Family::default(),
            proofs_used_twice: Counter::default(),
            proofs_from_the_future: Counter::default(),
            servers_left_out: Family::default(),
            refusals: Family::default(),
            connections: Gauge::default(),
            partings: Family::default(),
            certificate_not_after: Gauge::default(),
            certificates_renewed: Counter::default(),
            certificates_refused: Counter::default(),
            open_streams: Family::default(),
            call_seconds: Histogram::new(DURATION_BUCKETS),
            upstream_seconds: Histogram::new(DURATION_BUCKETS),
            records: Counter::default(),
            publish_failures: Counter::default(),
            spool_bytes: Gauge::default(),
            records_unpublished: Gauge::default(),
            oldest_open_call_seconds: Gauge::default(),
            config_revision: Gauge::default(),
            in_rollout: Gauge::default(),
            before_rollout: Mutex::default(),
            config_connected: Gauge::default(),
            config_refused: Counter::default(),
            lane_connected: Gauge::default(),
            lanes_refused: Counter::default(),
            lease_age_seconds: Gauge::default(),
            denials: Counter::default(),
            snapshot_kept: Gauge::default(),
            snapshot_in_use: Gauge::default(),
            snapshot_failures: Counter::default(),
            reserves_kept: Gauge::default(),
            operations: Operations::new(),
            upstream: UpstreamMetrics::default(),
            spans_lost: Counter::default(),
        };
        metrics.upstream.register(registry);
        let named = |name: &str| format!("bailiwick_data_plane_{name}");
        let add = |name: &str, help: &str, metric: &Counter| registry.register(&named(name), help, metric.clone());
        registry.register(&named("calls"), "Tool calls that were forwarded, by how they ended", metrics.calls.clone());
        registry.register(&named("refusals"), "Requests refused, by reason", metrics.refusals.clone());
        let evaluations = "Decisions that services asked for, by reason of denial";
        registry.register(&named("evaluations"), evaluations, metrics.evaluations.clone());
        registry.register(&named("connections"), "Connections of clients", metrics.connections.clone());
        let ended =
            "Connections that were not served, or no longer, by why: `full`, `gave_way` to another, `untaken` answers";
        registry.register(&named("connections_ended"), ended, metrics.partings.clone());
        let streams = "Streams of events that clients have open: `listen` and `get` to changes, `call` to an answer";
        registry.register(&named("open_streams"), streams, metrics.open_streams.clone());
        let whole = "Time from a request's arrival to its answer, for forwarded tool calls, in seconds";
        registry.register(&named("call_duration_seconds"), whole, metrics.call_seconds.clone());
        let upstream = "Time a server took to answer a tool call, in seconds";
        registry.register(&named("upstream_duration_seconds"), upstream, metrics.upstream_seconds.clone());
        add("calls_decided", "Tool calls that were decided, permitted or denied", &metrics.calls_decided);
        add("calls_denied", "Tool calls that were denied by what is in force", &metrics.calls_denied);
        add("lists", "Lists of tools that were answered", &metrics.lists);
        let hidden = "How much of those lists was left out, in thousandths of each list";
        add("lists_hidden_thousandths", hidden, &metrics.lists_hidden);
        let left_out = "Servers left out of a list, an introduction or the setting of a log's level, by reason";
        registry.register(&named("servers_left_out"), left_out, metrics.servers_left_out.clone());
        add("records", "Records written to the spool", &metrics.records);
        add("publish_failures", "Batches of records the event stream did not take", &metrics.publish_failures);
        registry.register(&named("spool_bytes"), "Bytes of records on disk", metrics.spool_bytes.clone());
        let unpublished = "Records that no published checkpoint covers yet";
        registry.register(&named("records_unpublished"), unpublished, metrics.records_unpublished.clone());
        let oldest =
            "Time since the oldest call without an outcome was recorded, in seconds; the spool keeps all since";
        registry.register(&named("oldest_open_call_seconds"), oldest, metrics.oldest_open_call_seconds.clone());
        registry.register(&named("config_revision"), "Revision in force", metrics.config_revision.clone());
        let in_rollout = "1 while a change that is rolled out in stages counts for this node";
        registry.register(&named("in_rollout"), in_rollout, metrics.in_rollout.clone());
        let connected = "1 while the config stream is open";
        registry.register(&named("config_connected"), connected, metrics.config_connected.clone());
        add("config_refused", "Config frames this node could not apply", &metrics.config_refused);
        let given_up = "Revocation lanes given up because a frame was lost, repeated or out of order";
        add("lanes_refused", given_up, &metrics.lanes_refused);
        let lane = "1 while the revocation lane is open";
        registry.register(&named("lane_connected"), lane, metrics.lane_connected.clone());
        let age = "Time since the last lease that counts was asked for, in seconds; -1 without one";
        registry.register(&named("lease_age_seconds"), age, metrics.lease_age_seconds.clone());
        add("denials", "Keys barred by the revocation lane before the config stream brought it", &metrics.denials);
        let lost = "Spans that the collector did not take, or that were too many to wait for it";
        add("spans_lost", lost, &metrics.spans_lost);
        // Under the names of OpenTelemetry's conventions, which no role has to itself.
        for durations in [&metrics.operations.server, &metrics.operations.client] {
            registry.register(&durations.prometheus_name(), durations.description(), durations.clone());
        }
        metrics.register_kept(registry);
        metrics.register_certificate(registry);
        metrics.register_proofs(registry);
        metrics
    }

    /// What other nodes told of proofs of possession.
    fn register_proofs(&self, registry: &Registry) {
        let named = |name: &str| format!("bailiwick_data_plane_{name}");
        let twice =
            "Proofs that this node took and another one too, before they heard of each other: captured requests";
        registry.register(&named("proofs_used_twice"), twice, self.proofs_used_twice.clone());
        let ahead = "Proofs that other nodes said were used, at a time that no node with a good clock takes";
        registry.register(&named("proofs_from_the_future"), ahead, self.proofs_from_the_future.clone());
    }

    /// What clients see of this node's TLS.
    fn register_certificate(&self, registry: &Registry) {
        let named = |name: &str| format!("bailiwick_data_plane_{name}");
        let ends = "When the certificate that clients see ends, in seconds since 1970; 0 without TLS";
        registry.register(&named("tls_certificate_not_after_seconds"), ends, self.certificate_not_after.clone());
        let renewed = "How often another certificate was read from the files";
        registry.register(&named("tls_certificates_renewed"), renewed, self.certificates_renewed.clone());
        let refused = "How often the files held no certificate and key that fit; the one before goes on";
        registry.register(&named("tls_certificates_refused"), refused, self.certificates_refused.clone());
    }

    /// What a restart without a control plane needs, and whether there was one.
    fn register_kept(&self, registry: &Registry) {
        let named = |name: &str| format!("bailiwick_data_plane_{name}");
        let kept = "1 while the configuration on disk follows the one in force";
        registry.register(&named("snapshot_kept"), kept, self.snapshot_kept.clone());
        let in_use = "1 while this node serves the configuration that it kept on disk, without a control plane";
        registry.register(&named("snapshot_in_use"), in_use, self.snapshot_in_use.clone());
        let failures = "How often what was kept on disk was put away and asked for anew";
        registry.register(&named("snapshot_failures"), failures, self.snapshot_failures.clone());
        let reserve = "How often this node could begin another run without a control plane";
        registry.register(&named("reserves_kept"), reserve, self.reserves_kept.clone());
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, reason: Reason) {
        self.refusals.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    /// Counts a connection that was not served, or no longer.
    pub(crate) fn parted(&self, parting: Parting) {
        let why = match parting {
            Parting::Full => "full",
            Parting::GaveWay => "gave_way",
            Parting::Untaken => "untaken",
            Parting::Balancer => "proxy_protocol",
            Parting::NotOpened => "not_opened",
        };
        self.partings.get_or_create(&PartingLabel { why }).inc();
    }

    /// Counts a stream while what is returned is there.
    pub(crate) fn stream(&self, kind: StreamKind) -> Counted {
        let kind = match kind {
            StreamKind::Listen => "listen",
            StreamKind::Get => "get",
            StreamKind::Call => "call",
        };
        Counted::of(&self.open_streams.get_or_create(&KindLabel { kind }))
    }

    /// Counts a server that others are asked without.
    pub(crate) fn left_out(&self, reason: Reason) {
        self.servers_left_out.get_or_create(&ReasonLabel { reason: reason.as_str() }).inc();
    }

    /// Counts a decision for a service.
    pub(crate) fn evaluated(&self, denied: Option<Reason>) {
        let decision = if denied.is_some() { "deny" } else { "permit" };
        let label = DecisionLabel { decision, reason: denied.map_or("", Reason::as_str) };
        self.evaluations.get_or_create(&label).inc();
    }

    /// Counts a list, of which so much was left out.
    pub(crate) fn listed(&self, hidden_thousandths: u64) {
        self.lists.inc();
        self.lists_hidden.inc_by(hidden_thousandths);
    }

    /// What was decided since this run began, as the control plane is told.
    pub(crate) fn counts(&self) -> v1::Counts {
        v1::Counts {
            calls: self.calls_decided.get(),
            denied: self.calls_denied.get(),
            lists: self.lists.get(),
            hidden: self.lists_hidden.get(),
        }
    }

    /// This rollout counts here from now on, if it did not before; or none does.
    pub(crate) fn staged(&self, rollout: Option<&Arc<str>>) {
        self.in_rollout.set(i64::from(rollout.is_some()));
        let mut before = self.before_rollout.lock().unwrap_or_else(PoisonError::into_inner);
        if before.as_ref().map(|(known, _)| known) != rollout {
            *before = rollout.map(|rollout| (Arc::clone(rollout), self.counts()));
        }
    }

    /// What was counted before the rollout that counts here did.
    pub(crate) fn counts_before(&self) -> Option<v1::Counts> {
        let before = self.before_rollout.lock().unwrap_or_else(PoisonError::into_inner);
        before.as_ref().map(|(_, counts)| *counts)
    }

    /// Counts a forwarded call.
    pub(crate) fn called(&self, status: &'static str) {
        self.calls.get_or_create(&StatusLabel { status }).inc();
    }
}

/// A gauge's value from a count; gauges are signed.
pub(crate) fn gauge_value(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
