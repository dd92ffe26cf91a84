//! The one task that owns the node's chain and spool.
//!
//! Started by `Recorder::start`. Takes inputs in batches and writes each batch with one write: a group commit of the
//! chain. Before it does so it lets everybody else run once, so that whoever has something to record as well shares the
//! write. Signs heads, publishes from the spool with a bounded number of batches in flight, and frees what the ledger
//! says is safe. A write that fails puts the chain back to where it was, so that no number is lost and no refused
//! record is ever chained. Until `epoch_open` and the findings of recovery are written, nothing else is accepted.

mod open_intents;
mod publishing;

use std::{future::poll_fn, pin::pin, task::Poll, time::Duration};

use bailiwick_ledger_core::{
    chain::NodeChain,
    key::NodeSigner,
    record::{EpochOpen, Kind, Record, format_ts, record_id},
};
use bailiwick_proto::{Reason, Tier, subjects};
use bailiwick_runtime::{event_stream::EventStream, ops::Readiness};
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::{Instant, MissedTickBehavior, sleep_until},
};

use self::{
    open_intents::OpenIntents,
    publishing::{Gathering, Published},
};
use super::{Class, FLUSH_WAIT_MAX, Input, Start, Written, shipping::Shipping};
use crate::{
    metrics::{Metrics, gauge_value},
    spool::{Fill, Spool, SpoolError, SpoolSync},
};

/// Records written at once: enough to share a write under load, few enough that nobody waits long.
const BATCH_INPUTS_MAX: usize = 64;
/// A signed head at least this often while records flow…
const HEAD_RECORDS: u64 = 256;
/// … and this often; a second, less the ticks that may pass unused.
const HEAD_BUSY: Duration = Duration::from_millis(700);
/// … and this often while nothing happens.
const HEAD_IDLE: Duration = Duration::from_millis(4_700);
/// How often time is looked at.
const TICK: Duration = Duration::from_millis(200);
/// Without news from the ledger for so long, records are sent again; doubled each time up to the maximum.
const STALL_MIN: Duration = Duration::from_secs(5);
const STALL_MAX: Duration = Duration::from_secs(60);
/// Records sent again in one go to a silent ledger: a sign of life, not the whole spool.
const STALL_RECORDS: u64 = 512;
/// Records of this run that may wait to be stored while decisions for services are taken. The ledger takes them in
/// order, so a destructive call waits for all before it, 5 s at most: a ledger that stores 2,000 a second is in time.
const UNSTORED_FOR_DECISIONS_MAX: u64 = 8_192;

/// Chain, spool and plan of one run.
pub(super) struct Owner {
    node: String,
    subject: String,
    epoch: u64,
    chain: NodeChain,
    signer: NodeSigner,
    spool: Spool,
    sync: SpoolSync,
    stream: EventStream,
    stored: watch::Sender<u64>,
    metrics: std::sync::Arc<Metrics>,
    readiness: Readiness,
    /// First records of the run that are not written yet.
    opening: Vec<Record>,
    open_intents: OpenIntents,
    shipping: Shipping,
    in_flight: FuturesUnordered<BoxFuture<'static, Published>>,
    repeats: u64,
    publish_after: Instant,
    gathering: Gathering,
    since_head: u64,
    last_head: Instant,
    last_progress: Instant,
    stall: Duration,
}

impl std::fmt::Debug for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Owner").field("node", &self.node).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

struct Append {
    record: Box<Record>,
    class: Class,
    reply: oneshot::Sender<Result<Written, Reason>>,
}

impl Owner {
    pub(super) fn open(start: Start, stored: watch::Sender<u64>) -> Result<Self, SpoolError> {
        let Start { node, region, epoch, signer, mut spool, recovered, recovery, stream, metrics, readiness, .. } =
            start;
        spool.begin(epoch)?;
        let mut shipping = Shipping::default();
        for found in &recovered {
            if let (Some(first), Some(last)) = (found.runs.first(), found.runs.last()) {
                shipping.extend(found.epoch, first.start, last.end);
            }
        }
        let epoch_open = EpochOpen { public_key: signer.public_key_hex(), recovered: recovery.epochs };
        let first = Record { epoch_open: Some(epoch_open), ..Record::new(Kind::NodeEpochOpen, now_ts()) };
        let now = Instant::now();
        let mut owner = Self {
            subject: subjects::record(&region, &node),
            chain: NodeChain::open(node.clone(), epoch),
            sync: spool.sync(),
            opening: std::iter::once(first).chain(recovery.records).collect(),
            node,
            epoch,
            signer,
            spool,
            stream,
            stored,
            metrics,
            readiness,
            open_intents: OpenIntents::default(),
            shipping,
            in_flight: FuturesUnordered::new(),
            repeats: 0,
            publish_after: now,
            gathering: Gathering::default(),
            since_head: 0,
            last_head: now,
            last_progress: now,
            stall: STALL_MIN,
        };
        owner.write_opening();
        Ok(owner)
    }

