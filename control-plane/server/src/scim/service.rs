//! Requests about single people, groups and agents: reading them, and asking for them to be otherwise (RFC 7644
//! §3.3–§3.6).
//!
//! What is written is made from the state at hand and names its version, so that nothing that happened meanwhile is
//! lost: if it did, it is made again. Called by `scim` and `bulk`. Absent: HTTP (`scim`).

use std::{collections::BTreeSet, sync::Arc};

use axum::http::HeaderMap;
use bailiwick_control_plane_core::{
    Fulfilled, State, Wish,
    provisioning::{
        agents::version_of_agent,
        version_of_person,
        wish::{MembersWritten, Operation, Outcome, Provision},
    },
};
use serde_json::{Map, Value};

use super::{
    agents,
    apart::{Places, Purpose},
    budget::Budget,
    document,
    fault::Fault,
    filter::member,
    groups, patch,
    resource::{self, Wanted},
    schema::Type,
};
use crate::{clock, config::ScimAgents, decisions::Undecided, minting, oauth::Services};

/// How often something is made again after others were faster.
const TRIES_MAX: usize = 8;
/// Most members of a group that is shown after a PATCH; larger ones are answered 204.
const SHOWN_MEMBERS_MAX: usize = 1_000;

/// Makes an operation from the state at hand, for a version if one is meant.
type Make = Arc<dyn Fn(&State, Option<u64>) -> Result<Operation, Fault> + Send + Sync>;

/// A directory at work.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) services: Services,
    /// In every event: `scim:<token>`.
    pub(super) actor: String,
    /// Where the service is, by the configuration.
    pub(super) base: String,
    /// Of the node, for what may take long.
    pub(super) places: Places,
}

/// The versions that a request is about (RFC 7232 §3.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Versions {
    /// Whichever there is.
    #[default]
    Any,
    /// One of these.
    Of(Vec<u64>),
}

impl Versions {
    /// Of the lines of a header.
    pub(super) fn parse(headers: &HeaderMap, name: &str) -> Option<Self> {
        let lines: Vec<&str> = headers.get_all(name).iter().map(|line| line.to_str().unwrap_or_default()).collect();
        if lines.is_empty() { None } else { Some(Self::of(&lines.join(","))) }
    }

    /// Of a list of entity tags; what is none is the tag of nothing.
    pub(super) fn of(text: &str) -> Self {
        let tags = text.split(',').map(str::trim);
        if tags.clone().any(|tag| tag == "*") {
            return Self::Any;
        }
        let number = |tag: &str| {
            let tag = tag.strip_prefix("W/").unwrap_or(tag);
            tag.strip_prefix('"')?.strip_suffix('"')?.parse().ok()
        };
        Self::Of(tags.filter_map(number).collect())
    }

    pub(super) fn hold(&self, version: u64) -> bool {
        match self {
            Self::Any => true,
            Self::Of(versions) => versions.contains(&version),
        }
    }
}

/// The version of a person or group, if there is one of this id.
pub(super) fn version(state: &State, of: Type, id: &str) -> Option<u64> {
    match of {
        Type::User => version_of_person(state, state.provisioned.person(id)?.0),
        Type::Group => Some(state.provisioned.group(id)?.1.changed.revision),
        Type::Agent(_) => version_of_agent(state, state.provisioned.agent(id)?.0),
    }
}

/// Where SCIM is, by the configuration.
pub(super) fn base(services: &Services) -> String {
    let issuer = services.domain.read(|state| minting::issuer(state).map(|(issuer, _)| issuer));
    format!("{}{}", issuer.unwrap_or_default(), super::PREFIX)
}

impl Service {
    /// A person or group as shown, with their version.
    pub(super) fn show(&self, of: Type, id: &str, wanted: &Wanted) -> Result<(Map<String, Value>, u64), Fault> {
        let shown = self.services.domain.read(|state| {
            let version = version(state, of, id)?;
            let shown = match of {
                Type::User => {
                    let (name, person) = state.provisioned.person(id)?;
                    resource::person(state, name, person, &self.base)
                }
                Type::Group => {
                    let (name, group) = state.provisioned.group(id)?;
                    resource::group(state, name, group, &self.base, wanted.has("members"))
                }
                Type::Agent(draft) => {
                    let (name, known) = state.provisioned.agent(id)?;
                    agents::shown(state, draft, name, known, &self.base)?
                }
            };
            Some((shown, version))
        });
        let (shown, version) = shown.ok_or_else(Fault::missing)?;
        Ok((wanted.of(shown), version))
    }

