//! One bad server of every kind beside a good one: each fault has its name and its time, and the good one's callers
//! notice nothing.

use bailiwick_runtime::OnEnd;
use futures::future::join_all;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

/// What it does with each connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Does {
    /// Takes it and says nothing, TLS or not.
    Nothing,
    /// Closes it at once, with a reset.
    Reset,
    /// Reads requests and says this to each.
    Answer(&'static [u8]),
    /// The same without end.
    Flood(&'static [u8]),
}

/// A server of its own kind.
#[derive(Debug)]
pub(super) struct Bad {
    address: std::net::SocketAddr,
    stop: Shutdown,
}

impl Drop for Bad {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl Bad {
    pub(super) async fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), Shutdown::new());
        let (stopped, supervisor) = (stop.clone(), Supervisor::new(stop.clone()));
        let connections = supervisor.clone();
        supervisor.spawn("bad-server", OnEnd::Finish, async move {
            let accept = Box::pin(async {
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let stopped = stopped.clone();
                    connections.spawn("bad-connection", OnEnd::Finish, async move {
                        stopped.or_stop(serve(stream, does)).await;
                    });
                }
            });
            stopped.or_stop(accept).await;
        });
        Self { address, stop }
    }

    pub(super) fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}/mcp", self.address)
    }
}

