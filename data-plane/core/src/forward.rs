//! The server's side of a call: the request that is sent, and the answer that is released.
//!
//! Called by the upstream connector after the intent is recorded. The envelope is written anew from what was
//! authorised: the tool's own name, the arguments exactly as they were, a `_meta` of which only trace context, vendors'
//! keys, the log level and what the client can be asked for come from the client. A result passes as it is, except that a modern client gets `resultType` where an
//! older server left it out. Errors in the band the protocol keeps for itself speak about our request, not the
//! client's, and become `upstream_invalid`. A result that says that the call goes on as a task, and what becomes of
//! it, is `tasks`'. Deliberately absent: connections, credentials, server sessions
//! (`data-plane/server`). Specification: MCP 2026-07-28 basic and Streamable HTTP; 2025-11-25 transports.

pub mod tasks;

use std::sync::LazyLock;

use bailiwick_ledger_core::record::Status;
use bailiwick_proto::{
    Reason,
    mcp::{
        self, Era, Members, RESULT_COMPLETE, RESULT_INPUT_REQUIRED, RESULT_TASK, RequestId, Response, RpcError,
        VERSION_2025_03_26, code, encode_value, header_name, meta_key, method,
    },
};
use serde_json::{json, value::RawValue};

use crate::{
    edge::{Call, Completion, HttpReply, Names, PermittedCall, SERVER_INFO, refuse_call},
    header_params,
    naming::Naming,
    operation::Ended,
    relay::capability_for,
    sealed::request_state::RequestState,
    shown,
    trace::Carried,
    wanted::Found,
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
    let PermittedCall { call, found, .. } = permitted;
    let own = call.task.as_ref().map_or_else(|| own_name(found), |task| &task.id);
    let (name, meta) = (mcp::raw(own), meta(call, era, id));
    let retry = if era.is_modern() { brought(call) } else { Vec::new() };
    let mut members = subject(call, &name);
    members.extend(retry.iter().map(|(key, value)| (*key, &**value)));
    members.extend(meta.as_deref().map(|meta| ("_meta", meta)));
    let params = match &call.completion {
        None => mcp::raw_object(members),
        Some(completion) => complete_params(completion, &name, meta.as_deref()),
    };
    let mut request = request(era, call.method, id, Some(&params));
    if era.is_modern() && call.completion.is_none() {
        request.headers.push((header_name::NAME.to_owned(), encode_value(own)));
    }
    if era.is_modern()
        && call.task.is_none()
        && let Found::Tool(tool) = found
    {
        request.headers.extend(header_params::headers(&tool.header_params, call.arguments.as_deref()));
        request.headers.extend(call.unrecognised_params.iter().cloned());
    }
    request
}

/// The name at its server.
fn own_name(found: &Found) -> &str {
    match found {
        Found::Tool(tool) | Found::Task(tool) => &tool.name,
        Found::Prompt(own) | Found::Resource(own) => &own.name,
    }
}

/// What is called with what.
fn subject<'a>(call: &'a Call, name: &'a RawValue) -> Vec<(&'static str, &'a RawValue)> {
    let key = match (&call.task, call.method) {
        (Some(_), _) => "taskId",
        (None, method::RESOURCES_READ) => "uri",
        (None, _) => "name",
    };
    let arguments = call.arguments.as_deref().map(|arguments| ("arguments", arguments));
    [Some((key, name)), arguments].into_iter().flatten().collect()
}

/// The input that was asked for, and the server's own state, exactly as it was.
fn brought(call: &Call) -> Vec<(&'static str, Box<RawValue>)> {
    let state = match &call.retry.state {
        Some(RequestState::Server(state)) => state.as_deref().map(mcp::raw),
        Some(RequestState::Waiting(_)) | None => None,
    };
    let responses = call.retry.responses.clone().map(|responses| ("inputResponses", responses));
    responses.into_iter().chain(state.map(|state| ("requestState", state))).collect()
}

