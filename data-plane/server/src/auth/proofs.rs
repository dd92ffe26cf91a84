//! Proofs of possession that count once, at all nodes.
//!
//! Called by `listener::endpoint`: [`Proofs::look`] before a body is read, [`Proofs::use_up`] once it is there. What was
//! used here the other nodes are told, at once where a node is quiet and within some 50 ms where it is not, sealed with
//! the keys they share; until they have heard it, a proof that was captured could count at one of them once more. What
//! cannot be told at the moment is told again later, within a bound (`untold`). Deliberately absent: what a proof is of
//! (`possession`), how long one is remembered (`replay`).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bailiwick_data_plane_core::sealed::{
    proof_nonce::{PROOF_NONCE_SECONDS_MAX, ProofNonce},
    used_proofs::{USED_MAX, UsedProof, UsedProofs},
};
use bailiwick_proto::{Reason, subjects};
use bailiwick_runtime::EventStream;
use bytes::Bytes;
use tokio::sync::Notify;

use super::{
    Authentic,
    possession::{self, DpopFault, PROOF_AGE_MS_MAX, Pending, Sent, SentHead, Unproven},
    replay::{Memory, PROOFS_MAX, Unusable},
    untold::Untold,
};
use crate::{config_state::ConfigState, metrics::Metrics, random};

/// From when the head of a request is there until its proof is used up: its body takes no longer.
const BODY_WAIT_MAX: Duration = Duration::from_secs(40);
/// What was used is told at once, and what follows within this together, so that a busy node does not send a message a
/// call.
const TOLD_AFTER: Duration = Duration::from_millis(25);
/// Proofs that wait to be told, some forty bytes each: of ten seconds at ten thousand a second.
const UNTOLD_MAX: usize = 100_000;
/// What says a later time than that, no node has taken: proofs may be ten seconds ahead, and nodes' clocks not even that.
const AHEAD_MS_MAX: u64 = 15_000;
/// Pause before what could not be told is told again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// One per node.
#[derive(Debug)]
pub(crate) struct Proofs {
    state: Arc<ConfigState>,
    metrics: Arc<Metrics>,
    tags: Memory,
    dpop: Memory,
    untold: Mutex<Untold>,
    wake: Notify,
    /// Tells this run's own notes from others'.
    run: u64,
}

impl Proofs {
    /// Of a node that starts now.
    pub(crate) fn new(state: Arc<ConfigState>, metrics: Arc<Metrics>) -> Arc<Self> {
        Self::of_size(state, metrics, PROOFS_MAX)
    }

    fn of_size(state: Arc<ConfigState>, metrics: Arc<Metrics>, proofs_max: usize) -> Arc<Self> {
        let (start, nonce_life) = (unix_ms(), Duration::from_secs(PROOF_NONCE_SECONDS_MAX.unsigned_abs()));
        let tags = Memory::of_size(start, Duration::from_millis(PROOF_AGE_MS_MAX) + BODY_WAIT_MAX, proofs_max);
        let dpop = Memory::of_size(start, nonce_life + BODY_WAIT_MAX, proofs_max);
        let run = random().map_or(0, u64::from_be_bytes);
        let untold = Mutex::new(Untold::new(UNTOLD_MAX));
        Arc::new(Self { state, metrics, tags, dpop, untold, wake: Notify::new(), run })
    }

    /// What is left to be shown once the body is there, if a request's head shows what can be shown before.
    pub(crate) fn look(&self, authentic: &Authentic, sent: &SentHead<'_>) -> Result<Pending, Unproven> {
        let (keys, now_ms) = (self.state.sealing_keys(), unix_ms());
        let pending = possession::look(authentic, sent, &keys, now_ms)?;
        match &pending {
            Pending::Nothing => Ok(()),
            Pending::Tag { proof, id, .. } => self.tags.check(id, proof.unix_ms).map_err(of_tag),
            Pending::Dpop { unix_ms, id, .. } => self.dpop.check(id, *unix_ms).map_err(of_dpop),
        }?;
        Ok(pending)
    }

    /// Whether the request is what its proof is of, for the first time. Told to the other nodes.
    pub(crate) fn use_up(&self, pending: &Pending, authentic: &Authentic, sent: &Sent<'_>) -> Result<(), Unproven> {
        let is_of = sent.is_of(pending, authentic);
        match pending {
            Pending::Nothing => Ok(()),
            Pending::Tag { .. } if !is_of => Err(Reason::ProofInvalid.into()),
            Pending::Dpop { .. } if !is_of => Err(Unproven::of_dpop(Reason::ProofInvalid, DpopFault::Proof)),
            Pending::Tag { proof, id, .. } => {
                self.count(UsedProof { dpop: false, id: *id, unix_ms: proof.unix_ms }).map_err(of_tag)
            }
            Pending::Dpop { unix_ms, id, .. } => {
                self.count(UsedProof { dpop: true, id: *id, unix_ms: *unix_ms }).map_err(of_dpop)
            }
        }
    }

