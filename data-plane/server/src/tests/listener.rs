//! Connections before HTTP and after the last answer: TLS, balancers, limits, places, and leaving.

use std::{net::SocketAddr, path::Path};

use bailiwick_runtime::served_certificate::CertificateFiles;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use reqwest::{Certificate, Version};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::*;

/// A node in a small world, as configured.
async fn world(configured: impl FnOnce(DataPlaneConfig) -> DataPlaneConfig) -> World {
    let server = FakeServer::start(Speaks::Modern).await;
    let control = FakeControlPlane::start(entries(&server.url, PERMIT_ALL, true)).await;
    let stream = EventStream::in_process();
    let ledger = Some(FakeLedger::start(&stream).await);
    let node = Node::start_as(&control.url, stream, configured).await;
    eventually("ready", || node.running.as_ref().unwrap().is_ready()).await;
    World { server, control, ledger, node }
}

fn address(world: &World) -> SocketAddr {
    world.node.running.as_ref().unwrap().mcp_addr
}

/// New files, and the certificate to trust.
pub(super) fn certify(files: &CertificateFiles) -> Certificate {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    Certificate::from_pem(cert.pem().as_bytes()).unwrap()
}

fn files(folder: &Path) -> CertificateFiles {
    CertificateFiles { certificate: folder.join("tls.crt"), key: folder.join("tls.key") }
}

fn trusting(certificate: Certificate) -> reqwest::ClientBuilder {
    Client::builder().no_proxy().tls_certs_only([certificate])
}

/// A call over TLS.
async fn call_by(world: &World, client: &Client) -> reqwest::Result<Response> {
    let mut call = world.call("query_data").build().unwrap();
    *call.url_mut() = format!("https://localhost:{}/mcp/finance", address(world).port()).parse().unwrap();
    client.execute(call).await
}

