//! One server as one caller meets it: the server's era and, for a legacy server, a session of that caller's own.
//!
//! Called by `upstream`. The first request finds the era out, for all callers (`Origin`); requests that come meanwhile
//! wait for the same attempt. What says nothing about the era (401, 403, 429, 5xx, timeouts) is an error and not
//! remembered. A server that answers in a way that does not fit what is remembered is asked anew before the next
//! request. A legacy session is never shared between callers (`Principal`): many servers keep state in it, and one
//! person's would show to the next. While a call is under way whose client can be asked, a legacy server can ask on the
//! session's own stream too (`session_stream`). Specification: MCP 2026-07-28 versioning; 2025-11-25 transports, "Session
//! Management".

pub(super) mod events;
mod listen;
mod session_stream;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use bailiwick_data_plane_core::{
    forward::{ServerRequest, list_request},
    handshake::{self, Probe},
    relay::{self, Level},
    trace::Carried,
};
use bailiwick_proto::mcp::{Era, Members, RequestId, Response, VERSION_2025_11_25, code, header_name, method, raw};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::value::RawValue;
use tokio::sync::{Mutex, mpsc};

pub(crate) use self::listen::Notifications;
pub(super) use self::session_stream::Room;
use self::session_stream::{At, SessionStream};
use super::{
    context::Context,
    exchange::{self, Answer, Bounds, Ear, Heard, Post},
    fault::UpstreamFault,
    gate::Gate,
    route::{self, Route},
};

/// On whose behalf this node speaks to a server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Principal {
    /// The gateway itself, to see which tools there are.
    Gateway,
    /// A person through an agent whose client can be asked for these things: an object, as it was written. A legacy
    /// server learns that once a session.
    Caller { user: Arc<str>, agent: Arc<str>, capabilities: Option<Arc<str>> },
}

/// What the probe found out.
#[derive(Debug)]
struct Known {
    is_modern: bool,
    /// What a modern server says that it can do: an object.
    capabilities: Option<Box<RawValue>>,
}

/// The way to a server, and its era once that is known.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(super) route: Arc<Route>,
    known: ArcSwapOption<Known>,
    /// Held while the era is being found out, so that it happens once.
    probing: Mutex<()>,
}

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Peer {
    origin: Arc<Origin>,
    /// What the client behind it can be asked for: an object.
    capabilities: Option<Box<RawValue>>,
    /// From which level on the client wants a legacy server's log, if it has said so.
    level: ArcSwapOption<Level>,
    room: Room,
    link: ArcSwapOption<Link>,
    /// Held while a session is being opened, so that it happens once.
    linking: Mutex<()>,
}

/// What goes with a request, beside it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Aside<'a> {
    /// Asked when the request could leave.
    pub(crate) gate: Option<&'a Gate>,
    /// Where what the server says beside its answer goes; who listens also ends what takes too long.
    pub(crate) heard: Option<&'a mpsc::Sender<Heard>>,
    /// For whom it is sent, where that was decided.
    pub(crate) context: Option<&'a Context>,
    /// Doing it twice is doing it once.
    pub(crate) repeats: bool,
}

/// What is remembered.
#[derive(Debug)]
struct Link {
    era: Era,
    /// Of a legacy server that wants one.
    session: Option<HeaderValue>,
    /// What the server says that it can do: an object.
    capabilities: Option<Box<RawValue>>,
    /// Of a legacy server.
    stream: Option<Arc<SessionStream>>,
}

impl Link {
    /// A legacy server that keeps a log.
    fn logs(&self) -> bool {
        let told = self.capabilities.as_deref().and_then(Members::of).unwrap_or_default();
        !self.era.is_modern() && told.get("logging").is_some()
    }
}

impl Origin {
    pub(super) const fn new(route: Arc<Route>) -> Self {
        Self { route, known: ArcSwapOption::const_empty(), probing: Mutex::const_new(()) }
    }

    async fn known(&self, bounds: Bounds) -> Result<Arc<Known>, UpstreamFault> {
        if let Some(known) = self.known.load_full() {
            return Ok(known);
        }
        let _one_at_a_time = self.probing.lock().await;
        if let Some(known) = self.known.load_full() {
            return Ok(known);
        }
        let known = Arc::new(self.probe(bounds).await?);
        self.known.store(Some(Arc::clone(&known)));
        Ok(known)
    }

    fn forget(&self) {
        self.known.store(None);
    }

    async fn probe(&self, bounds: Bounds) -> Result<Known, UpstreamFault> {
        let id = RequestId::from(0);
        let post = post(Some(id.clone()), handshake::discover_request(&id), None)?;
        let (status, answer) = match exchange::exchange(&self.route, post, bounds, None).await {
            Ok(answer) => (answer.status.as_u16(), Some(answer.response)),
            Err(UpstreamFault::Status(status)) => (status, None),
            // Some old servers answer what they do not know with something that is no JSON-RPC.
            Err(UpstreamFault::Invalid(_)) => (200, None),
            Err(fault) => return Err(fault),
        };
        match handshake::read_probe(status, answer.as_ref()) {
            Probe::Inconclusive => Err(UpstreamFault::Status(status)),
            Probe::Legacy => Ok(Known { is_modern: false, capabilities: None }),
            Probe::Modern => {
                let capabilities = match &answer {
                    Some(Response::Result(result)) => handshake::capabilities(result),
                    Some(Response::Error(_)) | None => None,
                };
                Ok(Known { is_modern: true, capabilities })
            }
        }
    }
}

