//! 64-bit numbers as decimal strings, for `#[serde(with = "…")]`.
//!
//! JSON numbers are exact only up to 2^53 in most readers, so records carry 64-bit numbers as strings. One number has
//! one spelling: no sign, no leading zero, no white space. `decimal` is for `u64`, `decimal::option` for `Option<u64>`
//! (use it together with `default` and `skip_serializing_if`).

use serde::{Deserialize, Deserializer, Serializer, de::Error};

/// Reads the one spelling of a number.
#[must_use]
pub fn parse(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Writes `number` as a string.
pub fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// Reads a number from a string.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).ok_or_else(|| D::Error::custom("expected a decimal string of 64 bits"))
}

/// The same for fields that may be missing.
pub mod option {
    use super::{Deserializer, Serializer};

    /// Writes the number as a string.
    pub fn serialize<S: Serializer>(number: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match number {
            Some(number) => serializer.collect_str(number),
            None => serializer.serialize_none(),
        }
    }

    /// Reads a number from a string.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}
