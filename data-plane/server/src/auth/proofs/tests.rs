//! What was used at one node counts at no other, and what cannot be told now is told later.

use std::time::Duration as Span;

use bailiwick_data_plane_core::sealed::{SealingKeys, used_proofs::PROOF_ID_BYTES};
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
    follow(stream, Proofs::new(state(seed), metrics())).await
}

async fn follow(stream: &EventStream, proofs: Arc<Proofs>) -> Arc<Proofs> {
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
    assert!(one.untold().held() == 0 && other.untold().held() == 0, "what is heard is not told again");
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
    proofs.untold().keep(batch);
    let ids: Vec<u8> = proofs.batch().unwrap().iter().map(|used| used.id[0]).collect();
    assert_eq!(ids, [0, 1, 2, 3, 4, 9]);
    proofs.tell(used(6));
    (0..2 * UNTOLD_MAX).for_each(|_| proofs.tell(used(7)));
    assert!(proofs.untold().held() <= UNTOLD_MAX);
    let batch = proofs.batch().unwrap();
    assert_eq!((batch.len(), batch[0].id[0]), (USED_MAX, 6), "somebody else's is told first");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_node_tells_at_once_and_a_busy_one_gathers() {
    let stream = EventStream::in_process();
    let (one, other) = (node(&stream, 1).await, node(&stream, 1).await);
    let began = tokio::time::Instant::now();
    for (n, waits) in [(0, false), (2, true)] {
        one.tell(used(n));
        // Time stands still as long as there is something to do.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!((knows(&other, &used(n)), began.elapsed()), (!waits, Span::ZERO), "{n}");
    }
    tokio::time::sleep(TOLD_AFTER + Span::from_millis(1)).await;
    assert!(knows(&other, &used(2)));
}

/// The n-th proof of a person.
fn of(person: u8, n: u64, unix_ms: u64) -> UsedProof {
    let mut id = [person; PROOF_ID_BYTES];
    id[8..16].copy_from_slice(&n.to_be_bytes());
    UsedProof { dpop: n % 2 == 1, id, unix_ms }
}

#[tokio::test]
async fn a_flood_by_one_person_changes_nothing_for_another_at_any_node() {
    const ROOM: usize = 320;
    let stream = EventStream::in_process();
    let (one, other) = (small_node(&stream, ROOM).await, small_node(&stream, ROOM).await);
    let (jane, eve) = (1, 2);
    // From when both listen, and a time that is over when the flood comes.
    let start = unix_ms() + 1;
    eventually("the time is over", || unix_ms() > start + 1_000).await;
    let hers = of(jane, 0, start);
    one.count(hers).unwrap();
    for n in 0..5_000 {
        // Of all times that there are, the youngest last.
        let _full = one.count(of(eve, n, start + n / 4));
    }
    one.count(of(jane, 2, start)).unwrap();
    eventually("told", || knows(&other, &of(jane, 2, start))).await;
    eventually("the flood has come", || other.tags.check(&of(eve, 9_998, start).id, start).is_err()).await;
    for node in [&one, &other] {
        for n in 0..5_000 {
            assert!(node.count(of(eve, n, start + n / 4)).is_err(), "nothing of the flood counts twice: {n}");
        }
        assert_eq!(node.count(of(eve, 9_998, start)), Err(Unusable::Stale), "eve's floor has moved");
        assert!(matches!(node.count(hers), Err(Unusable::Replayed { .. })));
        assert!(!node.tags.is_stale(start) && !node.dpop.is_stale(start));
    }
    // Jane's that were not used yet count, once at one of the nodes each.
    one.count(of(jane, 4, start)).unwrap();
    other.count(of(jane, 6, start)).unwrap();
    other.count(of(jane, 7, start)).unwrap();
}

async fn small_node(stream: &EventStream, room: usize) -> Arc<Proofs> {
    follow(stream, Proofs::of_size(state(1), metrics(), room)).await
}
