//! What the SCIM service of any node asks of the one place that decides: operations on people and groups, several at a
//! time, each with an outcome of its own.
//!
//! The service has read and bounded what it was sent; what may be said only with the latest state at hand is said by
//! `decide`. Ids of what is new are drawn by the service. Called by `wish`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Most operations that are decided together: a change of some hundred KiB.
pub const OPERATIONS_MAX: usize = 250;

/// A wish that people and groups be so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provision {
    /// In order; one that is refused keeps no other from being carried out.
    pub operations: Vec<Operation>,
    /// After so many that are refused no further one is carried out, nor has an outcome; absent: all are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub faults_max: Option<usize>,
}

/// What should happen to one person or group.
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
    /// It is so; of this person or group.
    Done(String),
    /// It is not.
    Refused(Fault),
}

/// Why an operation is not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// There is nobody, or no group, of this id.
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
    /// There is no room.
    #[error("at most {max} {what}")]
    Full {
        /// Of what.
        what: String,
        /// How many there may be.
        max: usize,
    },
}
