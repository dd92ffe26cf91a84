//! What was refused and is not on record yet: equal refusals counted together, within fixed bounds.
//!
//! Owned by `refusals`; time and ids are arguments. Invariants: no refusal is left uncounted; a batch that was handed
//! out stays as it is, under its id, until it is known to be on record, so that it counts once however often it is
//! sent.

use std::collections::BTreeMap;

use bailiwick_control_plane_core::refusal::{
    BATCH_MAX, NAME_BYTES_MAX, NoteRefusals, Refusal, RequestRefused, WHY_BYTES_MAX, is_text, is_word,
};

/// Most kinds that are told apart of those that are about somebody: some hundred KiB, and four writes.
pub(super) const KINDS_MAX: usize = 256;
/// Most kinds that are told apart of those that are about nobody: strangers can make as many as they like, and these
/// are not to take the others' places, nor to fill what is kept for ever.
pub(super) const STRANGERS_MAX: usize = 16;
/// What is said of all other kinds together.
pub(super) const OTHERS: &str = "more kinds of refusals than are told apart";

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct Held {
    kinds: BTreeMap<Refusal, Tally>,
    /// Handed out, and perhaps on record.
    sent: Option<NoteRefusals>,
}

#[derive(Clone, Copy, Debug)]
struct Tally {
    count: u64,
    first: u64,
    last: u64,
}

impl Held {
    /// Counts a refusal of `now` (microseconds since 1970).
    pub(super) fn note(&mut self, refusal: Refusal, now: u64) {
        let refusal = sound(refusal);
        let about = is_about_somebody(&refusal);
        let max = if about { KINDS_MAX } else { STRANGERS_MAX };
        let alike = || self.kinds.keys().filter(|kind| is_about_somebody(kind) == about).count();
        let has_room = self.kinds.contains_key(&refusal) || alike() < max;
        let kind = if has_room { refusal } else { others() };
        let tally = self.kinds.entry(kind).or_insert(Tally { count: 0, first: now, last: now });
        tally.count = tally.count.saturating_add(1);
        tally.last = tally.last.max(now);
    }

    /// What is to be on record next: what was handed out before if it may not be, otherwise the kinds that have waited
    /// longest, those about somebody first, under an id from `fresh`; without an id they wait.
    pub(super) fn batch(&mut self, node: &str, fresh: impl FnOnce() -> Option<String>) -> Option<NoteRefusals> {
        if self.sent.is_none() && !self.kinds.is_empty() {
            self.sent = Some(NoteRefusals { batch: fresh()?, refused: self.oldest(node) });
        }
        self.sent.clone()
    }

    /// What was handed out is on record, or never will be.
    pub(super) fn settled(&mut self) {
        self.sent = None;
    }

    fn oldest(&mut self, node: &str) -> Vec<RequestRefused> {
        let place = |(kind, tally): (&Refusal, &Tally)| (!is_about_somebody(kind), tally.first, kind.clone());
        let mut by_age: Vec<_> = self.kinds.iter().map(place).collect();
        by_age.sort();
        let taken = by_age.into_iter().take(BATCH_MAX).filter_map(|(.., kind)| self.kinds.remove_entry(&kind));
        let refused = taken.map(|(refusal, Tally { count, first, last })| RequestRefused {
            refusal,
            count,
            first,
            last,
            node: node.to_owned(),
        });
        refused.collect()
    }
}

/// Whether it concerns a consent, a person, or a client that proved to be that one.
const fn is_about_somebody(refusal: &Refusal) -> bool {
    let Refusal { client, claimed, user, consent, .. } = refusal;
    !consent.is_empty() || !user.is_empty() || (!client.is_empty() && !*claimed)
}

fn others() -> Refusal {
    Refusal { error: "other".to_owned(), why: OTHERS.to_owned(), ..Refusal::default() }
}

/// As the leader takes it: one that is not would keep others from being on record.
fn sound(refusal: Refusal) -> Refusal {
    let name = |text: String| if is_text(&text, NAME_BYTES_MAX) { text } else { String::new() };
    let word = |text: String| if is_word(&text) { text } else { "other".to_owned() };
    let Refusal { endpoint, grant, client, claimed, user, provider, consent, error, why } = refusal;
    let grant = if grant.is_empty() { grant } else { word(grant) };
    let (client, error, why) = (name(client), word(error), line(&why));
    let claimed = claimed && !client.is_empty();
    let (user, provider, consent) = (name(user), name(provider), name(consent));
    Refusal { endpoint, grant, client, claimed, user, provider, consent, error, why }
}

/// As much of a sentence as may stand there.
fn line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if line.len() + c.len_utf8() > WHY_BYTES_MAX {
            break;
        }
        line.push(c);
    }
    if line.is_empty() { "no reason is known".to_owned() } else { line }
}
