//! Identity assertions: what a company's provider says of a person becomes a consent and a token, once.
//!
//! The server has looked at signature, audience and times before it asks (`UseAssertion`); here is what only one place
//! in the cluster can decide: that an assertion was not used before, on any node. Each use is kept until the assertion
//! has expired everywhere.
//!
//! A person's consent stands for some hours and serves all assertions alike, so that an exchange changes nothing for
//! data planes. What the provider grants no longer ends the consent, and with it the tokens it gave; a consent that was
//! revoked here does not come back with the next assertion.
//! Called by `command` and `state`. Absent: codes, refresh tokens (later parts).

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Rejection, ResourceRef,
    command::{Answer, Context, Decision, Exchanged},
    consent::{self, CONSENTS_MAX, Consent, ConsentGranted, TokenIssued},
    requests,
    state::State,
    table::{self, Table},
};

/// Uses remembered: some hundred megabytes, and a thousand exchanges a second of assertions that live five minutes.
pub const USES_MAX: usize = 500_000;
/// Uses forgotten with each new one.
const FORGOTTEN_AT_ONCE_MAX: usize = 16;
/// Leaders' clocks may differ by so much, in seconds: for so long after its end a use is remembered.
const CLOCK_MARGIN_SECONDS: u64 = 600;
/// Longest life of a token that an assertion gives, in seconds: then the provider is asked again.
pub const TOKEN_LIFETIME_SECONDS_MAX: u64 = 600;
/// How long a consent stands that assertions gave.
pub const CONSENT_SECONDS: u64 = 12 * 3_600;
/// Most words of others that one exchange uses: the assertion and the client's own.
const USES_AT_ONCE_MAX: usize = 2;
/// Why a consent ends when its provider grants less.
const NARROWED: &str = "the identity provider grants less now";

/// What is kept about assertions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assertions {
    /// Uses by key; the value is until when one is kept, Unix seconds.
    used: Table<String, u64>,
    /// The same by that time.
    #[serde(with = "table::as_set")]
    expiries: Table<(u64, String), ()>,
    /// The consent that serves a person, agent, client and virtual server at a provider.
    standing: Table<String, String>,
}

impl Assertions {
    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used.is_empty() && self.standing.is_empty()
    }
}

/// A wish for a token, on the word of a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseAssertion {
    /// The provider's name here.
    pub provider: String,
    /// What may be used only once: the assertion, and the client's own if it signed one.
    pub uses: Vec<Use>,
    /// On whose behalf.
    pub user: String,
    /// The client, which proved who it is.
    pub client: String,
    /// Where.
    pub virtual_server: String,
    /// What the provider grants at most.
    pub granted: Tier,
    /// What the client asks for, of that.
    pub wanted: Tier,
}

/// Something that may be used only once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Use {
    /// SHA-256 over issuer, subject and `jti`, in hex.
    pub key: String,
    /// When it expires, Unix seconds.
    #[serde(with = "crate::decimal")]
    pub until: u64,
}

/// Payload of `assertion_used`: it was used, and this token was made for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionUsed {
    /// The provider.
    pub provider: String,
    /// What was used up.
    pub uses: Vec<Use>,
    /// On whose behalf.
    pub user: String,
    /// Who may act.
    pub agent: String,
    /// The client.
    pub client: String,
    /// Where.
    pub virtual_server: String,
    /// The consent that serves it.
    pub consent: String,
    /// The most harmful tier the token is good for.
    pub level: Tier,
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

pub(crate) fn decide_use(state: &State, wish: UseAssertion, context: &Context) -> Result<Decision, Rejection> {
    check_uses(state, &wish, context)?;
    let (agent, project, ceiling) = parties(state, &wish)?;
    let now = context.now_seconds();
    let granted = wish.granted.min(ceiling);
    let mut events = Vec::new();
    let standing = standing(state, &wish, &agent);
    if let Some((id, known)) = standing
        && known.revoked.is_some()
    {
        return Err(Rejection::ConsentHeld { consent: id.to_owned() });
    }
    let live = standing.filter(|(_, known)| known.is_live(now));
    let outlives = now.saturating_add(TOKEN_LIFETIME_SECONDS_MAX);
    let serves = live.filter(|(_, known)| known.granted.level == granted && known.granted.expires_at >= outlives);
    let consent = match serves {
        Some((_, known)) => known.granted.clone(),
        None => {
            if let Some((id, known)) = live
                && known.granted.level > granted
            {
                events.push(consent::revocation(id, NARROWED, context));
            }
            let consent = new_consent(state, &wish, agent, granted, context)?;
            events.push(context.event(consent.clone()));
            consent
        }
    };
    let session = serves.and_then(|(_, known)| known.token.as_ref()).map(|token| token.session.clone());
    let used = AssertionUsed {
        provider: wish.provider,
        uses: wish.uses,
        user: wish.user,
        agent: consent.agent.clone(),
        client: wish.client,
        virtual_server: wish.virtual_server,
        consent: consent.consent.clone(),
        level: wish.wanted.min(granted),
        jti: context.ids.token.clone(),
        session: session.unwrap_or_else(|| context.ids.session.clone()),
        project,
        issued_at: now,
        expires_at: outlives.min(consent.expires_at),
    };
    let answer = Answer::Exchanged(Exchanged { grant: consent::to_grant(&consent, &token(&used)), level: used.level });
    events.push(context.event(used));
    Ok(Decision { events, answer, ..Decision::default() })
}

