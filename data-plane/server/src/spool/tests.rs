//! The storage contract, step by step: crashes at every byte, every disk operation failing, freeing, watermarks.

use std::{fs, sync::atomic::Ordering};

use super::{
    disk::RealDisk,
    fault_disk::{FaultDisk, Faults},
    *,
};

const MIB: u64 = 1024 * 1024;

fn open(dir: &Path) -> (Spool, Vec<RecoveredEpoch>) {
    Spool::open(Arc::new(RealDisk), dir, 16 * MIB).unwrap()
}

fn recovered_whole(epoch: u64, end: u64, cut_bytes: u64) -> RecoveredEpoch {
    RecoveredEpoch { epoch, runs: std::iter::once(0..end).collect(), cut_bytes }
}

fn records(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| format!("record {index} {}", "x".repeat(index % 7)).into_bytes()).collect()
}

fn content(spool: &Spool, epoch: u64, from: u64) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let batch = spool.read(epoch, from + all.len() as u64, 64).unwrap()
        && !batch.is_empty()
    {
        all.extend(batch.iter().map(|record| record.to_vec()));
    }
    all
}

fn segment_paths(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn faulty(dir: &Path) -> (Spool, Arc<Faults>) {
    let disk = FaultDisk::default();
    let faults = Arc::clone(&disk.0);
    let (mut spool, _) = Spool::open(Arc::new(disk), dir, 16 * MIB).unwrap();
    spool.begin(7).unwrap();
    (spool, faults)
}

#[test]
fn what_was_appended_is_read_back_and_survives_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, recovered) = open(dir.path());
    assert_eq!(recovered, []);
    spool.begin(7).unwrap();
    assert_eq!(spool.append(&records(3)).unwrap(), 0..3);
    assert_eq!(spool.append(&records(5)[3..]).unwrap(), 3..5);
    assert_eq!(content(&spool, 7, 0), records(5));
    assert_eq!(content(&spool, 7, 2), records(5)[2..]);
    drop(spool);
    let (spool, recovered) = open(dir.path());
    assert_eq!(recovered, [recovered_whole(7, 5, 0)]);
    assert_eq!(content(&spool, 7, 0), records(5));
}

#[test]
fn a_crash_at_any_byte_of_the_last_frame_leaves_exactly_the_frames_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    spool.begin(7).unwrap();
    spool.append(&records(4)).unwrap();
    let before = spool.bytes();
    spool.append(&[b"the last one".to_vec()]).unwrap();
    drop(spool);
    let path = segment_paths(dir.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    for cut in usize::try_from(before).unwrap()..whole.len() {
        for tail in [&[][..], &[0; 40], &[0xff; 9]] {
            fs::write(&path, [&whole[..cut], tail].concat()).unwrap();
            let (mut spool, recovered) = open(dir.path());
            let cut_bytes = (cut + tail.len()) as u64 - before;
            assert_eq!(recovered, [recovered_whole(7, 4, cut_bytes)], "cut at {cut}");
            assert_eq!(content(&spool, 7, 0), records(4));
            assert_eq!(fs::metadata(&path).unwrap().len(), before, "the torn tail is gone");
            spool.begin(8).unwrap();
        }
    }
}

#[test]
fn a_flipped_bit_never_yields_a_changed_record() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    spool.begin(7).unwrap();
    spool.append(&records(3)).unwrap();
    drop(spool);
    let path = segment_paths(dir.path()).remove(0);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 0x10;
        fs::write(&path, damaged).unwrap();
        let (spool, _) = open(dir.path());
        let found = content(&spool, 7, 0);
        assert!(found.len() < 3 && found == records(3)[..found.len()], "bit at byte {at}");
    }
}

#[test]
fn a_short_write_is_rolled_back_and_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, faults) = faulty(dir.path());
    spool.append(&records(2)).unwrap();
    let bytes = spool.bytes();
    for kept in [1, 4, 8, 9, 1000] {
        faults.short_write.store(kept, Ordering::SeqCst);
        assert!(matches!(spool.append(&[b"refused"]), Err(SpoolError::ShortWrite)));
        assert_eq!(fs::metadata(&segment_paths(dir.path())[0]).unwrap().len(), bytes);
    }
    assert_eq!(spool.append(&[b"accepted"]).unwrap(), 2..3, "the number of a refused record is used again");
    assert_eq!(content(&spool, 7, 2), [b"accepted"]);
}

#[test]
fn a_full_disk_refuses_and_recovers_when_there_is_room_again() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, faults) = faulty(dir.path());
    faults.create_fails.store(true, Ordering::SeqCst);
    assert!(matches!(spool.append(&records(1)), Err(SpoolError::Write(_))));
    faults.create_fails.store(false, Ordering::SeqCst);
    faults.out_of_space.store(true, Ordering::SeqCst);
    assert!(matches!(spool.append(&records(1)), Err(SpoolError::Write(_))));
    faults.out_of_space.store(false, Ordering::SeqCst);
    assert_eq!(spool.append(&records(1)).unwrap(), 0..1);
}

#[test]
fn a_write_that_can_be_neither_finished_nor_undone_stops_the_spool() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, faults) = faulty(dir.path());
    spool.append(&records(2)).unwrap();
    faults.short_write.store(5, Ordering::SeqCst);
    faults.truncate_fails.store(true, Ordering::SeqCst);
    assert!(spool.append(&[b"torn"]).is_err());
    assert!(matches!(spool.append(&[b"next"]), Err(SpoolError::Poisoned)));
    assert_eq!(spool.fill(), Fill::Full);
    drop(spool);
    assert_eq!(content(&open(dir.path()).0, 7, 0), records(2));
}

