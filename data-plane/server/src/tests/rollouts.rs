//! Rollouts at a node in their share: what its records say, and what it tells the control plane to judge it by.

use bailiwick_proto::{
    rollout::PLACES,
    v1::{self, Counts, lane_message::Message as LaneUp, resource::Resource},
};
use prost::Message as _;

use super::*;

fn entry(key: &str, resource: Resource) -> Entry {
    Entry { key: key.into(), value: v1::Resource { resource: Some(resource) }.encode_to_vec() }
}

fn rollout(below: u64) -> Entry {
    entry("rollout/7", Resource::Rollout(v1::Rollout { id: "7".into(), below, step: 0 }))
}

fn staged(cedar: &str) -> Entry {
    let policy = v1::Policy { name: "all".into(), cedar: cedar.into(), version: 99 };
    let changed = entry("policy/all", Resource::Policy(policy));
    let change = v1::RolloutChange { rollout: "7".into(), key: changed.key.clone(), value: changed.value };
    entry(&format!("rollout_change/7/{}", changed.key), Resource::RolloutChange(change))
}

async fn configured(world: &World, changed: Entry) {
    let revision = world.control.change(changed, true).await;
    eventually("configured", || world.control.acknowledged(revision)).await;
}

/// The record of the refusal, if the call is refused.
async fn denied(world: &World, tool: &str) -> Option<Record> {
    let (_, body) = json_of(world.call(tool).send().await.unwrap()).await;
    body.get("error")?;
    let (_, _, request_id) = refusal(&body);
    world.records(request_id).await.pop()
}

/// What it says it has decided.
fn said(world: &World) -> Counts {
    let said = world.control.shared.lane_said.lock().unwrap();
    said.iter().rev().find_map(|up| if let LaneUp::Ask(ask) = up { ask.counts } else { None }).unwrap_or_default()
}

/// What it says it had decided before the candidate counted.
fn before(world: &World) -> Option<Counts> {
    let said = world.control.shared.lane_said.lock().unwrap();
    said.iter().rev().find_map(|up| if let LaneUp::Ask(ask) = up { Some(ask.before) } else { None }).flatten()
}

#[tokio::test]
async fn a_node_in_the_share_decides_by_the_candidate_and_its_records_name_the_rollout() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    configured(&world, staged(PERMIT_READS)).await;
    configured(&world, rollout(0)).await;
    assert!(denied(&world, "create_charge").await.is_none(), "outside the share");
    eventually("told what it had before", || said(&world) == Counts { calls: 1, ..Counts::default() }).await;
    assert_eq!(before(&world), None);
    configured(&world, rollout(PLACES)).await;
    let record = denied(&world, "create_charge").await.unwrap();
    assert_eq!((record.kind, record.rollout.as_deref()), (Kind::CallDenied, Some("7")));
    let (_, body) = json_of(world.call("query_data").send().await.unwrap()).await;
    assert!(body.get("result").is_some(), "{body}");
    let counts = Counts { calls: 3, denied: 1, ..Counts::default() };
    eventually("told what it has now", || said(&world) == counts).await;
    assert_eq!(before(&world), Some(Counts { calls: 1, ..Counts::default() }), "when the candidate came");
    configured(&world, rollout(0)).await;
    assert!(denied(&world, "create_charge").await.is_none(), "it has gone back");
}

#[tokio::test]
async fn a_node_that_cannot_use_a_candidate_says_so_and_decides_as_before() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    configured(&world, staged("permit (")).await;
    world.control.change(rollout(PLACES), true).await;
    let refuses = || {
        let said = world.control.shared.said.lock().unwrap();
        said.iter().any(|up| matches!(up, Up::Nack(nack) if bailiwick_proto::rollout::is_refusal("7", &nack.error)))
    };
    eventually("refused", refuses).await;
    assert!(denied(&world, "create_charge").await.is_none());
}

#[tokio::test]
async fn calls_and_lists_are_counted_for_the_control_plane() {
    let world = World::start(Speaks::Modern, PERMIT_READS).await;
    assert!(denied(&world, "create_charge").await.is_some() && denied(&world, "query_data").await.is_none());
    let (_, listed) = json_of(world.modern("tools/list", None, "").send().await.unwrap()).await;
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 1, "{listed}");
    let expected = Counts { calls: 2, denied: 1, lists: 1, hidden: 666 };
    eventually("told", || said(&world) == expected).await;
}
