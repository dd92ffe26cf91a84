//! What the SCIM service of any node asks of the one place that decides: operations on people and groups, several at a
//! time, each with an outcome of its own.
//!
//! The service has read and bounded what it was sent; what may be said only with the latest state at hand is said by
//! `decide`. Ids of what is new are drawn by the service. Called by `wish`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Most operations that are decided together: a change of some hundred KiB.
pub const OPERATIONS_MAX: usize = 250;

/// A wish that people, groups and agents be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provision {
    /// In order; one that is refused keeps no other from being carried out.
    pub operations: Vec<Operation>,
    /// After so many that are refused no further one is carried out, nor has an outcome; absent: all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults_max: Option<usize>,
    /// Names of groups, as users have them, that the directory may not make, name something by, nor put anybody into.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub reserved: BTreeSet<String>,
}

/// What should happen to one person, group or agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum Operation {
    /// There is somebody new; a user of that name whom no directory provisions becomes this person.
    CreatePerson {
        /// Not used before.
        id: String,
        /// Who.
        person: PersonWritten,
    },
    /// They are as written.
    ReplacePerson {
        /// Who.
        id: String,
        /// The version that this was made from; absent: whichever there is.
        version: Option<u64>,
        /// How.
        person: PersonWritten,
    },
    /// They have left.
    DeletePerson {
        /// Who.
        id: String,
        /// The version that is meant; absent: whichever there is.
        version: Option<u64>,
    },
    /// There is a new group.
    CreateGroup {
        /// Not used before.
        id: String,
        /// Its name.
        display: String,
        /// What the directory calls it.
        external_id: String,
        /// Ids of all who are in it.
        members: BTreeSet<String>,
    },
    /// A group changes.
    ChangeGroup {
        /// Which.
        id: String,
        /// The version that is meant; absent: whichever there is.
        version: Option<u64>,
        /// Its name, if that changes.
        display: Option<String>,
        /// What the directory calls it, if that changes.
        external_id: Option<String>,
        /// Who is in it.
        members: MembersWritten,
    },
    /// A group ends.
    DeleteGroup {
        /// Which.
        id: String,
        /// The version that is meant; absent: whichever there is.
        version: Option<u64>,
    },
    /// There is a new agent, of a name that no other has or had.
    CreateAgent {
        /// Not used before.
        id: String,
        /// Which.
        agent: AgentWritten,
    },
    /// It is as written.
    ReplaceAgent {
        /// Which.
        id: String,
        /// The version that this was made from; absent: whichever there is.
        version: Option<u64>,
        /// How.
        agent: AgentWritten,
    },
    /// It is retired.
    DeleteAgent {
        /// Which.
        id: String,
        /// The version that is meant; absent: whichever there is.
        version: Option<u64>,
    },
}

/// A person as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PersonWritten {
    /// The name of their user.
    pub user_name: String,
    /// What the directory calls them; empty: it does not say.
    pub external_id: String,
    /// Whether they are active.
    pub active: bool,
    /// Everything else: a JSON object.
    pub profile: String,
}

/// An agent as written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentWritten {
    /// Its name.
    pub name: String,
    /// What the directory calls it; empty: it does not say.
    pub external_id: String,
    /// Who answers for it; absent: who does now.
    pub owner: Option<Whom>,
    /// Who does after them.
    pub successor: SuccessorWritten,
    /// The project it belongs to; absent: the one it does now.
    pub project: Option<String>,
    /// Whether it is active.
    pub active: bool,
    /// What else is said: a JSON object.
    pub profile: String,
}

/// Who answers for an agent after its owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuccessorWritten {
    /// Who does now.
    AsItIs,
    /// Nobody: it stops.
    Nobody,
    /// This user.
    User(Whom),
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whom {
    /// The provisioned person of this id; else the user of this name, if no directory provisions them.
    Said(String),
    /// The user of this name.
    Name(String),
}

/// Who is in a group, by ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MembersWritten {
    /// These alone.
    All(BTreeSet<String>),
    /// Who is in it now, but for these; none is in both.
    Changed {
        /// Who is in it as well.
        added: BTreeSet<String>,
        /// Who is not any more; it does not matter whether they were.
        removed: BTreeSet<String>,
    },
}

/// What came of one operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is so; of this person, group or agent.
    Done(String),
    /// It is not.
    Refused(Fault),
}

/// Why an operation is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// There is nobody, and no group or agent, of this id.
    #[error("there is no such resource")]
    Unknown,
    /// It was changed since.
    #[error("the resource was changed since")]
    Version,
    /// Another has the name.
    #[error("{0}")]
    Taken(String),
    /// A value cannot be that.
    #[error("{0}")]
    Value(String),
    /// The group is not the directory's to fill, by this node's configuration.
    #[error(
        "group {0} makes people auditors; no directory fills it unless the operator says so: scim_auditor_groups = true"
    )]
    Reserved(String),
    /// There is no room.
    #[error("at most {max} {what}")]
    Full {
        /// Of what.
        what: String,
        /// How many there may be.
        max: usize,
    },
}
