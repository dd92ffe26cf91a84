//! A map of which copies are cheap: the large tables of the state.
//!
//! Decisions look at states that do not exist yet: the draft of an apply, or what commands in flight will leave. With a
//! million consents a true copy for each would take a second. So copies share what is settled, and what changes while a
//! copy is around is kept beside it; it moves into the settled part at the first change after the last copy is gone.
//! Used by `state` for what can be large; order, equality and serialised form are those of a `BTreeMap`.
//! Absent: concurrency (a `Table` has one owner), and maps that are always small, which stay `BTreeMap`s.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    collections::{BTreeMap, btree_map},
    fmt,
    iter::Peekable,
    sync::Arc,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A map in key order with cheap copies.
#[derive(Clone)]
pub struct Table<K, V> {
    settled: Arc<BTreeMap<K, V>>,
    /// Newer than `settled`; `None`: taken out.
    fresh: BTreeMap<K, Option<V>>,
    len: usize,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { settled: Arc::default(), fresh: BTreeMap::new(), len: 0 }
    }
}

impl<K: Ord, V> Table<K, V> {
    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value under a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if self.fresh.is_empty() {
            return self.settled.get(key);
        }
        match self.fresh.get(key) {
            Some(changed) => changed.as_ref(),
            None => self.settled.get(key),
        }
    }

    /// The value under a key, with the key as it is held.
    #[must_use]
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        match self.fresh.get_key_value(key) {
            Some((known, changed)) => changed.as_ref().map(|value| (known, value)),
            None => self.settled.get_key_value(key),
        }
    }

    /// Whether there is a value under a key.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }

    /// Keys and values in key order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        Iter { settled: self.settled.iter().peekable(), fresh: self.fresh.iter().peekable() }
    }

    /// Keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// Values in key order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The greatest key.
    #[must_use]
    pub fn last_key(&self) -> Option<&K> {
        let settled = self.settled.keys().rev().find(|key| !self.fresh.contains_key(*key));
        let fresh = self.fresh.iter().rev().find(|(_, value)| value.is_some()).map(|(key, _)| key);
        settled.max(fresh)
    }

    /// The settled map with everything in it, unless a copy shares it.
    fn own(&mut self) -> Option<&mut BTreeMap<K, V>> {
        let settled = Arc::get_mut(&mut self.settled)?;
        for (key, value) in std::mem::take(&mut self.fresh) {
            match value {
                Some(value) => settled.insert(key, value),
                None => settled.remove(&key),
            };
        }
        Some(settled)
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// Puts a value in place of the one under the same key.
    pub fn insert(&mut self, key: K, value: V) {
        let is_new = match self.own() {
            Some(settled) => settled.insert(key, value).is_none(),
            None => {
                let is_new = !self.contains_key(&key);
                self.fresh.insert(key, Some(value));
                is_new
            }
        };
        self.len += usize::from(is_new);
    }

    /// Takes a value out; whether there was one.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let was_there = match self.own() {
            Some(settled) => settled.remove(key).is_some(),
            None => {
                let known = self.settled.get_key_value(key).map(|(known, _)| known.clone());
                let was_there = self.contains_key(key);
                match known {
                    Some(known) => self.fresh.insert(known, None),
                    None => self.fresh.remove(key),
                };
                was_there
            }
        };
        self.len -= usize::from(was_there);
        was_there
    }

    /// The value under a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        if self.own().is_some() {
            return self.own()?.get_mut(key);
        }
        if !self.fresh.contains_key(key) {
            let (known, value) = self.settled.get_key_value(key)?;
            self.fresh.insert(known.clone(), Some(value.clone()));
        }
        self.fresh.get_mut(key)?.as_mut()
    }

    /// Takes out what `keep` does not want.
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let gone: Vec<K> = self.iter().filter(|(key, value)| !keep(key, value)).map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.remove(&key);
        }
    }

    /// Takes the first entry out.
    pub fn pop_first(&mut self) -> Option<(K, V)> {
        let (key, value) = self.iter().next()?;
        let first = (key.clone(), value.clone());
        self.remove(&first.0);
        Some(first)
    }
}

/// Keys and values in key order.
#[derive(Debug)]
pub struct Iter<'a, K, V> {
    settled: Peekable<btree_map::Iter<'a, K, V>>,
    fresh: Peekable<btree_map::Iter<'a, K, Option<V>>>,
}

impl<'a, K: Ord, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let order = match (self.settled.peek(), self.fresh.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((settled, _)), Some((fresh, _))) => settled.cmp(fresh),
            };
            if order == Ordering::Less {
                return self.settled.next();
            }
            if order == Ordering::Equal {
                // The fresh one takes its place.
                self.settled.next();
            }
            if let Some((key, Some(value))) = self.fresh.next() {
                return Some((key, value));
            }
        }
    }
}

