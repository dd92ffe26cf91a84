//! What a legacy server streams: a session's own events, answers in pieces, questions before an answer.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use super::{Inner, Seen};

/// An answer in so many pieces and one more; each but the last says where it ends.
pub(super) fn in_pieces(server: &Inner, message: &Value, count: usize) -> Response {
    let whole = json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": []}});
    let line = json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}});
    let mut pieces = vec![format!("data: {whole}\n\n")];
    pieces.extend((1..=count).rev().map(|n| format!("id: e-{n}\nretry: 120\ndata:\n\ndata: {line}\n\n")));
    let first = pieces.pop().unwrap();
    *server.pieces.lock().unwrap() = pieces;
    ([(header::CONTENT_TYPE, "text/event-stream")], first).into_response()
}

/// A session's own stream, or the rest of an answer.
pub(super) async fn stream(State(server): State<Arc<Inner>>, headers: HeaderMap) -> Response {
    let seen =
        Seen { method: "GET".into(), headers: headers.clone(), body: Value::Null, version: http::Version::HTTP_11 };
    server.seen.lock().unwrap().push(seen);
    let events = [(header::CONTENT_TYPE, "text/event-stream")];
    let trouble = *server.trouble.lock().unwrap();
    if let Some(status) = trouble {
        return StatusCode::from_u16(status).unwrap().into_response();
    }
    if headers.get("last-event-id").is_some_and(|id| id.to_str().unwrap().starts_with("e-")) {
        let piece = server.pieces.lock().unwrap().pop().unwrap();
        return (events, piece).into_response();
    }
    let Some(told) = server.streams.lock().unwrap().as_ref().map(broadcast::Sender::subscribe) else {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    };
    let told = BroadcastStream::new(told).map(Result::unwrap_or_default);
    let told = told.take_while(|text| std::future::ready(!text.is_empty()));
    let all = stream::iter([": hello\n\n".to_owned()]).chain(told).map(Ok::<_, std::io::Error>);
    (events, Body::from_stream(all)).into_response()
}

pub(super) async fn close(State(server): State<Arc<Inner>>, headers: HeaderMap) -> StatusCode {
    let id = headers["mcp-session-id"].to_str().unwrap().to_owned();
    server.holds.subscribe().wait_for(|holds| !holds).await.unwrap();
    server.sessions.lock().unwrap().remove(&id);
    server.seen.lock().unwrap().push(Seen {
        method: "DELETE".into(),
        headers,
        body: Value::Null,
        version: http::Version::HTTP_11,
    });
    StatusCode::NO_CONTENT
}

/// As legacy servers ask: on the stream that the answer is owed on, or on the session's own.
pub(super) fn ask(server: &Arc<Inner>, message: &Value, is_beside: bool) -> Response {
    let (id, mut answers) = (message["id"].clone(), server.answer.subscribe());
    let event = |message: &Value| Ok::<_, std::io::Error>(format!("data: {message}\n\n"));
    let asks = json!({"jsonrpc": "2.0", "id": "q-1", "method": "elicitation/create", "params": {"message": "who?"}});
    let answered = stream::once(async move {
        let told = answers.wait_for(|answer| answer.as_ref().is_some_and(|answer| answer["id"] == "q-1")).await;
        let told = told.unwrap().clone().unwrap()["result"].clone();
        event(&json!({"jsonrpc": "2.0", "id": id, "result": {"content": [], "structuredContent": told}}))
    });
    let first = if is_beside {
        let told = server.streams.lock().unwrap().clone().unwrap();
        drop(told.send(event(&asks).unwrap()));
        Ok(": asked\n\n".to_owned())
    } else {
        event(&asks)
    };
    let events = Body::from_stream(stream::iter([first]).chain(answered));
    ([(header::CONTENT_TYPE, "text/event-stream")], events).into_response()
}
