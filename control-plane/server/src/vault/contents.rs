//! What the vault holds: the kinds of secret of the cluster's own, how each is made, and what it becomes (of some kinds
//! there may be several keys in one secret: `ring`); and the
//! credentials that administrators set: those for servers go to data planes as they are, those for identity providers
//! stay here.
//!
//! The authority's key comes with its certificate, so that both are always a pair.

use std::{collections::BTreeMap, fmt, sync::Arc};

use bailiwick_control_plane_core::{
    State,
    credential::{Audience, Credential},
    key_rotation::{self, KeyKind, SealKey},
    secret,
};
use bailiwick_proto::v1;
use bailiwick_runtime::{authority::Authority, identity::NodeKey};
use bailiwick_token::{Algorithm, SigningKey};
use zeroize::Zeroizing;

use super::{VaultError, contexts::ContextSecrets, ring};
use crate::{
    binding::Binder,
    clock,
    keys::{KeySet, sealed_at, sealing_frame},
    seal::Seal,
};

/// AES-256.
pub(super) const SEALING_KEY_BYTES: usize = 32;
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
    /// Seals what clients and browsers bring back to the authorization server.
    Authorization,
    /// Binding keys are sealed under it in tokens, for data planes to open.
    TokenBinding,
    /// Seeds of Ed25519 keys: data planes sign with them what servers are told of calls.
    ContextSigning,
}

impl Kind {
    pub(super) const ALL: [Self; 6] = [
        Self::Authority,
        Self::TokenSigning,
        Self::SessionSealing,
        Self::Authorization,
        Self::TokenBinding,
        Self::ContextSigning,
    ];

