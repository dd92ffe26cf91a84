//! The overlay: denials that are in force before the revision that brings them is held.
//!
//! Filled by the catalogue from the revocation lane and from deltas it cannot use; asked by `compile` for every entry.
//! A denial bars a key and carries no value, so an overlay can only narrow: what a denied entry says otherwise (a
//! person's groups, a tool's name) stays as it was, because policies that forbid and names that collide may hang on it.
//! Never part of the digest. A denial goes once its revision is held, for the entries say it themselves from then on.

use std::collections::BTreeSet;

use crate::table::Table;

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    /// Denied keys, and the latest revision that denies each.
    denied: Table<u64>,
    /// Keys that were barred or released since [`Overlay::take_news`].
    news: BTreeSet<String>,
}

impl Overlay {
    /// Bars a key until `revision` is held. True when it was not barred before.
    pub(super) fn deny(&mut self, key: &str, revision: u64) -> bool {
        if let Some(until) = self.denied.get(key).copied() {
            if revision > until {
                self.denied.insert(key, revision);
            }
            return false;
        }
        self.denied.insert(key, revision);
        self.news.insert(key.to_owned());
        true
    }

    /// Drops the denials that the entries of `revision` contain.
    pub(super) fn reached(&mut self, revision: u64) {
        let released = self.denied.iter().filter(|(_, until)| **until <= revision);
        let released: Vec<String> = released.map(|(key, _)| key.to_owned()).collect();
        released.iter().for_each(|key| self.denied.remove(key));
        self.news.extend(released);
    }

    /// Keys that were barred or released since this was asked last.
    pub(super) fn take_news(&mut self) -> BTreeSet<String> {
        std::mem::take(&mut self.news)
    }

    pub(super) fn denies(&self, key: &str) -> bool {
        !self.denied.is_empty() && self.denied.contains_key(key)
    }

    /// Denied keys, with the latest revision that denies each.
    pub(super) const fn denied(&self) -> &Table<u64> {
        &self.denied
    }

    pub(super) fn len(&self) -> usize {
        self.denied.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_barred_until_the_last_revision_that_denies_it() {
        let mut overlay = Overlay::default();
        let key = || BTreeSet::from(["agent/coder".to_owned()]);
        assert!(overlay.deny("agent/coder", 10) && overlay.take_news() == key());
        assert!(!overlay.deny("agent/coder", 12) && !overlay.deny("agent/coder", 11) && overlay.take_news().is_empty());
        overlay.reached(11);
        assert!(overlay.denies("agent/coder") && overlay.take_news().is_empty());
        overlay.reached(12);
        assert!(!overlay.denies("agent/coder") && overlay.take_news() == key());
        assert_eq!(overlay.len(), 0);
    }
}
