//! The listener with real processes: TLS whose certificate is renewed while calls go on, connections of both versions
//! of HTTP and both eras, a balancer that says for whom it connects, and somebody who takes every place there is.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bailiwick_tests::{Deployment, McpClient, SampleServer, ServedCertificate, Shape, eventually};
use reqwest::Version;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// Places of each data plane.
const PLACES: usize = 64;
const BALANCER: [u8; 4] = [127, 0, 0, 9];
const GREEDY: [u8; 4] = [127, 0, 0, 5];
const METADATA: &str = "GET /.well-known/oauth-protected-resource HTTP/1.1\r\nhost: localhost\r\n\r\n";

async fn connect(from: [u8; 4], to: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    Ok(socket.connect(to).await?)
}

/// What comes back until the connection ends, or a whole head is there.
async fn said(stream: &mut TcpStream, text: &str) -> String {
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    if stream.write_all(text.as_bytes()).await.is_ok() {
        while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend(piece.iter().take(read)),
            }
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_both_eras_call_over_tls_while_the_certificate_is_renewed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let files = ServedCertificate::in_folder(folder.path());
    let first = files.renew()?;
    let served = files.environment();
    let environment = served.each_ref().map(|(key, value)| (*key, value.as_str()));
    let deployment = Deployment::start_with(Shape::Processes, &environment).await?;
    let server = SampleServer::start().await?;
    deployment.apply(&server.manifests())?;
    let token = deployment.token("finance", "retrieval")?;
    let nodes: Vec<String> = deployment.mcp.iter().map(|url| url.replace("http://", "https://")).collect();
    let node = nodes.first().context("a node")?;
    let client = |http: reqwest::Client| McpClient { http, ..McpClient::new(node, "finance", &token) };
    let one = client(first.over_tcp()?.http1_only().build()?);
    let two = client(first.over_tcp()?.build()?);
    for (modern, version) in [(&one, Version::HTTP_11), (&two, Version::HTTP_2)] {
        eventually("tools are there", async || {
            let listed = modern.modern("tools/list", json!({})).await.ok()?;
            (!listed.tools().is_empty()).then_some(())
        })
        .await?;
        let answer = modern.http.get(node).send().await?;
        ensure!(answer.version() == version && answer.headers().contains_key("alt-svc"), "{answer:?}");
        let mut legacy = modern.clone();
        legacy.initialize().await?;
        ensure!(!legacy.legacy("tools/list", json!({})).await?.tools().is_empty(), "a legacy client");
    }
    let plain = McpClient::new(deployment.mcp.first().context("a node")?, "finance", &token);
    ensure!(plain.modern("tools/list", json!({})).await.is_err(), "plain text is served");

    let second = files.renew()?;
    for node in &nodes {
        eventually("the new certificate is shown", async || {
            let fresh = client(second.over_tcp().ok()?.build().ok()?).at(node);
            fresh.modern("tools/list", json!({})).await.ok().filter(|listed| !listed.tools().is_empty())
        })
        .await?;
    }
    ensure!(!two.modern("tools/list", json!({})).await?.tools().is_empty(), "a connection that exists ends");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_takes_every_place_gives_way_to_others_behind_a_balancer_too() -> Result<()> {
    let (places, balancers) = (PLACES.to_string(), format!("[\"{}/32\"]", std::net::Ipv4Addr::from(BALANCER)));
    let environment = [
        ("BAILIWICK_DATA_PLANE__CONNECTIONS_MAX", places.as_str()),
        ("BAILIWICK_DATA_PLANE__PROXY_PROTOCOL", balancers.as_str()),
    ];
    let deployment = Deployment::start_with(Shape::Processes, &environment).await?;
    let url = deployment.mcp.first().context("a node")?;
    let to: SocketAddr = url.trim_start_matches("http://").trim_end_matches("/mcp").parse()?;
    let proxied = |client: &str| format!("PROXY TCP4 {client} 127.0.0.1 4000 8420\r\n{METADATA}");

    let mut bare = connect(BALANCER, to).await?;
    ensure!(!said(&mut bare, METADATA).await.contains("HTTP/1.1"), "a balancer must say for whom it connects");

    // One client through the balancer and one address beside it, each with more than fits, half a request on each.
    for (number, from) in [BALANCER, GREEDY].into_iter().enumerate() {
        let mut greedy = Vec::new();
        for _ in 0..PLACES * 2 {
            let mut stream = connect(from, to).await?;
            let text = if from == BALANCER { proxied("192.0.2.66") } else { METADATA.to_owned() };
            drop(stream.write_all(text.trim_end().as_bytes()).await);
            greedy.push(stream);
        }
        let stranger = format!("198.51.100.{number}");
        eventually("others are served", async || {
            let mut balanced = connect(BALANCER, to).await.ok()?;
            let mut direct = connect([127, 0, 0, 7], to).await.ok()?;
            let answers = [said(&mut balanced, &proxied(&stranger)).await, said(&mut direct, METADATA).await];
            answers.iter().all(|answer| answer.contains("200 OK")).then_some(())
        })
        .await?;
        drop(greedy);
    }
    let ops = deployment.role("data-plane");
    let ops = ops.first().and_then(|node| node.listen.get("ops")?.as_str()).context("ops")?;
    let metrics = reqwest::get(format!("http://{ops}/metrics")).await?.text().await?;
    for why in ["gave_way", "proxy_protocol"] {
        let counted = format!("bailiwick_data_plane_connections_ended_total{{why=\"{why}\"}}");
        ensure!(metrics.contains(&counted), "{counted} is not among\n{metrics}");
    }
    Ok(())
}
