//! The writer: the one task that decides.
//!
//! It takes all waiting commands as one group, decides each on the state the ones before it would leave, and
//! proposes their events together: one sync of the disk for the whole group. Consensus accepts a proposal only on
//! the version it was decided on, so a decision never meets another state than its own; on a conflict (another
//! leader was faster) the command is decided again.

use std::{borrow::Cow, time::Instant};

use bailiwick_control_plane_core::{Decision, State, decide, evolve};
use tokio::sync::mpsc;

use super::{Committed, Request, Shared, WriteError, Written};
use crate::metrics::Metrics;
use bailiwick_consensus::{Committed as Placed, Consensus, ConsensusError, Outcome, PROPOSALS_MAX, Proposal};

/// How often a command is decided anew after conflicts before its caller is told to try later.
const DECISIONS_MAX: u32 = 3;

/// Serves the mailbox until all senders are gone.
pub(crate) async fn run(mut mailbox: mpsc::Receiver<Request>, consensus: Consensus, shared: Shared, metrics: Metrics) {
    let mut waiting = Vec::new();
    while mailbox.recv_many(&mut waiting, PROPOSALS_MAX).await > 0 {
        let mut group: Vec<Attempt> = waiting.drain(..).map(|request| Attempt { request, decisions: 0 }).collect();
        while !group.is_empty() {
            // Refusals and repeats are answered from the state alone, so it must hold all that was acknowledged.
            if let Err(error) = consensus.linearizable().await {
                for attempt in group.drain(..) {
                    metrics.write("failed");
                    attempt.answer(Err(again_later(&error)));
                }
                break;
            }
            let Group { decided, later } = decide_group(group, &shared.read(), &metrics);
            group = later;
            group.extend(replicate(decided, &consensus, &metrics).await);
        }
    }
}

/// A request and how often it was decided.
struct Attempt {
    request: Request,
    decisions: u32,
}

/// A request with the decision its answer will be made from.
struct Decided {
    attempt: Attempt,
    decision: Decision,
    proposal: Proposal,
}

struct Group {
    decided: Vec<Decided>,
    /// To be decided once those before them are committed.
    later: Vec<Attempt>,
}

/// Decides a group in order. What changes nothing or is refused is answered at once, if it rests on committed state.
fn decide_group(attempts: Vec<Attempt>, committed: &Committed, metrics: &Metrics) -> Group {
    let mut group = Group { decided: Vec::new(), later: Vec::new() };
    let (mut state, mut version, mut seen) = (Cow::Borrowed(&committed.state), committed.version, 0);
    for mut attempt in attempts {
        if !group.later.is_empty() {
            group.later.push(attempt);
            continue;
        }
        // Only a second command needs the state as the first one will leave it, and only then is it copied.
        for before in group.decided.iter().skip(seen) {
            look_ahead(state.to_mut(), &before.decision);
        }
        seen = group.decided.len();
        attempt.decisions += 1;
        let decided = decide(&state, attempt.request.command.clone(), &attempt.request.context);
        let changes_nothing = decided.as_ref().map_or(true, |decision| decision.events.is_empty());
        if changes_nothing && !group.decided.is_empty() {
            // It may rest on what is still in flight; it is answered once that is committed.
            group.later.push(attempt);
            continue;
        }
        match decided {
            Err(rejection) => {
                metrics.write("rejected");
                attempt.answer(Err(rejection.into()));
            }
            Ok(decision) if decision.events.is_empty() => {
                metrics.write("unchanged");
                let revision = decision.repeated.unwrap_or(committed.state.revision);
                attempt.answer(Ok(written(revision, decision)));
            }
            Ok(decision) => match proposal(&decision, version) {
                Ok(proposal) => {
                    version += 1;
                    group.decided.push(Decided { attempt, decision, proposal });
                }
                Err(error) => attempt.answer(Err(error)),
            },
        }
    }
    group
}

/// The state as it will be; the revision is a guess that nothing decides on, for consensus gives the real one.
fn look_ahead(state: &mut State, decision: &Decision) {
    let revision = state.revision + 1;
    for event in &decision.events {
        evolve(state, event, revision);
    }
}

fn proposal(decision: &Decision, version: u64) -> Result<Proposal, WriteError> {
    let events: Result<Vec<Vec<u8>>, _> = decision.events.iter().map(serde_json::to_vec).collect();
    let events = events.map_err(|error| ConsensusError::Open(error.into()))?;
    Ok(Proposal { expected_version: version, events })
}

/// Proposes a group and answers it. Gives back what met another state and is to be decided again.
async fn replicate(group: Vec<Decided>, consensus: &Consensus, metrics: &Metrics) -> Vec<Attempt> {
    if group.is_empty() {
        return Vec::new();
    }
    let (mut proposals, mut waiting) = (Vec::new(), Vec::new());
    for Decided { attempt, decision, proposal } in group {
        proposals.push(proposal);
        waiting.push((attempt, decision));
    }
    let started = Instant::now();
    let placed = consensus.propose(proposals).await;
    metrics.replicated(started.elapsed());
    let mut again = Vec::new();
    match placed {
        Ok(placed) => {
            for ((attempt, decision), Placed { revision, outcome }) in waiting.into_iter().zip(placed) {
                match outcome {
                    Outcome::Applied => {
                        metrics.write("committed");
                        attempt.answer(Ok(written(revision, decision)));
                    }
                    Outcome::Conflict { .. } if attempt.decisions < DECISIONS_MAX => again.push(attempt),
                    Outcome::Conflict { .. } => attempt.answer(Err(WriteError::Busy)),
                }
            }
        }
        Err(error) => {
            tracing::error!(%error, "a write could not be replicated");
            for (attempt, _) in waiting {
                metrics.write("failed");
                attempt.answer(Err(again_later(&error)));
            }
        }
    }
    again
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