    pub(super) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH_INPUTS_MAX);
        let mut gathered = pin!(sleep_until(Instant::now()));
        loop {
            let gathering = self.publish_due();
            if let Some(until) = gathering.filter(|until| *until != gathered.deadline()) {
                gathered.as_mut().reset(until);
            }
            tokio::select! {
                received = inputs.recv_many(&mut batch, BATCH_INPUTS_MAX) => {
                    if received == 0 {
                        return;
                    }
                    others_first().await;
                    while batch.len() < BATCH_INPUTS_MAX && let Ok(input) = inputs.try_recv() {
                        batch.push(input);
                    }
                    if let Some(done) = self.take(&mut batch) {
                        inputs.close();
                        self.close().await;
                        let _whoever_asked_may_be_gone = done.send(());
                        return;
                    }
                }
                Some(published) = self.in_flight.next() => self.published(published),
                () = gathered.as_mut(), if gathering.is_some() => {}
                _ = tick.tick() => self.on_tick(),
            }
        }
    }

    /// Handles a batch; the wish to close is handed back.
    fn take(&mut self, batch: &mut Vec<Input>) -> Option<oneshot::Sender<()>> {
        let mut appends = Vec::with_capacity(batch.len());
        let mut close = None;
        for input in batch.drain(..) {
            match input {
                Input::Append { record, class, reply } => appends.push(Append { record, class, reply }),
                Input::Notice(notice) => self.notice(notice),
                Input::Close { done } => close = Some(done),
            }
        }
        self.append_all(appends);
        close
    }

    fn append_all(&mut self, appends: Vec<Append>) {
        let (first, prev) = (self.chain.next_seq(), *self.chain.prev());
        let mut chained = Vec::with_capacity(appends.len());
        for Append { record, class, reply } in appends {
            let intent = record.intent.clone();
            let appended = match self.refusal(class) {
                Some(reason) => Err(reason),
                None => self.chain.append(*record).map_err(|error| {
                    tracing::error!(%error, "a record cannot be written");
                    Reason::SpoolFull
                }),
            };
            match appended {
                Ok(bytes) => chained.push((bytes, class, intent, reply)),
                // The caller may have gone; then nobody needs the answer.
                Err(reason) => drop(reply.send(Err(reason))),
            }
        }
        if chained.is_empty() {
            return;
        }
        let bytes: Vec<&Vec<u8>> = chained.iter().map(|(bytes, ..)| bytes).collect();
        if let Err(error) = self.spool.append(&bytes) {
            tracing::error!(%error, records = bytes.len(), "records are refused");
            self.chain = NodeChain::resume(self.node.clone(), self.epoch, first, prev);
            chained.into_iter().for_each(|(.., reply)| drop(reply.send(Err(Reason::SpoolFull))));
            // A head tried at a later tick tells when there is room again.
            self.readiness.not_ready("spool", "cannot be written");
            return;
        }
        for (seq, (bytes, class, intent, reply)) in (first..).zip(chained) {
            let mut id = None;
            match class {
                Class::Intent(tier) => {
                    let named = record_id(&bytes);
                    self.open_intents.insert(named.clone(), seq);
                    id = Some(named);
                    if tier == Tier::Destructive {
                        self.gathering.is_awaited(seq);
                    }
                }
                Class::Outcome => {
                    intent.into_iter().for_each(|intent| self.open_intents.remove(&intent));
                }
                Class::Denied | Class::Evaluated => {}
            }
            drop(reply.send(Ok(Written { seq, id })));
        }
        self.wrote(self.chain.next_seq() - first);
        if self.since_head >= HEAD_RECORDS {
            self.write_head();
        }
    }

    fn refusal(&self, class: Class) -> Option<Reason> {
        if !self.opening.is_empty() {
            return Some(Reason::SpoolFull);
        }
        match (class, self.spool.fill()) {
            (Class::Evaluated, Fill::Room | Fill::Pressure) => {
                let waiting = self.shipping.unstored(self.epoch);
                let is_much = self.spool.is_half_full() || waiting >= UNSTORED_FOR_DECISIONS_MAX;
                is_much.then_some(Reason::SpoolPressure)
            }
            (Class::Outcome, _)
            | (_, Fill::Room)
            | (Class::Intent(Tier::Retrieval) | Class::Denied, Fill::Pressure) => None,
            (Class::Intent(Tier::Transactional | Tier::Destructive), Fill::Pressure) => Some(Reason::SpoolPressure),
            (Class::Intent(_) | Class::Denied | Class::Evaluated, Fill::Full) => Some(Reason::SpoolFull),
        }
    }

    fn write_opening(&mut self) {
        let (first, prev) = (self.chain.next_seq(), *self.chain.prev());
        let chained: Result<Vec<_>, _> = self.opening.iter().map(|record| self.chain.append(record.clone())).collect();
        let written = match chained {
            Ok(bytes) => self.spool.append(&bytes).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        match written {
            Ok(range) => {
                self.opening.clear();
                self.wrote(range.end - range.start);
                self.write_head();
                self.sync.request(range.end);
            }
            Err(error) => {
                tracing::error!(error, "the run cannot be opened in the spool; calls are refused until it is");
                self.chain = NodeChain::resume(self.node.clone(), self.epoch, first, prev);
                self.show();
            }
        }
    }

    /// A head that cannot be written now is written at a later tick.
    fn write_head(&mut self) {
        let (first, prev) = (self.chain.next_seq(), *self.chain.prev());
        let Ok(Some(bytes)) = self.chain.append_head(now_ts(), &self.signer) else { return };
        match self.spool.append(&[bytes]) {
            Ok(_) => {
                self.wrote(1);
                self.since_head = 0;
                self.last_head = Instant::now();
            }
            Err(error) => {
                tracing::warn!(%error, "a signed head cannot be written");
                self.chain = NodeChain::resume(self.node.clone(), self.epoch, first, prev);
            }
        }
    }

    fn wrote(&mut self, records: u64) {
        if !self.shipping.is_waiting() {
            self.last_progress = Instant::now();
        }
        self.since_head += records;
        self.gathering.goes_on();
        self.shipping.extend(self.epoch, 0, self.chain.next_seq());
        self.metrics.records.inc_by(records);
        self.show();
    }

    fn show(&self) {
        self.metrics.spool_bytes.set(gauge_value(self.spool.bytes()));
        self.metrics.records_unpublished.set(gauge_value(self.shipping.unpublished()));
        match self.spool.fill() {
            Fill::Room | Fill::Pressure => self.readiness.ready("spool"),
            Fill::Full => self.readiness.not_ready("spool", "full"),
        }
    }

    fn on_tick(&mut self) {
        if !self.opening.is_empty() {
            self.write_opening();
            return;
        }
        self.metrics.oldest_open_call_seconds.set(gauge_value(self.open_intents.oldest_seconds()));
        let idle_room = self.spool.fill() != Fill::Full;
        let age = self.last_head.elapsed();
        if (self.since_head > 0 && age >= HEAD_BUSY) || (age >= HEAD_IDLE && idle_room) {
            self.write_head();
            // Retrieval records become durable soon after, though nobody waits for it.
            self.sync.request(self.chain.next_seq());
        }
        if self.shipping.is_waiting() && self.last_progress.elapsed() >= self.stall {
            tracing::warn!("no news from the ledger; sending records again");
            self.shipping.resend_unstored(STALL_RECORDS);
            self.last_progress = Instant::now();
            self.stall = (self.stall * 2).min(STALL_MAX);
        }
    }

    /// What is not handed over in time stays in the spool for the next run.
    async fn close(&mut self) {
        self.gathering.is_over();
        if self.opening.is_empty() {
            self.append_close();
        }
        if let Some(last) = self.chain.next_seq().checked_sub(1)
            && self.sync.sync_to(last).await.is_err()
        {
            tracing::error!("the last records could not be made durable");
        }
        let deadline = tokio::time::sleep(FLUSH_WAIT_MAX);
        tokio::pin!(deadline);
        loop {
            self.publish_due();
            if self.in_flight.is_empty() && self.shipping.is_drained() {
                return;
            }
            tokio::select! {
                Some(published) = self.in_flight.next() => self.published(published),
                () = tokio::time::sleep(TICK) => {}
                () = &mut deadline => {
                    tracing::warn!("records were not all handed over; the next run ships the rest");
                    return;
                }
            }
        }
    }

    fn append_close(&mut self) {
        let (first, prev) = (self.chain.next_seq(), *self.chain.prev());
        let closed = self.chain.append(Record::new(Kind::NodeEpochClose, now_ts())).map_err(|error| error.to_string());
        match closed.and_then(|bytes| self.spool.append(&[bytes]).map_err(|error| error.to_string())) {
            Ok(_) => {
                self.wrote(1);
                self.write_head();
            }
            Err(error) => {
                tracing::error!(error, "the run cannot be closed in the spool");
                self.chain = NodeChain::resume(self.node.clone(), self.epoch, first, prev);
            }
        }
    }
}

/// Ready once all tasks that could run before this one have run.
async fn others_first() {
    let mut is_again = false;
    poll_fn(|context| {
        if std::mem::replace(&mut is_again, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The present in a record's spelling.
pub(crate) fn now_ts() -> String {
    format_ts(jiff::Timestamp::now().as_microsecond())
}
