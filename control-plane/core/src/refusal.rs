//! Refusals: what the authorization server did not give, and why, on record.
//!
//! Every node counts equal refusals together and has them noted in batches ([`NoteRefusals`]); called by `wish`, told
//! by `timeline`. Invariants: nothing follows from a refusal, so it changes no state; a batch that is sent again under
//! its id is noted once; each is bounded, and holds words and names that are known here, never what somebody sent; as
//! long as there are no clients and no identity providers, nothing is noted. Absent: counting and merging (the server's
//! `refusals`).

use serde::{Deserialize, Serialize};

use crate::{
    Rejection, State,
    agent::Agent,
    command::{Context, Decision},
    requests,
    wish::Fulfilled,
};

/// Most kinds of refusals in one batch: twenty KiB of events, a hundred at the worst.
pub const BATCH_MAX: usize = 64;
/// Longest word for a grant or an error.
pub const WORD_BYTES_MAX: usize = 64;
/// Longest name of a client, person, provider, consent or node.
pub const NAME_BYTES_MAX: usize = 400;
/// Longest sentence that says why.
pub const WHY_BYTES_MAX: usize = 400;

/// What was asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// The authorization endpoint.
    Authorize,
    /// The token endpoint.
    Token,
    /// Token revocation.
    Revoke,
    /// Token introspection.
    Introspect,
    /// Registration of clients.
    Register,
    /// Signing in, at a provider or here.
    SignIn,
    /// A person's answer to what a client asked for, and taking back.
    Consent,
    /// The timeline of consents.
    Audit,
    /// What directories say of people.
    Scim,
    /// Signals that are sent here.
    Signals,
    /// Several: of what was not told apart.
    #[default]
    Other,
}

impl Endpoint {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Authorize => "authorize",
            Self::Token => "token",
            Self::Revoke => "revoke",
            Self::Introspect => "introspect",
            Self::Register => "register",
            Self::SignIn => "sign_in",
            Self::Consent => "consent",
            Self::Audit => "audit",
            Self::Scim => "scim",
            Self::Signals => "signals",
            Self::Other => "other",
        }
    }
}

/// A kind of refusal: those of one kind are counted together. What is not known is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Refusal {
    /// What was asked.
    pub endpoint: Endpoint,
    /// For which grant type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub grant: String,
    /// The client.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub client: String,
    /// The client has not proved that it is that one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub claimed: bool,
    /// The person who was signed in, or whom a verified word is about.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// The identity provider.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// The consent that was to be used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub consent: String,
    /// OAuth's word for it.
    pub error: String,
    /// Which of the checks it was, in a sentence of ours.
    pub why: String,
}

/// Payload of `request_refused`: as many as were alike, on one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRefused {
    /// Of which kind.
    #[serde(flatten)]
    pub refusal: Refusal,
    /// How many; at least one.
    #[serde(with = "crate::decimal")]
    pub count: u64,
    /// When the first was: microseconds since 1970, UTC, by the node's clock.
    #[serde(with = "crate::decimal")]
    pub first: u64,
    /// When the last was.
    #[serde(with = "crate::decimal")]
    pub last: u64,
    /// The node that refused.
    pub node: String,
}

/// A wish of a node to have refusals on record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoteRefusals {
    /// Names the batch: it is noted once, however often it is sent.
    pub batch: String,
    /// One for each kind; at most [`BATCH_MAX`].
    pub refused: Vec<RequestRefused>,
}

pub(crate) fn decide_note(state: &State, wish: NoteRefusals, context: &Context) -> Result<Decision, Rejection> {
    let NoteRefusals { batch, refused } = wish;
    let is_bounded = requests::is_id(&batch) && (1..=BATCH_MAX).contains(&refused.len());
    if !is_bounded || batch != context.request_id || !refused.iter().all(is_sound) {
        return Err(Rejection::Malformed { what: "batch of refusals", rule: "of bounded words, names and counts" });
    }
    let noted = if serves_anybody(state) { refused } else { Vec::new() };
    let events = noted.into_iter().map(|one| context.event(one)).collect();
    Ok(Decision::fulfilled(events, Fulfilled::Done))
}

/// Whether there is anybody to be served or refused. Before that a stranger could, by asking for what nobody uses,
/// leave events that nodes of earlier versions cannot read.
fn serves_anybody(state: &State) -> bool {
    let takes_some = |agent: &Agent| !agent.spec.clients.described_at.is_empty();
    !state.clients.is_empty() || !state.identity_providers.is_empty() || state.agents.values().any(takes_some)
}

fn is_sound(refused: &RequestRefused) -> bool {
    let RequestRefused { refusal, count, first, last, node } = refused;
    let Refusal { endpoint: _, grant, client, claimed, user, provider, consent, error, why } = refusal;
    let names = [client, user, provider, consent, node];
    (grant.is_empty() || is_word(grant))
        && is_word(error)
        && names.into_iter().all(|name| is_text(name, NAME_BYTES_MAX))
        && is_text(why, WHY_BYTES_MAX)
        && !(why.is_empty() || node.is_empty() || *claimed && client.is_empty())
        && *count > 0
        && first <= last
}

/// As OAuth's words and grant types are: a few characters of ASCII.
#[must_use]
pub fn is_word(text: &str) -> bool {
    let is_char = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':' | b'.' | b'/');
    !text.is_empty() && text.len() <= WORD_BYTES_MAX && text.bytes().all(is_char)
}

/// Whether a text may stand in a refusal.
#[must_use]
pub fn is_text(text: &str, bytes_max: usize) -> bool {
    text.len() <= bytes_max && !text.contains(char::is_control)
}
