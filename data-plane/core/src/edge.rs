//! The client's edge: one HTTP body in, one `Step` out, for both eras of MCP.
//!
//! Called by the listener for every authenticated POST. Everything is decided from the request itself, the
//! configuration and the arguments in `Exchange`; nothing is remembered. A `Step` says what the server has to do: send
//! a reply, record a refusal and send the reply, or record the intent and forward the call.
//!
//! Era: `_meta` with the modern keys, or a modern version header, makes a request modern; everything else is legacy and
//! needs a session from `initialize`. `modern` and `legacy` know their methods, and refuse any other; what is governed
//! one by one is in `calls` (what views fix of it, in `fixed`) and `tasks`, finding tools in `search`, lists in `lists` and `tools`, changes in `listen`, greetings in
//! `introduction`. Deliberately absent: tokens, Origin, DELETE (`data-plane/server`).
//! Specification: MCP 2026-07-28 Streamable HTTP and versioning; 2025-11-25 lifecycle and transports.

mod calls;
mod fixed;
mod introduction;
mod legacy;
mod listen;
mod lists;
mod modern;
mod params;
mod reply;
mod search;
mod tasks;
mod tools;

use std::sync::LazyLock;

use bailiwick_proto::{
    Reason,
    mcp::{self, Headers, MODERN_VERSIONS, Message, RequestId, code},
};
use serde_json::{json, value::RawValue};

pub use calls::{Call, Completion, DeniedCall, PermittedCall, Retry, TOOL_NAME_BYTES_MAX};
pub use introduction::Introduction;
pub use listen::{Listen, NotTaken, SessionKey, Subscribe, listen};
pub use lists::{ListRequest, SetLevel};
pub use params::Params;
pub use reply::{HttpReply, NOBODY_WAITS, Names, ScopeNeeded, answer_taken, refuse_call};
pub(crate) use tasks::declares;
pub use tasks::without_tasks;

use crate::{
    caller::Caller,
    config::Config,
    operation::Seen,
    sealed::{SealNonce, SealingKeys, answer::Answer},
};

/// What a request is answered from.
#[derive(Clone, Copy, Debug)]
pub struct Exchange<'a> {
    /// The configuration in force.
    pub config: &'a Config,
    /// Who asks; verified.
    pub caller: &'a Caller,
    /// The virtual server in the URL.
    pub virtual_server: &'a str,
    /// Keys for what clients bring back.
    pub sealing_keys: &'a SealingKeys,
    /// A fresh nonce, for the one envelope that an answer may hold.
    pub nonce: SealNonce,
    /// Unix seconds.
    pub now_unix: i64,
    /// A fresh id; stands in refusals and in the records of this request.
    pub request_id: &'a str,
}

impl<'a> Exchange<'a> {
    /// What a refusal of the request is known by.
    fn names(&self) -> Names<'a> {
        Names::of(self.request_id, self.caller)
    }
}

/// What the server has to do next.
#[derive(Debug)]
pub enum Step {
    /// Send this.
    Respond(HttpReply),
    /// Record that the call was denied (`records::denied`), then send its reply.
    Deny(Box<DeniedCall>),
    /// Find out what the servers behind the virtual server can do, then send `Introduction::reply`.
    Introduce(Introduction),
    /// Ask the servers for a page of a list (`listing`), then send `ListRequest::page` or `failed`.
    List(Box<ListRequest>),
    /// Tell the servers that keep logs, then send `SetLevel::reply`.
    SetLevel(SetLevel),
    /// Keep a stream of changes for the client (`listening`).
    Listen(Box<Listen>),
    /// Tell the stream of the session, wherever it is, then send `Subscribe::reply`.
    Subscribe(Box<Subscribe>),
    /// Bring a client's answer to the call that waits for it, then send `answer_taken`.
    Answer(Answer),
    /// Ask `admission::node_gate`, record the intent (`records::intent`), forward (`forward::call_request`), record the
    /// outcome, release (`forward::answer`).
    Call(Box<PermittedCall>),
}

/// Answers one POST: all of its headers and its whole body. With the step comes what telemetry tells of the request.
#[must_use]
pub fn handle<'h>(
    exchange: &Exchange<'_>,
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    body: &[u8],
) -> (Step, Option<Seen>) {
    let headers: Vec<_> = headers.into_iter().collect();
    if let Err(reply) = check_media(exchange, &headers) {
        return (Step::Respond(reply), None);
    }
    match mcp::read_message(body) {
        Ok(message) => read(exchange, headers, &message),
        Err((fault, id)) => {
            let reply = reply::malformed(exchange, 400, fault.code(), &fault.to_string(), id.as_ref());
            (Step::Respond(reply), None)
        }
    }
}

