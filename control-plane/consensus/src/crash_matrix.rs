//! Every storage step × {failed, failed but stored} × {unsynced writes lost, kept}: after each, a start finds a node
//! that has everything it acknowledged, whose log has no hole and whose root is that of its changes.

use std::io;

use openraft::{
    RaftLogReader as _, RaftSnapshotBuilder as _,
    storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _},
};

use crate::{
    disk::{
        Family,
        memory::{Fault, MemoryDisk, Unsynced},
    },
    fixture::{Node, TICK, change, id, leaves, members, naive_root},
    machine::Change,
    raft,
    store::meta_key,
};

const FAULTS: [Fault; 2] = [Fault::Failed, Fault::FailedButStored];
const UNSYNCED: [Unsynced; 2] = [Unsynced::Lost, Unsynced::Kept];
/// More steps than any script has.
const STEPS_MAX: u64 = 200;

/// What a peer may rely on: the vote, and the log from its beginning.
#[derive(Clone, Debug, Default, PartialEq)]
struct Promise {
    vote: Option<raft::Vote>,
    purged: Option<raft::LogId>,
    entries: Vec<raft::Entry>,
}

impl Promise {
    async fn of(node: &mut Node) -> Self {
        let state = node.log.get_log_state().await.unwrap();
        let entries = node.log.try_get_log_entries(..).await.unwrap();
        let last = entries.last().map(|entry| entry.log_id).max(state.last_purged_log_id);
        assert_eq!(state.last_log_id, last);
        Self { vote: node.log.read_vote().await.unwrap(), purged: state.last_purged_log_id, entries }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Vote(u64),
    Append(Vec<raft::Entry>),
    Truncate(raft::LogId),
    Committed(raft::LogId),
    Apply(Vec<raft::Entry>),
    Snapshot,
    Purge(raft::LogId),
}

impl Step {
    async fn take(&self, node: &mut Node) -> io::Result<()> {
        match self.clone() {
            Self::Vote(term) => node.log.save_vote(&raft::Vote::new_committed(term, 1)).await,
            Self::Append(entries) => node.log.blocking_append(entries).await.map_err(io::Error::other),
            Self::Truncate(last) => node.log.truncate_after(Some(last)).await,
            Self::Committed(id) => node.log.save_committed(Some(id)).await,
            Self::Apply(entries) => node.apply(entries).await,
            Self::Snapshot => node.machine.get_snapshot_builder().await.build_snapshot().await.map(drop),
            Self::Purge(upto) => node.log.purge(upto).await,
        }
    }

