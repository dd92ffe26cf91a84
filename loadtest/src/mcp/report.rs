//! The report: what was measured, where and how, in the form that `--check` reads again.

use std::{fs, time::SystemTime};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use super::{Args, figures::Scenario, target::Era};

/// Counts up when a reader of today could misread the figures.
pub(crate) const FORMAT: u32 = 1;

/// One run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) format: u32,
    pub(crate) version: String,
    /// Seconds since 1970.
    pub(crate) at: u64,
    pub(crate) machine: Machine,
    pub(crate) settings: Settings,
    pub(crate) scenarios: Vec<Scenario>,
}

/// Where it ran.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
}

/// How it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub(crate) http: u8,
    pub(crate) streams: u32,
    pub(crate) era: String,
    /// `tools/call` or `tools/list`.
    pub(crate) method: String,
    pub(crate) rounds: u32,
    pub(crate) seconds: f64,
    pub(crate) warm_up: f64,
    pub(crate) cores: Option<String>,
    pub(crate) load_cores: Option<String>,
}

impl Report {
    pub(crate) fn new(args: &Args, scenarios: Vec<Scenario>) -> Self {
        let settings = Settings {
            http: args.http,
            streams: args.streams,
            era: match args.era {
                Era::Modern => "modern",
                Era::Legacy => "legacy",
            }
            .to_owned(),
            method: if args.list { "tools/list" } else { "tools/call" }.to_owned(),
            rounds: args.rounds,
            seconds: args.seconds,
            warm_up: args.warm_up,
            cores: args.cores.as_ref().map(ToString::to_string),
            load_cores: args.load_cores.as_ref().map(ToString::to_string),
        };
        Self::of(settings, scenarios)
    }

    /// With these figures, made here and now.
    pub(super) fn of(settings: Settings, scenarios: Vec<Scenario>) -> Self {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { format: FORMAT, version, at, machine: Machine::this(), settings, scenarios }
    }

    /// Fails if any call was refused, failed or never sent.
    pub(crate) fn troubles(&self) -> Result<()> {
        for scenario in &self.scenarios {
            for target in &scenario.targets {
                let why = target.first_trouble.as_deref().unwrap_or("more calls were due than connections could carry");
                if target.refused + target.failed + target.unsent > 0 {
                    bail!(
                        "{}, {}: {} calls refused, {} failed, {} never sent; the first: {why}",
                        scenario.name,
                        target.name,
                        target.refused,
                        target.failed,
                        target.unsent
                    );
                }
            }
        }
        Ok(())
    }
}

impl Machine {
    fn this() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(':'));
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: model.map_or("unknown", |(_, model)| model.trim()).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.trim().to_owned(),
        }
    }
}
