//! What the rounds of one scenario come to: for each target its figures, and between targets the ratios.
//!
//! Figures of a target are of all its rounds together (percentiles over all calls; the median of throughput). Ratios
//! are taken within a round, where both sides met the same machine, and of them the median, the least and the most are
//! told.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{processes::Watched, round::Round};

/// Percentiles that the plot goes through; dense towards the end, where the trouble is.
const PLOTTED: [f64; 21] = [
    0.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 92.5, 95.0, 97.5, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95,
    99.99, 100.0,
];
/// The yardstick, and the target that it and the others stand before.
const RAW_PROXY: &str = "raw-proxy";
const DIRECT: &str = "direct";

/// One target's rounds in the order of measuring.
#[derive(Debug)]
pub(crate) struct TargetRounds {
    name: String,
    rounds: Vec<Round>,
}

/// One scenario's figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Scenario {
    /// `closed-16` or `open-16-at-5000`.
    pub(crate) name: String,
    pub(crate) callers: u32,
    /// Calls a second of an open loop.
    pub(crate) rate: Option<f64>,
    pub(crate) targets: Vec<TargetFigures>,
    pub(crate) ratios: Vec<Ratio>,
}

/// One target's figures.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct TargetFigures {
    pub(crate) name: String,
    pub(crate) calls: u64,
    pub(crate) refused: u64,
    pub(crate) failed: u64,
    pub(crate) unsent: u64,
    pub(crate) first_trouble: Option<String>,
    pub(crate) calls_per_second: f64,
    pub(crate) latency_us: Latency,
    /// How late the load generator released calls of an open loop: 99 of 100, at most. Part of the latency.
    pub(crate) generator_late_p99_us: Option<f64>,
    /// Of the watched processes named as this target.
    pub(crate) cpu_us_per_call: Option<f64>,
    pub(crate) processes: Vec<ProcessFigures>,
    /// Percentile and microseconds.
    pub(crate) plot: Vec<(f64, f64)>,
}

/// Microseconds.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Latency {
    pub(crate) mean: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

/// What one watched process used while a target was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ProcessFigures {
    pub(crate) name: String,
    pub(crate) cpu_us_per_call: f64,
    /// Of one processor.
    pub(crate) cpu_percent: f64,
    /// At the end of the last round.
    pub(crate) resident_mib: f64,
}

/// One figure of one target, as a multiple of another's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ratio {
    pub(crate) target: String,
    pub(crate) to: String,
    /// `cpu`, `p50`, `p99`, `added_p50` (over `direct`) or `calls_per_second`.
    pub(crate) of: String,
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl TargetRounds {
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), rounds: Vec::new() }
    }

    pub(crate) fn add(&mut self, round: Round) {
        self.rounds.push(round);
    }
}

impl Round {
    pub(crate) fn calls_per_second(&self) -> f64 {
        number(self.ended) / self.measured.as_secs_f64()
    }

    pub(crate) fn micros_at(&self, percentile: f64) -> f64 {
        micros(self.latencies.value_at_quantile(percentile / 100.0))
    }

    /// Processor time of the processes of this name, in microseconds for each call. None if there are none, or no call.
    fn cpu_of(&self, name: &str, watched: &[Watched]) -> Option<f64> {
        let own: Vec<f64> = watched
            .iter()
            .zip(&self.used)
            .filter(|(watched, _)| watched.name == name)
            .map(|(_, used)| used.as_secs_f64() * 1e6)
            .collect();
        (!own.is_empty() && self.ended > 0).then(|| own.iter().sum::<f64>() / number(self.ended))
    }
}

impl Scenario {
    pub(crate) fn new(callers: u32, rate: Option<f64>, watched: &[Watched], measured: &[TargetRounds]) -> Self {
        let name = match rate {
            None => format!("closed-{callers}"),
            Some(rate) => format!("open-{callers}-at-{rate:.0}"),
        };
        let targets = measured.iter().map(|target| figures_of(target, rate.is_some(), watched)).collect();
        Self { name, callers, rate, targets, ratios: ratios(measured, watched) }
    }

    /// Calls a second of the slowest target.
    pub(crate) fn slowest(&self) -> f64 {
        self.targets.iter().map(|target| target.calls_per_second).fold(f64::INFINITY, f64::min)
    }
}

