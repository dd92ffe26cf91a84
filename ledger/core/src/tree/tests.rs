//! The tree against the definition in RFC 6962, against published vectors, and against another implementation.

#![expect(clippy::cast_possible_truncation, reason = "trees of a few hundred leaves")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// RFC 6962 §2.1, word for word.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|number| leaf_hash(&number.to_be_bytes())).collect()
}

type Stored = BTreeMap<(u8, u64), Hash>;

fn reader(stored: &Stored) -> impl HashReader {
    |level, index| stored.get(&(level, index)).copied()
}

/// Appends in steps of `step` leaves, as a sequencer does.
fn store(count: u64, step: usize) -> Stored {
    let mut stored = Stored::new();
    let mut size = 0;
    for group in leaves(count).chunks(step) {
        let appended = append(&reader(&stored), size, group).unwrap();
        size += group.len() as u64;
        assert_eq!(appended.size, size);
        assert_eq!(appended.root, naive_root(&leaves(size)));
        for node in appended.nodes {
            assert_eq!(stored.insert((node.level, node.index), node.hash), None, "stored once");
        }
    }
    stored
}

#[test]
fn published_roots_of_certificate_transparency_come_out() {
    let inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    let mut frontier = Frontier::new();
    let mut roots = vec![frontier.root()];
    for input in inputs {
        frontier.push(leaf_hash(&hex::decode(input).unwrap()), &mut Vec::new()).unwrap();
        roots.push(frontier.root());
    }
    for (size, root) in [
        (0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (1, "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (2, "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        (8, "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ] {
        assert_eq!(hex::encode(roots[size]), root);
    }
}

#[test]
fn every_past_root_can_be_computed_from_stored_hashes() {
    let stored = store(300, 7);
    let all = leaves(300);
    for size in 0..=300 {
        assert_eq!(root(&reader(&stored), size), Ok(naive_root(&all[..size as usize])));
    }
    assert_eq!(root(&reader(&stored), 301), Err(TreeError::MissingHash { level: 0, index: 300 }));
    assert_eq!(root(&reader(&stored), u64::MAX), Err(TreeError::OutOfRange));
}

#[test]
fn all_proofs_of_small_trees_verify_and_no_other_statement_does() {
    let (stored, all) = (store(20, 3), leaves(20));
    let reader = reader(&stored);
    let roots: Vec<Hash> = (0..=20).map(|size| naive_root(&all[..size])).collect();
    for size in 0..=20_u64 {
        for index in 0..size {
            let proof = inclusion_proof(&reader, index, size).unwrap();
            for other in 0..size {
                let holds = verify_inclusion(other, size, &all[index as usize], &proof, &roots[size as usize]);
                assert_eq!(holds, other == index, "leaf {index} at {other} of {size}");
            }
        }
        for old in 0..=size {
            let proof = consistency_proof(&reader, old, size).unwrap();
            for claimed in 0..=20 {
                let holds = verify_consistency(old, size, &roots[claimed], &roots[size as usize], &proof);
                assert_eq!(holds, claimed as u64 == old, "root {claimed} for {old} of {size}");
            }
        }
        assert_eq!(inclusion_proof(&reader, size, size), Err(TreeError::OutOfRange));
        assert_eq!(consistency_proof(&reader, size + 1, size), Err(TreeError::OutOfRange));
    }
}

#[test]
fn a_subtree_of_which_only_the_hash_is_known_stands_for_its_leaves() {
    let all = leaves(64);
    for (start, level) in [(0, 0), (0, 3), (8, 3), (16, 4), (32, 5), (40, 3), (48, 4), (63, 0), (6, 1)] {
        let (first, after) = (start as usize, start as usize + (1 << level));
        let mut frontier = Frontier::new();
        all[..first].iter().for_each(|leaf| frontier.push(*leaf, &mut Vec::new()).unwrap());
        frontier.push_subtree(level, naive_root(&all[first..after])).unwrap();
        assert_eq!((frontier.size(), frontier.root()), (after as u64, naive_root(&all[..after])));
        all[after..].iter().for_each(|leaf| frontier.push_subtree(0, *leaf).unwrap());
        assert_eq!(frontier.root(), naive_root(&all));
    }
    let mut frontier = Frontier::new();
    frontier.push_subtree(1, [1; 32]).unwrap();
    for level in [2, 3, 61, 62, 63, 64, 255] {
        assert_eq!(
            frontier.push_subtree(level, [2; 32]),
            Err(TreeError::OutOfRange),
            "level {level} behind two leaves"
        );
    }
    let mut full = Frontier::new();
    full.push_subtree(62, [3; 32]).unwrap();
    assert_eq!(full.push_subtree(0, [4; 32]), Err(TreeError::OutOfRange));
}

#[test]
fn a_proof_cut_short_or_made_longer_fails() {
    let (stored, all) = (store(50, 50), leaves(50));
    let (old_root, root) = (naive_root(&all[..21]), naive_root(&all));
    let inclusion = inclusion_proof(&reader(&stored), 49, 50).unwrap();
    let consistency = consistency_proof(&reader(&stored), 21, 50).unwrap();
    let longer = |proof: &[Hash]| [proof, &[[0; 32]]].concat();
    assert!(verify_inclusion(49, 50, &all[49], &inclusion, &root));
    assert!(verify_consistency(21, 50, &old_root, &root, &consistency));
    assert!(!verify_inclusion(49, 50, &all[49], &longer(&inclusion), &root));
    assert!(!verify_inclusion(49, 50, &all[49], &inclusion[1..], &root));
    assert!(!verify_consistency(21, 50, &old_root, &root, &longer(&consistency)));
    assert!(!verify_consistency(21, 50, &old_root, &root, &consistency[..consistency.len() - 1]));
    assert!(!verify_consistency(21, 50, &old_root, &root, &[]));
    assert!(!verify_inclusion(0, u64::MAX, &all[0], &[[0; 32]; 64], &root));
    assert!(!verify_consistency(1, u64::MAX, &old_root, &root, &[[0; 32]; 64]));
}

/// The oracle keeps all hashes in one array.
struct Oracle(Vec<tlog_tiles::Hash>);

impl tlog_tiles::HashReader for Oracle {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|index| self.0[*index as usize]).collect())
    }
}

