//! Listening to one server: its long-lived stream of notifications, opened as its era has it.
//!
//! Called by `upstream::Hearing`. What is wished for and what is done when a stream breaks, `listening::source` in the core
//! decides; here are the bytes. An event has the bound of an answer, and a stream that says nothing for long is given
//! up: a server that vanished says nothing either.

use std::{collections::VecDeque, time::Duration};

use bailiwick_data_plane_core::{
    forward::list_request,
    handshake,
    listening::{
        Wishes,
        source::{Closed, Offers},
    },
    trace::Carried,
};
use bailiwick_proto::mcp::{
    Era, Incoming, Members, Notification, RequestId, Response, header_name, method, raw, read_incoming,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::{Aside, Bounds, Peer, post};
use crate::upstream::{fault::UpstreamFault, sse::SseReader};

/// Longest silence of a server. Many send a comment every few seconds, some never; what is given up is opened again.
const SILENCE_MAX: Duration = Duration::from_secs(15 * 60);

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The notifications of one stream.
#[derive(Debug)]
pub(crate) struct Notifications {
    response: reqwest::Response,
    reader: SseReader,
    ready: VecDeque<Notification>,
    id: RequestId,
    /// Bytes since the last event ended.
    unfinished: usize,
    bytes_max: usize,
}

impl Peer {
    /// The server's era, and what it offers to listen to.
    pub(in crate::upstream) async fn offers(
        &self,
        http: &reqwest::Client,
        bounds: Bounds,
    ) -> Result<(Era, Offers), UpstreamFault> {
        let link = self.link(http, bounds).await?;
        let capabilities = link.capabilities.as_deref().and_then(Members::of).unwrap_or_default();
        Ok((link.era, Offers::of(&capabilities)))
    }

    /// Opens a stream.
    pub(in crate::upstream) async fn notifications(
        &self,
        http: &reqwest::Client,
        id: RequestId,
        wishes: &Wishes,
        bounds: Bounds,
    ) -> Result<Notifications, Closed> {
        let link = self.link(http, bounds).await.map_err(|_fault| Closed::Broken)?;
        let is_modern = link.era.is_modern();
        let request = if is_modern {
            list_request(
                link.era,
                &id,
                (method::LISTEN, &[("notifications", wishes.json())]),
                None,
                &Carried::default(),
            )
        } else {
            // Only the version goes with it, where the revision has that header.
            handshake::initialized_notification(link.era)
        };
        let post = post(None, request, link.session.as_ref()).map_err(|_fault| Closed::Refused)?;
        let mut headers: HeaderMap = post.headers.into_iter().collect();
        let url = &self.origin.url;
        let request = if is_modern {
            headers.extend([(header::ACCEPT, BOTH), (header::CONTENT_TYPE, JSON)]);
            http.post(url).body(post.body)
        } else {
            headers.insert(header::ACCEPT, EVENT_STREAM);
            http.get(url)
        };
        let sent = tokio::time::timeout(bounds.timeout, Box::pin(request.headers(headers).send())).await;
        let Ok(Ok(response)) = sent else { return Err(Closed::Broken) };
        let status = response.status();
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let is_stream = media_type.is_some_and(|value| value.trim_start().starts_with("text/event-stream"));
        if status.is_success() && is_stream {
            let (reader, ready) = (SseReader::default(), VecDeque::new());
            return Ok(Notifications { response, reader, ready, id, unfinished: 0, bytes_max: bounds.bytes_max });
        }
        tracing::debug!(url, %status, "a server gives no stream to listen to");
        let is_gone = status == StatusCode::NOT_FOUND && link.session.is_some();
        if is_gone {
            self.forget(&link);
        }
        let may_come = is_gone || status.is_server_error() || matches!(status.as_u16(), 401 | 403 | 408 | 409 | 429);
        Err(if may_come { Closed::Broken } else { Closed::Refused })
    }

    /// Asks a legacy server to tell of a resource's changes, or no longer to.
    pub(in crate::upstream) async fn subscribe(
        &self,
        http: &reqwest::Client,
        id: &RequestId,
        (uri, wished): (&str, bool),
        bounds: Bounds,
    ) -> Result<(), UpstreamFault> {
        let rpc_method = if wished { method::RESOURCES_SUBSCRIBE } else { method::RESOURCES_UNSUBSCRIBE };
        let request = |era| list_request(era, id, (rpc_method, &[("uri", raw(uri))]), None, &Carried::default());
        match self.ask(http, id, request, (bounds, bounds), Aside::default()).await?.response {
            Response::Result(_) => Ok(()),
            Response::Error(error) => Err(UpstreamFault::Invalid(format!("error {}: {}", error.code, error.message))),
        }
    }
}

impl Peer {
    /// Gives back the session, if a legacy server gave one: nobody needs it any more.
    pub(in crate::upstream) async fn close(&self, http: &reqwest::Client, timeout: Duration) {
        let Some(link) = self.link.swap(None) else { return };
        let Some(session) = &link.session else { return };
        let request = http.delete(&self.origin.url).header(header_name::SESSION_ID, session);
        let closed = tokio::time::timeout(timeout, Box::pin(request.send())).await;
        tracing::debug!(url = self.origin.url, is_closed = matches!(closed, Ok(Ok(_))), "a session is given back");
    }
}

impl Notifications {
    /// The next one; `None` when the stream is over, or not worth being followed any more.
    pub(crate) async fn next(&mut self) -> Option<Notification> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            let chunk = tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await.ok()?.ok()??;
            self.unfinished += chunk.len();
            for data in self.reader.feed(&chunk) {
                self.unfinished = 0;
                match read_incoming(&data, &self.id) {
                    Ok(Incoming::Notification(notification)) => self.ready.push_back(notification),
                    // The answer to a modern request ends its stream.
                    Ok(Incoming::Response(_)) => return self.ready.pop_front(),
                    // Nobody is behind this stream who could answer; what is no message says nothing.
                    Ok(Incoming::Request(_)) | Err(_) => {}
                }
            }
            if self.unfinished > self.bytes_max {
                tracing::warn!("a server's event has no end; its stream is given up");
                return None;
            }
        }
    }
}
