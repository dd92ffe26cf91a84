//! Whoever descends from this process: found and killed until nobody is left.
//!
//! Used by the warden alone, which is the reaper of all its descendants: whoever loses its parent becomes its child, so
//! each is found from it, whatever group or session it moved to. A process is killed through a descriptor of its own
//! that was checked once more, so that nobody else is hit who got its number meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal, wait};

/// Longest time for finding and killing all.
const ENDING_MAX: Duration = Duration::from_secs(5);
/// Between two looks: a killed process takes some microseconds to end.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Kills all descendants and takes their ends. Whether none is left.
pub(super) fn end_all() -> bool {
    let began = Instant::now();
    while began.elapsed() < ENDING_MAX {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        let parents = parents();
        let descendants = descendants(&parents, getpid().as_raw_nonzero().get());
        if descendants.is_empty() {
            return true;
        }
        for pid in descendants {
            kill(pid, parents.get(&pid).copied());
        }
        sleep(LOOK_EVERY);
    }
    false
}

/// The parent of each process there is.
fn parents() -> BTreeMap<i32, i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// A process's parent; its name stands in parentheses before it, and may contain anything.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(1)?.parse().ok()
}

fn descendants(parents: &BTreeMap<i32, i32>, of: i32) -> BTreeSet<i32> {
    let mut found = BTreeSet::new();
    loop {
        let is_new = |pid: &i32, parent: &i32| (*parent == of || found.contains(parent)) && !found.contains(pid);
        let more: Vec<i32> = parents.iter().filter(|(pid, parent)| is_new(pid, parent)).map(|(pid, _)| *pid).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

fn kill(pid: i32, seen_under: Option<i32>) {
    let Some(process) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
    if parent(pid) == seen_under {
        _ = pidfd_send_signal(&process, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_are_found_through_any_number_of_parents() {
        let parents = BTreeMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 5), (7, 6)]);
        assert_eq!(descendants(&parents, 2), BTreeSet::from([3, 4]));
        assert_eq!(descendants(&parents, 5), BTreeSet::from([6, 7]));
        assert_eq!(descendants(&parents, 7), BTreeSet::new());
    }

    #[test]
    fn a_process_s_parent_is_read_whatever_its_name() {
        let own = std::process::id().try_into().unwrap();
        assert_eq!(parent(own), rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get()));
        assert!(parents().contains_key(&own));
    }
}
