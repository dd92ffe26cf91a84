//! Members of groups: who is named, and what a PATCH makes of it, without looking at who is in it already.
//!
//! Called by `service`. Invariants: only users are members; a change of members does not rest on the group's version,
//! so many may be under way at once.

use std::cell::OnceCell;

use bailiwick_control_plane_core::{
    State,
    provisioning::{
        self,
        wish::{MembersWritten, Operation},
    },
};
use serde_json::{Map, Value};

use super::{
    budget::Budget,
    document,
    fault::Fault,
    filter::{Filter, Target, member},
    patch::{self, Op},
    resource,
    schema::{GROUP, Type},
    service::{Ids, text},
};

/// The ids of members as written.
///
/// # Errors
/// One names no user.
pub(super) fn members(written: Option<&Value>) -> Result<Ids, Fault> {
    let values: &[Value] = match written {
        None | Some(Value::Null) => &[],
        Some(Value::Array(values)) => values,
        Some(single) => std::slice::from_ref(single),
    };
    values.iter().map(id).collect()
}

fn id(written: &Value) -> Result<String, Fault> {
    if let Value::String(id) = written {
        return Ok(id.clone());
    }
    let parts = written.as_object().ok_or_else(|| Fault::value("a member must be an object"))?;
    if member(parts, "type").and_then(Value::as_str).is_some_and(|kind| !kind.eq_ignore_ascii_case("User")) {
        return Err(Fault::value("members are users; groups within groups are not kept"));
    }
    match member(parts, "value") {
        Some(Value::String(id)) => Ok(id.clone()),
        Some(_) | None => Err(Fault::value("a member has no value")),
    }
}

/// Members as a request changes them, one operation after the other.
#[derive(Debug, Default)]
struct Changing {
    all: Option<Ids>,
    added: Ids,
    removed: Ids,
}

impl Changing {
    fn add(&mut self, ids: Ids) {
        match &mut self.all {
            Some(all) => all.extend(ids),
            None => {
                ids.iter().for_each(|id| {
                    self.removed.remove(id);
                });
                self.added.extend(ids);
            }
        }
    }

    fn remove(&mut self, ids: Ids) {
        match &mut self.all {
            Some(all) => ids.iter().for_each(|id| {
                all.remove(id);
            }),
            None => {
                ids.iter().for_each(|id| {
                    self.added.remove(id);
                });
                self.removed.extend(ids);
            }
        }
    }

    fn set(&mut self, ids: Ids) {
        *self = Self { all: Some(ids), ..Self::default() };
    }

    fn written(self) -> MembersWritten {
        let Self { all, added, removed } = self;
        all.map_or(MembersWritten::Changed { added, removed }, MembersWritten::All)
    }
}

/// What a PATCH makes of a group.
pub(super) fn patched(
    state: &State,
    id: &str,
    operations: Vec<patch::Operation>,
    version: Option<u64>,
    budget: &mut Budget,
) -> Result<Operation, Fault> {
    let mut members = Changing::default();
    let mut shown = Shown { state, id, members: OnceCell::new(), budget };
    // Everything but members is written as a document.
    let (_, known) = state.provisioned.group(id).ok_or_else(Fault::missing)?;
    let mut document = Map::from_iter([("displayName".to_owned(), Value::String(known.display.clone()))]);
    if !known.external_id.is_empty() {
        document.insert("externalId".to_owned(), known.external_id.clone().into());
    }
    for operation in operations {
        let patch::Operation { op, target, value } = operation;
        match (target, value) {
            (Some(target), value) if is_members(&target) => change(&mut shown, &mut members, op, &target, value)?,
            (None, Some(Value::Object(mut said))) => {
                let named = said.keys().find(|key| is_members_key(key)).cloned();
                if let Some(named) = named.and_then(|key| said.remove(&key)) {
                    let named = self::members(Some(&named))?;
                    if op == Op::Replace {
                        members.set(named)
                    } else {
                        members.add(named)
                    };
                }
                let rest = patch::Operation { op, target: None, value: Some(Value::Object(said)) };
                patch::apply(&mut document, vec![rest], Type::Group, shown.budget)?;
            }
            (target, value) => {
                let one = patch::Operation { op, target, value };
                patch::apply(&mut document, vec![one], Type::Group, shown.budget)?;
            }
        }
    }
    let read = document::read(&document, Type::Group)?;
    let display = text(&read, "displayName").ok_or_else(|| Fault::value("displayName is missing"))?;
    let external_id = text(&read, "externalId").unwrap_or_default();
    Ok(Operation::ChangeGroup {
        id: id.to_owned(),
        version,
        display: (display != known.display).then_some(display),
        external_id: (external_id != known.external_id).then_some(external_id),
        members: members.written(),
    })
}

fn is_members(target: &Target) -> bool {
    !target.path.extension && target.path.name.eq_ignore_ascii_case("members")
}

fn is_members_key(key: &str) -> bool {
    key.rsplit_once(':')
        .map_or(key, |(schema, name)| if schema.eq_ignore_ascii_case(GROUP) { name } else { key })
        .eq_ignore_ascii_case("members")
}

fn change(
    shown: &mut Shown<'_>,
    members: &mut Changing,
    op: Op,
    target: &Target,
    value: Option<Value>,
) -> Result<(), Fault> {
    if target.path.part.as_ref().is_some_and(|part| op != Op::Remove || !part.eq_ignore_ascii_case("value")) {
        return Err(Fault::mutability("parts of a member do not change; remove it and add another"));
    }
    match (op, &target.among, value) {
        (Op::Add, None, value) => members.add(self::members(value.as_ref())?),
        (Op::Replace, None, value) => members.set(self::members(value.as_ref())?),
        (Op::Remove, None, Some(value)) if !value.is_null() => members.remove(self::members(Some(&value))?),
        (Op::Remove, None, _) => members.set(Ids::new()),
        (Op::Remove, Some(filter), _) => {
            let found = shown.matching(filter)?;
            members.remove(found);
        }
        (Op::Add | Op::Replace, Some(_), _) => {
            return Err(Fault::mutability("parts of a member do not change; remove it and add another"));
        }
    }
    Ok(())
}

/// The members of a group as they are shown: made once for a request, however often it looks at them.
struct Shown<'a> {
    state: &'a State,
    id: &'a str,
    members: OnceCell<Vec<Value>>,
    budget: &'a mut Budget,
}

impl Shown<'_> {
    /// Ids of the members whom a filter is about; the one that it names is not looked for.
    fn matching(&mut self, filter: &Filter) -> Result<Ids, Fault> {
        if let Filter::Compare(..) = filter
            && let Some(id) = filter.wants("value")
        {
            return Ok(Ids::from([id.to_owned()]));
        }
        let name = self.state.provisioned.group(self.id).map(|(name, _)| name);
        let members = name.and_then(|name| self.state.provisioned.members.get(name));
        self.budget.look(members.map_or(0, provisioning::Members::len), filter)?;
        let members = self.members.get_or_init(|| {
            let group = self.state.provisioned.group(self.id);
            let shown = group.map(|(name, group)| resource::group(self.state, name, group, "", true));
            match shown.and_then(|mut shown| shown.remove("members")) {
                Some(Value::Array(members)) => members,
                Some(_) | None => Vec::new(),
            }
        });
        let matching = members.iter().filter_map(Value::as_object).filter(|one| filter.matches(one));
        Ok(matching.filter_map(|one| text(one, "value")).collect())
    }
}
