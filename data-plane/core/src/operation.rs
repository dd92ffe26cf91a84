//! What a span and a duration say about one MCP operation: the OpenTelemetry conventions for MCP, as a pure function.
//!
//! Called by the telemetry of `data-plane/server`, once per request of a client (SERVER) and once per request to a
//! server (CLIENT). Spans name what was asked; durations carry only words from closed lists and names the configuration
//! knows, so that no client and no server can make series without end. Never here: an argument, a result, a token, a
//! session id (its digest stands for it), the query of a URI, or a server's own error text, unless the operator asked
//! for content. Deliberately absent: ids and times of spans (`trace`, `data-plane/server`), exporting (`runtime`).
//! Specification: open-telemetry/semantic-conventions-genai, docs/gen-ai/mcp.md (Development).

use std::borrow::Cow;

use bailiwick_proto::{
    Reason,
    mcp::{Era, Headers, Members, Message, RequestId, Response, code, meta_key, method},
};

use crate::{
    edge::{Call, Params},
    trace::Carried,
    wanted::Found,
};

/// Upper bounds of the buckets of every duration, in seconds, as the conventions prescribe them.
pub const DURATION_BUCKETS: [f64; 14] =
    [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0];
/// Duration of a client's request, from its arrival to the end of its answer.
pub const SERVER_DURATION: &str = "mcp.server.operation.duration";
/// Duration of a request to a server, from when it is sent to the end of its answer.
pub const CLIENT_DURATION: &str = "mcp.client.operation.duration";
/// Stands for a word outside the closed list (OpenTelemetry's own fallback).
pub const OTHER: &str = "_OTHER";
/// Room for the labels of a duration, those of the transport among them.
const LABELS_EXPECTED: usize = 12;
/// `error.type` of an operation nobody waited for to the end.
pub const CANCELLED: &str = "cancelled";

/// Longest attribute that names something.
const NAME_BYTES_MAX: usize = 512;
/// Longest argument or result, where those are wanted. A queue full of them is some ten MiB.
const CONTENT_BYTES_MAX: usize = 4096;
/// `error.type` of a tool that says itself that it failed.
const TOOL_ERROR: &str = "tool_error";

/// Methods by name; whatever else a client sends counts as one.
const METHODS: [&str; 34] = [
    method::TOOLS_CALL,
    method::TOOLS_LIST,
    method::INITIALIZE,
    method::PING,
    method::DISCOVER,
    method::INITIALIZED,
    "completion/complete",
    "elicitation/create",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/elicitation/complete",
    "notifications/message",
    "notifications/progress",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/roots/list_changed",
    "notifications/subscriptions/acknowledged",
    method::TASK_TOLD,
    "notifications/tools/list_changed",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "roots/list",
    "sampling/createMessage",
    "subscriptions/listen",
    method::TASKS_CANCEL,
    method::TASKS_GET,
    "tasks/result",
    method::TASKS_UPDATE,
];

/// JSON-RPC codes by number; servers may send any other, which counts as one.
const CODES: [i64; 14] = [
    code::PARSE_ERROR,
    code::INVALID_REQUEST,
    code::METHOD_NOT_FOUND,
    code::INVALID_PARAMS,
    code::INTERNAL_ERROR,
    code::HEADER_MISMATCH,
    code::MISSING_CLIENT_CAPABILITY,
    code::UNSUPPORTED_PROTOCOL_VERSION,
    code::DENIED,
    code::LIMITED,
    -32000,
    -32001,
    -32002,
    -32042,
];

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Bounded text.
    Text(Cow<'static, str>),
    /// An integer.
    Whole(i64),
}

/// A span's attributes.
pub type Attributes = Vec<(&'static str, Value)>;
/// A duration's attributes.
pub type Labels = Vec<(&'static str, Cow<'static, str>)>;

/// What an operation is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// Nothing in particular.
    #[default]
    Nothing,
    /// A tool, by the name its caller uses.
    Tool(String),
    /// A prompt, likewise.
    Prompt(String),
    /// A resource, by URI.
    Resource(String),
}

/// One request or notification, on one edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// One of a closed list.
    pub method: &'static str,
    /// What it is about.
    pub target: Target,
    /// Whether the configuration knows the target, so that its name may stand in durations.
    pub is_target_known: bool,
    /// The revision spoken, once that is known.
    pub era: Option<Era>,
    /// Of a request.
    pub id: Option<RequestId>,
}

