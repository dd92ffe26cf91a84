//! The library's own store suite, and what the facade promises across stops of every kind.

use std::sync::{Arc, Mutex};

use openraft::{
    StorageError,
    storage::RaftLogStorage as _,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::*;

const READY: Duration = Duration::from_secs(10);

/// Keeps what it is given, as the domain would.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<Vec<Change>>>);

impl Collected {
    fn changes(&self) -> Vec<Change> {
        self.0.lock().unwrap().clone()
    }
}

impl Applier for Collected {
    fn reset(&mut self) {
        self.0.lock().unwrap().clear();
    }
    fn apply(&mut self, change: &Change) -> io::Result<()> {
        self.0.lock().unwrap().push(change.clone());
        Ok(())
    }
    fn publish(&mut self) {}
}

fn proposal(what: &str, expected_version: u64) -> Proposal {
    Proposal { expected_version, events: vec![format!("{{\"of\":\"{what}\"}}").into_bytes()] }
}

async fn open(folder: &Path) -> (Consensus, Collected) {
    let collected = Collected::default();
    let consensus = Consensus::open(folder, 1, Box::new(collected.clone())).await.unwrap();
    consensus.ready(READY).await.unwrap();
    (consensus, collected)
}

async fn propose_one(consensus: &Consensus, proposal: Proposal) -> Committed {
    consensus.propose(vec![proposal]).await.unwrap()[0]
}

struct Builder;

impl StoreBuilder<Types, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<Types>> {
        let folder = TempDir::new().unwrap();
        let (store, machine) = recover(folder.path(), 1, Box::new(Collected::default())).unwrap();
        Ok((folder, Log::new(store), machine))
    }
}

#[test]
fn the_store_passes_the_librarys_suite() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}

#[tokio::test]
async fn applied_changes_are_there_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let (consensus, before) = open(folder.path()).await;
    let first = propose_one(&consensus, proposal("a", 0)).await;
    let second = propose_one(&consensus, proposal("b", 1)).await;
    assert_eq!((first.outcome, second.outcome), (Outcome::Applied, Outcome::Applied));
    assert!(first.revision < second.revision);
    consensus.linearizable().await.unwrap();
    assert!(consensus.is_leader());
    consensus.shutdown().await;
    let (again, after) = open(folder.path()).await;
    assert_eq!(after.changes(), before.changes());
    assert_eq!(*again.revisions().borrow(), second.revision);
    again.shutdown().await;
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_counts_versions() {
    let folder = TempDir::new().unwrap();
    let (consensus, collected) = open(folder.path()).await;
    let committed =
        consensus.propose(vec![proposal("a", 0), proposal("b", 1), proposal("c", 1), proposal("d", 2)]).await.unwrap();
    let outcomes: Vec<Outcome> = committed.iter().map(|committed| committed.outcome).collect();
    assert_eq!(outcomes, [Outcome::Applied, Outcome::Applied, Outcome::Conflict { version: 2 }, Outcome::Applied]);
    let applied: Vec<Vec<u8>> = collected.changes().into_iter().flat_map(|change| change.events).collect();
    let expected: Vec<Vec<u8>> =
        [("a", 0), ("b", 1), ("d", 2)].into_iter().flat_map(|(what, version)| proposal(what, version).events).collect();
    assert_eq!(applied, expected);
    consensus.shutdown().await;
}

/// What a crash of the host may take: the unsynced batch of applied changes. The log brings it back.
#[tokio::test]
async fn changes_lost_with_the_host_are_applied_again_from_the_log() {
    let folder = TempDir::new().unwrap();
    let (consensus, before) = open(folder.path()).await;
    for n in 0..3 {
        propose_one(&consensus, proposal(&format!("r{n}"), n)).await;
    }
    consensus.shutdown().await;
    {
        let store = Store::open(&folder.path().join("store"), 1).unwrap();
        let mut batch = store::Batch::new(&store).unwrap();
        batch.delete_changes();
        batch.delete_meta(store::meta_key::APPLIED);
        batch.delete_meta(store::meta_key::COMMITTED);
        store.commit(batch, store::Durability::Synced).unwrap();
    }
    let (consensus, after) = open(folder.path()).await;
    assert_eq!(after.changes(), before.changes());
    consensus.shutdown().await;
}

#[tokio::test]
async fn another_nodes_directory_is_refused() {
    let folder = TempDir::new().unwrap();
    let (consensus, _) = open(folder.path()).await;
    consensus.shutdown().await;
    let opened = Consensus::open(folder.path(), 2, Box::new(Collected::default())).await;
    assert!(matches!(opened, Err(ConsensusError::Open(_))));
}

#[tokio::test]
async fn a_purged_log_and_its_snapshot_restore_everything() {
    let folder = TempDir::new().unwrap();
    let (consensus, before) = open(folder.path()).await;
    for n in 0..20 {
        propose_one(&consensus, proposal(&format!("r{n}"), n)).await;
    }
    let last = *consensus.revisions().borrow();
    consensus.raft.trigger().snapshot().await.unwrap();
    consensus
        .raft
        .wait(Some(READY))
        .metrics(|m| m.snapshot.is_some_and(|id| id.index >= last), "snapshot")
        .await
        .unwrap();
    consensus.raft.trigger().purge_log(last).await.unwrap();
    consensus.raft.wait(Some(READY)).metrics(|m| m.purged.is_some_and(|id| id.index >= last), "purged").await.unwrap();
    consensus.shutdown().await;
    let (consensus, after) = open(folder.path()).await;
    assert_eq!(after.changes(), before.changes());
    assert_eq!(propose_one(&consensus, proposal("after", 20)).await.outcome, Outcome::Applied);
    consensus.shutdown().await;
}

#[tokio::test]
async fn a_changed_snapshot_is_never_used() {
    let folder = TempDir::new().unwrap();
    let (store, machine) = recover(folder.path(), 1, Box::new(Collected::default())).unwrap();
    let (mut machine, mut log) = (machine, Log::new(store));
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, None);
    use openraft::{RaftSnapshotBuilder as _, storage::RaftStateMachine as _};
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert!(machine.get_current_snapshot().await.unwrap().is_some());
    let file = std::fs::read_dir(folder.path().join("snapshots")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    assert!(machine.get_current_snapshot().await.unwrap().is_none());
}

#[tokio::test]
async fn a_failed_disk_stops_the_node_and_loses_nothing_acknowledged() {
    let (folder, kept) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (consensus, before) = open(folder.path()).await;
    for n in 0..5 {
        propose_one(&consensus, proposal(&format!("r{n}"), n)).await;
    }
    let acknowledged = before.changes();
    let store = folder.path().join("store");
    // The database loses its directory: files it has open go on working, no new one can be made.
    std::fs::rename(&store, kept.path().join("store")).unwrap();
    consensus.store.break_for_test();
    let refused = consensus.propose(vec![proposal("late", 5)]).await;
    assert!(matches!(refused, Err(ConsensusError::Storage { .. })), "{refused:?}");
    assert!(matches!(consensus.failed().await, ConsensusError::Storage { .. }));
    assert!(!before.changes().iter().any(|change| change.events == proposal("late", 5).events));
    consensus.shutdown().await;

    let (again, after) = open(kept.path()).await;
    assert_eq!(after.changes(), acknowledged);
    again.shutdown().await;
}
