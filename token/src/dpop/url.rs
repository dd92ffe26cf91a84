//! HTTP URLs as `htu` is compared with the one that was asked for (RFC 9449 §4.3).
//!
//! Called by `dpop` with both. Two texts of one URL by RFC 3986 §6.2.2 and §6.2.3 are the same: case of scheme and host,
//! escapes of characters that need none, dot segments, a default port, an empty path. All else counts, a slash at the
//! end too; query and fragment do not. Pure.

/// The one text of a URL; `None` if it is no HTTP URL, or names a user.
pub(super) fn canonical_url(url: &str) -> Option<String> {
    let url = url.split(['?', '#']).next()?;
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => ":443",
        "http" => ":80",
        _ => return None,
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let authority = authority.to_ascii_lowercase();
    let without_port = authority.strip_suffix(default_port).or_else(|| authority.strip_suffix(':'));
    let authority = without_port.unwrap_or(&authority);
    if authority.is_empty() || authority.contains(['@', '\\']) {
        return None;
    }
    Some(format!("{scheme}://{authority}{}", without_dots(path)))
}

/// A path that begins after its first slash, with the slash, and without `.` and `..` (RFC 3986 §5.2.4).
fn without_dots(path: &str) -> String {
    let mut kept: Vec<String> = Vec::new();
    let mut segments = path.split('/').map(with_least_escapes).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment.as_str() {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push(String::new());
                }
            }
            _ => kept.push(segment),
        }
    }
    format!("/{}", kept.join("/"))
}

/// Escapes of characters that need none are those characters, all others have capitals (RFC 3986 §6.2.2.1, §6.2.2.2).
/// What is no escape stays.
fn with_least_escapes(segment: &str) -> String {
    let Some((plain, escaped)) = segment.split_once('%') else { return segment.to_owned() };
    let mut text = plain.to_owned();
    for piece in escaped.split('%') {
        let digits = piece.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match (digits, digits.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (Some(_), Some(byte)) if is_unreserved(byte) => text.push(byte.into()),
            (Some(digits), _) => {
                text.push('%');
                text.push_str(&digits.to_ascii_uppercase());
            }
            (None, _) => {
                text.push('%');
                text.push_str(piece);
                continue;
            }
        }
        text.push_str(piece.get(2..).unwrap_or_default());
    }
    text
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "https://gw.example/mcp/finance";

    #[test]
    fn one_url_has_one_text_however_it_is_written() {
        for same in [
            "HTTPS://GW.Example/mcp/finance",
            "https://gw.example:443/mcp/finance",
            "https://gw.example:/mcp/finance",
            "https://gw.example/mcp/finance?a=b&c#d",
            "https://gw.example/mcp/finance#d?e",
            "https://gw.example/mcp/%66inance",
            "https://gw.example/%6D%63p/finance",
            "https://gw.example/./mcp/finance",
            "https://gw.example/mcp/hr/../finance",
            "https://gw.example/../mcp/finance",
            "https://gw.example/mcp/%2e/finance",
        ] {
            assert_eq!(canonical_url(same).as_deref(), Some(URL), "{same}");
        }
        assert_eq!(canonical_url("https://a.example/%c3%a4%7e").as_deref(), Some("https://a.example/%C3%A4~"));
        assert_eq!(canonical_url("http://[::1]:80/x").as_deref(), Some("http://[::1]/x"));
        for (url, path) in [("x/.", "/x/"), ("x/..", "/"), ("x/y/..", "/x/"), ("", "/"), ("%zz%4", "/%zz%4")] {
            assert_eq!(canonical_url(&format!("http://h/{url}")), Some(format!("http://h{path}")), "{url}");
        }
    }

    #[test]
    fn other_urls_have_other_texts() {
        for other in [
            "https://gw.example/mcp/finance/",
            "https://gw.example//mcp/finance",
            "https://gw.example/mcp/Finance",
            "https://gw.example/mcp%2Ffinance",
            "https://gw.example/mcp/finance/..",
            "https://gw.example/mcp/finance%3Fx",
            "https://gw.example:80/mcp/finance",
            "https://gw.example::443/mcp/finance",
            "https://gw.example::/mcp/finance",
            "https://gw.example:8443/mcp/finance",
            "http://gw.example/mcp/finance",
            "http://gw.example:443/mcp/finance",
            "https://gw.example.evil.example/mcp/finance",
            "https://gw.example./mcp/finance",
            "https://gw.example\\mcp/finance",
        ] {
            assert_ne!(canonical_url(other).as_deref(), Some(URL), "{other}");
        }
    }
}
