//! What a scripted server says in streams: before its answers, and to whoever listens to changes.
//!
//! Streams end as the test says, which includes not at all, and in the middle of an event. How many are open is
//! counted, so a test can see that they are let go.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, StreamExt as _, stream};
use serde_json::{Value, json, value::RawValue};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use super::{Script, ScriptedServer, echo, lock, result};

/// Events on their way to one listener; who reads slower misses some.
const TOLD_MAX: usize = 1_024;
/// How much of a flood is written at once.
const FLOOD_BYTES: usize = 64 * 1024;

/// How a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As it should.
    Done,
    /// Not at all: nothing more is said.
    Never,
    /// The connection breaks.
    Breaks,
}

/// What is told to whoever listens, and how many streams are open.
#[derive(Debug)]
pub(super) struct Telling {
    /// Whether it can be listened to, and has prompts and resources.
    offers: AtomicBool,
    told: broadcast::Sender<String>,
    /// What was asked for last.
    subscribed: Mutex<Vec<String>>,
    /// The levels of its log that were asked for.
    levels: Mutex<Vec<String>>,
    open: Arc<AtomicUsize>,
}

impl Default for Telling {
    fn default() -> Self {
        Self {
            offers: AtomicBool::new(false),
            told: broadcast::Sender::new(TOLD_MAX),
            subscribed: Mutex::default(),
            levels: Mutex::default(),
            open: Arc::default(),
        }
    }
}

impl ScriptedServer {
    /// Has prompts and resources from now on, each list two pages long, streams of changes, and a log.
    pub fn offer_more(&self) {
        self.script.telling.offers.store(true, Ordering::SeqCst);
    }

    /// Says these words to everybody who listens.
    pub fn tell(&self, event: &str) {
        drop(self.script.telling.told.send(event.to_owned()));
    }

    /// Tells everybody who listens that something changed.
    pub fn tell_changed(&self, method: &str, params: &Value) {
        self.tell(&event(&json!({"jsonrpc": "2.0", "method": method, "params": params})));
    }

    /// How many streams are open, of calls and of listeners.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.script.telling.open.load(Ordering::SeqCst)
    }

    /// The resources that were asked for in the order in which they were.
    #[must_use]
    pub fn subscribed(&self) -> Vec<String> {
        lock(&self.script.telling.subscribed).clone()
    }
}

impl ScriptedServer {
    /// The levels of its log that were asked for, in that order, in whichever session.
    #[must_use]
    pub fn levels(&self) -> Vec<String> {
        lock(&self.script.telling.levels).clone()
    }

    /// How many sessions it has opened that were not given back.
    #[must_use]
    pub fn sessions(&self) -> usize {
        lock(&self.script.sessions).len()
    }
}

/// Counts a stream for as long as it is open.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// One message as an event.
pub(super) fn event(message: &Value) -> String {
    format!("data: {message}\n\n")
}

impl Telling {
    pub(super) fn capabilities(&self) -> Value {
        if !self.offers.load(Ordering::SeqCst) {
            return json!({"tools": {}});
        }
        json!({"tools": {"listChanged": true}, "prompts": {"listChanged": true},
               "resources": {"listChanged": true, "subscribe": true}, "logging": {}})
    }

