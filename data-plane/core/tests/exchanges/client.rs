//! A client of either era. It knows what it asked for, and nothing else may reach it: that is most of what these tests
//! promise, and it is checked here, message by message.

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_data_plane_core::relay::NOTIFICATIONS_MAX;
use bailiwick_proto::mcp::Era;
use serde_json::{Value, json};

use crate::{
    script::{Expected, PATIENCE_MS, Step, capability, expected, script},
    wire::{Connection, Event, Post, Reply, Wires},
};

/// Nodes that a request may come to.
pub(crate) const NODES: u64 = 2;
/// Longest anything may take from the call to its answer, over all of a client's requests for it: an hour, and as long
/// again for each time a person was waited for between two requests.
const TOTAL_MS_MAX: u64 = 3_600_000 + 10_000;
/// Longest a person thinks about a question.
const THINKING_MS_MAX: u64 = 60_000;
const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// How a client takes what comes, by the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Answers everything and waits.
    Patient,
    /// Goes away after so many milliseconds.
    Leaves(u64),
    /// Refuses to answer.
    Refuses,
    /// Never answers.
    Silent,
    /// Answers everything twice, and what nobody asked.
    Chatters,
}

/// One call, over all requests that it takes.
#[derive(Clone, Debug)]
struct Call {
    script: Vec<Step>,
    token: Option<Value>,
    level: Option<&'static str>,
    manner: Manner,
    is_over: bool,
}

#[derive(Debug)]
enum Wants {
    /// `initialize`.
    Session,
    /// The call of this operation, under this id.
    Call(u64, Value),
    /// That an answer, or a notification, is taken.
    Nothing,
}

#[derive(Debug)]
struct Open {
    wants: Wants,
    since: u64,
    heard: u32,
    is_over: bool,
    has_left: bool,
}

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Client {
    era: Era,
    server: Era,
    declared: Value,
    /// Whether the consent lists what it calls.
    is_listed: bool,
    session: Option<String>,
    open: BTreeMap<Connection, Open>,
    calls: BTreeMap<u64, Call>,
    /// Ids of the questions it was asked: an id comes once.
    asked: BTreeSet<String>,
    /// What came of it, in words; to see that runs are worth something.
    pub(crate) came: BTreeMap<&'static str, u64>,
    ids: u64,
}

/// What a client wants done later, packed into a number for the clock.
const BEGINS: u64 = 0;
const LEAVES: u64 = 1;

impl Client {
    pub(crate) fn new(era: Era, server: Era, declared: Value, is_listed: bool) -> Self {
        Self {
            era,
            server,
            declared,
            is_listed,
            session: None,
            open: BTreeMap::new(),
            calls: BTreeMap::new(),
            asked: BTreeSet::new(),
            came: BTreeMap::new(),
            ids: 0,
        }
    }

    /// Begins with so many calls, at moments of its own.
    pub(crate) fn begin(&mut self, wires: &mut Wires, calls: u64) {
        for op in 1..=calls {
            let manner = match wires.random.below(12) {
                0 => Manner::Leaves(wires.random.below(2 * PATIENCE_MS)),
                1 => Manner::Refuses,
                2 => Manner::Silent,
                3 => Manner::Chatters,
                _ => Manner::Patient,
            };
            let token = match wires.random.below(3) {
                0 => None,
                1 => Some(json!(op)),
                _ => Some(json!(format!("token {op}"))),
            };
            let level = (wires.random.percent(60)).then(|| wires.random.pick(&LEVELS));
            let script = script(&mut wires.random);
            self.calls.insert(op, Call { script, token, level, manner, is_over: false });
            let at = wires.random.below(20_000);
            wires.at(at, Event::ClientWakes(op * 2 + BEGINS));
        }
        if !self.era.is_modern() {
            let params = json!({"protocolVersion": self.era.version(), "capabilities": self.declared,
                "clientInfo": {"name": "simulated", "version": "1"}});
            let id = self.id();
            let message = json!({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params});
            self.post(wires, Wants::Session, "initialize", &message);
        }
    }

    pub(crate) fn wakes(&mut self, wires: &mut Wires, what: u64) {
        let op = what / 2;
        if what % 2 == BEGINS {
            // A client of the old era waits for its session first.
            if !self.era.is_modern() && self.session.is_none() {
                wires.at(wires.now + 50, Event::ClientWakes(what));
                return;
            }
            let params = json!({"name": "query_data", "arguments": self.arguments(op)});
            if let Manner::Leaves(after) = self.calls[&op].manner {
                wires.at(wires.now + after, Event::ClientWakes(op * 2 + LEAVES));
            }
            self.call(wires, op, params);
        } else {
            self.calls.get_mut(&op).unwrap().is_over = true;
            let leaving = self.open.iter_mut().filter(|(_, open)| !open.is_over && open.is_of(op));
            for (connection, open) in leaving {
                (open.is_over, open.has_left) = (true, true);
                wires.send(Event::Left(*connection));
            }
        }
    }

