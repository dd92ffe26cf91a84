//! What the fast server answers: everything but the id is made beforehand.
//!
//! Pure. Implements as much of MCP 2026-07-28 and of its handshakes before as a gateway asks for when it gets to know a
//! server and calls its tools; whatever else is asked is unknown (-32601).

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

/// The revisions of the legacy era that it speaks.
const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];
const MODERN: &str = "2026-07-28";
/// Tools of one page of the list.
const PAGE: usize = 500;

/// What one message gets.
#[derive(Debug)]
pub(super) enum Answered {
    /// It was no JSON-RPC message.
    Malformed,
    /// It was a notification.
    Accepted,
    /// A JSON-RPC response.
    Text(Vec<u8>),
    /// The response to a call of a tool.
    CallText(Vec<u8>),
}

/// The results, ready to be sent.
#[derive(Debug)]
pub(super) struct Answers {
    pages: Vec<Vec<u8>>,
    called: Vec<u8>,
    discovered: Vec<u8>,
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: &'a str,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
struct Parameters<'a> {
    #[serde(borrow)]
    cursor: Option<&'a str>,
    #[serde(borrow, rename = "protocolVersion")]
    protocol_version: Option<&'a str>,
}

impl Answers {
    pub(super) fn new(tools: u32, answer_bytes: u32) -> Self {
        let tools: Vec<Value> = (0..tools).map(tool).collect();
        let all: Vec<&[Value]> = tools.chunks(PAGE).collect();
        let last = all.len().saturating_sub(1);
        let page = |(number, tools): (usize, &&[Value])| {
            let mut page = json!({"resultType": "complete", "tools": tools, "ttlMs": 60_000, "cacheScope": "public"});
            if let (true, Some(page)) = (number < last, page.as_object_mut()) {
                page.insert("nextCursor".to_owned(), (number + 1).to_string().into());
            }
            page.to_string().into_bytes()
        };
        let text: String = "All is well. ".chars().cycle().take(answer_bytes as usize).collect();
        let called = json!({"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": false});
        let discovered = json!({
            "resultType": "complete",
            "supportedVersions": [MODERN],
            "capabilities": {"tools": {}},
            "serverInfo": server(),
            "ttlMs": 60_000,
            "cacheScope": "public",
        });
        Self {
            pages: all.iter().enumerate().map(page).collect(),
            called: called.to_string().into_bytes(),
            discovered: discovered.to_string().into_bytes(),
        }
    }

    /// The answer to one message.
    pub(super) fn to(&self, body: &[u8]) -> Answered {
        let Ok(asked) = serde_json::from_slice::<Asked<'_>>(body) else { return Answered::Malformed };
        let Some(id) = asked.id.map(RawValue::get) else { return Answered::Accepted };
        if asked.method == "tools/call" {
            return Answered::CallText(response(id, "result", &self.called));
        }
        let parameters: Parameters<'_> =
            asked.params.and_then(|params| serde_json::from_str(params.get()).ok()).unwrap_or_default();
        Answered::Text(match asked.method {
            "tools/list" => {
                let page = parameters.cursor.map_or(Some(0), |cursor| cursor.parse::<usize>().ok());
                match page.and_then(|page| self.pages.get(page)) {
                    Some(page) => response(id, "result", page),
                    None => refused(id, -32602, "unknown cursor"),
                }
            }
            "server/discover" => response(id, "result", &self.discovered),
            "initialize" => response(id, "result", initialized(parameters.protocol_version).as_bytes()),
            "ping" => response(id, "result", b"{}"),
            _ => refused(id, -32601, "unknown method"),
        })
    }
}

fn tool(number: u32) -> Value {
    json!({
        "name": format!("tool-{number:04}"),
        "title": format!("Tool {number}"),
        "description": "Looks something up and tells what it found, with where it found it and how sure it is.",
        "inputSchema": {
            "type": "object",
            "properties": {"query": {"type": "string"}, "limit": {"type": "integer", "minimum": 1}},
        },
        "annotations": {"readOnlyHint": true},
    })
}

fn server() -> Value {
    json!({"name": "bailiwick-loadtest", "version": env!("CARGO_PKG_VERSION")})
}

fn initialized(asked: Option<&str>) -> String {
    let [newest, ..] = LEGACY;
    let version = LEGACY.into_iter().find(|version| asked == Some(*version)).unwrap_or(newest);
    json!({"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": server()}).to_string()
}

fn refused(id: &str, code: i32, message: &str) -> Vec<u8> {
    response(id, "error", json!({"code": code, "message": message}).to_string().as_bytes())
}

fn response(id: &str, member: &str, value: &[u8]) -> Vec<u8> {
    let start = [r#"{"jsonrpc":"2.0","id":"#, id, r#",""#, member, r#"":"#];
    let mut text = Vec::with_capacity(start.iter().map(|part| part.len()).sum::<usize>() + value.len() + 1);
    start.iter().for_each(|part| text.extend_from_slice(part.as_bytes()));
    text.extend_from_slice(value);
    text.push(b'}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(answers: &Answers, method: &str, params: &Value) -> Value {
        let body = json!({"jsonrpc": "2.0", "id": "a\"b", "method": method, "params": params}).to_string();
        match answers.to(body.as_bytes()) {
            Answered::Text(text) | Answered::CallText(text) => serde_json::from_slice(&text).unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn all_tools_are_listed_page_by_page() {
        let answers = Answers::new(1_001, 0);
        let (mut cursor, mut names) = (json!({}), Vec::new());
        loop {
            let page = asked(&answers, "tools/list", &cursor)["result"].clone();
            names.extend(page["tools"].as_array().unwrap().iter().map(|tool| tool["name"].clone()));
            match &page["nextCursor"] {
                Value::Null => break,
                next => cursor = json!({ "cursor": next }),
            }
        }
        assert_eq!(names.len(), 1_001);
        assert_eq!((&names[0], &names[1_000]), (&json!("tool-0000"), &json!("tool-1000")));
    }

    #[test]
    fn a_call_is_answered_under_its_own_id() {
        let answer = asked(&Answers::new(1, 20), "tools/call", &json!({"name": "tool-0000"}));
        assert_eq!(answer["id"], "a\"b");
        assert_eq!(answer["result"]["content"][0]["text"], "All is well. All is ");
    }

    #[test]
    fn a_handshake_of_either_era_gets_a_version_that_was_asked_for() {
        let answers = Answers::new(1, 0);
        let legacy = asked(&answers, "initialize", &json!({"protocolVersion": "2025-06-18"}));
        assert_eq!(legacy["result"]["protocolVersion"], "2025-06-18");
        assert_eq!(asked(&answers, "server/discover", &json!({}))["result"]["supportedVersions"], json!([MODERN]));
    }

    #[test]
    fn what_is_no_request_gets_no_response() {
        let answers = Answers::new(1, 0);
        assert!(matches!(answers.to(b"{"), Answered::Malformed));
        let notification = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert!(matches!(answers.to(notification), Answered::Accepted));
    }
}
