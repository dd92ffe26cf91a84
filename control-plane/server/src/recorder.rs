//! The recorder: every recordable event reaches the ledger as a `control.event` record, receipts as what they are.
//!
//! The chain of these records (node `control-plane`, epoch 0) is a pure function of the event log, times included. So
//! nothing is kept for it: after a restart, or when the ledger asks again, the records are made anew and have the same
//! bytes. Marks every so often make going back cheap. The event stream may lose or repeat; the ledger asks for what it
//! misses and drops what it has. Only one control-plane node records at a time, for there is one event log.
//! Absent: which events are recorded and as what (`core::event::recorded`).

mod record;

use std::{io, time::Duration};

use bailiwick_ledger_core::{chain::NodeChain, hash::Hash};
use bailiwick_proto::{
    subjects::{self, CONTROL, CONTROL_NODE},
    v1,
};
use bailiwick_runtime::{EventStream, Shutdown, event_stream::Listener};
use futures::FutureExt as _;
use prost::Message as _;

use crate::{clock, domain::read_event, metrics::Metrics};
use bailiwick_consensus::Consensus;

/// The only run of this chain: it goes on across restarts.
pub(crate) const EPOCH: u64 = 0;
/// A batch takes no further record beyond this; with the largest record it stays below a message's 64 KiB.
const BATCH_BYTES: usize = 24 * 1024;
/// Records between marks: going back repeats at most this many.
const MARK_EVERY: u64 = 256;
/// Records sent again after a restart, which the ledger may or may not have; it asks for older ones.
const RESENT_MAX: u64 = 1_024;
/// Pauses between attempts while the event stream takes nothing.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// A place between two records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    /// The change that is read next.
    revision: u64,
    /// Its events that are recorded already.
    skipped: usize,
    /// What the next record gets.
    seq: u64,
    prev: Hash,
}

/// Makes records from the event log and publishes them in order.
#[derive(Debug)]
pub(crate) struct Recorder {
    consensus: Consensus,
    stream: EventStream,
    metrics: Metrics,
    chain: NodeChain,
    revision: u64,
    skipped: usize,
    /// In ascending order; the first is the start.
    marks: Vec<Mark>,
    /// Below this, records were sent before: their message ids must be new, or the stream would drop them.
    sent: u64,
}

/// Records ready to be published.
struct Batch {
    first_seq: u64,
    records: Vec<Vec<u8>>,
}

impl Recorder {
    pub(crate) fn new(consensus: Consensus, stream: EventStream, metrics: Metrics) -> Self {
        let chain = NodeChain::open(CONTROL_NODE, EPOCH);
        let start = Mark { revision: 0, skipped: 0, seq: 0, prev: *chain.prev() };
        Self { consensus, stream, metrics, chain, revision: 0, skipped: 0, marks: vec![start], sent: 0 }
    }

