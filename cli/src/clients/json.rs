//! One member of an object in a JSON file, put in or taken out as text.
//!
//! Called by `clients`. The file is read whole, with where each thing stands (`scan`); then text is put in or cut out
//! at one place. Invariants: a file that is not well formed is not edited; what comes out, read again, differs from
//! what came in by that one member, which is checked each time; nothing else moves by a byte.

mod scan;

use serde_json::Value;

pub(crate) use self::scan::Comments;
use self::scan::{Member, Node, Object};
use super::Malformed;

/// Of files that give none away.
const INDENT: &str = "  ";

/// The text's value, without its comments.
pub(crate) fn value(text: &str, comments: Comments) -> Result<Value, Malformed> {
    if text.trim().is_empty() {
        return Ok(Value::Object(serde_json::Map::new()));
    }
    Ok(scan::read(text, comments)?.value())
}

/// Puts a member in, or in place of the one of that name.
pub(crate) fn set(text: &str, key: &str, name: &str, entry: &Value, comments: Comments) -> Result<String, Malformed> {
    if text.trim().is_empty() {
        let whole = serde_json::json!({key: {name: entry}});
        return Ok(format!("{whole:#}\n"));
    }
    let root = scan::read(text, comments)?;
    let root = root.object().ok_or_else(|| Malformed("it is not an object".to_owned()))?;
    let edited = match root.member(key) {
        None => insert(text, root, key, &serde_json::json!({name: entry})),
        Some(servers) => {
            let servers = servers.node.object().ok_or_else(|| Malformed(format!("`{key}` is not an object")))?;
            match servers.member(name) {
                None => insert(text, servers, name, entry),
                Some(known) => replace(text, known, entry),
            }
        }
    };
    let mut expected = value(text, comments)?;
    if let Some(root) = expected.as_object_mut() {
        let servers = root.entry(key).or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(servers) = servers.as_object_mut() {
            servers.insert(name.to_owned(), entry.clone());
        }
    }
    checked(edited, &expected, comments)
}

/// Takes a member out; a text without it stays as it is.
pub(crate) fn remove(text: &str, key: &str, name: &str, comments: Comments) -> Result<String, Malformed> {
    if text.trim().is_empty() {
        return Ok(text.to_owned());
    }
    let root = scan::read(text, comments)?;
    let servers = root.object().and_then(|root| root.member(key)).and_then(|servers| servers.node.object());
    let Some((servers, at)) = servers.and_then(|servers| Some((servers, servers.position(name)?))) else {
        return Ok(text.to_owned());
    };
    let mut expected = root.value();
    if let Some(servers) = expected.get_mut(key).and_then(Value::as_object_mut) {
        servers.remove(name);
    }
    checked(cut(text, servers, at), &expected, comments)
}

/// INVARIANT: what comes out says what was wanted, whatever the file looked like.
fn checked(edited: String, expected: &Value, comments: Comments) -> Result<String, Malformed> {
    match value(&edited, comments) {
        Ok(found) if found == *expected => Ok(edited),
        _ => Err(Malformed("it is written in a way that cannot be edited safely".to_owned())),
    }
}

fn insert(text: &str, object: &Object, name: &str, entry: &Value) -> String {
    let before = indent_of(text, object.start);
    let Some(last) = object.members.last() else {
        let inner = format!("{before}{}", unit(text));
        let written = format!("\n{inner}{}: {}\n{before}", Value::from(name), indented(entry, &inner, unit(text)));
        return splice(text, object.start + 1, object.end - 1, &written);
    };
    let is_apart = part(text, object.start, last.start).contains('\n');
    let separator = if object.ends_with_comma.is_some() { "" } else { "," };
    let at = object.ends_with_comma.map_or(last.node.end(), |comma| comma + 1);
    let name = Value::from(name);
    if !is_apart {
        return splice(text, at, at, &format!("{separator} {name}: {entry}"));
    }
    let inner = indent_of(text, last.start);
    let line_end = at + comment_length(part(text, at, text.len()));
    let written = format!("\n{inner}{name}: {}", indented(entry, &inner, unit(text)));
    [part(text, 0, at), separator, part(text, at, line_end), &written, part(text, line_end, text.len())].concat()
}

/// Of a comment to the end of its line, which stays beside what it is about.
fn comment_length(rest: &str) -> usize {
    let line = rest.split('\n').next().unwrap_or_default().trim_end();
    if line.trim_start().starts_with("//") { line.len() } else { 0 }
}

fn replace(text: &str, known: &Member, entry: &Value) -> String {
    let indent = indent_of(text, known.start);
    splice(text, known.node.start(), known.node.end(), &indented(entry, &indent, unit(text)))
}

fn cut(text: &str, object: &Object, at: usize) -> String {
    let Some(member) = object.members.get(at) else { return text.to_owned() };
    let before = at.checked_sub(1).and_then(|before| object.members.get(before));
    match (before, object.members.get(at + 1)) {
        // With the comma between them; where a comment stands there, that and the comma stay, which may be the last.
        (Some(before), None) => match part(text, before.node.end(), member.start) {
            gap if gap.contains('/') => {
                let from = before.node.end() + gap.trim_end().len();
                splice(text, from, object.ends_with_comma.map_or(member.node.end(), |comma| comma + 1), "")
            }
            _ => splice(text, before.node.end(), member.node.end(), ""),
        },
        (_, Some(after)) => splice(text, member.start, after.start, ""),
        (None, None) => splice(text, object.start + 1, object.end - 1, ""),
    }
}

