//! Checkpoints: only an extension of the committed history is committed.

use bailiwick_control_plane_core::{
    Command, Event, Rejection, State,
    checkpoint::{CommitCheckpoint, made_void_by},
    evolve,
};
use bailiwick_ledger_core::tree::{leaf_hash, node_hash};

use crate::world::{World, types};

type Hash = [u8; 32];

/// Trees of one, two and three leaves by hand (RFC 6962 §2.1).
fn trees(leaves: [&str; 3]) -> ([Hash; 3], [Hash; 3]) {
    let leaf = leaves.map(|leaf| leaf_hash(leaf.as_bytes()));
    let two = node_hash(&leaf[0], &leaf[1]);
    ([leaf[0], two, node_hash(&two, &leaf[2])], leaf)
}

fn commit(old_size: u64, size: u64, root: Hash, consistency: &[Hash]) -> Command {
    let origin = "bailiwick.test/log".to_owned();
    Command::CommitCheckpoint(CommitCheckpoint { origin, old_size, size, root, consistency: consistency.to_vec() })
}

#[test]
fn a_checkpoint_that_extends_the_last_is_committed_once() {
    let ([_, two, three], leaf) = trees(["a", "b", "c"]);
    let mut world = World::default();
    assert_eq!(types(&world.run(commit(0, 2, two, &[])).unwrap()), ["checkpoint_committed"]);
    assert_eq!(types(&world.run(commit(0, 2, two, &[])).unwrap()), [""; 0], "a lost answer may be asked for again");
    assert_eq!(types(&world.run(commit(2, 3, three, &[leaf[2]])).unwrap()), ["checkpoint_committed"]);
    assert_eq!(world.state.checkpoints["bailiwick.test/log"].root_bytes(), three);
}

#[test]
fn without_the_checkpoints_that_later_ones_made_void_the_state_is_the_same() {
    let ([one, two, three], leaf) = trees(["a", "b", "c"]);
    let mut world = World::default();
    let other = Command::CommitCheckpoint(CommitCheckpoint {
        origin: "other.test/log".to_owned(),
        old_size: 0,
        size: 1,
        root: one,
        consistency: vec![],
    });
    world.run(commit(0, 1, one, &[])).unwrap();
    world.run(other).unwrap();
    world.run(commit(1, 2, two, &[leaf[1]])).unwrap();
    world.run(commit(2, 3, three, &[leaf[2]])).unwrap();
    let (mut all, mut void) = (State::default(), Vec::new());
    for (revision, event) in (1..).zip(&world.events) {
        // As the ledger commits them.
        let event = Event { request_id: String::new(), ..event.clone() };
        void.push(made_void_by(&all, std::slice::from_ref(&event)));
        evolve(&mut all, &event, revision);
    }
    assert_eq!(void, [None, None, Some(1), Some(3)]);
    let mut some = State::default();
    for (revision, event) in (1..).zip(&world.events).filter(|(revision, _)| !void.contains(&Some(*revision))) {
        evolve(&mut some, &Event { request_id: String::new(), ..event.clone() }, revision);
    }
    assert_eq!(some, all);
}

#[test]
fn another_history_is_refused() {
    let ([one, two, three], leaf) = trees(["a", "b", "c"]);
    let ([_, other_two, other_three], other_leaf) = trees(["x", "b", "c"]);
    let mut world = World::default();
    world.run(commit(0, 2, two, &[])).unwrap();
    let conflict = [
        commit(0, 3, three, &[]),
        commit(1, 3, three, &[leaf[2]]),
        commit(2, 2, other_two, &[]),
        commit(0, 1, one, &[]),
        commit(3, 2, other_two, &[]),
    ];
    for command in conflict {
        assert!(matches!(world.run(command), Err(Rejection::CheckpointConflict { size: 2, .. })));
    }
    let unproven =
        [commit(2, 3, other_three, &[other_leaf[2]]), commit(2, 3, three, &[]), commit(2, 3, three, &[leaf[1]])];
    for command in unproven {
        assert!(matches!(world.run(command), Err(Rejection::CheckpointProof { .. })));
    }
    // Sizes beyond every log, with every length of proof.
    for size in [1 << 62, 1 << 63, u64::MAX - 1, u64::MAX] {
        for hashes in 0..=128 {
            let command = commit(2, size, three, &vec![leaf[2]; hashes]);
            assert!(matches!(world.run(command), Err(Rejection::CheckpointProof { .. })), "{size} {hashes}");
        }
    }
    let long = commit(2, 3, three, &[leaf[2]; 129]);
    assert!(matches!(world.run(long), Err(Rejection::Malformed { .. })));
}
