//! An assertion is good once, on whichever node it is used, and however many use it at the same moment; what is given
//! up at one node counts at none. More often, and faster: `loadtest/identity --check`.

use futures::future::try_join_all;

use super::*;

const ROUNDS: usize = 100;

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

/// Clients of the same agent, each with a consent of its own.
const CLIENTS: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_was_given_up_at_one_node_counts_at_no_other_from_that_moment() -> Result<()> {
    let world = World::start(Shape::Cluster).await?;
    let nodes = world.nodes();
    let names: Vec<_> = (0..CLIENTS).map(|number| format!("assistant-{number}")).collect();
    let manifests: String = names.iter().map(|name| client(SECRET, "").replace(CLIENT, name)).collect();
    world.deployment.apply(&manifests)?;
    for (round, name) in names.iter().enumerate() {
        let ask = async |node: &str, path: &str, form: &[(&str, &str)]| {
            let request = world.http.post(format!("{node}{path}")).header("authorization", basic(name, SECRET));
            Answer::to(request.form(form)).await
        };
        let assertion = world.provider.mint(json!({"claims": {"client_id": name}})).await?;
        let issuer = &nodes[round % nodes.len()];
        let grant = [("grant_type", JWT_BEARER), ("assertion", &assertion), ("resource", &world.resource)];
        let given = ask(issuer, "/oauth/token", &grant).await?;
        let token = given.body["access_token"].as_str().with_context(|| given.text.clone())?;
        for node in &nodes {
            let told = ask(node, "/oauth/introspect", &[("token", token)]).await?;
            ensure!(told.body["active"] == true, "round {round} at {node}: {}", told.text);
        }
        let given_up = ask(issuer, "/oauth/revoke", &[("token", token)]).await?;
        ensure!(given_up.status == 200, "{}", given_up.text);
        let told = [("token", token)];
        let asked = nodes.iter().map(|node| ask(node, "/oauth/introspect", &told));
        for told in try_join_all(asked.collect::<Vec<_>>()).await? {
            ensure!(told.body == json!({"active": false}), "round {round}: {}", told.text);
        }
    }
    Ok(())
}
