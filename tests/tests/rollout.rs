//! Rollouts with real processes: a change goes to a share of the data planes, and then on to all, or back by itself.
//!
//! Three control planes, two data planes, of which the first rollout takes data-plane-1 first. What is refused under
//! the change, and only there, says so in its record.

#![expect(clippy::disallowed_methods, reason = "a follower ends with the test; a test has no supervisor")]

use std::process::Output;

use anyhow::{Context, Result, ensure};
use bailiwick_proto::{
    rollout::{is_in_share, refusal},
    v1::{
        Ack, Hello, Nack, NodeMessage, RegisterNodeRequest, config_client::ConfigClient, config_frame::Frame,
        node_message::Message,
    },
};
use bailiwick_tests::{Deployment, McpClient, ScriptedServer, Shape, eventually, scripted::tool};
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};
use tokio_stream::wrappers::ReceiverStream;

const JANE: &str = "jane@example.com";
/// Enough at each node to be compared.
const MANY: usize = 60;
const PEOPLE: &str = "---\napiVersion: bailiwick/v1\nkind: User\nmetadata: {name: jane@example.com}\nspec: {groups: [buyers]}\n\
     ---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {name: assistant}\nspec: {owner: jane@example.com, project: shop, ceiling: destructive}\n";
const NO_CHARGES: &str = "---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {name: no-charges}\nspec:\n  cedar: forbid (principal, action, resource) when { resource.tier == \"transactional\" };\n";
const NOTHING: &str = "---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {name: nothing}\nspec:\n  cedar: forbid (principal, action, resource);\n";

struct World {
    deployment: Deployment,
    _server: ScriptedServer,
    /// Jane's agent, at data-plane-1 and at data-plane-2.
    at: Vec<McpClient>,
}

impl World {
    async fn start() -> Result<Self> {
        let deployment = Deployment::start(Shape::Cluster).await?;
        let server = ScriptedServer::start(vec![tool("charge", "transactional"), tool("read", "retrieval")]).await?;
        deployment.apply(&server.manifests("shop", "plain"))?;
        deployment.apply(PEOPLE)?;
        let issued = deployment.token_for(JANE, "assistant", "shop", "destructive", "10m")?;
        let token = issued.get("access_token").and_then(Value::as_str).context("no access_token")?;
        let at: Vec<_> = deployment.mcp.iter().map(|mcp| McpClient::new(mcp, "shop", token)).collect();
        for client in &at {
            eventually("the token works", async || permits(client, "charge").await.ok()?.then_some(())).await?;
        }
        Ok(Self { deployment, _server: server, at })
    }

    /// Begins to roll a manifest out: to half of the data planes first.
    fn roll_out(&self, manifest: &str, watch: &str) -> Result<Value> {
        self.apply(manifest, &["--share", "50", "--watch", watch, "--denials-max", "10"])
    }

    fn apply(&self, manifest: &str, arguments: &[&str]) -> Result<Value> {
        let file = NamedTempFile::new()?;
        std::fs::write(file.path(), manifest)?;
        let path = file.path().display().to_string();
        let all = [&["apply", "-o", "json", "-f", &path][..], arguments].concat();
        Ok(serde_json::from_str(&self.deployment.cli_ok(&all)?)?)
    }

    /// What became of the latest rollout, and whether `rollout wait` says that it went through.
    async fn wait(&self) -> Result<(Value, bool)> {
        let latest = async || -> Result<Value> {
            let all: Value = serde_json::from_str(&self.deployment.cli_ok(&["rollout", "status", "-o", "json"])?)?;
            all.pointer("/items/0").cloned().context("there is no rollout")
        };
        eventually("the rollout ends", async || (word(&latest().await.ok()?, "state") != "under_way").then_some(()))
            .await?;
        let Output { status, stdout, stderr } = self.deployment.cli(&["rollout", "wait", "-o", "json"])?;
        let said = String::from_utf8_lossy(&stderr);
        Ok((serde_json::from_slice(&stdout).with_context(|| said.into_owned())?, status.success()))
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.deployment.cli_ok(&["rollout", "status", "1", "-o", "json"])?)?)
    }

    /// Waits until a tool is refused at the first data plane.
    async fn in_force_at_first(&self, tool: &str) -> Result<()> {
        let [first, _] = &self.at[..] else { anyhow::bail!("there are two data planes") };
        eventually("the share has it", async || (!permits(first, tool).await.ok()?).then_some(())).await
    }

    /// Has somebody ask at both data planes, often, until the rollout has ended; how it did.
    async fn while_under_way(&self, ask: impl AsyncFn(&McpClient) -> Result<()>) -> Result<Value> {
        eventually("the rollout ends", async || {
            for client in &self.at {
                for _ in 0..MANY {
                    ask(client).await.ok()?;
                }
            }
            let shown = self.status().ok()?;
            (word(&shown, "state") != "under_way").then_some(shown)
        })
        .await
    }

    async fn permits(&self, tool: &str) -> Result<Vec<bool>> {
        let mut all = Vec::new();
        for client in &self.at {
            all.push(permits(client, tool).await?);
        }
        Ok(all)
    }
}

