//! What a transmitter said of a person, as an entry.
//!
//! Made by `timeline`, of those who are known here alone: a stranger's name pushes nothing out. What ended with it are
//! entries of their own.

use super::{Entry, Outcome, nothing};
use crate::{event::Event, signal::SignalReceived};

pub(super) fn of_signal(received: &SignalReceived, event: &Event) -> Entry {
    let SignalReceived { user, provider, .. } = received.clone();
    let (outcome, actor) = (Outcome::Signalled, event.actor.clone());
    Entry { time: event.time, outcome, actor, user, provider, reason: received.sentence(), ..nothing() }
}
