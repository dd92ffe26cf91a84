//! The recorder: the only writer of this node's chain, and the only one who knows how durable a record is.
//!
//! Called by `calls` for every intent, outcome and denial, and for decisions that services ask for. One task (`owner`)
//! owns chain and spool; everybody else holds a [`Recorder`]. What a returned `Ok` promises depends on the tier of the
//! tool:
//! - retrieval: the record is *written*; it survives the process.
//! - transactional: it is *synced*; it survives the host.
//! - destructive: it is synced and the ledger *stored* it; it survives the loss of this node.
//!
//! Publishing happens beside: retrieval waits for nothing but the write. A record leaves the spool only when a
//! published checkpoint covers it and, for an intent, its outcome is recorded. Clean shutdown is [`Recorder::close`].
//! Deliberately absent: what records say (`data-plane/core`), storage (`spool`).

mod notices;
mod owner;
mod reader;
mod recovery;
mod shipping;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bailiwick_ledger_core::{
    key::NodeSigner,
    record::{Kind, Record},
};
use bailiwick_proto::{Reason, Tier, subjects};
use bailiwick_runtime::{
    event_stream::EventStream,
    ops::Readiness,
    tasks::{OnEnd, Supervisor},
};
use tokio::sync::{mpsc, oneshot, watch};

use self::{notices::Notice, owner::Owner};
pub(crate) use self::{
    owner::now_ts,
    reader::Reader,
    recovery::{Recovery, RecoveryError, recover},
};
use crate::{
    metrics::Metrics,
    spool::{RecoveredEpoch, Spool, SpoolError, SpoolSync},
};

/// Records waiting for the owner; senders wait beyond it. A little more than may be under way in one batch.
const INPUTS_MAX: usize = 1024;
/// Longest wait for the ledger to store a destructive call's intent.
pub(crate) const STORED_WAIT_MAX: Duration = Duration::from_secs(5);
/// Longest wait for the last records to be handed over at shutdown; what remains is shipped by the next run.
pub(crate) const FLUSH_WAIT_MAX: Duration = Duration::from_secs(5);

/// What a record is to the recorder: it decides when a full spool refuses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Before a call of this tier is forwarded.
    Intent(Tier),
    /// After; has a reserve, because the effect is already there.
    Outcome,
    /// A refusal.
    Denied,
    /// A decision for a service. It leaves the greater part of the spool to calls, and does not queue before them where
    /// the ledger is slow.
    Evaluated,
}

/// An intent in the spool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    pub(crate) seq: u64,
    /// How its outcome names it.
    pub(crate) id: String,
}

/// A record in the spool.
#[derive(Debug)]
pub(crate) struct Written {
    seq: u64,
    /// Of an intent: how its outcome names it.
    id: Option<String>,
}

/// The call must not be forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IntentRefused {
    pub(crate) reason: Reason,
    /// The intent that is on record all the same and needs an outcome.
    pub(crate) recorded: Option<Recorded>,
}

type Reply = oneshot::Receiver<Result<Written, Reason>>;

/// What the owner's task receives.
#[derive(Debug)]
pub(crate) enum Input {
    Append { record: Box<Record>, class: Class, reply: oneshot::Sender<Result<Written, Reason>> },
    Notice(Notice),
    Close { done: oneshot::Sender<()> },
}

/// Everything a run's recorder starts from.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) node: String,
    pub(crate) region: String,
    pub(crate) epoch: u64,
    pub(crate) signer: NodeSigner,
    pub(crate) spool: Spool,
    pub(crate) recovered: Vec<RecoveredEpoch>,
    pub(crate) recovery: Recovery,
    pub(crate) reader: Arc<Reader>,
    pub(crate) stream: EventStream,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) readiness: Readiness,
}

/// A handle on the recorder; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    node: Arc<str>,
    epoch: u64,
    inputs: mpsc::Sender<Input>,
    sync: SpoolSync,
    reader: Arc<Reader>,
    /// One past the last record of this epoch that the ledger holds.
    stored: watch::Receiver<u64>,
}

