//! What tokens are bound to when they are minted: nothing, a key that is given out with them, or the client's own.
//!
//! Made by administration and the authorization server before anything is decided, used by `minting`. Invariant: a key
//! that is given out is made for one token, answered once, and kept nowhere. Absent: how it is sealed and opened
//! (`bailiwick_token::binding`), who has to bind tokens (`oauth::binding`).

use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use bailiwick_control_plane_core::binding::Bound;
use bailiwick_token::{
    Claims, Confirmation, Thumbprint,
    binding::{BindingError, BindingKey, BindingSeal},
};
use zeroize::Zeroizing;

use crate::clock;

/// Seals binding keys for data planes, as of a moment.
#[derive(Debug)]
pub(crate) struct Binder {
    seal: BindingSeal,
    /// The revision that a data plane must have to know the key in use.
    since: u64,
}

/// Why a token is not bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unbound {
    #[error("no key could be made or sealed")]
    Failed,
}

impl From<Unspecified> for Unbound {
    fn from(_: Unspecified) -> Self {
        Self::Failed
    }
}

impl From<BindingError> for Unbound {
    fn from(_: BindingError) -> Self {
        Self::Failed
    }
}

/// What a token is to be bound to.
#[derive(Clone, Debug)]
pub(crate) enum Binding {
    Nothing,
    Envelope(Arc<Binder>),
    Key(Thumbprint),
    Certificate(Thumbprint),
}

impl Binder {
    /// On the cluster's keys, the one in use first; that one counts since a revision.
    pub(crate) fn new(keys: &[&[u8]], since: u64) -> Result<Self, BindingError> {
        Ok(Self { seal: BindingSeal::new(keys.iter().copied())?, since })
    }
}

impl Binding {
    /// The revision that a data plane must have to verify proofs of the token.
    pub(crate) fn known_since(&self) -> u64 {
        match self {
            Self::Nothing | Self::Key(_) | Self::Certificate(_) => 0,
            Self::Envelope(binder) => binder.since,
        }
    }

    /// Binds claims, which may not be changed after that; the key that is given out, if one is.
    pub(crate) fn bind(&self, claims: &mut Claims) -> Result<Option<BindingKey>, Unbound> {
        match self {
            Self::Nothing => Ok(None),
            Self::Key(thumbprint) => {
                claims.cnf = Some(Confirmation::Key(*thumbprint));
                Ok(None)
            }
            Self::Certificate(thumbprint) => {
                claims.cnf = Some(Confirmation::Certificate(*thumbprint));
                Ok(None)
            }
            Self::Envelope(binder) => {
                let fresh = Zeroizing::new(clock::random()?);
                let key = BindingKey::new(*fresh);
                binder.seal.seal(claims, &key, clock::random()?)?;
                Ok(Some(key))
            }
        }
    }

    /// As the domain keeps it of a grant.
    pub(crate) fn bound(&self) -> Option<Bound> {
        match self {
            Self::Nothing => None,
            Self::Envelope(_) => Some(Bound::Envelope),
            Self::Key(thumbprint) => Some(Bound::Key { jkt: thumbprint.to_string() }),
            Self::Certificate(thumbprint) => Some(Bound::Certificate { x5t: thumbprint.to_string() }),
        }
    }

    /// How the token is presented (RFC 6749 §7.1, RFC 9449 §5).
    pub(crate) const fn token_type(&self) -> &'static str {
        match self {
            Self::Nothing | Self::Envelope(_) | Self::Certificate(_) => "Bearer",
            Self::Key(_) => "DPoP",
        }
    }
}
