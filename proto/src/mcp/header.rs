//! MCP's own HTTP headers: picking them out, decoding mirrored values, comparing them with the body.
//!
//! Called by the data plane's edge (reading, checking) and forwarder (encoding). A header that appears twice has two
//! readings and is refused; a value outside visible ASCII, space and tab is refused. Names compare without regard to
//! case, values exactly.
//! Specification: MCP 2026-07-28 Streamable HTTP, "Request Metadata", "Value Encoding", "Server Validation".

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{header_name, method, raw::Members};

/// Most `Mcp-Param-…` headers of one request; tools mirror a few arguments.
pub const PARAMS_MAX: usize = 64;
/// Longest value of one of them, still encoded. Servers and proxies commonly stop at 8 KiB.
pub const PARAM_BYTES_MAX: usize = 8 * 1024;

const SENTINEL_START: &str = "=?base64?";
const SENTINEL_END: &str = "?=";

/// The headers MCP defines, trimmed; values still encoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    /// `MCP-Protocol-Version`.
    pub protocol_version: Option<String>,
    /// `Mcp-Session-Id`.
    pub session_id: Option<String>,
    /// `Mcp-Method`.
    pub method: Option<String>,
    /// `Mcp-Name`.
    pub name: Option<String>,
    /// `Mcp-Param-…`: lower-case rest of the name to value.
    pub params: BTreeMap<String, String>,
}

/// A header of MCP has no single reading.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Sent twice.
    #[error("the header `{0}` is repeated")]
    Repeated(String),
    /// Holds something else than visible ASCII, space and tab.
    #[error("the header `{0}` holds characters that are not visible ASCII")]
    Characters(String),
    /// More than [`PARAMS_MAX`], or one longer than [`PARAM_BYTES_MAX`].
    #[error("at most {PARAMS_MAX} `Mcp-Param-` headers of {PARAM_BYTES_MAX} bytes each are accepted")]
    TooMuch,
}

impl Headers {
    /// Picks MCP's headers out of all of a request's headers.
    ///
    /// # Errors
    /// One of them is repeated or holds characters that headers must not hold.
    pub fn pick<'a>(all: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, HeaderFault> {
        let mut picked = Self::default();
        for (name, value) in all {
            // Servers of HTTP have made it lower-case already.
            let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
            let name = if is_lower { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) };
            let slot = match name.as_ref() {
                header_name::PROTOCOL_VERSION => &mut picked.protocol_version,
                header_name::SESSION_ID => &mut picked.session_id,
                header_name::METHOD => &mut picked.method,
                header_name::NAME => &mut picked.name,
                _ => {
                    if let Some(param) = name.strip_prefix(header_name::PARAM_PREFIX) {
                        let value = visible(&name, value)?;
                        if picked.params.len() >= PARAMS_MAX || value.len() > PARAM_BYTES_MAX {
                            return Err(HeaderFault::TooMuch);
                        }
                        if picked.params.insert(param.to_owned(), value).is_some() {
                            return Err(HeaderFault::Repeated(name.into_owned()));
                        }
                    }
                    continue;
                }
            };
            if slot.replace(visible(&name, value)?).is_some() {
                return Err(HeaderFault::Repeated(name.into_owned()));
            }
        }
        Ok(picked)
    }
}

fn visible(name: &str, value: &[u8]) -> Result<String, HeaderFault> {
    let fits = value.iter().all(|byte| matches!(byte, 0x20..=0x7e | b'\t'));
    match std::str::from_utf8(value) {
        Ok(text) if fits => Ok(text.trim_matches([' ', '\t']).to_owned()),
        _ => Err(HeaderFault::Characters(name.to_owned())),
    }
}

/// A `=?base64?…?=` value does not decode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the header's base64 value does not decode to UTF-8 text")]
pub struct SentinelFault;

