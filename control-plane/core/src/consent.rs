//! Consents: what a person allowed an agent to do, where, up to which tier and until when; and the tokens for them.
//!
//! Consents come from people who are asked (`authorization`), from identity providers' assertions (`assertion`), and
//! from administrators issuing tokens, one consent each. Called by those, `command`, `apply` and `revocation`
//! (deciding), `state` (evolving), `view` and `show`. Invariants: a consent that still counts names a
//! user, an agent and a virtual server that exist (deleting one of them revokes it), and its level was within the
//! agent's ceiling. Consents that ended long ago are forgotten as new ones come; the ledger keeps them.
//! Absent: the token itself and its signature (`token`, server); asking people (server).

use std::collections::BTreeSet;

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Rejection, ResourceRef,
    agent::life,
    authorization::Code,
    binding::Bound,
    command::{Answer, Context, Decision, Grant, IssueToken},
    event::Event,
    handed_on,
    refresh::Generation,
    requests,
    revocation::REVOKED_AT_ONCE_MAX,
    standing,
    state::{Changed, State},
    wish::Fulfilled,
};

/// Longest life of an admin-issued token: a month, as it has no refresh; revocation covers the rest.
pub const TOKEN_LIFETIME_SECONDS_MAX: u64 = 30 * 24 * 3_600;
/// How long an ended consent is kept for people to look at.
pub const ENDED_CONSENT_KEPT_SECONDS: u64 = 7 * 24 * 3_600;
/// Most consents forgotten at one grant: keeps every event's work small, and outpaces the growth.
pub const FORGOTTEN_AT_ONCE_MAX: usize = 16;
/// Most consents kept: all are held in memory by every node.
pub const CONSENTS_MAX: usize = 200_000;
/// Most consents kept of one person that they gave themselves, or of one person and client that were given for them.
pub const KEPT_OF_ONE_MAX: usize = 1_000;
/// Longest reason.
pub const REASON_BYTES_MAX: usize = 1_024;

/// A consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consent {
    /// As granted.
    pub granted: ConsentGranted,
    /// Who granted it.
    pub granted_by: String,
    /// When it was granted.
    pub changed: Changed,
    /// How it ended before its time.
    pub revoked: Option<Revoked>,
    /// The last token made for it.
    pub token: Option<TokenIssued>,
    /// The code that its client got, where a person was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// The refresh token that its client has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<Generation>,
    /// What its tokens are bound to, if they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<Bound>,
}

/// How a consent ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Why.
    pub reason: String,
    /// When.
    pub changed: Changed,
    /// The client gave it up itself, which holds nobody back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_client: bool,
    /// It ended with its person's sessions, which holds nobody back either.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub session_ended: bool,
}

impl Consent {
    /// Whether a revocation changes something: what its client gave up does not hold that client back.
    #[must_use]
    pub fn may_be_revoked(&self) -> bool {
        self.revoked.as_ref().is_none_or(|revoked| !revoked.holds_back())
    }

    /// Whether it still counts.
    #[must_use]
    pub const fn is_live(&self, now_seconds: u64) -> bool {
        self.revoked.is_none() && now_seconds < self.granted.expires_at
    }
}

