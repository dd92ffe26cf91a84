//! Clients that open streams without end, do not read them, or are many: the node refuses clearly, serves everybody
//! else, and has nothing left of them afterwards.

use std::fs;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{
    Deployment, Events, McpClient, Reply, ScriptedServer, Shape, eventually,
    mcp::{MODERN, modern_meta},
    scripted::tool,
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Duration, Instant, interval},
};

use super::{ANSWER_WAIT_MAX, JANE, World, agent, client, client_of, people, servers::answer};

/// What one person through one agent may have open at a node (`docs/reference/listening.md`).
const STREAMS_OF_ONE_MAX: usize = 32;
/// What a greedy client opens.
const GREEDY: usize = 3_000;
/// Agents that listen in a crowd, each with as many streams as it may have.
const CROWD: usize = 64;
/// Memory of one stream, its connections to client and server included.
const STREAM_BYTES_MAX: u64 = 256 * 1024;
/// Longest time until a change is told to the last of the crowd, without optimisation and beside other tests.
const TOLD_MAX: Duration = Duration::from_secs(120);
/// A call does not wait until all of the crowd is told, however slow this machine is: at most for this part of it, or so
/// long.
const CALL_PART: u32 = 3;
const CALL_MAX: Duration = Duration::from_secs(1);

/// A connection on which a stream was asked for, and the beginning of what came.
struct Opened {
    connection: TcpStream,
    head: String,
}

fn authority(client: &McpClient) -> Result<&str> {
    client.url.strip_prefix("http://").and_then(|url| url.split('/').next()).context("url")
}

/// The bytes that ask for a stream, of a modern client or of a legacy one with this session.
fn wish(client: &McpClient) -> Result<String> {
    let (authority, path) = client.url.strip_prefix("http://").and_then(|url| url.split_once('/')).context("url")?;
    let common = format!("host: {authority}\r\nauthorization: Bearer {}\r\n", client.token);
    if let Some(session) = &client.session {
        return Ok(format!(
            "GET /{path} HTTP/1.1\r\n{common}accept: text/event-stream\r\nmcp-session-id: {session}\r\n\r\n"
        ));
    }
    let params = json!({"notifications": {"toolsListChanged": true}, "_meta": modern_meta()});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).to_string();
    Ok(format!(
        "POST /{path} HTTP/1.1\r\n{common}content-type: application/json\r\naccept: application/json, text/event-stream\r\n\
         mcp-protocol-version: {MODERN}\r\nmcp-method: subscriptions/listen\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// Asks for a stream on a connection of its own.
async fn open(client: &McpClient) -> Result<Opened> {
    let mut connection = TcpStream::connect(authority(client)?).await?;
    connection.write_all(wish(client)?.as_bytes()).await?;
    let mut head = Vec::new();
    let read = async {
        loop {
            // A stream's first event, or a refusal's body.
            let text = String::from_utf8_lossy(&head).into_owned();
            if text.split_once("\r\n\r\n").is_some_and(|(_, body)| body.ends_with('}') || body.contains("\n\n")) {
                return Ok::<_, anyhow::Error>(text);
            }
            ensure!(connection.read_buf(&mut head).await? > 0, "closed: {text}");
        }
    };
    let head = tokio::time::timeout(ANSWER_WAIT_MAX, read).await.context("no answer")??;
    Ok(Opened { connection, head })
}

async fn open_all(clients: impl IntoIterator<Item = McpClient>) -> Result<Vec<Opened>> {
    let opened = stream::iter(clients).map(|client| async move { open(&client).await });
    opened.buffer_unordered(64).collect::<Vec<_>>().await.into_iter().collect()
}

/// Resident memory of the first data plane's process.
fn memory(deployment: &Deployment) -> Result<u64> {
    let node = deployment.nodes.iter().find(|node| ["embedded", "data-plane"].contains(&node.role.as_str()));
    let status = fs::read_to_string(format!("/proc/{}/status", node.context("no node")?.pid))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}

/// What the node says of a metric, summed over its labels.
async fn metric(deployment: &Deployment, name: &str) -> Result<usize> {
    let mut sum = 0;
    for node in &deployment.nodes {
        for (_, ops) in node.listen.as_object().into_iter().flatten().filter(|(name, _)| name.contains("ops")) {
            let ops = bailiwick_tests::deployment::as_url(ops.as_str().context("ops")?);
            let text = reqwest::get(format!("{ops}/metrics")).await?.text().await?;
            let of =
                |line: &str| line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' '])).map(str::to_owned);
            sum += text
                .lines()
                .filter_map(of)
                .filter_map(|rest| rest.rsplit(' ').next()?.parse::<usize>().ok())
                .sum::<usize>();
        }
    }
    Ok(sum)
}

const OPEN_STREAMS: &str = "bailiwick_data_plane_open_streams";
const CONNECTIONS: &str = "bailiwick_data_plane_connections";

