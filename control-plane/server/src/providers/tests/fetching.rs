//! Fetches over HTTP from a provider on this machine: its metadata, its keys, and what it must not say.

use axum::{Router, extract::State, http::Uri, response::IntoResponse};
use bailiwick_runtime::{OnEnd, Shutdown};
use http::header;
use tokio::net::TcpListener;

use super::*;
use crate::outbound::Fetcher;

type Page = (StatusCode, &'static str, String);

/// A provider with pages by path.
struct Site {
    base: String,
    here: Arc<Here>,
    stop: Shutdown,
}

#[derive(Default)]
struct Here {
    pages: Mutex<BTreeMap<String, Page>>,
    asked: Mutex<Vec<String>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.stop.request();
    }
}

async fn page(State(here): State<Arc<Here>>, uri: Uri) -> impl IntoResponse {
    here.asked.lock().unwrap().push(uri.to_string());
    let found = here.pages.lock().unwrap().get(&uri.to_string()).cloned();
    let (status, content_type, body) = found.unwrap_or((StatusCode::NOT_FOUND, "text/html", String::new()));
    (status, [(header::CONTENT_TYPE, content_type)], body)
}

impl Site {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let (here, stop) = (Arc::<Here>::default(), Shutdown::new());
        let (app, stopped) = (Router::new().fallback(page).with_state(here.clone()), stop.clone());
        Supervisor::new(stop.clone()).spawn("site", OnEnd::Finish, async move {
            stopped.or_stop(async { axum::serve(listener, app).await.unwrap() }).await;
        });
        Self { base, here, stop }
    }

    fn has(&self, path: &str, body: &str) {
        self.has_page(path, (StatusCode::OK, "application/json", body.to_owned()));
    }

    fn has_page(&self, path: &str, page: Page) {
        self.here.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.here.asked.lock().unwrap())
    }

    /// A provider whose manifest says where its keys are.
    fn stated(&self) -> IdentityProviderSpec {
        IdentityProviderSpec { jwks_url: Some(format!("{}/keys", self.base)), ..spec(&self.base) }
    }
}

fn providers() -> Providers {
    Providers::new(Arc::new(Fetcher::new(None).unwrap()), Supervisor::new(Shutdown::new()))
}

/// What a node that knows nothing yet finds.
async fn found(spec: &IdentityProviderSpec) -> Result<Arc<AssertionKeys>, &'static str> {
    providers().keys("acme", spec, None).await.map_err(|fault| fault.word())
}

#[tokio::test]
async fn keys_are_where_the_manifest_says_or_else_where_the_metadata_does() {
    let site = Site::start().await;
    site.has("/keys", &key_set(&["a"]));
    assert!(found(&site.stated()).await.unwrap().has_kid("a"));
    assert_eq!(site.asked(), ["/keys"]);
    for (issuer, place) in [
        ("/one", "/one/.well-known/openid-configuration"),
        ("/two/", "/two/.well-known/openid-configuration"),
        ("/three", "/.well-known/oauth-authorization-server/three"),
        ("", "/.well-known/oauth-authorization-server"),
    ] {
        let issuer = format!("{}{issuer}", site.base);
        let metadata = json!({"issuer": issuer, "jwks_uri": format!("{}/keys", site.base), "other": [1]});
        site.has(place, &metadata.to_string());
        assert!(found(&spec(&issuer)).await.unwrap().has_kid("a"), "{issuer}");
        let asked = site.asked();
        assert!(asked.len() <= 3 && asked.ends_with(&[place.to_owned(), "/keys".to_owned()]), "{asked:?}");
    }
}

#[tokio::test]
async fn metadata_of_another_issuer_is_not_believed() {
    let site = Site::start().await;
    let (place, base) = ("/.well-known/openid-configuration", &site.base);
    site.has("/keys", &key_set(&["a"]));
    let upper = base.replace("http", "HTTP");
    for issuer in [format!("{base}/"), upper, format!("{base}/other"), "https://other.example".to_owned()] {
        let metadata = json!({"issuer": issuer, "jwks_uri": format!("{base}/keys")});
        site.has(place, &metadata.to_string());
        assert_eq!(found(&spec(base)).await.unwrap_err(), "provider_issuer_differs", "{issuer}");
        assert_eq!(site.asked(), [place], "nothing else is asked for");
    }
}

