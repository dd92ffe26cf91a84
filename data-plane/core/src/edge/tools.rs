//! `tools/list` and `tools/call`, the same in both eras but for the frame around them.
//!
//! Called by `legacy` and `modern` once a message's era and client are settled. Both ask `admission`: what is listed is
//! what may be called.

use std::sync::Arc;

use bailiwick_proto::{
    Reason,
    mcp::{Era, Headers, Members, RESULT_COMPLETE, Request, RequestId, code, meta_key},
};
use serde_json::{json, value::RawValue};

use super::{Exchange, HttpReply, Step, modern::TTL_MS, reply, server_info};
use crate::{
    admission::{Decision, ToolRef, admit, listable},
    config::Tool,
    header_params,
};

/// Longest tool name in a call: four bytes for each of the 128 characters MCP allows.
pub const TOOL_NAME_BYTES_MAX: usize = 512;

/// What a client calls itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) name: Option<String>,
    pub(super) version: Option<String>,
}

/// A call as the client made it.
#[derive(Clone, Debug)]
pub struct ToolCall {
    /// To be repeated in the answer.
    pub id: RequestId,
    /// How the client speaks.
    pub era: Era,
    /// The virtual server called on.
    pub virtual_server: String,
    /// The tool's name towards clients.
    pub name: String,
    /// An object, as it was written.
    pub arguments: Option<Box<RawValue>>,
    /// The request's `_meta`, as it was written.
    pub meta: Option<Box<RawValue>>,
    /// Self-reported.
    pub client_name: Option<String>,
    /// Self-reported.
    pub client_version: Option<String>,
    /// W3C trace id, from `traceparent`.
    pub trace_id: Option<String>,
    /// `Mcp-Param-…` headers of a modern client that the tool does not declare: to be passed on.
    pub unrecognised_params: Vec<(String, String)>,
}

/// A call that admission refused.
#[derive(Debug)]
pub struct DeniedCall {
    /// What was asked.
    pub call: ToolCall,
    /// Why not: its `reason` is always there.
    pub decision: Decision,
    /// To be sent once the refusal is recorded.
    pub reply: HttpReply,
}

/// A call that admission permits.
#[derive(Debug)]
pub struct PermittedCall {
    /// What was asked.
    pub call: ToolCall,
    /// On what grounds.
    pub decision: Decision,
    /// The tool to call.
    pub tool: Arc<Tool>,
}

/// All tools the caller may call, on one page, in the order of their names.
pub(super) fn list(exchange: &Exchange<'_>, era: Era, request: &Request) -> HttpReply {
    if request.members().get("cursor").is_some() {
        return reply::malformed(
            exchange,
            200,
            code::INVALID_PARAMS,
            "there is no page with this cursor",
            Some(&request.id),
        );
    }
    let listed = listable(exchange.config, exchange.caller, exchange.virtual_server, exchange.now_unix);
    let definitions: Vec<&str> = listed.iter().map(|tool| tool.definition.get()).collect();
    let definitions = definitions.join(",");
    let text = match era {
        Era::Legacy(_) => format!(r#"{{"tools":[{definitions}]}}"#),
        Era::Modern => {
            let info = json!({meta_key::SERVER_INFO: server_info()});
            format!(
                r#"{{"resultType":"{RESULT_COMPLETE}","tools":[{definitions}],"ttlMs":{TTL_MS},"cacheScope":"private","_meta":{info}}}"#
            )
        }
    };
    // INVARIANT: definitions are JSON texts and the frame is ours, so the whole is JSON.
    let result = RawValue::from_string(text).unwrap_or_else(|_not_json| RawValue::NULL.to_owned());
    let hidden_thousandths = Some(hidden_thousandths(exchange, listed.len()));
    HttpReply { hidden_thousandths, ..HttpReply::result(&request.id, &result) }
}

/// How much of the virtual server the caller does not see.
fn hidden_thousandths(exchange: &Exchange<'_>, listed: usize) -> u64 {
    let server = exchange.config.virtual_servers.get(exchange.virtual_server);
    let all = server.map_or(0, |server| server.tools.len());
    let hidden = all.saturating_sub(listed).saturating_mul(1_000).checked_div(all).unwrap_or(0);
    u64::try_from(hidden).unwrap_or(1_000)
}

pub(super) fn call(exchange: &Exchange<'_>, era: Era, client: Client, headers: &Headers, request: &Request) -> Step {
    let mut call = match read_call(exchange, era, client, request) {
        Ok(call) => call,
        Err(message) => {
            let id = Some(&request.id);
            return Step::Respond(reply::malformed(exchange, 200, code::INVALID_PARAMS, message, id));
        }
    };
    let asked = ToolRef { virtual_server: exchange.virtual_server, name: &call.name };
    let mut decision = admit(exchange.config, exchange.caller, asked, exchange.now_unix);
    if let (Era::Modern, Some(tool)) = (era, &decision.tool) {
        if let Err(fault) = header_params::check(&tool.header_params, headers, call.arguments.as_deref()) {
            return Step::Respond(reply::plain_error(400, code::HEADER_MISMATCH, &fault.to_string(), Some(&call.id)));
        }
        call.unrecognised_params = header_params::unrecognised(&tool.header_params, headers);
    }
    // Admission permits only tools it knows.
    let reason = match (decision.reason, decision.tool.clone()) {
        (None, Some(tool)) => return Step::Call(Box::new(PermittedCall { call, decision, tool })),
        (reason, _) => reason.unwrap_or(Reason::ToolUnknown),
    };
    decision.reason = Some(reason);
    let reply = reply::refuse_call(&call, exchange.request_id, reason, &decision.policies);
    Step::Deny(Box::new(DeniedCall { call, decision, reply }))
}

fn read_call(exchange: &Exchange<'_>, era: Era, client: Client, request: &Request) -> Result<ToolCall, &'static str> {
    let members = request.members();
    let name = members.required_string("name").map_err(|_absent| "`name` must be a string")?;
    if name.is_empty() || name.len() > TOOL_NAME_BYTES_MAX {
        return Err("`name` is not the name of a tool");
    }
    members.object("arguments").map_err(|_no_object| "`arguments` must be an object")?;
    let meta = members.object("_meta").map_err(|_no_object| "`_meta` must be an object")?;
    Ok(ToolCall {
        id: request.id.clone(),
        era,
        virtual_server: exchange.virtual_server.to_owned(),
        name,
        arguments: members.get("arguments").map(ToOwned::to_owned),
        trace_id: meta.as_ref().and_then(trace_id),
        meta: members.get("_meta").map(ToOwned::to_owned),
        client_name: client.name,
        client_version: client.version,
        unrecognised_params: Vec::new(),
    })
}

/// The trace id of a W3C `traceparent` (`00-<32 hex>-<16 hex>-<2 hex>`).
fn trace_id(meta: &Members<'_>) -> Option<String> {
    let parent = meta.string("traceparent").ok().flatten()?;
    let mut parts = parent.split('-');
    let (version, trace, span) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, len: usize| {
        text.len() == len && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let known = hex(version, 2) && hex(trace, 32) && hex(span, 16) && trace.bytes().any(|byte| byte != b'0');
    known.then(|| trace.to_owned())
}
