//! Identity assertions: what a company's provider says of a person becomes a consent and a token, once.
//!
//! The server has looked at signature, audience and times before it asks (`UseAssertion`); here is what only one place
//! in the cluster can decide: that an assertion was not used before, on any node. Each use is kept until the assertion
//! has expired everywhere.
//!
//! Called by `wish` and `state`; what a client signs to prove who it is, is used up here too. Absent: the consent that
//! assertions lead to (`standing`), and what people grant themselves (`authorization`).

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Rejection, ResourceRef,
    command::{Context, Decision},
    parties, requests,
    revocation::sessions,
    standing::{self, Standing},
    state::State,
    table::{self, Table},
};

/// Uses remembered: some hundred megabytes, and a thousand exchanges a second of assertions that live five minutes.
pub const USES_MAX: usize = 500_000;
/// Uses forgotten with each new one.
const FORGOTTEN_AT_ONCE_MAX: usize = 16;
/// Leaders' clocks may differ by so much, in seconds: for so long after its end a use is remembered.
const CLOCK_MARGIN_SECONDS: u64 = 600;
/// Most words of others that one exchange uses: the assertion and the client's own.
const USES_AT_ONCE_MAX: usize = 2;

/// What is kept about assertions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assertions {
    /// Uses by key; the value is until when one is kept, Unix seconds.
    used: Table<String, u64>,
    /// The same by that time.
    #[serde(with = "table::as_set")]
    expiries: Table<(u64, String), ()>,
    /// The consent that serves a person, agent, client and virtual server at a provider.
    pub(crate) standing: Table<String, String>,
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
    /// When the provider said so, Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said_at: Option<u64>,
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

pub(crate) fn decide_use(state: &State, wish: UseAssertion, context: &Context) -> Result<Decision, Rejection> {
    if wish.uses.is_empty() {
        return Err(Rejection::Malformed { what: "use of an assertion", rule: "of at least one" });
    }
    let (agent, terms) = parties(state, &wish, context)?;
    sessions::check_word(state, &wish.user, wish.said_at, context)?;
    let standing = Standing {
        handed: None,
        reason: format!("asserted by identity provider {}", wish.provider),
        provider: wish.provider,
        user: wish.user,
        agent,
        client: wish.client,
        virtual_server: wish.virtual_server,
        level: wish.granted.min(terms.ceiling),
    };
    standing::decide_token(state, standing, wish.wanted, terms.project, wish.uses, context)
}

/// Nothing of it was used before, and there is room to remember.
pub(crate) fn check_uses(state: &State, uses: &[Use], context: &Context) -> Result<(), Rejection> {
    let is_key = |key: &str| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_sound = uses.len() <= USES_AT_ONCE_MAX && uses.iter().all(|one| is_key(&one.key));
    if !is_sound || ![&context.ids.session, &context.ids.token].iter().all(|id| requests::is_id(id)) {
        return Err(Rejection::Malformed { what: "use of an assertion", rule: "keys of 64 hexadecimal digits" });
    }
    if uses.iter().any(|one| state.assertions.used.contains_key(&one.key)) {
        return Err(Rejection::AssertionUsed);
    }
    let forgettable = forgettable(state, context.now_seconds()).len();
    if state.assertions.used.len() + uses.len() > USES_MAX + forgettable {
        return Err(Rejection::TooMany { what: "used assertions", max: USES_MAX });
    }
    Ok(())
}

/// The agent, if its provider may vouch for it here and everybody who takes part may.
fn parties(state: &State, wish: &UseAssertion, context: &Context) -> Result<(String, parties::Terms), Rejection> {
    let unknown = |kind, name: &str| Rejection::NotFound(vec![ResourceRef::new(kind, name)]);
    let provider = state.identity_providers.get(&wish.provider);
    let provider = &provider.ok_or_else(|| unknown(Kind::IdentityProvider, &wish.provider))?.spec;
    let vouches = provider.assertions.as_ref().is_some_and(|spec| spec.virtual_servers.contains(&wish.virtual_server));
    if !provider.active || !vouches {
        return Err(Rejection::Inactive(ResourceRef::new(Kind::IdentityProvider, &wish.provider)));
    }
    let client = state.clients.get(&wish.client).ok_or_else(|| unknown(Kind::Client, &wish.client))?;
    // A client that people would have to choose an agent for has no people here to ask.
    let agent = client.spec.agent.as_deref().ok_or_else(|| unknown(Kind::Client, &wish.client))?;
    let terms = parties::terms(state, &wish.user, &wish.client, agent, &wish.virtual_server, context)?;
    Ok((agent.to_owned(), terms))
}

fn forgettable(state: &State, now_seconds: u64) -> Vec<(u64, String)> {
    let horizon = now_seconds.saturating_sub(CLOCK_MARGIN_SECONDS);
    let past = state.assertions.expiries.keys().take_while(|(until, _)| *until < horizon);
    past.take(FORGOTTEN_AT_ONCE_MAX).cloned().collect()
}

/// Keeps what was used, and forgets what expired long ago.
pub(crate) fn remember(state: &mut State, uses: &[Use], now_seconds: u64) {
    if uses.is_empty() {
        return;
    }
    for past in forgettable(state, now_seconds) {
        state.assertions.used.remove(&past.1);
        state.assertions.expiries.remove(&past);
    }
    for Use { key, until } in uses {
        state.assertions.used.insert(key.clone(), *until);
        state.assertions.expiries.insert((*until, key.clone()), ());
    }
}
