//! The official conformance suite's `authorization` mode, with Jane at the URL that it prints.
//!
//! Every check of every scenario is listed with what it says, and what is not a success with the reason: a check that
//! begins to say something else fails the test, so that the list stays true, also about which scenarios there are. How
//! clients prove who they are, a company's word and workloads are among its scenarios of clients alone, where the suite
//! is the server; what it asks of MCP servers and clients is elsewhere (`tests/conformance.rs`).

use std::{collections::BTreeSet, fs, process::Stdio};

use anyhow::{Context, Result, ensure};
use aws_lc_rs::digest;
use bailiwick_tests::{manifests::manifest, peers::place, upstream::free_port};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use crate::{AGENT, World, stock::jane_allows, text};

const METADATA: &str = "authorization-server-metadata-endpoint";
const GRANT: &str = "authorization-code-grant";
/// What it says of the metadata, whichever the client.
const OF_METADATA: [(&str, &str); 2] =
    [("authorization-server-metadata", "SUCCESS"), ("authorization-server-metadata-cimd", "SUCCESS")];
/// Of the suite's own making: as soon as a server's metadata name `none`, it sends no secret of a client that has one
/// (`selectTokenAuthMethod` in its 0.2.0-alpha.12), and such a client is refused everywhere that is in its right mind.
const NO_SECRET_SENT: (&str, &str) = (GRANT, "FAILURE");
const SECRET: &str = "1e9bd2a2c0f04f6a8c5d";

/// What the suite found, as (scenario, check, status), and what it said of the grant.
struct Found {
    checks: BTreeSet<(String, String, String)>,
    of_grant: String,
}

/// Runs every scenario of the mode; a person does what the suite says a person should.
async fn run(world: &World, client: &str, arguments: &[&str]) -> Result<Found> {
    let out = tempfile::tempdir()?;
    let mut command = Command::new(place("PEER_NODE")?);
    command.arg(place("PEER_CONFORMANCE")?).args(["authorization", "--url", &world.issuer, "--client-id", client]);
    // No port is registered: a program of this machine takes the one that is free (RFC 8252 §7.3).
    command.args(["--port", &free_port()?.to_string()]).args(arguments).arg("--output-dir").arg(out.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let (endpoint, mut said) = (format!("{}/oauth/authorize?", world.issuer), String::new());
    while let Some(line) = lines.next_line().await? {
        if line.starts_with(&endpoint) {
            let back = jane_allows(world, &line, "retrieval").await?;
            ensure!(world.http.get(&back).send().await?.status().is_success(), "nobody is at {back}");
        }
        said.push_str(&line);
        said.push('\n');
    }
    child.wait().await?;
    found(out.path()).with_context(|| said)
}

fn found(folder: &std::path::Path) -> Result<Found> {
    let (mut checks, mut of_grant) = (BTreeSet::new(), String::new());
    for scenario in [METADATA, GRANT] {
        let mut folders = fs::read_dir(folder)?.flatten().map(|entry| entry.path());
        let of_scenario = folders.find(|path| path.to_string_lossy().contains(scenario)).context(scenario)?;
        let all: Vec<Value> = serde_json::from_slice(&fs::read(of_scenario.join("checks.json"))?)?;
        for check in &all {
            let (id, status) = (text(check, "id"), text(check, "status"));
            checks.insert((scenario.to_owned(), id.to_owned(), status.to_owned()));
            if scenario == GRANT {
                of_grant = text(check, "errorMessage").to_owned();
            }
        }
    }
    Ok(Found { checks, of_grant })
}

fn expected(of_grant: (&str, &str)) -> BTreeSet<(String, String, String)> {
    let of_metadata = OF_METADATA.iter().map(|(check, status)| (METADATA, *check, *status));
    let all = of_metadata.chain([(GRANT, of_grant.0, of_grant.1)]);
    all.map(|(scenario, check, status)| (scenario.to_owned(), check.to_owned(), status.to_owned())).collect()
}

/// The scenarios that it has for authorization servers; `run` looks for each of them.
async fn scenarios() -> Result<Vec<String>> {
    let mut command = Command::new(place("PEER_NODE")?);
    let output = command.arg(place("PEER_CONFORMANCE")?).arg("list").stdin(Stdio::null()).output().await?;
    let listed = String::from_utf8(output.stdout)?;
    let (_, ours) = listed.split_once("Authorization server scenarios").context("no scenarios")?;
    let names = ours.lines().filter_map(|line| line.trim_start().strip_prefix("- ")?.split(' ').next());
    Ok(names.map(str::to_owned).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_suite_says_of_this_authorization_server_what_is_listed() -> Result<()> {
    assert_eq!(scenarios().await?, [METADATA, GRANT]);
    let world = World::start().await?;
    let redirect_uris = ["http://127.0.0.1:3000/callback"];
    let public = json!({"agent": AGENT, "auth": "none", "redirect_uris": redirect_uris});
    let hash = hex::encode(digest::digest(&digest::SHA256, SECRET.as_bytes()));
    let confidential =
        json!({"agent": AGENT, "auth": "client_secret", "secret_sha256": hash, "redirect_uris": redirect_uris});
    world.deployment.apply(&manifest("Client", "suite", &public.to_string()))?;
    world.deployment.apply(&manifest("Client", "suite-with-secret", &confidential.to_string()))?;

    // It names no resource and no scope by itself: there is but one virtual server.
    for arguments in [&[][..], &["--resource", &world.resource]] {
        let found = run(&world, "suite", arguments).await?;
        assert_eq!(found.checks, expected((GRANT, "SUCCESS")), "{arguments:?}: {}", found.of_grant);
    }
    let found = run(&world, "suite-with-secret", &["--client-secret", SECRET]).await?;
    assert_eq!(found.checks, expected(NO_SECRET_SENT), "{}", found.of_grant);
    assert_eq!(found.of_grant, "Invalid status code: 401");
    Ok(())
}
