//! Processor time and memory of processes that are watched by pid. Linux.
//!
//! Processor time is user and system time of all threads. The scheduler's own count is in nanoseconds but forgets
//! threads that have ended; the process's count is whole ticks but forgets nothing. So threads are counted, and ticks
//! only where one ended meanwhile.

use std::{collections::BTreeMap, fs, str::FromStr, time::Duration};

use anyhow::{Context as _, Result};

/// What `/proc` counts in, on every Linux since 2.6 (USER_HZ).
const TICKS_A_SECOND: u64 = 100;
/// Fields of `/proc/PID/stat` after the name in parentheses: user and system time are the 14th and 15th of all.
const FIELDS_BEFORE_TIMES: usize = 11;

/// A process and the name it has in the report. Several may share one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Watched {
    pub(crate) name: String,
    pub(crate) pid: u32,
}

/// What a process had used at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    threads: BTreeMap<String, u64>,
    ticks: u64,
}

impl FromStr for Watched {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, pid) = text.split_once('=').context("expected NAME=PID")?;
        Ok(Self { name: name.to_owned(), pid: pid.parse().with_context(|| format!("{pid:?} is no pid"))? })
    }
}

impl Watched {
    /// What it has used so far.
    pub(crate) fn sample(&self) -> Result<Sample> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid));
        let stat = stat.with_context(|| format!("{} (pid {}) is not running", self.name, self.pid))?;
        let mut threads = BTreeMap::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.pid))? {
            let task = task?;
            // A thread may end between the two reads; the ticks still know of it.
            if let Ok(text) = fs::read_to_string(task.path().join("schedstat")) {
                let nanoseconds = text.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(0);
                threads.insert(task.file_name().to_string_lossy().into_owned(), nanoseconds);
            }
        }
        Ok(Sample { threads, ticks: ticks_of(&stat).context("/proc shows another form of stat")? })
    }

    /// Its memory now, in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        let kib: u32 = line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or(0);
        f64::from(kib) / 1024.0
    }
}

impl Sample {
    /// Processor time used since an earlier sample.
    pub(crate) fn since(&self, earlier: &Self) -> Duration {
        let ended = earlier.threads.keys().any(|thread| !self.threads.contains_key(thread));
        let counted = self.threads.values().any(|nanoseconds| *nanoseconds > 0);
        if ended || !counted {
            let ticks = self.ticks.saturating_sub(earlier.ticks);
            return Duration::from_millis(ticks.saturating_mul(1_000 / TICKS_A_SECOND));
        }
        let of_thread =
            |(thread, now): (&String, &u64)| now.saturating_sub(earlier.threads.get(thread).copied().unwrap_or(0));
        Duration::from_nanos(self.threads.iter().map(of_thread).sum())
    }
}

fn ticks_of(stat: &str) -> Option<u64> {
    // The name may hold spaces and parentheses; the last one closes it.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(FIELDS_BEFORE_TIMES);
    Some(times.next()?.parse::<u64>().ok()? + times.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_counted_by_threads_and_by_ticks_once_one_has_ended() {
        let sample = |threads: &[(&str, u64)], ticks| Sample {
            threads: threads.iter().map(|(thread, used)| ((*thread).to_owned(), *used)).collect(),
            ticks,
        };
        let before = sample(&[("1", 500), ("2", 100)], 7);
        assert_eq!(sample(&[("1", 900), ("2", 100), ("3", 50)], 9).since(&before), Duration::from_nanos(450));
        assert_eq!(sample(&[("1", 900)], 9).since(&before), Duration::from_millis(20));
    }

    #[test]
    fn a_name_with_parentheses_does_not_confuse_the_times() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 100 0 0 0 31 11 0 0 20 0 1 0";
        assert_eq!(ticks_of(stat), Some(42));
    }

    #[test]
    fn this_process_can_be_watched() {
        let watched = Watched { name: "load".to_owned(), pid: std::process::id() };
        let before = watched.sample().unwrap();
        assert!(watched.resident_mib() > 0.0);
        assert!(watched.sample().unwrap().since(&before) < Duration::from_secs(60));
        assert!("load=x".parse::<Watched>().is_err());
    }
}