/// A client's request, before anything is decided about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// What it asks.
    pub operation: Operation,
    /// The trace context in its `_meta`.
    pub carried: Carried,
}

/// How an operation ended. Small, because every reply holds one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended(Option<Box<Failure>>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure {
    /// `error.type`.
    error: Cow<'static, str>,
    /// Of a JSON-RPC error.
    code: Option<i64>,
    /// The status' description; never a server's words.
    description: &'static str,
}

impl Seen {
    /// A request or notification as it was read; `None` for an answer, which is part of another operation.
    #[must_use]
    pub fn of(message: &Message, params: &Params<'_>, headers: Option<&Headers>) -> Option<Self> {
        let (id, sent) = match message {
            Message::Request(request) => (Some(request.id.clone()), &request.method),
            Message::Notification(notification) => (None, &notification.method),
            Message::Reply(_) => return None,
        };
        let Params { all: members, meta } = params;
        let in_meta = meta.string(meta_key::PROTOCOL_VERSION).ok().flatten();
        let in_header = headers.and_then(|headers| headers.protocol_version.clone());
        let at_first = || members.string("protocolVersion").ok().flatten();
        let era = in_meta.or(in_header).or_else(at_first).and_then(|version| Era::of_version(&version));
        let method = known_method(sent);
        let operation = Operation { method, target: Target::of(method, members), is_target_known: false, era, id };
        Some(Self { operation, carried: Carried::of_members(meta) })
    }
}

impl Operation {
    /// A permitted call, towards the server that has what it asks for.
    #[must_use]
    pub fn forwarded(call: &Call, found: &Found, id: &RequestId) -> Self {
        let target = match found {
            Found::Tool(tool) | Found::Task(tool) => Target::Tool(tool.name.clone()),
            Found::Prompt(own) => Target::Prompt(own.name.clone()),
            Found::Resource(own) => Target::Resource(own.name.clone()),
        };
        let is_target_known = matches!(found, Found::Tool(_) | Found::Task(_));
        Self { target, is_target_known, ..Self::named(call.method, None, Some(id.clone())) }
    }

    /// A request of the gateway's own.
    #[must_use]
    pub fn named(rpc_method: &str, era: Option<Era>, id: Option<RequestId>) -> Self {
        let method = known_method(rpc_method);
        Self { method, target: Target::Nothing, is_target_known: false, era, id }
    }

    /// The span's name: the method, and the tool or prompt; never a URI.
    #[must_use]
    pub fn span_name(&self) -> String {
        match &self.target {
            Target::Tool(name) | Target::Prompt(name) => format!("{} {}", self.method, cut(name, NAME_BYTES_MAX)),
            Target::Nothing | Target::Resource(_) => self.method.to_owned(),
        }
    }

    /// The span's attributes, but for those of the transport.
    #[must_use]
    pub fn attributes(&self, ended: &Ended) -> Attributes {
        let mut all = vec![("mcp.method.name", Value::fixed(self.method))];
        match &self.target {
            Target::Nothing => {}
            Target::Tool(name) => all.push(("gen_ai.tool.name", Value::text(name))),
            Target::Prompt(name) => all.push(("gen_ai.prompt.name", Value::text(name))),
            Target::Resource(uri) => all.push(("mcp.resource.uri", Value::text(plain_uri(uri)))),
        }
        all.extend(self.operation_name().map(|name| ("gen_ai.operation.name", Value::fixed(name))));
        all.extend(self.era.map(|era| ("mcp.protocol.version", Value::fixed(era.version()))));
        all.extend(self.id.as_ref().map(|id| ("jsonrpc.request.id", id_value(id))));
        if let Some(failure) = &ended.0 {
            all.push(("error.type", Value::Text(failure.error.clone())));
            let code = failure.code.map(|code| Value::Text(code.to_string().into()));
            all.extend(code.map(|code| ("rpc.response.status_code", code)));
        }
        all
    }

