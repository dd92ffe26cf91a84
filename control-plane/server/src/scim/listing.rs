//! Lists and searches (RFC 7644 §3.4.2, §3.4.3).
//!
//! Invariants: where the filter says what a name or id must equal, only those of that name are looked at; otherwise
//! everybody is, on a copy of the tables that costs nothing, away from the tasks that serve others; a page is found
//! without looking at what others show. The order is that of names here, people before groups, and those before agents.

use std::borrow::Cow;

use bailiwick_control_plane_core::{
    State,
    provisioning::{self, Named},
};
use serde_json::{Map, Value, json};

use super::{
    agents,
    fault::Fault,
    filter::{Filter, member},
    resource::{self, Wanted},
    schema::{self, Type},
};

/// Most resources of one answer.
pub(super) const RESULTS_MAX: usize = 200;
/// Most members of groups in one answer.
const MEMBERS_MAX: usize = 10_000;
/// As many where nothing is said.
const RESULTS_DEFAULT: usize = 100;

/// What is searched for.
#[derive(Debug)]
pub(super) struct Search {
    pub(super) types: Vec<Type>,
    pub(super) filters: Vec<Option<Filter>>,
    pub(super) wanted: Vec<Wanted>,
    start: usize,
    count: usize,
}

impl Search {
    /// Of a request's query, or of the body of a `.search`.
    ///
    /// # Errors
    /// Something of it cannot be read.
    pub(super) fn parse(types: &[Type], said: &Map<String, Value>) -> Result<Self, Fault> {
        let text = |name: &str| match member(said, name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(Fault::value(format!("{name} must be a text"))),
        };
        let filter = text("filter")?.filter(|text| !text.trim().is_empty());
        let filters = types.iter().map(|of| filter.map(|text| Filter::parse(text, *of)).transpose());
        let wanted = types.iter().map(|of| {
            let (only, without) = (names(said, "attributes")?, names(said, "excludedAttributes")?);
            Wanted::parse(only.iter().map(AsRef::as_ref), without.iter().map(AsRef::as_ref), *of)
        });
        let number = |name: &str, default: usize| match member(said, name) {
            None | Some(Value::Null) => Ok::<_, Fault>(default),
            Some(value) => {
                let number = value.as_i64().or_else(|| value.as_str()?.trim().parse::<i64>().ok());
                let number = number.ok_or_else(|| Fault::value(format!("{name} must be a whole number")))?;
                // What is below counts as nothing, or as the first.
                Ok(usize::try_from(number).unwrap_or(0))
            }
        };
        Ok(Self {
            types: types.to_vec(),
            filters: filters.collect::<Result<_, _>>()?,
            wanted: wanted.collect::<Result<_, _>>()?,
            start: number("startIndex", 1)?.max(1),
            count: number("count", RESULTS_DEFAULT)?.min(RESULTS_MAX),
        })
    }

    /// The answer.
    ///
    /// # Errors
    /// It would have more members than an answer may.
    pub(super) fn run(&self, state: &State, base: &str) -> Result<Value, Fault> {
        let (mut total, mut shown, mut members) = (0, Vec::new(), 0);
        let mut show = |of, name: &str, wanted: &Wanted| {
            if of == Type::Group && wanted.has("members") {
                members += state.provisioned.members.get(name).map_or(0, provisioning::Members::len);
            }
            if members > MEMBERS_MAX {
                return Err(many_members());
            }
            Ok(show(state, of, name, base, wanted))
        };
        for ((of, filter), wanted) in self.types.iter().zip(&self.filters).zip(&self.wanted) {
            let (first, last) = (self.start - 1, (self.start - 1).saturating_add(self.count));
            match (of, filter) {
                (of, None) => {
                    let all = number(state, *of);
                    let skipped = first.saturating_sub(total);
                    let room = last.saturating_sub(total.max(first));
                    if skipped < all && room > 0 {
                        let names = all_names(state, *of).skip(skipped).take(room);
                        for name in names {
                            shown.extend(show(*of, name, wanted)?);
                        }
                    }
                    total += all;
                }
                (of, Some(filter)) => {
                    let with_members = filter.names("members");
                    for name in candidates(state, *of, filter) {
                        let Some(resource) = whole(state, *of, &name, base, with_members) else { continue };
                        if filter.matches(&resource) {
                            if (first..last).contains(&total) {
                                shown.extend(show(*of, &name, wanted)?);
                            }
                            total += 1;
                        }
                    }
                }
            }
        }
        Ok(json!({
            "schemas": [schema::LIST],
            "totalResults": total,
            "startIndex": self.start,
            "itemsPerPage": shown.len(),
            "Resources": shown,
        }))
    }
}

