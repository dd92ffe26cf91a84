//! Token exchange (RFC 8693): a client that holds an agent's token gets one of its own agent, to do part of the work.
//!
//! The server has verified the token that is handed on; here is decided that its consent still counts, that the
//! client's manifest lets it take over from that agent, and that everybody it goes through may act now. What is granted
//! is a consent of its own (`standing`), so it is seen, recorded and revoked like any other, and ends with what it came
//! of (`handed_on`). Invariant: nothing that is handed on reaches further, in tier, tools, place or time, than what it
//! came of, nor than the token that was shown. Called by `wish` and `state`. Absent: tokens of other issuers.

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Rejection, ResourceRef,
    assertion::{self, Use},
    command::{Context, Decision, Exchanged},
    consent::{self, Consent, TokenIssued},
    handed_on::{DESCENDANTS_MAX, descendants, holding_back},
    parties,
    resource::ClientAuth,
    standing::{self, Handed, Served, Standing, TOKEN_LIFETIME_SECONDS_MAX},
    state::State,
    wish::Fulfilled,
};

/// Most agents that act one for the other: as many as a token names.
pub const ACT_DEPTH_MAX: usize = 4;

/// Why nothing is handed on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHandedOn {
    /// The token that is to be handed on is good for nothing any more.
    #[error("the subject token is not known, or what it was good for has ended")]
    TokenUnknown,
    /// The client's manifest does not say that it takes over from that agent.
    #[error("client {client} takes nothing over from Agent {agent}: its manifest names such agents under `exchange`")]
    NotTakenOver {
        /// The client.
        client: String,
        /// Whose token it holds.
        agent: String,
    },
    /// It was handed on too often.
    #[error("at most {ACT_DEPTH_MAX} agents act one for the other")]
    TooManyActors,
}

/// A wish of a client to act for the agent whose token it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExchangeToken {
    /// The client, which proved who it is.
    pub client: String,
    /// What it used up by that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<Use>,
    /// The token that it holds.
    pub subject: Subject,
    /// The most harmful tier it asks for; all that the token is good for where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Tier>,
}

/// What a token of ours says that has been verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Its consent.
    pub consent: String,
    /// Its person.
    pub user: String,
    /// Its agent.
    pub agent: String,
    /// The client it was given to.
    pub client: String,
    /// Where it is good.
    pub virtual_server: String,
    /// The most harmful tier it is good for.
    pub level: Tier,
    /// When it expires, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub expires_at: u64,
}

/// Payload of `token_exchanged`: an agent acts for another, and this token was made for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenExchanged {
    /// What the client used up to prove who it is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<Use>,
    /// On whose behalf.
    pub user: String,
    /// Who may act.
    pub agent: String,
    /// For whom: the agents that it came through, the latest first.
    pub earlier_agents: Vec<String>,
    /// The client.
    pub client: String,
    /// Where.
    pub virtual_server: String,
    /// The consent that serves it.
    pub consent: String,
    /// The consent it came of.
    pub parent: String,
    /// The most harmful tier the token is good for.
    pub level: Tier,
    /// The token's id.
    pub jti: String,
    /// `sid`: that of the token that was handed on.
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

pub(crate) fn decide_exchange(state: &State, wish: ExchangeToken, context: &Context) -> Result<Decision, Rejection> {
    let ExchangeToken { client, uses, subject, wanted } = wish;
    assertion::check_uses(state, &uses, context)?;
    let now = context.now_seconds();
    let parent =
        state.consents.get(&subject.consent).filter(|known| is_of(known, &subject) && now < subject.expires_at);
    let parent = parent.ok_or(NotHandedOn::TokenUnknown)?;
    let agent = taking_over(state, &client, &subject.agent)?;
    let chain = chain(state, parent, now)?;
    if chain.len() >= ACT_DEPTH_MAX {
        return Err(NotHandedOn::TooManyActors.into());
    }
    let terms = parties::terms(state, &subject.user, &client, &agent, &subject.virtual_server, context)?;
    let mut level = terms.ceiling.min(parent.granted.level);
    for earlier in &chain {
        level = level.min(parties::ceiling_left(state, &earlier.granted, context)?);
    }
    let session = parent.token.as_ref().map(|token| token.session.clone()).ok_or(NotHandedOn::TokenUnknown)?;
    let standing = Standing {
        provider: String::new(),
        user: subject.user,
        agent,
        client,
        virtual_server: subject.virtual_server,
        level,
        reason: format!("handed on by Agent {}, under consent {}", subject.agent, subject.consent),
        handed: Some(Handed {
            parent: subject.consent,
            earlier_agents: chain.iter().map(|one| one.granted.agent.clone()).collect(),
            tools: parent.granted.tools.clone(),
            ends_at: parent.granted.expires_at,
        }),
    };
    let until = now.saturating_add(TOKEN_LIFETIME_SECONDS_MAX).min(subject.expires_at).min(parent.granted.expires_at);
    let served = standing::serve(state, &standing, until, context)?;
    if served.is_new {
        check_new(state, &chain, &served, now)?;
    }
    let level = wanted.map_or(subject.level, |wanted| wanted.min(subject.level)).min(level);
    let Standing { user, agent, client, virtual_server, .. } = standing;
    let exchanged = TokenExchanged {
        uses,
        user,
        agent,
        earlier_agents: served.consent.earlier_agents.clone(),
        client,
        virtual_server,
        consent: served.consent.consent.clone(),
        parent: parent.granted.consent.clone(),
        level,
        jti: context.ids.token.clone(),
        session,
        project: terms.project,
        issued_at: now,
        expires_at: until.min(served.consent.expires_at),
    };
    let grant = consent::to_grant(&served.consent, &token(&exchanged));
    let mut events = served.events;
    events.push(context.event(exchanged));
    Ok(Decision::fulfilled(events, Fulfilled::Token(Exchanged { grant, level, refresh: None })))
}

