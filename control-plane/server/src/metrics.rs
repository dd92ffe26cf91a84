//! The control plane's metrics: names, help texts and labels, all here.
//!
//! Registered once by `serve`. Labels are words of this package, never names from outside, so the number of series is
//! fixed.

use std::time::Duration;

use bailiwick_runtime::metrics::Registry;
use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

type Labels = Vec<(&'static str, &'static str)>;

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    writes: Family<Labels, Counter>,
    replication_seconds: Histogram,
    revision: Gauge,
    nodes_connected: Gauge,
    lanes_connected: Gauge,
    config_drift: Gauge,
    leases_given: Counter,
    revocation_seconds: Histogram,
    silent_at_revocation: Counter,
    snapshots_sent: Counter,
    revisions_refused: Counter,
    records_published: Counter,
    records_waiting: Gauge,
    tokens_issued: Counter,
    tokens_refused: Family<Labels, Counter>,
    http_turned_away: Family<Labels, Counter>,
    handed_on: Counter,
    leads: Gauge,
    term: Gauge,
    members: Family<Labels, Gauge>,
    diverged: Gauge,
    rollout_share: Gauge,
    rollouts_taken_back: Counter,
    signals: Family<Labels, Counter>,
    signal_polls: Family<Labels, Counter>,
    signal_streams_failing: Gauge,
    signal_polled_at: Gauge,
    signal_verified_at: Gauge,
}

