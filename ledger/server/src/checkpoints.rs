//! The publisher: from a durable log to a checkpoint that is the only one.
//!
//! At most once a second: prove that today's tree extends the committed one, have the control plane commit it
//! (compare-and-set in replicated state), sign, store, announce. Nodes free their spool only when they hear the
//! announcement, so every step may be repeated and none may be skipped:
//! - crash before the commit: nothing happened;
//! - crash, or a lost answer, after it: the control plane's `Latest` says so, and the same checkpoint is signed;
//! - crash after storing the note: nodes hear of it from the regular announcements.
//!
//! A log that is smaller than the committed size, or has another root there, is a restored backup or a fork: it must
//! never publish, says so loudly and is not ready. While the control plane is away nothing is published; sequencing
//! goes on. Others see in [`Standing`] whether the log may vouch for what it holds: until it was compared with the
//! committed checkpoint it may not. Absent: appending (`sequencer`), witnesses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bailiwick_ledger_core::{
    checkpoint::{self, Checkpoint, CheckpointError},
    hash::Hash,
    record::Kind,
    tree,
};
use bailiwick_proto::{
    subjects,
    v1::{Cursor, LedgerNotice, ledger_notice::Notice},
};
use bailiwick_runtime::{EventStream, Shutdown, ops::Readiness};
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tonic::Code;

use self::commitments::{Commitments, Committed};
use crate::{
    identity::Identity,
    metrics::{Metrics, gauge},
    store::{ChainId, ChainProgress, Progress, SharedStore, Store, StoreError},
};

pub(crate) mod commitments;

/// Condition in `/readyz`.
pub(crate) const READY_CHECKPOINTS: &str = "checkpoints";
/// Shortest time between two checkpoints.
const PUBLISH_PAUSE: Duration = Duration::from_secs(1);
/// After a quiet time the first record waits this long for company.
const PUBLISH_DELAY: Duration = Duration::from_millis(20);
/// Pauses between attempts after a failure.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(250);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// What is covered is announced again this often, as an announcement may be lost, and what is committed asked for.
const ANNOUNCE_PAUSE: Duration = Duration::from_secs(5);
/// The attempt to publish what came last, at shutdown.
const FINAL_WAIT_MAX: Duration = Duration::from_secs(2);
/// Cursors in one announcement: keeps it far below the message size of any transport.
const CURSORS_MAX: usize = 500;
/// Repeats taken up at once.
pub(crate) const REPEATS_MAX: usize = 256;

/// How this log stands to what was committed in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not compared since the start, or since another ledger committed.
    Unknown,
    /// It extends the committed checkpoint: nodes may be told what it holds.
    Extends,
    /// A restored backup or another history: nodes must be told nothing, and it takes nothing in.
    Contradicts,
}

/// The newest published checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Published {
    pub(crate) size: u64,
    /// The whole signed note.
    pub(crate) note: String,
}

/// Why an attempt to publish failed; it is made again.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error("the control plane did not answer as needed: {}", .0.message())]
    ControlPlane(#[from] tonic::Status),
    #[error("the control plane's answer holds no root")]
    Answer,
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sign(#[from] CheckpointError),
    /// The log is not what was committed; only an operator can help.
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
}

/// This log contradicts what was committed in its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    /// A restored backup, or lost data.
    #[error(
        "the log has {ours} records but {committed} were committed: is this a restored backup? nothing is published"
    )]
    Behind { committed: u64, ours: u64 },
    /// Another history.
    #[error(
        "the log's root at size {committed} is not the committed one: this is another history; nothing is published"
    )]
    Forked { committed: u64 },
}

/// What the publisher is connected to.
#[derive(Debug)]
pub(crate) struct Publisher {
    pub(crate) store: SharedStore,
    pub(crate) identity: Arc<Identity>,
    pub(crate) region: String,
    pub(crate) stream: EventStream,
    pub(crate) commitments: Commitments,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    /// The log's size after each write.
    pub(crate) size: watch::Receiver<u64>,
    /// Chains whose node may have missed an announcement.
    pub(crate) repeated: mpsc::Receiver<ChainId>,
    pub(crate) published: watch::Sender<Option<Arc<Published>>>,
    pub(crate) standing: watch::Sender<Standing>,
    /// What the control plane holds; `None`: must be asked.
    pub(crate) committed: Option<Committed>,
    /// Chains as the newest published checkpoint covers them.
    pub(crate) covered: Vec<ChainProgress>,
}

