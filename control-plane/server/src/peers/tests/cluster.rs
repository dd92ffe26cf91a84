//! Whole clusters: writes, reads, failover, membership.

use bailiwick_consensus::{ConsensusError, LogLength, Refusal};
use tempfile::TempDir;

use super::world::{PATIENCE, World, copy_of, loopback};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reads_what_the_leader_acknowledged() {
    let world = World::new();
    let nodes = world.three().await;
    for n in 0..5 {
        nodes[0].propose(&format!("w{n}")).await;
        for node in &nodes {
            assert_eq!(node.read().await.len(), n + 1, "node {} at write {n}", node.node_id);
        }
    }
    let refused = nodes[1].consensus.propose(Vec::new()).await;
    assert!(matches!(refused, Ok(committed) if committed.is_empty()));
    for node in nodes {
        node.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_goes_another_leads_and_nothing_is_lost() {
    let world = World::new();
    let [first, second, third] = world.three().await;
    first.propose("before").await;
    let (folder, address) = first.crash().await;

    let leader = second.leader_other_than(1).await;
    let (leader, follower) = if leader == 2 { (&second, &third) } else { (&third, &second) };
    assert_eq!(follower.leader_other_than(1).await, leader.node_id);
    leader.propose("after").await;
    assert_eq!(follower.read().await, ["before", "after"]);

    // The one that went comes back where it was, and catches up.
    let first = world.node_on(1, folder, address, LogLength::default()).await;
    first.leader_other_than(1).await;
    assert_eq!(first.read().await, ["before", "after"]);
    for node in [first, second, third] {
        node.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_stops_in_order_hands_the_lead_over_first() {
    let world = World::new();
    let [first, second, third] = world.three().await;
    first.propose("before").await;
    let term = first.consensus.term();
    first.consensus.hand_over().await;
    assert!(!first.consensus.is_leader());
    let leader = first.leader_other_than(1).await;
    let leader = if leader == 2 { &second } else { &third };
    // Nobody had to miss the old leader: the new one leads in the very next term, and takes writes at once.
    assert_eq!(leader.consensus.term(), term + 1);
    leader.propose("after").await;
    first.stop().await;
    for node in [second, third] {
        node.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lead_is_not_handed_to_a_node_that_is_gone() {
    let world = World::new();
    let [first, second, third] = world.three().await;
    third.crash().await;
    first.propose("without the third").await;
    first.consensus.hand_over().await;
    assert_eq!(first.leader_other_than(1).await, 2);
    second.propose("led by the second").await;
    for node in [first, second] {
        node.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_answers_no_read_and_takes_no_write() {
    let world = World::new();
    let [first, second, third] = world.three().await;
    first.propose("before").await;
    second.crash().await;
    third.crash().await;
    let read = first.consensus.linearizable().await;
    assert!(matches!(read, Err(ConsensusError::Unconfirmed { .. })), "{read:?}");
    first.crash().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_comes_by_snapshot_votes_and_goes_for_good() {
    let world = World::new();
    let short = LogLength { snapshot_every: 10, kept: 1 };
    let first = world.node_on(1, TempDir::new().unwrap(), loopback(0), short).await;
    first.found().await;
    for n in 0..50 {
        first.propose(&format!("w{n}")).await;
    }
    let last = *first.consensus.revisions().borrow();
    let second = world.node_on(2, TempDir::new().unwrap(), loopback(0), short).await;
    first.consensus.add_learner(2, second.member()).await.unwrap();
    second.applied(last).await;
    assert_eq!(second.collected.texts(), first.collected.texts());
    assert_eq!(first.consensus.membership().learners.keys().collect::<Vec<_>>(), [&2]);

    first.consensus.set_voters([1, 2].into()).await.unwrap();
    assert_eq!(first.consensus.membership().voters.len(), 2);
    first.propose("both").await;
    assert_eq!(second.read().await.last().unwrap(), "both");
    assert!(first.consensus.progress()[&2] >= last);

    first.consensus.remove(2).await.unwrap();
    assert_eq!(first.consensus.membership().voters.keys().collect::<Vec<_>>(), [&1]);
    let failed = tokio::time::timeout(PATIENCE, second.consensus.failed()).await.unwrap();
    assert!(matches!(failed, ConsensusError::Refused(Refusal::Removed)), "{failed}");
    assert!(second.consensus.linearizable().await.is_err());
    first.propose("alone").await;
    for node in [first, second] {
        node.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_moves_is_found_where_it_is_now() {
    let world = World::new();
    let [first, second, third] = world.three().await;
    first.propose("before").await;
    let (folder, _) = third.crash().await;
    let third = world.node_on(3, folder, loopback(0), LogLength::default()).await;
    first.consensus.update_member(3, third.member()).await.unwrap();
    let last = first.propose("after").await.revision;
    third.applied(last).await;
    assert_eq!(third.read().await, ["before", "after"]);
    assert_eq!(second.consensus.membership().get(3), Some(&third.member()));
    // The two that are left need each other: votes find the one that moved as well.
    first.crash().await;
    second.leader_other_than(1).await;
    assert_eq!(second.read().await, ["before", "after"]);
    for node in [second, third] {
        node.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_that_only_learns_and_calls_nobody_hears_that_it_is_one() {
    let world = World::new();
    let first = world.node(1).await;
    first.found().await;
    let second = world.node(2).await;
    first.consensus.add_learner(2, second.member()).await.unwrap();
    let (folder, address) = second.crash().await;
    let older = copy_of(folder.path());
    let second = world.node_on(2, folder, address, LogLength::default()).await;
    let seen = first.propose("seen by the newer copy").await.revision;
    second.applied(seen).await;
    let (_, address) = second.crash().await;

    let second = world.node_on(2, older, address, LogLength::default()).await;
    first.propose("for which the learner is called").await;
    let failed = tokio::time::timeout(PATIENCE, second.consensus.failed()).await.unwrap();
    assert!(matches!(failed, ConsensusError::Refused(Refusal::OlderCopy)), "{failed}");
    for node in [first, second] {
        node.crash().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_a_data_directory_is_refused_and_ends() {
    let world = World::new();
    let [first, second, third] = world.three().await;
    let (folder, address) = third.crash().await;
    let older = copy_of(folder.path());
    let third = world.node_on(3, folder, address, LogLength::default()).await;
    first.propose("seen by the newer copy").await;
    assert_eq!(third.read().await.len(), 1);
    let (newer, address) = third.crash().await;

    // The copy has started as often as the original when that was met last, but is not the same run.
    let third = world.node_on(3, older, address, LogLength::default()).await;
    let failed = tokio::time::timeout(PATIENCE, third.consensus.failed()).await.unwrap();
    assert!(matches!(failed, ConsensusError::Refused(Refusal::OlderCopy)), "{failed}");
    let (_, address) = third.crash().await;

    let third = world.node_on(3, newer, address, LogLength::default()).await;
    third.leader_other_than(3).await;
    assert_eq!(third.read().await.len(), 1);
    for node in [first, second, third] {
        node.crash().await;
    }
}
