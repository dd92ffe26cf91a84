//! HTTP/3 with real processes: what goes over UDP is decided, recorded and proven like anything else, has the same
//! bounds, survives a new certificate, and is answered to the end when its node stops.

#![expect(clippy::indexing_slicing, reason = "a test that panics fails, as it should")]

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Answer, Deployment, Http3Client, McpClient, Reply, ScriptedServer, ServedCertificate, Shape, Trusted, eventually,
    manifests::{JANE, policy},
    scripted::{End, tool},
};
use reqwest::RequestBuilder;
use serde_json::{Value, json};

const NODE: &str = "data-plane-1";
const PROGRESS: &str =
    r#"data: {"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":$TOKEN,"progress":1}}"#;
const DONE: &str = r#"data: {"jsonrpc":"2.0","id":$ID,"result":{"content":[],"structuredContent":{"done":true}}}"#;
/// `pay` is shown to nobody and refused to everybody.
const NO_PAYING: &str = "forbid (principal, action, resource == Tool::\"shop__pay\");";

/// A deployment that serves HTTP/3, and Jane at its first data plane.
struct World {
    deployment: Deployment,
    server: ScriptedServer,
    files: ServedCertificate,
    trusted: Trusted,
    /// Over TCP.
    jane: McpClient,
    _folder: tempfile::TempDir,
}

async fn world(more: &[(&str, &str)]) -> Result<World> {
    let folder = tempfile::tempdir()?;
    let files = ServedCertificate::in_folder(folder.path());
    let trusted = files.renew()?;
    let served = files.environment();
    let served = served.iter().map(|(key, value)| (*key, value.as_str()));
    let environment: Vec<(&str, &str)> = served.chain(more.iter().copied()).collect();
    let deployment = Deployment::start_with(Shape::Processes, &environment).await?;
    let server = ScriptedServer::start(vec![tool("pay", "transactional"), tool("read", "retrieval")]).await?;
    server.speak_modern(true);
    deployment.apply(&(server.manifests("shop", "plain") + JANE + &policy("no-paying", NO_PAYING)))?;
    let mcp = deployment.mcp.first().context("a node")?.replace("http://", "https://");
    let token = deployment.token("shop", "destructive")?;
    let jane = McpClient { http: trusted.over_tcp()?.build()?, ..McpClient::new(&mcp, "shop", &token) };
    jane.until_listed(&["read"]).await?;
    Ok(World { deployment, server, files, trusted, jane, _folder: folder })
}

impl World {
    async fn connect(&self) -> Result<Http3Client> {
        Http3Client::connect(&self.jane.url, &self.trusted).await
    }

    /// A call of Jane's; its answer may be a stream with progress.
    fn call(&self, tool: &str) -> RequestBuilder {
        let params = json!({"name": tool, "arguments": {"n": 1}, "_meta": {"progressToken": "mine"}});
        self.jane.modern_request(json!({}), "tools/call", params)
    }
}

