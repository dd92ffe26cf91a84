//! Revocations: what is answered, since when each data plane holds to it, and the receipt that reaches the ledger.

use std::time::Duration;

use bailiwick_ledger_core::{
    chain::ChainVerifier,
    record::{Kind, Record},
    time::parse_ts,
};
use bailiwick_proto::{
    subjects::{CONTROL, CONTROL_NODE},
    v1::{self, config_client::ConfigClient, config_frame, node_message},
};
use bailiwick_runtime::{EventStream, event_stream::Consumer};
use futures::future::join_all;
use prost::Message as _;
use tempfile::TempDir;
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, transport::Channel};

use crate::{
    cluster::{self, eventually, three},
    support::{DataPlane, MANIFESTS, Node, WAIT_MAX, file, get, register, register_with},
};

const JANE: &str = "jane@example.com";
/// A lease with its slack: how long a silent node is waited for.
const SILENCE: Duration = Duration::from_millis(3_080);

fn request(kind: &str, name: &str) -> v1::RevokeRequest {
    v1::RevokeRequest { kind: kind.into(), name: name.into(), reason: "left".into(), ..v1::RevokeRequest::default() }
}

fn waiting(kind: &str, name: &str) -> v1::RevokeRequest {
    v1::RevokeRequest { wait: true, request_id: format!("r-{kind}-{name}"), ..request(kind, name) }
}

async fn revoke(node: &Node, request: v1::RevokeRequest) -> v1::RevokeResponse {
    node.admin.clone().revoke(request).await.unwrap().into_inner()
}

async fn token(node: &Node) -> v1::IssueTokenResponse {
    let request = v1::IssueTokenRequest {
        user: JANE.into(),
        agent: "coding-assistant".into(),
        virtual_server: "finance".into(),
        ttl_seconds: 600,
        ..v1::IssueTokenRequest::default()
    };
    node.admin.clone().issue_token(request).await.unwrap().into_inner()
}

/// Revokes while a data plane goes on taking what it is sent.
async fn revoke_with(node: &Node, plane: &mut DataPlane, request: v1::RevokeRequest) -> v1::RevokeResponse {
    let revoking = revoke(node, request);
    tokio::pin!(revoking);
    loop {
        tokio::select! {
            revoked = &mut revoking => return revoked,
            () = plane.step() => {}
        }
    }
}

fn actions(revoked: &v1::RevokeResponse) -> Vec<String> {
    revoked.changes.iter().map(|one| format!("{}/{} {}", one.kind, one.name, one.action)).collect()
}

/// What the ledger does: takes the chain as it comes, and keeps the receipts.
struct Ledger {
    consumer: Consumer,
    verifier: ChainVerifier,
}

impl Ledger {
    async fn of(stream: &EventStream) -> Self {
        Self { consumer: stream.consume(&[CONTROL], "ledger").await.unwrap(), verifier: ChainVerifier::new() }
    }