    /// Counts a proof, the first time only.
    fn count(&self, used: UsedProof) -> Result<(), Unusable> {
        let memory = if used.dpop { &self.dpop } else { &self.tags };
        memory.use_up(used.id, used.unix_ms, unix_ms())?;
        self.tell(used);
        Ok(())
    }

    /// A nonce for a client's next proofs; none without a key.
    pub(crate) fn nonce(&self) -> Option<String> {
        ProofNonce::seal(&self.state.sealing_keys(), unix_ms(), random()?).ok()
    }

    /// Whether the nonce that a proof says it was made with is good for a while yet.
    pub(crate) fn has_time(&self, proof: &str) -> bool {
        let (keys, now_ms) = (self.state.sealing_keys(), unix_ms());
        let nonce = possession::said_nonce(proof).flatten();
        let nonce = nonce.and_then(|nonce| possession::open_nonce(&keys, &nonce, now_ms));
        nonce.is_some_and(|nonce| !nonce.is_aging(now_ms) && !self.dpop.is_stale(nonce.unix_ms))
    }

    fn tell(&self, used: UsedProof) {
        self.untold().push(used);
        self.wake.notify_one();
    }

    /// Tells the other nodes what was used here, for ever.
    pub(crate) async fn tell_others(self: Arc<Self>, stream: EventStream) {
        loop {
            self.wake.notified().await;
            while let Some(batch) = self.batch() {
                if let Err(fault) = self.send(&stream, &batch).await {
                    tracing::warn!(fault, "other nodes cannot be told which proofs were used; trying again");
                    self.untold().keep(batch);
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
            }
            tokio::time::sleep(TOLD_AFTER).await;
        }
    }

    async fn send(&self, stream: &EventStream, batch: &[UsedProof]) -> Result<(), String> {
        let nonce = random().ok_or("there is no randomness")?;
        let note = UsedProofs { from: self.run, proofs: batch.to_vec() };
        let now_unix = i64::try_from(unix_ms() / 1000).unwrap_or(i64::MAX);
        let note = note.seal(&self.state.sealing_keys(), now_unix, nonce).map_err(|error| error.to_string())?;
        stream.broadcast(subjects::USED_PROOFS, Bytes::from(note)).await.map_err(|error| error.to_string())
    }

    fn batch(&self) -> Option<Vec<UsedProof>> {
        let batch = self.untold().batch(USED_MAX);
        (!batch.is_empty()).then_some(batch)
    }

    /// Takes what other nodes used, for ever.
    pub(crate) async fn follow(self: Arc<Self>, stream: EventStream) {
        let begun = || {
            // What was used while nobody told this node is unknown: as at its start.
            let now_ms = unix_ms();
            self.tags.begin(now_ms);
            self.dpop.begin(now_ms);
        };
        stream.follow_from(subjects::USED_PROOFS, begun, |note| self.brought(note)).await;
    }

    fn brought(&self, note: &Bytes) {
        let Ok(text) = std::str::from_utf8(note) else { return };
        let now_ms = unix_ms();
        let now_unix = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
        let Ok(UsedProofs { from, proofs }) = UsedProofs::open(&self.state.sealing_keys(), text, now_unix) else {
            tracing::warn!("used proofs were told of that no node of this cluster sealed");
            return;
        };
        if from == self.run {
            return;
        }
        for UsedProof { dpop, id, unix_ms } in proofs {
            // No node takes a proof that says so: one whose clock is wrong would fill the others' memory.
            if unix_ms > now_ms.saturating_add(AHEAD_MS_MAX) {
                self.metrics.proofs_from_the_future.inc();
                continue;
            }
            let memory = if dpop { &self.dpop } else { &self.tags };
            if memory.learn(id, unix_ms, now_ms) == Err(Unusable::Replayed { here: true }) {
                // Both took it before they heard of each other.
                self.metrics.proofs_used_twice.inc();
                tracing::warn!(
                    id = hex::encode(id),
                    "one proof was used at two nodes: somebody repeats captured requests"
                );
            }
        }
    }

    fn untold(&self) -> MutexGuard<'_, Untold> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn of_tag(unusable: Unusable) -> Unproven {
    match unusable {
        Unusable::Stale => Reason::ProofStale.into(),
        Unusable::Replayed { .. } => Reason::ProofReplayed.into(),
    }
}

const fn of_dpop(unusable: Unusable) -> Unproven {
    match unusable {
        Unusable::Stale => Unproven::nonce(),
        Unusable::Replayed { .. } => Unproven::replayed(),
    }
}

/// Milliseconds since 1970 by the wall clock.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
