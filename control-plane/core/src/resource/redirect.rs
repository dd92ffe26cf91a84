//! Redirect URIs of clients: what one may look like, and when one that a client sends is one that is registered.
//!
//! Compared byte for byte (OAuth 2.1 §2.3.1), but for the port of a loopback address, which a native program gets from
//! its system at each start (RFC 8252 §7.3). Called by `faults` and by the server. Absent: sending anybody there.

use bailiwick_proto::address::Host;

use super::checks::is_http_url;

/// Most redirect URIs of one client.
pub const REDIRECT_URIS_MAX: usize = 16;
/// Longest redirect URI.
pub const REDIRECT_URI_BYTES_MAX: usize = 512;
/// Schemes of editors that register themselves; all others without a dot are a browser's own or somebody else's.
const PROGRAMS: [&str; 6] = ["cursor", "vscode", "vscode-insiders", "windsurf", "zed", "claude"];
/// What a redirect URI must be.
pub(crate) const RULE: &str = "must be an https URL, an http URL of this machine (127.0.0.1, [::1], localhost), or of a \
                               program's own scheme with a dot (com.example.app:/done); without user and fragment";

/// Whether a redirect URI may be registered.
#[must_use]
pub fn is_redirect_uri(uri: &str) -> bool {
    let visible = uri.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '#' | '\\' | '"' | '<' | '>' | '*'));
    if uri.len() > REDIRECT_URI_BYTES_MAX || !visible {
        return false;
    }
    match uri.split_once(':') {
        Some(("https", rest)) => is_http_url(uri) && rest.strip_prefix("//").and_then(place).is_some(),
        Some(("http", _)) => is_http_url(uri) && loopback(uri).is_some(),
        Some((scheme, rest)) => is_private_scheme(scheme) && !rest.is_empty(),
        None => false,
    }
}

/// RFC 8252 §7.1: a scheme under a name that its maker owns.
fn is_private_scheme(scheme: &str) -> bool {
    let shape = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '+');
    let named = scheme.contains('.') || PROGRAMS.contains(&scheme);
    named && scheme.starts_with(|c: char| c.is_ascii_lowercase()) && scheme.chars().all(shape)
}

/// Whether a client that registered these may be sent to `uri`.
#[must_use]
pub fn is_registered<'a>(uri: &str, mut registered: impl Iterator<Item = &'a String>) -> bool {
    let without_port = loopback(uri).filter(|parts| parts.is_address);
    is_redirect_uri(uri)
        && registered.any(|known| {
            let same_but_port = || {
                let (one, other) = (without_port.as_ref()?, loopback(known)?);
                Some((one.host, one.rest) == (other.host, other.rest))
            };
            known == uri || same_but_port().unwrap_or(false)
        })
}

/// Whether it leads to the machine of whoever clicks: any program there may take it.
#[must_use]
pub fn is_loopback(uri: &str) -> bool {
    loopback(uri).is_some()
}

struct Loopback<'a> {
    host: &'a str,
    /// Path and query.
    rest: &'a str,
    is_address: bool,
}

/// The host of what stands after a scheme, as written and as browsers read it; and path and query.
fn place(after: &str) -> Option<(&str, Host, &str)> {
    let (authority, rest) = after.split_at(after.find(['/', '?']).unwrap_or(after.len()));
    let host_end = authority.rfind(':').filter(|at| !authority.get(*at..).is_some_and(|port| port.ends_with(']')));
    let host = authority.get(..host_end.unwrap_or(authority.len()))?;
    Some((host, host.parse().ok()?, rest))
}

fn loopback(uri: &str) -> Option<Loopback<'_>> {
    let (host, read, rest) = place(uri.strip_prefix("http://")?)?;
    match read {
        Host::Address(address) if address.is_loopback() => Some(Loopback { host, rest, is_address: true }),
        Host::Name(name) if name == "localhost" => Some(Loopback { host, rest, is_address: false }),
        Host::Address(_) | Host::Name(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_places_that_are_somebodys_own_are_redirected_to() {
        for good in [
            "https://app.example/done",
            "https://app.example:8443/done?x=1",
            "http://127.0.0.1:3333/callback",
            "http://127.0.0.1/callback",
            "http://[::1]:9/",
            "http://localhost:6274/oauth/callback",
            "com.example.app:/done",
            "cursor://anysphere.cursor-retrieval/oauth/callback",
        ] {
            assert!(is_redirect_uri(good), "{good}");
        }
        for bad in [
            "",
            "/done",
            "http://app.example/done",
            "http://127.0.0.1.evil.example/",
            "http://127.1/",
            "http://0x7f.1/",
            "http://localhost.evil.example/",
            "http://user@127.0.0.1/",
            "https://user@app.example/",
            "https://app.example/#f",
            "https://app.example/\\evil",
            "https://*.example/",
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc/passwd",
            "vbscript:x",
            "JavaScript:alert(1)",
            "ws://127.0.0.1/",
            "intent://x",
            "com.example.app:",
            "https:app.example",
            "https://ap[]p.example/",
            "http://127.0.0.1:+3333/callback",
            "https://2130706433/",
        ] {
            assert!(!is_redirect_uri(bad), "{bad}");
        }
        assert!(!is_redirect_uri(&format!("https://app.example/{}", "x".repeat(REDIRECT_URI_BYTES_MAX))));
    }

    #[test]
    fn a_redirect_uri_is_the_registered_one_to_the_byte_but_for_a_loopback_addresss_port() {
        let is = |uri: &str, known: &str| is_registered(uri, [known.to_owned()].iter());
        assert!(is("https://app.example/done", "https://app.example/done"));
        assert!(is("http://127.0.0.1:50123/cb?a=b", "http://127.0.0.1:3000/cb?a=b"));
        assert!(is("http://[::1]:50123/cb", "http://[::1]/cb"));
        for (uri, known) in [
            ("https://app.example/done/", "https://app.example/done"),
            ("https://app.example/done?x", "https://app.example/done"),
            ("https://app.example:444/done", "https://app.example/done"),
            ("http://127.0.0.1:50123/other", "http://127.0.0.1:3000/cb"),
            ("http://127.0.0.2:50123/cb", "http://127.0.0.1:3000/cb"),
            ("http://[::1]:50123/cb", "http://127.0.0.1:3000/cb"),
            ("http://localhost:50123/cb", "http://localhost:3000/cb"),
            ("http://localhost:3000/cb", "http://127.0.0.1:3000/cb"),
            ("cursor://a", "cursor://b"),
        ] {
            assert!(!is(uri, known), "{uri}");
        }
    }
}
