//! Which pairs nothing passes between, and because of which cut: mending one leaves the others.

use std::collections::{BTreeMap, BTreeSet};

/// All cuts of one network.
#[derive(Debug, Default)]
pub(crate) struct Cuts {
    made: u64,
    cuts: BTreeMap<u64, BTreeSet<(u64, u64)>>,
}

/// Names one cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut(u64);

impl Cuts {
    /// From now on nothing passes between these pairs.
    pub(crate) fn cut(&mut self, pairs: impl IntoIterator<Item = (u64, u64)>) -> Cut {
        self.made += 1;
        self.cuts.insert(self.made, pairs.into_iter().collect());
        Cut(self.made)
    }

    pub(crate) fn mend(&mut self, cut: Cut) {
        self.cuts.remove(&cut.0);
    }

    pub(crate) fn mend_all(&mut self) {
        self.cuts.clear();
    }

    pub(crate) fn are_between(&self, pair: (u64, u64)) -> bool {
        self.cuts.values().any(|pairs| pairs.contains(&pair))
    }

    /// Whether any cut begins there.
    pub(crate) fn begin_at(&self, from: u64) -> bool {
        self.cuts.values().flatten().any(|pair| pair.0 == from)
    }
}