impl Peer {
    pub(crate) fn new(origin: Arc<Origin>, principal: &Principal, room: Room) -> Self {
        let capabilities = match principal {
            Principal::Gateway => None,
            Principal::Caller { capabilities, .. } => capabilities.clone(),
        };
        let capabilities = capabilities.and_then(|text| RawValue::from_string(text.as_ref().to_owned()).ok());
        let (level, link) = (ArcSwapOption::empty(), ArcSwapOption::empty());
        Self { origin, capabilities, level, room, link, linking: Mutex::default() }
    }

    /// What the server says that it can do: an object.
    pub(crate) async fn capabilities(&self, bounds: Bounds) -> Result<Option<Box<RawValue>>, UpstreamFault> {
        Ok(self.link(bounds).await?.capabilities.clone())
    }

    /// The revision spoken, once that is known.
    pub(crate) fn era(&self) -> Option<Era> {
        self.link.load().as_ref().map(|link| link.era)
    }

    /// Sends the request that `request` makes for the server's era; once more if the session turns out to be gone.
    pub(crate) async fn ask(
        &self,
        id: &RequestId,
        request: impl Fn(Era) -> ServerRequest,
        (bounds, handshake): (Bounds, Bounds),
        aside: Aside<'_>,
    ) -> Result<Answer, UpstreamFault> {
        let link = self.link(handshake).await?;
        match self.ask_over(id, &link, request(link.era), bounds, aside).await {
            Err(UpstreamFault::SessionGone) => {
                let link = self.link(handshake).await?;
                self.ask_over(id, &link, request(link.era), bounds, aside).await
            }
            answer => answer,
        }
    }

    /// From which level on the client wants the log from now on, in sessions too that are opened later. Whether a
    /// session that is open has to be told.
    pub(crate) fn want_level(&self, level: Level) -> bool {
        let before = self.level.swap(Some(Arc::new(level)));
        before.as_deref() != Some(&level) && self.link.load().as_ref().is_some_and(|link| link.logs())
    }

    /// Tells a legacy server that keeps a log the level that is wanted; opens a session where there is none.
    pub(crate) async fn tell_level(&self, id: &RequestId, bounds: Bounds) -> Result<(), UpstreamFault> {
        let (link, level) = (self.link(bounds).await?, self.level.load_full());
        let Some(level) = level.filter(|_| link.logs()) else { return Ok(()) };
        let request = |era| level_request(era, id, *level);
        self.ask(id, request, (bounds, bounds), Aside::default()).await.map(|_taken| ())
    }

    /// Sends an answer to a request of a legacy server's, under the session it was asked in.
    pub(crate) async fn answer(
        &self,
        (body, context): (Vec<u8>, Option<&Context>),
        session: Option<&HeaderValue>,
        timeout: Duration,
    ) -> Result<(), UpstreamFault> {
        // Only the version goes with it, where the revision has that header.
        let era = self.link.load_full().map_or(Era::Legacy(VERSION_2025_11_25), |link| link.era);
        let ServerRequest { headers, .. } = handshake::initialized_notification(era);
        let post = post(None, ServerRequest { headers, body }, session)?;
        exchange::notify(&self.origin.route, Post { context: context.cloned(), ..post }, timeout).await
    }

    /// Sends a notification to a legacy server that is linked; to any other, nothing.
    pub(crate) async fn notify_legacy(&self, body: Vec<u8>, timeout: Duration) -> Result<(), UpstreamFault> {
        let Some(link) = self.link.load_full().filter(|link| !link.era.is_modern()) else { return Ok(()) };
        let ServerRequest { headers, .. } = handshake::initialized_notification(link.era);
        let post = post(None, ServerRequest { headers, body }, link.session.as_ref())?;
        exchange::notify(&self.origin.route, post, timeout).await
    }

    async fn ask_over(
        &self,
        id: &RequestId,
        link: &Arc<Link>,
        request: ServerRequest,
        bounds: Bounds,
        aside: Aside<'_>,
    ) -> Result<Answer, UpstreamFault> {
        let post = post(Some(id.clone()), request, link.session.as_ref())?;
        // Within a legacy session an id means one request: only what is not in one is sent again once it has left.
        let repeats = aside.repeats && link.session.is_none();
        let (gate, context) = (aside.gate.cloned(), aside.context.cloned());
        let post = Post { gate, context, resumes: !link.era.is_modern(), repeats, ..post };
        let _attending = match (aside.heard, &link.stream) {
            (Some(heard), Some(stream)) if link.session.is_some() && self.can_be_asked() => {
                Some(stream.attend(id, heard).await)
            }
            _ => None,
        };
        let ear = aside.heard.map(|heard| Ear { era: link.era, session: link.session.clone(), heard: heard.clone() });
        let answer = exchange::exchange(&self.origin.route, post, bounds, ear.as_ref()).await;
        if link.session.is_some() && says_session_gone(&answer) {
            self.forget(link);
            return Err(UpstreamFault::SessionGone);
        }
        let status = match &answer {
            Ok(answer) => answer.status.as_u16(),
            Err(UpstreamFault::Status(status) | UpstreamFault::Redirected(status)) => *status,
            Err(_) => 200,
        };
        let inconclusive = matches!(status, 401 | 403 | 408 | 429) || status >= 500;
        if status >= 300 && !inconclusive {
            self.forget(link);
            self.origin.forget();
        }
        answer
    }

