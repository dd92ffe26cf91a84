//! Nodes of the gateway: the session core of `data-plane/core`, and around it the little that only moves messages. What
//! is decided, the core decides; here is kept who waits for what, as the server half does with sockets and tasks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bailiwick_data_plane_core::{
    Caller, Config,
    edge::{self, HttpReply, PermittedCall, Step, answer_taken},
    forward::{self, Answerer, Keepsake, ServerRequest},
    handshake::{self, Probe},
    relay::{
        ANSWER_WAIT_MAX, Act, Question, Relay, TOTAL_MAX,
        input::{Input, ROUNDS_MAX},
        parked::{Word, asking},
    },
    sealed::{
        NONCE_BYTES, SealingKeys,
        answer::Answer,
        ask::Ask,
        request_state::{RequestState, Subject},
    },
};
use bailiwick_proto::{
    Reason,
    mcp::{self, Answered, Era, Members, RequestId, Response, method, read_incoming, read_response},
};
use serde_json::value::RawValue;

use crate::{
    script::PATIENCE_MS,
    wire::{Connection, Event, Exchange, Post, Reply, Wires},
    world::{self, BEGAN_UNIX, VIRTUAL_SERVER},
};

/// Longest wait for a word of the node that keeps a call.
const TAKEN_WAIT_MS: u64 = 5_000;
/// How often that node says that the call goes on.
const TAKEN_EVERY_MS: u64 = 2_000;

/// One call at a node.
#[derive(Debug)]
struct Forwarding {
    node: usize,
    connection: Connection,
    permitted: PermittedCall,
    /// What earlier rounds took, and when the first began.
    spent: Option<(Relay, u64)>,
    /// It was sent again because the server had not known the session.
    is_second: bool,
    phase: Phase,
    /// Under which the client's answers come.
    waiter: Option<u64>,
    rounds: usize,
    /// Nothing is waited for any longer than until then.
    ends_at: u64,
}

#[derive(Debug)]
enum Phase {
    /// The node gets to know the server.
    Linking,
    /// The server has it.
    Sent(Sent),
    /// A client of the old era is asked what a modern server wants to know.
    Gathering(Input, u64),
    /// A modern client was told what a server of the old era wants to know, and has to come back.
    Kept(Sent, Kept),
    /// It is kept elsewhere: until when to wait for a word of there, and the number.
    Elsewhere(u64, u64),
}

#[derive(Debug)]
struct Sent {
    exchange: Exchange,
    id: RequestId,
    era: Era,
    session: Option<String>,
    relay: Relay,
    began: u64,
    /// Questions that the client has not answered.
    open: BTreeMap<RequestId, ()>,
}

#[derive(Debug)]
struct Kept {
    asked: BTreeMap<String, Question>,
    /// What the server said while nobody listened.
    said: Vec<Vec<u8>>,
    reply_to: Option<u64>,
    until: u64,
}

#[derive(Clone, Debug)]
struct Link {
    era: Era,
    session: Option<String>,
}

#[derive(Debug, Default)]
struct Node {
    link: Option<Link>,
    /// The handshake under way.
    exchange: Option<(Exchange, bool)>,
    waiting: Vec<u64>,
}

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Gateway {
    config: Arc<Config>,
    caller: Caller,
    keys: SealingKeys,
    declared: Box<RawValue>,
    nodes: Vec<Node>,
    calls: BTreeMap<u64, Forwarding>,
    numbers: u64,
    sealed: u64,
}

impl Gateway {
    pub(crate) fn new(nodes: u64, declared: &serde_json::Value) -> Self {
        Self {
            config: world::config(),
            caller: world::caller(),
            keys: world::keys(),
            declared: mcp::raw(declared),
            nodes: (0..nodes).map(|_| Node::default()).collect(),
            calls: BTreeMap::new(),
            numbers: 0,
            sealed: 0,
        }
    }

    /// Whether nobody waits for anything.
    pub(crate) fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn nonce(&mut self) -> [u8; NONCE_BYTES] {
        self.sealed += 1;
        let mut nonce = [0; NONCE_BYTES];
        nonce[..8].copy_from_slice(&self.sealed.to_be_bytes());
        nonce
    }

