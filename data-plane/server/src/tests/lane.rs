//! The revocation lane between a node and its control planes: what is taken away at once, and acting only under a lease.

use std::sync::atomic::Ordering;

use bailiwick_proto::v1::lane_message::Message as LaneUp;

use super::*;

fn ready(world: &World) -> bool {
    world.node.running.as_ref().unwrap().is_ready()
}

async fn reason_of(world: &World, tool: &str) -> Option<String> {
    let body = json_of(world.call(tool).send().await.unwrap()).await.1;
    body["error"]["data"]["reason"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn a_revocation_is_in_force_when_the_node_says_so_and_stays_so_when_the_stream_follows() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    assert_eq!(reason_of(&world, "query_data").await, None);
    let revision = world.control.deny(consent(true)).await;
    eventually("denied", || world.control.denied(revision)).await;
    assert!(!world.control.acknowledged(revision), "the stream has not brought it");
    assert_eq!(reason_of(&world, "query_data").await.as_deref(), Some("consent_revoked"));
    let (_, list) = json_of(world.modern("prompts/list", None, "").send().await.unwrap()).await;
    let data = &list["error"]["data"];
    assert_eq!((&data["reason"], &data["consent"]), (&json!("consent_revoked"), &json!("c-1")));
    world.control.catch_up(consent(true)).await;
    eventually("caught up", || world.control.acknowledged(revision)).await;
    assert_eq!(reason_of(&world, "query_data").await.as_deref(), Some("consent_revoked"));
}

#[tokio::test]
async fn a_call_under_way_is_cut_and_its_outcome_is_unknown() {
    let world = World::start(Speaks::Modern, PERMIT_ALL).await;
    world.server.set(Mode::Hang);
    let (answer, ()) = tokio::join!(world.call("create_charge").send(), async {
        eventually("forwarded", || !world.server.seen("tools/call").is_empty()).await;
        world.control.deny(consent(true)).await;
    });
    let (_, body) = json_of(answer.unwrap()).await;
    let (_, reason, request_id) = refusal(&body);
    assert_eq!(reason, "consent_revoked");
    let outcome = world.records(request_id).await.pop().unwrap().outcome.unwrap();
    assert_eq!((outcome.status, outcome.error_code.as_deref()), (Status::Unknown, Some("consent_revoked")));
}

#[tokio::test]
async fn a_node_is_ready_with_its_first_lease_and_asks_every_second() {
    let server = FakeServer::start(Speaks::Modern).await;
    let control = FakeControlPlane::start(entries(&server.url, PERMIT_ALL, true)).await;
    control.shared.mute.store(true, Ordering::SeqCst);
    let node = Node::start(&control.url, EventStream::in_process()).await;
    eventually("configured", || control.acknowledged(100)).await;
    let world = World { server, control, ledger: None, node };
    assert_eq!(reason_of(&world, "query_data").await.as_deref(), Some("config_stale"));
    assert!(!ready(&world));
    world.control.shared.mute.store(false, Ordering::SeqCst);
    eventually("ready", || ready(&world)).await;
    let asks = || {
        let said = world.control.shared.lane_said.lock().unwrap();
        said.iter()
            .filter_map(|up| if let LaneUp::Ask(ask) = up { Some(ask.clone()) } else { None })
            .collect::<Vec<_>>()
    };
    eventually("three questions", || asks().len() >= 3).await;
    let last = asks().pop().unwrap();
    assert_eq!((last.revision, last.digest.len()), (100, 32), "it says what it holds");
    assert_eq!(reason_of(&world, "query_data").await, None);
}

#[tokio::test]
async fn a_silent_lane_is_opened_at_the_next_control_plane() {
    let server = FakeServer::start(Speaks::Modern).await;
    let entries = entries(&server.url, PERMIT_ALL, true);
    let silent = FakeControlPlane::start(entries.clone()).await;
    let other = FakeControlPlane::start(entries).await;
    silent.shared.mute.store(true, Ordering::SeqCst);
    let urls = format!("{},{}", silent.url, other.url);
    let node = Node::start(&urls, EventStream::in_process()).await;
    eventually("a lease from the other", || node.running.as_ref().unwrap().is_ready()).await;
    assert!(!silent.shared.lane_said.lock().unwrap().is_empty(), "the silent one was asked first");
}
