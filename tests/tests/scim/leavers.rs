//! Joiners, movers and leavers, down to the calls of their agents.
//!
//! Three control planes, two data planes: what a directory says at any control plane counts at every data plane.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, Events, McpClient, ScriptedServer, Shape, eventually,
    manifests::{manifest, policy, server, virtual_server},
    scripted::tool,
};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{Directory, USER};

const JANE: &str = "jane@corp.example";
const SUE: &str = "sue@corp.example";
/// What the revocation lane promises, and as much again for this machine.
const WITHIN: Duration = Duration::from_secs(2);

struct World {
    deployment: Deployment,
    _server: ScriptedServer,
    directory: Directory,
    jane: String,
    group: String,
}

impl World {
    /// Jane, whose group may call, and her agent, which goes to Sue.
    async fn start(shape: Shape) -> Result<Self> {
        let deployment = Deployment::start(shape).await?;
        let scripted = ScriptedServer::start(vec![tool("charge", "transactional"), tool("read", "retrieval")]).await?;
        let directory = Directory::new(&deployment, "okta")?;
        let jane = directory.user(JANE).await?;
        directory.user(SUE).await?;
        let group = directory.group("Buyers", &[&jane]).await?;
        let endpoint = json!({"url": scripted.url()});
        let agent = |name: &str, more: &str| {
            manifest("Agent", name, &format!("{{owner: {JANE}, project: shop, ceiling: destructive{more}}}"))
        };
        let rule = "permit (principal in Group::\"Buyers\", action, resource in Server::\"shop\");";
        let all = server("shop", &endpoint)
            + &virtual_server("shop", "plain", "shop")
            + &policy("buyers", rule)
            + &agent("assistant", &format!(", successor: {SUE}"))
            + &agent("lonely", "");
        deployment.apply(&all)?;
        Ok(Self { deployment, _server: scripted, directory, jane, group })
    }

    /// Jane's agent at each data plane.
    async fn clients(&self, agent: &str) -> Result<Vec<McpClient>> {
        let issued = self.deployment.token_for(JANE, agent, "shop", "transactional", "10m")?;
        let token = issued["access_token"].as_str().context("token")?;
        let clients: Vec<_> = self.deployment.mcp.iter().map(|mcp| McpClient::new(mcp, "shop", token)).collect();
        for client in &clients {
            eventually("the token works", async || {
                client.call("charge", json!({})).await.ok()?.body.get("result").map(|_| ())
            })
            .await?;
        }
        Ok(clients)
    }

    fn get(&self, kind: &str, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.deployment.cli_ok(&["get", kind, name, "-o", "json"])?)?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaver_is_gone_everywhere_and_her_agents_have_another_owner_or_none() -> Result<()> {
    let world = World::start(Shape::Cluster).await?;
    let (at, lonely) = (world.clients("assistant").await?, world.clients("lonely").await?);
    let mut streams = Vec::new();
    for client in &at {
        let mut events = Events::modern(client, &json!({"toolsListChanged": true})).await?;
        events.message().await?;
        streams.push(events);
    }
    // At whichever control plane: the last one is no leader more often than not.
    let control_planes = world.deployment.role("control-plane");
    let address = control_planes.last().context("a control plane")?.listen["http"].as_str().context("http")?.to_owned();
    let begun = Instant::now();
    let off = json!([{"op": "Replace", "path": "active", "value": "False"}]);
    let path = format!("/Users/{}", world.jane);
    let told = world.directory.at(&address).patch(&path, off).await?.is(StatusCode::OK)?;
    ensure!(told.body["active"] == false, "{}", told.body);
    for client in at.iter().chain(&lonely) {
        eventually("calls are refused", async || {
            let reason = client.call("charge", json!({})).await.ok()?.reason().to_owned();
            matches!(reason.as_str(), "user_inactive" | "consent_revoked").then_some(())
        })
        .await?;
    }
    let took = begun.elapsed();
    println!("deactivated to refused at every data plane: {took:?}");
    ensure!(took < WITHIN, "it took {took:?}");
    for stream in &mut streams {
        while stream.next().await.context("a stream goes on")?.is_some() {}
    }
    let owner = world.get("agent", "assistant")?;
    ensure!(owner["spec"]["owner"] == SUE && owner["spec"].get("successor").is_none(), "{owner}");
    let left = world.get("agent", "lonely")?;
    ensure!(left["spec"]["owner"] == JANE && left["status"]["conditions"][0]["type"] == "ownerless", "{left}");
    // Back at work, she has to be allowed again.
    world
        .directory
        .patch(&path, json!([{"op": "Replace", "path": "active", "value": "True"}]))
        .await?
        .is(StatusCode::OK)?;
    world.clients("lonely").await?;
    for client in at.iter().chain(&lonely) {
        let answer = client.call("charge", json!({})).await?;
        ensure!(answer.reason() == "consent_revoked", "what had ended is refused otherwise: {}", answer.text);
    }
    eventually("it is on record as the directory's", async || {
        let records = world.deployment.audit(&["--kind", "control.event", "--limit", "1000"]).ok()?;
        let texts: Vec<String> = records.iter().map(Value::to_string).collect();
        let is = |word: &str| texts.iter().any(|text| text.contains(word) && text.contains("scim:okta"));
        (is("person_provisioned") && is("consent_revoked") && is("agent_applied")).then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_movers_next_call_is_decided_by_where_they_are_now() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    let clients = world.clients("assistant").await?;
    let path = format!("/Groups/{}", world.group);
    let member = format!("members[value eq \"{}\"]", world.jane);
    world.directory.patch(&path, json!([{"op": "remove", "path": member}])).await?.is(StatusCode::OK)?;
    for client in &clients {
        eventually("she may not any more", async || {
            let answer = client.call("charge", json!({})).await.ok()?;
            answer.body.get("result").is_none().then_some(())
        })
        .await?;
    }
    let back = json!([{"op": "add", "path": "members", "value": [{"value": world.jane}]}]);
    world.directory.patch(&path, back).await?.is(StatusCode::OK)?;
    eventually("she may again", async || {
        clients[0].call("charge", json!({})).await.ok()?.body.get("result").map(|_| ())
    })
    .await?;
    world.directory.raw(Method::DELETE, &path, None, &[]).await?.is(StatusCode::NO_CONTENT)?;
    eventually("with the group that goes too", async || {
        clients[0].call("charge", json!({})).await.ok()?.body.get("result").is_none().then_some(())
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_administrator_took_away_a_directory_does_not_give_back() -> Result<()> {
    let world = World::start(Shape::Embedded).await?;
    world.deployment.cli_ok(&["revoke", "user", JANE, "--reason", "stolen"])?;
    let path = format!("/Users/{}", world.jane);
    let pushed = json!({"schemas": [USER], "userName": JANE, "active": true, "title": "CFO"});
    let pushed = world.directory.send(Method::PUT, &path, &pushed).await?.is(StatusCode::OK)?.body;
    ensure!(pushed["active"] == false && pushed["title"] == "CFO", "{pushed}");
    ensure!(world.deployment.token_for(JANE, "lonely", "shop", "retrieval", "1m").is_err(), "a token for her");
    // And manifests do not say what the directory does.
    let refused = world.deployment.apply(&manifest("User", JANE, "{groups: []}"));
    ensure!(refused.is_err_and(|error| error.to_string().contains("Buyers")));
    world.deployment.apply(&manifest("User", JANE, "{groups: [Buyers]}"))?;
    world.deployment.token_for(JANE, "lonely", "shop", "retrieval", "1m")?;
    Ok(())
}
