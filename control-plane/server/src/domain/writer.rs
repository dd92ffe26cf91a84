//! The writer: the one task that decides.
//!
//! It takes all waiting commands as one group, decides each on the state that everything before it will leave, and
//! submits their events together: one sync of the disk for the whole group. It does not wait for a group before it
//! decides the next: several are on their way at a time. Consensus accepts a proposal only on the version it was
//! decided on, with nothing but this writer's own proposals since, so a decision never meets another state than its
//! own; on a conflict (another leader was faster) nothing more is decided until all that is on its way has arrived.
//! What changes nothing is answered from committed state alone, once a leader has confirmed that it is current.

use std::{collections::VecDeque, time::Instant};

use bailiwick_control_plane_core::{Decision, Rejection, State, decide, evolve};
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{FuturesOrdered, FuturesUnordered},
};
use tokio::sync::mpsc;

use super::{Request, Shared, WriteError, Written};
use crate::metrics::Metrics;
use bailiwick_consensus::{Committed as Placed, Consensus, ConsensusError, Outcome, PROPOSALS_MAX, Proposal};

/// How often a command is decided anew after conflicts before its caller is told to try later.
const DECISIONS_MAX: u32 = 3;
/// Groups on their way at a time: one being synced, one being gathered, and one each way between nodes.
const FLIGHTS_MAX: usize = 4;

/// Serves the mailbox until all senders are gone.
pub(crate) async fn run(mut mailbox: mpsc::Receiver<Request>, consensus: Consensus, shared: Shared, metrics: Metrics) {
    let mut writer = Writer::new(consensus, shared, metrics);
    let (mut arrived, mut open) = (Vec::new(), true);
    loop {
        writer.launch().await;
        let takes = open && writer.waiting.len() < PROPOSALS_MAX;
        tokio::select! {
            biased;
            Some(landed) = writer.flights.next() => writer.land(landed),
            Some(confirmed) = writer.confirming.next() => writer.confirm(confirmed),
            count = mailbox.recv_many(&mut arrived, PROPOSALS_MAX), if takes => {
                open = count > 0;
                writer.waiting.extend(arrived.drain(..).map(|request| Attempt { request, decisions: 0 }));
            }
            else => break,
        }
    }
}

/// A request and how often it was decided.
struct Attempt {
    request: Request,
    decisions: u32,
}

/// A group on its way, or arrived.
type Flight = BoxFuture<'static, Landed>;

struct Landed {
    group: Vec<(Attempt, Decision)>,
    placed: Result<Vec<Placed>, ConsensusError>,
    since: Instant,
}

/// What is to be decided on committed state alone, and whether that has been confirmed.
type Confirmed = (Vec<Attempt>, Result<(), ConsensusError>);

/// The state that everything on its way will leave.
struct Ahead {
    state: State,
    /// The version of the committed state it was made from.
    base: u64,
    /// The version it will have.
    version: u64,
}

impl Ahead {
    /// The state as it will be; the revision is a guess that nothing decides on, for consensus gives the real one.
    fn take_in(&mut self, decision: &Decision) {
        let revision = self.state.revision + 1;
        for event in &decision.events {
            evolve(&mut self.state, event, revision);
        }
        self.version += 1;
    }
}

struct Writer {
    consensus: Consensus,
    shared: Shared,
    metrics: Metrics,
    chain: u64,
    /// Not decided yet.
    waiting: VecDeque<Attempt>,
    /// `None` while something is on its way that may not arrive, and while nothing is.
    ahead: Option<Ahead>,
    flights: FuturesOrdered<Flight>,
    /// Groups submitted, and groups arrived.
    launched: u64,
    landed: u64,
    /// What changed nothing when it was decided, with the group that must have arrived before it is decided again.
    later: VecDeque<(u64, Attempt)>,
    confirming: FuturesUnordered<BoxFuture<'static, Confirmed>>,
}

