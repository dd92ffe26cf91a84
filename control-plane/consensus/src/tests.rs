//! The library's own store suite, and what the facade promises across stops of every kind.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use openraft::{
    StorageError,
    storage::RaftLogStorage as _,
    testing::log::{StoreBuilder, Suite},
};
use tempfile::TempDir;

use super::*;

const READY: Duration = Duration::from_secs(10);

/// Keeps what it is given, as the domain would. Of the changes by `TICK` only the last counts.
#[derive(Clone, Default)]
struct Collected(Arc<Mutex<(Vec<Change>, u64)>>);

const TICK: &str = "tick";

impl Collected {
    fn changes(&self) -> Vec<Change> {
        self.0.lock().unwrap().0.clone()
    }
    fn version(&self) -> u64 {
        self.0.lock().unwrap().1
    }
}

impl Applier for Collected {
    fn reset(&mut self) {
        self.0.lock().unwrap().0.clear();
    }
    fn apply(&mut self, change: &Change) -> io::Result<Option<u64>> {
        let changes = &mut self.0.lock().unwrap().0;
        let is_tick = |change: &&Change| change.events == proposal(TICK, 0).events;
        let void = changes.iter().rev().find(is_tick).filter(|_| is_tick(&change)).map(|earlier| earlier.revision);
        changes.push(change.clone());
        Ok(void)
    }
    fn publish(&mut self, version: u64) {
        self.0.lock().unwrap().1 = version;
    }
}

fn proposal(what: &str, expected_version: u64) -> Proposal {
    let events = vec![format!("{{\"of\":\"{what}\"}}").into_bytes()];
    Proposal { expected_version, events, ..Proposal::default() }
}

async fn open(folder: &Path) -> (Consensus, Collected) {
    let collected = Collected::default();
    let consensus = Consensus::open(options(folder, 1, &collected)).await.unwrap();
    if !consensus.is_initialized().await.unwrap() {
        consensus.initialize(Member::default()).await.unwrap();
    }
    consensus.ready(READY).await.unwrap();
    (consensus, collected)
}

fn birth(node_id: u64) -> Birth {
    Birth { cluster_id: "0".repeat(32), incarnation: "0".repeat(16), node_id }
}

fn options(folder: &Path, node_id: u64, collected: &Collected) -> Options {
    Options {
        disk: Arc::new(RocksDisk::open(folder).unwrap()),
        birth: birth(node_id),
        transport: Arc::new(Alone),
        applier: Box::new(collected.clone()),
        timers: Timers::default(),
        log_length: LogLength::default(),
    }
}

fn recover(folder: &Path, applier: Box<dyn Applier>) -> io::Result<(Store, Machine)> {
    let store = Store::open(Arc::new(RocksDisk::open(folder)?), birth(1))?;
    let machine = Machine::recover(store.clone(), Snapshots::open(store.clone()), applier)?;
    Log::check(&store)?;
    Ok((store, machine))
}

async fn propose_one(consensus: &Consensus, proposal: Proposal) -> Committed {
    consensus.propose(vec![proposal]).await.unwrap()[0]
}

struct Builder;

impl StoreBuilder<Types, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<Types>> {
        let folder = TempDir::new().unwrap();
        let (store, machine) = recover(folder.path(), Box::new(Collected::default())).unwrap();
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

/// A writer decides on what it has on its way. If that does not happen, but somebody else's change makes up the number,
/// the version alone would not tell.
#[tokio::test]
async fn what_was_decided_on_a_proposal_on_its_way_takes_effect_only_after_that_very_one() {
    let folder = TempDir::new().unwrap();
    let (consensus, _) = open(folder.path()).await;
    let of = |chain, what: &str, base_version, expected_version| Proposal {
        base_version,
        chain,
        ..proposal(what, expected_version)
    };
    // (chain, decided on, expects, takes effect)
    let steps = [
        (7, 0, 0, true),
        (7, 0, 1, true),
        (0, 0, 2, true),
        (7, 2, 2, false),
        (7, 2, 3, false),
        (7, 3, 3, true),
        (7, 3, 4, true),
        (8, 4, 5, false),
        (7, 2, 5, false),
    ];
    for (number, (chain, base, expected, takes_effect)) in steps.into_iter().enumerate() {
        let outcome = propose_one(&consensus, of(chain, &format!("s{number}"), base, expected)).await.outcome;
        assert_eq!(outcome == Outcome::Applied, takes_effect, "step {number}");
    }
    consensus.shutdown().await;
    // Every replica must know the chain, so a restart does not forget it.
    let (consensus, _) = open(folder.path()).await;
    assert_eq!(propose_one(&consensus, of(7, "late", 4, 5)).await.outcome, Outcome::Applied);
    assert!(matches!(propose_one(&consensus, of(8, "other", 5, 6)).await.outcome, Outcome::Conflict { version: 6 }));
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
        let store = open_store(folder.path());
        let mut batch = store::Batch::default();
        batch.delete_changes();
        batch.delete_meta(store::meta_key::APPLIED);
        batch.delete_meta(store::meta_key::COMMITTED);
        store.commit(batch, Durability::Synced).unwrap();
    }
    let (consensus, after) = open(folder.path()).await;
    assert_eq!(after.changes(), before.changes());
    consensus.shutdown().await;
}

fn open_store(folder: &Path) -> Store {
    let birth = Birth { cluster_id: "0".repeat(32), incarnation: "0".repeat(16), node_id: 1 };
    Store::open(Arc::new(RocksDisk::open(folder).unwrap()), birth).unwrap()
}