pub(crate) fn decide_issue(state: &State, wish: IssueToken, context: &Context) -> Result<Decision, Rejection> {
    if wish.ttl_seconds == 0 || wish.ttl_seconds > TOKEN_LIFETIME_SECONDS_MAX {
        let max = TOKEN_LIFETIME_SECONDS_MAX;
        return Err(Rejection::LifetimeOutOfBounds { seconds: wish.ttl_seconds, max });
    }
    check_reason(&wish.reason)?;
    if !requests::is_id(&wish.client) {
        return Err(Rejection::Malformed { what: "client", rule: "1 to 128 visible ASCII characters" });
    }
    let user = ResourceRef::new(Kind::User, &wish.user);
    let agent = ResourceRef::new(Kind::Agent, &wish.agent);
    let place = ResourceRef::new(Kind::VirtualServer, &wish.virtual_server);
    let (Some(known_user), Some(known_agent), true) = (
        state.users.get(&wish.user),
        state.agents.get(&wish.agent),
        state.virtual_servers.contains_key(&wish.virtual_server),
    ) else {
        let missing = [
            (state.users.contains_key(&wish.user), user),
            (state.agents.contains_key(&wish.agent), agent),
            (state.virtual_servers.contains_key(&wish.virtual_server), place),
        ];
        return Err(Rejection::NotFound(missing.into_iter().filter(|(is, _)| !is).map(|(_, named)| named).collect()));
    };
    if !known_user.spec.active {
        return Err(Rejection::Inactive(user));
    }
    if !known_agent.spec.acts() {
        return Err(Rejection::Inactive(agent));
    }
    life::check_review(&wish.agent, &known_agent.spec, context.now_seconds())?;
    let ceiling = known_agent.spec.ceiling;
    let level = wish.level.unwrap_or(ceiling);
    if level > ceiling {
        return Err(Rejection::LevelAboveCeiling { level, ceiling, agent: wish.agent });
    }
    let project = known_agent.spec.project.clone();
    grant(state, wish, level, project, context)
}

fn grant(
    state: &State,
    wish: IssueToken,
    level: Tier,
    project: String,
    context: &Context,
) -> Result<Decision, Rejection> {
    let ids = &context.ids;
    if ![&ids.consent, &ids.session, &ids.token].into_iter().all(|id| requests::is_id(id))
        || state.consents.contains_key(&ids.consent)
    {
        return Err(Rejection::Malformed { what: "fresh identifiers", rule: "visible ASCII that nobody used before" });
    }
    check_room(state, context)?;
    let issued_at = context.now_seconds();
    let granted = ConsentGranted {
        consent: ids.consent.clone(),
        user: wish.user,
        agent: wish.agent,
        virtual_server: wish.virtual_server,
        level,
        expires_at: issued_at.saturating_add(wish.ttl_seconds),
        reason: wish.reason,
        client: wish.client,
        provider: String::new(),
        tools: BTreeSet::new(),
        parent: None,
        earlier_agents: Vec::new(),
    };
    let issued = TokenIssued {
        consent: ids.consent.clone(),
        jti: ids.token.clone(),
        session: ids.session.clone(),
        project,
        issued_at,
        expires_at: granted.expires_at,
    };
    let answer = Answer::Granted(to_grant(&granted, &issued));
    let events = vec![context.event(granted), context.event(issued)];
    Ok(Decision { events, answer, ..Decision::default() })
}

/// That there is room for one more, with what the next one forgets.
pub(crate) fn check_room(state: &State, context: &Context) -> Result<(), Rejection> {
    if state.consents.len() >= CONSENTS_MAX + forgettable(state, context.now_seconds()).len() {
        return Err(Rejection::TooMany { what: "consents", max: CONSENTS_MAX });
    }
    Ok(())
}

/// That one person, or one of their clients, does not take everybody's room. What has ended counts while it is kept.
pub(crate) fn check_share(
    state: &State,
    context: &Context,
    is_theirs: impl Fn(&ConsentGranted) -> bool,
) -> Result<(), Rejection> {
    let horizon = context.now_seconds().saturating_sub(ENDED_CONSENT_KEPT_SECONDS);
    let kept = state.consents.values().map(|one| &one.granted).filter(|one| one.expires_at >= horizon);
    if kept.filter(|one| is_theirs(one)).take(KEPT_OF_ONE_MAX).count() >= KEPT_OF_ONE_MAX {
        return Err(Rejection::TooMany { what: "consents of one person", max: KEPT_OF_ONE_MAX });
    }
    Ok(())
}

