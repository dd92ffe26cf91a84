//! From which level on a client wants logs is known at every node, whichever it said so to.

use bailiwick_data_plane_core::{edge::SetLevel, relay::Level};
use bailiwick_proto::{mcp::RequestId, subjects};
use bailiwick_runtime::OnEnd;
use serde_json::Value;

use super::*;
use crate::fakes::world::narrowed;

async fn node(dir: &Path, name: &str, stream: &EventStream) -> Scene {
    std::fs::create_dir(dir.join(name)).unwrap();
    let scene = Scene::on(&dir.join(name), Speaks::Legacy, stream).await;
    scene.calls.supervisor.spawn("log-levels", OnEnd::Finish, Arc::clone(&scene.calls.levels).follow());
    scene
}

fn levels(scene: &Scene) -> Vec<Value> {
    scene.server.seen("logging/setLevel").iter().map(|seen| seen.body["params"]["level"].clone()).collect()
}

async fn set(scene: &Scene, level: Level) {
    let (asked, _) = scene.decide("query_data");
    let level = SetLevel { id: RequestId::from(1), level, capabilities: None };
    let reply = scene.calls.set_level(&asked, "finance", &level).await;
    assert_eq!(reply.reason, None);
}

#[tokio::test]
async fn the_level_that_one_node_is_asked_for_reaches_the_sessions_of_all_now_and_later() {
    let (dir, stream) = (tempfile::tempdir().unwrap(), EventStream::in_process());
    let one = node(dir.path(), "one", &stream).await;
    let other = node(dir.path(), "other", &stream).await;
    let idle = node(dir.path(), "idle", &stream).await;
    other.call("query_data").await;
    set(&one, Level::Warning).await;
    eventually("told at the other node", || levels(&other) == ["warning"]).await;
    assert!(idle.server.seen("initialize").is_empty(), "no session is opened for it");
    idle.call("query_data").await;
    assert_eq!(levels(&idle), ["warning"]);
    set(&other, Level::Error).await;
    for scene in [&one, &idle, &other] {
        eventually("changed", || levels(scene) == ["warning", "error"]).await;
    }
}

/// Puts a consent in the place of the other at a node.
fn consented(scene: &Scene, consent: &v1::Entry) {
    let mut entries = entries(&scene.server.url, PERMIT_ALL, true);
    entries.retain(|entry| entry.key != consent.key);
    entries.push(consent.clone());
    let (digest, revision) = (config_digest::of_entries(&entries).to_vec(), scene.calls.state.held().0 + 1);
    scene.calls.state.snapshot(v1::Snapshot { revision, entries, last: true, digest }).unwrap();
}

#[tokio::test]
async fn no_node_tells_a_level_to_a_server_that_the_consent_does_not_lead_to() {
    let (dir, stream) = (tempfile::tempdir().unwrap(), EventStream::in_process());
    let one = node(dir.path(), "one", &stream).await;
    let other = node(dir.path(), "other", &stream).await;
    other.call("query_data").await;
    consented(&one, &narrowed(&["hr/list_people"]));
    set(&one, Level::Warning).await;
    consented(&one, &narrowed(&["finance/query_data"]));
    set(&one, Level::Error).await;
    for scene in [&one, &other] {
        eventually("told", || levels(scene) == ["error"]).await;
    }
}

#[tokio::test]
async fn a_level_that_no_node_sealed_is_not_taken() {
    let (dir, stream) = (tempfile::tempdir().unwrap(), EventStream::in_process());
    let scene = node(dir.path(), "one", &stream).await;
    scene.call("query_data").await;
    for forged in ["", "l2.", "l2.AAAA", "w2.AAAA", "{}"] {
        stream.broadcast(subjects::LEVELS, forged.as_bytes().to_vec().into()).await.unwrap();
    }
    set(&scene, Level::Debug).await;
    eventually("told", || levels(&scene) == ["debug"]).await;
}
