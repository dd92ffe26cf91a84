//! Revocations: authority is taken away from a person, an agent, a client, a session or one consent.
//!
//! A person or an agent is deactivated, which alone ends all they may do, and with that loses every consent: whoever is
//! activated again has to be allowed again. A client loses what everybody allowed it, and may ask again. A session
//! loses the consents its tokens were made for. Called by `command`; asked again for what was taken away before it
//! changes nothing and says since when that holds, so a revocation may be repeated as often as somebody is in doubt.
//! Invariants: the deactivation comes before everything else, in one change with the first consents; no change holds
//! more than [`REVOKED_AT_ONCE_MAX`] consents, and whoever asks goes on while there are more. Absent: how data planes
//! learn of it (`view`, the server's lane), and since when each holds to it (`receipt`).

use crate::{
    Kind, Rejection, ResourceRef, State,
    agent::AgentApplied,
    command::{Action, Answer, Context, Decision, ResourceChange},
    consent::{self, Consent},
    event::Event,
    handed_on::Ending,
    provisioning,
    resource::{AgentSpec, UserSpec},
    user::UserApplied,
};

pub mod sessions;

/// Most consents revoked in one change: with the longest reasons a few MiB, so that no change holds up the others.
pub const REVOKED_AT_ONCE_MAX: usize = 1_000;

/// Whose authority ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A person's, through all agents.
    User(String),
    /// All that a person has begun: nobody is deactivated, and they may begin anew.
    UserSessions(String),
    /// An agent's, for all people.
    Agent(String),
    /// What everybody allowed a client.
    Client(String),
    /// What the tokens of one sign-in (`sid`) are good for.
    Session(String),
    /// One consent, by its id.
    Consent(String),
}

impl Target {
    /// The target of that word on the wire and the command line.
    #[must_use]
    pub fn from_words(kind: &str, name: String) -> Option<Self> {
        match kind {
            "user" => Some(Self::User(name)),
            "user-sessions" => Some(Self::UserSessions(name)),
            "agent" => Some(Self::Agent(name)),
            "client" => Some(Self::Client(name)),
            "session" => Some(Self::Session(name)),
            "consent" => Some(Self::Consent(name)),
            _ => None,
        }
    }
}

/// A wish to take authority away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revoke {
    /// Whose.
    pub target: Target,
    /// Why; kept on every consent, and in the event of a deactivation.
    pub reason: String,
}

/// What a revocation came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Revoked {
    /// What this change took away.
    pub changes: Vec<ResourceChange>,
    /// More stands than one change may take away: ask again, as another request.
    pub more: bool,
    /// Nothing was left to take away; it has been so since this revision. Absent: it is so with this change.
    pub since: Option<u64>,
}

pub(crate) fn decide_revoke(state: &State, wish: &Revoke, context: &Context) -> Result<Decision, Rejection> {
    consent::check_reason(&wish.reason)?;
    check_known(state, &wish.target)?;
    if let Target::UserSessions(user) = &wish.target {
        return Ok(sessions::decide(state, user, &wish.reason, context));
    }
    let (mut events, mut changes) = (Vec::new(), Vec::new());
    if let Some((event, resource)) = deactivation(state, wish, context) {
        events.push(event);
        changes.push(change(resource, Action::Deactivated));
    }
    // With what came of them, which ends in the same change.
    let mut ending = Ending::default();
    let mut standing = standing(state, &wish.target, context).peekable();
    while let Some(id) = standing.next_if(|id| ending.take_in(state, id, REVOKED_AT_ONCE_MAX, context)) {
        events.push(consent::revocation(id, &wish.reason, context));
        changes.push(change(ResourceRef::new(Kind::Consent, id), Action::Revoked));
    }
    let more = standing.next().is_some();
    let since = events.is_empty().then(|| settled(state, &wish.target));
    let answer = Answer::Revoked(Revoked { changes, more, since });
    Ok(Decision { events, answer, ..Decision::default() })
}

/// The answer to a request that was carried out at `revision`. Whatever stands all the same, perhaps because the id was
/// used for something else, is to be taken away after all.
pub(crate) fn repeat(state: &State, wish: &Revoke, revision: u64, context: &Context) -> Answer {
    let stands = standing(state, &wish.target, context).next().is_some();
    let more = stands || deactivation(state, wish, context).is_some();
    let since = settled(state, &wish.target).max(revision);
    Answer::Revoked(Revoked { changes: Vec::new(), more, since: Some(since) })
}

