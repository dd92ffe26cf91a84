//! What nobody honest does: each is refused, and whoever could be harmed by an answer gets none.

use std::time::Duration;

use anyhow::{Context, Result};
use bailiwick_tests::{
    Answer,
    visitor::{Page, Visitor},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{AGENT, CLIENT, JANE, REDIRECT, VERIFIER, World, challenge, client, text};

#[tokio::test]
async fn a_body_that_does_not_come_is_waited_for_no_longer_anywhere() -> Result<()> {
    let world = World::start().await?;
    let address = world.issuer.strip_prefix("http://").context("an address")?;
    for path in ["/oauth/consent", "/consents", "/sign-in/local", "/oauth/token", "/oauth/register"] {
        let mut stream = TcpStream::connect(address).await?;
        let head = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 9\r\n\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = String::new();
        // Twice what it is waited for, and far less than a connection may last.
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer)).await;
        read.with_context(|| format!("{path} waits on"))??;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{path}: {answer}");
    }
    Ok(())
}

#[tokio::test]
async fn what_another_sites_page_asks_in_the_background_is_not_counted_against_its_visitor() -> Result<()> {
    let world = World::start().await?;
    let form = [("grant_type", "refresh_token"), ("client_id", "x"), ("refresh_token", "y")];
    for _ in 0..100 {
        let request = world.http.post(format!("{}/oauth/token", world.issuer)).form(&form);
        let answer = request.header("sec-fetch-site", "cross-site").header("sec-fetch-mode", "no-cors").send().await?;
        assert_eq!(answer.status(), 403);
    }
    let own = world.post("/oauth/token", &form).await?;
    assert_eq!(text(&own.body, "error"), "invalid_client", "{}", own.text);
    Ok(())
}

#[tokio::test]
async fn a_session_ends_with_whatever_changes_about_its_person() -> Result<()> {
    let world = World::start().await?;
    let (mut jane, _) = world.asked(CLIENT).await?;
    let page = jane.go(&format!("{}/consents", world.issuer)).await?;
    assert!(page.text.contains("What you allowed"), "{}", page.text);
    world.deployment.cli_ok(&["revoke", "user", JANE])?;
    world.deployment.apply(&bailiwick_tests::manifests::manifest("User", JANE, "{groups: [buyers]}"))?;
    let page = jane.go(&format!("{}/consents", world.issuer)).await?;
    assert!(page.text.contains("Sign in"), "who comes back signs in anew: {}", page.text);
    Ok(())
}

#[tokio::test]
async fn a_client_that_nobody_vouched_for_is_told_no_faults_by_way_of_the_person() -> Result<()> {
    let world = World::start().await?;
    let evil = json!({"redirect_uris": ["https://evil.example/"], "token_endpoint_auth_method": "none"});
    let registered = Answer::to(world.http.post(format!("{}/oauth/register", world.issuer)).json(&evil)).await?;
    let id = text(&registered.body, "client_id").to_owned();
    for more in [("response_type", "x"), ("prompt", "none")] {
        let parameters = with(world.request(&id), "redirect_uri", Some("https://evil.example/"));
        let page = Visitor::new()?.go(&world.authorize_url(&with(parameters, more.0, Some(more.1)))).await?;
        assert_eq!((page.status.as_u16(), page.elsewhere.as_deref()), (400, None), "{more:?}");
    }
    Ok(())
}

type Parameters<'a> = Vec<(&'a str, String)>;

fn with<'a>(mut parameters: Parameters<'a>, name: &'a str, value: Option<&str>) -> Parameters<'a> {
    parameters.retain(|(known, _)| *known != name);
    parameters.extend(value.map(|value| (name, value.to_owned())));
    parameters
}

