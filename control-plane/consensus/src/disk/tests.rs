//! The real disk: its order, its refusals, its files.

use std::{fs, io::Write as _, path::Path};

use rocksdb::{ColumnFamilyDescriptor, DB, Options};
use tempfile::TempDir;

use super::*;

fn put(family: Family, key: &[u8], value: &[u8]) -> Write {
    Write::Put { family, key: key.to_vec(), value: value.to_vec() }
}

fn all(disk: &RocksDisk, family: Family) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut rows = Vec::new();
    disk.scan(family, &[], &mut |key, value| {
        rows.push((key.to_vec(), value.to_vec()));
        Ok(true)
    })?;
    Ok(rows)
}

#[test]
fn rows_are_kept_in_order_and_ranges_are_removed() {
    let folder = TempDir::new().unwrap();
    let disk = RocksDisk::open(folder.path()).unwrap();
    let rows: Vec<Write> = (0..300_u64).rev().map(|n| put(Family::Log, &n.to_be_bytes(), &[1])).collect();
    disk.write(rows, Durability::Synced).unwrap();
    disk.write(vec![put(Family::Events, b"k", b"v")], Durability::Written).unwrap();
    let (start, end) = (10_u64.to_be_bytes().to_vec(), 290_u64.to_be_bytes().to_vec());
    disk.write(vec![Write::DeleteRange { family: Family::Log, start, end }], Durability::Written).unwrap();
    disk.write(vec![Write::Delete { family: Family::Log, key: 0_u64.to_be_bytes().to_vec() }], Durability::Written)
        .unwrap();
    disk.sync().unwrap();
    drop(disk);
    let disk = RocksDisk::open(folder.path()).unwrap();
    let expected: Vec<_> = (1..10_u64).chain(290..300).map(|n| (n.to_be_bytes().to_vec(), vec![1])).collect();
    assert_eq!(all(&disk, Family::Log).unwrap(), expected);
    assert_eq!(disk.last(Family::Log).unwrap(), expected.last().cloned());
    assert_eq!(disk.get(Family::Events, b"k").unwrap().as_deref(), Some(b"v".as_slice()));
    assert_eq!(disk.last(Family::Tree).unwrap(), None);
    disk.compact(Family::Log).unwrap();
    assert_eq!(all(&disk, Family::Log).unwrap(), expected);
}

#[test]
fn a_file_is_there_whole_or_not_at_all() {
    let folder = TempDir::new().unwrap();
    let disk = RocksDisk::open(folder.path()).unwrap();
    let mut blob = disk.blob_create("1.snapshot").unwrap();
    blob.write_all(b"whole").unwrap();
    assert!(disk.blob_list().unwrap().is_empty());
    blob.publish().unwrap();
    let mut other = disk.blob_create("2.snapshot").unwrap();
    other.write_all(b"half").unwrap();
    drop(other);
    assert_eq!(disk.blob_list().unwrap(), ["1.snapshot"]);
    let mut read = String::new();
    let mut open = disk.blob_open("1.snapshot").unwrap();
    disk.blob_remove("1.snapshot").unwrap();
    open.read_to_string(&mut read).unwrap();
    assert_eq!(read, "whole", "who reads it goes on reading");
    assert!(matches!(disk.blob_open("1.snapshot"), Err(error) if error.kind() == io::ErrorKind::NotFound));
    for name in ["", ".", "..", "../x", "a/b", ".hidden", "ä", &"x".repeat(200)] {
        assert!(disk.blob_create(name).is_err(), "{name}");
    }
}

#[test]
fn a_file_in_the_making_does_not_survive_a_restart() {
    let folder = TempDir::new().unwrap();
    let disk = RocksDisk::open(folder.path()).unwrap();
    let mut blob = disk.blob_create("1.snapshot").unwrap();
    blob.write_all(b"half").unwrap();
    blob.flush().unwrap();
    // What a killed process leaves: no destructor runs.
    std::mem::forget(blob);
    drop(disk);
    let files = || fs::read_dir(folder.path().join("snapshots")).unwrap().count();
    assert_eq!(files(), 1);
    let disk = RocksDisk::open(folder.path()).unwrap();
    assert_eq!(files(), 0);
    assert!(disk.blob_list().unwrap().is_empty());
}

#[test]
fn a_directory_of_the_first_layout_is_refused_with_advice_and_left_alone() {
    let folder = TempDir::new().unwrap();
    {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let families = ["log", "meta", "events"].map(|name| ColumnFamilyDescriptor::new(name, Options::default()));
        let db = DB::open_cf_descriptors(&options, folder.path().join("store"), families).unwrap();
        db.put_cf(&db.cf_handle("meta").unwrap(), "format", 1_u64.to_be_bytes()).unwrap();
    }
    let error = RocksDisk::open(folder.path()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::Unsupported);
    assert!(error.to_string().contains("layout 1"), "{error}");
    assert!(error.to_string().contains("start with an empty directory"), "{error}");
    let names = DB::list_cf(&Options::default(), folder.path().join("store")).unwrap();
    assert!(!names.contains(&"tree".to_owned()), "the old program can still open it");
}

#[test]
fn one_process_at_a_time() {
    let folder = TempDir::new().unwrap();
    let _disk = RocksDisk::open(folder.path()).unwrap();
    assert!(RocksDisk::open(folder.path()).is_err());
}

fn copy_store(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("store")).unwrap();
    for entry in fs::read_dir(from.join("store")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join("store").join(entry.file_name())).unwrap();
    }
}

/// Rows as they were written, or an error: never other rows, never fewer of those that were synced.
#[test]
fn a_changed_byte_in_a_table_or_the_log_is_refused() {
    let folder = TempDir::new().unwrap();
    let disk = RocksDisk::open(folder.path()).unwrap();
    let rows = |from: u64, to: u64| {
        (from..to).map(|n| put(Family::Events, &n.to_be_bytes(), &[u8::try_from(n).unwrap(); 100]))
    };
    disk.write(rows(0, 200).collect(), Durability::Synced).unwrap();
    disk.flush_for_test();
    // The last write of a log may be torn by a crash; these are not the last.
    for n in 200..220 {
        disk.write(rows(n, n + 1).collect(), Durability::Synced).unwrap();
    }
    let expected = all(&disk, Family::Events).unwrap();
    drop(disk);
    let mut refused = std::collections::BTreeMap::new();
    for entry in fs::read_dir(folder.path().join("store")).unwrap() {
        let path = entry.unwrap().path();
        let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default().to_owned();
        if ending != "sst" && ending != "log" {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        for part in 0..16 {
            let copy = TempDir::new().unwrap();
            copy_store(folder.path(), copy.path());
            let mut bytes = whole.clone();
            let at = whole.len() * part / 17;
            let Some(byte) = bytes.get_mut(at) else { continue };
            *byte ^= 0x10;
            fs::write(copy.path().join("store").join(path.file_name().unwrap()), bytes).unwrap();
            match RocksDisk::open(copy.path()).and_then(|disk| all(&disk, Family::Events)) {
                Ok(found) => assert_eq!(found, expected, "{ending} at {at}"),
                Err(error) => {
                    assert!(error.to_string().contains("this node must be rebuilt"), "{error}");
                    *refused.entry(ending.clone()).or_insert(0) += 1;
                }
            }
        }
    }
    assert!(refused["sst"] > 10 && refused["log"] > 10, "{refused:?}");
}
