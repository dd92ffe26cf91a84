//! What nobody honest does: a callback in another browser, twice, at another provider, with another answer; people whom
//! the provider does not vouch for.

use super::*;

/// A sign-in that has come so far that only the callback is missing.
async fn almost(world: &World, browser: &mut Browser) -> Result<Url> {
    let end = browser.sign_in(&world.begin("acme")?, "jane", &callback(&world.issuer, "acme")).await?;
    end.map_err(|seen| anyhow::anyhow!("{} {}", seen.status, seen.text))
}

/// The same URL with another value for a parameter; `None` leaves it out.
fn with(url: &Url, name: &str, value: Option<&str>) -> Url {
    let mut changed = url.clone();
    let kept = url.query_pairs().filter(|(known, _)| known != name).map(|(k, v)| (k.into_owned(), v.into_owned()));
    let kept: Vec<_> = kept.collect();
    changed.query_pairs_mut().clear().extend_pairs(kept).extend_pairs(value.map(|value| (name, value)));
    changed
}

/// A page that says so, and no session.
async fn is_refused(world: &World, browser: &mut Browser, url: &Url, status: u16, says: &str) -> Result<()> {
    let seen = browser.visit(url).await?;
    ensure!(seen.status == status && seen.text.contains(says), "not {status} {says:?}: {} {}", seen.status, seen.text);
    let cookies = browser.cookie_names("127.0.0.1").into_iter().filter(|name| name.ends_with("-session"));
    ensure!(cookies.clone().all(|name| !name.contains("bailiwick")), "{:?}", cookies.collect::<Vec<_>>());
    world.is_nobody(browser).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callback_counts_once_in_its_browser_at_its_provider_with_its_answer() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let mut jane = Browser::new()?;
    let honest = almost(&world, &mut jane).await?;
    // Somebody else's link: Jane's browser would act as the one who began.
    let mut mallory = Browser::new()?;
    is_refused(&world, &mut mallory, &honest, 403, "another browser").await?;
    let own = almost(&world, &mut mallory).await?;
    let swapped = with(
        &own,
        "state",
        honest.query_pairs().find(|(name, _)| name == "state").map(|(_, v)| v.into_owned()).as_deref(),
    );
    is_refused(&world, &mut mallory, &swapped, 403, "another browser").await?;
    for (changed, status, says) in [
        (with(&honest, "state", None), 400, "not complete"),
        (with(&honest, "state", Some("AAAA")), 400, "too long"),
        (Url::parse(&honest.as_str().replace("/acme?", "/other?"))?, 403, "another identity provider"),
        (Url::parse(&format!("{honest}&state=x"))?, 400, "not complete"),
    ] {
        is_refused(&world, &mut jane, &changed, status, says).await.with_context(|| changed.to_string())?;
    }
    // None of these used it up; the honest one does.
    let seen = jane.visit(&honest).await?;
    ensure!(seen.location() == Some(world.consents()?), "{} {}", seen.status, seen.text);
    world.is_known(&mut jane, JANE).await?;
    let again = jane.visit(&honest).await?;
    ensure!(again.status == 403 && again.text.contains("has ended already"), "{} {}", again.status, again.text);
    world.is_known(&mut jane, JANE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_another_provider_or_without_a_good_code_ends_the_sign_in() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    for (name, value, status, says) in [
        ("iss", Some("https://evil.example"), 403, "another identity provider"),
        ("iss", None, 403, "another identity provider"),
        ("code", None, 400, "not complete"),
        ("code", Some("made-up"), 502, "did not confirm"),
        ("error", Some("access_denied"), 403, "did not sign you in"),
    ] {
        let mut jane = Browser::new()?;
        let changed = with(&almost(&world, &mut jane).await?, name, value);
        let changed = Url::parse(&format!("{changed}&error_description=%3Cb%3Ehush"))?;
        is_refused(&world, &mut jane, &changed, status, says).await.with_context(|| format!("{name} {value:?}"))?;
        ensure!(!jane.visit(&changed).await?.text.contains("hush"), "what the provider says is shown");
        // It is over, whatever comes now.
        is_refused(&world, &mut jane, &with(&changed, name, value), 403, "has ended already").await?;
    }
    let log = world.deployment.log();
    ensure!(log.contains("invalid_grant") && log.contains("access_denied"), "{log}");
    ensure!(!log.contains("hush") && !log.contains("made-up"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_sent_elsewhere_afterwards() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let mut jane = Browser::new()?;
    for to in ["https://evil.example/", "//evil.example", "/\\evil.example", "/oauth/token?x", ""] {
        let query = url::form_urlencoded::Serializer::new(String::new()).append_pair("return", to).finish();
        let url = Url::parse(&format!("{}/sign-in/with/acme?{query}", world.issuer))?;
        let seen = jane.visit(&url).await?;
        ensure!(seen.status == 400 && seen.location().is_none(), "{to}: {} {}", seen.status, seen.text);
    }
    let mut honest = almost(&world, &mut jane).await?;
    honest.query_pairs_mut().append_pair("return", "https://evil.example/").append_pair("to", "https://evil.example/");
    let seen = jane.visit(&honest).await?;
    ensure!(seen.location() == Some(world.consents()?), "{} {:?}", seen.status, seen.location());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_the_provider_does_not_vouch_for_is_nobody_here() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    for (claims, says) in [
        (json!({"email_verified": false}), "e-mail address is verified"),
        (json!({"email_verified": "true"}), "e-mail address is verified"),
        (json!({"email": "jane example"}), "does not say who you are"),
        (json!({"hasgroups": true}), "so many groups"),
        (json!({"_claim_names": {"groups": "src1"}}), "so many groups"),
        (json!({"groups": {"grp-7": true}}), "cannot be read"),
    ] {
        world.acme.person("jane", claims.clone()).await?;
        let mut jane = Browser::new()?;
        let seen = world.sign_in(&mut jane, "acme", "jane").await?;
        ensure!(seen.status == 403 && seen.text.contains(says), "{claims}: {} {}", seen.status, seen.text);
        world.is_nobody(&mut jane).await?;
    }
    world.acme.person("jane", json!({})).await?;
    world.signed_in(&mut Browser::new()?, "acme", "jane").await
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_of_sign_ins_are_bound_and_do_not_pile_up() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let mut jane = Browser::new()?;
    let own = |browser: &Browser| {
        browser.cookie_names("127.0.0.1").into_iter().filter(|name| name.contains("-with-")).count()
    };
    for number in 1..=20 {
        let seen = jane.visit(&world.begin("acme")?).await?;
        let set: Vec<_> = seen.headers.get_all("set-cookie").iter().filter_map(|value| value.to_str().ok()).collect();
        let new = set.last().context("no cookie")?;
        for attribute in ["; Path=/;", "; HttpOnly", "; SameSite=Lax", "Max-Age=600"] {
            ensure!(new.contains(attribute), "{new}");
        }
        ensure!(seen.headers["cache-control"] == "no-store", "the way there may be kept");
        ensure!(own(&jane) <= 8, "{number}: {} cookies", own(&jane));
    }
    // Two tabs do not disturb one another.
    let (first, second) = (almost(&world, &mut jane).await?, almost(&world, &mut jane).await?);
    for url in [first, second] {
        let seen = jane.visit(&url).await?;
        ensure!(seen.location() == Some(world.consents()?), "{} {}", seen.status, seen.text);
    }
    Ok(())
}
