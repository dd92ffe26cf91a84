//! Independent readings, slow and obvious, that the product's readers are held against.

use serde_json::Value;

/// How often a colon stands outside of strings: one for each member that was written.
pub(crate) fn members_written(json: &str) -> usize {
    let (mut in_string, mut escaped, mut colons) = (false, false, 0);
    for c in json.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if in_string => escaped = true,
            '"' => in_string = !in_string,
            ':' if !in_string => colons += 1,
            _ => {}
        }
    }
    colons
}

/// How many members were kept.
pub(crate) fn members_kept(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.len() + members.values().map(members_kept).sum::<usize>(),
        Value::Array(items) => items.iter().map(members_kept).sum(),
        _ => 0,
    }
}

/// How many containers enclose the innermost value, itself counted where it is one.
pub(crate) fn depth(value: &Value) -> usize {
    let inner = match value {
        Value::Object(members) => members.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => items.iter().map(depth).max().unwrap_or(0),
        _ => return 0,
    };
    inner + 1
}

/// The data of all events of a whole stream.
pub(crate) fn events(stream: &[u8]) -> Vec<Vec<u8>> {
    let stream = stream.strip_prefix("\u{feff}".as_bytes()).unwrap_or(stream);
    let mut lines: Vec<Vec<u8>> = vec![Vec::new()];
    let mut before = 0;
    for byte in stream {
        match byte {
            b'\n' if before == b'\r' => {}
            b'\n' | b'\r' => lines.push(Vec::new()),
            _ => lines.last_mut().into_iter().for_each(|line| line.push(*byte)),
        }
        before = *byte;
    }
    // What no line end follows, is no line.
    lines.pop();
    let mut events = Vec::new();
    let mut data: Vec<&[u8]> = Vec::new();
    for line in &lines {
        if line.is_empty() {
            if !data.is_empty() {
                events.push(data.join(&b'\n'));
            }
            data.clear();
        } else if line == b"data" {
            data.push(b"");
        } else if let Some(value) = line.strip_prefix(b"data:") {
            data.push(value.strip_prefix(b" ").unwrap_or(value));
        }
    }
    events
}
