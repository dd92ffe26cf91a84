//! A request's body: read within bounds of size, time and of the room all bodies share.
//!
//! Called by `endpoint` before anything is decided about a request, and to tell whether a body that could not be
//! understood was meant as a call: refused calls are recorded, stray bytes are only counted.

use std::{sync::Arc, time::Duration};

use axum::{
    BoxError,
    body::Body,
    http::{HeaderMap, header},
};
use bailiwick_data_plane_core::edge;
use bailiwick_proto::{Reason, mcp::header_name};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::REQUEST_BYTES_MAX;

/// Longest wait for a request's body.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);
/// Bytes of bodies held at once. Each may be as large as a request may, and thousands of those would not fit a node.
pub(crate) const BODY_ROOM_BYTES: usize = 512 * 1024 * 1024;

/// Reads a body, as far as `room` (one permit a byte) goes; what was taken of it is given back with the permit.
pub(super) async fn read(
    headers: &HeaderMap,
    body: Body,
    room: &Arc<Semaphore>,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Reason> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > REQUEST_BYTES_MAX) {
        return Err(Reason::RequestTooLarge);
    }
    let mut body = Limited::new(body, REQUEST_BYTES_MAX);
    let read = async {
        let mut bytes = BytesMut::new();
        let mut taken: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let fault = |error: BoxError| match error.is::<LengthLimitError>() {
                true => Reason::RequestTooLarge,
                false => Reason::RequestMalformed,
            };
            let Ok(data) = frame.map_err(fault)?.into_data() else { continue };
            let size = u32::try_from(data.len()).map_err(|_too_large| Reason::RequestTooLarge)?;
            let permit = Arc::clone(room).try_acquire_many_owned(size).map_err(|_none| Reason::NodeOverloaded)?;
            match &mut taken {
                Some(taken) => taken.merge(permit),
                None => taken = Some(permit),
            }
            bytes.extend_from_slice(&data);
        }
        Ok((bytes.freeze(), taken))
    };
    tokio::time::timeout(BODY_WAIT_MAX, read).await.unwrap_or(Err(Reason::RequestMalformed))
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
        let (room, headers) = (Arc::new(Semaphore::new(10)), HeaderMap::new());
        let read = async |body: &'static str| super::read(&headers, Body::from(body), &room).await;
        let (first, taken) = read("12345678").await.unwrap();
        assert_eq!((first.as_ref(), room.available_permits()), (b"12345678".as_slice(), 2));
        assert_eq!(read("123").await.unwrap_err(), Reason::NodeOverloaded);
        assert_eq!(room.available_permits(), 2, "a refused body holds nothing");
        drop(taken);
        assert!(read("123").await.is_ok());
        assert!(read("").await.unwrap().1.is_none());
    }
}
