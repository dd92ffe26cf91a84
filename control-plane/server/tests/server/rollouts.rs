//! Rollouts on one node: what data planes are sent, what their words lead to, and what administrators see.

use bailiwick_proto::{rollout::refusal, v1};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::Code;

use crate::support::{DataPlane, Lane, MANIFESTS, Node, WAIT_MAX, file, get};

const NOTHING: &str = "apiVersion: bailiwick/v1\nkind: Policy\nmetadata: {name: nothing}\nspec:\n  cedar: forbid (principal, action, resource);\n";

fn request(text: &str, watch_seconds: u64) -> v1::BeginRolloutRequest {
    let plan = v1::RolloutPlan { shares: vec![50, 100], watch_seconds, denials_max: 5, refusals_max: 0 };
    v1::BeginRolloutRequest { files: vec![file(text)], plan: Some(plan), ..v1::BeginRolloutRequest::default() }
}

async fn begin(node: &Node, watch_seconds: u64) -> v1::RolloutResponse {
    node.admin.clone().begin_rollout(request(NOTHING, watch_seconds)).await.unwrap().into_inner()
}

async fn shown(node: &Node) -> Value {
    let request = v1::GetRolloutsRequest { rollout: "1".into() };
    let items = node.admin.clone().get_rollouts(request).await.unwrap().into_inner().items;
    serde_json::from_str(&items[0]).unwrap()
}

/// Lets a data plane go on until the rollout is as wanted.
async fn until(node: &Node, plane: &mut DataPlane, wanted: impl Fn(&Value) -> bool) -> Value {
    let start = Instant::now();
    loop {
        let item = shown(node).await;
        if wanted(&item) {
            return item;
        }
        assert!(start.elapsed() < WAIT_MAX, "{item:#}");
        plane.step().await;
    }
}

