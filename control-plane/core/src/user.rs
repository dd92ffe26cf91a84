//! Users and the groups they name.
//!
//! A group has no life of its own here: it exists while a user names it; those of directories are in `provisioning`.
//! Called by `apply` (deciding), `state` and `provisioning` (evolving) and `show`. Invariant: a user owns its agents, so `apply` refuses to delete one that still does.
//! Absent: signing in (`design.md` §8, a later part).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    provisioning,
    resource::UserSpec,
    signal,
    state::{Changed, State},
};

/// Most users: a large company with everybody who ever left it; all of them are held in memory by every node, some
/// 1.5 KiB each with what a directory says of them.
pub const USERS_MAX: usize = 250_000;

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// As written.
    pub spec: UserSpec,
    /// When it was written.
    pub changed: Changed,
}

/// Payload of `user_applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserApplied {
    /// The user.
    pub name: String,
    /// As written.
    pub spec: UserSpec,
    /// Why, where it was deactivated by a revocation.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Whoever was inactive before is kept so by this word as well: no directory activates them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
}

/// Payload of `user_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDeleted {
    /// The user.
    pub name: String,
}

pub(crate) fn evolve_applied(state: &mut State, event: &UserApplied, changed: Changed) {
    let before = state.users.get(&event.name).cloned();
    provisioning::evolve_user_written(state, event, before.as_ref());
    put(state, &event.name, User { spec: event.spec.clone(), changed });
}

/// A user is so.
pub(crate) fn put(state: &mut State, name: &str, user: User) {
    let folded = name.to_ascii_lowercase();
    if folded != name {
        let mut alike = state.folded_names.get(&folded).cloned().unwrap_or_default();
        if alike.insert(name.to_owned()) {
            state.folded_names.insert(folded, alike);
        }
    }
    state.users.insert(name.to_owned(), user);
}

/// Users whose names differ from this one in the case of ASCII letters, and only in that.
pub(crate) fn almost<'a>(state: &'a State, name: &str) -> impl Iterator<Item = &'a String> + use<'a> {
    let folded = name.to_ascii_lowercase();
    let lower = state.users.get_key_value(&folded).map(|(name, _)| name);
    let others = state.folded_names.get(&folded).into_iter().flatten();
    let found: BTreeSet<&String> = lower.into_iter().chain(others).filter(|other| *other != name).collect();
    found.into_iter()
}

pub(crate) fn evolve_deleted(state: &mut State, event: &UserDeleted) {
    provisioning::evolve_user_deleted(state, &event.name);
    signal::forget_user(state, &event.name);
    let folded = event.name.to_ascii_lowercase();
    if let Some(mut alike) = state.folded_names.get(&folded).cloned() {
        alike.remove(&event.name);
        if alike.is_empty() {
            state.folded_names.remove(&folded);
        } else {
            state.folded_names.insert(folded, alike);
        }
    }
    state.users.remove(&event.name);
}

/// Groups by name, each with its members in name order.
#[must_use]
pub fn groups(state: &State) -> BTreeMap<&str, Vec<&str>> {
    let mut groups = BTreeMap::<&str, Vec<&str>>::new();
    for (name, user) in &state.users {
        for group in &user.spec.groups {
            groups.entry(group).or_default().push(name);
        }
    }
    groups
}
