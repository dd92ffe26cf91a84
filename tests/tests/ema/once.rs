//! An assertion is good once, on whichever node it is used, and however many use it at the same moment.

use futures::future::try_join_all;

use super::*;

const ROUNDS: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn of_all_who_use_an_assertion_at_once_on_every_node_exactly_one_gets_a_token() -> Result<()> {
    let world = World::start(Shape::Cluster).await?;
    let nodes = world.nodes();
    ensure!(nodes.len() == 3, "{nodes:?}");
    for round in 0..ROUNDS {
        let assertion = world.provider.mint(json!({})).await?;
        // Two nodes, and another two in the next round; in some rounds all of them, twice.
        let everybody: Vec<_> = match round % 4 {
            3 => nodes.iter().chain(&nodes).collect(),
            turn => nodes.iter().cycle().skip(turn).take(2).collect(),
        };
        let answers = try_join_all(everybody.iter().map(|node| world.exchange(node, &assertion))).await?;
        let (given, refused): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status == 200);
        ensure!(given.len() == 1, "round {round}: {} of {} got a token", given.len(), answers.len());
        for answer in refused {
            is_refused(answer, 400, "invalid_grant", "used").with_context(|| format!("round {round}"))?;
        }
        // And never again, anywhere.
        for node in &nodes {
            is_refused(&world.exchange(node, &assertion).await?, 400, "invalid_grant", "used")?;
        }
    }
    let token = world.token().await?;
    for client in world.clients(&token) {
        ensure!(is_permitted(&client, "charge").await?, "the token is not good at {}", client.url);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_assertion_stays_used_when_another_node_leads() -> Result<()> {
    let mut world = World::start(Shape::Cluster).await?;
    let assertion = world.provider.mint(json!({})).await?;
    ensure!(world.exchange(&world.issuer, &assertion).await?.status == 200, "{}", world.deployment.log());
    let leader = world.deployment.leader().await?;
    world.deployment.end(&leader, "KILL").await?;
    world.deployment.next_leader(&leader).await?;
    world.deployment.up(&["--control-planes", "3"]).await?;
    for node in world.nodes() {
        is_refused(&world.exchange(&node, &assertion).await?, 400, "invalid_grant", "used")?;
    }
    Ok(())
}
