//! What changes meanwhile: providers that are stopped or away, secrets that are set anew, people who are.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_stopped_signs_nobody_in_and_its_sessions_end() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let (mut signed_in, mut under_way) = (Browser::new()?, Browser::new()?);
    world.signed_in(&mut signed_in, "acme", "jane").await?;
    let back = callback(&world.issuer, "acme");
    let end = under_way.sign_in(&world.begin("acme")?, "jane", &back).await?;
    let Ok(end) = end else { anyhow::bail!("{:?}", end.err()) };
    world.deployment.apply(&world.acme_with(&json!({"active": false})))?;
    let seen = under_way.visit(&end).await?;
    ensure!(seen.status == 404 && seen.text.contains("Nobody signs in"), "{} {}", seen.status, seen.text);
    world.is_nobody(&mut under_way).await?;
    world.is_nobody(&mut signed_in).await?;
    let seen = signed_in.visit(&world.begin("acme")?).await?;
    ensure!(seen.status == 404, "{} {}", seen.status, seen.text);
    let page = signed_in.visit(&Url::parse(&format!("{}/sign-in?return=%2Fconsents", world.issuer))?).await?;
    ensure!(page.status == 200 && !page.text.contains("/sign-in/with/"), "{}", page.text);
    // Once it is back, so are they.
    world.deployment.apply(&world.acme_with(&json!({})))?;
    world.signed_in(&mut under_way, "acme", "jane").await?;
    // A person who is not active any more is nobody, and does not come back by signing in.
    world.deployment.apply(&manifest("User", JANE, "{active: false}"))?;
    world.is_nobody(&mut under_way).await?;
    let seen = world.sign_in(&mut Browser::new()?, "acme", "jane").await?;
    ensure!(seen.status == 403 && seen.text.contains("not active"), "{} {}", seen.status, seen.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_counts_from_the_moment_it_is_set_and_stays_with_control_planes() -> Result<()> {
    let world = World::start(Shape::Processes).await?;
    world.seal(SECRET, "not the one that was registered")?;
    let seen = world.sign_in(&mut Browser::new()?, "acme", "jane").await?;
    ensure!(seen.status == 502 && seen.text.contains("did not confirm"), "{} {}", seen.status, seen.text);
    ensure!(world.deployment.log().contains("invalid_client"), "{}", world.deployment.log());
    world.seal(SECRET, &world.secret)?;
    world.signed_in(&mut Browser::new()?, "acme", "jane").await?;
    let for_servers = ["secret", "set", SECRET, "--from-file", "/dev/null"];
    ensure!(!world.deployment.cli(&for_servers)?.status.success(), "an empty secret is taken");
    let file = world.deployment.data().join("other.txt");
    std::fs::write(&file, "other")?;
    let refused = world.deployment.cli(&["secret", "set", SECRET, "--from-file", &file.display().to_string()])?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(said.contains("is for identity-provider; delete it first"), "{said}");
    let unset = world.acme_with(&json!({
        "sign_in": {"client_id": world.client_id, "auth": "client_secret", "secret": "unset"},
    }));
    let said = world.deployment.apply(&unset).unwrap_err().to_string();
    ensure!(said.contains("bailiwick secret set unset --for identity-provider"), "{said}");
    let deleted = world.deployment.cli_ok(&["secret", "delete", SECRET])?;
    ensure!(deleted.contains("nobody signs in now at: acme"), "{deleted}");
    let seen = world.sign_in(&mut Browser::new()?, "acme", "jane").await?;
    ensure!(seen.status == 502 && seen.text.contains("did not confirm"), "{} {}", seen.status, seen.text);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_away_is_said_to_be_and_signs_in_again_when_it_is_back() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let mut jane = Browser::new()?;
    let end = jane.sign_in(&world.begin("acme")?, "jane", &callback(&world.issuer, "acme")).await?;
    let Ok(end) = end else { anyhow::bail!("{:?}", end.err()) };
    world.acme.listen(false).await?;
    let seen = jane.visit(&end).await?;
    ensure!(seen.status == 502 && seen.text.contains("does not answer as it should"), "{} {}", seen.status, seen.text);
    world.is_nobody(&mut jane).await?;
    // Of one that was never reached, nobody knows where people sign in.
    let other = IdentityProvider::start(&[])?;
    other.listen(false).await?;
    let sign_in = json!({"client_id": "unknown", "auth": "none"});
    world.deployment.apply(&of_provider("other", &other, &sign_in, &json!({})))?;
    let seen = jane.visit(&world.begin("other")?).await?;
    ensure!(seen.status == 502, "{} {}", seen.status, seen.text);
    world.acme.listen(true).await?;
    world.signed_in(&mut jane, "acme", "jane").await
}
