//! Two tools in place of hundreds: `search_tools` finds tools by words, `call_tool` calls one of them.
//!
//! Called by `tools` and `calls` for virtual servers that are searched. What is found is what `admission` permits, so
//! searching can show just what a list would. A call through `call_tool` is turned into the call of the tool it names
//! before anything is decided; from there on it is that call, to policies, records, servers and telemetry. A tool of a
//! virtual server can be called by its own name there, too: a client that knows it does not have to be shown it.
//! Finding is recorded no more than listing. Deliberately absent: how tools are ranked (`search` of this crate).

use bailiwick_proto::mcp::{self, Era, Members, RESULT_COMPLETE, Request, method};
use serde_json::{json, value::RawValue};

use super::{Call, Exchange, HttpReply, Step, calls::TOOL_NAME_BYTES_MAX, tools};
use crate::{
    admission::{Admission, Wanted, What},
    config::{Config, VirtualServer},
    operation::{Seen, Target},
    search::SearchIndex,
};

/// Finds tools.
pub(crate) const SEARCH_TOOLS: &str = "search_tools";
/// Calls one.
pub(crate) const CALL_TOOL: &str = "call_tool";

/// Tools on one page where the client does not say.
const LIMIT_DEFAULT: u64 = 10;
/// Most tools on one page: more is no search any more.
const LIMIT_MAX: u64 = 50;
/// Definitions on one page, after the first one: models read all of it.
const PAGE_BYTES_MAX: usize = 128 * 1024;
/// Longest query: a long paragraph.
const QUERY_BYTES_MAX: usize = 1_024;

/// What has become of a call on a virtual server that may be searched.
pub(super) enum Turned {
    /// It is what it was.
    Direct,
    /// It is now the call of the tool that it named.
    Unwrapped,
    /// It was a search.
    Found(HttpReply),
}

/// The virtual server, if it is searched.
pub(super) fn searched<'c>(config: &'c Config, virtual_server: &str) -> Option<&'c VirtualServer> {
    config.virtual_servers.get(virtual_server).filter(|offered| offered.search.is_some())
}

