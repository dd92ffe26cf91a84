//! Token keys and the issuer: with what, and in whose name, access tokens are signed.
//!
//! Only public keys are here; private ones are sealed (`secret`). Keys are added and retired, never changed, so that a
//! token signed before a restart verifies after it. Called by `command`, `state`, `view` and the server's JWKS.
//! Absent: which key signs, and until when one verifies (`key_rotation`).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Rejection,
    command::{Context, Decision},
    key_rotation::Replaced,
    requests,
    resource::is_http_url,
    state::{Changed, State},
};

/// Most token keys at a time: every data plane tries by key id only, but holds them all.
pub const TOKEN_KEYS_MAX: usize = 64;
/// Largest public JWK: an RSA key of 4096 bits has less than half.
pub const JWK_BYTES_MAX: usize = 2 * 1024;

/// A public key that signs access tokens. Also the payload of `token_key_registered` (as [`TokenKeyRegistered`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKey {
    /// Key id in tokens.
    pub kid: String,
    /// `EdDSA` or `ES256`.
    pub alg: String,
    /// The public JWK as JSON.
    pub jwk: String,
}

/// Payload of `token_key_registered`.
pub type TokenKeyRegistered = TokenKey;

/// A token key in the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTokenKey {
    /// The key.
    pub key: TokenKey,
    /// When it was registered.
    pub changed: Changed,
    /// Absent while it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Replaced>,
}

/// Who signs tokens, and what audiences are made from. Also the payload of `issuer_set` (as [`IssuerSet`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issuer {
    /// `iss` of every token: an http or https URL.
    pub issuer: String,
    /// URL up to `/mcp`: `aud` is this, `/`, and the virtual server's name.
    pub mcp_url: String,
}

/// Payload of `issuer_set`.
pub type IssuerSet = Issuer;

/// That it can stand in the state and in the JWKS.
pub(crate) fn check(key: &TokenKey) -> Result<(), Rejection> {
    if !requests::is_id(&key.kid) {
        return Err(Rejection::Malformed { what: "key id", rule: "1 to 128 visible ASCII characters" });
    }
    if !matches!(key.alg.as_str(), "EdDSA" | "ES256") {
        return Err(Rejection::Malformed { what: "algorithm", rule: "EdDSA or ES256" });
    }
    let jwk = serde_json::from_str::<Value>(&key.jwk).ok();
    let is_public = jwk.as_ref().and_then(Value::as_object).is_some_and(|jwk| !jwk.contains_key("d"));
    if key.jwk.len() > JWK_BYTES_MAX || !is_public {
        return Err(Rejection::Malformed { what: "JWK", rule: "a public key as a JSON object of at most 2 KiB" });
    }
    Ok(())
}

pub(crate) fn decide_register(state: &State, key: TokenKey, context: &Context) -> Result<Decision, Rejection> {
    check(&key)?;
    match state.token_keys.get(&key.kid) {
        Some(known) if known.key == key => Ok(Decision::default()),
        Some(_) => Err(Rejection::TokenKeyConflict(key.kid)),
        None if state.token_keys.len() >= TOKEN_KEYS_MAX => {
            Err(Rejection::TooMany { what: "token keys", max: TOKEN_KEYS_MAX })
        }
        None => Ok(Decision::done(vec![context.event(crate::Change::TokenKeyRegistered(key))])),
    }
}

pub(crate) fn decide_set_issuer(state: &State, issuer: Issuer, context: &Context) -> Result<Decision, Rejection> {
    for (what, url) in [("issuer", &issuer.issuer), ("MCP URL", &issuer.mcp_url)] {
        if !is_http_url(url) || url.ends_with('/') || url.contains('?') {
            let rule = "an http or https URL without user, query, fragment or final slash";
            return Err(Rejection::Malformed { what, rule });
        }
    }
    if state.issuer.as_ref() == Some(&issuer) {
        return Ok(Decision::default());
    }
    Ok(Decision::done(vec![context.event(crate::Change::IssuerSet(issuer))]))
}

pub(crate) fn evolve_registered(state: &mut State, event: &TokenKeyRegistered, changed: Changed) {
    state.token_keys.insert(event.kid.clone(), StoredTokenKey { key: event.clone(), changed, replaced: None });
}

pub(crate) fn evolve_issuer(state: &mut State, event: &IssuerSet) {
    state.issuer = Some(event.clone());
}