fn figures_of(target: &TargetRounds, open: bool, watched: &[Watched]) -> TargetFigures {
    let latencies = merged(target, |round| &round.latencies);
    let lateness = merged(target, |round| &round.lateness);
    let at = |quantile| latencies.as_ref().map_or(0.0, |all| micros(all.value_at_quantile(quantile)));
    let calls: u64 = target.rounds.iter().map(|round| round.ended).sum();
    let seconds: f64 = target.rounds.iter().map(|round| round.measured.as_secs_f64()).sum();
    let last = target.rounds.last();
    let processes = watched.iter().enumerate().map(|(position, watched)| {
        let used = |round: &Round| round.used.get(position).map_or(0.0, std::time::Duration::as_secs_f64);
        let used: f64 = target.rounds.iter().map(used).sum();
        ProcessFigures {
            name: watched.name.clone(),
            cpu_us_per_call: used * 1e6 / number(calls.max(1)),
            cpu_percent: used * 100.0 / seconds.max(f64::EPSILON),
            resident_mib: last.and_then(|round| round.resident_mib.get(position)).copied().unwrap_or(0.0),
        }
    });
    let processes: Vec<ProcessFigures> = processes.collect();
    let own = || processes.iter().filter(|process| process.name == target.name);
    let of = |count: fn(&Round) -> u64| target.rounds.iter().map(count).sum();
    TargetFigures {
        name: target.name.clone(),
        calls,
        refused: of(|round| round.refused),
        failed: of(|round| round.failed),
        unsent: of(|round| round.unsent),
        first_trouble: target.rounds.iter().find_map(|round| round.first_trouble.clone()),
        calls_per_second: median(target.rounds.iter().map(Round::calls_per_second).collect()).unwrap_or(0.0),
        latency_us: Latency {
            mean: latencies.as_ref().map_or(0.0, Histogram::mean) / 1e3,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        },
        generator_late_p99_us: lateness.filter(|_| open).map(|late| micros(late.value_at_quantile(0.99))),
        cpu_us_per_call: (own().count() > 0).then(|| own().map(|process| process.cpu_us_per_call).sum()),
        plot: PLOTTED.iter().map(|percentile| (*percentile, at(percentile / 100.0))).collect(),
        processes,
    }
}

fn merged(target: &TargetRounds, of: fn(&Round) -> &Histogram<u64>) -> Option<Histogram<u64>> {
    let mut rounds = target.rounds.iter().map(of);
    let mut all = rounds.next()?.clone();
    // All have the same bounds, so none is refused.
    rounds.try_for_each(|round| all.add(round)).ok()?;
    Some(all)
}

/// Every target against the yardstick if there is one, else against the first target.
fn ratios(measured: &[TargetRounds], watched: &[Watched]) -> Vec<Ratio> {
    let named = |name: &str| measured.iter().find(|target| target.name == name);
    let Some(base) = named(RAW_PROXY).or_else(|| measured.first()) else { return Vec::new() };
    let direct = named(DIRECT).filter(|direct| direct.name != base.name);
    let mut ratios = Vec::new();
    for target in measured.iter().filter(|target| ![base.name.as_str(), DIRECT].contains(&target.name.as_str())) {
        let mut by_figure: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for (number, (round, of_base)) in target.rounds.iter().zip(&base.rounds).enumerate() {
            let mut ratio = |of, ours: Option<f64>, theirs: Option<f64>| {
                if let (Some(ours), Some(theirs)) = (ours, theirs.filter(|theirs| *theirs > 0.0)) {
                    by_figure.entry(of).or_default().push(ours / theirs);
                }
            };
            ratio("cpu", round.cpu_of(&target.name, watched), of_base.cpu_of(&base.name, watched));
            ratio("calls_per_second", Some(round.calls_per_second()), Some(of_base.calls_per_second()));
            for (of, percentile) in [("p50", 50.0), ("p99", 99.0)] {
                ratio(of, Some(round.micros_at(percentile)), Some(of_base.micros_at(percentile)));
            }
            if let Some(direct) = direct.and_then(|direct| direct.rounds.get(number)) {
                let added = |round: &Round| Some(round.micros_at(50.0) - direct.micros_at(50.0));
                ratio("added_p50", added(round), added(of_base));
            }
        }
        ratios.extend(by_figure.into_iter().filter_map(|(of, mut values)| {
            values.sort_by(f64::total_cmp);
            Some(Ratio {
                target: target.name.clone(),
                to: base.name.clone(),
                of: of.to_owned(),
                median: median(values.clone())?,
                least: *values.first()?,
                most: *values.last()?,
            })
        }));
    }
    ratios
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get((values.len() - 1) / 2)?;
    Some(f64::midpoint(lower, upper))
}

fn micros(nanoseconds: u64) -> f64 {
    number(nanoseconds) / 1e3
}

/// Exact below 2^53, which no count or time here reaches.
fn number(count: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "counts and nanoseconds of a run are far below 2^53")]
    let number = count as f64;
    number
}
