//! Which kinds of records the ledger reads, as it says itself.
//!
//! Told with every notice of the ledger's (`notices`) and asked by the recorder before it writes a kind that was added:
//! a ledger refuses a kind that it does not know, and then all that this node writes after it waits, until the spool is
//! full. What was heard is kept in the data folder, so that a run that begins while no ledger answers knows it, too. A
//! ledger that was put back to an earlier version says so with its first notice. Invariant: what was never heard counts
//! as not known.

use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use bailiwick_ledger_core::record::Kind;
use bailiwick_runtime::private_file;

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Reader {
    kinds: AtomicU32,
    file: PathBuf,
}

impl Reader {
    /// As it was heard last, in this run or an earlier one.
    pub(crate) fn open(file: PathBuf) -> Self {
        let kept = private_file::read(&file).ok().and_then(|bytes| String::from_utf8(bytes).ok()?.trim().parse().ok());
        Self { kinds: AtomicU32::new(kept.unwrap_or(0)), file }
    }

    /// The ledger says that it knows so many kinds; 0: one from before ledgers said so.
    pub(super) fn heard(&self, kinds: u32) {
        let before = self.kinds.swap(kinds, Ordering::Relaxed);
        if before == kinds {
            return;
        }
        if kinds < before {
            tracing::warn!(kinds, before, "the ledger is of an earlier version than before");
        }
        if let Err(error) = private_file::write(&self.file, kinds.to_string().as_bytes()) {
            tracing::warn!(%error, "which records the ledger reads is not kept; the next run asks it again");
        }
    }

    pub(super) fn knows(&self, kind: Kind) -> bool {
        kind.is_known_to(self.kinds.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_ledger_said_last_counts_also_in_the_next_run() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Reader::open(dir.path().join("ledger-kinds"));
        assert!(open().knows(Kind::CallDenied) && !open().knows(Kind::DecisionEvaluated), "nothing was heard");
        open().heard(Kind::known());
        assert!(open().knows(Kind::DecisionEvaluated));
        open().heard(0);
        assert!(!open().knows(Kind::DecisionEvaluated), "the ledger was put back");
        private_file::write(&dir.path().join("ledger-kinds"), b"many").unwrap();
        assert!(!open().knows(Kind::DecisionEvaluated), "what cannot be read counts as nothing");
    }
}
