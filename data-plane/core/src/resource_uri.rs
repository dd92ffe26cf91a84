//! A resource's URI must have one reading: policies judge its text, and the server acts on what it makes of it.
//!
//! Called by `wanted`. Where `file:///public/../etc/passwd` or `file:///public/%2e%2e/etc/passwd` passed, a permit for
//! `file:///public/*` would open everything; where `file:///%65tc/…` passed, a `forbid` for `file:///etc/*` would forbid
//! nothing. So what RFC 3986 §6.2.2 would normalise away is refused and never rewritten: the text that was judged is
//! the text that is sent. Also refused: what is no URI at all (white space, control characters, backslashes, anything
//! beyond ASCII). Case of a host and empty path segments are left to the server: they lead nowhere else under a
//! `permit`.

/// Longest URI, as common for servers.
pub const RESOURCE_URI_BYTES_MAX: usize = 2048;
/// How many times percent-encoding is looked through for what hides in it.
const ENCODINGS_MAX: usize = 4;

/// Why a URI is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriFault {
    /// Longer than [`RESOURCE_URI_BYTES_MAX`].
    #[error("the URI is too long")]
    TooLong,
    /// Not of the characters of a URI, or with a `%` that begins no byte.
    #[error("the URI holds what no URI may hold")]
    NotAUri,
    /// No scheme, or not in lower case.
    #[error("the URI must begin with its scheme, in lower case")]
    Scheme,
    /// Segments `.` or `..`, open or encoded.
    #[error("the URI's path holds dot segments")]
    DotSegments,
    /// What needs no percent-encoding is encoded, or a byte is not encoded in upper case, or a control character is.
    #[error("the URI's percent-encoding is not in normal form")]
    Encoding,
}

/// Has this URI one reading?
///
/// # Errors
/// Why not.
pub fn check(uri: &str) -> Result<(), UriFault> {
    if uri.len() > RESOURCE_URI_BYTES_MAX {
        return Err(UriFault::TooLong);
    }
    if !uri.bytes().all(is_uri_byte) {
        return Err(UriFault::NotAUri);
    }
    let (scheme, rest) = uri.split_once(':').ok_or(UriFault::Scheme)?;
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.');
    if !scheme.starts_with(|c: char| c.is_ascii_lowercase()) || !scheme.bytes().all(inner) {
        return Err(UriFault::Scheme);
    }
    check_encoding(rest)?;
    let path = rest.split(['?', '#']).next().unwrap_or_default();
    check_segments(path)
}

/// Has a template (RFC 6570) one reading, whatever its variables say? Its expressions count as one plain character.
///
/// # Errors
/// Why not.
pub fn check_template(template: &str) -> Result<(), UriFault> {
    if template.len() > RESOURCE_URI_BYTES_MAX {
        return Err(UriFault::TooLong);
    }
    let mut filled = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        let (expression, after) = after.split_once('}').ok_or(UriFault::NotAUri)?;
        if expression.is_empty() || !expression.bytes().all(is_expression_byte) {
            return Err(UriFault::NotAUri);
        }
        filled.push_str(literal);
        filled.push('x');
        rest = after;
    }
    filled.push_str(rest);
    check(&filled)
}

/// Unreserved, reserved and `%` (RFC 3986 §2).
fn is_uri_byte(byte: u8) -> bool {
    is_unreserved(byte) || b":/?#[]@!$&'()*+,;=%".contains(&byte)
}

const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Operators, names, modifiers and separators of variables (RFC 6570 §2.2 to §2.4).
fn is_expression_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"_.%,+#/;?&:*-".contains(&byte)
}

/// Every encoded byte is one that has to be, in upper case, and no control character.
fn check_encoding(text: &str) -> Result<(), UriFault> {
    for after in text.split('%').skip(1) {
        let digits = after.get(..2).ok_or(UriFault::NotAUri)?;
        let byte = u8::from_str_radix(digits, 16).map_err(|_no_digits| UriFault::NotAUri)?;
        if digits.bytes().any(|digit| !digit.is_ascii_hexdigit()) {
            return Err(UriFault::NotAUri);
        }
        if is_unreserved(byte) || byte.is_ascii_control() || digits.bytes().any(|digit| digit.is_ascii_lowercase()) {
            return Err(UriFault::Encoding);
        }
    }
    Ok(())
}

/// No dot segments, also not once encoding is taken away, however often it was put on.
fn check_segments(path: &str) -> Result<(), UriFault> {
    let mut seen = path.as_bytes().to_vec();
    for _ in 0..ENCODINGS_MAX {
        let mut segments = seen.split(|byte| matches!(byte, b'/' | b'\\'));
        if segments.any(|segment| matches!(segment, b"." | b"..")) {
            return Err(UriFault::DotSegments);
        }
        let opened = decoded(&seen);
        if opened == seen {
            return Ok(());
        }
        seen = opened;
    }
    Err(UriFault::Encoding)
}

