//! Writing a snapshot: what came into force, in the order in which it did.
//!
//! Owned by the `keeper`'s task; every method may wait for the disk. A snapshot that arrives goes into a file beside
//! the present one and takes its place once a statement proves it. Deltas are gathered in memory until the next
//! statement and written with it, as one. Denials are written and synced at once. When a file has grown by
//! [`GROWN_BYTES_MAX`] it is rewritten, from itself and what changed since, never from memory. After any error both
//! files are put away, for an old one that misses a denial is worse than none, and a fresh snapshot is asked for.

use std::{io, time::Duration};

use bailiwick_proto::v1;

use super::{
    Place, Restored,
    load::{self, Said},
    log::{CHUNK, LogFault, LogReader, LogWriter, Record},
    merged::{Merged, NotNext},
};

/// Changes written behind a file's chunks before it is rewritten; also what rewriting it holds in memory.
const GROWN_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Changes gathered while no statement comes. More is written by asking for a fresh snapshot.
const GATHERED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Denials kept for the next file.
const DENIALS_MAX: usize = 100_000;

/// Why the files are put away.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("it cannot be written: {0}")]
    Disk(#[from] io::Error),
    #[error("it cannot be read over: {0}")]
    Log(#[from] LogFault),
    #[error(transparent)]
    Order(#[from] NotNext),
    #[error("this node is no member yet")]
    Nobody,
    #[error("more has changed, or been denied, than is gathered without a statement")]
    TooMuch,
}

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Journal {
    place: Place,
    /// The file that would be served from.
    current: Option<Current>,
    /// The file that arrives.
    partial: Option<Partial>,
    /// What came since the current file's, or the whole partial file's, revision.
    gathered: Option<Merged>,
    /// What revisions take away that are not in the file yet.
    denials: Vec<v1::Denials>,
    keys: Option<v1::Keys>,
    /// Denials up to here may be missing from `denials`: no file of an earlier revision is begun.
    floor: u64,
    /// Something was asked for to be kept and is not: nothing more is until a whole snapshot arrives.
    is_lost: bool,
    /// Files that say too much cannot even be put away.
    is_stuck: bool,
}

#[derive(Debug)]
struct Current {
    log: LogWriter,
    /// Its size when it was new.
    began_bytes: u64,
}

#[derive(Debug)]
struct Partial {
    log: LogWriter,
    revision: u64,
    is_whole: bool,
}

impl Journal {
    /// Nothing is kept; a snapshot will arrive.
    pub(crate) const fn new(place: Place) -> Self {
        Self {
            place,
            current: None,
            partial: None,
            gathered: None,
            denials: Vec::new(),
            keys: None,
            floor: 0,
            is_lost: false,
            is_stuck: false,
        }
    }

    /// Goes on with what was restored.
    pub(crate) fn resume(place: Place, restored: &Restored) -> io::Result<Self> {
        let log = LogWriter::resume(&place.file(), &place.key, restored.tail.clone())?;
        // As if it were new: what it has grown by since is at most what it may grow by again.
        let began_bytes = log.bytes();
        Ok(Self {
            current: Some(Current { log, began_bytes }),
            gathered: Some(Merged::since(restored.revision)),
            denials: restored.denials.clone(),
            keys: restored.keys.clone(),
            ..Self::new(place)
        })
    }

    /// Whether there is a file that could be served from.
    pub(crate) const fn is_kept(&self) -> bool {
        self.current.is_some()
    }

    /// Whether only a whole snapshot would help.
    pub(crate) const fn wants_snapshot(&self) -> bool {
        self.is_lost
    }

    /// Whether nothing on disk says more than may be said after all that was noted.
    pub(crate) const fn is_durable(&self) -> bool {
        !self.is_stuck
    }

    /// A chunk of a snapshot, encoded.
    pub(crate) fn chunk(&mut self, revision: u64, last: bool, encoded: &[u8]) {
        let taken = self.take_chunk(revision, last, encoded);
        self.or_lose(taken);
    }

    /// The snapshot that was arriving will not.
    pub(crate) fn interrupted(&mut self) {
        if self.partial.as_ref().is_some_and(|partial| !partial.is_whole) {
            self.partial = None;
        }
    }

    /// A revision came into force.
    pub(crate) fn delta(&mut self, delta: v1::Delta) {
        let Some(gathered) = &mut self.gathered else { return };
        let added = match gathered.add(delta) {
            Ok(()) if gathered.bytes() > GATHERED_BYTES_MAX => Err(Lost::TooMuch),
            added => added.map_err(Lost::Order),
        };
        self.or_lose(added);
    }

    /// What is in force now was so at the time in the statement.
    pub(crate) fn statement(&mut self, statement: v1::Statement) {
        if let Err(error) = self.place.believe(&statement) {
            tracing::warn!(%error, "a statement of the configuration cannot be kept");
            return;
        }
        let written = self.prove(statement);
        self.or_lose(written);
    }

    /// A revision takes this away.
    pub(crate) fn deny(&mut self, denials: v1::Denials) {
        let denials = v1::Denials { more: false, ..denials };
        let written = self.write_denials(&denials);
        self.denials.push(denials);
        let fits = if self.denials.len() > DENIALS_MAX { Err(Lost::TooMuch) } else { Ok(()) };
        self.or_lose(written.and(fits));
    }

    /// Other session keys.
    pub(crate) fn keys(&mut self, keys: v1::Keys) {
        let written = self.write(&Record::Keys(keys.clone()));
        self.keys = Some(keys);
        self.or_lose(written);
    }

    /// What is in force is this old.
    pub(crate) fn aged(&mut self, age: Duration) {
        let written = self.write(&Record::Age(u64::try_from(age.as_millis()).unwrap_or(u64::MAX)));
        self.or_lose(written);
    }

    /// Something was not noted, and no denial of a later revision: the file would miss it.
    pub(crate) fn missed(&mut self, revision: u64) {
        self.floor = self.floor.max(revision);
        self.or_lose(Err(Lost::TooMuch));
    }

    fn or_lose(&mut self, done: Result<(), Lost>) {
        let Err(error) = done else { return };
        tracing::error!(%error, "the configuration kept on disk is put away; a fresh one will be kept");
        (self.current, self.partial, self.gathered) = (None, None, None);
        let denied = self.denials.drain(..).map(|denials| denials.revision).max();
        self.floor = self.floor.max(denied.unwrap_or_default());
        self.is_lost = true;
        self.is_stuck = match self.place.discard() {
            Ok(()) => false,
            Err(error) => {
                tracing::error!(%error, "a configuration kept on disk is out of date and cannot be removed: remove it");
                true
            }
        };
    }

    fn take_chunk(&mut self, revision: u64, last: bool, encoded: &[u8]) -> Result<(), Lost> {
        if self.partial.as_ref().is_none_or(|partial| partial.is_whole || partial.revision != revision) {
            self.partial = Some(Partial { log: self.begin()?, revision, is_whole: false });
        }
        let Some(partial) = &mut self.partial else { return Ok(()) };
        partial.log.append_plain([&[CHUNK], encoded].concat())?;
        partial.is_whole = last;
        if last {
            // What is acknowledged from here on may have been taken away by this snapshot: the file before it must not
            // be served from any more, and the new one not before it is proven.
            self.gathered = Some(Merged::since(revision));
            self.current = None;
            self.place.remove()?;
        }
        Ok(())
    }

    fn begin(&self) -> Result<LogWriter, Lost> {
        let cluster = self.place.cluster().ok_or(Lost::Nobody)?;
        let mut log = LogWriter::create(&self.place.partial(), &self.place.key)?;
        log.append(&Record::Origin { cluster, node: self.place.node.clone() })?;
        Ok(log)
    }

    fn prove(&mut self, statement: v1::Statement) -> Result<(), Lost> {
        let is_of = |gathered: &Merged| gathered.to() == statement.revision && statement.revision >= self.floor;
        if self.partial.as_ref().is_some_and(|partial| !partial.is_whole) || !self.gathered.as_ref().is_some_and(is_of)
        {
            return Ok(());
        }
        let revision = statement.revision;
        let Some(gathered) = self.gathered.replace(Merged::since(revision)) else { return Ok(()) };
        self.denials.retain(|denials| denials.revision > revision);
        let delta = gathered.delta(statement.digest.clone());
        let proven = Record::Proven { delta, statement };
        if let Some(Partial { log, .. }) = self.partial.take() {
            return self.install(log, &proven);
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        current.log.append(&proven)?;
        current.log.sync()?;
        if current.log.bytes() - current.began_bytes > GROWN_BYTES_MAX { self.rewrite() } else { Ok(()) }
    }

    /// Ends a new file and puts it in the present one's place.
    fn install(&mut self, mut log: LogWriter, proven: &Record) -> Result<(), Lost> {
        log.append(proven)?;
        for later in &self.denials {
            log.append(&Record::Denials(later.clone()))?;
        }
        if let Some(keys) = &self.keys {
            log.append(&Record::Keys(keys.clone()))?;
        }
        log.sync()?;
        std::fs::rename(self.place.partial(), self.place.file())?;
        std::fs::File::open(&self.place.folder)?.sync_all()?;
        tracing::debug!(bytes = log.bytes(), "the configuration is kept on disk");
        self.current = Some(Current { began_bytes: log.bytes(), log });
        (self.is_lost, self.is_stuck) = (false, false);
        Ok(())
    }

    /// The same as the present file says, without what is out of date.
    fn rewrite(&mut self) -> Result<(), Lost> {
        let said = self.read(|_| Ok(()))?;
        let Said { changes, statement: Some(statement), .. } = said else { return Ok(()) };
        let (revision, mut log) = (statement.revision, self.begin()?);
        self.read(|chunk| {
            let entries = chunk.entries.into_iter().filter(|entry| !changes.touches(&entry.key)).collect();
            let kept = v1::Snapshot { revision, entries, ..v1::Snapshot::default() };
            Ok(log.append(&Record::Chunk(kept))?)
        })?;
        let (last, digest) = (true, statement.digest.clone());
        log.append(&Record::Chunk(v1::Snapshot { revision, entries: changes.entries(), last, digest }))?;
        let delta = Merged::since(revision).delta(statement.digest.clone());
        self.install(log, &Record::Proven { delta, statement })
    }

    fn read(&self, on_chunk: impl FnMut(v1::Snapshot) -> Result<(), Lost>) -> Result<Said, Lost> {
        load::read(&mut LogReader::open(&self.place.file(), &self.place.key)?, on_chunk)
    }

    fn write_denials(&mut self, denials: &v1::Denials) -> Result<(), Lost> {
        self.write(&Record::Denials(denials.clone()))
    }

    /// Into the present file, durably.
    fn write(&mut self, record: &Record) -> Result<(), Lost> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.log.append(record)?;
        Ok(current.log.sync()?)
    }
}
