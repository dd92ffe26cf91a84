//! Backups: everything comes back, nothing changed gets in, and the new life is told from the old one.

use std::io::Cursor;

use openraft::{
    RaftSnapshotBuilder as _,
    storage::{RaftLogStorage as _, RaftStateMachine as _},
};

use super::*;
use crate::{
    disk::memory::{Fault, MemoryDisk, Unsynced},
    fixture::{Collected, Node, TICK, birth, id, members},
    log::Log,
    machine::Machine,
};

fn new_birth() -> Birth {
    Birth { incarnation: "99".repeat(8), node_id: 8, ..birth() }
}

fn new_member() -> Member {
    Member { name: "restored".to_owned(), ..Member::default() }
}

async fn node(disk: &MemoryDisk) -> Node {
    let mut node = Node::open(disk.clone()).unwrap();
    node.apply(vec![members(0, &[1, 2]), members(1, &[1, 2, 3])]).await.unwrap();
    for (index, what) in (2..).zip([TICK, "a", TICK, TICK, "b", TICK, "c"]) {
        node.apply(vec![node.change(index, what)]).await.unwrap();
        if index == 5 {
            node.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
        }
    }
    node
}

async fn backup(node: &Node) -> (Vec<u8>, BackupSummary) {
    let mut bytes = Vec::new();
    let summary = write(&node.store, &node.snapshots, 1_700_000_000_000, &mut bytes).unwrap();
    (bytes, summary)
}

fn open(disk: &MemoryDisk, birth: Birth) -> io::Result<(Log, Machine, Collected)> {
    let (store, collected) = (Store::open(Arc::new(disk.clone()), birth)?, Collected::default());
    let machine = Machine::recover(store.clone(), Snapshots::open(store.clone()), Box::new(collected.clone()))?;
    Log::check(&store)?;
    Ok((Log::new(store), machine, collected))
}

fn restore_to(disk: &MemoryDisk, bytes: &[u8]) -> io::Result<BackupSummary> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    restore(Cursor::new(bytes), &disk, &new_birth(), new_member())
}

#[tokio::test]
async fn a_restored_cluster_has_everything_and_one_member() {
    let source = MemoryDisk::default();
    let node = node(&source).await;
    let (bytes, summary) = backup(&node).await;
    assert_eq!(summary, verify_backup(Cursor::new(&bytes)).unwrap());
    let (version, root) = node.machine.roots().newest();
    assert_eq!((summary.version, summary.root, summary.revision), (version, root, 8));
    assert_eq!(
        (summary.cluster_id.as_str(), summary.created_unix_ms),
        (birth().cluster_id.as_str(), 1_700_000_000_000)
    );
    assert_eq!(summary.members.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);

    let disk = MemoryDisk::default();
    assert_eq!(restore_to(&disk, &bytes).unwrap(), summary);
    let disk = disk.crash(Unsynced::Lost);
    assert_eq!(Birth::read(&disk).unwrap(), Some(new_birth()));
    let (mut log, mut machine, collected) = open(&disk, new_birth()).unwrap();
    assert_eq!(machine.roots().newest(), (version, root));
    let expected = Node::open(source).unwrap().collected.changes();
    assert_eq!(collected.changes(), expected);
    let (applied, members) = machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(id(1, 8)));
    let nodes: Vec<_> = members.membership().nodes().collect();
    assert_eq!(nodes, [(&8, &new_member())]);
    assert_eq!(machine.roster().borrow().former, [1, 2, 3].into());
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (applied, applied));
}

#[tokio::test]
async fn a_changed_byte_anywhere_is_refused_and_leaves_nothing_to_open() {
    let (bytes, _) = backup(&node(&MemoryDisk::default()).await).await;
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 4;
        verify_backup(Cursor::new(&changed)).unwrap_err();
        let disk = MemoryDisk::default();
        restore_to(&disk, &changed).unwrap_err();
        assert!(open(&disk, new_birth()).map(drop).unwrap_err().to_string().contains("restore the backup again"));
        verify_backup(Cursor::new(&bytes[..at])).unwrap_err();
    }
}

