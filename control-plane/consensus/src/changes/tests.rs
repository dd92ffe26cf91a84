//! Forgetting keeps the root, in any order, and as little as possible beside it.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::{
    disk::{Disk as _, memory::MemoryDisk},
    fixture::{birth, naive_root},
    merkle::Tree,
};

/// Revisions are not numbers: other entries lie between them.
const fn revision(number: u64) -> u64 {
    5 + 3 * number
}

fn stored(count: u64) -> (MemoryDisk, Store, Vec<Hash>) {
    let disk = MemoryDisk::default();
    let store = Store::open(std::sync::Arc::new(disk.clone()), birth()).unwrap();
    let (mut batch, mut leaves) = (Batch::default(), Vec::new());
    for number in 0..count {
        let change = format::Change { events: vec![number.to_be_bytes().to_vec()], number };
        let bytes = prost::Message::encode_to_vec(&change);
        leaves.push(leaf(revision(number), &bytes));
        batch.put_change(revision(number), bytes);
    }
    store.commit(batch, Durability::Synced).unwrap();
    (disk, store, leaves)
}

fn read_back(store: &Store, last: u64) -> (Tree, Vec<u64>) {
    let (mut tree, mut kept) = (Tree::default(), Vec::new());
    read(store, last, |row| match row {
        Row::Change { revision, number, bytes } => {
            kept.push(number);
            tree.push(number, leaf(revision, bytes))
        }
        Row::Void(void) => tree.push_void(void.first, void.level, void.hash),
    })
    .unwrap();
    (tree, kept)
}

fn voids(disk: &MemoryDisk) -> BTreeSet<(u64, u8)> {
    let rows = disk.rows(Family::Tree);
    rows.iter().map(|(key, value)| Void::from_row(key, value).unwrap()).map(|void| (void.first, void.level)).collect()
}

/// By definition: every complete subtree of forgotten leaves that no larger one contains.
fn maximal(forgotten: &BTreeSet<u64>, level: u8, index: u64, count: u64, found: &mut BTreeSet<(u64, u8)>) {
    let (first, leaves) = (index << level, 1_u64 << level);
    if first >= count {
        return;
    }
    if (first..first + leaves).all(|leaf| forgotten.contains(&leaf)) {
        found.insert((first, level));
    } else if level > 0 {
        maximal(forgotten, level - 1, index * 2, count, found);
        maximal(forgotten, level - 1, index * 2 + 1, count, found);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_is_forgotten_in_whatever_order_the_root_stays(
        count in 1..150_u64,
        order in proptest::collection::vec(any::<u64>(), 0..200),
        steps in 1..20_usize,
    ) {
        let (disk, store, leaves) = stored(count);
        let mut forgotten = BTreeSet::new();
        for some in order.chunks(order.len() / steps + 1) {
            let numbers: Vec<u64> = some.iter().map(|number| number % count).collect();
            let revisions: Vec<u64> = numbers.iter().map(|number| revision(*number)).collect();
            forget(&store, &revisions).unwrap();
            forgotten.extend(numbers);
            let (tree, kept) = read_back(&store, u64::MAX);
            tree.insist(count, &naive_root(&leaves)).unwrap();
            prop_assert!(kept.iter().all(|number| !forgotten.contains(number)));
            prop_assert_eq!(kept.len() + forgotten.len(), leaves.len());
            let mut expected = BTreeSet::new();
            maximal(&forgotten, 8, 0, count, &mut expected);
            prop_assert_eq!(voids(&disk), expected);
        }
    }
}

#[test]
fn what_is_gone_already_is_passed_over() {
    let (disk, store, leaves) = stored(9);
    forget(&store, &[revision(3), 4, revision(2), revision(3), revision(2), 1_000]).unwrap();
    forget(&store, &[revision(3)]).unwrap();
    assert_eq!(voids(&disk), BTreeSet::from([(2, 1)]));
    read_back(&store, u64::MAX).0.insist(9, &naive_root(&leaves)).unwrap();
}

#[test]
fn reading_ends_where_it_is_told_and_spans_many_pages() {
    let (_, store, leaves) = stored(40_000);
    forget(&store, &(0..40_000).step_by(3).map(revision).collect::<Vec<_>>()).unwrap();
    let (tree, kept) = read_back(&store, u64::MAX);
    assert_eq!((tree.version(), kept.len()), (40_000, 26_666));
    tree.insist(40_000, &naive_root(&leaves)).unwrap();
    let mut last = 0;
    read(&store, revision(100), |row| {
        if let Row::Change { number, .. } = row {
            last = number;
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(last, 100);
}

#[test]
fn a_damaged_row_is_corruption() {
    let (disk, store, _) = stored(9);
    forget(&store, &[revision(3)]).unwrap();
    disk.tamper(Family::Tree, &Void::key(3, 0), Some(vec![0; 31]));
    assert!(read(&store, u64::MAX, |_| Ok(())).unwrap_err().to_string().contains("must be rebuilt"));
    assert_eq!(disk.last(Family::Tree).unwrap().unwrap().1.len(), 31);
}
