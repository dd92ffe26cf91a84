//! How servers are reached: what they are shown, where they may be, what is sent again, and when they are left alone.

use std::{collections::VecDeque, io, net::SocketAddr, sync::Mutex};

use bailiwick_proto::v1::{Credential, NamedSecret, Retry};
use futures::future::join_all;

use super::*;
use crate::upstream::guard::Resolving;

/// Names whose addresses change from one look to the next; the last answer stays.
#[derive(Debug, Default)]
struct Names {
    answers: Mutex<VecDeque<Vec<&'static str>>>,
    asked: AtomicU64,
}

impl Names {
    fn new(answers: &[&[&'static str]]) -> Arc<Self> {
        let answers = answers.iter().map(|answer| answer.to_vec()).collect();
        Arc::new(Self { answers: Mutex::new(answers), asked: AtomicU64::new(0) })
    }
}

impl Resolver for Names {
    fn resolve<'a>(&'a self, _: &'a str, port: u16) -> Resolving<'a> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        let addresses =
            answer.unwrap().into_iter().map(|address| SocketAddr::new(address.parse().unwrap(), port)).collect();
        Box::pin(async move { io::Result::Ok(addresses) })
    }
}

fn secrets(values: &[(&str, &str)]) -> Vec<NamedSecret> {
    values.iter().map(|(name, value)| NamedSecret { name: (*name).into(), value: (*value).into() }).collect()
}

/// The same server under a name of its own.
fn named(url: &str) -> String {
    url.replace("127.0.0.1", "rebinding.test")
}

#[tokio::test]
async fn a_name_that_answers_with_another_address_the_second_time_gains_nothing() {
    let fake = FakeServer::start(Speaks::Modern).await;
    let names = Names::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let limits = UpstreamConfig { allowed_networks: vec!["127.0.0.1/32".into()], ..UpstreamConfig::default() };
    let upstream = upstream_within(limits, Means { resolver: Some(names.clone()), ..Means::default() });
    // Each request has a connection of its own, as no connection is kept for long.
    let to = Server { idle_timeout_ms: 1, ..server(&named(&fake.url)) };
    linked(&upstream, &to, "jane");
    ask_server(&upstream, &to).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    let fault = ask_server(&upstream, &to).await.unwrap_err();
    assert!(matches!(&fault, UpstreamFault::AddressRefused(why) if why.contains("127.0.0.2")), "{fault}");
    assert_eq!(fake.seen("tools/call").len(), 1);
    assert_eq!(fault.reason().as_str(), "upstream_address_refused");
}

#[tokio::test]
async fn public_and_internal_addresses_of_one_name_are_refused_together_and_nothing_is_sent() {
    let fake = FakeServer::start(Speaks::Modern).await;
    for answer in [&["203.0.114.1", "127.0.0.1"][..], &["::ffff:127.0.0.1"], &["169.254.169.254"]] {
        let means = Means { resolver: Some(Names::new(&[answer])), ..Means::default() };
        let upstream = upstream_within(UpstreamConfig::default(), means);
        let fault = ask(&upstream, &named(&fake.url)).await.unwrap_err();
        assert!(matches!(fault, UpstreamFault::AddressRefused(_)), "{answer:?}: {fault}");
    }
    let literal = ask(&upstream_within(UpstreamConfig::default(), Means::default()), &fake.url).await.unwrap_err();
    assert!(matches!(literal, UpstreamFault::AddressRefused(_)), "{literal}");
    assert!(fake.seen("server/discover").is_empty());
    let upstream = upstream_within(UpstreamConfig::default(), Means::default());
    let said = Server { networks: vec!["127.0.0.0/8".into()], ..server(&fake.url) };
    ask_server(&upstream, &said).await.unwrap();
}

#[tokio::test]
async fn a_server_that_redirects_is_told_so_and_not_followed() {
    let (fake, upstream) = (FakeServer::start(Speaks::Modern).await, upstream());
    ask(&upstream, &fake.url).await.unwrap();
    fake.set(Mode::Redirect);
    assert_eq!(ask(&upstream, &fake.url).await, Err(UpstreamFault::Redirected(307)));
    assert_eq!(fake.seen("tools/call").len(), 2);
}

#[tokio::test]
async fn a_server_is_shown_the_present_secret_and_asked_nothing_without_one() {
    let fake = FakeServer::start(Speaks::Legacy).await;
    let credentials = Arc::new(Credentials::default());
    let upstream = upstream_within(loopback(), Means { credentials: Arc::clone(&credentials), ..Means::default() });
    let shown = |header: &str, scheme: &str| {
        let credential = Credential { secret: "key".into(), header: header.into(), scheme: scheme.into() };
        Server { credential: Some(credential), ..server(&fake.url) }
    };
    let bearer = shown("authorization", "Bearer");
    let missing = ask_server(&upstream, &bearer).await.unwrap_err();
    assert_eq!((missing.reason().as_str(), fake.seen("server/discover").len()), ("credential_missing", 0));
    for value in ["one", "two"] {
        credentials.replace(&secrets(&[("key", value), ("other", "x")]));
        ask_server(&upstream, &bearer).await.unwrap();
        let seen = fake.seen("tools/call").pop().unwrap();
        assert_eq!(seen.headers["authorization"], format!("Bearer {value}"));
        assert_eq!(seen.headers.get_all("authorization").iter().count(), 1);
    }
    ask_server(&upstream, &shown("x-api-key", "")).await.unwrap();
    let seen = fake.seen("tools/call").pop().unwrap();
    assert_eq!((seen.headers["x-api-key"].to_str().unwrap(), seen.headers.get("authorization")), ("two", None));
    credentials.replace(&secrets(&[("key", "a\nb")]));
    let unfit = ask_server(&upstream, &bearer).await.unwrap_err();
    assert!(!unfit.to_string().contains("a\nb") && matches!(unfit, UpstreamFault::Unusable(_)));
    credentials.replace(&[]);
    let before = fake.seen("tools/call").len();
    assert_eq!(ask_server(&upstream, &bearer).await, Err(UpstreamFault::NoCredential("key".into())));
    assert_eq!(fake.seen("tools/call").len(), before);
    assert!(
        fake.seen("server/discover")
            .iter()
            .all(|seen| seen.headers.contains_key("authorization") || seen.headers.contains_key("x-api-key"))
    );
}

#[tokio::test]
async fn a_server_whose_connections_fail_is_left_alone_until_it_answers_again() {
    let fake = FakeServer::start(Speaks::Modern).await;
    let upstream =
        upstream_within(UpstreamConfig { breaker_faults: 3, breaker_pause_ms: 60, ..loopback() }, Means::default());
    ask(&upstream, &fake.url).await.unwrap();
    for mode in [Mode::ToolError, Mode::Status(500), Mode::Malformed, Mode::Huge, Mode::Redirect] {
        fake.set(mode);
        for _ in 0..4 {
            assert!(!matches!(ask(&upstream, &fake.url).await, Err(UpstreamFault::Suspended(_))), "{mode:?}");
        }
    }
    fake.set(Mode::Status(503));
    for _ in 0..3 {
        assert_eq!(ask(&upstream, &fake.url).await, Err(UpstreamFault::Status(503)));
    }
    let before = fake.seen("tools/call").len();
    let suspended = ask(&upstream, &fake.url).await.unwrap_err();
    assert_eq!((suspended.reason().as_str(), fake.seen("tools/call").len()), ("upstream_suspended", before));
    fake.set(Mode::Good);
    let until = Instant::now() + Duration::from_secs(10);
    while ask(&upstream, &fake.url).await.is_err() {
        assert!(Instant::now() < until, "the server was never tried again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ask(&upstream, &fake.url).await.unwrap();
}

#[tokio::test]
async fn silence_is_a_fault_and_a_client_that_goes_away_says_nothing() {
    let fake = FakeServer::start(Speaks::Modern).await;
    let upstream =
        upstream_within(UpstreamConfig { breaker_faults: 2, breaker_pause_ms: 60_000, ..loopback() }, Means::default());
    let hasty = Server { timeout_ms: 100, ..server(&fake.url) };
    ask_server(&upstream, &hasty).await.unwrap();
    fake.set(Mode::Hang);
    for _ in 0..4 {
        let gone = tokio::time::timeout(Duration::from_millis(20), ask_server(&upstream, &hasty)).await;
        assert!(gone.is_err(), "{gone:?}");
    }
    for _ in 0..2 {
        assert_eq!(ask_server(&upstream, &hasty).await, Err(UpstreamFault::Timeout(100)));
    }
    assert!(matches!(ask_server(&upstream, &hasty).await, Err(UpstreamFault::Suspended(_))));
}

#[tokio::test]
async fn so_many_requests_are_under_way_so_many_wait_and_others_have_theirs() {
    let (fake, other) = (FakeServer::start(Speaks::Modern).await, FakeServer::start(Speaks::Modern).await);
    let upstream = upstream();
    let narrow = Server { connections: 1, waiting: Some(1), timeout_ms: 300, ..server(&fake.url) };
    let wide = Server { name: "other".into(), ..server(&other.url) };
    ask_server(&upstream, &narrow).await.unwrap();
    fake.set(Mode::Hang);
    let stuck = join_all((0..3).map(|_| ask_server(&upstream, &narrow)));
    let good = async {
        for _ in 0..20 {
            ask_server(&upstream, &wide).await.unwrap();
        }
    };
    let (stuck, ()) = tokio::join!(stuck, good);
    assert_eq!(stuck.iter().filter(|answer| **answer == Err(UpstreamFault::Busy)).count(), 1, "{stuck:?}");
    assert_eq!(fake.seen("tools/call").len(), 2, "one was under way, one waited in vain");
    fake.set(Mode::Good);
    ask_server(&upstream, &narrow).await.unwrap();
}

/// Links `user` to a modern server that breaks every connection.
fn linked(upstream: &Upstream, to: &Server, user: &str) {
    let known = upstream.known(to);
    let peer = Peer::linked_to_modern(known.origin.as_ref().unwrap(), upstream.room.clone());
    known.peers().insert(principal(user), Arc::new(peer));
}

#[tokio::test]
async fn only_what_may_be_done_twice_is_sent_again_and_only_where_the_manifest_says_so() {
    for (annotations, attempts, sent) in [
        (r#"{"readOnlyHint":true}"#, 3, 3),
        (r#"{"idempotentHint":true}"#, 2, 2),
        (r#"{"idempotentHint":true}"#, 1, 1),
        (r#"{"destructiveHint":false}"#, 3, 1),
        ("{}", 3, 1),
    ] {
        let (address, count, stop) = raw_server(b"").await;
        let upstream = upstream();
        let retry = Retry { attempts, pause_ms: 1 };
        let to = Server { retry: Some(retry), ..server(&format!("http://{address}/mcp")) };
        linked(&upstream, &to, "jane");
        let definition = format!(r#"{{"name":"query_data","annotations":{annotations}}}"#);
        let permitted = call_of("{}", RawValue::from_string(definition).ok());
        let (id, principal) = (upstream.next_id(), principal("jane"));
        let answer = upstream.call(&to, &principal, &permitted, &id, Aside::default()).await;
        assert!(matches!(answer, Err(UpstreamFault::Unreachable(_))), "{answer:?}");
        assert_eq!(count.load(Ordering::SeqCst), sent, "{annotations} {attempts}");
        stop.request();
    }
}

#[tokio::test]
async fn what_never_left_is_sent_again_whatever_it_does() {
    let (closed, _held) = fakes::closed();
    let names = Names::new(&[&["127.0.0.1"]]);
    let upstream = upstream_within(loopback(), Means { resolver: Some(names.clone()), ..Means::default() });
    let retry = Some(Retry { attempts: 3, pause_ms: 1 });
    let to = Server { retry, ..server(&format!("http://refusing.test:{}/mcp", closed.port())) };
    linked(&upstream, &to, "jane");
    let (id, principal, permitted) = (upstream.next_id(), principal("jane"), call("{}"));
    let answer = upstream.call(&to, &principal, &permitted, &id, Aside::default()).await;
    assert!(matches!(answer, Err(UpstreamFault::Unreachable(_))), "{answer:?}");
    assert_eq!(names.asked.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_connection_that_the_server_closed_meanwhile_costs_nobody_a_call() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 36\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":{}}";
    let (address, count, stop) = raw_server(answer).await;
    let (upstream, to) = (upstream(), server(&format!("http://{address}/mcp")));
    linked(&upstream, &to, "jane");
    for round in 1..=5 {
        let permitted = call("{}");
        let asked = upstream.call(&to, &principal("jane"), &permitted, &RequestId::from(1), Aside::default()).await;
        assert!(asked.is_ok(), "{asked:?}");
        assert_eq!(count.load(Ordering::SeqCst), round, "each was sent once");
    }
    stop.request();
}
