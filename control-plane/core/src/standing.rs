//! Standing consents: one for a person, agent, client and virtual server, which serves all tokens alike that are given
//! on somebody's word: a provider's assertions, an administrator's leave for a headless client, another agent's token.
//!
//! It stands for some hours, so that most exchanges change nothing for data planes. What is granted no longer ends the
//! consent, and with it the tokens it gave; a consent that was revoked here does not come back with the next word.
//! Called by `assertion`, `headless` and `exchange` (deciding) and `state`. Absent: whose word counts (theirs).

use std::collections::BTreeSet;

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    assertion::{self, Use},
    command::{Context, Decision, Exchanged},
    consent::{self, Consent, ConsentGranted, TokenIssued},
    event::Event,
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
    /// What it came of, if another agent hands it on.
    pub(crate) handed: Option<Handed>,
}

/// What a consent came of, beyond which it must not go.
#[derive(Clone, Debug)]
pub(crate) struct Handed {
    /// The consent.
    pub(crate) parent: String,
    /// The agents through which it came, the latest first.
    pub(crate) earlier_agents: Vec<String>,
    /// Only these tools; none: all up to the level.
    pub(crate) tools: BTreeSet<String>,
    /// Until when, Unix seconds.
    pub(crate) ends_at: u64,
}

/// The consent that serves somebody's word.
pub(crate) struct Served {
    /// What has to happen for it.
    pub(crate) events: Vec<Event>,
    pub(crate) consent: ConsentGranted,
    /// That of the tokens before.
    pub(crate) session: Option<String>,
    /// It is granted now, in place of this one, if there was one.
    pub(crate) is_new: bool,
    pub(crate) replaces: Option<String>,
}

/// What a token rests on, beside its consent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vouching {
    /// What is used up.
    pub(crate) uses: Vec<Use>,
    /// The workload that a provider speaks for, as that calls it; empty: none.
    pub(crate) subject: String,
    /// Until when the word is good, Unix seconds; as long as the consent where absent.
    pub(crate) until: Option<u64>,
}

/// Payload of `assertion_used`: a provider's or the client's own was used, and this token was made for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AssertionUsed {
    /// The provider; empty: the client needs none.
    pub provider: String,
    /// The workload that the provider spoke for, as it calls it; empty: none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub subject: String,
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
    decide_vouched(state, standing, wanted, project, Vouching { uses, ..Vouching::default() }, context)
}

/// The same, on a word that may end before a token would.
pub(crate) fn decide_vouched(
    state: &State,
    standing: Standing,
    wanted: Tier,
    project: String,
    vouching: Vouching,
    context: &Context,
) -> Result<Decision, Rejection> {
    let Vouching { uses, subject, until } = vouching;
    assertion::check_uses(state, &uses, context)?;
    let now = context.now_seconds();
    let outlives = now.saturating_add(TOKEN_LIFETIME_SECONDS_MAX);
    let Served { mut events, consent, session, .. } = serve(state, &standing, outlives, context)?;
    let used = AssertionUsed {
        provider: standing.provider,
        subject,
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
        expires_at: outlives.min(consent.expires_at).min(until.unwrap_or(u64::MAX)),
    };
    let grant = consent::to_grant(&consent, &token(&used));
    let exchanged = Exchanged { grant, level: used.level, refresh: None };
    events.push(context.event(used));
    Ok(Decision::fulfilled(events, Fulfilled::Token(exchanged)))
}

/// The consent that serves until then at least: the one that stands, or a new one.
pub(crate) fn serve(state: &State, standing: &Standing, until: u64, context: &Context) -> Result<Served, Rejection> {
    let known = serving(state, standing);
    if let Some((id, known)) = known
        && known.revoked.as_ref().is_some_and(|revoked| revoked.holds_back())
    {
        return Err(Rejection::ConsentHeld { consent: id.to_owned() });
    }
    let live = known.filter(|(_, known)| known.is_live(context.now_seconds()));
    if let Some((_, known)) =
        live.filter(|(_, known)| known.granted.level == standing.level && known.granted.expires_at >= until)
    {
        let session = known.token.as_ref().map(|token| token.session.clone());
        return Ok(Served {
            events: Vec::new(),
            consent: known.granted.clone(),
            session,
            is_new: false,
            replaces: None,
        });
    }
    let narrowed = live.filter(|(_, known)| known.granted.level > standing.level);
    let mut events: Vec<_> = narrowed.map(|(id, _)| consent::revocation(id, NARROWED, context)).into_iter().collect();
    let consent = new_consent(state, standing, context)?;
    events.push(context.event(consent.clone()));
    let replaces = known.map(|(id, _)| id.to_owned());
    Ok(Served { events, consent, session: None, is_new: true, replaces })
}

fn new_consent(state: &State, standing: &Standing, context: &Context) -> Result<ConsentGranted, Rejection> {
    if !requests::is_id(&context.ids.consent) {
        return Err(Rejection::Malformed { what: "fresh identifiers", rule: "visible ASCII that nobody used before" });
    }
    consent::check_room(state, context)?;
    consent::check_share(state, context, |one| one.user == standing.user && one.client == standing.client)?;
    let granted = ConsentGranted {
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
        parent: None,
        earlier_agents: Vec::new(),
    };
    Ok(match standing.handed.clone() {
        None => granted,
        Some(Handed { parent, earlier_agents, tools, ends_at }) => {
            let expires_at = granted.expires_at.min(ends_at);
            ConsentGranted { parent: Some(parent), earlier_agents, tools, expires_at, ..granted }
        }
    })
}

fn serving<'a>(state: &'a State, standing: &Standing) -> Option<(&'a str, &'a Consent)> {
    let Standing { provider, user, agent, client, virtual_server, handed, .. } = standing;
    let parent = handed.as_ref().map(|handed| handed.parent.as_str());
    let id = state.assertions.standing.get(&place(provider, user, agent, client, virtual_server, parent))?;
    state.consents.get(id).map(|consent| (id.as_str(), consent))
}

/// None of the names has a line end.
pub(crate) fn place(
    provider: &str,
    user: &str,
    agent: &str,
    client: &str,
    virtual_server: &str,
    parent: Option<&str>,
) -> String {
    let names = [provider, user, agent, client, virtual_server];
    names.into_iter().chain(parent).collect::<Vec<_>>().join("\n")
}

/// A consent is forgotten: it serves nobody any more.
pub(crate) fn forget(state: &mut State, consent: &ConsentGranted) {
    let ConsentGranted { provider, user, agent, client, virtual_server, parent, .. } = consent;
    let key = place(provider, user, agent, client, virtual_server, parent.as_deref());
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
    let key = place(&event.provider, &event.user, &event.agent, &event.client, &event.virtual_server, None);
    state.assertions.standing.insert(key, event.consent.clone());
    consent::evolve_issued(state, &token(event));
}