async fn permits(client: &McpClient, tool: &str) -> Result<bool> {
    Ok(client.call(tool, json!({})).await?.body.get("result").is_some())
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value.get(key).and_then(Value::as_str).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_good_change_goes_to_a_share_and_then_to_all_and_records_name_it_meanwhile() -> Result<()> {
    let world = World::start().await?;
    let rehearsed = world.apply(NO_CHARGES, &["--share", "50", "--dry-run"])?;
    ensure!(rehearsed.get("first_share") == Some(&json!(["data-plane-1"])), "{rehearsed:#}");
    ensure!(!world.deployment.cli(&["rollout", "status", "1"])?.status.success(), "a dry run began one");
    let begun = world.roll_out(NO_CHARGES, "8s")?;
    ensure!(begun.pointer("/rollout/state") == Some(&json!("under_way")), "{begun:#}");
    world.in_force_at_first("charge").await?;
    ensure!(world.permits("charge").await? == [false, true], "the second data plane is outside the share");
    let other = world.deployment.apply(NO_CHARGES).map_err(|error| error.to_string());
    ensure!(other.is_err_and(|why| why.contains("bailiwick rollout back")), "changed behind the rollout's back");
    let shown = world.status()?;
    let nodes = shown.get("nodes").and_then(Value::as_array).context("no nodes")?;
    let states: Vec<&str> = nodes.iter().map(|node| word(node, "state")).collect();
    ensure!(states == ["in_force", "outside"], "{shown:#}");

    let (ended, success) = world.wait().await?;
    ensure!(success && word(&ended, "state") == "finished", "{ended:#}");
    eventually("it counts for all", async || (world.permits("charge").await.ok()? == [false, false]).then_some(()))
        .await?;
    ensure!(world.permits("read").await? == [true, true]);
    ensure!(world.deployment.cli_ok(&["get", "policy", "no-charges"])?.contains("no-charges"));

    let version = word(&ended, "began_revision");
    let records = eventually("the records are in the ledger", async || {
        let denied = world.deployment.audit(&["--kind", "call.denied"]).ok()?;
        (denied.iter().any(|record| record.get("rollout").is_none())).then_some(denied)
    })
    .await?;
    let under: Vec<&Value> = records.iter().filter(|record| word(record, "rollout") == "1").collect();
    ensure!(!under.is_empty() && under.iter().all(|record| word(record, "node") == "data-plane-1"), "{records:#?}");
    let of_candidate = json!([{"name": "no-charges", "version": version}]);
    ensure!(under.iter().all(|record| record.pointer("/decision/policies") == Some(&of_candidate)), "{under:#?}");
    let staged = world.deployment.audit(&["--kind", "control.event"])?;
    let staged = staged.iter().find(|record| record.pointer("/control/type") == Some(&json!("rollout_staged")));
    ensure!(staged.is_some_and(|record| word(record, "rev") == version), "that version's text is on record");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_denies_much_goes_back_by_itself() -> Result<()> {
    let world = World::start().await?;
    world.roll_out(NOTHING, "10m")?;
    world.in_force_at_first("read").await?;
    let ended = world.while_under_way(async |client| permits(client, "read").await.map(drop)).await?;
    ensure!(word(&ended, "state") == "taken_back", "{ended:#}");
    ensure!(word(&ended, "reason").contains("percentage points worse"), "{ended:#}");
    ensure!(word(&ended, "ended_by").starts_with("node:control-plane-"), "{ended:#}");
    eventually("all is as it was", async || (world.permits("read").await.ok()? == [true, true]).then_some(())).await?;
    ensure!(!world.deployment.cli(&["get", "policy", "nothing"])?.status.success(), "the policy was applied");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_hides_much_goes_back_by_itself_though_nobody_calls() -> Result<()> {
    let world = World::start().await?;
    let shown = async |client: &McpClient| Ok(client.modern("tools/list", json!({})).await?.tools().len());
    for client in &world.at {
        ensure!(shown(client).await? == 2, "both tools are shown");
    }
    world.roll_out(NOTHING, "10m")?;
    world.in_force_at_first("read").await?;
    let ended = world.while_under_way(async |client| shown(client).await.map(drop)).await?;
    ensure!(word(&ended, "reason").contains("lists of tools leave out"), "{ended:#}");
    eventually("all is shown", async || (shown(world.at.first()?).await.ok()? == 2).then_some(())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_node_cannot_use_goes_back_by_itself() -> Result<()> {
    let world = World::start().await?;
    let picky = PickyNode::connect(&world.deployment.admin).await?;
    world.roll_out(NO_CHARGES, "10m")?;
    let (ended, success) = world.wait().await?;
    ensure!(!success && word(&ended, "state") == "taken_back", "{ended:#}");
    ensure!(word(&ended, "reason").contains(&picky.name), "{ended:#}");
    eventually("all is as it was", async || (world.permits("charge").await.ok()? == [true, true]).then_some(()))
        .await?;
    picky.following.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_goes_on_under_another_leader_and_can_be_taken_back_by_hand() -> Result<()> {
    let world = World::start().await?;
    world.roll_out(NO_CHARGES, "8s")?;
    world.in_force_at_first("charge").await?;
    let leader = world.deployment.leader().await?;
    world.deployment.end(&leader, "KILL").await?;
    let next = world.deployment.next_leader(&leader).await?;
    let (ended, success) = world.wait().await?;
    ensure!(success && word(&ended, "state") == "finished", "{ended:#}");
    ensure!(word(&ended, "ended_by") == format!("node:{next}"), "{ended:#}");
    eventually("it counts for all", async || (world.permits("charge").await.ok()? == [false, false]).then_some(()))
        .await?;

    world.roll_out(NOTHING, "10m")?;
    world.in_force_at_first("read").await?;
    world.deployment.cli_ok(&["rollout", "back", "2", "--reason", "changed my mind"])?;
    eventually("all is as it was", async || (world.permits("read").await.ok()? == [true, true]).then_some(())).await?;
    let (ended, success) = world.wait().await?;
    ensure!(!success && word(&ended, "reason") == "changed my mind", "{ended:#}");
    Ok(())
}

/// A data plane of ours that follows the real stream and can use no candidate at all.
struct PickyNode {
    name: String,
    following: JoinHandle<()>,
}

impl PickyNode {
    async fn connect(admin: &str) -> Result<Self> {
        // In the first rollout's half, wherever that ends.
        let name = (0..).map(|n| format!("picky-{n}")).find(|name| is_in_share("1", name, 1 << 28));
        let name = name.context("no name")?;
        let mut client = ConfigClient::connect(admin.to_owned()).await?;
        let request = RegisterNodeRequest { node: name.clone(), public_key: vec![7; 32], role: "data-plane".into() };
        let epoch = client.register_node(request).await?.into_inner().epoch;
        let (up, messages) = mpsc::channel(16);
        let hello = Hello { node: name.clone(), epoch, last_revision: 0, digest: Vec::new() };
        up.send(NodeMessage { message: Some(Message::Hello(hello)) }).await?;
        let mut frames = client.stream(ReceiverStream::new(messages)).await?.into_inner();
        let (holds, held) = oneshot::channel();
        let mut holds = Some(holds);
        let following = tokio::spawn(async move {
            let mut is_rolled_out = false;
            while let Ok(Some(frame)) = frames.message().await {
                let answer = match frame.frame {
                    Some(Frame::Snapshot(chunk)) if chunk.last => Message::Ack(Ack { revision: chunk.revision }),
                    Some(Frame::Delta(delta)) => {
                        // It goes on to refuse, whatever else comes, until the rollout is gone.
                        for change in delta.changes.iter().filter(|change| change.key == "rollout/1") {
                            is_rolled_out = change.value.is_some();
                        }
                        let revision = delta.to;
                        let nack = || Nack { revision, error: refusal("1", "policy `no-charges`: not here") };
                        if is_rolled_out { Message::Nack(nack()) } else { Message::Ack(Ack { revision }) }
                    }
                    _ => continue,
                };
                if up.send(NodeMessage { message: Some(answer) }).await.is_err() {
                    return;
                }
                holds.take().map(|holds| holds.send(()));
            }
        });
        held.await.context("it never got a configuration")?;
        Ok(Self { name, following })
    }
}
