//! Signals that are fetched: acknowledged once they have their effect, whatever the transmitter does meanwhile.

use super::*;
use crate::transmitter::{Polled, now};

impl World {
    /// Lays a signal into the transmitter's queue.
    fn offer(&self, uri: &str, user: &str) -> Result<String> {
        let jti = self.transmitter.jti();
        let jwt = self.transmitter.sign(&self.transmitter.claims(&jti, uri, user, json!({})))?;
        self.transmitter.offer(&jti, &jwt);
        Ok(jti)
    }

    async fn acknowledged(&self, jti: &str) -> Result<()> {
        let is_there = async || self.transmitter.said().acknowledged.iter().any(|one| one == jti).then_some(());
        eventually("the signal is acknowledged", is_there).await.with_context(|| self.deployment.log())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fetched_signals_have_their_effect_and_are_answered() -> Result<()> {
    let world = World::start(Shape::Processes, false, true).await?;
    let clients = world.clients().await?;
    // More than are asked for at once, and some that nobody honest sends.
    let others: Vec<_> =
        (0..20).map(|_| world.offer(&session_revoked(), "nobody@example.com")).collect::<Result<_>>()?;
    let said = &world.transmitter;
    let mut forged = Vec::new();
    for (name, value, word) in [
        ("aud", json!("https://other.example"), "invalid_audience"),
        ("exp", json!(now() + 300), "invalid_request"),
        ("iss", json!("https://evil.example"), "invalid_issuer"),
    ] {
        let jti = said.jti();
        let mut claims = said.claims(&jti, &session_revoked(), JANE, json!({}));
        claims[name] = value;
        said.offer(&jti, &said.sign(&claims)?);
        forged.push((name, jti, word));
    }
    let jti = said.jti();
    said.offer(&jti, &said.sign_unknown(&said.claims(&jti, &session_revoked(), JANE, json!({})), "k1")?);
    forged.push(("another key", jti, "invalid_key"));
    for jti in &others {
        world.acknowledged(jti).await?;
    }
    for (what, jti, word) in &forged {
        let refused = eventually("it is refused", async || said.said().refused.get(jti).cloned()).await;
        let refused = refused.with_context(|| (*what).to_owned())?;
        ensure!(refused["err"] == *word, "{what}: {refused}");
    }
    are_permitted(&clients).await?;
    let jti = world.offer(&session_revoked(), JANE)?;
    are_refused(&clients).await?;
    world.acknowledged(&jti).await?;
    let received = world.events("signal_received", 21).await?;
    ensure!(received.iter().all(|event| event["delivery"] == "poll"), "{received:?}");
    // Pushing is not what this provider may do.
    let jwt = said.sign(&said.claims(&said.jti(), &session_revoked(), JANE, json!({})))?;
    let answer = said.push(&world.node().await?, &jwt).await?;
    ensure!(answer.status == 400 && answer.body["err"] == "authentication_failed", "{}", answer.text);
    let metrics = world.deployment.metrics_of("control-plane-1").await?;
    ensure!(metrics.contains("bailiwick_control_plane_signal_polls_total{outcome=\"answered\"}"), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transmitter_that_misbehaves_is_asked_again_and_its_signals_arrive() -> Result<()> {
    let world = World::start(Shape::Processes, false, true).await?;
    let clients = world.clients().await?;
    for how in [Polled::Refuse, Polled::Lie, Polled::Giant, Polled::Redirect] {
        let before = world.transmitter.said().hostile;
        world.transmitter.polled(how);
        let met = async || (world.transmitter.said().hostile > before).then_some(());
        eventually("it was polled", met).await.with_context(|| format!("{how:?}"))?;
        world.transmitter.polled(Polled::Honestly);
        let jti = world.offer(&session_revoked(), "nobody@example.com")?;
        world.acknowledged(&jti).await.with_context(|| format!("{how:?}"))?;
    }
    ensure!(world.transmitter.said().elsewhere == 0, "a redirect was followed");
    // One that hangs is given up, and tried again.
    let polls = world.transmitter.said().polls;
    let before = world.transmitter.said().hostile;
    world.transmitter.polled(Polled::Hang);
    eventually("it hangs", async || (world.transmitter.said().hostile > before).then_some(())).await?;
    world.transmitter.polled(Polled::Honestly);
    world.offer(&session_revoked(), JANE)?;
    eventually("it is polled again", async || (world.transmitter.said().polls > polls + 1).then_some(())).await?;
    are_refused(&clients).await?;
    let metrics = world.deployment.metrics_of("control-plane-1").await?;
    ensure!(metrics.contains("bailiwick_control_plane_signal_polls_total{outcome=\"failed\"}"), "{metrics}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_dies_between_effect_and_acknowledgement_leaves_neither_undone_nor_twice_done() -> Result<()> {
    let mut world = World::start(Shape::Cluster, false, true).await?;
    let clients = world.clients().await?;
    world.transmitter.polled(Polled::HangOnAck);
    let jti = world.offer(&session_revoked(), JANE)?;
    are_refused(&clients).await?;
    // The effect is committed, and the acknowledgement hangs.
    eventually("an acknowledgement is under way", async || (world.transmitter.said().hostile > 0).then_some(()))
        .await?;
    let after = world.clients().await?;
    let leader = world.deployment.leader().await?;
    world.deployment.end(&leader, "KILL").await?;
    world.transmitter.polled(Polled::Honestly);
    world.deployment.next_leader(&leader).await?;
    world.acknowledged(&jti).await?;
    are_permitted(&after).await?;
    world.deployment.up(&["--control-planes", "3"]).await?;
    let received = world.events("signal_received", 1).await?;
    ensure!(received.iter().filter(|event| event["jti"] == jti.as_str()).count() == 1, "{received:?}");
    ensure!(world.events("sessions_ended", 1).await?.len() == 1);
    Ok(())
}
