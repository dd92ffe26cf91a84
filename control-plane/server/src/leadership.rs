//! What only the leader does, and only while it leads.
//!
//! It makes Raft's membership follow the members that the state wants, one step at a time: a new control plane first
//! learns, and votes once it has caught up; a removed one goes; a leader that is removed hands over first. It states
//! who signs tokens, watches what is rolled out in stages, fetches signals, goes
//! on with leavers, and it records. Each duty may be done twice or be broken off
//! anywhere: the next leader looks at what is and goes on from there. Absent: which members are wanted
//! (`core::member`), how a step is carried out (`consensus`), records (`recorder`), rollouts (`rollout`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bailiwick_consensus::{Consensus, ConsensusError, Member, Membership};
use bailiwick_control_plane_core::{Command, State, key_rotation, member, token_key::Issuer};
use bailiwick_runtime::{EventStream, Shutdown};

use crate::{
    clock,
    domain::{Caller, Domain},
    internal::Colleagues,
    leavers,
    metrics::Metrics,
    recorder::Recorder,
    rollout::Rollouts,
    signals::poll::Polling,
    vault::{Upkeep, Vault},
};

/// Between looks at the membership; a change of it may be under way, or a learner may be catching up.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// After a step that failed, or a statement that was refused.
const PAUSE: Duration = Duration::from_secs(1);
/// Between looks at the cluster's own keys, which are replaced after days and kept for minutes at least.
const KEYS_EVERY: Duration = Duration::from_secs(60);
/// A learner this close to the leader's log is as good as caught up: what is missing fits into one message.
const LAG_MAX: u64 = 200;

/// What this node does once it leads.
#[derive(Debug)]
pub(crate) struct Duties {
    pub(crate) domain: Domain,
    pub(crate) vault: Vault,
    /// Who signs tokens, as this node's configuration says.
    pub(crate) issuer: Issuer,
    pub(crate) node: String,
    pub(crate) stream: EventStream,
    pub(crate) metrics: Metrics,
    pub(crate) rollouts: Rollouts,
    pub(crate) signals: Polling,
    pub(crate) colleagues: Colleagues,
    /// After how many days another key signs tokens.
    pub(crate) token_key_days: u64,
}

impl Duties {
    /// Takes the duties up whenever this node leads, and lays them down when it does not, until shutdown.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let consensus = self.domain.consensus().clone();
        let (own, mut leaders) = (consensus.node_id(), consensus.leader());
        loop {
            match shutdown.or_stop(leaders.wait_for(|leader| *leader == Some(own))).await {
                None | Some(Err(_)) => return,
                Some(Ok(_)) => {}
            }
            tracing::info!(term = consensus.term(), "this node leads");
            let mut lost = leaders.clone();
            tokio::select! {
                () = self.lead(&shutdown) => return,
                _ = lost.wait_for(|leader| *leader != Some(own)) => tracing::info!("this node leads no more"),
            }
            self.metrics.rollout(0);
            self.metrics.signal_streams(0, 0);
            self.metrics.signal_verified(0);
        }
    }

    /// Returns only at shutdown.
    async fn lead(&self, shutdown: &Shutdown) {
        let recorder = Recorder::new(self.domain.consensus().clone(), self.stream.clone(), self.metrics.clone());
        tokio::join!(
            self.state_identity(shutdown),
            self.reconcile(shutdown),
            self.rollouts.watch(shutdown),
            self.signals.run(shutdown),
            leavers::see_off(&self.domain, &self.node, shutdown),
            self.keep_keys(shutdown),
            recorder.run(shutdown.clone())
        );
    }

    /// Makes the secrets that are missing and says who signs tokens; nothing happens where that is so already.
    async fn state_identity(&self, shutdown: &Shutdown) {
        loop {
            let stated = self.state_once().await;
            let Err(error) = stated else { return };
            tracing::warn!(error = %error, "what the leader states was not taken; trying again");
            if shutdown.or_stop(tokio::time::sleep(PAUSE)).await.is_none() {
                return;
            }
        }
    }

    pub(crate) async fn state_once(&self) -> Result<(), StatementError> {
        self.vault.create_missing(&self.domain).await.map_err(|error| StatementError(error.to_string()))?;
        let caller = Caller { actor: format!("node:{}", self.node), request_id: String::new() };
        let stated = self.domain.write(Command::SetIssuer(self.issuer.clone()), caller).await;
        stated.map(drop).map_err(|error| StatementError(error.to_string()))
    }

    /// Retires keys whose time has come, and has another one sign tokens in time.
    async fn keep_keys(&self, shutdown: &Shutdown) {
        while shutdown.or_stop(tokio::time::sleep(KEYS_EVERY)).await.is_some() {
            let (now_micros, mut token_key_days) = (clock::now_micros(), self.token_key_days);
            // Nodes of the version before rotations would end at one: it waits for the last of them.
            let is_due = self.domain.read(|state| key_rotation::is_due(state, now_micros, token_key_days));
            if is_due && !self.colleagues.are_of_one_version().await {
                tracing::warn!(
                    "the key that signs tokens is old; it is replaced once all control planes are of one version"
                );
                token_key_days = 0;
            }
            let upkeep = Upkeep { now_micros, token_key_days };
            if let Err(error) = self.vault.keep(&self.domain, upkeep).await {
                tracing::warn!(%error, "the cluster's own keys stay as they are; trying again");
            }
        }
    }

    async fn reconcile(&self, shutdown: &Shutdown) {
        let consensus = self.domain.consensus();
        loop {
            let wanted = self.domain.read(wanted);
            let step = next_step(&wanted, &consensus.membership(), &consensus.progress(), consensus.node_id());
            let pause = match step {
                None => LOOK_EVERY,
                Some(step) => match take(consensus, &step).await {
                    Ok(()) => {
                        tracing::info!(?step, "the membership has changed");
                        Duration::ZERO
                    }
                    Err(error) => {
                        tracing::warn!(?step, %error, "the membership cannot be changed now; trying again");
                        PAUSE
                    }
                },
            };
            if shutdown.or_stop(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }
}

/// Something that the leader states was refused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct StatementError(String);

/// A control plane as the state wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    member: Member,
    voter: bool,
}

