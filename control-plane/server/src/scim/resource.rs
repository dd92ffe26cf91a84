//! People and groups as directories are shown them (RFC 7643 §3.1, §4), and how much of that was asked for
//! (RFC 7644 §3.9).
//!
//! Called with a state that is current. Invariants: what is shown active is what counts here, not what the directory
//! said; versions are weak, and change with anything that is shown. Absent: finding them (`listing`).

use bailiwick_control_plane_core::{
    State,
    provisioning::{Group, Person, version_of_person},
    show,
};
use serde_json::{Map, Value, json};

use super::{
    document,
    fault::Fault,
    filter::{Path, member},
    schema::Type,
};

/// Most attributes that a request names.
const ATTRIBUTES_MAX: usize = 100;

/// The entity tag of a version.
pub(super) fn tag(version: u64) -> String {
    format!("W/\"{version}\"")
}

pub(super) fn location(base: &str, of: Type, id: &str) -> String {
    format!("{base}/{}/{id}", of.folder())
}

pub(super) fn meta(base: &str, of: Type, id: &str, created: u64, changed: u64, version: u64) -> Value {
    json!({
        "resourceType": of.name(),
        "created": show::time(created),
        "lastModified": show::time(changed),
        "location": location(base, of, id),
        "version": tag(version),
    })
}

/// A person.
pub(super) fn person(state: &State, name: &str, person: &Person, base: &str) -> Map<String, Value> {
    let user = state.users.get(name);
    let is_active = user.is_some_and(|user| user.spec.active);
    let mut shown = document::written(name, &person.external_id, is_active, &person.profile);
    let groups = user.iter().flat_map(|user| &user.spec.groups).filter_map(|group| {
        let Group { id, display, .. } = state.provisioned.groups.get(group)?;
        Some(json!({"value": id, "$ref": location(base, Type::Group, id), "display": display}))
    });
    let groups: Vec<Value> = groups.collect();
    if !groups.is_empty() {
        shown.insert("groups".to_owned(), groups.into());
    }
    let version = version_of_person(state, name).unwrap_or_default();
    let changed = user.map_or(0, |user| user.changed.time).max(person.changed.time);
    shown.insert("schemas".to_owned(), document::schemas(&shown, Type::User).into());
    shown.insert("id".to_owned(), person.id.clone().into());
    let meta = meta(base, Type::User, &person.id, person.created.time, changed, version);
    shown.insert("meta".to_owned(), meta);
    shown
}

/// A group; its members take time in their number, and are left out if nobody asked.
pub(super) fn group(state: &State, name: &str, group: &Group, base: &str, with_members: bool) -> Map<String, Value> {
    let Group { id, external_id, display, created, changed } = group;
    let mut shown = Map::new();
    shown.insert("schemas".to_owned(), document::schemas(&shown, Type::Group).into());
    shown.insert("id".to_owned(), id.clone().into());
    shown.insert("displayName".to_owned(), display.clone().into());
    if !external_id.is_empty() {
        shown.insert("externalId".to_owned(), external_id.clone().into());
    }
    if with_members {
        let members = state.provisioned.members_of(name).filter_map(|name| {
            let Person { id, .. } = state.provisioned.people.get(name)?;
            Some(json!({"value": id, "$ref": location(base, Type::User, id), "type": "User"}))
        });
        let members: Vec<Value> = members.collect();
        if !members.is_empty() {
            shown.insert("members".to_owned(), members.into());
        }
    }
    shown.insert("meta".to_owned(), meta(base, Type::Group, id, created.time, changed.time, changed.revision));
    shown
}

/// How much of a resource was asked for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Wanted {
    only: Vec<Path>,
    without: Vec<Path>,
}

