//! One server as one caller meets it: the server's era and, for a legacy server, a session of that caller's own.
//!
//! Called by `upstream`. The first request finds the era out, for all callers (`Origin`); requests that come meanwhile
//! wait for the same attempt. What says nothing about the era (401, 403, 429, 5xx, timeouts) is an error and not
//! remembered. A server that answers in a way that does not fit what is remembered is asked anew before the next
//! request. A legacy session is never shared between callers (`Principal`): many servers keep state in it, and one
//! person's would show to the next. Specification: MCP 2026-07-28 versioning; 2025-11-25 transports, "Session
//! Management".

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bailiwick_data_plane_core::{
    forward::ServerRequest,
    handshake::{self, Probe},
};
use bailiwick_proto::mcp::{Era, RequestId, Response, code, header_name};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::sync::Mutex;

use super::{
    exchange::{self, Answer, Bounds, Post},
    fault::UpstreamFault,
    gate::Gate,
};

/// On whose behalf this node speaks to a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Principal {
    /// The gateway itself, to see which tools there are.
    Gateway,
    /// A person through an agent.
    Caller { user: String, agent: String },
}

/// A server's address, and its era once that is known.
#[derive(Debug)]
pub(crate) struct Origin {
    url: String,
    is_modern: ArcSwapOption<bool>,
    /// Held while the era is being found out, so that it happens once.
    probing: Mutex<()>,
}

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Peer {
    origin: Arc<Origin>,
    link: ArcSwapOption<Link>,
    /// Held while a session is being opened, so that it happens once.
    linking: Mutex<()>,
}

/// What is remembered.
#[derive(Debug)]
struct Link {
    era: Era,
    /// Of a legacy server that wants one.
    session: Option<HeaderValue>,
}

impl Origin {
    pub(crate) fn new(url: &str) -> Self {
        Self { url: url.to_owned(), is_modern: ArcSwapOption::empty(), probing: Mutex::default() }
    }

    async fn is_modern(&self, http: &reqwest::Client, bounds: Bounds) -> Result<bool, UpstreamFault> {
        if let Some(known) = self.is_modern.load_full() {
            return Ok(*known);
        }
        let _one_at_a_time = self.probing.lock().await;
        if let Some(known) = self.is_modern.load_full() {
            return Ok(*known);
        }
        let is_modern = match self.probe(http, bounds).await? {
            Probe::Modern => true,
            Probe::Legacy => false,
            Probe::Inconclusive => return Err(UpstreamFault::Invalid("the server's era cannot be told".to_owned())),
        };
        self.is_modern.store(Some(Arc::new(is_modern)));
        Ok(is_modern)
    }

    fn forget(&self) {
        self.is_modern.store(None);
    }

    async fn probe(&self, http: &reqwest::Client, bounds: Bounds) -> Result<Probe, UpstreamFault> {
        let id = RequestId::from(0);
        let post = post(Some(id.clone()), handshake::discover_request(&id), None)?;
        let (status, answer) = match exchange::exchange(http, &self.url, post, bounds).await {
            Ok(answer) => (answer.status.as_u16(), Some(answer.response)),
            Err(UpstreamFault::Status(status)) => (status, None),
            // Some old servers answer what they do not know with something that is no JSON-RPC.
            Err(UpstreamFault::Invalid(_)) => (200, None),
            Err(fault) => return Err(fault),
        };
        match handshake::read_probe(status, answer.as_ref()) {
            Probe::Inconclusive => Err(UpstreamFault::Status(status)),
            probe => Ok(probe),
        }
    }
}

impl Peer {
    pub(crate) fn new(origin: Arc<Origin>) -> Self {
        Self { origin, link: ArcSwapOption::empty(), linking: Mutex::default() }
    }

    /// Sends the request that `request` makes for the server's era through a gate, if there is one; once more if the
    /// session turns out to be gone.
    pub(crate) async fn ask(
        &self,
        http: &reqwest::Client,
        id: &RequestId,
        request: impl Fn(Era) -> ServerRequest,
        (bounds, handshake): (Bounds, Bounds),
        gate: Option<&Gate>,
    ) -> Result<Answer, UpstreamFault> {
        let link = self.link(http, handshake).await?;
        match self.ask_over(http, id, &link, request(link.era), bounds, gate).await {
            Err(UpstreamFault::SessionGone) => {
                let link = self.link(http, handshake).await?;
                self.ask_over(http, id, &link, request(link.era), bounds, gate).await
            }
            answer => answer,
        }
    }

    /// Sends a notification to a legacy server that is linked; to any other, nothing.
    pub(crate) async fn notify_legacy(
        &self,
        http: &reqwest::Client,
        body: Vec<u8>,
        timeout: Duration,
    ) -> Result<(), UpstreamFault> {
        let Some(link) = self.link.load_full().filter(|link| !link.era.is_modern()) else { return Ok(()) };
        let ServerRequest { headers, .. } = handshake::initialized_notification(link.era);
        let post = post(None, ServerRequest { headers, body }, link.session.as_ref())?;
        exchange::notify(http, &self.origin.url, post, timeout).await
    }

