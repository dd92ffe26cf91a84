//! Leavers: what ends, and what passes on, when a person becomes inactive, whoever says so.
//!
//! Called by `command` after every decision: a revocation, a manifest, a directory, a signal. With the person all their
//! consents end, and each agent of theirs passes to the successor that its manifest names, if that is an active user;
//! any other agent stays with them, and so does not act; under a name that was left for good it is paused. Who is
//! renamed takes their agents along. Invariants: it happens in the change that deactivates the person, and what happens
//! later in that change takes none of it back; who is activated, or gets a name that another left, begins without
//! consents and agents of before, but with those that the same change gives them; no change ends more than
//! [`REVOKED_AT_ONCE_MAX`] consents nor moves more than [`AGENTS_AT_ONCE_MAX`] agents, and whoever asked goes on while
//! [`unfinished`] names somebody. Absent: sessions of browsers, which do not count for inactive users anyway.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Answer, Kind, Rejection, ResourceRef, State,
    agent::{Agent, AgentApplied},
    command::{Action, Context, Decision, ResourceChange},
    consent,
    event::{Change, Event},
    evolve,
    handed_on::Ending,
    manifest::Manifest,
    provisioning,
    resource::{AgentSpec, AgentState, Spec},
    revocation::{REVOKED_AT_ONCE_MAX, Revoked},
};

/// Most agents that one change passes on or pauses.
pub const AGENTS_AT_ONCE_MAX: usize = 1_000;

/// A name that loses what it had.
#[derive(Debug, Default)]
struct Leaver {
    /// Why.
    reason: String,
    /// Its person has left it for good: whoever has it after them is somebody else.
    is_departed: bool,
    /// The id of that person, if they go on by another name.
    renamed: Option<String>,
}

type Leavers = BTreeMap<String, Leaver>;

/// Adds to a decision what follows from it for those who leave by it, and for those who begin anew.
///
/// # Errors
/// Somebody would begin with what one change cannot end.
pub(crate) fn see_off(state: &State, decision: &mut Decision, context: &Context) -> Result<(), Rejection> {
    let mut leavers = leavers(state, &decision.events);
    if leavers.is_empty() {
        return Ok(());
    }
    let mut next = state.clone();
    decision.events.iter().for_each(|event| evolve(&mut next, event, state.revision.saturating_add(1)));
    for (name, leaver) in &mut leavers {
        // Who is back by the name they had is nobody else.
        let back =
            leaver.renamed.as_ref().and_then(|id| next.provisioned.person(id)).is_some_and(|(now, _)| now == name);
        leaver.is_departed &= !back;
    }
    let (beginning, leaving): (Leavers, Leavers) =
        leavers.into_iter().partition(|(name, one)| begins(&next, name, one));
    // What has ended by itself already counts: a signal ends consents too.
    let ended = decision.events.iter().filter(|event| matches!(event.change, Change::ConsentRevoked(_))).count();
    let mut rest = Rest { consents: ended, ..Rest::default() };
    rest.take_agents(&next, &beginning, &given(state, &decision.events), context);
    if !beginning.is_empty() {
        rest.take_consents(state, &decision.events, &beginning, context);
    }
    if let (true, Some(name)) = (rest.more, beginning.keys().next()) {
        return Err(Rejection::StillEnding(ResourceRef::new(Kind::User, name)));
    }
    rest.take_agents(&next, &leaving, &BTreeMap::new(), context);
    // A revocation has ended consents itself, and says whether there are more.
    if !matches!(decision.answer, Answer::Revoked(_)) {
        rest.take_consents(state, &decision.events, &leaving, context);
    }
    let more = rest.events.iter().filter_map(as_change);
    match &mut decision.answer {
        Answer::Revoked(revoked) => revoked.changes.extend(more),
        Answer::Changes(changes) => {
            let more: Vec<_> = more.filter(|one| !changes.iter().any(|known| known.resource == one.resource)).collect();
            changes.extend(more);
        }
        Answer::Done
        | Answer::Rollout(_)
        | Answer::Granted(_)
        | Answer::Fulfilled(_)
        | Answer::JoinToken { .. }
        | Answer::Member { .. } => {}
    }
    decision.events.extend(rest.events);
    Ok(())
}

