//! Authentication: who is behind the token of a request?
//!
//! Called by `listener` for every request. Verified tokens are kept by their SHA-256 until they expire; the cache is
//! dropped whenever issuer or token keys change, and bounded; a token whose person, agent or consent was taken away is
//! not kept. A cached token saves the signature check only, and opening what it is bound to: issuer, audience, expiry
//! and scheme are compared every time. What a bound token's request has to show beyond the token is `proofs`' to see to.
//! Authority is not decided here (`data-plane/core` admission). Specification: RFC 6750 §2.1; RFC 9068; MCP 2026-07-28
//! authorization.

pub(crate) mod newer;
pub(crate) mod possession;
pub(crate) mod proofs;
mod replay;
mod untold;

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use bailiwick_data_plane_core::{Caller, Config, admission::taken_away, config::Offer};
use bailiwick_proto::{Reason, v1::Issuer};
use bailiwick_token::{Claims, Expect, TokenHash, binding::BindingSeal};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderMap;

use self::{
    possession::{BindingKeys, DpopFault, Possession, Scheme, Unproven, credentials, person_key},
    replay::PersonKey,
};

/// Tokens remembered: some hundred bytes each, and more than a node has sessions at a time.
const TOKENS_MAX: usize = 16_384;

/// A request that is not authenticated, or whose token does not reach this resource.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotAuthenticated {
    pub(crate) reason: Reason,
    /// Who it claims to be, where the token is authentic and only expired, early, for another resource or not proved.
    pub(crate) claims: Option<Box<Claims>>,
    /// What a client that speaks DPoP is told.
    pub(crate) dpop: Option<DpopFault>,
}

/// An authentic token, presented in the scheme it is for. What it is bound to is not shown by that yet.
#[derive(Clone, Debug)]
pub(crate) struct Authentic {
    caller: Arc<Caller>,
    claims: Arc<Claims>,
    possession: Possession,
    person: PersonKey,
    token: TokenHash,
}

impl Deref for Authentic {
    type Target = Arc<Caller>;

    fn deref(&self) -> &Arc<Caller> {
        &self.caller
    }
}

impl Authentic {
    /// What a request has to show beyond the token.
    pub(crate) const fn possession(&self) -> &Possession {
        &self.possession
    }

    /// Stands for the person.
    pub(crate) const fn person(&self) -> &PersonKey {
        &self.person
    }

    /// Stands for the token.
    pub(crate) const fn token(&self) -> &TokenHash {
        &self.token
    }

    /// The public URL of the resource that it is for.
    pub(crate) fn audience(&self) -> &str {
        &self.claims.aud
    }

    /// A request does not show what the token is bound to.
    pub(crate) fn unproven(&self, why: Unproven) -> NotAuthenticated {
        let Unproven { reason, dpop } = why;
        NotAuthenticated { reason, claims: Some(Box::new(self.claims.as_ref().clone())), dpop }
    }
}

/// Verified tokens; one per node.
#[derive(Debug, Default)]
pub(crate) struct Authenticator(Mutex<Cache>, newer::Places, Arc<BindingKeys>);

#[derive(Debug, Default)]
struct Cache {
    /// What the tokens were verified with.
    basis: Weak<Offer>,
    /// Its issuer and key ids.
    issuer: Option<Issuer>,
    keys: String,
    /// What their binding keys were opened with.
    seal: Option<Arc<BindingSeal>>,
    tokens: HashMap<TokenHash, Verified>,
}

/// A token that was verified.
#[derive(Clone, Debug)]
struct Verified {
    claims: Arc<Claims>,
    /// Whom it names at the virtual server that is its audience; or why it names nobody.
    caller: Result<Arc<Caller>, Reason>,
    /// What it is bound to; or why that cannot be told.
    possession: Result<Possession, Reason>,
    person: PersonKey,
}

impl Cache {
    fn is_of(&self, config: &Config) -> bool {
        std::ptr::eq(self.basis.as_ptr(), Arc::as_ptr(&config.offer))
    }

    fn is_opened_with(&self, seal: Option<&Arc<BindingSeal>>) -> bool {
        match (&self.seal, seal) {
            (None, None) => true,
            (Some(held), Some(seal)) => Arc::ptr_eq(held, seal),
            _ => false,
        }
    }
}

impl Authenticator {
    /// Opens what tokens are bound to with these.
    pub(crate) fn new(keys: Arc<BindingKeys>) -> Self {
        Self(Mutex::default(), newer::Places::default(), keys)
    }