    /// A client's POST.
    pub(crate) fn posted(&mut self, wires: &mut Wires, connection: Connection, node: usize, post: &Post) {
        let (request_id, now_unix, nonce) = (format!("r-{connection}"), unix(wires.now), self.nonce());
        let exchange = edge::Exchange {
            config: &self.config,
            caller: &self.caller,
            virtual_server: VIRTUAL_SERVER,
            sealing_keys: &self.keys,
            nonce,
            now_unix,
            request_id: &request_id,
        };
        let headers = post.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
        let (step, _seen) = edge::handle(&exchange, headers, &post.body);
        match step {
            Step::Respond(reply) => reply_to(wires, connection, reply),
            Step::Introduce(introduction) => reply_to(wires, connection, introduction.reply(&[])),
            Step::Answer(answer) => {
                wires.send(Event::Brought(answer));
                reply_to(wires, connection, answer_taken(&request_id, Ok(())));
            }
            Step::Call(permitted) => self.forward(wires, connection, node, *permitted),
            step => panic!("not one of what these clients do: {step:?}"),
        }
    }

    fn forward(&mut self, wires: &mut Wires, connection: Connection, node: usize, permitted: PermittedCall) {
        let number = self.number();
        let ends_at = wires.now + millis(TOTAL_MAX);
        let kept_as = match permitted.call.retry.state {
            Some(RequestState::Waiting(kept_as)) => Some(kept_as),
            Some(RequestState::Server(_)) | None => None,
        };
        let phase = match kept_as {
            None => Phase::Linking,
            Some(kept_as) => Phase::Elsewhere(wires.now + TAKEN_WAIT_MS, kept_as),
        };
        let (is_second, rounds, waiter, spent) = (false, 0, None, None);
        let call = Forwarding { node, connection, permitted, spent, is_second, phase, waiter, rounds, ends_at };
        if let Some(kept_as) = kept_as {
            let responses = call.permitted.call.retry.responses.clone();
            wires.send(Event::Brought(Word::Resume { responses, reply_to: number }.to(kept_as)));
        }
        self.calls.insert(number, call);
        wires.at(wires.now + TAKEN_WAIT_MS, Event::NodeWakes(number));
        self.link(wires, number);
    }

    /// Sends the call, once its node knows the server.
    fn link(&mut self, wires: &mut Wires, number: u64) {
        let Some(call) = self.calls.get(&number).filter(|call| matches!(call.phase, Phase::Linking)) else { return };
        let node_number = call.node;
        let exchange = self.number();
        let node = &mut self.nodes[node_number];
        if let Some(link) = node.link.clone() {
            return self.send(wires, number, exchange, link);
        }
        node.waiting.push(number);
        if node.exchange.is_none() {
            node.exchange = Some((exchange, false));
            request(wires, exchange, handshake::discover_request(&RequestId::from(0)), None);
        }
    }

    fn send(&mut self, wires: &mut Wires, number: u64, exchange: Exchange, Link { era, session }: Link) {
        let id = RequestId::from(self.number());
        let Some(call) = self.calls.get_mut(&number) else { return };
        let first = || (Relay::new(&call.permitted.call, Duration::from_millis(PATIENCE_MS)), wires.now);
        let (mut relay, began) = call.spent.take().unwrap_or_else(first);
        relay.resumed(Duration::from_millis(wires.now - began));
        request(wires, exchange, forward::call_request(&call.permitted, era, &id), session.as_deref());
        wires.at(began + millis(relay.until()), Event::NodeWakes(number));
        call.phase = Phase::Sent(Sent { exchange, id, era, session, relay, began, open: BTreeMap::new() });
    }

    /// An answer that is no stream: of a handshake, or of a server that turns a call away.
    pub(crate) fn answered(&mut self, wires: &mut Wires, exchange: Exchange, reply: &Reply) {
        let handshake = self.nodes.iter().position(|node| node.exchange.is_some_and(|(of, _)| of == exchange));
        if let Some(node) = handshake {
            return self.shakes_hands(wires, node, exchange, reply);
        }
        let Some((number, sent)) = self.of_exchange(exchange) else { return };
        if reply.status == 404 && sent.session.is_some() {
            let (session, call) = (sent.session.clone(), self.calls.get_mut(&number).unwrap());
            let node = &mut self.nodes[call.node];
            if node.link.as_ref().is_some_and(|link| link.session == session) {
                node.link = None;
            }
            if std::mem::replace(&mut call.is_second, true) {
                return self.end(wires, number, Err(Reason::UpstreamUnreachable));
            }
            call.phase = Phase::Linking;
            return self.link(wires, number);
        }
        let response = read_response(&reply.body, &sent.id).map_err(|_fault| Reason::UpstreamInvalid);
        self.responded(wires, number, response);
    }

