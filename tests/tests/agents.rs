//! The inventory of agents: `bailiwick agent list`, from the control plane and, within bounds, the ledger.

#![expect(clippy::indexing_slicing, clippy::disallowed_methods, reason = "a test that panics fails, as it should")]

use std::{
    process::{Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result, ensure};
use axum::{Json, Router, http::Uri, routing::get};
use bailiwick_tests::{
    Deployment, Knobs, McpClient, ScriptedServer, Shape, both, deployment, eventually,
    manifests::{manifest, person},
    scripted::tool,
};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::block_in_place};

const JANE: &str = "jane@example.com";
const AGENTS: usize = 10_000;
/// Agents of one apply.
const AT_ONCE: usize = 2_500;

fn listed(deployment: &Deployment, more: &[&str]) -> Result<Vec<Value>> {
    let answer = deployment.cli_ok(&[&["agent", "list", "-o", "json"], more].concat())?;
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(answer["items"].as_array().cloned().unwrap_or_default())
}

fn names(agents: &[Value]) -> Vec<&str> {
    agents.iter().filter_map(|agent| agent["name"].as_str()).collect()
}

async fn an_agent_is_listed_with_whose_it_is_and_when_it_was_used(shape: Shape) -> Result<()> {
    let deployment = Deployment::start(shape).await?;
    let server = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
    let client = format!("{{agent: assistant, auth: client_secret, secret_sha256: \"{}\"}}", "a".repeat(64));
    let people = person(JANE, "buyers", "assistant") + &person("eve@example.com", "", "writer");
    deployment.apply(&(server.manifests("shop", "plain") + &people + &manifest("Client", "editor", &client)))?;
    let agents = listed(&deployment, &[])?;
    ensure!(names(&agents) == ["assistant", "writer"], "{agents:?}");
    ensure!(agents[0]["clients"] == json!(["editor"]) && agents[0]["owner"] == JANE, "{}", agents[0]);
    ensure!(agents[0].get("last_token_at").is_none() && agents[0]["last_call_at"].is_null(), "{}", agents[0]);
    let issued = deployment.token_for(JANE, "assistant", "shop", "retrieval", "10m")?;
    let token = issued["access_token"].as_str().context("no token")?;
    let caller = McpClient::new(&deployment.mcp[0], "shop", token);
    eventually("the call", async || {
        caller.call("read", json!({})).await.ok().filter(|answer| answer.body.get("result").is_some())
    })
    .await?;
    eventually("the ledger tells of the call", async || {
        let agents = listed(&deployment, &["--owner", JANE]).ok()?;
        (names(&agents) == ["assistant"] && agents[0]["last_call_at"].is_string()).then_some(())
    })
    .await?;
    let agents = listed(&deployment, &["--owner", JANE])?;
    ensure!(agents[0]["last_token_at"].is_string() && agents[0]["tokens_until"].is_string(), "{}", agents[0]);
    // Both are younger than a day, used or not.
    ensure!(listed(&deployment, &["--dormant", "1"])?.is_empty(), "a new agent is not dormant");
    ensure!(listed(&deployment, &["--orphaned"])?.is_empty(), "somebody answers for each");
    deployment.apply(&manifest("User", "eve@example.com", "{active: false}"))?;
    let orphaned = listed(&deployment, &["--orphaned"])?;
    ensure!(names(&orphaned) == ["writer"] && orphaned[0]["owner_state"] == "inactive", "{orphaned:?}");
    let table = deployment.cli_ok(&["agent", "list", "--orphaned"])?;
    ensure!(table.starts_with("NAME") && table.contains("writer") && !table.contains("assistant"), "{table}");
    Ok(())
}

/// An administrator whose clock is ahead: what happened now was long ago to them.
struct Ahead(TempDir);

impl Ahead {
    fn by(hours: i64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        for clock in &mut Knobs::install(folder.path(), &["cli"])? {
            clock.clock_off_by(hours * 3_600)?;
        }
        Ok(Self(folder))
    }

