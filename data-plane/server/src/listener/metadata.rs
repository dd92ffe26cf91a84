//! Protected-resource metadata and the challenges that point at it.
//!
//! Called by `visit` and `endpoint`. Everything derives from the configured MCP URL, never from the request, so nobody
//! can make a client look for its authorization server elsewhere.
//! Specification: RFC 9728 §3 and §5.1; RFC 6750 §3; RFC 9449 §7.1; MCP 2026-07-28 authorization.

use bailiwick_proto::{
    Reason, Tier,
    scope::{self, Scopes},
    v1::Issuer,
};
use bailiwick_token::{assertion::AssertionAlgorithm, binding::BINDING_ALG, dpop::DPOP_ALGORITHMS};
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};

use super::{
    Gateway,
    answer::{self, Response},
    endpoint,
};
use crate::{auth::possession::DpopFault, config::http_authority};

/// Where metadata lies: between host and path of the resource.
pub(crate) const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";

/// What a client without a good token is told to ask for: whatever the person will consent to.
pub(super) const SCOPE_OFFERED: Scopes = Scopes::of_level(Tier::Destructive);

/// The answer to a request for whatever lies under `path`.
pub(super) fn answer(gateway: &Gateway, method: &Method, path: &str) -> Response {
    let under = path.strip_prefix(WELL_KNOWN).filter(|rest| rest.is_empty() || (rest.starts_with('/') && *rest != "/"));
    let Some(under) = under else { return answer::empty(StatusCode::NOT_FOUND) };
    if method != Method::GET && method != Method::HEAD {
        let mut refusal = answer::empty(StatusCode::METHOD_NOT_ALLOWED);
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET,HEAD"));
        return refusal;
    }
    let config = gateway.state.config();
    let Some((config, issuer)) = config.as_ref().and_then(|config| Some((config, config.issuer.as_ref()?))) else {
        return endpoint::not_ready();
    };
    let name = virtual_server_of(issuer, under).filter(|name| config.virtual_servers.contains_key(*name));
    if name.is_none() && !under.is_empty() {
        return answer::empty(StatusCode::NOT_FOUND);
    }
    let bound_from = name.and_then(|name| config.virtual_servers.get(name)?.bound_from);
    let bound = Bound { from: bound_from, by_certificates: gateway.client_certificates };
    let mut response = answer::json(StatusCode::OK, document(issuer, name, bound).to_string());
    response.headers_mut().remove(header::CACHE_CONTROL);
    response
}

/// How tokens are bound at a resource.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bound {
    /// Everything of this tier and above is for bound tokens only.
    pub(crate) from: Option<Tier>,
    /// Tokens may be bound to certificates: clients are asked for one here.
    pub(crate) by_certificates: bool,
}

/// The metadata of a virtual server, or of all of them together for `None`.
pub(crate) fn document(issuer: &Issuer, virtual_server: Option<&str>, bound: Bound) -> Value {
    let mcp_url = issuer.mcp_url.trim_end_matches('/');
    let resource = virtual_server.map_or_else(|| mcp_url.to_owned(), |name| format!("{mcp_url}/{name}"));
    let mut document = json!({
        "resource": resource,
        "authorization_servers": [issuer.issuer],
        "scopes_supported": scope::WORDS,
        "bearer_methods_supported": ["header"],
        "resource_name": virtual_server.unwrap_or("Bailiwick"),
        "dpop_signing_alg_values_supported": DPOP_ALGORITHMS.map(AssertionAlgorithm::as_str),
        // True where nothing is to be had by a client that goes by the standards and does not speak DPoP.
        "dpop_bound_access_tokens_required": bound.from == Some(Tier::Retrieval) && !bound.by_certificates,
        "tls_client_certificate_bound_access_tokens": bound.by_certificates,
        "bailiwick_binding_algs_supported": [BINDING_ALG],
    });
    if let (Some(tier), Some(members)) = (bound.from, document.as_object_mut()) {
        members.insert("bailiwick_binding_required_from".to_owned(), tier.as_str().into());
    }
    document
}

