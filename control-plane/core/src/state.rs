//! The state: everything that follows from the events so far, and how one more event changes it.
//!
//! Every node holds a `State` and calls [`evolve`] for each committed event in order; `decide` reads it, `view` and
//! `show` derive from it. Maps are ordered, so equal states serialise to equal bytes; what can be large is a `Table`,
//! so a copy costs next to nothing.
//! Invariant: [`evolve`] is total: it never fails, even for an event that no state like this could have led to.
//! Absent: what an event does to its aggregate (the aggregate's own file).

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    agent::{self, Agent},
    assertion::Assertions,
    authorization, binding,
    checkpoint::{self, Checkpoint},
    client::{self, Client},
    consent::{self, Consent},
    credential::{self, Credential},
    decision_client::{self, DecisionClient},
    event::{Change, Event},
    exchange,
    identity_provider::{self, IdentityProvider},
    join_token::{self, JoinToken},
    key_rotation::{self, SealKey},
    member::{self, Cluster, Member},
    node::{self, Node},
    policy::{self, Policy},
    provisioning::{self, Provisioned},
    refresh,
    requests::Requests,
    reserve,
    revocation::sessions::{self, SessionsEnds},
    rollout::{self, Rollouts},
    scim_token::{self, ScimToken},
    secret::{self, Secret},
    server::{self, Server},
    sign_in,
    signal::{self, Signals},
    standing,
    table::{self, Table},
    token_key::{self, Issuer, StoredTokenKey},
    tool,
    user::{self, User},
    virtual_server::{self, VirtualServer},
};

/// Everything that follows from the events so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Revision of the last event; 0 before the first.
    pub revision: u64,
    /// Servers by name, each with its tools.
    pub servers: Table<String, Server>,
    /// Virtual servers by name.
    pub virtual_servers: Table<String, VirtualServer>,
    /// Users by name.
    pub users: Table<String, User>,
    /// By a name in lower case, the users who are called so but for that.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub folded_names: Table<String, BTreeSet<String>>,
    /// What directories said of users and groups.
    #[serde(default, skip_serializing_if = "Provisioned::is_empty")]
    pub provisioned: Provisioned,
    /// By which directories are let in, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub scim_tokens: BTreeMap<String, ScimToken>,
    /// Agents by name.
    pub agents: Table<String, Agent>,
    /// Policies by name.
    pub policies: Table<String, Policy>,
    /// Consents by id.
    pub consents: Table<String, Consent>,
    /// (expiry in Unix seconds, consent): what to forget first.
    #[serde(with = "table::as_set")]
    pub consent_expiries: Table<(u64, String), ()>,
    /// By consent, those that came of it because an agent handed it on.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub handed_on: Table<String, BTreeSet<String>>,
    /// By what an agent took over (`handed_on`), the consent that was revoked of it and holds it back.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub taken_back: Table<String, String>,
    /// Nodes by name.
    pub nodes: Table<String, Node>,
    /// The last committed checkpoint by log origin.
    pub checkpoints: BTreeMap<String, Checkpoint>,
    /// Token-signing public keys by key id.
    pub token_keys: BTreeMap<String, StoredTokenKey>,
    /// Keys of the authorization server by id, once they were rotated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub authorization_keys: BTreeMap<String, SealKey>,
    /// Keys that binding keys are sealed under in tokens by id, once they were rotated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub binding_keys: BTreeMap<String, SealKey>,
    /// Keys that data planes sign contexts with by id, once they were rotated.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub context_keys: BTreeMap<String, SealKey>,
    /// Who signs tokens; absent until set.
    pub issuer: Option<Issuer>,
    /// Which cluster this is; absent until it is founded.
    pub cluster: Option<Cluster>,
    /// Nodes and administrators by name.
    pub members: Table<String, Member>,
    /// The highest node id that any control plane ever had.
    pub node_ids_given: u64,
    /// Join tokens that nobody redeemed, by id.
    pub join_tokens: BTreeMap<String, JoinToken>,
    /// Sealed secrets by column and key (`secret::name`).
    pub secrets: BTreeMap<String, Secret>,
    /// Secrets for servers, by name; what they are, lies in `secrets`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credentials: BTreeMap<String, Credential>,
    /// OAuth clients by name, which is their `client_id`.
    #[serde(default, skip_serializing_if = "Table::is_empty")]
    pub clients: Table<String, Client>,
    /// Identity providers by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub identity_providers: BTreeMap<String, IdentityProvider>,
    /// Decision clients by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub decision_clients: BTreeMap<String, DecisionClient>,
    /// What was used up of providers' assertions, and the consents that serve them.
    #[serde(default, skip_serializing_if = "Assertions::is_empty")]
    pub assertions: Assertions,
    /// What was taken of transmitters' signals.
    #[serde(default, skip_serializing_if = "Signals::is_empty")]
    pub signals: Signals,
    /// Whose sessions ended lately.
    #[serde(default, skip_serializing_if = "SessionsEnds::is_empty")]
    pub sessions_ends: SessionsEnds,
    /// Name of the master key that all secrets were last sealed anew under.
    pub master_key: Option<String>,
    /// Changes that go to a share of the data planes first.
    #[serde(default)]
    pub rollouts: Rollouts,
    /// Requests carried out lately.
    pub requests: Requests,
}

