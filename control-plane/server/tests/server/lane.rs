//! The revocation lane: what is taken away comes at once, no lease is given without it, and who has it is known.

use std::{collections::BTreeSet, time::Duration};

use bailiwick_proto::v1::{self, config_client::ConfigClient, lane_frame};
use serde_json::Value;
use tempfile::TempDir;
use tonic::Code;

use crate::{
    cluster::{self, eventually, three},
    support::{DataPlane, Lane, Node, get, inactive, register, register_with, user},
};

/// How long nothing has to come to count as nothing: far longer than anything takes here.
const SILENCE: Duration = Duration::from_millis(1_500);

/// The status of a node, as any control plane shows it.
async fn shown(admin: &mut v1::admin_client::AdminClient<tonic::transport::Channel>, name: &str) -> Value {
    let request = v1::GetRequest { kind: "node".into(), name: name.into() };
    let items = admin.get(request).await.unwrap().into_inner().items;
    serde_json::from_str::<Value>(&items[0]).unwrap()["status"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_comes_by_the_lane_and_nothing_else_does() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(&user("early@example.com")).await;
    let epoch = register(&node, "dp-1").await;
    let mut lane = Lane::open(&node.config, "dp-1", epoch).await.unwrap();
    assert_eq!(lane.opened, node.revision().await);

    node.apply(&user("john@example.com")).await;
    let denied = node.apply(&inactive("early@example.com")).await.revision;
    let denials = lane.denials().await;
    let keys: Vec<&str> = denials.changes.iter().map(|change| change.key.as_str()).collect();
    assert_eq!((denials.revision, keys, denials.more), (denied, vec!["user/early@example.com"], false));

    let delete = v1::DeleteRequest {
        resources: vec![v1::ResourceRef { kind: "User".into(), name: "john@example.com".into() }],
        ..v1::DeleteRequest::default()
    };
    let deleted = node.admin.delete(delete).await.unwrap().into_inner().revision;
    let denials = lane.denials().await;
    assert_eq!((denials.revision, denials.changes[0].value.as_ref()), (deleted, None));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_lease_comes_before_a_denial_it_covers_nor_misses_one_committed_before_it_was_asked_for() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let epoch = register(&node, "dp-1").await;
    let mut lane = Lane::open(&node.config, "dp-1", epoch).await.unwrap();
    let mut writer = node.admin.clone();
    let writing = async {
        let mut denied = BTreeSet::new();
        for round in 0..40 {
            let text = if round % 2 == 0 { user("john@example.com") } else { inactive("john@example.com") };
            let files = vec![v1::ManifestFile { name: "test.yaml".into(), text }];
            let request = v1::ApplyRequest { files, ..v1::ApplyRequest::default() };
            let revision = writer.apply(request).await.unwrap().into_inner().revision;
            if round % 2 == 1 {
                denied.insert(revision);
            }
        }
        denied
    };
    // Each lease, and the denials that had come by then.
    let asking = async {
        let (mut told, mut leases) = (BTreeSet::new(), Vec::new());
        while told.len() < 20 {
            let id = lane.ask(0, Vec::new()).await;
            loop {
                match lane.next().await.unwrap() {
                    lane_frame::Frame::Denials(denials) => assert!(told.insert(denials.revision)),
                    lane_frame::Frame::Lease(lease) if lease.ask == id => {
                        leases.push((lease.revision, told.clone()));
                        break;
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        leases
    };
    let (denied, leases) = tokio::join!(writing, asking);
    for (revision, told) in leases {
        assert_eq!(told, denied.range(..=revision).copied().collect(), "a lease of revision {revision}");
    }
    for _ in 0..5 {
        let denied = {
            node.apply(&user("ann@example.com")).await;
            node.apply(&inactive("ann@example.com")).await.revision
        };
        let id = lane.ask(0, Vec::new()).await;
        assert_eq!(lane.denials().await.revision, denied);
        let lease = lane.lease().await;
        assert_eq!((lease.ask, lease.lease_ms, lease.revision >= denied), (id, 3_000, true));
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_has_in_force_is_shown_and_counts_only_when_it_has_what_came_before() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(&user("john@example.com")).await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    let mut lane = Lane::open(&node.config, "dp-1", plane.epoch).await.unwrap();
    let denied = node.apply(&inactive("john@example.com")).await.revision;
    assert_eq!(lane.denials().await.revision, denied);
    // It has the denial, but not yet what was in force when the lane was opened; and never what was not sent.
    lane.denied(u64::MAX).await;
    lane.ask(0, Vec::new()).await;
    lane.lease().await;
    let status = shown(&mut node.admin, "dp-1").await;
    assert_eq!((&status["denied_revision"], &status["digest"]), (&Value::Null, &Value::from("unknown")), "{status}");

    plane.until(denied).await;
    lane.ask(plane.revision, plane.entries.digest().to_vec()).await;
    assert_eq!(lane.lease().await.revision, denied);
    let status = eventually("all is in force", async || {
        let status = shown(&mut node.admin.clone(), "dp-1").await;
        (status["lag"] == "0").then_some(status)
    })
    .await;
    assert_eq!(status["denied_revision"], denied.to_string());
    assert_eq!((&status["digest"], &status["connected"]), (&Value::from("equal"), &Value::from(true)));
    assert!(status["lease_age_ms"].as_str().unwrap().parse::<u64>().unwrap() < 20_000, "{status}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_differs_is_shown_gets_no_lease_and_its_word_does_not_count() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    node.apply(&user("john@example.com")).await;
    let epoch = register(&node, "dp-1").await;
    let mut lane = Lane::open(&node.config, "dp-1", epoch).await.unwrap();
    let right = {
        let mut plane = DataPlane::connect_again(&node, "dp-1", epoch).await;
        plane.until(lane.opened).await;
        plane.entries.digest().to_vec()
    };
    let opened = lane.opened;
    lane.ask(opened, right.clone()).await;
    lane.lease().await;
    lane.ask(opened, vec![7; 32]).await;
    assert!(lane.is_silent(SILENCE).await);
    let denied = node.apply(&inactive("john@example.com")).await.revision;
    assert_eq!(lane.denials().await.revision, denied, "what is taken away is told all the same");
    lane.denied(denied).await;
    let status = shown(&mut node.admin, "dp-1").await;
    assert_eq!(status["digest"], "differs");
    assert_ne!(status["denied_revision"], denied.to_string());
    let metrics = get(node.ops, "/metrics").1;
    assert!(metrics.contains("bailiwick_control_plane_config_drift 1"), "{metrics}");
    lane.ask(opened, right).await;
    lane.lease().await;
    let status = shown(&mut node.admin, "dp-1").await;
    assert_eq!((&status["digest"], &status["denied_revision"]), (&"equal".into(), &denied.to_string().into()));
    assert!(get(node.ops, "/metrics").1.contains("bailiwick_control_plane_config_drift 0"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_registered_run_of_a_data_plane_has_a_lane() {
    let folder = TempDir::new().unwrap();
    let node = Node::start(folder.path()).await;
    let refused = async |name: &str, epoch: u64| Lane::open(&node.config, name, epoch).await.err().unwrap().code();
    assert_eq!(refused("dp-1", 1).await, Code::FailedPrecondition);
    let ledger = register_with(&node.config, "ledger-1", "ledger").await;
    assert_eq!(refused("ledger-1", ledger).await, Code::PermissionDenied);
    let old = register(&node, "dp-1").await;
    let mut lane = Lane::open(&node.config, "dp-1", old).await.unwrap();
    let new = register(&node, "dp-1").await;
    assert_eq!(refused("dp-1", old).await, Code::FailedPrecondition);
    lane.ask(0, Vec::new()).await;
    assert_eq!(lane.next().await.unwrap_err().code(), Code::FailedPrecondition, "nothing is leased to an old run");
    // A newer lane of the same run takes over.
    let mut lane = Lane::open(&node.config, "dp-1", new).await.unwrap();
    let mut newer = Lane::open(&node.config, "dp-1", new).await.unwrap();
    newer.ask(0, Vec::new()).await;
    newer.lease().await;
    lane.ask(0, Vec::new()).await;
    assert_eq!(lane.next().await.unwrap_err().code(), Code::Aborted);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_that_is_cut_off_gives_no_lease() {
    let folder = TempDir::new().unwrap();
    let [first, second, third] = three(folder.path()).await;
    let config = ConfigClient::new(first.channel.clone());
    let epoch = register_with(&config, "dp-1", "data-plane").await;
    let mut lane = Lane::open(&config, "dp-1", epoch).await.unwrap();
    lane.ask(0, Vec::new()).await;
    lane.lease().await;
    let mut others = [second, third];
    for other in &mut others {
        other.stop().await;
    }
    lane.ask(0, Vec::new()).await;
    assert!(lane.is_silent(SILENCE).await);
    let [second, _] = others;
    let _second = cluster::Node::start(second.config.clone()).await;
    // A question of before may be answered as well: it was asked before the proof.
    let last = lane.ask(0, Vec::new()).await;
    eventually("a majority is there, and so a lease", async || {
        let id = lane.ask(0, Vec::new()).await;
        let lease = tokio::time::timeout(Duration::from_millis(500), lane.lease()).await.ok()?;
        (last..=id).contains(&lease.ask).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_control_plane_knows_since_when_a_denial_is_in_force_wherever_the_node_is_connected() {
    let folder = TempDir::new().unwrap();
    let [first, second, third] = three(folder.path()).await;
    first.admin().apply(cluster::apply("john@example.com", "")).await.unwrap();
    let config = ConfigClient::new(second.channel.clone());
    let epoch = register_with(&config, "dp-1", "data-plane").await;
    let mut lane = Lane::open(&config, "dp-1", epoch).await.unwrap();
    let opened = lane.opened;
    lane.ask(opened, Vec::new()).await;
    lane.lease().await;
    let revoke = v1::RevokeRequest {
        kind: "user".into(),
        name: "john@example.com".into(),
        wait: true,
        ..v1::RevokeRequest::default()
    };
    let mut admin = third.admin();
    let (revoked, told) = tokio::join!(admin.revoke(revoke), async {
        let denials = lane.denials().await;
        lane.denied(denials.revision).await;
        denials.revision
    });
    let revoked = revoked.unwrap().into_inner();
    assert_eq!(revoked.revision, told);
    let node = &revoked.nodes[0];
    assert!(node.name == "dp-1" && !node.acknowledged_at.is_empty() && node.deadline.is_empty(), "{node:?}");
    for control_plane in [&first, &second, &third] {
        let status = shown(&mut control_plane.admin(), "dp-1").await;
        assert_eq!(status["denied_revision"], told.to_string(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_that_nobody_reads_ends_and_holds_up_nobody() {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let (slow, quick) = (register(&node, "dp-slow").await, register(&node, "dp-quick").await);
    let mut slow_lane = Lane::open(&node.config, "dp-slow", slow).await.unwrap();
    let mut quick_lane = Lane::open(&node.config, "dp-quick", quick).await.unwrap();
    // Two megabytes that the connection buffers for it, four that may wait for it, and more.
    let groups: Vec<String> = (0..1_500).map(|n| format!("group-{n:04}")).collect();
    let spec = format!("{{active: false, groups: [{}]}}", groups.join(","));
    let mut last = 0;
    for round in 0..10 {
        let large = |n: u32| user(&format!("user-{round}-{n}@example.com")).replace("{}", &spec);
        let applied = node.apply(&(0..50).map(large).collect::<Vec<_>>().join("---\n")).await;
        assert_eq!(applied.problems, []);
        last = applied.revision;
        let mut changes = 0;
        loop {
            let denials = quick_lane.denials().await;
            assert_eq!(denials.revision, last);
            changes += denials.changes.len();
            if !denials.more {
                break;
            }
        }
        assert_eq!(changes, 50);
    }
    eventually("it is let go", async || {
        get(node.ops, "/metrics").1.contains("bailiwick_control_plane_lanes_connected 1").then_some(())
    })
    .await;
    // What waited for it comes; then it ends, and the next one begins where everything is.
    let mut told = 0;
    while let Ok(Some(lane_frame::Frame::Denials(denials))) = slow_lane.take().await {
        assert!(denials.revision >= told);
        told = denials.revision;
    }
    assert!(told < last, "{told}");
    assert!(Lane::open(&node.config, "dp-slow", slow).await.unwrap().opened >= last);
    node.stop().await;
}