    /// Folds what is there already, then publishes until shutdown is requested.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let folded = tokio::task::spawn_blocking(move || {
            let mut recorder = self;
            recorder.fold().map(|()| recorder)
        });
        let mut recorder = match folded.await.map_err(io::Error::other) {
            Ok(Ok(recorder)) => recorder,
            Ok(Err(error)) | Err(error) => {
                tracing::error!(%error, "the event log cannot be recorded");
                return;
            }
        };
        if let Some(Err(error)) = shutdown.or_stop(recorder.publish_always()).await {
            tracing::error!(%error, "the event log cannot be recorded");
        }
    }

    fn fold(&mut self) -> io::Result<()> {
        while self.next_batch()?.is_some() {}
        let head = self.chain.next_seq();
        self.go_back_to(head.saturating_sub(RESENT_MAX));
        Ok(())
    }

    async fn publish_always(&mut self) -> io::Result<()> {
        let mut revisions = self.consensus.revisions();
        let mut replays = self.listen().await;
        loop {
            self.metrics.revision(*revisions.borrow_and_update());
            let start = self.chain.next_seq();
            while let Some(batch) = self.next_batch()? {
                self.publish(&batch).await;
            }
            // What was asked for meanwhile and has just been sent is not sent once more.
            while self.chain.next_seq() > start
                && let Some(Some(asked)) = replays.next().now_or_never()
            {
                self.replay(&asked, start);
            }
            tokio::select! {
                changed = revisions.changed() => if changed.is_err() {
                    return Ok(());
                },
                asked = replays.next() => match asked {
                    Some(asked) => self.replay(&asked, u64::MAX),
                    None => replays = self.listen().await,
                },
            }
        }
    }

    async fn listen(&self) -> Listener {
        let mut pause = PAUSE_MIN;
        loop {
            match self.stream.listen(&subjects::replay(CONTROL_NODE)).await {
                Ok(listener) => return listener,
                Err(error) => tracing::warn!(%error, "cannot listen for replays yet"),
            }
            wait(&mut pause).await;
        }
    }

    /// Goes back to what the ledger asks for, if that was made already and lies before `answered_from`.
    fn replay(&mut self, bytes: &[u8], answered_from: u64) {
        let Ok(asked) = v1::ReplayRequest::decode(bytes) else { return };
        let is_ours = asked.node == CONTROL_NODE && asked.epoch == EPOCH;
        if !is_ours || asked.from_seq >= self.chain.next_seq().min(answered_from) {
            return;
        }
        tracing::info!(from = asked.from_seq, "the ledger asked for events again");
        self.sent = self.sent.max(self.chain.next_seq());
        self.go_back_to(asked.from_seq);
    }

    /// To the last mark at or before `seq`.
    fn go_back_to(&mut self, seq: u64) {
        if let Some(mark) = self.marks.iter().rev().find(|mark| mark.seq <= seq) {
            self.chain = NodeChain::resume(CONTROL_NODE, EPOCH, mark.seq, mark.prev);
            (self.revision, self.skipped) = (mark.revision, mark.skipped);
        }
    }

    /// The next records, if there are any; the position moves behind them.
    fn next_batch(&mut self) -> io::Result<Option<Batch>> {
        let Self { consensus, chain, revision, skipped, marks, .. } = self;
        let (first_seq, mut records, mut bytes) = (chain.next_seq(), Vec::new(), 0_usize);
        let start = *revision;
        consensus.changes_from(start, |change| {
            let done = if change.revision == start { *skipped } else { 0 };
            for (n, stored) in change.events.iter().enumerate().skip(done) {
                if bytes >= BATCH_BYTES {
                    (*revision, *skipped) = (change.revision, n);
                    return Ok(false);
                }
                let event = read_event(stored)?;
                if let Some(record) = record::append(chain, &event, stored, change.revision)? {
                    bytes += record.len();
                    records.push(record);
                    mark(marks, chain, change.revision, n + 1);
                }
            }
            (*revision, *skipped) = (change.revision + 1, 0);
            Ok(true)
        })?;
        Ok((!records.is_empty()).then_some(Batch { first_seq, records }))
    }

    /// Hands a batch over; waits as long as it takes.
    async fn publish(&self, batch: &Batch) {
        let count = u64::try_from(batch.records.len()).unwrap_or(u64::MAX);
        let id = self.message_id(batch.first_seq, count);
        let records = batch.records.clone();
        let message =
            v1::RecordBatch { node: CONTROL_NODE.to_owned(), epoch: EPOCH, first_seq: batch.first_seq, records };
        let payload = bytes::Bytes::from(message.encode_to_vec());
        let mut pause = PAUSE_MIN;
        while let Err(error) = self.stream.publish(CONTROL, &id, payload.clone()).await {
            tracing::debug!(%error, "the event stream takes no events now");
            self.metrics.records_waiting(count);
            wait(&mut pause).await;
        }
        self.metrics.records_waiting(0);
        self.metrics.records_published(count);
    }

    /// One id per content: the same records in the same batch, unless the ledger asked for them again.
    fn message_id(&self, first_seq: u64, count: u64) -> String {
        let id = format!("{}.{count}", subjects::message_id(CONTROL_NODE, EPOCH, first_seq));
        if first_seq >= self.sent {
            return id;
        }
        // Without randomness the stream may drop the repeat; the ledger then asks again.
        clock::random_id("").map_or_else(|_| id.clone(), |nonce| format!("{id}.{nonce}"))
    }
}

/// Remembers the place after the record just made, if the last mark is far enough back.
fn mark(marks: &mut Vec<Mark>, chain: &NodeChain, revision: u64, skipped: usize) {
    let last = marks.last().map_or(0, |mark| mark.seq);
    if chain.next_seq() >= last + MARK_EVERY {
        marks.push(Mark { revision, skipped, seq: chain.next_seq(), prev: *chain.prev() });
    }
}

async fn wait(pause: &mut Duration) {
    tokio::time::sleep(*pause).await;
    *pause = (*pause * 2).min(PAUSE_MAX);
}
