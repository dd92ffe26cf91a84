//! What is governed one by one: calling a tool, getting a prompt, reading a resource, completing an argument of either.
//!
//! Called by `legacy` and `modern` once a message's era and client are settled. Read, found, admitted, in this order; a
//! client that repeats a request with the input a server asked for brings a sealed state that belongs to this very
//! request, and is decided anew. Completion is judged as use of what it completes: whoever may not get a prompt learns
//! nothing of its arguments. Specification: MCP 2026-07-28 and 2025-11-25: tools, prompts, resources, completion;
//! 2026-07-28: multi round-trip requests.

use std::borrow::Cow;

use bailiwick_proto::{
    Reason,
    mcp::{self, Era, Headers, Members, Request, RequestId, code, method, raw, raw_object},
};
use serde_json::value::RawValue;

use super::{
    Exchange, Params, Step, fixed, reply,
    search::{self, Turned},
    tasks::without_tasks,
};
use crate::{
    admission::{Decision, Wanted, What, admit},
    header_params,
    sealed::{
        request_state::{RequestState, Subject, salient},
        task::Task,
    },
    trace::Carried,
    wanted::Found,
};

/// Longest name of a tool or prompt in a call: four bytes for each of the 128 characters MCP allows.
pub const TOOL_NAME_BYTES_MAX: usize = 512;
/// Longest URI or template in a request; admission allows less.
const URI_BYTES_MAX: usize = 8 * 1024;

/// What a client calls itself, and what it can be asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Client {
    pub(super) name: Option<String>,
    pub(super) version: Option<String>,
    /// An object, as it was written.
    pub(super) capabilities: Option<Box<RawValue>>,
}

/// A governed request as the client made it.
#[derive(Clone, Debug)]
pub struct Call {
    /// To be repeated in the answer.
    pub id: RequestId,
    /// How the client speaks.
    pub era: Era,
    /// The virtual server called on.
    pub virtual_server: String,
    /// E.g. `tools/call`.
    pub method: &'static str,
    /// Towards clients: the name of a tool or prompt, the URI of a resource, or of what is completed; the id of a task.
    pub name: String,
    /// An object, as it was written.
    pub arguments: Option<Box<RawValue>>,
    /// Of `completion/complete`.
    pub completion: Option<Completion>,
    /// The task that is asked about, opened.
    pub task: Option<Task>,
    /// What a modern client brings when it repeats a request with input.
    pub retry: Retry,
    /// The request's `_meta`, as it was written.
    pub meta: Option<Box<RawValue>>,
    /// Self-reported.
    pub client_name: Option<String>,
    /// Self-reported.
    pub client_version: Option<String>,
    /// W3C trace id, from `traceparent`.
    pub trace_id: Option<String>,
    /// What the client declared that it can be asked for: an object, as it was written.
    pub capabilities: Option<Box<RawValue>>,
    /// `Mcp-Param-…` headers of a modern client that the tool does not declare: to be passed on.
    pub unrecognised_params: Vec<(String, String)>,
}

/// What is to be completed.
#[derive(Clone, Debug)]
pub struct Completion {
    /// A template of resources; otherwise a prompt.
    pub of_template: bool,
    /// Name and value so far: an object, as it was written.
    pub argument: Box<RawValue>,
    /// Other arguments: an object, as it was written.
    pub context: Option<Box<RawValue>>,
}

/// The input a server or a task asked for, and what it gave to be brought back.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    /// By the server's keys: an object, as it was written.
    pub responses: Option<Box<RawValue>>,
    /// Opened.
    pub state: Option<RequestState>,
    /// Digest of what the request asks for.
    pub salient: [u8; 32],
}

/// A call that admission refused.
#[derive(Debug)]
pub struct DeniedCall {
    /// What was asked.
    pub call: Call,
    /// Why not: its `reason` is always there.
    pub decision: Decision,
    /// To be sent once the refusal is recorded.
    pub reply: super::HttpReply,
}

/// A call that admission permits.
#[derive(Clone, Debug)]
pub struct PermittedCall {
    /// What was asked.
    pub call: Call,
    /// On what grounds.
    pub decision: Decision,
    /// What is called, as its server has it.
    pub found: Found,
}

/// Methods that are governed one by one, apart from those of tasks.
pub(super) const GOVERNED: [&str; 4] =
    [method::TOOLS_CALL, method::PROMPTS_GET, method::RESOURCES_READ, method::COMPLETE];

