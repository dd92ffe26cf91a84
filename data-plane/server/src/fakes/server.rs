//! An MCP server of either era, well-behaved until told otherwise.

pub(crate) mod secure;
mod streams;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{broadcast, watch},
};

/// How the server answers `tools/call`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Good,
    /// As an event stream, after notifications and a request of its own.
    Stream,
    Slow(Duration),
    Hang,
    /// Headers and half an answer, then silence.
    HangInBody,
    Malformed,
    RepeatedKey,
    WrongId,
    WrongType,
    Endless,
    EndlessStream,
    StreamWithoutAnswer,
    Huge,
    Redirect,
    Status(u16),
    ToolError,
    /// Wants to know something first: `elicitation/create`, in the words of its era; then says what it was told.
    Asks,
    /// The same, asked on the session's own stream.
    AsksBeside,
    /// As an event stream that ends before the answer, so many times; the rest is there for who asks for it.
    InPieces(usize),
    /// As an event stream that ends before the answer and cannot be gone on with.
    Ends(&'static str),
}

/// Which handshakes the server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    Modern,
    Legacy,
    /// Legacy, but with an answer to `server/discover` that lists old versions only.
    LegacyThatDiscovers,
    /// Legacy, answering unknown sessions with 400 instead of 404.
    LegacyWith400,
}

#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) version: http::Version,
}

#[derive(Debug)]
pub(crate) struct FakeServer {
    pub(crate) url: String,
    state: Arc<Inner>,
    stop: Shutdown,
}