/// Revokes what still counts and names this resource, which is about to go: one of the same name that comes later
/// must not inherit it.
pub(crate) fn revoke_all_of(state: &State, resource: &ResourceRef, context: &Context) -> Vec<Event> {
    let names_it = |granted: &ConsentGranted| match resource.kind {
        Kind::User => granted.user == resource.name,
        Kind::Agent => granted.agent == resource.name,
        Kind::VirtualServer => granted.virtual_server == resource.name,
        Kind::Client => granted.client == resource.name,
        Kind::IdentityProvider => granted.provider == resource.name,
        Kind::Server
        | Kind::Group
        | Kind::Project
        | Kind::Policy
        | Kind::DecisionClient
        | Kind::Consent
        | Kind::Node => false,
    };
    let live = state.consents.iter().filter(|(_, consent)| consent.is_live(context.now_seconds()));
    live.filter(|(_, consent)| names_it(&consent.granted))
        .map(|(id, _)| revocation(id, &format!("{resource} was deleted"), context))
        .collect()
}

pub(crate) fn revocation(id: &str, reason: &str, context: &Context) -> Event {
    let (consent, reason) = (id.to_owned(), reason.to_owned());
    context.event(ConsentRevoked { consent, reason, by_client: false, session_ended: false })
}

/// That of somebody who leaves: should they come back, nothing is held against a new one.
pub(crate) fn ended_with_person(id: &str, reason: &str, context: &Context) -> Event {
    let (consent, reason) = (id.to_owned(), reason.to_owned());
    context.event(ConsentRevoked { consent, reason, by_client: false, session_ended: true })
}

/// A client gives up what a token of its was good for (RFC 7009).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GiveUp {
    /// The client, which proved who it is, if it can.
    pub client: String,
    /// The consent.
    pub consent: String,
}

/// A person takes back what they allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeBack {
    /// Who.
    pub user: String,
    /// The consents.
    pub consents: BTreeSet<String>,
    /// Why, if they say so.
    pub reason: String,
}

pub(crate) fn decide_give_up(state: &State, wish: &GiveUp, context: &Context) -> Result<Decision, Rejection> {
    let known = state.consents.get(&wish.consent);
    let is_its_own = known.is_some_and(|known| known.granted.client == wish.client && known.revoked.is_none());
    let reason = "the client gave it up".to_owned();
    let consent = wish.consent.clone();
    let revoked = || context.event(ConsentRevoked { consent, reason, by_client: true, session_ended: false });
    let events: Vec<_> = is_its_own.then(revoked).into_iter().collect();
    let ended = Fulfilled::Ended(events.len());
    Ok(Decision::fulfilled(events, ended))
}

pub(crate) fn decide_take_back(state: &State, wish: &TakeBack, context: &Context) -> Result<Decision, Rejection> {
    check_reason(&wish.reason)?;
    if wish.consents.len() > REVOKED_AT_ONCE_MAX {
        return Err(Rejection::TooMany { what: "consents taken back at once", max: REVOKED_AT_ONCE_MAX });
    }
    let is_theirs = |id: &&String| {
        let known = state.consents.get(*id);
        known.is_some_and(|known| known.granted.user == wish.user && known.may_be_revoked())
    };
    let mut ending = handed_on::Ending::default();
    let own = wish.consents.iter().filter(is_theirs);
    let own = own.filter(|id| ending.take_in(state, id, REVOKED_AT_ONCE_MAX, context));
    let events: Vec<_> = own.map(|id| revocation(id, &wish.reason, context)).collect();
    let ended = Fulfilled::Ended(events.len());
    Ok(Decision::fulfilled(events, ended))
}

pub(crate) fn check_reason(reason: &str) -> Result<(), Rejection> {
    if reason.len() > REASON_BYTES_MAX || reason.contains(|c: char| c.is_control() && c != '\n') {
        return Err(Rejection::Malformed { what: "reason", rule: "at most 1024 bytes without control characters" });
    }
    Ok(())
}

/// What the token of a consent says, so that it can be signed again.
#[must_use]
pub fn grant_of(state: &State, consent: &str) -> Option<Grant> {
    let consent = state.consents.get(consent)?;
    consent.token.as_ref().map(|token| to_grant(&consent.granted, token))
}

