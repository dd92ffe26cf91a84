//! The task that keeps the snapshot, and the handle by which it is told what came into force.
//!
//! `config_state` notes, without waiting; the task writes in batches, off the runtime's threads. What was not noted
//! because too much was waiting is known to be missing, and the file is put away. The config stream takes its next
//! frame only when there is room, so a snapshot arrives as fast as the disk takes it. Invariant: notes are written in
//! order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bailiwick_proto::v1;
use bailiwick_runtime::Shutdown;
use tokio::sync::{mpsc, oneshot, watch};

use super::Journal;
use crate::metrics::Metrics;

/// Notes waiting to be written: what comes while the disk is slow, denials above all.
const NOTES_MAX: usize = 4096;
/// Of these, so many may be waiting when the config stream takes its next frame: a chunk has a quarter of a megabyte.
const STREAM_AHEAD_MAX: usize = 32;
/// How often a whole snapshot is asked for when what was kept is lost: a full disk must not have them sent all day.
const SNAPSHOT_AGAIN: Duration = Duration::from_secs(10 * 60);

/// What came into force.
#[derive(Debug)]
enum Note {
    Chunk { revision: u64, last: bool, encoded: Vec<u8> },
    Interrupted,
    Delta(v1::Delta),
    Statement(v1::Statement),
    Denials(v1::Denials),
    Keys(v1::Keys),
    Aged(Duration),
    Durable(oneshot::Sender<bool>),
}

/// What could not be noted.
#[derive(Debug, Default)]
struct Missed {
    notes: AtomicU64,
    /// The latest revision whose denials are among it.
    denied: AtomicU64,
}

/// Notes what came into force; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keeper {
    notes: mpsc::Sender<Note>,
    missed: Arc<Missed>,
    /// Counts whole snapshots that are wished for.
    wishes: watch::Receiver<u64>,
}

/// What the task needs.
#[derive(Debug)]
pub(crate) struct Keeping {
    journal: Journal,
    notes: mpsc::Receiver<Note>,
    missed: Arc<Missed>,
    wishes: watch::Sender<u64>,
    metrics: Arc<Metrics>,
}

impl Keeper {
    /// A handle, and what its task runs.
    pub(crate) fn new(journal: Journal, metrics: Arc<Metrics>) -> (Self, Keeping) {
        let (notes, noted) = mpsc::channel(NOTES_MAX);
        let missed = Arc::<Missed>::default();
        let (wishes, wished) = watch::channel(0);
        let keeping = Keeping { journal, notes: noted, missed: Arc::clone(&missed), wishes, metrics };
        (Self { notes, missed, wishes: wished }, keeping)
    }

    /// A chunk of a snapshot, encoded.
    pub(crate) fn chunk(&self, revision: u64, last: bool, encoded: Vec<u8>) {
        self.note(Note::Chunk { revision, last, encoded });
    }

    /// The snapshot that was arriving will not.
    pub(crate) fn interrupted(&self) {
        self.note(Note::Interrupted);
    }

    pub(crate) fn delta(&self, delta: &v1::Delta) {
        self.note(Note::Delta(delta.clone()));
    }

    pub(crate) fn statement(&self, statement: v1::Statement) {
        self.note(Note::Statement(statement));
    }

    pub(crate) fn denials(&self, denials: v1::Denials) {
        self.note(Note::Denials(denials));
    }

    pub(crate) fn keys(&self, keys: v1::Keys) {
        self.note(Note::Keys(keys));
    }

    pub(crate) fn aged(&self, age: Duration) {
        self.note(Note::Aged(age));
    }

    /// Waits until a frame of the config stream may be taken.
    pub(crate) async fn room(&self) {
        // Only whether there is room counts; at the end of the task nothing is noted any more.
        drop(self.notes.reserve_many(NOTES_MAX - STREAM_AHEAD_MAX).await);
    }

    /// Waits until all that was noted is durable; false when it cannot be.
    pub(crate) async fn durable(&self) -> bool {
        let (done, durable) = oneshot::channel();
        self.notes.send(Note::Durable(done)).await.is_ok() && durable.await.unwrap_or(false)
    }

    /// Changes when a whole snapshot is wished for.
    pub(crate) fn wishes(&self) -> watch::Receiver<u64> {
        self.wishes.clone()
    }

    fn note(&self, note: Note) {
        let revision = if let Note::Denials(denials) = &note { denials.revision } else { 0 };
        if self.notes.try_send(note).is_err() {
            self.missed.denied.fetch_max(revision, Ordering::AcqRel);
            self.missed.notes.fetch_add(1, Ordering::AcqRel);
        }
    }
}

impl Keeping {
    /// Writes until shutdown.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut wished = None::<tokio::time::Instant>;
        let mut batch = Vec::new();
        loop {
            let received = shutdown.or_stop(self.notes.recv_many(&mut batch, STREAM_AHEAD_MAX)).await;
            if received.is_none_or(|received| received == 0) {
                return;
            }
            if self.missed.notes.swap(0, Ordering::AcqRel) > 0 {
                self.journal.missed(self.missed.denied.load(Ordering::Acquire));
            }
            let mut journal = self.journal;
            let noted = std::mem::take(&mut batch);
            let write = move || {
                noted.into_iter().for_each(|note| write(&mut journal, note));
                journal
            };
            self.journal = match tokio::task::spawn_blocking(write).await {
                Ok(journal) => journal,
                Err(error) => {
                    tracing::error!(%error, "the configuration can be kept on disk no more");
                    return;
                }
            };
            self.metrics.snapshot_kept.set(i64::from(self.journal.is_kept()));
            let is_due = wished.is_none_or(|wished| wished.elapsed() >= SNAPSHOT_AGAIN);
            if self.journal.wants_snapshot() && is_due {
                wished = Some(tokio::time::Instant::now());
                self.metrics.snapshot_failures.inc();
                self.wishes.send_modify(|wishes| *wishes += 1);
            }
        }
    }
}

fn write(journal: &mut Journal, note: Note) {
    match note {
        Note::Chunk { revision, last, encoded } => journal.chunk(revision, last, &encoded),
        Note::Interrupted => journal.interrupted(),
        Note::Delta(delta) => journal.delta(delta),
        Note::Statement(statement) => journal.statement(statement),
        Note::Denials(denials) => journal.deny(denials),
        Note::Keys(keys) => journal.keys(keys),
        Note::Aged(age) => journal.aged(age),
        // Whoever asked may have gone.
        Note::Durable(done) => drop(done.send(journal.is_durable())),
    }
}
