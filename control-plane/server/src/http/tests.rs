//! What the listener does with strangers, over real sockets of this machine.
//!
//! Bounds on time are short where a test waits for them to pass, and long where they must not; nothing is decided by
//! which of two is faster.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Extension, Router,
    body::Body,
    http::Request,
    middleware,
    routing::{get, post},
};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor, metrics::Registry};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use super::{
    address::{ClientAddress, Proxies},
    connection::Patience,
    connections::{self, Terms},
};
use crate::{
    config::{ControlPlaneConfig, HttpLimits},
    metrics::Metrics,
    oauth::limits::{Limits, limit},
};

/// Longer than anything here takes; only a failing test waits for so long.
const FOREVER: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);
const PATIENT: Patience = Patience { head_max: FOREVER, idle_max: FOREVER, age_max: FOREVER, grace_max: FOREVER };
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const ONE: &str = "127.0.0.1";
const TWO: &str = "127.0.0.2";

struct Front {
    at: SocketAddr,
    supervisor: Supervisor,
    registry: Registry,
    /// Requests of `/wait` that have begun.
    begun: Arc<Semaphore>,
    /// Lets one of them end.
    go_on: Arc<Semaphore>,
}

impl Drop for Front {
    fn drop(&mut self) {
        self.supervisor.shutdown().request();
    }
}

fn terms(patience: Patience) -> Terms {
    Terms { patience, ..Terms::of(&ControlPlaneConfig::default()) }
}

impl Front {
    async fn start(terms: Terms) -> Self {
        Self::with(terms, HttpLimits::default()).await
    }

    async fn with(terms: Terms, limits: HttpLimits) -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (at, registry) = (listener.local_addr().unwrap(), Registry::new());
        let metrics = Metrics::register(&registry);
        let (begun, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
        let (tell, gate) = (begun.clone(), go_on.clone());
        let wait = move || async move {
            tell.add_permits(1);
            gate.acquire().await.unwrap().forget();
            "went on"
        };
        let limits = middleware::from_fn_with_state(Limits::new(&limits, metrics.clone()), limit);
        let app = Router::new()
            .route("/read", post(async |body: String| body))
            .layer(limits)
            .route("/who", get(async |Extension(ClientAddress(address)): Extension<ClientAddress>| address.to_string()))
            .route("/wait", get(wait))
            .route("/fault", get(async |_: Request<Body>| -> &'static str { panic!("on purpose") }));
        let supervisor = Supervisor::new(Shutdown::new());
        let next = move || {
            let listener = listener.clone();
            async move { listener.accept().await }
        };
        let serving = connections::serve(next, app, terms, metrics, supervisor.clone());
        supervisor.spawn("http", OnEnd::Critical, serving);
        Self { at, supervisor, registry, begun, go_on }
    }

    async fn connect(&self, from: &str) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(from.parse::<IpAddr>().unwrap(), 0)).unwrap();
        Client(socket.connect(self.at).await.unwrap())
    }

    fn counted(&self, limit: &str) -> String {
        let (rendered, name) = (self.registry.render(), format!("http_turned_away_total{{limit=\"{limit}\"}} "));
        rendered.lines().find_map(|line| Some(line.split_once(&name)?.1.to_owned())).unwrap_or_default()
    }
}

struct Client(TcpStream);

impl Client {
    async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }

    /// The head and the body of an answer; none when the connection is over.
    async fn hear(&mut self) -> Option<(String, String)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(FOREVER, self.0.read_u8()).await.expect("an answer in time").ok()?);
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        let mut body = vec![0; length.parse().unwrap()];
        self.0.read_exact(&mut body).await.unwrap();
        Some((head, String::from_utf8(body).unwrap()))
    }

    /// What a GET is answered.
    async fn ask(&mut self, path: &str, headers: &str) -> Option<(String, String)> {
        drop(self.0.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\n").as_bytes()).await);
        self.hear().await
    }

    /// What comes until the connection ends, which it must.
    async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match timeout(FOREVER, self.0.read_to_end(&mut rest)).await.expect("the connection ends") {
            Err(error) if error.kind() != io::ErrorKind::ConnectionReset => panic!("{error}"),
            _ => rest,
        }
    }
}

