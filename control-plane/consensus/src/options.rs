//! What a node is made of, and how it behaves in time.

use std::{sync::Arc, time::Duration};

use openraft::{Config, SnapshotPolicy};

use super::{disk::Disk, machine::Applier, store::Birth, transport::Transport};

/// Entries in one append; their bytes are bounded where they are read.
const APPEND_ENTRIES_MAX: u64 = 1024;
/// First pauses before a peer that cannot be reached is tried again: a restart goes unnoticed, a dead peer is cheap.
const RETRY_PAUSES: &str = "20ms 50ms 100ms 200ms ...500ms";

/// When a leader is missed.
///
/// A follower begins an election when it has heard nothing for `election_max` (for so long it is bound to its leader)
/// and then a random time between `election_min` and `election_max`. With the default that is 0.55 to 0.7 s after the
/// leader's last sign of life: five heartbeats may be lost or a disk may take half a second for a sync before anybody
/// doubts the leader, and two votes (each a sync, tens of milliseconds) still end within a second.
/// A leader that a majority has not confirmed for `election_max` takes no writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    /// Between signs of life; also the longest round trip to a voter that counts as one.
    pub heartbeat: Duration,
    /// Shortest further wait.
    pub election_min: Duration,
    /// Longest further wait, and how long a follower is bound.
    pub election_max: Duration,
}

impl Default for Timers {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(200),
            election_max: Duration::from_millis(350),
        }
    }
}

/// How long the log grows before a snapshot shortens it.
///
/// The state is stored as it is applied, so a snapshot only serves to shorten the log (and peers far behind), and each
/// holds the whole event log: rarely is enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogLength {
    /// Entries between snapshots. A peer that is behind by twice as many gets a snapshot.
    pub snapshot_every: u64,
    /// Entries kept behind a snapshot, for peers a little behind; at least one.
    pub kept: u64,
}

impl Default for LogLength {
    fn default() -> Self {
        Self { snapshot_every: 20_000, kept: 1_000 }
    }
}

/// What a node is made of.
pub struct Options {
    /// Its data directory.
    pub disk: Arc<dyn Disk>,
    /// Whom the data belongs to: claimed at the first opening, insisted on afterwards.
    pub birth: Birth,
    /// How it reaches its peers.
    pub transport: Arc<dyn Transport>,
    /// What takes in the changes.
    pub applier: Box<dyn Applier>,
    /// When a leader is missed.
    pub timers: Timers,
    /// When the log is shortened.
    pub log_length: LogLength,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("birth", &self.birth).field("timers", &self.timers).finish_non_exhaustive()
    }
}

pub(super) fn config(timers: Timers, log_length: LogLength) -> Config {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Config {
        cluster_name: "bailiwick".to_owned(),
        heartbeat_interval: millis(timers.heartbeat),
        election_timeout_min: millis(timers.election_min),
        election_timeout_max: millis(timers.election_max),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(log_length.snapshot_every),
        replication_lag_threshold: log_length.snapshot_every.saturating_mul(2),
        max_payload_entries: APPEND_ENTRIES_MAX,
        max_in_snapshot_log_to_keep: log_length.kept,
        purge_batch_size: log_length.kept,
        enable_pre_vote: Some(true),
        // A leader that restarts has to be elected: what it applied before may not have been synced.
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        backoff: RETRY_PAUSES.to_owned(),
        ..Config::default()
    }
}
