//! An agent's life, down to its calls.

use std::time::{Duration, Instant};

use bailiwick_tests::{McpClient, ScriptedServer, eventually, scripted::tool};

use super::*;

const JANE: &str = "jane@corp.example";
/// What the revocation lane promises, and as much again for this machine.
const WITHIN: Duration = Duration::from_secs(2);

struct World {
    deployment: Deployment,
    _server: ScriptedServer,
    directory: Directory,
    jane: String,
    helper: String,
}

impl World {
    /// Jane's agent, which her directory made and everybody may use for what only reads.
    async fn start(shape: Shape) -> Result<Self> {
        let deployment = Deployment::start_with(shape, &ON).await?;
        let scripted = ScriptedServer::start(vec![tool("read", "retrieval"), tool("charge", "transactional")]).await?;
        let directory = Directory::new(&deployment, "iga")?;
        let jane = directory.user(JANE).await?;
        let mut sent = agent("helper", &jane);
        sent["description"] = "a secret of the directory".into();
        let made = directory.send(Method::POST, "/Agents", &sent).await?.is(StatusCode::CREATED)?;
        let helper = made.body["id"].as_str().context("no id")?.to_owned();
        let rule = "permit (principal, action, resource in Server::\"shop\");";
        let all = server("shop", &json!({"url": scripted.url()}))
            + &virtual_server("shop", "plain", "shop")
            + &policy("all", rule);
        deployment.apply(&all)?;
        Ok(Self { deployment, _server: scripted, directory, jane, helper })
    }

    /// The agent at each data plane.
    async fn clients(&self) -> Result<Vec<McpClient>> {
        let issued = self.deployment.token_for(JANE, "helper", "shop", "retrieval", "10m")?;
        let token = issued["access_token"].as_str().context("token")?;
        let clients: Vec<_> = self.deployment.mcp.iter().map(|mcp| McpClient::new(mcp, "shop", token)).collect();
        for client in &clients {
            works(client).await?;
        }
        Ok(clients)
    }
}

async fn works(client: &McpClient) -> Result<()> {
    let call = async || client.call("read", json!({})).await.ok()?.body.get("result").map(|_| ());
    eventually("the call works", call).await
}

async fn is_refused(client: &McpClient) -> Result<String> {
    eventually("the call is refused", async || {
        let reason = client.call("read", json!({})).await.ok()?.reason().to_owned();
        matches!(reason.as_str(), "agent_inactive" | "consent_revoked").then_some(reason)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_paused_set_going_and_ended_by_its_directory_at_every_data_plane() -> Result<()> {
    let world = World::start(Shape::Cluster).await?;
    let clients = world.clients().await?;
    let begun = Instant::now();
    ensure!(!world.directory.says(&world.helper, false).await?);
    for client in &clients {
        ensure!(is_refused(client).await? == "agent_inactive");
    }
    println!("paused to refused at every data plane: {:?}", begun.elapsed());
    ensure!(begun.elapsed() < WITHIN, "it took {:?}", begun.elapsed());
    ensure!(world.directory.says(&world.helper, true).await?);
    for client in &clients {
        works(client).await?;
    }
    let path = format!("/Agents/{}", world.helper);
    let begun = Instant::now();
    world.directory.raw(Method::DELETE, &path, None, &[]).await?.is(StatusCode::NO_CONTENT)?;
    for client in &clients {
        is_refused(client).await?;
    }
    println!("deleted to refused at every data plane: {:?}", begun.elapsed());
    ensure!(begun.elapsed() < WITHIN, "it took {:?}", begun.elapsed());
    world.directory.get(&path).await?.refused(404, "")?;
    let left: Value = serde_json::from_str(&world.deployment.cli_ok(&["get", "agent", "helper", "-o", "json"])?)?;
    ensure!(left["spec"]["state"] == "retired" && left["spec"]["owner"] == JANE, "{left}");
    let recorded = eventually("the ledger has it", async || {
        let records = world.deployment.audit(&["--kind", "control.event", "--limit", "1000"]).ok()?;
        let ours = records.iter().map(Value::to_string).filter(|one| one.contains("scim:iga")).collect::<String>();
        (ours.contains("agent_deprovisioned") && ours.contains("consent_revoked")).then_some(ours)
    })
    .await?;
    ensure!(recorded.contains("agent_provisioned") && !recorded.contains("a secret of the directory"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_stopped_the_directory_does_not_set_going() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let client = world.clients().await?.remove(0);
    let stops: [&[&str]; 2] =
        [&["agent", "pause", "helper", "--reason", "a look"], &["revoke", "agent", "helper", "--reason", "stolen"]];
    for stop in stops {
        world.deployment.cli_ok(stop)?;
        is_refused(&client).await?;
        for active in [true, false, true] {
            ensure!(!world.directory.says(&world.helper, active).await?, "{stop:?}");
        }
        let path = format!("/Agents/{}", world.helper);
        let mut whole = world.directory.get(&path).await?.body;
        whole["active"] = true.into();
        let told = world.directory.send(Method::PUT, &path, &whole).await?.is(StatusCode::OK)?;
        ensure!(told.body["active"] == false, "{}", told.body);
        ensure!(!is_refused(&client).await?.is_empty());
        world.deployment.cli_ok(&["agent", "resume", "helper", "--reason", "seen"])?;
        ensure!(world.directory.get(&path).await?.body["active"] == true);
    }
    // Paused, it had kept what it was allowed; revoked, it had not.
    ensure!(is_refused(&client).await? == "consent_revoked");
    // While its directory says that it is not active, no administrator says otherwise.
    world.directory.says(&world.helper, false).await?;
    ensure!(world.deployment.cli(&["agent", "resume", "helper", "--reason", "x"])?.status.code() == Some(1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn with_its_owner_an_agent_stops_or_passes_on() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let sue = world.directory.user("sue@corp.example").await?;
    let client = world.clients().await?.remove(0);
    let off = json!([{"op": "replace", "path": "active", "value": false}]);
    let path = format!("/Agents/{}", world.helper);
    let successor = json!([{"op": "add", "path": format!("{EXTENSION}:successor"), "value": {"value": sue}}]);
    world.directory.patch(&path, successor).await?.is(StatusCode::OK)?;
    world.directory.patch(&format!("/Users/{}", world.jane), off).await?.is(StatusCode::OK)?;
    let shown = world.directory.get(&path).await?.body;
    ensure!(shown["owners"][0]["value"] == *sue && shown[EXTENSION].get("successor").is_none(), "{shown}");
    eventually("her consent ended", async || {
        let reason = client.call("read", json!({})).await.ok()?.reason().to_owned();
        matches!(reason.as_str(), "user_inactive" | "consent_revoked").then_some(())
    })
    .await
}
