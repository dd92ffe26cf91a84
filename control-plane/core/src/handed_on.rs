//! Consents that came of others: what one agent handed on to another (`exchange`) ends with what it came of.
//!
//! Called by `command` after every decision, whatever it was about, so that no way of ending a consent leaves behind
//! what came of it; by `revocation` and `consent`, which look how much that would be; by `exchange`, which bounds it.
//! Invariants: a consent and all that descends from it end in one change; none ends later than what it came of; what
//! was revoked of it alone is not had again by way of another. Absent: agents that are paused, which ends no consent:
//! data planes let nobody act for them meanwhile (`view`).

use std::collections::BTreeSet;

use crate::{
    Kind, ResourceRef, State,
    command::{Action, Answer, Context, Decision, ResourceChange},
    consent::{self, Consent, ConsentGranted},
    event::{Change, Event},
    exchange::ACT_DEPTH_MAX,
    wish::Fulfilled,
};

/// Most consents that may stand and descend from one: a revocation takes them all along in its change.
pub const DESCENDANTS_MAX: usize = 64;
/// Clocks of nodes may differ by so much, in seconds: until then it matters whether an expired one is revoked.
const CLOCK_MARGIN_SECONDS: u64 = 600;

/// What descends from a consent and stands: each after the one it came of, which is named first.
pub(crate) fn descendants<'a>(state: &'a State, id: &'a str, now_seconds: u64) -> Vec<(&'a str, &'a str)> {
    let (mut found, mut looked_at, mut next) = (Vec::new(), BTreeSet::from([id]), vec![id]);
    while let Some(parent) = next.pop() {
        for child in state.handed_on.get(parent).into_iter().flatten().map(String::as_str) {
            if looked_at.insert(child) {
                next.push(child);
                found.extend(stands(state, child, now_seconds).then_some((parent, child)));
            }
        }
    }
    found
}

fn stands(state: &State, id: &str, now_seconds: u64) -> bool {
    let ends = |granted: &ConsentGranted| granted.expires_at.saturating_add(CLOCK_MARGIN_SECONDS);
    state.consents.get(id).is_some_and(|one| one.revoked.is_none() && now_seconds < ends(&one.granted))
}

/// Ends what descends from the consents that a decision ends, and says so in its answer.
pub(crate) fn end_descendants(state: &State, decision: &mut Decision, context: &Context) {
    if state.handed_on.is_empty() {
        return;
    }
    let revoked = |event: &Event| {
        let Change::ConsentRevoked(revoked) = &event.change else { return None };
        Some(revoked.consent.clone())
    };
    let named: Vec<String> = decision.events.iter().filter_map(revoked).collect();
    let mut ended: BTreeSet<&str> = named.iter().map(String::as_str).collect();
    for id in &named {
        for (parent, child) in descendants(state, id, context.now_seconds()) {
            if ended.insert(child) {
                let reason = format!("it came of consent {parent}, which has ended");
                decision.events.push(consent::revocation(child, &reason, context));
                add_to(&mut decision.answer, child);
            }
        }
    }
}

fn add_to(answer: &mut Answer, id: &str) {
    let change = || ResourceChange {
        resource: ResourceRef::new(Kind::Consent, id),
        action: Action::Revoked,
        before: None,
        after: None,
    };
    match answer {
        Answer::Revoked(revoked) => revoked.changes.push(change()),
        Answer::Changes(changes) => changes.push(change()),
        Answer::Fulfilled(Fulfilled::Ended(count)) => *count += 1,
        Answer::Done
        | Answer::Rollout(_)
        | Answer::Granted(_)
        | Answer::Fulfilled(_)
        | Answer::JoinToken { .. }
        | Answer::Member { .. } => {}
    }
}

/// How many consents end with these, themselves among them.
#[derive(Debug, Default)]
pub(crate) struct Ending<'a>(BTreeSet<&'a str>);

impl<'a> Ending<'a> {
    /// How many they are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Takes one in with all that descends from it, if then there are no more than `max`; otherwise nothing.
    pub(crate) fn take_in(&mut self, state: &'a State, id: &'a str, max: usize, context: &Context) -> bool {
        let descendants = descendants(state, id, context.now_seconds()).into_iter().map(|(_, child)| child);
        let more: BTreeSet<&str> = [id].into_iter().chain(descendants).filter(|one| !self.0.contains(one)).collect();
        let fits = self.0.len() + more.len() <= max;
        if fits {
            self.0.extend(more);
        }
        fits
    }
}

/// What an agent takes over, whatever it comes of. None of the names has a line end.
fn taken_over(consent: &ConsentGranted) -> String {
    let ConsentGranted { user, agent, client, virtual_server, .. } = consent;
    [user, agent, client, virtual_server].map(String::as_str).join("\n")
}

/// The consent by whose end an agent is held back from taking over the same again. It does not matter what that came
/// of: what it came of is renewed, as tokens are. A person who allows anew, in `root`, lets it happen again.
pub(crate) fn holding_back<'a>(state: &'a State, wanted: &ConsentGranted, root: &Consent) -> Option<&'a str> {
    let held = state.taken_back.get(&taken_over(wanted))?;
    let revoked = state.consents.get(held)?.revoked.as_ref()?;
    let is_anew = root.code.is_some() && root.changed.revision > revoked.changed.revision;
    (!is_anew).then_some(held.as_str())
}

/// A consent was revoked. One that ended with what it came of holds nobody back, nor one that its client gave up.
pub(crate) fn evolve_revoked(state: &mut State, id: &str) {
    let Some(consent) = state.consents.get(id) else { return };
    let holds_nobody = consent.revoked.as_ref().is_none_or(|revoked| !revoked.holds_back());
    let granted = consent.granted.clone();
    let is_live = |parent: &String| state.consents.get(parent).is_some_and(|parent| parent.revoked.is_none());
    if holds_nobody || !granted.parent.as_ref().is_some_and(is_live) {
        return;
    }
    // It is remembered for as long as there is something to be taken over again.
    let parent = |one: &ConsentGranted| state.consents.get(one.parent.as_ref()?).map(|parent| parent.granted.clone());
    let line = std::iter::successors(Some(granted.clone()), parent).take(ACT_DEPTH_MAX);
    let until = line.map(|one| one.expires_at).max().unwrap_or(granted.expires_at);
    state.consent_expiries.remove(&(granted.expires_at, id.to_owned()));
    state.consent_expiries.insert((until, id.to_owned()), ());
    state.taken_back.insert(taken_over(&granted), id.to_owned());
}

pub(crate) fn evolve_granted(state: &mut State, event: &ConsentGranted) {
    let Some(parent) = &event.parent else { return };
    state.taken_back.remove(&taken_over(event));
    let mut children = state.handed_on.get(parent).cloned().unwrap_or_default();
    children.insert(event.consent.clone());
    state.handed_on.insert(parent.clone(), children);
}

/// A consent is forgotten: nothing leads to it, nor from it, any more.
pub(crate) fn forget(state: &mut State, consent: &ConsentGranted) {
    state.handed_on.remove(&consent.consent);
    let taken_over = taken_over(consent);
    if state.taken_back.get(&taken_over) == Some(&consent.consent) {
        state.taken_back.remove(&taken_over);
    }
    let Some(parent) = &consent.parent else { return };
    let mut children = state.handed_on.get(parent).cloned().unwrap_or_default();
    children.remove(&consent.consent);
    if children.is_empty() {
        state.handed_on.remove(parent);
    } else {
        state.handed_on.insert(parent.clone(), children);
    }
}
