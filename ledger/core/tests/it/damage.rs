//! Damage to an export's files, by somebody who does not hold the log's key: found, and its leaf named.

use bailiwick_ledger_core::tree;
use proptest::prelude::*;

use crate::fixture::{Export, Log, assert_invalid, assert_valid, entry_ranges};

/// The leaf that damage at `position` of the file at `path` must be reported at.
fn damaged_leaf(path: &str, bytes: &[u8], position: usize) -> Option<u64> {
    let number = |name: &str| name.split('.').next().unwrap().parse::<u64>().unwrap();
    match path.split('/').collect::<Vec<_>>().as_slice() {
        ["checkpoint"] => None,
        ["tile", "entries", name, ..] => {
            let ranges = entry_ranges(bytes);
            let entry = ranges.iter().position(|range| range.contains(&position)).unwrap();
            Some(number(name) * 256 + entry as u64)
        }
        ["tile", level, name, ..] => {
            Some((number(name) * 256 + position as u64 / 32) << (8 * level.parse::<u8>().unwrap()))
        }
        _ => panic!("{path}"),
    }
}

fn check_damage(export: &Export, path: &str, position: usize, mask: u8) {
    let original = &export.files[path];
    let mut damaged = export.clone();
    damaged.files.get_mut(path).unwrap()[position] ^= mask;
    assert_invalid(&damaged.verify(), damaged_leaf(path, original, position), "");
}

#[test]
fn any_changed_byte_is_found_and_its_leaf_named() {
    let export = Log::busy().export();
    assert_valid(&export.verify());
    for (path, bytes) in &export.files {
        for position in 0..bytes.len() {
            check_damage(&export, path, position, 1 << (position % 8));
        }
    }
}

/// A log with full and partial tiles on three levels' worth of paths.
fn long() -> Export {
    let mut log = Log::new();
    for round in 0..200 {
        let node = if round % 3 == 0 { "edge-1" } else { "edge-2" };
        let intent = log.intent(node);
        log.outcome(node, &intent);
        log.denied("edge-1");
    }
    log.head("edge-1", 1);
    log.head("edge-2", 2);
    log.export()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn any_changed_byte_of_a_long_log_is_found(file in any::<prop::sample::Index>(), byte in any::<prop::sample::Index>(), bit in 0..8_u8) {
        let export = long();
        let paths: Vec<_> = export.files.keys().collect();
        let path = paths[file.index(paths.len())];
        check_damage(&export, path, byte.index(export.files[path].len()), 1_u8 << bit);
    }
}

#[test]
fn a_file_that_is_missing_is_named() {
    let export = long();
    assert_valid(&export.verify());
    for (path, leaf) in [
        ("checkpoint", None),
        ("tile/entries/000", Some(0)),
        ("tile/entries/002.p/94", Some(512)),
        ("tile/0/001", Some(256)),
        ("tile/1/000.p/2", Some(0)),
    ] {
        let mut damaged = export.clone();
        assert!(damaged.files.remove(path).is_some(), "{path}: {:?}", export.files.keys());
        assert_invalid(&damaged.verify(), leaf, path);
    }
}

#[test]
fn a_partial_tile_may_be_replaced_by_the_full_one() {
    let mut log = Log::new();
    let shorter = {
        (0..246).for_each(|_| log.denied("edge-1"));
        log.export()
    };
    (0..6).for_each(|_| log.denied("edge-1"));
    let mut mixed = log.export();
    mixed.files.insert("checkpoint".into(), shorter.checkpoint());
    assert!(mixed.files.contains_key("tile/entries/000") && mixed.files.contains_key("tile/0/000"));
    assert_eq!(mixed.verify().size, 250);
    assert_valid(&mixed.verify());
}

#[test]
fn a_file_cut_anywhere_is_found_at_the_first_leaf_that_is_not_whole() {
    let export = Log::busy().export();
    for (path, bytes) in export.files.iter().filter(|(path, _)| *path != "checkpoint") {
        for length in (0..bytes.len()).step_by(7) {
            let mut damaged = export.clone();
            damaged.files.get_mut(path).unwrap().truncate(length);
            assert_invalid(&damaged.verify(), damaged_leaf(path, bytes, length), "");
        }
    }
}

#[test]
fn a_file_that_holds_more_than_the_log_is_refused() {
    let export = Log::busy().export();
    for (path, _) in export.files.iter().filter(|(path, _)| *path != "checkpoint") {
        for surplus in [vec![0], vec![0; 2], vec![0; 32]] {
            let mut damaged = export.clone();
            damaged.files.get_mut(path).unwrap().extend(surplus);
            assert_invalid(&damaged.verify(), Some(16), "holds more");
        }
    }
}

#[test]
fn a_leaf_taken_out_of_its_bundle_is_named() {
    let export = Log::busy().export();
    let bundle = export.files["tile/entries/000.p/16"].clone();
    for (leaf, range) in entry_ranges(&bundle).into_iter().enumerate() {
        let mut damaged = export.clone();
        let without = [&bundle[..range.start], &bundle[range.end..]].concat();
        damaged.files.insert("tile/entries/000.p/16".into(), without);
        assert_invalid(&damaged.verify(), Some(leaf as u64), "");
    }
}

#[test]
fn two_leaves_exchanged_in_their_bundle_are_found_at_the_first() {
    let export = Log::busy().export();
    let bundle = export.files["tile/entries/000.p/16"].clone();
    let ranges = entry_ranges(&bundle);
    for first in 0..ranges.len() - 1 {
        let (a, b) = (ranges[first].clone(), ranges[first + 1].clone());
        let swapped = [&bundle[..a.start], &bundle[b.clone()], &bundle[a], &bundle[b.end..]].concat();
        let mut damaged = export.clone();
        damaged.files.insert("tile/entries/000.p/16".into(), swapped);
        assert_invalid(&damaged.verify(), Some(first as u64), "does not have the hash");
    }
}

#[test]
fn a_leaf_changed_together_with_its_hash_is_found_by_the_record_after_it() {
    let export = Log::busy().export();
    let ranges = entry_ranges(&export.files["tile/entries/000.p/16"]);
    for leaf in [4, 6, 8] {
        let mut damaged = export.clone();
        let bundle = damaged.files.get_mut("tile/entries/000.p/16").unwrap();
        let entry = &mut bundle[ranges[leaf].clone()][2..];
        let day = entry.windows(10).position(|part| part == b"2026-11-21").unwrap();
        entry[day + 9] = b'2';
        let hash = tree::leaf_hash(entry);
        damaged.files.get_mut("tile/0/000.p/16").unwrap()[leaf * 32..][..32].copy_from_slice(&hash);
        assert_invalid(&damaged.verify(), Some(leaf as u64), "does not name the hash");
    }
}
