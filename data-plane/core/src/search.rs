//! Finding tools by words: what a virtual server that shows no list is searched by.
//!
//! Built by `catalogue` when a configuration is compiled, over just what clients would be shown in a list; asked by
//! `edge::search`, which shows only what its caller may call. The ranking is small and says itself: every word of a
//! query counts for each tool that has it in its name, title, parameters or description, more in this order, more if
//! few tools have it, half if it is only the beginning of a word there; and a tool that has more of the words counts as
//! many times more. Equal tools come in the order of their names. So the same query finds the same in the same order at
//! every node, without a clock, a model or floating point.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bailiwick_proto::mcp::{Members, ordered_members};

use crate::config::ExposedTool;

/// Most different words of a query that count; more say nothing more.
pub const QUERY_WORDS_MAX: usize = 16;
/// Most words of one tool's description that are indexed: a description may have 64 KiB.
const DESCRIPTION_WORDS_MAX: usize = 512;
/// Most parameters of one tool whose names are indexed.
const PARAMETERS_MAX: usize = 256;
/// Longest part of a word that counts.
const WORD_CHARS_MAX: usize = 32;
/// From how many letters on the beginning of a word counts for it.
const PREFIX_CHARS_MIN: usize = 3;
/// Most words that one beginning stands for.
const PREFIX_WORDS_MAX: usize = 64;
/// Most places that are looked at for one word of a query: more than the tools of any virtual server, so a word that all
/// of them have is found in all.
const POSTINGS_MAX: usize = 100_000;

/// What a word counts where it stands.
const IN_NAME: u32 = 8;
const IN_TITLE: u32 = 6;
const IN_PARAMETERS: u32 = 3;
const IN_DESCRIPTION: u32 = 2;

/// The words of a virtual server's tools.
#[derive(Debug, Default)]
pub struct SearchIndex {
    /// In the order of their names.
    tools: Vec<Arc<ExposedTool>>,
    words: BTreeMap<String, Vec<Posting>>,
}

/// A tool that has a word.
#[derive(Clone, Copy, Debug)]
struct Posting {
    tool: usize,
    weight: u32,
}

impl SearchIndex {
    /// Over tools in the order of their names.
    #[must_use]
    pub fn of<'a>(tools: impl Iterator<Item = &'a Arc<ExposedTool>>) -> Self {
        let mut index = Self::default();
        for (number, exposed) in tools.enumerate() {
            for (word, weight) in words_of_tool(exposed) {
                index.words.entry(word).or_default().push(Posting { tool: number, weight });
            }
            index.tools.push(Arc::clone(exposed));
        }
        index
    }

    /// The tools that a query finds, best first; all of them for one without words.
    pub fn find(&self, query: &str) -> impl Iterator<Item = &Arc<ExposedTool>> {
        let mut words = BTreeSet::new();
        words.extend(words_of(query).take(QUERY_WORDS_MAX));
        let mut found: Vec<(u64, usize)> = match words.is_empty() {
            true => (0..self.tools.len()).map(|tool| (0, tool)).collect(),
            false => self.scores(&words),
        };
        found.sort_unstable_by(|(a, first), (b, second)| b.cmp(a).then(first.cmp(second)));
        found.into_iter().filter_map(|(_, tool)| self.tools.get(tool))
    }

    /// Of each tool that has any of the words: the sum of what they count, times how many of them it has.
    fn scores(&self, words: &BTreeSet<String>) -> Vec<(u64, usize)> {
        let mut sums = vec![(0_u64, 0_u64); self.tools.len()];
        let mut best = vec![0_u64; self.tools.len()];
        for word in words {
            self.score(word, &mut best);
            for ((sum, number), best) in sums.iter_mut().zip(&mut best) {
                *sum = sum.saturating_add(*best);
                *number += u64::from(*best > 0);
                *best = 0;
            }
        }
        let scored = sums.into_iter().map(|(sum, number)| sum.saturating_mul(number)).zip(0..);
        scored.filter(|(score, _)| *score > 0).collect()
    }

    /// What one word counts for each tool: the best of what it stands for. What few tools have comes first, so that a
    /// beginning of very many words costs no more than the ones that say most.
    fn score(&self, word: &str, best: &mut [u64]) {
        let words_max = if word.chars().count() < PREFIX_CHARS_MIN { 1 } else { PREFIX_WORDS_MAX };
        let begun = self.words.range(word.to_owned()..).take(words_max);
        let mut meant: Vec<(&String, &Vec<Posting>)> =
            begun.take_while(|(known, _)| *known == word || (words_max > 1 && known.starts_with(word))).collect();
        meant.sort_by_key(|(known, postings)| (*known != word, postings.len()));
        let mut left = POSTINGS_MAX;
        for (known, postings) in meant {
            let Some(rest) = left.checked_sub(postings.len()) else { return };
            left = rest;
            let counts = self.rarity(postings.len()) * if known == word { 2 } else { 1 };
            for Posting { tool, weight } in postings {
                if let Some(best) = best.get_mut(*tool) {
                    *best = (u64::from(*weight) * counts).max(*best);
                }
            }
        }
    }

    /// What a word counts that so many tools have: 1 if all have it, 1 more each time half as many do.
    fn rarity(&self, having: usize) -> u64 {
        let times = self.tools.len().checked_div(having).unwrap_or(1).max(1);
        u64::from(times.ilog2()) + 1
    }
}

