//! What happens to the cluster's own keys: the events of rotations, and what each does to the state.
//!
//! Part of `key_rotation`, which decides them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Replaced, SealKey};
use crate::state::{Changed, State};

/// Payload of `token_key_rotated`: tokens are signed with this key from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKeyRotated {
    /// Its id.
    pub kid: String,
    /// The keys that signed before.
    pub replaces: Vec<String>,
    /// Until when these verify, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub until: u64,
    /// These verify no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
    /// Why.
    pub reason: String,
}

/// Payload of `token_key_retired`: this key verifies no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenKeyRetired {
    /// Its id.
    pub kid: String,
    /// Why before its time; empty: its time had come.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Payload of `authorization_key_rotated`: codes, refresh tokens and sessions are sealed with this key from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationKeyRotated {
    /// Its id, which tells nothing about it.
    pub key: String,
    /// The key that was in use before.
    pub replaces: String,
    /// Until when that one opens, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub until: u64,
    /// It opens no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
    /// Why.
    pub reason: String,
}

/// Payload of `authorization_key_retired`: this key opens no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthorizationKeyRetired {
    /// Its id.
    pub key: String,
    /// Why before its time; empty: its time had come.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Payload of `binding_key_rotated`: binding keys are sealed under this key in tokens from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingKeyRotated {
    /// Its id, which tells nothing about it.
    pub key: String,
    /// The key that was in use before.
    pub replaces: String,
    /// Until when that one opens, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub until: u64,
    /// It opens no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
    /// Why.
    pub reason: String,
}

/// Payload of `binding_key_retired`: this key opens no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BindingKeyRetired {
    /// Its id.
    pub key: String,
    /// Why before its time; empty: its time had come.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// Payload of `context_key_rotated`: what servers are told of calls is signed with this key from here on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextKeyRotated {
    /// Its id, which tells nothing about it.
    pub key: String,
    /// The key that was in use before.
    pub replaces: String,
    /// Until when that one verifies, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub until: u64,
    /// It verifies no more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_once: bool,
    /// Why.
    pub reason: String,
}

/// Payload of `context_key_retired`: this key verifies no more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContextKeyRetired {
    /// Its id.
    pub key: String,
    /// Why before its time; empty: its time had come.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

pub(crate) fn evolve_token_rotated(state: &mut State, event: &TokenKeyRotated, changed: Changed) {
    for kid in &event.replaces {
        if let Some(known) = state.token_keys.get_mut(kid) {
            known.replaced = Some(Replaced { changed, until: event.until });
        }
    }
}

pub(crate) fn evolve_token_retired(state: &mut State, event: &TokenKeyRetired) {
    state.token_keys.remove(&event.kid);
}

/// `keys`: those of the kind; `replaces` was in use and opens until then.
pub(crate) fn evolve_seal_rotated(
    keys: &mut BTreeMap<String, SealKey>,
    (key, replaces): (&str, &str),
    until: u64,
    changed: Changed,
) {
    let first = SealKey { changed: Changed::default(), replaced: None };
    let before = keys.entry(replaces.to_owned()).or_insert(first);
    before.replaced = Some(Replaced { changed, until });
    keys.insert(key.to_owned(), SealKey { changed, replaced: None });
}

pub(crate) fn evolve_seal_retired(keys: &mut BTreeMap<String, SealKey>, key: &str) {
    keys.remove(key);
}
