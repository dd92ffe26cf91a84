//! Arguments that tools want mirrored into headers, which a client on standard input does not send.
//!
//! Called by `exchange`: lists of tools that pass by are looked at, and calls of those tools get their `Mcp-Param-…`
//! headers. A call of a tool that never passed by is refused by the server; then the lists are asked for once, and it
//! is sent again. Whether a schema may say so is for servers to check; here what cannot be a header is left out.
//! Specification: MCP 2026-07-28 Streamable HTTP, "Custom Headers from Tool Parameters".

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use bailiwick_proto::mcp::{Members, PARAMS_MAX, Request, RequestId, encode_value};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json, value::RawValue};

use super::{Bridge, envelope};
use crate::fault::Fault;

const ANNOTATION: &str = "x-mcp-header";
const PREFIX: &str = "mcp-param-";
/// Tools that are remembered.
const TOOLS_MAX: usize = 10_000;
/// Pages of a list that are asked for.
const PAGES_MAX: u64 = 100;
/// How deep arguments lie that are mirrored.
const DEPTH_MAX: usize = 16;

/// A header, and where its argument stands.
type Mirrored = (HeaderName, Vec<String>);

/// By tool, of those that have any.
#[derive(Debug, Default)]
pub(super) struct Tools(Mutex<BTreeMap<String, Vec<Mirrored>>>);

impl Tools {
    /// Looks at the answer to `tools/list`; gives where the list goes on.
    pub(super) fn learn(&self, answer: &[u8]) -> Option<String> {
        let answer: Value = serde_json::from_slice(answer).ok()?;
        let result = answer.get("result")?;
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for tool in result.get("tools").and_then(Value::as_array).into_iter().flatten() {
            let (Some(name), Some(schema)) = (tool.get("name").and_then(Value::as_str), tool.get("inputSchema")) else {
                continue;
            };
            let mut found = Vec::new();
            scan(schema, &mut Vec::new(), &mut found);
            if found.is_empty() {
                known.remove(name);
            } else if known.len() < TOOLS_MAX {
                known.insert(name.to_owned(), found);
            }
        }
        result.get("nextCursor").and_then(Value::as_str).map(str::to_owned)
    }

    /// Adds the headers of a call.
    pub(super) fn mirror(&self, request: &Request, headers: &mut HeaderMap) {
        let members = request.members();
        let Ok(Some(name)) = members.string("name") else { return };
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = known.get(&name).map(Vec::as_slice).unwrap_or_default();
        for (header, path) in wanted {
            let value = members.get("arguments").and_then(|arguments| value_at(arguments, path));
            match value.and_then(|value| HeaderValue::from_str(&encode_value(&value)).ok()) {
                Some(value) => drop(headers.insert(header.clone(), value)),
                None => drop(headers.remove(header)),
            }
        }
    }
}

impl Bridge {
    /// Asks for the lists of tools, as the client of this call would. `false` if that is not answered.
    pub(super) async fn look_at_tools(&self, call: &Request) -> Result<bool, Fault> {
        let meta: Option<Value> = call.members().read("_meta").ok().flatten();
        let mut cursor: Option<String> = None;
        for page in 0..PAGES_MAX {
            let mut params = json!({"_meta": meta});
            if let (Some(members), Some(cursor)) = (params.as_object_mut(), &cursor) {
                members.insert("cursor".to_owned(), json!(cursor));
            }
            let id = RequestId::from(page);
            let text = json!({"jsonrpc": "2.0", "id": page, "method": "tools/list", "params": params}).to_string();
            let raw = RawValue::from_string(params.to_string()).ok();
            let members = raw.as_deref().and_then(Members::of).unwrap_or_default();
            let answered = self.post(Bytes::from(text), &envelope::of("tools/list", &members)).await?;
            if !answered.response.status().is_success() {
                return Ok(false);
            }
            cursor = self.tools.learn(&self.receive(&id, answered, false).await?);
            if cursor.is_none() {
                break;
            }
        }
        Ok(true)
    }
}

/// Annotations that are reached through `properties` alone.
fn scan(schema: &Value, path: &mut Vec<String>, found: &mut Vec<Mirrored>) {
    if let Some(name) = schema.get(ANNOTATION).and_then(Value::as_str).filter(|_| !path.is_empty()) {
        let header = HeaderName::from_bytes(format!("{PREFIX}{}", name.to_ascii_lowercase()).as_bytes());
        found.extend(header.ok().filter(|_| found.len() < PARAMS_MAX).map(|header| (header, path.clone())));
    }
    if path.len() >= DEPTH_MAX {
        return;
    }
    for (name, child) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        path.push(name.clone());
        scan(child, path, found);
        path.pop();
    }
}

/// An argument as it goes into a header; integers keep their digits. `None` for what is absent or cannot.
fn value_at(arguments: &RawValue, path: &[String]) -> Option<String> {
    let mut value = arguments;
    for name in path {
        value = Members::of(value)?.get(name)?;
    }
    match serde_json::from_str(value.get()).ok()? {
        Value::String(text) => Some(text),
        Value::Bool(_) | Value::Number(_) => Some(value.get().to_owned()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_proto::mcp::{Message, read_message};

    use super::*;

    fn call(arguments: &str) -> Request {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"t","arguments":{arguments}}}}}"#
        );
        match read_message(text.as_bytes()).unwrap() {
            Message::Request(request) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_are_mirrored_once_their_tool_passed_by() {
        let tools = Tools::default();
        let mirrored = |arguments: &str| {
            let mut headers = HeaderMap::new();
            tools.mirror(&call(arguments), &mut headers);
            headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap())).collect::<Vec<_>>()
        };
        assert!(mirrored(r#"{"region":"eu"}"#).is_empty());
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"count": {"type": "integer", "x-mcp-header": "Count"}}},
            "list": {"type": "array", "items": {"type": "string", "x-mcp-header": "Item"}},
            "odd": {"type": "string", "x-mcp-header": "not a name"},
        }});
        let result = json!({"tools": [{"name": "t", "inputSchema": schema}], "nextCursor": "2"});
        let list = json!({"jsonrpc": "2.0", "id": 1, "result": result});
        assert_eq!(tools.learn(list.to_string().as_bytes()).as_deref(), Some("2"));
        let mut found =
            mirrored(r#"{"region":"größe","deep":{"count":10000000000000000000001},"list":["x"],"odd":"x"}"#);
        found.sort();
        assert_eq!(found, ["mcp-param-count=10000000000000000000001", "mcp-param-region==?base64?Z3LDtsOfZQ==?="]);
        assert!(mirrored(r#"{"region":null}"#).is_empty(), "what is absent has no header");
    }
}
