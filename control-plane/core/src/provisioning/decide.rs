//! Deciding what directories ask: operations on people and groups, and on agents (`agents`), in one change.
//!
//! Each operation is decided on a draft that has all before it, so that those of one request may rest on each other;
//! one that is refused leaves the draft alone. Called by `wish`. Invariants: no operation looks at all users; a name
//! that differs from a user's only in case is taken; what a directory has deleted keeps its user, inactive. Absent:
//! what ends with somebody who leaves (`leaver`, which looks at every decision).

use std::collections::BTreeSet;

use bailiwick_proto::names;

use super::{
    DISPLAY_BYTES_MAX, EXTERNAL_ID_BYTES_MAX, GROUPS_MAX, GROUPS_OF_ONE_MAX, Group, GroupDeprovisioned,
    GroupMembersChanged, GroupProvisioned, GroupRenamed, MEMBERS_AT_ONCE_MAX, PROFILE_BYTES_MAX, Person,
    PersonDeprovisioned, PersonProvisioned, PersonRenamed, agents, group_name, version_of_person,
    wish::{Fault, MembersWritten, OPERATIONS_MAX, Operation, Outcome, PersonWritten, Provision},
};
use crate::{
    Rejection, State,
    command::{Context, Decision},
    event::{Change, Event},
    evolve, requests, user,
    wish::Fulfilled,
};

/// Most members named in one event: with the longest names well below the 32 KiB of a record.
const MEMBERS_PER_EVENT_MAX: usize = 100;

pub(crate) fn decide(state: &State, wish: Provision, context: &Context) -> Result<Decision, Rejection> {
    if wish.operations.len() > OPERATIONS_MAX {
        return Err(Rejection::TooMany { what: "operations of one change", max: OPERATIONS_MAX });
    }
    let mut draft = state.clone();
    let (mut events, mut outcomes) = (Vec::new(), Vec::new());
    let (mut faults, mut deleted) = (0, BTreeSet::new());
    for operation in wish.operations {
        if wish.faults_max.is_some_and(|max| faults >= max) {
            break;
        }
        let decided = decide_one(&draft, operation);
        let decided = decided.and_then(|done| check_reserved(&draft, &wish.reserved, done));
        outcomes.push(match decided {
            Ok((id, changes)) => {
                deleted.extend(changes.iter().filter_map(agents::decide::deleted));
                let made: Vec<Event> = changes.into_iter().map(|change| context.event(change)).collect();
                made.iter().for_each(|event| evolve(&mut draft, event, state.revision.saturating_add(1)));
                events.extend(made);
                Outcome::Done(id)
            }
            Err(fault) => {
                faults += 1;
                Outcome::Refused(fault)
            }
        });
    }
    events.extend(agents::decide::end_consents(state, &deleted, context));
    Ok(Decision::fulfilled(events, Fulfilled::Provisioned(outcomes)))
}

fn decide_one(state: &State, operation: Operation) -> Result<(String, Vec<Change>), Fault> {
    match operation {
        Operation::CreatePerson { id, person } => {
            let changes = create_person(state, &id, person)?;
            Ok((id, changes))
        }
        Operation::ReplacePerson { id, version, person } => {
            let changes = replace_person(state, &id, version, person)?;
            Ok((id, changes))
        }
        Operation::DeletePerson { id, version } => {
            let (name, _) = person(state, &id, version)?;
            let gone = PersonDeprovisioned { name: name.clone(), id: id.clone() };
            Ok((id, vec![gone.into()]))
        }
        Operation::CreateGroup { id, display, external_id, members } => {
            let changes = create_group(state, &id, display, external_id, &members)?;
            Ok((id, changes))
        }
        Operation::ChangeGroup { id, version, display, external_id, members } => {
            let changes = change_group(state, &id, version, display, external_id, &members)?;
            Ok((id, changes))
        }
        Operation::DeleteGroup { id, version } => {
            let (name, _) = group(state, &id, version)?;
            let gone = GroupDeprovisioned { name: name.clone(), id: id.clone() };
            Ok((id, vec![gone.into()]))
        }
        Operation::CreateAgent { id, agent } => {
            let changes = agents::decide::create(state, &id, agent)?;
            Ok((id, changes))
        }
        Operation::ReplaceAgent { id, version, agent } => {
            let changes = agents::decide::replace(state, &id, version, agent)?;
            Ok((id, changes))
        }
        Operation::DeleteAgent { id, version } => {
            let changes = agents::decide::delete(state, &id, version)?;
            Ok((id, changes))
        }
    }
}

