//! What consensus asks of a disk: ordered families of rows under one write-ahead log, and whole files.
//!
//! `store` writes through it; `RocksDisk` is the real one, and a simulation brings its own. The contract:
//! writes take effect in the order they were made, each whole or not at all; a crash keeps a prefix of them, which
//! includes every write made before a sync that was reported done. After a failed write or sync the end of the log is
//! unknown, so `store` never writes again. A read of damaged bytes is an error ([`corrupted`]), never other bytes.
//! Absent: what the rows mean (`store`).

#[cfg(test)]
pub(crate) mod memory;
mod rocks;
#[cfg(test)]
mod tests;

use std::{
    fmt::Debug,
    io::{self, Read},
    time::Duration,
};

pub use rocks::RocksDisk;

/// The layout of rows and snapshots; another one is refused rather than guessed.
pub(crate) const FORMAT_VERSION: u64 = 2;

/// One ordered family of rows. Keys compare as bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// The Raft log: index to entry.
    Log,
    /// Single values by name.
    Meta,
    /// Applied changes by revision.
    Events,
    /// Hashes that stand for forgotten changes.
    Tree,
}

impl Family {
    /// Every family.
    pub const ALL: [Self; 4] = [Self::Log, Self::Meta, Self::Events, Self::Tree];

    /// Its name on the disk.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::Events => "events",
            Self::Tree => "tree",
        }
    }
}

/// One step of a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Sets a row.
    Put {
        /// Where.
        family: Family,
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
    },
    /// Removes a row, if it is there.
    Delete {
        /// Where.
        family: Family,
        /// Its key.
        key: Vec<u8>,
    },
    /// Removes all rows from `start` (inclusive) to `end` (exclusive).
    DeleteRange {
        /// Where.
        family: Family,
        /// The first key removed.
        start: Vec<u8>,
        /// The first key kept.
        end: Vec<u8>,
    },
}

/// Whether a write must be on the disk before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Synced, with all writes before it: survives the host.
    Synced,
    /// In the operating system's hands: survives the process.
    Written,
}

/// Takes in rows of a scan; `false` ends it.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> io::Result<bool> + 'a;

/// Rows and files that survive crashes as described above. Shared by several threads.
pub trait Disk: Send + Sync + Debug + 'static {
    /// One value.
    ///
    /// # Errors
    /// When it cannot be read as it was written.
    fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>>;

    /// The greatest key of a family with its value.
    ///
    /// # Errors
    /// When it cannot be read as it was written.
    fn last(&self, family: Family) -> io::Result<Option<(Vec<u8>, Vec<u8>)>>;

    /// Hands over the rows from `start` (inclusive) in order, as they were when the scan began. `visit` makes no call
    /// to this disk.
    ///
    /// # Errors
    /// When a row cannot be read as it was written, and what `visit` returns.
    fn scan(&self, family: Family, start: &[u8], visit: &mut Visit<'_>) -> io::Result<()>;

    /// Takes the steps in order, all or none. Blocks.
    ///
    /// # Errors
    /// When that is not certain; the steps may or may not have been taken then.
    fn write(&self, writes: Vec<Write>, durability: Durability) -> io::Result<()>;

    /// Returns once every write made before is on the disk. Blocks.
    ///
    /// # Errors
    /// When that is not certain.
    fn sync(&self) -> io::Result<()> {
        self.write(Vec::new(), Durability::Synced)
    }

    /// Begins a file. Nothing is there under this name until it is published.
    ///
    /// # Errors
    /// When the file cannot be made.
    fn blob_create(&self, name: &str) -> io::Result<Box<dyn BlobWriter>>;

    /// Reads a file from its beginning.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none.
    fn blob_open(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;

    /// The names of all published files, sorted.
    ///
    /// # Errors
    /// When they cannot be listed.
    fn blob_list(&self) -> io::Result<Vec<String>>;

    /// Removes a file. One that is being read can be read to its end.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn blob_remove(&self, name: &str) -> io::Result<()>;

    /// Gives back the room of removed rows, where that takes an effort. Blocks.
    ///
    /// # Errors
    /// When rows cannot be read or written meanwhile.
    fn compact(&self, family: Family) -> io::Result<()> {
        let _ = family;
        Ok(())
    }

    /// Whether calls are made in place rather than on a thread that may block: a simulated disk takes no real time.
    fn inline(&self) -> bool {
        false
    }

    /// How long each sync takes in the caller's (virtual) time, beyond what the call itself takes.
    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }
}

/// A file in the making. Dropping it unpublished leaves nothing behind.
pub trait BlobWriter: io::Write + Send {
    /// Syncs it and gives it its name, in place of an older file of that name. It is there whole or not at all.
    ///
    /// # Errors
    /// When that is not certain.
    fn publish(self: Box<Self>) -> io::Result<()>;
}

/// What stands on the disk is not what was written there.
#[derive(Debug, thiserror::Error)]
#[error(
    "corrupted: {detail}; this node must be rebuilt: `bailiwick cluster remove` it, then join under a new name with an \
     empty data directory; if it is the only control plane, restore a backup"
)]
pub struct Corrupted {
    detail: String,
}

/// An error that says that what was written cannot be read back.
pub(crate) fn corrupted(detail: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, Corrupted { detail: detail.to_string() })
}

/// An error that says that another version of this program wrote the data directory.
pub(crate) fn other_layout(found: &str) -> io::Error {
    let text = format!(
        "the data directory has layout {found}, and this version reads layout {FORMAT_VERSION} only; start with an \
         empty directory: export what you need with the version that wrote it, or join the node to a cluster anew"
    );
    io::Error::new(io::ErrorKind::Unsupported, text)
}
