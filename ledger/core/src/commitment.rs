//! Commitments: what stands in a record for arguments and results.
//!
//! HMAC-SHA256 under a random salt binds the record to one payload without telling anything of it. Salt and payload
//! live outside the log, so erasing them erases the payload while every proof still verifies. The data plane commits;
//! whoever is shown payload and salt checks. Absent: making and keeping salts.

use std::fmt::{self, Write as _};

use aws_lc_rs::{constant_time, hmac};
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::{
    hash::{self, HASH_BYTES, Hash},
    record::Commitment,
};

/// Length of a salt in bytes: as long as the hash, so it cannot be guessed together with the payload.
pub const SALT_BYTES: usize = 32;

/// HMAC-SHA256 of `payload` under `salt`, 64 lower-case hex digits.
#[must_use]
pub fn commit(salt: &[u8; SALT_BYTES], payload: &[u8]) -> String {
    hash::to_hex(&mac(salt, payload))
}

/// The part of a record for a payload whose shape is `summary` (see [`summarise`]).
#[must_use]
pub fn commitment(salt: &[u8; SALT_BYTES], payload: &[u8], summary: String) -> Commitment {
    Commitment { commitment: commit(salt, payload), bytes: payload.len() as u64, summary }
}

/// Whether `commitment` is for this payload under this salt.
#[must_use]
pub fn opens(commitment: &Commitment, salt: &[u8; SALT_BYTES], payload: &[u8]) -> bool {
    let committed = commit(salt, payload);
    commitment.bytes == payload.len() as u64
        && constant_time::verify_slices_are_equal(committed.as_bytes(), commitment.commitment.as_bytes()).is_ok()
}

fn mac(salt: &[u8; SALT_BYTES], payload: &[u8]) -> Hash {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt), payload);
    let mut mac = [0; HASH_BYTES];
    mac.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
    mac
}

/// The shape of a JSON text in a few words: no values, no names, nothing below the first level but types.
/// `object: 3 members (1 array, 2 strings)`, `array: 2 items (2 numbers)`, `string: 12 characters`, `number`. `None` for
/// what is not JSON. The text is read once and nothing of it is kept.
#[must_use]
pub fn summarise(json: &str) -> Option<String> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let summary = reader.deserialize_any(Outline).ok()?;
    reader.end().ok()?;
    Some(summary)
}

/// The types of JSON, in the order of their names.
const TYPES: [&str; 6] = ["array", "boolean", "null", "number", "object", "string"];

/// Room for a summary.
const SUMMARY_BYTES_EXPECTED: usize = 96;

fn counted(what: &str, count: usize, unit: &str) -> String {
    let mut text = String::with_capacity(SUMMARY_BYTES_EXPECTED);
    push(&mut text, format_args!("{what}: {count} {unit}{}", plural(count)));
    text
}

const fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn push(text: &mut String, words: fmt::Arguments<'_>) {
    let _writing_to_a_text_cannot_fail = text.write_fmt(words);
}

/// How many there are, and how many of each type: ` (1 array, 2 strings)`.
fn all_counted(what: &str, unit: &str, of_each: [usize; TYPES.len()]) -> String {
    let mut text = counted(what, of_each.iter().sum(), unit);
    let mut before = " (";
    for (name, count) in TYPES.iter().zip(of_each).filter(|(_, count)| *count > 0) {
        push(&mut text, format_args!("{before}{count} {name}{}", plural(count)));
        before = ", ";
    }
    if before == ", " {
        text.push(')');
    }
    text
}

/// Reads a value of which only the type is of interest: its place in [`TYPES`].
struct TypeOf(usize);

/// Reads a value into its summary.
struct Outline;

struct Typing;

impl<'de> Deserialize<'de> for TypeOf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Typing).map(Self)
    }
}

impl<'de> Visitor<'de> for Typing {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<usize, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(0)
    }
    fn visit_bool<E>(self, _: bool) -> Result<usize, E> {
        Ok(1)
    }
    fn visit_unit<E>(self) -> Result<usize, E> {
        Ok(2)
    }
    fn visit_i64<E>(self, _: i64) -> Result<usize, E> {
        Ok(3)
    }
    fn visit_u64<E>(self, _: u64) -> Result<usize, E> {
        Ok(3)
    }
    fn visit_f64<E>(self, _: f64) -> Result<usize, E> {
        Ok(3)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<usize, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(4)
    }
    fn visit_str<E>(self, _: &str) -> Result<usize, E> {
        Ok(5)
    }
}

impl<'de> Visitor<'de> for Outline {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<String, A::Error> {
        let mut of_each = [0; TYPES.len()];
        while let Some(TypeOf(place)) = items.next_element()? {
            of_each.iter_mut().skip(place).take(1).for_each(|count| *count += 1);
        }
        Ok(all_counted("array", "item", of_each))
    }
    fn visit_bool<E>(self, _: bool) -> Result<String, E> {
        Ok("boolean".to_owned())
    }
    fn visit_unit<E>(self) -> Result<String, E> {
        Ok("null".to_owned())
    }
    fn visit_i64<E>(self, _: i64) -> Result<String, E> {
        Ok("number".to_owned())
    }
    fn visit_u64<E>(self, _: u64) -> Result<String, E> {
        Ok("number".to_owned())
    }
    fn visit_f64<E>(self, _: f64) -> Result<String, E> {
        Ok("number".to_owned())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<String, A::Error> {
        let mut of_each = [0; TYPES.len()];
        while let Some((IgnoredAny, TypeOf(place))) = members.next_entry()? {
            of_each.iter_mut().skip(place).take(1).for_each(|count| *count += 1);
        }
        Ok(all_counted("object", "member", of_each))
    }
    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(counted("string", text.chars().count(), "character"))
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
            (json!({"a": {"b": [{}]}, "c": -1, "d": {}}), "object: 3 members (1 number, 2 objects)"),
            (json!([1, 2.5, null, true]), "array: 4 items (1 boolean, 1 null, 2 numbers)"),
            (json!([]), "array: 0 items"),
            (json!({}), "object: 0 members"),
            (json!("hello world!"), "string: 12 characters"),
            (json!("é"), "string: 1 character"),
            (json!(42), "number"),
            (json!(null), "null"),
            (json!(false), "boolean"),
        ] {
            assert_eq!(summarise(&value.to_string()).as_deref(), Some(summary));
        }
        for text in ["", "{", "{} {}", "nul", "[1,]"] {
            assert_eq!(summarise(text), None, "{text}");
        }
    }
}
