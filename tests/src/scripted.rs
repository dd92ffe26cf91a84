//! An MCP server that does as a test says: which tools it shows, which era it speaks, how it answers calls.
//!
//! Runs inside the test and remembers every call that reached it, so a test can say that none did. What it says in
//! streams, and to whoever listens, is in `streams`. Well-behaved servers are the sample server and other people's
//! (`upstream`, `peers`).

mod streams;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

pub use self::streams::End;
use self::streams::Telling;
use crate::manifests;

/// How `tools/call` is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// With the arguments as `structuredContent`, exactly as they were written.
    Echo,
    /// Not before [`ScriptedServer::release`]; then as `Echo`.
    Held,
    /// With the client's answer to an `elicitation/create` that comes first, on the call's stream; as legacy servers do.
    Asks,
    /// As `Asks`, but not before [`ScriptedServer::release`].
    AsksAndHolds,
    /// With a wish for input, as modern servers have it, until the call comes with responses; then with those.
    Needs,
    /// With a stream of these events, which then ends so. `$ID` stands for the request's id, `$TOKEN` for its progress
    /// token.
    Says(Vec<String>, End),
    /// With this event again and again, without end.
    Floods(String),
    /// With these words; `$ID` stands for the request's id.
    Http { status: u16, headers: Vec<(&'static str, &'static str)>, body: Vec<u8> },
}

impl Reply {
    /// 200 with a body of this type.
    #[must_use]
    pub fn ok(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self::Http { status: 200, headers: vec![("content-type", content_type)], body: body.into() }
    }

    /// A status without a body.
    #[must_use]
    pub const fn status(status: u16) -> Self {
        Self::Http { status, headers: Vec::new(), body: Vec::new() }
    }
}

/// A call that reached the server.
#[derive(Clone, Debug)]
pub struct SeenCall {
    pub headers: HeaderMap,
    pub body: String,
}

/// See the file's header; stopped when dropped.
#[derive(Debug)]
pub struct ScriptedServer {
    url: String,
    script: Arc<Script>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Script {
    tools: Mutex<Vec<Value>>,
    reply: Mutex<Reply>,
    /// The next answers, before `reply` counts again.
    once: Mutex<Vec<Reply>>,
    modern: Mutex<bool>,
    sessions: Mutex<BTreeSet<String>>,
    opened: AtomicUsize,
    seen: Mutex<Vec<SeenCall>>,
    /// Requests and notifications of any kind.
    requests: AtomicUsize,
    underway: AtomicUsize,
    abandoned: AtomicUsize,
    released: watch::Sender<bool>,
    /// What clients answered last.
    answered: watch::Sender<Value>,
    telling: Telling,
}

impl ScriptedServer {
    /// A legacy server with sessions that shows these tools and echoes.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(tools: Vec<Value>) -> Result<Self> {
        Self::start_at("127.0.0.1", tools).await
    }