fn is_done(answer: &Answer) -> bool {
    answer.status == 200 && answer.body["result"]["structuredContent"] == json!({"n": 1})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_over_http_3_are_decided_recorded_and_proven_like_any_other() -> Result<()> {
    let world = world(&[]).await?;
    let over_tcp = Answer::to(world.call("read")).await?;
    ensure!(is_done(&over_tcp), "{over_tcp:?}");
    // A client learns of it as browsers do.
    let told = over_tcp.headers.get("alt-svc").context("nobody is told of HTTP/3")?.to_str()?;
    let port = told.strip_prefix("h3=\":").and_then(|told| told.split('"').next()).context("a port")?;
    ensure!(world.jane.url.contains(&format!(":{port}/")), "{told}: {}", world.jane.url);

    let client = world.connect().await?;
    let listed = client.ask(world.jane.modern_request(json!({}), "tools/list", json!({}))).await?;
    ensure!(listed.tools() == ["read"], "{listed:?}");
    let called = client.ask(world.call("read")).await?;
    ensure!(is_done(&called), "{called:?}");
    let denied = client.ask(world.call("pay")).await?;
    ensure!((denied.code(), denied.reason()) == (Some(403), "policy_denied"), "{denied:?}");
    let nobody = McpClient { token: "none".to_owned(), ..world.jane.clone() };
    let refused = client.ask(nobody.modern_request(json!({}), "tools/list", json!({}))).await?;
    ensure!(refused.status == 401 && refused.headers.contains_key("www-authenticate"), "{refused:?}");
    let foreign = client.ask(world.call("read").header("origin", "https://elsewhere.example")).await?;
    ensure!(foreign.status == 403, "{foreign:?}");

    let seen = world.server.seen();
    ensure!(seen.len() == 2, "what was refused reached the server: {seen:?}");
    ensure!(seen.iter().all(|call| !format!("{:?}", call.headers).contains(&world.jane.token)), "the caller's token");
    let records = world.deployment.records_of("tools/call", 5).await?;
    let row = |record: &Value| {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        [&record["kind"], &record["tool"], &record["decision"]["effect"], &record["outcome"]["status"]].map(text)
    };
    let rows: Vec<_> = records.iter().map(row).collect();
    ensure!(rows[..2] == rows[2..4], "over TCP, over UDP: {rows:#?}");
    ensure!(rows[4][..2] == ["call.denied", "pay"], "{rows:#?}");
    ensure!(records.iter().all(|record| record["user"] == records[0]["user"]), "{records:#?}");
    world.deployment.proven(&[("call.intent", 2), ("call.outcome", 2), ("call.denied", 1)]).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_over_http_3_stream_and_whoever_leaves_one_cancels_the_call() -> Result<()> {
    let world = world(&[]).await?;
    let client = world.connect().await?;
    let events = |all: &[&str]| all.iter().map(|event| format!("{event}\n\n")).collect::<Vec<_>>();
    world.server.reply(Reply::Says(events(&[PROGRESS, DONE]), End::Done));
    let whole = client.ask(world.call("read")).await?;
    ensure!(whole.headers["content-type"] == "text/event-stream", "{whole:?}");
    ensure!(whole.text.contains(r#""progressToken":"mine""#) && whole.text.contains(r#""done":true"#), "{whole:?}");

    world.server.reply(Reply::Says(events(&[PROGRESS]), End::Never));
    let mut streaming = client.send(world.call("read")).await?;
    streaming.head().await?;
    let first = streaming.part().await?.context("a part")?;
    ensure!(first.contains(r#""progress":1"#), "{first}");
    streaming.give_up();
    eventually("the server learns that nobody waits", async || (world.server.streams() == 0).then_some(())).await?;
    let outcomes = eventually("both outcomes", async || {
        let outcomes = world.deployment.audit(&["--tool", "read", "--kind", "call.outcome"]).ok()?;
        (outcomes.len() == 2).then_some(outcomes)
    })
    .await?;
    let of =
        |number: usize| (outcomes[number]["outcome"]["status"].clone(), &outcomes[number]["outcome"]["error_code"]);
    ensure!(of(0) == (json!("unknown"), &json!("cancelled")) && of(1).0 == "ok", "{outcomes:#?}");
    world.server.reply(Reply::Echo);
    ensure!(is_done(&client.ask(world.call("read")).await?), "the connection is of no use any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_over_http_3_is_refused_and_the_connection_goes_on() -> Result<()> {
    let world = world(&[]).await?;
    let client = world.connect().await?;
    let many = (0..120).fold(world.call("read"), |call, number| call.header(format!("x-filler-{number}"), "x"));
    let refused = client.ask(many).await?;
    ensure!(refused.status == 431, "{refused:?}");
    // A client that knows its server's bounds does not even send such a head; one that does is told.
    let long = world.call("read").header("x-filler", "x".repeat(70 * 1024));
    let status = client.ask(long).await.map_or(431, |answer| answer.status.as_u16());
    ensure!(status == 431, "{status}");
    let large = json!({"name": "read", "arguments": {"x": "x".repeat(4 * 1024 * 1024)}});
    let refused = client.ask(world.jane.modern_request(json!({}), "tools/call", large)).await?;
    ensure!(refused.status == 413 && refused.reason() == "request_too_large", "{refused:?}");
    ensure!(world.server.seen().is_empty(), "it was forwarded");
    ensure!(is_done(&client.ask(world.call("read")).await?), "the connection is of no use any more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renewed_certificate_is_shown_over_udp_and_connections_go_on() -> Result<()> {
    let world = world(&[]).await?;
    let before = world.connect().await?;
    ensure!(is_done(&before.ask(world.call("read")).await?));
    let renewed = world.files.renew()?;
    let after =
        eventually("the new certificate is shown", async || Http3Client::connect(&world.jane.url, &renewed).await.ok())
            .await?;
    ensure!(is_done(&after.ask(world.call("read")).await?));
    ensure!(world.connect().await.is_err(), "the old certificate is still shown");
    ensure!(is_done(&before.ask(world.call("read")).await?), "a connection that existed has ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_over_http_3_that_is_under_way_when_its_node_stops_is_answered() -> Result<()> {
    let world = world(&[("BAILIWICK_DATA_PLANE__DRAIN_DELAY_MS", "500")]).await?;
    let (busy, idle) = (world.connect().await?, world.connect().await?);
    ensure!(is_done(&idle.ask(world.call("read")).await?));
    world.server.reply(Reply::Held);
    let held = busy.send(world.call("read")).await?;
    eventually("the call is under way", async || (world.server.underway() == 1).then_some(())).await?;
    world.deployment.signal(NODE, "TERM")?;
    eventually("the node says that it goes", async || {
        let ready = world.deployment.ops(NODE, "readyz").await;
        ready.map_or(Some(()), |ready| (ready.status() == 503).then_some(()))
    })
    .await?;
    // Whoever has nothing under way is sent away, and nobody new is taken; the call goes on.
    eventually("the idle connection ends", async || idle.connection.close_reason().map(drop)).await?;
    eventually("nobody new is taken", async || world.connect().await.err().map(drop)).await?;
    let closed = busy.connection.close_reason();
    ensure!(closed.is_none(), "{closed:?}\n{}", world.deployment.log_of(NODE));
    ensure!(world.server.underway() == 1, "the call was given up");
    world.server.release();
    let answer = held.whole().await?;
    ensure!(is_done(&answer), "{answer:?}");
    eventually("then its connection ends too", async || busy.connection.close_reason().map(drop)).await?;
    world.deployment.ended(NODE).await?;
    let outcomes = eventually("the outcome is on record", async || {
        let outcomes = world.deployment.audit(&["--tool", "read", "--kind", "call.outcome"]).ok()?;
        (outcomes.len() == 2).then_some(outcomes)
    })
    .await?;
    ensure!(outcomes.iter().all(|outcome| outcome["outcome"]["status"] == "ok"), "{outcomes:#?}");
    world.deployment.proven(&[("call.intent", 2), ("call.outcome", 2)]).await
}
