//! The sequencer: the one task that appends to the log.
//!
//! It takes batches from the event stream, lets `Log` check and store what is next, and tells their nodes what is
//! stored. A message is acknowledged when its records are on disk, were there before, or can never be stored; so a
//! full disk or a crash loses nothing. What comes too early is held for a moment, and what is missing before it is
//! asked for; what cannot be held is acknowledged and forgotten, because its node keeps it until a published
//! checkpoint covers it. That is why waiting for one node can never block another.
//!
//! While a write is under way messages pile up, and the next write takes them all: group commit without a delay.
//! Absent: checks of records (`log.rs`), checkpoints (`checkpoints.rs`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bailiwick_ledger_core::{chain::LEDGER_NODE, record::Kind};
use bailiwick_proto::{
    subjects,
    v1::{Cursor, LedgerNotice, RecordBatch, ReplayRequest, Stored, ledger_notice::Notice},
};
use bailiwick_runtime::{
    EventStream, Shutdown,
    event_stream::{Consumer, Message},
    ops::Readiness,
};
use futures::FutureExt;
use prost::Message as _;
use tokio::sync::{mpsc, watch};

use self::{
    hold::{Held, Hold},
    replays::Replays,
};
use crate::{
    checkpoints::Standing,
    error::LedgerError,
    log::{Log, Refusal, Sequenced, Verdict},
    metrics::{Metrics, gauge},
    store::{ChainId, SharedStore, StoreError},
};

mod hold;
mod replays;

/// Where nodes publish: this, a region, a dot, the node's name.
const RECORD_PREFIX: &str = "bailiwick.v1.record.";
/// The name under which the stream remembers how far the ledger has read.
const DURABLE: &str = "ledger";
/// Condition in `/readyz`.
pub(crate) const READY_STORAGE: &str = "storage";
/// Messages in one write; with 64 KiB each they stay within some tens of megabytes.
const GROUP_MESSAGES_MAX: usize = 256;
/// Bytes in one write: about what a disk takes in the time of one sync.
const GROUP_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Pause between looks at what is missing or waits too long.
const TICK: Duration = Duration::from_millis(500);
/// The control plane is asked this often for events that never arrived: without them nodes' keys may be missing.
const CONTROL_PAUSE: Duration = Duration::from_secs(30);
/// Pauses between attempts to write after a failure.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(100);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(5);

/// What the sequencer is connected to.
#[derive(Debug)]
pub(crate) struct Wiring {
    pub(crate) stream: EventStream,
    pub(crate) region: String,
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Metrics,
    /// The log's size after each write.
    pub(crate) size: watch::Sender<u64>,
    /// Chains whose node sent again what is stored: it may have missed that a checkpoint covers it.
    pub(crate) repeated: mpsc::Sender<ChainId>,
    /// Whether this log is the one history.
    pub(crate) standing: watch::Receiver<Standing>,
}

/// What is given back to the stream once a batch is settled.
type Ticket = Message;

/// The task's state.
pub(crate) struct Sequencer {
    /// Absent while a write is under way, and after one that was cut short: then it is read from the store again.
    log: Option<Log>,
    store: SharedStore,
    wiring: Wiring,
    consumer: Consumer,
    hold: Hold<Ticket>,
    replays: Replays,
    control_asked_at: Option<Instant>,
}

impl std::fmt::Debug for Sequencer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sequencer").field("wiring", &self.wiring).finish_non_exhaustive()
    }
}

impl Sequencer {
    /// Connects the consumer; nothing is read yet.
    pub(crate) async fn connect(store: SharedStore, wiring: Wiring) -> Result<Self, LedgerError> {
        let log = store.run(Log::open).await?;
        let consumer = wiring.stream.consume(&[subjects::RECORDS, subjects::CONTROL], DURABLE).await?;
        wiring.metrics.log_size.set(gauge(log.size()));
        wiring.size.send_replace(log.size());
        wiring.readiness.ready(READY_STORAGE);
        let (hold, replays) = (Hold::default(), Replays::default());
        Ok(Self { log: Some(log), store, wiring, consumer, hold, replays, control_asked_at: None })
    }

