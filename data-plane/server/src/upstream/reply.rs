//! A server's reply while it is read: its head at once, its body piece by piece.
//!
//! Made by `route`, read by `exchange`, `answer_stream` and streams. Dropped, its connection goes back to the pool,
//! which uses it again only if all of the reply was read; its place among the requests under way is free from then on.

use bytes::Bytes;
use http::{HeaderMap, StatusCode, response::Parts};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};

use super::{
    fault::{UpstreamFault, chain},
    lease::{Lease, Place},
};

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Reply {
    head: Parts,
    // Before the lease: what is not read to its end is known to be so when the connection goes back.
    body: Incoming,
    _lease: Lease,
    _place: Option<Place>,
}

impl Reply {
    pub(super) fn new(response: http::Response<Incoming>, lease: Lease, place: Option<Place>) -> Self {
        let (head, body) = response.into_parts();
        Self { head, body, _lease: lease, _place: place }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.head.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// The bytes of the body that are still to come, where the server said how many there are.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next piece; `None` at the end. Can be asked again when it was not waited for to the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamFault> {
        loop {
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let frame = frame.map_err(|error| UpstreamFault::Broken(chain(&error)))?;
            // Trailers say nothing here.
            if let Ok(data) = frame.into_data() {
                return Ok(Some(data));
            }
        }
    }
}
