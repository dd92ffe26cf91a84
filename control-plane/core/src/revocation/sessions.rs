//! The end of a person's sessions: nobody is deactivated, but whatever was begun before is over.
//!
//! Sessions in browsers end by the revision at which this was decided; consents, and with them all tokens, if they were
//! granted before the moment it is about. Whoever signs in anew is allowed anew: unlike any other revocation this one
//! holds nobody back (`consent::Revoked`). What a provider asserted of the person before that moment counts no more.
//! Called by `revocation`, `signal`, and by whoever takes a provider's word. Absent: what ends with a consent
//! (`handed_on`), how data planes learn of it (`view`).

use serde::{Deserialize, Serialize};

use super::{REVOKED_AT_ONCE_MAX, Revoked, change};
use crate::{
    Kind, Rejection, ResourceRef, State,
    command::{Action, Answer, Context, Decision},
    consent::{self, Consent, ConsentRevoked},
    event::{Change, Event},
    handed_on::Ending,
    state::Changed,
    table::{self, Table},
};

/// How far the clock of whoever tells when something happened may be behind ours, in seconds: so much later consents
/// end too.
pub(crate) const SKEW_SECONDS: u64 = 60;
/// A provider's word that does not say when it was given may be so old, in seconds.
const WORD_SECONDS_MAX: u64 = 600;

/// Sessions of browsers and providers' words live shorter than this, in seconds: then an end is forgotten.
const KEPT_SECONDS: u64 = 24 * 3_600;
/// Ends forgotten with each new one.
const FORGOTTEN_AT_ONCE_MAX: usize = 16;

/// Whose sessions ended lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsEnds {
    by_user: Table<String, SessionsEnd>,
    /// (when it was decided in Unix seconds, user): what to forget first.
    #[serde(with = "table::as_set")]
    order: Table<(u64, String), ()>,
}

/// When a person's sessions were ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SessionsEnd {
    /// Sessions of browsers that were begun before this revision are over.
    revision: u64,
    /// When it was decided, Unix seconds.
    decided: u64,
    /// When what ended them happened, Unix seconds: a provider's word from before counts no more.
    at: u64,
}

impl consent::Revoked {
    /// Whether what was taken away is not given again by anybody's standing word.
    #[must_use]
    pub const fn holds_back(&self) -> bool {
        !self.by_client && !self.session_ended
    }
}

impl SessionsEnds {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_user.is_empty()
    }
}

/// Payload of `sessions_ended`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionsEnded {
    /// Whose.
    pub user: String,
    /// When what ends them happened, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub at: u64,
    /// Why.
    pub reason: String,
}

/// What of a person's is to end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before<'a> {
    pub(crate) user: &'a str,
    /// Consents that were granted up to then, Unix seconds.
    pub(crate) through: u64,
    /// And before this revision.
    pub(crate) revision: u64,
}

/// Ends the consents of one change: the events, and whether more of them stand.
pub(crate) fn end_consents(state: &State, before: Before<'_>, reason: &str, context: &Context) -> (Vec<Event>, bool) {
    let mut ending = Ending::default();
    let mut standing = standing(state, before, context.now_seconds()).peekable();
    let mut events = Vec::new();
    while let Some(id) = standing.next_if(|id| ending.take_in(state, id, REVOKED_AT_ONCE_MAX, context)) {
        let (consent, reason) = (id.to_owned(), reason.to_owned());
        events.push(context.event(ConsentRevoked { consent, reason, by_client: false, session_ended: true }));
    }
    (events, standing.next().is_some())
}

/// Ends all that a person has begun, as an administrator asks.
pub(super) fn decide(state: &State, user: &str, reason: &str, context: &Context) -> Decision {
    let now = context.now_seconds();
    let before = Before { user, through: u64::MAX, revision: u64::MAX };
    let (consents, more) = end_consents(state, before, reason, context);
    // Said each time: somebody may have signed in since the last time, within the same second.
    let mut events = vec![context.event(SessionsEnded { user: user.to_owned(), at: now, reason: reason.to_owned() })];
    let ended = change(ResourceRef::new(Kind::User, user), Action::SessionsEnded);
    let mut decision = Revoked { changes: vec![ended], more, since: None };
    for event in consents {
        if let Change::ConsentRevoked(ended) = &event.change {
            decision.changes.push(change(ResourceRef::new(Kind::Consent, &ended.consent), Action::Revoked));
        }
        events.push(event);
    }
    Decision { events, answer: Answer::Revoked(decision), ..Decision::default() }
}

