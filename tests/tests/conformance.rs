//! The official MCP conformance suite against our upstream, directly and through the gateway.
//!
//! What differs stands in `tests/conformance/expected/`, each line under a reason; `docs/reference/conformance.md` says
//! how to read it.

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, McpClient, Shape,
    conformance::{self, REVISIONS, Results, Target},
    deployment::binary,
    eventually,
    peers::{Eras, PeerServer},
};
use serde_json::json;

/// Scenarios that each revision requires of a server.
const REQUIRED: [usize; 2] = [30, 37];
/// What is the gateway's own to do, whatever is behind it.
const OWN: [(&str, &[&str]); 2] = [
    ("2025-11-25", &["dns-rebinding-protection", "server-session-lifecycle", "ping"]),
    (
        "2026-07-28",
        &[
            "server-stateless",
            "caching",
            "http-header-validation",
            "http-custom-header-server-validation",
            "dns-rebinding-protection",
        ],
    ),
];

/// The gateway's side towards servers. Those of authorization are left out: it has no credentials of its own yet.
const CONNECTOR: [(&str, &[&str]); 2] = [
    (
        "2025-11-25",
        &[
            "initialize",
            "tools_call",
            "sse-retry",
            "elicitation-sep1034-client-defaults",
            "json-schema-2020-12-preservation",
        ],
    ),
    (
        "2026-07-28",
        &[
            "tools_call",
            "request-metadata",
            "sep-2322-client-request-state",
            "http-standard-headers",
            "http-custom-headers",
            "http-invalid-tool-headers",
            "json-schema-ref-no-deref",
            "json-schema-2020-12-preservation",
        ],
    ),
];

/// The tasks extension. Scenarios of extensions are never scored.
const TASKS: [&str; 9] = [
    "tasks-capability-negotiation",
    "tasks-dispatch-and-envelope",
    "tasks-lifecycle",
    "tasks-mrtr-composition",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-request-state-removal",
    "tasks-required-task-error",
    "tasks-wire-fields",
];

/// One virtual server of plain names over some servers, and everything allowed on it.
fn manifests(virtual_server: &str, servers: &[(&str, &str)]) -> String {
    let mut text = String::new();
    let mut policies = String::new();
    for (name, url) in servers {
        let _written = write!(
            text,
            "apiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: {name}}}\nspec: {{endpoint: {{url: \"{url}\"}}}}\n---\n"
        );
        let _written = writeln!(
            policies,
            "---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  cedar: permit (principal, action, resource in Server::\"{name}\");"
        );
    }
    let behind: Vec<String> = servers.iter().map(|(name, _)| format!("{{server: {name}}}")).collect();
    format!(
        "{text}apiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: {virtual_server}}}\nspec: {{naming: plain, servers: [{}]}}\n{policies}",
        behind.join(", ")
    )
}

const PEOPLE: &str = "apiVersion: bailiwick/v1\nkind: User\nmetadata: {name: jane@example.com}\nspec: {groups: [finance]}\n\
     ---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {name: coding-assistant}\nspec: {owner: jane@example.com, project: platform, ceiling: destructive}\n";

/// A deployment with one virtual server, and a token that works on every data plane.
async fn gateway(shape: Shape, servers: &[(&str, &str)]) -> Result<(Deployment, Vec<String>, String)> {
    let deployment = Deployment::start(shape).await?;
    deployment.apply(&(manifests("suite", servers) + "---\n" + PEOPLE))?;
    let token = deployment.token("suite", "destructive")?;
    for mcp in &deployment.mcp {
        let client = McpClient::new(mcp, "suite", &token);
        eventually("the token works", async || {
            client.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
        })
        .await
        .with_context(|| deployment.log())?;
    }
    let urls = deployment.mcp.iter().map(|mcp| format!("{mcp}/suite")).collect();
    Ok((deployment, urls, token))
}

