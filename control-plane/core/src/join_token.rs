//! Join tokens: leave for one node, or one administrator, to become a member.
//!
//! A token is good once, for ten minutes, in one role, and for one name if it says so. Only the hash of its secret is
//! here; the secret is shown once to whoever asked for it. `member` redeems tokens; `command` and `state` call this
//! file. Absent: how a token looks as text, and the authority's fingerprint in it (server, enrolment).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::{Answer, Context, Decision},
    member::{self, Role},
    requests,
    state::{Changed, State},
};

/// How long a token is good: time to carry it to a machine and start a process there, and little more.
pub const LIFETIME_SECONDS: u64 = 10 * 60;
/// Most tokens that are good at a time: a thousand machines started together.
pub const JOIN_TOKENS_MAX: usize = 1_000;

/// A wish for a join token; id and secret are made by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateJoinToken {
    /// Names the token; part of its text.
    pub id: String,
    /// SHA-256 of its secret.
    pub secret_hash: [u8; 32],
    /// What the member will be.
    pub role: Role,
    /// Control planes: replicate and serve, but never vote.
    pub learner: bool,
    /// Only for a member of this name; empty: any.
    pub name: String,
}

/// A token that may still be redeemed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// SHA-256 of its secret, lower-case hex.
    pub secret_hash: String,
    /// What the member will be.
    pub role: Role,
    /// Never votes.
    pub learner: bool,
    /// Only for a member of this name; empty: any.
    pub name: String,
    /// Unix seconds.
    pub expires_at: u64,
    /// When it was made.
    pub changed: Changed,
}

impl JoinToken {
    /// Whether `hash` is that of its secret; takes as long for any answer.
    pub(crate) fn holds(&self, hash: &[u8; 32]) -> bool {
        verify_slices_are_equal(self.secret_hash.as_bytes(), hex::encode(hash).as_bytes()).is_ok()
    }
}

pub(crate) fn decide_create(state: &State, wish: CreateJoinToken, context: &Context) -> Result<Decision, Rejection> {
    if !requests::is_id(&wish.id) || wish.id.contains('.') || state.join_tokens.contains_key(&wish.id) {
        return Err(Rejection::Malformed { what: "join token id", rule: "new, 1 to 128 visible characters, no dot" });
    }
    if !wish.name.is_empty() {
        member::check_name(&wish.name)?;
    }
    if wish.learner && wish.role != Role::ControlPlane {
        return Err(Rejection::Malformed { what: "wish for a learner", rule: "for the role control-plane" });
    }
    let now = context.now_seconds();
    if state.join_tokens.values().filter(|token| token.expires_at > now).count() >= JOIN_TOKENS_MAX {
        return Err(Rejection::TooMany { what: "unused join tokens", max: JOIN_TOKENS_MAX });
    }
    let expires_at = now.saturating_add(LIFETIME_SECONDS);
    let event = JoinTokenCreated {
        id: wish.id,
        secret_hash: hex::encode(wish.secret_hash),
        role: wish.role,
        learner: wish.learner,
        name: wish.name,
        expires_at,
    };
    let answer = Answer::JoinToken { expires_at };
    Ok(Decision { answer, ..Decision::done(vec![context.event(event)]) })
}

/// The answer to a repeated request: only a server that made the same secret again can give the same token.
pub(crate) fn repeat(state: &State, wish: &CreateJoinToken) -> Result<Answer, Rejection> {
    match state.join_tokens.get(&wish.id) {
        Some(token) if token.holds(&wish.secret_hash) => Ok(Answer::JoinToken { expires_at: token.expires_at }),
        Some(_) | None => Err(Rejection::JoinTokenShown),
    }
}

/// Payload of `join_token_created`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenCreated {
    /// Names the token.
    pub id: String,
    /// SHA-256 of its secret, lower-case hex.
    pub secret_hash: String,
    /// What the member will be.
    pub role: Role,
    /// Never votes.
    pub learner: bool,
    /// Only for a member of this name; empty: any.
    pub name: String,
    /// Unix seconds.
    #[serde(with = "crate::decimal")]
    pub expires_at: u64,
}

pub(crate) fn evolve_created(state: &mut State, event: &JoinTokenCreated, changed: Changed) {
    let now = changed.time / 1_000_000;
    state.join_tokens.retain(|_, token| token.expires_at > now);
    let token = JoinToken {
        secret_hash: event.secret_hash.clone(),
        role: event.role,
        learner: event.learner,
        name: event.name.clone(),
        expires_at: event.expires_at,
        changed,
    };
    state.join_tokens.insert(event.id.clone(), token);
}
