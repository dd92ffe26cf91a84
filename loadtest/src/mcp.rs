//! Load on MCP endpoints: several targets by turns, in one run.
//!
//! A run is a list of scenarios (so many callers at their own pace, or calls at a given rate). In each scenario the
//! targets take turns in short rounds, every round beginning with another one, so that a machine that drifts affects
//! all alike; ratios are taken within a round, and their median is what counts. A refused or failed call fails the run:
//! errors are faster than answers, and figures with errors in them mean nothing.

mod check;
pub(crate) mod children;
mod connection;
mod figures;
pub(crate) mod idle;
mod markdown;
mod pacing;
mod plot;
pub(crate) mod possession;
mod processes;
mod report;
mod round;
mod target;
mod tls;

use std::{fs, path::PathBuf, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args as ClapArgs;

use crate::{cores::Cores, upstream::Form};
use children::Child;
use figures::{Scenario, TargetRounds};
use possession::Possession;
use processes::Watched;
use report::Report;
use round::Load;
use target::{Call, Era, Http, Target, Token};

/// Calls of one tool on several endpoints by turns: the server itself, a bare proxy before it, a gateway before it.
#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    /// The MCP server itself, e.g. http://127.0.0.1:9801/mcp: the target `direct`.
    #[arg(long, value_name = "URL")]
    direct: Option<String>,
    /// Start a fast MCP server for this run, which answers so, and measure it as `direct`.
    #[arg(long, value_enum, value_name = "FORM", conflicts_with = "direct")]
    upstream: Option<Form>,
    /// Start a bare reverse proxy before the server itself, and measure it as `raw-proxy`: the yardstick.
    #[arg(long)]
    raw_proxy: bool,
    /// The same server through a gateway, e.g. http://127.0.0.1:8420/mcp/finance: the target `gateway`.
    #[arg(long, value_name = "URL")]
    gateway: Option<String>,
    /// Any other endpoint; may be repeated.
    #[arg(long = "url", value_name = "NAME=URL")]
    urls: Vec<Named>,
    /// Bearer token, for the gateway and for every --url.
    #[arg(long, default_value = "", hide_default_value = true)]
    token: String,
    /// A file with the bearer token.
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,
    /// The same gateway with a bound token, each call with a proof: the target `bound`.
    #[arg(long, value_name = "URL", requires = "bound_token_file")]
    bound: Option<String>,
    /// What `bailiwick token issue --bind -o json` printed.
    #[arg(long, value_name = "FILE")]
    bound_token_file: Option<PathBuf>,
    /// The same gateway with a token that is bound to a key of the callers' own, each call with a DPoP proof: the
    /// target `dpop`.
    #[arg(long, value_name = "URL", requires_all = ["dpop_token_file", "dpop_key_file"])]
    dpop: Option<String>,
    /// What `bailiwick token issue --dpop-jkt … -o json` printed.
    #[arg(long, value_name = "FILE")]
    dpop_token_file: Option<PathBuf>,
    /// The key that `bailiwick-loadtest dpop-key` made.
    #[arg(long, value_name = "FILE")]
    dpop_key_file: Option<PathBuf>,
    /// Certificates in PEM that are trusted instead of the system's, for https URLs.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// The tool to call.
    #[arg(long, default_value = "tool-0000")]
    tool: String,
    /// List the tools (the first page) instead of calling one.
    #[arg(long, conflicts_with_all = ["tool", "arguments", "tools_at"])]
    list: bool,
    /// Its arguments, as JSON.
    #[arg(long, default_value = "{}")]
    arguments: String,
    /// The tool's name where it has another, e.g. behind a gateway with several servers: TARGET=TOOL.
    #[arg(long = "tool-at", value_name = "TARGET=TOOL")]
    tools_at: Vec<Named>,
    /// Callers, each with one call under way; a scenario for each number.
    #[arg(long, value_delimiter = ',', default_value = "16", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    connections: Vec<u32>,
    /// Also an open loop: calls a second, or a share of what the slowest target did (`50%`); a scenario for each.
    #[arg(long = "rate", value_delimiter = ',', value_name = "RATE")]
    rates: Vec<Rate>,
    /// Only the open loop. Rates are numbers then.
    #[arg(long, requires = "rates")]
    open_only: bool,
    /// How long each round is measured.
    #[arg(long, default_value_t = 2.0, value_parser = seconds)]
    seconds: f64,
    /// How long each round warms up before.
    #[arg(long, default_value_t = 0.5, value_parser = seconds)]
    warm_up: f64,
    /// Rounds; in each, every target has its turn.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: u32,
    /// The HTTP version spoken.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    http: u8,
    /// Callers that share one connection (HTTP/2).
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    streams: u32,
    /// The MCP spoken.
    #[arg(long, value_enum, default_value_t = Era::Modern)]
    era: Era,
    /// Watch a process: processor time per call and memory. Named as a target, it counts as that target's own.
    #[arg(long = "pid", value_name = "NAME=PID")]
    pids: Vec<Watched>,
    /// Processors for what is measured: the bare proxy, and watched processes named as a target.
    #[arg(long, value_name = "LIST")]
    cores: Option<Cores>,
    /// Processors for what measures: the callers, and the fast server.
    #[arg(long, value_name = "LIST")]
    load_cores: Option<Cores>,
    /// Threads of callers; by default one for each processor of --load-cores.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: Option<u32>,
    /// Write report.md, report.json and a plot for each scenario into this folder.
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Print JSON instead of Markdown.
    #[arg(long)]
    json: bool,
    /// Compare the ratios with those of an earlier report.json, and fail when one is worse.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// How much worse a ratio may be, in percent.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u8).range(0..=100))]
    tolerance: u8,
}

