//! Limits of the process: how many files a node may have open.
//!
//! A data plane holds two for each call under way, RocksDB one for each table. The limit seen is the one of the
//! doctor's own process: run it the way the node is run.

use std::fs;

use super::finding::Finding;

/// Below this RocksDB and a hundred connections do not fit.
const OPEN_FILES_MIN: u64 = 1_024;
/// What a busy node wants.
const OPEN_FILES_GOOD: u64 = 16_384;

/// Open files: the soft limit in the text of `/proc/self/limits`.
pub(crate) fn check(limits: &str) -> Finding {
    let advice = "raise it: LimitNOFILE=65536 in the unit, or `ulimit -n 65536`";
    match open_files(limits) {
        None => Finding::warn("open-files", "this process", "the limit is not known", advice),
        Some(limit) if limit < OPEN_FILES_MIN => {
            Finding::fail("open-files", "this process", format!("at most {limit}"), advice)
        }
        Some(limit) if limit < OPEN_FILES_GOOD => {
            Finding::warn("open-files", "this process", format!("at most {limit}"), advice)
        }
        Some(u64::MAX) => Finding::ok("open-files", "this process", "not limited"),
        Some(limit) => Finding::ok("open-files", "this process", format!("at most {limit}")),
    }
}

fn open_files(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

/// The limits of this process.
pub(crate) fn look() -> String {
    fs::read_to_string("/proc/self/limits").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    #[test]
    fn few_open_files_are_warned_of() {
        for (limits, expected) in [
            ("Max open files            256                  4096                 files", Level::Fail),
            ("Max open files            1024                 524288               files", Level::Warn),
            (
                "Max processes  1 1 x\nMax open files            65536                65536                files",
                Level::Ok,
            ),
            ("Max open files            unlimited            unlimited            files", Level::Ok),
            ("", Level::Warn),
        ] {
            assert_eq!(check(limits).level, expected, "{limits}");
        }
        assert!(open_files(&look()).is_some());
    }
}