impl Oracle {
    fn of(count: u64) -> Self {
        let mut oracle = Self(Vec::new());
        for number in 0..count {
            let new = tlog_tiles::stored_hashes(number, &number.to_be_bytes(), &oracle).unwrap();
            oracle.0.extend(new);
        }
        oracle
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn another_implementation_gives_the_same_roots_and_proofs(size in 1..700_u64, a in any::<u64>(), b in any::<u64>()) {
        let (stored, oracle) = (store(size, 1 + (a % 300) as usize), Oracle::of(size));
        let (index, old) = (a % size, 1 + b % size);
        let ours = root(&reader(&stored), size).unwrap();
        prop_assert_eq!(tlog_tiles::tree_hash(size, &oracle).unwrap().0, ours);
        let inclusion: Vec<Hash> =
            tlog_tiles::prove_record(size, index, &oracle).unwrap().into_iter().map(|hash| hash.0).collect();
        prop_assert_eq!(inclusion_proof(&reader(&stored), index, size).unwrap(), inclusion);
        let consistency: Vec<Hash> =
            tlog_tiles::prove_tree(size, old, &oracle).unwrap().into_iter().map(|hash| hash.0).collect();
        prop_assert_eq!(consistency_proof(&reader(&stored), old, size).unwrap(), consistency);
    }

    #[test]
    fn a_changed_bit_anywhere_in_a_proof_fails(size in 2..400_u64, a in any::<u64>(), b in any::<u64>(), bit in any::<usize>()) {
        let (stored, all) = (store(size, 400), leaves(size));
        let (index, old) = (a % size, 1 + b % (size - 1));
        let (old_root, root) = (naive_root(&all[..old as usize]), naive_root(&all));
        let flip = |mut proof: Vec<Hash>| {
            let (position, bit) = (bit / 256 % proof.len(), bit % 256);
            proof[position][bit / 8] ^= 1 << (bit % 8);
            proof
        };
        let inclusion = inclusion_proof(&reader(&stored), index, size).unwrap();
        prop_assert!(verify_inclusion(index, size, &all[index as usize], &inclusion, &root));
        prop_assert!(!verify_inclusion(index, size, &all[index as usize], &flip(inclusion), &root));
        let consistency = consistency_proof(&reader(&stored), old, size).unwrap();
        prop_assert!(verify_consistency(old, size, &old_root, &root, &consistency));
        prop_assert!(!verify_consistency(old, size, &old_root, &root, &flip(consistency)));
    }

    #[test]
    fn tiles_are_named_and_filled_as_another_implementation_does(size in 1..70_000_u64) {
        let ours: Vec<_> = crate::tile::paths_at(size)
            .filter(|path| path.kind != crate::tile::TileKind::Entries)
            .map(|path| path.to_string())
            .collect();
        // The other names the tile's height in the path, ours is fixed at 8.
        let theirs = tlog_tiles::Tile::new_tiles(8, 0, size);
        let theirs: Vec<_> = theirs.iter().map(|tile| tile.path().replacen("tile/8/", "tile/", 1)).collect();
        prop_assert_eq!(ours, theirs);
    }
}
