//! Nodes of the gateway: the session core of `data-plane/core`, and around it the little that only moves messages. What
//! is decided, the core decides; here is kept who waits for what, as the server half does with sockets and tasks
//! (`data-plane/server/src/calls`, `upstream/peer.rs`): the same steps in the same order, so that what breaks the
//! promises here would break them there.

mod linking;
mod waiting;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bailiwick_data_plane_core::{
    Caller, Config,
    edge::{self, HttpReply, PermittedCall, Step, answer_taken},
    forward::{self, Answerer, Keepsake, ServerRequest},
    handshake,
    relay::{
        ANSWER_WAIT_MAX, Act, Question, Relay, TOTAL_MAX,
        input::{Input, ROUNDS_MAX},
        parked::Word,
    },
    sealed::{
        NONCE_BYTES, SealingKeys,
        ask::Ask,
        request_state::{RequestState, Subject},
    },
};
use bailiwick_proto::{
    Reason,
    mcp::{self, Era, RequestId, Response, read_incoming, read_response},
};
use serde_json::value::RawValue;

use crate::{
    wire::{Connection, Event, Exchange, Post, Reply, Wires},
    world::{self, BEGAN_UNIX, Consented, VIRTUAL_SERVER},
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
    pub(crate) fn new(nodes: u64, declared: &serde_json::Value, consented: Consented) -> Self {
        Self {
            config: world::config(consented),
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
            Step::Deny(denied) => reply_to(wires, connection, denied.reply),
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
