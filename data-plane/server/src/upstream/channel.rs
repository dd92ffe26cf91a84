//! One channel of messages to a server, shared by all requests that are under way on it.
//!
//! Opened by `stdio` and `sse_transport`, which move the bytes; used by `session`. Whom a message is for,
//! `conversation` in the core says; here are the queues. What leaves goes through one queue to one writer, which asks
//! the gate of a call when its first byte could leave. A request is sent once. When the channel breaks, whoever waits
//! learns it, and whether the request had left; when a request is given up, the server is told. Nobody who is slow in
//! hearing what is said beside an answer holds the others up for more than a moment. Deliberately absent: what is asked
//! (`session`).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bailiwick_data_plane_core::conversation::{self, Conversation, Said, Sort};
use bailiwick_proto::mcp::{Era, Incoming, Notification, RequestId, Response};
use bailiwick_runtime::Shutdown;
use bytes::Bytes;
use http::HeaderValue;
use tokio::sync::{mpsc, oneshot};

pub(super) mod health;
pub(super) mod live;
pub(super) mod pool;
pub(super) mod session;

use super::{context::Context, exchange::Heard, fault::UpstreamFault, gate::Gate};

/// Messages on their way to the writer; whoever sends more waits.
const OUT_MAX: usize = 64;
/// Changes on their way to one listener, which merges equal ones. One that does not keep up listens anew.
const CHANGES_MAX: usize = 256;
/// Listeners of one channel: a person's clients through one agent, or all clients of a shared program.
const LISTENERS_MAX: usize = 4_096;
/// How long a request that is slow in hearing what is said beside its answer may hold up the channel, once.
const SLOW_MAX: Duration = Duration::from_secs(1);

/// See the file's header. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Channel(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Distinguishes this channel from those before and after it, to the same server.
    number: HeaderValue,
    state: Mutex<State>,
    out: mpsc::Sender<Outgoing>,
    ending: Shutdown,
}

#[derive(Debug)]
struct State {
    conversation: Conversation,
    waiting: BTreeMap<RequestId, Waiting>,
    listeners: Vec<mpsc::Sender<Notification>>,
    /// Why there is nothing to wait for any more.
    broken: Option<UpstreamFault>,
    answered: u64,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<Result<(Response, u64), UpstreamFault>>,
    heard: Option<mpsc::Sender<Heard>>,
    is_subscription: bool,
    has_left: bool,
}

/// A message for the writer.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) body: Bytes,
    /// Of a request.
    pub(super) id: Option<RequestId>,
    pub(super) gate: Option<Gate>,
    /// For whom it is sent, where that was decided.
    pub(super) context: Option<Context>,
}

impl Outgoing {
    /// What has no answer.
    fn telling(body: Vec<u8>) -> Self {
        Self { body: body.into(), id: None, gate: None, context: None }
    }
}

/// A request, and what is heard beside its answer.
#[derive(Debug)]
pub(super) struct Question<'a> {
    pub(super) id: &'a RequestId,
    pub(super) body: Vec<u8>,
    pub(super) gate: Option<&'a Gate>,
    pub(super) context: Option<&'a Context>,
    pub(super) heard: Option<(Sort, &'a mpsc::Sender<Heard>)>,
}