impl Wanted {
    /// # Errors
    /// The attributes cannot be read, are too many, or are said in both ways.
    pub(super) fn parse<'a>(
        only: impl Iterator<Item = &'a str>,
        without: impl Iterator<Item = &'a str>,
        of: Type,
    ) -> Result<Self, Fault> {
        let read = |names: &mut dyn Iterator<Item = &'a str>| {
            let names = names.map(str::trim).filter(|name| !name.is_empty());
            let paths =
                names.map(|name| Path::parse(name, of).ok_or_else(|| Fault::path("there is no such attribute")));
            paths.take(ATTRIBUTES_MAX + 1).collect::<Result<Vec<_>, _>>()
        };
        let wanted = Self { only: read(&mut { only })?, without: read(&mut { without })? };
        if wanted.only.len().max(wanted.without.len()) > ATTRIBUTES_MAX {
            return Err(Fault::too_many(format!("at most {ATTRIBUTES_MAX} attributes can be named")));
        }
        if !wanted.only.is_empty() && !wanted.without.is_empty() {
            return Err(Fault::value("name `attributes` or `excludedAttributes`, not both"));
        }
        Ok(wanted)
    }

    /// Whether any of an attribute is wanted.
    pub(super) fn has(&self, name: &str) -> bool {
        let is = |path: &Path| !path.extension && path.name.eq_ignore_ascii_case(name);
        let is_left_out = self.without.iter().any(|path| is(path) && path.part.is_none());
        !is_left_out && (self.only.is_empty() || self.only.iter().any(is))
    }

    /// Leaves of a resource what was asked for; `id` and `schemas` always.
    pub(super) fn of(&self, shown: Map<String, Value>) -> Map<String, Value> {
        if self.only.is_empty() && self.without.is_empty() {
            return shown;
        }
        let mut left = Map::new();
        for (name, value) in shown {
            if name == "id" || name == "schemas" {
                left.insert(name, value);
                continue;
            }
            if super::schema::EXTENSIONS.contains(&name.as_str())
                && let Value::Object(members) = value
            {
                let members: Map<String, Value> = members
                    .into_iter()
                    .filter_map(|(name, value)| Some((name.clone(), self.part_of(&name, value, true)?)))
                    .collect();
                if !members.is_empty() {
                    left.insert(name, Value::Object(members));
                }
                continue;
            }
            if let Some(value) = self.part_of(&name, value, false) {
                left.insert(name, value);
            }
        }
        left
    }

    fn part_of(&self, name: &str, value: Value, extension: bool) -> Option<Value> {
        let about = |path: &&Path| {
            path.extension == extension && (path.name.is_empty() && extension || path.name.eq_ignore_ascii_case(name))
        };
        let parts = |paths: &[Path]| -> Option<Vec<String>> {
            let found: Vec<_> = paths.iter().filter(about).collect();
            let all = found.iter().any(|path| path.part.is_none());
            (!found.is_empty())
                .then(|| if all { Vec::new() } else { found.iter().filter_map(|path| path.part.clone()).collect() })
        };
        if !self.only.is_empty() {
            return match parts(&self.only)? {
                all if all.is_empty() => Some(value),
                named => Some(only(value, &named)),
            };
        }
        match parts(&self.without) {
            None => Some(value),
            Some(all) if all.is_empty() => None,
            Some(named) => Some(without(value, &named)),
        }
    }
}

fn only(value: Value, parts: &[String]) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(|value| only(value, parts)).collect(),
        Value::Object(members) => {
            let kept = parts.iter().filter_map(|part| {
                let name = members.keys().find(|name| name.eq_ignore_ascii_case(part))?;
                Some((name.clone(), member(&members, part)?.clone()))
            });
            Value::Object(kept.collect())
        }
        other => other,
    }
}

fn without(value: Value, parts: &[String]) -> Value {
    match value {
        Value::Array(values) => values.into_iter().map(|value| without(value, parts)).collect(),
        Value::Object(members) => {
            let is_named = |name: &str| parts.iter().any(|part| part.eq_ignore_ascii_case(name));
            Value::Object(members.into_iter().filter(|(name, _)| !is_named(name)).collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_is_left_and_always_the_id() {
        let shown = json!({
            "schemas": ["s"], "id": "1", "userName": "j", "name": {"givenName": "J", "familyName": "D"},
            "emails": [{"value": "a", "type": "work"}],
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": {"department": "d", "division": "v"},
        });
        let shown = shown.as_object().unwrap();
        let left = |only: &[&str], without: &[&str]| {
            let wanted = Wanted::parse(only.iter().copied(), without.iter().copied(), Type::User).unwrap();
            Value::Object(wanted.of(shown.clone()))
        };
        assert_eq!(left(&[], &[]), Value::Object(shown.clone()));
        assert_eq!(left(&["USERNAME"], &[]), json!({"schemas": ["s"], "id": "1", "userName": "j"}));
        assert_eq!(
            left(&["name.givenname", "emails.value"], &[]),
            json!({"schemas": ["s"], "id": "1", "name": {"givenName": "J"}, "emails": [{"value": "a"}]})
        );
        assert_eq!(
            left(&["urn:ietf:params:scim:schemas:extension:enterprise:2.0:User:department"], &[]),
            json!({"schemas": ["s"], "id": "1", (crate::scim::schema::ENTERPRISE): {"department": "d"}})
        );
        let most = ["id", "emails", "name.familyName", "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"];
        assert_eq!(left(&[], &most), json!({"schemas": ["s"], "id": "1", "userName": "j", "name": {"givenName": "J"}}));
        let names = vec!["userName"; 101];
        assert!(Wanted::parse(names.into_iter(), [].into_iter(), Type::User).is_err());
        assert!(Wanted::parse(["a b"].into_iter(), [].into_iter(), Type::User).is_err());
        assert!(Wanted::parse(["userName"].into_iter(), ["title"].into_iter(), Type::User).is_err());
    }
}
