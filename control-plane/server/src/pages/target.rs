//! Where the answer to a form may redirect, as a source of a content security policy (CSP3 §2.3.1): an origin or a
//! scheme. What goes into the header is made of few characters, so nothing can end the directive or add another.

/// Longest host (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;
/// Longest scheme: longer ones are nobody's.
const SCHEME_BYTES_MAX: usize = 128;

/// That of a redirect URI; none when it is not a URI that anybody is sent to.
pub(crate) fn form_target(redirect_uri: &str) -> Option<String> {
    let (scheme, rest) = redirect_uri.split_once(':')?;
    if !is_scheme(scheme) {
        return None;
    }
    let scheme = scheme.to_ascii_lowercase();
    if !matches!(scheme.as_str(), "http" | "https") {
        return Some(format!("{scheme}:"));
    }
    let authority = rest.strip_prefix("//")?.split(['/', '?', '#']).next()?.to_ascii_lowercase();
    // Policies have no word for an address of IPv6.
    let target = if authority.starts_with('[') { format!("{scheme}:") } else { format!("{scheme}://{authority}") };
    is_one(&target).then_some(target)
}

/// Whether it is an origin or a scheme.
pub(super) fn is_one(target: &str) -> bool {
    match target.split_once("://") {
        Some((scheme, authority)) => is_scheme(scheme) && is_authority(authority),
        None => target.strip_suffix(':').is_some_and(is_scheme),
    }
}

/// RFC 3986 §3.1. Those with which a document would act instead of leaving are none here.
fn is_scheme(scheme: &str) -> bool {
    let tail = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    let acts = ["javascript", "data", "blob", "about", "filesystem", "file"];
    scheme.len() <= SCHEME_BYTES_MAX
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(tail)
        && !acts.iter().any(|acts| scheme.eq_ignore_ascii_case(acts))
}

fn is_authority(authority: &str) -> bool {
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    let host_chars = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    (1..=HOST_BYTES_MAX).contains(&host.len())
        && host.chars().all(host_chars)
        && port.is_none_or(|port| port.parse::<u16>().is_ok_and(|number| number.to_string() == port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_uri_gives_its_origin_or_its_scheme() {
        let check = |uri: &str, target: Option<&str>| assert_eq!(form_target(uri).as_deref(), target, "{uri}");
        check("https://app.example/callback?x=1", Some("https://app.example"));
        check("HTTPS://App.Example:8443", Some("https://app.example:8443"));
        check("http://127.0.0.1:33418/", Some("http://127.0.0.1:33418"));
        check("http://[::1]:33418/cb", Some("http:"));
        check("com.example.app:/oauth", Some("com.example.app:"));
        check("cursor://anysphere.cursor-retrieval/oauth", Some("cursor:"));
        for none in
            ["", "app", "/callback", ":x", "https:app", "https://", "https://a;b/", "https://a b/", "https://a:x"]
        {
            check(none, None);
        }
        for none in ["https://user@host/", "https://*/", "https://a,b/", "javascript:alert(1)", "data:x", "a b:c"] {
            check(none, None);
        }
    }

    #[test]
    fn nothing_else_is_a_target() {
        for target in ["https://a.example", "https://a.example:1", "app:", "a+b-c.d:"] {
            assert!(is_one(target), "{target}");
        }
        let long = format!("https://{}", "a".repeat(HOST_BYTES_MAX + 1));
        let hostile =
            ["*", "'unsafe-inline'", "https://a; script-src *", "https://a/b", "https://a\r\nX: y", "a: b:", &long];
        for target in hostile {
            assert!(!is_one(target), "{target}");
        }
    }
}
