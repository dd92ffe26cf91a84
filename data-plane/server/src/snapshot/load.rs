//! Reading a snapshot back: every reason there can be not to serve from it.
//!
//! Called by `role` before anything else runs. The entries go the way that a control plane's frames go, through a fresh
//! catalogue, and what comes out must have the digest of the last statement in the file, which must be signed by a
//! control plane of this cluster. Age is the wall clock against the statement's time, and never less than the node once
//! knew it to be; a clock that was set back before that is the one thing that makes it look younger.

use std::time::Duration;

use bailiwick_data_plane_core::{Catalogue, CatalogueError};
use bailiwick_proto::v1;
use bailiwick_runtime::{authority::SKEW_SECONDS, identity::NotBelieved};

use super::{
    Place,
    log::{LogFault, LogReader, Record, Tail},
    merged::{Merged, NotNext},
};

/// What was kept, as it was in force.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) catalogue: Catalogue,
    pub(crate) keys: Option<v1::Keys>,
    pub(crate) revision: u64,
    /// Since a control plane stated it.
    pub(crate) age: Duration,
    /// Denials of later revisions, which the catalogue has in force.
    pub(super) denials: Vec<v1::Denials>,
    pub(super) tail: Tail,
}

/// Why nothing is served from what is kept, if anything is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// Nothing is kept.
    #[error("there is none")]
    Absent,
    /// It cannot be read as a snapshot.
    #[error(transparent)]
    Log(LogFault),
    /// It is another node's or cluster's.
    #[error("it is another node's")]
    Foreign,
    /// No control plane states where it leads.
    #[error("it was never finished")]
    Unproven,
    /// What states that is not believed.
    #[error("its statement is not a control plane's: {0}")]
    NotBelieved(#[from] NotBelieved),
    /// It does not hold together.
    #[error("what it holds is not what a control plane stated: {0}")]
    Content(#[from] CatalogueError),
    /// The same.
    #[error(transparent)]
    Order(#[from] NotNext),
    /// Its statement is from later than now.
    #[error("its statement is {} s from the future: set this node's clock", .0.as_secs())]
    Future(Duration),
    /// Too much may have changed since.
    #[error("it is {} s old, more than the {} s allowed", .age.as_secs(), .max.as_secs())]
    TooOld {
        /// How old it is.
        age: Duration,
        /// How old it may be.
        max: Duration,
    },
}

impl From<LogFault> for Unusable {
    fn from(fault: LogFault) -> Self {
        match fault {
            LogFault::File(error) if error.kind() == std::io::ErrorKind::NotFound => Self::Absent,
            fault => Self::Log(fault),
        }
    }
}

/// What the records of a file say, apart from the chunks.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) changes: Merged,
    pub(super) statement: Option<v1::Statement>,
    pub(super) denials: Vec<v1::Denials>,
    pub(super) keys: Option<v1::Keys>,
    age: Duration,
}

/// Reads a whole file; chunks go to `on_chunk` as they come.
pub(super) fn read<E: From<LogFault> + From<NotNext>>(
    reader: &mut LogReader,
    mut on_chunk: impl FnMut(v1::Snapshot) -> Result<(), E>,
) -> Result<Said, E> {
    let mut said = Said::default();
    while let Some(record) = reader.next()? {
        match record {
            // Only the first one counts, and it was looked at before.
            Record::Origin { .. } => {}
            Record::Chunk(chunk) => {
                said.changes = Merged::since(chunk.revision);
                on_chunk(chunk)?;
            }
            Record::Proven { delta, statement } => {
                said.changes.add(delta)?;
                said.denials.retain(|denials| denials.revision > statement.revision);
                said.age = Duration::ZERO;
                said.statement = Some(statement);
            }
            Record::Denials(denials) => said.denials.push(denials),
            Record::Keys(keys) => said.keys = Some(keys),
            Record::Age(millis) => said.age = said.age.max(Duration::from_millis(millis)),
        }
    }
    Ok(said)
}

/// What is kept at `place`, if it may be served from; into `catalogue`, which is fresh. `now` in microseconds.
pub(crate) fn load(place: &Place, mut catalogue: Catalogue, now: u64, max: Duration) -> Result<Restored, Unusable> {
    let mut reader = LogReader::open(&place.file(), &place.key)?;
    match reader.next()? {
        Some(Record::Origin { cluster, node }) if Some(&cluster) == place.cluster().as_ref() && node == place.node => {}
        Some(_) => return Err(Unusable::Foreign),
        None => return Err(Unusable::Unproven),
    }
    let said = read(&mut reader, |chunk| catalogue.snapshot(chunk).map(drop).map_err(Unusable::Content))?;
    let Said { changes, statement, mut denials, keys, age: known } = said;
    let statement = statement.ok_or(Unusable::Unproven)?;
    place.believe(&statement)?;
    let age = known.max(Duration::from_micros(now.saturating_sub(statement.time)));
    let future = Duration::from_micros(statement.time.saturating_sub(now));
    if future > Duration::from_secs(SKEW_SECONDS) {
        return Err(Unusable::Future(future));
    }
    if age > max {
        return Err(Unusable::TooOld { age, max });
    }
    catalogue.delta(&changes.delta(statement.digest))?;
    let revision = statement.revision;
    if catalogue.revision() != revision {
        return Err(Unusable::Unproven);
    }
    denials.retain(|denials| denials.revision > revision);
    for later in &denials {
        catalogue.deny(later)?;
    }
    Ok(Restored { catalogue, keys, revision, age, denials, tail: reader.tail() })
}