    /// Everything but tools; `None` for what it does not know.
    pub(super) fn answer(&self, id: &str, method: &str, text: &str) -> Option<Response> {
        if !self.offers.load(Ordering::SeqCst) {
            return None;
        }
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let param = |at: &str| message.pointer(at).cloned().unwrap_or_default();
        let is_first = param("/params/cursor").is_null();
        let page = |key: &str, items: Value| {
            let mut page = json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
            if let Some(members) = page.as_object_mut() {
                members.insert(key.to_owned(), items);
                is_first.then(|| members.insert("nextCursor".to_owned(), json!("second")));
            }
            Some(result(id, &page))
        };
        let number = if is_first { 1 } else { 2 };
        match method {
            "prompts/list" => page("prompts", json!([{"name": format!("prompt-{number}")}])),
            "resources/list" => page("resources", json!([{"name": "r", "uri": format!("note:///{number}")}])),
            "resources/templates/list" => page("resourceTemplates", json!([])),
            "resources/subscribe" => {
                lock(&self.subscribed).extend(param("/params/uri").as_str().map(str::to_owned));
                Some(result(id, &json!({})))
            }
            "resources/unsubscribe" => Some(result(id, &json!({}))),
            "logging/setLevel" => {
                lock(&self.levels).extend(param("/params/level").as_str().map(str::to_owned));
                Some(result(id, &json!({})))
            }
            "subscriptions/listen" => {
                let asked = param("/params/notifications");
                let uris = asked.pointer("/resourceSubscriptions").and_then(Value::as_array).cloned();
                let uris = uris.unwrap_or_default();
                lock(&self.subscribed).extend(uris.iter().filter_map(Value::as_str).map(str::to_owned));
                let id: Value = serde_json::from_str(id).unwrap_or_default();
                let acknowledged = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                    "params": {"notifications": asked, "_meta": {"io.modelcontextprotocol/subscriptionId": id}}});
                Some(self.listened(event(&acknowledged)))
            }
            _ => None,
        }
    }

    /// A stream of these events.
    pub(super) fn says(&self, events: Vec<String>, end: End) -> Response {
        let events = stream::iter(events.into_iter().map(Ok::<_, io::Error>));
        match end {
            End::Done => self.respond(events),
            End::Never => self.respond(events.chain(stream::pending())),
            End::Breaks => {
                // What is broken off at once is not sent at all.
                let breaks = stream::once(async {
                    tokio::task::yield_now().await;
                    Err(io::ErrorKind::ConnectionReset.into())
                });
                self.respond(events.chain(breaks))
            }
        }
    }

    pub(super) fn floods(&self, event: &str) -> Response {
        let chunk = event.repeat(FLOOD_BYTES / event.len().max(1) + 1);
        self.respond(stream::repeat_with(move || Ok::<_, Infallible>(chunk.clone())))
    }

    /// What is told from now on, after a first word.
    fn listened(&self, first: String) -> Response {
        let told = BroadcastStream::new(self.told.subscribe()).map(Result::unwrap_or_default);
        self.respond(stream::iter([first]).chain(told).map(Ok::<_, Infallible>))
    }

    fn respond<E>(&self, events: impl Stream<Item = Result<String, E>> + Send + 'static) -> Response
    where
        E: Into<axum::BoxError> + 'static,
    {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open));
        let events = events.map(move |event| {
            let _open = &open;
            event
        });
        ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
    }
}

/// A legacy client's GET.
pub(super) async fn listen(State(script): State<Arc<Script>>, headers: HeaderMap) -> Response {
    let session = headers.get("mcp-session-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    if *lock(&script.modern) || !script.telling.offers.load(Ordering::SeqCst) {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    if !lock(&script.sessions).contains(session) {
        return StatusCode::NOT_FOUND.into_response();
    }
    script.telling.listened(": here\n\n".to_owned())
}

/// A session that is no longer needed.
pub(super) async fn given_back(State(script): State<Arc<Script>>, headers: HeaderMap) -> StatusCode {
    let session = headers.get("mcp-session-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    if lock(&script.sessions).remove(session) { StatusCode::NO_CONTENT } else { StatusCode::METHOD_NOT_ALLOWED }
}

/// Asks on the stream of a call, and answers with what the client said: at once, or not before it is released.
pub(super) fn asks(script: &Script, id: &str, at_once: bool) -> Response {
    let own = format!("q-{id}");
    let question = json!({"jsonrpc": "2.0", "id": own, "method": "elicitation/create", "params": {"message": "who?"}});
    let (id, mut answered, mut released) = (id.to_owned(), script.answered.subscribe(), script.released.subscribe());
    let told = stream::once(async move {
        let told = answered.wait_for(|answer| answer.get("id").is_some_and(|id| *id == own)).await;
        let told = told.map(|answer| answer.get("result").cloned().unwrap_or_default()).unwrap_or_default();
        if !at_once {
            drop(released.wait_for(|released| *released).await);
        }
        Ok(format!(
            "data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{\"content\":[],\"structuredContent\":{told}}}}}\n\n"
        ))
    });
    script.telling.respond(stream::iter([Ok::<_, Infallible>(event(&question))]).chain(told))
}

/// Who repeats a call with responses gets them as its result.
pub(super) fn needs(id: &str, responses: Option<&RawValue>) -> Response {
    let inputs = json!({"who": {"method": "elicitation/create", "params": {"message": "who?"}}});
    match responses {
        Some(responses) => echo(id, responses.get()),
        None => result(id, &json!({"resultType": "input_required", "inputRequests": inputs, "requestState": "opaque"})),
    }
}