impl Publisher {
    /// Runs until shutdown is requested, then tries once more to publish what came last.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        self.readiness.not_ready(READY_CHECKPOINTS, "the control plane has not been asked yet");
        self.metrics.published_size.set(gauge(self.published_size()));
        let mut announcements = interval(ANNOUNCE_PAUSE);
        announcements.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut due, mut pause) = (Some(Instant::now()), RETRY_PAUSE_MIN);
        let (mut last, mut repeats) = (None::<Instant>, Vec::new());
        loop {
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let attempt = self.attempt().await;
                    last = Some(Instant::now());
                    due = (!attempt).then(|| Instant::now() + pause);
                    pause = if attempt { RETRY_PAUSE_MIN } else { (pause * 2).min(RETRY_PAUSE_MAX) };
                }
                changed = self.size.changed(), if due.is_none() => {
                    if changed.is_err() {
                        break;
                    }
                    let soon = Instant::now() + PUBLISH_DELAY;
                    due = Some(last.map_or(soon, |last| soon.max(last + PUBLISH_PAUSE)));
                }
                _ = self.repeated.recv_many(&mut repeats, REPEATS_MAX), if !self.repeated.is_closed() => {
                    let repeats: BTreeSet<_> = repeats.drain(..).collect();
                    self.announce(|chain| repeats.contains(&chain.id)).await;
                }
                _ = announcements.tick() => {
                    self.announce_newest().await;
                    // Another ledger on a copy of this log may have committed while this one had nothing to say.
                    self.committed = None;
                    due.get_or_insert_with(Instant::now);
                }
            }
        }
        if timeout(FINAL_WAIT_MAX, self.attempt()).await != Ok(true) {
            tracing::warn!("the last records are stored but not published; that happens at the next start");
        }
    }

    fn published_size(&self) -> u64 {
        self.published.borrow().as_ref().map_or(0, |published| published.size)
    }

    /// One attempt to publish everything stored; says whether nothing is left to do.
    async fn attempt(&mut self) -> bool {
        let outcome = self.publish().await;
        match &outcome {
            Ok(()) => {
                self.readiness.ready(READY_CHECKPOINTS);
                self.metrics.publish_refused.set(0);
            }
            Err(PublishError::Contradiction(contradiction)) => {
                self.standing.send_replace(Standing::Contradicts);
                self.readiness.not_ready(READY_CHECKPOINTS, contradiction.to_string());
                self.metrics.publish_refused.set(1);
                tracing::error!(%contradiction, "this log must not publish");
            }
            Err(error) => {
                if matches!(error, PublishError::ControlPlane(status) if status.code() == Code::FailedPrecondition) {
                    // Something else was committed in this log's name.
                    self.standing.send_replace(Standing::Unknown);
                }
                self.metrics.publish_failures.inc();
                tracing::warn!(%error, "nothing is published; trying again");
            }
        }
        if outcome.is_err() {
            // Whatever failed, the control plane knows best what is committed.
            self.committed = None;
        }
        if let Err(PublishError::Store(StoreError::Database(_))) = &outcome {
            // The next attempt says how that went.
            drop(self.store.repair_elsewhere().await);
        }
        outcome.is_ok()
    }

    async fn publish(&mut self) -> Result<(), PublishError> {
        if self.committed.is_none() {
            let committed = self.commitments.latest(&self.identity.origin).await?;
            self.check(committed).await?;
            self.standing.send_replace(Standing::Extends);
            self.committed = Some(committed);
        }
        if let Some(committed) = self.committed.filter(|committed| committed.size > self.published_size()) {
            // Committed by an earlier attempt whose answer or signature was lost.
            let progress = self.store.run(Store::progress).await?;
            self.sign(committed, progress.chains).await?;
        }
        let committed = self.committed.unwrap_or_default();
        let (progress, next, proof) = self.store.run(move |store| next(store, committed)).await?;
        if next.size > committed.size {
            self.commitments.commit(&self.identity.origin, committed, next, proof).await?;
            self.committed = Some(next);
            self.sign(next, progress.chains).await?;
        }
        Ok(())
    }

    /// Refuses a log that is not an extension of what was committed.
    async fn check(&self, committed: Committed) -> Result<(), PublishError> {
        let compare = move |store: &Store| {
            let ours = store.size()?;
            if ours < committed.size {
                return Ok(Err(Contradiction::Behind { committed: committed.size, ours }));
            }
            let same = committed.size == 0 || tree::root(store, committed.size)? == committed.root;
            Ok(if same { Ok(()) } else { Err(Contradiction::Forked { committed: committed.size }) })
        };
        Ok(self.store.run(compare).await??)
    }

    /// Signs and stores what was committed, then announces what it covers.
    async fn sign(&mut self, committed: Committed, chains: Vec<ChainProgress>) -> Result<(), PublishError> {
        let Committed { size, root } = committed;
        let checkpoint = Checkpoint { origin: self.identity.origin.clone(), size, root };
        let note = checkpoint::sign(&checkpoint, &self.identity.signer)?;
        let stored = note.clone();
        self.store.run(move |store| store.put_checkpoint(size, &stored)).await?;
        let before = self.published_size();
        self.published.send_replace(Some(Arc::new(Published { size, note })));
        self.metrics.published_size.set(gauge(size));
        tracing::debug!(size, "checkpoint published");
        self.covered = covered_by(size, chains);
        self.announce(|chain| chain.last_index.is_some_and(|last| last >= before)).await;
        Ok(())
    }

    /// Announces the newest run of every node.
    async fn announce_newest(&self) {
        let newest: BTreeMap<_, _> = self.covered.iter().map(|chain| (&chain.id.node, chain.id.epoch)).collect();
        self.announce(|chain| newest.get(&chain.id.node) == Some(&chain.id.epoch)).await;
    }

    /// Announces the newest checkpoint with those covered chains that `select` wants, if it is in the one history.
    async fn announce(&self, select: impl Fn(&ChainProgress) -> bool) {
        if *self.standing.borrow() != Standing::Extends {
            return;
        }
        let Some(published) = self.published.borrow().clone() else { return };
        let cursor = |chain: &ChainProgress| {
            let seq = chain.covered.checked_sub(1)?;
            Some(Cursor { node: chain.id.node.clone(), epoch: chain.id.epoch, seq })
        };
        let cursors: Vec<_> = self.covered.iter().filter(|chain| select(chain)).filter_map(cursor).collect();
        let subject = subjects::checkpoint(&self.region);
        for cursors in cursors.chunks(CURSORS_MAX) {
            let published =
                bailiwick_proto::v1::Published { checkpoint: published.note.clone(), cursors: cursors.to_vec() };
            let notice = LedgerNotice { notice: Some(Notice::Published(published)), kinds: Kind::known() };
            if let Err(error) = self.stream.broadcast(&subject, notice.encode_to_vec().into()).await {
                tracing::debug!(%error, "an announcement was not sent; it will be repeated");
            }
        }
    }
}

/// Chains whose every stored record lies below `size`.
pub(crate) fn covered_by(size: u64, mut chains: Vec<ChainProgress>) -> Vec<ChainProgress> {
    chains.retain(|chain| chain.last_index.is_some_and(|last| last < size));
    chains
}

/// The log as it stands, and the proof that it extends `committed`.
fn next(store: &Store, committed: Committed) -> Result<(Progress, Committed, Vec<Hash>), StoreError> {
    let progress = store.progress()?;
    let root = tree::root(store, progress.size)?;
    let proof = tree::consistency_proof(store, committed.size, progress.size)?;
    let next = Committed { size: progress.size, root };
    Ok((progress, next, proof))
}