/// The value a mirrored header stands for: decoded when it has the base64 markers, otherwise as it is.
///
/// # Errors
/// Has the markers but does not decode.
pub fn decode_value(value: &str) -> Result<String, SentinelFault> {
    let Some(encoded) = value.strip_prefix(SENTINEL_START).and_then(|rest| rest.strip_suffix(SENTINEL_END)) else {
        return Ok(value.to_owned());
    };
    let bytes = STANDARD.decode(encoded).map_err(|_undecodable| SentinelFault)?;
    String::from_utf8(bytes).map_err(|_not_text| SentinelFault)
}

/// A value as it goes into a mirrored header: plain where that is safe and unambiguous, otherwise base64.
#[must_use]
pub fn encode_value(value: &str) -> String {
    let plain = value.bytes().all(|byte| matches!(byte, 0x20..=0x7e | b'\t'));
    let padded = value.starts_with([' ', '\t']) || value.ends_with([' ', '\t']);
    let looks_encoded = value.starts_with(SENTINEL_START) && value.ends_with(SENTINEL_END);
    if plain && !padded && !looks_encoded && !value.is_empty() {
        return value.to_owned();
    }
    format!("{SENTINEL_START}{}{SENTINEL_END}", STANDARD.encode(value))
}

/// A mirrored header is missing, does not decode, or says something else than the body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderMismatch {
    /// Required and absent.
    #[error("the header `{0}` is required")]
    Missing(String),
    /// Says something else than the body.
    #[error("the header `{0}` does not match the body")]
    Differs(String),
    /// Cannot be decoded.
    #[error("the header `{0}` cannot be decoded")]
    Undecodable(String),
}

/// The headers that mirror a modern message's method and subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadersMirrored {
    /// For `Mcp-Method`.
    pub method: String,
    /// For `Mcp-Name`, not yet encoded; only some methods have one.
    pub name: Option<String>,
}

/// What `Mcp-Method` and `Mcp-Name` must say for a body.
#[must_use]
pub fn mirrored_headers(rpc_method: &str, params: &Members<'_>) -> HeadersMirrored {
    let key = match rpc_method {
        method::TOOLS_CALL | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        method::TASKS_GET | method::TASKS_UPDATE | method::TASKS_CANCEL => Some("taskId"),
        _ => None,
    };
    let name = key.and_then(|key| params.string(key).ok().flatten());
    HeadersMirrored { method: rpc_method.to_owned(), name }
}

impl HeadersMirrored {
    /// Compares with what the client sent. With `required` a missing header is a mismatch (requests); without, only a
    /// header that is there must agree (notifications, for which the specification requires none).
    ///
    /// # Errors
    /// The first header that does not agree.
    pub fn check(&self, sent: &Headers, required: bool) -> Result<(), HeaderMismatch> {
        check_one("Mcp-Method", sent.method.as_deref(), Some(&self.method), required)?;
        let name = sent.name.as_deref().map(decode_value).transpose();
        let name = name.map_err(|_undecodable| HeaderMismatch::Undecodable("Mcp-Name".into()))?;
        check_one("Mcp-Name", name.as_deref(), self.name.as_deref(), required)
    }
}

