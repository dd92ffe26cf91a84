//! Signals: what a transmitter says has happened to a person, taken once, and what follows from it.
//!
//! The server has looked at the signature before it asks (`TakeSignal`); here is decided what only one place can:
//! whether the signal was taken before, on any node, and what changes. One event says what came and what became of it
//! (`SignalReceived`); what changes follows in the same change. A signal that comes again, by push or poll, is accepted
//! and does nothing, but end what one change could not hold. Called by `wish` and `state`.
//!
//! Invariants: each `jti` of a transmitter that had an effect counts once, for as long as it may be as old as that, and
//! where memory is full nothing is taken but what ends something; older groups never undo newer ones, but that
//! those from just before a sign-in take away; what follows is what the manifest says now; nobody learns whether a person
//! is known here. Absent: signatures (server), what a signal's members mean (server), how sessions end
//! (`revocation::sessions`).

use std::collections::BTreeMap;

use bailiwick_proto::names;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Kind, Rejection, ResourceRef, State,
    assertion::Use,
    command::{Answer, Context, Decision},
    consent,
    event::Event,
    provisioning,
    resource::{SignalEffect, SignalKind, UserSpec},
    revocation::{
        self, Revoke, Target,
        sessions::{self, Before, SKEW_SECONDS, SessionsEnded},
    },
    show::time,
    sign_in::GROUPS_MAX,
    state::Changed,
    table::{self, Table},
    user::{self, User, UserApplied},
    wish::Fulfilled,
};

mod said;

pub use said::{Delivery, SignalOutcome, SignalReceived, TakeSignal, Taken, clip};

/// Most signals remembered: some fifty megabytes, and a person's every fortnight for the largest company.
pub const SEEN_MAX: usize = 200_000;
/// Most of one provider, so that none fills the memory of all.
pub const SEEN_OF_ONE_MAX: usize = 50_000;
/// Forgotten with each new one.
const FORGOTTEN_AT_ONCE_MAX: usize = 16;
/// Leaders' clocks may differ by so much, in seconds: for so long after its end a signal is remembered.
const CLOCK_MARGIN_SECONDS: u64 = 600;
/// Longest `jti`, as the server reads them.
const JTI_BYTES_MAX: usize = 1_024;
/// Longest reason of a transmitter's, and subject, that is kept.
pub const TEXT_BYTES_MAX: usize = 256;
/// Most names of claims that are kept.
pub const CLAIMS_MAX: usize = 16;

/// What is kept of signals.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signals {
    /// By key.
    seen: Table<String, Seen>,
    /// (until when it is kept in Unix seconds, key): what to forget first.
    #[serde(with = "table::as_set")]
    expiries: Table<(u64, String), ()>,
    /// How many of each provider's are in `seen`.
    held: BTreeMap<String, usize>,
    /// By user and provider: when the last groups were so that a signal said, Unix seconds.
    groups_at: Table<String, BTreeMap<String, u64>>,
    /// The same of those that a sign-in said.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    groups_at_sign_in: Table<String, BTreeMap<String, u64>>,
    /// The last one of each provider.
    pub last: BTreeMap<String, Last>,
}

/// A signal that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    until: u64,
    provider: String,
    /// What it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ends: Option<Ends>,
}

/// What a signal ends: consents that were granted before it was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Ends {
    user: String,
    /// Up to which time of their grant, Unix seconds.
    through: u64,
    /// And before which revision.
    revision: u64,
}

/// What is shown of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// When the last signal was taken.
    pub changed: Changed,
    /// Its event.
    pub event: SignalKind,
    /// When the transmitter last showed that the stream works, microseconds since 1970; 0: never.
    pub verified: u64,
    /// What the transmitter was asked with to show it, if it repeats that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub state: String,
}

impl Signals {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty() && self.last.is_empty() && self.groups_at.is_empty() && self.groups_at_sign_in.is_empty()
    }
}