impl Channel {
    /// A channel on which nothing was said, and what its writer takes. `shared`: different people use it.
    pub(super) fn open(number: u64, shared: bool) -> (Self, mpsc::Receiver<Outgoing>) {
        let (out, outgoing) = mpsc::channel(OUT_MAX);
        let state = State {
            conversation: Conversation::new(shared),
            waiting: BTreeMap::new(),
            listeners: Vec::new(),
            broken: None,
            answered: 0,
        };
        let shared =
            Shared { number: HeaderValue::from(number), state: Mutex::new(state), out, ending: Shutdown::new() };
        (Self(Arc::new(shared)), outgoing)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What answers are sent under.
    pub(super) fn number(&self) -> &HeaderValue {
        &self.0.number
    }

    /// The server turned out to speak this.
    pub(super) fn speaks(&self, era: Era) {
        self.state().conversation.speaks(era);
    }

    /// Whether something can be sent.
    pub(super) fn is_open(&self) -> bool {
        !self.0.ending.is_requested() && self.state().broken.is_none()
    }

    /// How many requests were answered.
    pub(super) fn answered(&self) -> u64 {
        self.state().answered
    }

    /// Nobody needs the channel any more.
    pub(super) fn end(&self) {
        self.0.ending.request();
    }

    /// Returns once nobody needs the channel any more.
    pub(super) async fn ended(&self) {
        self.0.ending.requested().await;
    }

    /// Nothing comes any more: all who wait learn it. What had not left surely did not happen.
    pub(super) fn broke(&self, fault: UpstreamFault) {
        let waiting = {
            let mut state = self.state();
            state.broken.get_or_insert_with(|| fault.clone());
            state.listeners.clear();
            std::mem::take(&mut state.waiting)
        };
        self.0.ending.request();
        for waiting in waiting.into_values() {
            let fault = if waiting.has_left { fault.clone() } else { UpstreamFault::SessionGone };
            drop(waiting.answer.send(Err(fault)));
        }
    }

    /// Asks, and waits for the answer and its length in bytes: at most so long, or until who listens ends it.
    pub(super) async fn ask(
        &self,
        question: Question<'_>,
        longest: Option<Duration>,
    ) -> Result<(Response, u64), UpstreamFault> {
        let Question { id, body, gate, context, heard } = question;
        let (answer, answered) = oneshot::channel();
        {
            let mut state = self.state();
            if self.0.ending.is_requested() || state.broken.is_some() {
                return Err(UpstreamFault::SessionGone);
            }
            let sort = heard.map_or(Sort::Plain, |(sort, _)| sort);
            state.conversation.begin(id.clone(), sort).map_err(|_full| UpstreamFault::Busy)?;
            let (heard, is_subscription) = (heard.map(|(_, heard)| heard.clone()), sort == Sort::Subscription);
            state.waiting.insert(id.clone(), Waiting { answer, heard, is_subscription, has_left: false });
        }
        let asked = Asked { channel: self, id };
        let (gate, context) = (gate.cloned(), context.cloned());
        let outgoing = Outgoing { id: Some(id.clone()), gate, context, ..Outgoing::telling(body) };
        let whole = async {
            // Without a writer the channel is about to break, which says why.
            drop(self.0.out.send(outgoing).await);
            answered.await.unwrap_or(Err(UpstreamFault::SessionGone))
        };
        let answer = match longest {
            None => whole.await,
            Some(longest) => {
                let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
                tokio::time::timeout(longest, whole).await.unwrap_or(Err(UpstreamFault::Timeout(millis)))
            }
        };
        drop(asked);
        answer
    }

    /// Sends what has no answer.
    pub(super) async fn tell(&self, body: Vec<u8>, longest: Duration) -> Result<(), UpstreamFault> {
        self.tell_of(body, None, longest).await
    }

    /// As [`Self::tell`], for whom.
    pub(super) async fn tell_of(
        &self,
        body: Vec<u8>,
        context: Option<&Context>,
        longest: Duration,
    ) -> Result<(), UpstreamFault> {
        let outgoing = Outgoing { context: context.cloned(), ..Outgoing::telling(body) };
        match tokio::time::timeout(longest, self.0.out.send(outgoing)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_no_writer)) => Err(UpstreamFault::SessionGone),
            Err(_elapsed) => Err(UpstreamFault::Timeout(u64::try_from(longest.as_millis()).unwrap_or(u64::MAX))),
        }
    }

    /// What changes, from now on; it ends when something may have been missed.
    pub(super) fn listen(&self) -> Option<mpsc::Receiver<Notification>> {
        let (sender, changes) = mpsc::channel(CHANGES_MAX);
        let mut state = self.state();
        state.listeners.retain(|listener| !listener.is_closed());
        if state.broken.is_some() || state.listeners.len() >= LISTENERS_MAX {
            return None;
        }
        state.listeners.push(sender);
        Some(changes)
    }

    /// Whether somebody listens to changes.
    pub(super) fn is_heard(&self) -> bool {
        let mut state = self.state();
        state.listeners.retain(|listener| !listener.is_closed());
        !state.listeners.is_empty() || state.waiting.values().any(|waiting| waiting.is_subscription)
    }

    /// The writer is about to send this. Whether it may: a call can be kept back or given up.
    pub(super) fn leaves(&self, outgoing: &Outgoing) -> bool {
        let Some(id) = &outgoing.id else { return true };
        let mut state = self.state();
        let Some(waiting) = state.waiting.get_mut(id) else { return false };
        match outgoing.gate.as_ref().and_then(Gate::keeps) {
            None => {
                waiting.has_left = true;
                true
            }
            Some(reason) => {
                state.settle(id, Err(UpstreamFault::Withheld(reason)));
                false
            }
        }
    }

    /// The server did not take this request, and did not process it.
    pub(super) fn refused(&self, id: &RequestId, fault: UpstreamFault) {
        self.state().settle(id, Err(fault));
    }

    /// Takes what the server said.
    ///
    /// # Errors
    /// The channel is of no use any more.
    pub(super) async fn take(&self, message: &[u8]) -> Result<(), UpstreamFault> {
        let (said, era) = {
            let mut state = self.state();
            (state.conversation.heard(message), state.conversation.era())
        };
        match said {
            Said::Answer(id, answer) => {
                let answer = answer.map(|answer| (answer, message.len() as u64)).map_err(UpstreamFault::Invalid);
                let mut state = self.state();
                state.answered += u64::from(answer.is_ok());
                state.settle(&id, answer);
            }
            Said::Over(id) => {
                self.state().settle(&id, Err(UpstreamFault::Invalid("the server ended the request".to_owned())));
            }
            Said::Beside(id, message) => self.beside(&id, era, message).await,
            Said::Change(change) => {
                self.state().listeners.retain(|listener| listener.try_send(change.clone()).is_ok());
            }
            Said::Reply(body) => {
                if self.0.out.try_send(Outgoing::telling(body)).is_err() {
                    return Err(UpstreamFault::Invalid("the server takes no answers".to_owned()));
                }
            }
            Said::Nothing => {}
            Said::Broken(why) => return Err(UpstreamFault::Invalid(why.to_owned())),
        }
        Ok(())
    }

    async fn beside(&self, id: &RequestId, era: Era, message: Incoming) {
        let heard = self.state().waiting.get(id).and_then(|waiting| waiting.heard.clone());
        let Some(listener) = heard else { return };
        let heard = Heard { era, session: Some(self.0.number.clone()), message };
        // Nobody listens any more: then nobody waits for the answer either.
        let sent = tokio::time::timeout(SLOW_MAX, listener.send(heard)).await;
        if sent.is_err()
            && let Some(waiting) = self.state().waiting.get_mut(id)
        {
            tracing::debug!("a request does not hear what is said beside its answer, and misses it from now on");
            waiting.heard = None;
        }
    }
}

impl State {
    fn settle(&mut self, id: &RequestId, answer: Result<(Response, u64), UpstreamFault>) {
        self.conversation.forget(id);
        if let Some(waiting) = self.waiting.remove(id) {
            drop(waiting.answer.send(answer));
        }
    }
}

/// A request under way; dropped before it is answered, the server is told that nobody waits any more.
struct Asked<'a> {
    channel: &'a Channel,
    id: &'a RequestId,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let given_up = {
            let mut state = self.channel.state();
            state.conversation.forget(self.id);
            state.waiting.remove(self.id)
        };
        if given_up.is_some_and(|waiting| waiting.has_left) {
            // A server that takes nothing is not told either.
            drop(self.channel.0.out.try_send(Outgoing::telling(conversation::cancelled(self.id))));
        }
    }
}

#[cfg(test)]
mod tests;
