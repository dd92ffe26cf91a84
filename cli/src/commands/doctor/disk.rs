//! The disk under a data folder: what kind it is, whether it keeps what it says it has synced, how fast, how full.
//!
//! Honesty of a sync cannot be proven without cutting the power; what can be seen is a file system that never keeps
//! anything (tmpfs), one whose promises are another machine's (NFS), and syncs faster than any disk. The probe file is
//! appended to and synced as the log is, read back through a new handle, and removed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use super::finding::Finding;

/// Appends that are timed, and for how long at most.
const SYNCS_MAX: usize = 64;
const SYNCS_TIME_MAX: Duration = Duration::from_secs(3);
/// One small log entry.
const APPEND_BYTES: usize = 1024;
/// No disk confirms a sync in less; memory does.
const SYNC_IMPLAUSIBLE: Duration = Duration::from_micros(20);
/// Above this a write's latency is the disk's alone; see the page on sizing.
const SYNC_SLOW: Duration = Duration::from_millis(25);
/// A log that waits this long for its disk misses heartbeats and calls elections.
const SYNC_TOO_SLOW: Duration = Duration::from_millis(250);
/// Room for one more memtable, log segment and snapshot.
const FREE_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// Below this it is time to act.
const FREE_BYTES_LOW: u64 = 2 * 1024 * 1024 * 1024;
/// A node needs some hundred files.
const FREE_INODES_MIN: u64 = 1_000;

/// What is known of the disk under one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) folder: PathBuf,
    /// As in `/proc/self/mountinfo`: `ext4`, `tmpfs`, …
    pub(crate) filesystem: String,
    pub(crate) room: Room,
    /// What the probe came to; the error's text if it could not be written.
    pub(crate) probe: Result<Probe, String>,
}

/// Free and total, as an unprivileged process sees them; totals of 0 mean that the file system does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) free_bytes: u64,
    pub(crate) total_bytes: u64,
    pub(crate) free_inodes: u64,
    pub(crate) total_inodes: u64,
}

/// How appends and syncs went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) syncs: usize,
    pub(crate) mean: Duration,
    pub(crate) slowest: Duration,
    /// What was read through a new handle is what was written.
    pub(crate) read_back: bool,
}

/// All checks of one folder's disk.
pub(crate) fn check(disk: &Disk) -> Vec<Finding> {
    let mut findings = vec![filesystem(disk), space(disk), inodes(disk)];
    match &disk.probe {
        Ok(probe) => findings.extend(sync(disk, *probe)),
        Err(error) => {
            let advice = "run the doctor as the user the node runs as; a node that cannot write here ends";
            findings.push(Finding::fail("disk-write", subject(disk), error.clone(), advice));
        }
    }
    findings
}

fn subject(disk: &Disk) -> String {
    disk.folder.display().to_string()
}

fn filesystem(disk: &Disk) -> Finding {
    let name = disk.filesystem.as_str();
    let advice = match name {
        "tmpfs" | "ramfs" => "everything here is gone after a restart of the machine: use a disk",
        "overlay" | "aufs" => "a container's own layer goes with the container: mount a volume",
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "fuse" | "ceph" | "glusterfs" => {
            "a sync means what the other side makes of it: use a local disk"
        }
        "" => "the mount table does not tell: make sure that it is a local disk",
        _ if name.starts_with("fuse.") => "a sync means what the other side makes of it: use a local disk",
        _ => return Finding::ok("disk-filesystem", subject(disk), name),
    };
    let detail = if name.is_empty() { "unknown file system" } else { name };
    Finding::warn("disk-filesystem", subject(disk), detail, advice)
}

fn sync(disk: &Disk, probe: Probe) -> [Finding; 2] {
    let detail = format!(
        "{:.2} ms mean, {:.2} ms slowest of {} appends of 1 KiB",
        millis(probe.mean),
        millis(probe.slowest),
        probe.syncs
    );
    let in_memory = matches!(disk.filesystem.as_str(), "tmpfs" | "ramfs");
    let speed = if probe.mean < SYNC_IMPLAUSIBLE && !in_memory {
        let advice =
            "no disk is that fast: a write cache without battery, or a sync switched off, loses what it confirmed";
        Finding::warn("disk-sync", subject(disk), detail, advice)
    } else if probe.mean >= SYNC_TOO_SLOW {
        Finding::fail("disk-sync", subject(disk), detail, "too slow for a log: elections will follow; use another disk")
    } else if probe.mean >= SYNC_SLOW || probe.slowest >= SYNC_TOO_SLOW {
        let advice = "every write waits for this; look for a busy neighbour on the disk, or use a faster one";
        Finding::warn("disk-sync", subject(disk), detail, advice)
    } else {
        Finding::ok("disk-sync", subject(disk), detail)
    };
    let read_back = if probe.read_back {
        Finding::ok("disk-read-back", subject(disk), "what was written is read")
    } else {
        let advice = "the disk returns other bytes than were written: do not run a node on it";
        Finding::fail("disk-read-back", subject(disk), "what was written is not what is read", advice)
    };
    [speed, read_back]
}

