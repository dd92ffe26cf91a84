//! What a person sees and does, in a real Chromium.
//!
//! Here: that the browser itself is to be believed, against a page of the test's own. Each test has a browser with an
//! empty profile.

use anyhow::{Result, ensure};
use axum::{
    Form, Router,
    http::{StatusCode, header},
    response::{Html, IntoResponse, Redirect},
    routing::{get, post},
};
use bailiwick_tests::{
    browser::{Browser, Focused, Look, On},
    upstream::free_port,
};
use serde::Deserialize;
use tokio::{net::TcpListener, task::JoinSet};

const FORM: &str = r#"<!doctype html><html lang="en"><head><title>A form</title><link rel="stylesheet" href="/own.css">
    <meta name="viewport" content="width=device-width"></head><body>
    <h1>Hello</h1><p hidden>nobody sees this</p><script>document.title = "changed by a script"</script>
    <form method="post" action="/sent">
      <label>Name <input name="name"></label>
      <label for="c">Colour</label>
      <select id="c" name="colour"><option value="r">Red</option><option value="g">Green</option></select>
      <label><input type="checkbox" name="sure" value="yes">Sure</label>
      <label><input type="checkbox" name="more" value="yes" checked>More</label>
      <button>Send</button><button disabled>Never</button>
    </form><a href="/wide">wide</a></body></html>"#;
const WIDE: &str = r#"<!doctype html><title>w</title><meta name="viewport" content="width=device-width">
    <table><tr><td style="min-width: 60rem">wide</td></tr></table>"#;
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self' app.example:";

#[derive(Deserialize)]
struct Sent {
    name: String,
    colour: String,
    sure: Option<String>,
    more: Option<String>,
}

/// A site that ends with the test, and its origin.
async fn site() -> Result<(String, JoinSet<()>)> {
    let form = || async {
        let headers =
            [(header::CONTENT_SECURITY_POLICY, POLICY), (header::SET_COOKIE, "visit=1; HttpOnly; SameSite=Lax")];
        (headers, Html(FORM))
    };
    let sent = |Form(Sent { name, colour, sure, more }): Form<Sent>| async move {
        if name == "away" {
            return Redirect::to("app.example:/callback?code=1");
        }
        Redirect::to(&format!("/done?{name}.{colour}.{}.{}", sure.unwrap_or_default(), more.unwrap_or_default()))
    };
    let app = Router::new()
        .route("/", get(form))
        .route("/own.css", get(|| async { ([(header::CONTENT_TYPE, "text/css")], "body{}").into_response() }))
        .route("/sent", post(sent))
        .route("/done", get(|| async { Html("<title>Done</title>thank you") }))
        .route("/wide", get(|| async { Html(WIDE) }))
        .fallback(|| async { (StatusCode::NOT_FOUND, "nothing is here") });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let origin = format!("http://{}", listener.local_addr()?);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { drop(axum::serve(listener, app).await) });
    Ok((origin, tasks))
}

#[tokio::test]
async fn a_person_fills_in_a_form_with_the_mouse() -> Result<()> {
    let (origin, _site) = site().await?;
    let mut browser = Browser::start().await?;
    assert_eq!(browser.goto(&origin).await?, 200);
    let text = browser.text().await?;
    ensure!(text.contains("Hello") && !text.contains("nobody sees this"), "{text}");
    browser.fill(On::label("Name"), "jane").await?;
    browser.select(On::label("Colour"), "g").await?;
    browser.check(On::role("checkbox", "Sure")).await?;
    browser.uncheck(On::role("checkbox", "More")).await?;
    browser.click(On::role("button", "Send")).await?;
    assert_eq!(browser.wait_url("**/done*").await?, format!("{origin}/done?jane.g.yes."));
    assert_eq!((browser.title().await?.as_str(), browser.text().await?.as_str()), ("Done", "thank you"));
    assert_eq!(browser.redirects().await?, ["/done?jane.g.yes."]);
    assert_eq!(browser.goto(&format!("{origin}/nowhere")).await?, 404);
    assert_eq!((browser.count(On::css("h1")).await?, browser.count(On::css("button")).await?), (0, 0));
    Ok(())
}

#[tokio::test]
async fn a_person_fills_in_a_form_with_the_keyboard() -> Result<()> {
    let (origin, _site) = site().await?;
    let mut browser = Browser::start().await?;
    browser.goto(&origin).await?;
    assert_eq!(browser.focused().await?, None);
    browser.tab_to(|focused| focused.name == "name").await?;
    browser.type_text("omar").await?;
    browser.tab_to(|focused| focused.name == "sure").await?;
    browser.press("Space").await?;
    let button = browser.tab_to(|focused| focused.tag == "button").await?;
    assert_eq!(
        button,
        Focused { tag: "button".into(), name: String::new(), value: String::new(), text: "Send".into() }
    );
    browser.press("Enter").await?;
    assert_eq!(browser.wait_url("**/done*").await?, format!("{origin}/done?omar.r.yes.yes"));
    ensure!(browser.tab_to(|focused| focused.tag == "button").await.is_err(), "there is no button");
    Ok(())
}

#[tokio::test]
async fn what_it_loaded_kept_and_refused_is_known() -> Result<()> {
    let (origin, _site) = site().await?;
    let mut browser = Browser::start().await?;
    browser.goto(&origin).await?;
    assert_eq!(browser.requests().await?, [format!("{origin}/"), format!("{origin}/own.css")]);
    let cookies = browser.cookies().await?;
    let [visit] = cookies.as_slice() else { anyhow::bail!("{cookies:?}") };
    assert_eq!((visit.name.as_str(), visit.http_only, visit.same_site.as_str()), ("visit", true, "Lax"));
    let complaints = browser.complaints().await?;
    ensure!(complaints.iter().any(|said| said.contains("Content Security Policy")), "{complaints:?}");
    assert_eq!(browser.title().await?, "A form");

    browser.fill(On::label("Name"), "away").await?;
    browser.click(On::role("button", "Send")).await?;
    assert_eq!(browser.redirects().await?, ["app.example:/callback?code=1"]);

    browser.fresh().await?;
    assert_eq!((browser.cookies().await?.len(), browser.requests().await?.len()), (0, 0));
    assert_eq!(browser.url().await?, "about:blank");
    Ok(())
}

#[tokio::test]
async fn a_page_is_looked_at_on_a_desk_and_on_a_telephone() -> Result<()> {
    let (origin, _site) = site().await?;
    let (mut browser, folder) = (Browser::start().await?, tempfile::tempdir()?);
    let picture = folder.path().join("page.png");
    browser.goto(&origin).await?;
    ensure!(!browser.screenshot(&picture, Look::PHONE.dark()).await?, "it fits");
    ensure!(std::fs::read(&picture)?.starts_with(b"\x89PNG"), "not a picture");
    browser.click(On::role("link", "wide")).await?;
    ensure!(!browser.screenshot(&picture, Look::DESK).await? && browser.screenshot(&picture, Look::PHONE).await?);
    Ok(())
}

#[tokio::test]
async fn what_cannot_be_done_is_said() -> Result<()> {
    let (origin, _site) = site().await?;
    let mut browser = Browser::start().await?;
    ensure!(browser.goto(&format!("http://127.0.0.1:{}", free_port()?)).await.is_err(), "nobody is there");
    browser.goto(&origin).await?;
    let two = browser.click(On::css("button")).await;
    ensure!(format!("{two:?}").contains("strict mode"), "which of the two? {two:?}");
    ensure!(browser.press("NoSuchKey").await.is_err(), "no such key");
    ensure!(browser.text().await?.contains("Hello"), "it goes on");
    Ok(())
}
