//! Who belongs to the cluster, and how that changes: learner first, voter once caught up, joint consensus between.
//!
//! `leadership` on the leader brings the membership here in line with the one the domain wants. Each call is one step
//! that is committed before it returns; one that fails may still take effect and can be asked for again.
//! Invariant: a change is refused while an earlier one is not committed. Absent: which members are wanted (the domain).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use openraft::{ChangeMembers, async_runtime::watch::WatchReceiver as _, errors::ClientWriteError, errors::RaftError};

use super::{Consensus, ConsensusError, raft::Types, transport::Member};

/// Longest wait for another node to take the lead when it is handed over: a few elections.
const TRANSFER_WAIT_MAX: Duration = Duration::from_secs(2);

/// The members of the cluster, as of the newest change this node knows (it may not be committed yet).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// They elect and commit.
    pub voters: BTreeMap<u64, Member>,
    /// They replicate and serve, and never vote.
    pub learners: BTreeMap<u64, Member>,
    /// A change of voters is under way: two majorities are needed.
    pub changing: bool,
}

impl Membership {
    /// A member by id.
    #[must_use]
    pub fn get(&self, node_id: u64) -> Option<&Member> {
        self.voters.get(&node_id).or_else(|| self.learners.get(&node_id))
    }
}

impl Consensus {
    /// Makes a cluster of this node alone. Only for an empty data directory; a node that is to join one calls nothing.
    ///
    /// # Errors
    /// When this node belongs to a cluster already.
    pub async fn initialize(&self, member: Member) -> Result<(), ConsensusError> {
        let members = BTreeMap::from([(self.node_id(), member)]);
        match self.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(error)) => Err(ConsensusError::Open(io::Error::other(error.to_string()))),
            Err(RaftError::Fatal(error)) => Err(self.cause(error).await),
        }
    }

    /// Whether this node belongs to a cluster already, or has heard from one.
    ///
    /// # Errors
    /// When this node has stopped.
    pub async fn is_initialized(&self) -> Result<bool, ConsensusError> {
        self.raft.is_initialized().await.map_err(super::fatal)
    }

    /// The members, as far as this node knows.
    #[must_use]
    pub fn membership(&self) -> Membership {
        let metrics = self.raft.metrics();
        let current = metrics.borrow_watched();
        let members = current.membership_config.membership();
        let voters: BTreeSet<u64> = members.voter_ids().collect();
        let mut membership = Membership { changing: members.get_joint_config().len() > 1, ..Membership::default() };
        for (id, member) in members.nodes() {
            let side = if voters.contains(id) { &mut membership.voters } else { &mut membership.learners };
            side.insert(*id, member.clone());
        }
        membership
    }

    /// Begins to replicate to a node that does not vote. Returns once that is committed, not once it has caught up.
    ///
    /// # Errors
    /// Except on the leader, and while another change is under way.
    pub async fn add_learner(&self, node_id: u64, member: Member) -> Result<(), ConsensusError> {
        self.change(ChangeMembers::AddNodes(BTreeMap::from([(node_id, member)])), true).await
    }

    /// Makes exactly these members voters, by joint consensus. Voters left out become learners.
    ///
    /// # Errors
    /// Except on the leader, when one of them is no member, and while another change is under way.
    pub async fn set_voters(&self, voters: BTreeSet<u64>) -> Result<(), ConsensusError> {
        self.change(ChangeMembers::ReplaceAllVoters(voters), true).await
    }

    /// Removes a member for good. A leader asked to remove itself hands over first and says so: ask the next one.
    ///
    /// # Errors
    /// Except on another leader than that member, and while another change is under way.
    pub async fn remove(&self, node_id: u64) -> Result<(), ConsensusError> {
        let members = self.membership();
        if members.get(node_id).is_none() {
            return Ok(());
        }
        if node_id == self.node_id() {
            let leader = self.transfer_leadership(None).await?;
            return Err(ConsensusError::NotLeader { leader: Some(leader) });
        }
        if members.voters.contains_key(&node_id) {
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([node_id])), false).await
        } else {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([node_id])), false).await
        }
    }

    /// Tells everybody where a member is to be found now.
    ///
    /// # Errors
    /// Except on the leader, and while another change is under way.
    pub async fn update_member(&self, node_id: u64, member: Member) -> Result<(), ConsensusError> {
        if self.membership().get(node_id).is_none() {
            return Err(ConsensusError::NoSuchMember { node_id });
        }
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(node_id, member)])), true).await
    }

    /// Up to which index each member is known to hold the log. Empty except on the leader.
    #[must_use]
    pub fn progress(&self) -> BTreeMap<u64, u64> {
        let metrics = self.raft.metrics();
        let current = metrics.borrow_watched();
        let Some(replication) = &current.replication else { return BTreeMap::new() };
        let mut progress: BTreeMap<u64, u64> =
            replication.iter().map(|(id, matched)| (*id, matched.as_ref().map_or(0, |id| id.index))).collect();
        progress.insert(self.node_id(), current.last_log_index.unwrap_or(0));
        progress
    }

    /// Has another voter lead: `to`, or the fittest. Returns who leads then.
    ///
    /// # Errors
    /// Except on the leader; when there is no such voter; when nobody takes over in time (this node may lead on).
    pub async fn transfer_leadership(&self, to: Option<u64>) -> Result<u64, ConsensusError> {
        let own = self.node_id();
        if !self.is_leader() {
            return Err(ConsensusError::NotLeader { leader: *self.leader().borrow() });
        }
        let voters = self.membership().voters;
        let to = to.or_else(|| self.successor(&voters)).ok_or(ConsensusError::NoSuccessor)?;
        if to == own {
            return Ok(own);
        }
        if !voters.contains_key(&to) {
            return Err(ConsensusError::NoSuchMember { node_id: to });
        }
        self.raft.trigger().transfer_leader(to).await.map_err(super::fatal)?;
        let other = |leader: Option<u64>| leader.is_some_and(|leader| leader != own);
        let taken =
            self.raft.wait(Some(TRANSFER_WAIT_MAX)).metrics(|m| other(m.current_leader), "leader transfer").await;
        match taken.ok().and_then(|metrics| metrics.current_leader) {
            Some(leader) => Ok(leader),
            None => Err(self.failure().unwrap_or(ConsensusError::NoSuccessor)),
        }
    }

    /// The voter that holds most of the log; of several the one heard of last, for one may be gone.
    fn successor(&self, voters: &BTreeMap<u64, Member>) -> Option<u64> {
        let (progress, metrics) = (self.progress(), self.raft.metrics());
        let current = metrics.borrow_watched();
        let heard = |id: &u64| current.heartbeat.as_ref().and_then(|heard| heard.get(id).copied().flatten());
        let others = voters.keys().filter(|id| **id != self.node_id());
        others.max_by_key(|id| (progress.get(id), heard(id))).copied()
    }

    async fn change(&self, changes: ChangeMembers<u64, Member>, retain: bool) -> Result<(), ConsensusError> {
        match self.raft.change_membership(changes, retain).await {
            Ok(_) => Ok(()),
            Err(RaftError::APIError(error)) => Err(refused(error)),
            Err(RaftError::Fatal(error)) => Err(self.cause(error).await),
        }
    }
}

fn refused(error: ClientWriteError<Types>) -> ConsensusError {
    match error {
        ClientWriteError::ChangeMembershipError(error) => ConsensusError::Membership { detail: error.to_string() },
        other => super::refused(other),
    }
}
