//! An MCP server of either era that tells of changes when it is told to.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response as Answer},
    routing::get,
};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::broadcast};
use tokio_stream::wrappers::BroadcastStream;

pub(crate) const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// A server that tells of changes, in one era.
#[derive(Debug)]
pub(crate) struct Teller {
    pub(crate) url: String,
    pub(crate) state: Arc<Telling>,
    stop: Shutdown,
}

#[derive(Debug)]
pub(crate) struct Telling {
    is_modern: bool,
    /// Empty bytes end every stream.
    told: broadcast::Sender<String>,
    pub(crate) subscribed: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// Legacy sessions that have a stream; a second one is refused.
    open: Arc<Mutex<BTreeSet<String>>>,
    pub(crate) closed: Mutex<Vec<String>>,
}

/// A session's stream, until it is dropped.
struct Open(Arc<Mutex<BTreeSet<String>>>, String);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().unwrap().remove(&self.1);
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl Teller {
    pub(crate) async fn start(is_modern: bool) -> Self {
        let state = Arc::new(Telling {
            is_modern,
            told: broadcast::Sender::new(1_000),
            subscribed: Mutex::default(),
            open: Arc::default(),
            closed: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let app = Router::new().route("/mcp", get(stream).post(handle).delete(close)).with_state(Arc::clone(&state));
        let stop = Shutdown::new();
        let stopped = stop.clone();
        Supervisor::new(stop.clone()).spawn("teller", OnEnd::Finish, async move {
            stopped.or_stop(axum::serve(listener, app).into_future()).await;
        });
        Self { url, state, stop }
    }

    pub(crate) fn tell(&self, method: &str, params: &Value) {
        let message = json!({"jsonrpc": "2.0", "method": method, "params": params});
        drop(self.state.told.send(format!("data: {message}\n\n")));
    }

    pub(crate) fn updated(&self, uri: &str) {
        self.tell("notifications/resources/updated", &json!({"uri": uri}));
    }

    pub(crate) fn break_streams(&self) {
        drop(self.state.told.send(String::new()));
    }

    pub(crate) fn heard_by(&self) -> usize {
        self.state.told.receiver_count()
    }
}

fn events(state: &Telling, first: String, open: Option<Open>) -> Answer {
    let told = BroadcastStream::new(state.told.subscribe()).map(Result::unwrap_or_default);
    let told = told.take_while(move |text| {
        let _ = &open;
        std::future::ready(!text.is_empty())
    });
    let all = futures::stream::iter([first]).chain(told).map(Ok::<_, std::io::Error>);
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(all)).into_response()
}

async fn stream(State(state): State<Arc<Telling>>, headers: HeaderMap) -> Answer {
    match (state.is_modern, headers.get("mcp-session-id")) {
        (false, Some(session)) => {
            let session = session.to_str().unwrap().to_owned();
            match state.open.lock().unwrap().insert(session.clone()) {
                true => events(&state, ": hello\n\n".into(), Some(Open(Arc::clone(&state.open), session))),
                false => StatusCode::CONFLICT.into_response(),
            }
        }
        (false, None) => StatusCode::BAD_REQUEST.into_response(),
        (true, _) => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

async fn close(State(state): State<Arc<Telling>>, headers: HeaderMap) -> StatusCode {
    state.closed.lock().unwrap().push(headers["mcp-session-id"].to_str().unwrap().to_owned());
    StatusCode::NO_CONTENT
}

async fn handle(State(state): State<Arc<Telling>>, headers: HeaderMap, body: String) -> Answer {
    let message: Value = serde_json::from_str(&body).unwrap();
    let (id, params) = (message["id"].clone(), &message["params"]);
    let capabilities = json!({"tools": {"listChanged": true}, "prompts": {"listChanged": true},
        "resources": {"listChanged": true, "subscribe": true}});
    let result = |result: Value| axum::Json(json!({"jsonrpc": "2.0", "id": id, "result": result})).into_response();
    let session = headers.get("mcp-session-id").map_or("", |session| session.to_str().unwrap());
    match (message["method"].as_str().unwrap(), state.is_modern) {
        ("server/discover", true) => {
            result(json!({"resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": capabilities}))
        }
        ("subscriptions/listen", true) => {
            let acknowledged = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
                "params": {"notifications": params["notifications"], "_meta": {SUBSCRIPTION: id}}});
            let asked: BTreeSet<String> =
                serde_json::from_value(params["notifications"]["resourceSubscriptions"].clone()).unwrap_or_default();
            state.subscribed.lock().unwrap().insert(id.to_string(), asked);
            events(&state, format!("data: {acknowledged}\n\n"), None)
        }
        ("initialize", false) => {
            let info = json!({"name": "teller", "version": "1"});
            let mut opened =
                result(json!({"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info}));
            let number = state.subscribed.lock().unwrap().len();
            state.subscribed.lock().unwrap().insert(format!("s-{number}"), BTreeSet::new());
            opened.headers_mut().insert("mcp-session-id", format!("s-{number}").parse().unwrap());
            opened
        }
        ("resources/subscribe", false) => {
            let uri = params["uri"].as_str().unwrap().to_owned();
            state.subscribed.lock().unwrap().get_mut(session).unwrap().insert(uri);
            result(json!({}))
        }
        ("resources/unsubscribe", false) => {
            let uri = params["uri"].as_str().unwrap().to_owned();
            state.subscribed.lock().unwrap().get_mut(session).unwrap().remove(&uri);
            result(json!({}))
        }
        (method, _) if method.starts_with("notifications/") => StatusCode::ACCEPTED.into_response(),
        _ => {
            let error = json!({"code": -32601, "message": "Method not found"});
            (StatusCode::NOT_FOUND, axum::Json(json!({"jsonrpc": "2.0", "id": id, "error": error}))).into_response()
        }
    }
}