fn wanted(state: &State) -> BTreeMap<u64, Wanted> {
    let one = |(name, one): (&str, &member::Member)| {
        let member = Member { name: name.to_owned(), peer: one.peer.clone(), api: one.api.clone() };
        (one.node_id, Wanted { member, voter: one.voter })
    };
    member::control_planes(state).map(one).collect()
}

/// One change of the membership.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Update(u64, Member),
    Remove(u64),
    Learn(u64, Member),
    Vote(BTreeSet<u64>),
}

/// What to change next; nothing while a change is under way or all is as wanted.
fn next_step(
    wanted: &BTreeMap<u64, Wanted>,
    present: &Membership,
    progress: &BTreeMap<u64, u64>,
    own: u64,
) -> Option<Step> {
    // A state that wants no voter is one that this node has not caught up with.
    if present.changing || !wanted.values().any(|one| one.voter) {
        return None;
    }
    let is_present = |id: &u64| present.get(*id);
    let moved = wanted.iter().find(|(id, one)| is_present(id).is_some_and(|there| *there != one.member));
    if let Some((id, one)) = moved {
        return Some(Step::Update(*id, one.member.clone()));
    }
    let leaving = present.voters.keys().chain(present.learners.keys()).filter(|id| !wanted.contains_key(id));
    // This node itself goes last, by handing over.
    if let Some(id) = leaving.max_by_key(|id| **id != own) {
        return Some(Step::Remove(*id));
    }
    if let Some((id, one)) = wanted.iter().find(|(id, _)| is_present(id).is_none()) {
        return Some(Step::Learn(*id, one.member.clone()));
    }
    let head = progress.get(&own).copied().unwrap_or(u64::MAX);
    let has_caught_up = |id: &u64| progress.get(id).is_some_and(|at| at.saturating_add(LAG_MAX) >= head);
    let is_to_vote = |(id, one): &(&u64, &Wanted)| one.voter && (present.voters.contains_key(id) || has_caught_up(id));
    let voters: BTreeSet<u64> = wanted.iter().filter(is_to_vote).map(|(id, _)| *id).collect();
    let as_is = voters.len() == present.voters.len() && voters.iter().all(|id| present.voters.contains_key(id));
    (!as_is && !voters.is_empty()).then_some(Step::Vote(voters))
}

