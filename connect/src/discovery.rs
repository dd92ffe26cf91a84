//! From the bare MCP URL to the authorization server that speaks for it.
//!
//! Called by `sign_in`: the URL turns a stranger away and names its metadata (RFC 9728), that names the issuer, whose
//! metadata (RFC 8414, or OpenID Connect Discovery) names the endpoints. Invariants: each document is believed only as
//! far as it says what it was asked for (`resource`, `issuer`, byte for byte); the metadata of the resource is of the
//! resource's own origin; nobody leads to this machine who is not on it. Specification: MCP 2026-07-28 authorization.

use std::time::Duration;

use http::{StatusCode, header};
use serde_json::Value;
use tokio::time::timeout;
use url::Url;

use crate::{fault::Fault, target::McpUrl, web::Web};

/// For all of it: other bridges of this person wait meanwhile.
const DISCOVERY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest issuer, endpoint or scope that is taken over.
const TEXT_BYTES_MAX: usize = 2048;

/// Who gives tokens for the resource, and where.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    pub(crate) issuer: String,
    pub(crate) authorization_endpoint: Url,
    pub(crate) token_endpoint: Url,
    pub(crate) registration_endpoint: Option<Url>,
    pub(crate) revocation_endpoint: Option<Url>,
    /// RFC 9207: it says with each answer who it is.
    pub(crate) names_itself: bool,
    /// What the resource asks strangers to ask for.
    pub(crate) scope: Option<String>,
}

/// Asks up to six documents, one after the other, within one time for all.
pub(crate) async fn discover(web: &Web, url: &McpUrl) -> Result<Authority, Fault> {
    let found = timeout(DISCOVERY_WAIT_MAX, Box::pin(documents(web, url))).await;
    found.unwrap_or_else(|_elapsed| Err(Fault::unreachable(url.url())))
}

async fn documents(web: &Web, url: &McpUrl) -> Result<Authority, Fault> {
    let (metadata, scope) = resource_metadata(web, url).await?;
    let at = |what| Fault::answer(url.url(), what);
    let resource = text(&metadata, "resource").ok_or(at("its metadata names no resource"))?;
    if resource.trim_end_matches('/') != url.resource() {
        return Err(at("its metadata is of another resource"));
    }
    let issuer = metadata.pointer("/authorization_servers/0").and_then(Value::as_str).filter(|text| is_short(text));
    let issuer = issuer.ok_or(at("its metadata names no authorization server"))?;
    let issuer_url = allowed(url, issuer).ok_or(at("it names an authorization server that is not to be asked"))?;
    if issuer_url.query().is_some() {
        return Err(at("its authorization server's name has a query"));
    }
    let found = server_metadata(web, issuer, &issuer_url).await?;
    authority(url, issuer, &issuer_url, &found, scope)
}

/// The metadata of the resource, and the scope that its challenge names.
async fn resource_metadata(web: &Web, url: &McpUrl) -> Result<(Value, Option<String>), Fault> {
    let response = web.head(url.url()).await?;
    let challenge = (response.status() == StatusCode::UNAUTHORIZED)
        .then(|| response.headers().get_all(header::WWW_AUTHENTICATE).iter().find_map(|value| value.to_str().ok()))
        .flatten()
        .unwrap_or_default()
        .to_owned();
    drop(response);
    let named = parameter(&challenge, "resource_metadata");
    let places = match named {
        Some(named) => {
            let at = Url::parse(&named).ok().filter(|at| at.origin() == url.url().origin());
            vec![at.ok_or(Fault::answer(url.url(), "its metadata is said to be with another host"))?]
        }
        None => usual_places(url.url()),
    };
    for place in places {
        let document = web.get(&place).await?;
        if document.status == StatusCode::OK && document.body.is_object() {
            return Ok((document.body, parameter(&challenge, "scope").filter(|scope| is_short(scope))));
        }
    }
    Err(Fault::answer(url.url(), "it has no protected-resource metadata; is this the MCP URL?"))
}

/// RFC 9728 §3.1, then the root.
fn usual_places(url: &Url) -> Vec<Url> {
    const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
    let path = url.path().trim_end_matches('/');
    let mut places: Vec<Url> =
        [format!("{WELL_KNOWN}{path}"), WELL_KNOWN.to_owned()].iter().filter_map(|path| url.join(path).ok()).collect();
    places.dedup();
    places
}

/// The issuer's metadata, which must say that it is the issuer's.
async fn server_metadata(web: &Web, issuer: &str, url: &Url) -> Result<Value, Fault> {
    let path = url.path().trim_end_matches('/');
    let places = [
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("/.well-known/openid-configuration{path}"),
        format!("{path}/.well-known/openid-configuration"),
    ];
    for place in places.iter().filter_map(|path| url.join(path).ok()) {
        let document = web.get(&place).await?;
        if document.status != StatusCode::OK || !document.body.is_object() {
            continue;
        }
        if document.body.get("issuer").and_then(Value::as_str) != Some(issuer) {
            return Err(Fault::answer(url, "its metadata is of another issuer"));
        }
        return Ok(document.body);
    }
    Err(Fault::answer(url, "it has no authorization-server metadata"))
}

