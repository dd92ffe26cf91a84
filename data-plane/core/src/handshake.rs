//! Getting to know a server: its era, and the tools it shows.
//!
//! Called by the upstream connector. `server/discover` comes first; only an answer that lists 2026-07-28 makes a server
//! modern (some old servers answer it by accident), a refusal of the kind old servers give makes it legacy, and
//! everything else says nothing about the era. Tool definitions leave here as canonical JSON, the form that is pinned
//! and hashed. Specification: MCP 2026-07-28 versioning, "Backward Compatibility"; 2025-11-25 lifecycle; RFC 8785.

use bailiwick_proto::{
    mcp::{
        self, Era, Members, RequestId, Response, VERSION_2024_11_05, VERSION_2025_11_25, VERSION_2026_07_28, code,
        method, raw, raw_object,
    },
    names, v1,
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use crate::{
    edge::{SERVER_INFO, without_tasks},
    forward::{ServerRequest, headers, own_meta, request},
};

/// Most tools taken from one server. The largest public servers show a few hundred.
pub const TOOLS_MAX: usize = 2_000;
/// Most pages of one list.
pub const PAGES_MAX: usize = 100;
/// Longest canonical definition of one tool. Long ones have some ten KiB.
pub const DEFINITION_BYTES_MAX: usize = 256 * 1024;
/// Longest account of what a server can do. Real ones have some hundred bytes.
pub const CAPABILITIES_BYTES_MAX: usize = 16 * 1024;
/// Longest cursor accepted from a server.
pub const CURSOR_BYTES_MAX: usize = 4 * 1024;

/// What the answer to `server/discover` says about a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Speaks 2026-07-28.
    Modern,
    /// Does not; try `initialize`.
    Legacy,
    /// No evidence (server trouble, authorization): do not remember anything.
    Inconclusive,
}