/// The words of a tool as clients are shown it, each with what it counts in all the places it stands in.
fn words_of_tool(exposed: &ExposedTool) -> BTreeMap<String, u32> {
    let members = Members::of(&exposed.definition).unwrap_or_default();
    let text = |members: &Members<'_>, key| members.string(key).ok().flatten().unwrap_or_default();
    let annotated = members.object("annotations").ok().flatten().unwrap_or_default();
    let title = format!("{} {}", text(&members, "title"), text(&annotated, "title"));
    let schema = members.object("inputSchema").ok().flatten().unwrap_or_default();
    let parameters = schema.get("properties").and_then(ordered_members).unwrap_or_default();
    let parameters: Vec<&str> = parameters.iter().take(PARAMETERS_MAX).map(|(name, _)| &**name).collect();
    let mut words = BTreeMap::new();
    let mut count = |text: &str, words_max: usize, weight: u32| {
        let all: BTreeSet<String> = words_of(text).take(words_max).collect();
        for word in all {
            *words.entry(word).or_default() += weight;
        }
    };
    count(&exposed.name, usize::MAX, IN_NAME);
    count(&title, DESCRIPTION_WORDS_MAX, IN_TITLE);
    count(&parameters.join(" "), DESCRIPTION_WORDS_MAX, IN_PARAMETERS);
    count(&text(&members, "description"), DESCRIPTION_WORDS_MAX, IN_DESCRIPTION);
    words
}

/// The words of a text in lower case: runs of letters and digits, divided where a capital follows a small letter; of
/// the commonest English plural only the singular.
fn words_of(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric()).flat_map(humps).filter(|word| !word.is_empty()).map(|word| {
        let mut word: String = word.chars().take(WORD_CHARS_MAX).flat_map(char::to_lowercase).collect();
        if word.len() > 3 && word.ends_with('s') && !word.ends_with("ss") {
            word.pop();
        }
        word
    })
}

/// `createCharge` → `create`, `Charge`.
fn humps(run: &str) -> impl Iterator<Item = &str> {
    let mut rest = run;
    std::iter::from_fn(move || {
        let boundary = rest.char_indices().zip(rest.chars().skip(1));
        let end = boundary
            .filter(|((_, one), next)| one.is_lowercase() && next.is_uppercase())
            .map(|((at, one), _)| at + one.len_utf8())
            .next();
        let (word, after) = rest.split_at_checked(end.unwrap_or(rest.len()))?;
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

#[cfg(test)]
mod tests;
