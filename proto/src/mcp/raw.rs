//! Looking into JSON without rewriting it: members of an object as the text they arrived in.
//!
//! Called by everything that reads parameters or results. The text has been through `strict` before, so an object's
//! members are unique and splitting it cannot fail in new ways; where it does, that is reported all the same.

use std::{borrow::Cow, fmt};

use serde::{
    Serialize,
    de::{Deserialize, DeserializeOwned, Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::strict::Key;

/// Room for the members of an object before any is read: most have no more.
const MEMBERS_EXPECTED: usize = 8;

/// A member is not what the method requires.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemberFault {
    /// Required and absent.
    #[error("`{0}` is missing")]
    Missing(&'static str),
    /// Present, of another type.
    #[error("`{0}` has the wrong type")]
    WrongType(&'static str),
}

/// The members of one object in byte order of their names, each value still as text.
#[derive(Clone, Debug, Default)]
pub struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'a> Members<'a> {
    /// Splits an object; `None` when the value is not an object.
    #[must_use]
    pub fn of(value: &'a RawValue) -> Option<Self> {
        let mut members = ordered_members(value)?;
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        Some(Self(members))
    }

    /// The member's text.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        let at = self.0.binary_search_by(|(name, _)| name.as_ref().cmp(key)).ok()?;
        self.0.get(at).map(|(_, value)| *value)
    }

    /// An optional string.
    ///
    /// # Errors
    /// Present but no string.
    pub fn string(&self, key: &'static str) -> Result<Option<String>, MemberFault> {
        self.read(key)
    }

    /// Whether `jsonrpc` is "2.0".
    pub(super) fn is_version_2(&self) -> bool {
        self.get("jsonrpc").is_some_and(|version| {
            version.get() == r#""2.0""#
                || serde_json::from_str::<Cow<'_, str>>(version.get()).is_ok_and(|version| version == "2.0")
        })
    }

    /// A required string.
    ///
    /// # Errors
    /// Absent or no string.
    pub fn required_string(&self, key: &'static str) -> Result<String, MemberFault> {
        self.string(key)?.ok_or(MemberFault::Missing(key))
    }

    /// An optional object; null is not an object.
    ///
    /// # Errors
    /// Present but no object.
    pub fn object(&self, key: &'static str) -> Result<Option<Self>, MemberFault> {
        self.get(key).map(|value| Self::of(value).ok_or(MemberFault::WrongType(key))).transpose()
    }

    /// An optional member of any type that serde can read.
    ///
    /// # Errors
    /// Present but of another type.
    pub fn read<T: DeserializeOwned>(&self, key: &'static str) -> Result<Option<T>, MemberFault> {
        let Some(value) = self.get(key) else { return Ok(None) };
        serde_json::from_str(value.get()).map(Some).map_err(|_wrong| MemberFault::WrongType(key))
    }

    /// Names in byte order with their text.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), *value))
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True for `{}`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// An object's members in the order of the text; `None` when the value is not an object.
#[must_use]
pub fn ordered_members(value: &RawValue) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    if !is_object(value) {
        return None;
    }
    serde_json::from_str::<Ordered<'_>>(value.get()).ok().map(|ordered| ordered.0)
}

/// Whether a value is an object, as its first character tells.
#[must_use]
pub fn is_object(value: &RawValue) -> bool {
    value.get().starts_with('{')
}

struct Ordered<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Ordered<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Vec<(Cow<'de, str>, &'de RawValue)>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(MEMBERS_EXPECTED);
                while let Some(key) = map.next_key_seed(Key)? {
                    members.push((key, map.next_value()?));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Collect).map(Ordered)
    }
}

/// Room for an object before any of it is written.
const OBJECT_BYTES_EXPECTED: usize = 512;

/// Writes a string as JSON at the end of `text`.
pub fn push_string(text: &mut String, string: &str) {
    let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if string.bytes().all(is_plain) {
        text.push('"');
        text.push_str(string);
        text.push('"');
    } else {
        text.push_str(raw(string).get());
    }
}

/// Writes an object from members that are already JSON text, in the given order.
#[must_use]
pub fn raw_object<'a>(members: impl IntoIterator<Item = (&'a str, &'a RawValue)>) -> Box<RawValue> {
    let mut text = String::with_capacity(OBJECT_BYTES_EXPECTED);
    text.push('{');
    for (index, (key, value)) in members.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        push_string(&mut text, key);
        text.push(':');
        text.push_str(value.get());
    }
    text.push('}');
    // INVARIANT: keys and values are JSON texts and the punctuation is ours, so the whole is JSON.
    RawValue::from_string(text).unwrap_or_else(|_not_json| RawValue::NULL.to_owned())
}

/// The JSON text of a value whose serialisation cannot fail (strings, numbers, trees of `serde_json::Value`).
#[must_use]
pub fn raw<T: Serialize + ?Sized>(value: &T) -> Box<RawValue> {
    to_raw(value).unwrap_or_else(|_unserialisable| RawValue::NULL.to_owned())
}

/// The JSON text of a value.
///
/// # Errors
/// The value has no JSON form (a map with keys that are not strings).
pub fn to_raw<T: Serialize + ?Sized>(value: &T) -> Result<Box<RawValue>, serde_json::Error> {
    serde_json::value::to_raw_value(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_text_and_their_order() {
        let value = RawValue::from_string(r#"{"z":1.50,"a":{"n":12345678901234567890},"s":"\u0061"}"#.into()).unwrap();
        let ordered = ordered_members(&value).unwrap();
        let texts: Vec<_> = ordered.iter().map(|(key, value)| (key.as_ref(), value.get())).collect();
        assert_eq!(texts, [("z", "1.50"), ("a", r#"{"n":12345678901234567890}"#), ("s", r#""\u0061""#)]);
        let rewritten = raw_object(ordered.iter().map(|(key, value)| (key.as_ref(), *value)));
        assert_eq!(rewritten.get(), value.get());
    }

    #[test]
    fn strings_are_written_as_the_ordinary_writer_does() {
        for string in ["", "plain", "qu\"ote", "back\\slash", "line\nbreak", "\u{7f}\u{1f}", "é\u{2028}"] {
            let mut text = String::from("x");
            push_string(&mut text, string);
            assert_eq!(text, format!("x{}", raw(string)));
        }
    }

    #[test]
    fn wrong_types_are_told_apart_from_absence() {
        let value = RawValue::from_string(r#"{"n":null,"s":"x","o":{}}"#.into()).unwrap();
        let members = Members::of(&value).unwrap();
        assert_eq!(members.string("s"), Ok(Some("x".into())));
        assert_eq!(members.string("absent"), Ok(None));
        assert_eq!(members.required_string("absent"), Err(MemberFault::Missing("absent")));
        assert_eq!(members.string("n").unwrap_err(), MemberFault::WrongType("n"));
        assert_eq!(members.object("n").unwrap_err(), MemberFault::WrongType("n"));
        assert!(members.object("o").unwrap().unwrap().is_empty());
        assert!(Members::of(&RawValue::from_string("[1]".into()).unwrap()).is_none());
    }
}