fn space(disk: &Disk) -> Finding {
    let Room { free_bytes, total_bytes, .. } = disk.room;
    let detail = format!("{} MiB of {} MiB free", free_bytes >> 20, total_bytes >> 20);
    if free_bytes < FREE_BYTES_MIN {
        Finding::fail("disk-space", subject(disk), detail, "make room now: the node stops before it loses anything")
    } else if free_bytes < FREE_BYTES_LOW || free_bytes < total_bytes / 20 {
        Finding::warn("disk-space", subject(disk), detail, "make room")
    } else {
        Finding::ok("disk-space", subject(disk), detail)
    }
}

fn inodes(disk: &Disk) -> Finding {
    let Room { free_inodes, total_inodes, .. } = disk.room;
    if total_inodes == 0 {
        return Finding::ok("disk-inodes", subject(disk), "not limited");
    }
    let detail = format!("{free_inodes} of {total_inodes} free");
    if free_inodes < FREE_INODES_MIN {
        Finding::fail("disk-inodes", subject(disk), detail, "no file can be made soon: remove some")
    } else if free_inodes < total_inodes / 50 {
        Finding::warn("disk-inodes", subject(disk), detail, "files are running out on this file system")
    } else {
        Finding::ok("disk-inodes", subject(disk), detail)
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

/// Looks at the disk under `folder`, which must exist; writes and removes a small file in it.
pub(crate) fn look(folder: &Path) -> io::Result<Disk> {
    let folder = fs::canonicalize(folder)?;
    let stats = rustix::fs::statvfs(&folder)?;
    let room = Room {
        free_bytes: stats.f_bavail.saturating_mul(stats.f_frsize),
        total_bytes: stats.f_blocks.saturating_mul(stats.f_frsize),
        free_inodes: stats.f_favail,
        total_inodes: stats.f_files,
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let filesystem = filesystem_of(&mounts, &folder).unwrap_or_default();
    let probe = probe(&folder).map_err(|error| error.to_string());
    Ok(Disk { folder, filesystem, room, probe })
}

/// The type of the file system at `path`: that of the longest mount point above it; of equal ones the last mounted.
fn filesystem_of(mounts: &str, path: &Path) -> Option<String> {
    let mut best: Option<(usize, &str)> = None;
    for line in mounts.lines() {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?.replace("\\040", " ");
        let covers = path.starts_with(&point) && best.is_none_or(|(length, _)| point.len() >= length);
        if covers {
            best = Some((point.len(), right.split(' ').next()?));
        }
    }
    best.map(|(_, kind)| kind.to_owned())
}

fn probe(folder: &Path) -> io::Result<Probe> {
    let path = folder.join(format!(".doctor-{}", std::process::id()));
    let probed = probe_file(&path);
    let removed = fs::remove_file(&path);
    let probe = probed?;
    removed.map(|()| probe)
}

fn probe_file(path: &Path) -> io::Result<Probe> {
    let mut file = OpenOptions::new().create_new(true).append(true).open(path)?;
    let (mut written, mut times) = (Vec::new(), Vec::new());
    let begun = Instant::now();
    while times.len() < SYNCS_MAX && begun.elapsed() < SYNCS_TIME_MAX {
        let fill = u8::try_from(times.len()).unwrap_or(u8::MAX);
        let append = [fill; APPEND_BYTES];
        let started = Instant::now();
        file.write_all(&append)?;
        file.sync_data()?;
        times.push(started.elapsed());
        written.extend_from_slice(&append);
    }
    drop(file);
    let mut read = Vec::new();
    File::open(path)?.read_to_end(&mut read)?;
    let total: Duration = times.iter().sum();
    let mean = total / u32::try_from(times.len().max(1)).unwrap_or(u32::MAX);
    let slowest = times.iter().max().copied().unwrap_or_default();
    Ok(Probe { syncs: times.len(), mean, slowest, read_back: read == written })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    fn disk() -> Disk {
        let room = Room { free_bytes: 1 << 40, total_bytes: 1 << 41, free_inodes: 1 << 20, total_inodes: 1 << 21 };
        let probe =
            Probe { syncs: 64, mean: Duration::from_micros(800), slowest: Duration::from_millis(4), read_back: true };
        Disk { folder: "/data".into(), filesystem: "ext4".into(), room, probe: Ok(probe) }
    }

    #[track_caller]
    fn check_one(disk: &Disk, name: &str, expected: Level) {
        let found = check(disk).into_iter().find(|finding| finding.check == name).unwrap();
        assert_eq!(found.level, expected, "{found:?}");
        assert_eq!(found.advice.is_empty(), expected == Level::Ok, "advice where it is needed: {found:?}");
    }

    #[test]
    fn a_good_disk_is_ok_throughout() {
        assert!(check(&disk()).iter().all(|finding| finding.level == Level::Ok), "{:?}", check(&disk()));
    }

    #[test]
    fn what_keeps_nothing_or_is_elsewhere_is_warned_of() {
        for (name, expected) in [
            ("ext4", Level::Ok),
            ("xfs", Level::Ok),
            ("btrfs", Level::Ok),
            ("zfs", Level::Ok),
            ("tmpfs", Level::Warn),
            ("overlay", Level::Warn),
            ("nfs4", Level::Warn),
            ("fuse.sshfs", Level::Warn),
            ("", Level::Warn),
        ] {
            check_one(&Disk { filesystem: name.into(), ..disk() }, "disk-filesystem", expected);
        }
    }

    #[test]
    fn syncs_are_neither_too_fast_to_be_true_nor_too_slow() {
        for (mean_micros, slowest_millis, filesystem, expected) in [
            (3, 1, "ext4", Level::Warn),
            (19, 1, "ext4", Level::Warn),
            (3, 1, "tmpfs", Level::Ok),
            (20, 1, "ext4", Level::Ok),
            (5_000, 40, "ext4", Level::Ok),
            (5_000, 300, "ext4", Level::Warn),
            (25_000, 40, "ext4", Level::Warn),
            (250_000, 400, "ext4", Level::Fail),
        ] {
            let probe = Probe {
                syncs: 64,
                mean: Duration::from_micros(mean_micros),
                slowest: Duration::from_millis(slowest_millis),
                read_back: true,
            };
            let disk = Disk { filesystem: filesystem.into(), probe: Ok(probe), ..disk() };
            check_one(&disk, "disk-sync", expected);
        }
    }

    #[test]
    fn a_disk_that_reads_other_bytes_or_cannot_be_written_fails() {
        let wrong = disk().probe.map(|probe| Probe { read_back: false, ..probe });
        check_one(&Disk { probe: wrong, ..disk() }, "disk-read-back", Level::Fail);
        check_one(&Disk { probe: Err("Permission denied".into()), ..disk() }, "disk-write", Level::Fail);
    }

    #[test]
    fn a_full_disk_fails_before_the_node_does() {
        let mib = 1024 * 1024;
        for (free, total, expected) in [
            (100 * 1024 * mib, 500 * 1024 * mib, Level::Ok),
            (20 * 1024 * mib, 500 * 1024 * mib, Level::Warn),
            (1024 * mib, 4 * 1024 * mib, Level::Warn),
            (200 * mib, 4 * 1024 * mib, Level::Fail),
            (0, 0, Level::Fail),
        ] {
            let room = Room { free_bytes: free, total_bytes: total, ..disk().room };
            check_one(&Disk { room, ..disk() }, "disk-space", expected);
        }
        for (free, total, expected) in [
            (0, 0, Level::Ok),
            (500_000, 1_000_000, Level::Ok),
            (10_000, 1_000_000, Level::Warn),
            (10, 1_000, Level::Fail),
        ] {
            let room = Room { free_inodes: free, total_inodes: total, ..disk().room };
            check_one(&Disk { room, ..disk() }, "disk-inodes", expected);
        }
    }

    #[test]
    fn the_mount_that_holds_a_folder_is_the_longest_and_the_latest() {
        let mounts = "27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n\
                      28 27 0:24 / /var/lib rw - xfs /dev/vdb rw\n\
                      29 27 0:25 / /var/lib/my\\040data rw shared:2 master:3 - tmpfs tmpfs rw\n\
                      30 28 0:26 / /var/lib rw - btrfs /dev/vdc rw\n";
        for (path, expected) in
            [("/etc", "ext4"), ("/var/lib/x", "btrfs"), ("/var/library", "ext4"), ("/var/lib/my data/raft", "tmpfs")]
        {
            assert_eq!(filesystem_of(mounts, Path::new(path)).as_deref(), Some(expected), "{path}");
        }
        assert_eq!(filesystem_of("", Path::new("/")), None);
    }

    #[test]
    fn the_probe_reads_what_it_wrote_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let disk = look(folder.path()).unwrap();
        let probe = disk.probe.unwrap();
        assert!(probe.read_back && probe.syncs > 0 && probe.slowest >= probe.mean, "{probe:?}");
        assert!(disk.room.total_bytes > 0 && !disk.filesystem.is_empty());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_a_failed_probe() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("missing");
        assert!(look(&path).is_err());
        assert!(probe(&path).is_err());
    }
}