#[tokio::test]
async fn nobody_is_sent_to_a_place_that_is_not_known_to_be_the_clients() -> Result<()> {
    let world = World::start().await?;
    world.deployment.apply(&client("asleep", ", active: false"))?;
    let honest = world.request(CLIENT);
    let twice = |name: &'static str, value: &str| {
        let mut parameters = honest.clone();
        parameters.push((name, value.to_owned()));
        parameters
    };
    for (what, parameters) in [
        ("no client", with(honest.clone(), "client_id", None)),
        ("unknown client", with(honest.clone(), "client_id", Some("nobody"))),
        ("inactive client", with(honest.clone(), "client_id", Some("asleep"))),
        ("evil redirect", with(honest.clone(), "redirect_uri", Some("https://evil.example/cb"))),
        ("redirect with more", with(honest.clone(), "redirect_uri", Some("http://127.0.0.1:3000/cb/more"))),
        (
            "redirect by another host",
            with(honest.clone(), "redirect_uri", Some("http://127.0.0.1.evil.example:3000/cb")),
        ),
        ("redirect with a user", with(honest.clone(), "redirect_uri", Some("http://127.0.0.1:3000@evil.example/cb"))),
        ("script", with(honest.clone(), "redirect_uri", Some("javascript:alert(1)"))),
        ("two clients", twice("client_id", "nobody")),
        ("two redirects", twice("redirect_uri", "https://evil.example/cb")),
        ("two states", twice("state", "other")),
    ] {
        let page = Visitor::new()?.go(&world.authorize_url(&parameters)).await?;
        assert_eq!((page.status.as_u16(), page.elsewhere.as_deref()), (400, None), "{what}: {}", page.text);
        assert!(page.text.contains("cannot be answered"), "{what}: {}", page.text);
    }
    Ok(())
}

#[tokio::test]
async fn requests_that_are_not_strict_are_told_the_client_and_nobody_is_asked() -> Result<()> {
    let world = World::start().await?;
    let honest = world.request(CLIENT);
    let mut two_challenges = honest.clone();
    two_challenges.push(("code_challenge", challenge("x")));
    let mut two_resources = honest.clone();
    two_resources.push(("resource", world.resource.replace("/shop", "/other")));
    for (what, parameters, error) in [
        ("no PKCE", with(honest.clone(), "code_challenge", None), "invalid_request"),
        ("plain PKCE", with(honest.clone(), "code_challenge_method", Some("plain")), "invalid_request"),
        ("PKCE of no method", with(honest.clone(), "code_challenge_method", None), "invalid_request"),
        ("short challenge", with(honest.clone(), "code_challenge", Some("short")), "invalid_request"),
        ("two challenges", two_challenges, "invalid_request"),
        ("implicit", with(honest.clone(), "response_type", Some("token")), "unsupported_response_type"),
        ("hybrid", with(honest.clone(), "response_type", Some("code id_token")), "unsupported_response_type"),
        ("no type", with(honest.clone(), "response_type", None), "invalid_request"),
        ("fragment", with(honest.clone(), "response_mode", Some("fragment")), "invalid_request"),
        ("request object", with(honest.clone(), "request", Some("e30.e30.")), "request_not_supported"),
        (
            "request URI",
            with(honest.clone(), "request_uri", Some("https://evil.example/")),
            "request_uri_not_supported",
        ),
        ("without asking", with(honest.clone(), "prompt", Some("none")), "interaction_required"),
        ("unknown scope", with(honest.clone(), "scope", Some("admin")), "invalid_scope"),
        ("unknown resource", with(honest.clone(), "resource", Some("https://evil.example/mcp")), "invalid_target"),
        ("two resources", two_resources, "invalid_target"),
    ] {
        let page = Visitor::new()?.go(&world.authorize_url(&parameters)).await?;
        assert_eq!(page.parameter("error")?.as_deref(), Some(error), "{what}: {:?}", page.elsewhere);
        assert_eq!(page.parameter("iss")?.as_deref(), Some(world.issuer.as_str()), "{what}");
        assert_eq!(page.parameter("state")?.as_deref(), Some("st-1"), "{what}");
        assert!(page.elsewhere.is_some_and(|url| url.starts_with(REDIRECT)), "{what}");
    }
    Ok(())
}

