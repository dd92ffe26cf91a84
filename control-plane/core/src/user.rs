//! Users and the groups they name.
//!
//! A group has no life of its own: it exists while a user names it. Called by `apply` (deciding), `state` (evolving)
//! and `show`. Invariant: a user owns its agents, so `apply` refuses to delete one that still does.
//! Absent: signing in (`design.md` §8, a later part).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    resource::UserSpec,
    state::{Changed, State},
};

/// Most users: a large company with room; all of them are held in memory by every node.
pub const USERS_MAX: usize = 100_000;

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
}

/// Payload of `user_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserDeleted {
    /// The user.
    pub name: String,
}

pub(crate) fn evolve_applied(state: &mut State, event: &UserApplied, changed: Changed) {
    state.users.insert(event.name.clone(), User { spec: event.spec.clone(), changed });
}

pub(crate) fn evolve_deleted(state: &mut State, event: &UserDeleted) {
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