    fn shakes_hands(&mut self, wires: &mut Wires, node_number: usize, exchange: Exchange, reply: &Reply) {
        let (id, next) = (RequestId::from(0), self.number());
        let declared = self.declared.clone();
        let node = &mut self.nodes[node_number];
        let answer = read_response(&reply.body, &id).ok();
        let initializes = node.exchange == Some((exchange, true));
        let link = match (initializes, handshake::read_probe(reply.status, answer.as_ref()), answer) {
            (false, Probe::Modern, _) => Link { era: Era::Modern, session: None },
            (false, Probe::Legacy, _) => {
                node.exchange = Some((next, true));
                return request(wires, next, handshake::initialize_request(&id, Some(&declared)), None);
            }
            (true, _, Some(Response::Result(result))) => {
                let era = handshake::read_initialize(&result).unwrap();
                let done = handshake::initialized_notification(era);
                request(wires, next, done, reply.session.as_deref());
                Link { era, session: reply.session.clone() }
            }
            (_, probe, answer) => panic!("no handshake: {probe:?} {answer:?}"),
        };
        node.exchange = None;
        node.link = Some(link);
        for number in std::mem::take(&mut node.waiting) {
            self.link(wires, number);
        }
    }

    fn of_exchange(&mut self, exchange: Exchange) -> Option<(u64, &mut Sent)> {
        self.calls.iter_mut().find_map(|(number, call)| match &mut call.phase {
            Phase::Sent(sent) | Phase::Kept(sent, _) if sent.exchange == exchange => Some((*number, sent)),
            Phase::Sent(_) | Phase::Kept(..) | Phase::Linking | Phase::Gathering(..) | Phase::Elsewhere(..) => None,
        })
    }

    /// One event of a server's stream.
    pub(crate) fn said(&mut self, wires: &mut Wires, exchange: Exchange, message: Vec<u8>) {
        let Some((number, sent)) = self.of_exchange(exchange) else { return };
        let id = sent.id.clone();
        let call = self.calls.get_mut(&number).unwrap();
        if let Phase::Kept(_, kept @ Kept { reply_to: None, .. }) = &mut call.phase {
            return kept.said.push(message);
        }
        match read_incoming(&message, &id) {
            Ok(mcp::Incoming::Response(response)) => self.responded(wires, number, Ok(response)),
            Ok(message) => {
                let (Phase::Sent(sent) | Phase::Kept(sent, _)) = &mut call.phase else { return };
                let now = Duration::from_millis(wires.now - sent.began);
                let act = sent.relay.heard(sent.era, &id, &message, now);
                self.act(wires, number, act);
            }
            Err(_fault) => self.responded(wires, number, Err(Reason::UpstreamInvalid)),
        }
    }

    pub(crate) fn broke(&mut self, wires: &mut Wires, exchange: Exchange) {
        if let Some((number, _)) = self.of_exchange(exchange) {
            self.responded(wires, number, Err(Reason::UpstreamInvalid));
        }
    }

    fn act(&mut self, wires: &mut Wires, number: u64, act: Act) {
        let next = self.number();
        let call = self.calls.get_mut(&number).unwrap();
        let connection = call.connection;
        let is_modern = call.permitted.call.era.is_modern();
        let (is_kept, Phase::Sent(sent) | Phase::Kept(sent, _)) =
            (matches!(call.phase, Phase::Kept(..)), &mut call.phase)
        else {
            return;
        };
        match act {
            Act::Tell(message) if !is_kept => wires.send(Event::Told(connection, message)),
            Act::Tell(_) | Act::Drop => {}
            Act::Answer(body) => answer_server(wires, next, sent, body),
            Act::Cut(_why) => self.responded(wires, number, Err(Reason::UpstreamInvalid)),
            Act::Ask(question) if is_modern => self.keep(wires, number, question),
            Act::Ask(question) => {
                sent.open.insert(question.id.clone(), ());
                self.ask(wires, number, &question);
            }
        }
    }

