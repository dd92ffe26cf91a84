//! Texts from outside, made fit to be read: what hides, turns or reorders other text becomes visible, and none is
//! endless. Escaping is not done here but by every template, always.

/// What stands in place of a character that must not act.
const REPLACEMENT: char = '\u{FFFD}';
/// Most accents on one letter; more would cover the lines around.
const ACCENTS_MAX: usize = 3;
/// Longest text that is shown whole, in characters.
const SHOWN_CHARS_MAX: usize = 400;
/// Longest name that is shown whole, in characters.
const NAME_CHARS_MAX: usize = 80;

/// A text as people may see it: white space is one space, characters without a look of their own (controls, direction
/// marks, invisible ones) are `\u{FFFD}`, and what is longer than 400 characters ends in an ellipsis.
pub(crate) fn shown(text: &str) -> String {
    clipped(text, SHOWN_CHARS_MAX)
}

fn clipped(text: &str, max: usize) -> String {
    let mut fit = String::new();
    let (mut count, mut accents, mut after_space) = (0, 0, true);
    for c in text.chars() {
        accents = if is_accent(c) { accents + 1 } else { 0 };
        let space = c.is_whitespace();
        if (space && after_space) || accents > ACCENTS_MAX {
            continue;
        }
        if count == max {
            fit.push('…');
            return fit;
        }
        fit.push(if space { ' ' } else { visible(c) });
        (count, after_space) = (count + 1, space);
    }
    fit.truncate(fit.trim_end().len());
    fit
}

/// A time (RFC 3339, UTC) to the minute, as people read it; any other text as it is.
fn minute(text: &str) -> String {
    let minute = text.get(..16).filter(|_| text.ends_with('Z')).and_then(|minute| minute.split_once('T'));
    let minute = minute.map(|(day, time)| format!("{day} {time} UTC"));
    clipped(minute.as_deref().unwrap_or(text), NAME_CHARS_MAX)
}

fn visible(c: char) -> char {
    let hides = c.is_control()
        || matches!(c,
            '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{2800}'
            | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}' | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}'
            | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FFF0}'..='\u{FFFB}' | '\u{1D173}'..='\u{1D17A}'
            | '\u{E0000}'..='\u{E0FFF}' | '\u{E000}'..='\u{F8FF}' | '\u{F0000}'..='\u{10FFFF}');
    if hides { REPLACEMENT } else { c }
}

fn is_accent(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36F}' | '\u{483}'..='\u{489}' | '\u{1AB0}'..='\u{1AFF}' | '\u{1DC0}'..='\u{1DFF}'
        | '\u{20D0}'..='\u{20FF}' | '\u{FE00}'..='\u{FE0F}' | '\u{FE20}'..='\u{FE2F}' | '\u{E31}'
        | '\u{E34}'..='\u{E3A}' | '\u{E47}'..='\u{E4E}')
}

/// What templates call texts through.
#[expect(unreachable_pub, reason = "what the macro adds to each filter is public in here")]
pub(super) mod filters {
    use super::{NAME_CHARS_MAX, clipped};

    /// [`super::minute`].
    #[askama::filter_fn]
    pub(crate) fn minute(text: impl AsRef<str>, _: &dyn askama::Values) -> askama::Result<String> {
        Ok(super::minute(text.as_ref()))
    }

    /// [`super::shown`].
    #[askama::filter_fn]
    pub(crate) fn shown(text: impl AsRef<str>, _: &dyn askama::Values) -> askama::Result<String> {
        Ok(super::shown(text.as_ref()))
    }

    /// The same for names: 80 characters.
    #[askama::filter_fn]
    pub(crate) fn name(text: impl AsRef<str>, _: &dyn askama::Values) -> askama::Result<String> {
        Ok(clipped(text.as_ref(), NAME_CHARS_MAX))
    }

    /// A link that leads to a page, and nothing else.
    #[askama::filter_fn]
    pub(crate) fn link(url: impl AsRef<str>, _: &dyn askama::Values) -> askama::Result<String> {
        let url = url.as_ref();
        let here = url.starts_with(['/', '?']) && !url.starts_with("//") && !url.contains('\\');
        let leads = here || url.starts_with("https://") || url.starts_with("http://");
        Ok(if leads && !url.contains(char::is_control) { url.to_owned() } else { "#".to_owned() })
    }

    /// `1 tool`, `2 tools`.
    #[askama::filter_fn]
    pub(crate) fn tools(count: &usize, _: &dyn askama::Values) -> askama::Result<String> {
        Ok(if *count == 1 { "1 tool".to_owned() } else { format!("{count} tools") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_to_the_minute() {
        let check = |text: &str, read: &str| assert_eq!(minute(text), read, "{text:?}");
        check("2026-11-22T08:40:48.680493Z", "2026-11-22 08:40 UTC");
        check("2026-11-22T09:40:48Z", "2026-11-22 09:40 UTC");
        for other in ["never", "", "2026-11-22T09:40:48+01:00", "WWWWWWWWWWWWWWWéZ"] {
            check(other, other);
        }
    }

    #[test]
    fn what_hides_or_turns_text_is_seen() {
        let check = |text: &str, seen: &str| assert_eq!(shown(text), seen, "{text:?}");
        check("Jane O’Neill <jane@example.com>", "Jane O’Neill <jane@example.com>");
        check("naïve Ünïcødé 日本語 עברית", "naïve Ünïcødé 日本語 עברית");
        check("  a\t\nb\u{2028}c \u{A0} d  ", "a b c d");
        check("evil\u{202E}gpj.exe", "evil\u{FFFD}gpj.exe");
        check("ad\u{200B}min\u{2066}\0\u{1B}[1m", "ad\u{FFFD}min\u{FFFD}\u{FFFD}\u{FFFD}[1m");
        check("\u{E0041}\u{3164}\u{AD}\u{FEFF}", "\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}");
        check(&format!("a{}b", "\u{301}".repeat(900)), "a\u{301}\u{301}\u{301}b");
    }

    #[test]
    fn no_text_is_endless() {
        let long = shown(&"ä".repeat(10_000));
        assert_eq!((long.chars().count(), long.ends_with('…')), (SHOWN_CHARS_MAX + 1, true));
        assert_eq!(shown(&"a".repeat(SHOWN_CHARS_MAX)).chars().count(), SHOWN_CHARS_MAX);
        assert_eq!(clipped(&format!("a{}", " ".repeat(10_000)), 5), "a");
    }
}
