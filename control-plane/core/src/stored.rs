//! Reading stored events: what this version knows, and what it says of what it does not know.
//!
//! The server reads every event of the log through [`read`], at start and as changes are applied. Members that an
//! event itself gained in a later version are passed over, because events are made so that leaving them out is safe.
//! An unknown `type`, a `spec` with an unknown key or an unknown word for a known member is never passed over: a node
//! that went on without them would hold another state than its peers, perhaps without a restriction that somebody
//! wrote. It has to stop, and the error says what to do.
//! Absent: stopping (`control-plane/server`), and whether the bytes are the replicated ones (Merkle root, consensus).

use std::borrow::Cow;

use serde::Deserialize;

use crate::event::{Change, Event};

/// Longest type word quoted in an error; real ones are shorter.
const WORD_CHARS_SHOWN: usize = 64;

/// A stored event that this version cannot take in.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// A later version made it.
    #[error(
        "the event log holds a change of type `{word}`, which this version does not know: upgrade this node \
         (it stops rather than skip a change)"
    )]
    UnknownType {
        /// Its `type`, shortened.
        word: String,
    },
    /// Its type is known, what it holds is not.
    #[error(
        "the event log holds a change of type `{word}` that this version cannot read: upgrade this node if others \
         run a later version, otherwise its data is damaged and it must be rebuilt ({source})"
    )]
    UnknownContent {
        /// Its `type`.
        word: &'static str,
        /// What was not understood, and where.
        source: serde_json::Error,
    },
    /// No event at all.
    #[error("the event log holds bytes that are no event: this node's data is damaged and it must be rebuilt")]
    NoEvent(#[source] serde_json::Error),
}

/// Only what every event of every version has.
#[derive(Deserialize)]
struct Tagged {
    #[serde(rename = "type")]
    word: String,
}

/// What every event says of its circumstances, with its `type`.
#[derive(Deserialize)]
struct Circumstances<'a> {
    #[serde(rename = "type", borrow)]
    word: Cow<'a, str>,
    actor: String,
    request_id: String,
    #[serde(with = "crate::decimal")]
    time: u64,
}

/// Reads an event as stored.
///
/// # Errors
/// [`Unreadable`]; whoever reads a log must then stop, not skip.
pub fn read(bytes: &[u8]) -> Result<Event, Unreadable> {
    // A node reads millions at start. Twice over the bytes is several times faster than once with the tag unknown,
    // when everything is buffered until it is seen.
    let quick = serde_json::from_slice::<Circumstances<'_>>(bytes).ok().and_then(|known| {
        let change = Change::read(&known.word, bytes)?.ok()?;
        Some(Event { actor: known.actor, request_id: known.request_id, time: known.time, change })
    });
    match quick {
        Some(event) => Ok(event),
        None => serde_json::from_slice(bytes).map_err(|source| why(bytes, source)),
    }
}

fn why(bytes: &[u8], source: serde_json::Error) -> Unreadable {
    let tagged: Tagged = match serde_json::from_slice(bytes) {
        Ok(tagged) => tagged,
        Err(error) => return Unreadable::NoEvent(error),
    };
    match Change::TYPES.iter().find(|known| **known == tagged.word) {
        Some(word) => Unreadable::UnknownContent { word, source },
        None => Unreadable::UnknownType { word: tagged.word.chars().take(WORD_CHARS_SHOWN).collect() },
    }
}
