//! Clients that a document at their `client_id` describes (CIMD), end to end: fetched over HTTPS from a host of the
//! test's, by the control plane's own guard.
//!
//! When documents are fetched and kept is tested beside the code, by a clock that tests move
//! (`control-plane/server/src/oauth/documents`); here is what follows for people and clients.

mod host;

use std::time::{Duration, Instant};

use anyhow::Result;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use bailiwick_tests::{Answer, manifests::manifest, visitor::Visitor};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use self::host::{DocumentHost, Page};
use crate::{AGENT, JANE, REDIRECT, VERIFIER, World, text};

const NETWORKS: &str = "BAILIWICK_CONTROL_PLANE__CLIENT_DOCUMENT_NETWORKS";
const AUTHORITIES: &str = "BAILIWICK_CONTROL_PLANE__OUTBOUND_CA_FILE";
const PATH: &str = "/client.json";
/// A fetch takes five seconds at most; the rest is for a busy machine.
const PAGE_WAIT_MAX: Duration = Duration::from_secs(15);

/// A world that believes the host, and may go to it alone although it is on this machine.
async fn start(host: &DocumentHost) -> Result<World> {
    let authorities = host.authority.display().to_string();
    World::start_with(&[(NETWORKS, "[\"127.0.0.1/32\"]"), (AUTHORITIES, &authorities)]).await
}

/// The agent takes clients that are described there, and no others.
fn takes(world: &World, urls: &[String]) -> Result<()> {
    let spec = json!({
        "owner": JANE, "project": "billing", "ceiling": "destructive", "clients": {"described_at": urls},
    });
    world.deployment.apply(&manifest("Agent", AGENT, &spec.to_string())).map(drop)
}

fn document(url: &str, more: &Value) -> Value {
    let mut document = json!({
        "client_id": url, "client_name": "Some <b>editor</b>", "redirect_uris": [REDIRECT],
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        "logo_uri": format!("{url}/logo.png"),
    });
    for (name, value) in more.as_object().into_iter().flatten() {
        document[name] = value.clone();
    }
    document
}