    /// What directories may say of agents.
    pub(super) fn rules(&self) -> Arc<ScimAgents> {
        Arc::clone(&self.services.scim_agents)
    }

    /// Has a new person or group made; its id.
    pub(super) async fn create(&self, of: Type, sent: &Map<String, Value>) -> Result<String, Fault> {
        let id = fresh_id()?;
        let operation = created(of, id, sent, &self.rules())?;
        self.one(operation).await
    }

    /// Has a person or group be as written.
    pub(super) async fn replace(
        &self,
        of: Type,
        id: &str,
        sent: &Map<String, Value>,
        versions: &Versions,
    ) -> Result<(), Fault> {
        let (named, sent, rules) = (id.to_owned(), sent.clone(), self.rules());
        let make = move |state: &State, version| replaced(state, of, &named, &sent, version, &rules);
        self.changed(versions, Arc::new(make), of, id).await
    }

    /// Has a person or group be otherwise.
    pub(super) async fn patch(
        &self,
        of: Type,
        id: &str,
        sent: &Map<String, Value>,
        versions: &Versions,
    ) -> Result<(), Fault> {
        let (named, sent, rules) = (id.to_owned(), sent.clone(), self.rules());
        let make =
            move |state: &State, version| patched(state, of, &named, &sent, version, &rules, &mut Budget::default());
        self.changed(versions, Arc::new(make), of, id).await
    }

    /// Has a person or group deleted.
    pub(super) async fn delete(&self, of: Type, id: &str, versions: &Versions) -> Result<(), Fault> {
        let named = id.to_owned();
        let make = move |_: &State, version| Ok(deleted(of, &named, version));
        self.changed(versions, Arc::new(make), of, id).await
    }

    /// Whether a group is small enough to be shown after each of many changes.
    pub(super) fn is_small(&self, of: Type, id: &str) -> bool {
        of != Type::Group
            || self.services.domain.read(|state| {
                let name = state.provisioned.group(id).map(|(name, _)| name);
                let members = name.and_then(|name| state.provisioned.members.get(name));
                members.is_none_or(|members| members.len() <= SHOWN_MEMBERS_MAX)
            })
    }

    /// Makes an operation from the state at hand and has it carried out, again if that was no longer the latest.
    async fn changed(&self, versions: &Versions, make: Make, of: Type, id: &str) -> Result<(), Fault> {
        for _ in 0..TRIES_MAX {
            let (make, versions, id) = (make.clone(), versions.clone(), id.to_owned());
            let made = self.apart(Purpose::Change, move |state| {
                let now = version(state, of, &id).ok_or_else(Fault::missing)?;
                if !versions.hold(now) {
                    return Err(Fault::version());
                }
                make(state, (versions != Versions::Any).then_some(now))
            });
            match self.one(made.await?).await {
                Err(fault) if fault == Fault::version() => {}
                done => return done.map(|_| ()),
            }
        }
        Err(if *versions == Versions::Any { Fault::unavailable() } else { Fault::version() })
    }

    /// Looks at the state at hand away from the tasks that serve others, as soon as there is a place for that, and from
    /// what keeps it: on a copy, which costs nothing.
    pub(super) async fn apart<T: Send + 'static>(
        &self,
        purpose: Purpose,
        look: impl FnOnce(&State) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        let place = self.places.take(purpose).await?;
        let state = self.services.domain.read(Clone::clone);
        place.work(move || look(&state)).await
    }

    /// Has one operation carried out; the id of what it is about.
    pub(super) async fn one(&self, operation: Operation) -> Result<String, Fault> {
        let outcome = self.carry_out(vec![operation], None).await?.pop();
        match outcome {
            Some(Outcome::Done(id)) => Ok(id),
            Some(Outcome::Refused(fault)) => Err(fault.into()),
            None => Err(Fault::unavailable()),
        }
    }

    /// Has operations decided about and waits until what came of them is seen here.
    pub(super) async fn carry_out(
        &self,
        operations: Vec<Operation>,
        faults_max: Option<usize>,
    ) -> Result<Vec<Outcome>, Fault> {
        let reserved = self.services.scim_reserved_groups.as_ref().clone();
        let wish = Wish::Provision(Provision { operations, faults_max, reserved });
        let decided = self.services.decisions.ask(&wish, self.actor.clone()).await?;
        let Fulfilled::Provisioned(outcomes) = decided.what else { return Err(Fault::unavailable()) };
        self.services.domain.read_latest(|_| ()).await.map_err(|error| {
            tracing::debug!(%error, "what a directory changed cannot be read yet");
            Fault::from(Undecided::Unavailable)
        })?;
        Ok(outcomes)
    }
}

