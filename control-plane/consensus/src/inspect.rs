//! A look at a data directory that no node has open: whom it belongs to, and whether what lies there is whole.
//!
//! Called by `bailiwick doctor`. Opens read-only, changes nothing, not even the count of starts. Reads every row: each
//! change is hashed and the Merkle root compared, as a start does, and the log is read for holes and damage. Absent:
//! what only a running node can tell (whether this copy is the newest one).

use std::{io, path::Path, sync::Arc};

use bailiwick_ledger_core::tree::empty_root;

use crate::{
    changes::{self, Row},
    disk::{Disk, Family, RocksDisk, corrupted},
    format::{self, Applied},
    log::Log,
    merkle::{Tree, leaf},
    store::{Birth, Store, meta_key},
};

/// What a data directory holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Whom it belongs to.
    pub birth: Birth,
    /// How often it was opened.
    pub starts: u64,
    /// The last revision that can be part of the state.
    pub revision: u64,
    /// How many changes were applied.
    pub version: u64,
    /// The root of the Merkle log over them, recomputed.
    pub root: [u8; 32],
    /// Entries in the Raft log.
    pub entries: u64,
}

/// Inspects the data directory `folder`; `None` if it belongs to nobody yet. Blocks while it reads all of it.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if there is none; when it is in another layout; when anything in it is damaged.
pub fn inspect(folder: &Path) -> io::Result<Option<Inspection>> {
    inspect_disk(Arc::new(RocksDisk::open_read_only(folder)?))
}

pub(super) fn inspect_disk(disk: Arc<dyn Disk>) -> io::Result<Option<Inspection>> {
    let Some(store) = Store::reading(disk)? else { return Ok(None) };
    let applied = match store.get(Family::Meta, meta_key::APPLIED)? {
        Some(bytes) => format::decode(&bytes)?,
        None => Applied { root: empty_root().to_vec(), ..Applied::default() },
    };
    let mut tree = Tree::default();
    changes::read(&store, applied.revision(), |row| match row {
        Row::Change { revision, number, bytes } => tree.push(number, leaf(revision, bytes)),
        Row::Void(void) => tree.push_void(void.first, void.level, void.hash),
    })?;
    tree.insist(applied.version, &applied.root()?)?;
    if store.last(Family::Events)?.is_some_and(|(revision, _)| revision > applied.revision()) {
        return Err(corrupted("a change is stored that was not applied"));
    }
    Ok(Some(Inspection {
        birth: store.birth().clone(),
        starts: store.starts(),
        revision: applied.revision(),
        version: applied.version,
        root: tree.root(),
        entries: entries(&store)?,
    }))
}

/// How many entries the Raft log has; they must be readable and without a hole.
fn entries(store: &Store) -> io::Result<u64> {
    Log::check(store)?;
    let mut count = 0;
    store.scan(Family::Log, 0, |_, _| {
        count += 1;
        Ok(true)
    })?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use tempfile::TempDir;

    use super::*;
    use crate::{Alone, Applier, Change, Consensus, LogLength, Member, Options, Proposal, Timers};

    struct Nobody;

    impl Applier for Nobody {
        fn reset(&mut self) {}
        fn apply(&mut self, _: &Change) -> io::Result<Option<u64>> {
            Ok(None)
        }
        fn publish(&mut self, _: u64) {}
    }

    /// A data directory with `changes` changes, left in good order; its root.
    async fn left(folder: &Path, changes: u64) -> [u8; 32] {
        let options = Options {
            disk: Arc::new(RocksDisk::open(folder).unwrap()),
            birth: Birth { cluster_id: "a".repeat(32), incarnation: "b".repeat(16), node_id: 7 },
            transport: Arc::new(Alone),
            applier: Box::new(Nobody),
            timers: Timers::default(),
            log_length: LogLength::default(),
        };
        let consensus = Consensus::open(options).await.unwrap();
        consensus.initialize(Member::default()).await.unwrap();
        consensus.ready(Duration::from_secs(10)).await.unwrap();
        for version in 0..changes {
            let proposal = Proposal { expected_version: version, events: vec![vec![b'x'; 100]], ..Proposal::default() };
            consensus.propose(vec![proposal]).await.unwrap();
        }
        let root = consensus.root().1;
        consensus.shutdown().await;
        root
    }

    #[tokio::test]
    async fn a_data_directory_that_is_whole_is_described_and_left_as_it_is() {
        let folder = TempDir::new().unwrap();
        let root = left(folder.path(), 5).await;
        let first = inspect(folder.path()).unwrap().unwrap();
        assert_eq!((first.birth.node_id, first.starts, first.version, first.root), (7, 1, 5, root));
        assert!(first.entries >= 5 && first.revision >= 5, "{first:?}");
        assert_eq!(inspect(folder.path()).unwrap().unwrap(), first, "looking changes nothing, the starts included");
    }

    #[test]
    fn a_folder_without_data_is_told_from_an_empty_node() {
        let folder = TempDir::new().unwrap();
        assert_eq!(inspect(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!folder.path().join("none").exists(), "looking makes nothing");
        drop(RocksDisk::open(folder.path()).unwrap());
        assert_eq!(inspect(folder.path()).unwrap(), None);
    }

    #[tokio::test]
    async fn a_flipped_byte_anywhere_in_the_log_is_found() {
        let folder = TempDir::new().unwrap();
        left(folder.path(), 5).await;
        let files = fs::read_dir(folder.path().join("store")).unwrap().map(|entry| entry.unwrap().path());
        let log = files.filter(|path| path.extension().is_some_and(|ending| ending == "log"));
        let log = log.max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
        let mut bytes = fs::read(&log).unwrap();
        let place = bytes.len() / 2;
        bytes[place] ^= 0x40;
        fs::write(&log, bytes).unwrap();
        let error = inspect(folder.path()).unwrap_err();
        assert!(error.to_string().contains("corrupted"), "{error}");
    }

    #[tokio::test]
    async fn rows_that_do_not_give_the_root_that_was_written_down_are_found() {
        let folder = TempDir::new().unwrap();
        left(folder.path(), 5).await;
        let disk = RocksDisk::open(folder.path()).unwrap();
        let (key, _) = disk.last(Family::Events).unwrap().unwrap();
        let write = crate::Write::Delete { family: Family::Events, key };
        disk.write(vec![write], crate::Durability::Synced).unwrap();
        drop(disk);
        let error = inspect(folder.path()).unwrap_err();
        assert!(error.to_string().contains("corrupted"), "{error}");
    }
}