#[tokio::test]
async fn a_restore_that_was_interrupted_can_be_done_again() {
    let (bytes, summary) = backup(&node(&MemoryDisk::default()).await).await;
    for fault in [Fault::Failed, Fault::FailedButStored] {
        for step in 1.. {
            let disk = MemoryDisk::default();
            disk.fail_at(step, fault);
            let restored = restore_to(&disk, &bytes);
            for unsynced in [Unsynced::Lost, Unsynced::Kept] {
                let found = disk.crash(unsynced);
                let opened = matches!(Birth::read(&found), Ok(Some(_)));
                assert!(opened || restored.is_err());
                if !opened {
                    assert_eq!(restore_to(&found, &bytes).unwrap(), summary);
                }
                let (_, machine, _) = open(&found, new_birth()).unwrap();
                assert_eq!(machine.roots().newest(), (summary.version, summary.root));
            }
            if restored.is_ok() {
                assert!(step > 2);
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_backup_goes_into_an_empty_directory_of_the_same_cluster_and_a_new_life() {
    let source = MemoryDisk::default();
    let (bytes, _) = backup(&node(&source).await).await;
    let before = source.crash(Unsynced::Kept);
    let refused = restore_to(&source, &bytes).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(source.rows(Family::Events), before.rows(Family::Events));
    let wrong = [
        (Birth { incarnation: birth().incarnation, ..new_birth() }, "new incarnation"),
        (Birth { cluster_id: "00".repeat(16), ..new_birth() }, "another cluster"),
    ];
    for (birth, why) in wrong {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let refused = restore(Cursor::new(&bytes), &disk, &birth, new_member()).unwrap_err();
        assert!(refused.to_string().contains(why), "{refused}");
    }
}

#[tokio::test]
async fn nothing_can_be_backed_up_before_anything_was_applied() {
    let node = Node::open(MemoryDisk::default()).unwrap();
    assert!(write(&node.store, &node.snapshots, 0, Vec::new()).is_err());
}

const READY: std::time::Duration = std::time::Duration::from_secs(10);

async fn run(disk: Arc<dyn Disk>, birth: Birth, collected: &Collected) -> crate::Consensus {
    let options = crate::Options {
        disk,
        birth,
        transport: Arc::new(crate::Alone),
        applier: Box::new(collected.clone()),
        timers: crate::Timers::default(),
        log_length: crate::LogLength::default(),
    };
    crate::Consensus::open(options).await.unwrap()
}

fn rocks(folder: &tempfile::TempDir) -> Arc<dyn Disk> {
    Arc::new(crate::RocksDisk::open(folder.path()).unwrap())
}

async fn propose(consensus: &crate::Consensus, expected_version: u64) {
    let events = vec![format!("change {expected_version}").into_bytes()];
    let proposal = crate::Proposal { expected_version, events, ..crate::Proposal::default() };
    assert_eq!(consensus.propose(vec![proposal]).await.unwrap()[0].outcome, crate::Outcome::Applied);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_node_is_backed_up_and_a_new_cluster_goes_on_from_there() {
    let (folder, other, before, after) =
        (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), Collected::default(), Collected::default());
    let consensus = run(rocks(&folder), birth(), &before).await;
    consensus.initialize(Member::default()).await.unwrap();
    consensus.ready(READY).await.unwrap();
    for version in 0..20 {
        propose(&consensus, version).await;
    }
    consensus.linearizable().await.unwrap();
    let mut bytes = Vec::new();
    let summary = consensus.backup(7, &mut bytes).unwrap();
    assert_eq!((summary.version, summary.root), consensus.root());
    // What came after the backup is not in it.
    propose(&consensus, 20).await;
    let root = consensus.root_at(20);
    consensus.shutdown().await;

    restore(Cursor::new(&bytes), &rocks(&other), &new_birth(), new_member()).unwrap();
    let restored = run(rocks(&other), new_birth(), &after).await;
    restored.ready(READY).await.unwrap();
    assert_eq!(restored.root(), (20, root.unwrap()));
    assert_eq!(after.changes(), before.changes()[..20]);
    for version in 20..25 {
        propose(&restored, version).await;
    }
    assert_eq!(restored.root().0, 25);
    let revisions: Vec<u64> = after.changes().iter().map(|change| change.revision).collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "revisions go on rising: {revisions:?}");
    restored.shutdown().await;
    let again = run(rocks(&other), new_birth(), &Collected::default()).await;
    again.ready(READY).await.unwrap();
    assert_eq!(again.root().0, 25);
    again.shutdown().await;
}