    /// Runs until shutdown is requested; the group in hand is finished first.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut standing = self.wiring.standing.clone();
        loop {
            let takes = *standing.borrow_and_update() != Standing::Contradicts;
            tokio::select! {
                biased;
                () = shutdown.requested() => break,
                Ok(()) = standing.changed() => {}
                _ = ticks.tick(), if takes => self.tick(Instant::now()).await,
                message = self.consumer.next(), if takes => {
                    let Some(message) = message else { break };
                    let group = self.gather(message);
                    if self.take(group, &shutdown).await.is_none() {
                        break;
                    }
                }
            }
        }
        tracing::info!(size = *self.wiring.size.borrow(), "sequencer stopped");
    }

    /// `first` and whatever else is waiting, up to one write.
    fn gather(&mut self, first: Message) -> Vec<Message> {
        let mut bytes = first.payload.len();
        let mut group = vec![first];
        while group.len() < GROUP_MESSAGES_MAX
            && bytes < GROUP_BYTES_MAX
            && let Some(Some(message)) = self.consumer.next().now_or_never()
        {
            bytes += message.payload.len();
            group.push(message);
        }
        group
    }

    /// Stores a group and everything held that it sets free. `None`: shutdown came while the disk refused.
    async fn take(&mut self, group: Vec<Message>, shutdown: &Shutdown) -> Option<()> {
        let mut next = Vec::with_capacity(group.len());
        for message in group {
            match read(&message) {
                Ok(batch) => next.push(Held { batch, ticket: message }),
                Err(refusal) => {
                    self.refuse(&message.subject, &refusal);
                    message.ack().await;
                }
            }
        }
        while !next.is_empty() {
            let (batches, tickets): (Vec<_>, Vec<_>) = next.into_iter().map(|held| (held.batch, held.ticket)).unzip();
            let (batches, sequenced) = self.store(batches, shutdown).await?;
            self.settle(batches, tickets, &sequenced).await;
            next = self.released(&sequenced);
            self.wiring.metrics.batches_held.set(gauge(self.hold.len() as u64));
        }
        self.ask().await;
        Some(())
    }

    /// What is held of the nodes that moved, as far as it is next: one run of a node may wait for another.
    fn released(&mut self, sequenced: &Sequenced) -> Vec<Held<Ticket>> {
        let moved: BTreeSet<_> = sequenced.moved.iter().map(|(id, _)| id.node.as_str()).collect();
        let waiting: Vec<_> = self.hold.chains().filter(|id| moved.contains(id.node.as_str())).cloned().collect();
        let next_of = |id: &ChainId| self.log.as_ref().and_then(|log| log.next_seq(id));
        let next: Vec<_> = waiting.into_iter().filter_map(|id| Some((next_of(&id)?, id))).collect();
        next.into_iter().flat_map(|(next_seq, id)| self.hold.release(&id, next_seq)).collect()
    }

    /// Writes until it works. `None`: shutdown came first; nothing was acknowledged.
    async fn store(&mut self, batches: Vec<RecordBatch>, shutdown: &Shutdown) -> Option<(Vec<RecordBatch>, Sequenced)> {
        let batches = Arc::new(batches);
        let mut pause = RETRY_PAUSE_MIN;
        loop {
            let started = Instant::now();
            match self.sequence(Arc::clone(&batches)).await {
                Ok(sequenced) => {
                    self.wiring.readiness.ready(READY_STORAGE);
                    self.wiring.metrics.commit_seconds.observe(started.elapsed().as_secs_f64());
                    self.wiring.metrics.log_size.set(gauge(sequenced.size));
                    self.wiring.size.send_replace(sequenced.size);
                    return Some((Arc::unwrap_or_clone(batches), sequenced));
                }
                Err(error) => self.storage_failed(&error),
            }
            shutdown.or_stop(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(RETRY_PAUSE_MAX);
        }
    }

    async fn sequence(&mut self, batches: Arc<Vec<RecordBatch>>) -> Result<Sequenced, StoreError> {
        let (taken, shared) = (self.log.take(), self.store.clone());
        let work = move || -> Result<_, StoreError> {
            let mut log = taken.map_or_else(|| shared.lend(Log::open), Ok)?;
            let sequenced = shared.lend(|store| log.sequence(store, &batches));
            if sequenced.is_err() {
                // Until it is opened anew it would refuse the next attempt too, whether or not there is room again.
                shared.repair()?;
            }
            Ok((log, sequenced))
        };
        let (log, sequenced) = tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Interrupted)??;
        self.log = Some(log);
        sequenced
    }

    fn storage_failed(&self, error: &StoreError) {
        self.wiring.metrics.commit_failures.inc();
        self.wiring.readiness.not_ready(READY_STORAGE, "the database cannot be written; nothing is acknowledged");
        tracing::error!(%error, "records could not be stored; nothing is acknowledged, trying again");
    }

    /// Acknowledges, holds or refuses each message of a write, and tells nodes what is stored.
    async fn settle(&mut self, batches: Vec<RecordBatch>, tickets: Vec<Ticket>, sequenced: &Sequenced) {
        let mut stored: BTreeMap<ChainId, u64> = BTreeMap::new();
        for ((batch, ticket), verdict) in batches.into_iter().zip(tickets).zip(&sequenced.verdicts) {
            let id = ChainId { node: batch.node.clone(), epoch: batch.epoch };
            self.wiring.metrics.records_stored.inc_by(verdict.stored);
            self.wiring.metrics.records_repeated.inc_by(verdict.repeated);
            if let Some(covered) = verdict.covered {
                stored.insert(id.clone(), covered);
            }
            if verdict.repeated > 0 {
                // A full queue means many repeat at once; the publisher also tells everybody at intervals.
                drop(self.wiring.repeated.try_send(id));
            }
            self.conclude(batch, ticket, verdict).await;
        }
        for (id, next_seq) in &sequenced.moved {
            self.replays.moved(id, *next_seq);
        }
        self.tell_stored(stored).await;
    }

    async fn conclude(&mut self, batch: RecordBatch, ticket: Ticket, verdict: &Verdict) {
        if verdict.early {
            self.wiring.metrics.batches_early.inc();
            for (needed, from_seq) in &verdict.needs {
                self.replays.want(needed.clone(), *from_seq);
            }
            for released in self.hold.insert(Instant::now(), Held { batch, ticket }) {
                released.ack().await;
            }
            return;
        }
        if let Some(refusal) = &verdict.refused {
            self.refuse(&ticket.subject, refusal);
        }
        ticket.ack().await;
    }

    fn refuse(&self, subject: &str, refusal: &Refusal) {
        let label = vec![("reason", refusal.as_str())];
        self.wiring.metrics.batches_refused.get_or_create(&label).inc();
        tracing::warn!(subject, %refusal, "records refused; they are not stored");
    }

    async fn tell_stored(&self, stored: BTreeMap<ChainId, u64>) {
        let cursor = |(id, covered): (ChainId, u64)| {
            Some(Cursor { node: id.node, epoch: id.epoch, seq: covered.checked_sub(1)? })
        };
        let cursors: Vec<_> = stored.into_iter().filter_map(cursor).collect();
        // Who waits for what is held back here hears of the next checkpoint, which comes as soon as the log may publish.
        if cursors.is_empty() || *self.wiring.standing.borrow() != Standing::Extends {
            return;
        }
        let notice = LedgerNotice { notice: Some(Notice::Stored(Stored { cursors })), kinds: Kind::known() };
        let subject = subjects::checkpoint(&self.wiring.region);
        if let Err(error) = self.wiring.stream.broadcast(&subject, notice.encode_to_vec().into()).await {
            tracing::debug!(%error, "nodes were not told what is stored; they send it again");
        }
    }

    /// Forgets what waits too long and asks again for what is missing.
    async fn tick(&mut self, now: Instant) {
        for expired in self.hold.expire(now) {
            expired.ack().await;
        }
        self.wiring.metrics.batches_held.set(gauge(self.hold.len() as u64));
        let Some(log) = &self.log else { return };
        for id in self.hold.chains() {
            let (needed, from_seq) = log.needed_for(id);
            self.replays.want(needed, from_seq);
        }
        let (control, from_seq) = log.control_next();
        if self.control_asked_at.is_none_or(|asked| now.saturating_duration_since(asked) >= CONTROL_PAUSE) {
            self.control_asked_at = Some(now);
            self.request(control, from_seq).await;
        }
        self.ask().await;
    }

    async fn ask(&mut self) {
        for (id, from_seq) in self.replays.due(Instant::now()) {
            tracing::info!(node = %id.node, epoch = id.epoch, from_seq, "records are missing; asking for them");
            self.request(id, from_seq).await;
        }
    }

    async fn request(&self, id: ChainId, from_seq: u64) {
        self.wiring.metrics.replays_asked.inc();
        let subject = subjects::replay(&id.node);
        let request = ReplayRequest { node: id.node, epoch: id.epoch, from_seq };
        if let Err(error) = self.wiring.stream.broadcast(&subject, request.encode_to_vec().into()).await {
            tracing::debug!(%error, "the request was not sent; it will be repeated");
        }
    }
}

