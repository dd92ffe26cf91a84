//! People and groups that a company's directory provisions (SCIM): what it says of them, beside the users it makes;
//! and agents (`agents`).
//!
//! The user stays the one thing that decides (`user`): a person here is a user with an id, attributes and the
//! directory's word on whether they are active. Called by `state` (evolving), `user`, `apply` and `sign_in`; the
//! server looks people up by the indexes here. Invariants: a person's name is that of a user; who was deactivated here
//! (`held`) is not activated by the directory; the indexes follow from the rest; each change is O(log n) for each
//! person it touches. Absent: deciding (`decide`), what SCIM looks like (server).

pub mod agents;
pub(crate) mod decide;
mod events;
pub mod wish;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    manifest::Manifest,
    problem::Problem,
    resource::{Spec, UserSpec},
    state::{Changed, State},
    table::{self, Table},
    user::{User, UserApplied},
};

pub use self::events::{
    GroupDeprovisioned, GroupMembersChanged, GroupProvisioned, GroupRenamed, PersonDeprovisioned, PersonProvisioned,
    PersonRenamed,
};
pub(crate) use self::events::{
    evolve_group, evolve_group_gone, evolve_group_renamed, evolve_members, evolve_person, evolve_person_gone,
    evolve_person_renamed,
};

/// Most groups that directories make: some for every tenth person.
pub const GROUPS_MAX: usize = 25_000;
/// Most groups of one person.
pub const GROUPS_OF_ONE_MAX: usize = 1_000;
/// Longest attributes of one person, as JSON: a record of the ledger never holds them, the state of every node does.
pub const PROFILE_BYTES_MAX: usize = 8 * 1024;
/// Longest id that a directory has of its own for something.
pub const EXTERNAL_ID_BYTES_MAX: usize = 256;
/// Longest name of a group as its directory writes it.
pub const DISPLAY_BYTES_MAX: usize = 256;
/// Most members that one operation puts in or takes out by name.
pub const MEMBERS_AT_ONCE_MAX: usize = 10_000;

/// What directories provisioned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provisioned {
    /// People by the names of their users.
    pub people: Table<String, Person>,
    /// Groups by their names on users.
    pub groups: Table<String, Group>,
    /// Agents by their names.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub agents: Table<String, agents::ProvisionedAgent>,
    /// What an id names.
    pub ids: Table<String, Named>,
    /// Ids by what directories call them; a directory may call a person and a group alike.
    pub external_ids: Table<String, BTreeSet<String>>,
    /// Provisioned people by their groups, also such as no directory made.
    pub members: Table<String, Members>,
    /// Users whom a directory has deleted or renamed: inactive, and kept so that nobody joins anew by their names.
    pub departed: Table<String, Departed>,
}

/// What is remembered of the name of somebody who left it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departed {
    /// They had been deactivated here, or were after they left: whoever a directory calls so next is not active.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// The id of the person, if they were renamed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renamed: Option<String>,
}

/// Names of people.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Members(#[serde(with = "table::as_set")] Table<String, ()>);

impl Members {
    /// Their names, in order.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// How many they are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is among them.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// What an id names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Named {
    /// The person of this user.
    Person(String),
    /// The group of this name on users.
    Group(String),
    /// The agent of this name.
    Agent(String),
}

/// A person as their directory says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Person {
    /// Random, for good.
    pub id: String,
    /// What the directory calls them; empty: it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_id: String,
    /// The directory's word on whether they are active.
    pub active: bool,
    /// Deactivated here, not by the directory; only who did that, or an administrator, activates them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// Everything else it said: a JSON object.
    pub profile: String,
    /// When they were first provisioned.
    pub created: Changed,
    /// When the directory last changed something.
    pub changed: Changed,
}

/// A group as its directory says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Random, for good.
    pub id: String,
    /// What the directory calls it; empty: it does not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub external_id: String,
    /// Its name as the directory writes it.
    pub display: String,
    /// When it was first provisioned.
    pub created: Changed,
    /// When its directory last changed something, members included.
    pub changed: Changed,
}

