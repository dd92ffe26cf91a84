//! The domain on top of consensus: commands in, committed state out.
//!
//! Services hold a [`Domain`]. A write goes through one task (`writer`): decide on committed plus in-flight state,
//! replicate the events, answer once they are applied here. A read looks at the committed state, as of one revision.
//! Invariants: nothing is answered as done that is not committed; a request id is carried out once.
//! Absent: what commands and events mean (`bailiwick_control_plane_core`), how errors look outside (`status`).

mod projection;
#[cfg(test)]
mod tests;
mod writer;

use std::{sync::Arc, time::Duration};

use bailiwick_control_plane_core::{
    Command, Context, Decision, FreshIds, Rejection, State, agent::inventory::Activity, command::Answer, decide,
    timeline::Timeline,
};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::projection::{Projection, Shared, read_event};
pub(crate) use self::writer::run as run_writer;
use crate::clock::{Host, Surroundings};
use bailiwick_consensus::{Consensus, ConsensusError};

/// Commands waiting for the writer; more are refused, so that callers see pressure instead of growing delay.
const MAILBOX_MAX: usize = 256;
/// Longest wait for a command's outcome: several elections.
const OUTCOME_WAIT_MAX: Duration = Duration::from_secs(15);

/// Who asks, and as which request.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// E.g. `admin`, `node:dp-1`.
    pub(crate) actor: String,
    /// Repeats of an id happen once; empty: no such promise.
    pub(crate) request_id: String,
}

/// What a committed command came to.
#[derive(Clone, Debug)]
pub struct Written {
    /// The revision it made; of the earlier time, if it was a repeat; the current one, if nothing changed.
    pub revision: u64,
    /// What the command came to.
    pub answer: Answer,
    /// Worth telling whoever asked.
    pub warnings: Vec<String>,
}

/// Why a command had no effect, or none that is known.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The state does not allow it.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Nothing was changed.
    #[error("too many writes are waiting")]
    Busy,
    /// It may still happen; ask again with the same request id.
    #[error("the outcome is not known yet")]
    OutcomeUnknown,
    /// Nothing was changed, unless consensus says otherwise.
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    /// The operating system gave no randomness.
    #[error("no randomness")]
    Randomness,
    /// The writer has ended.
    #[error("the control plane is stopping")]
    Stopping,
}

/// One command on its way to the writer.
#[derive(Debug)]
pub(crate) struct Request {
    command: Command,
    context: Context,
    reply: oneshot::Sender<Result<Written, WriteError>>,
}

/// A handle on state and writer; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Domain {
    consensus: Consensus,
    shared: Shared,
    mailbox: mpsc::Sender<Request>,
    surroundings: Arc<dyn Surroundings>,
}

impl Domain {
    /// A handle, and the writer's end of its mailbox.
    pub(crate) fn new(consensus: Consensus, shared: Shared) -> (Self, mpsc::Receiver<Request>) {
        Self::within(consensus, shared, Arc::new(Host))
    }

    /// As [`Domain::new`], with time and identifiers from elsewhere.
    pub(crate) fn within(
        consensus: Consensus,
        shared: Shared,
        surroundings: Arc<dyn Surroundings>,
    ) -> (Self, mpsc::Receiver<Request>) {
        let (mailbox, requests) = mpsc::channel(MAILBOX_MAX);
        (Self { consensus, shared, mailbox, surroundings }, requests)
    }

    /// This node's part in the cluster.
    pub(crate) const fn consensus(&self) -> &Consensus {
        &self.consensus
    }

    /// Looks at the state as of the last change applied here.
    pub(crate) fn read<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        look(&self.shared.read().state)
    }

    /// Looks at a state that holds every write acknowledged before this call.
    pub(crate) async fn read_latest<R>(&self, look: impl FnOnce(&State) -> R) -> Result<R, ConsensusError> {
        self.consensus.linearizable().await?;
        Ok(self.read(look))
    }

    /// As [`Domain::read_latest`], with the consents' latest history. Looking takes a lock: make answers of it elsewhere.
    pub(crate) async fn read_timeline<R>(
        &self,
        look: impl FnOnce(&State, &Timeline) -> R,
    ) -> Result<R, ConsensusError> {
        self.consensus.linearizable().await?;
        let committed = self.shared.read();
        Ok(look(&committed.state, &committed.timeline))
    }

    /// As [`Domain::read_latest`], with what happened to agents.
    pub(crate) async fn read_activity<R>(
        &self,
        look: impl FnOnce(&State, &Activity) -> R,
    ) -> Result<R, ConsensusError> {
        self.consensus.linearizable().await?;
        let committed = self.shared.read();
        Ok(look(&committed.state, &committed.activity))
    }

    /// The revision of the last change by which somebody may have left, as far as it is applied here.
    pub(crate) fn left_at(&self) -> u64 {
        self.shared.read().left_at
    }

    /// Carries a command out and waits until it is committed and applied here.
    pub(crate) async fn write(&self, command: Command, caller: Caller) -> Result<Written, WriteError> {
        let (reply, answer) = oneshot::channel();
        let request = Request { command, context: self.context(caller)?, reply };
        self.mailbox.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => WriteError::Busy,
            mpsc::error::TrySendError::Closed(_) => WriteError::Stopping,
        })?;
        let answered = tokio::time::timeout(OUTCOME_WAIT_MAX, answer).await;
        answered.map_err(|_| WriteError::OutcomeUnknown)?.map_err(|_| WriteError::Stopping)?
    }

    /// What a command would do now.
    pub(crate) async fn rehearse(&self, command: Command, caller: Caller) -> Result<Written, WriteError> {
        let context = self.context(caller)?;
        let rehearsed = self.read_latest(|state| (state.revision, decide(state, command, &context))).await?;
        let (revision, decision): (u64, Result<Decision, Rejection>) = rehearsed;
        let Decision { answer, warnings, .. } = decision?;
        Ok(Written { revision, answer, warnings })
    }

    /// Microseconds since 1970, UTC.
    pub(crate) fn now_micros(&self) -> u64 {
        self.surroundings.now_micros()
    }

    fn context(&self, caller: Caller) -> Result<Context, WriteError> {
        let random = || self.surroundings.random().map_err(|_| WriteError::Randomness);
        let fresh = |prefix: &str| Ok::<_, WriteError>(format!("{prefix}{}", hex::encode(random()?)));
        let ids = FreshIds { consent: fresh("c-")?, session: fresh("s-")?, token: fresh("t-")? };
        let now_micros = self.now_micros();
        Ok(Context { now_micros, actor: caller.actor, request_id: caller.request_id, ids })
    }
}
