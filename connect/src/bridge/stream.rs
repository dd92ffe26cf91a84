//! The stream of a legacy session: what the server says and asks outside of any request.
//!
//! Opened by `bridge` once the client has said that it is ready; opened again when it ends, from where it was, with
//! pauses that grow. A server without one says so, and is left alone. Specification: MCP 2025-11-25 Streamable HTTP,
//! "Listening for Messages from the Server", "Resumability".

use std::{sync::Arc, time::Duration};

use bailiwick_runtime::OnEnd;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use reqwest::Response;

use super::{Bridge, exchange::is_stream};
use crate::{fault::Fault, sse::Events, web};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(super) const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Pauses between attempts: each twice the one before, until something went well.
#[derive(Debug)]
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) const fn new() -> Self {
        Self(PAUSE_MIN)
    }

    pub(super) const fn well(&mut self) {
        self.0 = PAUSE_MIN;
    }

    pub(super) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

/// What is to be done after a stream, or instead of one.
enum After {
    /// Open it again.
    Again,
    /// There is none.
    Leave,
}

impl Bridge {
    /// Listens to the session, if there is one and nobody does yet.
    pub(super) fn open_stream(self: &Arc<Self>) {
        if !self.session.wants_stream() {
            return;
        }
        let this = Arc::clone(self);
        let stop = self.supervisor.shutdown().clone();
        self.supervisor.spawn("session stream", OnEnd::Finish, async move {
            stop.or_stop(Box::pin(this.listen_to_session())).await.unwrap_or(());
        });
    }

    async fn listen_to_session(&self) {
        let mut pauses = Pauses::new();
        let mut events = Events::default();
        loop {
            match self.session_stream(&mut events, &mut pauses).await {
                Ok(After::Leave) => return,
                Ok(After::Again) => {}
                Err(fault) => tracing::debug!(%fault, "the session's stream broke"),
            }
            tokio::time::sleep(events.retry.unwrap_or_default().min(PAUSE_MAX).max(pauses.next())).await;
        }
    }

    async fn session_stream(&self, events: &mut Events, pauses: &mut Pauses) -> Result<After, Fault> {
        let session = self.session.headers();
        let mut headers: HeaderMap = session.clone();
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        headers.extend(events.last_id.clone().map(|id| (LAST_EVENT_ID, id)));
        let response = self.caller.send(&Method::GET, &headers, &Bytes::new()).await?.response;
        match response.status() {
            StatusCode::OK if is_stream(&response) => {}
            StatusCode::NOT_FOUND => {
                *events = Events::default();
                self.greet_again(&session).await?;
                return Ok(After::Again);
            }
            StatusCode::TOO_MANY_REQUESTS => return Ok(After::Again),
            status if status.is_server_error() => return Ok(After::Again),
            _ => return Ok(After::Leave),
        }
        pauses.well();
        *events = events.goes_on();
        self.pass_on(response, events).await?;
        Ok(After::Again)
    }

    async fn pass_on(&self, mut response: Response, events: &mut Events) -> Result<(), Fault> {
        let url = self.caller.url.url();
        while let Some(chunk) = web::chunk(url, &mut response).await? {
            let read = events.feed(&chunk).map_err(|_| Fault::answer(url, "an event is too large"))?;
            for data in read.into_iter().filter(|data| !data.trim_ascii().is_empty()) {
                self.out.say(&data).await;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute_and_begin_anew() {
        let mut pauses = Pauses::new();
        let taken: Vec<u128> = (0..8).map(|_| pauses.next().as_millis()).collect();
        assert_eq!(taken, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        pauses.well();
        assert_eq!(pauses.next(), PAUSE_MIN);
    }
}
