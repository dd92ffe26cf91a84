//! Listening to one server: its long-lived stream of notifications, opened as its era has it.
//!
//! Called by `upstream::Hearing`. What is wished for and what is done when a stream breaks, `listening::source` in the core
//! decides; here are the bytes. A legacy session has one stream, which is not read here alone (`session_stream`).

use std::time::Duration;

use bailiwick_data_plane_core::{
    forward::list_request,
    listening::{
        Wishes,
        source::{Closed, Offers},
    },
    trace::Carried,
};
use bailiwick_proto::mcp::{
    Era, Incoming, Members, Notification, RequestId, Response, header_name, method, raw, read_incoming,
};
use http::{HeaderName, HeaderValue, Method, header};
use tokio::sync::mpsc;

use super::{
    Aside, Bounds, Peer,
    events::Events,
    post,
    session_stream::{Shut, may_come},
};
use crate::upstream::{
    channel::session::Subscription,
    fault::UpstreamFault,
    route::{self, Asking},
};

const BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The notifications of one stream.
#[derive(Debug)]
pub(crate) enum Notifications {
    /// Of a modern server, in answer to the request with this id.
    Own(Box<Events>, RequestId),
    /// Of a legacy session.
    Shared(mpsc::Receiver<Notification>),
    /// Of a modern server over a channel.
    Subscription(Box<Subscription>),
}

impl Peer {
    /// The server's era, and what it offers to listen to.
    pub(in crate::upstream) async fn offers(&self, bounds: Bounds) -> Result<(Era, Offers), UpstreamFault> {
        let link = self.link(bounds).await?;
        let capabilities = link.capabilities.as_deref().and_then(Members::of).unwrap_or_default();
        Ok((link.era, Offers::of(&capabilities)))
    }

    /// Opens a stream.
    pub(in crate::upstream) async fn notifications(
        &self,
        id: RequestId,
        wishes: &Wishes,
        bounds: Bounds,
    ) -> Result<Notifications, Closed> {
        let link = self.link(bounds).await.map_err(|_fault| Closed::Broken)?;
        let Some(stream) = &link.stream else { return self.subscriptions(id, wishes, bounds).await };
        stream.listen().await.map(Notifications::Shared).map_err(|shut| match shut {
            Shut::Refused => Closed::Refused,
            Shut::Gone => {
                self.forget(&link);
                Closed::Broken
            }
            Shut::Broken => Closed::Broken,
        })
    }

    /// At a modern server.
    async fn subscriptions(&self, id: RequestId, wishes: &Wishes, bounds: Bounds) -> Result<Notifications, Closed> {
        let wished = [("notifications", wishes.json())];
        let needs = wishes.needs();
        let request = list_request(Era::Modern, &id, (method::LISTEN, &wished), Some(&needs), &Carried::default());
        let post = post(None, request, None).map_err(|_fault| Closed::Refused)?;
        let mut headers = post.headers;
        headers.extend([(header::ACCEPT, BOTH), (header::CONTENT_TYPE, JSON)]);
        let sending = self.origin.route.send(Asking::post(headers, post.body), None);
        let sent = tokio::time::timeout(bounds.timeout, Box::pin(sending)).await;
        let Ok(Ok(response)) = sent else { return Err(Closed::Broken) };
        let status = response.status();
        let events = Events::of(response, bounds.bytes_max);
        events.map(|events| Notifications::Own(Box::new(events), id)).ok_or_else(|| {
            tracing::debug!(url = self.origin.route.url, %status, "a server gives no stream to listen to");
            if may_come(status) { Closed::Broken } else { Closed::Refused }
        })
    }

    /// Asks a legacy server to tell of a resource's changes, or no longer to.
    pub(in crate::upstream) async fn subscribe(
        &self,
        id: &RequestId,
        (uri, wished): (&str, bool),
        bounds: Bounds,
    ) -> Result<(), UpstreamFault> {
        let rpc_method = if wished { method::RESOURCES_SUBSCRIBE } else { method::RESOURCES_UNSUBSCRIBE };
        let request = |era| list_request(era, id, (rpc_method, &[("uri", raw(uri))]), None, &Carried::default());
        match self.ask(id, request, (bounds, bounds), Aside::default()).await?.response {
            Response::Result(_) => Ok(()),
            Response::Error(error) => Err(UpstreamFault::Invalid(format!("error {}: {}", error.code, error.message))),
        }
    }

    /// Gives back the session, if a legacy server gave one and nobody is in it: nobody needs it any more.
    pub(in crate::upstream) async fn close(&self, timeout: Duration) {
        // Who is in it has not got its answer yet: the server forgets it by itself some day.
        let Some(link) = self.link.swap(None).and_then(std::sync::Arc::into_inner) else { return };
        let Some(session) = &link.session else { return };
        let headers = route::headers([(HeaderName::from_static(header_name::SESSION_ID), session.clone())]);
        let closed = tokio::time::timeout(timeout, Box::pin(self.origin.route.fetch(Method::DELETE, headers))).await;
        tracing::debug!(
            url = self.origin.route.url,
            is_closed = matches!(closed, Ok(Ok(_))),
            "a session is given back"
        );
    }
}

impl Notifications {
    /// The next one; `None` when the stream is over, or not worth being followed any more.
    pub(crate) async fn next(&mut self) -> Option<Notification> {
        let (events, id) = match self {
            Self::Own(events, id) => (events, id),
            Self::Shared(changes) => return changes.recv().await,
            Self::Subscription(subscription) => return subscription.next().await,
        };
        loop {
            match read_incoming(&events.next().await?, id) {
                Ok(Incoming::Notification(notification)) => return Some(notification),
                // The answer ends the stream.
                Ok(Incoming::Response(_)) => return None,
                // A modern server asks nothing; what is no message says nothing.
                Ok(Incoming::Request(_)) | Err(_) => {}
            }
        }
    }
}