/// Whether a token can be one of this consent.
fn is_of(consent: &Consent, subject: &Subject) -> bool {
    let granted = &consent.granted;
    granted.user == subject.user
        && granted.agent == subject.agent
        && granted.client == subject.client
        && granted.virtual_server == subject.virtual_server
}

/// The agent that a client acts as, if its manifest lets that one take over from another.
fn taking_over(state: &State, client: &str, from: &str) -> Result<String, Rejection> {
    let unknown = || Rejection::NotFound(vec![ResourceRef::new(Kind::Client, client)]);
    let spec = &state.clients.get(client).ok_or_else(unknown)?.spec;
    let may = spec.auth != ClientAuth::None
        && spec.exchange.as_ref().is_some_and(|exchange| exchange.agents.contains(from))
        && spec.agent.as_deref() != Some(from);
    let refused = || NotHandedOn::NotTakenOver { client: client.to_owned(), agent: from.to_owned() };
    Ok(spec.agent.clone().filter(|_| may).ok_or_else(refused)?)
}

/// The consents that one came of, itself first; all of them count.
fn chain<'a>(state: &'a State, consent: &'a Consent, now_seconds: u64) -> Result<Vec<&'a Consent>, Rejection> {
    let parent = |one: &&'a Consent| state.consents.get(one.granted.parent.as_ref()?);
    let chain: Vec<_> = std::iter::successors(Some(consent), parent).take(ACT_DEPTH_MAX).collect();
    let is_whole = chain.last().is_some_and(|root| root.granted.parent.is_none() || chain.len() == ACT_DEPTH_MAX);
    let counts = is_whole && chain.iter().all(|one| one.is_live(now_seconds));
    Ok(counts.then_some(chain).ok_or(NotHandedOn::TokenUnknown)?)
}

/// That nothing holds it back, and that there is room: what it replaces makes some.
fn check_new(state: &State, chain: &[&Consent], served: &Served, now_seconds: u64) -> Result<(), Rejection> {
    let Some(root) = chain.last() else { return Err(NotHandedOn::TokenUnknown.into()) };
    if let Some(held) = holding_back(state, &served.consent, root) {
        return Err(Rejection::ConsentHeld { consent: held.to_owned() });
    }
    let standing = descendants(state, &root.granted.consent, now_seconds).into_iter();
    let taken = standing.filter(|(_, child)| served.replaces.as_deref() != Some(*child)).count();
    if taken < DESCENDANTS_MAX {
        return Ok(());
    }
    Err(Rejection::TooMany { what: "consents that come of one", max: DESCENDANTS_MAX })
}

fn token(event: &TokenExchanged) -> TokenIssued {
    TokenIssued {
        consent: event.consent.clone(),
        jti: event.jti.clone(),
        session: event.session.clone(),
        project: event.project.clone(),
        issued_at: event.issued_at,
        expires_at: event.expires_at,
    }
}

pub(crate) fn evolve_exchanged(state: &mut State, event: &TokenExchanged, now_seconds: u64) {
    assertion::remember(state, &event.uses, now_seconds);
    let TokenExchanged { user, agent, client, virtual_server, parent, .. } = event;
    let place = standing::place("", user, agent, client, virtual_server, Some(parent));
    state.assertions.standing.insert(place, event.consent.clone());
    consent::evolve_issued(state, &token(event));
}
