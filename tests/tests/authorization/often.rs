//! How often one person answers: some times at once, then once in a second; others are not held up by that.

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    eventually,
    manifests::manifest,
    visitor::{Page, Visitor},
};
use reqwest::StatusCode;

use crate::{CLIENT, World};

const JOE: &str = "joe@example.com";
/// As `control-plane/server/src/oauth/limits.rs` has it.
const AT_ONCE: u32 = 30;
/// Answers that are worth trying: by then the limit was reached, however slowly this machine answers.
const ANSWERS_MAX: u32 = 500;

fn is_told_to_wait(page: &Page) -> Result<()> {
    ensure!(page.status == StatusCode::TOO_MANY_REQUESTS && page.elsewhere.is_none(), "{:?}", page.elsewhere);
    ensure!(page.text.contains("Too many answers"), "{}", page.text);
    let wait = page.headers.get("retry-after").context("Retry-After")?;
    ensure!(wait == "1", "{wait:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_answers_too_often_is_told_to_wait_and_nobody_else_is() -> Result<()> {
    let world = World::start().await?;
    world.deployment.apply(&manifest("User", JOE, "{groups: [buyers]}"))?;
    world.tokens(CLIENT, "retrieval").await?;
    // What she allowed, in another browser of hers.
    let list = format!("{}/consents", world.issuer);
    let (mut other, _) = world.asked(CLIENT).await?;
    let token = other.go(&list).await?.field("token")?;

    let (mut jane, question) = world.asked(CLIENT).await?;
    let no = [("decision", "deny")];
    let mut answers = 0;
    let told = loop {
        answers += 1;
        ensure!(answers < ANSWERS_MAX, "nobody stops her");
        let page = world.answer(&mut jane, &question, &no).await?;
        if page.elsewhere.is_none() {
            break page;
        }
        ensure!(page.parameter("error")?.as_deref() == Some("access_denied"), "{:?}", page.elsewhere);
    };
    is_told_to_wait(&told)?;
    ensure!(answers >= AT_ONCE, "she is stopped at her answer {answers}");
    // Her list counts with it, and so does each of her browsers; a second may pass in between.
    let form = [("token", token.as_str()), ("one", "none of hers")];
    let stopped = eventually("her list stops her too", async || {
        let page = other.clone().send(&list, &form).await.ok()?;
        (page.status == StatusCode::TOO_MANY_REQUESTS).then_some(page)
    });
    is_told_to_wait(&stopped.await?)?;

    let mut joe = Visitor::new()?;
    let page = joe.go(&list).await?;
    let page = joe.sign_in(&page, JOE, &world.code).await?;
    ensure!(page.status == StatusCode::OK && page.text.contains(JOE), "{} {}", page.status, page.text);
    eventually("she is heard again", async || {
        let page = world.answer(&mut jane.clone(), &question, &no).await.ok()?;
        page.parameter("error").ok()?.filter(|word| word == "access_denied")
    })
    .await
    .map(drop)
}
