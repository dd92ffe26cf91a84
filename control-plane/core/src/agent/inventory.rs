//! The inventory of agents: who answers for each, who may act as it, and when it was last given a token.
//!
//! [`Activity`] is fed with every committed change, beside the [`State`] and no part of it, because consents, and the
//! last token of each, are forgotten some days after they end; an agent that nobody uses is looked for long after that.
//! The server adds what [`describe`] says to agents that are asked for. Invariants: the same changes give the same; it
//! holds one row for each agent there is. Absent: calls, which only the ledger knows, and the judgement that an agent
//! is dormant (`cli`), which needs both.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Agent;
use crate::{
    event::{Change, Event},
    show::time,
    state::State,
};

/// What happened to an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// When it came to be, microseconds since 1970.
    pub created: u64,
    /// When it was last given a token, Unix seconds; 0: never.
    pub token_issued: u64,
    /// Until when the longest of its tokens is good, Unix seconds; 0: it has none.
    pub tokens_until: u64,
}

/// What happened to each agent there is.
#[derive(Clone, Debug, Default)]
pub struct Activity(BTreeMap<String, Seen>);

impl Activity {
    /// Takes in the events of a change, with the state after all of them.
    pub fn see(&mut self, after: &State, events: &[Event]) {
        for event in events {
            let consent = match &event.change {
                Change::AgentApplied(agent) => {
                    let fresh = Seen { created: event.time, ..Seen::default() };
                    self.0.entry(agent.name.clone()).or_insert(fresh);
                    continue;
                }
                Change::AgentProvisioned(agent) => {
                    let fresh = Seen { created: event.time, ..Seen::default() };
                    self.0.entry(agent.name.clone()).or_insert(fresh);
                    continue;
                }
                Change::AgentDeleted(agent) => {
                    self.0.remove(&agent.name);
                    continue;
                }
                Change::TokenIssued(issued) => &issued.consent,
                Change::CodeRedeemed(redeemed) => &redeemed.consent,
                Change::TokenRefreshed(refreshed) => &refreshed.consent,
                Change::AssertionUsed(used) => &used.consent,
                Change::TokenExchanged(exchanged) => &exchanged.consent,
                Change::ServerApplied(_)
                | Change::ServerDeleted(_)
                | Change::ToolsPinned(_)
                | Change::ToolDriftObserved(_)
                | Change::ToolApproved(_)
                | Change::VirtualServerApplied(_)
                | Change::VirtualServerDeleted(_)
                | Change::UserApplied(_)
                | Change::UserDeleted(_)
                | Change::PolicyApplied(_)
                | Change::PolicyDeleted(_)
                | Change::ConsentGranted(_)
                | Change::ConsentRevoked(_)
                | Change::NodeEpochOpened(_)
                | Change::NodeDeleted(_)
                | Change::CheckpointCommitted(_)
                | Change::TokenKeyRegistered(_)
                | Change::IssuerSet(_)
                | Change::ClusterFounded(_)
                | Change::JoinTokenCreated(_)
                | Change::MemberEnrolled(_)
                | Change::MemberMoved(_)
                | Change::MemberRemoved(_)
                | Change::SecretSealed(_)
                | Change::MasterKeyRotated(_)
                | Change::RevocationReceipted(_)
                | Change::RolloutBegun(_)
                | Change::RolloutStaged(_)
                | Change::RolloutStepped(_)
                | Change::RolloutEnded(_)
                | Change::NodeEpochReserved(_)
                | Change::NodeReserveBegun(_)
                | Change::CredentialSet(_)
                | Change::CredentialDeleted(_)
                | Change::ClientApplied(_)
                | Change::ClientDeleted(_)
                | Change::IdentityProviderApplied(_)
                | Change::IdentityProviderDeleted(_)
                | Change::DecisionClientApplied(_)
                | Change::DecisionClientDeleted(_)
                | Change::PersonSignedIn(_)
                | Change::ConsentDeclined(_)
                | Change::CodeIssued(_)
                | Change::RequestRefused(_)
                | Change::TokenKeyRotated(_)
                | Change::TokenKeyRetired(_)
                | Change::AuthorizationKeyRotated(_)
                | Change::AuthorizationKeyRetired(_)
                | Change::SignalReceived(_)
                | Change::SessionsEnded(_)
                | Change::PersonProvisioned(_)
                | Change::PersonRenamed(_)
                | Change::PersonDeprovisioned(_)
                | Change::GroupProvisioned(_)
                | Change::GroupRenamed(_)
                | Change::GroupMembersChanged(_)
                | Change::GroupDeprovisioned(_)
                | Change::AgentDeprovisioned(_)
                | Change::ScimTokenCreated(_)
                | Change::ScimTokenRevoked(_)
                | Change::BindingKeyRotated(_)
                | Change::BindingKeyRetired(_)
                | Change::ContextKeyRotated(_)
                | Change::ContextKeyRetired(_)
                | Change::GrantBound(_) => continue,
            };
            let Some(consent) = after.consents.get(consent) else { continue };
            if let (Some(seen), Some(token)) = (self.0.get_mut(&consent.granted.agent), &consent.token) {
                seen.token_issued = seen.token_issued.max(token.issued_at);
                seen.tokens_until = seen.tokens_until.max(token.expires_at);
            }
        }
    }

    /// What happened to this one.
    #[must_use]
    pub fn of(&self, agent: &str) -> Seen {
        self.0.get(agent).copied().unwrap_or_default()
    }
}

/// Adds to the status of agents, as `show` has them, what is known of them beside their manifests.
pub fn describe(shown: &mut [Value], state: &State, activity: &Activity) {
    let clients = clients(state);
    for item in shown {
        let name = item.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned();
        let (Some(agent), Some(status)) = (state.agents.get(&name), item.get_mut("status")) else { continue };
        let Some(status) = status.as_object_mut() else { continue };
        put(status, agent, state, activity.of(&name));
        let clients = clients.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        status.insert("clients".to_owned(), clients.into());
    }
}

fn put(status: &mut Map<String, Value>, agent: &Agent, state: &State, seen: Seen) {
    let owner = state.users.get(&agent.spec.owner);
    let word = owner.map_or("unknown", |owner| if owner.spec.active { "active" } else { "inactive" });
    let mut say = |key: &str, value: Value| drop(status.insert(key.to_owned(), value));
    say("owner_state", word.into());
    say("orphaned", is_orphaned(state, agent).into());
    if seen.created > 0 {
        say("created_at", time(seen.created).into());
    }
    if seen.token_issued > 0 {
        say("last_token_at", time(seen.token_issued.saturating_mul(1_000_000)).into());
        say("tokens_until", time(seen.tokens_until.saturating_mul(1_000_000)).into());
    }
}

/// Whether nobody answers for an agent: neither its owner nor whoever is named for after them.
#[must_use]
pub fn is_orphaned(state: &State, agent: &Agent) -> bool {
    let is_active = |name: &String| state.users.get(name).is_some_and(|user| user.spec.active);
    !is_active(&agent.spec.owner) && !agent.spec.successor.as_ref().is_some_and(is_active)
}

/// The clients that are registered for each agent.
fn clients(state: &State) -> BTreeMap<&str, Vec<&str>> {
    let mut clients = BTreeMap::<&str, Vec<&str>>::new();
    for (name, client) in &state.clients {
        if let Some(agent) = &client.spec.agent {
            clients.entry(agent).or_default().push(name);
        }
    }
    clients
}