#[derive(Debug)]
struct Inner {
    speaks: Speaks,
    mode: Mutex<Mode>,
    trouble: Mutex<Option<u16>>,
    seen: Mutex<Vec<Seen>>,
    sessions: Mutex<BTreeSet<String>>,
    /// Of sessions; nobody is given one while this is `None`. Empty text ends all.
    streams: Mutex<Option<broadcast::Sender<String>>>,
    /// What is still to come of an answer, in pieces.
    pieces: Mutex<Vec<String>>,
    extra_tool: Mutex<Option<Value>>,
    /// While true, handshakes get no answer.
    holds: watch::Sender<bool>,
    /// The last answer to what the server asked.
    answer: watch::Sender<Option<Value>>,
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl FakeServer {
    pub(crate) async fn start(speaks: Speaks) -> Self {
        Self::begin(speaks, None).await
    }

    /// The same behind TLS.
    pub(crate) async fn start_secure(speaks: Speaks, config: Arc<rustls::ServerConfig>) -> Self {
        Self::begin(speaks, Some(config)).await
    }

    async fn begin(speaks: Speaks, secure: Option<Arc<rustls::ServerConfig>>) -> Self {
        let state = Arc::new(Inner {
            speaks,
            mode: Mutex::new(Mode::Good),
            trouble: Mutex::default(),
            seen: Mutex::default(),
            sessions: Mutex::default(),
            streams: Mutex::default(),
            pieces: Mutex::default(),
            extra_tool: Mutex::default(),
            holds: watch::Sender::new(false),
            answer: watch::Sender::new(None),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if secure.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}/mcp", listener.local_addr().unwrap());
        let app = Router::new()
            .route("/mcp", get(streams::stream).post(handle).delete(streams::close))
            .with_state(Arc::clone(&state));
        let stop = Shutdown::new();
        let stopped = stop.clone();
        Supervisor::new(stop.clone()).spawn("fake-server", OnEnd::Finish, async move {
            match secure {
                None => drop(stopped.or_stop(axum::serve(listener, app).into_future()).await),
                Some(config) => drop(stopped.or_stop(secure::serve(listener, config, app, stopped.clone())).await),
            }
        });
        Self { url, state, stop }
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.state.mode.lock().unwrap() = mode;
    }

    /// Every request gets this status.
    pub(crate) fn set_trouble(&self, status: Option<u16>) {
        *self.state.trouble.lock().unwrap() = status;
    }

    /// Answers no handshake until this is called with false.
    pub(crate) fn hold_handshakes(&self, holds: bool) {
        self.state.holds.send_replace(holds);
    }

    pub(crate) fn forget_sessions(&self) {
        self.state.sessions.lock().unwrap().clear();
    }

    /// From now on sessions have streams.
    pub(crate) fn give_streams(&self) {
        *self.state.streams.lock().unwrap() = Some(broadcast::Sender::new(100));
    }

    /// Says this on the streams of all sessions; ends them if it is empty.
    pub(crate) fn say(&self, text: &str) {
        drop(self.state.streams.lock().unwrap().as_ref().unwrap().send(text.to_owned()));
    }

    /// How many streams of sessions are open.
    pub(crate) fn streams(&self) -> usize {
        self.state.streams.lock().unwrap().as_ref().map_or(0, broadcast::Sender::receiver_count)
    }

    /// The last answer to what the server asked.
    pub(crate) fn told(&self) -> Option<Value> {
        self.state.answer.borrow().clone()
    }

    pub(crate) fn show_also(&self, tool: Value) {
        *self.state.extra_tool.lock().unwrap() = Some(tool);
    }

    pub(crate) fn seen(&self, method: &str) -> Vec<Seen> {
        self.state.seen.lock().unwrap().iter().filter(|seen| seen.method == method).cloned().collect()
    }
}

pub(crate) fn definitions() -> Vec<Value> {
    let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
    vec![tool("query_data"), tool("create_charge"), tool("drop_ledger")]
}

/// The result of a call with these arguments; numbers are written in ways that a careless reader would change.
pub(crate) fn result_text(arguments: &str) -> String {
    format!(
        r#"{{"content":[{{"type":"text","text":"ok"}}],"structuredContent":{{"n":1.0,"big":123456789012345678901234567890,"sent":{arguments}}}}}"#
    )
}

async fn handle(State(server): State<Arc<Inner>>, version: http::Version, headers: HeaderMap, body: Bytes) -> Response {
    let message: Value = serde_json::from_slice(&body).unwrap();
    let Some(method) = message["method"].as_str().map(str::to_owned) else {
        server.answer.send_replace(Some(message));
        return StatusCode::ACCEPTED.into_response();
    };
    server.seen.lock().unwrap().push(Seen {
        method: method.clone(),
        headers: headers.clone(),
        body: message.clone(),
        version,
    });
    let trouble = *server.trouble.lock().unwrap();
    if let Some(status) = trouble {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    if method == "server/discover" {
        server.holds.subscribe().wait_for(|holds| !holds).await.unwrap();
    }
    let session = headers.get("mcp-session-id").map(|id| id.to_str().unwrap().to_owned());
    let modern = server.speaks == Speaks::Modern;
    match method.as_str() {
        "server/discover" => match server.speaks {
            Speaks::Modern => result(
                &message,
                json!({
                    "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}},
                    "ttlMs": 0, "cacheScope": "private",
                }),
            ),
            Speaks::LegacyThatDiscovers => result(&message, json!({"supportedVersions": ["2025-11-25"]})),
            Speaks::Legacy | Speaks::LegacyWith400 => {
                error(StatusCode::BAD_REQUEST, &message, -32000, "Bad Request: Server not initialized")
            }
        },
        "initialize" if !modern => {
            let id = format!("s-{}", server.seen.lock().unwrap().len());
            server.sessions.lock().unwrap().insert(id.clone());
            let mut response = result(
                &message,
                json!({
                    "protocolVersion": "2025-11-25", "capabilities": {"tools": {}, "logging": {}},
                    "serverInfo": {"name": "fake", "version": "1"},
                }),
            );
            response.headers_mut().insert("mcp-session-id", id.parse().unwrap());
            response
        }
        _ if !modern && !session.is_some_and(|id| server.sessions.lock().unwrap().contains(&id)) => {
            match server.speaks {
                Speaks::LegacyWith400 => {
                    error(StatusCode::BAD_REQUEST, &message, -32000, "Bad Request: No valid session ID provided")
                }
                _ => error(StatusCode::NOT_FOUND, &message, -32001, "Session not found"),
            }
        }
        "tools/list" => list(&server, &message),
        "tools/call" => {
            let mode = *server.mode.lock().unwrap();
            match mode {
                Mode::Asks if modern => return ask_for_input(&message),
                Mode::Asks | Mode::AsksBeside => return streams::ask(&server, &message, mode == Mode::AsksBeside),
                Mode::InPieces(count) => return streams::in_pieces(&server, &message, count),
                _ => {}
            }
            call(mode, &message, &body).await
        }
        "logging/setLevel" => result(&message, json!({})),
        _ if message.get("id").is_none() => StatusCode::ACCEPTED.into_response(),
        _ => error(StatusCode::NOT_FOUND, &message, -32601, "Method not found"),
    }
}

/// Two pages.
fn list(server: &Inner, message: &Value) -> Response {
    let mut tools = definitions();
    tools.extend(server.extra_tool.lock().unwrap().clone());
    let rest = tools.split_off(1);
    match message["params"]["cursor"].as_str() {
        None => result(message, json!({"resultType": "complete", "tools": tools, "nextCursor": "p2"})),
        Some(_) => result(message, json!({"resultType": "complete", "tools": rest})),
    }
}

async fn call(mode: Mode, message: &Value, body: &[u8]) -> Response {
    #[derive(serde::Deserialize)]
    struct Raw<'a> {
        #[serde(borrow)]
        params: Params<'a>,
    }
    #[derive(serde::Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        arguments: Option<&'a serde_json::value::RawValue>,
    }
    let raw: Raw<'_> = serde_json::from_slice(body).unwrap();
    let good = result_text(raw.params.arguments.map_or("{}", |arguments| arguments.get()));
    let id = &message["id"];
    let whole = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{good}}}"#);
    let as_json = |text: String| ([(header::CONTENT_TYPE, "application/json")], text).into_response();
    let as_stream = |body: Body| ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response();
    let notification = r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}"#;
    match mode {
        Mode::Good => as_json(whole),
        Mode::Stream => {
            let asks = r#"{"jsonrpc":"2.0","id":"srv-1","method":"roots/list"}"#;
            let text = format!(": hi\n\nevent: message\ndata: {notification}\n\ndata: {asks}\n\ndata: {whole}\n\n");
            as_stream(Body::from(text))
        }
        Mode::Slow(pause) => {
            tokio::time::sleep(pause).await;
            as_json(whole)
        }
        Mode::Hang => std::future::pending().await,
        Mode::HangInBody => {
            let start = stream::iter([Ok::<_, std::io::Error>(whole.chars().take(20).collect::<String>())]);
            let mut response = Body::from_stream(start.chain(stream::pending())).into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
            response
        }
        Mode::Malformed => as_json(format!("{whole},")),
        Mode::RepeatedKey => as_json(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a":1,"a":2}}}}"#)),
        Mode::WrongId => as_json(format!(r#"{{"jsonrpc":"2.0","id":"other","result":{good}}}"#)),
        Mode::WrongType => whole.into_response(),
        Mode::Endless => {
            let endless = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(&[b' '; 65536])));
            let mut response = Body::from_stream(endless).into_response();
            response.headers_mut().insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
            response
        }
        Mode::EndlessStream => {
            let event = format!("data: {notification}\n\n").repeat(1000);
            as_stream(Body::from_stream(stream::repeat_with(move || Ok::<_, std::io::Error>(event.clone()))))
        }
        Mode::StreamWithoutAnswer => as_stream(Body::from(format!("data: {notification}\n\n"))),
        Mode::Huge => as_json(format!(r#"{{"pad":"{}"}}"#, "x".repeat(9 * 1024 * 1024))),
        Mode::Redirect => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, "/mcp")]).into_response(),
        Mode::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Mode::Ends(text) => as_stream(Body::from(text)),
        Mode::Asks | Mode::AsksBeside | Mode::InPieces(_) => unreachable!("answered before"),
        Mode::ToolError => {
            as_json(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[],"isError":true}}}}"#))
        }
    }
}