impl Recorder {
    /// Begins the epoch and starts shipping.
    ///
    /// # Errors
    /// The spool already holds this epoch or a later one.
    pub(crate) fn start(start: Start, supervisor: &Supervisor) -> Result<Self, SpoolError> {
        let (inputs, received) = mpsc::channel(INPUTS_MAX);
        let (node, epoch, sync) = (Arc::from(start.node.as_str()), start.epoch, start.spool.sync());
        let (stream, name, reader) = (start.stream.clone(), start.node.clone(), Arc::clone(&start.reader));
        let (checkpoints, replays) = (subjects::checkpoint(&start.region), subjects::replay(&name));
        let (stored_sender, stored) = watch::channel(0);
        let owner = Owner::open(start, stored_sender)?;
        supervisor.spawn("recorder", OnEnd::Critical, owner.run(received));
        let decode = {
            let (name, reader) = (name.clone(), Arc::clone(&reader));
            move |message: &bytes::Bytes| notices::ledger_notices(&name, message, &reader)
        };
        let follow = notices::follow(stream.clone(), checkpoints, decode, inputs.clone());
        supervisor.spawn("recorder-notices", OnEnd::Finish, follow);
        let decode = move |message: &bytes::Bytes| notices::replay_request(&name, message);
        let follow = notices::follow(stream, replays, decode, inputs.clone());
        supervisor.spawn("recorder-replays", OnEnd::Finish, follow);
        Ok(Self { node, epoch, inputs, sync, reader, stored })
    }

    /// The node and epoch whose chain this is.
    pub(crate) fn chain(&self) -> (&str, u64) {
        (&self.node, self.epoch)
    }

    /// Records that a call of this tier is about to be forwarded; `Ok` once it may be.
    pub(crate) async fn intent(&self, record: Record, tier: Tier) -> Result<Recorded, IntentRefused> {
        let appended = self.append(record, Class::Intent(tier)).await;
        let Written { seq, id } = appended.map_err(|reason| IntentRefused { reason, recorded: None })?;
        // INVARIANT: the owner names every intent.
        let recorded = Recorded { seq, id: id.unwrap_or_default() };
        let durable = match tier {
            Tier::Retrieval => Ok(()),
            Tier::Transactional => self.synced(seq).await,
            Tier::Destructive => match self.synced(seq).await {
                Ok(()) => self.stored(seq).await,
                Err(reason) => Err(reason),
            },
        };
        match durable {
            Ok(()) => Ok(recorded),
            Err(reason) => Err(IntentRefused { reason, recorded: Some(recorded) }),
        }
    }

    /// Records how a call ended; the result is released only after `Ok`, which says where the record stands.
    pub(crate) async fn outcome(&self, record: Record, tier: Tier) -> Result<u64, Reason> {
        let Written { seq, .. } = self.append(record, Class::Outcome).await?;
        match tier {
            Tier::Retrieval => {}
            Tier::Transactional | Tier::Destructive => self.synced(seq).await?,
        }
        Ok(seq)
    }

    /// Records a refusal; where it stands.
    pub(crate) async fn denied(&self, record: Record) -> Result<u64, Reason> {
        self.append(record, Class::Denied).await.map(|written| written.seq)
    }

    /// Records decisions for a service, in this order; they may be told once all of them are written. Which of them
    /// are on record when it fails is not said.
    pub(crate) async fn evaluated(&self, records: impl Iterator<Item = Record>) -> Result<(), Reason> {
        if !self.reader.knows(Kind::DecisionEvaluated) {
            return Err(Reason::LedgerOutdated);
        }
        let mut answers = Vec::with_capacity(records.size_hint().0);
        for record in records {
            answers.push(self.hand_over(record, Class::Evaluated).await?);
        }
        for answer in answers {
            answer.await.unwrap_or(Err(Reason::SpoolFull))?;
        }
        Ok(())
    }

    /// Ends the run in good order: closes the chain and hands over what it can. Nothing is recorded afterwards.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.inputs.send(Input::Close { done }).await.is_ok() {
            drop(closed.await);
        }
    }

    async fn append(&self, record: Record, class: Class) -> Result<Written, Reason> {
        self.hand_over(record, class).await?.await.unwrap_or(Err(Reason::SpoolFull))
    }

    /// Where it stands, or why not, comes when it is written.
    async fn hand_over(&self, record: Record, class: Class) -> Result<Reply, Reason> {
        let (reply, answer) = oneshot::channel();
        let input = Input::Append { record: Box::new(record), class, reply };
        self.inputs.send(input).await.map_err(|_closed| Reason::SpoolFull)?;
        Ok(answer)
    }

    async fn synced(&self, seq: u64) -> Result<(), Reason> {
        self.sync.sync_to(seq).await.map_err(|_failed| Reason::SpoolFull)
    }

    async fn stored(&self, seq: u64) -> Result<(), Reason> {
        let mut stored = self.stored.clone();
        let reached = stored.wait_for(|stored| *stored > seq);
        match tokio::time::timeout(STORED_WAIT_MAX, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Reason::LedgerUnreachable),
        }
    }
}
