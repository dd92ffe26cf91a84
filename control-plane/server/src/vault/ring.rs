//! Rings: the keys of one kind that lie in one secret, the newest first.
//!
//! A secret that was never rotated is a ring of one key, as it always was. Which of the keys count, the state says: one
//! may be there before it is in use, and those before it for as long as what they sealed counts.

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_control_plane_core::{
    State,
    key_rotation::{self, KeyKind},
};

use super::contents::SEALING_KEY_BYTES;

/// Characters of a sealing key's name, which is a hash of it.
const ID_CHARS: usize = 16;
/// Tag of a SEQUENCE (X.690 §8.9).
const SEQUENCE: u8 = 0x30;
/// One byte of length follows (X.690 §8.1.3.5).
const LONG_LENGTH: u8 = 0x81;

/// Private keys, each a PKCS#8 document in DER, which says itself how long it is.
pub(super) fn documents(mut ring: &[u8]) -> Option<Vec<&[u8]>> {
    let mut all = Vec::new();
    while !ring.is_empty() {
        let length = match ring {
            [SEQUENCE, length, ..] if *length < 0x80 => usize::from(*length) + 2,
            [SEQUENCE, LONG_LENGTH, length, ..] => usize::from(*length) + 3,
            _ => return None,
        };
        let (one, rest) = ring.split_at_checked(length)?;
        all.push(one);
        ring = rest;
    }
    (!all.is_empty()).then_some(all)
}

/// Keys to seal with.
pub(super) fn sealing_keys(ring: &[u8]) -> Option<Vec<&[u8]>> {
    let keys = ring.chunks_exact(SEALING_KEY_BYTES);
    let is_whole = keys.remainder().is_empty() && !ring.is_empty();
    is_whole.then(|| keys.collect())
}

/// Names a key without telling anything about it.
pub(super) fn id(key: &[u8]) -> String {
    hex::encode(digest(&SHA256, key)).chars().take(ID_CHARS).collect()
}

/// The keys of a kind that count: first the one in use, then those that open. `None` where the one in use is not there,
/// as on a node that is catching up.
pub(super) fn in_use<'a>(ring: &[&'a [u8]], state: &State, kind: KeyKind) -> Option<Vec<&'a [u8]>> {
    let known = key_rotation::seal_keys(state, kind)?;
    let at = match key_rotation::in_use(known) {
        Some((sealer, _)) => ring.iter().position(|key| id(key) == sealer)?,
        // Nothing was rotated yet; one before it is about to be.
        None => ring.len().checked_sub(1)?,
    };
    let (newer, from) = ring.split_at_checked(at)?;
    let (sealer, older) = from.split_first()?;
    let kept = older.iter().filter(|key| known.contains_key(&id(key)));
    Some([sealer].into_iter().chain(newer).chain(kept).copied().collect())
}

#[cfg(test)]
mod tests {
    use bailiwick_token::{Algorithm, SigningKey};

    use super::*;

    #[test]
    fn a_ring_of_private_keys_is_read_as_it_was_put_together() {
        let keys: Vec<_> = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::EdDsa]
            .into_iter()
            .map(|algorithm| SigningKey::generate_pkcs8(algorithm).unwrap().to_vec())
            .collect();
        let ring = keys.concat();
        assert_eq!(documents(&ring).unwrap(), keys.iter().map(Vec::as_slice).collect::<Vec<_>>());
        assert_eq!(documents(&keys[0]).unwrap(), [keys[0].as_slice()], "as it was before there were rings");
        for bad in [&ring[..ring.len() - 1], &ring[1..], &[], &[SEQUENCE], &[SEQUENCE, 0x82, 0, 1, 0]] {
            assert_eq!(documents(bad), None);
        }
    }

    #[test]
    fn a_ring_of_sealing_keys_is_whole_or_none() {
        let ring = [[1; SEALING_KEY_BYTES], [2; SEALING_KEY_BYTES]].concat();
        assert_eq!(sealing_keys(&ring).unwrap(), [[1; SEALING_KEY_BYTES].as_slice(), &[2; SEALING_KEY_BYTES]]);
        for bad in [&ring[1..], &ring[..SEALING_KEY_BYTES - 1], &[]] {
            assert_eq!(sealing_keys(bad), None);
        }
    }
}
