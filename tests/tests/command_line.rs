//! The command line as scripts see it: exit codes, stable output, configuration mistakes, completions, clean stops.

#![expect(clippy::disallowed_methods, reason = "a test that panics fails, as it should")]

use std::{
    fs,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, McpClient, Shape, deployment::binary, eventually, peers::PeerServer, upstream::free_port,
};
use serde_json::{Value, json};

fn bailiwick(arguments: &[&str]) -> Result<(i32, String, String)> {
    let Output { status, stdout, stderr } = Command::new(binary("bailiwick")).args(arguments).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status.code().context("killed")?, text(stdout), text(stderr)))
}

#[test]
fn exit_codes_tell_usage_from_refusal_from_absence() -> Result<()> {
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let folder = tempfile::tempdir()?;
    let missing = folder.path().join("missing").display().to_string();
    let table: [(&[&str], i32, &str); 8] = [
        (&["version"], 0, "bailiwick"),
        (&["frobnicate"], 2, "frobnicate"),
        (&["get"], 2, "KIND"),
        (&["apply", "-f", &missing], 2, "missing"),
        (&["token", "issue", "--user", "u", "--agent", "a", "--virtual-server", "v", "--ttl", "0s"], 2, "ttl"),
        (&["--admin", &nobody, "get", "user"], 3, "BAILIWICK_ADMIN"),
        (&["audit", "query", "--ledger", &nobody], 3, "BAILIWICK_LEDGER"),
        (&["ledger", "verify", &missing], 2, "missing"),
    ];
    for (arguments, code, word) in table {
        let (found, out, err) = bailiwick(arguments)?;
        ensure!(found == code, "{arguments:?} exits {found}: {out}{err}");
        ensure!(format!("{out}{err}").contains(word), "{arguments:?} should say {word}: {out}{err}");
    }
    Ok(())
}

#[test]
fn every_mistake_in_a_configuration_is_reported_before_anything_binds() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("node.toml");
    let path = file.to_str().context("path")?;
    let section = "[nats]\nurl = \"nats://127.0.0.1:1\"\n[ledger]\nlisten = \"0.0.0.0:1\"\norigin = \"two words\"\n";
    fs::write(&file, section)?;
    let (code, _, said) = bailiwick(&["ledger", "--config", path])?;
    ensure!(code == 2 && said.contains("ledger.listen") && said.contains("ledger.origin"), "{code}: {said}");
    fs::write(&file, "[ledger]\nlissten = \"127.0.0.1:1\"\n")?;
    let (code, _, said) = bailiwick(&["ledger", "--config", path])?;
    ensure!(code == 2 && said.contains("lissten") && said.contains("node.toml"), "{code}: {said}");
    fs::write(&file, "[ledger]\n")?;
    let (code, _, said) = bailiwick(&["ledger", "--config", path])?;
    ensure!(code == 2 && said.contains("BAILIWICK_NATS__URL"), "{code}: {said}");
    Ok(())
}

#[test]
fn completions_are_written_for_every_shell() -> Result<()> {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let (code, script, _) = bailiwick(&["completions", shell])?;
        ensure!(code == 0 && script.contains("virtual-server"), "{shell}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_lets_the_call_under_way_finish_and_loses_no_record() -> Result<()> {
    let server = PeerServer::typescript()?;
    let mut deployment = Deployment::start(Shape::Embedded).await?;
    deployment.apply(&format!(
        "apiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: both}}\nspec: {{endpoint: {{url: \"{}\"}}}}\n\
         ---\napiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: both}}\nspec: {{naming: plain, servers: [{{server: both}}]}}\n\
         ---\napiVersion: bailiwick/v1\nkind: User\nmetadata: {{name: jane@example.com}}\nspec: {{groups: [staff]}}\n\
         ---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: coding-assistant}}\nspec: {{owner: jane@example.com, project: p, ceiling: retrieval}}\n\
         ---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: all}}\nspec: {{cedar: \"permit (principal, action, resource);\"}}\n",
        server.url
    ))?;
    let mcp = deployment.mcp.first().context("no data plane")?;
    let client = McpClient::new(mcp, "both", &deployment.token("both", "retrieval")?);
    eventually("the token works", async || {
        client.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
    })
    .await?;
    let under_way = {
        let client = client.clone();
        tokio::spawn(async move { client.call("slow", json!({"milliseconds": 1500})).await })
    };
    let calls = server.url.replace("/mcp", "/calls");
    eventually("the call reached the server", async || {
        let counts: Value = reqwest::get(&calls).await.ok()?.json().await.ok()?;
        (counts.get("slow")?.as_u64()? == 1).then_some(())
    })
    .await?;
    deployment.stop()?;
    let answer = under_way.await??;
    ensure!(answer.body.get("result").is_some(), "the call was cut: {}", answer.text);
    deployment.start_again().await?;
    eventually("its outcome is on record", async || {
        let outcomes = deployment.audit(&["--tool", "slow", "--kind", "call.outcome"]).ok()?;
        outcomes.first()?.pointer("/outcome/status").filter(|status| *status == "ok").map(drop)
    })
    .await
}

#[test]
fn a_reader_that_goes_away_is_no_crash() -> Result<()> {
    let program = binary("bailiwick").display().to_string();
    for line in [format!("{program} version | true"), format!("{program} --help | head -n 1")] {
        let output = Command::new("bash").args(["-c", &format!("set -o pipefail; {line}")]).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!said.contains("panicked"), "{line}: {said}");
    }
    Ok(())
}