fn check_one(name: &str, sent: Option<&str>, body: Option<&str>, required: bool) -> Result<(), HeaderMismatch> {
    match (sent, body) {
        (Some(sent), Some(body)) if sent == body => Ok(()),
        (Some(_), Some(_)) => Err(HeaderMismatch::Differs(name.to_owned())),
        (None, Some(_)) if required => Err(HeaderMismatch::Missing(name.to_owned())),
        (_, None) | (None, Some(_)) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn values_encode_as_the_specification_shows() {
        for (value, header) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("", "=?base64??="),
        ] {
            assert_eq!(encode_value(value), header);
            assert_eq!(decode_value(header).as_deref(), Ok(value));
        }
    }

    #[test]
    fn bad_base64_does_not_decode() {
        for header in ["=?base64?%%%?=", "=?base64?SGVsbG8?=", "=?base64?/w==?=", "=?base64?SGVs bG8=?="] {
            assert_eq!(decode_value(header), Err(SentinelFault), "{header}");
        }
        // The markers are lower case; anything else is a plain value.
        assert_eq!(decode_value("=?BASE64?SGVsbG8=?=").as_deref(), Ok("=?BASE64?SGVsbG8=?="));
        assert_eq!(decode_value("=?base64?="), Ok("=?base64?=".to_owned()));
    }

    #[test]
    fn headers_with_two_readings_are_refused() {
        let twice = [("Mcp-Name", b"a".as_slice()), ("mcp-name", b"b")];
        assert_eq!(Headers::pick(twice), Err(HeaderFault::Repeated("mcp-name".into())));
        let param = [("Mcp-Param-X", b"a".as_slice()), ("mcp-param-x", b"a")];
        assert_eq!(Headers::pick(param), Err(HeaderFault::Repeated("mcp-param-x".into())));
        let high = [("Mcp-Method", b"caf\xe9".as_slice())];
        assert_eq!(Headers::pick(high), Err(HeaderFault::Characters("mcp-method".into())));
        let long = vec![b'x'; PARAM_BYTES_MAX + 1];
        assert_eq!(Headers::pick([("mcp-param-x", long.as_slice())]), Err(HeaderFault::TooMuch));
        let many: Vec<String> = (0..=PARAMS_MAX).map(|index| format!("mcp-param-{index}")).collect();
        let many = Headers::pick(many.iter().map(|name| (name.as_str(), b"x".as_slice())));
        assert_eq!(many, Err(HeaderFault::TooMuch));
        let picked = Headers::pick([("MCP-Protocol-Version", b" 2026-07-28\t".as_slice()), ("other", b"\xff")]);
        assert_eq!(picked.unwrap().protocol_version.as_deref(), Some("2026-07-28"));
    }

    #[test]
    fn mirrored_headers_must_say_what_the_body_says() {
        let params = RawValue::from_string(r#"{"name":"a b ","uri":"file:///x"}"#.into()).unwrap();
        let members = Members::of(&params).unwrap();
        let call = mirrored_headers("tools/call", &members);
        let sent = |method: Option<&str>, name: Option<&str>| Headers {
            method: method.map(ToOwned::to_owned),
            name: name.map(ToOwned::to_owned),
            ..Headers::default()
        };
        let encoded = "=?base64?YSBiIA==?=";
        assert_eq!(call.check(&sent(Some("tools/call"), Some(encoded)), true), Ok(()));
        for (method, name, expected) in [
            (None, Some(encoded), HeaderMismatch::Missing("Mcp-Method".into())),
            (Some("tools/list"), Some(encoded), HeaderMismatch::Differs("Mcp-Method".into())),
            (Some("Tools/Call"), Some(encoded), HeaderMismatch::Differs("Mcp-Method".into())),
            (Some("tools/call"), None, HeaderMismatch::Missing("Mcp-Name".into())),
            (Some("tools/call"), Some("a b"), HeaderMismatch::Differs("Mcp-Name".into())),
            (Some("tools/call"), Some("=?base64?!?="), HeaderMismatch::Undecodable("Mcp-Name".into())),
        ] {
            assert_eq!(call.check(&sent(method, name), true), Err(expected));
        }
        assert_eq!(call.check(&Headers::default(), false), Ok(()));
        assert_eq!(mirrored_headers("resources/read", &members).name.as_deref(), Some("file:///x"));
        assert_eq!(mirrored_headers("tools/list", &members).name, None);
    }

    proptest! {
        #[test]
        fn every_text_survives_a_header(value in any::<String>()) {
            let header = encode_value(&value);
            prop_assert!(header.bytes().all(|byte| matches!(byte, 0x20..=0x7e | b'\t')));
            prop_assert_eq!(decode_value(&header), Ok(value));
        }
    }
}
