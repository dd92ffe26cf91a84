//! Tiers of a tool: how much harm a call can do, in three ordered steps.
//!
//! An agent has a ceiling, a consent a level, a tool a tier; all three are this one type, compared by order.
//! What is unknown counts as `destructive`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// `retrieval` < `transactional` < `destructive`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Reads; changes nothing.
    Retrieval,
    /// Changes something that can be changed back.
    Transactional,
    /// Changes something for good.
    Destructive,
}

/// The word is none of the three tiers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown tier `{0}`: use retrieval, transactional or destructive")]
pub struct UnknownTier(pub String);

impl Tier {
    /// All tiers in ascending order.
    pub const ALL: [Self; 3] = [Self::Retrieval, Self::Transactional, Self::Destructive];

    /// The word on the wire, in records and manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retrieval => "retrieval",
            Self::Transactional => "transactional",
            Self::Destructive => "destructive",
        }
    }

    /// The default from MCP tool annotations: `readOnlyHint: true` reads; otherwise an explicit
    /// `destructiveHint: false` is transactional; all else, including no annotations, is destructive.
    #[must_use]
    pub const fn from_annotations(read_only: Option<bool>, destructive: Option<bool>) -> Self {
        match (read_only, destructive) {
            (Some(true), _) => Self::Retrieval,
            (_, Some(false)) => Self::Transactional,
            (_, Some(true) | None) => Self::Destructive,
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Tier {
    type Err = UnknownTier;
    fn from_str(word: &str) -> Result<Self, UnknownTier> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == word).ok_or_else(|| UnknownTier(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_by_harm_and_words_round_trip() {
        assert!(Tier::Retrieval < Tier::Transactional && Tier::Transactional < Tier::Destructive);
        for tier in Tier::ALL {
            assert_eq!(tier.as_str().parse(), Ok(tier));
        }
        assert_eq!("Retrieval".parse::<Tier>(), Err(UnknownTier("Retrieval".into())));
    }

    #[test]
    fn a_tool_without_annotations_is_destructive() {
        assert_eq!(Tier::from_annotations(None, None), Tier::Destructive);
        assert_eq!(Tier::from_annotations(Some(false), None), Tier::Destructive);
        assert_eq!(Tier::from_annotations(Some(true), Some(true)), Tier::Retrieval);
        assert_eq!(Tier::from_annotations(None, Some(false)), Tier::Transactional);
    }
}
