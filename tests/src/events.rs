//! A client that listens: the events of one response as they come, in either era.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{RequestBuilder, Response};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::mcp::{MODERN, McpClient, modern_meta};

/// Longest wait for a message, however many comments keep the stream alive meanwhile: whatever is told is told within
/// seconds, and a stream that ends says so at once.
const EVENT_WAIT_MAX: Duration = Duration::from_secs(20);

/// See the file's header. The stream is let go when this is dropped.
#[derive(Debug)]
pub struct Events {
    response: Response,
    read: Vec<u8>,
    /// Of the newest event that had one.
    pub last_id: Option<String>,
}

impl Events {
    /// `subscriptions/listen` of a modern client, for these notifications.
    ///
    /// # Errors
    /// When no stream comes of it.
    pub async fn modern(client: &McpClient, notifications: &Value) -> Result<Self> {
        let params = json!({"notifications": notifications, "_meta": modern_meta()});
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params});
        let headers = [("mcp-protocol-version", MODERN), ("mcp-method", "subscriptions/listen")];
        Self::of(
            headers
                .into_iter()
                .fold(client.post(body.to_string()), |request, (name, value)| request.header(name, value)),
        )
        .await
    }

    /// A legacy client's GET in its session, maybe to go on where it had been.
    ///
    /// # Errors
    /// When no stream comes of it.
    pub async fn legacy(client: &McpClient, last_event_id: Option<&str>) -> Result<Self> {
        let request = client.http.get(&client.url).bearer_auth(&client.token).header("accept", "text/event-stream");
        let headers = client.legacy_headers();
        let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
        Self::of(last_event_id.into_iter().fold(request, |request, id| request.header("last-event-id", id))).await
    }

    /// The events of a response.
    ///
    /// # Errors
    /// When it is none of events; what it is, is in the message.
    pub async fn of(request: RequestBuilder) -> Result<Self> {
        let response = request.send().await?;
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        if kind != "text/event-stream" {
            let (status, text) = (response.status(), response.text().await.unwrap_or_default());
            anyhow::bail!("no stream: {status} {text}");
        }
        ensure!(response.status().is_success(), "{}", response.status());
        Ok(Self { response, read: Vec::new(), last_id: None })
    }

    /// The next message; `None` when the stream is over.
    ///
    /// # Errors
    /// When nothing comes for long, or the connection breaks.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        let deadline = Instant::now() + EVENT_WAIT_MAX;
        loop {
            while let Some(event) = self.event()? {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
                self.last_id = field("id:").map(str::to_owned).or(self.last_id.take());
                if let Some(data) = field("data:").filter(|data| !data.is_empty()) {
                    return Ok(Some(serde_json::from_str(data)?));
                }
            }
            let chunk = timeout_at(deadline, self.response.chunk()).await.context("no event comes")??;
            let Some(chunk) = chunk else { return Ok(None) };
            self.read.extend_from_slice(&chunk);
        }
    }

    /// The next message, which must come.
    ///
    /// # Errors
    /// As `next`, or the stream is over.
    pub async fn message(&mut self) -> Result<Value> {
        self.next().await?.context("the stream is over")
    }

    fn event(&mut self) -> Result<Option<String>> {
        let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n") else { return Ok(None) };
        let rest = self.read.split_off(end + 2);
        let event = std::mem::replace(&mut self.read, rest);
        Ok(Some(String::from_utf8(event)?))
    }
}
