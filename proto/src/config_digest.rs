//! The digest of a whole configuration: one value that both planes compute and compare after every delta.
//!
//! An entry's digest is SHA-256 of its key's length (u32, big-endian), the key and the value. Entries lie in 65,536
//! buckets by the first two bytes of the SHA-256 of their keys; the digest of a bucket is SHA-256 of its entries'
//! digests in ascending order. The digest of a branch (all buckets with the same first byte) is SHA-256 of the second
//! byte and the digest of each of its buckets that is not empty, in order; the digest of the whole is SHA-256 of the
//! first byte and the digest of each branch that is not empty. So any difference in any byte, a missing entry or an
//! extra one shows, and a change among a million entries costs some fifteen kilobytes of hashing. Called by the control
//! plane's view and by the data plane's config client. How a bucket is kept: `bucket`. Absent: what the entries mean.

mod bucket;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use aws_lc_rs::digest::{self, Context, SHA256};

use self::bucket::{Bucket, packed_bytes};
use crate::v1;

/// Most parts that entries can be asked for in: one for each bucket.
pub const PARTS_MAX: usize = 1 << 16;
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

/// A configuration: values by key, and the tree of their digests. Copies share what is the same, so a copy costs next
/// to nothing, and a change some hundred pointers; whoever holds a copy is not disturbed.
#[derive(Clone, Default)]
pub struct Entries {
    branches: BTreeMap<u8, Arc<Branch>>,
    len: usize,
    bytes: usize,
    /// Buckets whose digests are out of date.
    stale: BTreeSet<(u8, u8)>,
}

/// The buckets of which the keys' hashes begin with one byte, by the second byte.
#[derive(Clone, Debug, Default)]
struct Branch {
    buckets: BTreeMap<u8, Arc<Bucket>>,
    /// As of the last [`Entries::settle`]; `None`: empty.
    digest: Option<Digest>,
}

impl Entries {
    /// No entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { branches: BTreeMap::new(), len: 0, bytes: 0, stale: BTreeSet::new() }
    }

    /// Puts an entry in place of the one under the same key.
    pub fn insert(&mut self, key: &str, value: &[u8]) {
        let bucket = self.touch(place_of(key));
        let (changed, replaced) = bucket.with(key, value);
        *bucket = Arc::new(changed);
        self.len += usize::from(replaced.is_none());
        self.bytes = self.bytes + packed_bytes(key, value) - replaced.unwrap_or(0);
    }

    /// Takes an entry away; whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let place = place_of(key);
        let Some((changed, taken)) = self.bucket(place).and_then(|bucket| bucket.without(key)) else { return false };
        *self.touch(place) = Arc::new(changed);
        self.len -= 1;
        self.bytes -= taken;
        true
    }

    /// Applies one change of a delta: a value is inserted, an absent value removes.
    pub fn apply(&mut self, change: &v1::EntryChange) {
        match &change.value {
            Some(value) => self.insert(&change.key, value),
            None => {
                self.remove(&change.key);
            }
        }
    }

    /// The value under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        self.bucket(place_of(key))?.get(key)
    }

    /// Keys and values in the order of the first two bytes of the keys' hashes, then of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.part(0, 1)
    }

    /// Those of a part: all `parts` together, from 0, are [`Self::iter`]. Parts are of nearly equal size, and there are
    /// at most [`PARTS_MAX`].
    pub fn part(&self, part: usize, parts: usize) -> impl Iterator<Item = (&str, &[u8])> {
        let border = |part: usize| PARTS_MAX * part.min(parts) / parts.max(1);
        let (from, until) = (border(part), border(part.saturating_add(1)));
        let number = |first: u8, second: u8| usize::from(first) << 8 | usize::from(second);
        let branches = self
            .branches
            .iter()
            .filter(move |(first, _)| number(**first, u8::MAX) >= from && number(**first, 0) < until);
        let buckets = branches.flat_map(move |(first, branch)| {
            let within = move |second: u8| (from..until).contains(&number(*first, second));
            branch.buckets.iter().filter(move |(second, _)| within(**second))
        });
        buckets.flat_map(|(_, bucket)| bucket.iter())
    }

    /// Every entry that `other` does not hold as it is here, and some that it does: whole buckets that the two do not
    /// share. Costs what differs where one is a changed copy of the other.
    pub fn apart_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let branches = self.branches.iter().map(|(first, branch)| (branch, other.branches.get(first)));
        let apart = branches.filter(|(branch, model)| model.is_none_or(|model| !Arc::ptr_eq(branch, model)));
        let buckets = apart.flat_map(|(branch, model)| {
            let of_other = move |second: &u8| model.and_then(|model| model.buckets.get(second));
            branch.buckets.iter().map(move |(second, bucket)| (bucket, of_other(second)))
        });
        let apart = buckets.filter(|(bucket, model)| model.is_none_or(|model| !Arc::ptr_eq(bucket, model)));
        apart.flat_map(|(bucket, _)| bucket.iter())
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Bytes of keys and values, nearly.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The digest of the whole. Costs as much as there were changes since [`Self::settle`].
    #[must_use]
    pub fn digest(&self) -> Digest {
        if !self.stale.is_empty() {
            let mut settled = self.clone();
            settled.settle();
            return settled.digest();
        }
        of_parts(self.branches.iter().map(|(first, branch)| (*first, branch.digest))).unwrap_or_else(of_nothing)
    }

    /// Brings the tree up to date, so that [`Self::digest`] is quick from here on.
    pub fn settle(&mut self) {
        self.settle_like(&Self::new());
    }

    /// The same, and what was changed to what `other` holds too is held once by both.
    pub fn settle_like(&mut self, other: &Self) {
        let stale = std::mem::take(&mut self.stale);
        for &(first, second) in &stale {
            let model = other.bucket((first, second));
            if let Some(branch) = self.branches.get_mut(&first).map(Arc::make_mut) {
                branch.settle(second, model);
            }
        }
        for first in stale.into_iter().map(|(first, _)| first).collect::<BTreeSet<u8>>() {
            let Some(branch) = self.branches.get_mut(&first).map(Arc::make_mut) else { continue };
            branch.digest = of_parts(branch.buckets.iter().map(|(second, bucket)| (*second, bucket.digest())));
            if branch.digest.is_none() {
                self.branches.remove(&first);
            }
        }
    }

    fn bucket(&self, (first, second): (u8, u8)) -> Option<&Arc<Bucket>> {
        self.branches.get(&first)?.buckets.get(&second)
    }

    /// A bucket that is about to change.
    fn touch(&mut self, (first, second): (u8, u8)) -> &mut Arc<Bucket> {
        self.stale.insert((first, second));
        Arc::make_mut(self.branches.entry(first).or_default()).buckets.entry(second).or_default()
    }
}