/// As modern servers ask: with a result, and a state that they want back.
fn ask_for_input(message: &Value) -> Response {
    let params = &message["params"];
    if params["requestState"] == "st-1" && params["inputResponses"].is_object() {
        let told = &params["inputResponses"]["name"];
        return result(message, json!({"resultType": "complete", "content": [], "structuredContent": told}));
    }
    let asks = json!({"name": {"method": "elicitation/create", "params": {"message": "who?"}}});
    result(message, json!({"resultType": "input_required", "inputRequests": asks, "requestState": "st-1"}))
}

fn result(message: &Value, result: Value) -> Response {
    axum::Json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result})).into_response()
}

fn error(status: StatusCode, message: &Value, code: i64, text: &str) -> Response {
    let body = json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": text}});
    (status, axum::Json(body)).into_response()
}

/// A listener that answers every connection with the same bytes and closes it; counts the requests.
pub(crate) async fn raw_server(answer: &'static [u8]) -> (SocketAddr, Arc<std::sync::atomic::AtomicUsize>, Shutdown) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let (stop, counted) = (Shutdown::new(), Arc::clone(&count));
    let stopped = stop.clone();
    Supervisor::new(stop.clone()).spawn("raw-server", OnEnd::Finish, async move {
        let serve = Box::pin(async {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = vec![0; 8192];
                let read = stream.read(&mut request).await.unwrap_or(0);
                if read > 0 {
                    counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                drop(stream.write_all(answer).await);
            }
        });
        stopped.or_stop(serve).await;
    });
    (address, count, stop)
}
