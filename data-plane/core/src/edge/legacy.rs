//! Legacy requests: `initialize`, then a sealed session id on everything.
//!
//! Called by `edge`. A request without a session id gets 400, one with an id that does not open gets 404, which tells
//! the client to start again. The session's revision counts; a version header must name a revision served here.
//! Specification: MCP 2025-11-25 lifecycle; transports, "Session Management" and "Protocol Version Header".

use bailiwick_proto::{
    Reason,
    mcp::{self, Era, Headers, LEGACY_VERSIONS, Members, Reply, Request, RequestId, VERSION_2025_11_25, code, method},
};
use serde_json::{json, value::RawValue};

use super::{Exchange, HttpReply, Introduction, Params, SetLevel, Step, calls, listen, lists, reply, tools};
use crate::{
    listing::Listed,
    relay::Level,
    sealed::{
        answer::Answer,
        ask::Ask,
        session::{Capabilities, Session},
    },
};

pub(super) fn request(exchange: &Exchange<'_>, headers: &Headers, (request, params): (&Request, &Params<'_>)) -> Step {
    if request.method == method::INITIALIZE {
        return initialize(exchange, request);
    }
    let session = match session(exchange, headers, Some(&request.id)) {
        Ok(session) => session,
        Err(reply) => return Step::Respond(reply),
    };
    match request.method.as_str() {
        method::PING => Step::Respond(HttpReply::result(&request.id, &mcp::raw(&json!({})))),
        method::TOOLS_LIST => Step::Respond(tools::list(exchange, session.era, request)),
        method::RESOURCES_SUBSCRIBE | method::RESOURCES_UNSUBSCRIBE => {
            let wished = request.method == method::RESOURCES_SUBSCRIBE;
            listen::subscribe(exchange, (&session, listen::session_key(headers)), request, wished)
        }
        method::SET_LEVEL => set_level(exchange, &session, request),
        other => {
            let capabilities = Some(session.capabilities.json().to_owned());
            match (Listed::by(other), calls::governed(other)) {
                (Some(listed), _) => lists::list(exchange, session.era, capabilities, request, listed),
                (None, Some(governed)) => {
                    let (name, version) = (session.client_name, session.client_version);
                    let client = calls::Client { name, version, capabilities };
                    calls::call(exchange, (session.era, client), headers, (request, params, governed))
                }
                (None, None) => Step::Respond(reply::method_unsupported(exchange, 200, &request.id)),
            }
        }
    }
}

/// Notifications change nothing here, but only a client with a session may send them.
pub(super) fn notification(exchange: &Exchange<'_>, headers: &Headers) -> Step {
    match session(exchange, headers, None) {
        Ok(_) => Step::Respond(HttpReply::accepted()),
        Err(reply) => Step::Respond(reply),
    }
}

/// A client answers what a server asked: its id says which call waits for the answer.
pub(super) fn answer(exchange: &Exchange<'_>, headers: &Headers, answer: Reply) -> Step {
    if let Err(reply) = session(exchange, headers, Some(&answer.id)) {
        return Step::Respond(reply);
    }
    let opened = match &answer.id {
        RequestId::Text(id) => Ask::open(exchange.sealing_keys, exchange.caller, id, exchange.now_unix).ok(),
        RequestId::Integer(_) => None,
    };
    match opened {
        Some(Ask { id, waiter, .. }) => Step::Answer(Answer { waiter, id, answered: answer.answer }),
        None => Step::Respond(reply::answer_taken(exchange.request_id, Err(reply::NOBODY_WAITS))),
    }
}

pub(super) fn session(
    exchange: &Exchange<'_>,
    headers: &Headers,
    id: Option<&mcp::RequestId>,
) -> Result<Session, HttpReply> {
    if let Some(version) = &headers.protocol_version
        && !LEGACY_VERSIONS.contains(&version.as_str())
    {
        return Err(reply::unsupported_version(version, &LEGACY_VERSIONS, id));
    }
    let Some(session_id) = &headers.session_id else {
        let message = "a session id is required; send `initialize` first";
        return Err(reply::malformed(exchange, 400, code::INVALID_REQUEST, message, id));
    };
    let opened = Session::open(exchange.sealing_keys, exchange.caller, session_id, exchange.now_unix);
    opened.map_err(|_unknown| reply::refused(exchange, 404, code::INVALID_REQUEST, Reason::SessionUnknown, id))
}

fn set_level(exchange: &Exchange<'_>, session: &Session, request: &Request) -> Step {
    let level = request.members().string("level").ok().flatten();
    let Some(level) = level.as_deref().and_then(Level::from_word) else {
        let message = "`level` must be one of the levels of RFC 5424, in lower case";
        return Step::Respond(reply::malformed(exchange, 200, code::INVALID_PARAMS, message, Some(&request.id)));
    };
    let capabilities = Some(session.capabilities.json().to_owned());
    Step::SetLevel(SetLevel { id: request.id.clone(), level, capabilities })
}

fn initialize(exchange: &Exchange<'_>, request: &Request) -> Step {
    let members = request.members();
    let Ok(asked) = members.required_string("protocolVersion") else {
        let message = "`protocolVersion` must be a string";
        return Step::Respond(reply::malformed(exchange, 200, code::INVALID_PARAMS, message, Some(&request.id)));
    };
    let era = Era::of_version(&asked).filter(|era| !era.is_modern()).unwrap_or(Era::Legacy(VERSION_2025_11_25));
    let (client_name, client_version) = implementation(members.get("clientInfo"));
    let session = Session {
        era,
        client_name,
        client_version,
        capabilities: Capabilities::of(members.get("capabilities")),
        issued_at: exchange.now_unix,
    };
    let Ok(session_id) = session.seal(exchange.sealing_keys, exchange.caller, exchange.nonce) else {
        let (code, reason) = (code::INTERNAL_ERROR, Reason::ConfigStale);
        return Step::Respond(reply::refused(exchange, 503, code, reason, Some(&request.id)));
    };
    let capabilities = Some(session.capabilities.json().to_owned());
    Step::Introduce(Introduction { id: request.id.clone(), era, capabilities, session_id: Some(session_id) })
}

/// What a peer calls itself; absent or ill-formed parts are left out.
pub(super) fn implementation(info: Option<&RawValue>) -> (Option<String>, Option<String>) {
    let members = info.and_then(Members::of).unwrap_or_default();
    let text = |key| members.string(key).ok().flatten();
    (text("name"), text("version"))
}
