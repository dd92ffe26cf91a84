//! Signals that are pushed: each ends what it is to end, at every data plane, and nothing else.

use std::time::{Duration, Instant};

use bailiwick_tests::{Events, visitor::Visitor};

use super::*;
use crate::transmitter::{RISC, SSF};

/// How long after the 202 a call may still pass: what the revocation lane takes on a loaded machine, and no lease.
const BOUND: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn what_was_begun_ends_at_every_data_plane_and_may_be_begun_anew() -> Result<()> {
    let world = World::start(Shape::Processes, true, false).await?;
    let node = world.node().await?;
    for (uri, event) in [
        (session_revoked(), json!({})),
        (format!("{CAEP}/credential-change"), json!({"change_type": "revoke", "credential_type": "fido2-roaming"})),
        (
            format!("{CAEP}/device-compliance-change"),
            json!({"previous_status": "compliant", "current_status": "not-compliant"}),
        ),
        (format!("{RISC}/credential-compromise"), json!({"credential_type": "password"})),
    ] {
        let clients = world.clients().await?;
        let mut streams = Vec::new();
        for client in &clients {
            let mut events = Events::modern(client, &json!({"toolsListChanged": true})).await?;
            events.message().await?;
            streams.push(events);
        }
        world.transmitter.pushed(&node, &uri, JANE, event).await?;
        let accepted = Instant::now();
        let why = are_refused(&clients).await.with_context(|| uri.clone())?;
        let took = accepted.elapsed();
        ensure!(took < BOUND, "{uri}: {took:?}");
        ensure!(why.contains("consent"), "{uri}: {why}");
        for mut events in streams {
            while events.next().await.with_context(|| uri.clone())?.is_some() {}
        }
    }
    // She is not deactivated: what comes now is good.
    are_permitted(&world.clients().await?).await?;
    let ended = world.events("sessions_ended", 4).await?;
    ensure!(ended.iter().all(|event| event["user"] == JANE), "{ended:?}");
    let received = world.events("signal_received", 4).await?;
    ensure!(received.iter().all(|event| event["provider"] == "acme" && event["delivery"] == "push"), "{received:?}");
    ensure!(received.iter().all(|event| event["reason"] == "as the test says"), "{received:?}");
    let shown = world.deployment.cli_ok(&["get", "identityprovider", "acme", "-o", "json"])?;
    ensure!(shown.contains("last_signal") && shown.contains("credential-compromise"), "{shown}");
    let metrics = world.deployment.metrics_of("control-plane-1").await?;
    let line = "bailiwick_control_plane_signals_total{event=\"session-revoked\",outcome=\"sessions_ended\"} 1";
    ensure!(metrics.contains(line), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_nothing_for_the_worse_and_what_is_about_others_ends_nothing() -> Result<()> {
    let world = World::start(Shape::Processes, true, false).await?;
    let (node, clients) = (world.node().await?, world.clients().await?);
    let said = &world.transmitter;
    said.pushed(&node, &format!("{CAEP}/credential-change"), JANE, json!({"change_type": "create"})).await?;
    said.pushed(&node, &format!("{CAEP}/device-compliance-change"), JANE, json!({"current_status": "compliant"}))
        .await?;
    said.pushed(&node, &format!("{CAEP}/session-established"), JANE, json!({})).await?;
    said.pushed(&node, "https://example.com/events/something-else", JANE, json!({})).await?;
    // Somebody who is not known, and somebody whom this provider may not speak for: answered like anybody.
    said.pushed(&node, &session_revoked(), "nobody@example.com", json!({})).await?;
    said.pushed(&node, &session_revoked(), "jane@elsewhere.example", json!({})).await?;
    let stream = said.claims(&said.jti(), &format!("{SSF}/verification"), JANE, json!({"state": "s-1"}));
    let mut stream = stream;
    stream["sub_id"] = json!({"format": "opaque", "id": "stream-1"});
    ensure!(said.push(&node, &said.sign(&stream)?).await?.status == 202);
    are_permitted(&clients).await?;
    let received = world.events("signal_received", 5).await?;
    let outcomes: Vec<_> = received.iter().map(|event| event["outcome"].as_str().unwrap_or_default()).collect();
    ensure!(outcomes.iter().filter(|outcome| **outcome == "subject_unknown").count() == 2, "{outcomes:?}");
    ensure!(outcomes.iter().filter(|outcome| **outcome == "recorded").count() == 3, "{outcomes:?}");
    let shown = world.deployment.cli_ok(&["get", "identityprovider", "acme", "-o", "json"])?;
    ensure!(shown.contains("verified_at"), "{shown}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_loses_at_once_what_a_group_permitted() -> Result<()> {
    let world = World::start(Shape::Processes, true, false).await?;
    let (node, clients) = (world.node().await?, world.clients().await?);
    let change = format!("{CAEP}/token-claims-change");
    world.transmitter.pushed(&node, &change, JANE, json!({"claims": {"department": "sales"}})).await?;
    are_permitted(&clients).await?;
    let moved = json!({"claims": {"groups": ["sellers"], "department": "sales"}});
    world.transmitter.pushed(&node, &change, JANE, moved).await?;
    let accepted = Instant::now();
    let why = are_refused(&clients).await?;
    ensure!(accepted.elapsed() < BOUND && why.contains("policy"), "{:?} {why}", accepted.elapsed());
    // The consent goes on: back in the group, the same token is good.
    world.transmitter.pushed(&node, &change, JANE, json!({"claims": {"groups": ["buyers"]}})).await?;
    for client in &clients {
        eventually("the token works again", async || is_permitted(client).await.ok()?.then_some(())).await?;
    }
    let received = world.events("signal_received", 3).await?;
    ensure!(received.iter().filter(|event| event["outcome"] == "groups_changed").count() == 2, "{received:?}");
    ensure!(received.iter().filter(|event| event["claims"] == json!(["department"])).count() == 2, "{received:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaver_is_deactivated() -> Result<()> {
    let world = World::start(Shape::Processes, true, false).await?;
    let (node, clients) = (world.node().await?, world.clients().await?);
    let mut stream = Events::modern(&clients[0], &json!({"toolsListChanged": true})).await?;
    stream.message().await?;
    world.transmitter.pushed(&node, &format!("{RISC}/account-disabled"), JANE, json!({"reason": "hijacking"})).await?;
    let accepted = Instant::now();
    are_refused(&clients).await?;
    ensure!(accepted.elapsed() < BOUND, "{:?}", accepted.elapsed());
    while stream.next().await?.is_some() {}
    let shown = world.deployment.cli_ok(&["get", "user", JANE, "-o", "json"])?;
    ensure!(shown.contains("\"active\": false") || shown.contains("\"active\":false"), "{shown}");
    ensure!(world.deployment.token_for(JANE, AGENT, "shop", "transactional", "10m").is_err(), "a leaver gets a token");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browsers_session_ends_too_by_a_signal_and_by_an_administrator() -> Result<()> {
    let world = World::start(Shape::Embedded, true, false).await?;
    let node = world.node().await?;
    let code = std::fs::read_to_string(world.deployment.data().join("sign-in-code"))?;
    let consents = format!("{node}/consents");
    let sign_in = async |jane: &mut Visitor| {
        let page = jane.go(&consents).await?;
        ensure!(page.text.contains("name=\"code\""), "is signed in already: {}", page.text);
        jane.sign_in(&page, JANE, code.trim()).await?;
        let page = jane.go(&consents).await?;
        ensure!(page.status == 200 && !page.text.contains("name=\"code\""), "{}", page.text);
        Ok(())
    };
    let mut jane = Visitor::new()?;
    sign_in(&mut jane).await?;
    world.transmitter.pushed(&node, &session_revoked(), JANE, json!({})).await?;
    sign_in(&mut jane).await?;
    let said = world.deployment.cli_ok(&["revoke", "user-sessions", JANE, "--reason", "lost a laptop"])?;
    ensure!(said.contains("sessions ended"), "{said}");
    sign_in(&mut jane).await
}
