//! What happens when parts fail: upstreams of every bad kind, a missing ledger, a full disk, killed processes.
//!
//! Whatever fails, three things hold: the client gets a clear refusal, nothing runs unrecorded, and the log verifies.

#![expect(clippy::disallowed_methods, clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Answer, Deployment, McpClient, SampleServer, Shape, deployment::kill, eventually};
use serde_json::{Value, json};

/// How a server misbehaves once its tools have been listed.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Hangs,
    MalformedJson,
    NeverEnds,
    LiesAboutLength,
    AnswersAnotherId,
    ClosesAtOnce,
}

/// A legacy server that lists one tool properly and then misbehaves when it is called.
fn faulty_server(fault: Fault) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/mcp", listener.local_addr()?);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || drop(serve(connection, fault)));
        }
    });
    Ok(url)
}

fn serve(mut connection: TcpStream, fault: Fault) -> Result<()> {
    loop {
        let Some(request) = read_request(&mut connection)? else { return Ok(()) };
        let id = request["id"].clone();
        let result = match request["method"].as_str().unwrap_or_default() {
            "initialize" => {
                json!({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": {"name": "faulty", "version": "1"}})
            }
            "tools/list" => {
                json!({"tools": [{"name": "act", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": true}}]})
            }
            "tools/call" => return misbehave(connection, fault, &id),
            method if method.starts_with("notifications/") => {
                connection.write_all(b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            }
            _ => {
                connection.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            }
        };
        let body = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        connection.write_all((head + &body).as_bytes())?;
    }
}

fn misbehave(mut connection: TcpStream, fault: Fault, id: &Value) -> Result<()> {
    let good = json!({"jsonrpc": "2.0", "id": id, "result": {"content": []}}).to_string();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
    match fault {
        Fault::Hangs => {
            let mut rest = Vec::new();
            connection.read_to_end(&mut rest)?;
        }
        Fault::MalformedJson => write!(connection, "{head}content-length: 9\r\n\r\n{{\"jsonrpc")?,
        Fault::NeverEnds => {
            write!(connection, "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")?;
            // Ends when the gateway hangs up.
            while connection
                .write_all(b"data: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/message\",\"params\":{}}\n\n")
                .is_ok()
            {}
        }
        Fault::LiesAboutLength => write!(connection, "{head}content-length: {}\r\n\r\n{good}", good.len() + 100)?,
        Fault::AnswersAnotherId => {
            let other = json!({"jsonrpc": "2.0", "id": "another", "result": {"content": []}}).to_string();
            write!(connection, "{head}content-length: {}\r\n\r\n{other}", other.len())?;
        }
        Fault::ClosesAtOnce => {}
    }
    Ok(())
}

fn read_request(connection: &mut TcpStream) -> Result<Option<Value>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if connection.read(&mut byte)? == 0 {
            return Ok(None);
        }
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"))
        .map_or(Ok(0), |length| length.trim().parse())?;
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(Some(serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn faulty_manifests(name: &str, url: &str) -> String {
    format!(
        "---\napiVersion: bailiwick/v1\nkind: Server\nmetadata: {{name: {name}}}\nspec: {{endpoint: {{url: \"{url}\"}}, timeout: 2s}}\n\
         ---\napiVersion: bailiwick/v1\nkind: VirtualServer\nmetadata: {{name: {name}}}\nspec: {{naming: plain, servers: [{{server: {name}}}]}}\n\
         ---\napiVersion: bailiwick/v1\nkind: Policy\nmetadata: {{name: {name}}}\nspec:\n  cedar: permit (principal, action, resource in Server::\"{name}\");\n"
    )
}

/// A client of a virtual server at which the token is known to work.
async fn client(deployment: &Deployment, virtual_server: &str, level: &str) -> Result<McpClient> {
    let token = deployment.token(virtual_server, level)?;
    let client = McpClient::new(&deployment.mcp[0], virtual_server, &token);
    eventually("the token works", async || {
        client.modern("tools/list", json!({})).await.ok().filter(|answer| !answer.tools().is_empty())
    })
    .await?;
    Ok(client)
}

async fn query(client: &McpClient) -> Result<Answer> {
    client.call("query_data", json!({"dataset": "invoices"})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_servers_get_a_reason_and_never_hurt_the_good_one() -> Result<()> {
    let (deployment, server) = (Deployment::start(Shape::Embedded).await?, SampleServer::start().await?);
    deployment.apply(&server.manifests())?;
    let good = client(&deployment, "finance", "retrieval").await?;
    let table = [
        ("hangs", Fault::Hangs, "upstream_timeout"),
        ("malformed", Fault::MalformedJson, "upstream_invalid"),
        ("endless", Fault::NeverEnds, "upstream_"),
        ("short", Fault::LiesAboutLength, "upstream_"),
        ("another", Fault::AnswersAnotherId, "upstream_invalid"),
        ("closes", Fault::ClosesAtOnce, "upstream_unreachable"),
    ];
    for (name, fault, reason) in table {
        deployment.apply(&faulty_manifests(name, &faulty_server(fault)?))?;
        let bad = client(&deployment, name, "retrieval").await?;
        let (answer, beside) = tokio::join!(bad.call("act", json!({})), query(&good));
        let answer = answer?;
        ensure!(answer.reason().starts_with(reason), "{fault:?}: {}", answer.text);
        ensure!(beside?.body.get("result").is_some(), "{fault:?} hurt the good server");
        let outcome = eventually("the outcome is on record", async || {
            deployment.audit(&["--server", name, "--kind", "call.outcome"]).ok()?.into_iter().next()
        })
        .await?;
        ensure!(outcome["outcome"]["status"] != "ok", "{outcome:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_said_to_be_down() -> Result<()> {
    let (deployment, server) = (Deployment::start(Shape::Embedded).await?, SampleServer::start().await?);
    deployment.apply(&server.manifests())?;
    let client = client(&deployment, "finance", "retrieval").await?;
    drop(server);
    let answer = query(&client).await?;
    ensure!(answer.reason() == "upstream_unreachable", "{}", answer.text);
    ensure!(client.modern("tools/list", json!({})).await?.tools() == ["query_data"], "a dead server hides its tools");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_ledger_retrieval_goes_on_within_the_spool_and_then_stops() -> Result<()> {
    let deployment =
        Deployment::start_with(Shape::Processes, &[("BAILIWICK_DATA_PLANE__SPOOL_BYTES_MAX", "1048576")]).await?;
    let server = SampleServer::start().await?;
    deployment.apply(&server.manifests())?;
    deployment.apply(&faulty_manifests("finance", &server.url()).replace("timeout: 2s", "timeout: 20s"))?;
    let client = client(&deployment, "finance", "destructive").await?;
    let erase = async || client.call("delete_ledger", json!({"ledger": "2019"})).await;
    ensure!(eventually("all is permitted", async || erase().await.ok()?.body.get("result").map(drop)).await.is_ok());
    let erased = server.calls("delete_ledger").await?;

    for node in deployment.role("ledger") {
        kill(node.pid, "KILL");
    }
    let refused = erase().await?;
    ensure!(refused.reason() == "ledger_unreachable", "{}", refused.text);
    ensure!(query(&client).await?.body.get("result").is_some(), "retrieval stopped at once");

    let mut reasons = Vec::new();
    for _ in 0..2_000 {
        let answer = query(&client).await?;
        if answer.body.get("result").is_none() {
            reasons.push(answer.reason().to_owned());
            break;
        }
    }
    ensure!(reasons == ["spool_full"], "retrieval never stopped, or otherwise: {reasons:?}");
    ensure!(erase().await?.reason().starts_with("spool_"), "destructive went on");
    ensure!(server.calls("delete_ledger").await? == erased, "a destructive call ran unrecorded");
    let queried = server.calls("query_data").await?;

    let mut deployment = deployment;
    deployment.start_again().await?;
    eventually("calls go on once the ledger is back", async || query(&client).await.ok()?.body.get("result").map(drop))
        .await?;
    let out = deployment.data().join("export").display().to_string();
    eventually("every call is in the ledger", async || {
        drop(fs::remove_dir_all(&out));
        deployment.cli_ok(&["ledger", "export", &deployment.ledger, &out]).ok()?;
        let report: Value =
            serde_json::from_str(&deployment.cli_ok(&["ledger", "verify", &out, "-o", "json"]).ok()?).ok()?;
        (report["kinds"]["call.intent"].as_u64()? > queried).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_calls_before_anything_is_lost() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().to_str().context("path")?;
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=64m", "tmpfs", disk]).status()?;
    ensure!(mounted.success(), "this test mounts a small tmpfs: run it as root");
    let _unmount = Unmount(disk.to_owned());
    let server = SampleServer::start().await?;
    let mut deployment = Deployment::start_on(Shape::Embedded, folder.path().join("data")).await?;
    deployment.apply(&server.manifests())?;
    let client = client(&deployment, "finance", "retrieval").await?;
    ensure!(query(&client).await?.body.get("result").is_some());

    let filler = folder.path().join("filler");
    fill(&filler);
    let refused = eventually("a call is refused", async || {
        // What little space a freed segment gives back is filled again.
        fill(&filler);
        query(&client).await.ok().filter(|answer| answer.body.get("result").is_none())
    })
    .await?;
    ensure!(refused.reason() == "spool_full", "{}", refused.text);
    let ran = server.calls("query_data").await?;
    fs::remove_file(&filler)?;
    eventually("calls go on", async || query(&client).await.ok()?.body.get("result").map(drop))
        .await
        .with_context(|| deployment.log())?;
    ensure!(server.calls("query_data").await? == ran + 1, "a refused call reached the server");
    let admin_works = deployment.apply(&server.manifests());
    if admin_works.is_err() {
        // A node whose log could not be written stops serving; a restart brings it back with all it acknowledged.
        deployment.kill();
        deployment.start_again().await?;
        deployment.apply(&server.manifests())?;
    }
    Ok(())
}

fn fill(path: &std::path::Path) {
    if let Ok(mut file) = fs::File::options().create(true).append(true).open(path) {
        let block = vec![0_u8; 4096];
        while file.write_all(&block).is_ok() {}
    }
}

struct Unmount(String);

impl Drop for Unmount {
    fn drop(&mut self) {
        drop(Command::new("umount").args(["-l", &self.0]).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_executed_call_is_unrecorded_after_a_kill_at_any_moment() -> Result<()> {
    let mut deployment = Deployment::start(Shape::Embedded).await?;
    let server = SampleServer::start().await?;
    deployment.apply(&server.manifests())?;
    let client = client(&deployment, "finance", "retrieval").await?;
    for round in 0..3 {
        let calling: Vec<_> = (0..4)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { while query(&client).await.is_ok() {} })
            })
            .collect();
        let seen = server.calls("query_data").await?;
        eventually("calls run", async || (server.calls("query_data").await.ok()? > seen + 5 * round).then_some(()))
            .await?;
        deployment.kill();
        for task in calling {
            drop(task.await);
        }
        deployment.start_again().await?;
    }
    let ran = server.calls("query_data").await?;
    eventually("every executed call has an intent and an outcome", async || {
        let text = deployment.cli_ok(&["audit", "export", "--format", "jsonl", "--tool", "query_data"]).ok()?;
        let count =
            |kind: &str| text.lines().filter(|line| line.contains(&format!("\"kind\":\"{kind}\""))).count() as u64;
        (count("call.intent") >= ran && count("call.intent") == count("call.outcome")).then_some(())
    })
    .await?;
    let out = deployment.data().join("export").display().to_string();
    deployment.cli_ok(&["ledger", "export", &deployment.ledger, &out])?;
    deployment.cli_ok(&["ledger", "verify", &out]).map(drop)
}