impl Provisioned {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.people.is_empty() && self.groups.is_empty() && self.agents.is_empty() && self.departed.is_empty()
    }

    /// The person of an id, with the name of their user.
    #[must_use]
    pub fn person(&self, id: &str) -> Option<(&String, &Person)> {
        match self.ids.get(id)? {
            Named::Person(name) => self.people.get_key_value(name),
            Named::Group(_) | Named::Agent(_) => None,
        }
    }

    /// The group of an id, with its name on users.
    #[must_use]
    pub fn group(&self, id: &str) -> Option<(&String, &Group)> {
        match self.ids.get(id)? {
            Named::Group(name) => self.groups.get_key_value(name),
            Named::Person(_) | Named::Agent(_) => None,
        }
    }

    /// Names of the provisioned people in a group.
    pub fn members_of(&self, group: &str) -> impl Iterator<Item = &String> {
        self.members.get(group).into_iter().flat_map(Members::names)
    }

    fn joins(&mut self, group: &str, person: &str) {
        if !self.members.contains_key(group) {
            self.members.insert(group.to_owned(), Members::default());
        }
        if let Some(members) = self.members.get_mut(group) {
            members.0.insert(person.to_owned(), ());
        }
    }

    fn leaves(&mut self, group: &str, person: &str) {
        let Some(members) = self.members.get_mut(group) else { return };
        members.0.remove(person);
        if members.is_empty() {
            self.members.remove(group);
        }
    }

    fn named_outside(&mut self, external_id: &str, id: &str, is_so: bool) {
        if external_id.is_empty() {
            return;
        }
        let mut ids = self.external_ids.get(external_id).cloned().unwrap_or_default();
        if is_so {
            ids.insert(id.to_owned())
        } else {
            ids.remove(id)
        };
        if ids.is_empty() {
            self.external_ids.remove(external_id);
        } else {
            self.external_ids.insert(external_id.to_owned(), ids);
        }
    }
}

/// Revision of what is shown of a person: their own, or their user's.
#[must_use]
pub fn version_of_person(state: &State, name: &str) -> Option<u64> {
    let person = state.provisioned.people.get(name)?;
    let user = state.users.get(name).map_or(0, |user| user.changed.revision);
    Some(person.changed.revision.max(user))
}

/// The users of provisioned people whose names are this one, whatever the case of their letters.
#[must_use]
pub fn people_called(state: &State, name: &str) -> Vec<String> {
    let own = state.users.get_key_value(name).map(|(name, _)| name);
    let called = own.into_iter().chain(crate::user::almost(state, name));
    called.filter(|name| state.provisioned.people.contains_key(*name)).cloned().collect()
}

/// The name that a group has on users: its directory's, with a hyphen for what cannot stand in one.
#[must_use]
pub fn group_name(display: &str) -> Option<String> {
    let fits = |c: char| bailiwick_proto::names::is_person_name(c.encode_utf8(&mut [0; 4]));
    let mut name = String::with_capacity(display.len());
    for c in display.trim().chars() {
        match fits(c) {
            true => name.push(c),
            false if name.ends_with('-') => {}
            false => name.push('-'),
        }
    }
    bailiwick_proto::names::is_person_name(&name).then_some(name)
}

/// Microseconds since 1970 of a time as RFC 3339 has it; `None` where it is none.
#[must_use]
pub fn moment(text: &str) -> Option<u64> {
    let timestamp = text.parse::<jiff::Timestamp>().ok()?;
    u64::try_from(timestamp.as_microsecond()).ok()
}

/// What a manifest says that is the directory's to say.
pub(crate) fn problem(before: &State, manifest: &Manifest) -> Option<Problem> {
    let (key, message) = match &manifest.spec {
        Spec::User(spec) => conflict(before, &manifest.name, spec)?,
        Spec::Agent(spec) => agents::conflict(before, &manifest.name, spec)?,
        Spec::Server(_)
        | Spec::VirtualServer(_)
        | Spec::Policy(_)
        | Spec::Client(_)
        | Spec::IdentityProvider(_)
        | Spec::DecisionClient(_) => return None,
    };
    Some(manifest.problem(key, message))
}

