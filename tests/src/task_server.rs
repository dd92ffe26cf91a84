//! A modern MCP server whose tools go on as tasks, which become what a test says; over Streamable HTTP and HTTP+SSE.
//!
//! Runs inside the test. It remembers what it was asked under which id, so a test can say that it was not; whoever
//! listens to a task is told what becomes of it. How the published implementations keep tasks, the conformance suite
//! shows (`peers::PeerServer::tasks`). Specification: extension `io.modelcontextprotocol/tasks`.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::Result;
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::manifests;

/// The extension's name.
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// See the file's header; stopped when dropped.
#[derive(Debug)]
pub struct TaskServer {
    /// Its MCP endpoint.
    pub url: String,
    /// The same over HTTP+SSE.
    pub sse_url: String,
    kept: Arc<Mutex<Kept>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Kept {
    tools: Vec<Value>,
    /// By id: members of the task beside it.
    tasks: BTreeMap<String, Value>,
    asked: Vec<Asked>,
    listeners: Vec<(Value, Vec<String>, mpsc::UnboundedSender<String>)>,
    /// Over HTTP+SSE.
    sessions: Vec<mpsc::UnboundedSender<String>>,
}

/// A request about a task, or for listening to tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    /// The task's id, in the body.
    pub task: String,
    /// The header `Mcp-Name`.
    pub name: String,
    pub params: Value,
}

impl TaskServer {
    /// Shows these tools. Each call of one goes on as a task, for clients that have tasks.
    ///
    /// # Errors
    /// No port is free.
    #[expect(clippy::disallowed_methods, reason = "tests have no supervisor; the task ends with the server's value")]
    pub async fn start(tools: Vec<Value>) -> Result<Self> {
        let kept = Arc::new(Mutex::new(Kept { tools, ..Kept::default() }));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let base = format!("http://{}", listener.local_addr()?);
        let app = Router::new()
            .route("/mcp", post(over_http))
            .route("/sse", get(begin_session))
            .route("/messages/{session}", post(in_session))
            .with_state(Arc::clone(&kept));
        let task = tokio::spawn(async move { drop(axum::serve(listener, app).await) });
        Ok(Self { url: format!("{base}/mcp"), sse_url: format!("{base}/sse"), kept, task })
    }

