//! Standing consents: one for a person, agent, client and virtual server, which serves all tokens alike that are given
//! on somebody's word: a provider's assertions, or an administrator's leave for a headless client.
//!
//! It stands for some hours, so that most exchanges change nothing for data planes. What is granted no longer ends the
//! consent, and with it the tokens it gave; a consent that was revoked here does not come back with the next word.
//! Called by `assertion` and `headless` (deciding) and `state`. Absent: whose word counts (theirs).

use std::collections::BTreeSet;

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    assertion::{self, Use},
    command::{Context, Decision, Exchanged},
    consent::{self, Consent, ConsentGranted, TokenIssued},
    requests,
    state::State,
    wish::Fulfilled,
};

/// Longest life of a token, in seconds: then whose word it rests on is asked again.
pub const TOKEN_LIFETIME_SECONDS_MAX: u64 = 600;
/// How long a consent stands.
pub const CONSENT_SECONDS: u64 = 12 * 3_600;
/// Why a consent ends when less is granted.
const NARROWED: &str = "less is granted now";

/// What somebody's word is good for.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    /// The provider whose word it is; empty: an administrator's.
    pub(crate) provider: String,
    pub(crate) user: String,
    pub(crate) agent: String,
    pub(crate) client: String,
    pub(crate) virtual_server: String,
    /// The most harmful tier.
    pub(crate) level: Tier,
    /// Why a consent is granted.
    pub(crate) reason: String,
}

/// Payload of `assertion_used`: a provider's or the client's own was used, and this token was made for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionUsed {
    /// The provider; empty: the client needs none.
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

/// The next token, up to `wanted`, and the consent it needs.
pub(crate) fn decide_token(
    state: &State,
    standing: Standing,
    wanted: Tier,
    project: String,
    uses: Vec<Use>,
    context: &Context,
) -> Result<Decision, Rejection> {
    assertion::check_uses(state, &uses, context)?;
    let now = context.now_seconds();
    let mut events = Vec::new();
    let known = serving(state, &standing);
    if let Some((id, known)) = known
        && known.revoked.as_ref().is_some_and(|revoked| !revoked.by_client)
    {
        return Err(Rejection::ConsentHeld { consent: id.to_owned() });
    }
    let live = known.filter(|(_, known)| known.is_live(now));
    let outlives = now.saturating_add(TOKEN_LIFETIME_SECONDS_MAX);
    let serves =
        live.filter(|(_, known)| known.granted.level == standing.level && known.granted.expires_at >= outlives);
    let consent = match serves {
        Some((_, known)) => known.granted.clone(),
        None => {
            if let Some((id, known)) = live
                && known.granted.level > standing.level
            {
                events.push(consent::revocation(id, NARROWED, context));
            }
            let consent = new_consent(state, &standing, context)?;
            events.push(context.event(consent.clone()));
            consent
        }
    };
    let session = serves.and_then(|(_, known)| known.token.as_ref()).map(|token| token.session.clone());
    let used = AssertionUsed {
        provider: standing.provider,
        uses,
        user: standing.user,
        agent: standing.agent,
        client: standing.client,
        virtual_server: standing.virtual_server,
        consent: consent.consent.clone(),
        level: wanted.min(standing.level),
        jti: context.ids.token.clone(),
        session: session.unwrap_or_else(|| context.ids.session.clone()),
        project,
        issued_at: now,
        expires_at: outlives.min(consent.expires_at),
    };
    let grant = consent::to_grant(&consent, &token(&used));
    let exchanged = Exchanged { grant, level: used.level, refresh: None };
    events.push(context.event(used));
    Ok(Decision::fulfilled(events, Fulfilled::Token(exchanged)))
}

fn new_consent(state: &State, standing: &Standing, context: &Context) -> Result<ConsentGranted, Rejection> {
    if !requests::is_id(&context.ids.consent) {
        return Err(Rejection::Malformed { what: "fresh identifiers", rule: "visible ASCII that nobody used before" });
    }
    consent::check_room(state, context)?;
    consent::check_share(state, context, |one| one.user == standing.user && one.client == standing.client)?;
    Ok(ConsentGranted {
        consent: context.ids.consent.clone(),
        user: standing.user.clone(),
        agent: standing.agent.clone(),
        virtual_server: standing.virtual_server.clone(),
        level: standing.level,
        expires_at: context.now_seconds().saturating_add(CONSENT_SECONDS),
        reason: standing.reason.clone(),
        client: standing.client.clone(),
        provider: standing.provider.clone(),
        tools: BTreeSet::new(),
    })
}

fn serving<'a>(state: &'a State, standing: &Standing) -> Option<(&'a str, &'a Consent)> {
    let Standing { provider, user, agent, client, virtual_server, .. } = standing;
    let id = state.assertions.standing.get(&place(provider, user, agent, client, virtual_server))?;
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
    assertion::remember(state, &event.uses, now_seconds);
    let key = place(&event.provider, &event.user, &event.agent, &event.client, &event.virtual_server);
    state.assertions.standing.insert(key, event.consent.clone());
    consent::evolve_issued(state, &token(event));
}
