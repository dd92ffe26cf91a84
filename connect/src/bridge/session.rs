//! A legacy session: what the server calls it, in which revision, and how to begin it again.
//!
//! Kept by `bridge`. A server that forgot a session (404) is greeted again with the words its client used, and the
//! client never hears of it. Specification: MCP 2025-11-25 Streamable HTTP, "Session Management".

use std::sync::{Mutex, MutexGuard, PoisonError};

use bailiwick_proto::mcp::Members;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use reqwest::Response;
use serde_json::value::RawValue;

use super::{
    Bridge,
    envelope::{self, Envelope},
};
use crate::{caller::Answered, fault::Fault, web};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
/// Largest answer to a greeting that is read for its revision.
const GREETING_BYTES_MAX: usize = 4 * 1024 * 1024;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

#[derive(Debug, Default)]
pub(super) struct Session {
    known: Mutex<Known>,
    /// One greets at a time.
    greeting: tokio::sync::Mutex<()>,
}

#[derive(Clone, Debug, Default)]
struct Known {
    id: Option<HeaderValue>,
    version: Option<HeaderValue>,
    /// The client's `initialize`, to be sent again.
    greeting: Option<Bytes>,
    has_stream: bool,
}

impl Session {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every message of the session has.
    pub(super) fn headers(&self) -> HeaderMap {
        let known = self.known().clone();
        let mut headers = HeaderMap::new();
        headers.extend(known.id.map(|id| (SESSION, id)));
        headers.extend(known.version.map(|version| (envelope::VERSION, version)));
        headers
    }

    /// A client greets: whatever was before is over.
    pub(super) fn begins(&self, greeting: Bytes) {
        let has_stream = self.known().has_stream;
        *self.known() = Known { greeting: Some(greeting), has_stream, ..Known::default() };
    }

    /// The head of the answer to a greeting.
    pub(super) fn is_called(&self, headers: &HeaderMap) {
        self.known().id = headers.get(SESSION).cloned();
    }

    /// The answer itself.
    pub(super) fn speaks(&self, answer: &[u8]) {
        let version = (|| {
            let answer: &RawValue = serde_json::from_slice(answer).ok()?;
            let version: String = Members::of(answer)?.object("result").ok()??.read("protocolVersion").ok()??;
            HeaderValue::from_str(&version).ok()
        })();
        if version.is_some() {
            self.known().version = version;
        }
    }

    /// Whether this is the first who wants the session's stream.
    pub(super) fn wants_stream(&self) -> bool {
        let mut known = self.known();
        known.greeting.is_some() && !std::mem::replace(&mut known.has_stream, true)
    }
}

impl Bridge {
    /// POSTs a message; greets again where the server forgot the session. Any answer but 401 and 404 for that.
    pub(super) async fn post(&self, text: Bytes, envelope: &Envelope) -> Result<Answered, Fault> {
        let own = |headers: &HeaderMap| {
            let mut all = envelope::of_post();
            all.extend(headers.clone());
            all
        };
        if let Some(modern) = &envelope.modern {
            return self.caller.send(&Method::POST, &own(modern), &text).await;
        }
        let session = self.session.headers();
        let answered = self.caller.send(&Method::POST, &own(&session), &text).await?;
        if answered.response.status() != StatusCode::NOT_FOUND || !session.contains_key(SESSION) {
            return Ok(answered);
        }
        drop(answered);
        self.greet_again(&session).await?;
        self.caller.send(&Method::POST, &own(&self.session.headers()), &text).await
    }

    /// Begins the session anew, unless somebody else just did.
    pub(super) async fn greet_again(&self, forgotten: &HeaderMap) -> Result<(), Fault> {
        let _one = self.session.greeting.lock().await;
        let known = self.session.known().clone();
        let Some(greeting) = known.greeting.filter(|_| known.id.as_ref() == forgotten.get(SESSION)) else {
            return Ok(());
        };
        tracing::info!("the server forgot the session; it begins anew");
        let answered = self.caller.send(&Method::POST, &envelope::of_post(), &greeting).await?;
        let url = self.caller.url.url();
        if !answered.response.status().is_success() {
            return Err(Fault::answer(url, "it does not begin the session anew"));
        }
        self.session.is_called(answered.response.headers());
        let answer = whole(url, answered.response).await?;
        self.session.speaks(&answer);
        let mut headers = envelope::of_post();
        headers.extend(self.session.headers());
        self.caller.send(&Method::POST, &headers, &Bytes::from_static(INITIALIZED.as_bytes())).await.map(drop)
    }

    /// Gives the session back, where there is one.
    pub(super) async fn goodbye(&self) {
        let headers = self.session.headers();
        if headers.contains_key(SESSION) {
            // Servers may refuse it.
            drop(self.caller.send(&Method::DELETE, &headers, &Bytes::new()).await);
        }
    }
}

/// The answer to a greeting, whether it comes as one document or in a stream.
async fn whole(url: &url::Url, response: Response) -> Result<Vec<u8>, Fault> {
    let body = web::read(url, response, GREETING_BYTES_MAX).await?;
    if body.trim_ascii_start().starts_with(b"{") {
        return Ok(body);
    }
    let events = crate::sse::Events::default().feed(&body).unwrap_or_default();
    Ok(events.into_iter().find(|data| !data.is_empty()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_has_a_name_and_a_revision_once_the_server_said_so() {
        let session = Session::default();
        assert!(session.headers().is_empty() && !session.wants_stream());
        session.begins(Bytes::from_static(b"{}"));
        session.is_called(&HeaderMap::from_iter([(SESSION, HeaderValue::from_static("s-1"))]));
        session.speaks(br#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18"}}"#);
        let headers = session.headers();
        assert_eq!(
            (headers[&SESSION].as_bytes(), headers[&envelope::VERSION].as_bytes()),
            (b"s-1".as_slice(), b"2025-06-18".as_slice())
        );
        assert!(session.wants_stream() && !session.wants_stream(), "one stream");
        session.begins(Bytes::from_static(b"{}"));
        assert!(session.headers().is_empty());
    }
}
