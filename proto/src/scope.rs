//! Scopes of access tokens: how much harm the calls of a token may do, in OAuth's words.
//!
//! Control planes issue tokens with them, data planes ask what a token's scope reaches. Each word holds all that the
//! words below it hold, so any set of them is worth its highest: `mcp:tools` ⊇ `mcp:write` ⊇ `mcp:read`. Invariant:
//! a scope is only ever narrowed here; what is not known gives nothing. Deliberately absent: whether anybody may have
//! what a scope reaches (consent, ceiling and policy say that).
//! Specification: RFC 6749 §3.3; MCP 2026-07-28 authorization, scope hierarchies.

use std::fmt;

use crate::Tier;

/// Longest text that is read: more than every word there will ever be, together with a stranger's own.
pub const SCOPE_BYTES_MAX: usize = 1024;

/// The words, in ascending order of what they hold, as metadata and this file list them.
pub const WORDS: [&str; 3] = ["mcp:read", "mcp:write", "mcp:tools"];

/// What the words of a scope hold together. No word that is known here: nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Scopes(Option<Tier>);

impl Scopes {
    /// Of words separated by spaces. Unknown words are dropped; a text longer than [`SCOPE_BYTES_MAX`] holds nothing.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text.len() > SCOPE_BYTES_MAX {
            return Self::default();
        }
        Self(text.split(' ').filter_map(tier_of).max())
    }

    /// The scope that reaches all tools up to this tier, and none above.
    #[must_use]
    pub const fn of_level(level: Tier) -> Self {
        Self(Some(level))
    }

    /// What both hold.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        // `None` is below every tier.
        Self(self.0.min(other.0))
    }

    /// The most harmful tier it reaches; `None` where it reaches nothing.
    #[must_use]
    pub const fn level(&self) -> Option<Tier> {
        self.0
    }

    /// Whether it holds nothing.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

/// The fewest words that hold as much: one, or none.
impl fmt::Display for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.map_or("", word_of))
    }
}

const fn word_of(level: Tier) -> &'static str {
    let [read, write, tools] = WORDS;
    match level {
        Tier::Retrieval => read,
        Tier::Transactional => write,
        Tier::Destructive => tools,
    }
}

fn tier_of(word: &str) -> Option<Tier> {
    Tier::ALL.into_iter().find(|tier| word_of(*tier) == word)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_read_by_their_hierarchy_and_unknown_ones_dropped() {
        use Tier::{Destructive, Retrieval, Transactional};
        for (text, level, shown) in [
            ("mcp:read", Some(Retrieval), "mcp:read"),
            ("mcp:write", Some(Transactional), "mcp:write"),
            ("mcp:tools", Some(Destructive), "mcp:tools"),
            ("mcp:write mcp:read", Some(Transactional), "mcp:write"),
            ("mcp:read mcp:tools openid", Some(Destructive), "mcp:tools"),
            (" mcp:read  offline_access ", Some(Retrieval), "mcp:read"),
            ("openid", None, ""),
            ("MCP:READ", None, ""),
            ("mcp:tools.read mcp:*", None, ""),
            ("mcp:read\tmcp:tools", None, ""),
            ("mcp:read\u{a0}mcp:tools", None, ""),
            ("", None, ""),
        ] {
            let scopes = Scopes::parse(text);
            assert_eq!((scopes.level(), scopes.is_empty()), (level, level.is_none()), "{text}");
            assert_eq!(scopes.to_string(), shown);
        }
    }

    #[test]
    fn a_text_beyond_the_bound_holds_nothing_rather_than_its_beginning() {
        let padded = |length: usize| format!("mcp:read {}", "x".repeat(length - "mcp:read ".len()));
        assert_eq!(Scopes::parse(&padded(SCOPE_BYTES_MAX)).level(), Some(Tier::Retrieval));
        assert!(Scopes::parse(&padded(SCOPE_BYTES_MAX + 1)).is_empty());
    }

    #[test]
    fn a_level_is_its_own_word_and_reads_back() {
        for (tier, word) in Tier::ALL.into_iter().zip(WORDS) {
            let scopes = Scopes::of_level(tier);
            assert_eq!((scopes.level(), scopes.to_string().as_str()), (Some(tier), word));
            assert_eq!(Scopes::parse(word), scopes);
        }
    }

    fn any_text() -> impl Strategy<Value = String> {
        let word = prop::sample::select(vec!["mcp:read", "mcp:write", "mcp:tools", "openid", "", "mcp:admin"]);
        prop::collection::vec(word, 0..5).prop_map(|words| words.join(" "))
    }

    proptest! {
        #[test]
        fn what_both_hold_is_the_lesser_whichever_comes_first(texts in [any_text(), any_text(), any_text()]) {
            let [one, other, third] = texts.map(|text| Scopes::parse(&text));
            let both = one.meet(&other);
            prop_assert_eq!(both, other.meet(&one));
            prop_assert_eq!(both.level(), one.level().min(other.level()));
            prop_assert_eq!(both.meet(&third), one.meet(&other.meet(&third)));
            prop_assert_eq!(one.meet(&one), one);
            prop_assert_eq!(Scopes::parse(&both.to_string()), both);
        }
    }
}
