//! Replies to a client: results, and the one place where a refusal becomes HTTP and JSON-RPC.
//!
//! Used by the edge, and by the server for refusals that come later (`refuse_call`). A refusal decided by policy is
//! HTTP 200 with a JSON-RPC error of code 403; only where another token would do, it is HTTP 403 (more scope) or 401 (a
//! bound one) with a challenge that names it. What is malformed is HTTP 400; an unknown tool is invalid parameters. Every refusal of ours
//! carries `data: {reason, requestId, policies}`, and `consent` where that is why; errors whose data the protocol
//! defines carry that.

use bailiwick_policy::PolicyRef;
use bailiwick_proto::{
    Reason,
    mcp::{self, RequestId, RpcError, code},
    scope::Scopes,
};
use serde_json::{Value, json, value::RawValue};

use super::{Call, Exchange};
use crate::{caller::Caller, operation::Ended};

/// Longest name of an argument that is quoted.
const ARGUMENT_CHARS_SHOWN: usize = 64;

/// An HTTP answer. A body is always `application/json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpReply {
    /// HTTP status.
    pub status: u16,
    /// For the header `Mcp-Session-Id`.
    pub session_id: Option<String>,
    /// The JSON body; none for accepted notifications.
    pub body: Option<Vec<u8>>,
    /// Why the request was refused; for metrics and logs.
    pub reason: Option<Reason>,
    /// For the header `WWW-Authenticate`: a token with more scope, or one that is bound, would do.
    pub scope_needed: Option<ScopeNeeded>,
    /// Of a list of tools, how much of it the caller may not call and so does not see, in thousandths; for metrics.
    pub hidden_thousandths: Option<u64>,
    /// How the operation ended; for telemetry.
    pub ended: Ended,
}

/// What a client needs a token for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeNeeded {
    /// On which virtual server.
    pub virtual_server: String,
    /// With which scope, at least.
    pub scope: Scopes,
}

/// What a refusal is known by.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The id that stands in the records of the request.
    pub request_id: &'a str,
    /// The consent that the caller's token was issued on, where that may be why.
    pub consent: Option<&'a str>,
}

impl<'a> Names<'a> {
    /// Of a caller's request.
    #[must_use]
    pub fn of(request_id: &'a str, caller: &'a Caller) -> Self {
        Self { request_id, consent: Some(&caller.consent) }
    }

    /// Of a request that is refused whoever asks.
    #[must_use]
    pub const fn of_request(request_id: &'a str) -> Self {
        Self { request_id, consent: None }
    }
}

impl HttpReply {
    /// A successful answer.
    #[must_use]
    pub fn result(id: &RequestId, result: &RawValue) -> Self {
        Self::of_body(mcp::result_body(id, result))
    }

    /// A successful answer that is written already.
    pub(super) fn of_body(body: Vec<u8>) -> Self {
        let (body, ended) = (Some(body), Ended::well());
        Self { status: 200, session_id: None, body, reason: None, scope_needed: None, hidden_thousandths: None, ended }
    }

    /// A JSON-RPC error.
    #[must_use]
    pub fn error(status: u16, id: Option<&RequestId>, error: &RpcError, reason: Option<Reason>) -> Self {
        let body = Some(mcp::error_body(id, error));
        let ended = Ended::refused(error.code, reason);
        Self { status, session_id: None, body, reason, scope_needed: None, hidden_thousandths: None, ended }
    }

    /// This refusal of a call, as one that another token would have avoided, if that is so: one with more scope, or one
    /// that is bound.
    #[must_use]
    pub fn needing(self, call: &Call, scope: Option<Scopes>) -> Self {
        let Some(scope) = scope else { return self };
        let virtual_server = call.virtual_server.clone();
        let status = if self.reason == Some(Reason::BindingRequired) { 401 } else { 403 };
        Self { status, scope_needed: Some(ScopeNeeded { virtual_server, scope }), ..self }
    }

    pub(super) fn accepted() -> Self {
        let ended = Ended::well();
        let (reason, scope_needed) = (None, None);
        Self { status: 202, session_id: None, body: None, reason, scope_needed, hidden_thousandths: None, ended }
    }
}

/// No call waits, or no longer, for an answer under this id.
pub const NOBODY_WAITS: &str = "no request waits for an answer under this id";

/// The reply to a client's answer: whether it is on its way to the call that waits for it, or why not.
#[must_use]
pub fn answer_taken(request_id: &str, taken: Result<(), &str>) -> HttpReply {
    match taken {
        Ok(()) => HttpReply::accepted(),
        Err(message) => {
            let names = Names::of_request(request_id);
            with_reason(names, 400, code::INVALID_REQUEST, Reason::RequestMalformed, message, None)
        }
    }
}

