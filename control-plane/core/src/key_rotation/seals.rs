//! Rotation of the keys that seal: the authorization server's, and the one that binding keys are sealed under in tokens;
//! and of the one that data planes sign with what servers are told of calls, which is kept and replaced as those are.
//!
//! Part of `key_rotation`. All are rings of which one key is in use; they differ in where they lie, how many are kept,
//! and until when what they made may count.

use std::collections::BTreeMap;

use super::{
    AT_ONCE, AUTHORIZATION, AUTHORIZATION_KEYS_MAX, AuthorizationKeyRetired, AuthorizationKeyRotated, BINDING_KEYS_MAX,
    BindingKeyRetired, BindingKeyRotated, CONTEXT_KEYS_MAX, CONTEXT_SECONDS_MAX, CONTEXT_SIGNING, ContextKeyRetired,
    ContextKeyRotated, KEPT_SECONDS, KeyKind, KeysStay, RotateSeal, SealKey, TOKEN_BINDING, check_sealed,
    last_seal_ends, last_token_ends,
};
use crate::{
    Change, Rejection,
    command::{Context, Decision},
    consent, requests,
    state::State,
};

/// A kind of key that seals.
#[derive(Clone, Copy)]
pub(super) enum Seals {
    Authorization,
    TokenBinding,
    ContextSigning,
}

impl Seals {
    const fn column(self) -> &'static str {
        match self {
            Self::Authorization => AUTHORIZATION,
            Self::TokenBinding => TOKEN_BINDING,
            Self::ContextSigning => CONTEXT_SIGNING,
        }
    }

    const fn keys_max(self) -> usize {
        match self {
            Self::Authorization => AUTHORIZATION_KEYS_MAX,
            Self::TokenBinding => BINDING_KEYS_MAX,
            Self::ContextSigning => CONTEXT_KEYS_MAX,
        }
    }

    const fn keys(self, state: &State) -> &BTreeMap<String, SealKey> {
        match self {
            Self::Authorization => &state.authorization_keys,
            Self::TokenBinding => &state.binding_keys,
            Self::ContextSigning => &state.context_keys,
        }
    }

    /// When the last of what was sealed by now has ended.
    fn last_ends(self, state: &State, now: u64) -> u64 {
        match self {
            Self::Authorization => last_seal_ends(state, now),
            Self::TokenBinding => last_token_ends(state, now),
            Self::ContextSigning => now.saturating_add(CONTEXT_SECONDS_MAX),
        }
    }

    fn rotated(self, key: String, replaces: String, until: u64, at_once: bool, reason: String) -> Change {
        match self {
            Self::Authorization => AuthorizationKeyRotated { key, replaces, until, at_once, reason }.into(),
            Self::TokenBinding => BindingKeyRotated { key, replaces, until, at_once, reason }.into(),
            Self::ContextSigning => ContextKeyRotated { key, replaces, until, at_once, reason }.into(),
        }
    }

    pub(super) fn retired(self, key: String, reason: String) -> Change {
        match self {
            Self::Authorization => AuthorizationKeyRetired { key, reason }.into(),
            Self::TokenBinding => BindingKeyRetired { key, reason }.into(),
            Self::ContextSigning => ContextKeyRetired { key, reason }.into(),
        }
    }
}

/// The keys of a kind that seals, once they were rotated; none of one that signs.
#[must_use]
pub fn seal_keys(state: &State, kind: KeyKind) -> Option<&BTreeMap<String, SealKey>> {
    match kind {
        KeyKind::TokenSigning => None,
        KeyKind::Authorization => Some(&state.authorization_keys),
        KeyKind::TokenBinding => Some(&state.binding_keys),
        KeyKind::ContextSigning => Some(&state.context_keys),
    }
}

/// Of keys that seal, the one in use, once there was a rotation.
#[must_use]
pub fn in_use(keys: &BTreeMap<String, SealKey>) -> Option<(&str, &SealKey)> {
    let in_use = keys.iter().filter(|(_, one)| one.replaced.is_none());
    in_use.max_by_key(|(_, one)| one.changed.revision).map(|(id, one)| (id.as_str(), one))
}

pub(super) fn decide_rotate(
    state: &State,
    seals: Seals,
    wish: RotateSeal,
    context: &Context,
) -> Result<Decision, Rejection> {
    let RotateSeal { key, replaces, edition, at_once, reason } = wish;
    let (column, keys_max, known) = (seals.column(), seals.keys_max(), seals.keys(state));
    consent::check_reason(&reason)?;
    if !requests::is_id(&key) || !requests::is_id(&replaces) || key == replaces {
        return Err(Rejection::Malformed { what: "key id", rule: "two of 1 to 128 visible ASCII characters" });
    }
    check_sealed(state, column, edition)?;
    if known.contains_key(&key) || in_use(known).is_some_and(|(id, _)| id != replaces) {
        return Err(KeysStay::NotSealed { column }.into());
    }
    // Before the first rotation the key in use is not listed.
    if known.len().max(1) >= keys_max && !at_once {
        let replaced = known.values().filter_map(|one| one.replaced);
        let until = replaced.map(|one| one.until).min().unwrap_or_default();
        return Err(KeysStay::Kept { max: keys_max, until }.into());
    }
    let now = context.now_seconds();
    let until = if at_once { now } else { seals.last_ends(state, now).saturating_add(KEPT_SECONDS) };
    let mut before: Vec<String> = known.keys().cloned().collect();
    if before.is_empty() {
        before.push(replaces.clone());
    }
    let mut events = vec![context.event(seals.rotated(key, replaces, until, at_once, reason))];
    if at_once {
        events.extend(before.into_iter().map(|id| context.event(seals.retired(id, AT_ONCE.to_owned()))));
    }
    Ok(Decision::done(events))
}