/// A host with one good document, and where that is.
fn described(more: &Value) -> Result<(DocumentHost, String)> {
    let host = DocumentHost::start("127.0.0.1")?;
    let url = host.url(PATH);
    host.has(PATH, Page::json(&document(&url, more)));
    Ok((host, url))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_described_client_gets_tokens_for_as_long_as_the_agent_takes_it() -> Result<()> {
    let (host, url) = described(&json!({}))?;
    let world = start(&host).await?;
    let metadata =
        Answer::to(world.http.get(format!("{}/.well-known/oauth-authorization-server", world.issuer))).await?;
    assert_eq!(metadata.body["client_id_metadata_document_supported"], true, "{}", metadata.text);
    takes(&world, std::slice::from_ref(&url))?;

    let (_, page) = world.asked(&url).await?;
    let shown = page.text.replace("&#47;", "/").replace("&#58;", ":");
    assert!(shown.contains("described at") && shown.contains(&host.base), "{}", page.text);
    assert!(!page.text.contains("<b>editor") && !page.text.contains("logo.png"), "{}", page.text);
    let tokens = world.tokens(&url, "retrieval").await?;
    world.mcp(&tokens).until_listed(&["read"]).await?;
    let granted = world.event("consent_granted").await?;
    assert_eq!((text(&granted, "client"), text(&granted, "agent")), (url.as_str(), AGENT));
    let next = world.refresh(&url, text(&tokens, "refresh_token")).await?;
    assert_eq!(next.status, 200, "{}", next.text);
    assert_eq!(host.asked(), [PATH], "once, and nothing that it names");

    takes(&world, &[])?;
    let refused = world.refresh(&url, text(&next.body, "refresh_token")).await?;
    assert_eq!((refused.status.as_u16(), text(&refused.body, "error")), (401, "invalid_client"), "{}", refused.text);
    let page = Visitor::new()?.go(&world.authorize_url(&world.request(&url))).await?;
    assert_eq!((page.status.as_u16(), page.elsewhere.as_deref()), (400, None), "{}", page.text);
    assert_eq!(host.asked(), [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cannot_have_anything_fetched() -> Result<()> {
    let (host, url) = described(&json!({}))?;
    let world = start(&host).await?;
    takes(&world, &[host.url("/another.json")])?;
    for id in [url.as_str(), &format!("{url}/"), &format!("{url}?x=1"), &host.base, &host.url("/another.json?x")] {
        let page = Visitor::new()?.go(&world.authorize_url(&world.request(id))).await?;
        assert_eq!((page.status.as_u16(), page.elsewhere.as_deref()), (400, None), "{id}: {}", page.text);
        let refused = world.refresh(id, "bwr.c-1.1~AAAA").await?;
        assert_eq!(text(&refused.body, "error"), "invalid_client", "{id}: {}", refused.text);
    }
    assert_eq!(host.connections(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_none_describe_nobody_and_nobody_is_sent_anywhere() -> Result<()> {
    let host = DocumentHost::start("127.0.0.1")?;
    let internal = DocumentHost::start("127.0.0.2")?;
    let world = start(&host).await?;
    let good = |path: &str, more: Value| document(&host.url(path), &more);
    let json_page = |path: &str, more: Value| Page::json(&good(path, more));
    let redirect = format!("location: {}\r\ncontent-type: application/json\r\n", internal.url(PATH));
    let body = good("/elsewhere", json!({})).to_string().into_bytes();
    let html = good("/html", json!({})).to_string().into_bytes();
    let wrong = [
        ("/giant", json_page("/giant", json!({"x": "x".repeat(1_000_000)})), "it is too large"),
        ("/elsewhere", Page::Says("302 Found", redirect, body), "there is none at its address"),
        ("/gone", Page::Says("404 Not Found", String::new(), Vec::new()), "there is none at its address"),
        ("/html", Page::Says("200 OK", "content-type: text/html\r\n".to_owned(), html), "not said to be JSON"),
        ("/other", json_page("/html", json!({})), "another client_id"),
        ("/secret", json_page("/secret", json!({"client_secret": "hush"})), "speaks of a secret"),
        ("/script", json_page("/script", json!({"redirect_uris": [REDIRECT, "javascript:alert(1)"]})), "redirect_uris"),
        ("/silent", Page::Silent, "does not come in time"),
        ("/away", Page::Says("503 Service Unavailable", String::new(), Vec::new()), "there is none at its address"),
    ];
    let mut urls: Vec<_> = wrong.iter().map(|(path, ..)| host.url(path)).collect();
    urls.push(internal.url(PATH));
    takes(&world, &urls)?;
    let mut sentences: Vec<_> = wrong.iter().map(|(.., sentence)| *sentence).collect();
    sentences.push("an address that is not public");
    internal.has(PATH, Page::json(&document(&internal.url(PATH), &json!({}))));
    for (path, page, _) in &wrong {
        host.has(path, page.clone());
    }
    for (url, sentence) in urls.iter().zip(sentences) {
        let begun_at = Instant::now();
        let page = Visitor::new()?.go(&world.authorize_url(&world.request(url))).await?;
        assert!(begun_at.elapsed() < PAGE_WAIT_MAX, "{url}: {:?}", begun_at.elapsed());
        assert_eq!((page.status.as_u16(), page.elsewhere.as_deref()), (400, None), "{url}: {}", page.text);
        assert!(page.text.contains("description cannot be read: "), "{url}: {}", page.text);
        assert!(page.text.contains(sentence) && !page.text.contains("hush"), "{url}: {}", page.text);
    }
    let refused = world.refresh(&host.url("/secret"), "bwr.c-1.1~AAAA").await?;
    assert_eq!((refused.status.as_u16(), text(&refused.body, "error")), (401, "invalid_client"), "{}", refused.text);
    for path in ["/silent", "/away"] {
        let later = world.refresh(&host.url(path), "bwr.c-1.1~AAAA").await?;
        assert_eq!(later.status.as_u16(), 503, "{path} is no reason to throw a token away: {}", later.text);
    }
    assert_eq!(internal.connections(), 0, "neither by its document nor by a redirect");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_changed_counts_once_it_is_read_again() -> Result<()> {
    let (host, url) = described(&json!({}))?;
    let mut world = start(&host).await?;
    takes(&world, std::slice::from_ref(&url))?;
    world.code(&url, "retrieval").await?;
    let new = "https://editor.example/done";
    host.has(PATH, Page::json(&document(&url, &json!({"redirect_uris": [new]}))));
    world.code(&url, "retrieval").await?;
    assert_eq!(host.asked().len(), 1, "kept for a while");

    // What is kept is kept in memory alone.
    world.deployment.stop()?;
    world.deployment.start_again().await?;
    let old = Visitor::new()?.go(&world.authorize_url(&world.request(&url))).await?;
    assert_eq!((old.status.as_u16(), old.elsewhere.as_deref()), (400, None), "{}", old.text);
    assert!(old.text.contains("not one that this client registered"), "{}", old.text);
    let mut request = world.request(&url);
    request.retain(|(name, _)| *name != "redirect_uri");
    request.push(("redirect_uri", new.to_owned()));
    let page = Visitor::new()?.go(&world.authorize_url(&request)).await?;
    assert!(page.status == 200 && page.text.contains("Sign in"), "{}: {}", page.status, page.text);
    assert_eq!(host.asked().len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_described_client_that_signs_has_to() -> Result<()> {
    let (key, other) = (Ed25519KeyPair::generate()?, Ed25519KeyPair::generate()?);
    let host = DocumentHost::start("127.0.0.1")?;
    let url = host.url(PATH);
    let signing = json!({"token_endpoint_auth_method": "private_key_jwt", "jwks_uri": host.url("/keys")});
    host.has(PATH, Page::json(&document(&url, &signing)));
    let x = URL_SAFE_NO_PAD.encode(key.public_key());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "a", "x": x});
    host.has("/keys", Page::json(&json!({"keys": [jwk]})));
    let world = start(&host).await?;
    takes(&world, std::slice::from_ref(&url))?;

    let code = world.code(&url, "retrieval").await?;
    let redeem = async |assertion: Option<&str>| {
        let mut form = vec![("grant_type", "authorization_code"), ("client_id", url.as_str()), ("code", code.as_str())];
        form.extend([("code_verifier", VERIFIER), ("redirect_uri", REDIRECT)]);
        if let Some(assertion) = assertion {
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            form.extend([("client_assertion_type", kind), ("client_assertion", assertion)]);
        }
        world.post("/oauth/token", &form).await
    };
    let forged = assertion(&world, &other, &url, "j-1")?;
    for (what, proof) in [("nothing", None), ("another key", Some(forged.as_str()))] {
        let refused = redeem(proof).await?;
        assert_eq!(text(&refused.body, "error"), "invalid_client", "{what}: {}", refused.text);
    }
    let redeemed = redeem(Some(&assertion(&world, &key, &url, "j-2")?)).await?;
    assert_eq!(redeemed.status, 200, "{}", redeemed.text);
    world.mcp(&redeemed.body).until_listed(&["read"]).await?;
    let token = text(&redeemed.body, "refresh_token").to_owned();
    let unproved = world.refresh(&url, &token).await?;
    assert_eq!(text(&unproved.body, "error"), "invalid_client", "{}", unproved.text);
    assert_eq!(host.asked(), [PATH, "/keys"]);
    Ok(())
}

/// What a client signs to prove who it is (RFC 7523 §2.2).
fn assertion(world: &World, key: &Ed25519KeyPair, client: &str, jti: &str) -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let header = json!({"alg": "EdDSA", "kid": "a"});
    let claims = json!({
        "iss": client, "sub": client, "aud": world.issuer, "jti": jti, "iat": now, "exp": now + 60,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&header), part(&claims));
    let signature = URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()));
    Ok(format!("{signed}.{signature}"))
}
