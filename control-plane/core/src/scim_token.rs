//! Tokens by which a company's directory is let in to provision people (SCIM).
//!
//! Each has a name, which stands in every event that comes of it (`scim:<name>`), and an end if somebody said one. Only
//! the SHA-256 of its text is here; the text is shown once. Called by `command`, `state` and the server, which asks
//! [`holder`] for each request. Invariant: comparing takes as long for any answer. Absent: drawing a token (server).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use bailiwick_proto::names;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::{Answer, Context, Decision},
    state::{Changed, State},
};

/// Most tokens: a few directories, each with one in use and one that replaces it.
pub const SCIM_TOKENS_MAX: usize = 32;

/// A wish for a token; its text is made by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateScimToken {
    /// What it is called.
    pub name: String,
    /// SHA-256 of its text.
    pub hash: [u8; 32],
    /// Until when it is good, Unix seconds; absent: until it is revoked.
    pub expires_at: Option<u64>,
}

/// A token that somebody may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScimToken {
    /// SHA-256 of its text, lower-case hex.
    pub hash: String,
    /// Until when it is good, Unix seconds; absent: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// Who made it.
    pub actor: String,
    /// When it was made.
    pub changed: Changed,
}

/// Payload of `scim_token_created`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScimTokenCreated {
    /// What it is called.
    pub name: String,
    /// SHA-256 of its text, lower-case hex.
    pub hash: String,
    /// Until when it is good, Unix seconds; empty: until it is revoked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub expires_at: String,
}

/// Payload of `scim_token_revoked`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScimTokenRevoked {
    /// Which.
    pub name: String,
}

/// The name of the token whose text has this hash, if it is good.
#[must_use]
pub fn holder<'a>(state: &'a State, hash: &[u8; 32], now_seconds: u64) -> Option<&'a str> {
    let hash = hex::encode(hash);
    let mut found = None;
    for (name, token) in &state.scim_tokens {
        let is_it = verify_slices_are_equal(token.hash.as_bytes(), hash.as_bytes()).is_ok();
        if is_it && token.expires_at.is_none_or(|end| now_seconds < end) {
            found = Some(name.as_str());
        }
    }
    found
}

pub(crate) fn decide_create(state: &State, wish: CreateScimToken, context: &Context) -> Result<Decision, Rejection> {
    if !names::is_resource_name(&wish.name) {
        let rule = "1 to 63 lower-case letters, digits and inner hyphens, dots or underscores";
        return Err(Rejection::Malformed { what: "name of a SCIM token", rule });
    }
    if state.scim_tokens.contains_key(&wish.name) {
        return Err(Rejection::ScimTokenTaken { name: wish.name });
    }
    if wish.expires_at.is_some_and(|end| end <= context.now_seconds()) {
        return Err(Rejection::Malformed { what: "end of a SCIM token", rule: "in the future" });
    }
    if state.scim_tokens.len() >= SCIM_TOKENS_MAX {
        return Err(Rejection::TooMany { what: "SCIM tokens", max: SCIM_TOKENS_MAX });
    }
    let expires_at = wish.expires_at.map(|end| end.to_string()).unwrap_or_default();
    let event = ScimTokenCreated { name: wish.name, hash: hex::encode(wish.hash), expires_at };
    Ok(Decision::done(vec![context.event(event)]))
}

/// The answer to a repeated request: its text was shown once, and nobody keeps it.
pub(crate) fn repeat(state: &State, wish: &CreateScimToken) -> Result<Answer, Rejection> {
    match state.scim_tokens.get(&wish.name) {
        Some(token) if token.hash == hex::encode(wish.hash) => Ok(Answer::Done),
        Some(_) | None => Err(Rejection::ScimTokenTaken { name: wish.name.clone() }),
    }
}

pub(crate) fn decide_revoke(state: &State, name: String, context: &Context) -> Result<Decision, Rejection> {
    if !state.scim_tokens.contains_key(&name) {
        return Err(Rejection::ScimTokenUnknown { name });
    }
    Ok(Decision::done(vec![context.event(ScimTokenRevoked { name })]))
}

pub(crate) fn evolve_created(state: &mut State, event: &ScimTokenCreated, actor: &str, changed: Changed) {
    let token = ScimToken {
        hash: event.hash.clone(),
        expires_at: event.expires_at.parse().ok(),
        actor: actor.to_owned(),
        changed,
    };
    state.scim_tokens.insert(event.name.clone(), token);
}

pub(crate) fn evolve_revoked(state: &mut State, event: &ScimTokenRevoked) {
    state.scim_tokens.remove(&event.name);
}