/// Which of [`GOVERNED`] this is; `None` for all others.
pub(super) fn governed(rpc_method: &str) -> Option<&'static str> {
    GOVERNED.into_iter().find(|known| *known == rpc_method)
}

pub(super) fn call(
    exchange: &Exchange<'_>,
    (era, client): (Era, Client),
    headers: &Headers,
    (request, params, rpc_method): (&Request, &Params<'_>, &'static str),
) -> Step {
    let invalid = |message: &str| {
        let id = Some(&request.id);
        Step::Respond(reply::malformed(exchange, 200, code::INVALID_PARAMS, message, id))
    };
    let mut call = match read(exchange, (era, client), request, params, rpc_method) {
        Ok(call) => call,
        Err(message) => return invalid(message),
    };
    let is_direct = match search::turn(exchange, &mut call) {
        Ok(Turned::Direct) => true,
        Ok(Turned::Unwrapped) => false,
        Ok(Turned::Found(reply)) => return Step::Respond(reply),
        Err(message) => return invalid(message),
    };
    let wanted = Wanted { virtual_server: exchange.virtual_server, what: call.what() };
    let mut decision = admit(exchange.config, exchange.caller, wanted, exchange.now_unix);
    let view = fixed::view(exchange.config, &call);
    if let (Era::Modern, Some(tool)) = (era, decision.tool()) {
        let mirrored = view.map_or(&tool.header_params, |view| &view.header_params);
        // Of a tool that is called through another, a client knows no headers.
        let checked =
            if is_direct { header_params::check(mirrored, headers, call.arguments.as_deref()) } else { Ok(()) };
        if let Err(fault) = checked {
            return Step::Respond(reply::plain_error(400, code::HEADER_MISMATCH, &fault.to_string(), Some(&call.id)));
        }
        call.unrecognised_params = header_params::unrecognised(&tool.header_params, headers);
    }
    // Admission permits only what it found.
    let (reason, reply) = match (decision.reason, decision.found.clone()) {
        (None, Some(found)) => match fixed::set(view, &mut call) {
            Ok(()) => match take_up(exchange, &mut call, &found, &params.all) {
                Ok(()) => return Step::Call(Box::new(PermittedCall { call, decision, found })),
                Err(message) => return invalid(message),
            },
            Err(argument) => (Reason::ArgumentFixed, reply::refuse_argument(&call, exchange.request_id, &argument)),
        },
        (reason, _) => {
            let reason = reason.unwrap_or(Reason::ToolUnknown);
            let reply = reply::refuse_call(&call, exchange.names(), reason, &decision.policies);
            (reason, reply.needing(&call, decision.scope_needed))
        }
    };
    decision.reason = Some(reason);
    Step::Deny(Box::new(DeniedCall { call, decision, reply }))
}

/// What a modern client brings from an earlier round.
fn take_up(exchange: &Exchange<'_>, call: &mut Call, found: &Found, params: &Members<'_>) -> Result<(), &'static str> {
    call.retry.salient = salient(params);
    if !call.era.is_modern() || call.method == method::COMPLETE {
        return Ok(());
    }
    params.object("inputResponses").map_err(|_no_object| "`inputResponses` must be an object")?;
    call.retry.responses = params.get("inputResponses").map(ToOwned::to_owned);
    if let Some(state) = params.string("requestState").map_err(|_no_string| "`requestState` must be a string")? {
        let subject = Subject { server: found.server(), method: call.method, salient: call.retry.salient };
        let opened = RequestState::open(exchange.sealing_keys, exchange.caller, &subject, &state, exchange.now_unix);
        call.retry.state = Some(opened.map_err(|_not_ours| "`requestState` is not known, or not of this request")?);
    }
    Ok(())
}

fn read(
    exchange: &Exchange<'_>,
    (era, client): (Era, Client),
    request: &Request,
    Params { all: members, meta }: &Params<'_>,
    rpc_method: &'static str,
) -> Result<Call, &'static str> {
    let (name, completion) = match rpc_method {
        method::RESOURCES_READ => (uri(members)?, None),
        method::COMPLETE => {
            let (name, completion) = completion(members)?;
            (name, Some(completion))
        }
        _ => (name(members)?, None),
    };
    let is_object = |key| members.get(key).is_none_or(mcp::is_object);
    if !is_object("arguments") {
        return Err("`arguments` must be an object");
    }
    if !is_object("_meta") {
        return Err("`_meta` must be an object");
    }
    Ok(Call {
        id: request.id.clone(),
        era,
        virtual_server: exchange.virtual_server.to_owned(),
        method: rpc_method,
        name,
        arguments: members.get("arguments").map(ToOwned::to_owned),
        completion,
        task: None,
        retry: Retry::default(),
        trace_id: trace_id_of(meta),
        meta: members.get("_meta").map(ToOwned::to_owned),
        client_name: client.name,
        client_version: client.version,
        capabilities: if era.is_modern() {
            client.capabilities
        } else {
            client.capabilities.as_deref().map(without_tasks)
        },
        unrecognised_params: Vec::new(),
    })
}

