//! What is refused to clients of a company's provider is on record, also what is refused while nobody leads.

use std::collections::BTreeMap;

use bailiwick_tests::deployment::Node;

use super::*;

/// All refusals on record: their events.
fn refused(world: &World) -> Result<Vec<Value>> {
    let records = world.deployment.audit(&["--kind", "control.event", "--limit", "1000"])?;
    let events = records.into_iter().map(|record| record["control"].clone());
    Ok(events.filter(|event| event["type"] == "request_refused").collect())
}

fn text<'a>(event: &'a Value, name: &str) -> &'a str {
    event[name].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assertion_that_comes_again_is_on_record_with_the_person_it_was_about() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let assertion = world.provider.mint(json!({})).await?;
    ensure!(world.exchange(&world.issuer, &assertion).await?.status == 200, "{}", world.deployment.log());
    is_refused(&world.exchange(&world.issuer, &assertion).await?, 400, "invalid_grant", "used")?;
    let event = eventually("the refusal", async || refused(&world).ok()?.into_iter().next()).await?;
    let told =
        ["endpoint", "grant", "client", "user", "provider", "error", "why", "count"].map(|name| text(&event, name));
    let why = "the assertion was used before";
    ensure!(told == ["token", JWT_BEARER, CLIENT, JANE, "acme", "invalid_grant", why, "1"], "{event}");
    ensure!(event.get("claimed").is_none(), "the client proved who it is: {event}");
    let signature = assertion.rsplit('.').next().unwrap_or_default();
    let all = format!("{:?}", world.deployment.audit(&["--limit", "1000"])?);
    ensure!(!all.contains(signature) && !all.contains(SECRET), "what was presented is in the ledger");
    Ok(())
}

/// Where nodes listen for HTTP, by name.
fn at(nodes: Vec<Node>) -> BTreeMap<String, String> {
    let listens = |node: &Node| Some(as_url(node.listen.get("http")?.as_str()?));
    nodes.into_iter().filter_map(|node| Some((node.name.clone(), listens(&node)?))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_while_nobody_leads_is_counted_once_somebody_does() -> Result<()> {
    let world = World::start(Shape::Cluster).await?;
    let leader = world.deployment.leader().await?;
    let others: BTreeMap<_, _> =
        at(world.deployment.role("control-plane")).into_iter().filter(|(name, _)| *name != leader).collect();
    world.deployment.end(&leader, "KILL").await?;
    let mut counts = BTreeMap::<String, u64>::new();
    let form = [("grant_type", "password"), ("username", JANE)];
    let mut next = None;
    while next.is_none() {
        for (name, url) in &others {
            // Refused before anybody is asked: also while nobody leads.
            let answer = world.ask(url, &form).await?;
            is_refused(&answer, 400, "unsupported_grant_type", "")?;
            *counts.entry(name.clone()).or_default() += 1;
        }
        let seen = others.keys().find_map(|name| {
            let members = world.deployment.members_at(name).ok()?;
            members.into_iter().find(|member| member.leader && member.name != leader)
        });
        next = seen.map(|member| member.name);
    }
    let told = eventually("every refusal is counted", async || {
        let mut told = BTreeMap::<String, u64>::new();
        for event in refused(&world).ok()? {
            *told.entry(text(&event, "node").to_owned()).or_default() += text(&event, "count").parse::<u64>().ok()?;
        }
        (told.values().sum::<u64>() >= counts.values().sum::<u64>()).then_some(told)
    })
    .await?;
    ensure!(told == counts, "{told:?} is on record, of {counts:?}");
    Ok(())
}
