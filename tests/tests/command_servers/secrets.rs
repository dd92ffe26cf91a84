//! Secrets in a program's environment: given, replaced, taken away, and never told.

use std::fs;

use anyhow::{Result, ensure};
use bailiwick_tests::{Deployment, McpClient, Shape, eventually};
use serde_json::{Value, json};

use super::{Bench, ensure_reason, manifests, python, script, value};

fn set(deployment: &Deployment, secret: &str) -> Result<()> {
    let file = deployment.data().join("secret.txt");
    fs::write(&file, secret)?;
    deployment.cli_ok(&["secret", "set", "token", "--from-file", &file.display().to_string()])?;
    Ok(fs::remove_file(file)?)
}

async fn token_of_program(client: &McpClient) -> Option<Value> {
    let about = value(&client.call("about", json!({})).await.ok()?).ok()?;
    Some(about["environment"]["TOKEN"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_the_environment_is_replaced_and_taken_away_without_a_restart_and_never_told() -> Result<()> {
    let allowed = format!("[[{:?}, {:?}]]", bailiwick_tests::peers::place("PEER_PYTHON")?, script("stdio_server.py"));
    let environment = [
        ("BAILIWICK_DATA_PLANE__UPSTREAM__COMMANDS", allowed.as_str()),
        ("BAILIWICK_LOG", "info,bailiwick_data_plane=debug"),
    ];
    let deployment = Deployment::start_with(Shape::Processes, &environment).await?;
    let command = python("stdio_server.py", &[], "env: {TOKEN: {secret: token}}")?;
    let wished = manifests("scripted", &format!("{{command: {command}}}"), 1);
    ensure!(deployment.apply(&wished).is_err(), "a secret that is not set is refused");

    set(&deployment, "first-of-all-secrets")?;
    deployment.apply(&wished)?;
    let bench = Bench { deployment, name: "scripted".to_owned() };
    let client = bench.client(0).await?;
    ensure!(token_of_program(&client).await == Some(json!("first-of-all-secrets")));
    client.call("tell_secret", json!({})).await?;

    set(&bench.deployment, "second-of-all-secrets")?;
    eventually("a program with the new value", async || {
        (token_of_program(&client).await? == "second-of-all-secrets").then_some(())
    })
    .await?;
    client.call("tell_secret", json!({})).await?;

    bench.deployment.cli_ok(&["secret", "delete", "token"])?;
    let refused = eventually("calls are refused", async || {
        client.call("about", json!({})).await.ok().filter(|answer| answer.body.pointer("/result").is_none())
    });
    ensure_reason(&refused.await?, "credential_missing")?;

    let told = eventually("what the program said is in the log", async || {
        let log = bench.deployment.log();
        log.contains("the secret is").then_some(log)
    });
    let told = told.await?;
    let shown = bench.deployment.cli_ok(&["get", "server", "scripted", "-o", "yaml"])?;
    let records = serde_json::to_string(&bench.deployment.audit(&["--limit", "100"])?)?;
    for (place, text) in [("log", &told), ("manifest", &shown), ("records", &records)] {
        ensure!(!text.contains("of-all-secrets"), "a secret is in the {place}");
    }
    Ok(())
}