/// Nothing of it was used before, and there is room to remember.
fn check_uses(state: &State, wish: &UseAssertion, context: &Context) -> Result<(), Rejection> {
    let is_key = |key: &str| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_sound = (1..=USES_AT_ONCE_MAX).contains(&wish.uses.len()) && wish.uses.iter().all(|one| is_key(&one.key));
    if !is_sound
        || ![&context.ids.consent, &context.ids.session, &context.ids.token].iter().all(|id| requests::is_id(id))
    {
        return Err(Rejection::Malformed { what: "use of an assertion", rule: "keys of 64 hexadecimal digits" });
    }
    if wish.uses.iter().any(|one| state.assertions.used.contains_key(&one.key)) {
        return Err(Rejection::AssertionUsed);
    }
    let forgettable = forgettable(state, context.now_seconds()).len();
    if state.assertions.used.len() + wish.uses.len() > USES_MAX + forgettable {
        return Err(Rejection::TooMany { what: "used assertions", max: USES_MAX });
    }
    Ok(())
}

/// That everybody who takes part may: the agent's name, its project, and the most harmful tier it may get here.
fn parties(state: &State, wish: &UseAssertion) -> Result<(String, String, Tier), Rejection> {
    let unknown = |kind, name: &str| Rejection::NotFound(vec![ResourceRef::new(kind, name)]);
    let inactive = |kind, name: &str| Rejection::Inactive(ResourceRef::new(kind, name));
    let provider = state.identity_providers.get(&wish.provider);
    let provider = &provider.ok_or_else(|| unknown(Kind::IdentityProvider, &wish.provider))?.spec;
    let vouches = provider.assertions.as_ref().is_some_and(|spec| spec.virtual_servers.contains(&wish.virtual_server));
    if !provider.active || !vouches {
        return Err(inactive(Kind::IdentityProvider, &wish.provider));
    }
    let client = &state.clients.get(&wish.client).ok_or_else(|| unknown(Kind::Client, &wish.client))?.spec;
    let agent = &state.agents.get(&client.agent).ok_or_else(|| unknown(Kind::Agent, &client.agent))?.spec;
    let is_active = |name: &str| state.users.get(name).map(|user| user.spec.active);
    if !state.virtual_servers.contains_key(&wish.virtual_server) {
        return Err(unknown(Kind::VirtualServer, &wish.virtual_server));
    }
    let parties = [
        (Kind::Client, wish.client.as_str(), client.active),
        (Kind::Agent, client.agent.as_str(), agent.active),
        (Kind::User, agent.owner.as_str(), is_active(&agent.owner).unwrap_or(false)),
        (Kind::User, wish.user.as_str(), is_active(&wish.user).ok_or_else(|| unknown(Kind::User, &wish.user))?),
    ];
    if let Some((kind, name, _)) = parties.into_iter().find(|(_, _, is_active)| !is_active) {
        return Err(inactive(kind, name));
    }
    let ceiling = client.ceiling.map_or(agent.ceiling, |ceiling| ceiling.min(agent.ceiling));
    Ok((client.agent.clone(), agent.project.clone(), ceiling))
}

fn new_consent(
    state: &State,
    wish: &UseAssertion,
    agent: String,
    level: Tier,
    context: &Context,
) -> Result<ConsentGranted, Rejection> {
    if state.consents.len() >= CONSENTS_MAX {
        return Err(Rejection::TooMany { what: "consents", max: CONSENTS_MAX });
    }
    Ok(ConsentGranted {
        consent: context.ids.consent.clone(),
        user: wish.user.clone(),
        agent,
        virtual_server: wish.virtual_server.clone(),
        level,
        expires_at: context.now_seconds().saturating_add(CONSENT_SECONDS),
        reason: format!("asserted by identity provider {}", wish.provider),
        client: wish.client.clone(),
        provider: wish.provider.clone(),
    })
}

fn standing<'a>(state: &'a State, wish: &UseAssertion, agent: &str) -> Option<(&'a str, &'a Consent)> {
    let key = place(&wish.provider, &wish.user, agent, &wish.client, &wish.virtual_server);
    let id = state.assertions.standing.get(&key)?;
    state.consents.get(id).map(|consent| (id.as_str(), consent))
}

/// None of the names has a line end.
fn place(provider: &str, user: &str, agent: &str, client: &str, virtual_server: &str) -> String {
    [provider, user, agent, client, virtual_server].join("\n")
}

/// A consent is forgotten: it serves nobody any more.
pub(crate) fn forget(state: &mut State, consent: &ConsentGranted) {
    let ConsentGranted { provider, user, agent, client, virtual_server, .. } = consent;
    let key = place(provider, user, agent, client, virtual_server);
    if state.assertions.standing.get(&key) == Some(&consent.consent) {
        state.assertions.standing.remove(&key);
    }
}

fn forgettable(state: &State, now_seconds: u64) -> Vec<(u64, String)> {
    let horizon = now_seconds.saturating_sub(CLOCK_MARGIN_SECONDS);
    let past = state.assertions.expiries.keys().take_while(|(until, _)| *until < horizon);
    past.take(FORGOTTEN_AT_ONCE_MAX).cloned().collect()
}

fn token(event: &AssertionUsed) -> TokenIssued {
    TokenIssued {
        consent: event.consent.clone(),
        jti: event.jti.clone(),
        session: event.session.clone(),
        project: event.project.clone(),
        issued_at: event.issued_at,
        expires_at: event.expires_at,
    }
}

pub(crate) fn evolve_used(state: &mut State, event: &AssertionUsed, now_seconds: u64) {
    for past in forgettable(state, now_seconds) {
        state.assertions.used.remove(&past.1);
        state.assertions.expiries.remove(&past);
    }
    for Use { key, until } in &event.uses {
        state.assertions.used.insert(key.clone(), *until);
        state.assertions.expiries.insert((*until, key.clone()), ());
    }
    let key = place(&event.provider, &event.user, &event.agent, &event.client, &event.virtual_server);
    state.assertions.standing.insert(key, event.consent.clone());
    consent::evolve_issued(state, &token(event));
}
