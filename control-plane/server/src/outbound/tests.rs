//! What a fetch takes and refuses, against hosts on this machine that answer as they are told.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bailiwick_proto::address::{AddressRefusal, Network};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::outbound::{connect::Resolving, trust::TrustFault};

const LIMITS: Limits = Limits { bytes_max: 1_000, wait_max: Duration::from_secs(20) };
/// The first byte of TLS.
const TLS_HANDSHAKE: u8 = 0x16;
const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A host that gives every connection the same answer and then nothing.
struct Canned {
    at: SocketAddr,
    /// What it was sent, one request each.
    heard: Arc<Mutex<Vec<String>>>,
    connections: Arc<AtomicUsize>,
    stop: Shutdown,
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.stop.request();
    }
}

impl Canned {
    /// Ends the connection after the answer.
    async fn start(answer: impl Into<Vec<u8>>) -> Self {
        Self::with(answer.into(), None, false).await
    }

    /// `holds`: leaves the connection open after the answer.
    async fn with(answer: Vec<u8>, tls: Option<TlsAcceptor>, holds: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (heard, connections, stop) =
            (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicUsize>::default(), Shutdown::new());
        let supervisor = Supervisor::new(stop.clone());
        let (tell, count, stopped, tasks) = (heard.clone(), connections.clone(), stop.clone(), supervisor.clone());
        supervisor.spawn("canned", OnEnd::Finish, async move {
            while let Some(Ok((stream, _))) = stopped.or_stop(listener.accept()).await {
                count.fetch_add(1, Ordering::SeqCst);
                let (answer, tell, tls, stop) = (answer.clone(), tell.clone(), tls.clone(), stopped.clone());
                tasks.spawn("canned answer", OnEnd::Finish, async move {
                    let answering = async {
                        let Some(tls) = tls else { return serve(stream, &answer, &tell, holds).await };
                        if let Ok(stream) = tls.accept(stream).await {
                            serve(stream, &answer, &tell, holds).await;
                        }
                    };
                    stop.or_stop(answering).await;
                });
            }
        });
        Self { at, heard, connections, stop }
    }

    fn url(&self) -> String {
        format!("http://{}/x", self.at)
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &[u8],
    heard: &Mutex<Vec<String>>,
    holds: bool,
) {
    let mut request = Vec::new();
    // Whoever begins with TLS says no more before it is answered.
    while !request.ends_with(b"\r\n\r\n") && request != [TLS_HANDSHAKE] {
        match stream.read_u8().await {
            Ok(byte) => request.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&request).into_owned();
    let body =
        head.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next()?.parse().ok()).unwrap_or(0);
    for _ in 0..body {
        request.push(stream.read_u8().await.unwrap());
    }
    heard.lock().unwrap().push(String::from_utf8(request).unwrap());
    // Whoever has heard enough goes away in the middle of it.
    drop(stream.write_all(answer).await);
    drop(stream.flush().await);
    if holds {
        std::future::pending::<()>().await;
    }
    drop(stream.shutdown().await);
}

fn fetcher() -> Fetcher {
    Fetcher::new(None).unwrap()
}

async fn get_here(url: &str, limits: Limits) -> Result<Fetched, FetchError> {
    let networks: [Network; 1] = ["127.0.0.0/8".parse().unwrap()];
    fetcher().get(url, &Leave { manifest: &networks, node: &[] }, limits).await
}

#[tokio::test]
async fn what_is_there_is_fetched_with_nothing_of_ours_in_the_request() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-type: application/json; charset=utf-8\r\ncache-control: max-age=90\r\n\
                  transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let host = Canned::start(answer).await;
    let fetched = get_here(&format!("http://{}/a/../b?c=%20", host.at), LIMITS).await.unwrap();
    assert_eq!(fetched.status, 200);
    assert_eq!(fetched.content_type.as_deref(), Some("application/json; charset=utf-8"));
    assert_eq!(fetched.body, "{}");
    assert_eq!(fetched.cache_max_age, Some(Duration::from_secs(90)));
    let heard = host.heard.lock().unwrap().join("");
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "GET /a/../b?c=%20 HTTP/1.1\r\nhost: {}\r\nuser-agent: bailiwick/{version}\r\n\
         accept: application/json, application/jwk-set+json\r\naccept-encoding: identity\r\nconnection: close\r\n\r\n",
        host.at
    );
    assert_eq!(heard, expected);
}