/// A node with the example applied, and a data plane that has it.
async fn world() -> (TempDir, Node, DataPlane) {
    let folder = TempDir::new().unwrap();
    let mut node = Node::start(folder.path()).await;
    let applied = node.apply(MANIFESTS).await;
    let mut plane = DataPlane::connect(&node, "dp-1").await;
    plane.until(applied.revision).await;
    (folder, node, plane)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_reaches_data_planes_beside_what_counts_for_all_and_ends_there() {
    let (_folder, node, mut plane) = world().await;
    let begun = begin(&node, 1).await;
    assert_eq!((begun.problems.len(), begun.changes[0].action.as_str()), (0, "created"));
    let item: Value = serde_json::from_str(&begun.rollout).unwrap();
    assert_eq!((&item["id"], &item["state"], &item["share"]), (&"1".into(), &"under_way".into(), &50.into()));
    plane.until(begun.revision).await;
    let has = |plane: &DataPlane, key: &str| plane.entries.iter().any(|(known, _)| known == key);
    assert!(has(&plane, "rollout/1") && has(&plane, "rollout_change/1/policy/nothing"));
    assert!(!has(&plane, "policy/nothing"), "it does not count for all");
    let item = until(&node, &mut plane, |item| item["nodes"][0]["state"] == "in_force").await;
    assert_eq!(item["nodes"][0]["in_share"], true);

    // It acknowledges each step, so after each second the next comes; then it counts for all.
    let ended = until(&node, &mut plane, |item| item["state"] != "under_way").await;
    assert_eq!(
        (&ended["state"], &ended["step"], &ended["ended_by"]),
        (&"finished".into(), &1.into(), &"node:control-plane-1".into())
    );
    let revision = ended["ended_revision"].as_str().unwrap().parse().unwrap();
    plane.until(revision).await;
    assert!(!has(&plane, "rollout/1") && !has(&plane, "rollout_change/1/policy/nothing"));
    assert!(has(&plane, "policy/nothing"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_refuses_takes_the_rollout_back_for_all() {
    let (_folder, node, mut plane) = world().await;
    let begun = begin(&node, 600).await;
    plane.until(begun.revision).await;
    // What it refuses otherwise is no matter of the rollout.
    plane.refuse(begun.revision, "policy `other`: no").await;
    plane.refuse(begun.revision, &refusal("2", "no")).await;
    assert_eq!(shown(&node).await["state"], "under_way");
    plane.refuse(begun.revision, &refusal("1", "policy `nothing`: no")).await;
    let ended = until(&node, &mut plane, |item| item["state"] != "under_way").await;
    assert_eq!(ended["state"], "taken_back");
    assert!(ended["reason"].as_str().unwrap().contains("dp-1"), "{ended:#}");
    let (_, metrics) = get(node.ops, "/metrics");
    assert!(metrics.contains("bailiwick_control_plane_rollouts_taken_back_total 1\n"), "{metrics}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_data_planes_count_is_seen_and_judged() {
    let (_folder, node, mut plane) = world().await;
    let mut lane = Lane::open(&node.config, "dp-1", plane.epoch).await.unwrap();
    let digest = plane.entries.digest().to_vec();
    lane.ask_having(plane.revision, digest, 100, 1).await;
    assert_eq!(lane.lease().await.ask, 1);
    let begun = begin(&node, 600).await;
    plane.until(begun.revision).await;
    let counted = until(&node, &mut plane, |item| item["nodes"][0]["state"] == "in_force").await;
    assert_eq!((&counted["nodes"][0]["calls"], &counted["nodes"][0]["denied"]), (&"100".into(), &"1".into()));
    // The leader has to have looked once before there is anything to compare with.
    let leads = || get(node.ops, "/metrics").1.contains("bailiwick_control_plane_rollout_share 50\n");
    while !leads() {
        plane.step().await;
    }
    let digest = plane.entries.digest().to_vec();
    lane.ask_having(plane.revision, digest, 200, 80).await;
    let ended = until(&node, &mut plane, |item| item["state"] != "under_way").await;
    assert_eq!(ended["state"], "taken_back");
    assert!(ended["reason"].as_str().unwrap().contains("denied 79 of 100 calls"), "{ended:#}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn administrators_are_told_what_is_wrong_and_may_decide_themselves() {
    let (_folder, mut node, _plane) = world().await;
    let mut admin = node.admin.clone();
    let user = "apiVersion: bailiwick/v1\nkind: User\nmetadata: {name: eve@example.com}\nspec: {}\n";
    let wrong = admin.begin_rollout(request(user, 60)).await.unwrap().into_inner();
    assert_eq!((wrong.problems[0].file.as_str(), wrong.rollout.as_str()), ("test.yaml", ""));
    let rehearsed = v1::BeginRolloutRequest { dry_run: true, ..request(NOTHING, 60) };
    let rehearsed = admin.begin_rollout(rehearsed).await.unwrap().into_inner();
    assert_eq!((rehearsed.changes.len(), rehearsed.rollout.as_str()), (1, ""));
    assert_eq!(rehearsed.first_share, ["dp-1"]);
    let none = admin.get_rollouts(v1::GetRolloutsRequest::default()).await.unwrap().into_inner();
    assert_eq!(none.items, Vec::<String>::new());
    assert_eq!(admin.begin_rollout(request(NOTHING, 0)).await.unwrap_err().code(), Code::InvalidArgument);
    let back = v1::TakeBackRolloutRequest::default();
    assert_eq!(admin.take_back_rollout(back.clone()).await.unwrap_err().code(), Code::NotFound);

    begin(&node, 600).await;
    assert_eq!(admin.begin_rollout(request(NOTHING, 60)).await.unwrap_err().code(), Code::FailedPrecondition);
    let refused = node.apply(NOTHING).await;
    assert!(refused.problems[0].message.contains("rollout 1"), "{refused:?}");
    let on = v1::AdvanceRolloutRequest { reason: "fine".into(), ..v1::AdvanceRolloutRequest::default() };
    let on = admin.advance_rollout(on).await.unwrap().into_inner();
    let item: Value = serde_json::from_str(&on.rollout).unwrap();
    assert_eq!((&item["share"], &item["step"]), (&100.into(), &1.into()));
    let odd = v1::GetRolloutsRequest { rollout: "one".into() };
    assert_eq!(admin.get_rollouts(odd).await.unwrap_err().code(), Code::InvalidArgument);
    let unknown = v1::GetRolloutsRequest { rollout: "9".into() };
    assert_eq!(admin.get_rollouts(unknown).await.unwrap_err().code(), Code::NotFound);
    let taken = admin.take_back_rollout(back).await.unwrap().into_inner();
    let item: Value = serde_json::from_str(&taken.rollout).unwrap();
    assert_eq!((&item["state"], &item["ended_by"]), (&"taken_back".into(), &"admin".into()));
    node.stop().await;
}