/// Reads a message and checks that it was published where its node may publish.
fn read(message: &Message) -> Result<RecordBatch, Refusal> {
    let batch = RecordBatch::decode(message.payload.clone()).map_err(|_| Refusal::Unreadable)?;
    if may_publish(&message.subject, &batch.node) { Ok(batch) } else { Err(Refusal::Mislabelled) }
}

/// The control plane has a subject of its own, every other node its own; the ledger's records never arrive.
fn may_publish(subject: &str, node: &str) -> bool {
    match node {
        subjects::CONTROL_NODE => subject == subjects::CONTROL,
        LEDGER_NODE => false,
        _ => {
            subject.strip_prefix(RECORD_PREFIX).and_then(|rest| rest.split_once('.')).is_some_and(|(_, of)| of == node)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_prefix_is_what_is_consumed() {
        assert_eq!(subjects::RECORDS.strip_suffix('>'), Some(RECORD_PREFIX));
    }

    #[test]
    fn each_node_publishes_only_its_own() {
        for (subject, node, may) in [
            (subjects::record("local", "dp-1").as_str(), "dp-1", true),
            (&subjects::record("local", "dp-1"), "dp-2", false),
            (&subjects::record("local", "dp.1"), "dp.1", true),
            (&subjects::record("local", "dp.1"), "1", false),
            (&subjects::record("local", "control-plane"), "control-plane", false),
            (&subjects::record("local", "ledger"), "ledger", false),
            (subjects::CONTROL, "control-plane", true),
            (subjects::CONTROL, "dp-1", false),
        ] {
            assert_eq!(may_publish(subject, node), may, "{subject} {node}");
        }
    }
}