/// An id that nobody can guess.
pub(super) fn fresh_id() -> Result<String, Fault> {
    let random: [u8; 16] = clock::random().map_err(|_| Fault::unavailable())?;
    let part = |from: usize, to: usize| random.get(from..to).map(hex::encode).unwrap_or_default();
    Ok([part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 16)].join("-"))
}

/// What makes a new person or group.
pub(super) fn created(of: Type, id: String, sent: &Map<String, Value>, rules: &ScimAgents) -> Result<Operation, Fault> {
    document::check_schemas(sent, of.schema())?;
    let mut read = document::read(sent, of)?;
    Ok(match of {
        Type::User => Operation::CreatePerson { id, person: document::person(read, true)? },
        Type::Group => {
            let members = groups::members(read.remove("members").as_ref())?;
            let display = text(&read, "displayName").ok_or_else(|| Fault::value("displayName is missing"))?;
            Operation::CreateGroup { id, display, external_id: text(&read, "externalId").unwrap_or_default(), members }
        }
        Type::Agent(draft) => agents::created(draft, id, read, rules)?,
    })
}

/// What makes a person or group be as written.
pub(super) fn replaced(
    state: &State,
    of: Type,
    id: &str,
    sent: &Map<String, Value>,
    version: Option<u64>,
    rules: &ScimAgents,
) -> Result<Operation, Fault> {
    document::check_schemas(sent, of.schema())?;
    if member(sent, "id").is_some_and(|said| said.as_str() != Some(id)) {
        return Err(Fault::mutability("the id is another"));
    }
    let mut read = document::read(sent, of)?;
    let id = id.to_owned();
    Ok(match of {
        Type::User => {
            // Nobody becomes active because nothing is said of it: then it holds for this version alone.
            let (name, known) = state.provisioned.person(&id).ok_or_else(Fault::missing)?;
            let version = if read.contains_key("active") { version } else { version_of_person(state, name) };
            Operation::ReplacePerson { person: document::person(read, known.active)?, id, version }
        }
        Type::Group => {
            let members = MembersWritten::All(groups::members(read.remove("members").as_ref())?);
            let display = text(&read, "displayName").ok_or_else(|| Fault::value("displayName is missing"))?;
            let external_id = Some(text(&read, "externalId").unwrap_or_default());
            Operation::ChangeGroup { id, version, display: Some(display), external_id, members }
        }
        Type::Agent(draft) => agents::replaced(state, draft, &id, read, version, rules)?,
    })
}

/// What makes a person or group be otherwise. Of a person all is written, so it holds for this version alone.
pub(super) fn patched(
    state: &State,
    of: Type,
    id: &str,
    sent: &Map<String, Value>,
    version: Option<u64>,
    rules: &ScimAgents,
    budget: &mut Budget,
) -> Result<Operation, Fault> {
    let operations = patch::read(sent, of)?;
    match of {
        Type::User => {}
        Type::Group => return groups::patched(state, id, operations, version, budget),
        Type::Agent(draft) => return agents::patched(state, draft, id, operations, rules, budget),
    }
    let (name, known) = state.provisioned.person(id).ok_or_else(Fault::missing)?;
    let mut document = document::written(name, &known.external_id, known.active, &known.profile);
    patch::apply(&mut document, operations, of, budget)?;
    let person = document::person(document::read(&document, of)?, known.active)?;
    Ok(Operation::ReplacePerson { id: id.to_owned(), version: version_of_person(state, name), person })
}

pub(super) fn deleted(of: Type, id: &str, version: Option<u64>) -> Operation {
    let id = id.to_owned();
    match of {
        Type::User => Operation::DeletePerson { id, version },
        Type::Group => Operation::DeleteGroup { id, version },
        Type::Agent(_) => Operation::DeleteAgent { id, version },
    }
}

pub(super) fn text(read: &Map<String, Value>, name: &str) -> Option<String> {
    read.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The ids that members name.
pub(super) type Ids = BTreeSet<String>;
