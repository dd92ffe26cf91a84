//! Sign-in of people: that one has signed in is on record, and what their provider says of their groups counts.
//!
//! The server has looked at the provider's word, or at the local sign-in's code. Called by `wish` and `state`.
//! Invariants: nobody signs in who is not active here; of what a provider said of groups, by sign-ins and by signals,
//! the latest counts, whichever came last (`signal` says when not). Absent: sessions of browsers, which no server keeps.

use std::collections::BTreeSet;

use bailiwick_proto::names;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Rejection, ResourceRef,
    command::{Context, Decision},
    provisioning, requests,
    resource::UserSpec,
    revocation::sessions,
    signal,
    state::State,
    user::{self, UserApplied},
    wish::Fulfilled,
};

/// Most groups that a provider's word gives a person.
pub const GROUPS_MAX: usize = 256;

/// A person has signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignIn {
    /// Who, by their name here.
    pub user: String,
    /// The identity provider; empty: the local sign-in.
    pub provider: String,
    /// All groups they are in, where the provider decides that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<BTreeSet<String>>,
    /// Whether somebody who is not known yet becomes a user.
    pub may_join: bool,
    /// Names the browser's session.
    pub session: String,
    /// When the provider said so, Unix seconds; nothing where it has no say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said_at: Option<u64>,
}

/// Payload of `person_signed_in`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonSignedIn {
    /// Who.
    pub user: String,
    /// The identity provider; empty: the local sign-in.
    pub provider: String,
    /// Names the browser's session.
    pub session: String,
    /// When the provider said which groups they are in, Unix seconds, if that counts.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "crate::decimal::option")]
    pub groups_at: Option<u64>,
}

pub(crate) fn decide(state: &State, wish: SignIn, context: &Context) -> Result<Decision, Rejection> {
    let SignIn { user, provider, groups, may_join, session, said_at } = wish;
    let groups_fit =
        groups.iter().all(|groups| groups.len() <= GROUPS_MAX && groups.iter().all(|name| names::is_person_name(name)));
    if !names::is_person_name(&user) || !requests::is_id(&session) || !groups_fit {
        return Err(Rejection::Malformed { what: "sign-in", rule: "of a person, with groups that may stand here" });
    }
    let may_join = match state.identity_providers.get(&provider).map(|known| &known.spec) {
        Some(spec) if spec.active && spec.sign_in.is_some() => may_join && spec.people.join,
        None if provider.is_empty() => false,
        Some(_) | None => return Err(Rejection::Inactive(ResourceRef::new(Kind::IdentityProvider, provider))),
    };
    let known = state.users.get(&user).map(|known| &known.spec);
    if known.is_none() && (!may_join || state.users.len() >= user::USERS_MAX) {
        return Err(Rejection::NotFound(vec![ResourceRef::new(Kind::User, user)]));
    }
    // Providers differ in whether the case of an address counts: somebody who was deactivated must not join anew by it.
    if let Some(other) = user::almost(state, &user).next().filter(|_| known.is_none()) {
        return Err(Rejection::Inactive(ResourceRef::new(Kind::User, other)));
    }
    if known.is_some_and(|spec| !spec.active) {
        return Err(Rejection::Inactive(ResourceRef::new(Kind::User, user)));
    }
    if !provider.is_empty() {
        sessions::check_word(state, &user, said_at, context)?;
    }
    let before = known.map_or_else(BTreeSet::new, |spec| spec.groups.clone());
    // A signal may have said since then what their groups are.
    let at = sessions::word_at(said_at, context);
    let (by_signal, by_sign_in) = signal::groups_dated(state, &user, &provider);
    let groups = groups.filter(|_| at >= by_signal.max(by_sign_in));
    let groups_at = groups.is_some().then_some(at);
    let groups = groups.map(|listed| provisioning::groups_beside(state, &user, listed));
    let spec = UserSpec { groups: groups.unwrap_or(before), active: true };
    let mut events = Vec::new();
    if known != Some(&spec) {
        let reason = format!("signed in at identity provider {provider}");
        events.push(context.event(UserApplied { name: user.clone(), spec, reason, held: false }));
    }
    events.push(context.event(PersonSignedIn { user, provider, session, groups_at }));
    Ok(Decision::fulfilled(events, Fulfilled::Done))
}

/// Notes from when the groups are.
pub(crate) fn evolve_signed_in(state: &mut State, event: &PersonSignedIn, now_seconds: u64) {
    if let Some(at) = event.groups_at {
        signal::date_groups_at_sign_in(state, &event.user, &event.provider, at.min(now_seconds));
    }
}