    /// This becomes of a task; whoever listens to it is told.
    pub fn becomes(&self, id: &str, members: &Value) {
        let mut kept = lock(&self.kept);
        kept.tasks.insert(id.to_owned(), members.clone());
        let mut params = detail(id, members);
        for (subscription, tasks, stream) in &kept.listeners {
            set(&mut params, "_meta", json!({"io.modelcontextprotocol/subscriptionId": subscription}));
            if tasks.iter().any(|task| task == id) {
                drop(stream.send(event(&json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": params}))));
            }
        }
    }

    /// Knows a task no more.
    pub fn forget(&self, id: &str) {
        lock(&self.kept).tasks.remove(id);
    }

    /// Ends the streams of all listeners, as a restart would.
    pub fn let_listeners_go(&self) {
        lock(&self.kept).listeners.clear();
    }

    /// What it was asked about tasks, oldest first.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.kept).asked.clone()
    }

    /// Manifests for it: a server, and a policy that permits all of its tools.
    #[must_use]
    pub fn manifests(&self, name: &str) -> String {
        manifests::server(name, &json!({"url": self.url})) + &manifests::permits_all_of(name)
    }
}

impl Drop for TaskServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}

fn set(object: &mut Value, name: &str, value: Value) {
    if let Some(members) = object.as_object_mut() {
        members.insert(name.to_owned(), value);
    }
}

fn detail(id: &str, members: &Value) -> Value {
    let mut all = json!({"taskId": id, "createdAt": "2026-11-21T00:00:00Z", "lastUpdatedAt": "2026-11-21T00:00:00Z", "ttlMs": 600_000});
    if let (Some(all), Some(members)) = (all.as_object_mut(), members.as_object()) {
        all.extend(members.clone());
    }
    all
}

/// What a message is answered with.
enum Answer {
    Now(StatusCode, Value),
    /// Notifications, in the stream.
    Streamed,
    Nothing,
}

async fn over_http(State(kept): State<Arc<Mutex<Kept>>>, headers: HeaderMap, Json(message): Json<Value>) -> Response {
    let name = headers.get("mcp-name").and_then(|name| name.to_str().ok()).unwrap_or_default();
    let (stream, told) = mpsc::unbounded_channel();
    match answer(&mut lock(&kept), &message, name, stream) {
        Answer::Now(status, body) => (status, Json(body)).into_response(),
        Answer::Streamed => streamed(told),
        Answer::Nothing => StatusCode::ACCEPTED.into_response(),
    }
}

/// The stream of a session over HTTP+SSE, which begins with where its messages go.
async fn begin_session(State(kept): State<Arc<Mutex<Kept>>>) -> Response {
    let (stream, told) = mpsc::unbounded_channel();
    let sessions = &mut lock(&kept).sessions;
    drop(stream.send(format!("event: endpoint\ndata: /messages/{}\n\n", sessions.len())));
    sessions.push(stream);
    streamed(told)
}

async fn in_session(
    State(kept): State<Arc<Mutex<Kept>>>,
    Path(session): Path<usize>,
    Json(message): Json<Value>,
) -> StatusCode {
    let mut kept = lock(&kept);
    let Some(stream) = kept.sessions.get(session).cloned() else { return StatusCode::NOT_FOUND };
    if let Answer::Now(_, body) = answer(&mut kept, &message, "", stream.clone()) {
        drop(stream.send(event(&body)));
    }
    StatusCode::ACCEPTED
}

fn streamed(told: mpsc::UnboundedReceiver<String>) -> Response {
    let events = UnboundedReceiverStream::new(told).map(Ok::<_, Infallible>);
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

fn answer(kept: &mut Kept, message: &Value, name: &str, stream: mpsc::UnboundedSender<String>) -> Answer {
    let params = message.get("params").cloned().unwrap_or_default();
    let param = |name: &str| params.get(name).cloned().unwrap_or_default();
    let method = message.get("method").and_then(Value::as_str).unwrap_or_default();
    let declared = param("_meta").get("io.modelcontextprotocol/clientCapabilities").cloned().unwrap_or_default();
    let has_tasks = declared.get("extensions").is_some_and(|extensions| extensions.get(TASKS).is_some());
    let Some(id) = message.get("id").cloned() else { return Answer::Nothing };
    let task = param("taskId").as_str().unwrap_or_default().to_owned();
    if method.starts_with("tasks/") || method == "subscriptions/listen" {
        let asked =
            Asked { method: method.to_owned(), task: task.clone(), name: name.to_owned(), params: params.clone() };
        kept.asked.push(asked);
        if !has_tasks {
            return error(&id, StatusCode::BAD_REQUEST, -32021, "Missing required client capability");
        }
    }
    let complete = json!({"resultType": "complete"});
    match method {
        "server/discover" => result(
            &id,
            json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "ttlMs": 0, "cacheScope": "private",
                "capabilities": {"tools": {}, "extensions": {TASKS: {}}}}),
        ),
        "tools/list" => {
            let tools = kept.tools.clone();
            result(&id, json!({"resultType": "complete", "tools": tools, "ttlMs": 0, "cacheScope": "private"}))
        }
        "tools/call" if has_tasks => {
            let task = format!("own-{}", kept.tasks.len() + 1);
            let members = json!({"status": "working"});
            let mut begun = detail(&task, &members);
            set(&mut begun, "resultType", json!("task"));
            kept.tasks.insert(task, members);
            result(&id, begun)
        }
        "tools/call" => result(&id, json!({"resultType": "complete", "content": []})),
        "tasks/get" | "tasks/update" | "tasks/cancel" => match kept.tasks.get(&task) {
            None => error(&id, StatusCode::OK, -32602, &format!("there is no task {task}")),
            Some(members) if method == "tasks/get" => {
                let mut seen = detail(&task, members);
                set(&mut seen, "resultType", json!("complete"));
                result(&id, seen)
            }
            Some(_) => result(&id, complete),
        },
        "subscriptions/listen" => {
            let tasks = param("notifications").get("taskIds").cloned().unwrap_or_default();
            let tasks: Vec<String> = serde_json::from_value(tasks).unwrap_or_default();
            let acknowledged = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": {"notifications": {"taskIds": tasks}, "_meta": {"io.modelcontextprotocol/subscriptionId": id}}});
            drop(stream.send(event(&acknowledged)));
            kept.listeners.push((id, tasks, stream));
            Answer::Streamed
        }
        _ => error(&id, StatusCode::NOT_FOUND, -32601, "Method not found"),
    }
}

fn result(id: &Value, result: Value) -> Answer {
    Answer::Now(StatusCode::OK, json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

fn error(id: &Value, status: StatusCode, code: i64, message: &str) -> Answer {
    Answer::Now(status, json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}}))
}