/// The server's answer is not what the method promises.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeFault {
    /// `initialize` was answered with a revision not served here.
    #[error("the server answers with protocol version `{0}`, which is not supported")]
    Version(String),
    /// A member is missing or has the wrong type.
    #[error("the server's answer to `{0}` is malformed")]
    Malformed(&'static str),
    /// A bound was passed.
    #[error("the server shows more than this gateway accepts: {0}")]
    TooMuch(&'static str),
    /// Two tools of one name.
    #[error("the server shows two tools of one name")]
    RepeatedTool,
}

/// The probe.
#[must_use]
pub fn discover_request(id: &RequestId) -> ServerRequest {
    let params = params(Era::Modern, &[]);
    request(Era::Modern, method::DISCOVER, id, params.as_deref())
}

/// What a probe's answer means: the HTTP status, and the JSON-RPC answer if the body was one.
#[must_use]
pub fn read_probe(http_status: u16, answer: Option<&Response>) -> Probe {
    if matches!(http_status, 401 | 403 | 408 | 429) || http_status >= 500 {
        return Probe::Inconclusive;
    }
    match answer {
        Some(Response::Result(result)) => {
            let versions =
                Members::of(result).and_then(|members| members.read::<Vec<String>>("supportedVersions").ok()?);
            let modern = versions.is_some_and(|versions| versions.iter().any(|version| version == VERSION_2026_07_28));
            if modern { Probe::Modern } else { Probe::Legacy }
        }
        // A server that knows the modern era's own errors is modern, whatever displeased it.
        Some(Response::Error(error)) if error.code == code::HEADER_MISMATCH => Probe::Modern,
        Some(Response::Error(error)) if error.code == code::UNSUPPORTED_PROTOCOL_VERSION => {
            let data = error.data.as_deref().and_then(Members::of).unwrap_or_default();
            let supported = data.read::<Vec<String>>("supported").ok().flatten().unwrap_or_default();
            if supported.iter().any(|version| version == VERSION_2026_07_28) { Probe::Modern } else { Probe::Legacy }
        }
        Some(Response::Error(_)) | None => Probe::Legacy,
    }
}

/// Opens a legacy session, for a client that can be asked for these things (an object), or for none. Tasks are none of
/// them: the era has others.
#[must_use]
pub fn initialize_request(id: &RequestId, capabilities: Option<&RawValue>) -> ServerRequest {
    let version = raw(VERSION_2025_11_25);
    let capabilities = capabilities.map_or_else(|| raw_object([]), without_tasks);
    let params =
        raw_object([("protocolVersion", &*version), ("capabilities", &*capabilities), ("clientInfo", &**SERVER_INFO)]);
    ServerRequest { headers: Vec::new(), body: mcp::request_body(Some(id), method::INITIALIZE, Some(&params)) }
}

/// The revision a legacy server agreed to.
///
/// # Errors
/// None is named, or one that is not served here.
pub fn read_initialize(result: &RawValue) -> Result<Era, HandshakeFault> {
    let malformed = HandshakeFault::Malformed(method::INITIALIZE);
    let members = Members::of(result).ok_or_else(|| malformed.clone())?;
    let version = members.required_string("protocolVersion").map_err(|_absent| malformed)?;
    Era::of_version(&version).filter(|era| !era.is_modern()).ok_or(HandshakeFault::Version(version))
}

/// The same of a server that is reached over a channel of messages, where the first revision is in use still. What it
/// lacks (HTTP's headers, batches, later members) makes no difference there.
///
/// # Errors
/// None is named, or one that is not served here.
pub fn read_channel_initialize(result: &RawValue) -> Result<Era, HandshakeFault> {
    match read_initialize(result) {
        Err(HandshakeFault::Version(version)) if version == VERSION_2024_11_05 => Ok(Era::Legacy(VERSION_2024_11_05)),
        read => read,
    }
}

/// What a server says that it can do, in its answer to `server/discover` or `initialize`: an object. `None` where it
/// says nothing, or more than anybody can do.
#[must_use]
pub fn capabilities(result: &RawValue) -> Option<Box<RawValue>> {
    let members = Members::of(result)?;
    members.object("capabilities").ok().flatten()?;
    members.get("capabilities").filter(|said| said.get().len() <= CAPABILITIES_BYTES_MAX).map(ToOwned::to_owned)
}

/// The same of a legacy server, which has no tasks that a modern client could be given.
#[must_use]
pub fn legacy_capabilities(result: &RawValue) -> Option<Box<RawValue>> {
    capabilities(result).map(|said| without_tasks(&said))
}

/// Completes a legacy session's opening; not answered.
#[must_use]
pub fn initialized_notification(era: Era) -> ServerRequest {
    ServerRequest {
        headers: headers(era, method::INITIALIZED),
        body: mcp::request_body(None, method::INITIALIZED, None),
    }
}

/// Asks for one page of the server's tools.
#[must_use]
pub fn tools_request(era: Era, id: &RequestId, cursor: Option<&str>) -> ServerRequest {
    let cursor = cursor.map(raw);
    let own: Vec<_> = cursor.iter().map(|cursor| ("cursor", &**cursor)).collect();
    let params = params(era, &own);
    request(era, method::TOOLS_LIST, id, params.as_deref())
}

fn params(era: Era, members: &[(&str, &RawValue)]) -> Option<Box<RawValue>> {
    let meta = raw_object(own_meta(None));
    let meta = era.is_modern().then_some(("_meta", &*meta));
    let all: Vec<_> = members.iter().copied().chain(meta).collect();
    (!all.is_empty()).then(|| raw_object(all))
}

/// The tools of a server, collected page by page.
#[derive(Clone, Debug, Default)]
pub struct ToolList {
    tools: Vec<v1::ToolDefinition>,
    pages: usize,
}

#[derive(Deserialize)]
struct Page {
    tools: Vec<Value>,
    #[serde(rename = "nextCursor")]
    next_cursor: Option<String>,
}

impl ToolList {
    /// Takes one page; the cursor of the next one, if there is one.
    ///
    /// # Errors
    /// The page is malformed, a name is used twice, or a bound is passed. The list is of no use then.
    pub fn take_page(&mut self, result: &RawValue) -> Result<Option<String>, HandshakeFault> {
        let malformed = || HandshakeFault::Malformed(method::TOOLS_LIST);
        let page: Page = serde_json::from_str(result.get()).map_err(|_malformed| malformed())?;
        self.pages += 1;
        if self.pages > PAGES_MAX {
            return Err(HandshakeFault::TooMuch("pages"));
        }
        if self.tools.len() + page.tools.len() > TOOLS_MAX {
            return Err(HandshakeFault::TooMuch("tools"));
        }
        for tool in page.tools {
            let definition = definition(&tool)?;
            if self.tools.iter().any(|known| known.name == definition.name) {
                return Err(HandshakeFault::RepeatedTool);
            }
            self.tools.push(definition);
        }
        match page.next_cursor {
            Some(cursor) if cursor.len() > CURSOR_BYTES_MAX => Err(HandshakeFault::TooMuch("cursor")),
            cursor => Ok(cursor),
        }
    }

    /// All tools, by name.
    #[must_use]
    pub fn finish(mut self) -> Vec<v1::ToolDefinition> {
        self.tools.sort_by(|one, other| one.name.cmp(&other.name));
        self.tools
    }
}

pub(crate) fn definition(tool: &Value) -> Result<v1::ToolDefinition, HandshakeFault> {
    let malformed = || HandshakeFault::Malformed(method::TOOLS_LIST);
    let name = tool
        .get("name")
        .and_then(Value::as_str)
        .filter(|name| names::is_upstream_tool_name(name))
        .ok_or_else(malformed)?;
    if !tool.get("inputSchema").is_some_and(Value::is_object) {
        return Err(malformed());
    }
    let json = serde_json_canonicalizer::to_string(tool).map_err(|_not_canonical| malformed())?;
    if json.len() > DEFINITION_BYTES_MAX {
        return Err(HandshakeFault::TooMuch("definition"));
    }
    Ok(v1::ToolDefinition { name: name.to_owned(), json })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use bailiwick_proto::mcp::{Message, RpcError, VERSION_2025_06_18, read_message};

    use super::*;

    fn text(value: &Value) -> Box<RawValue> {
        raw(value)
    }

    fn error(code: i64, data: Option<Value>) -> Response {
        Response::Error(RpcError { code, message: "m".into(), data: data.map(|data| text(&data)) })
    }

    #[test]
    fn only_a_server_that_lists_the_modern_version_is_modern() {
        let result = |value: Value| Response::Result(text(&value));
        for (status, answer, expected) in [
            (200, Some(result(json!({"supportedVersions": ["2026-07-28"]}))), Probe::Modern),
            (200, Some(result(json!({"supportedVersions": ["2025-11-25"]}))), Probe::Legacy),
            (200, Some(result(json!({}))), Probe::Legacy),
            (400, Some(error(-32022, Some(json!({"supported": ["2026-07-28"]})))), Probe::Modern),
            (400, Some(error(-32022, Some(json!({"supported": ["2025-11-25"]})))), Probe::Legacy),
            (400, Some(error(-32022, None)), Probe::Legacy),
            (400, Some(error(-32020, None)), Probe::Modern),
            (400, Some(error(-32000, None)), Probe::Legacy),
            (404, Some(error(-32601, None)), Probe::Legacy),
            (400, None, Probe::Legacy),
            (405, None, Probe::Legacy),
            (401, None, Probe::Inconclusive),
            (429, None, Probe::Inconclusive),
            (503, Some(error(-32603, None)), Probe::Inconclusive),
        ] {
            assert_eq!(read_probe(status, answer.as_ref()), expected, "{status} {answer:?}");
        }
    }

    #[test]
    fn a_legacy_server_must_agree_to_a_version_served_here() {
        let answer = |version: &str| read_initialize(&text(&json!({"protocolVersion": version})));
        assert_eq!(answer("2025-06-18"), Ok(Era::Legacy(VERSION_2025_06_18)));
        assert_eq!(answer("2024-11-05"), Err(HandshakeFault::Version("2024-11-05".into())));
        assert_eq!(answer("2026-07-28"), Err(HandshakeFault::Version("2026-07-28".into())));
        let first = text(&json!({"protocolVersion": "2024-11-05"}));
        assert_eq!(read_channel_initialize(&first), Ok(Era::Legacy("2024-11-05")));
        assert!(read_initialize(&text(&json!({}))).is_err());
    }

    #[test]
    fn requests_carry_what_their_era_demands() {
        let id = RequestId::from(3);
        let modern = tools_request(Era::Modern, &id, Some("c"));
        let header = |name: &str| modern.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(header("mcp-protocol-version"), Some("2026-07-28"));
        assert_eq!(header("mcp-method"), Some("tools/list"));
        let Ok(Message::Request(request)) = read_message(&modern.body) else { panic!("refused") };
        let members = request.members();
        assert_eq!(members.string("cursor"), Ok(Some("c".into())));
        let meta = members.object("_meta").unwrap().unwrap();
        assert_eq!(meta.string("io.modelcontextprotocol/protocolVersion"), Ok(Some("2026-07-28".into())));
        assert!(meta.object("io.modelcontextprotocol/clientCapabilities").unwrap().unwrap().is_empty());
        let legacy = tools_request(Era::Legacy(VERSION_2025_06_18), &id, None);
        assert_eq!(legacy.headers, [("mcp-protocol-version".to_owned(), "2025-06-18".to_owned())]);
        assert_eq!(legacy.body, br#"{"jsonrpc":"2.0","id":3,"method":"tools/list"}"#);
        let opened = initialized_notification(Era::Legacy(VERSION_2025_06_18));
        assert_eq!(opened.body, br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        assert!(initialize_request(&id, None).headers.is_empty());
        assert!(matches!(read_message(&discover_request(&id).body), Ok(Message::Request(_))));
    }

    #[test]
    fn pages_are_collected_in_canonical_form_by_name() {
        let mut list = ToolList::default();
        let page = text(&json!({
            "tools": [{"name": "b", "inputSchema": {"type": "object"}, "annotations": {"n": 1.0}}],
            "nextCursor": "2",
        }));
        assert_eq!(list.take_page(&page), Ok(Some("2".into())));
        assert_eq!(list.take_page(&text(&json!({"tools": [{"name": "a", "inputSchema": {}}]}))), Ok(None));
        let tools = list.finish();
        assert_eq!(tools[0].name, "a");
        assert_eq!(tools[1].json, r#"{"annotations":{"n":1},"inputSchema":{"type":"object"},"name":"b"}"#);
    }

    #[test]
    fn lists_beyond_the_rules_are_refused() {
        let tool = |name: &str| json!({"name": name, "inputSchema": {}});
        for page in [
            json!({}),
            json!({"tools": {}}),
            json!({"tools": [1]}),
            json!({"tools": [{"inputSchema": {}}]}),
            json!({"tools": [{"name": "a"}]}),
            json!({"tools": [{"name": "", "inputSchema": {}}]}),
            json!({"tools": [{"name": "a\n", "inputSchema": {}}]}),
            json!({"tools": [tool("a"), tool("a")]}),
            json!({"tools": [], "nextCursor": "x".repeat(CURSOR_BYTES_MAX + 1)}),
            json!({"tools": [{"name": "a", "inputSchema": {"d": "x".repeat(DEFINITION_BYTES_MAX)}}]}),
            json!({"tools": vec![tool("a"); TOOLS_MAX + 1]}),
        ] {
            assert!(ToolList::default().take_page(&text(&page)).is_err(), "{:.80}", page.to_string());
        }
        let mut endless = ToolList::default();
        let page = text(&json!({"tools": [], "nextCursor": "again"}));
        let fault = (0..=PAGES_MAX).find_map(|_| endless.take_page(&page).err());
        assert_eq!(fault, Some(HandshakeFault::TooMuch("pages")));
    }
}
