//! Modern requests: everything stands in the request itself, mirrored in headers that must agree.
//!
//! Called by `edge`. Checked in the order of how much the rest depends on it: the version in `_meta`, the version
//! header, whether the version is served, the other required `_meta`, then the mirrored headers; then the method.
//! Specification: MCP 2026-07-28 basic, "Per-request protocol fields"; Streamable HTTP, "Server Validation";
//! versioning.

use bailiwick_proto::mcp::{self, Headers, LEGACY_VERSIONS, MODERN_VERSIONS, Request, code, meta_key, method};

use super::{
    Exchange, HttpReply, Introduction, Params, Step, calls, legacy::implementation, listen, lists, reply, tasks, tools,
};
use crate::listing::Listed;

/// How long a client may reuse a list or discovery, milliseconds. Short: a call is decided anew anyway, but a list that
/// shows what is gone confuses people.
pub(super) const TTL_MS: u32 = 5_000;

/// Is this message written in the modern era?
pub(super) fn claims(headers: &Headers, Params { meta, .. }: &Params<'_>, rpc_method: &str) -> bool {
    if meta.get(meta_key::PROTOCOL_VERSION).is_some() || meta.get(meta_key::CLIENT_CAPABILITIES).is_some() {
        return true;
    }
    match &headers.protocol_version {
        Some(version) if LEGACY_VERSIONS.contains(&version.as_str()) => false,
        Some(version) => MODERN_VERSIONS.contains(&version.as_str()),
        // Only modern clients send this header.
        None => headers.method.is_some() && headers.session_id.is_none() && rpc_method != method::INITIALIZE,
    }
}

pub(super) fn request(exchange: &Exchange<'_>, headers: &Headers, (request, params): (&Request, &Params<'_>)) -> Step {
    let client = match check(exchange, headers, (request, params)) {
        Ok(client) => client,
        Err(reply) => return Step::Respond(reply),
    };
    match request.method.as_str() {
        method::DISCOVER => Step::Introduce(Introduction {
            id: request.id.clone(),
            era: mcp::Era::Modern,
            capabilities: client.capabilities,
            session_id: None,
        }),
        method::LISTEN => listen::modern(exchange, client.capabilities, request),
        method::TOOLS_LIST => Step::Respond(tools::list(exchange, mcp::Era::Modern, request)),
        other => match (Listed::by(other), calls::governed(other)) {
            (Some(listed), _) => lists::list(exchange, mcp::Era::Modern, client.capabilities, request, listed),
            (None, Some(governed)) => {
                let asked = (request, params, governed);
                calls::call(exchange, (mcp::Era::Modern, client), headers, asked)
            }
            (None, None) => match tasks::governed(other) {
                Some(governed) => tasks::task(exchange, client, (request, params, governed)),
                None => Step::Respond(reply::method_unsupported(exchange, 404, &request.id)),
            },
        },
    }
}

/// Modern notifications over HTTP have no effect here; the specification defines none and demands no headers. One whose
/// headers contradict it is refused all the same.
pub(super) fn notification(headers: &Headers, rpc_method: &str, params: &Params<'_>) -> Step {
    let mirrored = mcp::mirrored_headers(rpc_method, &params.all);
    match mirrored.check(headers, false) {
        Ok(()) => Step::Respond(HttpReply::accepted()),
        Err(fault) => Step::Respond(reply::plain_error(400, code::HEADER_MISMATCH, &fault.to_string(), None)),
    }
}

fn check(
    exchange: &Exchange<'_>,
    headers: &Headers,
    (request, Params { all, meta }): (&Request, &Params<'_>),
) -> Result<calls::Client, HttpReply> {
    let id = Some(&request.id);
    let missing = |what: &str| {
        let message = format!("`_meta` must hold `{what}`");
        Err(reply::malformed(exchange, 400, code::INVALID_PARAMS, &message, id))
    };
    let Ok(Some(version)) = meta.string(meta_key::PROTOCOL_VERSION) else { return missing(meta_key::PROTOCOL_VERSION) };
    if headers.protocol_version.as_ref() != Some(&version) {
        let message = "the header `MCP-Protocol-Version` does not match the body";
        return Err(reply::plain_error(400, code::HEADER_MISMATCH, message, id));
    }
    if !MODERN_VERSIONS.contains(&version.as_str()) {
        return Err(reply::unsupported_version(&version, &MODERN_VERSIONS, id));
    }
    let Ok(Some(_declared)) = meta.object(meta_key::CLIENT_CAPABILITIES) else {
        return missing(meta_key::CLIENT_CAPABILITIES);
    };
    mcp::mirrored_headers(&request.method, all)
        .check(headers, true)
        .map_err(|fault| reply::plain_error(400, code::HEADER_MISMATCH, &fault.to_string(), id))?;
    let (name, version) = implementation(meta.get(meta_key::CLIENT_INFO));
    let capabilities = meta.get(meta_key::CLIENT_CAPABILITIES).map(ToOwned::to_owned);
    Ok(calls::Client { name, version, capabilities })
}