/// The virtual server whose metadata lies under `path` (after [`WELL_KNOWN`]), by the configured MCP URL.
pub(crate) fn virtual_server_of<'p>(issuer: &Issuer, path: &'p str) -> Option<&'p str> {
    let name = path.strip_prefix(mcp_path(issuer)?)?.strip_prefix('/')?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

/// The `WWW-Authenticate` value of a 401 or 403, with the scope that a token needs.
pub(crate) fn challenge(issuer: Option<&Issuer>, virtual_server: &str, reason: Reason, scope: Scopes) -> String {
    let error = match reason {
        Reason::TokenMissing => None,
        Reason::ScopeInsufficient => Some("insufficient_scope"),
        // Every other reason speaks of the token that was sent.
        _ => Some("invalid_token"),
    };
    let mut challenge = String::from("Bearer ");
    if let Some(error) = error {
        challenge.push_str(&format!(r#"error="{error}", error_description="{}", "#, reason.sentence()));
    }
    if let Some(url) = issuer.and_then(|issuer| metadata_url(issuer, virtual_server)) {
        challenge.push_str(&format!(r#"resource_metadata="{url}", "#));
    }
    challenge.push_str(&format!(r#"scope="{scope}""#));
    challenge
}

/// Sends challenges along with an answer: with a 401 for both kinds of tokens, first for the kind that the client spoke
/// of.
pub(super) fn challenge_along(
    response: &mut Response,
    (issuer, virtual_server): (Option<&Issuer>, &str),
    (reason, fault): (Reason, Option<DpopFault>),
    scope: Scopes,
) {
    let challenges = match (response.status(), fault) {
        (StatusCode::UNAUTHORIZED, None) => {
            [Some(challenge(issuer, virtual_server, reason, scope)), Some(format!("DPoP {}", algs()))]
        }
        (StatusCode::UNAUTHORIZED, Some(fault)) => [
            Some(dpop_challenge(issuer, virtual_server, (reason, fault), scope)),
            Some(challenge(issuer, virtual_server, Reason::TokenMissing, scope)),
        ],
        _ => [Some(challenge(issuer, virtual_server, reason, scope)), None],
    };
    for challenge in challenges.into_iter().flatten() {
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            response.headers_mut().append(header::WWW_AUTHENTICATE, challenge);
        }
    }
}

fn dpop_challenge(
    issuer: Option<&Issuer>,
    virtual_server: &str,
    (reason, fault): (Reason, DpopFault),
    scope: Scopes,
) -> String {
    let (word, description) = (fault.word(), reason.sentence());
    let mut challenge = format!(r#"DPoP error="{word}", error_description="{description}", {}, "#, algs());
    if let Some(url) = issuer.and_then(|issuer| metadata_url(issuer, virtual_server)) {
        challenge.push_str(&format!(r#"resource_metadata="{url}", "#));
    }
    challenge.push_str(&format!(r#"scope="{scope}""#));
    challenge
}

/// The algorithms of DPoP proofs that are taken.
fn algs() -> String {
    format!(r#"algs="{}""#, DPOP_ALGORITHMS.map(AssertionAlgorithm::as_str).join(" "))
}

/// `None` for a name that has no place in a URL: such a virtual server cannot exist.
fn metadata_url(issuer: &Issuer, virtual_server: &str) -> Option<String> {
    if !bailiwick_proto::names::is_server_name(virtual_server) {
        return None;
    }
    let path = mcp_path(issuer)?;
    let origin = issuer.mcp_url.trim_end_matches('/').strip_suffix(path)?;
    Some(format!("{origin}{WELL_KNOWN}{path}/{virtual_server}"))
}

/// The path of the MCP URL without a slash at its end; empty for a URL without a path.
fn mcp_path(issuer: &Issuer) -> Option<&str> {
    let url = issuer.mcp_url.trim_end_matches('/');
    let authority = http_authority(url)?;
    let (_, path) = url.split_once("://")?.1.split_once(authority)?;
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issuer(mcp_url: &str) -> Issuer {
        Issuer { issuer: "https://auth.example".into(), mcp_url: mcp_url.into() }
    }

    #[test]
    fn metadata_lies_where_the_challenge_says() {
        for (mcp_url, path) in [
            ("http://127.0.0.1:8420/mcp", "/mcp/finance"),
            ("https://gw.example/a/mcp/", "/a/mcp/finance"),
            ("https://gw.example", "/finance"),
        ] {
            let issuer = issuer(mcp_url);
            let challenge = challenge(Some(&issuer), "finance", Reason::TokenMissing, SCOPE_OFFERED);
            let url = challenge.split('"').nth(1).unwrap();
            let (origin, found) = url.split_once(WELL_KNOWN).unwrap();
            assert_eq!(found, path);
            assert_eq!(virtual_server_of(&issuer, found), Some("finance"));
            assert_eq!(document(&issuer, Some("finance"), Bound::default())["resource"], format!("{origin}{path}"));
        }
        let issuer = issuer("http://h/mcp");
        for path in ["", "/", "/mcp", "/mcp/", "/mcp/a/b", "/mcpa", "/other/a"] {
            assert_eq!(virtual_server_of(&issuer, path), None, "{path}");
        }
        assert_eq!(document(&issuer, None, Bound::default())["resource"], "http://h/mcp");
    }

    #[test]
    fn challenges_say_what_is_wrong() {
        let issuer = issuer("http://h/mcp");
        let challenge = |name: &str, reason| challenge(Some(&issuer), name, reason, SCOPE_OFFERED);
        assert_eq!(
            challenge("finance", Reason::TokenMissing),
            r#"Bearer resource_metadata="http://h/.well-known/oauth-protected-resource/mcp/finance", scope="mcp:tools""#
        );
        let expired = challenge("finance", Reason::TokenExpired);
        assert!(expired.starts_with(r#"Bearer error="invalid_token", error_description="The token has expired"#));
        let narrow = challenge("finance", Reason::ScopeInsufficient);
        assert!(narrow.starts_with(r#"Bearer error="insufficient_scope""#) && narrow.contains(r#"scope="mcp:tools""#));
        assert_eq!(challenge("a\"b", Reason::TokenMissing), r#"Bearer scope="mcp:tools""#);
    }

    #[test]
    fn a_challenge_names_the_scope_that_is_needed_and_metadata_all_there_are() {
        let issuer = issuer("http://h/mcp");
        for tier in Tier::ALL {
            let scope = Scopes::of_level(tier);
            let challenge = challenge(Some(&issuer), "finance", Reason::ScopeInsufficient, scope);
            assert!(challenge.ends_with(&format!(r#", scope="{scope}""#)), "{challenge}");
        }
        let supported = &document(&issuer, Some("finance"), Bound::default())["scopes_supported"];
        assert_eq!(*supported, json!(["mcp:read", "mcp:write", "mcp:tools"]));
    }

    #[test]
    fn metadata_says_which_bound_tokens_are_supported_and_whether_others_are_of_any_use() {
        let (issuer, retrieval) = (issuer("http://h/mcp"), Some(Tier::Retrieval));
        for (from, by_certificates, is_required) in [
            (None, false, false),
            (None, true, false),
            (Some(Tier::Transactional), false, false),
            (Some(Tier::Destructive), true, false),
            (retrieval, false, true),
            (retrieval, true, false),
        ] {
            let said = document(&issuer, Some("finance"), Bound { from, by_certificates });
            assert_eq!(said["dpop_bound_access_tokens_required"], is_required, "{said}");
            assert_eq!(said["tls_client_certificate_bound_access_tokens"], by_certificates, "{said}");
            assert_eq!(said["dpop_signing_alg_values_supported"], json!(["ES256", "EdDSA", "PS256", "RS256"]));
            assert_eq!(said.get("bailiwick_binding_required_from").and_then(Value::as_str), from.map(Tier::as_str));
        }
    }
}