/// What comes back for these bytes until the connection ends or `enough` is there.
async fn said(stream: &mut TcpStream, bytes: &[u8], enough: &str) -> String {
    let mut answer = Vec::new();
    if stream.write_all(bytes).await.is_ok() {
        while !String::from_utf8_lossy(&answer).contains(enough) {
            let mut piece = [0; 4096];
            match tokio::time::timeout(Duration::from_secs(10), stream.read(&mut piece)).await.unwrap() {
                Ok(0) | Err(_) => break,
                Ok(read) => answer.extend_from_slice(&piece[..read]),
            }
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

const METADATA: &[u8] = b"GET /.well-known/oauth-protected-resource HTTP/1.1\r\nhost: localhost\r\n\r\n";

async fn from(client: [u8; 4], to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((client, 0).into()).unwrap();
    socket.connect(to).await.unwrap()
}

#[tokio::test]
async fn calls_go_over_tls_and_a_renewed_certificate_is_shown_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let files = files(folder.path());
    let first = certify(&files);
    let world = world(|config| DataPlaneConfig { tls: Some(files.clone()), ..config }).await;
    let one = trusting(first.clone()).http1_only().build().unwrap();
    let two = trusting(first.clone()).build().unwrap();
    for (client, version) in [(&one, Version::HTTP_11), (&two, Version::HTTP_2)] {
        let answer = call_by(&world, client).await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, version));
    }
    let mut plain = TcpStream::connect(address(&world)).await.unwrap();
    let answer = said(&mut plain, METADATA, "resource").await;
    assert!(!answer.contains("HTTP/1.1"), "plain text: {answer}");

    // Half of a pair changes nothing, a whole one is shown to whoever connects anew.
    std::fs::write(&files.key, "nothing").unwrap();
    let second = certify(&files);
    let deadline = Instant::now() + Duration::from_secs(20);
    while call_by(&world, &trusting(second.clone()).build().unwrap()).await.is_err() {
        assert!(Instant::now() < deadline, "the new certificate is never shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(call_by(&world, &trusting(first).build().unwrap()).await.is_err());
    assert!(call_by(&world, &two).await.is_ok(), "connections that exist go on");
}

#[tokio::test]
async fn whoever_comes_through_a_balancer_is_told_by_it_and_others_may_not_tell() {
    let balanced = world(|config| DataPlaneConfig { proxy_protocol: vec!["127.0.0.2/32".into()], ..config }).await;
    let to = address(&balanced);
    let proxied = |header: &[u8]| [header, METADATA].concat();
    let line = b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 443\r\n";
    let block = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\0\x50\0\x50";
    for (client, bytes, is_served) in [
        ([127, 0, 0, 1], METADATA.to_vec(), true),
        ([127, 0, 0, 1], proxied(line), false),
        ([127, 0, 0, 1], proxied(block), false),
        ([127, 0, 0, 2], proxied(line), true),
        ([127, 0, 0, 2], proxied(block), true),
        ([127, 0, 0, 2], METADATA.to_vec(), false),
        ([127, 0, 0, 2], proxied(b"PROXY TCP4 192.0.2.7\r\n"), false),
    ] {
        let answer = said(&mut from(client, to).await, &bytes, "resource_name").await;
        assert_eq!(answer.contains("200 OK"), is_served, "{client:?} {:?}: {answer}", String::from_utf8_lossy(&bytes));
    }
}

#[tokio::test]
async fn heads_are_bounded_in_size_and_count_over_every_http() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    let two = Client::builder().http2_prior_knowledge().build().unwrap();
    for client in [Client::new(), two] {
        for (headers, bytes, expected) in [(40, 10, 200), (120, 10, 431), (2, 40_000, 431)] {
            let mut call = world.call("query_data").build().unwrap();
            for number in 0..headers {
                let name: http::HeaderName = format!("x-filler-{number}").parse().unwrap();
                call.headers_mut().insert(name, "x".repeat(bytes).parse().unwrap());
            }
            // A client that is refused while it still writes may see the end before the answer.
            let status = client.execute(call).await.map_or(431, |answer| answer.status().as_u16());
            assert_eq!(status, expected, "{headers} headers of {bytes} bytes");
        }
    }
}

#[tokio::test]
async fn one_address_does_not_take_all_places_and_nobody_is_turned_away_while_others_are_idle() {
    let world = world(|config| DataPlaneConfig { connections_max: 8, ..config }).await;
    let to = address(&world);
    let (mut greedy, mut ended) = (Vec::new(), 0);
    for _ in 0..8 {
        let mut stream = from([127, 0, 0, 3], to).await;
        assert!(said(&mut stream, METADATA, "resource_name").await.contains("200 OK"));
        greedy.push(stream);
    }
    // While all of them have just asked, nobody gives way; a moment later the longest idle one does.
    let mut served = false;
    for _ in 0..100 {
        let mut newcomer = from([127, 0, 0, 4], to).await;
        served = said(&mut newcomer, METADATA, "resource_name").await.contains("200 OK");
        if served {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(served, "a newcomer is never served");
    for mut stream in greedy {
        ended += usize::from(!said(&mut stream, METADATA, "resource_name").await.contains("200 OK"));
    }
    assert!((1..8).contains(&ended), "{ended} gave way");
}

#[tokio::test]
async fn a_node_that_leaves_serves_on_and_tells_its_clients_to_go_elsewhere() {
    let mut world = world(|config| DataPlaneConfig { drain_delay_ms: 1_500, ..config }).await;
    let to = address(&world);
    let connect = async || TcpStream::connect(to).await.unwrap();
    let (mut asks, mut idle, mut silent) = (connect().await, connect().await, connect().await);
    for stream in [&mut asks, &mut idle] {
        let answer = said(stream, METADATA, "resource_name").await;
        assert!(answer.contains("200 OK") && !answer.contains("connection: close"), "{answer}");
    }
    let two = Client::builder().http2_prior_knowledge().build().unwrap();
    let call_by_two = async || two.execute(world.call("query_data").build().unwrap()).await;
    assert_eq!(call_by_two().await.unwrap().status(), 200);
    world.node.shutdown.request();
    eventually("not ready", || !world.node.running.as_ref().unwrap().is_ready()).await;
    let answer = said(&mut asks, METADATA, "never").await;
    assert!(answer.contains("200 OK") && answer.contains("connection: close"), "{answer}");
    let mut newcomer = TcpStream::connect(to).await.unwrap();
    let answer = said(&mut newcomer, METADATA, "never").await;
    assert!(answer.contains("200 OK") && answer.contains("connection: close"), "{answer}");
    for _ in 0..5 {
        assert_eq!(call_by_two().await.unwrap().status(), 200, "HTTP/2 moves to a connection of its own each time");
    }
    let mut end = [0; 1];
    for stream in [&mut idle, &mut silent] {
        assert_eq!(stream.read(&mut end).await.unwrap_or(0), 0, "what is idle is closed in the end");
    }
    assert!(TcpStream::connect(to).await.is_err());
    world.node.running.take().unwrap().stopped().await.unwrap();
}