    /// The duration's attributes, but for those of the transport.
    #[must_use]
    pub fn labels(&self, ended: &Ended) -> Labels {
        let mut all = Labels::with_capacity(LABELS_EXPECTED);
        all.push(("mcp.method.name", self.method.into()));
        match &self.target {
            Target::Tool(name) if self.is_target_known => all.push(("gen_ai.tool.name", name.clone().into())),
            // Prompts are not pinned; one that was given is one that there is.
            Target::Prompt(name) if ended.0.is_none() => all.push(("gen_ai.prompt.name", name.clone().into())),
            Target::Nothing | Target::Tool(_) | Target::Prompt(_) | Target::Resource(_) => {}
        }
        all.extend(self.operation_name().map(|name| ("gen_ai.operation.name", name.into())));
        all.extend(self.era.map(|era| ("mcp.protocol.version", era.version().into())));
        if let Some(Failure { error, code, .. }) = ended.0.as_deref() {
            let code: Option<Cow<'static, str>> =
                code.map(|code| if CODES.contains(&code) { code.to_string().into() } else { OTHER.into() });
            all.push(("error.type", code.clone().unwrap_or_else(|| error.clone())));
            all.extend(code.map(|code| ("rpc.response.status_code", code)));
        }
        all
    }

    fn operation_name(&self) -> Option<&'static str> {
        (self.method == method::TOOLS_CALL).then_some("execute_tool")
    }
}

impl Target {
    fn of(rpc_method: &str, params: &Members<'_>) -> Self {
        let text = |key| params.string(key).ok().flatten();
        let target = match rpc_method {
            method::TOOLS_CALL => text("name").map(Self::Tool),
            "prompts/get" => text("name").map(Self::Prompt),
            "resources/read" | "resources/subscribe" | "resources/unsubscribe" => text("uri").map(Self::Resource),
            "completion/complete" => {
                let of = params.object("ref").ok().flatten().unwrap_or_default();
                let prompt = of.string("name").ok().flatten().map(Self::Prompt);
                prompt.or_else(|| of.string("uri").ok().flatten().map(Self::Resource))
            }
            _ => None,
        };
        target.unwrap_or_default()
    }
}

impl Ended {
    /// All went well.
    #[must_use]
    pub fn well() -> Self {
        Self(None)
    }

    /// The gateway refused, or has no answer.
    #[must_use]
    pub fn refused(code: i64, reason: Option<Reason>) -> Self {
        Self::badly(code.to_string().into(), Some(code), reason.map_or("", Reason::sentence))
    }

    /// There was no answer; one word of a closed list says why.
    #[must_use]
    pub fn without_answer(word: &'static str) -> Self {
        Self::badly(word.into(), None, "")
    }

    /// A tool says itself that it failed.
    #[must_use]
    pub fn tool_failed() -> Self {
        Self::badly(TOOL_ERROR.into(), None, "")
    }

    /// A server's answer.
    #[must_use]
    pub fn of_response(response: &Response) -> Self {
        match response {
            Response::Error(error) => Self::refused(error.code, None),
            Response::Result(result) => {
                let failed = Members::of(result).and_then(|members| members.read::<bool>("isError").ok().flatten());
                if failed == Some(true) { Self::tool_failed() } else { Self::well() }
            }
        }
    }

    /// The description of the span's status if that is an error.
    #[must_use]
    pub fn failure(&self) -> Option<&'static str> {
        self.0.as_ref().map(|failure| failure.description)
    }

    fn badly(error: Cow<'static, str>, code: Option<i64>, description: &'static str) -> Self {
        Self(Some(Box::new(Failure { error, code, description })))
    }
}

impl Value {
    fn fixed(text: &'static str) -> Self {
        Self::Text(text.into())
    }

    /// Names and the like, cut to their bound.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self::Text(cut(text, NAME_BYTES_MAX).to_owned().into())
    }

    /// An argument or a result, cut to its bound. Only for operators who asked for it.
    #[must_use]
    pub fn content(json: &str) -> Self {
        Self::Text(cut(json, CONTENT_BYTES_MAX).to_owned().into())
    }
}

fn known_method(sent: &str) -> &'static str {
    METHODS.into_iter().find(|known| *known == sent).unwrap_or(OTHER)
}

/// Numbers as numbers, text as text, without the quotes of JSON.
fn id_value(id: &RequestId) -> Value {
    match id {
        RequestId::Integer(text) | RequestId::Text(text) => Value::text(text),
    }
}

/// Without what may hold a secret: user and password, query, fragment.
fn plain_uri(uri: &str) -> &str {
    let end = uri.find(['?', '#']).unwrap_or(uri.len());
    let uri = uri.get(..end).unwrap_or_default();
    let authority = uri.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    if authority.contains('@') { OTHER } else { uri }
}

/// The longest start of `text` that fits.
fn cut(text: &str, bytes_max: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes_max)).unwrap_or(text)
}

#[cfg(test)]
mod tests;
