//! One call on its way to a server and back, and everything that is said meanwhile.
//!
//! Made by `calls` once the intent is recorded. What the server says beside its answer is heard in its order and before
//! the answer; what to do about it says `relay` in the core, and this does it: tell the client, ask the client, answer
//! the server. When the server has been silent for too long, says `relay` as well.

use std::{collections::BTreeMap, sync::Arc};

use bailiwick_data_plane_core::{
    Call, Caller,
    edge::{PermittedCall, without_tasks},
    operation::Operation,
    relay::{
        ANSWER_WAIT_MAX, Act, Question, TOTAL_MAX,
        input::{Input, NoInput, ROUNDS_MAX},
    },
    sealed::{answer::Answer, ask::Ask, request_state::RequestState},
};
use bailiwick_proto::{
    mcp::{self, Answered, Era, RequestId, Response},
    v1::Server,
};
use http::HeaderValue;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

use super::{
    Asked, Calls,
    answers::Waiter,
    parking::asked_together,
    passage::{Next, Passage, Spent, Way, timeout},
    unix_seconds,
};
use crate::{
    random,
    upstream::{Context, Gate, Principal, UpstreamFault},
};

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
    pub(super) permitted: Arc<PermittedCall>,
    pub(super) server: &'a Arc<Server>,
    pub(super) principal: Principal,
    /// Of the request to the server.
    pub(super) id: RequestId,
    pub(super) gate: Gate,
    pub(super) outlet: &'a Outlet,
    /// How the server was spoken to in the last round.
    pub(super) era: Option<Era>,
}

/// A server's answer, or its wish for input.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) response: Response,
    /// Of the answer.
    pub(super) bytes: u64,
    /// The number under which a call is kept until the client has answered.
    pub(super) kept: Option<u64>,
}

/// Whom a server sees: nobody shares a session with somebody else, or with a client that can be asked for other things.
pub(super) fn principal(caller: &Caller, call: &Call) -> Principal {
    principal_with(caller, call.capabilities.as_deref())
}

/// The same, for a client that declared this. Tasks make no difference: a modern server learns of them with each call,
/// and a legacy one never.
pub(crate) fn principal_with(caller: &Caller, capabilities: Option<&RawValue>) -> Principal {
    let capabilities = capabilities.map(|declared| Arc::from(without_tasks(declared).get()));
    Principal::Caller {
        user: caller.user.as_str().into(),
        agent: caller.agent.as_str().into(),
        capabilities: capabilities.filter(|declared: &Arc<str>| declared.len() <= CAPABILITIES_BYTES_MAX),
    }
}

