//! Reads that are current, on any node.
//!
//! A leader makes sure that a majority still follows it (ReadIndex: no clock is trusted); another node asks it from
//! where on a read is current and waits until it has applied as much. While leaders change, the question is asked
//! again. Whoever can be sure of nothing answers nothing.

use std::time::Duration;

use futures::future::{Either, select};
use openraft::{
    ReadPolicy,
    async_runtime::watch::{RecvError, WatchReceiver as _},
    errors::{LinearizableReadError, RaftError},
    type_config::TypeConfigExt as _,
};

use super::{
    Consensus, ConsensusError,
    messages::{Answer, Ask, ReadFrom},
    raft::Types,
    transport::Lane,
};

/// Longest wait for a leader that can say from where on a read is current, and for that to be applied here: an
/// election that has to be held twice, with room.
const READ_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest wait for one answer; a leader that needs longer is asked again or has been replaced.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(1);
/// Pause before the same leader is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(50);

impl Consensus {
    /// Returns once every write acknowledged before this call, by any leader, is part of what is read here. On any
    /// node: one that does not lead asks the leader, and waits until it has applied as much.
    ///
    /// # Errors
    /// [`ConsensusError::Unconfirmed`] when no leader that a majority follows has answered within some seconds.
    pub async fn linearizable(&self) -> Result<(), ConsensusError> {
        let until = Types::now() + READ_WAIT_MAX;
        loop {
            if let Some(failure) = self.failure() {
                return Err(failure);
            }
            let Ok(attempt) =
                Types::timeout_at(until, select(Box::pin(self.confirm()), Box::pin(self.another_leads()))).await
            else {
                return Err(ConsensusError::Unconfirmed { leader: *self.leader.borrow() });
            };
            match attempt {
                Either::Left((Err(ConsensusError::Unconfirmed { leader: known }), changed)) => {
                    let pause = Box::pin(Types::sleep(AGAIN_AFTER));
                    if Types::timeout_at(until, select(changed, pause)).await.is_err() {
                        return Err(ConsensusError::Unconfirmed { leader: known });
                    }
                }
                Either::Left((confirmed, _)) => return confirmed,
                Either::Right((Ok(()), _)) => {}
                Either::Right((Err(_), _)) => return Err(self.failed().await),
            }
        }
    }

    /// Ends when the leader is not the present one any more, as far as this node knows. Those who wait here are woken
    /// in order, other than at [`Consensus::leader`]: a simulation depends on it.
    async fn another_leads(&self) -> Result<(), RecvError> {
        let mut metrics = self.raft.server_metrics();
        let known = metrics.borrow_and_update().current_leader;
        loop {
            metrics.changed().await?;
            if metrics.borrow_and_update().current_leader != known {
                return Ok(());
            }
        }
    }

    async fn confirm(&self) -> Result<(), ConsensusError> {
        match self.raft.ensure_linearizable(ReadPolicy::ReadIndex).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => match forward.leader_id {
                Some(leader) if leader != self.node_id() => self.follow(leader).await,
                leader => Err(ConsensusError::Unconfirmed { leader }),
            },
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(ConsensusError::Unconfirmed { leader: None })
            }
            Err(RaftError::Fatal(error)) => Err(self.cause(error).await),
        }
    }

    /// Learns from the leader how far a current state goes, and waits for that much.
    async fn follow(&self, leader: u64) -> Result<(), ConsensusError> {
        let unconfirmed = || ConsensusError::Unconfirmed { leader: Some(leader) };
        let member = self.membership().get(leader).cloned().ok_or_else(unconfirmed)?;
        let asked = self.network.ask(leader, &member, Lane::Control, Ask::ReadIndex(true), ANSWER_WAIT_MAX).await;
        let answer = asked.map_err(|error| {
            tracing::debug!(leader, %error, "the leader gives no read index");
            self.failure().unwrap_or_else(unconfirmed)
        })?;
        let Answer::ReadIndex(from) = answer else { return Err(unconfirmed()) };
        let Some(index) = from.index else { return Err(ConsensusError::Unconfirmed { leader: from.leader }) };
        let applied = self.raft.wait(Some(READ_WAIT_MAX)).applied_index_at_least(Some(index), "read index").await;
        applied.map(drop).map_err(|_| self.failure().unwrap_or_else(unconfirmed))
    }

    /// From which index on a read is current. Only a node that a majority still follows can say.
    pub(super) async fn read_from(&self) -> std::io::Result<ReadFrom> {
        match self.raft.get_read_linearizer(ReadPolicy::ReadIndex).await {
            Ok(linearizer) => Ok(ReadFrom { index: Some(linearizer.read_log_id().index()), leader: None }),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                Ok(ReadFrom { index: None, leader: forward.leader_id })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Ok(ReadFrom::default()),
            Err(RaftError::Fatal(error)) => Err(std::io::Error::other(error)),
        }
    }
}