    async fn ask_over(
        &self,
        http: &reqwest::Client,
        id: &RequestId,
        link: &Arc<Link>,
        request: ServerRequest,
        bounds: Bounds,
        gate: Option<&Gate>,
    ) -> Result<Answer, UpstreamFault> {
        let post = Post { gate: gate.cloned(), ..post(Some(id.clone()), request, link.session.as_ref())? };
        let answer = exchange::exchange(http, &self.origin.url, post, bounds).await;
        if link.session.is_some() && says_session_gone(&answer) {
            self.forget(link);
            return Err(UpstreamFault::SessionGone);
        }
        let status = match &answer {
            Ok(answer) => answer.status.as_u16(),
            Err(UpstreamFault::Status(status)) => *status,
            Err(_) => 200,
        };
        let inconclusive = matches!(status, 401 | 403 | 408 | 429) || status >= 500;
        if status >= 300 && !inconclusive {
            self.forget(link);
            self.origin.forget();
        }
        answer
    }

    fn forget(&self, link: &Arc<Link>) {
        // Another request may have linked anew meanwhile; that link stays.
        self.link.compare_and_swap(&Some(Arc::clone(link)), None);
    }

    async fn link(&self, http: &reqwest::Client, bounds: Bounds) -> Result<Arc<Link>, UpstreamFault> {
        if let Some(link) = self.link.load_full() {
            return Ok(link);
        }
        let _one_at_a_time = self.linking.lock().await;
        if let Some(link) = self.link.load_full() {
            return Ok(link);
        }
        let link = if self.origin.is_modern(http, bounds).await? {
            Link { era: Era::Modern, session: None }
        } else {
            // A server that takes no handshake any more may have changed its era.
            self.initialize(http, bounds).await.inspect_err(|_fault| self.origin.forget())?
        };
        tracing::debug!(url = self.origin.url, version = link.era.version(), "linked to a server");
        let link = Arc::new(link);
        self.link.store(Some(Arc::clone(&link)));
        Ok(link)
    }

    async fn initialize(&self, http: &reqwest::Client, bounds: Bounds) -> Result<Link, UpstreamFault> {
        let id = RequestId::from(0);
        let opening = post(Some(id.clone()), handshake::initialize_request(&id), None)?;
        let answer = exchange::exchange(http, &self.origin.url, opening, bounds).await?;
        let result = match answer.response {
            Response::Result(result) => result,
            Response::Error(error) => {
                return Err(UpstreamFault::Invalid(format!("initialize: error {}: {}", error.code, error.message)));
            }
        };
        let era = handshake::read_initialize(&result).map_err(|fault| UpstreamFault::Invalid(fault.to_string()))?;
        let link = Link { era, session: answer.session };
        let done = post(None, handshake::initialized_notification(era), link.session.as_ref())?;
        exchange::notify(http, &self.origin.url, done, bounds.timeout).await?;
        Ok(link)
    }
}

/// A legacy server that lost a session says 404; many say 400 and name the session, under a code of their own. Nothing
/// else counts: a call that may have run must not be sent again.
fn says_session_gone(answer: &Result<Answer, UpstreamFault>) -> bool {
    match answer {
        Ok(Answer { status: StatusCode::NOT_FOUND, .. }) | Err(UpstreamFault::Status(404)) => true,
        Ok(Answer { status: StatusCode::BAD_REQUEST, response: Response::Error(error), .. }) => {
            let is_of_transport = matches!(error.code, -32000 | -32001 | code::INVALID_REQUEST);
            is_of_transport && error.message.to_ascii_lowercase().contains("session")
        }
        Ok(_) | Err(_) => false,
    }
}

fn post(id: Option<RequestId>, request: ServerRequest, session: Option<&HeaderValue>) -> Result<Post, UpstreamFault> {
    let bad = || UpstreamFault::Invalid("a header for this server cannot be written".to_owned());
    let mut headers = Vec::with_capacity(request.headers.len() + 1);
    for (name, value) in request.headers {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        headers.push((name, HeaderValue::from_str(&value).map_err(|_| bad())?));
    }
    if let Some(session) = session {
        headers.push((HeaderName::from_static(header_name::SESSION_ID), session.clone()));
    }
    Ok(Post { id, headers, body: Bytes::from(request.body), gate: None })
}

#[cfg(test)]
impl Peer {
    /// A peer that already remembers a modern server.
    pub(super) fn linked_to_modern(url: &str) -> Self {
        let link = Arc::new(Link { era: Era::Modern, session: None });
        Self { origin: Arc::new(Origin::new(url)), link: ArcSwapOption::new(Some(link)), linking: Mutex::default() }
    }
}
