//! How often memory is asked for to carry one call through: a figure that no machine's load changes.
//!
//! The node under test has a thread of its own, which runs nothing else; client, server, control plane and ledger are on
//! others. What a node does by itself meanwhile (heads, batches for the ledger) is counted with the calls.

use std::thread;

use tokio::sync::oneshot;

use super::*;

/// Calls before counting: caches, pools and buffers have their size then.
const WARM_UP: usize = 200;
/// Calls that are counted.
const COUNTED: u64 = 500;
/// Allocations a call may cost. It may only be lowered.
const ALLOCATIONS_MAX: u64 = 228;

#[test]
fn a_call_asks_for_memory_no_more_often_than_it_did() {
    let others = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stream = EventStream::in_process();
    let (server, control, _ledger) = others.block_on(async {
        let server = FakeServer::start(Speaks::Modern).await;
        let control = FakeControlPlane::start(entries(&server.url, PERMIT_READS, true)).await;
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
    others.block_on(async {
        let (url, client) = (is_up.await.unwrap(), Client::new());
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
        enough.send(()).unwrap();
    });
    let counted = node.join().unwrap();
    let (each, bytes) = (counted.count_total / COUNTED, counted.bytes_total / COUNTED);
    println!("{each} allocations and {bytes} bytes a call");
    assert!(each <= ALLOCATIONS_MAX, "{each} allocations a call, of {bytes} bytes");
    drop(server);
}
