//! HTTP/3 as clients see it: the same answers, the same limits, an end to what nobody wants any more, and leaving.

use std::{net::Ipv4Addr, path::Path, sync::Arc};

use bailiwick_runtime::{OnEnd, Supervisor, served_certificate::CertificateFiles};
use bytes::{Buf, Bytes};
use h3::{client::SendRequest, error::StreamError};
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, VarInt, crypto::rustls::QuicClientConfig};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{RootCertStore, pki_types::CertificateDer};

use super::*;

/// RFC 9114 §8.1.
const EXCESSIVE_LOAD: u32 = 0x107;

/// A node that speaks HTTP/3, and what its clients trust.
struct Speaker {
    world: World,
    config: ClientConfig,
    clients: Supervisor,
    _folder: tempfile::TempDir,
}

/// A connection.
struct Client3 {
    requests: SendRequest<h3_quinn::OpenStreams, Bytes>,
    connection: Connection,
}

fn certify(folder: &Path) -> (CertificateFiles, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let files = CertificateFiles { certificate: folder.join("tls.crt"), key: folder.join("tls.key") };
    std::fs::write(&files.certificate, cert.pem()).unwrap();
    std::fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    (files, cert.der().clone())
}

fn trusting(certificate: CertificateDer<'static>) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider);
    let tls = tls.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
    let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    tls.enable_early_data = true;
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

impl Speaker {
    async fn start(drain_delay_ms: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (files, certificate) = certify(folder.path());
        let server = FakeServer::start(Speaks::Modern).await;
        let control = FakeControlPlane::start(entries(&server.url, PERMIT_ALL, true)).await;
        let stream = EventStream::in_process();
        let ledger = Some(FakeLedger::start(&stream).await);
        let configured = |config| DataPlaneConfig { tls: Some(files), http3: true, drain_delay_ms, ..config };
        let node = Node::start_as(&control.url, stream, configured).await;
        eventually("ready", || node.running.as_ref().unwrap().is_ready()).await;
        let world = World { server, control, ledger, node };
        Self { world, config: trusting(certificate), clients: Supervisor::new(Shutdown::new()), _folder: folder }
    }

    fn endpoint(&self) -> Endpoint {
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        endpoint.set_default_client_config(self.config.clone());
        endpoint
    }

    async fn connect(&self) -> Client3 {
        self.try_connect().await.unwrap()
    }

    async fn try_connect(&self) -> Result<Client3, ConnectionError> {
        let address = self.world.node.running.as_ref().unwrap().mcp_addr;
        let connection = self.endpoint().connect(address, "localhost").unwrap().await?;
        let (mut driver, requests) = h3::client::new(h3_quinn::Connection::new(connection.clone())).await.unwrap();
        self.clients.spawn("http3-client", OnEnd::Finish, async move {
            drop(driver.wait_idle().await);
        });
        Ok(Client3 { requests, connection })
    }

    /// A call, and its body.
    fn call(&self) -> (http::Request<()>, Bytes) {
        let call = self.world.call("query_data").build().unwrap();
        let mut request = http::Request::post("https://localhost/mcp/finance").body(()).unwrap();
        *request.headers_mut() = call.headers().clone();
        (request, Bytes::copy_from_slice(call.body().unwrap().as_bytes().unwrap()))
    }
}

impl Client3 {
    async fn ask(&mut self, (request, body): (http::Request<()>, Bytes)) -> Result<(u16, Value), StreamError> {
        let mut stream = self.requests.send_request(request).await?;
        // A request that is refused by its head needs no body.
        drop(stream.send_data(body).await);
        drop(stream.finish().await);
        let answer = stream.recv_response().await?;
        let mut bytes = Vec::new();
        while let Some(mut data) = stream.recv_data().await? {
            bytes.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        Ok((answer.status().as_u16(), serde_json::from_slice(&bytes).unwrap_or(Value::Null)))
    }
}

#[tokio::test]
async fn calls_go_over_http_3_and_nothing_is_taken_before_the_handshake() {
    let speaker = Speaker::start(0).await;
    let mut client = speaker.connect().await;
    for _ in 0..3 {
        let (status, answer) = client.ask(speaker.call()).await.unwrap();
        assert!(status == 200 && answer["result"].is_object(), "{status} {answer}");
    }
    let large = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"x\":\"{}\"}}", "x".repeat(4 * 1024 * 1024));
    assert_eq!(client.ask((speaker.call().0, large.into())).await.unwrap().0, 413);
    let (mut request, body) = speaker.call();
    request.headers_mut().insert("content-length", "7".parse().unwrap());
    let status = client.ask((request, body)).await.map_or(400, |answer| answer.0);
    assert_ne!(status, 200, "a length that is not the body's");

    // With the ticket of a connection before, a client could send at once; it gets none that allows it.
    let endpoint = speaker.endpoint();
    let address = speaker.world.node.running.as_ref().unwrap().mcp_addr;
    for _ in 0..2 {
        let connecting = endpoint.connect(address, "localhost").unwrap();
        let connection = match connecting.into_0rtt() {
            Ok(_early) => panic!("early data is taken"),
            Err(connecting) => connecting.await.unwrap(),
        };
        // Tickets come after the handshake.
        drop(connection.accept_uni().await.unwrap());
        connection.close(VarInt::from_u32(0x100), b"");
    }
}

#[tokio::test]
async fn whoever_asks_otherwise_is_told_where_http_3_is_spoken() {
    let speaker = Speaker::start(0).await;
    let address = speaker.world.node.running.as_ref().unwrap().mcp_addr;
    let client = Client::builder().no_proxy().danger_accept_invalid_certs(true).build().unwrap();
    let metadata = format!("https://localhost:{}/.well-known/oauth-protected-resource", address.port());
    let answer = client.get(metadata).send().await.unwrap();
    assert_eq!(answer.headers()["alt-svc"], format!("h3=\":{}\"; ma=3600", address.port()));
}

#[tokio::test]
async fn a_client_that_says_too_much_is_stopped_and_its_other_requests_go_on() {
    let speaker = Speaker::start(0).await;
    let mut client = speaker.connect().await;
    for (headers, bytes) in [(120, 10), (2, 40_000)] {
        let (mut request, body) = speaker.call();
        for number in 0..headers {
            let name: http::HeaderName = format!("x-filler-{number}").parse().unwrap();
            request.headers_mut().insert(name, "x".repeat(bytes).parse().unwrap());
        }
        // What is too large for the server's settings the client need not even send.
        let status = client.ask((request, body)).await.map_or(431, |answer| answer.0);
        assert_eq!(status, 431, "{headers} headers of {bytes} bytes");
    }
    // Frames that say they are huge: of headers, and of what means nothing.
    for kind in [0x01, 0x21] {
        let (mut sending, _receiving) = client.connection.open_bi().await.unwrap();
        let frame = [&[kind][..], &(0xc000_0000_0000_0000_u64 | (1 << 40)).to_be_bytes()].concat();
        sending.write_all(&frame).await.unwrap();
        let stopped = async {
            while sending.write_all(&[0; 16 * 1024]).await.is_ok() {}
            sending.stopped().await.unwrap()
        };
        let stopped = tokio::time::timeout(Duration::from_secs(10), stopped).await.unwrap();
        assert_eq!(stopped, Some(VarInt::from_u32(EXCESSIVE_LOAD)), "a frame of kind {kind}");
    }
    assert_eq!(client.ask(speaker.call()).await.unwrap().0, 200);
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_any_more_is_cancelled() {
    let speaker = Speaker::start(0).await;
    speaker.world.server.set(Mode::Hang);
    let mut client = speaker.connect().await;
    let (request, body) = speaker.call();
    let mut stream = client.requests.send_request(request).await.unwrap();
    stream.send_data(body).await.unwrap();
    stream.finish().await.unwrap();
    eventually("forwarded", || !speaker.world.server.seen("tools/call").is_empty()).await;
    stream.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
    let records = speaker.world.last_outcome().await;
    let outcome = records.last().unwrap().outcome.clone().unwrap();
    assert_eq!((outcome.status, outcome.error_code.as_deref()), (Status::Unknown, Some("cancelled")));
}

#[tokio::test]
async fn a_node_that_leaves_ends_its_connections_when_their_requests_are_answered() {
    let mut speaker = Speaker::start(1_500).await;
    let (mut first, mut idle) = (speaker.connect().await, speaker.connect().await);
    assert_eq!(first.ask(speaker.call()).await.unwrap().0, 200);
    assert_eq!(idle.ask(speaker.call()).await.unwrap().0, 200);
    speaker.world.node.shutdown.request();
    eventually("not ready", || !speaker.world.node.running.as_ref().unwrap().is_ready()).await;
    // Until the node takes no more connections, which it says.
    let (mut answered, mut connections) = (0, 1);
    let refusal = loop {
        match first.ask(speaker.call()).await {
            Ok((status, _)) => {
                assert_eq!(status, 200);
                answered += 1;
            }
            // Told to open no more requests here.
            Err(_gone) => match speaker.try_connect().await {
                Ok(another) => {
                    first = another;
                    connections += 1;
                }
                Err(refusal) => break refusal,
            },
        }
    };
    assert!(answered > 0 && connections > 1, "{answered} calls over {connections} connections");
    assert!(matches!(refusal, ConnectionError::ConnectionClosed(_)), "{refusal}");
    speaker.world.node.running.take().unwrap().stopped().await.unwrap();
    assert!(idle.ask(speaker.call()).await.is_err());
}
