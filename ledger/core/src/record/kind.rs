//! What a record says happened, as one word. Words are only ever added, at the end.
//!
//! Called by everybody who writes or reads records. Which parts each kind must carry is checked in `record`. A reader
//! refuses a kind that it does not know, and with it everything later of that chain; so it says how many it knows, and
//! who writes asks ([`Kind::is_known_to`]) before it writes one that was added.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! kinds {
    ($($variant:ident = $word:literal, $doc:literal;)*) => {
        /// What a record says happened.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Kind {
            $(#[doc = $doc] #[serde(rename = $word)] $variant,)*
        }

        impl Kind {
            /// All kinds, in the order of this file.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word in records and queries.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }
        }
    };
}

kinds! {
    CallIntent = "call.intent", "A call was permitted and is about to be forwarded.";
    CallOutcome = "call.outcome", "How a call ended; `intent` names the intent's record.";
    CallDenied = "call.denied", "A call was refused and not forwarded.";
    NodeEpochOpen = "node.epoch_open", "A node began a run; first record of its chain.";
    NodeHead = "node.head", "A node signs its chain up to the record before this one.";
    NodeEpochClose = "node.epoch_close", "A node ended its run in good order.";
    GapOpen = "gap.open", "The ledger declares records missing that a node must have written.";
    GapClose = "gap.close", "The missing records arrived after all.";
    GapDeclared = "gap.declared", "A node declares records of an earlier run lost for good.";
    DropMarker = "drop.marker", "A node went on without recording; `dropped` counts what is missing.";
    ConfigApplied = "config.applied", "A node put a revision of the configuration into force.";
    ControlEvent = "control.event", "A committed change of the control plane's state.";
    RevocationReceipt = "revocation.receipt", "Which node applied a revocation when.";
    PrivacyShred = "privacy.shred", "A subject's payload key was destroyed.";
    LedgerHeads = "ledger.heads", "How far each registered node is complete.";
    LedgerShardOpen = "ledger.shard_open", "The log begins a shard.";
    LedgerShardClose = "ledger.shard_close", "The log ends a shard.";
    DecisionEvaluated = "decision.evaluated", "A service asked whether a call would be permitted, and was told.";
}

/// How many kinds every reader knows, also one that does not say how many.
const KINDS_AT_FIRST: u32 = 17;

impl Kind {
    /// Whether a reader knows this kind that says it knows so many: as many of [`Kind::ALL`], from the first. One that
    /// says nothing (0) knows those from before readers said so.
    #[must_use]
    pub const fn is_known_to(self, kinds_of_reader: u32) -> bool {
        let known = if kinds_of_reader < KINDS_AT_FIRST { KINDS_AT_FIRST } else { kinds_of_reader };
        (self as u32) < known
    }

    /// How many kinds this version knows, for those who write.
    #[must_use]
    pub fn known() -> u32 {
        u32::try_from(Self::ALL.len()).unwrap_or(u32::MAX)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word names no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind of record `{0}`")]
pub struct UnknownKind(pub String);

impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word).ok_or_else(|| UnknownKind(word.to_owned()))
    }
}
