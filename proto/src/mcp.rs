//! The MCP envelope: JSON-RPC messages read strictly, once, and the protocol's own words.
//!
//! Called by the data plane on both edges. What passes here has exactly one reading: valid UTF-8, one object, no
//! repeated keys at any depth, bounded depth, nothing after the end. Parameters and results stay as the text they
//! arrived in, so numbers survive unchanged; whoever forwards a message writes the envelope anew.
//! Deliberately absent: what a method means and who may call it (`data-plane/core`), HTTP (`data-plane/server`).
//! Specification: MCP 2026-07-28 (modern) and 2025-11-25, 2025-06-18, 2025-03-26 (legacy); JSON-RPC 2.0.

mod header;
mod message;
mod raw;
mod response;
mod strict;

pub use header::{
    HeaderFault, HeaderMismatch, Headers, HeadersMirrored, PARAM_BYTES_MAX, PARAMS_MAX, SentinelFault, decode_value,
    encode_value, mirrored_headers,
};
pub use message::{
    Answered, ID_BYTES_MAX, METHOD_BYTES_MAX, Message, MessageFault, Notification, Reply, Request, RequestId,
    read_message,
};
pub use raw::{MemberFault, Members, is_object, ordered_members, push_string, raw, raw_object, to_raw};
pub use response::{
    ERROR_MESSAGE_CHARS_MAX, Incoming, Response, ResponseFault, RpcError, error_body, raw_error_body, read_any,
    read_incoming, read_response, request_body, result_body,
};
pub use strict::{JSON_DEPTH_MAX, StrictFault, check_json};

/// The revision of HTTP+SSE: spoken to servers over channels of messages only, never to clients.
pub const VERSION_2024_11_05: &str = "2024-11-05";
/// The stateless revision.
pub const VERSION_2026_07_28: &str = "2026-07-28";
/// The last revision with `initialize` and sessions.
pub const VERSION_2025_11_25: &str = "2025-11-25";
/// First revision with the `MCP-Protocol-Version` header.
pub const VERSION_2025_06_18: &str = "2025-06-18";
/// First revision with Streamable HTTP; assumed where a legacy request names no version.
pub const VERSION_2025_03_26: &str = "2025-03-26";
/// Modern revisions served, newest first.
pub const MODERN_VERSIONS: [&str; 1] = [VERSION_2026_07_28];
/// Legacy revisions served, newest first.
pub const LEGACY_VERSIONS: [&str; 3] = [VERSION_2025_11_25, VERSION_2025_06_18, VERSION_2025_03_26];
/// Everything served, newest first.
pub const SUPPORTED_VERSIONS: [&str; 4] =
    [VERSION_2026_07_28, VERSION_2025_11_25, VERSION_2025_06_18, VERSION_2025_03_26];

/// Which of the two incompatible shapes of MCP a peer speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Era {
    /// `initialize`, then a session, in the named revision (one of [`LEGACY_VERSIONS`]).
    Legacy(&'static str),
    /// Every request carries its own metadata (2026-07-28).
    Modern,
}

impl Era {
    /// The era of a revision served here; `None` for any other.
    #[must_use]
    pub fn of_version(version: &str) -> Option<Self> {
        if MODERN_VERSIONS.contains(&version) {
            return Some(Self::Modern);
        }
        LEGACY_VERSIONS.into_iter().find(|known| *known == version).map(Self::Legacy)
    }

    /// The revision's name.
    #[must_use]
    pub const fn version(self) -> &'static str {
        match self {
            Self::Legacy(version) => version,
            Self::Modern => VERSION_2026_07_28,
        }
    }

    /// True for 2026-07-28.
    #[must_use]
    pub const fn is_modern(self) -> bool {
        matches!(self, Self::Modern)
    }
}

/// Method names.
pub mod method {
    /// Opens a legacy session.
    pub const INITIALIZE: &str = "initialize";
    /// The legacy client has read the answer to `initialize`.
    pub const INITIALIZED: &str = "notifications/initialized";
    /// Legacy liveness check.
    pub const PING: &str = "ping";
    /// Tools the caller may call.
    pub const TOOLS_LIST: &str = "tools/list";
    /// Calls one tool.
    pub const TOOLS_CALL: &str = "tools/call";
    /// Modern: versions, capabilities and identity of the server.
    pub const DISCOVER: &str = "server/discover";
    /// Prompts the caller may get.
    pub const PROMPTS_LIST: &str = "prompts/list";
    /// Gets one prompt.
    pub const PROMPTS_GET: &str = "prompts/get";
    /// Resources the caller may read.
    pub const RESOURCES_LIST: &str = "resources/list";
    /// Templates of resources the caller may read.
    pub const TEMPLATES_LIST: &str = "resources/templates/list";
    /// Reads one resource.
    pub const RESOURCES_READ: &str = "resources/read";
    /// Legacy: be told when a resource changes.
    pub const RESOURCES_SUBSCRIBE: &str = "resources/subscribe";
    /// Legacy: no longer.
    pub const RESOURCES_UNSUBSCRIBE: &str = "resources/unsubscribe";
    /// Proposes values for an argument of a prompt or a template.
    pub const COMPLETE: &str = "completion/complete";
    /// Legacy: from which level on log messages are sent.
    pub const SET_LEVEL: &str = "logging/setLevel";
    /// Modern: one stream of change notifications.
    pub const LISTEN: &str = "subscriptions/listen";
    /// Tasks extension: what has become of a task.
    pub const TASKS_GET: &str = "tasks/get";
    /// Tasks extension: the input a task waits for.
    pub const TASKS_UPDATE: &str = "tasks/update";
    /// Tasks extension: a task need not go on.
    pub const TASKS_CANCEL: &str = "tasks/cancel";
    /// Tasks extension: what has become of a task, told to a listener.
    pub const TASK_TOLD: &str = "notifications/tasks";
    /// A server asks the client's user for input.
    pub const ELICIT: &str = "elicitation/create";
    /// A server asks the client's model.
    pub const SAMPLE: &str = "sampling/createMessage";
    /// A server asks for the client's roots.
    pub const ROOTS: &str = "roots/list";
    /// How far a request is.
    pub const PROGRESS: &str = "notifications/progress";
    /// A line of a server's log.
    pub const LOG: &str = "notifications/message";
    /// Nobody waits for a request any more.
    pub const CANCELLED: &str = "notifications/cancelled";
}

