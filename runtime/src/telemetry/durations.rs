//! A histogram of durations by attributes, told twice from one count: to OTLP and to Prometheus.
//!
//! Made by the server packages, which know the names; read by `otlp` and by the operations listener. Attributes keep
//! OpenTelemetry's names; Prometheus gets them with underscores. Beyond [`SERIES_MAX`] combinations all further ones
//! count together, marked as OpenTelemetry marks them, so that memory stays bounded and totals stay right.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

/// Attributes of one series, in an order of the caller's choice that is always the same.
pub type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// Most series of one histogram: OpenTelemetry's own default for metrics.
pub const SERIES_MAX: usize = 2_000;
/// What all series beyond the bound are called.
const OVERFLOW: (&str, &str) = ("otel.metric.overflow", "true");

/// Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct Durations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: &'static str,
    description: &'static str,
    bounds: &'static [f64],
    series: Mutex<BTreeMap<Labels, Series>>,
}

/// One combination of attributes.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// How many.
    pub count: u64,
    /// Seconds altogether.
    pub sum: f64,
    /// The shortest, in seconds.
    pub min: f64,
    /// The longest, in seconds.
    pub max: f64,
    /// How many per bucket; the last one is without upper bound.
    pub buckets: Vec<u64>,
}

impl Durations {
    /// `name` as in the conventions, `bounds` in seconds, ascending.
    #[must_use]
    pub fn new(name: &'static str, description: &'static str, bounds: &'static [f64]) -> Self {
        Self(Arc::new(Inner { name, description, bounds, series: Mutex::default() }))
    }

    /// Counts one.
    pub fn record(&self, labels: Labels, took: Duration) {
        let bounds = self.0.bounds;
        let mut series = self.0.series.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = series.get_mut(&labels) {
            return known.add(bounds, took);
        }
        let full = series.len() + 1 >= SERIES_MAX;
        let labels = if full { vec![(OVERFLOW.0, OVERFLOW.1.into())] } else { labels };
        series.entry(labels).or_insert_with(|| Series::new(bounds)).add(bounds, took);
    }

    /// As in the conventions.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.0.name
    }

    /// For people.
    #[must_use]
    pub fn description(&self) -> &'static str {
        self.0.description
    }

    /// Upper bounds of all buckets but the last, in seconds.
    #[must_use]
    pub fn bounds(&self) -> &'static [f64] {
        self.0.bounds
    }

    /// The name for Prometheus, with its unit.
    #[must_use]
    pub fn prometheus_name(&self) -> String {
        format!("{}_seconds", self.0.name.replace('.', "_"))
    }

    /// All series as they are now.
    #[must_use]
    pub fn all(&self) -> Vec<(Labels, Series)> {
        let series = self.0.series.lock().unwrap_or_else(PoisonError::into_inner);
        series.iter().map(|(labels, series)| (labels.clone(), series.clone())).collect()
    }
}

impl Series {
    fn new(bounds: &[f64]) -> Self {
        Self { count: 0, sum: 0.0, min: f64::INFINITY, max: 0.0, buckets: vec![0; bounds.len() + 1] }
    }

    fn add(&mut self, bounds: &[f64], took: Duration) {
        let seconds = took.as_secs_f64();
        self.count += 1;
        self.sum += seconds;
        self.min = self.min.min(seconds);
        self.max = self.max.max(seconds);
        let bucket = bounds.partition_point(|bound| *bound < seconds);
        if let Some(bucket) = self.buckets.get_mut(bucket) {
            *bucket += 1;
        }
    }
}

impl EncodeMetric for Durations {
    fn encode(&self, mut encoder: MetricEncoder) -> Result<(), std::fmt::Error> {
        let bounds: Vec<f64> = self.0.bounds.iter().copied().chain([f64::INFINITY]).collect();
        for (labels, series) in self.all() {
            let labels: Vec<(String, String)> =
                labels.into_iter().map(|(name, value)| (name.replace('.', "_"), value.into_owned())).collect();
            let buckets: Vec<(f64, u64)> = bounds.iter().copied().zip(series.buckets).collect();
            let mut one = encoder.encode_family(&labels)?;
            one.encode_histogram::<NoLabelSet>(series.sum, series.count, &buckets, None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registry;

    const BOUNDS: [f64; 3] = [0.01, 0.1, 1.0];

    fn durations() -> Durations {
        Durations::new("mcp.server.operation.duration", "how long", &BOUNDS)
    }

    #[test]
    fn a_duration_is_counted_in_the_bucket_whose_bound_it_does_not_exceed() {
        let durations = durations();
        for millis in [1, 10, 11, 1_000, 2_000] {
            durations.record(vec![("a.b", "x".into())], Duration::from_millis(millis));
        }
        let all = durations.all();
        let [(labels, series)] = all.as_slice() else { panic!("one series") };
        assert_eq!((labels.as_slice(), series.count), ([("a.b", "x".into())].as_slice(), 5));
        assert_eq!((series.buckets.as_slice(), series.min, series.max), ([2, 1, 1, 1].as_slice(), 0.001, 2.0));
    }

    #[test]
    fn prometheus_is_told_the_same() {
        let (durations, registry) = (durations(), Registry::new());
        registry.register(&durations.prometheus_name(), durations.description(), durations.clone());
        durations.record(vec![("mcp.method.name", "tools/call".into())], Duration::from_millis(50));
        let text = registry.render();
        let name = "mcp_server_operation_duration_seconds";
        for line in [
            format!("# TYPE {name} histogram"),
            format!("{name}_bucket{{le=\"0.01\",mcp_method_name=\"tools/call\"}} 0"),
            format!("{name}_bucket{{le=\"0.1\",mcp_method_name=\"tools/call\"}} 1"),
            format!("{name}_bucket{{le=\"+Inf\",mcp_method_name=\"tools/call\"}} 1"),
            format!("{name}_count{{mcp_method_name=\"tools/call\"}} 1"),
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn series_without_end_count_together() {
        let durations = durations();
        for number in 0..SERIES_MAX * 2 {
            durations.record(vec![("name", number.to_string().into())], Duration::from_millis(1));
        }
        let all = durations.all();
        let overflow = all.iter().find(|(labels, _)| labels.iter().any(|(name, _)| *name == OVERFLOW.0)).unwrap();
        assert_eq!((all.len(), overflow.1.count), (SERIES_MAX, SERIES_MAX as u64 + 1));
        assert_eq!(all.iter().map(|(_, series)| series.count).sum::<u64>(), SERIES_MAX as u64 * 2);
    }
}