    /// The same at another address of this machine.
    ///
    /// # Errors
    /// No port is free.
    #[expect(clippy::disallowed_methods, reason = "tests have no supervisor; the task ends with the server's value")]
    pub async fn start_at(address: &str, tools: Vec<Value>) -> Result<Self> {
        let script = Arc::new(Script {
            tools: Mutex::new(tools),
            reply: Mutex::new(Reply::Echo),
            once: Mutex::default(),
            modern: Mutex::new(false),
            sessions: Mutex::default(),
            opened: AtomicUsize::new(0),
            seen: Mutex::default(),
            requests: AtomicUsize::new(0),
            underway: AtomicUsize::new(0),
            abandoned: AtomicUsize::new(0),
            released: watch::Sender::new(false),
            answered: watch::Sender::new(Value::Null),
            telling: Telling::default(),
        });
        let listener = TcpListener::bind((address, 0)).await?;
        let url = format!("http://{}/mcp", listener.local_addr()?);
        let app = Router::new()
            .route("/mcp", get(streams::listen).post(answer).delete(streams::given_back))
            .with_state(Arc::clone(&script));
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { url, script, task })
    }

    /// Its MCP endpoint.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Shows these tools from now on.
    pub fn show(&self, tools: Vec<Value>) {
        *lock(&self.script.tools) = tools;
    }

    /// Answers calls so from now on.
    pub fn reply(&self, reply: Reply) {
        *lock(&self.script.reply) = reply;
    }

    /// Answers the next call so.
    pub fn reply_once(&self, reply: Reply) {
        lock(&self.script.once).push(reply);
    }

    /// Speaks 2026-07-28 from now on, or 2025-11-25.
    pub fn speak_modern(&self, modern: bool) {
        *lock(&self.script.modern) = modern;
    }

    /// Knows no session any more, as after a restart.
    pub fn forget_sessions(&self) {
        lock(&self.script.sessions).clear();
    }

    /// Lets every held call go on.
    pub fn release(&self) {
        self.script.released.send_replace(true);
    }

    /// The calls that reached it.
    #[must_use]
    pub fn seen(&self) -> Vec<SeenCall> {
        lock(&self.script.seen).clone()
    }

    /// What a client answered last to what this server asked; null before.
    #[must_use]
    pub fn answered(&self) -> Value {
        self.script.answered.borrow().clone()
    }

    /// How many requests and notifications of any kind came.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.script.requests.load(Ordering::SeqCst)
    }

    /// Calls it is working on.
    #[must_use]
    pub fn underway(&self) -> usize {
        self.script.underway.load(Ordering::SeqCst)
    }

    /// Calls whose caller went away before the answer.
    #[must_use]
    pub fn abandoned(&self) -> usize {
        self.script.abandoned.load(Ordering::SeqCst)
    }

    /// Sessions it has opened so far.
    #[must_use]
    pub fn sessions_opened(&self) -> usize {
        self.script.opened.load(Ordering::SeqCst)
    }

    /// Manifests for it: a server and virtual server of this name, and a policy that permits all of its tools.
    #[must_use]
    pub fn manifests(&self, name: &str, naming: &str) -> String {
        manifests::server(name, &json!({"url": self.url}))
            + &manifests::virtual_server(name, naming, name)
            + &manifests::permits_all_of(name)
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A tool of the tier that its annotations speak for.
#[must_use]
pub fn tool(name: &str, tier: &str) -> Value {
    let annotations = match tier {
        "retrieval" => json!({"readOnlyHint": true}),
        "transactional" => json!({"readOnlyHint": false, "destructiveHint": false}),
        _ => json!({"readOnlyHint": false, "destructiveHint": true}),
    };
    json!({"name": name, "description": name, "inputSchema": {"type": "object"}, "annotations": annotations})
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    method: String,
    #[serde(borrow, default)]
    params: Option<AskedParams<'a>>,
}

#[derive(Default, Deserialize)]
struct AskedParams<'a> {
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "inputResponses")]
    responses: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "_meta")]
    meta: Option<AskedMeta<'a>>,
}

#[derive(Deserialize)]
struct AskedMeta<'a> {
    #[serde(borrow, default, rename = "progressToken")]
    token: Option<&'a RawValue>,
}

