//! The cluster's secret keys, opened and ready for use: what services hold.
//!
//! `vault` opens them from replicated state and puts every change in here; whoever holds [`Keys`] sees it at once.
//! Until the first leader has made them there are none, and services say so. Never in a record or a log line.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bailiwick_control_plane_core::{
    State,
    key_rotation::{self, AUTHORIZATION, THE_KEY},
    secret,
    token_key::TokenKey,
};
use bailiwick_proto::v1::{self, config_frame};
use bailiwick_runtime::{authority::Authority, identity::fingerprint};
use bailiwick_token::{KeyError, PublicJwk, SigningKey};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::{binding::Binder, config_stream::wire::Frame, domain::Domain, seal::Seal};

/// Longest wait until keys are opened that this node has in its state.
const OPENED_WAIT_MAX: Duration = Duration::from_secs(2);

/// The keys of the moment. Cannot be printed.
#[derive(Clone, Default)]
pub(crate) struct KeySet {
    pub(super) authority: Option<Arc<Authority>>,
    /// The newest first.
    pub(super) signing: Vec<Arc<SigningKey>>,
    pub(super) sealing: Option<Frame>,
    pub(super) seal: Option<Arc<Seal>>,
    pub(super) binder: Option<Arc<Binder>>,
    /// What verifies contexts: the key in use and those kept, as JWKs.
    pub(super) contexts: Arc<[PublicJwk]>,
    /// Of which moment that is; grows.
    pub(super) sealed_at: (u64, u64),
    /// What is shown to identity providers, by name.
    pub(super) for_providers: BTreeMap<String, Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("signing", &self.signing.iter().map(|key| key.kid()).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// The keys as they are from moment to moment; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keys(watch::Receiver<Arc<KeySet>>);

impl Keys {
    pub(crate) const fn new(keys: watch::Receiver<Arc<KeySet>>) -> Self {
        Self(keys)
    }

    /// Signs access tokens: the key in use, or, while that is not opened here yet, one before it that still verifies.
    pub(crate) fn signing(&self, state: &State) -> Option<Arc<SigningKey>> {
        let signer = key_rotation::signer(state).map(|known| known.key.kid.as_str());
        let held = self.0.borrow();
        let in_use = held.signing.iter().find(|key| Some(key.kid()) == signer);
        in_use.or_else(|| held.signing.iter().find(|key| state.token_keys.contains_key(key.kid()))).cloned()
    }

    /// The newest key that signs tokens, or will.
    pub(crate) fn newest_signing(&self) -> Option<Arc<SigningKey>> {
        self.0.borrow().signing.first().cloned()
    }

    /// Seals what clients and browsers bring back.
    pub(crate) fn seal(&self) -> Option<Arc<Seal>> {
        self.0.borrow().seal.clone()
    }

    /// What verifies contexts, the key in use first.
    pub(crate) fn contexts(&self) -> Arc<[PublicJwk]> {
        Arc::clone(&self.0.borrow().contexts)
    }

    /// Seals binding keys in tokens.
    pub(crate) fn binder(&self) -> Option<Arc<Binder>> {
        self.0.borrow().binder.clone()
    }

    /// As [`Self::seal`], with every key that was in use before this call: what another node made, which heard of a
    /// rotation earlier, opens. `None` where nobody confirms that.
    pub(crate) async fn latest_seal(&self, domain: &Domain) -> Option<Arc<Seal>> {
        let wanted = domain.read_latest(sealed_at).await.ok()?;
        let mut keys = self.0.clone();
        let opened = tokio::time::timeout(OPENED_WAIT_MAX, keys.wait_for(|keys| keys.sealed_at >= wanted)).await;
        opened.ok()?.ok()?.seal.clone()
    }

    /// The secret of this name that is shown to an identity provider.
    pub(crate) fn for_provider(&self, name: &str) -> Option<Zeroizing<Vec<u8>>> {
        self.0.borrow().for_providers.get(name).cloned()
    }

    /// Signs certificates.
    pub(crate) fn authority(&self) -> Option<Arc<Authority>> {
        self.0.borrow().authority.clone()
    }

    /// What a join token pins.
    pub(crate) fn authority_fingerprint(&self) -> Option<[u8; 32]> {
        self.authority().map(|authority| fingerprint(authority.certificate()))
    }

    /// What data planes share, as a frame.
    pub(crate) fn frame(&self) -> Option<Frame> {
        self.0.borrow().sealing.clone()
    }

    /// Waits for other keys.
    pub(crate) async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.0.changed().await
    }
}

/// Of which moment the authorization keys of a state are: the edition of their secret, and since when one is in use.
pub(super) fn sealed_at(state: &State) -> (u64, u64) {
    let edition = state.secrets.get(&secret::name(AUTHORIZATION, THE_KEY)).map_or(0, |sealed| sealed.edition);
    (edition, key_rotation::sealer(state).map_or(0, |(_, key)| key.changed.revision))
}

/// What data planes share, as they get it.
pub(super) fn sealing_frame(keys: v1::Keys) -> Frame {
    Frame::encode(config_frame::Frame::Keys(keys))
}

/// The public half of a signing key, as the domain registers it.
pub(super) fn token_key(signing: &SigningKey) -> Result<TokenKey, KeyError> {
    let jwk = signing.public_jwk();
    Ok(TokenKey { kid: jwk.kid.clone(), alg: jwk.alg.as_str().to_owned(), jwk: jwk.to_json()? })
}