/// Asks again on new connections until it is answered.
async fn until_answered(front: &Front, from: &str) {
    let asking = async {
        while front.connect(from).await.ask("/who", "").await.is_none() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(FOREVER, asking).await.expect("there is a place in the end");
}

#[tokio::test]
async fn who_does_not_come_to_the_end_of_a_head_is_let_go_in_every_protocol() {
    let front = Front::start(terms(Patience { head_max: SHORT, grace_max: SHORT, ..PATIENT })).await;
    for said in [&b""[..], b"GET /who HTTP/1.1\r\nhost: x\r\nx: ", &PREFACE[..20], PREFACE] {
        let mut client = front.connect(ONE).await;
        client.say(said).await;
        let rest = client.rest().await;
        assert!(!String::from_utf8_lossy(&rest).contains("200 OK"), "{rest:?}");
    }
    let mut client = front.connect(ONE).await;
    assert_eq!(client.ask("/who", "").await.unwrap().1, ONE);
    client.rest().await;
}

#[tokio::test]
async fn a_connection_on_which_nothing_is_asked_ends_but_not_before_it_is_answered() {
    let front = Front::start(terms(Patience { idle_max: SHORT, ..PATIENT })).await;
    let mut client = front.connect(ONE).await;
    client.say("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    front.begun.acquire().await.unwrap().forget();
    // It would end here if a request under way counted as nothing.
    tokio::time::sleep(SHORT * 4).await;
    front.go_on.add_permits(1);
    assert_eq!(client.hear().await.unwrap().1, "went on");
    client.rest().await;
}

#[tokio::test]
async fn an_old_connection_ends_whatever_it_does() {
    let front = Front::start(terms(Patience { age_max: SHORT, ..PATIENT })).await;
    let mut client = front.connect(ONE).await;
    let asking = async { while client.ask("/who", "").await.is_some() {} };
    timeout(FOREVER, asking).await.expect("the connection ends");
    let front = Front::start(terms(Patience { age_max: SHORT, grace_max: SHORT, ..PATIENT })).await;
    let mut client = front.connect(ONE).await;
    assert_eq!(client.ask("/wait", "").await, None, "it is cut when it does not finish");
}

#[tokio::test]
async fn connections_are_bounded_in_all_and_for_each_address() {
    let front = Front::start(Terms { connections_max: 3, connections_each_max: 2, ..terms(PATIENT) }).await;
    let (mut first, mut second, mut other) =
        (front.connect(ONE).await, front.connect(ONE).await, front.connect(TWO).await);
    assert!(first.ask("/who", "").await.is_some() && second.ask("/who", "").await.is_some());
    assert_eq!(front.connect(ONE).await.ask("/who", "").await, None, "an address has its share");
    assert_eq!(front.counted("connections_per_address"), "1");
    assert_eq!(other.ask("/who", "").await.unwrap().1, TWO, "that does not concern others");
    assert_eq!(front.connect("127.0.0.3").await.ask("/who", "").await, None, "all are taken");
    assert_eq!(front.counted("connections"), "1");
    drop(first);
    until_answered(&front, "127.0.0.3").await;
    assert!(second.ask("/who", "").await.is_some() && other.ask("/who", "").await.is_some());
}

#[tokio::test]
async fn a_proxy_may_have_all_connections_and_says_whose_a_request_is() {
    let proxies = Proxies::new(vec!["127.0.0.1/32".parse().unwrap()]);
    let front = Front::start(Terms { connections_each_max: 1, proxies, ..terms(PATIENT) }).await;
    let (mut first, mut second) = (front.connect(ONE).await, front.connect(ONE).await);
    let told = "x-forwarded-for: 203.0.113.9, 198.51.100.7\r\n";
    assert_eq!(first.ask("/who", told).await.unwrap().1, "198.51.100.7");
    assert_eq!(second.ask("/who", "x-forwarded-for: me\r\n").await.unwrap().1, ONE);
    assert_eq!(first.ask("/who", "").await.unwrap().1, ONE, "for each request anew");
    let mut stranger = front.connect(TWO).await;
    assert_eq!(stranger.ask("/who", told).await.unwrap().1, TWO, "nobody else is believed");
}

#[tokio::test]
async fn slow_bodies_of_one_address_take_its_share_and_leave_the_rest_to_others() {
    let limits = HttpLimits { requests_at_once: 2, ..HttpLimits::default() };
    let front = Front::with(terms(PATIENT), limits).await;
    let request = "POST /read HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n";
    let (mut first, mut second) = (front.connect(ONE).await, front.connect(ONE).await);
    first.say(format!("{request}sl")).await;
    second.say(format!("{request}sl")).await;
    let asking = async {
        loop {
            let mut third = front.connect(ONE).await;
            third.say(format!("{request}slow")).await;
            let (head, body) = third.hear().await.unwrap();
            if head.starts_with("HTTP/1.1 429 ") {
                break (head, body);
            }
        }
    };
    let (head, body) = timeout(FOREVER, asking).await.expect("the share is taken in the end");
    assert!(head.contains("retry-after: 1\r\n") && head.contains("cache-control: no-store\r\n"), "{head}");
    assert!(body.contains("\"error\":\"temporarily_unavailable\""), "{body}");
    assert_eq!(front.counted("share"), "1");
    let mut other = front.connect(TWO).await;
    other.say(format!("{request}fast")).await;
    assert_eq!(other.hear().await.unwrap().1, "fast");
    first.say("ow").await;
    assert_eq!(first.hear().await.unwrap().1, "slow");
}

#[tokio::test]
async fn at_shutdown_requests_are_answered_and_nothing_new_comes_in() {
    let front = Front::start(terms(PATIENT)).await;
    let (mut busy, mut idle) = (front.connect(ONE).await, front.connect(ONE).await);
    assert!(idle.ask("/who", "").await.is_some());
    busy.say("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    front.begun.acquire().await.unwrap().forget();
    front.supervisor.shutdown().request();
    assert_eq!(idle.rest().await, b"", "an idle connection ends at once");
    let refused = async {
        while TcpStream::connect(front.at).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(FOREVER, refused).await.expect("nobody is accepted any more");
    front.go_on.add_permits(1);
    let (head, body) = busy.hear().await.unwrap();
    assert!(head.contains("connection: close\r\n") && body == "went on", "{head}");
    assert_eq!(timeout(FOREVER, front.supervisor.ended()).await, Ok(Ok(())));
}

#[tokio::test]
async fn a_shutdown_does_not_wait_for_ever() {
    let front = Front::start(terms(Patience { grace_max: SHORT, ..PATIENT })).await;
    let mut busy = front.connect(ONE).await;
    busy.say("GET /wait HTTP/1.1\r\nhost: x\r\n\r\n").await;
    front.begun.acquire().await.unwrap().forget();
    front.supervisor.shutdown().request();
    assert_eq!(timeout(FOREVER, front.supervisor.ended()).await, Ok(Ok(())));
    assert_eq!(busy.rest().await, b"");
}

#[tokio::test]
async fn a_fault_of_ours_costs_one_answer() {
    let front = Front::start(terms(PATIENT)).await;
    let mut client = front.connect(ONE).await;
    let (head, body) = client.ask("/fault", "").await.unwrap();
    assert!(head.starts_with("HTTP/1.1 500 ") && body.contains("server_error"), "{head}{body}");
    assert!(client.ask("/who", "").await.is_some());
    assert!(!front.supervisor.shutdown().is_requested());
}

#[tokio::test]
async fn http2_is_spoken_with_a_bound_on_requests_at_once() {
    let front = Front::start(terms(PATIENT)).await;
    let mut client = front.connect(ONE).await;
    client.say(PREFACE).await;
    let mut head = [0; 9];
    client.0.read_exact(&mut head).await.unwrap();
    assert_eq!(head[3], 4, "SETTINGS come first");
    let mut settings = vec![0; usize::from(head[2])];
    client.0.read_exact(&mut settings).await.unwrap();
    let streams = settings.chunks(6).find(|setting| setting[..2] == [0, 3]).map(|setting| setting[5]);
    assert_eq!(streams, Some(100));
}

#[tokio::test(start_paused = true)]
async fn accepting_pauses_while_the_system_gives_no_connection() {
    const NO_FILE_LEFT: i32 = 24;
    let (asked, began) = (Arc::new(AtomicUsize::new(0)), tokio::time::Instant::now());
    let supervisor = Supervisor::new(Shutdown::new());
    let (count, stop) = (asked.clone(), supervisor.shutdown().clone());
    let next = move || {
        let (number, stop) = (count.fetch_add(1, Ordering::Relaxed), stop.clone());
        async move {
            match number {
                0..10 => Err(io::Error::from(io::ErrorKind::ConnectionAborted)),
                10..13 => Err(io::Error::from_raw_os_error(NO_FILE_LEFT)),
                _ => {
                    stop.request();
                    std::future::pending().await
                }
            }
        }
    };
    let metrics = Metrics::register(&Registry::new());
    connections::serve(next, Router::new(), terms(PATIENT), metrics, supervisor).await;
    assert_eq!(asked.load(Ordering::Relaxed), 14);
    assert_eq!(began.elapsed().as_millis() / 100, 3, "a pause after each, and none for a connection that was lost");
}
