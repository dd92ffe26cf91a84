//! The digest of a whole configuration: one value that both planes compute and compare after every delta.
//!
//! An entry's digest is SHA-256 of its key's length (u32, big-endian), the key and the value; the digest of a
//! configuration is SHA-256 of its entries' digests in key order. So any difference in any byte, a missing entry or
//! an extra one shows. [`Entries`] keeps the entries' digests, so a change costs 32 bytes per entry, not a re-read.
//! Called by the control plane's view and by the data plane's config client. Absent: what the entries mean.

use std::collections::BTreeMap;

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

/// A configuration: values by key, each with its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entries {
    by_key: BTreeMap<String, (Vec<u8>, Digest)>,
}

impl Entries {
    /// No entries.
    #[must_use]
    pub const fn new() -> Self {
        Self { by_key: BTreeMap::new() }
    }

    /// Puts an entry in place of the one under the same key.
    pub fn insert(&mut self, key: String, value: Vec<u8>) {
        let digest = entry_digest(&key, &value);
        self.by_key.insert(key, (value, digest));
    }

    /// Takes an entry away; whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        self.by_key.remove(key).is_some()
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
        self.by_key.get(key).map(|(value, _)| value.as_slice())
    }

    /// Keys and values in key order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.by_key.iter().map(|(key, (value, _))| (key.as_str(), value.as_slice()))
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

    /// The digest of the whole.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut context = Context::new(&SHA256);
        for (_, digest) in self.by_key.values() {
            context.update(digest);
        }
        to_array(&context.finish())
    }
}

impl FromIterator<(String, Vec<u8>)> for Entries {
    fn from_iter<I: IntoIterator<Item = (String, Vec<u8>)>>(entries: I) -> Self {
        let mut all = Self::new();
        for (key, value) in entries {
            all.insert(key, value);
        }
        all
    }
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
        assert_eq!(config.digest(), entries(&[("a", "1"), ("c", "3")]).digest());
        let list = config.iter().map(|(key, value)| v1::Entry { key: key.into(), value: value.into() });
        assert_eq!(of_entries(&list.collect::<Vec<_>>()), config.digest());
    }

    #[test]
    fn the_format_is_fixed() {
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