    /// Asks a client of the old era.
    fn ask(&mut self, wires: &mut Wires, number: u64, question: &Question) {
        let nonce = self.nonce();
        let call = self.calls.get_mut(&number).unwrap();
        let waiter = *call.waiter.get_or_insert(number);
        let ask = Ask { server: VIRTUAL_SERVER.into(), id: question.id.clone(), waiter };
        let id = ask.seal(&self.keys, &self.caller, unix(wires.now), nonce).unwrap();
        wires.send(Event::Told(call.connection, question.body(&id)));
    }

    /// Keeps a call for a modern client that is asked.
    fn keep(&mut self, wires: &mut Wires, number: u64, question: Question) {
        let until = wires.now + millis(ANSWER_WAIT_MAX);
        let call = self.calls.get_mut(&number).unwrap();
        let phase = std::mem::replace(&mut call.phase, Phase::Linking);
        let asked = BTreeMap::from([("1".to_owned(), question)]);
        let questions: Vec<Question> = asked.values().cloned().collect();
        let asks = asking(&questions);
        wires.at(until, Event::NodeWakes(number));
        match phase {
            Phase::Sent(sent) => {
                let kept = Kept { asked, said: Vec::new(), reply_to: None, until };
                call.phase = Phase::Kept(sent, kept);
                let (connection, permitted) = (call.connection, call.permitted.clone());
                self.release(wires, connection, &permitted, Ok(Response::Result(asks)), Some(number));
            }
            Phase::Kept(sent, Kept { reply_to, said, .. }) => {
                call.phase = Phase::Kept(sent, Kept { asked, said, reply_to: None, until });
                wires.send(Event::Brought(Word::Asks(asks).to(reply_to.unwrap())));
            }
            phase @ (Phase::Linking | Phase::Gathering(..) | Phase::Elsewhere(..)) => call.phase = phase,
        }
    }

    /// The server's answer, or why there is none.
    fn responded(&mut self, wires: &mut Wires, number: u64, response: Result<Response, Reason>) {
        let call = self.calls.get_mut(&number).unwrap();
        let exchange = match &call.phase {
            Phase::Sent(sent) | Phase::Kept(sent, _) => Some(sent.exchange),
            Phase::Linking | Phase::Gathering(..) | Phase::Elsewhere(..) => None,
        };
        wires_drop(wires, exchange.filter(|_| response.is_err()));
        let wanted = match &response {
            Ok(Response::Result(result)) if !call.permitted.call.era.is_modern() => {
                Input::wanted(&call.permitted.call, result)
            }
            Ok(_) | Err(_) => Ok(None),
        };
        match wanted {
            Ok(None) => self.end(wires, number, response),
            Err(_why) => self.end(wires, number, Err(Reason::UpstreamInvalid)),
            Ok(Some(input)) => {
                let questions: Vec<Question> = input.questions().cloned().collect();
                if let Phase::Sent(Sent { mut relay, began, .. }) = std::mem::replace(&mut call.phase, Phase::Linking) {
                    let may_ask = relay.may_ask(questions.len());
                    call.spent = Some((relay, began));
                    if !may_ask {
                        return self.end(wires, number, Err(Reason::UpstreamInvalid));
                    }
                }
                let late = call.ends_at.min(wires.now + millis(ANSWER_WAIT_MAX));
                wires.at(late, Event::NodeWakes(number));
                call.phase = Phase::Gathering(input, late);
                call.rounds += 1;
                if call.rounds >= ROUNDS_MAX {
                    return self.end(wires, number, Err(Reason::UpstreamInvalid));
                }
                questions.iter().for_each(|question| self.ask(wires, number, question));
            }
        }
    }

    /// The end of a call: for the client that waits, or for the node that does in its place.
    fn end(&mut self, wires: &mut Wires, number: u64, response: Result<Response, Reason>) {
        let Some(call) = self.calls.remove(&number) else { return };
        match call.phase {
            Phase::Kept(_, Kept { reply_to: None, .. }) => {}
            Phase::Kept(_, Kept { reply_to: Some(reply_to), .. }) => {
                let word = response.map_or_else(Word::Failed, |response| Word::Done(response, 0));
                wires.send(Event::Brought(word.to(reply_to)));
            }
            Phase::Elsewhere(_, kept_as) => {
                self.release(wires, call.connection, &call.permitted, response, Some(kept_as));
            }
            Phase::Linking | Phase::Sent(_) | Phase::Gathering(..) => {
                self.release(wires, call.connection, &call.permitted, response, None);
            }
        }
    }

