//! Holes and lost ends are noticed at start; one sync serves all that wait for it, and none is told before it ended.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use openraft::{storage::RaftLogStorageExt as _, type_config::TypeConfigExt as _};

use super::*;
use crate::{
    disk::{BlobWriter, Disk, Visit, Write, memory::MemoryDisk},
    fixture::{Node, birth, change, id, members},
};

async fn written() -> MemoryDisk {
    let disk = MemoryDisk::default();
    let mut node = Node::open(disk.clone()).unwrap();
    node.log.save_vote(&raft::Vote::new_committed(1, 1)).await.unwrap();
    let entries: Vec<raft::Entry> = (1..10).map(|index| change(index, index - 1, "x")).collect();
    node.commit([vec![members(0, &[1])], entries].concat()).await.unwrap();
    node.log.save_committed(Some(id(1, 9))).await.unwrap();
    node.log.purge(id(1, 3)).await.unwrap();
    disk
}

fn refusal(disk: &MemoryDisk) -> String {
    let text = Node::open(disk.clone()).map(drop).unwrap_err().to_string();
    assert!(text.contains("this node must be rebuilt"), "{text}");
    text
}

#[tokio::test]
async fn a_missing_entry_is_noticed_wherever_it_was() {
    for index in 5..9_u64 {
        let disk = written().await;
        disk.tamper(Family::Log, &index.to_be_bytes(), None);
        assert!(refusal(&disk).contains("hole"));
    }
    // The state holds what the first entry did, so the log may begin after it; not so when the state does not.
    let disk = written().await;
    disk.tamper(Family::Log, &4_u64.to_be_bytes(), None);
    Node::open(disk.clone()).map(drop).unwrap();
    let disk = written().await;
    disk.tamper(Family::Meta, meta_key::APPLIED.as_bytes(), None);
    for index in 1..10_u64 {
        disk.tamper(Family::Events, &index.to_be_bytes(), None);
    }
    Node::open(disk.clone()).map(drop).unwrap();
    disk.tamper(Family::Log, &4_u64.to_be_bytes(), None);
    assert!(refusal(&disk).contains("hole"));
}

#[tokio::test]
async fn a_lost_end_is_noticed() {
    let disk = written().await;
    disk.tamper(Family::Meta, meta_key::COMMITTED.as_bytes(), Some(format::Position::from(&id(1, 10)).encode_to_vec()));
    assert!(refusal(&disk).contains("ends before"));
}

#[tokio::test]
async fn a_vote_older_than_the_log_is_noticed() {
    let disk = written().await;
    disk.tamper(Family::Meta, meta_key::VOTE.as_bytes(), None);
    assert!(refusal(&disk).contains("vote"));
}

#[tokio::test]
async fn an_entry_in_the_place_of_another_is_noticed() {
    let disk = written().await;
    let stranger = format::Entry::from(change(7, 6, "x")).encode_to_vec();
    disk.tamper(Family::Log, &6_u64.to_be_bytes(), Some(stranger));
    assert!(refusal(&disk).contains("hole"));
}

#[tokio::test]
async fn another_birth_is_refused_and_starts_are_counted() {
    let disk = written().await;
    for starts in 2..5 {
        assert_eq!(Store::open(Arc::new(disk.clone()), birth()).unwrap().starts(), starts);
    }
    let (cluster_id, incarnation) = ("00".repeat(16), "00".repeat(8));
    let others = [
        crate::Birth { cluster_id, ..birth() },
        crate::Birth { incarnation, ..birth() },
        crate::Birth { node_id: 2, ..birth() },
    ];
    for other in others {
        let error = Store::open(Arc::new(disk.clone()), other).map(drop).unwrap_err();
        assert!(error.to_string().contains("belongs to node 1 of cluster"), "{error}");
    }
    let wrong = crate::Birth { cluster_id: "AB".repeat(16), ..birth() };
    assert!(Store::open(Arc::new(MemoryDisk::default()), wrong).is_err());
    assert_eq!(Store::open(Arc::new(disk), birth()).unwrap().starts(), 5, "a refusal is no start");
}

