//! One HTTP exchange with an MCP server: a POST, and its answer as JSON or as an event stream.
//!
//! Called by `upstream::peer`. Whatever the server does ends within the given time and the byte bound: hanging,
//! endless streams, lengths that lie, answers to another id, text that is not JSON. Redirects are not followed and no
//! proxy is taken from the environment. No request is sent twice; how an event stream is read, says `answer_stream`.

use std::time::Duration;

use bailiwick_proto::mcp::{Era, Incoming, RequestId, Response, header_name, read_response};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Full;
use tokio::sync::mpsc;

use super::{
    answer_stream::{AnswerStream, is_event_stream},
    fault::UpstreamFault,
    gate::{Gate, Gated},
};

/// Both forms of an answer; servers refuse clients that name only one.
const ACCEPT: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// How much of an error's text is kept for a log line. Nothing of a body is: results are not for logs.
const DETAIL_CHARS_MAX: usize = 200;

/// What to send.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    /// The id the answer must carry; `None` for a notification.
    pub(crate) id: Option<RequestId>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) body: Bytes,
    /// Asked when the body could leave.
    pub(crate) gate: Option<Gate>,
    /// The rest of an answer that ends early may be asked for.
    pub(crate) resumes: bool,
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
    http: &reqwest::Client,
    url: &str,
    post: Post,
    bounds: Bounds,
    ear: Option<&Ear>,
) -> Result<Answer, UpstreamFault> {
    let Some(id) = post.id.clone() else {
        return Err(UpstreamFault::Invalid("a notification has no answer".to_owned()));
    };
    let resumes_with = post.resumes.then(|| post.headers.iter().cloned().collect());
    let stream = AnswerStream { http, url, id: &id, bytes_max: bounds.bytes_max, ear, resumes_with };
    let exchanged = async {
        let response = send(http, url, post).await?;
        read_answer(response, &stream).await
    };
    match ear {
        None => within(bounds.timeout, exchanged).await,
        Some(_) => Box::pin(exchanged).await,
    }
}

/// Sends a notification; any success is enough.
pub(crate) async fn notify(
    http: &reqwest::Client,
    url: &str,
    post: Post,
    timeout: Duration,
) -> Result<(), UpstreamFault> {
    within(timeout, async {
        let status = send(http, url, post).await?.status();
        if status.is_success() { Ok(()) } else { Err(UpstreamFault::Status(status.as_u16())) }
    })
    .await
}

pub(super) async fn within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, UpstreamFault>>,
) -> Result<T, UpstreamFault> {
    let millis = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    // On the heap: the HTTP client's futures are large and nest twice.
    tokio::time::timeout(timeout, Box::pin(work)).await.unwrap_or(Err(UpstreamFault::Timeout(millis)))
}

async fn send(http: &reqwest::Client, url: &str, post: Post) -> Result<reqwest::Response, UpstreamFault> {
    let mut headers: HeaderMap = post.headers.into_iter().collect();
    headers.insert(header::ACCEPT, ACCEPT);
    headers.insert(header::CONTENT_TYPE, JSON);
    let body = match &post.gate {
        Some(gate) => reqwest::Body::wrap(Gated { gate: gate.clone(), body: Full::new(post.body) }),
        None => post.body.into(),
    };
    let sent = http.post(url).headers(headers).body(body).send().await;
    match post.gate.and_then(|gate| gate.refused()) {
        Some(reason) => Err(UpstreamFault::Withheld(reason)),
        None => sent.map_err(|error| UpstreamFault::Unreachable(chain(&error))),
    }
}

async fn read_answer(response: reqwest::Response, stream: &AnswerStream<'_>) -> Result<Answer, UpstreamFault> {
    let bytes_max = stream.bytes_max;
    let status = response.status();
    let session = response.headers().get(header_name::SESSION_ID).cloned();
    if response.content_length().is_some_and(|length| length > bytes_max as u64) {
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

async fn read_body(mut response: reqwest::Response, bytes_max: usize) -> Result<Vec<u8>, UpstreamFault> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
        if body.len() + chunk.len() > bytes_max {
            return Err(UpstreamFault::TooLarge(bytes_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

pub(super) fn broken(error: &reqwest::Error) -> UpstreamFault {
    UpstreamFault::Invalid(chain(error))
}

/// The error with its causes; reqwest's own text alone says too little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.chars().take(DETAIL_CHARS_MAX).collect()
}
