//! One request at a server, from when it is sent until it is answered, wherever that is waited for.
//!
//! Owned, so that it can be handed from the request it began with to the task that keeps it while a client is asked
//! (`parking`). Dropped, its stream to the server closes.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bailiwick_data_plane_core::{
    edge::PermittedCall,
    relay::{Act, Relay},
};
use bailiwick_proto::{
    mcp::{RequestId, Response},
    v1::Server,
};
use bailiwick_runtime::{OnEnd, Supervisor};
use http::HeaderValue;
use tokio::sync::mpsc;

use crate::upstream::{Aside, Context, Gate, Heard, Principal, Upstream, UpstreamFault};

/// Messages of a server that wait to be heard; the server waits when there are more.
const HEARD_MAX: usize = 16;

/// A server's answer and its length in bytes.
pub(super) type Answered = Result<(Response, u64), UpstreamFault>;

/// To whom a request goes, on whose behalf, under which id.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub(super) upstream: Arc<Upstream>,
    pub(super) server: Arc<Server>,
    pub(super) principal: Principal,
    pub(super) id: RequestId,
    /// What the server is told of it.
    pub(super) context: Context,
}

/// What one client's request has had so far, in all rounds of it, and since when.
#[derive(Clone, Debug)]
pub(super) struct Spent {
    pub(super) relay: Relay,
    began: Instant,
}

impl Spent {
    /// How much of `longest` is left, now.
    pub(super) fn rest(&self, longest: Duration) -> Duration {
        longest.saturating_sub(self.began.elapsed())
    }
}

/// See the file's header.
pub(super) struct Passage {
    pub(super) way: Way,
    call: Pin<Box<dyn Future<Output = Answered> + Send>>,
    hearing: mpsc::Receiver<Heard>,
    /// There, while what was said before it is still to be heard.
    answer: Option<Answered>,
    relay: Relay,
    began: Instant,
}

/// What a server does next.
#[derive(Debug)]
pub(super) enum Next {
    /// It said something, and this is to be done about it; answers go to this session.
    Said(Act, Option<HeaderValue>),
    Answered(Answered),
}

impl fmt::Debug for Passage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passage").field("way", &self.way).field("relay", &self.relay).finish_non_exhaustive()
    }
}

impl Way {
    /// Tells the server that nobody waits any more. A modern one sees its stream close.
    pub(super) fn cancel(self, supervisor: &Supervisor) {
        let Self { upstream, server, principal, id, .. } = self;
        supervisor.spawn("cancellation", OnEnd::Finish, async move {
            upstream.cancel(&server, &principal, &id).await;
        });
    }

    /// Sends the answer to what the server asked in this session.
    pub(super) fn answer(&self, body: Vec<u8>, session: Option<HeaderValue>, supervisor: &Supervisor) {
        let Self { upstream, server, principal, context, .. } = self.clone();
        supervisor.spawn("answer", OnEnd::Finish, async move {
            let (to, answer) = ((&*server, &principal), (body, Some(&context)));
            if let Err(fault) = upstream.answer(to, answer, session.as_ref()).await {
                tracing::debug!(server = server.name, %fault, "a server did not take an answer");
            }
        });
    }
}

impl Passage {
    /// The first round, or one more of which earlier ones took this much.
    pub(super) fn begin(way: Way, permitted: Arc<PermittedCall>, gate: Gate, spent: Option<Spent>) -> Self {
        let (heard, hearing) = mpsc::channel(HEARD_MAX);
        let patience = way.upstream.patience(&way.server);
        let first = || Spent { relay: Relay::new(&permitted.call, patience), began: Instant::now() };
        let Spent { mut relay, began } = spent.unwrap_or_else(first);
        relay.resumed(began.elapsed());
        let Way { upstream, server, principal, id, context } = way.clone();
        let call = Box::pin(async move {
            let (gate, heard, context) = (Some(&gate), Some(&heard), Some(&context));
            let aside = Aside { gate, heard, context, ..Aside::default() };
            upstream.call(&server, &principal, &permitted, &id, aside).await
        });
        Self { way, call, hearing, answer: None, relay, began }
    }

    /// For the next round.
    pub(super) fn spent(&self) -> Spent {
        Spent { relay: self.relay.clone(), began: self.began }
    }

    /// What the server does next; an answer once only. Can be asked again when it was not waited for to the end.
    pub(super) async fn next(&mut self) -> Next {
        if let Ok(heard) = self.hearing.try_recv() {
            return self.said(&heard);
        }
        if let Some(answer) = self.answer.take() {
            return Next::Answered(answer);
        }
        let late = tokio::time::sleep_until((self.began + self.relay.until()).into());
        tokio::select! {
            biased;
            Some(heard) = self.hearing.recv() => self.said(&heard),
            answer = &mut self.call => match self.hearing.try_recv() {
                Ok(heard) => {
                    self.answer = Some(answer);
                    self.said(&heard)
                }
                Err(_nothing) => Next::Answered(answer),
            },
            () = late => Next::Answered(Err(timeout(self.relay.until()))),
        }
    }

    /// Gives the answer back, to be asked for again.
    pub(super) fn put_back(&mut self, answer: Answered) {
        self.answer = Some(answer);
    }

    /// The client answered after a while: the server has its time again.
    pub(super) fn resumed(&mut self) {
        self.relay.resumed(self.began.elapsed());
    }

    fn said(&mut self, heard: &Heard) -> Next {
        let act = self.relay.heard(heard.era, &self.way.id, &heard.message, self.began.elapsed());
        Next::Said(act, heard.session.clone())
    }
}

/// No answer came within this.
pub(super) fn timeout(after: Duration) -> UpstreamFault {
    UpstreamFault::Timeout(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
}