pub(crate) fn decide_take(state: &State, wish: TakeSignal, context: &Context) -> Result<Decision, Rejection> {
    check(&wish)?;
    let provider = state.identity_providers.get(&wish.provider).map(|known| &known.spec).filter(|spec| spec.active);
    let signals = provider.and_then(|spec| Some((spec.signals.as_ref()?.issuer(&spec.issuer), spec.signals.as_ref()?)));
    let inactive = || Rejection::Inactive(ResourceRef::new(Kind::IdentityProvider, &wish.provider));
    let (transmitter, signals) = signals.ok_or_else(inactive)?;
    if let Some(seen) = state.signals.seen.get(&wish.used.key) {
        return Ok(again(state, seen, &wish, context));
    }
    let Some(effect) = signals.effect_of(wish.event) else {
        return Ok(taken(Vec::new(), SignalOutcome::Ignored, false));
    };
    let known = wish.user.as_deref().and_then(|name| user_of(state, name));
    let (outcome, events, more) = match known {
        None if wish.event.is_of_stream() => (SignalOutcome::Recorded, Vec::new(), false),
        None => (SignalOutcome::SubjectUnknown, Vec::new(), false),
        Some((user, known)) => follow(state, &wish, effect, (user, known), context)?,
    };
    let received = SignalReceived {
        transmitter: transmitter.to_owned(),
        user: known.map(|(name, _)| name.to_owned()).unwrap_or_default(),
        provider: wish.provider,
        delivery: wish.delivery,
        used: wish.used,
        jti: wish.jti,
        event: wish.event,
        subject: wish.subject,
        happened_at: wish.happened_at,
        outcome,
        claims: wish.claims,
        reason: wish.reason,
        state: wish.state,
    };
    let events = [context.event(received)].into_iter().chain(events).collect();
    Ok(taken(events, outcome, more))
}

fn check(wish: &TakeSignal) -> Result<(), Rejection> {
    let is_name = |name: &String| names::is_person_name(name);
    let is_key = wish.used.key.len() == 64 && wish.used.key.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_text = |text: &str, max: usize| text.len() <= max && !text.contains(char::is_control);
    let groups_fit = wish.groups.iter().all(|groups| groups.len() <= GROUPS_MAX && groups.iter().all(is_name));
    let claims_fit = wish.claims.len() <= CLAIMS_MAX && wish.claims.iter().all(|name| is_text(name, TEXT_BYTES_MAX));
    let texts_fit = is_text(&wish.jti, JTI_BYTES_MAX)
        && is_text(&wish.subject, TEXT_BYTES_MAX)
        && is_text(&wish.reason, TEXT_BYTES_MAX)
        && is_text(&wish.state, TEXT_BYTES_MAX);
    let user_fits = wish.user.iter().all(is_name);
    if is_key && groups_fit && claims_fit && texts_fit && user_fits {
        return Ok(());
    }
    Err(Rejection::Malformed { what: "signal", rule: "of bounded texts without control characters" })
}

/// Whether one more of a provider's is remembered, when these are forgotten for it: beyond its share only for others.
fn has_place(state: &State, provider: &str, forgotten: &[(u64, String)]) -> bool {
    let Signals { seen, held, .. } = &state.signals;
    let own = held.get(provider).copied().unwrap_or_default();
    !forgotten.is_empty() || (own < SEEN_OF_ONE_MAX && seen.len() < SEEN_MAX)
}

/// The user of that name: transmitters differ in whether the case of an address counts, and an end that misses
/// somebody is worse than one too many.
fn user_of<'a>(state: &'a State, name: &str) -> Option<(&'a str, &'a User)> {
    let almost = || state.users.get_key_value(user::almost(state, name).next()?);
    let (name, user) = state.users.get_key_value(name).or_else(almost)?;
    Some((name.as_str(), user))
}

/// What a signal changes about a person.
fn follow(
    state: &State,
    wish: &TakeSignal,
    effect: SignalEffect,
    (name, known): (&str, &User),
    context: &Context,
) -> Result<(SignalOutcome, Vec<Event>, bool), Rejection> {
    let reason = reason_of(wish);
    let regrouped = match effect {
        SignalEffect::UpdateGroups => regroup(state, wish, (name, known), context),
        SignalEffect::Record | SignalEffect::EndSessions | SignalEffect::Deactivate => None,
    };
    let has_place = has_place(state, &wish.provider, &forgettable(state, context.now_seconds()));
    match effect {
        SignalEffect::Deactivate => {
            let revoke = Revoke { target: Target::User(name.to_owned()), reason };
            let Decision { events, answer, .. } = revocation::decide_revoke(state, &revoke, context)?;
            let more = matches!(answer, Answer::Revoked(revoked) if revoked.more);
            Ok((SignalOutcome::Deactivated, events, more))
        }
        // What has changed and cannot be read ends them too: whoever signs in anew brings it along.
        SignalEffect::EndSessions | SignalEffect::UpdateGroups if wish.is_worse => {
            let now = context.now_seconds();
            let (user, at) = (name.to_owned(), wish.happened_at.min(now));
            let ended = context.event(SessionsEnded { user, at, reason: reason.clone() });
            let before = Before { user: name, through: through(wish.happened_at, now), revision: u64::MAX };
            let (consents, more) = sessions::end_consents(state, before, &reason, context);
            // Ends may come twice, groups may not.
            let moved = regrouped.and_then(|(_, moved)| moved).filter(|_| has_place);
            Ok((SignalOutcome::SessionsEnded, moved.into_iter().chain([ended]).chain(consents).collect(), more))
        }
        SignalEffect::Record | SignalEffect::EndSessions | SignalEffect::UpdateGroups => match regrouped {
            Some((_, Some(_))) if !has_place => Err(Rejection::TooMany { what: "signals", max: SEEN_OF_ONE_MAX }),
            Some((outcome, moved)) => Ok((outcome, moved.into_iter().collect(), false)),
            None => Ok((SignalOutcome::Recorded, Vec::new(), false)),
        },
    }
}