fn check_known(state: &State, target: &Target) -> Result<(), Rejection> {
    let (is_known, resource) = match target {
        Target::User(name) | Target::UserSessions(name) => {
            (state.users.contains_key(name), ResourceRef::new(Kind::User, name))
        }
        Target::Agent(name) => (state.agents.contains_key(name), ResourceRef::new(Kind::Agent, name)),
        Target::Consent(id) => (state.consents.contains_key(id), ResourceRef::new(Kind::Consent, id)),
        // One that a document describes is known by its consents alone.
        Target::Client(name) => {
            let is_known = state.clients.contains_key(name) || consents(state, target).next().is_some();
            (is_known, ResourceRef::new(Kind::Client, name))
        }
        Target::Session(session) if consents(state, target).next().is_none() => {
            return Err(Rejection::SessionUnknown(session.clone()));
        }
        Target::Session(_) => return Ok(()),
    };
    if is_known { Ok(()) } else { Err(Rejection::NotFound(vec![resource])) }
}

/// The event that makes a person or an agent inactive, or keeps a person so; `None` for what is so already, and for what
/// has no activity.
fn deactivation(state: &State, wish: &Revoke, context: &Context) -> Option<(Event, ResourceRef)> {
    let reason = wish.reason.clone();
    match &wish.target {
        Target::User(name) => {
            let held = provisioning::may_be_held(state, name);
            let spec = state.users.get(name).map(|user| &user.spec).filter(|spec| spec.active || held)?;
            let spec = UserSpec { active: false, ..spec.clone() };
            let event = UserApplied { name: name.clone(), spec, reason, held };
            Some((context.event(event), ResourceRef::new(Kind::User, name)))
        }
        Target::Agent(name) => {
            let held = provisioning::agents::may_be_held(state, name);
            let spec = state.agents.get(name).map(|agent| &agent.spec).filter(|spec| spec.active || held)?;
            let spec = AgentSpec { active: false, ..spec.clone() };
            let event = AgentApplied { name: name.clone(), spec, reason, held, owner_left: false };
            Some((context.event(event), ResourceRef::new(Kind::Agent, name)))
        }
        Target::UserSessions(_) | Target::Client(_) | Target::Session(_) | Target::Consent(_) => None,
    }
}

type Consents<'a> = Box<dyn Iterator<Item = (&'a String, &'a Consent)> + 'a>;

/// All consents of a target, whether they count or not, in the order of their ids.
fn consents<'a>(state: &'a State, target: &'a Target) -> Consents<'a> {
    let all = state.consents.iter();
    match target {
        Target::User(name) | Target::UserSessions(name) => {
            Box::new(all.filter(move |(_, one)| one.granted.user == *name))
        }
        Target::Agent(name) => Box::new(all.filter(move |(_, one)| one.granted.agent == *name)),
        Target::Client(name) => Box::new(all.filter(move |(_, one)| one.granted.client == *name)),
        Target::Session(session) => {
            Box::new(all.filter(move |(_, one)| one.token.as_ref().is_some_and(|token| token.session == *session)))
        }
        Target::Consent(id) => Box::new(state.consents.get_key_value(id).into_iter()),
    }
}

/// Those that are to be revoked. One that was named itself is, even if it has expired here: clocks differ.
fn standing<'a>(state: &'a State, target: &'a Target, context: &Context) -> impl Iterator<Item = &'a String> + use<'a> {
    let now = context.now_seconds();
    let is_named = matches!(target, Target::Session(_) | Target::Consent(_));
    // What a client gave up is taken away from it all the same: it could have the next one at once.
    let stands = move |one: &Consent| one.may_be_revoked() && (is_named || now < one.granted.expires_at);
    consents(state, target).filter(move |(_, one)| stands(one)).map(|(id, _)| id)
}

/// The last revision at which something of this target was taken away.
fn settled(state: &State, target: &Target) -> u64 {
    let of_consents = consents(state, target).filter_map(|(_, one)| Some(one.revoked.as_ref()?.changed.revision)).max();
    let of_itself = match target {
        Target::User(name) => state.users.get(name).map(|user| user.changed.revision),
        Target::Agent(name) => state.agents.get(name).map(|agent| agent.changed.revision),
        Target::UserSessions(name) => sessions::last(state, name),
        Target::Client(_) | Target::Session(_) | Target::Consent(_) => None,
    };
    of_consents.max(of_itself).unwrap_or(state.revision)
}

fn change(resource: ResourceRef, action: Action) -> ResourceChange {
    ResourceChange { resource, action, before: None, after: None }
}