fn authority(
    url: &McpUrl,
    issuer: &str,
    issuer_url: &Url,
    found: &Value,
    scope: Option<String>,
) -> Result<Authority, Fault> {
    let at = |what| Fault::answer(issuer_url, what);
    let endpoint = |name: &str| match text(found, name) {
        None => Ok(None),
        Some(text) => allowed(url, text).map(Some).ok_or(at("it names an endpoint that is not to be asked")),
    };
    let methods = found.get("code_challenge_methods_supported").and_then(Value::as_array);
    if !methods.is_some_and(|methods| methods.iter().any(|method| method == "S256")) {
        return Err(at("it does not say that it checks PKCE with S256"));
    }
    Ok(Authority {
        issuer: issuer.to_owned(),
        authorization_endpoint: endpoint("authorization_endpoint")?.ok_or(at("it has no authorization endpoint"))?,
        token_endpoint: endpoint("token_endpoint")?.ok_or(at("it has no token endpoint"))?,
        registration_endpoint: endpoint("registration_endpoint")?,
        revocation_endpoint: endpoint("revocation_endpoint")?,
        names_itself: found.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
        scope,
    })
}

fn allowed(from: &McpUrl, text: &str) -> Option<Url> {
    Url::parse(text).ok().filter(|url| is_short(text) && from.may_lead_to(url))
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str).filter(|text| is_short(text))
}

const fn is_short(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX
}

/// A quoted parameter of a challenge (RFC 9110 §11.2); parameters of other names that end alike are others.
pub(crate) fn parameter(challenge: &str, name: &str) -> Option<String> {
    let mut rest = challenge;
    loop {
        let at = rest.find(name)?;
        let (before, from) = rest.split_at(at);
        let after = from.get(name.len()..)?;
        let begins = before.chars().next_back().is_none_or(|c| c == ' ' || c == ',');
        match after.strip_prefix("=\"") {
            Some(value) if begins => return value.split('"').next().map(str::to_owned),
            _ => rest = after,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(found: &Value) -> Result<Authority, Fault> {
        let url = McpUrl::parse("https://mcp.example/mcp/shop").unwrap();
        authority(&url, "https://login.example", &Url::parse("https://login.example").unwrap(), found, None)
    }

    fn good() -> Value {
        json!({
            "authorization_endpoint": "https://login.example/a", "token_endpoint": "https://login.example/t",
            "code_challenge_methods_supported": ["S256"], "authorization_response_iss_parameter_supported": true,
        })
    }

    #[test]
    fn challenges_are_read_by_whole_names() {
        let challenge =
            r#"Bearer error="invalid_token", x_scope="no", resource_metadata="https://a/b", scope="mcp:tools""#;
        assert_eq!(parameter(challenge, "scope").as_deref(), Some("mcp:tools"));
        assert_eq!(parameter(challenge, "resource_metadata").as_deref(), Some("https://a/b"));
        assert_eq!(parameter(challenge, "realm"), None);
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_not_waited_for() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = McpUrl::parse(&format!("http://{}/mcp", listener.local_addr().unwrap())).unwrap();
        let web = Web::that_waits(Duration::from_millis(50)).unwrap();
        let found = timeout(Duration::from_secs(10), discover(&web, &url)).await.unwrap();
        assert!(matches!(found, Err(Fault::Unreachable { .. })), "{found:?}");
    }

    #[test]
    fn metadata_lies_where_the_specification_says() {
        let places =
            |url: &str| usual_places(&Url::parse(url).unwrap()).iter().map(ToString::to_string).collect::<Vec<_>>();
        let root = "https://h.example/.well-known/oauth-protected-resource";
        assert_eq!(places("https://h.example/mcp/shop"), [format!("{root}/mcp/shop"), root.to_owned()]);
        assert_eq!(places("https://h.example/"), [root]);
    }

    #[test]
    fn endpoints_that_are_not_safe_are_not_used() {
        let authority = read(&good()).unwrap();
        assert!(authority.names_itself && authority.registration_endpoint.is_none());
        for (name, value) in [
            ("token_endpoint", json!("http://login.example/t")),
            ("token_endpoint", json!("https://127.0.0.1:9/t")),
            ("authorization_endpoint", json!("javascript:alert(1)")),
            ("registration_endpoint", json!("file:///etc/passwd")),
            ("code_challenge_methods_supported", json!(["plain"])),
            ("code_challenge_methods_supported", Value::Null),
            ("token_endpoint", Value::Null),
        ] {
            let mut bad = good();
            bad[name] = value;
            assert!(read(&bad).is_err(), "{bad}");
        }
    }
}
