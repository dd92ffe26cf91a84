//! Checkpoints: only an extension of the committed history is committed.

use bailiwick_control_plane_core::{Command, Rejection, checkpoint::CommitCheckpoint};
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
    let long = commit(2, 3, three, &[leaf[2]; 129]);
    assert!(matches!(world.run(long), Err(Rejection::Malformed { .. })));
}
