//! An answer that comes as an event stream, in one piece or in several.
//!
//! Called by `upstream::exchange`. A legacy server may end the stream of an answer before it has answered, or lose it,
//! and has said with an event's id from where it goes on, and after which time. Then the rest is asked for with GET; the
//! request itself is never sent again, so nothing runs twice. All pieces together have the bound of one answer, and its
//! time. What a stream holds beside the answer goes to whoever listens (`Heard`), in its order, and waits until it is
//! taken; where nobody listens it is read over. Deliberately absent: how long an answer is waited for (`exchange`,
//! `calls`). Specification: MCP 2025-11-25 transports, "Resumability and Redelivery"; WHATWG HTML §9.2.

use std::time::Duration;

use bailiwick_proto::mcp::{Incoming, RequestId, Response, read_incoming};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::{
    exchange::{Ear, Heard},
    fault::UpstreamFault,
    reply::Reply,
    route::Route,
    sse::{Mark, SseReader},
};

/// Most pieces of one answer: a server that has itself asked every second, for some minutes.
const PIECES_MAX: usize = 256;
/// Attempts in a row to get the next piece from a server that cannot be reached or is in trouble.
const ATTEMPTS_MAX: usize = 4;
/// Wait before the next piece is asked for where the server names no time.
const RETRY: Duration = Duration::from_secs(1);
/// Shortest wait, whatever the server says.
const RETRY_MIN: Duration = Duration::from_millis(100);

pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(super) const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");

/// What is read, for whom, within which bound.
#[derive(Debug)]
pub(super) struct AnswerStream<'a> {
    pub(super) route: &'a Route,
    /// The answer carries it.
    pub(super) id: &'a RequestId,
    pub(super) bytes_max: usize,
    pub(super) ear: Option<&'a Ear>,
    /// What asking for the rest carries. `None`: the rest is not asked for.
    pub(super) resumes_with: Option<HeaderMap>,
}

/// How a piece ended.
enum Ended {
    Answered(Response),
    /// The fault, if there is no more.
    Early(UpstreamFault),
}

impl AnswerStream<'_> {
    /// The answer, and how many bytes were read.
    pub(super) async fn read(&self, first: Reply) -> Result<(Response, usize), UpstreamFault> {
        let (mut piece, mut mark, mut read) = (first, Mark::default(), 0);
        for _ in 0..PIECES_MAX {
            match self.read_piece(piece, &mut mark, &mut read).await? {
                Ended::Answered(answer) => return Ok((answer, read)),
                Ended::Early(fault) => piece = self.next_piece(&mark).await.ok_or(fault)?,
            }
        }
        Err(UpstreamFault::Invalid("the answer comes in too many pieces".to_owned()))
    }

    async fn read_piece(&self, mut piece: Reply, mark: &mut Mark, read: &mut usize) -> Result<Ended, UpstreamFault> {
        let mut reader = SseReader::default();
        loop {
            let chunk = match piece.chunk().await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => {
                    return Ok(Ended::Early(UpstreamFault::Invalid("the stream ended without an answer".to_owned())));
                }
                Err(fault) => return Ok(Ended::Early(fault)),
            };
            *read += chunk.len();
            if *read > self.bytes_max {
                return Err(UpstreamFault::TooLarge(self.bytes_max));
            }
            let events = reader.feed(&chunk);
            reader.note(mark);
            for data in events.into_iter().filter(|data| !data.is_empty()) {
                match read_incoming(&data, self.id) {
                    Ok(Incoming::Response(answer)) => return Ok(Ended::Answered(answer)),
                    Ok(message) => {
                        let Some(Ear { era, session, heard }) = self.ear else { continue };
                        // Nobody listens any more: then nobody waits for the answer either.
                        drop(heard.send(Heard { era: *era, session: session.clone(), message }).await);
                    }
                    Err(fault) => return Err(UpstreamFault::Invalid(fault.to_string())),
                }
            }
        }
    }

    /// Asks for what comes after the last event that was read. A server waits as long as it says; whoever waits for the
    /// answer ends that.
    async fn next_piece(&self, mark: &Mark) -> Option<Reply> {
        let (headers, last) = (self.resumes_with.as_ref()?, mark.last_id.as_ref()?);
        for _ in 0..ATTEMPTS_MAX {
            tokio::time::sleep(mark.retry.unwrap_or(RETRY).max(RETRY_MIN)).await;
            let mut headers = headers.clone();
            headers.insert(header::ACCEPT, EVENT_STREAM);
            headers.insert(LAST_EVENT_ID, last.clone());
            let Ok(piece) = Box::pin(self.route.fetch(Method::GET, headers)).await else { continue };
            let status = piece.status();
            if status.is_success() && is_event_stream(piece.headers()) {
                return Some(piece);
            }
            tracing::debug!(url = self.route.url, %status, "a server does not go on with an answer");
            if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
                return None;
            }
        }
        None
    }
}

/// Whether a body is one, by its headers.
pub(super) fn is_event_stream(headers: &HeaderMap) -> bool {
    let said = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    said.split(';').next().is_some_and(|media_type| media_type.trim().eq_ignore_ascii_case("text/event-stream"))
}
