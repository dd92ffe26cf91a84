//! Which lines of a text become which others, as people read it.
//!
//! Called by `client setup` before anything is written. What changes is one piece, so everything between the first and
//! the last line that differ is shown, with some lines around it. Invariants: nothing that a terminal would obey is
//! shown as it is, nor the credentials of an `Authorization` header.

use crate::output::printed;

const AROUND: usize = 3;
const HEADER: &str = "authorization";
const SCHEME: &str = "bearer ";
const HIDDEN: &str = "(hidden)";

/// Lines that begin with `-`, `+` or a space; empty if nothing changes.
pub(crate) fn difference(before: &str, after: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let same = old.iter().zip(&new).take_while(|(old, new)| old == new).count();
    let rest = old.len().min(new.len()) - same;
    let tail = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(old, new)| old == new).count();
    if same == old.len() && same == new.len() {
        return String::new();
    }
    let line = |mark: char, line: &str| format!("{mark} {}\n", shown(line));
    let lines = |mark: char, lines: &[&str]| lines.iter().map(|text| line(mark, text)).collect::<String>();
    let piece = |all: &[&str], from: usize, to: usize, mark: char| lines(mark, all.get(from..to).unwrap_or_default());
    let end = old.len() - tail;
    [
        piece(&old, same.saturating_sub(AROUND), same, ' '),
        piece(&old, same, end, '-'),
        piece(&new, same, new.len() - tail, '+'),
        piece(&old, end, (end + AROUND).min(old.len()), ' '),
    ]
    .concat()
}

/// Tabs indent, and do no harm.
fn shown(line: &str) -> String {
    masked(line).split('\t').map(printed).collect::<Vec<_>>().join("\t")
}

/// The line without what stands behind `Authorization` or `Bearer`, up to the end of its string.
fn masked(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut shown = String::new();
    let mut from = 0;
    while let Some((begin, end)) = credentials(line, &lower, from) {
        shown.push_str(line.get(from..begin).unwrap_or_default());
        shown.push_str(HIDDEN);
        from = end;
    }
    shown.push_str(line.get(from..).unwrap_or_default());
    shown
}

/// Where the next credentials stand; both lines have the same length in bytes.
fn credentials(line: &str, lower: &str, from: usize) -> Option<(usize, usize)> {
    let rest = lower.get(from..)?;
    let header = rest.find(HEADER).map(|at| (at, true));
    let scheme = rest.find(SCHEME).map(|at| (at, false));
    let (at, is_header) = [header, scheme].into_iter().flatten().min()?;
    if !is_header {
        let begin = from + at + SCHEME.len();
        return Some((begin, string_end(line, begin)));
    }
    // The end of the name's own string, what divides, and the quote that opens the value.
    let named = from + at + HEADER.len();
    let begin = named + line.get(named..)?.find(|c: char| !matches!(c, '\'' | '"' | ' ' | '\t' | ':' | '=' | '\\'))?;
    let end = string_end(line, begin);
    // The scheme may be seen.
    let value = line.get(begin..end)?;
    Some((begin + value.find(' ').map_or(0, |space| space + 1), end))
}

fn string_end(line: &str, from: usize) -> usize {
    let rest = line.get(from..).unwrap_or_default();
    from + rest.find(['"', '\'']).unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_not_shown_nor_what_terminals_obey() {
        for (line, expected) in [
            (r#""Authorization": "Bearer s3cret","#, r#""Authorization": "Bearer (hidden)","#),
            (r#"  "authorization":"s3cret"}"#, r#"  "authorization":"(hidden)"}"#),
            (
                r#"http_headers = { Authorization = "Basic s3cret" }"#,
                r#"http_headers = { Authorization = "Basic (hidden)" }"#,
            ),
            (
                r#"{"Authorization":"Bearer s3cret"},{"AUTHORIZATION":"Bearer s3cret"}"#,
                r#"{"Authorization":"Bearer (hidden)"},{"AUTHORIZATION":"Bearer (hidden)"}"#,
            ),
            (
                r#""--header", "Authorization: Bearer s3cret", "x""#,
                r#""--header", "Authorization: Bearer (hidden)", "x""#,
            ),
            (r#"      "Bearer s3cret""#, r#"      "Bearer (hidden)""#),
            ("\t\"a\": \"\u{1b}]0;x\u{7}\"", "\t\"a\": \"\\u{1b}]0;x\\u{7}\""),
            (r#""Authorization": {"#, r#""Authorization": (hidden)"#),
            ("nothing é", "nothing é"),
        ] {
            assert_eq!(shown(line), expected);
            assert_eq!(difference("", line), format!("+ {expected}\n"));
        }
    }

    #[test]
    fn what_changes_is_shown_with_what_is_around_it() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), "");
        assert_eq!(difference("", "a\nb\n"), "+ a\n+ b\n");
        assert_eq!(difference("1\n2\n3\n4\n5\n6\n", "1\n2\n3\n4\nx\n5\n6\n"), "  2\n  3\n  4\n+ x\n  5\n  6\n");
        assert_eq!(difference("a\nb\nc\n", "a\nc\n"), "  a\n- b\n  c\n");
        assert_eq!(difference("a\na\n", "a\na\na\n"), "  a\n  a\n+ a\n");
    }
}
