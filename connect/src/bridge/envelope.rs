//! The headers that a message has over HTTP and not on standard input.
//!
//! Called by `bridge` for each message. A modern one says its revision in its own `_meta`, and mirrors method and
//! subject; a legacy one has what its session has (`session`). Specification: MCP 2026-07-28 Streamable HTTP, "Request
//! Headers".

use bailiwick_proto::mcp::{Members, encode_value, mirrored_headers};
use http::{HeaderMap, HeaderName, HeaderValue, header};

const META_VERSION: &str = "io.modelcontextprotocol/protocolVersion";
pub(super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
/// Longest revision that is sent on.
const VERSION_BYTES_MAX: usize = 64;

/// How a message travels.
#[derive(Clone, Debug, Default)]
pub(super) struct Envelope {
    /// Of a modern message; none of a legacy one.
    pub(super) modern: Option<HeaderMap>,
}

/// The revision that a modern message names.
pub(super) fn version(members: &Members<'_>) -> Option<String> {
    let meta = members.object("_meta").ok()??;
    let version: String = meta.read(META_VERSION).ok()??;
    (version.len() <= VERSION_BYTES_MAX).then_some(version)
}

pub(super) fn of(method: &str, members: &Members<'_>) -> Envelope {
    let Some(version) = version(members).and_then(|version| HeaderValue::from_str(&version).ok()) else {
        return Envelope::default();
    };
    let mirrored = mirrored_headers(method, members);
    let mut headers = HeaderMap::new();
    headers.insert(VERSION, version);
    for (name, value) in [(METHOD, Some(mirrored.method)), (NAME, mirrored.name)] {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(&encode_value(&value)).ok()) {
            headers.insert(name, value);
        }
    }
    Envelope { modern: Some(headers) }
}

/// What every POST has.
pub(super) fn of_post() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
    headers
}

#[cfg(test)]
mod tests {
    use bailiwick_proto::mcp::{Message, read_message};

    use super::*;

    fn read(text: &str) -> Envelope {
        match read_message(text.as_bytes()).unwrap() {
            Message::Request(request) => of(&request.method, &request.members()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_modern_message_mirrors_what_it_says() {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"größe",{meta}}}}}"#);
        let headers = read(&text).modern.unwrap();
        let value = |name: &HeaderName| headers.get(name).unwrap().to_str().unwrap();
        assert_eq!((value(&VERSION), value(&METHOD)), ("2026-07-28", "tools/call"));
        assert_eq!(value(&NAME), "=?base64?Z3LDtsOfZQ==?=");
        let listed = read(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{{{meta}}}}}"#));
        assert!(!listed.modern.unwrap().contains_key(&NAME));
    }

    #[test]
    fn a_message_without_a_revision_is_legacy() {
        for text in [
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":7}}}"#,
        ] {
            assert!(read(text).modern.is_none(), "{text}");
        }
    }
}