#[tokio::test]
async fn waiters_of_one_moment_share_one_sync_and_new_segments_sync_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, faults) = faulty(dir.path());
    spool.append(&records(10)).unwrap();
    let sync = spool.sync();
    let waits = (0..10).map(|seq| sync.sync_to(seq));
    assert!(futures::future::join_all(waits).await.into_iter().all(|done| done.is_ok()));
    assert!(faults.syncs.load(Ordering::SeqCst) <= 2);
    assert_eq!(faults.dir_syncs.load(Ordering::SeqCst), 1);
    spool.append(&[b"later"]).unwrap();
    sync.sync_to(10).await.unwrap();
    assert_eq!(faults.dir_syncs.load(Ordering::SeqCst), 1, "an old segment's entry is durable already");
}

#[tokio::test]
async fn after_a_failed_sync_nothing_counts_as_durable_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, faults) = faulty(dir.path());
    spool.append(&records(1)).unwrap();
    faults.sync_fails.store(true, Ordering::SeqCst);
    assert!(matches!(spool.sync().sync_to(0).await, Err(SpoolError::SyncFailed)));
    faults.sync_fails.store(false, Ordering::SeqCst);
    assert!(matches!(spool.sync().sync_to(0).await, Err(SpoolError::SyncFailed)));
    assert!(matches!(spool.append(&records(1)), Err(SpoolError::Poisoned)));
}

#[test]
fn whole_segments_are_freed_once_everything_in_them_is_covered() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(Arc::new(RealDisk), dir.path(), 512 * 1024).unwrap();
    spool.begin(7).unwrap();
    let record = vec![b'x'; 10_000];
    for _ in 0..20 {
        spool.append(&[&record]).unwrap();
    }
    let files = segment_paths(dir.path()).len();
    assert!(files >= 3, "{files}");
    let first_end = spool.segments[0].next();
    spool.free(7, first_end - 2).unwrap();
    assert_eq!(segment_paths(dir.path()).len(), files, "one record of the segment is not covered");
    spool.free(7, first_end - 1).unwrap();
    assert_eq!(segment_paths(dir.path()).len(), files - 1);
    assert_eq!(spool.first_held(7, 0), Some(first_end));
    spool.free(7, 19).unwrap();
    assert_eq!(segment_paths(dir.path()).len(), 1, "the segment being written stays");
    assert_eq!(spool.append(&[&record]).unwrap(), 20..21);
    drop(spool);
    let (mut spool, recovered) = open(dir.path());
    assert_eq!(recovered[0].runs.last().unwrap().end, 21);
    spool.begin(9).unwrap();
    spool.free(7, 20).unwrap();
    assert_eq!((segment_paths(dir.path()).len(), spool.bytes()), (0, 0), "older epochs are freed to the end");
}

#[test]
fn watermarks_say_pressure_then_full_and_keep_a_reserve_for_outcomes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(Arc::new(RealDisk), dir.path(), 100 * 1024).unwrap();
    spool.begin(7).unwrap();
    let record = vec![b'x'; 1024 - frame::FRAME_HEADER_BYTES];
    let mut seen = Vec::new();
    while spool.append(&[&record]).is_ok() {
        seen.push(spool.fill());
    }
    let count = |fill| seen.iter().filter(|seen| **seen == fill).count();
    assert_eq!((count(Fill::Room), count(Fill::Pressure), count(Fill::Full)), (79, 20, 13));
    assert!(matches!(spool.append(&[&record]), Err(SpoolError::Full)));
}

#[test]
fn damage_in_the_middle_shows_as_a_hole_and_later_records_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = Spool::open(Arc::new(RealDisk), dir.path(), 512 * 1024).unwrap();
    spool.begin(7).unwrap();
    for _ in 0..8 {
        spool.append(&[vec![b'x'; 10_000]]).unwrap();
    }
    let second = spool.segments[1].first;
    drop(spool);
    let path = segment_paths(dir.path()).remove(0);
    let mut bytes = fs::read(&path).unwrap();
    bytes[10_020] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (spool, recovered) = open(dir.path());
    assert_eq!(recovered[0].runs, [0..1, second..8]);
    assert_eq!(spool.first_held(7, 1), Some(second));
    assert!(fs::metadata(&path).unwrap().len() > 10_020, "evidence stays");
}

#[test]
fn records_no_frame_may_hold_and_reused_epochs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut spool, _) = open(dir.path());
    assert!(matches!(spool.append(&records(1)), Err(SpoolError::Poisoned)), "no epoch has begun");
    spool.begin(7).unwrap();
    assert!(matches!(spool.append(&[&[][..]]), Err(SpoolError::RecordSize)));
    assert!(matches!(spool.append(&[vec![0; frame::RECORD_BYTES_MAX + 1]]), Err(SpoolError::RecordSize)));
    spool.append(&records(1)).unwrap();
    drop(spool);
    let (mut spool, _) = open(dir.path());
    assert!(matches!(spool.begin(7), Err(SpoolError::EpochReused { epoch: 7, newest: 7 })));
}
