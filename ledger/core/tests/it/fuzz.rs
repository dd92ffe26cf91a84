//! Arbitrary and damaged input to every parser: refused or read, never a panic, and what is read is spelt one way.

use bailiwick_ledger_core::{canonical, checkpoint, record::Record, tile, tile::TilePath, time, verify::verify_export};
use proptest::prelude::*;

use crate::fixture::{Export, Log, trust};

const GOLDEN: &str = include_str!("../golden/records.jsonl");

/// A golden record with one piece replaced by something that looks like JSON.
fn damaged_record() -> impl Strategy<Value = Vec<u8>> {
    let lines: Vec<&'static str> = GOLDEN.lines().collect();
    let pieces = prop_oneof![any::<Vec<u8>>(), r#"[\[\]{}",:0-9a-z\\ ]{0,12}"#.prop_map(String::into_bytes)];
    (prop::sample::select(lines), any::<prop::sample::Index>(), any::<prop::sample::Index>(), pieces).prop_map(
        |(line, a, b, piece)| {
            let (a, b) = (a.index(line.len()), b.index(line.len()));
            let (start, end) = (a.min(b), a.max(b).min(a.min(b) + 16));
            [&line.as_bytes()[..start], &piece, &line.as_bytes()[end..]].concat()
        },
    )
}

proptest! {
    #[test]
    fn a_record_that_is_read_is_canonical(bytes in prop_oneof![any::<Vec<u8>>(), damaged_record()]) {
        if let Ok(record) = Record::parse(&bytes) {
            let tree: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            prop_assert_eq!(&canonical::to_canonical(&tree).unwrap(), &bytes);
            let written = record.to_canonical().unwrap();
            // Fields of a later version are read past, so the bytes may hold more than is written back.
            prop_assert!(written.len() <= bytes.len());
            prop_assert_eq!(Record::parse(&written).unwrap(), record);
        }
    }

    #[test]
    fn a_tile_path_that_is_read_is_spelt_one_way(path in r"(tile/)?[0-9a-z]{0,7}/?[x0-9/]{0,12}(\.p/)?[0-9]{0,3}") {
        if let Some(parsed) = TilePath::parse(&path) {
            prop_assert_eq!(parsed.to_string(), path);
        }
    }

    #[test]
    fn a_time_that_is_read_is_spelt_one_way(text in r"[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9]\.[0-9]{6}Z") {
        if let Some(micros) = time::parse_ts(&text) {
            prop_assert_eq!(time::format_ts(micros), text);
        }
    }

    #[test]
    fn bundles_and_tiles_that_are_read_are_written_back_unchanged(bytes in any::<Vec<u8>>()) {
        if let Ok(entries) = tile::decode_entries(&bytes) {
            prop_assert_eq!(tile::encode_entries(entries).unwrap(), bytes.clone());
        }
        if let Ok(hashes) = tile::decode_hashes(&bytes) {
            prop_assert_eq!(tile::encode_hashes(&hashes), bytes);
        }
    }

    #[test]
    fn arbitrary_notes_never_open(note in prop_oneof![any::<Vec<u8>>(), r"[a-z]{1,3}\n[0-9]{1,3}\n[A-Za-z0-9+/]{43}=\n\n(\x{2014} [a-z]{1,3} [A-Za-z0-9+/]{8}\n){0,3}".prop_map(String::into_bytes)]) {
        prop_assert!(checkpoint::open(&note, &trust().keys).is_err());
    }

    #[test]
    fn an_export_of_arbitrary_files_is_invalid(bundle in any::<Vec<u8>>(), tile in any::<Vec<u8>>()) {
        let mut files = Log::new().export().files;
        files.insert("tile/entries/000.p/4".into(), bundle);
        files.insert("tile/0/000.p/4".into(), tile);
        let report = verify_export(&Export { files }, &trust());
        prop_assert!(!report.is_valid());
    }
}
