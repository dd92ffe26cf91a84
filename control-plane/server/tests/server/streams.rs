//! Streams: how nodes follow the configuration, and how events reach the ledger.

use std::time::Duration;

use bailiwick_ledger_core::{
    chain::ChainVerifier,
    record::{Kind, Record},
};
use bailiwick_proto::{
    subjects::{self, CONTROL, CONTROL_NODE},
    v1,
};
use bailiwick_runtime::{EventStream, event_stream::Consumer};
use prost::Message as _;
use tempfile::TempDir;

use crate::support::{DataPlane, MANIFESTS, Node, WAIT_MAX, register, user};

/// Pause before records are asked for again: long enough for any answer, so that none comes twice.
const ASK_AGAIN: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_a_snapshot_then_deltas() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(MANIFESTS).await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    let now = node.revision().await;
    plane.until(now).await;
    assert_eq!(plane.seen, ["snapshot", "keys"]);
    assert!(plane.entries.get("policy/finance-reads").is_some() && plane.entries.get("issuer/").is_some());
    assert_eq!(plane.keys.as_ref().unwrap().session_sealing[0].key.len(), 32);

    let applied = node.apply(&user("john@example.com")).await;
    plane.until(applied.revision).await;
    assert!(plane.entries.get("user/john@example.com").is_some());
    assert_eq!(plane.seen.last().unwrap(), &format!("delta {now}..{}", applied.revision));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_resumes_by_delta() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    let start = node.revision().await;
    plane.until(start).await;
    let first = node.apply(&user("a@example.com")).await.revision;
    let second = node.apply(&user("b@example.com")).await.revision;
    let mut plane = plane.reconnect(&node).await;
    plane.until(second).await;
    assert_eq!(plane.seen, [format!("delta {start}..{first}"), format!("delta {first}..{second}"), "keys".into()]);

    let mut plane = plane.reconnect(&node).await;
    plane.until(second).await;
    assert_eq!(plane.seen, [format!("delta {second}..{second}"), "keys".into()], "nothing new is said, too");
    node.stop().await;

    let node = Node::start(folder.path()).await;
    let mut plane = plane.reconnect(&node).await;
    plane.until(second).await;
    assert_eq!(plane.seen, [format!("delta {second}..{second}"), "keys".into()], "also after a restart");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_digest_mismatch_gets_a_snapshot() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    let start = node.revision().await;
    plane.until(start).await;
    let applied = node.apply(&user("a@example.com")).await.revision;
    let mut plane = plane.reconnect_saying(&node, vec![7; 32]).await;
    plane.until(applied).await;
    assert_eq!(plane.seen, ["snapshot", "keys"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_registered_run_of_a_node_is_served() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let plane = DataPlane::connect(&node, "dp-1").await;
    let newer = register(&node, "dp-1").await;
    assert!(newer > plane.epoch, "an epoch is never used again");
    let hello = v1::Hello { node: "dp-1".into(), epoch: plane.epoch, ..Default::default() };
    let first = v1::NodeMessage { message: Some(v1::node_message::Message::Hello(hello)) };
    let refused = node.config.stream(tokio_stream::iter([first])).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nodes_acknowledge_and_refuse_is_shown() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    let now = node.revision().await;
    plane.until(now).await;
    // What it was never sent cannot be in force there, whatever it says.
    plane.acknowledge(u64::MAX).await;
    plane.refuse(now + 1, "policy does not compile").await;
    let shown = tokio::time::timeout(WAIT_MAX, async {
        loop {
            let status = node.admin.status(v1::StatusRequest {}).await.unwrap().into_inner();
            let found = status.nodes.into_iter().find(|node| node.name == "dp-1").unwrap();
            if !found.refused.is_empty() {
                break found;
            }
        }
    });
    let shown = shown.await.unwrap();
    assert_eq!((shown.connected, shown.acknowledged_revision, shown.epoch), (true, now, plane.epoch));
    assert_eq!(shown.refused, "policy does not compile");
    let request = v1::GetRequest { kind: "node".into(), name: "dp-1".into() };
    let item = &node.admin.get(request).await.unwrap().into_inner().items[0];
    assert!(item.contains("\"connected\":true") && item.contains("policy does not compile"), "{item}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn control_events_reach_the_stream_once_chained() {
    let folder = TempDir::new().unwrap();
    let stream = EventStream::in_process();
    let mut ledger = stream.consume(&[CONTROL], "ledger").await.unwrap();
    let mut node = Node::start_with(folder.path(), stream.clone()).await;
    node.apply(MANIFESTS).await;
    register(&node, "dp-1").await;
    let commit = v1::CommitCheckpointRequest { origin: "log".into(), size: 1, root: vec![0; 32], ..Default::default() };
    node.checkpoints.commit(commit).await.unwrap();
    node.apply(&user("john@example.com")).await;

    let mut records = Vec::new();
    while !last_is_about(&records, "john@example.com") {
        records.extend(next_records(&mut ledger, records.len()).await);
    }
    let mut verifier = ChainVerifier::new();
    let mut types = Vec::new();
    for bytes in &records {
        let record = Record::parse(bytes).unwrap();
        verifier.accept(&record, bytes).unwrap();
        assert_eq!((record.kind, record.node.as_str(), record.epoch), (Kind::ControlEvent, CONTROL_NODE, 0));
        types.push(record.control.unwrap()["type"].as_str().unwrap().to_owned());
    }
    assert!(types.contains(&"node_epoch_opened".to_owned()) && !types.contains(&"checkpoint_committed".to_owned()));
    assert_eq!(types.iter().filter(|word| *word == "user_applied").count(), 2);

    // Asked again, the same bytes come again.
    let asked = v1::ReplayRequest { node: CONTROL_NODE.into(), epoch: 0, from_seq: 0 };
    // Who asks while records are being sent may get no more than those; as the ledger, it asks again.
    let asking = async {
        loop {
            stream.broadcast(&subjects::replay(CONTROL_NODE), asked.encode_to_vec().into()).await.unwrap();
            tokio::time::sleep(ASK_AGAIN).await;
        }
    };
    tokio::select! {
        again = collect(&mut ledger, records.len()) => assert_eq!(again, records),
        () = asking => {}
    }
    node.stop().await;

    // And a restarted node goes on with the same chain.
    let mut node = Node::start_with(folder.path(), stream).await;
    node.apply(&user("ann@example.com")).await;
    let continued = collect(&mut ledger, records.len() + 1).await;
    assert_eq!(continued[..records.len()], records);
    verifier.accept(&Record::parse(&continued[records.len()]).unwrap(), &continued[records.len()]).unwrap();
    node.stop().await;
}

async fn next_records(ledger: &mut Consumer, expected_seq: usize) -> Vec<Vec<u8>> {
    let message = tokio::time::timeout(WAIT_MAX, ledger.next()).await.unwrap().unwrap();
    let batch = v1::RecordBatch::decode(message.payload.clone()).unwrap();
    message.ack().await;
    assert_eq!(batch.first_seq, expected_seq as u64);
    batch.records
}

async fn collect(ledger: &mut Consumer, count: usize) -> Vec<Vec<u8>> {
    let mut records = Vec::new();
    while records.len() < count {
        records.extend(next_records(ledger, records.len()).await);
    }
    records
}

fn last_is_about(records: &[Vec<u8>], name: &str) -> bool {
    records.last().is_some_and(|bytes| String::from_utf8_lossy(bytes).contains(name))
}

/// A node that takes nothing is let go, and finds everything when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_read_is_let_go() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    let now = node.revision().await;
    plane.until(now).await;
    // More than the connection buffers for it, then more frames than may wait for it.
    let groups: Vec<String> = (0..1_500).map(|n| format!("group-{n:04}")).collect();
    let large = |name: String| user(&name).replace("{}", &format!("{{groups: [{}]}}", groups.join(",")));
    for round in 0..4 {
        let users: Vec<String> = (0..50).map(|n| large(format!("user-{round}-{n}@example.com"))).collect();
        assert_eq!(node.apply(&users.join("---\n")).await.problems, []);
    }
    let mut last = 0;
    for n in 0..60 {
        last = node.apply(&user(&format!("user-{n}@example.com"))).await.revision;
    }
    let connected = async |node: &mut Node| {
        let status = node.admin.status(v1::StatusRequest {}).await.unwrap().into_inner();
        status.nodes.into_iter().any(|node| node.name == "dp-1" && node.connected)
    };
    let let_go = tokio::time::timeout(WAIT_MAX, async {
        while connected(&mut node).await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let_go.await.unwrap();
    let mut plane = plane.reconnect(&node).await;
    plane.until(last).await;
    assert!(plane.entries.get("user/user-59@example.com").is_some());
    node.stop().await;
}
