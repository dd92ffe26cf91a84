//! Events of provisioning, and what each does to the state.
//!
//! Called by `state`; made by `decide`. Invariants: a person's groups are those of their user, and the index of members
//! follows each change; a group that ends or is renamed takes along provisioned people alone. Each event fits into one
//! record of the ledger, without the person's attributes, which are no matter of an auditor's (`event::recorded`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Departed, Group, Members, Named, Person};
use crate::{
    resource::UserSpec,
    state::{Changed, State},
    user::{self, User},
};

/// Payload of `person_provisioned`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonProvisioned {
    /// The name of their user, which is made if there is none.
    pub name: String,
    /// Theirs for good.
    pub id: String,
    /// What the directory calls them; empty: it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_id: String,
    /// Whether the directory says that they are active.
    pub active: bool,
    /// Everything else it says: a JSON object.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub profile: String,
}

/// Payload of `person_renamed`: the same person is another user from now on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonRenamed {
    /// The user they were; inactive from now on.
    pub from: String,
    /// The user they are, with the groups of the other.
    pub to: String,
}

/// Payload of `person_deprovisioned`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonDeprovisioned {
    /// The user they were; inactive from now on.
    pub name: String,
    /// The id they had.
    pub id: String,
}

/// Payload of `group_provisioned`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupProvisioned {
    /// Its name on users.
    pub name: String,
    /// Its for good.
    pub id: String,
    /// What the directory calls it; empty: it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_id: String,
    /// Its name as the directory writes it.
    pub display: String,
}

/// Payload of `group_renamed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupRenamed {
    /// Its name on users, until now.
    pub from: String,
    /// Its name on them from now on.
    pub to: String,
}

/// Payload of `group_members_changed`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupMembersChanged {
    /// Which.
    pub group: String,
    /// All who were in it leave it first.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cleared: bool,
    /// Who is in it now.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub added: BTreeSet<String>,
    /// Who is not any more.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub removed: BTreeSet<String>,
}

/// Payload of `group_deprovisioned`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDeprovisioned {
    /// Its name on users, which provisioned ones do not have any more.
    pub name: String,
    /// The id it had.
    pub id: String,
}

pub(crate) fn evolve_person(state: &mut State, event: &PersonProvisioned, changed: Changed) {
    let PersonProvisioned { name, id, external_id, active, profile } = event;
    let user = state.users.get(name);
    let known = state.provisioned.people.get(name);
    let gone = state.provisioned.departed.get(name);
    let is_new = known.is_none();
    let held = match (known, gone) {
        (Some(known), _) => known.held,
        (None, Some(gone)) => gone.held,
        (None, None) => user.is_some_and(|user| !user.spec.active),
    };
    let created = known.map_or(changed, |known| known.created);
    let before = known.map(|known| (known.id.clone(), known.external_id.clone()));
    let mut groups = user.map(|user| user.spec.groups.clone()).unwrap_or_default();
    if is_new {
        // Into its groups a directory puts whom it means; and a name that comes back is somebody else's.
        groups.retain(|group| gone.is_none() && !state.provisioned.groups.contains_key(group));
    }
    let own = &mut state.provisioned;
    if let Some((id, external_id)) = before {
        own.named_outside(&external_id, &id, false);
        own.ids.remove(&id);
    }
    if is_new {
        groups.iter().for_each(|group| own.joins(group, name));
    }
    own.departed.remove(name);
    own.ids.insert(id.clone(), Named::Person(name.clone()));
    own.named_outside(external_id, id, true);
    let person = Person {
        id: id.clone(),
        external_id: external_id.clone(),
        active: *active,
        held,
        profile: profile.clone(),
        created,
        changed,
    };
    own.people.insert(name.clone(), person);
    let spec = UserSpec { groups, active: *active && !held };
    if state.users.get(name).is_none_or(|user| user.spec != spec) {
        user::put(state, name, User { spec, changed });
    }
}

pub(crate) fn evolve_person_renamed(state: &mut State, event: &PersonRenamed, changed: Changed) {
    let PersonRenamed { from, to } = event;
    let Some(user) = state.users.get(from).cloned() else { return };
    let Some(person) = state.provisioned.people.get(from).cloned() else { return };
    deactivate(state, from, changed);
    let own = &mut state.provisioned;
    for group in &user.spec.groups {
        own.leaves(group, from);
        own.joins(group, to);
    }
    own.people.remove(from);
    own.departed.insert(from.clone(), Departed { held: person.held, renamed: Some(person.id.clone()) });
    let held = person.held || own.departed.get(to).is_some_and(|gone| gone.held);
    own.departed.remove(to);
    own.ids.insert(person.id.clone(), Named::Person(to.clone()));
    own.people.insert(to.clone(), Person { held, changed, ..person });
    let spec = UserSpec { active: user.spec.active && !held, ..user.spec };
    user::put(state, to, User { spec, changed });
}

