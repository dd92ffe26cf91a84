//! Roots: what is kept of them, and what comparing them says.

use super::*;
use crate::fixture::naive_root;

fn grown(versions: u64) -> (Tree, Roots, Vec<Hash>) {
    let (mut tree, roots, mut leaves) = (Tree::default(), Roots::default(), Vec::new());
    roots.restart(&tree);
    for number in 0..versions {
        leaves.push(leaf(number + 10, b"change"));
        tree.push(number, leaf(number + 10, b"change")).unwrap();
        roots.note(&tree);
    }
    (tree, roots, leaves)
}

fn naming(version: u64, root: Hash) -> Proposal {
    Proposal { root_version: version, root: root.to_vec(), ..Proposal::default() }
}

#[test]
fn a_leaf_is_bound_to_its_revision_and_its_bytes() {
    let hashes = [leaf(1, b"ab"), leaf(2, b"ab"), leaf(1, b"ba")];
    assert!(hashes[0] != hashes[1] && hashes[0] != hashes[2]);
    let words = [&1_u64.to_be_bytes()[..], b"ab"].concat();
    assert_eq!(hashes[0], bailiwick_ledger_core::tree::leaf_hash(&words));
}

#[test]
fn every_root_is_known_as_long_as_it_is_among_the_newest() {
    let kept = ROOTS_KEPT as u64;
    let (tree, roots, leaves) = grown(kept + 50);
    assert_eq!(roots.newest(), (kept + 50, naive_root(&leaves)));
    for version in [51, 52, 1000, kept + 49, kept + 50] {
        assert_eq!(roots.at(version), Some(naive_root(&leaves[..usize::try_from(version).unwrap()])));
    }
    assert_eq!((roots.at(50), roots.at(kept + 51)), (None, None));
    tree.insist(kept + 50, &naive_root(&leaves)).unwrap();
}

#[test]
fn another_root_at_a_known_version_is_a_divergence_and_is_remembered() {
    let (_, roots, leaves) = grown(20);
    let root = naive_root(&leaves[..7]);
    roots.compare(&naming(7, root), 30).unwrap();
    assert_eq!(roots.diverged(), None);
    let diverged = roots.compare(&naming(8, root), 31).unwrap_err();
    assert_eq!(diverged, Diverged { version: 8, own: naive_root(&leaves[..8]), theirs: root, revision: 31 });
    assert_eq!(roots.diverged(), Some(diverged));
    assert!(diverged.to_string().contains("diverged"), "{diverged}");
}

#[test]
fn a_proposer_cannot_be_ahead_of_what_its_proposal_follows() {
    let (_, roots, _) = grown(20);
    roots.compare(&naming(21, [1; 32]), 30).unwrap_err();
}

#[test]
fn what_cannot_be_compared_is_let_pass() {
    let (_, roots, _) = grown(ROOTS_KEPT as u64 + 50);
    roots.compare(&naming(3, [1; 32]), 9000).unwrap();
    roots.compare(&Proposal::default(), 9000).unwrap();
}

#[test]
fn a_proposal_is_stamped_with_the_newest_root() {
    let (_, roots, leaves) = grown(20);
    let mut proposal = Proposal::default();
    roots.stamp(&mut proposal);
    assert_eq!((proposal.root_version, proposal.root), (20, naive_root(&leaves).to_vec()));
}

#[test]
fn a_change_out_of_its_place_is_corruption() {
    let (mut tree, ..) = grown(5);
    assert!(tree.push(4, [0; 32]).unwrap_err().to_string().contains("must be rebuilt"));
    assert!(tree.push(6, [0; 32]).is_err());
    // Four leaves at once do not fit behind five.
    assert!(tree.push_void(5, 2, [0; 32]).is_err());
    tree.insist(5, &[0; 32]).unwrap_err();
    tree.insist(6, &tree.root()).unwrap_err();
}

#[test]
fn a_gap_begins_anew() {
    let (mut tree, roots, _) = grown(4);
    tree.push_void(4, 2, [7; 32]).unwrap();
    roots.note(&tree);
    assert_eq!((roots.newest(), roots.at(4)), ((8, tree.root()), None));
}