/// Header names, lower case.
pub mod header_name {
    /// The revision a request is written in.
    pub const PROTOCOL_VERSION: &str = "mcp-protocol-version";
    /// Legacy session id.
    pub const SESSION_ID: &str = "mcp-session-id";
    /// Modern: the body's `method`.
    pub const METHOD: &str = "mcp-method";
    /// Modern: the body's `params.name` or `params.uri`.
    pub const NAME: &str = "mcp-name";
    /// Modern: start of the names of mirrored tool parameters.
    pub const PARAM_PREFIX: &str = "mcp-param-";
}

/// Keys inside `_meta`.
pub mod meta_key {
    /// Required on modern requests.
    pub const PROTOCOL_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
    /// Required on modern requests.
    pub const CLIENT_CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
    /// Self-reported; never used to decide.
    pub const CLIENT_INFO: &str = "io.modelcontextprotocol/clientInfo";
    /// Modern: from which level on log messages are wanted with this request.
    pub const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
    /// Modern: which subscription a notification belongs to.
    pub const SUBSCRIPTION_ID: &str = "io.modelcontextprotocol/subscriptionId";
    /// Self-reported, on results.
    pub const SERVER_INFO: &str = "io.modelcontextprotocol/serverInfo";
    /// Everything the protocol reserves for itself starts so.
    pub const RESERVED_PREFIX: &str = "io.modelcontextprotocol/";
    /// Asks for progress notifications.
    pub const PROGRESS_TOKEN: &str = "progressToken";
    /// W3C trace context, passed on.
    pub const TRACE: [&str; 3] = ["traceparent", "tracestate", "baggage"];
}

/// JSON-RPC error codes.
pub mod code {
    /// Not JSON.
    pub const PARSE_ERROR: i64 = -32700;
    /// JSON, but not one JSON-RPC request or notification.
    pub const INVALID_REQUEST: i64 = -32600;
    /// The method is not served; HTTP 404 in the modern era.
    pub const METHOD_NOT_FOUND: i64 = -32601;
    /// Parameters (or required `_meta`) are missing or wrong; also an unknown tool.
    pub const INVALID_PARAMS: i64 = -32602;
    /// Legacy: the resource is not there. The modern era says [`INVALID_PARAMS`].
    pub const RESOURCE_NOT_FOUND: i64 = -32002;
    /// The server could not answer.
    pub const INTERNAL_ERROR: i64 = -32603;
    /// A mirrored header is missing or says something else than the body.
    pub const HEADER_MISMATCH: i64 = -32020;
    /// The client lacks a capability the request needs.
    pub const MISSING_CLIENT_CAPABILITY: i64 = -32021;
    /// The revision is not served.
    pub const UNSUPPORTED_PROTOCOL_VERSION: i64 = -32022;
    /// Ours: refused by policy. Outside the band the protocol reserves.
    pub const DENIED: i64 = 403;
    /// Ours: refused by a limit.
    pub const LIMITED: i64 = 429;
}

/// `resultType` of a finished result.
pub const RESULT_COMPLETE: &str = "complete";
/// `resultType` of a result that asks the client for input first.
pub const RESULT_INPUT_REQUIRED: &str = "input_required";
/// `resultType` of a result that says that the work goes on as a task (tasks extension).
pub const RESULT_TASK: &str = "task";
/// The extension under which servers answer with tasks.
pub const EXTENSION_TASKS: &str = "io.modelcontextprotocol/tasks";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_version_belongs_to_one_era() {
        for version in SUPPORTED_VERSIONS {
            assert_eq!(Era::of_version(version).unwrap().version(), version);
        }
        assert_eq!(Era::of_version("2024-11-05"), None);
        assert!(Era::Modern.is_modern() && !Era::Legacy(VERSION_2025_11_25).is_modern());
    }
}
