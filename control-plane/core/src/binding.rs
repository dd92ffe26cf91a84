//! What the tokens of a grant are bound to: the key that whoever presents them has to hold, besides the token.
//!
//! Once a client has had a bound token of a consent, every later one it gets by refresh is bound too: a refresh token in
//! other hands must not become a token that needs no key. Of a client that proves who it is by its name alone, the
//! refresh token itself is bound to the key (RFC 9449 §5); others prove themselves anew each time and may change keys. A
//! code can be bound to a key before there is a token (`dpop_jkt`, RFC 9449 §10). Called by `wish` and `state`.
//! Invariants: what binds a grant is only ever replaced, never taken away; nothing here is secret. Absent: keys that are
//! given out with tokens, which are nowhere in the state; proofs (server).

use serde::{Deserialize, Serialize};

use crate::{
    Event, Rejection, Wish, authorization,
    command::{Context, Decision},
    consent::Consent,
    refresh,
    state::State,
};

/// What the tokens of a grant are bound to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum Bound {
    /// A key that is given out with each token and sealed into it.
    Envelope,
    /// The client's own key (DPoP).
    Key {
        /// Its thumbprint (RFC 7638), base64url.
        jkt: String,
    },
    /// The client's certificate (mTLS).
    Certificate {
        /// Its thumbprint (RFC 8705 §3.1), base64url.
        x5t: String,
    },
}

/// A wish about a token, of which it is said what it will be bound to. An older node does not know it, and refuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoundWish {
    /// To what.
    pub bound: Bound,
    /// The client proved who it is, by more than its name.
    pub proved: bool,
    /// The wish: to grant a consent, redeem a code, or refresh.
    pub of: Box<Wish>,
}

/// What a client showed of what its token will be bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shown<'a> {
    pub(crate) bound: &'a Bound,
    pub(crate) proved: bool,
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotBound {
    /// The code or refresh token is bound to another key or certificate than the one that is shown, if one is.
    #[error("it is bound to a key or certificate, and the request does not show that one")]
    OtherKey,
    /// It had bound tokens, and asks for one that is not.
    #[error("this grant's tokens are bound to a key: send a DPoP proof, or binding_alg=aes-256-gcm")]
    Needed,
}

/// Payload of `grant_bound`: from here on tokens of this consent are bound like this.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantBound {
    /// The consent.
    pub consent: String,
    /// To what.
    pub bound: Bound,
}

pub(crate) fn decide(state: &State, wish: BoundWish, context: &Context) -> Result<Decision, Rejection> {
    let BoundWish { bound, proved, of } = wish;
    if let Bound::Key { jkt: thumbprint } | Bound::Certificate { x5t: thumbprint } = &bound
        && !authorization::is_challenge(thumbprint)
    {
        return Err(Rejection::Malformed { what: "thumbprint", rule: "SHA-256 in base64url" });
    }
    let shown = Some(Shown { bound: &bound, proved });
    match *of {
        Wish::GrantConsent(wish) => {
            let consent = wish.consent.clone();
            let mut decision = authorization::decide_grant(state, wish, context)?;
            decision.events.push(context.event(GrantBound { consent, bound }));
            Ok(decision)
        }
        Wish::RedeemCode(wish) => authorization::decide_redeem(state, wish, shown, context),
        Wish::Refresh(wish) => refresh::decide_refresh(state, wish, shown, context),
        _ => Err(Rejection::Malformed { what: "bound wish", rule: "to grant a consent, redeem a code or refresh" }),
    }
}

/// Whether a token of this consent may be made for who shows this; and what has to happen for it.
pub(crate) fn check(
    consent: &Consent,
    shown: Option<Shown<'_>>,
    is_code: bool,
    context: &Context,
) -> Result<Option<Event>, Rejection> {
    let known = consent.bound.as_ref();
    let refused = match (known, shown) {
        (None, _) => None,
        (Some(Bound::Key { .. } | Bound::Certificate { .. }), None) => Some(NotBound::OtherKey),
        (Some(Bound::Envelope), None) => Some(NotBound::Needed),
        (Some(known @ (Bound::Key { .. } | Bound::Certificate { .. })), Some(shown)) if is_code || !shown.proved => {
            (known != shown.bound).then_some(NotBound::OtherKey)
        }
        (Some(_), Some(_)) => None,
    };
    if let Some(refused) = refused {
        return Err(refused.into());
    }
    let new = shown.filter(|shown| known != Some(shown.bound));
    let consent = || consent.granted.consent.clone();
    Ok(new.map(|shown| context.event(GrantBound { consent: consent(), bound: shown.bound.clone() })))
}

pub(crate) fn evolve_bound(state: &mut State, event: &GrantBound) {
    if let Some(consent) = state.consents.get_mut(&event.consent) {
        consent.bound = Some(event.bound.clone());
    }
}
