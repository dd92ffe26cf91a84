//! What the vault holds: three kinds of secret of the cluster's own, how each is made, and what it becomes; and the
//! credentials that administrators set, which go to data planes as they are.
//!
//! The authority's key comes with its certificate, so that both are always a pair.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_control_plane_core::{credential::COLUMN, secret};
use bailiwick_proto::v1;
use bailiwick_runtime::{authority::Authority, identity::NodeKey};
use bailiwick_token::{Algorithm, SigningKey};
use zeroize::Zeroizing;

use super::VaultError;
use crate::{
    clock,
    keys::{KeySet, sealing_frame},
};

/// AES-256.
const SEALING_KEY_BYTES: usize = 32;
/// Characters of a sealing key's name, which is a hash of it.
const SEALING_ID_CHARS: usize = 16;
const MICROS: u64 = 1_000_000;

/// A kind of secret; there is one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Signs members' certificates.
    Authority,
    /// Signs access tokens.
    TokenSigning,
    /// Seals what clients of data planes bring back.
    SessionSealing,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Authority, Self::TokenSigning, Self::SessionSealing];

    pub(super) const fn column(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::TokenSigning => "token_signing",
            Self::SessionSealing => "session_sealing",
        }
    }

    pub(super) const fn key(self) -> &'static str {
        "1"
    }

    pub(super) fn name(self) -> String {
        secret::name(self.column(), self.key())
    }

    /// A fresh one; `None` while it cannot be made, as there is no cluster yet.
    pub(super) fn make(self, cluster: Option<&str>) -> Result<Option<Zeroizing<Vec<u8>>>, VaultError> {
        let failed = |error: &dyn fmt::Display| VaultError::Make(error.to_string());
        match self {
            Self::Authority => {
                let Some(cluster) = cluster else { return Ok(None) };
                let key = NodeKey::generate().map_err(|error| failed(&error))?;
                let certificate = Authority::create(cluster, &key, clock::now_micros() / MICROS);
                let certificate = certificate.map_err(|error| failed(&error))?;
                let length = u32::try_from(certificate.len()).map_err(|error| failed(&error))?;
                Ok(Some(Zeroizing::new([&length.to_be_bytes(), certificate.as_slice(), key.pkcs8()].concat())))
            }
            Self::TokenSigning => {
                SigningKey::generate_pkcs8(Algorithm::EdDsa).map(Some).map_err(|error| failed(&error))
            }
            Self::SessionSealing => {
                let key = Zeroizing::new(clock::random::<SEALING_KEY_BYTES>().map_err(|error| failed(&error))?);
                Ok(Some(Zeroizing::new(key.to_vec())))
            }
        }
    }
}

/// The secrets in clear, by name, with their editions. Cannot be printed.
#[derive(Default)]
pub(super) struct Contents {
    held: BTreeMap<String, (u64, Zeroizing<Vec<u8>>)>,
    /// Names of the credentials that data planes get.
    delivered: BTreeSet<String>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.held.keys()).finish()
    }
}

impl Contents {
    /// The edition held; 0 for none.
    pub(super) fn edition(&self, name: &str) -> u64 {
        self.held.get(name).map_or(0, |(edition, _)| *edition)
    }

    /// Holds a secret; whether it is another one than before.
    pub(super) fn put(&mut self, name: &str, edition: u64, plain: Zeroizing<Vec<u8>>) -> bool {
        let same = self.held.get(name).is_some_and(|(_, held)| *held == plain);
        self.held.insert(name.to_owned(), (edition, plain));
        !same
    }

    /// The secret of that name.
    pub(super) fn plain(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.held.get(name).map(|(_, plain)| plain.clone())
    }

    /// Says which credentials data planes get; whether they are others than before.
    pub(super) fn deliver<'a>(&mut self, names: impl Iterator<Item = &'a String> + Clone) -> bool {
        let same = self.delivered.iter().eq(names.clone());
        if !same {
            self.delivered = names.cloned().collect();
        }
        !same
    }

    /// The credentials that are announced and sealed.
    pub(super) fn credentials(&self) -> Vec<v1::NamedSecret> {
        let value = |name: &String| {
            let (_, plain) = self.held.get(&secret::name(COLUMN, name))?;
            (!plain.is_empty()).then(|| v1::NamedSecret { name: name.clone(), value: plain.to_vec() })
        };
        self.delivered.iter().filter_map(value).collect()
    }

    /// The keys they are.
    pub(super) fn keys(&self) -> Result<KeySet, VaultError> {
        let of = |kind: Kind| self.held.get(&kind.name()).map(|(_, plain)| plain);
        let content = |kind: Kind| move || VaultError::Content(kind.name());
        let authority = of(Kind::Authority).map(|plain| authority(plain).ok_or_else(content(Kind::Authority)));
        let signing = of(Kind::TokenSigning).map(|plain| {
            SigningKey::from_pkcs8(Algorithm::EdDsa, plain).map(Arc::new).map_err(|_| content(Kind::TokenSigning)())
        });
        let sealing = of(Kind::SessionSealing).map(|plain| {
            if plain.len() != SEALING_KEY_BYTES {
                return Err(content(Kind::SessionSealing)());
            }
            // The id names the key without telling anything about it.
            let id = hex::encode(digest(&SHA256, plain)).chars().take(SEALING_ID_CHARS).collect();
            Ok(sealing_frame(id, plain.to_vec(), self.credentials()))
        });
        Ok(KeySet { authority: authority.transpose()?, signing: signing.transpose()?, sealing: sealing.transpose()? })
    }
}

fn authority(plain: &[u8]) -> Option<Arc<Authority>> {
    let (length, rest) = plain.split_first_chunk::<4>()?;
    let (certificate, key) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Authority::open(certificate, &NodeKey::from_pkcs8(key).ok()?).ok().map(Arc::new)
}
