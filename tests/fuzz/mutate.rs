//! Changing a text a little: bytes, tokens, and members of JSON objects.

use serde_json::{Map, Value, json};

/// Numbers that only depend on where they started (SplitMix64).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64, name: &str, case: u64) -> Self {
        let named = name.bytes().fold(seed, |sum, byte| mix(sum ^ u64::from(byte)));
        Self(mix(named ^ mix(case)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `bound`; 0 where that is 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let drawn = self.next().checked_rem(bound as u64).unwrap_or(0);
        usize::try_from(drawn).unwrap_or(0)
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }
}

const fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

/// Texts on which readers have disagreed before.
const TOKENS: [&str; 46] = [
    "null",
    "true",
    "-0",
    "1e999",
    "1E400",
    "0.1e-400",
    "18446744073709551616",
    "-9223372036854775809",
    "01",
    "+1",
    "1.",
    ".5",
    "NaN",
    "Infinity",
    "\"\"",
    "{}",
    "[]",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\udfff\\ud800",
    "\\u0061",
    "\u{feff}",
    "\u{0}",
    "\u{7f}",
    "\u{2028}",
    "\u{e9}",
    "\r\n",
    "\r",
    "\n\n",
    "data:",
    "data: ",
    ": ",
    "id: 1\n",
    "=?base64?",
    "?=",
    "/*x*/",
    "\"id\":null,",
    "\"method\":\"tools/call\",",
];

/// Values that are something else than what was expected.
fn values() -> [Value; 12] {
    [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}\u{7f}\u{2028}\""),
        json!([]),
        json!({}),
        json!([[[]]]),
        json!("x".repeat(600)),
    ]
}

/// A seed text, changed by a few steps of any kind.
pub(crate) fn changed(random: &mut Random, seed: &[u8], others: &[&str]) -> Vec<u8> {
    let mut text = seed.to_vec();
    // Some stay as they are: what is right must pass.
    for _ in 0..random.below(5) {
        text = match random.below(4) {
            0 => bytes(random, text),
            1 => tokens(random, text, others),
            _ => members(random, text),
        };
    }
    text
}

fn bytes(random: &mut Random, mut text: Vec<u8>) -> Vec<u8> {
    let at = random.below(text.len() + 1);
    let end = (at + random.below(16)).min(text.len());
    match random.below(5) {
        0 => text.truncate(at),
        1 => drop(text.drain(at..end)),
        2 => {
            let copy: Vec<u8> = text.get(at..end).unwrap_or_default().to_vec();
            let to = random.below(text.len() + 1);
            text.splice(to..to, copy);
        }
        3 => text.insert(at, random.next().to_le_bytes()[0]),
        _ => {
            let bit = 1_u8 << random.below(8);
            if let Some(byte) = text.get_mut(at) {
                *byte ^= bit;
            }
        }
    }
    text
}

fn tokens(random: &mut Random, mut text: Vec<u8>, others: &[&str]) -> Vec<u8> {
    let at = random.below(text.len() + 1);
    match random.below(8) {
        0 => {
            // The end of another text.
            let other = random.pick(others).copied().unwrap_or_default().as_bytes();
            let from = random.below(other.len() + 1);
            text.truncate(at);
            text.extend_from_slice(other.get(from..).unwrap_or_default());
        }
        1 => {
            let depth = 40 + random.below(60);
            let (open, close) = if random.below(2) == 0 { ("[", "]") } else { ("{\"a\":", "}") };
            let nested = [open.repeat(depth), "1".to_owned(), close.repeat(depth)].concat();
            text.splice(at..at, nested.into_bytes());
        }
        _ => {
            let token = random.pick(&TOKENS).copied().unwrap_or_default();
            text.splice(at..at, token.bytes());
        }
    }
    text
}

/// Reads the text as JSON and changes one member of one of its objects; a text that is no JSON stays as it is.
fn members(random: &mut Random, text: Vec<u8>) -> Vec<u8> {
    let Ok(mut value) = serde_json::from_slice::<Value>(&text) else { return text };
    let objects = count(&value);
    let mut which = random.below(objects);
    let Some(object) = nth_object(&mut value, &mut which) else { return text };
    let names: Vec<String> = object.keys().cloned().collect();
    let Some(name) = random.pick(&names).cloned() else { return text };
    let other = random.pick(&values()).cloned().unwrap_or_default();
    match random.below(6) {
        0 => drop(object.remove(&name)),
        1 => drop(object.insert(name, other)),
        2 => drop(object.insert(format!("{name}x"), other)),
        3 => {
            let member = object.remove(&name).unwrap_or_default();
            object.insert(name, json!([member]));
        }
        // Written twice, or with its name escaped: not possible in a value, so in the text.
        kind => return rewritten(&value, &name, &other, kind == 4),
    }
    value.to_string().into_bytes()
}

fn rewritten(value: &Value, name: &str, other: &Value, is_repeated: bool) -> Vec<u8> {
    let text = value.to_string();
    let quoted = format!("{}:", Value::from(name));
    let escaped: String = name.chars().map(|c| format!("\\u{:04x}", u32::from(c).min(0xffff))).collect();
    let instead = match is_repeated {
        true => format!("\"{escaped}\":{other},{quoted}"),
        false => format!("\"{escaped}\":"),
    };
    text.replacen(&quoted, &instead, 1).into_bytes()
}

fn count(value: &Value) -> usize {
    match value {
        Value::Object(members) => 1 + members.values().map(count).sum::<usize>(),
        Value::Array(items) => items.iter().map(count).sum(),
        _ => 0,
    }
}

fn nth_object<'v>(value: &'v mut Value, which: &mut usize) -> Option<&'v mut Map<String, Value>> {
    match value {
        Value::Object(members) => {
            if *which == 0 {
                return Some(members);
            }
            *which -= 1;
            members.values_mut().find_map(|member| nth_object(member, which))
        }
        Value::Array(items) => items.iter_mut().find_map(|item| nth_object(item, which)),
        _ => None,
    }
}