#[tokio::test]
async fn metadata_cannot_send_us_anywhere() {
    let site = Site::start().await;
    let (place, base) = ("/.well-known/openid-configuration", &site.base);
    let twice = format!(r#"{{"issuer": "{base}", "issuer": "{base}", "jwks_uri": "{base}/keys"}}"#);
    let naming = |url: &str| json!({"issuer": base, "jwks_uri": url}).to_string();
    for (metadata, word) in [
        (twice, "provider_metadata_unreadable"),
        (json!({"jwks_uri": base}).to_string(), "provider_metadata_unreadable"),
        ("[]".to_owned(), "provider_metadata_unreadable"),
        (json!({"issuer": base}).to_string(), "provider_keys_unnamed"),
        (naming("http://169.254.169.254/keys"), "address_refused"),
        (naming("http://10.0.0.1/keys"), "address_refused"),
        (naming("http://[::1]/keys"), "address_refused"),
        (naming("http://8.8.8.8/keys"), "plain_text_refused"),
        (naming("file:///etc/passwd"), "url_refused"),
        (naming(&base.replace("//", "//user@")), "url_refused"),
    ] {
        site.has(place, &metadata);
        assert_eq!(found(&spec(base)).await.unwrap_err(), word, "{metadata}");
        assert_eq!(site.asked(), [place]);
    }
}

#[tokio::test]
async fn a_provider_in_a_network_that_its_manifest_does_not_name_is_not_asked() {
    let site = Site::start().await;
    site.has("/keys", &key_set(&["a"]));
    let unnamed = IdentityProviderSpec { networks: vec!["10.0.0.0/8".to_owned()], ..site.stated() };
    assert_eq!(found(&unnamed).await.unwrap_err(), "address_refused");
    let unreadable = IdentityProviderSpec { networks: vec!["here".to_owned()], ..site.stated() };
    assert_eq!(found(&unreadable).await.unwrap_err(), "provider_network_unreadable");
    assert_eq!(site.asked(), [""; 0]);
}

#[tokio::test]
async fn an_answer_that_is_no_key_set_is_refused_by_name() {
    let site = Site::start().await;
    let large = format!(r#"{{"keys": [], "x": "{}"}}"#, "x".repeat(128 * 1024));
    let (json, good) = ("application/json", key_set(&["a"]));
    for (status, content_type, body, word) in [
        (StatusCode::OK, "text/html", &good, "provider_content_type"),
        (StatusCode::OK, json, &"<html>".to_owned(), "provider_keys_unreadable"),
        (StatusCode::OK, json, &large, "answer_too_large"),
        (StatusCode::FOUND, json, &good, "provider_status"),
        (StatusCode::INTERNAL_SERVER_ERROR, json, &good, "provider_status"),
    ] {
        site.has_page("/keys", (status, content_type, body.clone()));
        assert_eq!(found(&site.stated()).await.unwrap_err(), word);
    }
    site.has_page("/keys", (StatusCode::OK, "application/jwk-set+json; charset=utf-8", good));
    assert!(found(&site.stated()).await.unwrap().has_kid("a"));
}

/// Metadata on https with keys on http.
#[derive(Debug)]
struct Downgrading;

impl Source for Downgrading {
    fn get<'a>(&'a self, url: &'a str, _leave: Leave<'a>, _limits: Limits) -> Fetching<'a> {
        assert!(url.starts_with("https://issuer.example/.well-known/"), "{url}");
        let metadata = json!({"issuer": "https://issuer.example", "jwks_uri": "http://127.0.0.1/keys"});
        Box::pin(async move { ok(metadata.to_string()) })
    }

    fn post<'a>(&'a self, _url: &'a str, _form: &'a Form, _leave: Leave<'a>, _limits: Limits) -> Fetching<'a> {
        panic!("nothing is sent for keys")
    }
}

#[tokio::test]
async fn an_issuer_on_https_cannot_name_keys_on_http() {
    let providers = Providers::new(Arc::new(Downgrading), Supervisor::new(Shutdown::new()));
    let fault = providers.keys("acme", &spec("https://issuer.example"), None).await.unwrap_err();
    assert_eq!(fault, ProviderUnavailable::NoKeys);
}

#[tokio::test]
async fn keys_that_change_at_the_provider_change_here() {
    let site = Site::start().await;
    let (providers, spec) = (providers(), site.stated());
    site.has("/keys", &key_set(&["old"]));
    assert!(providers.keys("acme", &spec, Some("old")).await.unwrap().has_kid("old"));
    site.has("/keys", &key_set(&["new"]));
    tokio::time::pause();
    tokio::time::advance(FETCH_EVERY).await;
    tokio::time::resume();
    let keys = providers.keys("acme", &spec, Some("new")).await.unwrap();
    assert!(keys.has_kid("new") && !keys.has_kid("old"));
    assert_eq!(site.asked(), ["/keys", "/keys"]);
}

