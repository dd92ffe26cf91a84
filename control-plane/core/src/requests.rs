//! Requests carried out lately: what makes a retried write happen once.
//!
//! `command::decide` asks before anything else; `state::evolve` remembers. A request that changed nothing leaves no
//! event and is not remembered: carried out again it decides afresh. Bounded; the oldest are forgotten first.
//! Also here: what identifiers of a request may look like, as they end up in events and records.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::Context,
    event::{Change, Event},
};

/// How many requests are remembered: minutes of heavy administration, and far longer than any client retries.
pub const REQUESTS_REMEMBERED_MAX: usize = 10_000;
/// Longest request id or fresh identifier.
pub const ID_CHARS_MAX: usize = 128;
/// Longest name of an actor: an e-mail address with a prefix.
pub const ACTOR_BYTES_MAX: usize = 320;

/// The requests carried out lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    by_id: BTreeMap<String, Remembered>,
    oldest_first: VecDeque<String>,
}

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
        let oldest_first = &mut self.oldest_first;
        let remembered = self.by_id.entry(event.request_id.clone()).or_insert_with(|| {
            oldest_first.push_back(event.request_id.clone());
            Remembered { revision, consent: None }
        });
        if let Change::ConsentGranted(granted) = &event.change {
            remembered.consent = Some(granted.consent.clone());
        }
        while self.oldest_first.len() > REQUESTS_REMEMBERED_MAX {
            if let Some(oldest) = self.oldest_first.pop_front() {
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