/// Refuses a call for a reason found after it was admitted: the node's condition, the ledger, the server.
#[must_use]
pub fn refuse_call(call: &Call, names: Names<'_>, reason: Reason, policies: &[PolicyRef]) -> HttpReply {
    let error = RpcError {
        code: rpc_code(reason),
        message: reason.sentence().to_owned(),
        data: Some(mcp::raw(&data(reason, names, policies))),
    };
    HttpReply::error(200, Some(&call.id), &error, Some(reason))
}

/// Refuses a call that brings an argument which a view fixes, and says which.
pub(super) fn refuse_argument(call: &Call, request_id: &str, argument: &str) -> HttpReply {
    let reason = Reason::ArgumentFixed;
    let shown: String = argument.chars().take(ARGUMENT_CHARS_SHOWN).collect();
    let message = format!("the argument `{shown}` is set by this virtual server and cannot be sent");
    with_reason(Names::of_request(request_id), 200, rpc_code(reason), reason, &message, Some(&call.id))
}

/// The JSON-RPC code of a refused call.
pub(super) const fn rpc_code(reason: Reason) -> i64 {
    let by_server = matches!(
        reason,
        Reason::UpstreamUnreachable
            | Reason::UpstreamTimeout
            | Reason::UpstreamInvalid
            | Reason::UpstreamTooLarge
            | Reason::UpstreamRefused
            | Reason::UpstreamBusy
            | Reason::CommandNotAllowed
    );
    if by_server {
        code::INTERNAL_ERROR
    } else if matches!(
        reason,
        Reason::ToolUnknown
            | Reason::ArgumentFixed
            | Reason::PromptUnknown
            | Reason::ResourceUnknown
            | Reason::ResourceUriInvalid
            | Reason::TaskUnknown
    ) {
        code::INVALID_PARAMS
    } else {
        code::DENIED
    }
}

/// Whether the consent is why, or that it does not cover this.
const fn is_by_consent(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::ConsentMissing
            | Reason::ConsentRevoked
            | Reason::ConsentExpired
            | Reason::ConsentToolNotListed
            | Reason::ConsentLevelExceeded
    )
}

fn data(reason: Reason, names: Names<'_>, policies: &[PolicyRef]) -> Value {
    let policies: Vec<_> = policies.iter().map(|one| json!({"name": one.name, "version": one.version})).collect();
    let mut data = json!({"reason": reason.as_str(), "requestId": names.request_id, "policies": policies});
    if let (true, Some(consent), Some(members)) = (is_by_consent(reason), names.consent, data.as_object_mut()) {
        members.insert("consent".to_owned(), consent.into());
    }
    data
}

/// A refusal with its reason's own sentence.
pub(super) fn refused(
    exchange: &Exchange<'_>,
    status: u16,
    code: i64,
    reason: Reason,
    id: Option<&RequestId>,
) -> HttpReply {
    with_reason(exchange.names(), status, code, reason, reason.sentence(), id)
}

/// The message or its parameters break a rule, which the message names.
pub(super) fn malformed(
    exchange: &Exchange<'_>,
    status: u16,
    code: i64,
    message: &str,
    id: Option<&RequestId>,
) -> HttpReply {
    with_reason(exchange.names(), status, code, Reason::RequestMalformed, message, id)
}

/// The method is not served in this era.
pub(super) fn method_unsupported(exchange: &Exchange<'_>, status: u16, id: &RequestId) -> HttpReply {
    refused(exchange, status, code::METHOD_NOT_FOUND, Reason::MethodUnsupported, Some(id))
}

pub(super) fn with_reason(
    names: Names<'_>,
    status: u16,
    code: i64,
    reason: Reason,
    message: &str,
    id: Option<&RequestId>,
) -> HttpReply {
    let data = Some(mcp::raw(&data(reason, names, &[])));
    HttpReply::error(status, id, &RpcError { code, message: message.to_owned(), data }, Some(reason))
}

/// An error of the protocol's own, without data.
pub(super) fn plain_error(status: u16, code: i64, message: &str, id: Option<&RequestId>) -> HttpReply {
    let error = RpcError { code, message: message.to_owned(), data: None };
    HttpReply::error(status, id, &error, Some(Reason::RequestMalformed))
}

/// The client did not declare the extension that the method belongs to.
pub(super) fn extension_undeclared(extension: &str, id: &RequestId) -> HttpReply {
    let error = RpcError {
        code: code::MISSING_CLIENT_CAPABILITY,
        message: "Missing required client capability".to_owned(),
        data: Some(mcp::raw(&json!({"requiredCapabilities": {"extensions": {extension: {}}}}))),
    };
    HttpReply::error(400, Some(id), &error, Some(Reason::RequestMalformed))
}

/// The revision is not served; says which of its era are.
pub(super) fn unsupported_version(requested: &str, supported: &[&str], id: Option<&RequestId>) -> HttpReply {
    let error = RpcError {
        code: code::UNSUPPORTED_PROTOCOL_VERSION,
        message: "Unsupported protocol version".to_owned(),
        data: Some(mcp::raw(&json!({"supported": supported, "requested": requested}))),
    };
    HttpReply::error(400, id, &error, Some(Reason::RequestMalformed))
}
