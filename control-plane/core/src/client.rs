//! OAuth clients: the programs that may ask for tokens.
//!
//! A client that an administrator registered is software of one agent. One that registered itself (RFC 7591), or is
//! described by a document at its `client_id` (CIMD), acts as an agent that takes such clients; which, people choose.
//! Called by `apply` and `wish` (deciding), `state` (evolving), `parties` and `show`. Invariant: the agent a client
//! names exists. Absent: proving who one is, and fetching documents, which the server does.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{
    Kind, Rejection,
    command::{Answer, Context, Decision},
    requests,
    resource::{AgentClientsSpec, ClientSpec, is_http_url, name_fault},
    state::{Changed, State},
    wish::Fulfilled,
};

/// Most clients: every agent there may be a few times over would be more than one installation has.
pub const CLIENTS_MAX: usize = 10_000;

/// Most of them that registered themselves.
pub const SELF_REGISTERED_MAX: usize = 2_000;
/// How long a client that registered itself and was never consented to is kept when room is needed, in seconds: a
/// question is answered sooner.
const UNUSED_KEPT_SECONDS: u64 = 900;
/// Most agents that people choose from.
const AGENTS_SHOWN_MAX: usize = 100;
/// Most of those that one registration forgets.
const FORGOTTEN_AT_ONCE_MAX: usize = 16;

/// A client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// As written.
    pub spec: ClientSpec,
    /// When it was written.
    pub changed: Changed,
}

/// Payload of `client_applied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientApplied {
    /// The client.
    pub name: String,
    /// As written.
    pub spec: ClientSpec,
}

/// Payload of `client_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientDeleted {
    /// The client.
    pub name: String,
}

/// A wish of a program to be a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterClient {
    /// Its `client_id`, which nobody has used before.
    pub name: String,
    /// What it says of itself.
    pub spec: ClientSpec,
}

pub(crate) fn decide_register(state: &State, wish: RegisterClient, context: &Context) -> Result<Decision, Rejection> {
    let RegisterClient { name, spec } = wish;
    let fits = name_fault(Kind::Client, &name).is_none() && !state.clients.contains_key(&name);
    if !fits || !spec.self_registered || !spec.faults().is_empty() {
        return Err(Rejection::Malformed {
            what: "client",
            rule: "one that registers itself, as its manifest would be",
        });
    }
    let of_themselves = state.clients.iter().filter(|(_, known)| known.spec.self_registered).count();
    let forgotten = if of_themselves < SELF_REGISTERED_MAX { Vec::new() } else { unused(state, context) };
    if of_themselves >= SELF_REGISTERED_MAX + forgotten.len() {
        return Err(Rejection::TooMany { what: "clients that registered themselves", max: SELF_REGISTERED_MAX });
    }
    let mut events: Vec<_> = forgotten.into_iter().map(|name| context.event(ClientDeleted { name })).collect();
    events.push(context.event(ClientApplied { name, spec }));
    Ok(Decision { events, answer: Answer::Fulfilled(Fulfilled::Done), ..Decision::default() })
}

/// Those that registered themselves a while ago and that nobody consented to, oldest first.
fn unused(state: &State, context: &Context) -> Vec<String> {
    let horizon = context.now_seconds().saturating_sub(UNUSED_KEPT_SECONDS).saturating_mul(1_000_000);
    let used: BTreeSet<&str> = state.consents.values().map(|consent| consent.granted.client.as_str()).collect();
    let mut unused: Vec<_> = state
        .clients
        .iter()
        .filter(|(name, known)| known.spec.self_registered && !used.contains(name.as_str()))
        .filter(|(_, known)| known.spec.active && known.changed.time < horizon)
        .map(|(name, known)| (known.changed.revision, name.clone()))
        .collect();
    unused.sort_unstable();
    unused.into_iter().take(FORGOTTEN_AT_ONCE_MAX).map(|(_, name)| name).collect()
}

/// Whether a `client_id` is the URL of a document that describes the client (CIMD §3).
#[must_use]
pub fn is_described(client: &str) -> bool {
    let Some(rest) = client.strip_prefix("https://") else { return false };
    let path = rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default();
    let is_plain = |segment: &str| !matches!(segment, "." | "..") && !segment.contains('%');
    requests::is_id(client)
        && is_http_url(client)
        && path.len() > 1
        && !client.contains(['?', '"', '<', '>'])
        && path.split('/').all(is_plain)
}

/// The agents that a client may act as, by name.
#[must_use]
pub fn agents_of(state: &State, client: &str) -> Vec<String> {
    match state.clients.get(client).map(|known| &known.spec) {
        Some(ClientSpec { agent: Some(agent), .. }) => vec![agent.clone()],
        Some(spec) if !spec.self_registered => Vec::new(),
        Some(_) | None => {
            let all = state.agents.keys().filter(|agent| may_act_as(state, client, agent));
            all.take(AGENTS_SHOWN_MAX).cloned().collect()
        }
    }
}

pub(crate) fn may_act_as(state: &State, client: &str, agent: &str) -> bool {
    let takes = |spec: &AgentClientsSpec, registered: Option<&ClientSpec>| match registered {
        Some(spec) if !spec.self_registered => false,
        Some(_) => spec.self_registered,
        None => spec.described_at.contains(client),
    };
    match state.clients.get(client).map(|known| &known.spec) {
        Some(ClientSpec { agent: Some(own), .. }) => own == agent,
        registered => state.agents.get(agent).is_some_and(|known| takes(&known.spec.clients, registered)),
    }
}

pub(crate) fn evolve_applied(state: &mut State, event: &ClientApplied, changed: Changed) {
    state.clients.insert(event.name.clone(), Client { spec: event.spec.clone(), changed });
}

pub(crate) fn evolve_deleted(state: &mut State, event: &ClientDeleted) {
    state.clients.remove(&event.name);
}
