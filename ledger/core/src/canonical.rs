//! RFC 8785 (JSON Canonicalization Scheme) for the JSON that records allow.
//!
//! Records hold no null and no number with a fraction, an exponent or more than 53 bits, so the only hard part of the
//! RFC, printing floating-point numbers, never arises: what is left is sorted keys, no white space and minimal escapes.
//! The result does not depend on how `serde_json` orders its maps, which differs between builds.
//!
//! Called by `record` to write and to check bytes, and by anybody who hashes such JSON. Duplicate keys need no rule of
//! their own: reading drops one of them, so the canonical form differs from the bytes that held both.

use serde_json::{Map, Value};

/// Nesting allowed in a record: more than any event needs, far below what would exhaust a stack.
pub const DEPTH_MAX: usize = 32;

/// The largest integer every JSON reader holds exactly (2^53 − 1).
pub const INTEGER_MAX: u64 = (1 << 53) - 1;

/// Why a value has no canonical form here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// Absent means left out; null is refused.
    #[error("the value holds a null")]
    Null,
    /// A fraction, an exponent, or more than 53 bits.
    #[error("the value holds a number that is not an integer of at most 53 bits")]
    Number,
    /// Deeper than [`DEPTH_MAX`].
    #[error("the value is nested more than {DEPTH_MAX} deep")]
    TooDeep,
}

/// The canonical bytes of `value`.
pub fn to_canonical(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    let mut out = Vec::with_capacity(1024);
    write_value(value, 0, &mut out)?;
    Ok(out)
}

fn write_value(value: &Value, depth: usize, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    if depth > DEPTH_MAX {
        return Err(CanonicalError::TooDeep);
    }
    match value {
        Value::Null => return Err(CanonicalError::Null),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        Value::Number(number) => write_integer(number, out)?,
        Value::String(text) => write_string(text, out),
        Value::Array(items) => write_array(items, depth, out)?,
        Value::Object(members) => write_object(members, depth, out)?,
    }
    Ok(())
}

fn write_integer(number: &serde_json::Number, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    let integer = number.as_i64().ok_or(CanonicalError::Number)?;
    if integer.unsigned_abs() > INTEGER_MAX {
        return Err(CanonicalError::Number);
    }
    out.extend_from_slice(integer.to_string().as_bytes());
    Ok(())
}

fn write_array(items: &[Value], depth: usize, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    out.push(b'[');
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write_value(item, depth + 1, out)?;
    }
    out.push(b']');
    Ok(())
}

fn write_object(members: &Map<String, Value>, depth: usize, out: &mut Vec<u8>) -> Result<(), CanonicalError> {
    let mut sorted: Vec<_> = members.iter().collect();
    // RFC 8785 §3.2.3: by UTF-16 code units, which differs from the order of bytes beyond the basic plane.
    sorted.sort_unstable_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    out.push(b'{');
    for (position, (key, value)) in sorted.into_iter().enumerate() {
        if position > 0 {
            out.push(b',');
        }
        write_string(key, out);
        out.push(b':');
        write_value(value, depth + 1, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x09 => out.extend_from_slice(b"\\t"),
            0x0a => out.extend_from_slice(b"\\n"),
            0x0c => out.extend_from_slice(b"\\f"),
            0x0d => out.extend_from_slice(b"\\r"),
            0x00..=0x1f => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn check(value: Value, expected: &str) {
        assert_eq!(String::from_utf8(to_canonical(&value).unwrap()).unwrap(), expected);
    }

    #[test]
    fn keys_are_sorted_by_utf16_and_escapes_are_minimal() {
        check(json!({"b": 1, "a": [true, false, -7], "": "x"}), r#"{"":"x","a":[true,false,-7],"b":1}"#);
        check(json!({"\u{fb33}": 1, "\u{1f600}": 2, "\u{20ac}": 3}), "{\"\u{20ac}\":3,\"\u{1f600}\":2,\"\u{fb33}\":1}");
        check(json!("\u{8}\t\n\u{c}\r\"\\/\u{1}\u{1f}\u{7f}é"), "\"\\b\\t\\n\\f\\r\\\"\\\\/\\u0001\\u001f\u{7f}é\"");
    }

    #[test]
    fn nulls_fractions_big_numbers_and_depth_are_refused() {
        let mut deep = json!("leaf");
        for _ in 0..=DEPTH_MAX {
            deep = json!([deep]);
        }
        for (value, error) in [
            (json!({"a": [null]}), CanonicalError::Null),
            (json!(1.5), CanonicalError::Number),
            (json!(1.0), CanonicalError::Number),
            (json!(-0.0), CanonicalError::Number),
            (json!(INTEGER_MAX + 1), CanonicalError::Number),
            (json!(u64::MAX), CanonicalError::Number),
            (json!(i64::MIN), CanonicalError::Number),
            (deep, CanonicalError::TooDeep),
        ] {
            assert_eq!(to_canonical(&value), Err(error));
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn another_implementation_of_the_rfc_agrees(value in any_value()) {
            prop_assert_eq!(to_canonical(&value).unwrap(), serde_json_canonicalizer::to_vec(&value).unwrap());
        }
    }
}
