//! The report for people: Markdown that also reads well in a terminal.

use std::fmt::Write as _;

use super::{
    figures::{Scenario, TargetFigures},
    report::Report,
};

/// The whole report; `with_plots` names the files of the plots beside it.
pub(crate) fn of(report: &Report, with_plots: bool) -> String {
    let (machine, settings) = (&report.machine, &report.settings);
    let pinned = match (&settings.cores, &settings.load_cores) {
        (None, None) => String::new(),
        (cores, load) => format!(
            ", measured on processors {} and loaded from {}",
            cores.as_deref().unwrap_or("of its choice"),
            load.as_deref().unwrap_or("any")
        ),
    };
    let mut text = format!(
        "# Load on MCP endpoints\n\n{} × {}, Linux {}; bailiwick-loadtest {}.\n`{}`, HTTP/{}, {} era, {} rounds of {} s each \
         after {} s of warming up{pinned}.\n",
        machine.processors,
        machine.processor,
        machine.kernel,
        report.version,
        settings.method,
        settings.http,
        settings.era,
        settings.rounds,
        settings.seconds,
        settings.warm_up,
    );
    for scenario in &report.scenarios {
        section(&mut text, scenario, with_plots);
    }
    text
}

fn section(text: &mut String, scenario: &Scenario, with_plots: bool) {
    let how = match scenario.rate {
        None => "each at its own pace (closed loop)".to_owned(),
        Some(rate) => format!("{rate:.0} calls a second, latency from the intended start (open loop)"),
    };
    let _ = write!(text, "\n## {}: {} callers, {how}\n\n", scenario.name, scenario.callers);
    let titles = ["target", "calls/s", "p50 µs", "p90 µs", "p99 µs", "p99.9 µs", "max µs", "mean µs", "CPU µs/call"];
    table(text, &titles, scenario.targets.iter().map(row));
    for target in &scenario.targets {
        if let Some(late) = target.generator_late_p99_us {
            let _ = writeln!(
                text,
                "\n{}: the load generator was at most {late:.0} µs late for 99 of 100 calls.",
                target.name
            );
        }
        if let (true, Some(trouble)) = (target.refused + target.failed + target.unsent > 0, &target.first_trouble) {
            let _ = writeln!(
                text,
                "\n**{}: {} refused, {} failed, {} never sent.** The first: {trouble}",
                target.name, target.refused, target.failed, target.unsent
            );
        }
    }
    if !scenario.ratios.is_empty() {
        text.push('\n');
        let ratios = scenario.ratios.iter().map(|ratio| {
            let name = format!("{} / {}: {}", ratio.target, ratio.to, words(&ratio.of));
            vec![name, format!("{:.2}", ratio.median), format!("{:.2}", ratio.least), format!("{:.2}", ratio.most)]
        });
        table(text, &["ratio within a round", "median", "least", "most"], ratios);
    }
    let used = scenario.targets.iter().flat_map(|target| {
        target.processes.iter().filter(|process| process.cpu_percent >= 0.05).map(|process| {
            vec![
                target.name.clone(),
                process.name.clone(),
                format!("{:.2}", process.cpu_us_per_call),
                format!("{:.1}", process.cpu_percent),
                format!("{:.1}", process.resident_mib),
            ]
        })
    });
    text.push('\n');
    table(text, &["while measuring", "process", "CPU µs/call", "% of a processor", "memory MiB"], used);
    if with_plots {
        let _ = write!(text, "\n![latency by percentile]({}.svg)\n", scenario.name);
    }
}

fn row(target: &TargetFigures) -> Vec<String> {
    let latency = &target.latency_us;
    let mut row = vec![target.name.clone(), format!("{:.0}", target.calls_per_second)];
    let all = [latency.p50, latency.p90, latency.p99, latency.p999, latency.max, latency.mean];
    row.extend(all.iter().map(|micros| format!("{micros:.0}")));
    row.push(target.cpu_us_per_call.map_or_else(|| "–".to_owned(), |micros| format!("{micros:.2}")));
    row
}

fn words(of: &str) -> &str {
    match of {
        "cpu" => "CPU per call",
        "calls_per_second" => "calls a second",
        "added_p50" => "p50 added to direct",
        other => other,
    }
}

/// Columns are as wide as their widest cell; the first is on the left, figures are on the right.
fn table(text: &mut String, titles: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let titles: Vec<String> = titles.iter().map(|title| (*title).to_owned()).collect();
    let rows: Vec<Vec<String>> = rows.collect();
    let width = |column: usize| {
        let cells = rows.iter().chain([&titles]).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let is_text =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).any(|cell| cell.chars().any(char::is_alphabetic));
    let texts: Vec<bool> = (0..titles.len()).map(|column| column == 0 || is_text(column)).collect();
    let mut line = |cells: &[String]| {
        for ((cell, width), is_text) in cells.iter().zip(&widths).zip(&texts) {
            let _ = if *is_text { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
    };
    line(&titles);
    let rule =
        |(width, is_text): (&usize, &bool)| if *is_text { "-".repeat(*width) } else { "-".repeat(width - 1) + ":" };
    line(&widths.iter().zip(&texts).map(rule).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}