/// Goes on with somebody who left with more than one change can hold; nothing happens to who is active.
pub(crate) fn decide_rest(state: &State, user: &str, context: &Context) -> Decision {
    let leavers = still_leaving(state, &BTreeSet::from([user.to_owned()]));
    let mut rest = Rest::default();
    rest.take_agents(state, &leavers, &BTreeMap::new(), context);
    rest.take_consents(state, &[], &leavers, context);
    let changes = rest.events.iter().filter_map(as_change).collect();
    let answer = Answer::Revoked(Revoked { changes, more: rest.more, since: None });
    Decision { events: rest.events, answer, ..Decision::default() }
}

/// Users of these who are inactive with consents that stand or agents that pass on: more than one change may hold.
#[must_use]
pub fn unfinished(state: &State, users: &BTreeSet<String>, now_seconds: u64) -> BTreeSet<String> {
    let leavers = still_leaving(state, users);
    if leavers.is_empty() {
        return BTreeSet::new();
    }
    let standing = state.consents.values().filter(|one| one.is_live(now_seconds));
    let of_consents = standing.map(|one| &one.granted.user).filter(|user| leavers.contains_key(*user));
    let headless = provisioning::agents::all_without_owner(state);
    let passing =
        state.agents.iter().filter(|(name, agent)| moved(state, (name, agent), &leavers, &headless).is_some());
    of_consents.chain(passing.map(|(_, agent)| &agent.spec.owner)).cloned().collect()
}

/// Everybody of whom [`unfinished`] holds.
#[must_use]
pub fn all_unfinished(state: &State, now_seconds: u64) -> BTreeSet<String> {
    let inactive = state.users.iter().filter(|(_, user)| !user.spec.active).map(|(name, _)| name.clone());
    unfinished(state, &inactive.collect(), now_seconds)
}

/// Whether somebody may leave by an event, or an agent of a directory's be retired.
#[must_use]
pub const fn may_leave(event: &Event) -> bool {
    if let Change::UserApplied(change) = &event.change {
        !change.spec.active
    } else if let Change::PersonProvisioned(change) = &event.change {
        !change.active
    } else {
        matches!(
            event.change,
            Change::PersonDeprovisioned(_) | Change::PersonRenamed(_) | Change::AgentDeprovisioned(_)
        )
    }
}

fn is_active(state: &State, name: &str) -> bool {
    state.users.get(name).is_some_and(|user| user.spec.active)
}

/// Those of these who are inactive.
fn still_leaving(state: &State, users: &BTreeSet<String>) -> Leavers {
    let gone = users.iter().filter(|name| state.users.contains_key(*name) && !is_active(state, name));
    let leaver = |name: &String| {
        let departed = state.provisioned.departed.get(name);
        let renamed = departed.and_then(|departed| departed.renamed.clone());
        Leaver { reason: "the person is not active any more".to_owned(), is_departed: departed.is_some(), renamed }
    };
    gone.map(|name| (name.clone(), leaver(name))).collect()
}

/// Names that lose what they had by these events: also if somebody has them again, or is active again, after them.
fn leavers(state: &State, events: &[Event]) -> Leavers {
    let mut leavers = Leavers::new();
    for event in events {
        if let Change::UserApplied(change) = &event.change {
            note_activity(state, &mut leavers, &change.name, change.spec.active, &change.reason);
        } else if let Change::PersonProvisioned(change) = &event.change {
            note_taken(state, &mut leavers, &change.name);
            note_activity(state, &mut leavers, &change.name, change.active, "their directory deactivated the person");
        } else if let Change::PersonDeprovisioned(change) = &event.change {
            note(&mut leavers, &change.name, departed("their directory deleted the person", None));
        } else if let Change::PersonRenamed(change) = &event.change {
            let id = state.provisioned.people.get(&change.from).map(|person| person.id.clone());
            note(&mut leavers, &change.from, departed("the person has another name now", id));
            note_taken(state, &mut leavers, &change.to);
        }
    }
    leavers
}

/// Agents, each with its owner, that these events make or pass to whoever has that name at their end. An agent of which
/// something else is said goes on to mean whoever had the name before.
fn given<'a>(state: &'a State, events: &'a [Event]) -> BTreeMap<&'a str, &'a str> {
    let (mut owners, mut given) = (BTreeMap::new(), BTreeMap::<&str, &str>::new());
    for event in events {
        if let Change::AgentProvisioned(change) = &event.change {
            let (name, owner) = (change.name.as_str(), change.owner.as_str());
            let known = owners.insert(name, owner).or_else(|| Some(state.agents.get(name)?.spec.owner.as_str()));
            if known != Some(owner) {
                given.insert(name, owner);
            }
        } else if let Change::PersonProvisioned(change) = &event.change {
            given.retain(|_, owner| *owner != change.name);
        } else if let Change::PersonDeprovisioned(change) = &event.change {
            given.retain(|_, owner| *owner != change.name);
        } else if let Change::PersonRenamed(change) = &event.change {
            given.retain(|_, owner| *owner != change.from && *owner != change.to);
        }
    }
    given
}

