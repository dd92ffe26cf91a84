//! The figures of a run: per target the calls a second (median of the rounds) and latency percentiles over all calls,
//! and the ratio to the first target.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::Round;

/// Rounds by target, in the order of measuring.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<(&'static str, Vec<Round>)>);

struct Figures {
    name: &'static str,
    calls_per_second: f64,
    p50_us: u128,
    p99_us: u128,
    max_us: u128,
}

impl Report {
    pub(crate) fn add(&mut self, name: &'static str, round: Round) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, rounds)) => rounds.push(round),
            None => self.0.push((name, vec![round])),
        }
    }

    pub(crate) fn table(&self) -> String {
        let figures = self.figures();
        let base = figures.first().map_or(1.0, |first| first.calls_per_second);
        let mut lines = vec![format!(
            "{:<10} {:>10} {:>10} {:>10} {:>10} {:>8}",
            "TARGET", "CALLS/S", "P50 US", "P99 US", "MAX US", "RATIO"
        )];
        lines.extend(figures.iter().map(|row| {
            let ratio = row.calls_per_second / base;
            format!(
                "{:<10} {:>10.0} {:>10} {:>10} {:>10} {:>8.2}",
                row.name, row.calls_per_second, row.p50_us, row.p99_us, row.max_us, ratio
            )
        }));
        lines.join("\n")
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.figures().into_iter().map(|row| {
            json!({"target": row.name, "calls_per_second": row.calls_per_second.round(), "p50_us": row.p50_us.to_string(),
                   "p99_us": row.p99_us.to_string(), "max_us": row.max_us.to_string()})
        });
        json!({ "items": rows.collect::<Vec<_>>() })
    }

    fn figures(&self) -> Vec<Figures> {
        self.0.iter().map(|(name, rounds)| figures_of(name, rounds)).collect()
    }
}

fn figures_of(name: &'static str, rounds: &[Round]) -> Figures {
    let mut rates: Vec<f64> = rounds
        .iter()
        .map(|round| f64::from(u32::try_from(round.latencies.len()).unwrap_or(u32::MAX)) / round.took.as_secs_f64())
        .collect();
    rates.sort_by(f64::total_cmp);
    let mut latencies: Vec<Duration> = rounds.iter().flat_map(|round| round.latencies.iter().copied()).collect();
    latencies.sort_unstable();
    let at = |percent: usize| {
        latencies
            .get((latencies.len() * percent / 100).min(latencies.len().saturating_sub(1)))
            .map_or(0, Duration::as_micros)
    };
    Figures {
        name,
        calls_per_second: rates.get(rates.len() / 2).copied().unwrap_or(0.0),
        p50_us: at(50),
        p99_us: at(99),
        max_us: at(100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_the_median_rate_and_percentiles_over_all_calls() {
        let round = |seconds| Round {
            took: Duration::from_secs(seconds),
            latencies: (1..=100).map(Duration::from_micros).collect(),
        };
        let figures = figures_of("x", &[round(1), round(2), round(4)]);
        assert!((figures.calls_per_second - 50.0).abs() < f64::EPSILON);
        assert_eq!((figures.p50_us, figures.p99_us, figures.max_us), (51, 100, 100));
    }
}