    /// What is promised once the step is done.
    fn promise(&self, before: &Promise) -> Promise {
        let mut after = before.clone();
        match self {
            Self::Vote(term) => after.vote = Some(raft::Vote::new_committed(*term, 1)),
            Self::Append(entries) => after.entries.extend(entries.clone()),
            Self::Truncate(last) => after.entries.retain(|entry| entry.log_id <= *last),
            Self::Purge(upto) => {
                after.purged = Some(*upto);
                after.entries.retain(|entry| entry.log_id > *upto);
            }
            Self::Committed(_) | Self::Apply(_) | Self::Snapshot => {}
        }
        after
    }
}

fn script() -> Vec<Step> {
    let first = vec![members(0, &[1]), change(1, 0, TICK), change(2, 1, "a"), change(3, 2, TICK)];
    let second = vec![change(4, 3, TICK), change(5, 4, "b"), change(6, 5, TICK)];
    let third = vec![change(7, 6, "c"), change(8, 7, TICK)];
    let lost = vec![change(7, 6, "never committed"), change(8, 7, "neither")];
    vec![
        Step::Vote(1),
        Step::Append(first.clone()),
        Step::Committed(id(1, 3)),
        Step::Apply(first),
        Step::Append(second.clone()),
        Step::Apply(second),
        Step::Append(lost),
        Step::Truncate(id(1, 6)),
        Step::Snapshot,
        Step::Purge(id(1, 4)),
        Step::Append(third.clone()),
        Step::Committed(id(1, 8)),
        Step::Apply(third),
        Step::Snapshot,
        Step::Purge(id(1, 8)),
        Step::Vote(2),
    ]
}

/// What is in the state if nothing was forgotten, by revision.
fn all_changes() -> Vec<Change> {
    let all = script().into_iter().flat_map(|step| match step {
        Step::Apply(entries) => entries,
        _ => Vec::new(),
    });
    let change = |entry: raft::Entry| match entry.payload {
        raft::Payload::Normal(proposal) => Some(Change { revision: entry.log_id.index, events: proposal.events }),
        _ => None,
    };
    all.filter_map(change).collect()
}

/// The state is a beginning of the history, less void ticks, and the root says so.
fn verify_state(node: &Node) {
    let (version, root) = node.machine.roots().newest();
    let history = &all_changes()[..usize::try_from(version).unwrap()];
    let kept = node.collected.changes();
    assert_eq!(node.collected.version(), version);
    let last_tick = history.iter().rfind(|change| change.events == [TICK.as_bytes()]);
    for change in history {
        let needed = change.events != [TICK.as_bytes()] || Some(change) == last_tick;
        assert!(!needed || kept.contains(change), "{change:?} is missing");
    }
    assert!(kept.iter().all(|change| history.contains(change)), "{kept:?}");
    assert_eq!(root, root_of(version), "after {version} changes");
}

fn root_of(version: u64) -> [u8; 32] {
    let leaf = |(number, change): (u64, Change)| {
        let stored = crate::format::Change { events: change.events, number };
        crate::merkle::leaf(change.revision, &prost::Message::encode_to_vec(&stored))
    };
    let all: Vec<_> = (0..version).zip(all_changes()).map(leaf).collect();
    naive_root(&all)
}

/// Runs the script on a disk that may fail. Returns what is promised at least and at most.
async fn run(disk: &MemoryDisk) -> (Promise, Promise) {
    let mut promised = Promise::default();
    let Ok(mut node) = Node::open(disk.clone()) else { return (promised.clone(), promised) };
    for step in script() {
        let after = step.promise(&promised);
        if step.take(&mut node).await.is_err() {
            assert!(disk.failed());
            // Never again: nothing may be written over a log of which the end is unknown.
            assert!(node.log.save_vote(&raft::Vote::new(9, 1)).await.is_err());
            return (promised, after);
        }
        promised = after;
        // What is acknowledged survives a crash at this very moment.
        let mut crashed = Node::open(disk.crash(Unsynced::Lost)).unwrap();
        assert_eq!(Promise::of(&mut crashed).await, promised, "acknowledged before it was synced: {step:?}");
        verify_state(&crashed);
    }
    (promised.clone(), promised)
}

#[tokio::test]
async fn whatever_step_fails_nothing_acknowledged_is_lost() {
    for fault in FAULTS {
        for step in 1..STEPS_MAX {
            let disk = MemoryDisk::default();
            disk.fail_at(step, fault);
            let (least, most) = run(&disk).await;
            for unsynced in UNSYNCED {
                let found = disk.crash(unsynced);
                let mut node = Node::open(found.clone()).unwrap();
                let promise = Promise::of(&mut node).await;
                assert!(promise == least || promise == most, "step {step}, {fault:?}, {unsynced:?}: {promise:?}");
                verify_state(&node);
                // The next start is no different, and goes on.
                let mut again = Node::open(found.crash(Unsynced::Lost)).unwrap();
                assert_eq!(again.machine.roots().newest(), node.machine.roots().newest());
                again.log.save_vote(&raft::Vote::new_committed(9, 1)).await.unwrap();
            }
            if !disk.failed() {
                assert!(step > 20, "the script has more steps than that");
                break;
            }
            assert!(step + 1 < STEPS_MAX);
        }
    }
}

/// A node with some state of its own, and a snapshot further on from another node.
async fn behind_and_ahead() -> (MemoryDisk, raft::Snapshot) {
    let mut ahead = Node::open(MemoryDisk::default()).unwrap();
    ahead.log.save_vote(&raft::Vote::new_committed(1, 1)).await.unwrap();
    let whole = script().into_iter().filter_map(|step| match step {
        Step::Apply(entries) => Some(entries),
        _ => None,
    });
    let parts: Vec<_> = whole.collect();
    for part in parts.clone() {
        ahead.commit(part).await.unwrap();
    }
    // Both forget what is void, at different times.
    let snapshot = ahead.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let disk = MemoryDisk::default();
    let mut behind = Node::open(disk.clone()).unwrap();
    behind.log.save_vote(&raft::Vote::new_committed(1, 1)).await.unwrap();
    behind.commit(parts[0].clone()).await.unwrap();
    behind.machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    behind.log.blocking_append(parts[1].clone()).await.unwrap();
    (disk, snapshot)
}

#[tokio::test]
async fn a_crash_while_a_snapshot_is_installed_leaves_the_old_state_or_the_new_one() {
    for fault in FAULTS {
        for step in 1..STEPS_MAX {
            let (disk, snapshot) = behind_and_ahead().await;
            let mut node = Node::open(disk.clone()).unwrap();
            disk.fail_at(step, fault);
            let installed = node.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await;
            assert_eq!(installed.is_err(), disk.failed());
            if installed.is_err() {
                assert!(node.apply(vec![change(9, 8, "after")]).await.is_err(), "nothing is built on half a snapshot");
            }
            for unsynced in UNSYNCED {
                let found = disk.crash(unsynced);
                let mut node = Node::open(found.clone()).unwrap();
                verify_state(&node);
                let (applied, _) = node.machine.applied_state().await.unwrap();
                assert!(applied == Some(id(1, 3)) || applied == Some(id(1, 8)), "{applied:?}");
                assert!(installed.is_err() || applied == Some(id(1, 8)));
                assert!(found.rows(Family::Meta).iter().all(|(key, _)| key != meta_key::INSTALLING.as_bytes()));
                let files = crate::disk::Disk::blob_list(&found).unwrap();
                assert_eq!(files.len(), 1, "{files:?}");
                let kept = node.machine.get_current_snapshot().await.unwrap().unwrap();
                assert_eq!(kept.meta.last_log_id, applied);
            }
            if !disk.failed() {
                assert!(step > 4);
                break;
            }
            assert!(step + 1 < STEPS_MAX);
        }
    }
}

#[tokio::test]
async fn the_root_is_that_of_an_independent_computation() {
    let disk = MemoryDisk::default();
    let mut node = Node::open(disk.clone()).unwrap();
    for index in 1..70 {
        node.commit(vec![node.change(index, &format!("change {index}"))]).await.unwrap();
        assert_eq!(node.machine.roots().newest(), (index, naive_root(&leaves(&disk))));
    }
}