async fn direct(revision: &str) -> Result<Results> {
    let upstream = PeerServer::conformance(Eras::Both)?;
    conformance::run(Target::Server(&upstream.url), revision, &[]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_upstream_passes_all_that_is_required_of_it() -> Result<()> {
    for (revision, required) in REVISIONS.into_iter().zip(REQUIRED) {
        let results = direct(revision).await?;
        ensure!(results.passed() == (required, required), "{revision}: {:?}", results.passed());
        conformance::hold_documented("the conformance server itself", revision, &results)?;
        conformance::hold_to("upstream", revision, &results.shortcomings())?;
    }
    Ok(())
}

async fn the_plain_route_changes_nothing(shape: Shape) -> Result<()> {
    let upstream = PeerServer::conformance(Eras::Both)?;
    let (_deployment, urls, token) = gateway(shape, &[("upstream", &upstream.url)]).await?;
    ensure!((shape == Shape::Embedded) == (urls.len() == 1), "{urls:?}");
    for revision in REVISIONS {
        let through = conformance::run(Target::Gateway(&urls, &token), revision, &[]).await?;
        let differences = direct(revision).await?.differences(&through);
        conformance::hold_to("plain-route", revision, &differences)?;
        conformance::hold_documented("the plain route", revision, &through)?;
    }
    Ok(())
}

async fn tasks_are_carried(shape: Shape) -> Result<()> {
    let upstream = PeerServer::tasks()?;
    let revision = REVISIONS[1];
    let directly = conformance::run(Target::Server(&upstream.url), revision, &TASKS).await?;
    ensure!(directly.passed_of(|_| true) == (TASKS.len(), TASKS.len()), "{:?}", directly.shortcomings());
    let (_deployment, urls, token) = gateway(shape, &[("upstream", &upstream.url)]).await?;
    ensure!((shape == Shape::Embedded) == (urls.len() == 1), "{urls:?}");
    let through = conformance::run(Target::Gateway(&urls, &token), revision, &TASKS).await?;
    let differences = directly.differences(&through);
    ensure!(differences.is_empty(), "{differences:#?}");
    conformance::hold_counted("tasks", revision, through.passed_of(|_| true))
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_carried_by_one_process() -> Result<()> {
    tasks_are_carried(Shape::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_carried_when_every_request_goes_to_another_data_plane() -> Result<()> {
    tasks_are_carried(Shape::Processes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_route_of_one_process_changes_nothing() -> Result<()> {
    the_plain_route_changes_nothing(Shape::Embedded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plain_route_changes_nothing_when_every_request_goes_to_another_data_plane() -> Result<()> {
    the_plain_route_changes_nothing(Shape::Processes).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_does_its_own_part_in_front_of_several_servers() -> Result<()> {
    let (upstream, other) = (PeerServer::conformance(Eras::Both)?, PeerServer::typescript()?);
    let servers = [("upstream", upstream.url.as_str()), ("other", other.url.as_str())];
    let (_deployment, urls, token) = gateway(Shape::Embedded, &servers).await?;
    for (revision, scenarios) in OWN {
        let results = conformance::run(Target::Gateway(&urls, &token), revision, scenarios).await?;
        conformance::hold_to("own-part", revision, &results.shortcomings())?;
        conformance::hold_documented("the gateway's own part", revision, &results)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_era_is_carried_onto_a_server_of_the_other() -> Result<()> {
    for (revision, other) in REVISIONS.into_iter().zip([Eras::Modern, Eras::Legacy]) {
        let upstream = PeerServer::conformance(other)?;
        let (_deployment, urls, token) = gateway(Shape::Embedded, &[("upstream", &upstream.url)]).await?;
        let through = conformance::run(Target::Gateway(&urls, &token), revision, &[]).await?;
        let differences = direct(revision).await?.differences(&through);
        conformance::hold_to("cross-era", revision, &differences)?;
        conformance::hold_documented("across eras", revision, &through)?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_is_a_client_as_servers_may_expect() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    deployment.apply(PEOPLE)?;
    let mcp = deployment.mcp.first().context("a data plane")?;
    for (revision, scenarios) in CONNECTOR {
        let client = Target::Client { bailiwick: &binary("bailiwick"), admin: &deployment.admin, mcp };
        let results = conformance::run(client, revision, scenarios).await?;
        conformance::hold_to("connector", revision, &results.shortcomings())?;
        conformance::hold_documented("the side towards servers", revision, &results)?;
    }
    Ok(())
}