/// `NAME=VALUE`.
#[derive(Clone, Debug)]
struct Named {
    name: String,
    value: String,
}

/// Calls a second.
#[derive(Clone, Copy, Debug)]
enum Rate {
    Calls(f64),
    /// Of what the slowest target did in the closed loop with most callers, in percent.
    Share(f64),
}

impl FromStr for Named {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, value) = text.split_once('=').context("expected NAME=VALUE")?;
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl FromStr for Rate {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (number, share) = text.strip_suffix('%').map_or((text, false), |number| (number, true));
        let number: f64 = number.parse().with_context(|| format!("{text:?} is no rate"))?;
        ensure!((0.001..=10_000_000.0).contains(&number), "a rate is from 0.001 to 10000000");
        Ok(if share { Self::Share(number) } else { Self::Calls(number) })
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if (0.0..=3_600.0).contains(&number) { Ok(number) } else { Err("from 0 to 3600 seconds".to_owned()) }
}

/// Everything that is measured in one run, and by what.
#[derive(Debug)]
struct Run {
    targets: Vec<Target>,
    watched: Vec<Watched>,
    rounds: u32,
    streams: u32,
    threads: u32,
    warm_up: Duration,
    measured: Duration,
    /// End with the run.
    _children: Vec<Child>,
}

/// Measures, prints and writes the report, and compares.
pub(crate) fn run(args: &Args) -> Result<()> {
    let stored = args.check.as_ref().map(|path| check::read(path)).transpose()?;
    if let Some(cores) = &args.load_cores {
        cores.pin_this_thread()?;
    }
    let run = prepare(args)?;
    let mut scenarios: Vec<Scenario> = Vec::new();
    if !args.open_only {
        for callers in &args.connections {
            scenarios.push(run.scenario(*callers, None)?);
        }
    }
    let most = args.connections.iter().copied().max().unwrap_or(1);
    let slowest = scenarios.iter().find(|scenario| scenario.callers == most).map(Scenario::slowest);
    for rate in &args.rates {
        let rate = match (rate, slowest) {
            (Rate::Calls(rate), _) => *rate,
            (Rate::Share(share), Some(slowest)) => slowest * share / 100.0,
            (Rate::Share(_), None) => bail!("a share of what? Leave --open-only away, or name a number"),
        };
        scenarios.push(run.scenario(most, Some(rate))?);
    }
    let report = Report::new(args, scenarios);
    let text = serde_json::to_string_pretty(&report)?;
    if let Some(folder) = &args.report {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        fs::write(folder.join("report.json"), &text)?;
        fs::write(folder.join("report.md"), markdown::of(&report, true))?;
        for scenario in &report.scenarios {
            fs::write(folder.join(format!("{}.svg", scenario.name)), plot::of(scenario))?;
        }
    }
    println!("{}", if args.json { text } else { markdown::of(&report, false) });
    report.troubles()?;
    match stored {
        Some(stored) => check::compare(&report, &stored, args.tolerance),
        None => Ok(()),
    }
}

/// A token, and how its holder shows that it is theirs.
type Held = (Token, Possession);

/// The bearer token, if there is one.
fn bearer(args: &Args) -> Result<Option<Held>> {
    let token = match &args.token_file {
        Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
        None => args.token.clone(),
    };
    let token = Token(token.trim().to_owned());
    Ok((!token.0.is_empty()).then_some((token, Possession::Bearer)))
}