async fn until_streams(deployment: &Deployment, count: usize) -> Result<()> {
    eventually(&format!("{count} streams"), async || {
        (metric(deployment, OPEN_STREAMS).await.ok()? == count).then_some(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_opens_thousands_of_streams_gets_its_share_and_a_reason() -> Result<()> {
    let world = World::start(vec![tool("read", "retrieval")]).await?;
    let max = "max@example.com";
    world.deployment.apply(&people(&[max]))?;
    let other = client(&world.deployment, max).await?;
    let mut legacy = world.client.clone();
    legacy.initialize().await?;
    for greedy in [&world.client, &legacy] {
        let before = memory(&world.deployment)?;
        let began = Instant::now();
        // A session has one stream, so a legacy client has a session for each.
        let mut clients = Vec::new();
        for number in 0..GREEDY {
            let mut one = greedy.clone();
            if greedy.session.is_some() && number < 2 * STREAMS_OF_ONE_MAX {
                one.initialize().await?;
            }
            clients.push(one);
        }
        let opened = open_all(clients).await?;
        let streams =
            opened.iter().filter(|one| one.head.starts_with("HTTP/1.1 200") && one.head.contains("event-stream"));
        let refused = opened.iter().filter(|one| one.head.contains("node_overloaded"));
        let (streams, refused, took) = (streams.count(), refused.count(), began.elapsed());
        let cost = memory(&world.deployment)?.saturating_sub(before);
        println!("{GREEDY} streams asked for in {took:?}: {streams} opened, {refused} refused, {} KiB", cost / 1024);
        let other_answer =
            opened.iter().find(|one| !one.head.contains("event-stream") && !one.head.contains("node_overloaded"));
        ensure!(streams + refused == GREEDY, "{streams} + {refused}: {:?}", other_answer.map(|one| &one.head));
        // A newer stream of a session takes the place of the older.
        ensure!(refused > 0 && streams >= STREAMS_OF_ONE_MAX, "{streams} opened");
        ensure!(metric(&world.deployment, OPEN_STREAMS).await? <= STREAMS_OF_ONE_MAX);
        ensure!(cost < GREEDY as u64 * STREAM_BYTES_MAX, "{cost} bytes");
        ensure!(other.call("read", json!({})).await?.body.get("result").is_some(), "another is not served");
        let mut others = Events::modern(&other, &json!({"toolsListChanged": true})).await?;
        ensure!(others.message().await?["method"] == "notifications/subscriptions/acknowledged");
        drop((opened, others));
        until_streams(&world.deployment, 0).await?;
    }
    Ok(())
}

/// A crowd of agents of one person.
fn crowd() -> String {
    let one = |number: usize| {
        format!(
            "---\napiVersion: bailiwick/v1\nkind: Agent\nmetadata: {{name: crowd-{number}}}\nspec: {{owner: {JANE}, project: p, ceiling: destructive}}\n"
        )
    };
    (0..CROWD).map(one).collect()
}

/// How long a change takes until the last of the streams is told, and how long a call took meanwhile at worst.
async fn told_to_all(world: &World, opened: &mut [Opened], manifest: &str) -> Result<(Duration, Duration)> {
    let client = world.client.clone();
    let (calling, told) = tokio::sync::oneshot::channel::<()>();
    let calls = tokio::spawn(async move {
        let mut slowest = Duration::ZERO;
        while !calling.is_closed() {
            let began = Instant::now();
            client.call("read", json!({})).await?;
            slowest = slowest.max(began.elapsed());
        }
        Ok::<_, anyhow::Error>(slowest)
    });
    world.deployment.apply(manifest)?;
    let began = Instant::now();
    for (number, one) in opened.iter_mut().enumerate() {
        let mut read = Vec::new();
        let told = async {
            while !String::from_utf8_lossy(&read).contains("notifications/tools/list_changed") {
                ensure!(one.connection.read_buf(&mut read).await? > 0, "a stream ended");
            }
            Ok(())
        };
        tokio::time::timeout(TOLD_MAX, told).await.with_context(|| format!("stream {number} is not told"))??;
    }
    let took = began.elapsed();
    drop(told);
    Ok((took, calls.await??))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_reaches_thousands_of_listeners_and_calls_go_on_meanwhile() -> Result<()> {
    let tools = (0..10).map(|number| tool(&format!("tool-{number}"), "retrieval")).chain([tool("read", "retrieval")]);
    let world = World::start(tools.collect()).await?;
    world.deployment.apply(&crowd())?;
    let before = memory(&world.deployment)?;
    let mut clients = Vec::new();
    for number in 0..CROWD {
        let one = client_of(&world.deployment, (JANE, &format!("crowd-{number}")), "shop").await?;
        clients.extend(vec![one; STREAMS_OF_ONE_MAX]);
    }
    let mut opened = open_all(clients).await?;
    ensure!(opened.iter().all(|one| one.head.starts_with("HTTP/1.1 200")), "not all were opened");
    let count = opened.len();
    until_streams(&world.deployment, count).await?;
    let cost = memory(&world.deployment)?.saturating_sub(before) / count as u64;
    // What changes nothing for them costs next to nothing; what does is told to all.
    let consents = Instant::now();
    for _ in 0..10 {
        world.deployment.token_for(JANE, &agent(JANE), "shop", "retrieval", "10m")?;
    }
    let consents = consents.elapsed() / 10;
    let policy = "apiVersion: bailiwick/v1\nkind: Policy\nmetadata: {name: fewer}\nspec:\n  cedar: forbid (principal, action == Action::\"shop__tool-7\", resource);\n";
    let (took, slowest) = told_to_all(&world, &mut opened, policy).await?;
    println!(
        "{count} listeners of {CROWD} agents: {} KiB each; a token issued in {consents:?}; a change told to all in \
         {took:?}, the slowest call meanwhile {slowest:?}",
        cost / 1024
    );
    ensure!(cost < STREAM_BYTES_MAX, "{cost} bytes for each stream");
    ensure!(slowest < CALL_MAX.max(took / CALL_PART), "{slowest:?} of {took:?}");
    drop(opened);
    until_streams(&world.deployment, 0).await
}

/// How long nodes wait in the test below for clients that do not read.
const UNREAD: (&str, &str) = ("BAILIWICK_DATA_PLANE__UNREAD_MS", "1000");

/// A connection that takes as little at once as the system lets it.
async fn narrow(client: &McpClient, request: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4 * 1024)?;
    let mut connection = socket.connect(authority(client)?.parse()?).await?;
    connection.write_all(request.as_bytes()).await?;
    Ok(connection)
}

/// The request of a call whose answer is long.
fn call_of(client: &McpClient) -> Result<String> {
    let body = super::call_body(&json!({}));
    let path = client.url.rsplit('/').next().context("path")?;
    Ok(format!(
        "POST /mcp/{path} HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\nmcp-protocol-version: {MODERN}\r\nmcp-method: tools/call\r\n\
         mcp-name: read\r\ncontent-length: {}\r\n\r\n{body}",
        authority(client)?,
        client.token,
        body.len()
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_read_what_is_there_for_them_are_let_go() -> Result<()> {
    let deployment = Deployment::start_with(Shape::Processes, &[UNREAD]).await?;
    let server = ScriptedServer::start(vec![tool("read", "retrieval")]).await?;
    server.speak_modern(true);
    server.offer_more();
    deployment.apply(&(server.manifests("shop", "plain") + &people(&[JANE])))?;
    let client = client(&deployment, JANE).await?;
    let idle = metric(&deployment, CONNECTIONS).await?;

    // One never reads its long answer, one takes a byte of it now and then.
    let long = format!(r#"{{"content":[{{"type":"text","text":"{}"}}]}}"#, "x".repeat(7 * 1024 * 1024));
    server.reply(Reply::ok("application/json", answer(&long)));
    let unread = narrow(&client, &call_of(&client)?).await?;
    let mut sipped = narrow(&client, &call_of(&client)?).await?;
    let sips = tokio::spawn(async move {
        let mut sip = interval(Duration::from_millis(100));
        let mut byte = [0; 1];
        loop {
            sip.tick().await;
            if sipped.read(&mut byte).await.unwrap_or_default() == 0 {
                return;
            }
        }
    });
    eventually("both calls are made", async || (server.seen().len() == 2).then_some(())).await?;
    eventually("both are let go", async || (metric(&deployment, CONNECTIONS).await.ok()? <= idle).then_some(()))
        .await?;
    sips.abort();

    // On HTTP/2 a client can leave one answer where it is and take all else there is.
    let closed = reqwest::Client::builder().http2_prior_knowledge().http2_initial_stream_window_size(1_024).build()?;
    let head = closed.post(&client.url).bearer_auth(&client.token).header("mcp-protocol-version", MODERN);
    let head = head.header("accept", "application/json, text/event-stream").header("mcp-method", "tools/call");
    let head = head.header("content-type", "application/json").header("mcp-name", "read");
    let answered = head.body(super::call_body(&json!({}))).send().await?;
    ensure!(answered.status() == 200, "{answered:?}");
    eventually("it is let go", async || (metric(&deployment, CONNECTIONS).await.ok()? <= idle).then_some(())).await?;
    ensure!(answered.bytes().await.is_err(), "the answer came all the same");

    // One listens and never reads; the changes it is told of are long.
    let uris: Vec<String> = (0..200).map(|number| format!("note:///{number}/{}", "x".repeat(1_900))).collect();
    let params = json!({"notifications": {"resourceSubscriptions": uris}, "_meta": modern_meta()});
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params}).to_string();
    let request =
        call_of(&client)?.replace("mcp-method: tools/call\r\nmcp-name: read", "mcp-method: subscriptions/listen");
    let (head, _) = request.split_once("content-length").context("head")?;
    let listener = narrow(&client, &format!("{head}content-length: {}\r\n\r\n{body}", body.len())).await?;
    until_streams(&deployment, 1).await?;
    eventually("the listener is let go", async || {
        for uri in &uris {
            server.tell_changed("notifications/resources/updated", &json!({"uri": uri}));
        }
        (metric(&deployment, OPEN_STREAMS).await.ok()? == 0).then_some(())
    })
    .await?;
    drop((unread, listener));

    // Who reads is served all the while, and gets all of a long answer.
    let whole = client.call("read", json!({})).await?;
    ensure!(whole.text.len() > 7 * 1024 * 1024, "{:.200}", whole.text);
    Ok(())
}