fn read(exchange: &Exchange<'_>, headers: Vec<(&str, &[u8])>, message: &Message) -> (Step, Option<Seen>) {
    let params = Params::of(message);
    match Headers::pick(headers) {
        Ok(headers) => {
            let mut seen = Seen::of(message, &params, Some(&headers));
            let step = step(exchange, &headers, (message, &params));
            if let Some(seen) = &mut seen {
                search::tell(&step, seen);
            }
            (step, seen)
        }
        Err(fault) => {
            let reply = reply::plain_error(400, code::HEADER_MISMATCH, &fault.to_string(), id_of(message));
            (Step::Respond(reply), Seen::of(message, &params, None))
        }
    }
}

const fn id_of(message: &Message) -> Option<&RequestId> {
    match message {
        Message::Request(request) => Some(&request.id),
        Message::Notification(_) => None,
        Message::Reply(reply) => Some(&reply.id),
    }
}

fn step(exchange: &Exchange<'_>, headers: &Headers, (message, params): (&Message, &Params<'_>)) -> Step {
    let id = id_of(message);
    if !exchange.config.virtual_servers.contains_key(exchange.virtual_server) {
        return Step::Respond(reply::refused(exchange, 404, code::INVALID_PARAMS, Reason::VirtualServerUnknown, id));
    }
    match message {
        Message::Request(request) if modern::claims(headers, params, &request.method) => {
            modern::request(exchange, headers, (request, params))
        }
        Message::Request(request) => legacy::request(exchange, headers, (request, params)),
        Message::Notification(notification) if modern::claims(headers, params, &notification.method) => {
            modern::notification(headers, &notification.method, params)
        }
        Message::Notification(_) => legacy::notification(exchange, headers),
        Message::Reply(reply) if headers.protocol_version.as_deref().is_some_and(is_modern) => {
            let message = "clients of this revision answer within a request of their own";
            Step::Respond(reply::malformed(exchange, 400, code::INVALID_REQUEST, message, Some(&reply.id)))
        }
        Message::Reply(reply) => legacy::answer(exchange, headers, reply.clone()),
    }
}

fn is_modern(version: &str) -> bool {
    MODERN_VERSIONS.contains(&version)
}

/// A body must be JSON, and the client must be able to read both forms of an answer.
fn check_media(exchange: &Exchange<'_>, headers: &[(&str, &[u8])]) -> Result<(), HttpReply> {
    let values = |wanted: &'static str| {
        let same = move |(name, _): &&(&str, &[u8])| name.eq_ignore_ascii_case(wanted);
        headers.iter().filter(same).filter_map(|(_, value)| std::str::from_utf8(value).ok())
    };
    let is = |value: &str, kind: &str| value.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(kind);
    let refuse = |status, message| Err(reply::malformed(exchange, status, code::INVALID_REQUEST, message, None));
    let mut types = values("content-type");
    match (types.next(), types.next()) {
        (Some(one), None) if is(one, "application/json") => {}
        _ => return refuse(415, "the content type must be application/json"),
    }
    let accepts = |kind: &str, range: &str| {
        let mut accepted = values("accept").flat_map(|value| value.split(','));
        accepted.any(|one| is(one, kind) || is(one, range) || is(one, "*/*"))
    };
    if !accepts("application/json", "application/*") || !accepts("text/event-stream", "text/*") {
        return refuse(406, "the client must accept application/json and text/event-stream");
    }
    Ok(())
}

/// Methods whose every use is decided and recorded one by one.
pub fn governed_methods() -> impl Iterator<Item = &'static str> {
    calls::GOVERNED.into_iter().chain(tasks::GOVERNED)
}

/// What the gateway calls itself, as JSON.
pub(crate) static SERVER_INFO: LazyLock<Box<RawValue>> = LazyLock::new(|| mcp::raw(&server_info()));

/// What the gateway calls itself.
pub(crate) fn server_info() -> serde_json::Value {
    json!({"name": "bailiwick", "version": env!("CARGO_PKG_VERSION")})
}

#[cfg(test)]
mod tests;