impl Writer {
    fn new(consensus: Consensus, shared: Shared, metrics: Metrics) -> Self {
        // Drawn at random at each start; 0 would promise less.
        let chain = consensus.introduction().run.max(1);
        Self {
            consensus,
            shared,
            metrics,
            chain,
            waiting: VecDeque::new(),
            ahead: None,
            flights: FuturesOrdered::new(),
            launched: 0,
            landed: 0,
            later: VecDeque::new(),
            confirming: FuturesUnordered::new(),
        }
    }

    /// Decides what waits and submits it, if it may be decided now.
    async fn launch(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        if !self.consensus.is_leader() {
            let error = ConsensusError::NotLeader { leader: *self.consensus.leader().borrow() };
            let group = self.waiting.drain(..).collect();
            return self.fail(group, &error);
        }
        let Some(mut ahead) = self.look_ahead() else { return };
        let (group, proposals) = self.decide(&mut ahead);
        if group.is_empty() {
            self.ahead = Some(ahead).filter(|_| !self.flights.is_empty());
            return;
        }
        self.ahead = Some(ahead);
        self.launched += 1;
        let since = Instant::now();
        match self.consensus.submit(proposals).await {
            Ok(submitted) => {
                let flight = async move { Landed { group, placed: submitted.committed().await, since } };
                self.flights.push_back(flight.boxed());
            }
            Err(error) => {
                self.ahead = None;
                self.landed += 1;
                self.fail(group.into_iter().map(|(attempt, _)| attempt).collect(), &error);
                self.confirm_later();
            }
        }
    }

    /// The state to decide on; `None` when that can only be told once more has arrived.
    fn look_ahead(&mut self) -> Option<Ahead> {
        let ahead = self.ahead.take();
        if self.flights.is_empty() {
            let committed = self.shared.read();
            let (base, version) = (committed.version, committed.version);
            return Some(Ahead { state: committed.state.clone(), base, version });
        }
        if self.flights.len() < FLIGHTS_MAX {
            return ahead;
        }
        self.ahead = ahead;
        None
    }

    /// Decides what waits in order. What changes nothing may rest on what is still on its way: it is decided again.
    fn decide(&mut self, ahead: &mut Ahead) -> (Vec<(Attempt, Decision)>, Vec<Proposal>) {
        let (mut group, mut proposals, mut unchanged) = (Vec::new(), Vec::new(), Vec::new());
        while group.len() < PROPOSALS_MAX
            && let Some(mut attempt) = self.waiting.pop_front()
        {
            let Some(decision) =
                changes(decide(&ahead.state, attempt.request.command.clone(), &attempt.request.context))
            else {
                unchanged.push(attempt);
                continue;
            };
            match self.proposal(&decision, ahead) {
                Ok(proposal) => {
                    attempt.decisions += 1;
                    ahead.take_in(&decision);
                    proposals.push(proposal);
                    group.push((attempt, decision));
                }
                Err(error) => attempt.answer(Err(error)),
            }
        }
        let after = self.launched + u64::from(!group.is_empty());
        self.later.extend(unchanged.into_iter().map(|attempt| (after, attempt)));
        self.confirm_later();
        (group, proposals)
    }

    fn proposal(&self, decision: &Decision, ahead: &Ahead) -> Result<Proposal, WriteError> {
        let events: Result<Vec<Vec<u8>>, _> = decision.events.iter().map(serde_json::to_vec).collect();
        let events = events.map_err(|error| ConsensusError::Open(error.into()))?;
        let (expected_version, base_version, chain) = (ahead.version, ahead.base, self.chain);
        Ok(Proposal { expected_version, events, base_version, chain, ..Proposal::default() })
    }

