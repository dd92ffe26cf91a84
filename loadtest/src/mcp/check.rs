//! `--check`: is any ratio worse than in an earlier report?
//!
//! Only ratios are compared: they are taken within a round, so another day or a busier machine changes both sides. A
//! ratio that was there and is gone is worse, too: else a check would pass by measuring less.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    figures::{Ratio, Scenario},
    report::{FORMAT, Report},
};

/// Ratios of which more is better; of all others less is.
const MORE_IS_BETTER: [&str; 1] = ["calls_per_second"];
/// The greatest percentile is a handful of calls and any scheduler's whim; added latency near zero divides by nothing.
/// Both are reported, and these are compared.
const COMPARED: [&str; 5] = ["cpu", "calls_per_second", "p50", "p99", "added_p50"];

/// Reads an earlier report.
pub(crate) fn read(path: &Path) -> Result<Report> {
    let text = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let report: Report = serde_json::from_slice(&text).with_context(|| format!("{} is no report", path.display()))?;
    ensure!(report.format == FORMAT, "{} has another format than this program's", path.display());
    Ok(report)
}

/// Says on stderr how each ratio compares, and fails when one is worse by more than `tolerance` percent.
pub(crate) fn compare(now: &Report, stored: &Report, tolerance: u8) -> Result<()> {
    ensure!(
        now.settings == stored.settings,
        "the earlier report was made with other settings: nothing can be compared"
    );
    let (mut worse, mut compared) = (0_u32, 0_u32);
    for before in &stored.scenarios {
        for ratio in before.ratios.iter().filter(|ratio| COMPARED.contains(&ratio.of.as_str())) {
            let current = matching(&now.scenarios, before).and_then(|scenario| {
                scenario
                    .ratios
                    .iter()
                    .find(|other| (&other.target, &other.to, &other.of) == (&ratio.target, &ratio.to, &ratio.of))
            });
            let is_worse = current.is_none_or(|current| is_worse(current, ratio, tolerance));
            worse += u32::from(is_worse);
            compared += 1;
            eprintln!(
                "{} {}: {} / {}, {}: {} then, {} now",
                if is_worse { "WORSE" } else { "ok   " },
                before.name,
                ratio.target,
                ratio.to,
                ratio.of,
                format_args!("{:.2}", ratio.median),
                current.map_or_else(|| "not measured".to_owned(), |current| format!("{:.2}", current.median)),
            );
        }
    }
    ensure!(compared > 0, "the earlier report has no ratio: measure a gateway beside a --raw-proxy");
    if worse > 0 {
        bail!("{worse} ratios are worse than before by more than {tolerance} %");
    }
    Ok(())
}

/// The same scenario: a rate that is a share of what was measured differs from run to run.
fn matching<'a>(scenarios: &'a [Scenario], wanted: &Scenario) -> Option<&'a Scenario> {
    scenarios.iter().find(|scenario| scenario.name == wanted.name).or_else(|| {
        scenarios.iter().find(|other| other.callers == wanted.callers && other.rate.is_some() == wanted.rate.is_some())
    })
}

fn is_worse(now: &Ratio, before: &Ratio, tolerance: u8) -> bool {
    let room = 1.0 + f64::from(tolerance) / 100.0;
    if MORE_IS_BETTER.contains(&now.of.as_str()) {
        now.median * room < before.median
    } else {
        now.median > before.median * room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(of: &str, median: f64) -> Ratio {
        let (target, to) = ("gateway".to_owned(), "raw-proxy".to_owned());
        Ratio { target, to, of: of.to_owned(), median, least: median, most: median }
    }

    #[test]
    fn less_is_better_but_for_throughput() {
        assert!(is_worse(&ratio("cpu", 1.7), &ratio("cpu", 1.4), 15));
        assert!(!is_worse(&ratio("cpu", 1.6), &ratio("cpu", 1.4), 15));
        assert!(!is_worse(&ratio("cpu", 1.0), &ratio("cpu", 1.4), 15));
        assert!(is_worse(&ratio("calls_per_second", 0.5), &ratio("calls_per_second", 0.7), 15));
        assert!(!is_worse(&ratio("calls_per_second", 0.9), &ratio("calls_per_second", 0.7), 15));
    }
}
