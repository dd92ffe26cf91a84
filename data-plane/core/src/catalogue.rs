//! The catalogue: entries as the control plane streamed them, and the configuration compiled from them.
//!
//! Held by the server's `config_state`: snapshot chunks and deltas of the config stream and denials of the revocation
//! lane in, a new `Arc<Config>` out. A frame of the stream is applied only when the digest of the whole state after it
//! is the control plane's; otherwise the caller asks for a snapshot. Denials that are known before their revision is
//! held, because the lane was quicker or because the delta that brings them is refused, lie over the entries until then
//! (`overlay`). A policy set that does not compile leaves the last good one in force (see `policies`) and is reported
//! in `Applied::refused`, to be answered with a `Nack`.

mod candidate;
mod compile;
mod exposure;
mod overlay;

use std::sync::Arc;

use bailiwick_proto::{config_digest::Entries, denial::narrows, v1};

use self::{compile::Faults, overlay::Overlay};
use crate::{
    config::Config,
    people::{self, is_of_people},
};

/// Most entries held: a million consents fit twice. Of some 220 bytes each, that is half a gibibyte.
pub const ENTRIES_MAX: usize = 2_000_000;

/// Why a frame was refused. Each asks for a fresh snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueError {
    /// The state after the frame is not what the control plane has.
    #[error("the digest of revision {revision} does not match")]
    Digest {
        /// The revision of the frame.
        revision: u64,
    },
    /// The delta starts from another revision than the one held.
    #[error("the delta starts from revision {from}, but {held} is held")]
    Gap {
        /// Where the delta starts.
        from: u64,
        /// What is held.
        held: u64,
    },
    /// More than [`ENTRIES_MAX`], or as many denials that no entry follows.
    #[error("the configuration has more than {ENTRIES_MAX} entries")]
    TooManyEntries,
}

/// A revision came into force.
#[derive(Clone, Debug)]
pub struct Applied {
    /// The revision.
    pub revision: u64,
    /// What decisions use from now on.
    pub config: Arc<Config>,
    /// Policy problems that kept an older policy set in force; empty when all of the revision applies. Answer with
    /// `Ack` when empty and with `Nack` otherwise.
    pub refused: Vec<String>,
}

/// A snapshot of which chunks are still to come.
#[derive(Debug)]
struct Arriving {
    revision: u64,
    entries: Entries,
    faults: Faults,
}

/// See the file's header.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// Whose it is: rollouts count for some nodes only. Empty: for none.
    node: String,
    entries: Entries,
    /// Denials of revisions that are not held yet.
    overlay: Overlay,
    /// Which of the entries are people's and cannot be read.
    faults: Faults,
    arriving: Option<Arriving>,
    revision: u64,
    config: Arc<Config>,
    /// Policy problems of the entries in force.
    refused: Vec<String>,
}

impl Catalogue {
    /// Knows nothing: revision 0, everything is denied.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Knows nothing yet but whose it is.
    #[must_use]
    pub fn of_node(node: &str) -> Self {
        Self { node: node.to_owned(), ..Self::default() }
    }

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    /// What is held; a copy costs next to nothing.
    #[must_use]
    pub fn entries(&self) -> Entries {
        self.entries.clone()
    }

    /// The revision held, for `Hello`; 0 when nothing is.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// The digest held, for `Hello`; empty when nothing is.
    #[must_use]
    pub fn digest(&self) -> Vec<u8> {
        if self.revision == 0 { Vec::new() } else { self.entries.digest().to_vec() }
    }

    /// Takes one chunk of a snapshot; `Some` when it was the last and the snapshot is in force.
    ///
    /// # Errors
    /// The whole does not have the stated digest, or is too large; what was in force stays.
    pub fn snapshot(&mut self, chunk: v1::Snapshot) -> Result<Option<Applied>, CatalogueError> {
        let mut arriving = match self.arriving.take() {
            Some(arriving) if arriving.revision == chunk.revision => arriving,
            // A new snapshot begins; an unfinished one of another revision is dropped.
            Some(_) | None => Arriving { revision: chunk.revision, entries: Entries::new(), faults: Faults::new() },
        };
        for entry in chunk.entries {
            arriving.entries.insert(&entry.key, &entry.value);
            find_fault(&mut arriving.faults, &entry.key, Some(&entry.value));
        }
        // Bit by bit, so that the last chunk takes no longer than others, and nothing is held twice that is held
        // already.
        arriving.entries.settle_like(&self.entries);
        if arriving.entries.len() > ENTRIES_MAX {
            return Err(CatalogueError::TooManyEntries);
        }
        if !chunk.last {
            self.arriving = Some(arriving);
            return Ok(None);
        }
        let Arriving { revision, entries, faults } = arriving;
        if entries.digest().as_slice() != chunk.digest.as_slice() {
            return Err(CatalogueError::Digest { revision });
        }
        (self.entries, self.faults) = (entries, faults);
        Ok(Some(self.put_in_force(revision, None)))
    }

    /// Forgets a half-received snapshot; called when a stream ends.
    pub fn stream_ended(&mut self) {
        self.arriving = None;
    }