    /// Answers a group that has arrived. What met another state is to be decided again.
    fn land(&mut self, landed: Landed) {
        self.landed += 1;
        let Landed { group, placed, since } = landed;
        self.metrics.replicated(since.elapsed());
        match placed {
            Ok(placed) => {
                for ((attempt, decision), Placed { revision, outcome }) in group.into_iter().zip(placed) {
                    match outcome {
                        Outcome::Applied => {
                            self.metrics.write("committed");
                            attempt.answer(Ok(written(revision, decision)));
                        }
                        Outcome::Conflict { .. } => {
                            self.ahead = None;
                            match attempt.decisions < DECISIONS_MAX {
                                true => self.waiting.push_back(attempt),
                                false => attempt.answer(Err(WriteError::Busy)),
                            }
                        }
                    }
                }
            }
            Err(error) => {
                self.ahead = None;
                tracing::error!(%error, "a write could not be replicated");
                self.fail(group.into_iter().map(|(attempt, _)| attempt).collect(), &error);
            }
        }
        if self.flights.is_empty() {
            self.ahead = None;
        }
        self.confirm_later();
    }

    /// Has it confirmed that the committed state is current, for what need not wait for a group any more.
    fn confirm_later(&mut self) {
        let mut ready = Vec::new();
        while self.later.front().is_some_and(|(after, _)| *after <= self.landed) {
            ready.extend(self.later.pop_front().map(|(_, attempt)| attempt));
        }
        if !ready.is_empty() {
            let consensus = self.consensus.clone();
            self.confirming.push(async move { (ready, consensus.linearizable().await) }.boxed());
        }
    }

    /// Answers from the committed state what changes nothing there either.
    fn confirm(&mut self, (attempts, confirmed): Confirmed) {
        if let Err(error) = confirmed {
            return self.fail(attempts, &error);
        }
        let shared = self.shared.clone();
        let committed = shared.read();
        for attempt in attempts {
            match decide(&committed.state, attempt.request.command.clone(), &attempt.request.context) {
                Err(rejection) => {
                    self.metrics.write("rejected");
                    attempt.answer(Err(rejection.into()));
                }
                Ok(decision) if decision.events.is_empty() => {
                    self.metrics.write("unchanged");
                    let revision = decision.repeated.unwrap_or(committed.state.revision);
                    attempt.answer(Ok(written(revision, decision)));
                }
                Ok(_) => self.waiting.push_back(attempt),
            }
        }
    }

    fn fail(&self, attempts: Vec<Attempt>, error: &ConsensusError) {
        for attempt in attempts {
            self.metrics.write("failed");
            attempt.answer(Err(again_later(error)));
        }
    }
}

/// The decision, if it changes anything.
fn changes(decided: Result<Decision, Rejection>) -> Option<Decision> {
    decided.ok().filter(|decision| !decision.events.is_empty())
}

/// The same reason for each of a group.
fn again_later(error: &ConsensusError) -> WriteError {
    match error {
        ConsensusError::NotLeader { leader } => ConsensusError::NotLeader { leader: *leader }.into(),
        ConsensusError::Storage { detail } => ConsensusError::Storage { detail: detail.clone() }.into(),
        ConsensusError::Stopped => ConsensusError::Stopped.into(),
        ConsensusError::Refused(refusal) => ConsensusError::Refused(*refusal).into(),
        ConsensusError::Unconfirmed { leader } => ConsensusError::Unconfirmed { leader: *leader }.into(),
        ConsensusError::OutcomeUnknown
        | ConsensusError::Diverged(_)
        | ConsensusError::NoLeader(_)
        | ConsensusError::Membership { .. }
        | ConsensusError::NoSuchMember { .. }
        | ConsensusError::NoSuccessor
        | ConsensusError::Open(_) => WriteError::OutcomeUnknown,
    }
}

fn written(revision: u64, decision: Decision) -> Written {
    Written { revision, answer: decision.answer, warnings: decision.warnings }
}

impl Attempt {
    fn answer(self, result: Result<Written, WriteError>) {
        // The caller may have gone; the write stands all the same.
        drop(self.request.reply.send(result));
    }
}
