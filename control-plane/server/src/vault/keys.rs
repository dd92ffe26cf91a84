//! Rotation of the keys that sign tokens and seal what comes back, as the leader does it.
//!
//! The new key is sealed beside the one in use, in one secret, and is in use from the word on that names its edition
//! (`core::key_rotation`); then what is needed no more is sealed away. Broken off anywhere, what was in use stays so,
//! or what is in use is there: the next rotation makes another key, and the leader's upkeep (`keep`) seals away what
//! nobody needs. One at a time on a node; of two leaders the state takes the word of one.

use std::sync::PoisonError;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bailiwick_control_plane_core::{
    Command, Rejection,
    key_rotation::{self, KeyKind, KeyWish, RotateSeal, RotateToken},
};
use bailiwick_token::{Algorithm, SigningKey};
use zeroize::Zeroizing;

use super::{Vault, VaultError, caller, contents::Kind, ring};
use crate::{
    domain::{Caller, Domain, WriteError},
    keys::token_key,
};

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Rotation {
    pub(crate) kind: KeyKind,
    /// What the keys before it made counts no more.
    pub(crate) at_once: bool,
    /// Why.
    pub(crate) reason: String,
}

/// Seconds and microseconds of a moment, and the days after which another key signs tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Upkeep {
    pub(crate) now_micros: u64,
    /// 0: never.
    pub(crate) token_key_days: u64,
}

impl Vault {
    /// Puts another key in use; the revision since which it is. `heard` waits, for a moment, until other nodes hold
    /// what was sealed at a revision.
    pub(crate) async fn rotate_key(
        &self,
        domain: &Domain,
        rotation: Rotation,
        asked_by: Caller,
        heard: impl AsyncFnOnce(u64),
    ) -> Result<u64, VaultError> {
        let _turn = self.0.rotating.lock().await;
        if let Some(done) = domain.read(|state| Some(state.requests.earlier(&asked_by.request_id)?.revision)) {
            return Ok(done);
        }
        domain.read(|state| self.take_in(state))?;
        let kind = kind_of(rotation.kind);
        let fresh = kind.make(None)?.ok_or_else(|| VaultError::Make(kind.name()))?;
        let needed = self.needed(domain, rotation.kind)?;
        let ring: Vec<&[u8]> = [fresh.as_slice()].into_iter().chain(needed.iter().map(|key| key.as_slice())).collect();
        let plain = Zeroizing::new(ring.concat());
        let (sealing, edition) = self.sealing(domain, rotation.kind, &plain, needed.first())?;
        let sealed = domain.write(Command::Keys(sealing), caller()).await?;
        domain.read(|state| self.take_in(state))?;
        heard(sealed.revision).await;
        let wish = match rotation.kind {
            KeyKind::TokenSigning => KeyWish::RotateToken(RotateToken {
                key: public_half(&fresh)?,
                edition,
                at_once: rotation.at_once,
                reason: rotation.reason,
            }),
            KeyKind::Authorization | KeyKind::TokenBinding | KeyKind::ContextSigning => {
                let wish = RotateSeal {
                    key: ring::id(&fresh),
                    replaces: needed.first().map(|key| ring::id(key)).unwrap_or_default(),
                    edition,
                    at_once: rotation.at_once,
                    reason: rotation.reason,
                };
                match rotation.kind {
                    KeyKind::TokenBinding => KeyWish::RotateBinding(wish),
                    KeyKind::ContextSigning => KeyWish::RotateContext(wish),
                    KeyKind::TokenSigning | KeyKind::Authorization => KeyWish::RotateAuthorization(wish),
                }
            }
        };
        let written = domain.write(Command::Keys(wish), asked_by).await?;
        if let Err(error) = self.trim(domain, rotation.kind).await {
            tracing::warn!(%error, "keys that are needed no more stay sealed for now");
        }
        Ok(written.revision)
    }

    /// Retires keys whose time has come, seals away what nobody needs, and has another key sign tokens once the one in
    /// use is old. Of the leader.
    pub(crate) async fn keep(&self, domain: &Domain, upkeep: Upkeep) -> Result<(), VaultError> {
        let Upkeep { now_micros, token_key_days } = upkeep;
        for wish in domain.read(|state| key_rotation::overdue(state, now_micros / 1_000_000)) {
            match domain.write(Command::Keys(wish), caller()).await {
                Ok(_) => tracing::info!("a key that was replaced is retired: what it made has ended"),
                // The clock that decides is behind the one that looked.
                Err(WriteError::Rejected(Rejection::Keys(_))) => {}
                Err(error) => return Err(error.into()),
            }
        }
        {
            let _turn = self.0.rotating.lock().await;
            for kind in KeyKind::ALL {
                self.trim(domain, kind).await?;
            }
        }
        if domain.read(|state| key_rotation::is_due(state, now_micros, token_key_days)) {
            let reason = format!("it signed for {token_key_days} days");
            let rotation = Rotation { kind: KeyKind::TokenSigning, at_once: false, reason };
            let revision = self.rotate_key(domain, rotation, caller(), async |_| ()).await?;
            tracing::info!(revision, "another key signs tokens: the one before was as old as it may be");
        }
        Ok(())
    }

