//! How often memory is asked for to carry one call through, and how much an idle stream holds: figures that no machine's
//! load changes.
//!
//! The node under test has a thread of its own, which runs nothing else; client, server, control plane and ledger are on
//! others. What a node does by itself meanwhile (heads, batches for the ledger) is counted with the rest.

use std::thread;

use allocation_counter::AllocationInfo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
};

use super::*;
use crate::listening::STREAMS_OF_ONE_MAX;

/// Calls before counting: caches, pools and buffers have their size then.
const WARM_UP: usize = 200;
/// Calls that are counted.
const COUNTED: u64 = 500;
/// Allocations a call may cost. It may only be lowered.
const ALLOCATIONS_MAX: u64 = 228;

/// Streams before counting.
const STREAMS_BEFORE: usize = 8;
/// Streams that are counted: with those before, all that one caller may have.
const STREAMS: usize = STREAMS_OF_ONE_MAX - STREAMS_BEFORE;
/// Bytes an idle stream of a legacy client may hold, with its connection. It may only be lowered.
const STREAM_BYTES_MAX: usize = 8_400;

#[test]
fn a_call_asks_for_memory_no_more_often_than_it_did() {
    let counted = counted(async |url, count| {
        let client = Client::new();
        let token = token(&claims());
        let call = async || {
            let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"t","version":"1"}}"#;
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"query_data","arguments":{{"q":1.50}},{meta}}}}}"#
            );
            let request = client.post(format!("{url}/mcp/finance")).bearer_auth(&token).body(body);
            let request = request.header("content-type", "application/json").header("mcp-name", "query_data");
            let request = request.header("accept", "application/json, text/event-stream");
            let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/call");
            let (status, answer) = json_of(request.send().await.unwrap()).await;
            assert!(status == 200 && answer["result"].is_object(), "{answer}");
        };
        for _ in 0..WARM_UP {
            call().await;
        }
        count.send(()).unwrap();
        for _ in 0..COUNTED {
            call().await;
        }
    });
    let (each, bytes) = (counted.count_total / COUNTED, counted.bytes_total / COUNTED);
    println!("{each} allocations and {bytes} bytes a call");
    assert!(each <= ALLOCATIONS_MAX, "{each} allocations a call, of {bytes} bytes");
}

#[test]
fn an_idle_stream_holds_no_more_memory_than_it_did() {
    let counted = counted(async |url, count| {
        let mut streams = Vec::new();
        for _ in 0..STREAMS_BEFORE {
            streams.push(listen(&url).await);
        }
        count.send(()).unwrap();
        for _ in 0..STREAMS {
            streams.push(listen(&url).await);
        }
        streams
    });
    let held = |all: i64| usize::try_from(all).unwrap() / STREAMS;
    let (bytes, allocations) = (held(counted.bytes_current), held(counted.count_current));
    println!("{bytes} bytes in {allocations} allocations a stream");
    assert!(bytes <= STREAM_BYTES_MAX, "{bytes} bytes a stream, in {allocations} allocations");
}

/// What a node asks for between the word of `work` and its end; what `work` gives is kept until that is counted.
fn counted<T>(work: impl AsyncFnOnce(String, oneshot::Sender<()>) -> T) -> AllocationInfo {
    let others = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stream = EventStream::in_process();
    let (server, control, _ledger) = others.block_on(async {
        let server = FakeServer::start(Speaks::Modern).await;
        let mut entries = entries(&server.url, PERMIT_READS, true);
        // Whether a consent is narrowed to tools costs a call nothing.
        entries.retain(|entry| !entry.key.starts_with("consent/"));
        entries.push(narrowed(&["finance/create_charge", "finance/query_data"]));
        let control = FakeControlPlane::start(entries).await;
        (server, control, FakeLedger::start(&stream).await)
    });
    let (up, is_up) = oneshot::channel();
    let (count, counts) = oneshot::channel();
    let (enough, was_enough) = oneshot::channel();
    let control_plane = control.url.clone();
    let node = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut node = runtime.block_on(async {
            let node = Node::start(&control_plane, stream).await;
            eventually("ready", || node.running.as_ref().unwrap().is_ready()).await;
            node
        });
        up.send(node.url.clone()).unwrap();
        runtime.block_on(counts).unwrap();
        let counted = allocation_counter::measure(|| runtime.block_on(was_enough).unwrap());
        runtime.block_on(node.stop());
        counted
    });
    let kept = others.block_on(async {
        let kept = work(is_up.await.unwrap(), count).await;
        enough.send(()).unwrap();
        kept
    });
    let counted = node.join().unwrap();
    drop((kept, server));
    counted
}

/// A legacy client's stream, in a session and over a connection of its own, once the node has said something on it.
async fn listen(url: &str) -> TcpStream {
    let mut client = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let head = format!(
        "/mcp/finance HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nuser-agent: a client of some name/1.0\r\n\
         accept: application/json, text/event-stream\r\nmcp-protocol-version: 2025-11-25\r\n",
        token(&claims())
    );
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": "2025-11-25",
        "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
    .to_string();
    let bytes = body.len();
    let asked = format!("POST {head}content-type: application/json\r\ncontent-length: {bytes}\r\n\r\n{body}");
    let opened = said(&mut client, &asked, "}}").await;
    let session = opened.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).unwrap();
    said(&mut client, &format!("GET {head}mcp-session-id: {session}\r\n\r\n"), "\n\n\r\n").await;
    client
}

/// What comes back for this, until `enough` is there.
async fn said(client: &mut TcpStream, asked: &str, enough: &str) -> String {
    client.write_all(asked.as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with(enough) {
        let mut piece = [0; 4096];
        let read = client.read(&mut piece).await.unwrap();
        assert!(read > 0, "{answer}");
        answer += std::str::from_utf8(&piece[..read]).unwrap();
    }
    answer
}