impl Branch {
    fn settle(&mut self, second: u8, model: Option<&Arc<Bucket>>) {
        let Some(bucket) = self.buckets.get_mut(&second) else { return };
        match model.filter(|model| model.equals(bucket) && model.digest().is_some()) {
            Some(model) => *bucket = Arc::clone(model),
            None if bucket.is_empty() => drop(self.buckets.remove(&second)),
            None => Arc::make_mut(bucket).settle(),
        }
    }
}

/// Without content: there may be a million.
impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entries").field("len", &self.len).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Entries {}

impl FromIterator<(String, Vec<u8>)> for Entries {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(entries: I) -> Self {
        let mut all = Self::new();
        entries.into_iter().for_each(|(key, value)| all.insert(&key, &value));
        all.settle();
        all
    }
}

/// Branch and bucket of a key.
fn place_of(key: &str) -> (u8, u8) {
    let [first, second, ..] = to_array(&digest::digest(&SHA256, key.as_bytes()));
    (first, second)
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
        let put = |config: &mut Entries, n: u32, value: u32| config.insert(&format!("k{n}"), &value.to_be_bytes());
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

    #[test]
    fn a_copy_is_not_disturbed_and_what_became_equal_again_is_held_once() {
        let before: Entries = (0..5_000).map(|n: u32| (format!("k{n}"), n.to_be_bytes().to_vec())).collect();
        let mut copy = before.clone();
        copy.insert("k7", b"x");
        copy.remove("k8");
        copy.settle();
        assert_eq!((before.get("k7"), before.len(), copy.len()), (Some(&7_u32.to_be_bytes()[..]), 5_000, 4_999));
        assert_ne!(before.digest(), copy.digest());
        // A snapshot of nearly the same.
        let mut staged = Entries::new();
        for (key, value) in copy.iter() {
            staged.insert(key, value);
        }
        staged.settle_like(&before);
        assert_eq!((staged.digest(), staged.bytes()), (copy.digest(), copy.bytes()));
        let held = |entries: &Entries, place| entries.bucket(place).map(Arc::as_ptr);
        let places = || (0..=u8::MAX).flat_map(|first| (0..=u8::MAX).map(move |second| (first, second)));
        let apart = places().filter(|place| held(&staged, *place) != held(&before, *place)).count();
        assert_eq!(apart, 2);
    }

    #[test]
    fn what_differs_is_among_what_is_apart_and_little_else_is() {
        let before: Entries = (0..5_000).map(|n: u32| (format!("k{n}"), n.to_be_bytes().to_vec())).collect();
        assert_eq!(
            (before.apart_from(&before.clone()).count(), before.apart_from(&Entries::new()).count()),
            (0, 5_000)
        );
        let mut after = before.clone();
        after.insert("k7", b"x");
        after.insert("new", b"y");
        after.remove("k8");
        after.settle();
        let apart: BTreeMap<_, _> = after.apart_from(&before).collect();
        assert_eq!((apart.get("k7"), apart.get("new"), apart.get("k8")), (Some(&&b"x"[..]), Some(&&b"y"[..]), None));
        assert!(apart.len() < 10, "{}", apart.len());
    }

    #[test]
    fn parts_together_are_the_whole() {
        let all: Entries = (0..3_000).map(|n: u32| (format!("k{n}"), n.to_be_bytes().to_vec())).collect();
        for parts in [1, 2, 3, 7, 256, 1_000, PARTS_MAX] {
            let together: Vec<_> = (0..parts).flat_map(|part| all.part(part, parts)).collect();
            assert!(together.iter().copied().eq(all.iter()), "{parts} parts");
            let most = (0..parts).map(|part| all.part(part, parts).count()).max();
            assert!(most < Some(3_000 / parts * 2 + 20), "{parts} parts: {most:?}");
        }
        assert_eq!(all.part(3, 2).count() + Entries::new().part(0, 0).count(), 0);
    }
}
