//! How servers are reached, with real processes: what they are shown, where they may be, and that a secret that was
//! set once is in no place where it can be read again.

use std::{fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, McpClient, Reply, ScriptedServer, Shape, eventually,
    manifests::{JANE, manifest, permits_all_of, virtual_server},
    scripted::{SeenCall, tool},
};
use serde_json::{Value, json};

/// Everything but the server.
fn others() -> String {
    virtual_server("shop", "plain", "shop") + JANE + &permits_all_of("shop")
}

fn shop(url: &str, rest: &str) -> String {
    manifest("Server", "shop", &format!("{{endpoint: {{url: '{url}'}}{rest}}}"))
}

async fn call(client: &McpClient) -> Result<Answer> {
    client.call("read", json!({"n": 1})).await
}

/// Calls until the answer is as expected: a change is on its way to the data plane.
async fn until(client: &McpClient, what: &str, is_so: impl Fn(&Answer) -> bool) -> Result<Answer> {
    let looked = eventually(what, async || call(client).await.ok().filter(|answer| is_so(answer)));
    looked.await
}

#[tokio::test]
async fn a_sealed_secret_reaches_its_server_and_nobody_else() -> Result<()> {
    let server = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
    let deployment = Deployment::start(Shape::Processes).await?;
    let shown = ", credential: {secret: shop-key}";
    let refused = deployment.apply(&(shop(server.url(), shown) + &others())).unwrap_err().to_string();
    ensure!(refused.contains("bailiwick secret set shop-key"), "{refused}");
    deployment.seal("shop-key", "first-hush-hush")?;
    deployment.apply(&(shop(server.url(), shown) + &others()))?;
    let token = deployment.token("shop", "destructive")?;
    let clients: Vec<McpClient> = deployment.mcp.iter().map(|mcp| McpClient::new(mcp, "shop", &token)).collect();
    for client in &clients {
        until(client, "the tool works", |answer| answer.code().is_none()).await?;
    }
    let authorization = |call: &SeenCall| call.headers["authorization"].to_str().unwrap_or("").to_owned();
    ensure!(server.seen().iter().all(|call| authorization(call) == "Bearer first-hush-hush"));

    deployment.seal("shop-key", "second-hush-hush")?;
    for client in &clients {
        eventually("the new value is shown", async || {
            call(client).await.ok()?;
            server.seen().last().filter(|call| authorization(call) == "Bearer second-hush-hush").map(drop)
        })
        .await?;
    }
    let listed: Value = serde_json::from_str(&deployment.cli_ok(&["secret", "list", "-o", "json"])?)?;
    ensure!(listed["items"][0]["name"] == "shop-key" && listed["items"][0]["used_by"][0] == "shop", "{listed}");

    deployment.cli_ok(&["secret", "delete", "shop-key"])?;
    for client in &clients {
        until(client, "calls are refused", |answer| answer.reason() == "credential_missing").await?;
    }
    let reached = server.seen().len();
    let denied = call(&clients[0]).await?;
    ensure!(denied.reason() == "credential_missing" && server.seen().len() == reached, "{denied:?}");

    ensure!(server.seen().iter().all(|call| !format!("{:?}", call.headers).contains(&token)), "the caller's token");
    let told = [
        deployment.cli_ok(&["get", "server", "-o", "yaml"])?,
        deployment.cli_ok(&["audit", "query", "--limit", "1000", "-o", "json"])?,
        format!("{denied:?}"),
        deployment.log(),
        listed.to_string(),
    ];
    ensure!(told.iter().all(|text| !text.contains("hush-hush")), "a secret was told");
    ensure!(
        told[1].contains("credential_set") && told[1].contains("credential_deleted"),
        "the ledger knows who did it"
    );
    let found = holding(&deployment.data(), b"hush-hush")?;
    ensure!(found.is_empty(), "a secret lies in clear in {found:?}");
    Ok(())
}

/// The files below a folder that hold these bytes.
fn holding(folder: &Path, bytes: &[u8]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, bytes)?);
        } else if fs::read(&path).is_ok_and(|content| content.windows(bytes.len()).any(|window| window == bytes)) {
            found.push(path.display().to_string());
        }
    }
    Ok(found)
}

#[tokio::test]
async fn a_server_is_called_only_where_it_may_be_and_its_faults_are_told_by_name() -> Result<()> {
    let server = ScriptedServer::start_at("127.0.0.1", vec![tool("read", "retrieval")]).await?;
    let nothing = [("BAILIWICK_DATA_PLANE__UPSTREAM__ALLOWED_NETWORKS", "[]")];
    let deployment = Deployment::start_with(Shape::Processes, &nothing).await?;
    for (spelling, told) in
        [("http://2130706433/mcp", "IPv4"), ("http://0x7f.1/mcp", "IPv4"), ("http://h./mcp", "host")]
    {
        let refused = deployment.apply(&shop(spelling, "")).unwrap_err().to_string();
        ensure!(refused.contains("spec.endpoint.url") && refused.contains(told), "{refused}");
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("shop.yaml");
    fs::write(&file, shop(server.url(), "") + &others())?;
    let applied = deployment.cli(&["apply", "-f", &file.display().to_string()])?;
    let warned = String::from_utf8_lossy(&applied.stderr).into_owned();
    ensure!(
        applied.status.success() && warned.contains("loopback") && warned.contains("endpoint.networks"),
        "{warned}"
    );
    ensure!(server.seen().is_empty());

    let allowed =
        shop(server.url(), ", breaker: {faults: 3, pause: 1m}").replace("url:", "networks: [127.0.0.0/8], url:");
    deployment.apply(&allowed)?;
    let client = McpClient::new(&deployment.mcp[0], "shop", &deployment.token("shop", "destructive")?);
    until(&client, "the tool works", |answer| answer.code().is_none()).await?;
    server.reply(Reply::status(503));
    for _ in 0..3 {
        ensure!(call(&client).await?.reason() == "upstream_refused");
    }
    let reached = server.seen().len();
    let suspended = call(&client).await?;
    ensure!(suspended.reason() == "upstream_suspended" && server.seen().len() == reached, "{suspended:?}");
    let recorded = eventually("the refusal is recorded", async || {
        let records = deployment.audit(&["--tool", "read", "--limit", "20"]).ok()?;
        records.into_iter().find(|record| record.to_string().contains("upstream_suspended"))
    });
    recorded.await.context("nothing of it in the ledger")?;
    Ok(())
}
