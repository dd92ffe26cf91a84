//! Counts the calls that tools really executed, per tool, and the prompts and resources that were really given out.
//!
//! `finance` and `reading` add to it as the first thing they do; `main` serves it as JSON at `/calls` and `/reads`. Tests
//! read it from outside to prove that what Bailiwick refused never reached the upstream. A call is counted even if the tool then
//! answers with an error, since it did arrive. Nothing is kept across a restart.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// The tools this server offers, in the order they are listed at `/calls`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tool {
    QueryData,
    CreateCharge,
    DeleteLedger,
}

/// What is read rather than called.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Read {
    Prompt,
    Resource,
}

/// One counter per tool and kind of reading; all start at zero.
#[derive(Debug, Default)]
pub(crate) struct CallLog {
    query_data: AtomicU64,
    create_charge: AtomicU64,
    delete_ledger: AtomicU64,
    prompts: AtomicU64,
    resources: AtomicU64,
}

impl CallLog {
    /// Counts one prompt or resource that was asked for.
    pub(crate) fn add_read(&self, read: Read) {
        let counter = match read {
            Read::Prompt => &self.prompts,
            Read::Resource => &self.resources,
        };
        counter.fetch_add(1, Ordering::SeqCst);
    }

    /// The counts of reading, by kind.
    pub(crate) fn reads(&self) -> BTreeMap<&'static str, u64> {
        let count = |counter: &AtomicU64| counter.load(Ordering::SeqCst);
        BTreeMap::from([("prompts", count(&self.prompts)), ("resources", count(&self.resources))])
    }

    /// Counts one executed call and returns how many there have now been of that tool.
    pub(crate) fn add(&self, tool: Tool) -> u64 {
        self.counter(tool).fetch_add(1, Ordering::SeqCst) + 1
    }

    /// The count of every tool, zeros included, under the tool's MCP name.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        [("query_data", Tool::QueryData), ("create_charge", Tool::CreateCharge), ("delete_ledger", Tool::DeleteLedger)]
            .into_iter()
            .map(|(name, tool)| (name, self.counter(tool).load(Ordering::SeqCst)))
            .collect()
    }

    fn counter(&self, tool: Tool) -> &AtomicU64 {
        match tool {
            Tool::QueryData => &self.query_data,
            Tool::CreateCharge => &self.create_charge,
            Tool::DeleteLedger => &self.delete_ledger,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_is_listed_before_its_first_call() {
        let log = CallLog::default();
        assert_eq!(log.add(Tool::CreateCharge), 1);
        assert_eq!(log.add(Tool::CreateCharge), 2);
        assert_eq!(log.counts(), BTreeMap::from([("create_charge", 2), ("delete_ledger", 0), ("query_data", 0)]));
    }
}
