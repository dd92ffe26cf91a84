//! Requests carried out lately: what makes a retried write happen once.
//!
//! `command::decide` asks before anything else; `state::evolve` remembers. A request that changed nothing leaves no
//! event and is not remembered: carried out again it decides afresh. Bounded; the oldest are forgotten first.
//! Also here: what identifiers of a request may look like, as they end up in events and records.

use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::Context,
    event::{Change, Event},
    table::{self, Table},
};

/// How many requests are remembered: minutes of heavy administration, and far longer than any client retries.
pub const REQUESTS_REMEMBERED_MAX: usize = 10_000;
/// Longest request id or fresh identifier.
pub const ID_CHARS_MAX: usize = 128;
/// Longest name of an actor: an e-mail address with a prefix.
pub const ACTOR_BYTES_MAX: usize = 320;

/// The requests carried out lately.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Requests {
    by_id: Table<String, Remembered>,
    /// Ids by a number that grows with each.
    #[serde(with = "table::as_list")]
    oldest_first: Table<u64, String>,
}

impl PartialEq for Requests {
    fn eq(&self, other: &Self) -> bool {
        self.by_id == other.by_id && self.oldest_first.values().eq(other.oldest_first.values())
    }
}

impl Eq for Requests {}

/// What is remembered of a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The revision its events got.
    pub revision: u64,
    /// The consent it granted.
    pub consent: Option<String>,
}

impl Requests {
    /// What came of a request with this id, if it is remembered.
    #[must_use]
    pub fn earlier(&self, request_id: &str) -> Option<&Remembered> {
        self.by_id.get(request_id)
    }

    pub(crate) fn remember(&mut self, event: &Event, revision: u64) {
        if event.request_id.is_empty() {
            return;
        }
        if !self.by_id.contains_key(&event.request_id) {
            self.by_id.insert(event.request_id.clone(), Remembered { revision, consent: None });
            let next = self.oldest_first.last_key().map_or(0, |last| last + 1);
            self.oldest_first.insert(next, event.request_id.clone());
        }
        if let (Change::ConsentGranted(granted), Some(remembered)) =
            (&event.change, self.by_id.get_mut(&event.request_id))
        {
            remembered.consent = Some(granted.consent.clone());
        }
        while self.oldest_first.len() > REQUESTS_REMEMBERED_MAX {
            if let Some((_, oldest)) = self.oldest_first.pop_first() {
                self.by_id.remove(&oldest);
            }
        }
    }
}

/// Refuses a context whose texts could not stand in an event.
pub(crate) fn check(context: &Context) -> Result<(), Rejection> {
    let visible = |text: &str| text.chars().all(|c| c.is_ascii_graphic());
    if context.request_id.len() > ID_CHARS_MAX || !visible(&context.request_id) {
        return Err(Rejection::Malformed { what: "request id", rule: "at most 128 visible ASCII characters" });
    }
    if context.actor.is_empty() || context.actor.len() > ACTOR_BYTES_MAX || context.actor.contains(char::is_control) {
        return Err(Rejection::Malformed { what: "actor", rule: "1 to 320 bytes without control characters" });
    }
    Ok(())
}

/// Whether a text can be an identifier: 1 to 128 visible ASCII characters.
pub(crate) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.len() <= ID_CHARS_MAX && text.chars().all(|c| c.is_ascii_graphic())
}