/// The trace that a request's metadata says it is part of.
pub(super) fn trace_id_of(meta: &Members<'_>) -> Option<String> {
    Some(Carried::of_members(meta).parent?.trace_id_text())
}

fn name(members: &Members<'_>) -> Result<String, &'static str> {
    let name = members.required_string("name").map_err(|_absent| "`name` must be a string")?;
    let fits = !name.is_empty() && name.len() <= TOOL_NAME_BYTES_MAX;
    fits.then_some(name).ok_or("`name` is not the name of a tool or prompt")
}

fn uri(members: &Members<'_>) -> Result<String, &'static str> {
    let uri = members.required_string("uri").map_err(|_absent| "`uri` must be a string")?;
    (uri.len() <= URI_BYTES_MAX).then_some(uri).ok_or("`uri` is too long")
}

fn completion(members: &Members<'_>) -> Result<(String, Completion), &'static str> {
    let of = members.object("ref").ok().flatten().ok_or("`ref` must be an object")?;
    let of_template = match of.string("type").ok().flatten().as_deref() {
        Some("ref/prompt") => false,
        Some("ref/resource") => true,
        _ => return Err("`ref.type` must be `ref/prompt` or `ref/resource`"),
    };
    members.object("argument").ok().flatten().ok_or("`argument` must be an object")?;
    members.object("context").map_err(|_no_object| "`context` must be an object")?;
    let argument = members.get("argument").ok_or("`argument` must be an object")?.to_owned();
    let context = members.get("context").map(ToOwned::to_owned);
    let name = if of_template { uri(&of)? } else { name(&of)? };
    Ok((name, Completion { of_template, argument, context }))
}

impl Call {
    /// What is wanted of the virtual server.
    #[must_use]
    pub fn what(&self) -> What<'_> {
        if matches!(self.method, method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL) {
            return match &self.task {
                Some(Task { server, tool, .. }) => What::Task { server, tool },
                None => What::NoTask,
            };
        }
        match (self.method, &self.completion) {
            (_, Some(Completion { of_template: true, .. })) => What::Template(&self.name),
            (method::PROMPTS_GET, _) | (_, Some(Completion { of_template: false, .. })) => What::Prompt(&self.name),
            (method::RESOURCES_READ, None) => What::Resource(&self.name),
            (_, None) => What::Tool(&self.name),
        }
    }

    /// The tool's name towards clients, where a tool is called; of a task, the tool's own name.
    #[must_use]
    pub fn tool(&self) -> Option<&str> {
        let called = (self.method == method::TOOLS_CALL).then_some(self.name.as_str());
        called.or(self.task.as_ref().map(|task| task.tool.as_str()))
    }

    /// The parameters whose commitment is recorded: of a tool its arguments, otherwise all that says what is asked.
    #[must_use]
    pub fn recorded(&self) -> Option<Cow<'_, RawValue>> {
        let key = match self.what() {
            What::Tool(_) => return self.arguments.as_deref().map(Cow::Borrowed),
            What::Prompt(_) => "name",
            What::Resource(_) | What::Template(_) => "uri",
            What::Task { .. } | What::NoTask => "taskId",
        };
        // A server's own id of a task stands in the result of the call that began it, too.
        let name = raw(self.task.as_ref().map_or(&self.name, |task| &task.id));
        let completion = self.completion.as_ref();
        let responses = self.retry.responses.as_deref().filter(|_| key == "taskId");
        let members = [
            Some((key, &*name)),
            self.arguments.as_deref().map(|arguments| ("arguments", arguments)),
            completion.map(|completion| ("argument", &*completion.argument)),
            completion.and_then(|completion| Some(("context", completion.context.as_deref()?))),
            responses.map(|responses| ("inputResponses", responses)),
        ];
        Some(Cow::Owned(raw_object(members.into_iter().flatten())))
    }
}
