//! Folding notices every change of what is stored; replicas that diverged stop; former members are remembered.

use super::*;
use crate::{
    disk::{
        Family,
        memory::{MemoryDisk, Unsynced},
    },
    fixture::{Node, TICK, change, members},
};
use openraft::RaftSnapshotBuilder as _;

async fn written() -> MemoryDisk {
    let disk = MemoryDisk::default();
    let mut node = Node::open(disk.clone()).unwrap();
    node.apply(vec![members(0, &[1])]).await.unwrap();
    for index in 1..12 {
        let what = if index % 3 == 0 { TICK.to_owned() } else { format!("change {index}") };
        node.apply(vec![node.change(index, &what)]).await.unwrap();
    }
    node.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    disk
}

fn assert_refused(disk: &MemoryDisk, why: &str) {
    let error = Node::open(disk.clone()).map(drop).unwrap_err();
    assert!(error.to_string().contains("this node must be rebuilt"), "{why}: {error}");
}

#[tokio::test]
async fn whatever_is_changed_in_what_is_stored_the_node_refuses_to_open() {
    let disk = written().await;
    let copy = || disk.crash(Unsynced::Kept);
    Node::open(copy()).map(drop).unwrap();
    for family in [Family::Events, Family::Tree] {
        let rows = disk.rows(family);
        assert!(rows.len() > 1, "{family:?}");
        for (key, value) in &rows {
            let damaged = copy();
            damaged.tamper(family, key, None);
            assert_refused(&damaged, "a row is gone");
            for at in 0..value.len() {
                let damaged = copy();
                let mut value = value.clone();
                value[at] ^= 1;
                damaged.tamper(family, key, Some(value));
                assert_refused(&damaged, "a bit has changed");
            }
        }
    }
    let added = copy();
    let extra = format::Change { events: vec![b"never applied".to_vec()], number: 11 };
    added.tamper(Family::Events, &12_u64.to_be_bytes(), Some(extra.encode_to_vec()));
    assert_refused(&added, "a change was added");
    let older = copy();
    older.tamper(Family::Meta, meta_key::APPLIED.as_bytes(), None);
    assert_refused(&older, "the record of progress is gone");
}

#[tokio::test]
async fn a_proposal_of_a_diverged_proposer_stops_the_node_before_anything_is_stored() {
    let disk = written().await;
    let mut node = Node::open(disk.clone()).unwrap();
    let (version, root) = node.machine.roots().newest();
    let stamped = |version, root: [u8; 32]| {
        let mut entry = change(12, 11, "next");
        if let raft::Payload::Normal(proposal) = &mut entry.payload {
            (proposal.root_version, proposal.root) = (version, root.to_vec());
        }
        entry
    };
    let before = disk.rows(Family::Events);
    let refused = node.apply(vec![stamped(version, [9; 32])]).await.unwrap_err();
    let diverged = node.machine.roots().diverged().unwrap();
    assert_eq!((diverged.version, diverged.own, diverged.revision), (version, root, 12));
    assert!(refused.get_ref().unwrap().downcast_ref::<crate::Diverged>().is_some());
    assert_eq!(disk.rows(Family::Events), before);
    assert!(node.apply(vec![stamped(version, root)]).await.is_err(), "it stays stopped");
    let mut again = Node::open(disk.clone()).unwrap();
    again.apply(vec![stamped(version, root)]).await.unwrap();
    assert_eq!(again.machine.roots().newest().0, version + 1);
}

#[tokio::test]
async fn who_was_a_member_is_remembered_across_restarts_and_snapshots() {
    let (disk, other) = (MemoryDisk::default(), MemoryDisk::default());
    let mut node = Node::open(disk.clone()).unwrap();
    let mut other = Node::open(other).unwrap();
    node.apply(vec![members(0, &[1]), members(1, &[1, 2, 3]), members(2, &[1, 3]), members(3, &[1, 3, 4])])
        .await
        .unwrap();
    let former = Roster { former: [2].into() };
    assert_eq!(*node.machine.roster().borrow(), former);
    let snapshot = node.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    other.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    assert_eq!(*other.machine.roster().borrow(), former);
    assert_eq!(*Node::open(disk).unwrap().machine.roster().borrow(), former);
}

#[tokio::test]
async fn a_long_run_of_entries_is_applied_in_parts() {
    let disk = MemoryDisk::default();
    let mut node = Node::open(disk.clone()).unwrap();
    let entries = (1..=3 * APPLY_AT_ONCE as u64).map(|index| change(index, index - 1, "x")).collect();
    node.apply(entries).await.unwrap();
    assert_eq!(node.collected.version(), 3 * APPLY_AT_ONCE as u64);
    let again = Node::open(disk).unwrap();
    assert_eq!(again.collected.changes(), node.collected.changes());
    assert_eq!(again.machine.roots().newest(), node.machine.roots().newest());
    assert_eq!(again.machine.roots().at(10), node.machine.roots().at(10));
    assert!(again.machine.roots().at(10).is_some());
}