    fn arguments(&self, op: u64) -> Value {
        let script: Vec<Value> = self.calls[&op].script.iter().map(Step::to_json).collect();
        json!({"op": op, "script": script})
    }

    fn call(&mut self, wires: &mut Wires, op: u64, mut params: Value) {
        let id = self.id();
        let call = &self.calls[&op];
        let mut meta = json!({"com.example/op": op});
        if let Some(token) = &call.token {
            meta["progressToken"] = token.clone();
        }
        if self.era.is_modern() {
            meta["io.modelcontextprotocol/protocolVersion"] = json!(self.era.version());
            meta["io.modelcontextprotocol/clientCapabilities"] = self.declared.clone();
            if let Some(level) = call.level {
                meta["io.modelcontextprotocol/logLevel"] = json!(level);
            }
        }
        params["_meta"] = meta;
        let message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
        self.post(wires, Wants::Call(op, id), "tools/call", &message);
    }

    fn id(&mut self) -> Value {
        self.ids += 1;
        if self.ids.is_multiple_of(3) { json!(format!("id {}", self.ids)) } else { json!(self.ids) }
    }

    fn post(&mut self, wires: &mut Wires, wants: Wants, method: &str, message: &Value) {
        let mut headers = vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("accept".to_owned(), "application/json, text/event-stream".to_owned()),
        ];
        if method != "initialize" {
            headers.push(("mcp-protocol-version".to_owned(), self.era.version().to_owned()));
            headers.extend(self.session.clone().map(|session| ("mcp-session-id".to_owned(), session)));
        }
        if self.era.is_modern() {
            headers.push(("mcp-method".to_owned(), method.to_owned()));
            headers.push(("mcp-name".to_owned(), "query_data".to_owned()));
        }
        let connection = self.open.len() as u64;
        self.open.insert(connection, Open { wants, since: wires.now, heard: 0, is_over: false, has_left: false });
        let node = usize::try_from(wires.random.below(NODES)).unwrap();
        let posted = Event::Posted(connection, node, Post { headers, body: message.to_string().into_bytes() });
        // People think, sometimes.
        let is_an_answer = matches!(self.open[&connection].wants, Wants::Nothing);
        if is_an_answer && wires.random.percent(30) {
            let thinks = wires.random.below(THINKING_MS_MAX);
            wires.at(wires.now + thinks, posted);
        } else {
            wires.send(posted);
        }
    }

    /// Something comes before the answer.
    pub(crate) fn told(&mut self, wires: &mut Wires, connection: Connection, message: &[u8]) {
        let open = self.open.get_mut(&connection).expect("a message on no connection");
        if open.has_left {
            return;
        }
        assert!(!open.is_over, "a message after the end: {}", message.escape_ascii());
        let message: Value = serde_json::from_slice(message).unwrap();
        let Wants::Call(op, _) = open.wants else { panic!("a message to who did not call: {message}") };
        let (call, params) = (&self.calls[&op], &message["params"]);
        match message["method"].as_str().expect("no message without a method comes before the answer") {
            "notifications/progress" => {
                assert_eq!(Some(&params["progressToken"]), call.token.as_ref(), "progress of something else");
                assert_eq!(params["message"], op.to_string(), "progress of another call");
                open.heard += 1;
            }
            "notifications/message" => {
                assert_eq!(params["data"], op, "a line of another call");
                let rank = |level: &str| LEVELS.iter().position(|known| *known == level).unwrap();
                let said = rank(params["level"].as_str().unwrap());
                let is_wanted = call.level.is_some_and(|wanted| said >= rank(wanted));
                assert!(!self.era.is_modern() || is_wanted, "a line that was not wanted: {message}");
                open.heard += 1;
            }
            method => {
                assert!(!self.era.is_modern(), "a modern client gets a request: {message}");
                assert!(self.declared.get(capability(method)).is_some(), "asked for what was not declared: {message}");
                assert_eq!(params["op"], op, "a question of another call");
                let id = message["id"].as_str().unwrap();
                assert!(self.asked.insert(id.to_owned()), "asked twice under one id");
                let manner = call.manner;
                self.answer(wires, op, id, manner);
            }
        }
        assert!(self.open[&connection].heard <= NOTIFICATIONS_MAX, "a flood gets through");
    }

    /// Answers a question of a server's, as a client of the old era does: with a POST of its own.
    fn answer(&mut self, wires: &mut Wires, op: u64, id: &str, manner: Manner) {
        let answer = |id: &str| json!({"jsonrpc": "2.0", "id": id, "result": {"pong": op, "action": "accept"}});
        match manner {
            Manner::Silent => {}
            Manner::Refuses => {
                let error = json!({"code": -1, "message": "no"});
                let refusal = json!({"jsonrpc": "2.0", "id": id, "error": error});
                self.post(wires, Wants::Nothing, "", &refusal);
            }
            Manner::Chatters => {
                for id in [id, id, "made up", "a2.AAAA"] {
                    self.post(wires, Wants::Nothing, "", &answer(id));
                }
            }
            Manner::Patient | Manner::Leaves(_) => self.post(wires, Wants::Nothing, "", &answer(id)),
        }
    }

    /// The answer.
    pub(crate) fn replied(&mut self, wires: &mut Wires, connection: Connection, reply: &Reply) {
        let open = self.open.get_mut(&connection).expect("an answer on no connection");
        if open.has_left {
            return;
        }
        assert!(!open.is_over, "answered twice");
        open.is_over = true;
        assert!(wires.now - open.since <= TOTAL_MS_MAX, "an answer after {} ms", wires.now - open.since);
        match &open.wants {
            Wants::Nothing => assert!(matches!(reply.status, 202 | 400), "{reply:?}"),
            Wants::Session => {
                assert_eq!(reply.status, 200, "{reply:?}");
                self.session = Some(reply.session.clone().expect("a session"));
            }
            Wants::Call(op, id) => {
                let (op, id) = (*op, id.clone());
                assert_eq!(reply.status, 200, "{}", reply.body.escape_ascii());
                let body: Value = serde_json::from_slice(&reply.body).unwrap();
                assert_eq!(body["id"], id, "an answer under another id");
                self.ended(wires, op, &body);
            }
        }
    }

    fn ended(&mut self, wires: &mut Wires, op: u64, body: &Value) {
        let call = self.calls.get_mut(&op).unwrap();
        assert!(!call.is_over, "a call that is over is answered");
        let result = &body["result"];
        if result["resultType"] == "input_required" {
            return self.wanted(wires, op, result);
        }
        call.is_over = true;
        let had = match (result["structuredContent"]["op"].as_u64(), body["error"]["data"]["reason"].as_str()) {
            (Some(of), _) => {
                assert_eq!(of, op, "the answer to another call");
                let given = result["structuredContent"]["given"].as_u64().unwrap();
                assert!(!self.era.is_modern() || result["resultType"] == "complete", "{result}");
                Expected::Result(usize::try_from(given).unwrap())
            }
            (None, Some(_reason)) => Expected::Refused,
            (None, None) => {
                assert_eq!(body["error"]["message"], format!("op {op}"), "the error of another call: {body}");
                Expected::Error
            }
        };
        let expected = match self.is_listed {
            true => expected(&call.script, self.server, &self.declared, call.token.is_some()),
            false => Expected::Refused,
        };
        let is_simple = matches!(call.manner, Manner::Patient | Manner::Chatters);
        // A modern client that is pestered is asked one thing at a time.
        let is_pestered = call.script.contains(&Step::Pester);
        if is_simple && expected != Expected::Anything && !is_pestered {
            assert_eq!(had, expected, "op {op}: {:?} -> {body}", call.script);
        }
        *self.came.entry(word(had)).or_default() += 1;
    }

    /// A modern client is asked by a result, and calls again with what was asked for.
    fn wanted(&mut self, wires: &mut Wires, op: u64, result: &Value) {
        assert!(self.era.is_modern(), "a client of the old era is asked by a result");
        *self.came.entry("asked by a result").or_default() += 1;
        let asks = result["inputRequests"].as_object().unwrap();
        let call = &self.calls[&op];
        let mut responses = json!({});
        for (key, asked) in asks {
            let method = asked["method"].as_str().unwrap();
            assert!(self.declared.get(capability(method)).is_some(), "asked for what was not declared: {result}");
            assert_eq!(asked["params"]["op"], op, "a question of another call");
            responses[key] =
                json!({"pong": op, "action": if call.manner == Manner::Refuses { "decline" } else { "accept" }});
        }
        if call.manner == Manner::Silent {
            self.calls.get_mut(&op).unwrap().is_over = true;
            return;
        }
        let state = result["requestState"].as_str().expect("something to bring back");
        let params = json!({"name": "query_data", "arguments": self.arguments(op), "inputResponses": responses,
            "requestState": state});
        self.call(wires, op, params);
    }

    /// Nothing happens any more: nobody may be waiting.
    pub(crate) fn is_done(&self) {
        for open in self.open.values() {
            assert!(open.is_over, "never answered: {open:?} {:?}", self.calls);
        }
        assert!(self.calls.values().all(|call| call.is_over), "{:?}", self.calls);
    }
}

impl Open {
    fn is_of(&self, op: u64) -> bool {
        matches!(self.wants, Wants::Call(of, _) if of == op)
    }
}

const fn word(had: Expected) -> &'static str {
    match had {
        Expected::Result(0) => "result",
        Expected::Result(_) => "result after questions",
        Expected::Error => "error",
        Expected::Refused => "refusal",
        Expected::Anything => "anything",
    }
}