fn decoded(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let byte = (first == b'%').then(|| after.get(..2)).flatten();
        let byte = byte.and_then(|digits| std::str::from_utf8(digits).ok());
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(first);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a server might: decoded until nothing changes, then cut at slashes of both kinds.
    fn climbs(uri: &str) -> bool {
        let path = uri.split(['?', '#']).next().unwrap();
        let mut text = path.as_bytes().to_vec();
        while decoded(&text) != text {
            text = decoded(&text);
        }
        let after_scheme = text.iter().position(|byte| *byte == b':').map_or(0, |at| at + 1);
        text[after_scheme..].split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| segment == b"..")
    }

    proptest! {
        #[test]
        fn no_uri_that_is_accepted_climbs_however_it_is_decoded(
            path in "(/|[.]|[.][.]|%2E|%2e|%2F|%5C|%25|%252E|2E|a|%C3|[?]|:){0,12}",
        ) {
            let uri = format!("file:{path}");
            prop_assert!(check(&uri).is_err() || !climbs(&uri), "{}", uri);
        }
    }

    #[test]
    fn ordinary_uris_have_one_reading() {
        for uri in [
            "file:///public/a.txt",
            "file:///home/jane/My%20Documents/%C3%BC.txt",
            "test://static-text",
            "test://template/123/data",
            "memo://insights",
            "https://example.com/a?path=../b&x=1#frag",
            "urn:isbn:0451450523",
            "ui://weather/app.html",
            "postgres://db.example/orders/schema",
            "gitlab://project/group%2Fname/files",
            "file:///a/...",
            "file:///a/.hidden",
            "mcp+x:y",
            "a:",
            "https://[::1]:8080/x",
        ] {
            assert_eq!(check(uri), Ok(()), "{uri}");
        }
    }

    #[test]
    fn what_a_server_may_read_otherwise_is_refused() {
        for (uri, fault) in [
            ("file:///public/../etc/passwd", UriFault::DotSegments),
            ("file:///public/..", UriFault::DotSegments),
            ("file:///public/./a", UriFault::DotSegments),
            ("file:..", UriFault::DotSegments),
            ("file:///public/%2E%2E/etc", UriFault::Encoding),
            ("file:///public/%2e%2e/etc", UriFault::Encoding),
            ("file:///public/..%2Fetc", UriFault::DotSegments),
            ("file:///public/..%5Cetc", UriFault::DotSegments),
            ("file:///public/%252E%252E/etc", UriFault::DotSegments),
            ("file:///public/%25252E./etc", UriFault::DotSegments),
            ("file:///public/%2525252525252E./etc", UriFault::Encoding),
            ("file:///%65tc/passwd", UriFault::Encoding),
            ("file:///%c3%bc", UriFault::Encoding),
            ("file:///a%00b", UriFault::Encoding),
            ("file:///a%0Ab", UriFault::Encoding),
            ("file:///a%7F", UriFault::Encoding),
            ("file:///a%", UriFault::NotAUri),
            ("file:///a%2", UriFault::NotAUri),
            ("file:///a%zz", UriFault::NotAUri),
            ("file:///a%+1", UriFault::NotAUri),
            ("file:///a b", UriFault::NotAUri),
            ("file:///a\\b", UriFault::NotAUri),
            ("file:///a\nb", UriFault::NotAUri),
            ("file:///ü", UriFault::NotAUri),
            ("file:///{a}", UriFault::NotAUri),
            ("FILE:///a", UriFault::Scheme),
            ("/etc/passwd", UriFault::Scheme),
            ("1a:b", UriFault::Scheme),
            (":a", UriFault::Scheme),
            ("", UriFault::Scheme),
        ] {
            assert_eq!(check(uri), Err(fault), "{uri}");
        }
        assert_eq!(check(&format!("a:{}", "x".repeat(RESOURCE_URI_BYTES_MAX))), Err(UriFault::TooLong));
    }

    #[test]
    fn templates_are_judged_around_their_expressions() {
        for template in ["test://template/{id}/data", "file:///{+path}", "x://h{/a,b*}{?q:3}", "a:{b}", "file:///a"] {
            assert_eq!(check_template(template), Ok(()), "{template}");
        }
        for (template, fault) in [
            ("file:///public/../{a}", UriFault::DotSegments),
            ("file:///{a", UriFault::NotAUri),
            ("file:///{}", UriFault::NotAUri),
            ("file:///{a b}", UriFault::NotAUri),
            ("file:///a}", UriFault::NotAUri),
            ("file:///{a{b}}", UriFault::NotAUri),
            ("{scheme}", UriFault::Scheme),
        ] {
            assert_eq!(check_template(template), Err(fault), "{template}");
        }
    }
}