impl Forwarding<'_> {
    /// Until the server answers, or the client has to. What a modern server wants to know first, a legacy client is
    /// asked, and the call sent again.
    pub(super) async fn run(&mut self) -> Result<Said, UpstreamFault> {
        if let Some(RequestState::Waiting(number)) = self.permitted.call.retry.state {
            let (response, bytes) = self.calls.resume(&self.asked.caller, &self.permitted, number).await?;
            return Ok(Said { response, bytes, kept: Some(number) });
        }
        let mut open = Open::default();
        for _ in 0..ROUNDS_MAX {
            let said = self.told(&mut open).await?;
            let input = match &said.response {
                Response::Result(result) if !self.permitted.call.era.is_modern() => {
                    Input::wanted(&self.permitted.call, result).map_err(no_input)?
                }
                Response::Result(_) | Response::Error(_) => None,
            };
            let Some(input) = input else { return Ok(said) };
            let questions = input.questions().count();
            if open.spent.as_mut().is_none_or(|spent| !spent.relay.may_ask(questions)) {
                return Err(UpstreamFault::Invalid("the server asks the client too often".to_owned()));
            }
            let input = self.gather(input, &mut open).await?;
            let salient = self.permitted.call.retry.salient;
            Arc::make_mut(&mut self.permitted).call.retry = input.retry(salient);
            self.id = self.calls.upstream.next_id();
        }
        Err(UpstreamFault::Invalid("the server asks for input again and again".to_owned()))
    }

    /// One round, told as an operation of its own: its span is the one that asks the server.
    async fn told(&mut self, open: &mut Open) -> Result<Said, UpstreamFault> {
        let PermittedCall { call, found, .. } = self.permitted.as_ref();
        let mut asks = self.asked.cause.ask(Operation::forwarded(call, found, &self.id), &self.server.url);
        asks.takes(call);
        let carried = asks.carry_on();
        if !carried.leaves(call.meta.as_deref()) {
            let meta = carried.within(call.meta.as_deref());
            Arc::make_mut(&mut self.permitted).call.meta = meta;
        }
        let said = self.once(open).await;
        self.era = self.calls.upstream.era(self.server, &self.principal);
        asks.speaks(self.era);
        asks.answered(said.as_ref().map(|said| &said.response).map_err(UpstreamFault::reason));
        said
    }

    async fn once(&self, open: &mut Open) -> Result<Said, UpstreamFault> {
        let spent = open.spent.take();
        let mut passage = Passage::begin(self.way(), Arc::clone(&self.permitted), self.gate.clone(), spent);
        loop {
            let next = tokio::select! {
                biased;
                next = passage.next() => next,
                answer = open.answered() => {
                    self.pass_on(open, answer);
                    continue;
                }
            };
            match next {
                Next::Answered(answer) => {
                    let (response, bytes) = answer?;
                    open.spent = Some(passage.spent());
                    return Ok(Said { response, bytes, kept: None });
                }
                Next::Said(Act::Tell(message), _) => self.outlet.send(message).await,
                Next::Said(Act::Ask(question), session) if self.permitted.call.era.is_modern() => {
                    let supervisor = &self.calls.supervisor;
                    let asked = asked_together(&mut passage, (question, session), supervisor).await;
                    let (result, number) = self.calls.park(&self.asked.caller, passage, asked)?;
                    return Ok(Said { response: Response::Result(result), bytes: 0, kept: Some(number) });
                }
                Next::Said(Act::Ask(question), session) => {
                    self.ask(&question, open).await?;
                    open.asked.insert(question.id, session);
                }
                Next::Said(Act::Answer(body), session) => self.way().answer(body, session, &self.calls.supervisor),
                Next::Said(Act::Drop, _) => {}
                Next::Said(Act::Cut(why), _) => return Err(UpstreamFault::Invalid(why.to_owned())),
            }
        }
    }

    /// Asks a legacy client for all a modern server wants to know.
    async fn gather(&self, mut input: Input, open: &mut Open) -> Result<Input, UpstreamFault> {
        for question in input.questions() {
            self.ask(question, open).await?;
        }
        let longest = open.spent.as_ref().map_or(ANSWER_WAIT_MAX, |spent| spent.rest(TOTAL_MAX).min(ANSWER_WAIT_MAX));
        let late = tokio::time::Instant::now() + longest;
        while !input.is_complete() {
            let answer = tokio::time::timeout_at(late, open.answered()).await;
            let answer = answer.map_err(|_elapsed| timeout(longest))?;
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

    /// How the server speaks, if that is known.
    pub(super) fn era(&self) -> Option<Era> {
        self.era.or_else(|| self.calls.upstream.era(self.server, &self.principal))
    }

    /// Tells the server that nobody waits any more.
    pub(super) fn cancel(&self) {
        self.way().cancel(&self.calls.supervisor);
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
        self.way().answer(body, session, &self.calls.supervisor);
    }

    fn way(&self) -> Way {
        let Asked { config, caller, request_id, .. } = self.asked;
        Way {
            context: Context {
                config: Arc::clone(config),
                caller: Arc::clone(caller),
                permitted: Arc::clone(&self.permitted),
                request_id: request_id.as_str().into(),
            },
            upstream: Arc::clone(&self.calls.upstream),
            server: Arc::clone(self.server),
            principal: self.principal.clone(),
            id: self.id.clone(),
        }
    }
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
    /// What earlier rounds took.
    spent: Option<Spent>,
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
