//! One table in a TOML file, put at its end or taken out as text.
//!
//! Called by `clients`. A table of ours is written whole, under a header of its own; one that somebody wrote in another
//! way is not touched. It ends with its last key: comments behind that are somebody else's. Invariants as for JSON: a
//! file that is not well formed is not edited, and what comes out, read again, differs by that one table.
//! Specification: TOML 1.0.

use serde_json::Value;

use super::Malformed;

/// The text's value, as JSON has it.
pub(crate) fn value(text: &str) -> Result<Value, Malformed> {
    let table: ::toml::Table = ::toml::from_str(text).map_err(|error| Malformed(error.message().to_owned()))?;
    serde_json::to_value(table).map_err(|error| Malformed(error.to_string()))
}

pub(crate) fn set(text: &str, key: &str, name: &str, entry: &Value) -> Result<String, Malformed> {
    let mut expected = value(text)?;
    let without = remove(text, key, name)?;
    let gap = match without.as_str() {
        "" => "",
        text if text.ends_with("\n\n") => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let mut edited = format!("{without}{gap}{}\n", header(key, name));
    for (member, value) in entry.as_object().into_iter().flatten() {
        edited.push_str(&format!("{} = {}\n", bare(member), written(value)));
    }
    if let Some(root) = expected.as_object_mut() {
        let servers = root.entry(key).or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(servers) = servers.as_object_mut() {
            servers.insert(name.to_owned(), entry.clone());
        }
    }
    checked(edited, &expected, key)
}

pub(crate) fn remove(text: &str, key: &str, name: &str) -> Result<String, Malformed> {
    let mut expected = value(text)?;
    let removed = expected.get_mut(key).and_then(Value::as_object_mut).and_then(|servers| servers.remove(name));
    if removed.is_none() {
        return Ok(text.to_owned());
    }
    let own = header(key, name);
    let mut kept = String::new();
    let mut is_own = false;
    // What may be behind the last key of our table.
    let mut behind = String::new();
    for line in text.split_inclusive('\n') {
        let trimmed = line.trim();
        if trimmed.starts_with('[') {
            put_behind(&mut kept, &std::mem::take(&mut behind));
            is_own = trimmed == own;
        }
        if !is_own {
            kept.push_str(line);
        } else if trimmed.is_empty() || trimmed.starts_with('#') {
            behind.push_str(line);
        } else {
            behind.clear();
        }
    }
    put_behind(&mut kept, &behind);
    checked(kept, &expected, key)
}

/// Without a second gap in the place of the table.
fn put_behind(kept: &mut String, behind: &str) {
    let has_gap = kept.is_empty() || kept.ends_with("\n\n");
    kept.push_str(if has_gap { behind.trim_start_matches(['\r', '\n']) } else { behind });
}

fn checked(edited: String, expected: &Value, key: &str) -> Result<String, Malformed> {
    // A table of which nothing is left may be gone with it.
    let without_empty = |mut value: Value| {
        if value.get(key).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
            value.as_object_mut().and_then(|root| root.remove(key));
        }
        value
    };
    match value(&edited).map(without_empty) {
        Ok(found) if found == without_empty(expected.clone()) => Ok(edited),
        _ => Err(Malformed("it is written in a way that cannot be edited safely".to_owned())),
    }
}

fn header(key: &str, name: &str) -> String {
    format!("[{key}.{}]", bare(name))
}

/// A key, quoted where it has to be.
fn bare(name: &str) -> String {
    let is_bare =
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if is_bare { name.to_owned() } else { Value::from(name).to_string() }
}

/// Strings of JSON are strings of TOML; so are lists of them.
fn written(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(written).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members = members.iter().map(|(name, value)| format!("{} = {}", bare(name), written(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FILE: &str =
        "# mine\nmodel = \"x\"\n\n[mcp_servers.other]\ncommand = \"y\" # keep\n\n[tui]\ntheme = 'dark'\n";

    #[test]
    fn a_table_goes_in_and_out_and_nothing_else_moves() {
        let entry = json!({"args": ["connect", "https://a.example/mcp"], "command": "/usr/bin/b \"q\""});
        let edited = set(FILE, "mcp_servers", "shop", &entry).unwrap();
        assert!(edited.starts_with(FILE), "{edited}");
        assert_eq!(value(&edited).unwrap()["mcp_servers"]["shop"], entry);
        assert_eq!(remove(&edited, "mcp_servers", "shop").unwrap().trim_end(), FILE.trim_end());
        let again = set(&edited, "mcp_servers", "shop", &json!({"command": "c"})).unwrap();
        assert_eq!(value(&again).unwrap()["mcp_servers"]["shop"], json!({"command": "c"}));
    }

    #[test]
    fn what_somebody_wrote_behind_our_table_stays() {
        let entry = json!({"command": "b"});
        let edited = set(FILE, "mcp_servers", "shop", &entry).unwrap();
        for more in ["# about x\n\n[x]\ny = 1\n", "\n# about x\n[x]\ny = 1\n", "\n# the end\n"] {
            let longer = format!("{edited}{more}");
            let removed = remove(&longer, "mcp_servers", "shop").unwrap();
            assert_eq!(removed, format!("{FILE}\n{}", more.trim_start()), "{longer}");
            let again = set(&longer, "mcp_servers", "shop", &json!({"command": "c"})).unwrap();
            assert!(again.contains(more.trim()) && again.starts_with(FILE), "{again}");
        }
    }

    #[test]
    fn what_is_malformed_or_written_otherwise_is_left_alone() {
        let entry = json!({"command": "b"});
        for text in ["a = ", "[x", "mcp_servers = 7\n", "mcp_servers = { shop = { command = \"a\" } }\n"] {
            assert!(set(text, "mcp_servers", "shop", &entry).is_err(), "{text}");
        }
    }
}