fn departed(reason: &str, renamed: Option<String>) -> Leaver {
    Leaver { reason: reason.to_owned(), is_departed: true, renamed }
}

/// What was said first stays, but that somebody left a name for good counts before all else.
fn note(leavers: &mut Leavers, name: &str, leaver: Leaver) {
    let known = leavers.get(name);
    if known.is_none_or(|known| leaver.is_departed && !known.is_departed) {
        leavers.insert(name.to_owned(), leaver);
    }
}

/// Somebody has a name that another had left.
fn note_taken(state: &State, leavers: &mut Leavers, name: &str) {
    if let Some(before) = state.provisioned.departed.get(name) {
        note(leavers, name, departed("somebody else has the name now", before.renamed.clone()));
    }
}

/// Whoever was active and is not loses what they had; whoever was not and is begins anew.
fn note_activity(state: &State, leavers: &mut Leavers, name: &str, active: bool, reason: &str) {
    if state.users.get(name).is_some_and(|user| user.spec.active != active) {
        let reason = if reason.is_empty() { "the person was deactivated or activated anew" } else { reason };
        let reason = if active { "it was allowed before the person was activated anew" } else { reason };
        note(leavers, name, Leaver { reason: reason.to_owned(), ..Leaver::default() });
    }
}

/// Whether somebody is to have the name from now on, who must find nothing of before.
fn begins(next: &State, name: &str, leaver: &Leaver) -> bool {
    is_active(next, name) || leaver.is_departed && next.provisioned.people.contains_key(name)
}

/// An agent as it goes on without its owner: with that person under their new name, with its successor, or paused where
/// somebody else may get the owner's name. `None`: it stays, and does not act while its owner is inactive.
fn moved(
    next: &State,
    (name, agent): (&str, &Agent),
    leavers: &Leavers,
    headless: &BTreeSet<&str>,
) -> Option<AgentSpec> {
    let spec = &agent.spec;
    let leaver = leavers.get(&spec.owner)?;
    let has_owner = !leaver.is_departed && is_active(next, &spec.owner);
    if has_owner || spec.state == AgentState::Retired {
        return None;
    }
    // Who comes to own it would give it tokens without being there: an administrator says who that is.
    let handed = if headless.contains(name) { None } else { handed(next, spec, leaver.renamed.as_deref()) };
    handed.or_else(|| {
        // Also one that its directory has paused, which might set it going for whoever has the name then.
        let stops = spec.state == AgentState::Active || provisioning::agents::may_be_held(next, name);
        let state = if stops { AgentState::Paused } else { spec.state };
        (leaver.is_departed && (stops || !agent.owner_left)).then(|| AgentSpec { state, ..spec.clone() })
    })
}

/// An agent with whoever answers for it after its owner: the same person by the name they have now, if they are active;
/// else its successor, if that is; else that person all the same.
fn handed(state: &State, spec: &AgentSpec, renamed: Option<&str>) -> Option<AgentSpec> {
    let now = renamed.and_then(|id| state.provisioned.person(id)).map(|(name, _)| name);
    let now = now.filter(|name| **name != spec.owner);
    let successor = spec.successor.as_ref().filter(|name| is_active(state, name));
    match (now, successor) {
        (Some(now), None) => Some((now, spec.successor.clone())),
        (Some(now), Some(_)) if is_active(state, now) => Some((now, spec.successor.clone())),
        (_, Some(successor)) => Some((successor, None)),
        (None, None) => None,
    }
    .map(|(owner, successor)| {
        let successor = successor.filter(|successor| successor != owner);
        AgentSpec { owner: owner.clone(), successor, ..spec.clone() }
    })
}

/// What ends and passes on in one change.
#[derive(Debug, Default)]
struct Rest {
    events: Vec<Event>,
    agents: usize,
    consents: usize,
    /// It is not all.
    more: bool,
}