/// Answers a search, and makes a call through `call_tool` the one it means.
///
/// # Errors
/// The arguments are not such as the two tools take.
pub(super) fn turn(exchange: &Exchange<'_>, call: &mut Call) -> Result<Turned, &'static str> {
    if call.method != method::TOOLS_CALL || ![SEARCH_TOOLS, CALL_TOOL].contains(&call.name.as_str()) {
        return Ok(Turned::Direct);
    }
    let offered = searched(exchange.config, exchange.virtual_server);
    let Some(index) = offered.and_then(|offered| offered.search.as_deref()) else { return Ok(Turned::Direct) };
    let arguments = call.arguments.take();
    let members = arguments.as_deref().and_then(Members::of).unwrap_or_default();
    if call.name == SEARCH_TOOLS {
        return Query::of(&members).map(|query| Turned::Found(query.answer(exchange, index, call)));
    }
    let name = members.required_string("name").map_err(|_absent| "`name` must be the name of the tool to call")?;
    if name.is_empty() || name.len() > TOOL_NAME_BYTES_MAX {
        return Err("`name` is not the name of a tool");
    }
    members.object("arguments").map_err(|_no_object| "the tool's `arguments` must be an object")?;
    call.arguments = members.get("arguments").map(ToOwned::to_owned);
    call.name = name;
    Ok(Turned::Unwrapped)
}

/// A call through `call_tool` is told as that of the tool.
pub(super) fn tell(step: &Step, seen: &mut Seen) {
    let is_wrapped = |target: &Target| matches!(target, Target::Tool(name) if name == CALL_TOOL);
    let call = match step {
        Step::Call(permitted) if is_wrapped(&seen.operation.target) => &permitted.call,
        Step::Deny(denied) if is_wrapped(&seen.operation.target) => &denied.call,
        _ => return,
    };
    seen.operation.target = Target::Tool(call.name.clone());
}

/// The list of a virtual server that is searched: the two tools, for whoever has any authority there.
pub(super) fn list(exchange: &Exchange<'_>, era: Era, request: &Request) -> HttpReply {
    let stands = Admission::of(exchange.config, exchange.caller, exchange.now_unix).stands(exchange.virtual_server);
    let definitions = if stands { definitions() } else { Vec::new() };
    let definitions: Vec<&str> = definitions.iter().map(|definition| definition.get()).collect();
    HttpReply::of_body(tools::body(&request.id, era, &definitions))
}

fn definitions() -> Vec<Box<RawValue>> {
    let tools = json!({"type": "array", "items": {"type": "object"}, "description": "Definitions, best first."});
    let next = json!({"type": "integer", "description": "The `offset` of the next page, if there is one."});
    let query = json!({
        "type": "string", "maxLength": QUERY_BYTES_MAX,
        "description": "Words of what is to be done. Without words all tools are found, in the order of their names.",
    });
    let limit = json!({"type": "integer", "minimum": 1, "maximum": LIMIT_MAX, "default": LIMIT_DEFAULT});
    let offset = json!({"type": "integer", "minimum": 0, "default": 0});
    let search = json!({
        "name": SEARCH_TOOLS,
        "title": "Search tools",
        "description": format!(
            "Finds tools by words and shows their definitions, best first. More can be done here than these two tools \
             say: search for it, then call what you found with `{CALL_TOOL}`."
        ),
        "inputSchema": {"type": "object", "properties": {"query": query, "limit": limit, "offset": offset}},
        "outputSchema": {
            "type": "object", "properties": {"tools": tools, "nextOffset": next}, "required": ["tools"],
        },
        "annotations": {"readOnlyHint": true, "idempotentHint": true, "openWorldHint": false},
    });
    let name = json!({"type": "string", "description": format!("The tool's name, as `{SEARCH_TOOLS}` shows it.")});
    let arguments = json!({"type": "object", "description": "As the tool's own `inputSchema` says.", "default": {}});
    let call = json!({
        "name": CALL_TOOL,
        "title": "Call a tool",
        "description": format!("Calls a tool that `{SEARCH_TOOLS}` found and gives its result."),
        "inputSchema": {
            "type": "object", "properties": {"name": name, "arguments": arguments}, "required": ["name"],
        },
    });
    [search, call].iter().map(mcp::raw).collect()
}

/// What is searched for, and which part of what is found.
struct Query {
    words: String,
    limit: usize,
    offset: usize,
}

impl Query {
    fn of(members: &Members<'_>) -> Result<Self, &'static str> {
        let words = members.string("query").map_err(|_no_text| "`query` must be a text")?.unwrap_or_default();
        if words.len() > QUERY_BYTES_MAX {
            return Err("`query` is too long");
        }
        let number = |key| members.read::<u64>(key);
        let limit = number("limit").ok().map(|limit| limit.unwrap_or(LIMIT_DEFAULT));
        let limit = limit.filter(|limit| (1..=LIMIT_MAX).contains(limit)).and_then(|limit| usize::try_from(limit).ok());
        let offset = number("offset").ok().and_then(|offset| usize::try_from(offset.unwrap_or(0)).ok());
        Ok(Self {
            words,
            limit: limit.ok_or("`limit` must be a whole number from 1 to 50")?,
            offset: offset.ok_or("`offset` must be a whole number")?,
        })
    }

    /// The definitions of what the caller may call, as a list would show them.
    fn answer(&self, exchange: &Exchange<'_>, index: &SearchIndex, call: &Call) -> HttpReply {
        let Exchange { config, caller, virtual_server, now_unix, .. } = *exchange;
        let admission = Admission::of(config, caller, now_unix);
        // Without authority nothing is permitted, and nothing has to be asked.
        let found = admission.stands(virtual_server).then(|| index.find(&self.words));
        let permitted = found
            .into_iter()
            .flatten()
            .filter(|exposed| admission.admit(Wanted { virtual_server, what: What::Tool(&exposed.name) }).permits());
        let (mut shown, mut bytes, mut goes_on) = (Vec::new(), 0_usize, false);
        for exposed in permitted.skip(self.offset) {
            let definition = exposed.definition.get();
            bytes = bytes.saturating_add(definition.len());
            goes_on = shown.len() >= self.limit || (bytes > PAGE_BYTES_MAX && !shown.is_empty());
            if goes_on {
                break;
            }
            shown.push(definition);
        }
        let next = self.offset.saturating_add(shown.len());
        let next = if goes_on { format!(r#","nextOffset":{next}"#) } else { String::new() };
        // INVARIANT: definitions are JSON texts, so the whole is.
        let found = format!(r#"{{"tools":[{}]{next}}}"#, shown.join(","));
        // Older clients read the text only.
        let text = mcp::raw(&found);
        let kind = if call.era.is_modern() { format!(r#""resultType":"{RESULT_COMPLETE}","#) } else { String::new() };
        let id = &call.id;
        let content = format!(r#""content":[{{"type":"text","text":{text}}}],"structuredContent":{found}"#);
        HttpReply::of_body(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{{kind}{content}}}}}"#).into_bytes())
    }
}