/// A disk on which a sync takes until the test lets it go.
#[derive(Debug)]
struct Slow {
    inner: MemoryDisk,
    syncs: AtomicU64,
    begun: mpsc::SyncSender<()>,
    release: std::sync::Mutex<mpsc::Receiver<bool>>,
}

impl Disk for Slow {
    fn get(&self, family: Family, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        self.inner.get(family, key)
    }
    fn last(&self, family: Family) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.inner.last(family)
    }
    fn scan(&self, family: Family, start: &[u8], visit: &mut Visit<'_>) -> io::Result<()> {
        self.inner.scan(family, start, visit)
    }
    fn write(&self, writes: Vec<Write>, durability: Durability) -> io::Result<()> {
        self.inner.write(writes, durability)
    }
    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::SeqCst);
        self.begun.send(()).unwrap();
        let works = self.release.lock().unwrap().recv().unwrap();
        if works { self.inner.sync() } else { Err(io::Error::other("the disk has failed")) }
    }
    fn blob_create(&self, name: &str) -> io::Result<Box<dyn BlobWriter>> {
        self.inner.blob_create(name)
    }
    fn blob_open(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        self.inner.blob_open(name)
    }
    fn blob_list(&self) -> io::Result<Vec<String>> {
        self.inner.blob_list()
    }
    fn blob_remove(&self, name: &str) -> io::Result<()> {
        self.inner.blob_remove(name)
    }
}

/// A log on a slow disk; signs of syncs that began; and what lets them end.
fn slow() -> (Log, Arc<Slow>, mpsc::Receiver<()>, mpsc::Sender<bool>) {
    let ((begun, began), (go, release)) = (mpsc::sync_channel(64), mpsc::channel());
    let syncs = AtomicU64::new(0);
    let disk = Arc::new(Slow { inner: MemoryDisk::default(), syncs, begun, release: release.into() });
    (Log::new(Store::open(Arc::clone(&disk) as Arc<dyn Disk>, birth()).unwrap()), disk, began, go)
}

type Answer = openraft::type_config::alias::OneshotReceiverOf<Types, Result<(), io::Error>>;

async fn append(log: &mut Log, index: u64) -> Answer {
    let (sender, answer) = Types::oneshot();
    log.append([change(index, 0, "x")], IOFlushed::signal(sender)).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sync_serves_all_that_wait_and_nobody_is_told_before_it_ends() {
    let (mut log, disk, began, go) = slow();
    let mut first = append(&mut log, 1).await;
    began.recv().unwrap();
    let mut rest = Vec::new();
    for index in 2..=64 {
        rest.push(append(&mut log, index).await);
    }
    // Written and readable, but promised to nobody.
    assert_eq!(log.try_get_log_entries(1..65).await.unwrap().len(), 64);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut first).await.is_err());
    assert!(disk.inner.crash(crate::disk::memory::Unsynced::Lost).rows(Family::Log).is_empty());
    go.send(true).unwrap();
    first.await.unwrap().unwrap();
    began.recv().unwrap();
    let mut second = rest.remove(0);
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut second).await.is_err(), "it began before");
    go.send(true).unwrap();
    second.await.unwrap().unwrap();
    for answer in rest {
        answer.await.unwrap().unwrap();
    }
    assert_eq!(disk.syncs.load(Ordering::SeqCst), 2);
    assert_eq!(disk.inner.crash(crate::disk::memory::Unsynced::Lost).rows(Family::Log).len(), 64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_is_told_to_all_and_nothing_is_written_after_it() {
    let (mut log, disk, began, go) = slow();
    let first = append(&mut log, 1).await;
    began.recv().unwrap();
    let second = append(&mut log, 2).await;
    go.send(false).unwrap();
    assert!(first.await.unwrap().is_err());
    assert!(second.await.unwrap().is_err());
    let before = disk.inner.rows(Family::Log);
    assert!(log.blocking_append([change(3, 0, "x")]).await.is_err());
    assert!(log.save_vote(&raft::Vote::new(3, 1)).await.is_err());
    assert!(log.truncate_after(None).await.is_err());
    assert!(log.purge(id(1, 1)).await.is_err());
    assert_eq!(disk.inner.rows(Family::Log), before);
    assert_eq!(disk.syncs.load(Ordering::SeqCst), 1);
}