/// A provider at which people sign in.
fn with_sign_in(spec: IdentityProviderSpec, more: serde_json::Value) -> IdentityProviderSpec {
    let mut sign_in = json!({"client_id": "gateway", "auth": "none"});
    for (name, value) in more.as_object().unwrap().clone() {
        sign_in[name] = value;
    }
    IdentityProviderSpec { sign_in: Some(serde_json::from_value(sign_in).unwrap()), ..spec }
}

async fn endpoints(spec: &IdentityProviderSpec) -> Result<Endpoints, &'static str> {
    providers().endpoints("acme", spec).await.map_err(|fault| fault.word())
}

const PLACE: &str = "/.well-known/openid-configuration";

#[tokio::test]
async fn people_sign_in_where_the_manifest_says_or_else_where_the_metadata_does() {
    let site = Site::start().await;
    let base = &site.base;
    site.has("/keys", &key_set(&["a"]));
    let metadata = json!({
        "issuer": base, "jwks_uri": format!("{base}/keys"), "authorization_endpoint": format!("{base}/auth"),
        "token_endpoint": format!("{base}/token"), "authorization_response_iss_parameter_supported": true,
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
    });
    site.has(PLACE, &metadata.to_string());
    let discovered = Endpoints {
        authorization_url: format!("{base}/auth"),
        token_url: format!("{base}/token"),
        names_itself: true,
        secret_in_form: true,
    };
    let providers = providers();
    let spec_here = with_sign_in(spec(base), json!({}));
    assert_eq!(providers.endpoints("acme", &spec_here).await.unwrap(), discovered);
    assert!(providers.keys("acme", &spec_here, Some("a")).await.unwrap().has_kid("a"));
    assert_eq!(site.asked(), [PLACE, "/keys"], "one fetch is for both");
    let stated = with_sign_in(site.stated(), json!({"token_url": format!("{base}/other")}));
    let found = endpoints(&stated).await.unwrap();
    assert_eq!(found, Endpoints { token_url: format!("{base}/other"), ..discovered });
    site.asked();
    let urls = json!({"token_url": format!("{base}/other"), "authorization_url": "https://elsewhere.example/a?b=c"});
    let found = endpoints(&with_sign_in(site.stated(), urls)).await.unwrap();
    assert_eq!(site.asked(), ["/keys"], "the manifest says everything");
    assert_eq!(found.authorization_url, "https://elsewhere.example/a?b=c");
    assert!(!found.names_itself && !found.secret_in_form);
    assert_eq!(endpoints(&site.stated()).await.unwrap_err(), "provider_endpoints_unnamed", "nobody signs in there");
}

#[tokio::test]
async fn metadata_names_no_place_that_people_should_not_be_sent_to() {
    let site = Site::start().await;
    let base = &site.base;
    site.has("/keys", &key_set(&["a"]));
    for (authorization, token) in [
        (json!(null), json!(format!("{base}/token"))),
        (json!("javascript:alert(1)"), json!(format!("{base}/token"))),
        (json!("data:text/html,x"), json!(format!("{base}/token"))),
        (json!("https://user@acme.example/"), json!(format!("{base}/token"))),
        (json!(format!("{base}/auth#x")), json!(format!("{base}/token"))),
        (json!(format!("{base}/{}", "x".repeat(2_048))), json!(format!("{base}/token"))),
        (json!(format!("{base}/auth")), json!(null)),
        (json!(format!("{base}/auth")), json!("file:///etc/passwd")),
    ] {
        let metadata = json!({
            "issuer": base, "jwks_uri": format!("{base}/keys"), "authorization_endpoint": authorization,
            "token_endpoint": token,
        });
        site.has(PLACE, &metadata.to_string());
        let here = with_sign_in(spec(base), json!({}));
        assert_eq!(endpoints(&here).await.unwrap_err(), "provider_endpoints_unnamed", "{authorization} {token}");
        assert!(found(&here).await.unwrap().has_kid("a"), "its keys are good all the same");
    }
    let other = json!({"issuer": "https://evil.example", "authorization_endpoint": format!("{base}/auth")});
    site.has(PLACE, &other.to_string());
    let here = with_sign_in(site.stated(), json!({}));
    assert_eq!(endpoints(&here).await.unwrap_err(), "provider_issuer_differs");
}
