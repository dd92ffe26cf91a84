//! One bucket of a configuration: a handful of entries, packed.
//!
//! A million entries lie in 65,536 buckets, so what an entry costs beyond its own bytes decides how much memory a
//! configuration takes: here two lengths, and nothing is allocated for it. Entries are in ascending order of their
//! keys, each as its key and its value behind their lengths. A changed bucket is written anew; who has the one before
//! it keeps that. Called by `Entries` alone. Absent: which bucket an entry belongs to.

use aws_lc_rs::digest::{Context, SHA256};
use prost::{decode_length_delimiter, encode_length_delimiter, length_delimiter_len};

use super::{Digest, entry_digest, to_array};

/// See the file's header.
#[derive(Clone, Debug, Default)]
pub(super) struct Bucket {
    packed: Box<[u8]>,
    /// `None` until it is asked for with [`Bucket::settle`].
    digest: Option<Digest>,
}

impl Bucket {
    /// The same with an entry in place of the one under its key, and that one's length, if there was one.
    pub(super) fn with(&self, key: &str, value: &[u8]) -> (Self, Option<usize>) {
        let (before, taken, after) = self.split(key);
        let mut packed = Vec::with_capacity(before.len() + after.len() + packed_bytes(key, value));
        packed.extend_from_slice(before);
        for part in [key.as_bytes(), value] {
            put_length(part.len(), &mut packed);
            packed.extend_from_slice(part);
        }
        packed.extend_from_slice(after);
        (Self { packed: packed.into_boxed_slice(), digest: None }, taken)
    }

    /// The same without the entry under a key; `None` if there is none.
    pub(super) fn without(&self, key: &str) -> Option<(Self, usize)> {
        let (before, taken, after) = self.split(key);
        Some((Self { packed: [before, after].concat().into_boxed_slice(), digest: None }, taken?))
    }

    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        self.iter().find(|(one, _)| *one == key).map(|(_, value)| value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        // INVARIANT: keys come from `&str`s.
        Packed(&self.packed).filter_map(|(key, value)| Some((std::str::from_utf8(key).ok()?, value)))
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.packed.is_empty()
    }

    /// Whether both hold the same entries.
    pub(super) fn equals(&self, other: &Self) -> bool {
        self.packed == other.packed
    }

    /// SHA-256 of the entries' digests in ascending order; `None` as long as it is not settled.
    pub(super) const fn digest(&self) -> Option<Digest> {
        self.digest
    }

    pub(super) fn settle(&mut self) {
        let mut digests: Vec<Digest> = self.iter().map(|(key, value)| entry_digest(key, value)).collect();
        digests.sort_unstable();
        let mut context = Context::new(&SHA256);
        digests.iter().for_each(|digest| context.update(digest));
        self.digest = Some(to_array(&context.finish()));
    }

    /// What is before the place of a key, the length of the entry there, and what comes after.
    fn split(&self, key: &str) -> (&[u8], Option<usize>, &[u8]) {
        let (all, mut entries) = (&*self.packed, Packed(&self.packed));
        loop {
            let at = all.len() - entries.0.len();
            let found = entries.next();
            let (before, rest) = all.split_at_checked(at).unwrap_or((all, &[]));
            match found {
                Some((one, _)) if one < key.as_bytes() => {}
                Some((one, _)) if one == key.as_bytes() => {
                    return (before, Some(rest.len() - entries.0.len()), entries.0);
                }
                Some(_) | None => return (before, None, rest),
            }
        }
    }
}

/// How many bytes an entry takes.
pub(super) fn packed_bytes(key: &str, value: &[u8]) -> usize {
    length_delimiter_len(key.len()) + key.len() + length_delimiter_len(value.len()) + value.len()
}

fn put_length(length: usize, packed: &mut Vec<u8>) {
    // INVARIANT: a vector takes any length.
    encode_length_delimiter(length, packed).unwrap_or_default();
}

/// Reads packed entries.
struct Packed<'a>(&'a [u8]);

impl<'a> Iterator for Packed<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let mut part = || {
            let length = decode_length_delimiter(&mut self.0).ok()?;
            let (part, rest) = self.0.split_at_checked(length)?;
            self.0 = rest;
            Some(part)
        };
        Some((part()?, part()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(bucket: &Bucket) -> Vec<(&str, &[u8])> {
        bucket.iter().collect()
    }

    #[test]
    fn entries_stand_in_the_order_of_their_keys_whatever_their_lengths() {
        let long = vec![7_u8; 300];
        let (bucket, none) = Bucket::default().with("m", b"1");
        assert_eq!(none, None);
        let (bucket, _) = bucket.with("z", &long);
        let (bucket, _) = bucket.with("a", b"");
        let (changed, replaced) = bucket.with("m", b"22");
        assert_eq!(replaced, Some(packed_bytes("m", b"1")));
        assert_eq!(listed(&changed), [("a", &b""[..]), ("m", b"22"), ("z", &long)]);
        assert_eq!(listed(&bucket), [("a", &b""[..]), ("m", b"1"), ("z", &long)], "the one before stays");
        assert_eq!((changed.get("z"), changed.get("b")), (Some(&*long), None));
        let (rest, gone) = changed.without("z").unwrap();
        assert_eq!((listed(&rest), gone), (vec![("a", &b""[..]), ("m", b"22")], packed_bytes("z", &long)));
        assert!(rest.without("z").is_none() && !rest.is_empty());
        assert!(rest.without("a").unwrap().0.without("m").unwrap().0.is_empty());
    }
}