/// Whatever an operation comes to: nobody gets into a group that is not the directory's to fill, by no other name
/// either. Whoever is in it may leave.
fn check_reserved(
    state: &State,
    reserved: &BTreeSet<String>,
    (id, changes): (String, Vec<Change>),
) -> Result<(String, Vec<Change>), Fault> {
    let names = |change| filled(state, change).into_iter().chain(taken_along(state, change));
    let found = changes.iter().flat_map(names).find(|name| reserved.contains(*name)).cloned();
    match found {
        Some(name) => Err(Fault::Reserved(name)),
        None => Ok((id, changes)),
    }
}

/// The group that a change makes, names, or puts somebody into.
fn filled<'a>(state: &State, change: &'a Change) -> Option<&'a String> {
    if let Change::GroupProvisioned(made) = change {
        Some(&made.name)
    } else if let Change::GroupRenamed(renamed) = change {
        Some(&renamed.to)
    } else if let Change::GroupMembersChanged(changed) = change {
        let members = state.provisioned.members.get(&changed.group);
        let is_in = |name| members.is_some_and(|members| members.contains(name));
        (!changed.added.iter().all(|name| is_in(name))).then_some(&changed.group)
    } else {
        None
    }
}

/// The groups that somebody has by another name from a change on.
fn taken_along<'a>(state: &'a State, change: &Change) -> impl Iterator<Item = &'a String> {
    let renamed = if let Change::PersonRenamed(renamed) = change { state.users.get(&renamed.from) } else { None };
    renamed.into_iter().flat_map(|user| &user.spec.groups)
}

fn person<'a>(state: &'a State, id: &str, version: Option<u64>) -> Result<(&'a String, &'a Person), Fault> {
    let (name, person) = state.provisioned.person(id).ok_or(Fault::Unknown)?;
    if version.is_some() && version != version_of_person(state, name) {
        return Err(Fault::Version);
    }
    Ok((name, person))
}

fn group<'a>(state: &'a State, id: &str, version: Option<u64>) -> Result<(&'a String, &'a Group), Fault> {
    let (name, group) = state.provisioned.group(id).ok_or(Fault::Unknown)?;
    if version.is_some_and(|version| version != group.changed.revision) {
        return Err(Fault::Version);
    }
    Ok((name, group))
}

fn create_person(state: &State, id: &str, written: PersonWritten) -> Result<Vec<Change>, Fault> {
    check_id(state, id)?;
    check_person(&written)?;
    let name = &written.user_name;
    if state.provisioned.people.contains_key(name) {
        return Err(Fault::Taken(format!("there is a user {name} already")));
    }
    check_case(state, name, "")?;
    if !state.users.contains_key(name) && state.users.len() >= user::USERS_MAX {
        return Err(Fault::Full { what: "users are kept".to_owned(), max: user::USERS_MAX });
    }
    Ok(vec![provisioned(id, written).into()])
}

fn replace_person(state: &State, id: &str, version: Option<u64>, written: PersonWritten) -> Result<Vec<Change>, Fault> {
    let (name, known) = person(state, id, version)?;
    check_person(&written)?;
    let mut changes = Vec::new();
    if *name != written.user_name {
        let to = written.user_name.clone();
        check_case(state, &to, name)?;
        let is_free = !state.users.contains_key(&to) || state.provisioned.departed.contains_key(&to);
        if !is_free || state.users.len() >= user::USERS_MAX {
            return Err(Fault::Taken(format!("there is a user {to} already")));
        }
        changes.push(PersonRenamed { from: name.clone(), to }.into());
    }
    let same = (known.active, &known.external_id, &known.profile);
    if !changes.is_empty() || same != (written.active, &written.external_id, &written.profile) {
        changes.push(provisioned(id, written).into());
    }
    Ok(changes)
}

