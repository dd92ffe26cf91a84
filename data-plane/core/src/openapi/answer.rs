//! What an API answered, as the result of a tool.
//!
//! A success is content: text as it is, pictures and sounds as what they are, a JSON object also as structured content.
//! Whatever else an API says (4xx, 5xx) is a tool's error, with what it said: the model can do something about it, and
//! it is no fault of the way there. What cannot be shown is an error as well, and says what it was.
//! Specification: MCP 2026-07-28 and 2025-11-25, "Tool Result".

use bailiwick_proto::mcp::{check_json, raw, raw_object};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{json, value::RawValue};

use super::operations::is_json;

/// How much of an error's text is shown: enough for any message, and a page of HTML is no message.
const ERROR_CHARS_MAX: usize = 4_000;

/// The result of a call that an API answered so.
#[must_use]
pub fn answer(status: u16, media_type: Option<&str>, body: &[u8]) -> Box<RawValue> {
    let media_type = media_type.unwrap_or_default().trim();
    let kind = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if !(200..300).contains(&status) {
        let said: String = text_of(&kind, body).unwrap_or_default().chars().take(ERROR_CHARS_MAX).collect();
        let said = said.trim();
        return failed(&if said.is_empty() { format!("HTTP {status}") } else { format!("HTTP {status}: {said}") });
    }
    if body.is_empty() {
        return content(&raw(&json!([{"type": "text", "text": format!("HTTP {status}")}])), None);
    }
    if let Some(picture_or_sound) = ["image", "audio"].into_iter().find(|sort| kind.starts_with(&format!("{sort}/"))) {
        let data = STANDARD.encode(body);
        return content(&raw(&json!([{"type": picture_or_sound, "data": data, "mimeType": kind}])), None);
    }
    let Some(text) = text_of(&kind, body) else {
        return failed(&format!("the API answered {} bytes of {kind}, which cannot be shown", body.len()));
    };
    let object = Some(text).filter(|text| is_json(&kind) && text.trim_start().starts_with('{'));
    let object = object.filter(|text| check_json(text.as_bytes()).is_ok());
    let object = object.and_then(|text| RawValue::from_string(text.trim().to_owned()).ok());
    content(&raw(&json!([{"type": "text", "text": text}])), object.as_deref())
}

/// The result of a call that was not sent, or brought nothing that can be shown.
#[must_use]
pub fn failed(why: &str) -> Box<RawValue> {
    raw(&json!({"content": [{"type": "text", "text": why}], "isError": true}))
}

fn content(content: &RawValue, structured: Option<&RawValue>) -> Box<RawValue> {
    let is_error = raw(&false);
    let members = [
        Some(("content", content)),
        structured.map(|structured| ("structuredContent", structured)),
        Some(("isError", &*is_error)),
    ];
    raw_object(members.into_iter().flatten())
}

/// The body as text, if it is some.
fn text_of<'b>(kind: &str, body: &'b [u8]) -> Option<&'b str> {
    let says_text = kind.is_empty()
        || kind.starts_with("text/")
        || is_json(kind)
        || kind.ends_with("+xml")
        || ["application/xml", "application/yaml", "application/x-ndjson", "application/javascript"].contains(&kind);
    std::str::from_utf8(body).ok().filter(|_| says_text)
}