#[tokio::test]
async fn another_nodes_directory_is_refused() {
    let folder = TempDir::new().unwrap();
    let (consensus, _) = open(folder.path()).await;
    consensus.shutdown().await;
    let opened = Consensus::open(options(folder.path(), 2, &Collected::default())).await;
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
    snapshot(&consensus).await;
    consensus.raft.trigger().purge_log(last).await.unwrap();
    consensus.raft.wait(Some(READY)).metrics(|m| m.purged.is_some_and(|id| id.index >= last), "purged").await.unwrap();
    consensus.shutdown().await;
    let (consensus, after) = open(folder.path()).await;
    assert_eq!(after.changes(), before.changes());
    assert_eq!(propose_one(&consensus, proposal("after", 20)).await.outcome, Outcome::Applied);
    consensus.shutdown().await;
}

async fn snapshot(consensus: &Consensus) {
    let last = *consensus.revisions().borrow();
    consensus.raft.trigger().snapshot().await.unwrap();
    let made = consensus.raft.wait(Some(READY));
    made.metrics(|m| m.snapshot.is_some_and(|id| id.index >= last), "snapshot").await.unwrap();
}

#[tokio::test]
async fn void_changes_are_forgotten_with_a_snapshot_and_still_count() {
    let folder = TempDir::new().unwrap();
    let (consensus, before) = open(folder.path()).await;
    for (version, what) in (0..).zip([TICK, "a", TICK, TICK, "b", TICK]) {
        assert_eq!(propose_one(&consensus, proposal(what, version)).await.outcome, Outcome::Applied);
    }
    let live: Vec<Change> = [1, 4, 5].into_iter().map(|at| before.changes()[at].clone()).collect();
    snapshot(&consensus).await;
    consensus.shutdown().await;
    for version in [6, 7] {
        let (consensus, after) = open(folder.path()).await;
        assert_eq!(after.version(), version, "a decision names the version it met");
        let expected = live.iter().filter(|change| version == 6 || change.events != proposal(TICK, 0).events);
        let kept = after.changes();
        assert!(expected.clone().all(|change| kept.contains(change)), "{kept:?}");
        assert_eq!(kept.len(), 3);
        // What was void before this start is found again at this start.
        assert_eq!(propose_one(&consensus, proposal(TICK, version)).await.outcome, Outcome::Applied);
        snapshot(&consensus).await;
        consensus.shutdown().await;
    }
}

/// By default RocksDB goes on without what lies behind a damaged write, as if it had never been acknowledged.
#[tokio::test]
async fn a_changed_byte_is_noticed_or_harmless_in_every_file() {
    let folder = TempDir::new().unwrap();
    let mut written = Vec::new();
    // Each start moves what the one before logged into a table.
    for round in 0..2 {
        let (consensus, collected) = open(folder.path()).await;
        for n in 0..20 {
            propose_one(&consensus, proposal(&format!("r{round}-{n}"), round * 20 + n)).await;
        }
        written = collected.changes();
        consensus.shutdown().await;
    }
    let mut noticed = BTreeMap::new();
    for entry in std::fs::read_dir(folder.path().join("store")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let whole = std::fs::read(&path).unwrap();
        for part in 0..8 {
            let Some(at) = (whole.len() * part / 8).checked_sub(usize::from(part == 7)) else { continue };
            let copy = TempDir::new().unwrap();
            copy_all(&folder.path().join("store"), &copy.path().join("store"));
            let mut bytes = whole.clone();
            let Some(byte) = bytes.get_mut(at) else { continue };
            *byte ^= 1;
            std::fs::write(copy.path().join("store").join(&name), bytes).unwrap();
            let collected = Collected::default();
            match recover(copy.path(), Box::new(collected.clone())) {
                Ok((store, _)) => {
                    let applied = collected.changes();
                    let logged =
                        Log::new(store).get_log_state().await.map(|state| state.last_log_id.map(|id| id.index));
                    let last = written.last().map(|change| change.revision);
                    assert!(
                        logged.is_err() || logged.unwrap() >= last,
                        "{name} at {at}: acknowledged entries are gone"
                    );
                    assert_eq!(applied, written, "{name} at {at}");
                }
                Err(_) => *noticed.entry(path.extension().map(|ending| ending.to_owned())).or_insert(0) += 1,
            }
        }
    }
    let of = |ending: &str| noticed.get(&Some(ending.into())).copied().unwrap_or(0);
    assert!(of("log") > 4 && of("sst") > 4, "{noticed:?}");
}

fn copy_all(from: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

#[tokio::test]
async fn a_write_cut_short_by_a_crash_is_none() {
    let folder = TempDir::new().unwrap();
    let (consensus, before) = open(folder.path()).await;
    for n in 0..5 {
        propose_one(&consensus, proposal(&format!("r{n}"), n)).await;
    }
    consensus.shutdown().await;
    let is_log = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "log");
    let files = std::fs::read_dir(folder.path().join("store")).unwrap().map(|entry| entry.unwrap().path());
    let path = files.filter(is_log).max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
    let (consensus, after) = open(folder.path()).await;
    assert_eq!(after.changes(), before.changes());
    consensus.shutdown().await;
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
    // It must write a table now and cannot, as on a full disk.
    consensus.store.disk().compact(Family::Events).unwrap();
    let refused = consensus.propose(vec![proposal("late", 5)]).await;
    assert!(matches!(refused, Err(ConsensusError::Storage { .. })), "{refused:?}");
    assert!(matches!(consensus.failed().await, ConsensusError::Storage { .. }));
    assert!(!before.changes().iter().any(|change| change.events == proposal("late", 5).events));
    consensus.shutdown().await;

    let (again, after) = open(kept.path()).await;
    assert_eq!(after.changes(), acknowledged);
    again.shutdown().await;
}
