//! Clients' answers to what servers asked, brought to the node where the call waits.
//!
//! A legacy client posts its answer to whichever node it meets. The id says which call waits for it, under a number
//! drawn at random by the node that carries the call. If that is this node, the answer is handed over; otherwise all
//! nodes are told, sealed with the keys they share, and the one that knows the number takes it. Nobody else can make one
//! up or read it. Whether another node took it is not told back: a call that is gone has answered its client already.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bailiwick_data_plane_core::{Caller, sealed::answer::Answer};
use bailiwick_proto::subjects;
use bailiwick_runtime::EventStream;
use bytes::Bytes;
use tokio::sync::mpsc;

use super::unix_seconds;
use crate::{budget::Budget, config_state::ConfigState, random};

/// Answers that wait to be taken by one call.
const WAITING_MAX: usize = 8;
/// What one node tells all others in a second: people's answers are small, and records travel the same way.
pub(super) const TOLD_BYTES_PER_SECOND: u64 = 4 * 1024 * 1024;

/// Where calls that wait for answers are known; one per node.
#[derive(Debug)]
pub(crate) struct Answers {
    waiting: Mutex<HashMap<u64, Waiting>>,
    state: Arc<ConfigState>,
    stream: EventStream,
    /// In bytes.
    told: Budget,
}

#[derive(Debug)]
struct Waiting {
    caller: Caller,
    answers: mpsc::Sender<Answer>,
}

/// What a call takes its answers from. Forgotten when dropped.
#[derive(Debug)]
pub(crate) struct Waiter {
    /// Under which others name it.
    pub(crate) number: u64,
    pub(crate) answers: mpsc::Receiver<Answer>,
    all: Arc<Answers>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.all.lock().remove(&self.number);
    }
}

impl Answers {
    pub(crate) fn new(state: Arc<ConfigState>, stream: EventStream) -> Arc<Self> {
        Arc::new(Self { waiting: Mutex::default(), state, stream, told: Budget::new(TOLD_BYTES_PER_SECOND) })
    }

    /// A call of this caller's begins to wait. `None` without randomness.
    pub(crate) fn wait(self: &Arc<Self>, caller: &Caller) -> Option<Waiter> {
        let number = u64::from_be_bytes(random()?);
        let (sender, answers) = mpsc::channel(WAITING_MAX);
        self.lock().insert(number, Waiting { caller: caller.clone(), answers: sender });
        Some(Waiter { number, answers, all: Arc::clone(self) })
    }

    /// Brings a caller's answer to where it is waited for. Says why not, if it is known not to get there.
    pub(crate) async fn bring(&self, caller: &Caller, answer: Answer) -> Result<(), NotBrought> {
        let Some(answer) = self.take(caller, answer)? else { return Ok(()) };
        let (keys, nonce) = (self.state.sealing_keys(), random().ok_or(NotBrought::Unable)?);
        let sealed = answer.seal(&keys, caller, unix_seconds(), nonce).map_err(|_| NotBrought::TooLong)?;
        if !self.told.take(sealed.len() as u64) {
            return Err(NotBrought::Unable);
        }
        self.stream.broadcast(subjects::ANSWERS, Bytes::from(sealed)).await.map_err(|error| {
            tracing::warn!(%error, "an answer cannot be brought to another node");
            NotBrought::Unable
        })
    }

    /// Takes what other nodes were given, for ever.
    pub(crate) async fn follow(self: Arc<Self>) {
        self.stream.follow(subjects::ANSWERS, |told| self.brought(told)).await;
    }

    fn brought(&self, sealed: &Bytes) {
        let Some(number) = std::str::from_utf8(sealed).ok().and_then(Answer::waiter_of) else { return };
        let Some(caller) = self.lock().get(&number).map(|waiting| waiting.caller.clone()) else { return };
        let text = String::from_utf8_lossy(sealed);
        match Answer::open(&self.state.sealing_keys(), &caller, &text, unix_seconds()) {
            Ok(answer) => drop(self.take(&caller, answer)),
            Err(_not_ours) => {
                tracing::warn!("an answer was brought that this cluster did not seal, or another caller's")
            }
        }
    }

    /// Hands an answer to a call here; gives it back if there is none.
    fn take(&self, caller: &Caller, answer: Answer) -> Result<Option<Answer>, NotBrought> {
        let all = self.lock();
        match all.get(&answer.waiter) {
            None => Ok(Some(answer)),
            Some(waiting) if !is_same(&waiting.caller, caller) => Err(NotBrought::Unknown),
            Some(waiting) => waiting.answers.try_send(answer).map(|()| None).map_err(|_full| NotBrought::Unknown),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer did not get there.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotBrought {
    /// Nobody waits for it.
    Unknown,
    /// Longer than what can be told to other nodes.
    TooLong,
    /// This node cannot at the moment.
    Unable,
}

/// The token may have been renewed while a person thought.
fn is_same(one: &Caller, other: &Caller) -> bool {
    (&one.user, &one.agent, &one.client, &one.virtual_server, one.bound)
        == (&other.user, &other.agent, &other.client, &other.virtual_server, other.bound)
}

#[cfg(test)]
mod tests;
