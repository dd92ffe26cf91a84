//! HTTP+SSE, the transport of 2024-11-05: a stream that the server talks on, and an address it names that it is talked
//! to at. Deprecated, and still spoken by many.
//!
//! Called by `channel::pool`; bytes go the same way as to every server over HTTP (`route`), with its guard, TLS and
//! credential. The address is the first event of the stream, and must be at the same origin: or a server could have the
//! gateway send things, with the server's credential, to wherever it likes. Notifications are sent one after the other;
//! requests at once, several of them, and whatever the server says to a POST but that it refuses it, is of no matter:
//! the answer comes on the stream. When that ends, the session is over; the next request begins a new one, and nothing
//! is sent twice. Deliberately absent: which message is whose (`channel`). Specification: MCP 2024-11-05 transports,
//! "HTTP with SSE".

mod address;

use std::{future::pending, sync::Arc, time::Duration};

use bailiwick_proto::v1::Server;
use futures::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderMap, HeaderValue, Method, StatusCode, header, uri::PathAndQuery};
use tokio::{sync::mpsc, time::timeout};

use self::address::address;
use super::{
    answer_stream::EVENT_STREAM,
    channel::{
        Channel, Outgoing,
        pool::{Begun, Ending},
    },
    channels::Surroundings,
    fault::UpstreamFault,
    peer::events::Events,
    route::{Asking, Route},
};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Requests on their way to one session at once; more wait.
const POSTS_MAX: usize = 64;
/// Longest wait for a server to take a notification.
const NOTIFY_MAX: Duration = Duration::from_secs(10);

/// Opens the stream and waits for the address.
pub(super) async fn start(server: &Server, number: u64, around: &Surroundings) -> Result<Begun, UpstreamFault> {
    let route = around.route(server)?;
    let longest = Duration::from_millis(around.config.handshake_timeout_ms);
    let opened = timeout(longest, open(&route, around.config.response_bytes_max)).await;
    let millis = around.config.handshake_timeout_ms;
    let (mut events, path) = opened.unwrap_or(Err(UpstreamFault::Timeout(millis)))?;
    let (channel, outgoing) = Channel::open(number, false);
    tracing::debug!(server = server.name, number, "a stream is opened");
    let (reading, writing) = (channel.clone(), channel.clone());
    let run = async move {
        let fault = tokio::select! {
            fault = read(&mut events, &reading) => Some(fault),
            fault = write(&route, &path, outgoing, &writing) => Some(fault),
            () = writing.ended() => None,
        };
        match fault {
            Some(fault) => {
                tracing::debug!(%fault, "a stream has ended");
                reading.broke(fault);
                Ending::ByItself
            }
            None => {
                reading.broke(UpstreamFault::Unreachable("its stream was ended".to_owned()));
                Ending::Wished
            }
        }
    };
    Ok(Begun { channel, run: Box::pin(run), secrets: Vec::new() })
}

async fn open(route: &Route, bytes_max: usize) -> Result<(Events, PathAndQuery), UpstreamFault> {
    let headers = HeaderMap::from_iter([(header::ACCEPT, EVENT_STREAM)]);
    let reply = route.fetch(Method::GET, headers).await?;
    let status = reply.status();
    if !status.is_success() {
        return Err(UpstreamFault::Status(status.as_u16()));
    }
    let events = Events::of(reply, bytes_max);
    let mut events = events.ok_or_else(|| UpstreamFault::Invalid("it opens no event stream".to_owned()))?;
    let first = events.next().await;
    let first = first.ok_or_else(|| UpstreamFault::Invalid("its stream ended at once".to_owned()))?;
    let path = address(&route.url, &first);
    Ok((events, path.map_err(|why| UpstreamFault::Invalid(format!("it is to be talked to {why}")))?))
}

/// Reads until there is nothing more, or it is of no use.
async fn read(events: &mut Events, channel: &Channel) -> UpstreamFault {
    while let Some(event) = events.next().await {
        if let Err(fault) = channel.take(&event).await {
            return fault;
        }
    }
    UpstreamFault::Unreachable("its stream ended".to_owned())
}

/// Sends until the session turns out to be gone.
async fn write(
    route: &Arc<Route>,
    path: &PathAndQuery,
    mut outgoing: mpsc::Receiver<Outgoing>,
    channel: &Channel,
) -> UpstreamFault {
    let mut posts = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(gone) = posts.next(), if !posts.is_empty() => {
                if gone {
                    return UpstreamFault::SessionGone;
                }
            }
            message = outgoing.recv(), if posts.len() < POSTS_MAX => {
                let Some(message) = message else { pending().await };
                if !channel.leaves(&message) {
                    continue;
                }
                if message.id.is_some() {
                    posts.push(post(route, path, message, channel));
                } else if timeout(NOTIFY_MAX, Box::pin(post(route, path, message, channel))).await.unwrap_or(false) {
                    return UpstreamFault::SessionGone;
                }
            }
        }
    }
}

/// Sends one message. Whether the session is gone.
async fn post(route: &Route, path: &PathAndQuery, message: Outgoing, channel: &Channel) -> bool {
    let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, JSON)]);
    let Outgoing { body, id, gate, context } = message;
    let (gate, context) = (gate.as_ref(), context.as_ref());
    let asking = Asking { path: Some(path.clone()), gate, context, ..Asking::post(headers, body) };
    let refused = match Box::pin(route.send(asking, None)).await {
        Ok(mut reply) => {
            let status = reply.status();
            if status.is_success() {
                // A word like "Accepted", so that the connection can be used again.
                while let Ok(Some(_)) = reply.chunk().await {}
                return false;
            }
            if matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE) {
                UpstreamFault::SessionGone
            } else {
                UpstreamFault::Status(status.as_u16())
            }
        }
        Err(no_reply) => no_reply.fault,
    };
    let is_gone = refused == UpstreamFault::SessionGone;
    match id {
        Some(id) => channel.refused(&id, refused),
        None => tracing::debug!(fault = %refused, "a server did not take a notification"),
    }
    is_gone
}