impl Metrics {
    /// Creates all metrics and adds them to `registry`.
    pub(crate) fn register(registry: &Registry) -> Self {
        let metrics = Self {
            writes: Family::default(),
            // 0.2 ms (a quiet disk) to 3 s (a dying one).
            replication_seconds: Histogram::new(exponential_buckets(0.0002, 2.0, 15)),
            revision: Gauge::default(),
            nodes_connected: Gauge::default(),
            lanes_connected: Gauge::default(),
            config_drift: Gauge::default(),
            leases_given: Counter::default(),
            // 1 ms (all nodes are near) to 4 s (the lease of one that is silent).
            revocation_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 13)),
            silent_at_revocation: Counter::default(),
            snapshots_sent: Counter::default(),
            revisions_refused: Counter::default(),
            records_published: Counter::default(),
            records_waiting: Gauge::default(),
            tokens_issued: Counter::default(),
            tokens_refused: Family::default(),
            http_turned_away: Family::default(),
            handed_on: Counter::default(),
            leads: Gauge::default(),
            term: Gauge::default(),
            members: Family::default(),
            diverged: Gauge::default(),
            rollout_share: Gauge::default(),
            rollouts_taken_back: Counter::default(),
            signals: Family::default(),
            signal_polls: Family::default(),
            signal_streams_failing: Gauge::default(),
            signal_polled_at: Gauge::default(),
            signal_verified_at: Gauge::default(),
        };
        let help = "Commands by what became of them: committed, unchanged, rejected or failed";
        registry.register("bailiwick_control_plane_writes", help, metrics.writes.clone());
        let help = "Seconds from a proposal to its being synced, committed and applied";
        registry.register("bailiwick_control_plane_replication_seconds", help, metrics.replication_seconds.clone());
        let add = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        add("bailiwick_control_plane_revision", "Revision applied last", &metrics.revision);
        add("bailiwick_control_plane_nodes_connected", "Nodes on the config stream", &metrics.nodes_connected);
        add(
            "bailiwick_control_plane_records_waiting",
            "Records made but not taken by the event stream",
            &metrics.records_waiting,
        );
        let add = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        add(
            "bailiwick_control_plane_snapshots_sent",
            "Nodes that got the whole configuration",
            &metrics.snapshots_sent,
        );
        add("bailiwick_control_plane_revisions_refused", "Revisions that a node refused", &metrics.revisions_refused);
        add(
            "bailiwick_control_plane_records_published",
            "Records handed to the event stream",
            &metrics.records_published,
        );
        add("bailiwick_control_plane_tokens_issued", "Access tokens minted", &metrics.tokens_issued);
        let refused = "Requests for tokens that were refused, by the error answered";
        registry.register("bailiwick_control_plane_tokens_refused", refused, metrics.tokens_refused.clone());
        let turned_away = "HTTP connections and requests that were turned away, by the limit that was reached";
        registry.register("bailiwick_control_plane_http_turned_away", turned_away, metrics.http_turned_away.clone());
        add("bailiwick_control_plane_handed_on", "Requests handed on to the leader", &metrics.handed_on);
        metrics.register_lanes(registry);
        metrics.register_cluster(registry);
        metrics.register_rollouts(registry);
        metrics.register_signals(registry);
        metrics
    }

    fn register_lanes(&self, registry: &Registry) {
        let help = "Data planes on a revocation lane";
        registry.register("bailiwick_control_plane_lanes_connected", help, self.lanes_connected.clone());
        let help = "Data planes that hold another configuration than they were sent; the log names them";
        registry.register("bailiwick_control_plane_config_drift", help, self.config_drift.clone());
        let help = "Leases given to data planes";
        registry.register("bailiwick_control_plane_leases_given", help, self.leases_given.clone());
        let help = "Seconds that revocations were waited for: until every data plane held to them, or had to";
        registry.register("bailiwick_control_plane_revocation_seconds", help, self.revocation_seconds.clone());
        let help = "Data planes that did not acknowledge a revocation before their lease ran out; the log names them";
        registry.register("bailiwick_control_plane_silent_at_revocation", help, self.silent_at_revocation.clone());
    }

    /// A revocation was waited for; so many data planes stayed silent.
    pub(crate) fn revocation(&self, waited: Duration, silent: usize) {
        self.revocation_seconds.observe(waited.as_secs_f64());
        self.silent_at_revocation.inc_by(u64::try_from(silent).unwrap_or(u64::MAX));
    }

    fn register_cluster(&self, registry: &Registry) {
        let add = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        add("bailiwick_control_plane_leads", "1 while this node leads the cluster, else 0", &self.leads);
        add("bailiwick_control_plane_term", "Term this node is in; grows with each election", &self.term);
        let help =
            "1 once this node has found that its event log differs from the others': it has stopped, keep its data";
        add("bailiwick_control_plane_diverged", help, &self.diverged);
        let help = "Control planes in consensus, by what they do: voter or learner";
        registry.register("bailiwick_control_plane_members", help, self.members.clone());
    }

    fn register_rollouts(&self, registry: &Registry) {
        let help = "Percent of the data planes that the rollout under way counts for, on the leader; 0: there is none";
        registry.register("bailiwick_control_plane_rollout_share", help, self.rollout_share.clone());
        let help = "Rollouts that this node, as the leader, took back by itself; the log and the ledger say why";
        registry.register("bailiwick_control_plane_rollouts_taken_back", help, self.rollouts_taken_back.clone());
    }

    fn register_signals(&self, registry: &Registry) {
        let help = "Signals of transmitters, by event and by what became of them";
        registry.register("bailiwick_control_plane_signals", help, self.signals.clone());
        let help = "Polls of transmitters, by what became of them: answered or failed";
        registry.register("bailiwick_control_plane_signal_polls", help, self.signal_polls.clone());
        let help = "Transmitters whose polls have failed for five minutes, on the leader; the log names them";
        let failing = self.signal_streams_failing.clone();
        registry.register("bailiwick_control_plane_signal_streams_failing", help, failing);
        let help = "When the last poll was answered of the transmitter that is longest silent, Unix seconds; 0: none";
        registry.register("bailiwick_control_plane_signal_polled_at", help, self.signal_polled_at.clone());
        let help =
            "When the stream was verified that was so longest ago, on the leader, Unix seconds; 0: none, or never";
        registry.register("bailiwick_control_plane_signal_verified_at", help, self.signal_verified_at.clone());
    }

    /// A signal came, and this became of it.
    pub(crate) fn signal(&self, event: &'static str, outcome: &'static str) {
        self.signals.get_or_create(&vec![("event", event), ("outcome", outcome)]).inc();
    }

    /// A transmitter was polled.
    pub(crate) fn signal_poll(&self, outcome: &'static str) {
        self.signal_polls.get_or_create(&vec![("outcome", outcome)]).inc();
    }

    /// So many transmitters fail, and the one longest silent answered then.
    pub(crate) fn signal_streams(&self, failing: usize, oldest: u64) {
        self.signal_streams_failing.set(i64::try_from(failing).unwrap_or(i64::MAX));
        self.signal_polled_at.set(gauge(oldest));
    }

    /// Of the streams that are set up from here, the one that was verified longest ago was so then.
    pub(crate) fn signal_verified(&self, oldest: u64) {
        self.signal_verified_at.set(gauge(oldest));
    }

    /// The rollout under way counts for so many percent.
    pub(crate) fn rollout(&self, share: u64) {
        self.rollout_share.set(gauge(share));
    }

    /// A rollout goes back by itself.
    pub(crate) fn rollout_taken_back(&self) {
        self.rollouts_taken_back.inc();
    }

    /// How consensus stands.
    pub(crate) fn consensus(&self, leads: bool, term: u64, voters: usize, learners: usize) {
        self.leads.set(i64::from(leads));
        self.term.set(gauge(term));
        for (kind, count) in [("voter", voters), ("learner", learners)] {
            self.members.get_or_create(&vec![("kind", kind)]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// This node's event log is not that of the others.
    pub(crate) fn diverged(&self) {
        self.diverged.set(1);
    }

    /// A request went on to the leader.
    pub(crate) fn handed_on(&self) {
        self.handed_on.inc();
    }

    /// A command ended in `outcome`.
    pub(crate) fn write(&self, outcome: &'static str) {
        self.writes.get_or_create(&vec![("outcome", outcome)]).inc();
    }

    /// A group of proposals was applied.
    pub(crate) fn replicated(&self, took: Duration) {
        self.replication_seconds.observe(took.as_secs_f64());
    }

    pub(crate) fn revision(&self, revision: u64) {
        self.revision.set(gauge(revision));
    }

    pub(crate) fn nodes_connected(&self, nodes: usize) {
        self.nodes_connected.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    /// So many nodes have a lane, and so many of them differ.
    pub(crate) fn lanes(&self, connected: usize, drifting: usize) {
        self.lanes_connected.set(i64::try_from(connected).unwrap_or(i64::MAX));
        self.config_drift.set(i64::try_from(drifting).unwrap_or(i64::MAX));
    }

    pub(crate) fn lease_given(&self) {
        self.leases_given.inc();
    }

    pub(crate) fn snapshot_sent(&self) {
        self.snapshots_sent.inc();
    }

    pub(crate) fn revision_refused(&self) {
        self.revisions_refused.inc();
    }

    pub(crate) fn records_published(&self, records: u64) {
        self.records_published.inc_by(records);
    }

    pub(crate) fn records_waiting(&self, records: u64) {
        self.records_waiting.set(gauge(records));
    }

    pub(crate) fn token_issued(&self) {
        self.tokens_issued.inc();
    }

    pub(crate) fn token_refused(&self, error: &'static str) {
        self.tokens_refused.get_or_create(&vec![("error", error)]).inc();
    }

    pub(crate) fn turned_away(&self, limit: TurnedAway) {
        self.http_turned_away.get_or_create(&vec![("limit", limit.word())]).inc();
    }
}

/// Which limit of the public HTTP listener was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// Of connections, in all and of one address.
    Connections,
    ConnectionsOfAddress,
    /// Of requests that an address makes in a second, that fail to prove who the client is, and that a client makes.
    Address,
    Failures,
    Client,
    /// Of answers of one person.
    Person,
    /// Of clients that register themselves.
    Registrations,
    /// Of requests worked on at a time, for one address and in all.
    Share,
    Places,
}

impl TurnedAway {
    const fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectionsOfAddress => "connections_per_address",
            Self::Address => "address",
            Self::Failures => "failures",
            Self::Client => "client",
            Self::Person => "person",
            Self::Registrations => "registrations",
            Self::Share => "share",
            Self::Places => "places",
        }
    }
}

/// Numbers for gauges; nothing here comes near the bound.
fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