#[tokio::test]
async fn a_code_is_nobodys_but_its_clients_and_comes_once() -> Result<()> {
    let world = World::start().await?;
    world.deployment.apply(&client("thief", ""))?;
    let code = world.code(CLIENT, "retrieval").await?;
    let base = [
        ("grant_type", "authorization_code"),
        ("client_id", CLIENT),
        ("code", code.as_str()),
        ("code_verifier", VERIFIER),
        ("redirect_uri", REDIRECT),
    ];
    let changed = |name: &str, value: Option<&'static str>| {
        let mut form: Vec<(&str, &str)> = base.iter().copied().filter(|(known, _)| *known != name).collect();
        let name = base.iter().map(|(known, _)| *known).find(|known| *known == name).unwrap_or("resource");
        form.extend(value.map(|value| (name, value)));
        form
    };
    let long = "x".repeat(129).leak();
    for (what, form, error) in [
        ("another client", changed("client_id", Some("thief")), "invalid_grant"),
        ("no client", changed("client_id", None), "invalid_client"),
        ("no verifier", changed("code_verifier", None), "invalid_request"),
        (
            "wrong verifier",
            changed("code_verifier", Some("aBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk")),
            "invalid_grant",
        ),
        ("short verifier", changed("code_verifier", Some("x")), "invalid_grant"),
        ("long verifier", changed("code_verifier", Some(long)), "invalid_grant"),
        ("the challenge itself", changed("code_verifier", Some(challenge(VERIFIER).leak())), "invalid_grant"),
        ("another redirect", changed("redirect_uri", Some("http://127.0.0.1:3001/cb")), "invalid_grant"),
        ("another resource", changed("resource", Some("https://evil.example/mcp")), "invalid_target"),
        ("no code", changed("code", None), "invalid_request"),
        ("a made-up code", changed("code", Some("bwc.c-1.AAAA")), "invalid_grant"),
    ] {
        let answer = world.post("/oauth/token", &form).await?;
        assert_eq!(text(&answer.body, "error"), error, "{what}: {}", answer.text);
        assert_eq!(answer.headers["cache-control"], "no-store", "{what}");
    }
    let tokens = world.redeem(CLIENT, &code).await?;
    assert_eq!(tokens.status, 200, "{}", tokens.text);
    let again = world.redeem(CLIENT, &code).await?;
    assert_eq!(text(&again.body, "error"), "invalid_grant");
    let after = world.refresh(CLIENT, text(&tokens.body, "refresh_token")).await?;
    assert_eq!(text(&after.body, "error"), "invalid_grant", "what the code gave ended with its second use");
    let revoked = world.event("consent_revoked").await?;
    assert!(text(&revoked, "reason").contains("presented again"), "{revoked}");
    Ok(())
}

#[tokio::test]
async fn a_question_is_answered_by_whom_it_was_put_to() -> Result<()> {
    let world = World::start().await?;
    let (mut jane, page) = world.asked(CLIENT).await?;
    let allow = [("level", "retrieval"), ("decision", "allow")];
    let refused = |page: &Page, what: &str| {
        assert_eq!((page.status.as_u16(), page.elsewhere.as_deref()), (403, None), "{what}: {}", page.text);
    };
    // Another person, another sign-in of the same person, nobody.
    let (mut other, _) = world.asked(CLIENT).await?;
    refused(&world.answer(&mut other, &page, &allow).await?, "another session");
    refused(&world.answer(&mut Visitor::new()?, &page, &allow).await?, "nobody");
    // Another site's page, which has the sealed question all the same.
    jane.origin = Some("https://evil.example".to_owned());
    refused(&world.answer(&mut jane, &page, &allow).await?, "another site");
    jane.origin = None;
    // More than was asked for, less than an answer.
    for (what, more) in [
        ("no level", vec![("decision", "allow")]),
        ("no reason", vec![("level", "retrieval"), ("reason", " "), ("decision", "allow")]),
        ("odd duration", vec![("level", "retrieval"), ("duration", "99999999"), ("decision", "allow")]),
        ("another agent", vec![("level", "retrieval"), ("agent", "somebody-elses"), ("decision", "allow")]),
        ("nothing ticked", vec![("level", "retrieval"), ("only", "listed"), ("decision", "allow")]),
        (
            "ticked above",
            vec![("level", "retrieval"), ("only", "listed"), ("tool", "shop/erase"), ("decision", "allow")],
        ),
    ] {
        let again = world.answer(&mut jane, &page, &more).await?;
        assert_eq!((again.status.as_u16(), again.elsewhere.as_deref()), (200, None), "{what}");
        assert!(again.text.contains("role=\"alert\""), "{what}: {}", again.text);
    }
    // The client has moved away while she thought.
    world.deployment.apply(&client(CLIENT, "").replace(REDIRECT, "http://127.0.0.1:3000/moved"))?;
    refused(&world.answer(&mut jane, &page, &allow).await?, "another redirect URI");
    world.deployment.apply(&client(CLIENT, ""))?;
    let allowed = world.answer(&mut jane, &page, &allow).await?;
    let code = allowed.parameter("code")?.context("a code")?;
    // Who clicks twice is taken back with the same code, until the client has come with it.
    let twice = world.answer(&mut jane, &page, &allow).await?;
    assert_eq!(twice.parameter("code")?.as_deref(), Some(code.as_str()));
    assert_eq!(world.redeem(CLIENT, &code).await?.status, 200);
    refused(&world.answer(&mut jane, &page, &allow).await?, "answered before");
    Ok(())
}

