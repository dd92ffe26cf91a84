//! The ledger's metrics: names, help texts and labels, all here.
//!
//! Registered once by `serve`; updated by the sequencer and the publisher. No label comes from outside, so the number
//! of series is fixed.

use bailiwick_runtime::metrics::Registry;
use prometheus_client::metrics::{
    counter::Counter,
    family::Family,
    gauge::Gauge,
    histogram::{Histogram, exponential_buckets},
};

/// Label of refusals: one of the words of `Refusal::as_str`.
pub(crate) type RefusalLabel = Vec<(&'static str, &'static str)>;

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    pub(crate) records_stored: Counter,
    pub(crate) records_repeated: Counter,
    pub(crate) batches_refused: Family<RefusalLabel, Counter>,
    pub(crate) batches_early: Counter,
    pub(crate) batches_held: Gauge,
    pub(crate) replays_asked: Counter,
    pub(crate) commit_seconds: Histogram,
    pub(crate) commit_failures: Counter,
    pub(crate) log_size: Gauge,
    pub(crate) published_size: Gauge,
    pub(crate) publish_failures: Counter,
    pub(crate) publish_refused: Gauge,
}

impl Metrics {
    /// Creates all metrics and adds them to `registry`.
    pub(crate) fn register(registry: &Registry) -> Self {
        let metrics = Self {
            records_stored: Counter::default(),
            records_repeated: Counter::default(),
            batches_refused: Family::default(),
            batches_early: Counter::default(),
            batches_held: Gauge::default(),
            replays_asked: Counter::default(),
            // 0.2 ms (a quiet disk) to 3 s (a dying one).
            commit_seconds: Histogram::new(exponential_buckets(0.0002, 2.0, 15)),
            commit_failures: Counter::default(),
            log_size: Gauge::default(),
            published_size: Gauge::default(),
            publish_failures: Counter::default(),
            publish_refused: Gauge::default(),
        };
        let add = |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        add("bailiwick_ledger_records_stored", "Records appended to the log", &metrics.records_stored);
        add("bailiwick_ledger_records_repeated", "Records that were stored before", &metrics.records_repeated);
        add("bailiwick_ledger_batches_early", "Batches that came before something they need", &metrics.batches_early);
        add("bailiwick_ledger_replays_asked", "Requests to send records again", &metrics.replays_asked);
        add("bailiwick_ledger_commit_failures", "Writes of the database that failed", &metrics.commit_failures);
        add("bailiwick_ledger_publish_failures", "Attempts to publish that failed", &metrics.publish_failures);
        let help = "Batches refused: unreadable, mislabelled or not fitting their chain";
        registry.register("bailiwick_ledger_batches_refused", help, metrics.batches_refused.clone());
        let help = "Seconds to make one group of batches durable";
        registry.register("bailiwick_ledger_commit_seconds", help, metrics.commit_seconds.clone());
        let add = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        add("bailiwick_ledger_batches_held", "Batches waiting for something before them", &metrics.batches_held);
        add("bailiwick_ledger_size", "Records in the log", &metrics.log_size);
        add("bailiwick_ledger_published_size", "Records covered by the newest checkpoint", &metrics.published_size);
        let help = "1 while this log contradicts the committed checkpoint and publishes nothing";
        add("bailiwick_ledger_publish_refused", help, &metrics.publish_refused);
        metrics
    }
}

/// Numbers for gauges; nothing here comes near the bound.
pub(crate) fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