async fn post_here(url: &str, form: &Form) -> Result<Fetched, FetchError> {
    let networks: [Network; 1] = ["127.0.0.0/8".parse().unwrap()];
    fetcher().post(url, form, &Leave { manifest: &networks, node: &[] }, LIMITS).await
}

#[tokio::test]
async fn a_form_is_sent_once_with_the_proof_that_the_caller_gave_and_no_other() {
    let host =
        Canned::start("HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n\r\n{\"error\":\"x\"}").await;
    let form = Form::new(&[("code", "a b&c=é"), ("client_id", "g")], Some("Basic aHVzaA==")).unwrap();
    let fetched = post_here(&host.url(), &form).await.unwrap();
    assert_eq!((fetched.status.as_u16(), &fetched.body[..]), (400, &b"{\"error\":\"x\"}"[..]));
    let heard = host.heard.lock().unwrap().join("");
    let version = env!("CARGO_PKG_VERSION");
    let expected = format!(
        "POST /x HTTP/1.1\r\nhost: {}\r\nuser-agent: bailiwick/{version}\r\n\
         accept: application/json, application/jwk-set+json\r\naccept-encoding: identity\r\nconnection: close\r\n\
         content-type: application/x-www-form-urlencoded\r\nauthorization: Basic aHVzaA==\r\ncontent-length: 33\r\n\r\n\
         code=a+b%26c%3D%C3%A9&client_id=g",
        host.at
    );
    assert_eq!(heard, expected);
    assert!(!format!("{form:?}").contains("aHVzaA"));
    assert!(Form::new(&[], Some("Basic a\r\nx: y")).is_none());
    let host = Canned::start(EMPTY).await;
    post_here(&host.url(), &Form::new(&[("code", "c")], None).unwrap()).await.unwrap();
    assert!(!host.heard.lock().unwrap().join("").contains("authorization"));
}