    /// The answer in the client's words; what it has to bring back is sealed.
    fn release(
        &mut self,
        wires: &mut Wires,
        connection: Connection,
        permitted: &PermittedCall,
        response: Result<Response, Reason>,
        kept_as: Option<u64>,
    ) {
        let nonce = self.nonce();
        let PermittedCall { call, found, .. } = permitted;
        let subject = Subject { server: found.server(), method: call.method, salient: call.retry.salient };
        let seal = |keepsake: Keepsake| {
            let Keepsake::State(state) = keepsake else { panic!("nobody has tasks here") };
            let state = kept_as.map_or(state, RequestState::Waiting);
            state.seal(&self.keys, &self.caller, &subject, unix(wires.now), nonce).ok()
        };
        let naming = &self.config.virtual_servers[VIRTUAL_SERVER].naming;
        let of = Answerer { naming, server: found.server(), era: None };
        let answer = forward::answer(call, "r-1", response, of, seal);
        reply_to(wires, connection, answer.reply);
    }

    /// One node says something to whoever waits under a number.
    pub(crate) fn brought(&mut self, wires: &mut Wires, answer: Answer) {
        let Some(call) = self.calls.get_mut(&answer.waiter) else { return };
        let number = answer.waiter;
        match &mut call.phase {
            Phase::Sent(sent) => {
                if sent.open.remove(&answer.id).is_none() {
                    return;
                }
                let body = match &answer.answered {
                    Answered::Result(result) => mcp::result_body(&answer.id, result),
                    Answered::Error(error) => mcp::raw_error_body(&answer.id, error),
                };
                self.numbers += 1;
                answer_server(wires, self.numbers, sent, body);
            }
            Phase::Gathering(input, _) => match input.answered(&answer.id, answer.answered) {
                Err(_refused) => self.end(wires, number, Err(Reason::InputRefused)),
                Ok(()) if input.is_complete() => {
                    let retry = input.clone().retry(call.permitted.call.retry.salient);
                    call.permitted.call.retry = retry;
                    call.phase = Phase::Linking;
                    self.link(wires, number);
                }
                Ok(()) => {}
            },
            Phase::Kept(..) => self.resumed(wires, number, Word::of(&answer)),
            Phase::Elsewhere(late, _) => match Word::of(&answer) {
                Some(Word::Taken) => {
                    *late = wires.now + TAKEN_WAIT_MS;
                    wires.at(*late, Event::NodeWakes(number));
                }
                Some(Word::Asks(result)) => self.end(wires, number, Ok(Response::Result(result))),
                Some(Word::Done(response, _)) => self.end(wires, number, Ok(response)),
                Some(Word::Failed(reason)) => self.end(wires, number, Err(reason)),
                Some(Word::Resume { .. } | Word::Cancel) | None => {}
            },
            Phase::Linking => {}
        }
    }

    /// A modern client came back to a call that is kept.
    fn resumed(&mut self, wires: &mut Wires, number: u64, word: Option<Word>) {
        let next = self.number();
        let call = self.calls.get_mut(&number).unwrap();
        let Phase::Kept(sent, kept) = &mut call.phase else { return };
        match word {
            Some(Word::Resume { responses, reply_to }) if kept.reply_to.is_none() => {
                wires.send(Event::Brought(Word::Taken.to(reply_to)));
                let given = responses.as_deref().and_then(Members::of).unwrap_or_default();
                let mut missing = Vec::new();
                for (key, question) in std::mem::take(&mut kept.asked) {
                    match given.get(&key) {
                        Some(response) => {
                            self.numbers += 1;
                            answer_server(wires, next, sent, mcp::result_body(&question.id, response));
                        }
                        None => missing.push((key, question)),
                    }
                }
                if !missing.is_empty() {
                    kept.asked = missing.into_iter().collect();
                    let questions: Vec<Question> = kept.asked.values().cloned().collect();
                    wires.send(Event::Brought(Word::Asks(asking(&questions)).to(reply_to)));
                    return;
                }
                kept.reply_to = Some(reply_to);
                kept.until = wires.now + TAKEN_EVERY_MS;
                sent.relay.resumed(Duration::from_millis(wires.now - sent.began));
                let exchange = sent.exchange;
                let said = std::mem::take(&mut kept.said);
                wires.at(wires.now + TAKEN_EVERY_MS, Event::NodeWakes(number));
                for message in said {
                    self.said(wires, exchange, message);
                }
            }
            Some(Word::Cancel) if kept.reply_to.is_some() => self.cancel(wires, number),
            _ => {}
        }
    }

