//! The catalogue: entries as the control plane streamed them, and the configuration compiled from them.
//!
//! Owned by the server's config client, one task: snapshot chunks and deltas in, a new `Arc<Config>` out. A frame is
//! applied only when the digest of the whole state after it is the control plane's; otherwise the caller asks for a
//! snapshot. From a delta that is refused, revocations and removals are still taken over, because they only narrow
//! what is allowed and the next snapshot replaces everything. A policy set that does not compile leaves the last good
//! one in force (see `policies`) and is reported in `Applied::refused`, to be answered with a `Nack`.

mod compile;

use std::sync::Arc;

use bailiwick_proto::{config_digest::Entries, v1};
use prost::Message as _;

use crate::config::Config;

/// Most entries held. A hundred thousand tools, people and consents together fit several times.
pub const ENTRIES_MAX: usize = 1_000_000;

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
    /// More than [`ENTRIES_MAX`].
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

/// See the file's header.
#[derive(Debug, Default)]
pub struct Catalogue {
    entries: Entries,
    staged: Option<(u64, Entries)>,
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

    /// The configuration in force.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
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
        let (revision, mut entries) = match self.staged.take() {
            Some((revision, entries)) if revision == chunk.revision => (revision, entries),
            // A new snapshot begins; an unfinished one of another revision is dropped.
            Some(_) | None => (chunk.revision, Entries::new()),
        };
        for entry in chunk.entries {
            entries.insert(entry.key, entry.value);
        }
        if entries.len() > ENTRIES_MAX {
            return Err(CatalogueError::TooManyEntries);
        }
        if !chunk.last {
            self.staged = Some((revision, entries));
            return Ok(None);
        }
        entries.settle();
        if entries.digest().as_slice() != chunk.digest.as_slice() {
            return Err(CatalogueError::Digest { revision });
        }
        self.entries = entries;
        self.revision = revision;
        Ok(Some(self.put_in_force()))
    }

    /// Forgets a half-received snapshot; called when a stream ends.
    pub fn stream_ended(&mut self) {
        self.staged = None;
    }

    /// Takes a delta.
    ///
    /// # Errors
    /// The delta does not follow what is held, or leads to another digest. Then only its revocations and removals are
    /// in force, under the old revision (see [`Catalogue::config`]).
    pub fn delta(&mut self, delta: &v1::Delta) -> Result<Applied, CatalogueError> {
        if delta.from != self.revision {
            self.restrict(delta);
            return Err(CatalogueError::Gap { from: delta.from, held: self.revision });
        }
        let before: Vec<_> = delta
            .changes
            .iter()
            .map(|change| (change.key.clone(), self.entries.get(&change.key).map(<[u8]>::to_vec)))
            .collect();
        for change in &delta.changes {
            self.entries.apply(change);
        }
        self.entries.settle();
        let fault = if self.entries.digest().as_slice() != delta.digest.as_slice() {
            CatalogueError::Digest { revision: delta.to }
        } else if self.entries.len() > ENTRIES_MAX {
            CatalogueError::TooManyEntries
        } else {
            self.revision = delta.to;
            return Ok(self.put_in_force());
        };
        for (key, value) in before.into_iter().rev() {
            self.entries.apply(&v1::EntryChange { key, value });
        }
        self.entries.settle();
        self.restrict(delta);
        Err(fault)
    }

    /// Takes over what only narrows: revocations, deactivations, quarantines, and removals of all but policies (which
    /// may forbid).
    fn restrict(&mut self, delta: &v1::Delta) {
        let mut narrowed = false;
        for change in delta.changes.iter().filter(|change| narrows(change)) {
            if self.entries.get(&change.key).is_some() {
                self.entries.apply(change);
                narrowed = true;
            }
        }
        if narrowed {
            self.entries.settle();
            self.put_in_force();
        }
    }

    /// Compiles only what differs from what is in force: most revisions (checkpoints, reports) change no entry.
    fn put_in_force(&mut self) -> Applied {
        let is_same = self.config.revision > 0 && self.config.digest.as_slice() == self.entries.digest().as_slice();
        let contents = if is_same {
            Arc::clone(&self.config.contents)
        } else {
            let (contents, refused) = compile::compile(&self.entries, &self.config);
            self.refused = refused;
            Arc::new(contents)
        };
        self.config = Arc::new(Config { revision: self.revision, contents });
        Applied { revision: self.revision, config: Arc::clone(&self.config), refused: self.refused.clone() }
    }
}

fn narrows(change: &v1::EntryChange) -> bool {
    use v1::resource::Resource as Kind;
    let Some(value) = &change.value else { return !change.key.starts_with("policy/") };
    let Ok(resource) = v1::Resource::decode(value.as_slice()) else { return false };
    match resource.resource {
        Some(Kind::Consent(consent)) => consent.revoked && change.key == format!("consent/{}", consent.id),
        Some(Kind::User(user)) => !user.active && change.key == format!("user/{}", user.name),
        Some(Kind::Agent(agent)) => !agent.active && change.key == format!("agent/{}", agent.name),
        Some(Kind::Tool(tool)) => tool.quarantined && change.key == format!("tool/{}/{}", tool.server, tool.name),
        Some(Kind::Server(_) | Kind::VirtualServer(_) | Kind::Policy(_) | Kind::TokenKey(_) | Kind::Issuer(_))
        | None => false,
    }
}

#[cfg(test)]
mod tests;
