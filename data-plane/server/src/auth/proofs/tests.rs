//! What was used at one node counts at no other, and what cannot be told now is told later.

use std::time::Duration as Span;

use bailiwick_data_plane_core::sealed::SealingKeys;
use bailiwick_proto::v1;
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor, metrics::Registry};

use super::*;
use crate::fakes::eventually;

fn state(seed: u8) -> Arc<ConfigState> {
    let state = ConfigState::new(Span::from_secs(1));
    state.set_sealing_keys(SealingKeys::new(&[v1::SealingKey { id: "k".into(), key: vec![seed; 32] }]).unwrap());
    Arc::new(state)
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(&Registry::new()))
}

fn used(n: u8) -> UsedProof {
    UsedProof { dpop: n % 2 == 1, id: [n; PROOF_ID_BYTES], unix_ms: unix_ms() + 5_000 }
}

fn knows(proofs: &Proofs, used: &UsedProof) -> bool {
    let memory = if used.dpop { &proofs.dpop } else { &proofs.tags };
    memory.is_known(used.id)
}

async fn node(stream: &EventStream, seed: u8) -> Arc<Proofs> {
    let proofs = Proofs::new(state(seed), metrics());
    let tasks = Supervisor::new(Shutdown::new());
    tasks.spawn("told", OnEnd::Finish, Arc::clone(&proofs).tell_others(stream.clone()));
    tasks.spawn("heard", OnEnd::Finish, Arc::clone(&proofs).follow(stream.clone()));
    tokio::task::yield_now().await;
    proofs
}

#[tokio::test]
async fn what_one_node_used_all_others_know_and_nodes_of_other_clusters_do_not() {
    let stream = EventStream::in_process();
    let (one, other, stranger) = (node(&stream, 1).await, node(&stream, 1).await, node(&stream, 2).await);
    let proofs: Vec<_> = (0..200).map(used).collect();
    proofs.iter().for_each(|used| one.tell(*used));
    eventually("told", || proofs.iter().all(|used| knows(&other, used))).await;
    assert!(!proofs.iter().any(|used| knows(&stranger, used)));
    assert!(!proofs.iter().any(|used| knows(&one, used)), "its own note says nothing new to the node itself");
    assert!(one.untold().is_empty() && other.untold().is_empty(), "what is heard is not told again");
}

#[tokio::test]
async fn what_says_a_time_that_no_node_takes_does_not_fill_the_memory() {
    let stream = EventStream::in_process();
    let (wrong, other) = (node(&stream, 1).await, node(&stream, 1).await);
    let ahead = |n: u8| UsedProof { unix_ms: unix_ms() + 3_600_000, ..used(n) };
    let proofs: Vec<_> = [ahead(0), ahead(1), UsedProof { unix_ms: u64::MAX, ..used(2) }, used(4)].into();
    proofs.iter().for_each(|used| wrong.tell(*used));
    eventually("told", || knows(&other, proofs.last().unwrap())).await;
    assert!(!proofs.iter().take(3).any(|used| knows(&other, used)));
    assert_eq!(other.metrics.proofs_from_the_future.get(), 3);
}

#[tokio::test]
async fn a_node_that_begins_to_hear_takes_nothing_from_before() {
    let (stream, proofs) = (EventStream::in_process(), Proofs::new(state(1), metrics()));
    let before = unix_ms();
    assert!(!proofs.tags.is_stale(before + 1_000));
    eventually("time goes on", || unix_ms() > before).await;
    let tasks = Supervisor::new(Shutdown::new());
    tasks.spawn("heard", OnEnd::Finish, Arc::clone(&proofs).follow(stream.clone()));
    eventually("it listens", || proofs.tags.is_stale(before) && proofs.dpop.is_stale(before)).await;
}

#[tokio::test]
async fn what_cannot_be_told_now_is_kept_within_a_bound_and_told_before_the_rest() {
    let proofs = Proofs::new(Arc::new(ConfigState::new(Span::from_secs(1))), metrics());
    (0..5).for_each(|n| proofs.tell(used(n)));
    let batch = proofs.batch().unwrap();
    assert!(proofs.send(&EventStream::in_process(), &batch).await.is_err(), "without keys nothing is told");
    proofs.tell(used(9));
    proofs.keep(batch);
    let ids: Vec<u8> = proofs.untold().iter().map(|used| used.id[0]).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 9]);
    (0..UNTOLD_MAX).for_each(|_| proofs.tell(used(7)));
    assert!(proofs.untold().len() <= UNTOLD_MAX && proofs.untold().iter().all(|used| used.id[0] == 7), "the latest");
    let batch = proofs.batch().unwrap();
    assert_eq!(batch.len(), USED_MAX);
    (0..USED_MAX).for_each(|_| proofs.tell(used(8)));
    proofs.keep(batch);
    assert!(proofs.untold().len() <= UNTOLD_MAX);
}

#[test]
fn nobody_else_can_use_a_proof_up() {
    let (mine, theirs) = ([1; 32], [2; 32]);
    assert_ne!(id_of(&mine, &[3; 12]), id_of(&theirs, &[3; 12]));
    assert_ne!(id_of(&mine, &[3; 12]), id_of(&mine, &[4; 12]));
}