async fn answer(State(script): State<Arc<Script>>, headers: HeaderMap, body: Bytes) -> Response {
    let text = String::from_utf8_lossy(&body).into_owned();
    let Ok(asked) = serde_json::from_str::<Asked<'_>>(&text) else {
        return match serde_json::from_str::<Value>(&text) {
            Ok(message) if message.get("id").is_some() => {
                script.answered.send_replace(message);
                StatusCode::ACCEPTED.into_response()
            }
            Ok(_) | Err(_) => StatusCode::BAD_REQUEST.into_response(),
        };
    };
    script.requests.fetch_add(1, Ordering::SeqCst);
    let Some(id) = asked.id.map(RawValue::get) else { return StatusCode::ACCEPTED.into_response() };
    let modern = *lock(&script.modern);
    let is_modern = headers.get("mcp-protocol-version").is_some_and(|version| version == "2026-07-28");
    let session = headers.get("mcp-session-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    match asked.method.as_str() {
        "server/discover" if modern => result(
            id,
            &json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": script.telling.capabilities(), "ttlMs": 0, "cacheScope": "private"}),
        ),
        "initialize" if !modern => {
            let session = format!("s-{}", script.opened.fetch_add(1, Ordering::SeqCst));
            let mut response = result(
                id,
                &json!({"protocolVersion": "2025-11-25", "capabilities": script.telling.capabilities(), "serverInfo": {"name": "scripted", "version": "1"}}),
            );
            if let Ok(value) = HeaderValue::from_str(&session) {
                response.headers_mut().insert("mcp-session-id", value);
            }
            lock(&script.sessions).insert(session);
            response
        }
        _ if modern != is_modern => error(400, id, if modern { -32022 } else { -32000 }, "not in this era"),
        _ if !modern && !lock(&script.sessions).contains(session) => error(404, id, -32001, "Session not found"),
        "tools/list" => {
            let tools = lock(&script.tools).clone();
            result(id, &json!({"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"}))
        }
        "tools/call" => {
            lock(&script.seen).push(SeenCall { headers: headers.clone(), body: text.clone() });
            call(&script, id, &text).await
        }
        other => match script.telling.answer(id, other, &text) {
            Some(response) => response,
            None => error(404, id, -32601, "Method not found"),
        },
    }
}

async fn call(script: &Arc<Script>, id: &str, text: &str) -> Response {
    struct Underway<'a>(&'a Script, bool);
    impl Drop for Underway<'_> {
        fn drop(&mut self) {
            self.0.underway.fetch_sub(1, Ordering::SeqCst);
            if !self.1 {
                self.0.abandoned.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
    script.underway.fetch_add(1, Ordering::SeqCst);
    let mut underway = Underway(script, false);
    let once = lock(&script.once).pop();
    let reply = once.unwrap_or_else(|| lock(&script.reply).clone());
    let params = serde_json::from_str::<Asked<'_>>(text).ok().and_then(|asked| asked.params).unwrap_or_default();
    let arguments = params.arguments.map_or("{}", RawValue::get);
    let token = params.meta.and_then(|meta| meta.token).map_or("null", RawValue::get);
    let response = match reply {
        Reply::Echo => echo(id, arguments),
        Reply::Asks => streams::asks(script, id, true),
        Reply::AsksAndHolds => streams::asks(script, id, false),
        Reply::Needs => streams::needs(id, params.responses),
        Reply::Says(events, end) => {
            let events = events.into_iter().map(|event| event.replace("$ID", id).replace("$TOKEN", token));
            script.telling.says(events.collect(), end)
        }
        Reply::Floods(event) => script.telling.floods(&event.replace("$ID", id).replace("$TOKEN", token)),
        Reply::Held => {
            drop(script.released.subscribe().wait_for(|released| *released).await);
            echo(id, arguments)
        }
        Reply::Http { status, headers, body } => {
            let mut response = StatusCode::from_u16(status).unwrap_or_default().into_response();
            for (name, value) in headers {
                response.headers_mut().append(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
            *response.body_mut() = replaced(body, id).into();
            response
        }
    };
    underway.1 = true;
    response
}

fn replaced(body: Vec<u8>, id: &str) -> Vec<u8> {
    match String::from_utf8(body) {
        Ok(text) => text.replace("$ID", id).into_bytes(),
        Err(not_text) => not_text.into_bytes(),
    }
}

fn echo(id: &str, arguments: &str) -> Response {
    json_response(
        200,
        format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[],"structuredContent":{arguments}}}}}"#),
    )
}

fn result(id: &str, result: &Value) -> Response {
    json_response(200, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

fn error(status: u16, id: &str, code: i64, message: &str) -> Response {
    let error = json!({"code": code, "message": message});
    json_response(status, format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#))
}

fn json_response(status: u16, body: String) -> Response {
    (StatusCode::from_u16(status).unwrap_or_default(), [(header::CONTENT_TYPE, "application/json")], body)
        .into_response()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