/// A value over several lines, the first of them not indented.
fn indented(value: &Value, indent: &str, unit: &str) -> String {
    let pretty = format!("{value:#}");
    let lines = pretty.lines().map(|line| {
        let rest = line.trim_start_matches(' ');
        let depth = (line.len() - rest.len()) / INDENT.len();
        format!("{}{rest}", unit.repeat(depth))
    });
    lines.collect::<Vec<_>>().join(&format!("\n{indent}"))
}

/// The white space that the line of a place begins with.
fn indent_of(text: &str, at: usize) -> String {
    let line = part(text, 0, at).rsplit('\n').next().unwrap_or_default();
    line.chars().take_while(|c| matches!(c, ' ' | '\t')).collect()
}

/// By how much the file's first indented line is.
fn unit(text: &str) -> &str {
    let indented = text.lines().find(|line| line.starts_with([' ', '\t']) && !line.trim().is_empty());
    indented.map_or(INDENT, |line| part(line, 0, line.len() - line.trim_start().len()))
}

fn splice(text: &str, from: usize, to: usize, written: &str) -> String {
    format!("{}{written}{}", part(text, 0, from), part(text, to, text.len()))
}

/// Places are of ASCII characters, so they never divide one.
fn part(text: &str, from: usize, to: usize) -> &str {
    text.get(from..to).unwrap_or_default()
}

impl Node {
    fn object(&self) -> Option<&Object> {
        match self {
            Self::Object(object) => Some(object),
            Self::Other { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const COMMENTED: &str = "// Mine\n{\n\t\"theme\": \"dark\", // yes\n\t/* servers */\n\t\"servers\": {\n\
        \t\t\"other\": {\"url\": \"https://x\"}, // keep\n\t},\n}\n";

    fn entry() -> Value {
        json!({"command": "b", "args": ["connect"]})
    }

    #[test]
    fn an_entry_goes_in_beside_what_is_there_and_out_again() {
        for (text, comments) in [
            ("{}", Comments::No),
            ("{ }\n", Comments::No),
            ("{\"a\":1}", Comments::No),
            ("{\n    \"a\": 1\n}\n", Comments::No),
            ("{\n  \"servers\": {}\n}", Comments::No),
            ("{\r\n  \"servers\": {\r\n    \"x\": {\"url\": \"é{}\\\"//\"}\r\n  }\r\n}\r\n", Comments::No),
            ("{\"servers\": {\"x\": {}}, \"z\": 1.0e400}", Comments::Yes),
            (COMMENTED, Comments::Yes),
            ("{ // nothing yet\n}\n", Comments::Yes),
        ] {
            let edited =
                set(text, "servers", "shop", &entry(), comments).unwrap_or_else(|error| panic!("{text}: {error:?}"));
            assert_eq!(value(&edited, comments).unwrap()["servers"]["shop"], entry(), "{edited}");
            let again = set(&edited, "servers", "shop", &json!({"command": "c"}), comments).unwrap();
            assert_eq!(value(&again, comments).unwrap()["servers"]["shop"]["command"], "c", "{again}");
            let without = remove(&again, "servers", "shop", comments).unwrap();
            assert!(value(&without, comments).unwrap()["servers"].get("shop").is_none(), "{without}");
        }
    }

    #[test]
    fn nothing_else_moves() {
        let edited = set(COMMENTED, "servers", "shop", &entry(), Comments::Yes).unwrap();
        let (before, after) = COMMENTED.split_at(COMMENTED.find("\n\t},").unwrap());
        let added = edited.strip_prefix(before).and_then(|rest| rest.strip_suffix(after)).unwrap();
        assert!(added.starts_with("\n\t\t\"shop\": {\n\t\t\t\"") && added.ends_with("\n\t\t}"), "{edited}");
        let without = remove(&edited, "servers", "shop", Comments::Yes).unwrap();
        assert_eq!(without, COMMENTED);
    }

    #[test]
    fn what_is_not_well_formed_is_not_edited() {
        for text in [
            "{",
            "[]",
            "{\"servers\": []}",
            "{\"servers\": {}",
            "{\"a\": 1,}",
            "{\"a\": 1} x",
            "{\"a\": 01}",
            "{'a': 1}",
            "{\"servers\": {}, \"servers\": {}}",
            "// c\n{}",
            "{\"a\": \"\n\"}",
            "{\"a\": tru}",
            "\u{feff}{}",
        ] {
            assert!(set(text, "servers", "shop", &entry(), Comments::No).is_err(), "{text}");
        }
        for text in ["/* {}", "{\"a\": /", "{\"a\" 1}", "{,}", "{\"a\": 1,,}"] {
            assert!(set(text, "servers", "shop", &entry(), Comments::Yes).is_err(), "{text}");
        }
    }
}