async fn serve(mut stream: TcpStream, does: Does) {
    let mut request = vec![0; 8192];
    match does {
        Does::Nothing => std::future::pending().await,
        Does::Reset => drop(stream.set_zero_linger()),
        Does::Answer(answer) => {
            while stream.read(&mut request).await.is_ok_and(|read| read > 0) && stream.write_all(answer).await.is_ok() {
            }
        }
        Does::Flood(answer) => {
            drop(stream.read(&mut request).await);
            let much = answer.repeat(100);
            while stream.write_all(&much).await.is_ok() {}
        }
    }
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const HALF: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"jsonrpc\"";
const SHORT: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":0,\"result\":{}}";
const LONG: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n{";
const ELSEWHERE: &[u8] =
    b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://10.0.0.1/mcp\r\ncontent-length: 0\r\n\r\n";
const HEADERS: &[u8] = b"HTTP/1.1 200 OK\r\nx-0123456789: 0123456789012345678901234567890123456789\r\n";
const CONTINUES: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
const EVENTS: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_server_of_every_kind_leaves_the_good_one_unhurt() {
    let (good, upstream) = (FakeServer::start(Speaks::Modern).await, upstream());
    let good = Server { name: "good".into(), ..server(&good.url) };
    ask_server(&upstream, &good).await.unwrap();
    let table = [
        ("http", Does::Nothing, "upstream_timeout"),
        ("https", Does::Nothing, "upstream_unreachable"),
        ("http", Does::Reset, "upstream_unreachable"),
        ("https", Does::Reset, "upstream_unreachable"),
        ("https", Does::Answer(b"this is no TLS\r\n\r\n"), "upstream_unreachable"),
        ("http", Does::Answer(b"this is no HTTP\r\n\r\n"), "upstream_unreachable"),
        ("http", Does::Answer(HEAD), "upstream_timeout"),
        ("http", Does::Answer(HALF), "upstream_timeout"),
        ("http", Does::Answer(SHORT), "upstream_invalid"),
        ("http", Does::Answer(LONG), "upstream_too_large"),
        ("http", Does::Answer(ELSEWHERE), "upstream_refused"),
        ("http", Does::Flood(HEADERS), "upstream_unreachable"),
        ("http", Does::Flood(CONTINUES), "upstream_timeout"),
        ("http", Does::Flood(EVENTS), "upstream_too_large"),
    ];
    for (number, (scheme, does, expected)) in table.into_iter().enumerate() {
        let bad = Bad::start(does).await;
        let name = format!("bad-{number}");
        let timeout_ms = if expected == "upstream_timeout" { 400 } else { 10_000 };
        let to =
            Server { name, timeout_ms, connect_timeout_ms: 300, breaker_faults: u32::MAX, ..server(&bad.url(scheme)) };
        linked(&upstream, &to);
        let began = Instant::now();
        let callers = join_all((0..8).map(|_| ask_server(&upstream, &to)));
        let neighbours = join_all((0..8).map(|_| ask_server(&upstream, &good)));
        let (callers, neighbours) = tokio::join!(callers, neighbours);
        assert!(neighbours.iter().all(Result::is_ok), "{does:?}: {neighbours:?}");
        for answer in callers {
            assert_eq!(answer.as_ref().unwrap_err().reason().as_str(), expected, "{scheme} {does:?}: {answer:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{does:?}");
    }
}

/// Without this the first contact would be what fails, and not the call.
fn linked(upstream: &Upstream, to: &Server) {
    let known = upstream.known(to);
    let peer = Peer::linked_to_modern(known.origin.as_ref().unwrap(), upstream.room.clone());
    known.peers().insert(principal("jane"), Arc::new(peer));
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_not_trusted() {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let fake = FakeServer::start_secure(Speaks::Modern, secure::with(&cert, &signing_key, None)).await;
    let upstream = upstream();
    let said = |ca: &str, name: &str| {
        let tls = bailiwick_proto::v1::Tls { ca: ca.into(), server_name: name.into(), client: String::new() };
        Server { tls: Some(tls), ..server(&fake.url) }
    };
    let other = generate_simple_self_signed(vec!["localhost".into()]).unwrap().cert.pem();
    for (ca, name) in [(other.as_str(), "localhost"), (&cert.pem(), ""), (&cert.pem(), "other.example")] {
        let fault = ask_server(&upstream, &said(ca, name)).await.unwrap_err();
        assert_eq!(fault.reason().as_str(), "upstream_untrusted", "{name}: {fault}");
    }
    assert!(fake.seen("server/discover").is_empty());
    ask_server(&upstream, &said(&cert.pem(), "localhost")).await.unwrap();
    assert_eq!(fake.seen("tools/call")[0].version, http::Version::HTTP_2, "the server chose it");
}

#[tokio::test]
async fn this_node_shows_the_certificate_that_is_sealed_now() {
    let made = || generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (own, first, second) = (made(), made(), made());
    let trusts = [first.cert.der().clone()];
    let fake = FakeServer::start_secure(Speaks::Modern, secure::with(&own.cert, &own.signing_key, Some(&trusts))).await;
    let credentials = Arc::new(Credentials::default());
    let upstream = upstream_within(loopback(), Means { credentials: Arc::clone(&credentials), ..Means::default() });
    let tls = bailiwick_proto::v1::Tls { ca: own.cert.pem(), server_name: "localhost".into(), client: "client".into() };
    let to = Server { tls: Some(tls), ..server(&fake.url) };
    assert_eq!(ask_server(&upstream, &to).await, Err(UpstreamFault::NoCredential("client".into())));
    let seal = |pem: String| {
        credentials.replace(&[bailiwick_proto::v1::NamedSecret { name: "client".into(), value: pem.into_bytes() }]);
    };
    seal(first.cert.pem() + &first.signing_key.serialize_pem());
    ask_server(&upstream, &to).await.unwrap();
    seal(second.cert.pem() + &second.signing_key.serialize_pem());
    let refused = ask_server(&upstream, &to).await.unwrap_err();
    assert_eq!(refused.reason().as_str(), "upstream_unreachable", "the server does not take the new one: {refused}");
    seal(first.cert.pem() + &second.signing_key.serialize_pem());
    let unfit = ask_server(&upstream, &to).await.unwrap_err();
    assert!(matches!(unfit, UpstreamFault::Unusable(_)) && !unfit.to_string().contains("BEGIN"), "{unfit}");
    seal(first.cert.pem() + &first.signing_key.serialize_pem());
    ask_server(&upstream, &to).await.unwrap();
}
