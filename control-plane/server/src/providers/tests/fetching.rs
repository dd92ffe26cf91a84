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
