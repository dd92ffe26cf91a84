//! Other people's testers of SCIM services.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, Shape, peers};
use serde_json::Value;
use tokio::process::Command;

use crate::Directory;

/// A program beside the Python of the peers.
fn program(name: &str) -> Result<Command> {
    let (folder, _) = peers::place("PEER_PYTHON")?.rsplit_once('/').context("a path")?;
    let mut command = Command::new(format!("{folder}/{name}"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// PyPI `scim-sanity`. One of its expectations is not ours: that members which do not exist are accepted.
#[tokio::test(flavor = "multi_thread")]
async fn scim_sanity_finds_nothing_but_that_members_must_exist() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "sanity")?;
    let mut command = program("scim-sanity")?;
    command.args(["probe", &directory.url, "--token", &directory.token, "--i-accept-side-effects", "--json-output"]);
    let output = command.output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let start = text.find('{').with_context(|| format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    let report: Value = serde_json::from_str(text.get(start..).context("no report")?)?;
    let results = report["results"].as_array().with_context(|| report.to_string())?;
    let of = |status: &str| results.iter().filter(|one| one["status"] == status).collect::<Vec<_>>();
    let failed: Vec<_> = of("fail").into_iter().filter(|one| one["name"] != "PATCH /Groups/{id} add member").collect();
    ensure!(failed.is_empty() && of("error").is_empty(), "{failed:#?} {:#?}", of("error"));
    ensure!(of("pass").len() >= 27, "{report:#}");
    Ok(())
}

/// PyPI `scim2-cli` with `scim2-tester`. Its values are random; of `active` it expects that it can be missing.
#[tokio::test(flavor = "multi_thread")]
async fn scim2_tester_finds_nothing_but_that_active_always_has_a_value() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let directory = Directory::new(&deployment, "tester")?;
    let mut command = program("scim2")?;
    let header = format!("Authorization: Bearer {}", directory.token);
    let output = command.args(["-u", &directory.url, "-h", &header, "test"]).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    // Somebody is active or not: without the attribute it stays as it was, which RFC 7643 §2.5 leaves to the service.
    let stays = text.matches("PATCH modify() did not remove attribute 'active'").count();
    ensure!(lines("ERROR") == stays && stays <= 1 && lines("CRITICAL") == 0, "{text}");
    ensure!(
        lines("SUCCESS") > 80,
        "{} successes: {text}\n{}",
        lines("SUCCESS"),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
