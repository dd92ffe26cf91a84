//! The digest of a whole configuration: one value that both planes compute and compare after every delta.
//!
//! An entry's digest is SHA-256 of its key's length (u32, big-endian), the key and the value. Entries lie in 65,536
//! buckets by the first two bytes of the SHA-256 of their keys; the digest of a bucket is SHA-256 of its entries' digests
//! in ascending order. The digest of a branch (all buckets with the same first byte) is SHA-256 of the second byte and
//! the digest of each of its buckets that is not empty, in order; the digest of the whole is SHA-256 of the first byte
//! and the digest of each branch that is not empty. So any difference in any byte, a missing entry or an extra one
//! shows, and a change among a million entries costs some fifteen kilobytes of hashing.
//! Called by the control plane's view and by the data plane's config client. Absent: what the entries mean.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use aws_lc_rs::digest::{self, Context, SHA256};

use crate::v1;

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;

/// A digest of an entry or of a configuration.
pub type Digest = [u8; DIGEST_BYTES];

/// The digest of one entry.
#[must_use]
pub fn entry_digest(key: &str, value: &[u8]) -> Digest {
    let mut context = Context::new(&SHA256);
    // Keys are far shorter than 4 GiB; a longer one would saturate and still be hashed whole.
    context.update(&u32::try_from(key.len()).unwrap_or(u32::MAX).to_be_bytes());
    context.update(key.as_bytes());
    context.update(value);
    to_array(&context.finish())
}

/// The digest of a configuration given as entries in any order; of repeated keys the last one counts.
#[must_use]
pub fn of_entries<'a>(entries: impl IntoIterator<Item = &'a v1::Entry>) -> Digest {
    entries.into_iter().map(|entry| (entry.key.clone(), entry.value.clone())).collect::<Entries>().digest()
}

/// A configuration: values by key, and the tree of their digests.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    by_key: BTreeMap<String, Vec<u8>>,
    branches: BTreeMap<u8, Branch>,
    /// Buckets whose digests are out of date.
    stale: BTreeSet<(u8, u8)>,
}

/// The buckets of which the keys' hashes begin with one byte, by the second byte.
#[derive(Clone, Debug, Default)]
struct Branch {
    buckets: BTreeMap<u8, Bucket>,
    /// As of the last [`Entries::settle`]; `None`: empty.
    digest: Option<Digest>,
}

/// The digests of entries of which the keys' hashes begin with the same two bytes, in ascending order.
#[derive(Clone, Debug, Default)]
struct Bucket {
    entries: Vec<Digest>,
    /// As of the last [`Entries::settle`]; `None`: empty.
    digest: Option<Digest>,
}

impl Entries {
    /// No entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { by_key: BTreeMap::new(), branches: BTreeMap::new(), stale: BTreeSet::new() }
    }

    /// Puts an entry in place of the one under the same key.
    pub fn insert(&mut self, key: String, value: Vec<u8>) {
        let (place, digest) = (place_of(&key), entry_digest(&key, &value));
        let replaced = match self.by_key.entry(key) {
            Entry::Vacant(free) => {
                free.insert(value);
                None
            }
            Entry::Occupied(mut taken) => {
                let before = taken.insert(value);
                Some(entry_digest(taken.key(), &before))
            }
        };
        let bucket = self.touch(place);
        if let Some(at) = replaced.and_then(|digest| bucket.binary_search(&digest).ok()) {
            bucket.remove(at);
        }
        if let Err(at) = bucket.binary_search(&digest) {
            bucket.insert(at, digest);
        }
    }

    /// Takes an entry away; whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some(value) = self.by_key.remove(key) else { return false };
        let digest = entry_digest(key, &value);
        let bucket = self.touch(place_of(key));
        if let Ok(at) = bucket.binary_search(&digest) {
            bucket.remove(at);
        }
        true
    }

    /// Applies one change of a delta: a value is inserted, an absent value removes.
    pub fn apply(&mut self, change: &v1::EntryChange) {
        match &change.value {
            Some(value) => self.insert(change.key.clone(), value.clone()),
            None => {
                self.remove(&change.key);
            }
        }
    }

    /// The value under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.by_key.get(key).map(Vec::as_slice)
    }

    /// Keys and values in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.by_key.iter().map(|(key, value)| (key.as_str(), value.as_slice()))
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// The digest of the whole. Costs as much as there were changes since [`Self::settle`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        if self.stale.is_empty() {
            return self.root();
        }
        let stale = self.stale.iter().map(|(first, _)| *first).collect::<BTreeSet<u8>>();
        let branches = self.branches.iter().map(|(first, branch)| match stale.contains(first) {
            false => (*first, branch.digest),
            true => {
                let buckets = branch.buckets.iter();
                (*first, of_parts(buckets.map(|(second, bucket)| (*second, of_bucket(&bucket.entries)))))
            }
        });
        of_parts(branches).unwrap_or_else(of_nothing)
    }

    /// Brings the tree up to date, so that [`Self::digest`] is quick from here on.
    pub fn settle(&mut self) {
        let stale = std::mem::take(&mut self.stale);
        for (first, second) in &stale {
            if let Some(bucket) = self.branches.get_mut(first).and_then(|branch| branch.buckets.get_mut(second)) {
                bucket.digest = of_bucket(&bucket.entries);
            }
        }
        for first in stale.into_iter().map(|(first, _)| first).collect::<BTreeSet<u8>>() {
            if let Some(branch) = self.branches.get_mut(&first) {
                branch.digest = of_parts(branch.buckets.iter().map(|(second, bucket)| (*second, bucket.digest)));
            }
        }
    }

    fn root(&self) -> Digest {
        of_parts(self.branches.iter().map(|(first, branch)| (*first, branch.digest))).unwrap_or_else(of_nothing)
    }

    /// A bucket that is about to change.
    fn touch(&mut self, (first, second): (u8, u8)) -> &mut Vec<Digest> {
        self.stale.insert((first, second));
        &mut self.branches.entry(first).or_default().buckets.entry(second).or_default().entries
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.by_key == other.by_key
    }
}