fn provisioned(id: &str, written: PersonWritten) -> PersonProvisioned {
    let PersonWritten { user_name, external_id, active, profile } = written;
    PersonProvisioned { name: user_name, id: id.to_owned(), external_id, active, profile }
}

pub(super) fn check_id(state: &State, id: &str) -> Result<(), Fault> {
    if !requests::is_id(id) || state.provisioned.ids.contains_key(id) {
        return Err(Fault::Value("the id is not new".to_owned()));
    }
    Ok(())
}

fn check_person(written: &PersonWritten) -> Result<(), Fault> {
    if !names::is_person_name(&written.user_name) {
        let rule = "userName must be 1 to 256 bytes without spaces, quotes, slashes and angle brackets";
        return Err(Fault::Value(rule.to_owned()));
    }
    check_external_id(&written.external_id)?;
    if written.profile.len() > PROFILE_BYTES_MAX {
        return Err(Fault::Full {
            what: "bytes of attributes are kept of one user".to_owned(),
            max: PROFILE_BYTES_MAX,
        });
    }
    Ok(())
}

pub(super) fn check_external_id(external_id: &str) -> Result<(), Fault> {
    if external_id.len() > EXTERNAL_ID_BYTES_MAX || external_id.contains(char::is_control) {
        let rule = format!("externalId must be at most {EXTERNAL_ID_BYTES_MAX} bytes without control characters");
        return Err(Fault::Value(rule));
    }
    Ok(())
}

/// Sign-ins tell users apart by case, directories do not: nobody is to come by a name that is almost another's.
fn check_case(state: &State, name: &str, except: &str) -> Result<(), Fault> {
    match user::almost(state, name).find(|other| *other != except) {
        Some(other) => Err(Fault::Taken(format!("there is a user {other}, which differs only in case"))),
        None => Ok(()),
    }
}

fn create_group(
    state: &State,
    id: &str,
    display: String,
    external_id: String,
    members: &BTreeSet<String>,
) -> Result<Vec<Change>, Fault> {
    check_id(state, id)?;
    check_external_id(&external_id)?;
    let name = free_group_name(state, &display)?;
    if state.provisioned.groups.len() >= GROUPS_MAX {
        return Err(Fault::Full { what: "groups are kept".to_owned(), max: GROUPS_MAX });
    }
    let members = people(state, &name, members)?;
    let made = GroupProvisioned { name: name.clone(), id: id.to_owned(), external_id, display };
    let mut changes = vec![made.into()];
    // Whom another source has put into a group of this name is not in it by the directory's word.
    let (added, removed) = difference(state, &name, members);
    changes.extend(members_changed(state, &name, added, removed));
    Ok(changes)
}

fn change_group(
    state: &State,
    id: &str,
    version: Option<u64>,
    display: Option<String>,
    external_id: Option<String>,
    members: &MembersWritten,
) -> Result<Vec<Change>, Fault> {
    let (name, known) = group(state, id, version)?;
    let (mut name, mut changes) = (name.clone(), Vec::new());
    let old = name.clone();
    let display = display.unwrap_or_else(|| known.display.clone());
    let external_id = external_id.unwrap_or_else(|| known.external_id.clone());
    check_external_id(&external_id)?;
    if group_name(&display).as_ref() != Some(&name) {
        name = free_group_name(state, &display)?;
        if state.provisioned.members.contains_key(&name) {
            return Err(Fault::Taken(format!("users are in a group {name} already")));
        }
        changes.push(GroupRenamed { from: old.clone(), to: name.clone() }.into());
    }
    if display != known.display || external_id != known.external_id {
        let id = id.to_owned();
        changes.push(GroupProvisioned { name: name.clone(), id, external_id, display }.into());
    }
    let (added, removed) = match members {
        MembersWritten::All(members) => {
            let members = people(state, &old, members)?;
            difference(state, &old, members)
        }
        MembersWritten::Changed { added, removed } => {
            let named = |id: &String| state.provisioned.person(id).map(|(name, _)| name.clone());
            let is_in = |name: &String| state.provisioned.members.get(&old).is_some_and(|all| all.contains(name));
            let added = people(state, &old, added)?.into_iter().filter(|name| !is_in(name)).collect();
            if removed.len() > MEMBERS_AT_ONCE_MAX {
                let what = "members are named in one operation".to_owned();
                return Err(Fault::Full { what, max: MEMBERS_AT_ONCE_MAX });
            }
            (added, removed.iter().filter_map(named).filter(is_in).collect())
        }
    };
    changes.extend(members_changed(state, &name, added, removed));
    Ok(changes)
}

