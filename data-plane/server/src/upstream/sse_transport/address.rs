//! The address that a server over HTTP+SSE wants to be talked to at: the first event of its stream.
//!
//! Read by `sse_transport`. It must be at the stream's own origin, by every reading of it: or a server could have the
//! gateway send things, with the server's credential, to wherever it likes. Specification: MCP 2024-11-05 transports,
//! "HTTP with SSE"; WHATWG URL for what others read.

use bailiwick_proto::address::Host;
use http::{Uri, uri::PathAndQuery};

/// Longest address; real ones have some hundred bytes.
const ADDRESS_BYTES_MAX: usize = 2 * 1024;

/// Where messages go, as a path at the stream's own origin; or why they do not.
pub(super) fn address(stream: &str, said: &[u8]) -> Result<PathAndQuery, &'static str> {
    let said = std::str::from_utf8(said).map_err(|_| "somewhere that is no text")?.trim();
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '#' | '\\' | '"' | '<' | '>');
    if said.is_empty() || said.len() > ADDRESS_BYTES_MAX || !said.chars().all(is_plain) {
        return Err("somewhere that is no address");
    }
    let base: Uri = stream.parse().map_err(|_| "by a URL that cannot be read")?;
    let path = if said.contains("://") {
        let whole: Uri = said.parse().map_err(|_| "at a URL that cannot be read")?;
        if origin(&whole).is_none() || origin(&whole) != origin(&base) {
            return Err("at another origin");
        }
        // The path of `http://h?x` is `/`, although it is not written.
        whole.query().map_or_else(|| whole.path().to_owned(), |query| format!("{}?{query}", whole.path()))
    } else if said.starts_with("//") {
        return Err("at another origin");
    } else if said.starts_with('/') {
        said.to_owned()
    } else if said.starts_with('?') {
        format!("{}{said}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{said}")
    };
    // Both readings of dots, written as they are or not, and of a second scheme, are avoided.
    let before_query = path.split('?').next().unwrap_or_default();
    let plain = before_query.to_ascii_lowercase().replace("%2e", ".");
    if plain.split('/').any(|part| matches!(part, "." | "..")) || plain.contains(':') {
        return Err("at a path with two readings");
    }
    path.parse().map_err(|_| "at a path that cannot be read")
}

/// Scheme, host and port; none of what has several readings.
fn origin(uri: &Uri) -> Option<(String, Host, u16)> {
    let scheme = uri.scheme_str()?.to_ascii_lowercase();
    let usual = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let authority = uri.authority()?;
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host)?.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|digit| digit.is_ascii_digit()) => digits.parse().ok()?,
        Some(_) => return None,
        None if authority.as_str() == host => usual,
        None => return None,
    };
    Some((scheme, host.parse().ok()?, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_at_the_stream_s_own_origin() {
        for (said, expected) in [
            ("/messages?sessionId=1", Some("/messages?sessionId=1")),
            ("http://h:8080/messages/?session_id=a", Some("/messages/?session_id=a")),
            ("HTTP://H:8080/x", Some("/x")),
            ("messages", Some("/a/messages")),
            ("?session=1", Some("/a/sse?session=1")),
            (" /x\n", Some("/x")),
            ("http://h:8080", Some("/")),
            ("http://h:8080?session=1", Some("/?session=1")),
            ("http://h/messages", None),
            ("https://h:8080/messages", None),
            ("http://other:8080/messages", None),
            ("http://h:8080@other/x", None),
            ("http://user@h:8080/x", None),
            ("http://h:+8080/x", None),
            ("http://h:8[]:8080/x", None),
            ("//other/x", None),
            ("///other/x", None),
            ("ftp://h:8080/x", None),
            ("/\\other/x", None),
            ("/x#y", None),
            ("../x", None),
            ("/a/../x", None),
            ("/a/%2e%2E/x", None),
            ("/a/.%2e", None),
            ("/a/%2ex", Some("/a/%2ex")),
            ("javascript:alert(1)", None),
            ("/x y", None),
            ("", None),
            ("{\"jsonrpc\":\"2.0\"}", None),
        ] {
            let read = address("http://h:8080/a/sse", said.as_bytes());
            assert_eq!(read.as_ref().ok().map(PathAndQuery::as_str), expected, "{said:?}: {read:?}");
        }
        let long = format!("/{}", "x".repeat(ADDRESS_BYTES_MAX));
        assert!(address("http://h/sse", long.as_bytes()).is_err() && address("http://h/sse", b"/\xff").is_err());
        assert_eq!(address("https://h/sse", b"https://h:443/m").unwrap().as_str(), "/m");
    }
}
