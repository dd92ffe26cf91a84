//! 64-bit numbers as decimal strings, for `#[serde(with = "crate::decimal")]`.
//!
//! Events are used as they stand inside ledger records, and those know no 64-bit numbers (RFC 8785 numbers are
//! doubles). Absent: any other encoding.

use serde::{Deserialize, Deserializer, Serializer, de::Error};

pub(crate) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom(format_args!("`{text}` is not a decimal number of 64 bits")))
}
