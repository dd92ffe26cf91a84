//! Latencies and memory, as they are printed.

use std::{fmt, fs, io, time::Duration};

use serde_json::{Value, json};

/// Latencies in ascending order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Latencies(Vec<Duration>);

impl Latencies {
    pub(crate) fn new(mut all: Vec<Duration>) -> Self {
        all.sort_unstable();
        Self(all)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value that `thousandths` of all do not exceed.
    pub(crate) fn at(&self, thousandths: usize) -> Duration {
        let last = self.0.len().saturating_sub(1);
        self.0.get((self.0.len() * thousandths / 1000).min(last)).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> Duration {
        self.at(500)
    }

    pub(crate) fn max(&self) -> Duration {
        self.at(1000)
    }

    /// How many there were a second, if all took `time` together.
    pub(crate) fn per_second(&self, time: Duration) -> f64 {
        count(self.len()) / time.as_secs_f64().max(f64::EPSILON)
    }

    pub(crate) fn json(&self) -> Value {
        json!({"p50_us": micros(self.median()), "p99_us": micros(self.at(990)), "max_us": micros(self.max())})
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p99, max] = [self.median(), self.at(990), self.max()].map(|latency| latency.as_secs_f64() * 1e3);
        write!(f, "p50 {p50:.2} ms, p99 {p99:.2} ms, max {max:.2} ms")
    }
}

fn micros(latency: Duration) -> String {
    latency.as_micros().to_string()
}

/// A count as a number to divide.
pub(crate) fn count(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}

/// Memory of this process in MiB: now, and at most so far. Zeros where the system does not say.
pub(crate) fn memory_mib() -> (u64, u64) {
    resident("self")
}

/// The same of another process.
pub(crate) fn memory_of(pid: u32) -> (u64, u64) {
    resident(&pid.to_string())
}

/// From here on the system counts the most memory of a process anew.
pub(crate) fn forget_peak(pid: u32) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5")
}

fn resident(process: &str) -> (u64, u64) {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let of = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
        line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024
    };
    (of("VmRSS:"), of("VmHWM:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let latencies = Latencies::new((1..=1000).rev().map(Duration::from_micros).collect());
        let micros = [latencies.median(), latencies.at(990), latencies.max()].map(|latency| latency.as_micros());
        assert_eq!(micros, [501, 991, 1000]);
        assert_eq!(Latencies::default().max(), Duration::ZERO);
        assert!((latencies.per_second(Duration::from_secs(2)) - 500.0).abs() < 1e-9);
    }

    #[test]
    fn memory_is_known_on_linux() {
        let (now, most) = memory_mib();
        assert!(now > 0 && most >= now);
    }
}
