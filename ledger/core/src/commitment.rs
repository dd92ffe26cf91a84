//! Commitments: what stands in a record for arguments and results.
//!
//! HMAC-SHA256 under a random salt binds the record to one payload without telling anything of it. Salt and payload
//! live outside the log, so erasing them erases the payload while every proof still verifies. The data plane commits;
//! whoever is shown payload and salt checks. Absent: making and keeping salts.

use aws_lc_rs::{constant_time, hmac};
use serde_json::Value;

use crate::record::Commitment;

/// Length of a salt in bytes: as long as the hash, so it cannot be guessed together with the payload.
pub const SALT_BYTES: usize = 32;

/// HMAC-SHA256 of `payload` under `salt`, 64 lower-case hex digits.
#[must_use]
pub fn commit(salt: &[u8; SALT_BYTES], payload: &[u8]) -> String {
    hex::encode(mac(salt, payload))
}

/// The part of a record for a payload whose shape is `summary` (see [`summarise`]).
#[must_use]
pub fn commitment(salt: &[u8; SALT_BYTES], payload: &[u8], summary: String) -> Commitment {
    Commitment { commitment: commit(salt, payload), bytes: payload.len() as u64, summary }
}

/// Whether `commitment` is for this payload under this salt.
#[must_use]
pub fn opens(commitment: &Commitment, salt: &[u8; SALT_BYTES], payload: &[u8]) -> bool {
    let tag = mac(salt, payload);
    commitment.bytes == payload.len() as u64
        && constant_time::verify_slices_are_equal(hex::encode(tag).as_bytes(), commitment.commitment.as_bytes()).is_ok()
}

fn mac(salt: &[u8; SALT_BYTES], payload: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt), payload)
}

/// The shape of a value in a few words: no values, no names, nothing below the first level but types.
/// `object: 3 members (1 array, 2 strings)`, `array: 2 items (2 numbers)`, `string: 12 characters`, `number`.
#[must_use]
pub fn summarise(value: &Value) -> String {
    match value {
        Value::Object(members) => counted("object", members.len(), "member", &types(members.values())),
        Value::Array(items) => counted("array", items.len(), "item", &types(items.iter())),
        Value::String(text) => counted("string", text.chars().count(), "character", ""),
        Value::Null | Value::Bool(_) | Value::Number(_) => type_name(value).to_owned(),
    }
}

fn counted(what: &str, count: usize, unit: &str, detail: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{what}: {count} {unit}{plural}{detail}")
}

/// How many of each type, in the order of their names: ` (1 array, 2 strings)`.
fn types<'a>(values: impl Iterator<Item = &'a Value>) -> String {
    let mut counts = std::collections::BTreeMap::new();
    values.for_each(|value| *counts.entry(type_name(value)).or_insert(0_usize) += 1);
    let words: Vec<_> = counts
        .into_iter()
        .map(|(name, count)| if count == 1 { format!("1 {name}") } else { format!("{count} {name}s") })
        .collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

const fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_commitment_opens_to_one_payload_under_one_salt() {
        let salt = [7; SALT_BYTES];
        let made = commitment(&salt, b"payload", "string: 7 characters".into());
        assert!(opens(&made, &salt, b"payload"));
        assert!(!opens(&made, &[8; SALT_BYTES], b"payload"));
        assert!(!opens(&made, &salt, b"Payload"));
        assert!(!opens(&Commitment { bytes: 8, ..made }, &salt, b"payload"));
    }

    #[test]
    fn hmac_is_the_one_of_rfc_4231() {
        // RFC 4231 test case 1, its 20-byte key padded with zeros: HMAC pads short keys the same way.
        let mut salt = [0; SALT_BYTES];
        salt[..20].fill(0x0b);
        assert_eq!(commit(&salt, b"Hi There"), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
    }

    #[test]
    fn summaries_tell_shapes_but_neither_names_nor_values() {
        for (value, summary) in [
            (json!({"to": "bob", "cc": "eve", "n": [1]}), "object: 3 members (1 array, 2 strings)"),
            (json!([1, 2.5, null, true]), "array: 4 items (1 boolean, 1 null, 2 numbers)"),
            (json!([]), "array: 0 items"),
            (json!("hello world!"), "string: 12 characters"),
            (json!("é"), "string: 1 character"),
            (json!(42), "number"),
            (json!(null), "null"),
        ] {
            assert_eq!(summarise(&value), summary);
        }
    }
}