impl<'a, K: Ord, V> IntoIterator for &'a Table<K, V> {
    type Item = (&'a K, &'a V);
    type IntoIter = Iter<'a, K, V>;

    fn into_iter(self) -> Iter<'a, K, V> {
        self.iter()
    }
}

impl<K: Ord, V> FromIterator<(K, V)> for Table<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let settled = BTreeMap::from_iter(entries);
        Self { len: settled.len(), settled: Arc::new(settled), fresh: BTreeMap::new() }
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Ord, V: Eq> Eq for Table<K, V> {}

impl<K: Ord + fmt::Debug, V: fmt::Debug> fmt::Debug for Table<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl<K: Ord + Serialize, V: Serialize> Serialize for Table<K, V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self)
    }
}

impl<'de, K: Ord + Deserialize<'de>, V: Deserialize<'de>> Deserialize<'de> for Table<K, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let settled = BTreeMap::<K, V>::deserialize(deserializer)?;
        Ok(Self { len: settled.len(), settled: Arc::new(settled), fresh: BTreeMap::new() })
    }
}

/// Serialised as a set: the keys alone, in order.
pub(crate) mod as_set {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Table;

    pub(crate) fn serialize<K: Ord + Serialize, S: Serializer>(
        table: &Table<K, ()>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(table.keys())
    }

    pub(crate) fn deserialize<'de, K: Ord + Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Table<K, ()>, D::Error> {
        Ok(Vec::<K>::deserialize(deserializer)?.into_iter().map(|key| (key, ())).collect())
    }
}

/// Serialised as a list: the values alone, in the order of their numbers.
pub(crate) mod as_list {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::Table;

    pub(crate) fn serialize<V: Serialize, S: Serializer>(
        table: &Table<u64, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(table.values())
    }

    pub(crate) fn deserialize<'de, V: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Table<u64, V>, D::Error> {
        Ok((0..).zip(Vec::<V>::deserialize(deserializer)?).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u8),
        Remove(u8),
        Change(u8, u8),
        PopFirst,
        Retain(u8),
        Copy,
        DropCopies,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0_u8..12, any::<u8>()).prop_map(|(key, value)| Step::Insert(key, value)),
            (0_u8..12).prop_map(Step::Remove),
            (0_u8..12, any::<u8>()).prop_map(|(key, value)| Step::Change(key, value)),
            Just(Step::PopFirst),
            (1_u8..5).prop_map(Step::Retain),
            Just(Step::Copy),
            Just(Step::DropCopies),
        ];
        proptest::collection::vec(step, 0..60)
    }

    fn check(table: &Table<u8, u8>, model: &BTreeMap<u8, u8>) {
        assert!(table.iter().eq(model.iter()), "{table:?} {model:?}");
        assert_eq!((table.len(), table.is_empty()), (model.len(), model.is_empty()));
        assert_eq!(table.last_key(), model.keys().next_back());
        for key in 0..12 {
            assert_eq!(table.get(&key), model.get(&key));
            assert_eq!(table.get_key_value(&key), model.get_key_value(&key));
        }
    }

    proptest! {
        #[test]
        fn it_is_a_map_whoever_holds_a_copy_and_copies_stay_as_they_were(steps in steps()) {
            let (mut table, mut model) = (Table::default(), BTreeMap::new());
            let mut copies = Vec::new();
            for step in steps {
                match step {
                    Step::Insert(key, value) => {
                        table.insert(key, value);
                        model.insert(key, value);
                    }
                    Step::Remove(key) => assert_eq!(table.remove(&key), model.remove(&key).is_some()),
                    Step::Change(key, value) => {
                        assert_eq!(table.get_mut(&key).map(|old| *old = value), model.get_mut(&key).map(|old| *old = value));
                    }
                    Step::PopFirst => assert_eq!(table.pop_first(), model.pop_first()),
                    Step::Retain(nth) => {
                        table.retain(|key, _| key % nth == 0);
                        model.retain(|key, _| key % nth == 0);
                    }
                    Step::Copy => copies.push((table.clone(), model.clone())),
                    Step::DropCopies => copies.clear(),
                }
                check(&table, &model);
                for (copy, model) in &copies {
                    check(copy, model);
                }
            }
            let whole: Table<u8, u8> = model.clone().into_iter().collect();
            assert_eq!(table, whole);
            assert_eq!(serde_json::to_string(&table).unwrap(), serde_json::to_string(&model).unwrap());
        }
    }
}
