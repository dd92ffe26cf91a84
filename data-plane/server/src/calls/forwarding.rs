//! One call on its way to a server and back, and everything that is said meanwhile.
//!
//! Made by `calls` once the intent is recorded. What the server says beside its answer is heard in its order and before
//! the answer; what to do about it says `relay` in the core, and this does it: tell the client, ask the client, answer
//! the server. When the server has been silent for too long, says `relay` as well.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use bailiwick_data_plane_core::{
    Caller, Call,
    edge::PermittedCall,
    relay::{
        ANSWER_WAIT_MAX, Act, Question, Relay,
        input::{Input, NoInput, ROUNDS_MAX},
    },
    sealed::{answer::Answer, ask::Ask},
};
use bailiwick_proto::{
    mcp::{self, Answered, RequestId, Response},
    v1::Server,
};
use bailiwick_runtime::OnEnd;
use http::HeaderValue;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{Asked, Calls, answers::Waiter, unix_seconds};
use crate::{
    random,
    upstream::{Aside, Gate, Heard, Principal, UpstreamFault},
};

/// Messages of a server that wait to be heard; the server waits when there are more.
const HEARD_MAX: usize = 16;
/// Longest declaration of what a client can be asked for that a server is told. Real ones have some hundred bytes.
const CAPABILITIES_BYTES_MAX: usize = 4 * 1024;

/// Where messages for a client go that come before its answer.
#[derive(Clone, Debug)]
pub(crate) struct Outlet(pub(crate) mpsc::Sender<Vec<u8>>);

impl Outlet {
    /// A client that went away misses it: what else it takes, its connection's end says.
    async fn send(&self, message: Vec<u8>) {
        drop(self.0.send(message).await);
    }
}

/// See the file's header.
pub(super) struct Forwarding<'a> {
    pub(super) calls: &'a Calls,
    pub(super) asked: &'a Asked,
    /// What is sent: from round to round with more input.
    pub(super) permitted: PermittedCall,
    pub(super) server: &'a Server,
    pub(super) principal: Principal,
    /// Of the request to the server.
    pub(super) id: RequestId,
    pub(super) gate: Gate,
    pub(super) outlet: &'a Outlet,
}

/// Whom a server sees: nobody shares a session with somebody else, or with a client that can be asked for other things.
pub(super) fn principal(caller: &Caller, call: &Call) -> Principal {
    principal_with(caller, call.capabilities.as_deref())
}

/// The same, for a client that declared this.
pub(super) fn principal_with(caller: &Caller, capabilities: Option<&RawValue>) -> Principal {
    let capabilities = capabilities.map(|declared| declared.get().to_owned());
    Principal::Caller {
        user: caller.user.clone(),
        agent: caller.agent.clone(),
        capabilities: capabilities.filter(|declared| declared.len() <= CAPABILITIES_BYTES_MAX),
    }
}