    /// The caller of a request to `virtual_server` at `now_unix` seconds.
    pub(crate) fn authenticate(
        &self,
        config: &Config,
        virtual_server: &str,
        headers: &HeaderMap,
        now_unix: i64,
    ) -> Result<Authentic, NotAuthenticated> {
        let refuse = |reason| NotAuthenticated { reason, claims: None, dpop: None };
        let (scheme, token) = credentials(headers).map_err(refuse)?;
        let refuse = |reason| NotAuthenticated { dpop: fault_of(scheme), ..refuse(reason) };
        let Some(issuer) = &config.issuer else { return Err(refuse(Reason::ConfigStale)) };
        let hash = TokenHash::of(token);
        let known = self.known(config, &hash).filter(|known| {
            let Claims { iss, aud, exp, .. } = known.claims.as_ref();
            *iss == issuer.issuer && config.is_audience(aud, virtual_server) && now_unix < *exp
        });
        let verified = match known {
            Some(known) => known,
            None => self
                .verify(config, issuer, virtual_server, (token, hash), now_unix)
                .map_err(|refused| NotAuthenticated { dpop: fault_of(scheme), ..refused })?,
        };
        let Verified { claims, caller, possession, person } = verified;
        let of_claims = |why: Unproven| {
            let Unproven { reason, dpop } = why;
            NotAuthenticated { reason, claims: Some(Box::new(claims.as_ref().clone())), dpop }
        };
        let caller = caller.map_err(|reason| of_claims(reason.into()))?;
        if taken_away(config, &caller).is_some() {
            self.cache().tokens.remove(&hash);
        }
        let possession = possession.map_err(|reason| match reason {
            // The key that it was bound with may be newer than what is in force here.
            Reason::TokenSignature if claims.min_revision > Some(config.revision) => {
                of_claims(Reason::ConfigStale.into())
            }
            _ => of_claims(reason.into()),
        })?;
        possession.fits(scheme).map_err(of_claims)?;
        Ok(Authentic { caller, claims, possession, person, token: hash })
    }

    /// A token that is not known; from now on it is, if it is good.
    fn verify(
        &self,
        config: &Config,
        issuer: &Issuer,
        virtual_server: &str,
        (token, hash): (&str, TokenHash),
        now_unix: i64,
    ) -> Result<Verified, NotAuthenticated> {
        let audience = config.audience(virtual_server).unwrap_or_default();
        let expect = Expect { issuer: &issuer.issuer, audience: &audience };
        let claims = config.token_keys.verify(token, &expect, now_unix).map_err(|error| {
            let claims = authentic_claims(config, token).map(Box::new);
            NotAuthenticated { reason: error.reason(), claims, dpop: None }
        })?;
        let caller = Caller::from_claims(&claims, virtual_server).map(Arc::new);
        let seal = self.2.load();
        let possession = Possession::of(&claims, seal.as_deref());
        let person = person_key(&claims.sub);
        let verified = Verified { claims: Arc::new(claims), caller, possession, person };
        let mut cache = self.cache();
        if !cache.is_of(config) || !cache.is_opened_with(seal.as_ref()) || verified.possession.is_err() {
            // Verified with what others no longer go by, or may be any moment: good for this request, and for no other.
            return Ok(verified);
        }
        if cache.tokens.len() >= TOKENS_MAX {
            cache.tokens.retain(|_, known| now_unix < known.claims.exp);
            if cache.tokens.len() >= TOKENS_MAX {
                cache.tokens.clear();
            }
        }
        cache.tokens.insert(hash, verified.clone());
        Ok(verified)
    }

    /// What is known of a token under the issuer and keys in force.
    fn known(&self, config: &Config, hash: &TokenHash) -> Option<Verified> {
        let mut cache = self.cache();
        if !cache.is_of(config) {
            let keys = format!("{:?}", config.token_keys);
            if cache.issuer != config.issuer || cache.keys != keys {
                cache.tokens.clear();
                (cache.issuer, cache.keys) = (config.issuer.clone(), keys);
            }
            // It is kept from being freed, so that no other offer ever stands where it stood.
            cache.basis = Arc::downgrade(&config.offer);
        }
        let seal = self.2.load();
        if !cache.is_opened_with(seal.as_ref()) {
            cache.tokens.retain(|_, known| !matches!(known.possession, Ok(Possession::Key(_))));
            cache.seal = seal;
        }
        cache.tokens.get(hash).cloned()
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is said of a token that is not good, where it came by DPoP.
const fn fault_of(scheme: Scheme) -> Option<DpopFault> {
    match scheme {
        Scheme::Bearer => None,
        Scheme::Dpop => Some(DpopFault::Token),
    }
}

/// The claims of a token that one of our keys signed, whatever they say about audience and time.
fn authentic_claims(config: &Config, token: &str) -> Option<Claims> {
    let payload = token.split('.').nth(1)?;
    let said: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    let own = Expect { issuer: &said.iss, audience: &said.aud };
    let valid_from = said.nbf.map_or(said.iat, |nbf| nbf.max(said.iat));
    config.token_keys.verify(token, &own, valid_from).ok()
}

#[cfg(test)]
mod tests;
