//! What a refusal says beside what every entry of the timeline says.
//!
//! Made by `timeline`. Where the consent is known that was to be used, its person, agent and virtual server are told
//! with it, so that they see who tried to use it.

use super::{Entry, Outcome, nothing};
use crate::{
    event::Event,
    refusal::{Endpoint, RequestRefused},
};

/// Most entries of refusals: an hour of a flood of many kinds, and months of what usually goes wrong.
pub const REFUSALS_MAX: usize = 10_000;
/// Most bytes of them: ordinary ones have half a KiB.
pub const REFUSAL_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Requests that were refused alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What was asked.
    pub endpoint: Endpoint,
    /// For which grant type; empty: none, or it was not read.
    pub grant: String,
    /// OAuth's word for it.
    pub error: String,
    /// The client did not prove that it is that one.
    pub claimed: bool,
    /// How many.
    pub count: u64,
    /// When the first of them was, microseconds since 1970; the entry's time is that of the last.
    pub first: u64,
}

impl Refused {
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + self.grant.len() + self.error.len()
    }
}

/// The entry; `consent` is what is known of the consent that was to be used.
pub(super) fn of_requests(refused: &RequestRefused, consent: Option<Entry>, event: &Event) -> Entry {
    let RequestRefused { refusal, count, first, last, node: _ } = refused.clone();
    let consent = consent.unwrap_or_else(nothing);
    let or = |known: String, other: String| if known.is_empty() { other } else { known };
    let told = Refused {
        endpoint: refusal.endpoint,
        grant: refusal.grant,
        error: refusal.error,
        claimed: refusal.claimed,
        count,
        first,
    };
    Entry {
        time: last,
        outcome: Outcome::Refused,
        user: or(refusal.user, consent.user),
        agent: consent.agent,
        client: refusal.client,
        virtual_server: consent.virtual_server,
        consent: refusal.consent,
        actor: event.actor.clone(),
        reason: refusal.why,
        provider: or(refusal.provider, consent.provider),
        refused: Some(Box::new(told)),
        ..nothing()
    }
}