#[tokio::test]
async fn what_a_client_did_not_ask_for_cannot_be_allowed() -> Result<()> {
    let world = World::start().await?;
    let mut jane = Visitor::new()?;
    let url = world.authorize_url(&with(world.request(CLIENT), "scope", Some("mcp:read")));
    let page = jane.go(&url).await?;
    let page = jane.sign_in(&page, JANE, &world.code).await?;
    assert!(!page.text.contains("value=\"destructive\"") && !page.text.contains("shop/erase"), "{}", page.text);
    let more = world.answer(&mut jane, &page, &[("level", "destructive"), ("decision", "allow")]).await?;
    assert!(more.text.contains("more than the program asked for"), "{}", more.text);
    Ok(())
}

#[tokio::test]
async fn signing_in_takes_the_code_and_leads_nowhere_else() -> Result<()> {
    let world = World::start().await?;
    let mut visitor = Visitor::new()?;
    for to in ["https://evil.example/", "//evil.example", "/\\evil.example", "/sign-in", "/oauth/token"] {
        let url = format!(
            "{}/sign-in?{}",
            world.issuer,
            url::form_urlencoded::Serializer::new(String::new()).append_pair("return", to).finish()
        );
        let page = visitor.go(&url).await?;
        assert_eq!((page.status.as_u16(), page.elsewhere), (400, None), "{to}");
    }
    let page = visitor.go(&format!("{}/consents", world.issuer)).await?;
    for wrong in ["", "0000-0000-0000-0000-0000", world.code.trim_start_matches(|c: char| c != '-')] {
        let refused = visitor.sign_in(&page, JANE, wrong).await?;
        assert_eq!((refused.status.as_u16(), visitor.cookies.len()), (403, 0), "{wrong}");
    }
    for nobody in ["nobody@example.com", "", "<script>"] {
        let refused = visitor.sign_in(&page, nobody, &world.code).await?;
        assert_eq!((refused.status.as_u16(), visitor.cookies.len()), (403, 0), "{nobody}");
    }
    // Every sign-in is another session, whatever the browser had (fixation).
    visitor.sign_in(&page, JANE, &world.code).await?;
    let first = visitor.cookie()?.1.to_owned();
    visitor.sign_in(&page, JANE, &world.code).await?;
    assert_ne!(visitor.cookie()?.1, first);
    // A person who is not active any more has no session.
    world.deployment.cli_ok(&["revoke", "user", JANE])?;
    let page = visitor.go(&format!("{}/consents", world.issuer)).await?;
    assert!(page.text.contains("Sign in"), "{}", page.text);
    Ok(())
}

#[tokio::test]
async fn pages_cannot_be_framed_scripted_or_cached() -> Result<()> {
    let world = World::start().await?;
    let (mut jane, question) = world.asked(CLIENT).await?;
    let consents = jane.go(&format!("{}/consents", world.issuer)).await?;
    let problem = jane.go(&format!("{}/oauth/authorize", world.issuer)).await?;
    for page in [&question, &consents, &problem] {
        let header = |name: &str| page.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let policy = header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert!(!policy.contains("unsafe") && !page.text.contains("<script"), "{policy}");
        assert_eq!((header("x-frame-options"), header("cache-control")), ("DENY", "no-store"));
        assert_eq!((header("referrer-policy"), header("x-content-type-options")), ("no-referrer", "nosniff"));
    }
    let target = question.headers["content-security-policy"].to_str()?.to_owned();
    assert!(target.contains("form-action 'self';"), "{target}");
    Ok(())
}