impl Forwarding<'_> {
    /// The server's answer and its length in bytes. What a modern server wants to know first, a legacy client is asked,
    /// and the call sent again.
    pub(super) async fn run(&mut self) -> Result<(Response, u64), UpstreamFault> {
        let mut open = Open::default();
        for _ in 0..ROUNDS_MAX {
            let (response, bytes) = self.once(&mut open).await?;
            let input = match &response {
                Response::Result(result) if !self.permitted.call.era.is_modern() => {
                    Input::wanted(&self.permitted.call, result).map_err(no_input)?
                }
                Response::Result(_) | Response::Error(_) => None,
            };
            let Some(input) = input else { return Ok((response, bytes)) };
            let input = self.gather(input, &mut open).await?;
            self.permitted.call.retry = input.retry(self.permitted.call.retry.salient);
            self.id = self.calls.upstream.next_id();
        }
        Err(UpstreamFault::Invalid("the server asks for input again and again".to_owned()))
    }

    async fn once(&self, open: &mut Open) -> Result<(Response, u64), UpstreamFault> {
        let upstream = &self.calls.upstream;
        let (heard, mut hearing) = mpsc::channel(HEARD_MAX);
        let aside = Aside { gate: Some(&self.gate), heard: Some(&heard) };
        let mut call = pin!(upstream.call(self.server, &self.principal, &self.permitted, &self.id, aside));
        let mut relay = Relay::new(&self.permitted.call, upstream.patience(self.server));
        let began = Instant::now();
        loop {
            let late = tokio::time::sleep_until((began + relay.until()).into());
            tokio::select! {
                biased;
                Some(heard) = hearing.recv() => self.hear(&mut relay, open, &heard, began.elapsed()).await?,
                answer = &mut call => {
                    while let Ok(heard) = hearing.try_recv() {
                        self.hear(&mut relay, open, &heard, began.elapsed()).await?;
                    }
                    return answer;
                }
                answer = open.answered() => self.pass_on(open, answer),
                () = late => return Err(timeout(relay.until())),
            }
        }
    }

    /// Asks a legacy client for all a modern server wants to know.
    async fn gather(&self, mut input: Input, open: &mut Open) -> Result<Input, UpstreamFault> {
        for question in input.questions() {
            self.ask(question, open).await?;
        }
        let late = tokio::time::Instant::now() + ANSWER_WAIT_MAX;
        while !input.is_complete() {
            let answer = tokio::time::timeout_at(late, open.answered()).await;
            let answer = answer.map_err(|_elapsed| timeout(ANSWER_WAIT_MAX))?;
            input.answered(&answer.id, answer.answered).map_err(no_input)?;
        }
        Ok(input)
    }

    async fn ask(&self, question: &Question, open: &mut Open) -> Result<(), UpstreamFault> {
        let unable = || UpstreamFault::Invalid("what the server asks cannot be passed on".to_owned());
        let waiter = match &mut open.waiter {
            Some(waiter) => waiter,
            none => none.insert(self.calls.answers.wait(&self.asked.caller).ok_or_else(unable)?),
        };
        let ask = Ask { server: self.server.name.clone(), id: question.id.clone(), waiter: waiter.number };
        let id = self.sealed(&ask).ok_or_else(unable)?;
        self.outlet.send(question.body(&id)).await;
        Ok(())
    }

    /// Tells the server that nobody waits any more. A modern one sees its stream close.
    pub(super) fn cancel(&self) {
        let (upstream, server) = (Arc::clone(&self.calls.upstream), self.server.clone());
        let (principal, id) = (self.principal.clone(), self.id.clone());
        let cancel = async move { upstream.cancel(&server, &principal, &id).await };
        self.calls.supervisor.spawn("cancellation", OnEnd::Finish, cancel);
    }

    async fn hear(
        &self,
        relay: &mut Relay,
        open: &mut Open,
        heard: &Heard,
        now: Duration,
    ) -> Result<(), UpstreamFault> {
        match relay.heard(heard.era, &self.id, &heard.message, now) {
            Act::Tell(message) => self.outlet.send(message).await,
            Act::Ask(question) => {
                self.ask(&question, open).await?;
                open.asked.insert(question.id, heard.session.clone());
            }
            Act::Answer(body) => self.answer(body, heard.session.clone()),
            Act::Drop => {}
            Act::Cut(why) => return Err(UpstreamFault::Invalid(why.to_owned())),
        }
        Ok(())
    }

    /// The id under which the client is asked: whichever node its answer comes to knows from it who waits for it.
    fn sealed(&self, ask: &Ask) -> Option<String> {
        ask.seal(&self.calls.state.sealing_keys(), &self.asked.caller, unix_seconds(), random()?).ok()
    }

    /// A client's answer goes to the server once, in the session that asked.
    fn pass_on(&self, open: &mut Open, answer: Answer) {
        let Some(session) = open.asked.remove(&answer.id) else { return };
        let body = match &answer.answered {
            Answered::Result(result) => mcp::result_body(&answer.id, result),
            Answered::Error(error) => mcp::raw_error_body(&answer.id, error),
        };
        self.answer(body, session);
    }

    fn answer(&self, body: Vec<u8>, session: Option<HeaderValue>) {
        let (upstream, server) = (Arc::clone(&self.calls.upstream), self.server.clone());
        let principal = self.principal.clone();
        let answer = async move {
            if let Err(fault) = upstream.answer(&server, &principal, body, session.as_ref()).await {
                tracing::debug!(server = server.name, %fault, "a server did not take an answer");
            }
        };
        self.calls.supervisor.spawn("answer", OnEnd::Finish, answer);
    }
}

fn timeout(after: Duration) -> UpstreamFault {
    UpstreamFault::Timeout(u64::try_from(after.as_millis()).unwrap_or(u64::MAX))
}

fn no_input(why: NoInput) -> UpstreamFault {
    match why {
        NoInput::Malformed | NoInput::Undeclared => UpstreamFault::Invalid(why.to_string()),
        NoInput::Refused => UpstreamFault::InputRefused,
    }
}

/// What the server has asked and the client not answered yet.
#[derive(Default)]
struct Open {
    waiter: Option<Waiter>,
    /// By the server's ids: in which of its sessions.
    asked: BTreeMap<RequestId, Option<HeaderValue>>,
}

impl Open {
    /// The client's next answer; pending while nothing is asked.
    async fn answered(&mut self) -> Answer {
        match &mut self.waiter {
            Some(waiter) => match waiter.answers.recv().await {
                Some(answer) => answer,
                // INVARIANT: the waiter's other end lives as long as the waiter.
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}