fn free_group_name(state: &State, display: &str) -> Result<String, Fault> {
    let name =
        group_name(display).filter(|_| display.len() <= DISPLAY_BYTES_MAX && !display.contains(char::is_control));
    let rule = || Fault::Value(format!("displayName must be 1 to {DISPLAY_BYTES_MAX} bytes of text"));
    let name = name.ok_or_else(rule)?;
    match state.provisioned.groups.get(&name) {
        Some(other) => Err(Fault::Taken(format!("there is a group \"{}\" already", other.display))),
        None => Ok(name),
    }
}

/// The people of these ids, who have room for a group.
fn people(state: &State, group: &str, ids: &BTreeSet<String>) -> Result<BTreeSet<String>, Fault> {
    if ids.len() > MEMBERS_AT_ONCE_MAX {
        let what = "members are named in one operation".to_owned();
        return Err(Fault::Full { what, max: MEMBERS_AT_ONCE_MAX });
    }
    let mut people = BTreeSet::new();
    for id in ids {
        let (name, _) =
            state.provisioned.person(id).ok_or_else(|| Fault::Value(format!("there is no user {}", clip(id))))?;
        let groups = state.users.get(name).map(|user| &user.spec.groups);
        if groups.is_some_and(|groups| groups.len() >= GROUPS_OF_ONE_MAX && !groups.contains(group)) {
            return Err(Fault::Full {
                what: format!("groups are kept of one user, and {name} has them"),
                max: GROUPS_OF_ONE_MAX,
            });
        }
        people.insert(name.clone());
    }
    Ok(people)
}

pub(super) fn clip(id: &str) -> String {
    id.chars().take(64).collect()
}

fn difference(state: &State, group: &str, wanted: BTreeSet<String>) -> (BTreeSet<String>, BTreeSet<String>) {
    let now: BTreeSet<String> = state.provisioned.members_of(group).cloned().collect();
    let removed = now.difference(&wanted).cloned().collect();
    (wanted.into_iter().filter(|name| !now.contains(name)).collect(), removed)
}

/// The events that make it so; where many leave, all do first, and those who stay are put in again in the same change.
fn members_changed(state: &State, group: &str, added: BTreeSet<String>, removed: BTreeSet<String>) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let event = |cleared, added, removed| GroupMembersChanged { group: group.to_owned(), cleared, added, removed };
    let mut added = added;
    if removed.len() > MEMBERS_AT_ONCE_MAX {
        added.extend(state.provisioned.members_of(group).filter(|name| !removed.contains(*name)).cloned());
        changes.push(event(true, BTreeSet::new(), BTreeSet::new()).into());
    } else {
        let parts = parts(removed);
        changes.extend(parts.into_iter().map(|part| event(false, BTreeSet::new(), part).into()));
    }
    changes.extend(parts(added).into_iter().map(|part| event(false, part, BTreeSet::new()).into()));
    changes
}

fn parts(names: BTreeSet<String>) -> Vec<BTreeSet<String>> {
    let names: Vec<String> = names.into_iter().collect();
    names.chunks(MEMBERS_PER_EVENT_MAX).map(|part| part.iter().cloned().collect()).collect()
}