    pub(super) const fn column(self) -> &'static str {
        match self {
            Self::Authority => "authority",
            Self::TokenSigning => key_rotation::TOKEN_SIGNING,
            Self::SessionSealing => "session_sealing",
            Self::Authorization => key_rotation::AUTHORIZATION,
            Self::TokenBinding => key_rotation::TOKEN_BINDING,
            Self::ContextSigning => key_rotation::CONTEXT_SIGNING,
        }
    }

    pub(super) const fn key(self) -> &'static str {
        key_rotation::THE_KEY
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
            Self::SessionSealing | Self::Authorization | Self::TokenBinding | Self::ContextSigning => {
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
    /// Names of the credentials that are announced, and for whom.
    announced: BTreeMap<String, Audience>,
    /// Which authorization keys count, which that binding keys are sealed under, and which that sign contexts.
    counting: [BTreeMap<String, SealKey>; 3],
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

    /// Says which credentials there are; whether they are others than before.
    pub(super) fn deliver(&mut self, credentials: &BTreeMap<String, Credential>) -> bool {
        let now = || credentials.iter().map(|(name, known)| (name, &known.audience));
        let same = self.announced.iter().eq(now());
        if !same {
            self.announced = now().map(|(name, audience)| (name.clone(), *audience)).collect();
        }
        !same
    }

    /// Says which keys count that seal; whether they are others than before.
    pub(super) fn follow(&mut self, state: &State) -> bool {
        let now = [&state.authorization_keys, &state.binding_keys, &state.context_keys];
        let same = self.counting.iter().eq(now);
        if !same {
            self.counting = now.map(BTreeMap::clone);
        }
        !same
    }

    /// The credentials for servers that are announced and sealed.
    pub(super) fn credentials(&self) -> Vec<v1::NamedSecret> {
        let named = |(name, plain): (&str, &Zeroizing<Vec<u8>>)| v1::NamedSecret {
            name: name.to_owned(),
            value: plain.to_vec(),
        };
        self.of(Audience::Servers).map(named).collect()
    }

    /// Those that are announced and sealed, with their names.
    fn of(&self, audience: Audience) -> impl Iterator<Item = (&str, &Zeroizing<Vec<u8>>)> {
        let named = self.announced.iter().filter(move |(_, known)| **known == audience);
        named.filter_map(move |(name, _)| {
            let (_, plain) = self.held.get(&secret::name(audience.column(), name))?;
            (!plain.is_empty()).then_some((name.as_str(), plain))
        })
    }

    /// The keys they are.
    pub(super) fn keys(&self, state: &State) -> Result<KeySet, VaultError> {
        let of = |kind: Kind| self.held.get(&kind.name()).map(|(_, plain)| plain);
        let content = |kind: Kind| move || VaultError::Content(kind.name());
        let authority = of(Kind::Authority).map(|plain| authority(plain).ok_or_else(content(Kind::Authority)));
        let signing = of(Kind::TokenSigning).map(|plain| {
            let one = |pkcs8: &&[u8]| SigningKey::from_pkcs8(Algorithm::EdDsa, pkcs8).ok().map(Arc::new);
            let keys = ring::documents(plain).and_then(|keys| keys.iter().map(one).collect::<Option<Vec<_>>>());
            keys.ok_or_else(content(Kind::TokenSigning))
        });
        let sealing = of(Kind::SessionSealing).map(|plain| {
            if plain.len() != SEALING_KEY_BYTES {
                return Err(content(Kind::SessionSealing)());
            }
            Ok(v1::SealingKey { id: ring::id(plain), key: plain.to_vec() })
        });
        let sealing = sealing.transpose()?;
        let binding = of(Kind::TokenBinding).map(|plain| {
            let keys = ring::sealing_keys(plain).ok_or_else(content(Kind::TokenBinding));
            keys.map(|keys| ring::in_use(&keys, state, KeyKind::TokenBinding).unwrap_or_default())
        });
        let binding = binding.transpose()?.unwrap_or_default();
        let binder = Binder::new(&binding, binding_since(state)).ok().map(Arc::new);
        let named = |key: &&[u8]| v1::SealingKey { id: ring::id(key), key: key.to_vec() };
        let token_binding = binding.iter().map(named).collect();
        let contexts = of(Kind::ContextSigning).map(|plain| ContextSecrets::open(plain, state));
        let contexts = contexts.map(|opened| opened.ok_or_else(content(Kind::ContextSigning))).transpose()?;
        let contexts = contexts.unwrap_or_default();
        let seal = of(Kind::Authorization).map(|plain| {
            let keys = ring::sealing_keys(plain).ok_or_else(content(Kind::Authorization));
            let counting = keys.map(|keys| ring::in_use(&keys, state, KeyKind::Authorization));
            counting.map(|keys| keys.and_then(|keys| Seal::new(&keys)).map(Arc::new))
        });
        Ok(KeySet {
            authority: authority.transpose()?,
            signing: signing.transpose()?.unwrap_or_default(),
            sealing: sealing.map(|session_sealing| {
                sealing_frame(v1::Keys {
                    session_sealing: vec![session_sealing],
                    credentials: self.credentials(),
                    token_binding,
                    context_signing: contexts.delivered(),
                })
            }),
            contexts: contexts.published,
            binder,
            seal: seal.transpose()?.flatten(),
            sealed_at: sealed_at(state),
            for_providers: self
                .of(Audience::IdentityProvider)
                .map(|(name, plain)| (name.to_owned(), plain.clone()))
                .collect(),
        })
    }
}

/// Since when the key in use counts that binding keys are sealed under: until the first rotation, since it is there.
fn binding_since(state: &State) -> u64 {
    let rotated = key_rotation::in_use(&state.binding_keys).map(|(_, key)| key.changed.revision);
    let sealed = || state.secrets.get(&Kind::TokenBinding.name()).map(|sealed| sealed.changed.revision);
    rotated.or_else(sealed).unwrap_or_default()
}

fn authority(plain: &[u8]) -> Option<Arc<Authority>> {
    let (length, rest) = plain.split_first_chunk::<4>()?;
    let (certificate, key) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    Authority::open(certificate, &NodeKey::from_pkcs8(key).ok()?).ok().map(Arc::new)
}
