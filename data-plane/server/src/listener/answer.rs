//! What is answered: a status, headers, and a body that is whole or comes in events.
//!
//! Made by `endpoint`, `requests` and `listening`; how it gets to the client is `delivery`.

use bytes::Bytes;
use futures::Stream;
use http::{HeaderName, HeaderValue, StatusCode, header};

pub(crate) use super::delivery::AnswerBody;

/// An answer to a client.
pub(crate) type Response = http::Response<AnswerBody>;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Asks proxies to pass events on as they come.
const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Nothing but a status.
pub(crate) fn empty(status: StatusCode) -> Response {
    with_body(status, AnswerBody::whole(Bytes::new()))
}

/// A sentence for people.
pub(crate) fn text(status: StatusCode, sentence: &'static str) -> Response {
    let mut response = with_body(status, AnswerBody::whole(Bytes::from_static(sentence.as_bytes())));
    response.headers_mut().insert(header::CONTENT_TYPE, TEXT);
    response
}

/// A JSON document that nobody on the way may keep.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response {
    let mut response = with_body(status, AnswerBody::whole(body.into()));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    response
}

/// Server-sent events, as they come.
pub(crate) fn events(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    of_events(AnswerBody::events(events))
}

/// The same, for hours maybe.
pub(crate) fn lasting(events: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    of_events(AnswerBody::lasting(events))
}

fn of_events(body: AnswerBody) -> Response {
    let mut response = with_body(StatusCode::OK, body);
    response.headers_mut().insert(header::CONTENT_TYPE, EVENTS);
    response.headers_mut().insert(header::CACHE_CONTROL, NO_STORE);
    let (name, value) = UNBUFFERED;
    response.headers_mut().insert(name, value);
    response
}

fn with_body(status: StatusCode, body: AnswerBody) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}
