//! Snapshot files: a changed byte anywhere is noticed, and only this cluster's are used.

use std::io::Cursor;

use openraft::storage::RaftStateMachine as _;

use super::*;
use crate::{
    disk::{Disk as _, memory::MemoryDisk},
    fixture::{Node, TICK, birth, id, members},
};

async fn written(disk: &MemoryDisk) -> Node {
    let mut node = Node::open(disk.clone()).unwrap();
    node.apply(vec![members(0, &[1])]).await.unwrap();
    for (index, what) in (1..).zip([TICK, "a", TICK, TICK, "b", TICK, TICK, TICK, "c"]) {
        node.apply(vec![node.change(index, what)]).await.unwrap();
    }
    node
}

fn bytes(disk: &MemoryDisk) -> (String, Vec<u8>) {
    let name = disk.blob_list().unwrap().pop().unwrap();
    let mut bytes = Vec::new();
    disk.blob_open(&name).unwrap().read_to_end(&mut bytes).unwrap();
    (name, bytes)
}

fn verify(bytes: &[u8]) -> io::Result<u64> {
    Reader::open(Cursor::new(bytes))?.rows(|_| Ok(()))
}

#[tokio::test]
async fn a_snapshot_holds_what_counts_and_gives_the_same_root_elsewhere() {
    let (disk, other) = (MemoryDisk::default(), MemoryDisk::default());
    let mut node = written(&disk).await;
    let snapshot = node.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let mut elsewhere = Node::open(other.clone()).unwrap();
    elsewhere.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
    assert_eq!(elsewhere.machine.roots().newest(), node.machine.roots().newest());
    let kept = elsewhere.collected.changes();
    assert_eq!(kept.iter().map(|change| change.revision).collect::<Vec<_>>(), [2, 5, 8, 9]);
    assert_eq!(elsewhere.collected.version(), 9);
    // Both go on from there, and go on agreeing; each forgets what it finds void.
    for (index, what) in (10..).zip([TICK, "d", TICK]) {
        let entry = node.change(index, what);
        node.apply(vec![entry.clone()]).await.unwrap();
        elsewhere.apply(vec![entry]).await.unwrap();
    }
    elsewhere.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert_eq!(elsewhere.machine.roots().newest(), node.machine.roots().newest());
    for disk in [disk, other] {
        let again = Node::open(disk).unwrap();
        assert_eq!(again.machine.roots().newest(), node.machine.roots().newest());
    }
}

#[tokio::test]
async fn a_changed_byte_anywhere_is_noticed_and_so_is_a_missing_or_added_one() {
    let disk = MemoryDisk::default();
    written(&disk).await.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let (_, whole) = bytes(&disk);
    assert_eq!(verify(&whole).unwrap(), 4);
    for at in 0..whole.len() {
        for change in [1, 0x80] {
            let mut bytes = whole.clone();
            bytes[at] ^= change;
            verify(&bytes).unwrap_err();
        }
        verify(&whole[..at]).unwrap_err();
    }
    verify(&[whole.as_slice(), &[0]].concat()).unwrap_err();
}

#[tokio::test]
async fn a_checksum_does_not_stand_for_a_root() {
    let disk = MemoryDisk::default();
    let node = written(&disk).await;
    let applied = node.store.get(Family::Meta, meta_key::APPLIED).unwrap().unwrap();
    let applied: Applied = crate::format::decode(&applied).unwrap();
    let forged = Applied { root: vec![7; 32], ..applied };
    assert!(write_state(&node.store, header(&node.store, forged), Vec::new()).is_err());
}

#[tokio::test]
async fn a_damaged_snapshot_is_not_used_after_a_restart_and_another_can_be_made() {
    let disk = MemoryDisk::default();
    written(&disk).await.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let (name, _) = bytes(&disk);
    let mut node = Node::open(disk.clone()).unwrap();
    assert!(node.machine.get_current_snapshot().await.unwrap().is_some());
    disk.tamper_blob(&name, |bytes| bytes[40] ^= 1);
    let mut node = Node::open(disk.clone()).unwrap();
    assert!(node.machine.get_current_snapshot().await.unwrap().is_none());
    assert!(node.snapshots.arrived(&name).is_err());
    node.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    assert!(Node::open(disk).unwrap().machine.get_current_snapshot().await.unwrap().is_some());
}

#[tokio::test]
async fn a_snapshot_of_another_cluster_or_another_life_is_refused() {
    let disk = MemoryDisk::default();
    let mut node = written(&disk).await;
    node.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let (name, _) = bytes(&disk);
    for text in [birth().cluster_id, birth().incarnation] {
        let other = disk.crash(crate::disk::memory::Unsynced::Kept);
        let (key, wrong) = if text.len() == 32 {
            (meta_key::CLUSTER, birth().cluster_id.replace('a', "c"))
        } else {
            (meta_key::INCARNATION, birth().incarnation.replace('c', "a"))
        };
        other.tamper(Family::Meta, key.as_bytes(), Some(wrong.clone().into_bytes()));
        let birth = if text.len() == 32 {
            crate::Birth { cluster_id: wrong, ..birth() }
        } else {
            crate::Birth { incarnation: wrong, ..birth() }
        };
        let store = Store::open(Arc::new(other), birth).unwrap();
        let refused = Snapshots::open(store).arrived(&name).unwrap_err();
        assert!(refused.to_string().contains("another cluster"), "{refused}");
    }
}

#[tokio::test]
async fn a_snapshot_that_is_not_what_its_sender_said_changes_nothing() {
    let (disk, other) = (MemoryDisk::default(), MemoryDisk::default());
    let mut node = written(&disk).await;
    let snapshot = node.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let meta = raft::SnapshotMeta { last_log_id: Some(id(1, 10)), ..snapshot.meta };
    let mut elsewhere = Node::open(other.clone()).unwrap();
    assert!(elsewhere.machine.install_snapshot(&meta, snapshot.snapshot).await.is_err());
    let again = Node::open(other).unwrap();
    assert_eq!((again.machine.roots().newest().0, again.collected.changes().len()), (0, 0));
}

#[tokio::test]
async fn a_snapshot_made_while_a_newer_one_was_installed_gives_way_to_it() {
    let (disk, other) = (MemoryDisk::default(), MemoryDisk::default());
    let mut ahead = written(&other).await;
    let newer = ahead.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let mut node = Node::open(disk.clone()).unwrap();
    node.apply(vec![members(0, &[1])]).await.unwrap();
    node.apply(vec![node.change(1, TICK)]).await.unwrap();
    let mut builder = node.machine.get_snapshot_builder().await;
    node.machine.install_snapshot(&newer.meta, newer.snapshot).await.unwrap();
    let built = builder.build_snapshot().await.unwrap();
    assert_eq!(built.meta.last_log_id, newer.meta.last_log_id);
    assert_eq!(disk.blob_list().unwrap().len(), 1);
    assert_eq!(Node::open(disk).unwrap().machine.roots().newest(), ahead.machine.roots().newest());
}