    /// The ids of the keys of a kind that seals, the newest first.
    pub(crate) fn seal_key_ids(&self, kind: KeyKind) -> Vec<String> {
        let contents = self.0.contents.lock().unwrap_or_else(PoisonError::into_inner);
        let plain = contents.plain(&kind_of(kind).name()).unwrap_or_default();
        ring::sealing_keys(&plain).unwrap_or_default().into_iter().map(ring::id).collect()
    }

    /// The keys that have to stay sealed, the one in use first.
    fn needed(&self, domain: &Domain, kind: KeyKind) -> Result<Vec<Zeroizing<Vec<u8>>>, VaultError> {
        let name = kind_of(kind).name();
        let content = || VaultError::Content(name.clone());
        let plain = {
            let contents = self.0.contents.lock().unwrap_or_else(PoisonError::into_inner);
            contents.plain(&name).ok_or_else(content)?
        };
        let owned = |keys: &[&[u8]]| keys.iter().map(|key| Zeroizing::new(key.to_vec())).collect();
        match kind {
            KeyKind::TokenSigning => {
                let keys = ring::documents(&plain).ok_or_else(content)?;
                let signer = domain.read(|state| key_rotation::signer(state).map(|known| known.key.kid.clone()));
                let signs = |key: &&&[u8]| public_half(key).is_ok_and(|public| Some(public.kid) == signer);
                Ok(owned(&keys.iter().find(signs).into_iter().copied().collect::<Vec<_>>()))
            }
            KeyKind::Authorization | KeyKind::TokenBinding | KeyKind::ContextSigning => {
                let keys = ring::sealing_keys(&plain).ok_or_else(content)?;
                let counting = domain.read(|state| {
                    let counting = ring::in_use(&keys, state, kind)?;
                    let known = key_rotation::seal_keys(state, kind)?;
                    let (sealer, others) = counting.split_first()?;
                    // What is before it in the ring was never in use.
                    let kept = others.iter().filter(|key| known.contains_key(&ring::id(key)));
                    Some([sealer].into_iter().chain(kept).copied().collect::<Vec<_>>())
                });
                Ok(owned(&counting.ok_or_else(content)?))
            }
        }
    }

    /// Seals what is needed alone, if there is more.
    async fn trim(&self, domain: &Domain, kind: KeyKind) -> Result<(), VaultError> {
        domain.read(|state| self.take_in(state))?;
        let own = kind_of(kind);
        let held = {
            let contents = self.0.contents.lock().unwrap_or_else(PoisonError::into_inner);
            contents.plain(&own.name())
        };
        let Some(held) = held else { return Ok(()) };
        let needed = self.needed(domain, kind)?;
        let plain = Zeroizing::new(needed.iter().map(|key| key.as_slice()).collect::<Vec<_>>().concat());
        if plain.is_empty() || verify_slices_are_equal(&plain, &held).is_ok() {
            return Ok(());
        }
        let (sealing, _) = self.sealing(domain, kind, &plain, needed.first())?;
        match domain.write(Command::Keys(sealing), caller()).await {
            // Somebody else sealed meanwhile, or put another key in use.
            Ok(_) | Err(WriteError::Rejected(Rejection::SecretEdition { .. } | Rejection::Keys(_))) => {}
            Err(error) => return Err(error.into()),
        }
        domain.read(|state| self.take_in(state))
    }

    /// The keys of a kind in the next edition of their secret, and which that is.
    fn sealing(
        &self,
        domain: &Domain,
        kind: KeyKind,
        plain: &[u8],
        in_use: Option<&Zeroizing<Vec<u8>>>,
    ) -> Result<(KeyWish, u64), VaultError> {
        let own = kind_of(kind);
        domain.read(|state| {
            let sealing = self.seal(state, own.column(), own.key(), plain, None)?;
            let in_use = match (kind, in_use) {
                (KeyKind::TokenSigning, Some(key)) => Some(public_half(key)?.kid),
                (KeyKind::Authorization | KeyKind::TokenBinding | KeyKind::ContextSigning, Some(key)) => {
                    let known = key_rotation::seal_keys(state, kind);
                    known.and_then(key_rotation::in_use).map(|_| ring::id(key))
                }
                (_, None) => None,
            };
            let edition = sealing.edition;
            Ok((KeyWish::Seal { kind, in_use, sealing }, edition))
        })
    }
}

const fn kind_of(kind: KeyKind) -> Kind {
    match kind {
        KeyKind::TokenSigning => Kind::TokenSigning,
        KeyKind::Authorization => Kind::Authorization,
        KeyKind::TokenBinding => Kind::TokenBinding,
        KeyKind::ContextSigning => Kind::ContextSigning,
    }
}

fn public_half(pkcs8: &[u8]) -> Result<bailiwick_control_plane_core::token_key::TokenKey, VaultError> {
    let failed = |error: &dyn std::fmt::Display| VaultError::Make(error.to_string());
    let signing = SigningKey::from_pkcs8(Algorithm::EdDsa, pkcs8).map_err(|error| failed(&error))?;
    token_key(&signing).map_err(|error| failed(&error))
}