    fn list(&self, deployment: &Deployment, more: &[&str]) -> Result<Output> {
        let mut command = Command::new(deployment::binary("bailiwick"));
        command.args(["agent", "list"]).args(more).stdin(Stdio::null());
        command.env("BAILIWICK_ADMIN", deployment.admins.join(",")).env("BAILIWICK_LEDGER", &deployment.ledger);
        command.env("LD_PRELOAD", self.0.path().join("faults.so")).env("FAULT_KNOBS", self.0.path().join("cli.knobs"));
        let output = block_in_place(|| command.output())?;
        ensure!(output.status.success(), "{more:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }

    /// The dormant ones.
    fn dormant(&self, deployment: &Deployment, more: &[&str]) -> Result<Vec<Value>> {
        let output = self.list(deployment, &[&["-o", "json", "--dormant"], more].concat())?;
        let answer: Value = serde_json::from_slice(&output.stdout)?;
        Ok(answer["items"].as_array().cloned().unwrap_or_default())
    }
}

/// Where a ledger answers that knows of one call.
async fn ledger_of(agent: &str, called: Timestamp) -> Result<String> {
    let (listener, of_agent) = (TcpListener::bind(("127.0.0.1", 0)).await?, format!("agent={agent}&"));
    let url = format!("http://{}", listener.local_addr()?);
    let answer = move |asked: Uri| {
        let is_its = asked.query().is_some_and(|query| query.starts_with(&of_agent));
        let calls = is_its.then(|| json!({"kind": "call.intent", "ts": called.to_string()}));
        async move { Json(json!({"items": Vec::from_iter(calls)})) }
    };
    tokio::spawn(async move {
        drop(axum::serve(listener, Router::new().route("/v1/records", get(answer))).await);
    });
    Ok(url)
}

async fn an_agent_that_nobody_used_for_so_long_is_dormant(shape: Shape) -> Result<()> {
    let deployment = Deployment::start(shape).await?;
    let server = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
    let people = person(JANE, "buyers", "assistant") + &person("eve@example.com", "buyers", "writer");
    let idle = manifest("Agent", "idle", &format!("{{owner: {JANE}, project: billing}}"));
    deployment.apply(&(server.manifests("shop", "plain") + &people + &idle))?;
    let token = |user: &str, agent: &str| -> Result<String> {
        let issued = deployment.token_for(user, agent, "shop", "retrieval", "2d")?;
        Ok(issued["access_token"].as_str().context("no token")?.to_owned())
    };
    let caller = McpClient::new(&deployment.mcp[0], "shop", &token(JANE, "assistant")?);
    token("eve@example.com", "writer")?;
    eventually("the ledger tells of the call", async || {
        caller.call("read", json!({})).await.ok()?.body.get("result")?;
        listed(&deployment, &["--owner", JANE]).ok()?[0]["last_call_at"].as_str().map(drop)
    })
    .await?;
    let later = Ahead::by(36)?;
    let dormant = later.dormant(&deployment, &["1"])?;
    ensure!(names(&dormant) == ["assistant", "idle", "writer"], "{dormant:?}");
    ensure!(dormant.iter().all(|agent| agent["dormant"] == true), "{dormant:?}");
    ensure!(dormant[0]["last_call_at"].is_string() && dormant[2]["last_call_at"].is_null(), "{dormant:?}");
    let hers = later.dormant(&deployment, &["1", "--owner", "eve@example.com"])?;
    ensure!(names(&hers) == ["writer"], "{hers:?}");
    for days in [&["2"][..], &[]] {
        let dormant = later.dormant(&deployment, days)?;
        ensure!(dormant.is_empty(), "younger than {days:?}: {dormant:?}");
    }
    let table = String::from_utf8(later.list(&deployment, &["--dormant", "1"])?.stdout)?;
    ensure!(table.matches("dormant").count() == 3 && table.contains("never"), "{table}");
    // Who has a token that is still good is dormant only by a ledger's word.
    let called = ledger_of("assistant", Timestamp::now() + 30.hours()).await?;
    let dormant = later.dormant(&deployment, &["1", "--ledger", &called])?;
    ensure!(names(&dormant) == ["idle", "writer"], "{dormant:?}");
    let without = later.list(&deployment, &["--dormant", "1", "--ledger", "http://127.0.0.1:1"])?;
    let (shown, said) = (String::from_utf8(without.stdout)?, String::from_utf8(without.stderr)?);
    ensure!(shown.contains("idle") && !shown.contains("assistant") && !shown.contains("writer"), "{shown}");
    ensure!(said.contains("2 agents have tokens that are still good"), "{said}");
    Ok(())
}

async fn without_a_ledger_everything_else_is_shown_and_that_is_said(shape: Shape) -> Result<()> {
    let deployment = Deployment::start(shape).await?;
    deployment.apply(&person(JANE, "buyers", "assistant"))?;
    let output = deployment.cli(&["agent", "list", "--ledger", "http://127.0.0.1:1"])?;
    let (shown, said) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    ensure!(output.status.success() && shown.contains("assistant") && shown.contains('?'), "{shown}{said}");
    ensure!(said.contains("last calls are not known: no ledger answers"), "{said}");
    Ok(())
}

both! {
    an_agent_is_listed_with_whose_it_is_and_when_it_was_used
    an_agent_that_nobody_used_for_so_long_is_dormant
    without_a_ledger_everything_else_is_shown_and_that_is_said
}

/// As many agents as a large company has are one question to the control plane and few to the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_agents_are_not_ten_thousand_questions() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    deployment.apply(&manifest("User", JANE, "{}"))?;
    for first in (0..AGENTS).step_by(AT_ONCE) {
        let agent = |number| manifest("Agent", &format!("a{number}"), &format!("{{owner: {JANE}, project: p}}"));
        deployment.apply(&(first..first + AT_ONCE).map(agent).collect::<String>())?;
    }
    let asked = Arc::new(AtomicUsize::new(0));
    let (listener, counted) = (TcpListener::bind(("127.0.0.1", 0)).await?, Arc::clone(&asked));
    let ledger = format!("http://{}", listener.local_addr()?);
    let answer = move || {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Json(json!({"items": []})) }
    };
    let serving = tokio::spawn(async move {
        drop(axum::serve(listener, Router::new().route("/v1/records", get(answer))).await);
    });
    let agents = block_in_place(|| listed(&deployment, &["--ledger", &ledger]))?;
    serving.abort();
    ensure!(agents.len() == AGENTS, "{} agents", agents.len());
    let asked = asked.load(Ordering::Relaxed);
    ensure!((1..=200).contains(&asked), "the ledger was asked {asked} times");
    Ok(())
}