async fn take(consensus: &Consensus, step: &Step) -> Result<(), ConsensusError> {
    match step {
        Step::Update(id, member) => consensus.update_member(*id, member.clone()).await,
        Step::Remove(id) => consensus.remove(*id).await,
        Step::Learn(id, member) => consensus.add_learner(*id, member.clone()).await,
        Step::Vote(voters) => consensus.set_voters(voters.clone()).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: u64) -> Member {
        Member { name: format!("cp-{id}"), peer: format!("h:{id}"), api: format!("https://h:{id}") }
    }

    fn wanting(voters: &[u64], learners: &[u64]) -> BTreeMap<u64, Wanted> {
        let of =
            |ids: &[u64], voter| ids.iter().map(|id| (*id, Wanted { member: named(*id), voter })).collect::<Vec<_>>();
        of(voters, true).into_iter().chain(of(learners, false)).collect()
    }

    fn present(voters: &[u64], learners: &[u64]) -> Membership {
        let of = |ids: &[u64]| ids.iter().map(|id| (*id, named(*id))).collect();
        Membership { voters: of(voters), learners: of(learners), changing: false }
    }

    /// Takes steps until there is none, with every learner caught up at once; the steps' names.
    fn taken(wanted: &BTreeMap<u64, Wanted>, mut now: Membership, own: u64) -> Vec<String> {
        let mut steps = Vec::new();
        let progress: BTreeMap<u64, u64> = (1..20).map(|id| (id, 1_000)).collect();
        while let Some(step) = next_step(wanted, &now, &progress, own) {
            match step {
                Step::Update(id, member) => {
                    steps.push(format!("update {id}"));
                    let side = if now.voters.contains_key(&id) { &mut now.voters } else { &mut now.learners };
                    side.insert(id, member);
                }
                Step::Remove(id) => {
                    steps.push(format!("remove {id}"));
                    if id == own {
                        return steps;
                    }
                    now.voters.remove(&id);
                    now.learners.remove(&id);
                }
                Step::Learn(id, member) => {
                    steps.push(format!("learn {id}"));
                    now.learners.insert(id, member);
                }
                Step::Vote(voters) => {
                    steps.push(format!("vote {voters:?}"));
                    let all: BTreeMap<u64, Member> = now.voters.into_iter().chain(now.learners).collect();
                    let (voting, learning) = all.into_iter().partition(|(id, _)| voters.contains(id));
                    (now.voters, now.learners) = (voting, learning);
                }
            }
        }
        steps
    }

    #[test]
    fn new_control_planes_learn_first_and_vote_once_caught_up() {
        let steps = taken(&wanting(&[1, 2, 3], &[]), present(&[1], &[]), 1);
        assert_eq!(steps, ["learn 2", "learn 3", "vote {1, 2, 3}"]);
        let behind = BTreeMap::from([(1, 10_000), (2, 5)]);
        assert_eq!(next_step(&wanting(&[1, 2], &[]), &present(&[1], &[2]), &behind, 1), None);
    }

    #[test]
    fn a_learner_stays_one() {
        assert_eq!(taken(&wanting(&[1], &[2]), present(&[1], &[]), 1), ["learn 2"]);
        assert_eq!(taken(&wanting(&[1], &[2]), present(&[1, 2], &[]), 1), ["vote {1}"]);
    }

    #[test]
    fn a_dead_control_plane_goes_before_its_replacement_comes() {
        let steps = taken(&wanting(&[1, 2, 4], &[]), present(&[1, 2, 3], &[]), 1);
        assert_eq!(steps, ["remove 3", "learn 4", "vote {1, 2, 4}"]);
    }

    #[test]
    fn a_leader_that_is_removed_goes_last() {
        let steps = taken(&wanting(&[2, 3], &[]), present(&[1, 2, 3, 4], &[]), 1);
        assert_eq!(steps, ["remove 4", "remove 1"]);
    }

    #[test]
    fn a_member_that_moved_is_found_at_its_new_address() {
        let mut wanted = wanting(&[1, 2], &[]);
        wanted.get_mut(&2).unwrap().member.peer = "elsewhere:1".to_owned();
        assert_eq!(taken(&wanted, present(&[1, 2], &[]), 1), ["update 2"]);
    }

    #[test]
    fn nothing_is_done_while_a_change_is_under_way_or_without_a_wish() {
        let changing = Membership { changing: true, ..present(&[1], &[]) };
        assert_eq!(next_step(&wanting(&[1, 2], &[]), &changing, &BTreeMap::new(), 1), None);
        assert_eq!(next_step(&BTreeMap::new(), &present(&[1], &[2]), &BTreeMap::new(), 1), None);
    }
}
