//! One reading per text: the pass every JSON text from outside goes through before anything looks inside.
//!
//! Called by `message` and `response`, and by the data plane for tool definitions. Walks the text with the same
//! parser that later splits it, so the two cannot disagree. Refuses invalid UTF-8, repeated keys (compared after
//! unescaping, at any depth), depth beyond the bound, unpaired surrogates and trailing bytes. Keeps nothing.

use std::{
    borrow::Cow,
    cell::{Cell, RefCell},
    collections::HashSet,
    fmt,
};

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Deepest nesting accepted; the outermost object is depth 1. Real tool arguments stay below 20, and the bound keeps
/// every recursive reader of the same text safe.
pub const JSON_DEPTH_MAX: usize = 64;

/// Members of one object whose names are compared one by one; beyond it, by hash.
const COMPARED_MAX: usize = 24;

/// Why a text has no single reading.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrictFault {
    /// The bytes are not UTF-8.
    #[error("the text is not valid UTF-8")]
    NotUtf8,
    /// The text is not one JSON value, or something follows it.
    #[error("the text is not one JSON value (line {line}, column {column})")]
    NotJson {
        /// 1-based line of the fault.
        line: usize,
        /// 1-based column of the fault.
        column: usize,
    },
    /// Two members of one object have the same name.
    #[error("a key is repeated in one object")]
    RepeatedKey,
    /// Nested deeper than [`JSON_DEPTH_MAX`].
    #[error("the value is nested deeper than {JSON_DEPTH_MAX} levels")]
    TooDeep,
}

/// Checks a whole text; returns it as a string slice for further splitting.
///
/// # Errors
/// Says which rule the text breaks.
pub fn check_json(bytes: &[u8]) -> Result<&str, StrictFault> {
    let text = std::str::from_utf8(bytes).map_err(|_invalid| StrictFault::NotUtf8)?;
    let (fault, keys) = (Cell::new(None), RefCell::new(Vec::with_capacity(COMPARED_MAX)));
    let mut reader = serde_json::Deserializer::from_str(text);
    let walked = Walk { fault: &fault, keys: &keys, depth: 1 }.deserialize(&mut reader).and_then(|()| reader.end());
    match walked {
        Ok(()) => Ok(text),
        Err(error) => Err(fault.take().unwrap_or(StrictFault::NotJson { line: error.line(), column: error.column() })),
    }
}

/// Visits a value and all below it; the depth is that of the containers it may open.
#[derive(Clone, Copy)]
struct Walk<'a, 'de> {
    fault: &'a Cell<Option<StrictFault>>,
    /// Names in all objects that are open, the innermost last.
    keys: &'a RefCell<Vec<Cow<'de, str>>>,
    depth: usize,
}

impl<'de> Walk<'_, 'de> {
    fn enter<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth > JSON_DEPTH_MAX {
            self.fault.set(Some(StrictFault::TooDeep));
            return Err(E::custom("too deep"));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }

    /// Whether the innermost object, whose names begin at `first`, has this name for the first time. `many` takes over
    /// where there are many.
    fn is_new(self, first: usize, many: &mut HashSet<Cow<'de, str>>, key: Cow<'de, str>) -> bool {
        let mut keys = self.keys.borrow_mut();
        if keys.len() - first >= COMPARED_MAX {
            many.extend(keys.drain(first..));
        }
        if !many.is_empty() {
            return many.insert(key);
        }
        let is_new = !keys.iter().skip(first).any(|known| *known == key);
        keys.push(key);
        is_new
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_, 'de> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let inner = self.enter()?;
        while items.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let inner = self.enter()?;
        let (first, mut many) = (self.keys.borrow().len(), HashSet::new());
        while let Some(key) = members.next_key_seed(Key)? {
            if !self.is_new(first, &mut many, key) {
                self.fault.set(Some(StrictFault::RepeatedKey));
                return Err(A::Error::custom("repeated key"));
            }
            members.next_value_seed(inner)?;
        }
        self.keys.borrow_mut().truncate(first);
        Ok(())
    }
}