fn prepare(args: &Args) -> Result<Run> {
    let mut children = Vec::new();
    let mut direct = args.direct.clone();
    if let Some(form) = args.upstream {
        let child = Child::upstream(form, args.load_cores.as_ref())?;
        direct = Some(child.url.clone());
        children.push(child);
    }
    let bearer = bearer(args)?;
    let mut urls: Vec<(String, String, Option<Held>)> = Vec::new();
    urls.extend(direct.as_ref().map(|url| ("direct".to_owned(), url.clone(), None)));
    if args.raw_proxy {
        let direct = direct.as_ref().context("--raw-proxy needs --direct or --upstream to stand before")?;
        let child = Child::raw_proxy(direct, args.cores.as_ref())?;
        urls.push(("raw-proxy".to_owned(), child.url.clone(), None));
        children.push(child);
    }
    urls.extend(args.gateway.as_ref().map(|url| ("gateway".to_owned(), url.clone(), bearer.clone())));
    if let (Some(url), Some(token)) = (&args.bound, &args.bound_token_file) {
        urls.push(("bound".to_owned(), url.clone(), Some(possession::bound(token)?)));
    }
    if let (Some(url), Some(token), Some(key)) = (&args.dpop, &args.dpop_token_file, &args.dpop_key_file) {
        urls.push(("dpop".to_owned(), url.clone(), Some(possession::dpop(token, key)?)));
    }
    urls.extend(args.urls.iter().map(|named| (named.name.clone(), named.value.clone(), bearer.clone())));
    ensure!(!urls.is_empty(), "nothing to measure: name --direct, --upstream, --gateway or --url");
    for (position, (name, _, _)) in urls.iter().enumerate() {
        ensure!(urls.iter().skip(position + 1).all(|(other, _, _)| other != name), "two targets are named {name}");
    }
    let http = if args.http == 2 { Http::Two } else { Http::One };
    let arguments: serde_json::Value = serde_json::from_str(&args.arguments).context("--arguments")?;
    let target = |(name, url, token): &(String, String, Option<Held>)| {
        let at = args.tools_at.iter().find(|at| at.name == *name);
        let tool = at.map_or(&args.tool, |at| &at.value).clone();
        let tool = (!args.list).then_some(tool);
        let call = Call { tool, arguments: arguments.clone(), era: args.era, http, ca: args.ca.clone() };
        Target::new(name, url, token.clone(), &call)
    };
    let targets = urls.iter().map(target).collect::<Result<Vec<_>>>()?;
    let mut watched = vec![Watched { name: "load".to_owned(), pid: std::process::id() }];
    watched.extend(children.iter().map(|child| Watched { name: child.name.to_owned(), pid: child.pid() }));
    watched.extend(args.pids.iter().cloned());
    if let Some(cores) = &args.cores {
        let own = |watched: &&Watched| targets.iter().any(|target| target.name == watched.name);
        args.pids.iter().filter(own).try_for_each(|watched| cores.pin_process(watched.pid))?;
    }
    let processors = args.load_cores.as_ref().map_or(1, Cores::count);
    Ok(Run {
        targets,
        watched,
        rounds: args.rounds,
        streams: if http == Http::Two { args.streams } else { 1 },
        threads: args.threads.unwrap_or(u32::try_from(processors).unwrap_or(1)),
        warm_up: Duration::from_secs_f64(args.warm_up),
        measured: Duration::from_secs_f64(args.seconds.max(0.1)),
        _children: children,
    })
}

impl Run {
    fn scenario(&self, callers: u32, rate: Option<f64>) -> Result<Scenario> {
        let (threads, streams) = (self.threads, self.streams);
        let load = Load { callers, streams, rate, threads, warm_up: self.warm_up, measured: self.measured };
        let mut measured: Vec<TargetRounds> =
            self.targets.iter().map(|target| TargetRounds::new(&target.name)).collect();
        let how = rate.map_or_else(String::new, |rate| format!(" at {rate:.0} calls/s"));
        for number in 0..self.rounds as usize {
            // Each round begins with another target.
            for turn in 0..self.targets.len() {
                let position = (number + turn) % self.targets.len();
                let (Some(target), Some(rounds)) = (self.targets.get(position), measured.get_mut(position)) else {
                    continue;
                };
                let round = round::run(target, &load, &self.watched)?;
                let troubles = round.refused + round.failed + round.unsent;
                eprintln!(
                    "{callers} callers{how}, round {} of {}, {}: {:.0} calls/s, p50 {:.0} us, p99 {:.0} us{}",
                    number + 1,
                    self.rounds,
                    target.name,
                    round.calls_per_second(),
                    round.micros_at(50.0),
                    round.micros_at(99.0),
                    if troubles > 0 { format!(", {troubles} without a result") } else { String::new() },
                );
                rounds.add(round);
            }
        }
        Ok(Scenario::new(callers, rate, &self.watched, &measured))
    }
}

#[cfg(test)]
mod tests;