    fn can_be_asked(&self) -> bool {
        relay::can_be_asked(self.capabilities.as_deref())
    }

    fn forget(&self, link: &Arc<Link>) {
        // Another request may have linked anew meanwhile; that link stays.
        self.link.compare_and_swap(&Some(Arc::clone(link)), None);
    }

    async fn link(&self, bounds: Bounds) -> Result<Arc<Link>, UpstreamFault> {
        if let Some(link) = self.link.load_full() {
            return Ok(link);
        }
        let _one_at_a_time = self.linking.lock().await;
        if let Some(link) = self.link.load_full() {
            return Ok(link);
        }
        let known = self.origin.known(bounds).await?;
        let link = if known.is_modern {
            Link { era: Era::Modern, session: None, capabilities: known.capabilities.clone(), stream: None }
        } else {
            // A server that takes no handshake any more may have changed its era.
            self.initialize(bounds).await.inspect_err(|_fault| self.origin.forget())?
        };
        tracing::debug!(url = self.origin.route.url, version = link.era.version(), "linked to a server");
        let link = Arc::new(link);
        self.link.store(Some(Arc::clone(&link)));
        Ok(link)
    }

    async fn initialize(&self, bounds: Bounds) -> Result<Link, UpstreamFault> {
        let id = RequestId::from(0);
        let opening = post(Some(id.clone()), handshake::initialize_request(&id, self.capabilities.as_deref()), None)?;
        let answer = exchange::exchange(&self.origin.route, opening, bounds, None).await?;
        let result = match answer.response {
            Response::Result(result) => result,
            Response::Error(error) => {
                return Err(UpstreamFault::Invalid(format!("initialize: error {}: {}", error.code, error.message)));
            }
        };
        let era = handshake::read_initialize(&result).map_err(|fault| UpstreamFault::Invalid(fault.to_string()))?;
        let session = answer.session;
        let at = At { route: Arc::clone(&self.origin.route), era, session: session.clone(), bounds };
        let stream = Some(SessionStream::new(at, self.room.clone()));
        let link = Link { era, session, capabilities: handshake::legacy_capabilities(&result), stream };
        let done = post(None, handshake::initialized_notification(era), link.session.as_ref())?;
        exchange::notify(&self.origin.route, done, bounds.timeout).await?;
        if let Some(level) = self.level.load_full().filter(|_| link.logs()) {
            let id = RequestId::Text("level".into());
            let told = post(Some(id.clone()), level_request(era, &id, *level), link.session.as_ref())?;
            if let Err(fault) = exchange::exchange(&self.origin.route, told, bounds, None).await {
                tracing::debug!(url = self.origin.route.url, %fault, "a server does not take the level of its log");
            }
        }
        Ok(link)
    }
}

pub(super) fn level_request(era: Era, id: &RequestId, level: Level) -> ServerRequest {
    list_request(era, id, (method::SET_LEVEL, &[("level", raw(level.word()))]), None, &Carried::default())
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
    let mut headers = route::headers([]);
    for (name, value) in request.headers {
        headers.append(header_named(&name).ok_or_else(bad)?, HeaderValue::try_from(value).map_err(|_| bad())?);
    }
    if let Some(session) = session {
        headers.append(HeaderName::from_static(header_name::SESSION_ID), session.clone());
    }
    let body = Bytes::from(request.body);
    Ok(Post { id, headers, body, gate: None, context: None, resumes: false, repeats: false })
}

/// Those of every request are there already.
fn header_named(name: &str) -> Option<HeaderName> {
    match name {
        header_name::PROTOCOL_VERSION => Some(HeaderName::from_static(header_name::PROTOCOL_VERSION)),
        header_name::METHOD => Some(HeaderName::from_static(header_name::METHOD)),
        header_name::NAME => Some(HeaderName::from_static(header_name::NAME)),
        name => HeaderName::from_bytes(name.as_bytes()).ok(),
    }
}

#[cfg(test)]
impl Peer {
    /// A peer that already remembers a modern server.
    pub(super) fn linked_to_modern(origin: &Arc<Origin>, room: Room) -> Self {
        let link = Arc::new(Link { era: Era::Modern, session: None, capabilities: None, stream: None });
        let link = ArcSwapOption::new(Some(link));
        Self { link, ..Self::new(Arc::clone(origin), &Principal::Gateway, room) }
    }
}
