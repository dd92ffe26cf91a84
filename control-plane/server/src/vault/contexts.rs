//! The keys that sign contexts, opened: what data planes sign with, and what services verify with.
//!
//! Part of `contents`. Each is the seed of an Ed25519 key (RFC 8032 §5.1.5), named as in the ring; its public half is
//! published under the same name, as long as the key counts. One that is not in use yet is published before it signs
//! anything. Absent: when one replaces another (`core::key_rotation`), the set's address (`http`).

use std::sync::Arc;

use bailiwick_control_plane_core::{State, key_rotation::KeyKind};
use bailiwick_proto::v1;
use bailiwick_token::{PublicJwk, context::ContextKey};
use zeroize::Zeroizing;

use super::ring;

/// See the file's header. Cannot be printed.
#[derive(Default)]
pub(super) struct ContextSecrets {
    /// The one in use, with its name.
    signing: Option<(String, Zeroizing<Vec<u8>>)>,
    /// The one in use first.
    pub(super) published: Arc<[PublicJwk]>,
}

impl ContextSecrets {
    /// `None` where the secret is no such ring. Empty where the key in use is not there, as on a node that catches up.
    pub(super) fn open(plain: &[u8], state: &State) -> Option<Self> {
        let keys = ring::sealing_keys(plain)?;
        let Some(counting) = ring::in_use(&keys, state, KeyKind::ContextSigning) else { return Some(Self::default()) };
        let public = |seed: &&[u8]| {
            let key = ContextKey::from_seed(ring::id(seed), seed).ok()?;
            Some(key.public_jwk().clone())
        };
        let published = counting.iter().map(public).collect::<Option<Arc<[_]>>>()?;
        let signing = counting.first().map(|seed| (ring::id(seed), Zeroizing::new(seed.to_vec())));
        Some(Self { signing, published })
    }

    /// As data planes get it: they need the one in use alone.
    pub(super) fn delivered(&self) -> Vec<v1::NamedSecret> {
        let named =
            |(name, seed): &(String, Zeroizing<Vec<u8>>)| v1::NamedSecret { name: name.clone(), value: seed.to_vec() };
        self.signing.iter().map(named).collect()
    }
}
