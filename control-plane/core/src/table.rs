//! A map of which copies are cheap: the large tables of the state.
//!
//! Decisions look at states that do not exist yet: the draft of an apply, or what commands in flight will leave. With a
//! million consents a true copy for each would take a second. So the tables are persistent trees: a copy costs nothing,
//! and a change afterwards copies only its path from the root.
//! Used by `state` for what can be large; order, equality and serialised form are those of a `BTreeMap`.
//! Absent: concurrency (a `Table` has one owner), and maps that are always small, which stay `BTreeMap`s.

use std::{borrow::Borrow, collections::BTreeMap, fmt};

use rpds::RedBlackTreeMapSync;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A map in key order with cheap copies.
#[derive(Clone)]
pub struct Table<K: Ord, V>(RedBlackTreeMapSync<K, V>);

/// Keys and values in key order.
pub type Iter<'a, K, V> = <&'a RedBlackTreeMapSync<K, V> as IntoIterator>::IntoIter;

impl<K: Ord, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(RedBlackTreeMapSync::new_sync())
    }
}

impl<K: Ord, V> Table<K, V> {
    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.size()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value under a key.
    #[must_use]
    pub fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    /// The value under a key, with the key as it is held.
    #[must_use]
    pub fn get_key_value<Q: Ord + ?Sized>(&self, key: &Q) -> Option<(&K, &V)>
    where
        K: Borrow<Q>,
    {
        self.0.get_key_value(key)
    }

    /// Whether there is a value under a key.
    #[must_use]
    pub fn contains_key<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.contains_key(key)
    }

    /// Keys and values in key order.
    #[must_use]
    pub fn iter(&self) -> Iter<'_, K, V> {
        self.0.iter()
    }

    /// Keys in order.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Values in key order.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.values()
    }

    /// The greatest key.
    #[must_use]
    pub fn last_key(&self) -> Option<&K> {
        self.0.last().map(|(key, _)| key)
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// Puts a value in place of the one under the same key.
    pub fn insert(&mut self, key: K, value: V) {
        self.0.insert_mut(key, value);
    }

    /// Takes a value out; whether there was one.
    pub fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.0.remove_mut(key)
    }

    /// The value under a key, to be changed.
    pub fn get_mut<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
    {
        self.0.get_mut(key)
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
        let (key, value) = self.0.first()?;
        let first = (key.clone(), value.clone());
        self.remove(&first.0);
        Some(first)
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
        let mut map = RedBlackTreeMapSync::new_sync();
        for (key, value) in entries {
            map.insert_mut(key, value);
        }
        Self(map)
    }
}

impl<K: Ord, V: PartialEq> PartialEq for Table<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
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
        Ok(BTreeMap::<K, V>::deserialize(deserializer)?.into_iter().collect())
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
