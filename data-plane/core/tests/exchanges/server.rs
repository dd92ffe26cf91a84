//! A server of either era, with as little understanding as possible: it does what the script in a call's arguments
//! says, and notices what no server should meet.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bailiwick_proto::mcp::{Era, method};
use serde_json::{Value, json};

use crate::{
    script::{QUESTIONS, Step},
    wire::{Event, Exchange, Post, Reply, Wires},
};

/// More than a client may be asked at one go.
const PESTERING: u64 = 40;

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Server {
    era: Era,
    /// What the client behind all requests declared.
    declared: Value,
    sessions: BTreeSet<String>,
    sessions_opened: u64,
    running: BTreeMap<Exchange, Running>,
    /// How often each operation was begun, and each of its later rounds.
    pub(crate) begun: BTreeMap<(u64, u64), u64>,
    /// What was asked, and how often it was answered.
    questions: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Running {
    op: u64,
    id: Value,
    token: Option<Value>,
    /// What is still to be done, and how many steps were done before.
    steps: VecDeque<Step>,
    done: u64,
    waits_for: Option<String>,
    given: Vec<Value>,
}

impl Server {
    pub(crate) fn new(era: Era, declared: Value) -> Self {
        Self {
            era,
            declared,
            sessions: BTreeSet::new(),
            sessions_opened: 0,
            running: BTreeMap::new(),
            begun: BTreeMap::new(),
            questions: BTreeMap::new(),
        }
    }

    pub(crate) fn forget(&mut self) {
        self.sessions.clear();
    }

    pub(crate) fn dropped(&mut self, exchange: Exchange) {
        self.running.remove(&exchange);
    }

    pub(crate) fn asked(&mut self, wires: &mut Wires, exchange: Exchange, post: &Post) {
        let message: Value = serde_json::from_slice(&post.body).expect("a server gets JSON");
        let header = |name: &str| post.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let session = header("mcp-session-id");
        assert!(!(self.era.is_modern() && session.is_some()), "a modern server is sent a session");
        let Some(method) = message["method"].as_str() else { return self.answered(wires, exchange, &message) };
        match method {
            "server/discover" => self.discover(wires, exchange, &message),
            "initialize" if !self.era.is_modern() => {
                assert_eq!(message["params"]["capabilities"], self.declared, "a session for what nobody declared");
                self.sessions_opened += 1;
                let session = format!("s-{}", self.sessions_opened);
                self.sessions.insert(session.clone());
                let result = json!({"protocolVersion": self.era.version(), "capabilities": {"tools": {}}});
                self.reply(wires, exchange, (200, Some(session)), &result_of(&message["id"], &result));
            }
            "notifications/initialized" => self.accepted(wires, exchange),
            "notifications/cancelled" => {
                let id = &message["params"]["requestId"];
                let over: Vec<_> = self.running.iter().filter(|(_, run)| run.id == *id).map(|(at, _)| *at).collect();
                over.iter().for_each(|at| self.dropped(*at));
                self.accepted(wires, exchange);
            }
            "tools/call" if self.era.is_modern() => {
                assert_eq!((header("mcp-method"), header("mcp-name")), (Some(method), Some("query_data")));
                let meta = &message["params"]["_meta"];
                assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
                let declared = &meta["io.modelcontextprotocol/clientCapabilities"];
                assert_eq!(*declared, self.declared, "another declaration than the client's");
                self.call(wires, exchange, &message);
            }
            "tools/call" if session.is_some_and(|session| self.sessions.contains(session)) => {
                self.call(wires, exchange, &message);
            }
            "tools/call" => {
                let error =
                    json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32001, "message": "no session"}});
                self.reply(wires, exchange, (404, None), &error);
            }
            other => panic!("the server is asked `{other}`"),
        }
    }

    fn discover(&self, wires: &mut Wires, exchange: Exchange, message: &Value) {
        let result = match (self.era.is_modern(), wires.random.below(3)) {
            (true, _) => json!({"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}),
            // Some answer what they do not know.
            (false, 0) => json!({}),
            (false, _) => {
                let error =
                    json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "what?"}});
                return self.reply(wires, exchange, (400, None), &error);
            }
        };
        self.reply(wires, exchange, (200, None), &result_of(&message["id"], &result));
    }

    fn call(&mut self, wires: &mut Wires, exchange: Exchange, message: &Value) {
        let params = &message["params"];
        let op = params["arguments"]["op"].as_u64().unwrap();
        let steps = params["arguments"]["script"].as_array().unwrap().iter().map(Step::of_json);
        let brought =
            params["requestState"].as_str().map(|state| serde_json::from_str::<(u64, u64, usize)>(state).unwrap());
        let mut given = Vec::new();
        let done = match brought {
            None => 0,
            Some((of, done, before)) => {
                assert_eq!(of, op, "a state of another call");
                given = vec![json!("before"); before];
                given.push(params["inputResponses"]["k"].clone());
                assert!(given.iter().all(|given| !given.is_null()), "a round without what was asked for");
                done
            }
        };
        *self.begun.entry((op, done)).or_default() += 1;
        let steps = steps.skip(usize::try_from(done).unwrap()).collect();
        let token = params["_meta"].get("progressToken").cloned();
        let run = Running { op, id: message["id"].clone(), token, steps, done, waits_for: None, given };
        self.running.insert(exchange, run);
        self.go_on(wires, exchange);
    }

    /// A client's answer to what was asked.
    fn answered(&mut self, wires: &mut Wires, exchange: Exchange, message: &Value) {
        self.accepted(wires, exchange);
        let Some(id) = message["id"].as_str() else { panic!("an answer to nothing: {message}") };
        let times = self.questions.get_mut(id).unwrap_or_else(|| panic!("an answer to what was not asked: {message}"));
        *times += 1;
        assert_eq!(*times, 1, "answered twice: {message}");
        let waits = self.running.iter_mut().find(|(_, run)| run.waits_for.as_deref() == Some(id));
        let Some((exchange, run)) = waits else { return };
        run.waits_for = None;
        run.given.extend(message.get("result").filter(|result| result.get("pong").is_some()).cloned());
        let exchange = *exchange;
        self.go_on(wires, exchange);
    }

    /// Does what the script says, up to where it waits.
    pub(crate) fn go_on(&mut self, wires: &mut Wires, exchange: Exchange) {
        while let Some(run) = self.running.get_mut(&exchange).filter(|run| run.waits_for.is_none()) {
            let Some(step) = run.steps.pop_front() else {
                let run = self.running.remove(&exchange).unwrap();
                let told = json!({"op": run.op, "given": run.given.len()});
                let content = json!([{"type": "text", "text": run.op.to_string()}]);
                let mut result = json!({"content": content, "structuredContent": told});
                if self.era.is_modern() && run.op.is_multiple_of(2) {
                    result["resultType"] = json!("complete");
                }
                return self.finish(wires, exchange, &result_of(&run.id, &result));
            };
            run.done += 1;
            if self.step(wires, exchange, step) {
                return;
            }
        }
    }

    /// Whether the script waits, or is over.
    fn step(&mut self, wires: &mut Wires, exchange: Exchange, step: Step) -> bool {
        let is_modern = self.era.is_modern();
        let run = self.running.get_mut(&exchange).unwrap();
        let (op, id) = (run.op, run.id.clone());
        let notification = |method: &str, params: Value| json!({"jsonrpc": "2.0", "method": method, "params": params});
        let line = |level: &str| notification(method::LOG, json!({"level": level, "data": op}));
        match step {
            Step::Progress(count) => {
                let token = run.token.clone();
                for done in token.iter().flat_map(|_| 0..count) {
                    let params = json!({"progressToken": token, "progress": done, "message": op.to_string()});
                    say(wires, exchange, &notification(method::PROGRESS, params));
                }
            }
            Step::StrangeProgress => {
                let params = json!({"progressToken": "nobody's", "progress": 1});
                say(wires, exchange, &notification(method::PROGRESS, params));
            }
            Step::Log(level) => say(wires, exchange, &line(&level)),
            Step::Flood(count) => (0..count).for_each(|_| say(wires, exchange, &line("emergency"))),
            Step::Pause(millis) => {
                wires.at(wires.now + millis, Event::ServerWakes(exchange));
                run.waits_for = Some("time".to_owned());
                return true;
            }
            Step::Ask(method) if is_modern => {
                let state = serde_json::to_string(&(op, run.done, run.given.len())).unwrap();
                let asks = json!({"k": {"method": method, "params": {"op": op}}});
                let result = json!({"resultType": "input_required", "inputRequests": asks, "requestState": state});
                self.finish(wires, exchange, &result_of(&id, &result));
                return true;
            }
            Step::Ask(method) => {
                self.ask(wires, exchange, &method);
                return true;
            }
            Step::Ping => {
                self.ask(wires, exchange, method::PING);
                return true;
            }
            Step::AskAnything => {
                self.ask(wires, exchange, "com.example/secrets");
                return true;
            }
            Step::Pester if is_modern => {}
            Step::Pester => (0..PESTERING).for_each(|_| self.ask(wires, exchange, QUESTIONS[0])),
            Step::Forget => self.forget(),
            Step::WrongId => {
                self.finish(wires, exchange, &result_of(&json!("another"), &json!({"content": []})));
                return true;
            }
            Step::Garbage => {
                wires.send(Event::Said(exchange, b"{\"jsonrpc\":\"2.0\",\"jsonrpc\":\"2.0\"}".to_vec()));
                self.running.remove(&exchange);
                return true;
            }
            Step::Break => {
                wires.send(Event::Broke(exchange));
                self.running.remove(&exchange);
                return true;
            }
            Step::Hang => {
                run.waits_for = Some("nothing".to_owned());
                return true;
            }
            Step::OddResult => {
                self.finish(wires, exchange, &result_of(&id, &json!({"resultType": "odd", "content": []})));
                return true;
            }
            Step::Fail => {
                let error = json!({"code": -31999, "message": format!("op {op}")});
                self.finish(wires, exchange, &json!({"jsonrpc": "2.0", "id": id, "error": error}));
                return true;
            }
        }
        false
    }

    /// A pause is over.
    pub(crate) fn wakes(&mut self, wires: &mut Wires, exchange: Exchange) {
        if let Some(run) = self.running.get_mut(&exchange).filter(|run| run.waits_for.as_deref() == Some("time")) {
            run.waits_for = None;
            self.go_on(wires, exchange);
        }
    }

    fn ask(&mut self, wires: &mut Wires, exchange: Exchange, method: &str) {
        let id = format!("q-{}", self.questions.len());
        let run = self.running.get_mut(&exchange).unwrap();
        let asks = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {"op": run.op}});
        say(wires, exchange, &asks);
        run.waits_for = Some(id.clone());
        self.questions.insert(id, 0);
    }

    /// The answer: as the last event of the stream or as a body, however it likes.
    fn finish(&mut self, wires: &mut Wires, exchange: Exchange, message: &Value) {
        self.running.remove(&exchange);
        say(wires, exchange, message);
    }

    fn reply(&self, wires: &mut Wires, exchange: Exchange, (status, session): (u16, Option<String>), body: &Value) {
        let reply = Reply { status, session, body: body.to_string().into_bytes() };
        wires.send(Event::Answered(exchange, reply));
    }

    fn accepted(&self, wires: &mut Wires, exchange: Exchange) {
        wires.send(Event::Answered(exchange, Reply { status: 202, session: None, body: Vec::new() }));
    }
}

fn say(wires: &mut Wires, exchange: Exchange, message: &Value) {
    wires.send(Event::Said(exchange, message.to_string().into_bytes()));
}

fn result_of(id: &Value, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}
