//! Tests of the master key: where it may come from, and what is refused.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;
use crate::private_file;

const ONE: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const TWO: &str = "ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";

fn keys(lines: &str) -> Result<MasterKeys, MasterKeyError> {
    MasterKeys::load(&MasterKeyConfig { key: Some(lines.to_owned()), ..MasterKeyConfig::default() })
}

fn place<'a>(column: &'a str, key: &'a str, revision: u64) -> Place<'a> {
    Place { column, key, revision }
}

#[test]
fn what_is_sealed_for_one_place_opens_there_and_nowhere_else() {
    let keys = keys(ONE).unwrap();
    let sealed = keys.seal(place("secret", "token-signing", 7), b"the secret").unwrap();
    assert_eq!(keys.open(place("secret", "token-signing", 7), &sealed).unwrap().as_slice(), b"the secret");
    for elsewhere in [
        place("secret", "token-signing", 8),
        place("secret", "session-sealing", 7),
        place("file", "token-signing", 7),
        place("secrett", "oken-signing", 7),
    ] {
        let error = keys.open(elsewhere, &sealed).unwrap_err();
        assert!(matches!(error, MasterKeyError::Tampered { .. }), "{elsewhere:?}: {error}");
    }
}

#[test]
fn a_changed_byte_or_a_swapped_nonce_does_not_open() {
    let keys = keys(ONE).unwrap();
    let here = place("secret", "a", 1);
    let (first, second) = (keys.seal(here, b"same").unwrap(), keys.seal(here, b"same").unwrap());
    assert_ne!((&first.nonce, &first.bytes), (&second.nonce, &second.bytes), "a nonce is used once");
    assert!(keys.open(here, &Sealed { nonce: second.nonce, ..first.clone() }).is_err());
    for at in 0..first.bytes.len() {
        let mut changed = first.clone();
        changed.bytes[at] ^= 1;
        assert!(keys.open(here, &changed).is_err(), "byte {at}");
    }
    assert!(keys.open(here, &Sealed { bytes: Vec::new(), ..first }).is_err());
}

#[test]
fn a_missing_key_is_named_and_an_added_one_opens() {
    let (old, both) = (keys(TWO).unwrap(), keys(&format!("{ONE}\n{TWO}\n")).unwrap());
    let here = place("secret", "a", 1);
    let sealed = both.seal(here, b"x").unwrap();
    let error = old.open(here, &sealed).unwrap_err().to_string();
    assert!(error.contains(&both.newest()) && error.contains(&old.newest()), "{error}");
    assert_eq!(both.names(), [both.newest(), old.newest()]);
    assert_eq!(both.open(here, &old.seal(here, b"y").unwrap()).unwrap().as_slice(), b"y");
    assert_eq!(both.seal_under(&old.newest(), here, b"z").unwrap().master, old.newest());
}

#[test]
fn a_reload_takes_a_new_key_and_keeps_the_old_ones_when_the_file_is_bad() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("master.key");
    private_file::write(&file, TWO.as_bytes()).unwrap();
    let keys = MasterKeys::load(&MasterKeyConfig::from_file(file.clone())).unwrap();
    let (clone, before) = (keys.clone(), keys.names());
    private_file::write(&file, format!("# newest first\n{ONE}\n\n{TWO}\n").as_bytes()).unwrap();
    keys.reload().unwrap();
    assert_eq!(clone.names().len(), 2);
    assert_eq!(clone.names().last(), before.first());
    private_file::write(&file, b"not a key").unwrap();
    assert!(keys.reload().is_err());
    assert_eq!(clone.names().len(), 2);
}

#[test]
fn mistakes_are_refused_with_advice() {
    let none = MasterKeys::load(&MasterKeyConfig::default()).unwrap_err().to_string();
    assert!(none.contains("openssl rand -hex 32"), "{none}");
    for bad in ["", "abc", &"00".repeat(32), &"0102".repeat(8), &format!("{ONE}\nshort")] {
        let error = keys(bad).unwrap_err();
        assert!(matches!(error, MasterKeyError::Malformed { .. }), "{bad}: {error}");
        assert!(bad.is_empty() || !error.to_string().contains(bad), "an error shows no key");
    }
    let two = MasterKeyConfig { key: Some(ONE.into()), file: Some("x".into()), ..MasterKeyConfig::default() };
    assert!(matches!(MasterKeys::load(&two), Err(MasterKeyError::Ambiguous)));
    let folder = tempfile::tempdir().unwrap();
    let inside = MasterKeyConfig::ensure_file(&folder.path().join("keys/master.key")).unwrap();
    assert!(matches!(inside.outside(folder.path()), Err(MasterKeyError::Inside(_))));
    assert!(inside.outside(&folder.path().join("data")).is_ok());
    fs::set_permissions(folder.path().join("keys/master.key"), fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(MasterKeys::load(&inside), Err(MasterKeyError::File { .. })));
}

#[test]
fn a_passphrase_gives_the_same_key_on_every_member_and_another_in_every_cluster() {
    let with = |words: &str, salt: Option<&str>| {
        let (passphrase, salt) = (Some(words.to_owned()), salt.map(str::to_owned));
        MasterKeys::load(&MasterKeyConfig { passphrase, salt, ..MasterKeyConfig::default() })
    };
    let one = with("correct horse battery staple", Some("one.example")).unwrap();
    assert_eq!(with("correct horse battery staple", Some("one.example")).unwrap().names(), one.names());
    assert_ne!(with("correct horse battery staple", Some("two.example")).unwrap().names(), one.names());
    for (words, salt) in [("correct horse battery staple", None), ("short", Some("one.example"))] {
        assert!(matches!(with(words, salt), Err(MasterKeyError::Malformed { .. })));
    }
}

#[test]
fn nothing_prints_a_key() {
    let (passphrase, salt) = (Some("correct horse battery staple".to_owned()), Some("one.example".to_owned()));
    let config = MasterKeyConfig { key: Some(ONE.to_owned()), passphrase, salt, ..MasterKeyConfig::default() };
    for printed in [format!("{config:?}"), format!("{:?}", keys(ONE).unwrap())] {
        assert!(!printed.contains("horse") && !printed.contains("08090a0b"), "{printed}");
    }
}
