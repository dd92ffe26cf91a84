//! Listening to changes, as clients ask for it: `subscriptions/listen` in the modern era, a GET stream with
//! `resources/subscribe` and `resources/unsubscribe` in the legacy one.
//!
//! Called by `modern`, `legacy` and, for GET, by the server. What is asked for is narrowed to what the caller may read;
//! what becomes of it is `listening`'s. Specification: MCP 2026-07-28 `subscriptions/listen`; 2025-11-25 transports,
//! "Listening for Messages from the Server", and resource subscriptions; extension `io.modelcontextprotocol/tasks`,
//! "Task Status Notifications".

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_proto::{
    Reason,
    mcp::{self, EXTENSION_TASKS, Headers, Request, RequestId, VERSION_2025_11_25, code},
};
use serde_json::value::RawValue;

use super::{Exchange, HttpReply, Names, Step, legacy, reply, tasks::declares};
use crate::{
    admission::{Wanted, What, admit},
    listening::{Hearer, Listener, Tasks, Wishes},
    sealed::{session::Session, subscription::Subscription, task::Task},
};

/// Names a legacy session without being one.
pub type SessionKey = [u8; 32];

/// A client that wants a stream of changes.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Whose stream it is.
    pub listener: Listener,
    /// What to be told of; resources that the caller may not read are left out.
    pub wishes: Wishes,
    /// The tasks among them.
    pub tasks: Tasks,
    /// What the client can be asked for: an object, as it was written.
    pub capabilities: Option<Box<RawValue>>,
    /// The legacy session it belongs to.
    pub session: Option<SessionKey>,
    /// What a legacy client had seen when it listened last.
    pub seen: Option<Subscription>,
    /// The client's revision has events that carry nothing but their id.
    pub is_primed: bool,
}

impl Listen {
    /// The reply when this node keeps no stream for the client.
    #[must_use]
    pub fn refuse(&self, request_id: &str, reason: Reason) -> HttpReply {
        let (status, id) = match &self.listener {
            Listener::Modern(id) => (200, Some(id)),
            Listener::Legacy => (503, None),
        };
        let names = Names::of_request(request_id);
        reply::with_reason(names, status, reply::rpc_code(reason), reason, reason.sentence(), id)
    }
}

/// A legacy client that wants to be told of a resource, or no longer.
#[derive(Clone, Debug)]
pub struct Subscribe {
    /// To be repeated in the answer.
    pub id: RequestId,
    /// Towards the client.
    pub uri: String,
    /// The server it is of.
    pub server: String,
    /// False: no longer.
    pub wished: bool,
    /// The session it belongs to.
    pub session: SessionKey,
    /// What the client can be asked for: an object, as it was written.
    pub capabilities: Option<Box<RawValue>>,
}

/// Why a subscription was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The server has no subscriptions.
    Unsupported,
    /// The client has too many.
    TooMany,
    /// The server, or this node, cannot at the moment.
    Unable(Reason),
}

impl Subscribe {
    /// The reply: whether it was taken.
    #[must_use]
    pub fn reply(&self, names: Names<'_>, taken: Result<(), NotTaken>) -> HttpReply {
        let refuse =
            |code, reason: Reason, message: &str| reply::with_reason(names, 200, code, reason, message, Some(&self.id));
        match taken {
            Ok(()) => HttpReply::result(&self.id, &mcp::raw_object([])),
            Err(NotTaken::Unsupported) => {
                let message = "this resource's server cannot tell when it changes";
                refuse(code::METHOD_NOT_FOUND, Reason::MethodUnsupported, message)
            }
            Err(NotTaken::TooMany) => {
                refuse(code::INVALID_PARAMS, Reason::RequestMalformed, "the session has too many subscriptions")
            }
            Err(NotTaken::Unable(reason)) => refuse(reply::rpc_code(reason), reason, reason.sentence()),
        }
    }
}

/// `subscriptions/listen`.
pub(super) fn modern(exchange: &Exchange<'_>, capabilities: Option<Box<RawValue>>, request: &Request) -> Step {
    let wishes = match Wishes::of(&request.members()) {
        Ok(wishes) => wishes,
        Err(fault) => {
            let message = fault.to_string();
            return Step::Respond(reply::malformed(exchange, 200, code::INVALID_PARAMS, &message, Some(&request.id)));
        }
    };
    if !wishes.tasks.is_empty() && !declares(capabilities.as_deref()) {
        return Step::Respond(reply::extension_undeclared(EXTENSION_TASKS, &request.id));
    }
    let opened = |id: &String| {
        let task = Task::open(exchange.sealing_keys, exchange.caller, id, exchange.now_unix).ok()?;
        Some((id.clone(), task))
    };
    let tasks = wishes.tasks.iter().filter_map(opened).collect();
    let wishes = hearer(exchange, &tasks).permitted(&wishes);
    Step::Listen(Box::new(Listen {
        listener: Listener::Modern(request.id.clone()),
        wishes,
        tasks,
        capabilities,
        session: None,
        seen: None,
        is_primed: false,
    }))
}

