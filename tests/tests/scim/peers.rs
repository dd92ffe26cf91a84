//! Other people's testers of SCIM services.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, Shape, manifests::manifest, peers};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    Directory,
    agents::{ON, ON_ABBEY, OWNER},
};

/// A program beside the Python of the peers.
fn program(name: &str) -> Result<Command> {
    let (folder, _) = peers::place("PEER_PYTHON")?.rsplit_once('/').context("a path")?;
    let mut command = Command::new(format!("{folder}/{name}"));
    command.stdin(Stdio::null()).kill_on_drop(true);
    Ok(command)
}

/// What PyPI `scim-sanity` says of a service: its results.
async fn probed(directory: &Directory) -> Result<Vec<Value>> {
    let mut command = program("scim-sanity")?;
    command.args(["probe", &directory.url, "--token", &directory.token, "--i-accept-side-effects", "--json-output"]);
    let output = command.output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let start = text.find('{').with_context(|| format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    let report: Value = serde_json::from_str(text.get(start..).context("no report")?)?;
    report["results"].as_array().cloned().with_context(|| report.to_string())
}

/// One of its expectations is not ours: that members which do not exist are accepted.
fn check(results: &[Value]) -> Result<usize> {
    let of = |status: &str| results.iter().filter(|one| one["status"] == status).collect::<Vec<_>>();
    let failed: Vec<_> = of("fail").into_iter().filter(|one| one["name"] != "PATCH /Groups/{id} add member").collect();
    ensure!(failed.is_empty() && of("error").is_empty(), "{failed:#?} {:#?}", of("error"));
    Ok(of("pass").len())
}

#[tokio::test(flavor = "multi_thread")]
async fn scim_sanity_finds_nothing_but_that_members_must_exist() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let results = probed(&Directory::new(&deployment, "sanity")?).await?;
    ensure!(check(&results)? >= 27, "{results:#?}");
    Ok(())
}

/// Its phases about agents are those of the older draft, which lets no directory write an owner.
#[tokio::test(flavor = "multi_thread")]
async fn scim_sanity_finds_nothing_about_agents_either() -> Result<()> {
    let deployment = Deployment::start_with(Shape::Embedded, &ON_ABBEY).await?;
    deployment.apply(&manifest("User", "operations@corp.example", "{}"))?;
    let results = probed(&Directory::new(&deployment, "sanity")?).await?;
    check(&results)?;
    let passed: Vec<&str> = results
        .iter()
        .filter(|one| one["status"] == "pass" && one["phase"].as_str().is_some_and(|phase| phase.contains("Agent ")))
        .filter_map(|one| one["name"].as_str())
        .collect();
    for name in [
        "POST /Agents",
        "GET /Agents/{id}",
        "PUT /Agents/{id}",
        "GET /Agents/{id} after PUT",
        "PATCH /Agents/{id}",
        "GET /Agents/{id} after PATCH",
        "DELETE /Agents/{id}",
        "GET /Agents/{id} after DELETE (expect 404)",
        "Rapid create/delete 10 agents",
    ] {
        ensure!(passed.contains(&name), "{name} is not among {passed:?} of {results:#?}");
    }
    Ok(())
}

/// What PyPI `scim2-cli` with `scim2-tester` says of a service, whose values are random.
async fn tested(directory: &Directory) -> Result<String> {
    let mut command = program("scim2")?;
    let header = format!("Authorization: Bearer {}", directory.token);
    let output = command.args(["-u", &directory.url, "-h", &header, "test"]).output().await?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    // Somebody is active or not: without the attribute it stays as it was, which RFC 7643 §2.5 leaves to the service.
    let stays = text.matches("PATCH modify() did not remove attribute 'active'").count();
    // It adds an owner to the one there is, and takes away the project, also with all of our extension.
    let second = text.matches("Failed to add attribute 'owners': an agent has one owner here").count();
    let homeless = text.matches("': an agent has a project: name another instead").count();
    // With all of our extension comes its ceiling, which nobody wrote.
    let ceilings =
        text.matches("returned unexpected value for 'urn:bailiwick:params:scim:schemas:extension:2.0:Agent'.").count();
    let expected = stays + second + homeless + ceilings;
    ensure!(lines("ERROR") == expected && lines("CRITICAL") == 0, "{text}");
    ensure!(stays <= 2 && second <= 1 && homeless <= 2 && ceilings <= 2, "{text}");
    ensure!(
        lines("SUCCESS") > 80,
        "{} successes: {text}\n{}",
        lines("SUCCESS"),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn scim2_tester_finds_nothing_but_that_active_always_has_a_value() -> Result<()> {
    let deployment = Deployment::start(Shape::Embedded).await?;
    let text = tested(&Directory::new(&deployment, "tester")?).await?;
    ensure!(!text.contains("Agent"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn scim2_tester_finds_nothing_about_agents_but_that_they_have_one_owner_and_a_project() -> Result<()> {
    // It makes agents without owners, too.
    let configured = [ON[0], ON[1], (OWNER, "operations@corp.example")];
    let deployment = Deployment::start_with(Shape::Embedded, &configured).await?;
    deployment.apply(&manifest("User", "operations@corp.example", "{}"))?;
    let text = tested(&Directory::new(&deployment, "tester")?).await?;
    for word in ["created", "queried", "deleted"] {
        ensure!(text.contains(&format!("Successfully {word} Agent")), "{word}: {text}");
    }
    Ok(())
}