pub(crate) fn to_grant(granted: &ConsentGranted, issued: &TokenIssued) -> Grant {
    Grant {
        consent: granted.consent.clone(),
        session: issued.session.clone(),
        jti: issued.jti.clone(),
        user: granted.user.clone(),
        agent: granted.agent.clone(),
        earlier_agents: granted.earlier_agents.clone(),
        project: issued.project.clone(),
        client: granted.client.clone(),
        virtual_server: granted.virtual_server.clone(),
        level: granted.level,
        issued_at: issued.issued_at,
        expires_at: issued.expires_at,
    }
}

/// The consents that will be forgotten when the next one is granted at this time, oldest first.
pub(crate) fn forgettable(state: &State, now_seconds: u64) -> Vec<(u64, String)> {
    let horizon = now_seconds.saturating_sub(ENDED_CONSENT_KEPT_SECONDS);
    state
        .consent_expiries
        .keys()
        .take_while(|(expires_at, _)| *expires_at < horizon)
        .take(FORGOTTEN_AT_ONCE_MAX)
        .cloned()
        .collect()
}

/// Payload of `consent_granted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentGranted {
    /// Its id.
    pub consent: String,
    /// On whose behalf.
    pub user: String,
    /// Who may act.
    pub agent: String,
    /// Where.
    pub virtual_server: String,
    /// The most harmful tier it covers.
    pub level: Tier,
    /// Unix seconds.
    #[serde(with = "crate::decimal")]
    pub expires_at: u64,
    /// Why.
    pub reason: String,
    /// The OAuth client.
    pub client: String,
    /// The identity provider on whose word it was granted; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub provider: String,
    /// Only these tools, each as `server/tool`; none: all up to the level, also later ones.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tools: BTreeSet<String>,
    /// The consent it came of, where another agent handed on what that one was for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The agents through which it came, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_agents: Vec<String>,
}

/// Payload of `consent_revoked`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentRevoked {
    /// Its id.
    pub consent: String,
    /// Why.
    pub reason: String,
    /// The client gave it up itself.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub by_client: bool,
    /// It ended with its person's sessions: whoever is allowed anew goes on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub session_ended: bool,
}

/// Payload of `token_issued`; the token itself is nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenIssued {
    /// For which consent.
    pub consent: String,
    /// The token's id.
    pub jti: String,
    /// `sid`.
    pub session: String,
    /// The agent's project at that time.
    pub project: String,
    /// Unix seconds.
    #[serde(with = "crate::decimal")]
    pub issued_at: u64,
    /// Unix seconds.
    #[serde(with = "crate::decimal")]
    pub expires_at: u64,
}

pub(crate) fn evolve_granted(state: &mut State, event: &ConsentGranted, actor: &str, changed: Changed) {
    for ended in forgettable(state, changed.time / 1_000_000) {
        if let Some(forgotten) = state.consents.get(&ended.1).map(|consent| consent.granted.clone()) {
            standing::forget(state, &forgotten);
            handed_on::forget(state, &forgotten);
        }
        state.consents.remove(&ended.1);
        state.consent_expiries.remove(&ended);
    }
    let id = event.consent.clone();
    if let Some(replaced) = state.consents.get(&id) {
        state.consent_expiries.remove(&(replaced.granted.expires_at, id.clone()));
    }
    state.consent_expiries.insert((event.expires_at, id.clone()), ());
    handed_on::evolve_granted(state, event);
    let (granted, granted_by) = (event.clone(), actor.to_owned());
    let consent =
        Consent { granted, granted_by, changed, revoked: None, token: None, code: None, refresh: None, bound: None };
    state.consents.insert(id, consent);
}

pub(crate) fn evolve_revoked(state: &mut State, event: &ConsentRevoked, changed: Changed) {
    if let Some(consent) = state.consents.get_mut(&event.consent) {
        let ConsentRevoked { reason, by_client, session_ended, .. } = event.clone();
        consent.revoked = Some(Revoked { reason, changed, by_client, session_ended });
    }
    handed_on::evolve_revoked(state, &event.consent);
}

pub(crate) fn evolve_issued(state: &mut State, event: &TokenIssued) {
    if let Some(consent) = state.consents.get_mut(&event.consent) {
        consent.token = Some(event.clone());
    }
}