pub(crate) fn evolve_person_gone(state: &mut State, event: &PersonDeprovisioned, changed: Changed) {
    let held = state.provisioned.people.get(&event.name).is_some_and(|person| person.held);
    forget(state, &event.name);
    deactivate(state, &event.name, changed);
    if state.users.contains_key(&event.name) {
        state.provisioned.departed.insert(event.name.clone(), Departed { held, renamed: None });
    }
}

/// What a directory said of somebody is forgotten.
pub(super) fn forget(state: &mut State, name: &str) {
    let Some(person) = state.provisioned.people.get(name).cloned() else { return };
    let groups = state.users.get(name).map(|user| user.spec.groups.clone()).unwrap_or_default();
    let own = &mut state.provisioned;
    groups.iter().for_each(|group| own.leaves(group, name));
    own.named_outside(&person.external_id, &person.id, false);
    own.ids.remove(&person.id);
    own.people.remove(name);
}

/// Nobody is in a group of a directory's who is not there any more.
fn deactivate(state: &mut State, name: &str, changed: Changed) {
    let State { users, provisioned, .. } = state;
    let Some(user) = users.get_mut(name) else { return };
    user.spec.groups.retain(|group| !provisioned.groups.contains_key(group));
    user.spec.active = false;
    user.changed = changed;
}

pub(crate) fn evolve_group(state: &mut State, event: &GroupProvisioned, changed: Changed) {
    let GroupProvisioned { name, id, external_id, display } = event;
    let own = &mut state.provisioned;
    let known = own.groups.get(name).cloned();
    let created = known.as_ref().map_or(changed, |known| known.created);
    if let Some(known) = known {
        own.named_outside(&known.external_id, &known.id, false);
        own.ids.remove(&known.id);
    }
    own.ids.insert(id.clone(), Named::Group(name.clone()));
    own.named_outside(external_id, id, true);
    let (id, external_id, display) = (id.clone(), external_id.clone(), display.clone());
    own.groups.insert(name.clone(), Group { id, external_id, display, created, changed });
}

pub(crate) fn evolve_group_renamed(state: &mut State, event: &GroupRenamed, changed: Changed) {
    let GroupRenamed { from, to } = event;
    let Some(group) = state.provisioned.groups.get(from).cloned() else { return };
    state.provisioned.groups.remove(from);
    state.provisioned.ids.insert(group.id.clone(), Named::Group(to.clone()));
    state.provisioned.groups.insert(to.clone(), Group { changed, ..group });
    for name in members(state, from) {
        put_in(state, to, &name, changed);
        take_out(state, from, &name, changed);
    }
}

pub(crate) fn evolve_members(state: &mut State, event: &GroupMembersChanged, changed: Changed) {
    let GroupMembersChanged { group, cleared, added, removed } = event;
    let leaving = if *cleared { members(state, group) } else { Vec::new() };
    for name in leaving.iter().chain(removed).filter(|name| !added.contains(*name)) {
        take_out(state, group, name, changed);
    }
    for name in added {
        put_in(state, group, name, changed);
    }
    if let Some(known) = state.provisioned.groups.get_mut(group) {
        known.changed = changed;
    }
}

pub(crate) fn evolve_group_gone(state: &mut State, event: &GroupDeprovisioned, changed: Changed) {
    for name in members(state, &event.name) {
        take_out(state, &event.name, &name, changed);
    }
    let own = &mut state.provisioned;
    if let Some(known) = own.groups.get(&event.name).cloned() {
        own.named_outside(&known.external_id, &known.id, false);
        own.ids.remove(&known.id);
        own.groups.remove(&event.name);
    }
}

fn members(state: &State, group: &str) -> Vec<String> {
    state.provisioned.members.get(group).into_iter().flat_map(Members::names).cloned().collect()
}

fn put_in(state: &mut State, group: &str, name: &str, changed: Changed) {
    if !state.provisioned.people.contains_key(name) {
        return;
    }
    let Some(user) = state.users.get_mut(name) else { return };
    if user.spec.groups.insert(group.to_owned()) {
        user.changed = changed;
        state.provisioned.joins(group, name);
    }
}

fn take_out(state: &mut State, group: &str, name: &str, changed: Changed) {
    if !state.provisioned.people.contains_key(name) {
        return;
    }
    let Some(user) = state.users.get_mut(name) else { return };
    if user.spec.groups.remove(group) {
        user.changed = changed;
        state.provisioned.leaves(group, name);
    }
}
