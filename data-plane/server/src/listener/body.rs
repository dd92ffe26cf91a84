//! A request's body: read within bounds of size, time and of the room all bodies share.
//!
//! Called by `endpoint` and `decisions` before anything is decided about a request, and to tell whether a body that
//! could not be understood was meant as a call: refused calls are recorded, stray bytes are only counted.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bailiwick_data_plane_core::edge;
use bailiwick_proto::{Reason, mcp::header_name};
use bytes::{Bytes, BytesMut};
use futures::future::Either;
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{
    quic,
    room::{CallerKey, Room, Taken},
};
use crate::config::REQUEST_BYTES_MAX;

/// Longest wait for a request's body.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);
/// Most that is taken in of a body that nobody reads, and the longest wait for it.
const UNREAD_BYTES_MAX: usize = 64 * 1024;
const UNREAD_WAIT_MAX: Duration = Duration::from_secs(1);
/// Bytes of bodies held at once. Each may be as large as a request may, and thousands of those would not fit a node.
pub(crate) const BODY_ROOM_BYTES: usize = 512 * 1024 * 1024;

/// What a client sends after the head of its request.
pub(super) enum RequestBody {
    /// On a connection that is looked at now and then while nothing comes, so that waiting needs no clock of its own.
    Alone(Incoming),
    /// On a connection that others share.
    Shared(Incoming),
    /// The same, over QUIC.
    Quic(Box<quic::Asking>),
    #[cfg(test)]
    Whole(http_body_util::Full<Bytes>),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Alone(body) | Self::Shared(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
            }
            Self::Quic(asking) => asking.poll_part(context),
            #[cfg(test)]
            Self::Whole(body) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Alone(body) | Self::Shared(body) => body.is_end_stream(),
            // Only reading tells.
            Self::Quic(_) => false,
            #[cfg(test)]
            Self::Whole(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Alone(body) | Self::Shared(body) => body.size_hint(),
            Self::Quic(_) => SizeHint::default(),
            #[cfg(test)]
            Self::Whole(body) => body.size_hint(),
        }
    }
}

/// Reads a body, as far as `room` goes; what was taken of it is given back with the second part. What comes in one
/// piece is not copied.
pub(super) async fn read(
    headers: &HeaderMap,
    body: RequestBody,
    room: &Arc<Room>,
    whose: (CallerKey, Instant),
) -> Result<(Bytes, Taken), Reason> {
    read_up_to(REQUEST_BYTES_MAX, headers, body, room, whose).await
}

/// The same, of at most so many bytes.
pub(super) async fn read_up_to(
    bytes_max: usize,
    headers: &HeaderMap,
    mut body: RequestBody,
    room: &Arc<Room>,
    (caller, arrived): (CallerKey, Instant),
) -> Result<(Bytes, Taken), Reason> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > bytes_max) {
        return Err(Reason::RequestTooLarge);
    }
    let (mut taken, until) = (room.enter(caller), arrived + BODY_WAIT_MAX);
    let (mut whole, mut pieces) = (Bytes::new(), BytesMut::new());
    while !body.is_end_stream() {
        let Some(frame) = next(&mut body, until).await? else { break };
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + pieces.len() + data.len() > bytes_max {
            return Err(Reason::RequestTooLarge);
        }
        taken.grow(data.len()).map_err(|_no_room| Reason::NodeOverloaded)?;
        if whole.is_empty() && pieces.is_empty() {
            whole = data;
            continue;
        }
        if pieces.is_empty() {
            pieces = BytesMut::from(std::mem::take(&mut whole));
        }
        pieces.extend_from_slice(&data);
    }
    let body = if pieces.is_empty() { whole } else { pieces.freeze() };
    // Other libraries see to that themselves (RFC 9114 §4.1.2).
    let told_twice = headers.get_all(header::CONTENT_LENGTH).iter().nth(1).is_some();
    if told_twice || length.is_some_and(|length| length != body.len()) {
        return Err(Reason::RequestMalformed);
    }
    Ok((body, taken))
}

/// Takes in a body that nobody reads; whether it ended, so that its connection can be used again. A client may send it
/// after the head, and its next request at once after the answer (RFC 9112 §9.3).
pub(super) async fn pass_over(mut body: RequestBody) -> bool {
    let ended = async {
        let mut passed = 0;
        while !body.is_end_stream() {
            match body.frame().await {
                Some(Ok(frame)) => passed += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return false,
                None => break,
            }
            if passed > UNREAD_BYTES_MAX {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(UNREAD_WAIT_MAX, ended).await.unwrap_or(false)
}

/// The next part of a body, unless it takes too long.
async fn next(body: &mut RequestBody, until: Instant) -> Result<Option<Frame<Bytes>>, Reason> {
    let is_alone = matches!(body, RequestBody::Alone(_));
    let mut frame = body.frame();
    let waiting = std::future::poll_fn(|context| match Pin::new(&mut frame).poll(context) {
        Poll::Pending if is_alone && Instant::now() >= until => Poll::Ready(None),
        other => other.map(Some),
    });
    let came = match is_alone {
        true => Either::Left(waiting),
        false => Either::Right(async { tokio::time::timeout_at(until.into(), waiting).await.unwrap_or_default() }),
    };
    match came.await {
        None | Some(Some(Err(_))) => Err(Reason::RequestMalformed),
        Some(Some(Ok(frame))) => Ok(Some(frame)),
        Some(None) => Ok(None),
    }
}

/// Whether a body that could not be read was meant as a call: headers or text say so, or may, where it is escaped.
pub(super) fn names_a_call(headers: &HeaderMap, body: &[u8]) -> bool {
    let is_escaped = body.windows(2).any(|pair| pair == b"\\u");
    is_escaped
        || edge::governed_methods().map(str::as_bytes).any(|wanted| {
            headers.get(header_name::METHOD).is_some_and(|value| value.as_bytes() == wanted)
                || body.windows(wanted.len()).any(|window| window == wanted)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bodies_share_one_bounded_room() {
        let (room, headers) = (Room::new(10), HeaderMap::new());
        let read = async |body: &'static str| {
            super::read(&headers, RequestBody::Whole(body.into()), &room, (1, Instant::now())).await
        };
        let (first, taken) = read("12345678").await.unwrap();
        assert_eq!(first.as_ref(), b"12345678");
        assert_eq!(read("123").await.unwrap_err(), Reason::NodeOverloaded);
        assert!(read("12").await.is_ok(), "a refused body holds nothing");
        drop(taken);
        assert!(read("123").await.is_ok());
        assert!(read("").await.unwrap().0.is_empty());
    }
}
