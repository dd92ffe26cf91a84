//! What is said of a signal: the wish that it has its effect, the answer, and the event on record.
//!
//! Made by the server (`TakeSignal`) and by `signal`; read by `timeline`. Invariant: every text is bounded. Absent: what
//! follows (`signal`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::TEXT_BYTES_MAX;
use crate::{assertion::Use, resource::SignalKind};

/// How a signal came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// It was sent here (RFC 8935).
    Push,
    /// It was fetched (RFC 8936).
    Poll,
}

/// A wish that a signal has the effect that it is to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeSignal {
    /// The identity provider whose manifest names the transmitter.
    pub provider: String,
    /// How it came.
    pub delivery: Delivery,
    /// What is remembered of it, and for how long it could come again.
    pub used: Use,
    /// Its `jti`.
    pub jti: String,
    /// What it says.
    pub event: SignalKind,
    /// Whom it is about, as the transmitter names them.
    pub subject: String,
    /// The same as a user's name here, if it can be one.
    pub user: Option<String>,
    /// When it happened, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub happened_at: u64,
    /// Whether it tells of a change for the worse; the others are put on record alone.
    pub is_worse: bool,
    /// All groups that the person is in now, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<BTreeSet<String>>,
    /// Names of the claims that have changed, beside the groups.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub claims: BTreeSet<String>,
    /// Why, as the transmitter says it to administrators.
    pub reason: String,
    /// What a verification was asked for with; empty: nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalOutcome {
    /// It is on record.
    Recorded,
    /// Nobody of that name is known here.
    SubjectUnknown,
    /// The person's sessions end.
    SessionsEnded,
    /// The person is in these groups now.
    GroupsChanged,
    /// The person was in these groups already.
    GroupsUnchanged,
    /// The groups are older than others that the provider said before; they have no effect.
    Outdated,
    /// The person is deactivated.
    Deactivated,
    /// It was taken before.
    Repeated,
    /// It does not count by the manifest.
    Ignored,
}

impl SignalOutcome {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::SubjectUnknown => "subject_unknown",
            Self::SessionsEnded => "sessions_ended",
            Self::GroupsChanged => "groups_changed",
            Self::GroupsUnchanged => "groups_unchanged",
            Self::Outdated => "outdated",
            Self::Deactivated => "deactivated",
            Self::Repeated => "repeated",
            Self::Ignored => "ignored",
        }
    }
}

/// The answer to a [`TakeSignal`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// What became of it.
    pub outcome: SignalOutcome,
    /// More ends than one change may hold: ask again.
    pub more: bool,
}

/// Payload of `signal_received`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalReceived {
    /// The identity provider whose manifest names the transmitter.
    pub provider: String,
    /// The transmitter: the `iss` of what it signed.
    pub transmitter: String,
    /// How it came.
    pub delivery: Delivery,
    /// What is remembered of it, so that it counts once.
    pub used: Use,
    /// Its `jti`.
    pub jti: String,
    /// What it says.
    pub event: SignalKind,
    /// Whom it is about, as the transmitter names them.
    pub subject: String,
    /// The user here; empty: nobody who is known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// When it happened, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub happened_at: u64,
    /// What became of it.
    pub outcome: SignalOutcome,
    /// Names of the claims that have changed, beside the groups.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub claims: BTreeSet<String>,
    /// Why, as the transmitter says it to administrators.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What a verification was asked for with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
}

impl SignalReceived {
    /// What came and why, for people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let said = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        let (event, outcome) = (self.event.as_str(), self.outcome.as_str());
        format!("{event} about {} ({outcome}), {}{said}", self.subject, clip(&self.jti, TEXT_BYTES_MAX))
    }
}

/// At most so many bytes of a text, without control characters.
#[must_use]
pub fn clip(text: &str, bytes_max: usize) -> String {
    let mut kept = String::new();
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if kept.len() + c.len_utf8() > bytes_max {
            break;
        }
        kept.push(c);
    }
    kept
}