/// What becomes of the groups that a signal lists, if it does. It only takes away where the name is but almost the one
/// that is said, and where a sign-in was so little later that it may have said groups from before.
fn regroup(
    state: &State,
    wish: &TakeSignal,
    (name, known): (&str, &User),
    context: &Context,
) -> Option<(SignalOutcome, Option<Event>)> {
    let mut groups = wish.groups.clone()?;
    let (by_signal, by_sign_in) = groups_dated(state, name, &wish.provider);
    if wish.happened_at < by_signal || wish.happened_at.saturating_add(SKEW_SECONDS) < by_sign_in {
        return Some((SignalOutcome::Outdated, None));
    }
    if wish.user.as_deref() != Some(name) || wish.happened_at < by_sign_in {
        groups.retain(|group| known.spec.groups.contains(group));
    }
    let groups = provisioning::groups_beside(state, name, groups);
    let spec = UserSpec { groups, ..known.spec.clone() };
    if spec == known.spec {
        return Some((SignalOutcome::GroupsUnchanged, None));
    }
    let applied = UserApplied { name: name.to_owned(), spec, reason: reason_of(wish), held: false };
    Some((SignalOutcome::GroupsChanged, Some(context.event(applied))))
}

/// When the groups were so that a provider said last of somebody, by a signal and at a sign-in: Unix seconds; 0: never.
pub(crate) fn groups_dated(state: &State, user: &str, provider: &str) -> (u64, u64) {
    let Signals { groups_at, groups_at_sign_in, .. } = &state.signals;
    let [by_signal, by_sign_in] = [groups_at, groups_at_sign_in]
        .map(|dated| dated.get(user).and_then(|said| said.get(provider)).copied().unwrap_or_default());
    (by_signal, by_sign_in)
}

/// Up to when a consent was granted that ends with what happened then.
const fn through(happened_at: u64, now_seconds: u64) -> u64 {
    let through = happened_at.saturating_add(SKEW_SECONDS);
    if through < now_seconds { through } else { now_seconds }
}

/// A signal that was taken before: what it ends and one change could not hold, ends now. Whatever came later stays.
fn again(state: &State, seen: &Seen, wish: &TakeSignal, context: &Context) -> Decision {
    let (events, more) = match &seen.ends {
        Some(Ends { user, through, revision }) => {
            let before = Before { user, through: *through, revision: *revision };
            sessions::end_consents(state, before, &reason_of(wish), context)
        }
        None => (Vec::new(), false),
    };
    taken(events, SignalOutcome::Repeated, more)
}

fn taken(events: Vec<Event>, outcome: SignalOutcome, more: bool) -> Decision {
    Decision::fulfilled(events, Fulfilled::Signal(Taken { outcome, more }))
}

/// Why consents end: bounded, as every part of it is.
fn reason_of(wish: &TakeSignal) -> String {
    let said = if wish.reason.is_empty() { String::new() } else { format!(": {}", wish.reason) };
    let jti = clip(&wish.jti, TEXT_BYTES_MAX);
    let reason = format!("signal {} of identity provider {}, {jti}{said}", wish.event.as_str(), wish.provider);
    clip(&reason, consent::REASON_BYTES_MAX)
}

fn forgettable(state: &State, now_seconds: u64) -> Vec<(u64, String)> {
    let horizon = now_seconds.saturating_sub(CLOCK_MARGIN_SECONDS);
    let past = state.signals.expiries.keys().take_while(|(until, _)| *until < horizon);
    past.take(FORGOTTEN_AT_ONCE_MAX).cloned().collect()
}