#[tokio::test]
async fn a_form_goes_nowhere_that_a_document_is_not_fetched_from_and_follows_no_redirect() {
    let elsewhere = Canned::start(EMPTY).await;
    let answer =
        format!("HTTP/1.1 307 Temporary Redirect\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
    let (host, form) = (Canned::start(answer).await, Form::new(&[("code", "hush")], None).unwrap());
    assert_eq!(post_here(&host.url(), &form).await.unwrap().status, 307);
    assert_eq!((host.connections(), elsewhere.connections()), (1, 0));
    let refused = fetcher().post(&host.url(), &form, &Leave::default(), LIMITS).await.unwrap_err();
    assert_eq!((refused.word(), host.connections()), ("address_refused", 1));
    let large = Form::new(&[("code", &"x".repeat(FORM_BYTES_MAX))], None).unwrap();
    assert_eq!(post_here(&host.url(), &large).await, Err(FetchError::FormTooLarge));
    assert_eq!(host.connections(), 1);
}

#[tokio::test]
async fn a_host_that_is_not_public_is_not_connected_to_without_leave() {
    let host = Canned::start(EMPTY).await;
    let refused = fetcher().get(&host.url(), &Leave::default(), LIMITS).await.unwrap_err();
    assert!(matches!(refused, FetchError::Address(AddressRefusal::Internal { what: "loopback", .. })), "{refused:?}");
    let elsewhere: [Network; 1] = ["10.0.0.0/8".parse().unwrap()];
    let refused = fetcher().get(&host.url(), &Leave { manifest: &elsewhere, node: &[] }, LIMITS).await.unwrap_err();
    assert_eq!(refused.word(), "address_refused");
    let mapped = format!("http://[::ffff:127.0.0.1]:{}/", host.at.port());
    assert_eq!(fetcher().get(&mapped, &Leave::default(), LIMITS).await.unwrap_err().word(), "address_refused");
    assert_eq!(host.connections(), 0);
    assert_eq!(get_here(&host.url(), LIMITS).await.unwrap().status, 200);
}

#[tokio::test]
async fn a_cloud_s_secrets_are_not_fetched_by_a_manifest_s_leave() {
    let all: [Network; 2] = ["0.0.0.0/0".parse().unwrap(), "169.254.169.254/32".parse().unwrap()];
    let leave = Leave { manifest: &all, node: &[] };
    let refused = fetcher().get("http://169.254.169.254/latest/", &leave, LIMITS).await.unwrap_err();
    assert!(matches!(refused, FetchError::Address(AddressRefusal::Metadata(_))), "{refused:?}");
}

/// Names that answer as they are told, each time with the next.
#[derive(Debug)]
struct Names(Mutex<VecDeque<Vec<IpAddr>>>);

impl Resolver for Names {
    fn resolve<'a>(&'a self, _name: &'a str, port: u16) -> Resolving<'a> {
        let answer = self.0.lock().unwrap().pop_front().unwrap_or_default();
        Box::pin(async move { io::Result::Ok(answer.into_iter().map(|ip| SocketAddr::new(ip, port)).collect()) })
    }
}

fn resolving(answers: &[&[&str]]) -> Fetcher {
    let answers = answers.iter().map(|answer| answer.iter().map(|text| text.parse().unwrap()).collect());
    Fetcher { resolver: Arc::new(Names(Mutex::new(answers.collect()))), ..fetcher() }
}

#[tokio::test]
async fn every_address_of_a_name_is_checked_and_the_name_is_looked_up_once() {
    let host = Canned::start(EMPTY).await;
    let url = format!("http://rebinding.test:{}/", host.at.port());
    let networks: [Network; 1] = ["127.0.0.1/32".parse().unwrap()];
    let leave = Leave { manifest: &networks, node: &[] };
    let mixed = resolving(&[&["127.0.0.1", "10.0.0.1"]]);
    assert_eq!(mixed.get(&url, &leave, LIMITS).await.unwrap_err().word(), "address_refused");
    assert_eq!(host.connections(), 0);
    // A second look would give an address that is refused.
    let twice = resolving(&[&["127.0.0.1"], &["127.0.0.2"]]);
    assert_eq!(twice.get(&url, &leave, LIMITS).await.unwrap().status, 200);
    let heard = host.heard.lock().unwrap().join("");
    assert!(heard.contains(&format!("host: rebinding.test:{}\r\n", host.at.port())), "{heard}");
    assert_eq!(twice.get(&url, &leave, LIMITS).await.unwrap_err().word(), "address_refused");
    assert_eq!(twice.get(&url, &leave, LIMITS).await, Err(FetchError::NoAddress));
}

#[tokio::test]
async fn plain_text_goes_only_where_a_network_was_named() {
    // Nothing is sent: public and not named, alone or beside one that is named.
    let networks: [Network; 1] = ["127.0.0.1/32".parse().unwrap()];
    let leave = Leave { manifest: &networks, node: &[] };
    for addresses in [&["8.8.8.8"][..], &["127.0.0.1", "8.8.8.8"]] {
        let refused = resolving(&[addresses]).get("http://plain.test/", &leave, LIMITS).await;
        assert_eq!(refused, Err(FetchError::PlainText), "{addresses:?}");
    }
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_takes_no_connection() {
    let host = Canned::start(EMPTY).await;
    let url = format!("http://two.test:{}/", host.at.port());
    let networks: [Network; 1] = ["127.0.0.0/8".parse().unwrap()];
    let leave = Leave { manifest: &networks, node: &[] };
    let fetched = resolving(&[&["127.0.0.2", "127.0.0.1"]]).get(&url, &leave, LIMITS).await;
    assert_eq!(fetched.unwrap().status, 200);
    let refused = resolving(&[&["127.0.0.2"]]).get(&url, &leave, LIMITS).await;
    assert_eq!(refused, Err(FetchError::Unreachable));
}

#[tokio::test]
async fn a_redirect_is_given_as_it_is_and_not_followed() {
    let elsewhere = Canned::start(EMPTY).await;
    let answer = format!("HTTP/1.1 302 Found\r\nlocation: {}\r\ncontent-length: 0\r\n\r\n", elsewhere.url());
    let host = Canned::start(answer).await;
    assert_eq!(get_here(&host.url(), LIMITS).await.unwrap().status, 302);
    assert_eq!((host.connections(), elsewhere.connections()), (1, 0));
}

#[tokio::test]
async fn an_answer_that_is_too_large_is_not_read_to_its_end() {
    let announced = "HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n".to_owned();
    let unannounced = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}", "x".repeat(1_001));
    let chunked = format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{}", "1\r\nx\r\n".repeat(1_001));
    for answer in [announced, unannounced, chunked] {
        let host = Canned::with(answer.clone().into(), None, true).await;
        assert_eq!(get_here(&host.url(), LIMITS).await, Err(FetchError::TooLarge), "{:.60}", answer);
    }
    let exact = Canned::start(format!("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{}", "x".repeat(1_000))).await;
    assert_eq!(get_here(&exact.url(), LIMITS).await.unwrap().body.len(), 1_000);
    let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "x".repeat(4 * HEAD_BYTES_MAX));
    assert_eq!(get_here(&Canned::start(head).await.url(), LIMITS).await, Err(FetchError::Broken));
    let many = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1));
    assert_eq!(get_here(&Canned::start(many).await.url(), LIMITS).await, Err(FetchError::Broken));
}

