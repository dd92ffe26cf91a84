//! A raw MCP client: sends exactly what a test says, in either era, and shows exactly what came back.
//!
//! Well-behaved clients are other people's (`peers`); this one also misbehaves.

use anyhow::{Context, Result};
use reqwest::{Client, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use crate::wait::eventually;

/// The current, stateless revision.
pub const MODERN: &str = "2026-07-28";
/// The last revision with sessions.
pub const LEGACY: &str = "2025-11-25";

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
    /// Null where the body is no JSON.
    pub body: Value,
}

impl Answer {
    /// What comes back to a request.
    ///
    /// # Errors
    /// When nothing does.
    pub async fn to(request: RequestBuilder) -> Result<Self> {
        let response = request.send().await.context("send")?;
        let (status, headers) = (response.status(), response.headers().clone());
        let text = response.text().await.context("read")?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Self { status, headers, text, body })
    }

    /// The JSON-RPC error code, if any.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        self.body.pointer("/error/code").and_then(Value::as_i64)
    }

    /// The reason word of a refusal, or an empty string.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.body.pointer("/error/data/reason").and_then(Value::as_str).unwrap_or_default()
    }

    /// The names in a `tools/list` result.
    #[must_use]
    pub fn tools(&self) -> Vec<String> {
        let tools = self.body.pointer("/result/tools").and_then(Value::as_array);
        let name = |tool: &Value| tool.get("name").and_then(Value::as_str).map(str::to_owned);
        tools.map(|tools| tools.iter().filter_map(name).collect()).unwrap_or_default()
    }
}

/// One client: a URL, a token, and in the legacy era a session.
#[derive(Clone, Debug)]
pub struct McpClient {
    pub http: Client,
    pub url: String,
    pub token: String,
    pub session: Option<String>,
}

impl McpClient {
    /// A client of `{mcp}/{virtual_server}`.
    #[must_use]
    pub fn new(mcp: &str, virtual_server: &str, token: &str) -> Self {
        let http = Client::builder().no_proxy().build().unwrap_or_default();
        Self { http, url: format!("{mcp}/{virtual_server}"), token: token.to_owned(), session: None }
    }

    /// The same client towards another data plane.
    #[must_use]
    pub fn at(&self, mcp: &str) -> Self {
        let path = self.url.rsplit('/').next().unwrap_or_default();
        Self { url: format!("{mcp}/{path}"), ..self.clone() }
    }

    /// Sends any bytes with these extra headers. An empty value leaves a usual header out.
    ///
    /// # Errors
    /// When nothing comes back.
    pub async fn raw(&self, body: impl Into<Vec<u8>>, headers: &[(&str, &str)]) -> Result<Answer> {
        Answer::to(self.request(body, headers)).await
    }

    /// What [`Self::raw`] sends.
    pub fn request(&self, body: impl Into<Vec<u8>>, headers: &[(&str, &str)]) -> RequestBuilder {
        let bearer = format!("Bearer {}", self.token);
        let mut all = vec![
            ("content-type", "application/json"),
            ("accept", "application/json, text/event-stream"),
            ("authorization", if self.token.is_empty() { "" } else { bearer.as_str() }),
        ];
        for (name, value) in headers {
            all.retain(|(usual, _)| !usual.eq_ignore_ascii_case(name));
            all.push((name, value));
        }
        let request = all.iter().filter(|(_, value)| !value.is_empty());
        let request = request.fold(self.http.post(&self.url), |request, (name, value)| request.header(*name, *value));
        request.body(body.into())
    }

    /// A POST of this body with the usual headers.
    pub fn post(&self, body: String) -> RequestBuilder {
        let request = self.http.post(&self.url).header("content-type", "application/json");
        request.header("accept", "application/json, text/event-stream").bearer_auth(&self.token).body(body)
    }

    /// One modern request, correct in every way.
    ///
    /// # Errors
    /// When nothing comes back.
    pub async fn modern(&self, method: &str, params: Value) -> Result<Answer> {
        self.declaring(json!({}), method, params).await
    }

    /// The same of a client with these capabilities.
    ///
    /// # Errors
    /// When nothing comes back.
    pub async fn declaring(&self, capabilities: Value, method: &str, params: Value) -> Result<Answer> {
        Answer::to(self.modern_request(capabilities, method, params)).await
    }

    /// What [`Self::declaring`] sends. Members of the parameters' own `_meta` are kept.
    pub fn modern_request(&self, capabilities: Value, method: &str, mut params: Value) -> RequestBuilder {
        let subject = ["name", "uri", "taskId"].iter().find_map(|member| params.get(member)?.as_str());
        let name = subject.unwrap_or_default().to_owned();
        if let Some(members) = params.as_object_mut() {
            let mut meta = modern_meta();
            if let Some(meta) = meta.as_object_mut() {
                meta.insert("io.modelcontextprotocol/clientCapabilities".to_owned(), capabilities);
                meta.extend(members.remove("_meta").and_then(|own| own.as_object().cloned()).unwrap_or_default());
            }
            members.insert("_meta".to_owned(), meta);
        }
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let headers = [("mcp-protocol-version", MODERN), ("mcp-method", method), ("mcp-name", &name)];
        self.request(body.to_string(), &headers)
    }

    /// Waits until the client is shown just these tools: a change is on its way to the data plane.
    ///
    /// # Errors
    /// When it is not.
    pub async fn until_listed(&self, tools: &[&str]) -> Result<()> {
        eventually(&format!("{tools:?} at {}", self.url), async || {
            let listed = self.modern("tools/list", json!({})).await.ok()?;
            (listed.tools() == tools).then_some(())
        })
        .await
    }

    /// The legacy handshake; keeps the session for the requests that follow.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn initialize(&mut self) -> Result<Answer> {
        self.initialize_with(json!({})).await
    }

    /// The same for a client that can be asked for these things.
    ///
    /// # Errors
    /// When it is refused.
    pub async fn initialize_with(&mut self, capabilities: Value) -> Result<Answer> {
        let client = json!({"name": "raw", "version": "1"});
        let params = json!({"protocolVersion": LEGACY, "capabilities": capabilities, "clientInfo": client});
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let answer = self.raw(body.to_string(), &[]).await?;
        let session = answer.headers.get("mcp-session-id").context("no session id")?;
        self.session = Some(session.to_str()?.to_owned());
        self.raw(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, &self.legacy_headers()).await?;
        Ok(answer)
    }

    /// One legacy request in the session.
    ///
    /// # Errors
    /// When nothing comes back.
    pub async fn legacy(&self, method: &str, params: Value) -> Result<Answer> {
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.raw(body.to_string(), &self.legacy_headers()).await
    }

    pub(crate) fn legacy_headers(&self) -> [(&str, &str); 2] {
        [("mcp-session-id", self.session.as_deref().unwrap_or_default()), ("mcp-protocol-version", LEGACY)]
    }

    /// A modern `tools/call`.
    ///
    /// # Errors
    /// When nothing comes back.
    pub async fn call(&self, tool: &str, arguments: Value) -> Result<Answer> {
        self.modern("tools/call", json!({"name": tool, "arguments": arguments})).await
    }
}

/// The `_meta` every modern request carries.
#[must_use]
pub fn modern_meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
    })
}
