//! Pages of other origins, opened by somebody who is signed in: they show nothing of ours and answer nothing.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use bailiwick_tests::{browser::On, manifests::person, visitor::Visitor};

use super::Screen;
use crate::{AGENT, CLIENT, JANE};

const HERS: On<'_> = On::role("checkbox", "editor as agent assistant");
const OMAR: &str = "omar@example.com";

#[tokio::test]
async fn no_page_frames_one_of_ours() -> Result<()> {
    let mut screen = Screen::start().await?;
    screen.asked().await?;
    let issuer = screen.world.issuer.clone();
    for url in [screen.question(CLIENT, "st-1"), screen.consents(), format!("{issuer}/sign-in?return=/consents")] {
        for origin in [screen.site.neighbour(), screen.site.stranger()] {
            let url = url.replace('&', "&amp;");
            screen.site.show(&format!(
                "<iframe src='/done'></iframe><iframe src='{url}'></iframe><object data='{url}'></object>"
            ));
            screen.browser.goto(&format!("{origin}/page")).await?;
            let frames = screen.browser.frames().await?;
            ensure!(
                frames.first().is_some_and(|text| text.contains("your editor")),
                "what may be framed is: {frames:?}"
            );
            for words in ["Allow", "allowed", "Sign", "Bailiwick", JANE] {
                ensure!(!frames.iter().any(|text| text.contains(words)), "{words} at {url}: {frames:?}");
            }
        }
    }
    let complaints = screen.browser.complaints().await?;
    ensure!(complaints.iter().filter(|said| said.contains("frame-ancestors")).count() >= 6, "{complaints:?}");
    Ok(())
}

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// A page that sends a form as soon as it is open.
fn sending(action: &str, fields: &[(&str, &str)]) -> String {
    let mut html = format!("<form method=post action='{action}'>");
    for (name, value) in fields {
        let _written = write!(html, "<input type=hidden name={name} value='{value}'>");
    }
    html + "</form><script>document.forms[0].submit()</script>"
}

#[tokio::test]
async fn no_page_answers_for_somebody() -> Result<()> {
    let mut screen = Screen::start().await?;
    screen.world.deployment.apply(&person(OMAR, "buyers", "helper"))?;
    screen.asked().await?;
    // Even with what only our own pages know.
    let request = screen.browser.value(On::css("[name=request]")).await?;
    let tokens = screen.world.tokens(CLIENT, "retrieval").await?;
    screen.browser.goto(&screen.consents()).await?;
    let token = screen.browser.value(On::css("[name=token]")).await?;
    let consent = screen.browser.value(HERS).await?;
    let issuer = screen.world.issuer.clone();
    let page = Visitor::new()?.go(&format!("{issuer}/sign-in?return=/consents")).await?;
    let (form, code) = (page.field("request")?, screen.world.code.clone());
    let forgeries: [(&str, Fields<'_>, &str); 4] = [
        (
            "/oauth/consent",
            vec![
                ("request", &request),
                ("agent", AGENT),
                ("level", "destructive"),
                ("only", "all"),
                ("duration", "3600"),
                ("reason", "forged"),
                ("decision", "allow"),
            ],
            "This page does not count any more",
        ),
        ("/consents", vec![("token", &token), ("one", &consent)], "Nothing was taken back"),
        ("/sign-in/local", vec![("request", &form), ("user", OMAR), ("code", code.trim())], "This form is too old"),
        ("/sign-out", vec![], "That did not work"),
    ];
    for (path, fields, refused) in &forgeries {
        screen.site.show(&sending(&format!("{issuer}{path}"), fields));
        for origin in [screen.site.neighbour(), screen.site.stranger()] {
            screen.browser.goto(&format!("{origin}/page")).await?;
            screen.browser.wait_url(&format!("{issuer}/**")).await?;
            if origin == screen.site.neighbour() {
                // The browser sends the session along: ports do not part cookies.
                screen.reads(refused).await?;
            }
            screen.browser.goto(&screen.consents()).await?;
            screen.reads(JANE).await?;
            ensure!(screen.browser.value(HERS).await? == consent, "{path} from {origin}");
        }
    }
    assert_eq!(screen.granted()?.len(), 1, "the one that is hers");
    ensure!(screen.site.arrivals().is_empty());
    screen.world.mcp(&tokens).until_listed(&["read"]).await
}