    /// A client went away.
    pub(crate) fn left(&mut self, wires: &mut Wires, connection: Connection) {
        let theirs =
            self.calls.iter().find(|(_, call)| call.connection == connection && !matches!(call.phase, Phase::Kept(..)));
        let Some((number, call)) = theirs.map(|(number, call)| (*number, call)) else { return };
        if let Phase::Elsewhere(_, kept_as) = call.phase {
            wires.send(Event::Brought(Word::Cancel.to(kept_as)));
        }
        self.cancel(wires, number);
    }

    /// Nobody waits for a call any more.
    fn cancel(&mut self, wires: &mut Wires, number: u64) {
        let next = self.number();
        let Some(call) = self.calls.remove(&number) else { return };
        if let Phase::Sent(sent) | Phase::Kept(sent, _) = call.phase {
            wires_drop(wires, Some(sent.exchange));
            if !sent.era.is_modern() {
                let params = RawValue::from_string(format!(r#"{{"requestId":{}}}"#, sent.id)).unwrap();
                answer_server(wires, next, &sent, mcp::request_body(None, method::CANCELLED, Some(&params)));
            }
        }
    }

    /// Something may have been waited for long enough.
    pub(crate) fn wakes(&mut self, wires: &mut Wires, number: u64) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let now = wires.now;
        let over = now >= call.ends_at;
        let (late, reason) = match &mut call.phase {
            Phase::Linking => (u64::MAX, Reason::UpstreamTimeout),
            Phase::Sent(sent) => (sent.began + millis(sent.relay.until()), Reason::UpstreamTimeout),
            Phase::Gathering(_, late) => (*late, Reason::UpstreamTimeout),
            Phase::Elsewhere(late, _) => (*late, Reason::InputLost),
            Phase::Kept(_, Kept { reply_to: None, until, .. }) => {
                if now >= *until {
                    return self.cancel(wires, number);
                }
                (*until, Reason::InputLost)
            }
            Phase::Kept(sent, Kept { reply_to: Some(reply_to), until, .. }) => {
                if now >= *until {
                    wires.send(Event::Brought(Word::Taken.to(*reply_to)));
                    *until = now + TAKEN_EVERY_MS;
                    wires.at(*until, Event::NodeWakes(number));
                }
                (sent.began + millis(sent.relay.until()), Reason::UpstreamTimeout)
            }
        };
        if now < late && !over {
            return wires.at(late.min(call.ends_at), Event::NodeWakes(number));
        }
        let sent = match &call.phase {
            Phase::Sent(sent) | Phase::Kept(sent, _) => Some(sent.exchange),
            Phase::Linking | Phase::Gathering(..) | Phase::Elsewhere(..) => None,
        };
        wires_drop(wires, sent);
        self.end(wires, number, Err(reason));
    }
}

fn reply_to(wires: &mut Wires, connection: Connection, reply: HttpReply) {
    let HttpReply { status, session_id, body, .. } = reply;
    let reply = Reply { status, session: session_id, body: body.unwrap_or_default() };
    wires.send(Event::Replied(connection, reply));
}

fn request(wires: &mut Wires, exchange: Exchange, request: ServerRequest, session: Option<&str>) {
    let ServerRequest { mut headers, body } = request;
    headers.extend(session.map(|session| ("mcp-session-id".to_owned(), session.to_owned())));
    wires.send(Event::Asked(exchange, Post { headers, body }));
}

/// A message in the session of a call that is no request.
fn answer_server(wires: &mut Wires, exchange: Exchange, sent: &Sent, body: Vec<u8>) {
    let headers = handshake::initialized_notification(sent.era).headers;
    request(wires, exchange, ServerRequest { headers, body }, sent.session.as_deref());
}

fn wires_drop(wires: &mut Wires, exchange: Option<Exchange>) {
    exchange.into_iter().for_each(|exchange| wires.send(Event::Dropped(exchange)));
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap()
}

fn unix(now: u64) -> i64 {
    BEGAN_UNIX + i64::try_from(now / 1_000).unwrap()
}
