//! A table of many rows of which few change at a time: a changed copy shares what has not changed with the original.
//!
//! Holds what the overlay denies: a few keys as a rule, and all of them when a revision took away a great deal.
//! Rows lie in shards by the hash of their name; a copy costs a pointer for each shard, a change copies one shard's
//! pointers. Readers keep the table they have. Absent: order across shards, which nobody needs.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

/// With a million rows a shard has some four thousand, whose pointers are copied in a tenth of a millisecond.
const SHARDS: u64 = 256;

type Shard<T> = BTreeMap<Arc<str>, Arc<T>>;

/// See the file's header.
#[derive(Debug, PartialEq, Eq)]
pub struct Table<T> {
    shards: BTreeMap<u64, Arc<Shard<T>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { shards: BTreeMap::new() }
    }
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone() }
    }
}

impl<T> Table<T> {
    /// The row of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&T> {
        self.shards.get(&shard_of(name))?.get(name).map(AsRef::as_ref)
    }

    /// Whether there is a row of this name.
    #[must_use]
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Names and rows, in any order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.shards.values().flat_map(|shard| shard.iter()).map(|(name, row)| (name.as_ref(), row.as_ref()))
    }

    /// How many rows there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.values().map(|shard| shard.len()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.shards.is_empty()
    }

    /// Puts a row in place of the one of the same name.
    pub fn insert(&mut self, name: &str, row: T) {
        let shard = self.shards.entry(shard_of(name)).or_default();
        Arc::make_mut(shard).insert(Arc::from(name), Arc::new(row));
    }

    /// Takes a row away.
    pub fn remove(&mut self, name: &str) {
        let at = shard_of(name);
        if let Some(shard) = self.shards.get_mut(&at).filter(|shard| shard.contains_key(name)) {
            Arc::make_mut(shard).remove(name);
            if shard.is_empty() {
                self.shards.remove(&at);
            }
        }
    }
}

fn shard_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish() % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_copy_shares_the_rest_and_leaves_the_original_as_it_was() {
        let mut table = Table::default();
        (0..2_000_u32).for_each(|n| table.insert(&format!("row-{n}"), n));
        let before = table.clone();
        table.insert("row-7", 0);
        table.remove("row-8");
        table.remove("row-8");
        assert_eq!((before.get("row-7"), before.get("row-8"), before.len()), (Some(&7), Some(&8), 2_000));
        assert_eq!((table.get("row-7"), table.get("row-8"), table.len()), (Some(&0), None, 1_999));
        let shared = before.shards.iter().filter(|(at, shard)| Arc::ptr_eq(shard, &table.shards[*at])).count();
        assert!(shared >= before.shards.len() - 2, "{shared} shards are shared");
    }

    #[test]
    fn equal_rows_make_equal_tables_however_they_came() {
        let mut table = Table::default();
        table.insert("a", 1);
        table.remove("a");
        assert!(table == Table::default() && table.is_empty() && !table.contains_key("a"));
    }
}