/// `resources/subscribe` and `resources/unsubscribe`.
pub(super) fn subscribe(
    exchange: &Exchange<'_>,
    session: (&Session, SessionKey),
    request: &Request,
    wished: bool,
) -> Step {
    let id = Some(&request.id);
    let Ok(uri) = request.members().required_string("uri") else {
        return Step::Respond(reply::malformed(exchange, 200, code::INVALID_PARAMS, "`uri` must be a string", id));
    };
    let wanted = Wanted { virtual_server: exchange.virtual_server, what: What::Resource(&uri) };
    let decision = admit(exchange.config, exchange.caller, wanted, exchange.now_unix);
    let reason = match (decision.reason, decision.server()) {
        (None, Some(server)) => {
            let server = server.to_owned();
            let capabilities = Some(session.0.capabilities.json().to_owned());
            let subscribe = Subscribe { id: request.id.clone(), uri, server, wished, session: session.1, capabilities };
            return Step::Subscribe(Box::new(subscribe));
        }
        (reason, _) => reason.unwrap_or(Reason::ResourceUnknown),
    };
    Step::Respond(reply::refused(exchange, 200, reply::rpc_code(reason), reason, id))
}

/// A legacy client's GET: all of its headers.
///
/// # Errors
/// The reply to send instead of a stream.
pub fn listen<'h>(
    exchange: &Exchange<'_>,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
) -> Result<Listen, HttpReply> {
    let headers: Vec<_> = headers.into_iter().collect();
    let values = |wanted: &'static str| {
        let found = headers.iter().filter(move |(name, _)| name.eq_ignore_ascii_case(wanted));
        found.filter_map(|(_, value)| std::str::from_utf8(value).ok())
    };
    let ranges = values("accept").flat_map(|value| value.split(','));
    let mut ranges = ranges.map(|range| range.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    if !ranges.any(|range| matches!(range.as_str(), "text/event-stream" | "text/*" | "*/*")) {
        let message = "the client must accept text/event-stream";
        return Err(reply::malformed(exchange, 406, code::INVALID_REQUEST, message, None));
    }
    let last_event = values("last-event-id").next();
    let picked = Headers::pick(headers.iter().copied());
    let picked = picked.map_err(|fault| reply::plain_error(400, code::INVALID_REQUEST, &fault.to_string(), None))?;
    if !exchange.config.virtual_servers.contains_key(exchange.virtual_server) {
        return Err(reply::refused(exchange, 404, code::INVALID_PARAMS, Reason::VirtualServerUnknown, None));
    }
    let session = legacy::session(exchange, &picked, None)?;
    let key = session_key(&picked);
    let seen = last_event
        .and_then(|text| Subscription::open(exchange.sealing_keys, exchange.caller, text, exchange.now_unix).ok());
    let seen = seen.map(|seen| {
        let wishes = Wishes { uris: seen.uris.into_iter().collect(), ..Wishes::default() };
        Subscription { uris: hearer(exchange, &Tasks::new()).permitted(&wishes).uris.into_iter().collect(), ..seen }
    });
    Ok(Listen {
        listener: Listener::Legacy,
        wishes: Wishes::lists(),
        tasks: Tasks::new(),
        capabilities: Some(session.capabilities.json().to_owned()),
        session: Some(key),
        seen,
        is_primed: session.era.version() == VERSION_2025_11_25,
    })
}

/// INVARIANT: the headers hold a session id that opened.
pub(super) fn session_key(headers: &Headers) -> SessionKey {
    let id = headers.session_id.as_deref().unwrap_or_default();
    let mut key = [0; 32];
    key.copy_from_slice(digest(&SHA256, id.as_bytes()).as_ref());
    key
}

fn hearer<'a>(exchange: &Exchange<'a>, tasks: &'a Tasks) -> Hearer<'a> {
    let Exchange { config, caller, virtual_server, now_unix, .. } = *exchange;
    Hearer { config, caller, virtual_server, now_unix, tasks, capabilities: None }
}