/// A member's name after unescaping, borrowed where the text needs no unescaping.
pub(super) struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member name")
    }
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nested(depth: usize) -> String {
        format!("{}{}", "[".repeat(depth), "]".repeat(depth))
    }

    #[test]
    fn texts_with_more_than_one_reading_are_refused() {
        let repeated = Err(StrictFault::RepeatedKey);
        for (text, expected) in [
            (r#"{"a":1,"a":2}"#, repeated.clone()),
            (r#"{"a":1,"\u0061":2}"#, repeated.clone()),
            (r#"{"x":[{"y":{"k":1,"k":1}}]}"#, repeated),
            (nested(JSON_DEPTH_MAX + 1).as_str(), Err(StrictFault::TooDeep)),
            (nested(500).as_str(), Err(StrictFault::TooDeep)),
        ] {
            assert_eq!(check_json(text.as_bytes()).map(drop), expected, "{text}");
        }
        assert_eq!(check_json(b"{\"a\":\"\xff\"}"), Err(StrictFault::NotUtf8));
    }

    #[test]
    fn texts_that_are_not_one_json_value_are_refused() {
        for text in [
            "",
            " ",
            "{",
            "{}{}",
            "{} x",
            "{\"a\":1,}",
            "{'a':1}",
            "[1,]",
            "nul",
            "01",
            "+1",
            "1.",
            "\"\\ud800\"",
            "{\"\\udfff\":1}",
            "\"\u{1}\"",
            "NaN",
            "// c\n{}",
            "\u{feff}{}",
        ] {
            assert!(matches!(check_json(text.as_bytes()), Err(StrictFault::NotJson { .. })), "{text:?}");
        }
    }

    #[test]
    fn texts_with_one_reading_pass() {
        for text in ["{}", " {\"a\" : [1, 2.50, -0, 1e3, null, true, \"\\u00e9\"]} \n", "12345678901234567890123"] {
            assert_eq!(check_json(text.as_bytes()), Ok(text));
        }
        assert!(check_json(nested(JSON_DEPTH_MAX).as_bytes()).is_ok());
        assert!(check_json(br#"{"a":{"a":{"a":1}},"b":[{"a":1},{"a":2}]}"#).is_ok());
    }

    proptest! {
        #[test]
        fn whatever_passes_is_json_to_the_ordinary_reader_too(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if check_json(&bytes).is_ok() {
                prop_assert!(serde_json::from_slice::<serde_json::Value>(&bytes).is_ok());
            }
        }

        #[test]
        fn a_repeated_key_is_found_among_few_and_many(
            names in proptest::collection::hash_set("[a-z]{1,3}", 2..80), at in any::<prop::sample::Index>(), nested in any::<bool>(),
        ) {
            let names: Vec<&String> = names.iter().collect();
            let member = |name: &&String| if nested { format!("{name:?}:{{\"{name}\":1}}") } else { format!("{name:?}:1") };
            let text = names.iter().map(member).collect::<Vec<_>>().join(",");
            let repeated = format!("{{{text},{}}}", member(at.get(&names)));
            let once = format!("{{{text}}}");
            prop_assert_eq!(check_json(repeated.as_bytes()), Err(StrictFault::RepeatedKey));
            prop_assert_eq!(check_json(once.as_bytes()), Ok(once.as_str()));
        }

        #[test]
        fn a_repeated_key_is_found_wherever_it_stands(
            path in proptest::collection::vec(any::<bool>(), 0..20), key in "[a-z\"\\\\]{1,4}",
        ) {
            let key = serde_json::to_string(&key).unwrap();
            let mut text = format!("{{{key}:1,{key}:1}}");
            for array in path {
                text = if array { format!("[0,{text}]") } else { format!("{{\"p\":{text}}}") };
            }
            prop_assert_eq!(check_json(text.as_bytes()), Err(StrictFault::RepeatedKey));
        }
    }
}
