//! Legacy requests: `initialize`, then a sealed session id on everything.
//!
//! Called by `edge`. A request without a session id gets 400, one with an id that does not open gets 404, which tells
//! the client to start again. The session's revision counts; a version header must name a revision served here.
//! Specification: MCP 2025-11-25 lifecycle; transports, "Session Management" and "Protocol Version Header".

use bailiwick_proto::{
    Reason,
    mcp::{self, Era, Headers, LEGACY_VERSIONS, Members, Request, VERSION_2025_11_25, code, method},
};
use serde_json::{json, value::RawValue};

use super::{Exchange, HttpReply, Step, reply, server_info, tools};
use crate::session::Session;

pub(super) fn request(exchange: &Exchange<'_>, headers: &Headers, request: &Request) -> Step {
    if request.method == method::INITIALIZE {
        return Step::Respond(initialize(exchange, request));
    }
    let session = match session(exchange, headers, Some(&request.id)) {
        Ok(session) => session,
        Err(reply) => return Step::Respond(reply),
    };
    match request.method.as_str() {
        method::PING => Step::Respond(HttpReply::result(&request.id, &mcp::raw(&json!({})))),
        method::TOOLS_LIST => Step::Respond(tools::list(exchange, session.era, request)),
        method::TOOLS_CALL => {
            let client = tools::Client { name: session.client_name, version: session.client_version };
            tools::call(exchange, session.era, client, headers, request)
        }
        _ => Step::Respond(reply::method_unsupported(exchange, 200, &request.id)),
    }
}

/// Notifications change nothing here, but only a client with a session may send them.
pub(super) fn notification(exchange: &Exchange<'_>, headers: &Headers) -> Step {
    match session(exchange, headers, None) {
        Ok(_) => Step::Respond(HttpReply::accepted()),
        Err(reply) => Step::Respond(reply),
    }
}

fn session(exchange: &Exchange<'_>, headers: &Headers, id: Option<&mcp::RequestId>) -> Result<Session, HttpReply> {
    if let Some(version) = &headers.protocol_version
        && !LEGACY_VERSIONS.contains(&version.as_str())
    {
        return Err(reply::unsupported_version(version, id));
    }
    let Some(session_id) = &headers.session_id else {
        let message = "a session id is required; send `initialize` first";
        return Err(reply::malformed(exchange, 400, code::INVALID_REQUEST, message, id));
    };
    let opened = exchange.session_keys.open(exchange.caller, session_id, exchange.now_unix);
    opened.map_err(|_unknown| reply::refused(exchange, 404, code::INVALID_REQUEST, Reason::SessionUnknown, id))
}

fn initialize(exchange: &Exchange<'_>, request: &Request) -> HttpReply {
    let members = request.members();
    let Ok(asked) = members.required_string("protocolVersion") else {
        let message = "`protocolVersion` must be a string";
        return reply::malformed(exchange, 200, code::INVALID_PARAMS, message, Some(&request.id));
    };
    let era = Era::of_version(&asked).filter(|era| !era.is_modern()).unwrap_or(Era::Legacy(VERSION_2025_11_25));
    let (client_name, client_version) = implementation(members.get("clientInfo"));
    let session = Session { era, client_name, client_version, issued_at: exchange.now_unix };
    let Ok(session_id) = exchange.session_keys.seal(exchange.caller, &session, exchange.session_nonce) else {
        return reply::refused(exchange, 503, code::INTERNAL_ERROR, Reason::ConfigStale, Some(&request.id));
    };
    let result = mcp::raw(&json!({
        "protocolVersion": era.version(),
        "capabilities": {"tools": {"listChanged": false}},
        "serverInfo": server_info(),
    }));
    HttpReply { session_id: Some(session_id), ..HttpReply::result(&request.id, &result) }
}

/// What a peer calls itself; absent or ill-formed parts are left out.
pub(super) fn implementation(info: Option<&RawValue>) -> (Option<String>, Option<String>) {
    let members = info.and_then(Members::of).unwrap_or_default();
    let text = |key| members.string(key).ok().flatten();
    (text("name"), text("version"))
}