#[tokio::test]
async fn a_refresh_token_that_comes_again_ends_everything() -> Result<()> {
    let world = World::start().await?;
    world.deployment.apply(&client("thief", ""))?;
    let first = world.tokens(CLIENT, "retrieval").await?;
    let stolen = text(&first, "refresh_token").to_owned();
    let by_thief = world.refresh("thief", &stolen).await?;
    assert_eq!(text(&by_thief.body, "error"), "invalid_grant", "of another client");
    let mut present = stolen.clone();
    for _ in 0..3 {
        let answer = world.refresh(CLIENT, &present).await?;
        assert_eq!(answer.status, 200, "{}", answer.text);
        present = text(&answer.body, "refresh_token").to_owned();
    }
    let again = world.refresh(CLIENT, &stolen).await?;
    assert_eq!(text(&again.body, "error"), "invalid_grant");
    let ended = world.refresh(CLIENT, &present).await?;
    assert_eq!(text(&ended.body, "error"), "invalid_grant", "the honest one ends too, and the person is asked again");
    let wider = world.tokens(CLIENT, "retrieval").await?;
    let form = [
        ("grant_type", "refresh_token"),
        ("client_id", CLIENT),
        ("refresh_token", text(&wider, "refresh_token")),
        ("scope", "mcp:tools"),
    ];
    let answer = world.post("/oauth/token", &form).await?;
    assert_eq!((answer.status.as_u16(), text(&answer.body, "scope")), (200, "mcp:read"), "{}", answer.text);
    Ok(())
}

#[tokio::test]
async fn registrations_that_could_harm_somebody_are_refused() -> Result<()> {
    let world = World::start().await?;
    let register = |metadata: serde_json::Value| {
        Answer::to(world.http.post(format!("{}/oauth/register", world.issuer)).json(&metadata))
    };
    for (uri, error) in [
        ("https://evil.example/#x", "invalid_redirect_uri"),
        ("http://evil.example/cb", "invalid_redirect_uri"),
        ("javascript:alert(1)", "invalid_redirect_uri"),
        ("data:text/html,x", "invalid_redirect_uri"),
        ("https://*.example/cb", "invalid_redirect_uri"),
    ] {
        let answer = register(json!({"redirect_uris": [uri]})).await?;
        assert_eq!((answer.status.as_u16(), text(&answer.body, "error")), (400, error), "{uri}");
    }
    for metadata in [
        json!({}),
        json!({"redirect_uris": []}),
        json!({"redirect_uris": vec![REDIRECT; 17]}),
        json!({"redirect_uris": [REDIRECT], "grant_types": ["client_credentials"]}),
        json!({"redirect_uris": [REDIRECT], "grant_types": ["urn:ietf:params:oauth:grant-type:jwt-bearer"]}),
        json!({"redirect_uris": [REDIRECT], "response_types": ["token"]}),
        json!({"redirect_uris": [REDIRECT], "token_endpoint_auth_method": "private_key_jwt"}),
        json!({"redirect_uris": [REDIRECT], "application_type": "toaster"}),
        json!([1]),
    ] {
        let answer = register(metadata.clone()).await?;
        assert_eq!(answer.status, 400, "{metadata}: {}", answer.text);
    }
    // Nobody chooses an agent, a ceiling or a name for themselves.
    let sly = json!({"redirect_uris": [REDIRECT], "agent": AGENT, "client_id": CLIENT, "ceiling": "destructive"});
    let answer = register(sly).await?;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let id = text(&answer.body, "client_id");
    assert_ne!(id, CLIENT);
    let shown = world.deployment.cli_ok(&["get", "client", id, "-o", "json"])?;
    assert!(!shown.contains(AGENT) && !shown.contains("destructive"), "{shown}");
    // It has no agent that takes it, so there is nothing to allow.
    let mut jane = Visitor::new()?;
    let page = jane.go(&world.authorize_url(&world.request(id))).await?;
    let page = jane.sign_in(&page, JANE, &world.code).await?;
    assert!(page.text.contains("No agent takes this program"), "{}", page.text);
    assert!(world.server.seen().is_empty(), "nothing of all this reached a server");
    page.headers.get("content-security-policy").context("a policy")?;
    Ok(())
}