/// When a resource came to be as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The revision.
    pub revision: u64,
    /// Microseconds since 1970, UTC.
    pub time: u64,
}

/// Applies one committed event; `revision` is the Raft index of the change it belongs to.
pub fn evolve(state: &mut State, event: &Event, revision: u64) {
    let changed = Changed { revision, time: event.time };
    match &event.change {
        Change::ServerApplied(change) => server::evolve_applied(state, change, changed),
        Change::ServerDeleted(change) => server::evolve_deleted(state, change),
        Change::ToolsPinned(change) => tool::evolve_pinned(state, change, changed),
        Change::ToolDriftObserved(change) => tool::evolve_drift(state, change, changed),
        Change::ToolApproved(change) => tool::evolve_approved(state, change, changed),
        Change::VirtualServerApplied(change) => virtual_server::evolve_applied(state, change, changed),
        Change::VirtualServerDeleted(change) => virtual_server::evolve_deleted(state, change),
        Change::UserApplied(change) => user::evolve_applied(state, change, changed),
        Change::UserDeleted(change) => user::evolve_deleted(state, change),
        Change::AgentApplied(change) => agent::evolve_applied(state, change, changed),
        Change::AgentDeleted(change) => agent::evolve_deleted(state, change),
        Change::PolicyApplied(change) => policy::evolve_applied(state, change, changed),
        Change::PolicyDeleted(change) => policy::evolve_deleted(state, change),
        Change::ConsentGranted(change) => consent::evolve_granted(state, change, &event.actor, changed),
        Change::ConsentRevoked(change) => consent::evolve_revoked(state, change, changed),
        Change::TokenIssued(change) => consent::evolve_issued(state, change),
        Change::NodeEpochOpened(change) => node::evolve_opened(state, change, changed),
        Change::NodeDeleted(change) => node::evolve_deleted(state, change),
        Change::CheckpointCommitted(change) => checkpoint::evolve_committed(state, change, changed),
        Change::TokenKeyRegistered(change) => token_key::evolve_registered(state, change, changed),
        Change::TokenKeyRotated(change) => key_rotation::evolve_token_rotated(state, change, changed),
        Change::TokenKeyRetired(change) => key_rotation::evolve_token_retired(state, change),
        Change::AuthorizationKeyRotated(change) => {
            let (keys, names) = (&mut state.authorization_keys, (change.key.as_str(), change.replaces.as_str()));
            key_rotation::evolve_seal_rotated(keys, names, change.until, changed);
        }
        Change::AuthorizationKeyRetired(change) => {
            key_rotation::evolve_seal_retired(&mut state.authorization_keys, &change.key);
        }
        Change::BindingKeyRotated(change) => {
            let (keys, names) = (&mut state.binding_keys, (change.key.as_str(), change.replaces.as_str()));
            key_rotation::evolve_seal_rotated(keys, names, change.until, changed);
        }
        Change::BindingKeyRetired(change) => {
            key_rotation::evolve_seal_retired(&mut state.binding_keys, &change.key);
        }
        Change::ContextKeyRotated(change) => {
            let (keys, names) = (&mut state.context_keys, (change.key.as_str(), change.replaces.as_str()));
            key_rotation::evolve_seal_rotated(keys, names, change.until, changed);
        }
        Change::ContextKeyRetired(change) => {
            key_rotation::evolve_seal_retired(&mut state.context_keys, &change.key);
        }
        Change::GrantBound(change) => binding::evolve_bound(state, change),
        Change::IssuerSet(change) => token_key::evolve_issuer(state, change),
        Change::ClusterFounded(change) => member::evolve_founded(state, change, changed),
        Change::JoinTokenCreated(change) => join_token::evolve_created(state, change, changed),
        Change::MemberEnrolled(change) => member::evolve_enrolled(state, change, changed),
        Change::MemberMoved(change) => member::evolve_moved(state, change, changed),
        Change::MemberRemoved(change) => member::evolve_removed(state, change),
        Change::SecretSealed(change) => secret::evolve_sealed(state, change, changed),
        Change::CredentialSet(change) => credential::evolve_set(state, change, &event.actor, changed),
        Change::CredentialDeleted(change) => credential::evolve_deleted(state, change),
        Change::MasterKeyRotated(change) => secret::evolve_rotated(state, change),
        Change::NodeEpochReserved(change) => reserve::evolve_reserved(state, change, changed),
        Change::NodeReserveBegun(change) => reserve::evolve_begun(state, change, changed),
        Change::RolloutBegun(change) => rollout::evolve_begun(state, change, &event.actor, changed),
        Change::RolloutStaged(change) => rollout::evolve_staged(state, change),
        Change::RolloutStepped(change) => rollout::evolve_stepped(state, change, changed),
        Change::RolloutEnded(change) => rollout::evolve_ended(state, change, &event.actor, changed),
        Change::ClientApplied(change) => client::evolve_applied(state, change, changed),
        Change::ClientDeleted(change) => client::evolve_deleted(state, change),
        Change::IdentityProviderApplied(change) => identity_provider::evolve_applied(state, change, changed),
        Change::IdentityProviderDeleted(change) => identity_provider::evolve_deleted(state, change),
        Change::DecisionClientApplied(change) => decision_client::evolve_applied(state, change, changed),
        Change::DecisionClientDeleted(change) => decision_client::evolve_deleted(state, change),
        Change::AssertionUsed(change) => standing::evolve_used(state, change, event.time / 1_000_000),
        Change::CodeIssued(change) => authorization::evolve_issued(state, change),
        Change::CodeRedeemed(change) => authorization::evolve_redeemed(state, change, event.time / 1_000_000),
        Change::TokenRefreshed(change) => refresh::evolve_refreshed(state, change, event.time / 1_000_000),
        Change::TokenExchanged(change) => exchange::evolve_exchanged(state, change, event.time / 1_000_000),
        Change::PersonProvisioned(change) => provisioning::evolve_person(state, change, changed),
        Change::PersonRenamed(change) => provisioning::evolve_person_renamed(state, change, changed),
        Change::PersonDeprovisioned(change) => provisioning::evolve_person_gone(state, change, changed),
        Change::GroupProvisioned(change) => provisioning::evolve_group(state, change, changed),
        Change::GroupRenamed(change) => provisioning::evolve_group_renamed(state, change, changed),
        Change::GroupMembersChanged(change) => provisioning::evolve_members(state, change, changed),
        Change::GroupDeprovisioned(change) => provisioning::evolve_group_gone(state, change, changed),
        Change::AgentProvisioned(change) => provisioning::agents::evolve_provisioned(state, change, changed),
        Change::AgentDeprovisioned(change) => provisioning::agents::evolve_deprovisioned(state, change, changed),
        Change::ScimTokenCreated(change) => scim_token::evolve_created(state, change, &event.actor, changed),
        Change::ScimTokenRevoked(change) => scim_token::evolve_revoked(state, change),
        Change::PersonSignedIn(change) => sign_in::evolve_signed_in(state, change, changed.time / 1_000_000),
        Change::SignalReceived(change) => signal::evolve_received(state, change, changed),
        Change::SessionsEnded(change) => sessions::evolve_ended(state, change, changed),
        // For the ledger alone: nothing follows from it.
        Change::RevocationReceipted(_) | Change::ConsentDeclined(_) | Change::RequestRefused(_) => {}
    }
    state.requests.remember(event, revision);
    state.revision = revision;
}
