//! Latency by percentile as a picture (SVG), one line for each target.
//!
//! Along: how many nines, so that the slowest calls have as much room as all the others. Up: microseconds, by powers of
//! ten. Both ends are those of the data.

use std::fmt::Write as _;

use super::figures::Scenario;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 740.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 360.0;
/// Four nines; what is beyond is drawn at the edge.
const NINES_MAX: f64 = 4.0;
/// Told apart also by those who do not see red and green apart.
const COLOURS: [&str; 6] = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#000000"];

/// The picture of one scenario.
pub(crate) fn of(scenario: &Scenario) -> String {
    let all = || scenario.targets.iter().flat_map(|target| target.plot.iter().map(|(_, micros)| micros.max(1.0)));
    let low = all().fold(f64::INFINITY, f64::min).log10().floor();
    let high = all().fold(1.0, f64::max).log10().ceil().max(low + 1.0);
    let along = |percentile: f64| {
        let nines = (100.0 / (100.0 - percentile).max(1e-9)).log10().min(NINES_MAX);
        LEFT + (RIGHT - LEFT) * nines / NINES_MAX
    };
    let up = |micros: f64| BOTTOM - (BOTTOM - TOP) * (micros.max(1.0).log10() - low) / (high - low);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"
 font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#ffffff"/>
<text x="{LEFT}" y="20" font-size="14">{}: latency by percentile</text>
"##,
        scenario.name
    );
    for (percentile, name) in [(0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99")] {
        let x = along(percentile);
        let _ = writeln!(
            svg,
            r##"<path d="M{x:.1} {TOP}V{BOTTOM}" stroke="#dddddd"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{name}</text>"##,
            BOTTOM + 18.0
        );
    }
    let mut power = low;
    while power <= high {
        let (y, micros) = (up(10_f64.powf(power)), 10_f64.powf(power));
        let _ = writeln!(
            svg,
            r##"<path d="M{LEFT} {y:.1}H{RIGHT}" stroke="#dddddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"##,
            LEFT - 8.0,
            y + 4.0,
            length(micros)
        );
        power += 1.0;
    }
    for (number, (target, colour)) in scenario.targets.iter().zip(COLOURS.iter().cycle()).enumerate() {
        let mut points = String::new();
        for (percentile, micros) in &target.plot {
            let _ = write!(points, "{:.1},{:.1} ", along(*percentile), up(*micros));
        }
        let column = u16::try_from(number).map_or(0.0, f64::from);
        let x = LEFT + 110.0 * column;
        let y = HEIGHT - 18.0;
        let _ = writeln!(
            svg,
            r#"<polyline points="{}" fill="none" stroke="{colour}" stroke-width="2"/><path d="M{x:.1} {:.1}h18" stroke="{colour}" stroke-width="3"/><text x="{:.1}" y="{y:.1}">{}</text>"#,
            points.trim_end(),
            y - 4.0,
            x + 24.0,
            escaped(&target.name)
        );
    }
    svg.push_str("</svg>\n");
    svg
}

fn length(micros: f64) -> String {
    match micros {
        small if small < 1e3 => format!("{small:.0} µs"),
        middle if middle < 1e6 => format!("{:.0} ms", middle / 1e3),
        large => format!("{:.0} s", large / 1e6),
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