impl Rest {
    /// But for those that are given to whoever is active by that name now.
    fn take_agents(&mut self, next: &State, leavers: &Leavers, given: &BTreeMap<&str, &str>, context: &Context) {
        if leavers.is_empty() {
            return;
        }
        let headless = provisioning::agents::all_without_owner(next);
        for (name, agent) in &next.agents {
            let owner = agent.spec.owner.as_str();
            if given.get(name.as_str()) == Some(&owner) && is_active(next, owner) {
                continue;
            }
            let Some(spec) = moved(next, (name, agent), leavers, &headless) else { continue };
            if self.agents >= AGENTS_AT_ONCE_MAX {
                self.more = true;
                return;
            }
            self.agents += 1;
            let why = leavers.get(owner).map(|leaver| leaver.reason.as_str()).unwrap_or_default();
            let reason = format!("its owner {owner} has left: {why}");
            let reason = reason.chars().filter(|c| !c.is_control()).take(400).collect();
            let held = spec.owner == owner && provisioning::agents::may_be_held(next, name);
            let owner_left = spec.owner == owner && leavers.get(owner).is_some_and(|leaver| leaver.is_departed);
            self.events.push(context.event(AgentApplied { name: name.clone(), spec, reason, held, owner_left }));
        }
    }

    fn take_consents(&mut self, state: &State, events: &[Event], leavers: &Leavers, context: &Context) {
        if leavers.is_empty() {
            return;
        }
        let ended = |event: &Event| {
            let Change::ConsentRevoked(revoked) = &event.change else { return None };
            Some(revoked.consent.clone())
        };
        let before: BTreeSet<String> = events.iter().filter_map(ended).collect();
        let (now, mut ending) = (context.now_seconds(), Ending::default());
        for (id, one) in &state.consents {
            let Some(leaver) = leavers.get(&one.granted.user) else { continue };
            if !one.is_live(now) || before.contains(id) {
                continue;
            }
            let room = REVOKED_AT_ONCE_MAX.saturating_sub(self.consents);
            if !ending.take_in(state, id, room, context) {
                self.more = true;
                break;
            }
            self.events.push(consent::ended_with_person(id, &leaver.reason, context));
        }
        self.consents += ending.len();
    }
}

fn as_change(event: &Event) -> Option<ResourceChange> {
    let (resource, action) = if let Change::AgentApplied(applied) = &event.change {
        (ResourceRef::new(Kind::Agent, &applied.name), Action::Configured)
    } else if let Change::ConsentRevoked(revoked) = &event.change {
        (ResourceRef::new(Kind::Consent, &revoked.consent), Action::Revoked)
    } else {
        return None;
    };
    Some(ResourceChange { resource, action, before: None, after: None })
}

/// An agent as it is written, but for what its manifest does not say anew: if who should own it has left, whoever
/// answers for it after them owns it, unless it acts without them there; and it stays stopped as long as it is owned by
/// a name that somebody left.
pub(crate) fn resolved(state: &State, name: &str, spec: &AgentSpec) -> AgentSpec {
    let mut spec = spec.clone();
    let has_left = state.users.contains_key(&spec.owner) && !is_active(state, &spec.owner);
    if has_left && !provisioning::agents::acts_without_owner(state, name) {
        let departed = state.provisioned.departed.get(&spec.owner);
        let handed = handed(state, &spec, departed.and_then(|departed| departed.renamed.as_deref()));
        spec = handed.unwrap_or(spec);
    }
    let known = state.agents.get(name).filter(|known| known.owner_left && known.spec.owner == spec.owner);
    if let (Some(known), AgentState::Active) = (known, spec.state) {
        spec.state = known.spec.state;
    }
    spec
}

/// What whoever applied these is told of agents that stay stopped.
pub(crate) fn warnings<'a>(state: &'a State, manifests: &'a [Manifest]) -> impl Iterator<Item = String> + use<'a> {
    manifests.iter().filter_map(|manifest| {
        let Spec::Agent(written) = &manifest.spec else { return None };
        let Agent { spec, owner_left, .. } = state.agents.get(&manifest.name)?;
        let stays = *owner_left && written.state == AgentState::Active && spec.state != AgentState::Active;
        let (name, owner, now) = (&manifest.name, &spec.owner, spec.state.as_str());
        stays.then(|| {
            format!(
                "Agent {name} stays {now}: who owned it as {owner} has left; give it another owner, or let it act for \
                 whoever has the name now: bailiwick agent resume {name}"
            )
        })
    })
}
