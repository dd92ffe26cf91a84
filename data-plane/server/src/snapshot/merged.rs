//! Several deltas as one: the last value of every key that they touch.
//!
//! The journal gathers what comes between two statements; reading a file and rewriting it gather all that changed since
//! its chunks were written. Bounded by whoever gathers.

use std::collections::BTreeMap;

use bailiwick_proto::v1;

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Merged {
    from: u64,
    to: u64,
    changes: BTreeMap<String, Option<Vec<u8>>>,
    bytes: usize,
}

/// A delta that does not go on where the one before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a change does not go on where the one before ended")]
pub(crate) struct NotNext;

impl Merged {
    /// Nothing has changed since `revision`.
    pub(super) fn since(revision: u64) -> Self {
        Self { from: revision, to: revision, ..Self::default() }
    }

    /// The revision that all of it leads to.
    pub(super) const fn to(&self) -> u64 {
        self.to
    }

    /// About the memory it takes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn add(&mut self, delta: v1::Delta) -> Result<(), NotNext> {
        if delta.from != self.to {
            return Err(NotNext);
        }
        self.to = delta.to;
        for v1::EntryChange { key, value } in delta.changes {
            self.bytes += key.len() + value.as_ref().map_or(0, Vec::len);
            self.changes.insert(key, value);
        }
        Ok(())
    }

    /// Whether an entry of before is not what it was.
    pub(super) fn touches(&self, key: &str) -> bool {
        self.changes.contains_key(key)
    }

    /// What is there now of all that was touched.
    pub(super) fn entries(self) -> Vec<v1::Entry> {
        self.changes.into_iter().filter_map(|(key, value)| Some(v1::Entry { key, value: value? })).collect()
    }

    /// As one delta that leads to `digest`.
    pub(super) fn delta(self, digest: Vec<u8>) -> v1::Delta {
        let Self { from, to, changes, bytes: _ } = self;
        let changes = changes.into_iter().map(|(key, value)| v1::EntryChange { key, value }).collect();
        v1::Delta { from, to, changes, digest }
    }
}