/// Remembers a signal, and forgets those that could not come again.
pub(crate) fn evolve_received(state: &mut State, event: &SignalReceived, changed: Changed) {
    let now = changed.time / 1_000_000;
    let forgotten = forgettable(state, now);
    let has_place = has_place(state, &event.provider, &forgotten);
    forgotten.iter().for_each(|past| forget_one(&mut state.signals, past));
    // What had no effect may come again.
    if has_place && event.outcome != SignalOutcome::SubjectUnknown && !event.event.is_of_stream() {
        remember(&mut state.signals, event, (now, changed.revision));
    }
    let says_groups = matches!(
        event.outcome,
        SignalOutcome::GroupsChanged | SignalOutcome::GroupsUnchanged | SignalOutcome::SessionsEnded
    );
    if says_groups && event.event == SignalKind::TokenClaimsChange {
        // A clock that is ahead does not hold later groups back.
        date(state, |signals| &mut signals.groups_at, (&event.user, &event.provider), event.happened_at.min(now));
    }
    let before = state.signals.last.get(&event.provider);
    let before = before.map_or_else(Default::default, |last| (last.verified, last.state.clone()));
    let is_verification = event.event == SignalKind::Verification;
    let (verified, said) = if is_verification { (changed.time, event.state.clone()) } else { before };
    let last = Last { changed, event: event.event, verified, state: said };
    state.signals.last.insert(event.provider.clone(), last);
}

fn forget_one(signals: &mut Signals, past: &(u64, String)) {
    signals.expiries.remove(past);
    let Some(provider) = signals.seen.get(&past.1).map(|seen| seen.provider.clone()) else { return };
    signals.seen.remove(&past.1);
    match signals.held.get_mut(&provider) {
        Some(held) if *held > 1 => *held -= 1,
        Some(_) | None => drop(signals.held.remove(&provider)),
    }
}

fn remember(signals: &mut Signals, event: &SignalReceived, (now, revision): (u64, u64)) {
    let Use { key, until } = event.used.clone();
    let user = event.user.clone();
    let ends = match event.outcome {
        SignalOutcome::SessionsEnded => Some(Ends { user, through: through(event.happened_at, now), revision }),
        SignalOutcome::Deactivated => Some(Ends { user, through: now, revision }),
        SignalOutcome::Recorded
        | SignalOutcome::SubjectUnknown
        | SignalOutcome::GroupsChanged
        | SignalOutcome::GroupsUnchanged
        | SignalOutcome::Outdated
        | SignalOutcome::Repeated
        | SignalOutcome::Ignored => None,
    };
    let provider = event.provider.clone();
    *signals.held.entry(provider.clone()).or_default() += 1;
    signals.expiries.insert((until, key.clone()), ());
    signals.seen.insert(key, Seen { until, provider, ends });
}

/// Notes from when the groups are that a provider said at a sign-in, Unix seconds.
pub(crate) fn date_groups_at_sign_in(state: &mut State, user: &str, provider: &str, at: u64) {
    date(state, |signals| &mut signals.groups_at_sign_in, (user, provider), at);
}

/// Moves on when a provider (second) said something of a user (first); what is kept of providers that are gone goes.
fn date(
    state: &mut State,
    kept: fn(&mut Signals) -> &mut Table<String, BTreeMap<String, u64>>,
    (user, provider): (&str, &str),
    at: u64,
) {
    let State { signals, identity_providers, users, .. } = state;
    if !users.contains_key(user) {
        return;
    }
    let dated = kept(signals);
    let mut said = dated.get(user).cloned().unwrap_or_default();
    said.retain(|provider, _| identity_providers.contains_key(provider));
    let last = said.entry(provider.to_owned()).or_default();
    *last = at.max(*last);
    dated.insert(user.to_owned(), said);
}

/// A user is gone.
pub(crate) fn forget_user(state: &mut State, name: &str) {
    state.signals.groups_at.remove(name);
    state.signals.groups_at_sign_in.remove(name);
}

/// What is shown of a provider's stream: its last signal, and when it last proved to work.
pub(crate) fn shown(state: &State, provider: &str) -> Value {
    let Some(Last { changed, event, verified, .. }) = state.signals.last.get(provider) else { return json!({}) };
    let mut shown = json!({"last_signal": event.as_str(), "last_signal_at": time(changed.time)});
    if let Some(members) = shown.as_object_mut().filter(|_| *verified > 0) {
        members.insert("verified_at".to_owned(), time(*verified).into());
    }
    shown
}

/// The provider is gone; what it said stays remembered.
pub(crate) fn forget(state: &mut State, provider: &str) {
    state.signals.last.remove(provider);
}