/// The revision at which a person's sessions were last ended, if it is not forgotten.
pub(super) fn last(state: &State, user: &str) -> Option<u64> {
    state.sessions_ends.by_user.get(user).map(|ended| ended.revision)
}

/// Whether sessions of this person ended at this very second, or after it.
fn have_ended(state: &State, user: &str, at: u64) -> bool {
    state.sessions_ends.by_user.get(user).is_some_and(|ended| ended.at >= at)
}

/// Whether a session of a browser counts that began at this revision: the person is active, nothing was changed about
/// them since, and nobody has ended it.
#[must_use]
pub fn counts(state: &State, user: &str, since: u64) -> bool {
    let is_as_it_was = state.users.get(user).is_some_and(|user| user.spec.active && user.changed.revision <= since);
    is_as_it_was && last(state, user).is_none_or(|ended| ended <= since)
}

/// Those that stand, in the order of their ids.
pub(crate) fn standing<'a>(
    state: &'a State,
    before: Before<'a>,
    now_seconds: u64,
) -> impl Iterator<Item = &'a String> + use<'a> {
    let is_theirs = move |one: &Consent| one.granted.user == before.user;
    let is_before =
        move |one: &Consent| one.changed.revision < before.revision && one.changed.time / 1_000_000 <= before.through;
    let all = state.consents.iter().filter(move |(_, one)| is_theirs(one) && is_before(one));
    all.filter(move |(_, one)| one.is_live(now_seconds)).map(|(id, _)| id)
}

/// That what a provider said of a person at this time, Unix seconds, was said after their sessions ended.
pub(crate) fn check_word(state: &State, user: &str, said_at: Option<u64>, context: &Context) -> Result<(), Rejection> {
    let said_at = word_at(said_at, context);
    let refused = || Rejection::SessionsEnded(ResourceRef::new(Kind::User, user));
    if have_ended(state, user, said_at) { Err(refused()) } else { Ok(()) }
}

/// When a provider's word was given, Unix seconds: at the earliest, where it does not say.
pub(crate) fn word_at(said_at: Option<u64>, context: &Context) -> u64 {
    said_at.unwrap_or_else(|| context.now_seconds().saturating_sub(WORD_SECONDS_MAX))
}

/// That a browser's session that began at this revision still counts; unknown: whoever asks has looked.
pub(crate) fn check_browser(state: &State, user: &str, since: Option<u64>) -> Result<(), Rejection> {
    if since.is_none_or(|since| counts(state, user, since)) {
        return Ok(());
    }
    Err(Rejection::SessionsEnded(ResourceRef::new(Kind::User, user)))
}

pub(crate) fn evolve_ended(state: &mut State, event: &SessionsEnded, changed: Changed) {
    let decided = changed.time / 1_000_000;
    let horizon = decided.saturating_sub(KEPT_SECONDS);
    let past = state.sessions_ends.order.keys().take_while(|(decided, _)| *decided < horizon);
    for past in past.take(FORGOTTEN_AT_ONCE_MAX).cloned().collect::<Vec<_>>() {
        state.sessions_ends.by_user.remove(&past.1);
        state.sessions_ends.order.remove(&past);
    }
    let mut end = SessionsEnd { revision: changed.revision, decided, at: event.at };
    if let Some(before) = state.sessions_ends.by_user.get(&event.user).copied() {
        state.sessions_ends.order.remove(&(before.decided, event.user.clone()));
        end.at = end.at.max(before.at);
    }
    state.sessions_ends.order.insert((decided, event.user.clone()), ());
    state.sessions_ends.by_user.insert(event.user.clone(), end);
}