    /// The next receipts, so many.
    async fn receipts(&mut self, count: usize) -> Vec<Record> {
        let mut receipts = Vec::new();
        while receipts.len() < count {
            let message = tokio::time::timeout(WAIT_MAX, self.consumer.next()).await.unwrap().unwrap();
            let batch = v1::RecordBatch::decode(message.payload.clone()).unwrap();
            message.ack().await;
            for bytes in &batch.records {
                let record = Record::parse(bytes).unwrap();
                self.verifier.accept(&record, bytes).unwrap();
                receipts.extend((record.kind == Kind::RevocationReceipt).then_some(record));
            }
        }
        receipts
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_revoked_is_acknowledged_and_receipted() {
    let folder = TempDir::new().unwrap();
    let stream = EventStream::in_process();
    let mut ledger = Ledger::of(&stream).await;
    let mut node = Node::start_with(folder.path(), stream).await;
    node.apply(MANIFESTS).await;
    let (first, second, third) = (token(&node).await, token(&node).await, token(&node).await);
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    plane.until(third.revision).await;

    for (kind, name, expected) in [
        ("consent", first.consent_id.as_str(), vec![format!("Consent/{} revoked", first.consent_id)]),
        ("session", second.session_id.as_str(), vec![format!("Consent/{} revoked", second.consent_id)]),
        (
            "agent",
            "coding-assistant",
            vec!["Agent/coding-assistant deactivated".to_owned(), format!("Consent/{} revoked", third.consent_id)],
        ),
        ("user", JANE, vec![format!("User/{JANE} deactivated")]),
    ] {
        let start = Instant::now();
        let revoked = revoke_with(&node, &mut plane, waiting(kind, name)).await;
        assert!(start.elapsed() < SILENCE, "{kind}: nobody was silent");
        assert_eq!(actions(&revoked), expected);
        assert!(plane.revision >= revoked.revision, "{kind}: it has what it acknowledged");
        let [enforced] = &revoked.nodes[..] else { unreachable!("{:?}", revoked.nodes) };
        assert_eq!((enforced.name.as_str(), enforced.deadline.as_str()), ("dp-1", ""));
        assert!(parse_ts(&enforced.acknowledged_at).is_some(), "{enforced:?}");

        let record = ledger.receipts(1).await.remove(0);
        let place = revoked.receipt.unwrap();
        assert_eq!((record.node.as_str(), record.epoch, record.rev), (CONTROL_NODE, 0, Some(place.revision)));
        assert_eq!((place.node.as_str(), place.epoch), (CONTROL_NODE, 0));
        assert_eq!(record.request_id, Some(format!("r-{kind}-{name}")));
        let control = record.control.unwrap();
        assert_eq!(control["denied_through"], revoked.revision.to_string());
        assert!(control["nodes"][0]["acknowledged_at"].is_string(), "{control}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_gets_a_deadline_that_has_passed_when_the_answer_comes() {
    let folder = TempDir::new().unwrap();
    let stream = EventStream::in_process();
    let mut ledger = Ledger::of(&stream).await;
    let mut node = Node::start_with(folder.path(), stream).await;
    node.apply(MANIFESTS).await;
    let granted = token(&node).await;
    register(&node, "dp-silent").await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    plane.until(granted.revision).await;

    let start = Instant::now();
    let revoked = revoke_with(&node, &mut plane, waiting("user", JANE)).await;
    assert!(start.elapsed() >= SILENCE && start.elapsed() < 2 * SILENCE, "{:?}", start.elapsed());
    let [heard, silent] = &revoked.nodes[..] else { unreachable!("{:?}", revoked.nodes) };
    assert_eq!((heard.name.as_str(), heard.deadline.as_str()), ("dp-1", ""));
    assert_eq!((silent.name.as_str(), silent.acknowledged_at.as_str()), ("dp-silent", ""));
    let (acknowledged, deadline) = (parse_ts(&heard.acknowledged_at).unwrap(), parse_ts(&silent.deadline).unwrap());
    assert!(deadline > acknowledged && deadline - acknowledged < 2 * 3_080_000, "{revoked:?}");

    // Asked again, under the same id or another, it is the same revocation, and gets another receipt.
    let same = revoke_with(&node, &mut plane, waiting("user", JANE)).await;
    let other = revoke_with(&node, &mut plane, v1::RevokeRequest { wait: true, ..request("user", JANE) }).await;
    for again in [&same, &other] {
        assert_eq!((again.revision, again.changes.len()), (revoked.revision, 0));
        assert_eq!(again.nodes[0], *heard, "its first word counts");
        assert!(again.receipt.as_ref().unwrap().revision > revoked.receipt.as_ref().unwrap().revision);
    }
    let (_, metrics) = get(node.ops, "/metrics");
    assert!(metrics.contains("bailiwick_control_plane_silent_at_revocation_total 3\n"), "{metrics}");
    assert!(metrics.contains("bailiwick_control_plane_revocation_seconds_count 3\n"), "{metrics}");
    for record in ledger.receipts(3).await {
        let control = record.control.unwrap();
        assert_eq!(control["denied_through"], revoked.revision.to_string());
        assert!(control["nodes"][1]["deadline"].is_string(), "{control}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_waiting_the_answer_comes_with_the_commit() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(MANIFESTS).await;
    let granted = token(&node).await;
    register(&node, "dp-silent").await;
    let start = Instant::now();
    let revoked = revoke(&node, request("consent", &granted.consent_id)).await;
    assert!(start.elapsed() < SILENCE);
    assert_eq!((revoked.nodes.len(), revoked.receipt, revoked.changes.len()), (0, None, 1));
    assert_eq!(revoked.revision, node.revision().await);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_with_more_consents_than_fit_one_change_loses_all_of_them() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(MANIFESTS).await;
    for _ in 0..11 {
        join_all((0..100).map(|_| token(&node))).await;
    }
    let before = node.revision().await;
    let revoked = revoke(&node, v1::RevokeRequest { request_id: "r-1".into(), ..request("user", JANE) }).await;
    assert_eq!(revoked.changes.len(), 1_101);
    assert_eq!(revoked.changes[0].action, "deactivated");
    assert_eq!(revoked.revision, before + 2, "in two changes");
    let request = v1::GetRequest { kind: "consent".into(), name: String::new() };
    let items = node.admin.get(request).await.unwrap().into_inner().items;
    assert!(items.iter().all(|item| item.contains("\"state\":\"revoked\"")));
    let repeated = revoke(&node, v1::RevokeRequest { request_id: "r-1".into(), ..self::request("user", JANE) }).await;
    assert_eq!((repeated.revision, repeated.changes.len()), (revoked.revision, 0));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_revoked_is_refused() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(MANIFESTS).await;
    let before = node.revision().await;
    let long = v1::RevokeRequest { reason: "x".repeat(2_000), ..waiting("user", JANE) };
    for (request, code) in [
        (waiting("server", "finance"), Code::InvalidArgument),
        (waiting("", ""), Code::InvalidArgument),
        (long, Code::InvalidArgument),
        (waiting("user", "nobody"), Code::NotFound),
        (waiting("agent", "nobody"), Code::NotFound),
        (waiting("session", "s-0"), Code::NotFound),
        (waiting("consent", "c-0"), Code::NotFound),
    ] {
        assert_eq!(node.admin.revoke(request.clone()).await.unwrap_err().code(), code, "{request:?}");
    }
    assert_eq!(node.revision().await, before);
    node.stop().await;
}

/// A data plane at one of several control planes, which acknowledges all that comes for as long as it is polled.
async fn acknowledge_at(channel: Channel, name: &str) -> Result<(), Status> {
    let mut config = ConfigClient::new(channel);
    let epoch = register_with(&config, name, "data-plane").await;
    let (messages, outgoing) = mpsc::channel(16);
    let say = async |message| messages.send(v1::NodeMessage { message: Some(message) }).await.unwrap();
    say(node_message::Message::Hello(v1::Hello { node: name.into(), epoch, ..v1::Hello::default() })).await;
    let mut frames = config.stream(ReceiverStream::new(outgoing)).await?.into_inner();
    while let Some(frame) = frames.message().await? {
        let revision = match frame.frame.unwrap() {
            config_frame::Frame::Snapshot(snapshot) if snapshot.last => snapshot.revision,
            config_frame::Frame::Delta(delta) => delta.to,
            _ => continue,
        };
        say(node_message::Message::Ack(v1::Ack { revision })).await;
    }
    Ok(())
}

/// Applies the manifests and grants two consents.
async fn two_consents(node: &cluster::Node) -> [String; 2] {
    let request = v1::ApplyRequest { files: vec![file(MANIFESTS)], ..v1::ApplyRequest::default() };
    assert_eq!(node.admin().apply(request).await.unwrap().into_inner().problems, []);
    let granted = async || {
        let request = v1::IssueTokenRequest {
            user: JANE.into(),
            agent: "coding-assistant".into(),
            virtual_server: "finance".into(),
            ttl_seconds: 600,
            ..v1::IssueTokenRequest::default()
        };
        node.admin().issue_token(request).await.unwrap().into_inner().consent_id
    };
    [granted().await, granted().await]
}

async fn leader(nodes: &[cluster::Node; 3]) -> usize {
    eventually("somebody leads", async || {
        let members = nodes[0].members().await;
        let leader = members.iter().find(|one| one.leader)?;
        nodes.iter().position(|node| node.config.node == leader.name)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_counts_wherever_it_is_connected_and_wherever_is_asked() {
    let folder = TempDir::new().unwrap();
    let nodes = three(folder.path()).await;
    let leads = leader(&nodes).await;
    let (asked, connected) = (&nodes[(leads + 1) % 3], &nodes[(leads + 2) % 3]);
    let [first, second] = two_consents(asked).await;
    let while_connected = async {
        eventually("the data plane is connected", async || {
            let status = asked.admin().status(v1::StatusRequest {}).await.ok()?.into_inner();
            status.nodes.iter().any(|one| one.name == "dp-1" && one.acknowledged_revision > 0).then_some(())
        })
        .await;
        let start = Instant::now();
        let revoked = asked.admin().revoke(waiting("consent", &first)).await.unwrap().into_inner();
        (start.elapsed(), revoked)
    };
    let (waited, revoked) = tokio::select! {
        answered = while_connected => answered,
        ended = acknowledge_at(connected.channel.clone(), "dp-1") => unreachable!("{ended:?}"),
    };
    assert!(waited < SILENCE, "{waited:?}");
    assert!(revoked.nodes.len() == 1 && !revoked.nodes[0].acknowledged_at.is_empty(), "{revoked:?}");
    // With the data plane gone its lease is waited for.
    let start = Instant::now();
    let revoked = asked.admin().revoke(waiting("consent", &second)).await.unwrap().into_inner();
    assert!(start.elapsed() >= SILENCE, "{:?}", start.elapsed());
    assert!(revoked.nodes.len() == 1 && !revoked.nodes[0].deadline.is_empty(), "{revoked:?}");
    for mut node in nodes {
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_leader_while_somebody_waits_changes_nothing_about_what_is_answered() {
    let folder = TempDir::new().unwrap();
    let nodes = three(folder.path()).await;
    let leads = leader(&nodes).await;
    let (asked, next) = (&nodes[(leads + 1) % 3], &nodes[(leads + 2) % 3]);
    let [consent, _] = two_consents(asked).await;
    register_with(&ConfigClient::new(asked.channel.clone()), "dp-silent", "data-plane").await;
    let revoking = async {
        loop {
            match asked.admin().revoke(waiting("consent", &consent)).await {
                Ok(revoked) => break revoked.into_inner(),
                Err(status) => {
                    assert!([Code::Unavailable, Code::DeadlineExceeded].contains(&status.code()), "{status:?}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    let leading = async {
        eventually("the consent is revoked", async || {
            let request = v1::GetRequest { kind: "consent".into(), name: consent.clone() };
            let shown = next.admin().get(request).await.ok()?.into_inner();
            shown.items[0].contains("\"state\":\"revoked\"").then_some(shown.revision)
        })
        .await;
        let request = v1::TransferLeaderRequest { member: next.config.node.clone() };
        next.cluster().transfer_leader(request).await.unwrap();
    };
    let (revoked, ()) = tokio::join!(revoking, leading);
    assert_eq!(nodes[leader(&nodes).await].config.node, next.config.node);
    assert!(!revoked.nodes[0].deadline.is_empty(), "{revoked:?}");
    assert!(revoked.receipt.unwrap().revision > revoked.revision);
    let request = v1::GetRequest { kind: "consent".into(), name: consent };
    let shown = next.admin().get(request).await.unwrap().into_inner().items;
    assert!(shown[0].contains("\"revoked_reason\":\"left\""), "{shown:?}");
    for mut node in nodes {
        node.stop().await;
    }
}