/// What a user's manifest says of somebody whom a directory provisions and that is not the manifest's to say.
fn conflict(before: &State, name: &str, spec: &UserSpec) -> Option<(&'static str, String)> {
    let person = before.provisioned.people.get(name)?;
    let now = &before.users.get(name)?.spec.groups;
    let made = |group: &&String| before.provisioned.groups.contains_key(*group);
    if let Some(group) = now.symmetric_difference(&spec.groups).find(made) {
        let message = format!("the directory that provisions {name} decides who is in group {group}");
        return Some(("spec.groups", message));
    }
    if spec.active && !person.active {
        let message = format!("the directory that provisions {name} says that they are not active");
        return Some(("spec.active", message));
    }
    None
}

/// The groups that somebody has when another source than their directory lists them: what a directory made stays its.
pub(crate) fn groups_beside(state: &State, name: &str, listed: BTreeSet<String>) -> BTreeSet<String> {
    if !state.provisioned.people.contains_key(name) {
        return listed;
    }
    let made = |group: &String| state.provisioned.groups.contains_key(group);
    let now = state.users.get(name).into_iter().flat_map(|user| user.spec.groups.iter().cloned());
    listed.into_iter().filter(|group| !made(group)).chain(now.filter(made)).collect()
}

/// Whether a directory may activate this user of its, so that a deactivation here has something to say.
pub(crate) fn may_be_held(state: &State, name: &str) -> bool {
    let own = &state.provisioned;
    let person = own.people.get(name).map(|person| person.held);
    person.or_else(|| own.departed.get(name).map(|gone| gone.held)).is_some_and(|held| !held)
}

/// A user was written by somebody else than a directory; `before` is how they were.
pub(crate) fn evolve_user_written(state: &mut State, event: &UserApplied, before: Option<&User>) {
    let UserApplied { name, spec, held, .. } = event;
    if spec.active {
        state.provisioned.departed.remove(name);
    } else if let Some(gone) = state.provisioned.departed.get_mut(name) {
        gone.held |= held;
    }
    let Some(person) = state.provisioned.people.get_mut(name) else { return };
    // Whoever changes something else of somebody whom the directory deactivated says nothing of that.
    if *held || before.is_none_or(|user| user.spec.active != spec.active) {
        person.held = !spec.active;
    }
    let none = BTreeSet::new();
    let groups = before.map_or(&none, |user| &user.spec.groups);
    for group in spec.groups.difference(groups) {
        state.provisioned.joins(group, name);
    }
    for group in groups.difference(&spec.groups) {
        state.provisioned.leaves(group, name);
    }
}

/// A user is about to go.
pub(crate) fn evolve_user_deleted(state: &mut State, name: &str) {
    state.provisioned.departed.remove(name);
    events::forget(state, name);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_called_what_can_stand_on_a_user() {
        for (display, name) in [
            ("finance", Some("finance")),
            (" Finance Team ", Some("Finance-Team")),
            ("R&D / \"Labs\"", Some("R&D-Labs-")),
            ("a<b>", Some("a-b-")),
            ("Büro", Some("Büro")),
            ("", None),
            ("  ", None),
            (&"x".repeat(1_000), None),
        ] {
            assert_eq!(group_name(display).as_deref(), name, "{display}");
        }
    }

    #[test]
    fn times_are_compared_by_the_moment() {
        assert_eq!(moment("1970-01-01T00:00:01Z"), Some(1_000_000));
        assert_eq!(moment("1970-01-01T01:00:01+01:00"), Some(1_000_000));
        for bad in ["", "yesterday", "1970-01-01", "1960-01-01T00:00:00Z"] {
            assert_eq!(moment(bad), None, "{bad}");
        }
    }
}
