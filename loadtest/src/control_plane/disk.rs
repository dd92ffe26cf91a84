//! What the disk can do: one writer that appends a kilobyte and waits until it is durable, over and over.
//!
//! Every ratio of the cluster benchmarks is against this rate, measured right before and after in the same folder.
//! The file is written over and over at growing offsets of a fresh file, as a write-ahead log would.

use std::{
    fs::{self, File},
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::figures::Latencies;

/// About what one command writes to a log.
const RECORD_BYTES: usize = 1024;

/// Synced appends for some time.
#[derive(Clone, Debug)]
pub(crate) struct Syncs {
    pub(crate) per_second: f64,
    latencies: Latencies,
}

/// Appends and syncs in `folder` for `time`; each sync is made to take `delay` longer.
pub(crate) fn measure(folder: &Path, time: Duration, delay: Duration) -> Result<Syncs> {
    fs::create_dir_all(folder)?;
    let path = folder.join("fsync.measured");
    let mut file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let record = [0x5a; RECORD_BYTES];
    let mut latencies = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let at = Instant::now();
        file.write_all(&record)?;
        file.sync_data()?;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        latencies.push(at.elapsed());
    }
    let took = began.elapsed();
    fs::remove_file(&path)?;
    let latencies = Latencies::new(latencies);
    Ok(Syncs { per_second: latencies.per_second(took), latencies })
}

impl Syncs {
    pub(crate) fn json(&self) -> Value {
        json!({"syncs_per_second": self.per_second.round(), "latency": self.latencies.json()})
    }

    pub(crate) fn line(&self) -> String {
        format!("fsync of 1 KiB: {:.0}/s, {}", self.per_second, self.latencies)
    }
}
