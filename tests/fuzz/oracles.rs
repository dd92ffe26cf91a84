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

/// The lines of a stream, as far as they have an end.
fn lines(stream: &[u8]) -> Vec<Vec<u8>> {
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
    lines
}

/// The data of all events of a whole stream.
pub(crate) fn events(stream: &[u8]) -> Vec<Vec<u8>> {
    let lines = lines(stream);
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

/// The value of a line that is this field.
fn value_of<'l>(line: &'l [u8], field: &str) -> Option<&'l [u8]> {
    let rest = line.strip_prefix(field.as_bytes())?;
    match rest.strip_prefix(b":") {
        Some(value) => Some(value.strip_prefix(b" ").unwrap_or(value)),
        None => rest.is_empty().then_some(rest),
    }
}

/// The id of the last event that ended and has one, and the last pause that was asked for, milliseconds.
pub(crate) fn goes_on(stream: &[u8]) -> (Option<Vec<u8>>, Option<u64>) {
    let (mut last, mut id, mut retry) = (None, None, None);
    for line in &lines(stream) {
        if line.is_empty() {
            last = id.take().or(last);
        } else if let Some(value) = value_of(line, "id") {
            if !value.contains(&0) {
                id = Some(value.to_vec());
            }
        } else if let Some(value) = value_of(line, "retry")
            && value.iter().all(u8::is_ascii_digit)
        {
            retry = String::from_utf8_lossy(value).parse().ok().or(retry);
        }
    }
    // In a header an id can be sent back that is short and has no control characters.
    let fits = |id: &Vec<u8>| {
        !id.is_empty() && id.len() <= 4096 && id.iter().all(|byte| *byte == b'\t' || (*byte >= 0x20 && *byte != 0x7f))
    };
    (last.filter(fits), retry)
}
