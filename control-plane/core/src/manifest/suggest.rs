//! "Did you mean": the known word nearest to one that is not known.
//!
//! Called by `document` for keys, kinds and words, and by `apply` for names of resources. Distance is optimal string
//! alignment (insert, delete, replace, swap neighbours), ignoring case.

/// Longest word compared: the distance costs the product of the lengths.
const COMPARED_CHARS_MAX: usize = 64;
/// Most words compared.
const COMPARED_WORDS_MAX: usize = 10_000;

/// The known word nearest to `word`, if one is near enough to have been meant.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (word.chars().count() / 3).max(1);
    known
        .into_iter()
        .take(COMPARED_WORDS_MAX)
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// `; did you mean "x"?`, or nothing.
#[must_use]
pub fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|known| format!("; did you mean \"{known}\"?")).unwrap_or_default()
}

fn distance(a: &str, b: &str) -> usize {
    let fold = |text: &str| text.chars().take(COMPARED_CHARS_MAX).map(|c| c.to_ascii_lowercase()).collect::<Vec<_>>();
    let (a, b) = (fold(a), fold(b));
    // Rows of the distance table for prefixes of `a`: the one before the last, the last, the present one.
    let mut before = Vec::new();
    let mut last = (0..=b.len()).collect::<Vec<_>>();
    for (i, from) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, to) in b.iter().enumerate() {
            let cell = |row: &[usize], at: usize| row.get(at).copied().unwrap_or(usize::MAX / 2);
            let mut best =
                (cell(&last, j) + usize::from(from != to)).min(cell(&last, j + 1) + 1).min(cell(&row, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(to) && b.get(j - 1) == Some(from);
            if swapped {
                best = best.min(cell(&before, j - 1) + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_meant_when_it_is_near() {
        let table = [
            ("teir", &["tier", "cost"][..], Some("tier")),
            ("server", &["Server", "VirtualServer"], Some("Server")),
            ("virtualserver", &["Server", "VirtualServer"], Some("VirtualServer")),
            ("endpont", &["endpoint", "tools"], Some("endpoint")),
            ("x", &["endpoint", "tools"], None),
            ("colour", &["tier", "cost"], None),
            ("", &["tier"], None),
        ];
        for (word, known, meant) in table {
            assert_eq!(nearest(word, known.iter().copied()), meant, "{word}");
        }
    }
}
