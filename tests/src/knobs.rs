//! A slow or failing disk and a wrong clock for single nodes, by a small library that is preloaded into them.
//!
//! `shim/faults.c` stands between a process and `fsync`, `fdatasync` and the wall clock; a test turns its knobs while
//! the process runs. It is compiled by the first test that needs it, with the C compiler that the build needs anyway.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use crate::deployment::repository;

/// The knobs of one process.
#[derive(Clone, Debug)]
pub struct Knobs {
    file: PathBuf,
    state: [i64; 3],
}

impl Knobs {
    /// Prepares a cluster's folder so that each of these nodes gets knobs.
    ///
    /// # Errors
    /// When the library does not compile.
    pub fn install(cluster: &Path, nodes: &[&str]) -> Result<Vec<Self>> {
        fs::create_dir_all(cluster)?;
        let library = cluster.join("faults.so");
        let source = repository().join("tests/shim/faults.c");
        let arguments = ["-shared", "-fPIC", "-O2", "-o"];
        let compiled = Command::new("cc").args(arguments).arg(&library).arg(source).arg("-ldl").status();
        ensure!(compiled.context("run the C compiler")?.success(), "tests/shim/faults.c does not compile");
        let (mut hosts, mut knobs) = (serde_json::Map::new(), Vec::new());
        for node in nodes {
            let own = Self { file: cluster.join(format!("{node}.knobs")), state: [0; 3] };
            own.write()?;
            let preload = format!("LD_PRELOAD={}", library.display());
            let run = json!({"run": ["env", preload, format!("FAULT_KNOBS={}", own.file.display())]});
            hosts.insert((*node).to_owned(), run);
            knobs.push(own);
        }
        fs::write(cluster.join("hosts.json"), serde_json::Value::from(hosts).to_string())?;
        Ok(knobs)
    }

    /// Every sync of this node takes so much longer.
    ///
    /// # Errors
    /// When the knob cannot be turned.
    pub fn slow_disk(&mut self, delay: Duration) -> Result<()> {
        self.state[0] = i64::try_from(delay.as_micros())?;
        self.write()
    }

    /// This node's wall clock is off by so many seconds.
    ///
    /// # Errors
    /// When the knob cannot be turned.
    pub fn clock_off_by(&mut self, seconds: i64) -> Result<()> {
        self.state[1] = seconds * 1_000_000_000;
        self.write()
    }

    /// Whether every sync of this node fails with an input/output error.
    ///
    /// # Errors
    /// When the knob cannot be turned.
    pub fn failing_disk(&mut self, fails: bool) -> Result<()> {
        const EIO: i64 = 5;
        self.state[2] = if fails { EIO } else { 0 };
        self.write()
    }

    /// In place: the process has the file mapped.
    fn write(&self) -> Result<()> {
        let bytes: Vec<u8> = self.state.iter().flat_map(|knob| knob.to_ne_bytes()).collect();
        let mut file = fs::File::options().create(true).truncate(false).write(true).open(&self.file)?;
        Ok(std::io::Write::write_all(&mut file, &bytes)?)
    }
}
