//! The HTTP client of the bridge.
//!
//! Called by whoever sends something. Invariants: no redirect is followed, so that no token, code or form goes where
//! another server points; no cookie is kept; what is read whole has a largest size; this machine is never asked through
//! a proxy. Proxies for everything else are those of the environment, as people's machines need them.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use reqwest::{Client, RequestBuilder, Response, redirect::Policy};
use serde_json::Value;
use url::Url;

use crate::{fault::Fault, possession, target::is_here};

const CONNECT_WAIT_MAX: Duration = Duration::from_secs(10);
/// For what is read whole.
const DOCUMENT_WAIT_MAX: Duration = Duration::from_secs(20);
/// Largest document or token answer.
const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Longer than the comments that servers send into quiet streams come apart: 15 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(90);

/// See the file's header.
#[derive(Clone, Debug)]
pub(crate) struct Web {
    here: Client,
    elsewhere: Client,
    /// For what is read whole.
    wait_max: Duration,
}

/// An answer that was read whole.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) status: StatusCode,
    /// Null where it is no JSON.
    pub(crate) body: Value,
    /// For the next DPoP proof.
    pub(crate) nonce: Option<String>,
}

impl Web {
    pub(crate) fn new() -> Result<Self, Fault> {
        let builder = || {
            let agent = concat!("bailiwick-connect/", env!("CARGO_PKG_VERSION"));
            let builder = Client::builder().redirect(Policy::none()).referer(false).user_agent(agent);
            builder.connect_timeout(CONNECT_WAIT_MAX)
        };
        let built = |builder: reqwest::ClientBuilder| {
            builder.build().map_err(|_| Fault::Keeping("this machine's certificates cannot be read".to_owned()))
        };
        Ok(Self { here: built(builder().no_proxy())?, elsewhere: built(builder())?, wait_max: DOCUMENT_WAIT_MAX })
    }

    #[cfg(test)]
    pub(crate) fn that_waits(wait_max: Duration) -> Result<Self, Fault> {
        Ok(Self { wait_max, ..Self::new()? })
    }

    /// The client for a URL.
    pub(crate) fn of(&self, url: &Url) -> &Client {
        if is_here(url) { &self.here } else { &self.elsewhere }
    }

    /// Sends, and waits for the head of the answer: any status. Refusals of redirects included.
    pub(crate) async fn send(url: &Url, request: RequestBuilder) -> Result<Response, Fault> {
        let response = request.send().await.map_err(|error| {
            tracing::debug!(host = url.host_str(), error = %error.without_url(), "no answer");
            Fault::unreachable(url)
        })?;
        if response.status().is_redirection() {
            return Err(Fault::answer(url, "it redirects, and what is sent here is not for anybody else"));
        }
        Ok(response)
    }

    /// Sends, and reads the answer whole.
    pub(crate) async fn document(&self, url: &Url, request: RequestBuilder) -> Result<Document, Fault> {
        let response = Self::send(url, request.timeout(self.wait_max)).await?;
        let (status, nonce) = (response.status(), possession::nonce(response.headers()));
        let bytes = read(url, response, DOCUMENT_BYTES_MAX).await?;
        Ok(Document { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), nonce })
    }

    /// Asks for a document in JSON.
    pub(crate) async fn get(&self, url: &Url) -> Result<Document, Fault> {
        self.document(url, self.of(url).get(url.clone()).header("accept", "application/json")).await
    }

    /// Asks for a stream, and reads no more than the head of the answer.
    pub(crate) async fn head(&self, url: &Url) -> Result<Response, Fault> {
        let request = self.of(url).get(url.clone()).header("accept", "text/event-stream");
        Self::send(url, request.timeout(self.wait_max)).await
    }

    /// Posts a message in JSON, and reads no more than the head of the answer.
    pub(crate) async fn post(&self, url: &Url, headers: HeaderMap, body: &Value) -> Result<Response, Fault> {
        let request = self.of(url).post(url.clone()).headers(headers).body(body.to_string());
        Self::send(url, request.timeout(self.wait_max)).await
    }
}

/// The body, as long as it stays within a size.
pub(crate) async fn read(url: &Url, mut response: Response, bytes_max: usize) -> Result<Vec<u8>, Fault> {
    let mut whole = Vec::new();
    while let Some(chunk) = chunk(url, &mut response).await? {
        if whole.len() + chunk.len() > bytes_max {
            return Err(Fault::answer(url, "the answer is too large"));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

/// The next piece of a body; `None` at its end.
pub(crate) async fn chunk(url: &Url, response: &mut Response) -> Result<Option<bytes::Bytes>, Fault> {
    let next = tokio::time::timeout(SILENCE_MAX, response.chunk()).await;
    next.ok().and_then(Result::ok).ok_or_else(|| Fault::unreachable(url))
}