    /// Takes a delta.
    ///
    /// # Errors
    /// The delta does not follow what is held, or leads to another digest. Then only its denials are in force, under
    /// the old revision (see [`Catalogue::config`]).
    pub fn delta(&mut self, delta: &v1::Delta) -> Result<Applied, CatalogueError> {
        if delta.from != self.revision {
            self.restrict(delta)?;
            return Err(CatalogueError::Gap { from: delta.from, held: self.revision });
        }
        let mut entries = self.entries.clone();
        for change in &delta.changes {
            entries.apply(change);
        }
        entries.settle();
        let fault = if entries.digest().as_slice() != delta.digest.as_slice() {
            CatalogueError::Digest { revision: delta.to }
        } else if entries.len() > ENTRIES_MAX {
            CatalogueError::TooManyEntries
        } else {
            self.entries = entries;
            let mut people_only = true;
            for change in &delta.changes {
                let is_found = find_fault(&mut self.faults, &change.key, change.value.as_deref());
                people_only &= is_of_people(&change.key) && !is_found;
            }
            return Ok(self.put_in_force(delta.to, Some(people_only)));
        };
        self.restrict(delta)?;
        Err(fault)
    }

    /// Compares what is held with what the control plane had at the same revision.
    ///
    /// # Errors
    /// It had something else: nothing that follows can be right.
    pub fn bookmark(&self, bookmark: &v1::Heartbeat) -> Result<(), CatalogueError> {
        if self.revision > 0 && bookmark.revision != self.revision {
            // It names where this node is, once it has taken what was sent: something was lost on the way.
            return Err(CatalogueError::Gap { from: bookmark.revision, held: self.revision });
        }
        let is_comparable = self.revision > 0 && !bookmark.digest.is_empty();
        if is_comparable && self.entries.digest().as_slice() != bookmark.digest.as_slice() {
            return Err(CatalogueError::Digest { revision: self.revision });
        }
        Ok(())
    }

    /// Takes denials of the revocation lane; how many were news. They are in force once the last part of their revision
    /// was taken. What grants anything is passed over: the lane has no say in it.
    ///
    /// # Errors
    /// Too many denials wait for their revisions.
    pub fn deny(&mut self, denials: &v1::Denials) -> Result<usize, CatalogueError> {
        let news = self.lay_over(denials.revision, &denials.changes)?;
        if !denials.more && self.revision > 0 {
            self.put_in_force(self.revision, Some(true));
        }
        Ok(news)
    }

    /// Puts what only narrows of a refused delta into force.
    fn restrict(&mut self, delta: &v1::Delta) -> Result<(), CatalogueError> {
        if self.lay_over(delta.to, &delta.changes)? > 0 && self.revision > 0 {
            self.put_in_force(self.revision, Some(true));
        }
        Ok(())
    }

    fn lay_over(&mut self, revision: u64, changes: &[v1::EntryChange]) -> Result<usize, CatalogueError> {
        if revision <= self.revision {
            return Ok(0);
        }
        let mut news = 0;
        for change in changes.iter().filter(|change| narrows(change)) {
            news += usize::from(self.overlay.deny(&change.key, revision));
        }
        if self.overlay.len() > ENTRIES_MAX { Err(CatalogueError::TooManyEntries) } else { Ok(news) }
    }

    /// Compiles only what differs from what is in force: most revisions (checkpoints, reports) change no entry, and
    /// most others change people alone. Of a snapshot it is not known what it changes.
    fn put_in_force(&mut self, revision: u64, people_only: Option<bool>) -> Applied {
        self.revision = revision;
        self.overlay.reached(revision);
        let news = self.overlay.take_news();
        let is_same = self.config.revision > 0
            && news.is_empty()
            && self.config.digest.as_slice() == self.entries.digest().as_slice();
        if !is_same {
            self.compile(people_only == Some(true) && news.iter().all(|key| is_of_people(key)));
        }
        let contents = Arc::clone(&self.config.contents);
        self.config = Arc::new(Config { revision, contents });
        Applied { revision, config: Arc::clone(&self.config), refused: self.refused.clone() }
    }

    fn compile(&mut self, people_only: bool) {
        let Config { revision, contents: previous } = self.config.as_ref();
        let contents = if people_only && *revision > 0 {
            compile::patch(&self.entries, &self.overlay, previous)
        } else {
            let (contents, refused) =
                compile::compile(&self.entries, &self.faults, &self.overlay, previous, &self.node);
            self.refused = refused;
            contents
        };
        self.config = Arc::new(Config { revision: *revision, contents: Arc::new(contents) });
    }
}

/// Notes what is wrong with an entry of people; whether anything is or was.
fn find_fault(faults: &mut Faults, key: &str, value: Option<&[u8]>) -> bool {
    let was = !faults.is_empty() && faults.remove(key).is_some();
    let fault = value.filter(|_| is_of_people(key)).and_then(|value| people::check(key, value).err());
    if let Some(why) = fault {
        faults.insert(key.to_owned(), why);
    }
    was || fault.is_some()
}

#[cfg(test)]
mod tests;
