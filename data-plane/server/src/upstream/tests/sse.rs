//! Servers over HTTP+SSE, good and bad: each fault has its name, nothing is sent twice, and the next call finds a new
//! stream.

use std::sync::{Mutex as StdMutex, atomic::AtomicUsize};

use bailiwick_runtime::OnEnd;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, tcp::OwnedWriteHalf},
};

use super::*;

/// What a server does beside what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Good,
    /// Names an address at another host.
    Foreign,
    /// Says a message where its address should be.
    NoAddress,
    /// Opens no stream.
    NoStream,
    /// Refuses calls: its session is gone.
    Forgets,
    /// Ends its stream when it is called.
    Ends,
}

#[derive(Debug)]
struct SseServer {
    url: String,
    manner: Manner,
    /// The stream that was opened last.
    stream: tokio::sync::Mutex<Option<OwnedWriteHalf>>,
    streams: AtomicUsize,
    calls: AtomicUsize,
    paths: StdMutex<Vec<String>>,
}

impl SseServer {
    async fn start(manner: Manner) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Arc::new(Self {
            url: format!("http://{}/old/sse", listener.local_addr().unwrap()),
            manner,
            stream: tokio::sync::Mutex::default(),
            streams: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            paths: StdMutex::default(),
        });
        let (supervisor, serving) = (Supervisor::new(Shutdown::new()), Arc::clone(&server));
        let connections = supervisor.clone();
        supervisor.spawn("sse-server", OnEnd::Finish, async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Arc::clone(&serving);
                connections.spawn("sse-connection", OnEnd::Finish, async move { server.serve(stream).await });
            }
        });
        server
    }

    /// One request for each connection.
    async fn serve(&self, mut stream: TcpStream) {
        let mut read = Vec::new();
        let (head, length) = loop {
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
            let text = String::from_utf8_lossy(&read).into_owned();
            let Some((head, _)) = text.split_once("\r\n\r\n") else { continue };
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            break (head.to_owned(), length.unwrap_or(0));
        };
        let body_at = head.len() + 4;
        while read.len() < body_at + length {
            if stream.read_buf(&mut read).await.unwrap_or(0) == 0 {
                return;
            }
        }
        if head.starts_with("GET") {
            return self.open(stream).await;
        }
        self.paths.lock().unwrap().push(head.split(' ').nth(1).unwrap_or_default().to_owned());
        let message: Value = serde_json::from_slice(&read[body_at..]).unwrap();
        let refuses = self.manner == Manner::Forgets && message["method"] == "tools/call";
        let status = if refuses { "404 Not Found" } else { "202 Accepted" };
        let reply = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(reply.as_bytes()).await.unwrap();
        if !refuses {
            self.answer(&message).await;
        }
    }

    async fn open(&self, mut stream: TcpStream) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let kind = if self.manner == Manner::NoStream { "text/html" } else { "text/event-stream" };
        let address = match self.manner {
            Manner::Foreign => "http://169.254.169.254/latest/meta-data",
            Manner::NoAddress => r#"{"jsonrpc":"2.0","method":"notifications/message"}"#,
            _ => "messages?session=1",
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\n\r\nevent: endpoint\ndata: {address}\n\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut reading, writing) = stream.into_split();
        *self.stream.lock().await = Some(writing);
        let _ends = reading.read(&mut [0]).await;
    }

    async fn answer(&self, message: &Value) {
        let result = match message["method"].as_str() {
            Some("initialize") => json!({"protocolVersion": "2024-11-05", "capabilities": {}, "serverInfo": {}}),
            Some("tools/call") => {
                self.calls.fetch_add(1, Ordering::Relaxed);
                if self.manner == Manner::Ends {
                    *self.stream.lock().await = None;
                    return;
                }
                json!({"called": true})
            }
            _ => Value::Null,
        };
        if message["id"].is_null() {
            return;
        }
        let answer = match result {
            Value::Null => json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": -32601, "message": "?"}}),
            result => json!({"jsonrpc": "2.0", "id": message["id"], "result": result}),
        };
        let event = format!("event: message\ndata: {answer}\n\n");
        if let Some(stream) = self.stream.lock().await.as_mut() {
            stream.write_all(event.as_bytes()).await.unwrap();
        }
    }

    fn server(&self) -> Server {
        Server { transport: "sse".into(), timeout_ms: 5_000, ..server(&self.url) }
    }
}

#[tokio::test]
async fn calls_go_where_the_stream_says_and_come_back_on_it() {
    let (upstream, fake) = (upstream(), SseServer::start(Manner::Good).await);
    let server = fake.server();
    let calls = (0..20).map(|_| ask_server(&upstream, &server));
    for answer in futures::future::join_all(calls).await {
        assert_eq!(answer.unwrap(), r#"{"called":true}"#);
    }
    assert_eq!(ask_as(&upstream, &fake.server(), "joe").await.unwrap(), r#"{"called":true}"#);
    assert_eq!(fake.streams.load(Ordering::Relaxed), 2, "one for each caller");
    assert!(fake.paths.lock().unwrap().iter().all(|path| path == "/old/messages?session=1"));
}

#[tokio::test]
async fn a_server_that_names_no_address_of_its_own_is_sent_nothing() {
    for manner in [Manner::Foreign, Manner::NoAddress, Manner::NoStream] {
        let (upstream, fake) = (upstream(), SseServer::start(manner).await);
        let fault = ask_server(&upstream, &fake.server()).await.unwrap_err();
        assert_eq!(fault.reason().as_str(), "upstream_invalid", "{manner:?}: {fault}");
        assert!(fake.paths.lock().unwrap().is_empty(), "{manner:?}");
    }
}

#[tokio::test]
async fn what_was_under_way_when_a_stream_ends_is_not_asked_again() {
    let (upstream, fake) = (upstream(), SseServer::start(Manner::Ends).await);
    for times in 1..=2 {
        let fault = ask_server(&upstream, &fake.server()).await.unwrap_err();
        assert_eq!(fault.reason().as_str(), "upstream_unreachable", "{fault}");
        assert_eq!(fake.calls.load(Ordering::Relaxed), times);
    }
}

#[tokio::test]
async fn a_session_that_a_server_forgot_is_begun_again_once() {
    let (upstream, fake) = (upstream(), SseServer::start(Manner::Forgets).await);
    let fault = ask_server(&upstream, &fake.server()).await.unwrap_err();
    assert_eq!(fault, UpstreamFault::SessionGone);
    assert_eq!(fake.streams.load(Ordering::Relaxed), 2);
}