#[tokio::test]
async fn an_answer_that_does_not_end_in_time_is_not_waited_for() {
    let limits = Limits { wait_max: Duration::from_millis(200), ..LIMITS };
    for answer in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhal"] {
        let host = Canned::with(answer.into(), None, true).await;
        assert_eq!(get_here(&host.url(), limits).await, Err(FetchError::Late), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_whole_plain_answer_is_refused() {
    for (answer, fault) in [
        ("", FetchError::Broken),
        ("SSH-2.0-OpenSSH_9.2\r\n", FetchError::Broken),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhal", FetchError::Broken),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab", FetchError::Broken),
        ("HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nab", FetchError::Encoded),
    ] {
        let host = Canned::start(answer).await;
        assert_eq!(get_here(&host.url(), LIMITS).await, Err(fault), "{answer}");
    }
    let encoded = "HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-length: 2\r\n\r\nab";
    assert_eq!(get_here(&Canned::start(encoded).await.url(), LIMITS).await.unwrap().body, "ab");
}

/// Shows a certificate for `localhost` that it has made itself.
async fn secure(answer: &str) -> (Canned, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let config = builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key.into()).unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    (Canned::with(answer.into(), Some(tls), false).await, cert.pem())
}

#[tokio::test]
async fn a_host_is_believed_by_its_own_name_and_an_authority_that_is_known() {
    let (host, authority) = secure(EMPTY).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authorities.pem");
    std::fs::write(&file, authority).unwrap();
    let knowing = Fetcher::new(Some(&file)).unwrap();
    let networks: [Network; 2] = ["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    let leave = Leave { manifest: &networks, node: &[] };
    let (named, numbered) =
        (format!("https://localhost:{}/", host.at.port()), format!("https://127.0.0.1:{}/", host.at.port()));
    assert_eq!(knowing.get(&named, &leave, LIMITS).await.unwrap().status, 200);
    assert_eq!(knowing.get(&numbered, &leave, LIMITS).await, Err(FetchError::Untrusted));
    assert_eq!(fetcher().get(&named, &leave, LIMITS).await, Err(FetchError::Untrusted));
    assert_eq!(knowing.get(&named, &Leave::default(), LIMITS).await.unwrap_err().word(), "address_refused");
    let plain = Canned::start(EMPTY).await;
    let no_tls = format!("https://127.0.0.1:{}/", plain.at.port());
    assert_eq!(knowing.get(&no_tls, &leave, LIMITS).await, Err(FetchError::Tls));
}

#[test]
fn a_file_without_authorities_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("authorities.pem");
    let fault = |file: &Path| Fetcher::new(Some(file)).unwrap_err().fault;
    assert_eq!(fault(&file), TrustFault::Unreadable);
    std::fs::write(&file, "nothing of that kind").unwrap();
    assert_eq!(fault(&file), TrustFault::Empty);
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    assert_eq!(fault(&file), TrustFault::NotAnAuthority);
}

#[tokio::test]
async fn no_fault_tells_anything_of_an_answer() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2000\r\nx-secret: hush\r\n\r\nhush";
    let fault = get_here(&Canned::start(answer).await.url(), LIMITS).await.unwrap_err();
    assert!(!format!("{fault} {fault:?}").contains("hush"));
    let whole = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhush";
    let fetched = get_here(&Canned::start(whole).await.url(), LIMITS).await.unwrap();
    assert!(!format!("{fetched:?}").contains("hush"));
}
