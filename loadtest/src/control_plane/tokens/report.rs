//! What `tokens` found, as Markdown and as JSON.
//!
//! Absolute figures are this machine's, of this run. What can be compared with other runs are the ratios: to a write
//! and to a request that asks for nothing, of the same node and as many callers.

use std::{collections::BTreeMap, fmt::Write as _};

use serde_json::{Value, json};

use super::{
    first_call::FirstCalls,
    grants::{Kind, Step},
};
use crate::control_plane::figures::Latencies;

/// All that was measured.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// Of the leader, first.
    pub(super) steps: Vec<Step>,
    pub(super) first_calls: Vec<FirstCalls>,
    /// Signatures a second on one core, by algorithm.
    pub(super) signatures: BTreeMap<&'static str, f64>,
    pub(super) leader: String,
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let steps = self.steps.iter().map(|step| {
            json!({"node": step.node, "leads": step.node == self.leader, "callers": step.callers,
                   "what": step.kind.title(), "per_second": rounded(step.per_second()),
                   "latency": step.latencies.json(), "cpu_us": rounded(step.cpu_each.as_secs_f64() * 1e6),
                   "of_writes": self.of(step, Kind::Write).map(rounded),
                   "of_metadata": self.of(step, Kind::Metadata).map(rounded)})
        });
        let first_calls = self.first_calls.iter().map(|calls| {
            json!({"node": calls.node, "leads": calls.node == self.leader, "others": calls.others,
                   "fresh": calls.fresh.json(), "settled": calls.settled.json()})
        });
        json!({"items": steps.collect::<Vec<_>>(), "first_calls": first_calls.collect::<Vec<_>>(),
               "signatures_per_second": self.signatures})
    }

    pub(super) fn markdown(&self) -> String {
        let mut text = String::from("# What tokens cost\n");
        self.signed(&mut text);
        let mut nodes: Vec<&str> = self.steps.iter().map(|step| step.node.as_str()).collect();
        nodes.dedup();
        for node in nodes {
            let part = if node == self.leader { "leads" } else { "follows" };
            let _ = write!(text, "\n## {node}, which {part}\n\n");
            text.push_str(
                "| | callers | a second | p50 ms | p99 ms | max ms | of writes | of metadata | CPU of all µs |\n\
                 | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
            );
            self.steps.iter().filter(|step| step.node == node).for_each(|step| self.row(&mut text, step));
        }
        self.called(&mut text);
        text
    }

    fn signed(&self, text: &mut String) {
        text.push_str("\nOne core signs: ");
        let each: Vec<_> = self.signatures.iter().map(|(name, rate)| format!("{rate:.0} {name}")).collect();
        let _ = writeln!(text, "{} signatures a second.", each.join(", "));
    }

    fn row(&self, text: &mut String, step: &Step) {
        let ratio = |kind| self.of(step, kind).map_or_else(|| "–".to_owned(), |ratio| format!("{ratio:.2}"));
        let [p50, p99, max] = [500, 990, 1000].map(|at| millis(&step.latencies, at));
        let _ = writeln!(
            text,
            "| {} | {} | {:.0} | {p50:.2} | {p99:.2} | {max:.2} | {} | {} | {:.0} |",
            step.kind.title(),
            step.callers,
            step.per_second(),
            ratio(Kind::Write),
            ratio(Kind::Metadata),
            step.cpu_each.as_secs_f64() * 1e6
        );
    }

    fn called(&self, text: &mut String) {
        text.push_str(
            "\n## The first call with a token\n\n| tokens of | others get tokens | fresh: p50 ms | p99 ms | max ms | \
             settled: p50 ms | p99 ms | max ms |\n| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for calls in &self.first_calls {
            let part = if calls.node == self.leader { "leads" } else { "follows" };
            let _ = write!(text, "| {}, which {part} | {} |", calls.node, calls.others);
            for latencies in [&calls.fresh, &calls.settled] {
                let [p50, p99, max] = [500, 990, 1000].map(|at| millis(latencies, at));
                let _ = write!(text, " {p50:.2} | {p99:.2} | {max:.2} |");
            }
            text.push('\n');
        }
    }

    /// How many times as often as that of the same node and callers; `None` of itself.
    fn of(&self, step: &Step, kind: Kind) -> Option<f64> {
        let is_beside = |other: &&Step| other.kind == kind && other.node == step.node && other.callers == step.callers;
        let beside = self.steps.iter().find(is_beside).filter(|_| step.kind != kind)?;
        Some(step.per_second() / beside.per_second())
    }
}

fn millis(latencies: &Latencies, thousandths: usize) -> f64 {
    latencies.at(thousandths).as_secs_f64() * 1e3
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// For whoever waits for the rest.
pub(super) fn progress(step: &Step) -> String {
    format!("  {:<38} {:>7.0} a second, {}", step.kind.title(), step.per_second(), step.latencies)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn step(kind: Kind, callers: usize, latency_ms: u64) -> Step {
        let latencies = Latencies::new(vec![Duration::from_millis(latency_ms); 10]);
        let took = Duration::from_millis(latency_ms * 10);
        Step { kind, node: "one".into(), callers, latencies, took, cpu_each: Duration::from_micros(70) }
    }

    #[test]
    fn ratios_are_to_the_same_node_and_callers() {
        let steps = vec![step(Kind::Write, 1, 2), step(Kind::Write, 8, 9), step(Kind::Code, 1, 4)];
        let report = Report { steps, leader: "one".into(), ..Report::default() };
        let row = report.markdown().lines().last().map(str::to_owned);
        assert!(
            report.markdown().contains("| authorization_code | 1 | 250 | 4.00 | 4.00 | 4.00 | 0.50 | – | 70 |"),
            "{row:?}"
        );
        assert_eq!(report.json()["items"][2]["of_writes"], 0.5);
        assert_eq!(report.json()["items"][0]["of_writes"], Value::Null, "not of itself");
    }
}
