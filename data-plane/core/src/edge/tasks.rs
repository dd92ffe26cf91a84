//! Tasks: what has become of a call that goes on at its server, the input it waits for, and its end.
//!
//! Called by `modern`; the legacy era has no such tasks. A task's id is a sealed envelope (`sealed::task`) that says
//! which tool of which server it is of. It is no authority: whoever asks must be permitted to call that tool now, so
//! what is revoked, quarantined or no longer permitted closes its tasks too. Looking at a task is reading; giving it
//! input or ending it is as much as calling the tool. What a server answers is `forward::tasks`'.
//! Specification: extension `io.modelcontextprotocol/tasks` (SEP-2663), methods and "Protocol Errors".

use bailiwick_proto::{
    Reason,
    mcp::{self, EXTENSION_TASKS, Era, Members, Request, code, method},
};
use serde_json::value::RawValue;

use super::{
    Call, DeniedCall, Exchange, Params, PermittedCall, Step,
    calls::{Client, Retry, trace_id_of},
    reply,
};
use crate::{
    admission::{Wanted, admit},
    sealed::task::{TASK_ID_BYTES_MAX, Task},
    wanted::Found,
};

/// Methods of the extension that are served.
pub(super) const GOVERNED: [&str; 3] = [method::TASKS_GET, method::TASKS_UPDATE, method::TASKS_CANCEL];

/// Which of [`GOVERNED`] this is; `None` for all others.
pub(super) fn governed(rpc_method: &str) -> Option<&'static str> {
    GOVERNED.into_iter().find(|known| *known == rpc_method)
}

/// Whether what a peer declares names the tasks extension.
pub(crate) fn declares(capabilities: Option<&RawValue>) -> bool {
    // A text without it, and without escapes in which it could hide, need not be looked into.
    let may_name_it = |text: &str| text.contains(EXTENSION_TASKS) || text.contains('\\');
    let declared = capabilities.filter(|text| may_name_it(text.get())).and_then(Members::of).unwrap_or_default();
    declared.object("extensions").ok().flatten().is_some_and(|known| known.get(EXTENSION_TASKS).is_some())
}

/// What a peer declares, without the tasks extension: for those who cannot have tasks.
#[must_use]
pub fn without_tasks(declared: &RawValue) -> Box<RawValue> {
    if !declares(Some(declared)) {
        return declared.to_owned();
    }
    let members = mcp::ordered_members(declared).unwrap_or_default();
    let carried = |extensions: &RawValue| {
        let known = mcp::ordered_members(extensions).unwrap_or_default();
        let others = known.iter().filter(|(name, _)| name != EXTENSION_TASKS);
        mcp::raw_object(others.map(|(name, settings)| (name.as_ref(), *settings)))
    };
    let members: Vec<_> = members
        .iter()
        .map(|(name, value)| (name.as_ref(), if name == "extensions" { carried(value) } else { (*value).to_owned() }))
        .collect();
    mcp::raw_object(members.iter().map(|(name, value)| (*name, &**value)))
}

/// `tasks/get`, `tasks/update` or `tasks/cancel` of a modern client.
pub(super) fn task(
    exchange: &Exchange<'_>,
    client: Client,
    (request, params, rpc_method): (&Request, &Params<'_>, &'static str),
) -> Step {
    if !declares(client.capabilities.as_deref()) {
        return Step::Respond(reply::extension_undeclared(EXTENSION_TASKS, &request.id));
    }
    let mut call = match read(exchange, client, (request, params), rpc_method) {
        Ok(call) => call,
        Err(message) => {
            let id = Some(&request.id);
            return Step::Respond(reply::malformed(exchange, 200, code::INVALID_PARAMS, message, id));
        }
    };
    let opened = Task::open(exchange.sealing_keys, exchange.caller, &call.name, exchange.now_unix);
    call.task = opened.ok();
    let wanted = Wanted { virtual_server: exchange.virtual_server, what: call.what() };
    let mut decision = admit(exchange.config, exchange.caller, wanted, exchange.now_unix);
    // Permission is asked for the tool and its tier, whatever is wanted of the task.
    if rpc_method == method::TASKS_GET {
        decision.found = decision.found.map(Found::looked_at);
    }
    let reason = match (decision.reason, decision.found.clone()) {
        (None, Some(found)) => return Step::Call(Box::new(PermittedCall { call, decision, found })),
        (reason, _) => reason.unwrap_or(Reason::TaskUnknown),
    };
    decision.reason = Some(reason);
    let reply = reply::refuse_call(&call, exchange.names(), reason, &decision.policies);
    let reply = reply.needing(&call, decision.scope_needed);
    Step::Deny(Box::new(DeniedCall { call, decision, reply }))
}

fn read(
    exchange: &Exchange<'_>,
    client: Client,
    (request, Params { all: members, meta }): (&Request, &Params<'_>),
    rpc_method: &'static str,
) -> Result<Call, &'static str> {
    let name = members.required_string("taskId").map_err(|_absent| "`taskId` must be a string")?;
    if name.len() > TASK_ID_BYTES_MAX {
        return Err("`taskId` is too long");
    }
    let responses = match rpc_method {
        method::TASKS_UPDATE => {
            let given = members.object("inputResponses").ok().flatten();
            given.ok_or("`inputResponses` must be an object")?;
            members.get("inputResponses").map(ToOwned::to_owned)
        }
        _ => None,
    };
    Ok(Call {
        id: request.id.clone(),
        era: Era::Modern,
        virtual_server: exchange.virtual_server.to_owned(),
        method: rpc_method,
        name,
        arguments: None,
        completion: None,
        task: None,
        retry: Retry { responses, ..Retry::default() },
        trace_id: trace_id_of(meta),
        meta: members.get("_meta").map(ToOwned::to_owned),
        client_name: client.name,
        client_version: client.version,
        capabilities: client.capabilities,
        unrecognised_params: Vec::new(),
    })
}
