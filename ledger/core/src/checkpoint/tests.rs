//! Checkpoints: golden bytes, another implementation of signed notes, and everything that must not open.

use super::*;

const ORIGIN: &str = "bailiwick.example/log";

fn signer() -> NodeSigner {
    NodeSigner::from_seed(&[5; 32]).unwrap()
}

fn verifier_key() -> VerifierKey {
    VerifierKey::new(ORIGIN, *signer().public_key()).unwrap()
}

fn sample() -> Checkpoint {
    Checkpoint { origin: ORIGIN.into(), size: 42, root: [9; 32] }
}

fn note() -> String {
    sign(&sample(), &signer()).unwrap()
}

#[test]
fn the_text_is_three_lines_and_the_note_adds_a_signature_line() {
    assert_eq!(sample().text(), format!("{ORIGIN}\n42\n{}=\n", "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk"));
    let note = note();
    let line = note.strip_prefix(&format!("{}\n", sample().text())).unwrap();
    assert!(line.starts_with(&format!("\u{2014} {ORIGIN} ")) && line.ends_with('\n'));
    assert_eq!(open(note.as_bytes(), &[verifier_key()]), Ok(sample()));
}

#[test]
fn another_implementation_opens_our_notes_with_our_key_text() {
    use signed_note::{Note, StandardVerifier, VerifierList};
    let verifier = StandardVerifier::new(&verifier_key().to_string()).unwrap();
    let (verified, unverified) =
        Note::from_bytes(note().as_bytes()).unwrap().verify(&VerifierList::new(vec![Box::new(verifier)])).unwrap();
    assert_eq!((verified.len(), unverified.len()), (1, 0));
    let parsed = tlog_tiles::Checkpoint::from_bytes(sample().text().as_bytes()).unwrap();
    assert_eq!((parsed.origin(), parsed.size(), parsed.hash().0), (ORIGIN, 42, [9; 32]));
}

#[test]
fn key_texts_round_trip_and_damaged_ones_are_refused() {
    let text = verifier_key().to_string();
    assert_eq!(text.parse(), Ok(verifier_key()));
    for position in 0..text.len() {
        let mut damaged = text.clone().into_bytes();
        damaged[position] ^= 1;
        let damaged = String::from_utf8(damaged).unwrap();
        assert_eq!(damaged.parse::<VerifierKey>(), Err(CheckpointError::KeyMalformed), "{damaged}");
    }
    assert_eq!(VerifierKey::new("a b", [0; 32]), Err(CheckpointError::Origin));
    assert_eq!(VerifierKey::new("a+b", [0; 32]), Err(CheckpointError::Origin));
}

#[test]
fn a_note_changed_in_any_byte_does_not_open() {
    let note = note().into_bytes();
    for position in 0..note.len() {
        for mask in [0x01, 0x20, 0x80] {
            let mut changed = note.clone();
            changed[position] ^= mask;
            assert!(open(&changed, &[verifier_key()]).is_err(), "byte {position} ^ {mask:#x}");
        }
    }
}

#[test]
fn lines_by_strangers_are_passed_over_but_do_not_suffice() {
    let stranger = NodeSigner::from_seed(&[6; 32]).unwrap();
    let theirs = sign(&sample(), &stranger).unwrap();
    let line = theirs.lines().last().unwrap();
    let both = format!("{}{line}\n", note());
    assert_eq!(open(both.as_bytes(), &[verifier_key()]), Ok(sample()));
    assert_eq!(open(theirs.as_bytes(), &[verifier_key()]), Err(CheckpointError::Unsigned));
    assert_eq!(open(note().as_bytes(), &[]), Err(CheckpointError::Unsigned));
}

#[test]
fn a_trusted_key_of_another_name_does_not_vouch_for_this_log() {
    let other = VerifierKey::new("other.example/log", *signer().public_key()).unwrap();
    let text = sample().text();
    let signature = BASE64_STANDARD.encode([other.id.as_slice(), &signer().sign(text.as_bytes())].concat());
    let note = format!("{text}\n\u{2014} {} {signature}\n", other.name());
    assert_eq!(open(note.as_bytes(), &[other, verifier_key()]), Err(CheckpointError::Unsigned));
}

#[test]
fn extension_lines_are_signed_and_passed_over() {
    let text = format!("{}extension 1\n", sample().text());
    let signature = [verifier_key().id.as_slice(), &signer().sign(text.as_bytes())].concat();
    let note = format!("{text}\n\u{2014} {ORIGIN} {}\n", BASE64_STANDARD.encode(signature));
    assert_eq!(open(note.as_bytes(), &[verifier_key()]), Ok(sample()));
}

#[test]
fn malformed_and_oversized_notes_are_refused() {
    let note = note();
    let line = note.lines().last().unwrap();
    for malformed in [
        String::new(),
        "\n\n".into(),
        sample().text(),
        format!("{}\n", sample().text()),
        note.trim_end().into(),
        format!("\n{note}"),
        note.replacen("42", "042", 1),
        note.replacen("42", "+42", 1),
        note.replacen("42", "99999999999999999999", 1),
        note.replacen('\u{2014}', "-", 1),
        format!("{note}{}", format!("{line}\n").repeat(SIGNATURES_MAX)),
        format!("{}{note}", "x".repeat(NOTE_BYTES_MAX)),
    ] {
        let error = open(malformed.as_bytes(), &[verifier_key()]).unwrap_err();
        assert!(matches!(error, CheckpointError::Malformed | CheckpointError::Unsigned), "{malformed:.80}: {error}");
    }
    assert_eq!(sign(&Checkpoint { origin: "a b".into(), ..sample() }, &signer()), Err(CheckpointError::Origin));
}
