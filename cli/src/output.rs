//! Tables for people: columns as wide as their longest cell, header in capitals, no colour where none is wanted.

use std::io::Write;

use serde_json::{Value, json};

use crate::{args::Output, yaml::to_yaml};

/// Writes to standard output. A reader that went away (`| head`) wants no more; that is no failure of the command.
pub(crate) fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// A text from a file or a server, with everything escaped that a terminal would obey or hide.
pub(crate) fn printed(text: &str) -> String {
    let is_hidden = |c: char| {
        let turns =
            matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
        c.is_control() || turns || c == '\u{feff}'
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_hidden(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Rows under headers, padded with spaces.
pub(crate) fn table(headers: &[&str], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printed(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(headers.get(column).map(|header| header.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..headers.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<String> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        padded.join("  ").trim_end().to_owned()
    };
    let mut lines = vec![line(&mut headers.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines.join("\n")
}

/// One value in the asked-for form; `people` makes the table.
pub(crate) fn print(output: Output, value: &Value, people: impl FnOnce() -> String) {
    match output {
        Output::Table => show(&format!("{}\n", people())),
        Output::Json => show(&format!("{value:#}\n")),
        Output::Yaml => show(&to_yaml(value)),
    }
}

/// A list in the asked-for form: `{"items": […]}`, or YAML documents that can be applied again.
pub(crate) fn print_list(output: Output, items: Vec<Value>, people: impl FnOnce(&[Value]) -> String) {
    match output {
        Output::Table => show(&format!("{}\n", people(&items))),
        Output::Json => show(&format!("{:#}\n", json!({ "items": items }))),
        Output::Yaml => show(&items.iter().map(to_yaml).collect::<Vec<_>>().join("---\n")),
    }
}

/// The text at a dotted path, or an empty string.
pub(crate) fn text(value: &Value, path: &str) -> String {
    let found = path.split('.').try_fold(value, |inner, key| inner.get(key));
    match found {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Array(items)) => {
            let words = items.iter().map(|item| match item {
                Value::String(word) => word.clone(),
                // Of things in a list their name says enough.
                Value::Object(members) => {
                    let name = ["name", "server", "type"].iter().find_map(|key| members.get(*key)?.as_str());
                    name.map_or_else(|| item.to_string(), str::to_owned)
                }
                other => other.to_string(),
            });
            words.collect::<Vec<_>>().join(",")
        }
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let rows = [vec!["a".to_owned(), "long cell".to_owned()], vec!["bb".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["NAME", "V"], &rows), "NAME  V\na     long cell\nbb    x");
    }

    #[test]
    fn a_cell_tells_the_terminal_nothing() {
        let rows = [vec!["a\u{1b}[2J\r\u{202e}b".to_owned(), "é".to_owned()]];
        assert_eq!(table(&["N", "V"], &rows), "N                      V\na\\u{1b}[2J\\r\\u{202e}b  é");
    }

    #[test]
    fn a_path_that_is_not_there_is_empty() {
        let value = json!({"a": {"b": ["x", "y"], "n": 3}});
        assert_eq!(
            (text(&value, "a.b"), text(&value, "a.n"), text(&value, "q.z")),
            ("x,y".into(), "3".into(), String::new())
        );
    }
}
