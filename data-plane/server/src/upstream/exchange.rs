//! One HTTP exchange with an MCP server: a POST, and its answer as JSON or as an event stream.
//!
//! Called by `upstream::peer`. Whatever the server does ends within the given time and the byte bound: hanging,
//! endless streams, lengths that lie, answers to another id, text that is not JSON. A request is sent again only where
//! the server's manifest says so (`retry`): if nothing of it can have left, or if doing it twice is doing it once, and
//! nothing was answered. How an event stream is read, says `answer_stream`.

use std::time::Duration;

use bailiwick_data_plane_core::breaker::backoff;
use bailiwick_proto::mcp::{Era, Incoming, RequestId, Response, header_name, read_response};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::mpsc;

use super::{
    answer_stream::{AnswerStream, is_event_stream},
    attempt::is_of_proxy,
    context::Context,
    fault::UpstreamFault,
    gate::Gate,
    reply::Reply,
    route::{Asking, NoReply, Route},
};
use crate::random::random;

/// Both forms of an answer; servers refuse clients that name only one.
const ACCEPT: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
/// Room made for a body at once, whatever length the server names.
const READ_AHEAD_MAX: usize = 64 * 1024;
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    /// The id the answer must carry; `None` for a notification.
    pub(crate) id: Option<RequestId>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Asked when the body could leave.
    pub(crate) gate: Option<Gate>,
    /// For whom it is sent, where that was decided.
    pub(crate) context: Option<Context>,
    /// The rest of an answer that ends early may be asked for.
    pub(crate) resumes: bool,
    /// Doing it twice is doing it once.
    pub(crate) repeats: bool,
}

/// What came back.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// `Mcp-Session-Id`, where the server sent one that can be sent back.
    pub(crate) session: Option<HeaderValue>,
    pub(crate) response: Response,
    /// Bytes of the body.
    pub(crate) bytes: u64,
}

/// Bounds of one exchange.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) timeout: Duration,
    pub(crate) bytes_max: usize,
}

/// What a server said beside its answer.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    /// The server's.
    pub(crate) era: Era,
    /// Under which an answer to a request has to be sent.
    pub(crate) session: Option<HeaderValue>,
    /// No response.
    pub(crate) message: Incoming,
}

/// Who hears what a server says beside its answer.
#[derive(Clone, Debug)]
pub(crate) struct Ear {
    pub(crate) era: Era,
    pub(crate) session: Option<HeaderValue>,
    pub(crate) heard: mpsc::Sender<Heard>,
}

/// Sends a request and reads its answer. Where somebody listens, they end it when it takes too long.
pub(crate) async fn exchange(
    route: &Route,
    post: Post,
    bounds: Bounds,
    ear: Option<&Ear>,
) -> Result<Answer, UpstreamFault> {
    match ear {
        None => within(bounds.timeout, persist(route, post, bounds, ear)).await,
        Some(_) => persist(route, post, bounds, ear).await,
    }
}

/// Sends it, and again where it may be.
async fn persist(route: &Route, mut post: Post, bounds: Bounds, ear: Option<&Ear>) -> Result<Answer, UpstreamFault> {
    let mut times = 0;
    loop {
        let again = (times + 1 < route.retry.attempts).then(|| post.clone());
        let repeats = post.repeats;
        let (answer, has_left) = once(route, post, bounds, ear).await;
        let fault = match answer {
            Ok(answer) => return Ok(answer),
            Err(fault) => fault,
        };
        route.metrics.fault(&fault);
        post = match again {
            Some(again) if may_repeat(&fault, has_left, repeats) => again,
            Some(_) | None => return Err(fault),
        };
        let [chance] = random().unwrap_or([0]);
        tokio::time::sleep(backoff(route.retry.pause, times, chance)).await;
        route.metrics.repeated();
        times += 1;
    }
}

/// Whether what failed may be sent again.
pub(super) const fn may_repeat(fault: &UpstreamFault, has_left: bool, repeats: bool) -> bool {
    match fault {
        UpstreamFault::Unreachable(_) => !has_left || repeats,
        UpstreamFault::Status(status) => repeats && is_of_proxy(*status),
        _ => false,
    }
}