fn complete_params(completion: &Completion, name: &RawValue, meta: Option<&RawValue>) -> Box<RawValue> {
    let (kind, key) = if completion.of_template { ("ref/resource", "uri") } else { ("ref/prompt", "name") };
    let kind = mcp::raw(kind);
    let of = mcp::raw_object([("type", &*kind), (key, name)]);
    let members = [
        Some(("ref", &*of)),
        Some(("argument", &*completion.argument)),
        completion.context.as_deref().map(|context| ("context", context)),
        meta.map(|meta| ("_meta", meta)),
    ];
    mcp::raw_object(members.into_iter().flatten())
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

/// Asks a server for a page of a list.
#[must_use]
pub fn list_request(
    era: Era,
    id: &RequestId,
    (rpc_method, params): (&str, &[(&str, Box<RawValue>)]),
    capabilities: Option<&RawValue>,
    trace: &Carried,
) -> ServerRequest {
    let carried = trace.to_members();
    let mut own = if era.is_modern() { Vec::from(own_meta(capabilities)) } else { Vec::new() };
    own.extend(carried.iter().map(|(key, value)| (*key, &**value)));
    let meta = mcp::raw_object(own.iter().copied());
    let members = params.iter().map(|(key, value)| (*key, &**value));
    let members: Vec<_> = members.chain((!own.is_empty()).then_some(("_meta", &*meta))).collect();
    let params = (!members.is_empty()).then(|| mcp::raw_object(members));
    request(era, rpc_method, id, params.as_deref())
}

/// What every modern request says about itself, and about the client behind it.
pub(crate) fn own_meta(capabilities: Option<&RawValue>) -> [(&'static str, &RawValue); 3] {
    static VERSION: LazyLock<Box<RawValue>> = LazyLock::new(|| mcp::raw(Era::Modern.version()));
    static NOTHING: LazyLock<Box<RawValue>> = LazyLock::new(|| mcp::raw_object([]));
    [
        (meta_key::PROTOCOL_VERSION, &VERSION),
        (meta_key::CLIENT_CAPABILITIES, capabilities.unwrap_or(&NOTHING)),
        (meta_key::CLIENT_INFO, &SERVER_INFO),
    ]
}

fn meta(call: &Call, era: Era, id: &RequestId) -> Option<Box<RawValue>> {
    let sent = call.meta.as_deref().and_then(mcp::ordered_members).unwrap_or_default();
    let passed = |key: &str| !key.starts_with(meta_key::RESERVED_PREFIX) && key != meta_key::PROGRESS_TOKEN;
    let level = if era.is_modern() { log_level(call).map(|level| mcp::raw(&level)) } else { None };
    // Under a token of this request's own: two clients may have chosen the same.
    let wants_progress = sent.iter().any(|(key, _)| key == meta_key::PROGRESS_TOKEN);
    let progress = if wants_progress { RawValue::from_string(id.to_json()).ok() } else { None };
    let own = era.is_modern().then(|| own_meta(call.capabilities.as_deref()));
    let wishes = [
        level.as_deref().map(|level| (meta_key::LOG_LEVEL, level)),
        progress.as_deref().map(|id| (meta_key::PROGRESS_TOKEN, id)),
    ];
    let passed_on = sent.iter().filter(|(key, _)| passed(key)).map(|(key, value)| (key.as_ref(), *value));
    let mut all = own.into_iter().flatten().chain(wishes.into_iter().flatten()).chain(passed_on).peekable();
    all.peek().is_some().then(|| mcp::raw_object(all))
}

/// From which level on log lines are wanted. A legacy client leaves that to the server, which a modern one leaves to us.
fn log_level(call: &Call) -> Option<String> {
    match call.era {
        Era::Legacy(_) => Some("info".to_owned()),
        Era::Modern => call.meta.as_deref().and_then(Members::of)?.string(meta_key::LOG_LEVEL).ok().flatten(),
    }
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

/// Whose answer it is.
#[derive(Clone, Copy, Debug)]
pub struct Answerer<'a> {
    /// How the client knows what the server has.
    pub naming: &'a Naming,
    /// Its name.
    pub server: &'a str,
    /// How it speaks, where that is known. In the legacy era there are no tasks.
    pub era: Option<Era>,
}

/// What the client has to bring back, to be sealed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keepsake {
    /// With the same request, together with the input that was asked for.
    State(RequestState),
    /// To ask what has become of the call.
    Task {
        /// At the server.
        id: String,
        /// How long the server keeps it, from now on; `None`: for ever, or it does not say.
        ttl_ms: Option<u64>,
    },
}

/// Shapes a server's answer, or the reason why there is none, for the client. What the client has to bring back goes
/// through `seal`.
#[must_use]
pub fn answer(
    call: &Call,
    request_id: &str,
    response: Result<Response, Reason>,
    of: Answerer<'_>,
    seal: impl FnOnce(Keepsake) -> Option<String>,
) -> Answer {
    let Answerer { naming, server, .. } = of;
    match response {
        Err(reason) => failed(call, request_id, reason, None),
        Ok(Response::Result(result)) => {
            let answered = shaped(call, &result, of, seal).and_then(|shaped| released(call, &result, &shaped, of));
            answered.unwrap_or_else(|| failed(call, request_id, Reason::UpstreamInvalid, Some(result)))
        }
        Ok(Response::Error(error)) => {
            let payload = mcp::raw(&json!({"code": error.code, "message": error.message}));
            if speaks_of_our_request(error.code) {
                return failed(call, request_id, Reason::UpstreamInvalid, Some(payload));
            }
            let error = shown::error(call.method, naming, server, in_words_of(call.era, call.method, error));
            let error = match &call.task {
                Some(task) => tasks::error(&task.id, error),
                None => error,
            };
            // The one error of the protocol's own that speaks of the client: it did not declare what the server needs.
            let lacks = error.code == code::MISSING_CLIENT_CAPABILITY && call.era.is_modern();
            Answer {
                reply: HttpReply::error(if lacks { 400 } else { 200 }, Some(&call.id), &error, None),
                status: Status::Error,
                error_code: Some(error.code.to_string()),
                payload: Some(payload),
            }
        }
    }
}

/// What the client gets of a result of a kind it can have, and what is recorded of it.
fn released(call: &Call, result: &RawValue, shaped: &RawValue, of: Answerer<'_>) -> Option<Answer> {
    if let (Some(task), method::TASKS_GET) = (&call.task, call.method) {
        let followed = tasks::Followed { id: &call.name, own: &task.id, capabilities: call.capabilities.as_deref() };
        let tasks::Seen { shown, status, error_code, payload, .. } = tasks::seen(&followed, shaped, &of)?;
        let reply = HttpReply::result(&call.id, &shown);
        let payload = payload.or_else(|| Some(result.to_owned()));
        return Some(Answer { reply, status, error_code, payload });
    }
    let shown = shown::result(call.method, of.naming, of.server, shaped);
    let members = Members::of(result).unwrap_or_default();
    let is_error = members.read::<bool>("isError").ok().flatten() == Some(true);
    let status = if is_error { Status::ToolError } else { Status::Ok };
    let kind = members.string("resultType").ok().flatten();
    let error_code = kind.filter(|kind| [RESULT_INPUT_REQUIRED, RESULT_TASK].contains(&kind.as_str()));
    let ended = if is_error { Ended::tool_failed() } else { Ended::well() };
    let reply = HttpReply { ended, ..HttpReply::result(&call.id, &shown) };
    Some(Answer { reply, status, error_code, payload: Some(result.to_owned()) })
}

/// A legacy server has a code of its own for a resource that is not there; the modern era calls that invalid parameters.
fn in_words_of(era: Era, rpc_method: &str, error: RpcError) -> RpcError {
    let is_old_word = error.code == code::RESOURCE_NOT_FOUND && rpc_method == method::RESOURCES_READ;
    if is_old_word && era.is_modern() { RpcError { code: code::INVALID_PARAMS, ..error } } else { error }
}

/// Is this a result that asks the client for input first?
#[must_use]
pub fn asks_for_input(result: &RawValue) -> bool {
    let kind = Members::of(result).and_then(|members| members.string("resultType").ok()?);
    kind.as_deref() == Some(RESULT_INPUT_REQUIRED)
}

fn failed(call: &Call, request_id: &str, reason: Reason, payload: Option<Box<RawValue>>) -> Answer {
    let reply = refuse_call(call, Names::of_request(request_id), reason, &[]);
    Answer { reply, status: Status::Error, error_code: Some(reason.as_str().to_owned()), payload }
}

/// Envelope, version and header faults: ours, since the envelope to the server is ours.
fn speaks_of_our_request(error_code: i64) -> bool {
    ((-32099..=-32020).contains(&error_code) && error_code != code::MISSING_CLIENT_CAPABILITY)
        || matches!(error_code, code::PARSE_ERROR | code::INVALID_REQUEST | code::METHOD_NOT_FOUND)
}

/// The result for the client. `None` when it is none that this client can be given: an unknown `resultType` is invalid,
/// and only a modern client can be asked for input by a result.
fn shaped(
    call: &Call,
    result: &RawValue,
    of: Answerer<'_>,
    seal: impl FnOnce(Keepsake) -> Option<String>,
) -> Option<Box<RawValue>> {
    let members = Members::of(result)?;
    let is_modern = call.era.is_modern();
    let cached = is_modern && call.method == method::RESOURCES_READ;
    match members.string("resultType") {
        Ok(Some(kind)) if kind == RESULT_COMPLETE && cached => Some(shown::cacheable(result)),
        Ok(Some(kind)) if kind == RESULT_COMPLETE => Some(result.to_owned()),
        Ok(Some(kind)) if kind == RESULT_INPUT_REQUIRED && is_modern => sealed(call, result, &members, seal),
        Ok(Some(kind)) if kind == RESULT_TASK && is_modern && of.era.is_none_or(Era::is_modern) => {
            tasks::created(call, result, &members, seal)
        }
        Ok(None) if is_modern => {
            let complete = mcp::raw(RESULT_COMPLETE);
            let own = mcp::ordered_members(result)?;
            let own = own.iter().map(|(key, value)| (key.as_ref(), *value));
            let all = mcp::raw_object([("resultType", &*complete)].into_iter().chain(own));
            Some(if cached { shown::cacheable(&all) } else { all })
        }
        Ok(None) => Some(result.to_owned()),
        Ok(Some(_)) | Err(_) => None,
    }
}

/// A request for input, with the server's state sealed. It may ask only for what the client declared.
fn sealed(
    call: &Call,
    result: &RawValue,
    members: &Members<'_>,
    seal: impl FnOnce(Keepsake) -> Option<String>,
) -> Option<Box<RawValue>> {
    if call.completion.is_some() || call.task.is_some() || !may_ask(call.capabilities.as_deref(), members) {
        return None;
    }
    let Some(state) = members.string("requestState").ok()? else {
        // One of the two has to be there.
        return members.get("inputRequests").map(|_asked| result.to_owned());
    };
    let sealed = mcp::raw(&seal(Keepsake::State(RequestState::Server(Some(state))))?);
    let own = mcp::ordered_members(result)?;
    Some(mcp::raw_object(
        own.iter().map(|(key, value)| (key.as_ref(), if key == "requestState" { &*sealed } else { *value })),
    ))
}

/// Whether all that is asked of a client is what it declared.
fn may_ask(capabilities: Option<&RawValue>, members: &Members<'_>) -> bool {
    let Ok(asked) = members.object("inputRequests") else { return false };
    let declared = capabilities.and_then(Members::of).unwrap_or_default();
    asked.unwrap_or_default().iter().all(|(_, request)| {
        let asks = Members::of(request).and_then(|request| request.string("method").ok()?);
        asks.as_deref().and_then(capability_for).is_some_and(|capability| declared.get(capability).is_some())
    })
}

#[cfg(test)]
mod tests;
