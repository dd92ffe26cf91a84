//! One endpoint to measure, and the requests it gets: everything but the id is made once.
//!
//! Implements the client's side of MCP over Streamable HTTP as far as `tools/call` needs it: of 2026-07-28 a request
//! that stands alone, of the legacy era a handshake for each connection and the session it gives.

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::ValueEnum;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{
    possession::{Possession, Shown},
    tls::{Secure, secure},
};

const MODERN: &str = "2026-07-28";
const LEGACY: &str = "2025-11-25";
const VERSION_HEADER: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(crate) const SESSION_HEADER: HeaderName = HeaderName::from_static("mcp-session-id");
/// Longer than any server's own timeout.
pub(crate) const CALL_WAIT_MAX: Duration = Duration::from_secs(60);
/// Stands for the id while a request is made.
const ID: &str = "\"id-goes-here\"";

/// Which MCP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Era {
    /// 2026-07-28: every request stands alone.
    Modern,
    /// 2025-11-25: a handshake, then a session, for each connection.
    Legacy,
}

/// Which HTTP is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http {
    One,
    Two,
}

/// What is called.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Of `tools/call`; otherwise the tools are listed.
    pub(crate) tool: Option<String>,
    pub(crate) arguments: Value,
    pub(crate) era: Era,
    pub(crate) http: Http,
    /// Certificates that are trusted instead of the system's.
    pub(crate) ca: Option<PathBuf>,
}

/// A bearer token: not to be printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Token(pub(crate) String);

/// What the other side has said on a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct SoFar<'a> {
    /// Of a legacy client.
    pub(crate) session: Option<&'a HeaderValue>,
    /// For the next DPoP proof.
    pub(crate) nonce: Option<&'a str>,
}

/// An endpoint, with its requests.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) address: String,
    pub(crate) era: Era,
    pub(crate) http: Http,
    /// Of an https URL.
    pub(crate) secure: Option<Secure>,
    uri: Uri,
    headers: HeaderMap,
    shown: Option<Shown>,
    before_id: Bytes,
    after_id: Bytes,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Target {
    pub(crate) fn new(name: &str, url: &str, token: Option<(Token, Possession)>, call: &Call) -> Result<Self> {
        let url: Uri = url.parse().with_context(|| format!("{name}: {url:?} is no URL"))?;
        let authority = url.authority().with_context(|| format!("{name}: {url} names no server"))?;
        let (secure, port) = match url.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(secure(authority.host(), call.http, call.ca.as_deref())?), 443),
            _ => bail!("{name}: {url} is neither http nor https"),
        };
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(port));
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let shown = token.map(|(token, possession)| Shown::new(token, possession, &url));
        headers.insert(VERSION_HEADER, HeaderValue::from_static(if call.era == Era::Modern { MODERN } else { LEGACY }));
        let uri = match call.http {
            Http::One => url.path_and_query().map_or("/", |path| path.as_str()).parse()?,
            Http::Two => url,
        };
        if call.http == Http::Two {
            headers.remove(header::HOST);
        }
        let body = called(call).to_string();
        let (before_id, after_id) = body.split_once(ID).context("a tool or argument named like the id's place")?;
        let (before_id, after_id) = (Bytes::from(before_id.to_owned()), Bytes::from(after_id.to_owned()));
        let mut target = Self {
            name: name.to_owned(),
            address,
            era: call.era,
            http: call.http,
            secure,
            uri,
            headers,
            shown,
            before_id,
            after_id,
        };
        if call.era == Era::Modern {
            target.headers.insert("mcp-method", HeaderValue::from_static(method(call)));
            if let Some(tool) = &call.tool {
                target.headers.insert("mcp-name", HeaderValue::from_str(tool).context("the tool's name")?);
            }
        }
        Ok(target)
    }

    /// A call under an id that no other of this run has.
    pub(crate) fn call(&self, id: u64, so_far: SoFar<'_>) -> Result<Request<Full<Bytes>>> {
        let id = id.to_string();
        let mut body = Vec::with_capacity(self.before_id.len() + id.len() + self.after_id.len());
        body.extend_from_slice(&self.before_id);
        body.extend_from_slice(id.as_bytes());
        body.extend_from_slice(&self.after_id);
        self.request(Method::POST, body.into(), so_far)
    }

    /// Whether the other side has to say a nonce before it takes anything.
    pub(crate) fn needs_nonce(&self) -> bool {
        self.shown.as_ref().is_some_and(Shown::needs_nonce)
    }

    /// The first message of a legacy session.
    pub(crate) fn initialize(&self, so_far: SoFar<'_>) -> Result<Request<Full<Bytes>>> {
        let client = json!({"name": "bailiwick-loadtest", "version": env!("CARGO_PKG_VERSION")});
        let params = json!({"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": client});
        let initialize = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        self.request(Method::POST, initialize.to_string().into(), so_far)
    }

    /// The second one.
    pub(crate) fn initialized(&self, so_far: SoFar<'_>) -> Result<Request<Full<Bytes>>> {
        let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        self.request(Method::POST, initialized.to_string().into(), so_far)
    }

    /// Opens the stream of a legacy session on which a server tells of changes.
    pub(crate) fn listen(&self, so_far: SoFar<'_>) -> Result<Request<Full<Bytes>>> {
        let mut request = self.request(Method::GET, Bytes::new(), so_far)?;
        request.headers_mut().insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        request.headers_mut().remove(header::CONTENT_TYPE);
        Ok(request)
    }

    fn request(&self, method: Method, body: Bytes, so_far: SoFar<'_>) -> Result<Request<Full<Bytes>>> {
        let mut headers = self.headers.clone();
        if let Some(session) = so_far.session {
            headers.insert(SESSION_HEADER, session.clone());
        }
        if let Some(shown) = &self.shown {
            shown.show(&mut headers, method.as_str(), &body, so_far.nonce)?;
        }
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = headers;
        Ok(request)
    }
}

fn called(call: &Call) -> Value {
    let mut params = match &call.tool {
        Some(tool) => json!({"name": tool, "arguments": call.arguments}),
        None => json!({}),
    };
    if let (Era::Modern, Some(params)) = (call.era, params.as_object_mut()) {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": {},
            "io.modelcontextprotocol/clientInfo": {"name": "bailiwick-loadtest", "version": env!("CARGO_PKG_VERSION")},
        });
        params.insert("_meta".to_owned(), meta);
    }
    json!({"jsonrpc": "2.0", "id": "id-goes-here", "method": method(call), "params": params})
}

const fn method(call: &Call) -> &'static str {
    if call.tool.is_some() { "tools/call" } else { "tools/list" }
}