impl Eq for Entries {}

impl FromIterator<(String, Vec<u8>)> for Entries {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(entries: I) -> Self {
        let mut all = Self { by_key: BTreeMap::from_iter(entries), ..Self::new() };
        for (key, value) in &all.by_key {
            let (first, second) = place_of(key);
            let bucket = all.branches.entry(first).or_default().buckets.entry(second).or_default();
            bucket.entries.push(entry_digest(key, value));
        }
        for branch in all.branches.values_mut() {
            for bucket in branch.buckets.values_mut() {
                bucket.entries.sort_unstable();
                bucket.digest = of_bucket(&bucket.entries);
            }
            branch.digest = of_parts(branch.buckets.iter().map(|(second, bucket)| (*second, bucket.digest)));
        }
        all
    }
}

/// Branch and bucket of a key.
fn place_of(key: &str) -> (u8, u8) {
    let [first, second, ..] = to_array(&digest::digest(&SHA256, key.as_bytes()));
    (first, second)
}

/// The digest of a bucket; an empty one counts as none.
fn of_bucket(entries: &[Digest]) -> Option<Digest> {
    if entries.is_empty() {
        return None;
    }
    let mut context = Context::new(&SHA256);
    entries.iter().for_each(|digest| context.update(digest));
    Some(to_array(&context.finish()))
}

/// The digest of the parts that there are, each after its number.
fn of_parts(parts: impl Iterator<Item = (u8, Option<Digest>)>) -> Option<Digest> {
    let (mut context, mut any) = (Context::new(&SHA256), false);
    for (number, digest) in parts {
        if let Some(digest) = digest {
            context.update(&[number]);
            context.update(&digest);
            any = true;
        }
    }
    any.then(|| to_array(&context.finish()))
}

fn of_nothing() -> Digest {
    to_array(&digest::digest(&SHA256, &[]))
}

fn to_array(digest: &digest::Digest) -> Digest {
    let mut bytes = [0; DIGEST_BYTES];
    for (byte, from) in bytes.iter_mut().zip(digest.as_ref()) {
        *byte = *from;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(pairs: &[(&str, &str)]) -> Entries {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect()
    }

    #[test]
    fn order_of_arrival_does_not_matter_and_every_byte_does() {
        let digest = entries(&[("a", "1"), ("b", "2")]).digest();
        assert_eq!(entries(&[("b", "2"), ("a", "1")]).digest(), digest);
        for other in
            [&[("a", "1")][..], &[("a", "1"), ("b", "3")], &[("a", "1b"), ("", "2")], &[("a1", ""), ("b", "2")]]
        {
            assert_ne!(entries(other).digest(), digest, "{other:?}");
        }
    }

    #[test]
    fn a_delta_leads_to_the_digest_of_the_new_whole() {
        let mut config = entries(&[("a", "1"), ("b", "2")]);
        config.apply(&v1::EntryChange { key: "b".into(), value: None });
        config.apply(&v1::EntryChange { key: "c".into(), value: Some(b"3".to_vec()) });
        let unsettled = config.digest();
        config.settle();
        assert_eq!(config.digest(), unsettled);
        assert_eq!(config.digest(), entries(&[("a", "1"), ("c", "3")]).digest());
        let list = config.iter().map(|(key, value)| v1::Entry { key: key.into(), value: value.into() });
        assert_eq!(of_entries(&list.collect::<Vec<_>>()), config.digest());
    }

    #[test]
    fn the_digest_depends_on_what_is_there_not_on_how_it_came() {
        let mut config = Entries::new();
        let put =
            |config: &mut Entries, n: u32, value: u32| config.insert(format!("k{n}"), value.to_be_bytes().to_vec());
        (0..2_000).for_each(|n| put(&mut config, n, 0));
        config.settle();
        (0..2_000).filter(|n| n % 3 == 0).for_each(|n| put(&mut config, n, n));
        (0..2_000).filter(|n| n % 5 == 0).for_each(|n| assert!(config.remove(&format!("k{n}"))));
        let unsettled = config.digest();
        config.settle();
        let whole: Entries = config.iter().map(|(key, value)| (key.to_owned(), value.to_vec())).collect();
        assert_eq!((config.digest(), unsettled), (whole.digest(), whole.digest()));
        for key in whole.iter().map(|(key, _)| key.to_owned()).collect::<Vec<_>>() {
            config.remove(&key);
        }
        assert_eq!(config.digest(), Entries::new().digest());
    }

    #[test]
    fn the_format_is_fixed() {
        let hex = |digest: Digest| digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(Entries::new().digest()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(
            hex(entries(&[("a", "1"), ("b", "2")]).digest()),
            "a1384fe7dfd2efb3ee0e8663db28a9593dec8cfc0039cfb1d30d14d3d551d1d0"
        );
        assert_eq!(
            entry_digest("server/a", b"x").iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
            digest::digest(&SHA256, b"\0\0\0\x08server/ax")
                .as_ref()
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        );
    }
}