/// That one resource of this id, as it is wanted, has no more members than an answer may.
pub(super) fn check_members(state: &State, of: Type, id: &str, wanted: &Wanted) -> Result<(), Fault> {
    let name = state.provisioned.group(id).filter(|_| of == Type::Group && wanted.has("members"));
    let members = name.and_then(|(name, _)| state.provisioned.members.get(name));
    if members.map_or(0, provisioning::Members::len) > MEMBERS_MAX { Err(many_members()) } else { Ok(()) }
}

fn many_members() -> Fault {
    Fault::too_many(format!("an answer shows at most {MEMBERS_MAX} members: use excludedAttributes=members"))
}

/// Names of attributes: a list, or one text with commas.
fn names<'a>(said: &'a Map<String, Value>, key: &str) -> Result<Vec<Cow<'a, str>>, Fault> {
    match member(said, key) {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(text.split(',').map(Cow::Borrowed).collect()),
        Some(Value::Array(names)) => {
            let texts = names.iter().map(|name| name.as_str().map(Cow::Borrowed));
            texts.collect::<Option<_>>().ok_or_else(|| Fault::value(format!("{key} must be texts")))
        }
        Some(_) => Err(Fault::value(format!("{key} must be a list of texts"))),
    }
}

fn number(state: &State, of: Type) -> usize {
    match of {
        Type::User => state.provisioned.people.len(),
        Type::Group => state.provisioned.groups.len(),
        Type::Agent(_) => state.provisioned.agents.len(),
    }
}

fn all_names(state: &State, of: Type) -> Box<dyn Iterator<Item = &String> + '_> {
    match of {
        Type::User => Box::new(state.provisioned.people.keys()),
        Type::Group => Box::new(state.provisioned.groups.keys()),
        Type::Agent(_) => Box::new(state.provisioned.agents.keys()),
    }
}

/// Those who may match.
fn candidates<'a>(state: &'a State, of: Type, filter: &Filter) -> Box<dyn Iterator<Item = Cow<'a, String>> + 'a> {
    let own = &state.provisioned;
    let of_id = move |id: &String| match (of, own.ids.get(id)?) {
        (Type::User, Named::Person(name))
        | (Type::Group, Named::Group(name))
        | (Type::Agent(_), Named::Agent(name)) => Some(Cow::Borrowed(name)),
        (Type::User | Type::Group | Type::Agent(_), Named::Person(_) | Named::Group(_) | Named::Agent(_)) => None,
    };
    if let Some(id) = filter.wants("id") {
        return Box::new(of_id(&id.to_owned()).into_iter());
    }
    if let Some(external_id) = filter.wants("externalId") {
        return Box::new(own.external_ids.get(external_id).into_iter().flatten().filter_map(of_id));
    }
    if of == Type::User
        && let Some(name) = filter.wants("userName")
    {
        return Box::new(provisioning::people_called(state, name).into_iter().map(Cow::Owned));
    }
    if let Type::Agent(draft) = of
        && let Some(name) = filter.wants(agents::name_of(draft))
    {
        // Names have no capitals.
        let found = own.agents.get_key_value(&name.to_lowercase());
        return Box::new(found.map(|(name, _)| Cow::Borrowed(name)).into_iter());
    }
    if of == Type::Group
        && let Some(display) = filter.wants("displayName")
    {
        let display = display.to_lowercase();
        let alike = own.groups.iter().filter(move |(_, group)| group.display.to_lowercase() == display);
        return Box::new(alike.map(|(name, _)| Cow::Borrowed(name)));
    }
    Box::new(all_names(state, of).map(Cow::Borrowed))
}

fn whole(state: &State, of: Type, name: &str, base: &str, with_members: bool) -> Option<Map<String, Value>> {
    Some(match of {
        Type::User => resource::person(state, name, state.provisioned.people.get(name)?, base),
        Type::Group => resource::group(state, name, state.provisioned.groups.get(name)?, base, with_members),
        Type::Agent(draft) => agents::shown(state, draft, name, state.provisioned.agents.get(name)?, base)?,
    })
}

fn show(state: &State, of: Type, name: &str, base: &str, wanted: &Wanted) -> Option<Value> {
    let shown = whole(state, of, name, base, wanted.has("members"))?;
    Some(Value::Object(wanted.of(shown)))
}
