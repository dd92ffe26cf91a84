//! Which processors a process may run on.
//!
//! What is measured and what measures it take time from each other on a small machine; kept on processors of their own,
//! the one does not slow the other, and a throughput is that of as many processors as were given. Linux only, as are
//! the figures of `mcp/processes.rs`.

use std::{fmt, fs, str::FromStr};

use anyhow::{Context as _, Result, bail};
use rustix::{
    process::Pid,
    thread::{CpuSet, sched_setaffinity},
};

/// Numbers of processors, as `0`, `0,2` or `0-3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cores(Vec<usize>);

impl FromStr for Cores {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |part: &str| -> Result<usize> {
            let number = part.trim().parse().with_context(|| format!("{part:?} is not a processor"))?;
            if number < CpuSet::MAX_CPU { Ok(number) } else { bail!("there is no processor {number}") }
        };
        let mut cores = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                None => cores.push(number(part)?),
                Some((first, last)) => cores.extend(number(first)?..=number(last)?),
            }
        }
        if cores.is_empty() {
            bail!("{text:?} names no processor");
        }
        Ok(Self(cores))
    }
}

impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(usize::to_string).collect();
        f.write_str(&all.join(","))
    }
}

impl Cores {
    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// This thread, and those it starts from here on.
    pub(crate) fn pin_this_thread(&self) -> Result<()> {
        sched_setaffinity(None, &self.set()).with_context(|| format!("cannot run on processors {self}"))
    }

    /// All threads of another process; those that it starts later take after the thread that starts them.
    pub(crate) fn pin_process(&self, pid: u32) -> Result<()> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("there is no process {pid}"))?;
        for task in tasks {
            let thread: i32 = task?.file_name().to_string_lossy().parse()?;
            // A thread that has ended meanwhile needs no place.
            let _ = sched_setaffinity(Pid::from_raw(thread), &self.set());
        }
        Ok(())
    }

    fn set(&self) -> CpuSet {
        let mut set = CpuSet::new();
        self.0.iter().for_each(|core| set.set(*core));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_named_one_by_one_or_from_to() {
        assert_eq!("0,2-4".parse::<Cores>().unwrap(), Cores(vec![0, 2, 3, 4]));
        for wrong in ["", "a", "3-1", "-1", "99999"] {
            assert!(wrong.parse::<Cores>().is_err(), "{wrong:?}");
        }
    }
}
