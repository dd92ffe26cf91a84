//! What changes while services ask: revocations hold for their questions as for calls, secrets are rotated, services
//! go.

use anyhow::{Result, ensure};
use bailiwick_tests::{Shape, both, eventually, manifests::person};

use super::{AGENT, JANE, SECRET, SERVICE, World, asks, service, verdict};

const NEXT: &str = "b2d7a55f0a3e4c1d8d7c6b5a49382716";

/// `revoke --wait` returns once every node holds to it: for questions too, at once.
async fn what_is_revoked_is_denied_at_every_node_the_moment_the_command_returns(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    for (kind, expected) in [("consent", "consent_revoked"), ("agent", "agent_inactive"), ("user", "user_inactive")] {
        let (_, consent) = world.consent("destructive").await?;
        let mut named = asks("read");
        named["subject"]["properties"]["consent"] = consent.as_str().into();
        for question in [&named, &asks("read")] {
            world.until(question, "permit").await?;
        }
        let name = match kind {
            "consent" => consent.as_str(),
            "agent" => AGENT,
            _user => JANE,
        };
        world.deployment.cli_ok(&["revoke", kind, name, "--reason", "left", "--wait"])?;
        for service in &world.services {
            for question in [&named, &asks("read")] {
                let answer = service.one(question).await?;
                ensure!(verdict(&answer.body) == expected, "{kind}: {}", answer.text);
            }
        }
        world.deployment.apply(&person(JANE, "buyers", AGENT))?;
    }
    Ok(())
}

async fn a_secret_is_replaced_without_a_gap_and_the_old_one_ends(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let with = |secrets: &[&str]| service(SERVICE, secrets, "virtual_servers: [shop]");
    let is_known = async |secret: &str| {
        for service in &world.services {
            if service.with_secret(secret).one(&asks("read")).await?.status != 200 {
                return anyhow::Ok(false);
            }
        }
        Ok(true)
    };
    ensure!(!is_known(NEXT).await?, "a secret that nobody has");
    world.deployment.apply(&with(&[SECRET, NEXT]))?;
    eventually("the next secret is known", async || is_known(NEXT).await.ok()?.then_some(())).await?;
    ensure!(is_known(SECRET).await?, "the old one goes on");
    world.deployment.apply(&with(&[NEXT]))?;
    for service in &world.services {
        eventually("the old secret is gone", async || {
            service.one(&asks("read")).await.ok().filter(|answer| answer.status == 401)
        })
        .await?;
    }
    ensure!(is_known(NEXT).await?, "the next one goes on");
    Ok(())
}

async fn a_service_that_is_not_active_or_gone_is_answered_nothing(shape: Shape) -> Result<()> {
    let world = World::start(shape).await?;
    let about = "virtual_servers: [shop]";
    let until = async |status: u16| {
        for service in &world.services {
            eventually(&format!("{status}"), async || {
                service.one(&asks("read")).await.ok().filter(|answer| answer.status == status)
            })
            .await?;
        }
        anyhow::Ok(())
    };
    world.deployment.apply(&service(SERVICE, &[SECRET], &format!("{about}, active: false")))?;
    until(401).await?;
    world.deployment.apply(&service(SERVICE, &[SECRET], about))?;
    until(200).await?;
    let used = world.deployment.cli(&["delete", "virtual-server", "shop"])?;
    ensure!(!used.status.success(), "a service names it");
    world.deployment.cli_ok(&["delete", "decision-client", SERVICE])?;
    until(401).await
}

both! {
    what_is_revoked_is_denied_at_every_node_the_moment_the_command_returns
    a_secret_is_replaced_without_a_gap_and_the_old_one_ends
    a_service_that_is_not_active_or_gone_is_answered_nothing
}
