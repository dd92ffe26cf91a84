//! The server's side of a call: the request that is sent, and the answer that is released.
//!
//! Called by the upstream connector after the intent is recorded. The envelope is written anew from what was
//! authorised: the tool's own name, the arguments exactly as they were, a `_meta` of which only trace context and
//! vendors' keys come from the client. A result passes as it is, except that a modern client gets `resultType` where an
//! older server left it out. Errors in the band the protocol keeps for itself speak about our request, not the
//! client's, and become `upstream_invalid`. Deliberately absent: connections, credentials, server sessions
//! (`data-plane/server`). Specification: MCP 2026-07-28 basic and Streamable HTTP; 2025-11-25 transports.

use bailiwick_ledger_core::record::Status;
use bailiwick_proto::{
    Reason,
    mcp::{
        self, Era, Members, RESULT_COMPLETE, RequestId, Response, VERSION_2025_03_26, code, encode_value, header_name,
        meta_key, method,
    },
};
use serde_json::{json, value::RawValue};

use crate::{
    edge::{HttpReply, PermittedCall, ToolCall, refuse_call, server_info},
    header_params,
};

/// A POST to a server, without its credential and session id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerRequest {
    /// MCP's headers: lower-case names, encoded values. The connector adds content type and accept.
    pub headers: Vec<(String, String)>,
    /// JSON.
    pub body: Vec<u8>,
}

/// The request for a permitted call, as a server of this era expects it.
#[must_use]
pub fn call_request(permitted: &PermittedCall, era: Era, id: &RequestId) -> ServerRequest {
    let PermittedCall { call, tool, .. } = permitted;
    let name = mcp::raw(&tool.name);
    let meta = meta(call, era);
    let arguments = call.arguments.as_deref();
    let members = [
        Some(("name", &*name)),
        arguments.map(|text| ("arguments", text)),
        meta.as_deref().map(|text| ("_meta", text)),
    ];
    let params = mcp::raw_object(members.into_iter().flatten());
    let mut request = request(era, method::TOOLS_CALL, id, Some(&params));
    if era.is_modern() {
        request.headers.push((header_name::NAME.to_owned(), encode_value(&tool.name)));
        request.headers.extend(header_params::headers(&tool.header_params, arguments));
        request.headers.extend(call.unrecognised_params.iter().cloned());
    }
    request
}

/// Any request with the headers its era demands.
pub(crate) fn request(era: Era, rpc_method: &str, id: &RequestId, params: Option<&RawValue>) -> ServerRequest {
    let body = mcp::request_body(Some(id), rpc_method, params);
    ServerRequest { headers: headers(era, rpc_method), body }
}

pub(crate) fn headers(era: Era, rpc_method: &str) -> Vec<(String, String)> {
    let version = (header_name::PROTOCOL_VERSION.to_owned(), era.version().to_owned());
    match era {
        // The header came with the next revision.
        Era::Legacy(VERSION_2025_03_26) => Vec::new(),
        Era::Legacy(_) => vec![version],
        Era::Modern => vec![version, (header_name::METHOD.to_owned(), rpc_method.to_owned())],
    }
}

/// What every modern request says about itself. No client capability is passed on, because nothing a server asks of a
/// client is relayed.
pub(crate) fn own_meta() -> [(&'static str, Box<RawValue>); 3] {
    [
        (meta_key::PROTOCOL_VERSION, mcp::raw(Era::Modern.version())),
        (meta_key::CLIENT_CAPABILITIES, mcp::raw(&json!({}))),
        (meta_key::CLIENT_INFO, mcp::raw(&server_info())),
    ]
}

fn meta(call: &ToolCall, era: Era) -> Option<Box<RawValue>> {
    let sent = call.meta.as_deref().and_then(mcp::ordered_members).unwrap_or_default();
    let passed = |key: &str| !key.starts_with(meta_key::RESERVED_PREFIX) && key != meta_key::PROGRESS_TOKEN;
    let passed: Vec<_> =
        sent.iter().filter(|(key, _)| passed(key)).map(|(key, value)| (key.as_str(), *value)).collect();
    let own = if era.is_modern() { Vec::from(own_meta()) } else { Vec::new() };
    let all = own.iter().map(|(key, value)| (*key, &**value)).chain(passed);
    let all: Vec<_> = all.collect();
    (!all.is_empty()).then(|| mcp::raw_object(all))
}

/// How a forwarded call ended: what the client gets, and what the outcome's record says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// To be released once the outcome is recorded.
    pub reply: HttpReply,
    /// For the record.
    pub status: Status,
    /// For the record: a JSON-RPC code or a reason word.
    pub error_code: Option<String>,
    /// For the record: the server's result or error as it was received.
    pub payload: Option<Box<RawValue>>,
}

/// Shapes a server's answer, or the reason why there is none, for the client.
#[must_use]
pub fn answer(call: &ToolCall, request_id: &str, response: Result<Response, Reason>) -> Answer {
    match response {
        Err(reason) => failed(call, request_id, reason, None),
        Ok(Response::Result(result)) => match shaped(call.era, &result) {
            Some(shaped) => {
                let is_error = Members::of(&result).and_then(|members| members.read::<bool>("isError").ok().flatten());
                let status = if is_error == Some(true) { Status::ToolError } else { Status::Ok };
                Answer { reply: HttpReply::result(&call.id, &shaped), status, error_code: None, payload: Some(result) }
            }
            None => failed(call, request_id, Reason::UpstreamInvalid, Some(result)),
        },
        Ok(Response::Error(error)) => {
            let payload = mcp::raw(&json!({"code": error.code, "message": error.message}));
            if speaks_of_our_request(error.code) {
                return failed(call, request_id, Reason::UpstreamInvalid, Some(payload));
            }
            Answer {
                reply: HttpReply::error(200, Some(&call.id), &error, None),
                status: Status::Error,
                error_code: Some(error.code.to_string()),
                payload: Some(payload),
            }
        }
    }
}

fn failed(call: &ToolCall, request_id: &str, reason: Reason, payload: Option<Box<RawValue>>) -> Answer {
    let reply = refuse_call(call, request_id, reason, &[]);
    Answer { reply, status: Status::Error, error_code: Some(reason.as_str().to_owned()), payload }
}

/// Envelope, version and header faults: ours, since the envelope to the server is ours.
fn speaks_of_our_request(error_code: i64) -> bool {
    (-32099..=-32020).contains(&error_code)
        || matches!(error_code, code::PARSE_ERROR | code::INVALID_REQUEST | code::METHOD_NOT_FOUND)
}

/// The result for a client of this era. `None` when it is not a finished result: nothing was offered that would let a
/// server ask for input, and an unknown `resultType` is invalid.
fn shaped(era: Era, result: &RawValue) -> Option<Box<RawValue>> {
    let members = Members::of(result)?;
    match members.string("resultType") {
        Ok(Some(kind)) if kind == RESULT_COMPLETE => Some(result.to_owned()),
        Ok(None) if era.is_modern() => {
            let rest = result.get().strip_prefix('{')?;
            let comma = if members.is_empty() { "" } else { "," };
            RawValue::from_string(format!(r#"{{"resultType":"{RESULT_COMPLETE}"{comma}{rest}"#)).ok()
        }
        Ok(None) => Some(result.to_owned()),
        Ok(Some(_)) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests;