/// The answer, and whether anything of the request may have left.
async fn once(route: &Route, post: Post, bounds: Bounds, ear: Option<&Ear>) -> (Result<Answer, UpstreamFault>, bool) {
    let Some(id) = post.id else {
        return (Err(UpstreamFault::Invalid("a notification has no answer".to_owned())), false);
    };
    let mut attempt = match route.standing.attempt(bounds.timeout) {
        Ok(attempt) => attempt,
        Err(fault) => return (Err(fault), false),
    };
    let place = match route.place().await {
        Ok(place) => place,
        Err(fault) => return (Err(fault), false),
    };
    attempt.begins();
    let resumes_with = post.resumes.then(|| post.headers.clone());
    let stream = AnswerStream { route, id: &id, bytes_max: bounds.bytes_max, ear, resumes_with };
    let headers = with_types(post.headers);
    let (gate, context) = (post.gate.as_ref(), post.context.as_ref());
    let asking = Asking { gate, context, ..Asking::post(headers, post.body) };
    let (answer, has_left) = match route.send(asking, Some(place)).await {
        Ok(reply) => {
            attempt.is_heard = true;
            (read_answer(reply, &stream).await, true)
        }
        Err(NoReply { fault, has_left }) => (Err(fault), has_left),
    };
    attempt.became(&answer);
    (answer, has_left)
}

/// Sends a notification; any success is enough. It takes no place: what it is about may hold one.
pub(crate) async fn notify(route: &Route, post: Post, timeout: Duration) -> Result<(), UpstreamFault> {
    within(timeout, async {
        let context = post.context.as_ref();
        let sent = route.send(Asking { context, ..Asking::post(with_types(post.headers), post.body) }, None).await;
        let status = sent.map_err(|no_reply| no_reply.fault)?.status();
        if status.is_success() { Ok(()) } else { Err(UpstreamFault::Status(status.as_u16())) }
    })
    .await
}

fn with_types(mut headers: HeaderMap) -> HeaderMap {
    headers.insert(header::ACCEPT, ACCEPT);
    headers.insert(header::CONTENT_TYPE, JSON);
    headers
}

pub(super) async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, UpstreamFault>>,
) -> Result<T, UpstreamFault> {
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    tokio::time::timeout(timeout, Box::pin(work)).await.unwrap_or(Err(UpstreamFault::Timeout(millis)))
}

async fn read_answer(response: Reply, stream: &AnswerStream<'_>) -> Result<Answer, UpstreamFault> {
    let bytes_max = stream.bytes_max;
    let status = response.status();
    let session = response.headers().get(header_name::SESSION_ID).cloned();
    if response.length().is_some_and(|length| length > bytes_max as u64) {
        return Err(UpstreamFault::TooLarge(bytes_max));
    }
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default().trim();
    let is_json = media_type.eq_ignore_ascii_case("application/json");
    let (response, bytes) = if status.is_success() && is_event_stream(response.headers()) {
        stream.read(response).await?
    } else if is_json {
        let body = read_body(response, bytes_max).await?;
        let read = read_response(&body, stream.id);
        let answer = match read {
            Ok(answer) => answer,
            Err(_) if !status.is_success() => return Err(UpstreamFault::Status(status.as_u16())),
            Err(fault) => return Err(UpstreamFault::Invalid(fault.to_string())),
        };
        (answer, body.len())
    } else if status.is_success() {
        return Err(UpstreamFault::Invalid(format!("content type `{media_type}`")));
    } else {
        return Err(UpstreamFault::Status(status.as_u16()));
    };
    if !status.is_success() && matches!(response, Response::Result(_)) {
        return Err(UpstreamFault::Status(status.as_u16()));
    }
    Ok(Answer { status, session, response, bytes: bytes as u64 })
}

async fn read_body(mut response: Reply, bytes_max: usize) -> Result<Vec<u8>, UpstreamFault> {
    // Said and within the bound: `read_answer` has looked.
    let said = response.length().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    let mut body = Vec::with_capacity(said.min(READ_AHEAD_MAX));
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > bytes_max {
            return Err(UpstreamFault::TooLarge(bytes_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
