//! Events: what happened, as it is replicated, stored for ever and recorded in the ledger.
//!
//! An [`Event`] is one [`Change`] with who asked, under which request and when. Its JSON is flat, tagged by `type`,
//! without floats, nulls or 64-bit numbers, so it is at once a canonical value for a ledger record.
//! Invariants: a variant or field is only ever added; the golden files in `tests/golden` keep every shipped event
//! readable. Absent: applying events (`state`), and payloads (each aggregate's own file).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    agent::{AgentApplied, AgentDeleted},
    authorization::{CodeIssued, CodeRedeemed, ConsentDeclined},
    binding::GrantBound,
    checkpoint::CheckpointCommitted,
    client::{ClientApplied, ClientDeleted},
    consent::{ConsentGranted, ConsentRevoked, TokenIssued},
    credential::{CredentialDeleted, CredentialSet},
    decision_client::{DecisionClientApplied, DecisionClientDeleted},
    exchange::TokenExchanged,
    identity_provider::{IdentityProviderApplied, IdentityProviderDeleted},
    join_token::JoinTokenCreated,
    key_rotation::{
        AuthorizationKeyRetired, AuthorizationKeyRotated, BindingKeyRetired, BindingKeyRotated, ContextKeyRetired,
        ContextKeyRotated, TokenKeyRetired, TokenKeyRotated,
    },
    member::{ClusterFounded, MemberEnrolled, MemberMoved, MemberRemoved},
    node::{NodeDeleted, NodeEpochOpened},
    policy::{PolicyApplied, PolicyDeleted},
    provisioning::{
        GroupDeprovisioned, GroupMembersChanged, GroupProvisioned, GroupRenamed, PersonDeprovisioned,
        PersonProvisioned, PersonRenamed,
        agents::{AgentDeprovisioned, AgentProvisioned},
    },
    receipt::RevocationReceipted,
    refresh::TokenRefreshed,
    refusal::RequestRefused,
    reserve::{NodeEpochReserved, NodeReserveBegun},
    revocation::sessions::SessionsEnded,
    rollout::{RolloutBegun, RolloutEnded, RolloutStaged, RolloutStepped},
    scim_token::{ScimTokenCreated, ScimTokenRevoked},
    secret::{MasterKeyRotated, SecretSealed},
    server::{ServerApplied, ServerDeleted},
    sign_in::PersonSignedIn,
    signal::SignalReceived,
    standing::AssertionUsed,
    token_key::{IssuerSet, TokenKeyRegistered},
    tool::{ToolApproved, ToolDriftObserved, ToolsPinned},
    user::{UserApplied, UserDeleted},
    virtual_server::{VirtualServerApplied, VirtualServerDeleted},
};

/// One change with its circumstances.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Who asked.
    pub actor: String,
    /// Under which request; empty where the request had no id.
    pub request_id: String,
    /// When it was decided: microseconds since 1970, UTC.
    #[serde(with = "crate::decimal")]
    pub time: u64,
    /// What happened.
    #[serde(flatten)]
    pub change: Change,
}

macro_rules! changes {
    ($($(#[$doc:meta])* $variant:ident($word:literal),)*) => {
        /// What happened.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        pub enum Change {
            $($(#[$doc])* $variant($variant),)*
        }

        impl Change {
            /// All type words, in the order of this file.
            pub const TYPES: &'static [&'static str] = &[$($word,)*];

            /// The `type` word.
            #[must_use]
            pub const fn type_word(&self) -> &'static str {
                match self { $(Self::$variant(_) => $word,)* }
            }

            /// Reads the payload that a `type` word names out of a whole event, passing over what else is in it;
            /// `None` for a word that is not known.
            pub(crate) fn read(word: &str, event: &[u8]) -> Option<Result<Self, serde_json::Error>> {
                match word {
                    $($word => Some(serde_json::from_slice::<$variant>(event).map(Self::$variant)),)*
                    _ => None,
                }
            }
        }

        $(impl From<$variant> for Change {
            fn from(payload: $variant) -> Self { Self::$variant(payload) }
        })*
    };
}

changes! {
    /// A server is as written.
    ServerApplied("server_applied"),
    /// A server is gone, with its tools.
    ServerDeleted("server_deleted"),
    /// Tools of a server were seen for the first time and count as approved.
    ToolsPinned("tools_pinned"),
    /// A server shows a tool that nobody approved.
    ToolDriftObserved("tool_drift_observed"),
    /// Somebody approved what a server shows.
    ToolApproved("tool_approved"),
    /// A virtual server is as written.
    VirtualServerApplied("virtual_server_applied"),
    /// A virtual server is gone.
    VirtualServerDeleted("virtual_server_deleted"),
    /// A user is as written.
    UserApplied("user_applied"),
    /// A user is gone.
    UserDeleted("user_deleted"),
    /// An agent is as written.
    AgentApplied("agent_applied"),
    /// An agent is gone.
    AgentDeleted("agent_deleted"),
    /// A policy is as written.
    PolicyApplied("policy_applied"),
    /// A policy is gone.
    PolicyDeleted("policy_deleted"),
    /// An agent may act for a person.
    ConsentGranted("consent_granted"),
    /// It may no longer.
    ConsentRevoked("consent_revoked"),
    /// A token was made for a consent.
    TokenIssued("token_issued"),
    /// A node registered its key for a run; the revision is the run's epoch.
    NodeEpochOpened("node_epoch_opened"),
    /// A node is forgotten.
    NodeDeleted("node_deleted"),
    /// The ledger has one history up to here.
    CheckpointCommitted("checkpoint_committed"),
    /// A key may sign access tokens.
    TokenKeyRegistered("token_key_registered"),
    /// Who signs tokens, and what audiences are made from.
    IssuerSet("issuer_set"),
    /// A cluster begins, or begins anew from a backup, with one member.
    ClusterFounded("cluster_founded"),
    /// Somebody may become a member.
    JoinTokenCreated("join_token_created"),
    /// A join token was redeemed: there is a new member.
    MemberEnrolled("member_enrolled"),
    /// A control plane listens elsewhere.
    MemberMoved("member_moved"),
    /// A member is one no more.
    MemberRemoved("member_removed"),
    /// A secret is kept in its next edition, sealed under a master key.
    SecretSealed("secret_sealed"),
    /// All secrets are sealed under this master key.
    MasterKeyRotated("master_key_rotated"),
    /// Since when data planes hold to a revocation.
    RevocationReceipted("revocation_receipted"),
    /// A change goes to a share of the data planes first.
    RolloutBegun("rollout_begun"),
    /// A part of that change.
    RolloutStaged("rollout_staged"),
    /// It goes to a larger share.
    RolloutStepped("rollout_stepped"),
    /// It counts for everybody, or for nobody.
    RolloutEnded("rollout_ended"),
    /// A node registered the key of its next run, which may begin without a control plane; the revision is its epoch.
    NodeEpochReserved("node_epoch_reserved"),
    /// That run has begun.
    NodeReserveBegun("node_reserve_begun"),
    /// There is a secret for servers under this name, or another one than before.
    CredentialSet("credential_set"),
    /// There is none any more.
    CredentialDeleted("credential_deleted"),
    /// A client is as written.
    ClientApplied("client_applied"),
    /// A client is gone.
    ClientDeleted("client_deleted"),
    /// An identity provider is as written.
    IdentityProviderApplied("identity_provider_applied"),
    /// An identity provider is gone.
    IdentityProviderDeleted("identity_provider_deleted"),
    /// A decision client is as written.
    DecisionClientApplied("decision_client_applied"),
    /// A decision client is gone.
    DecisionClientDeleted("decision_client_deleted"),
    /// An assertion of an identity provider was used, and a token made for it.
    AssertionUsed("assertion_used"),
    /// A person has signed in.
    PersonSignedIn("person_signed_in"),
    /// A person did not allow what a client asked for.
    ConsentDeclined("consent_declined"),
    /// A client got a code for a consent.
    CodeIssued("code_issued"),
    /// It redeemed the code for a token.
    CodeRedeemed("code_redeemed"),
    /// A client got its next token by a refresh token.
    TokenRefreshed("token_refreshed"),
    /// The authorization server refused so many requests of one kind.
    RequestRefused("request_refused"),
    /// An agent acts for another: a client got a token for one of that agent's.
    TokenExchanged("token_exchanged"),
    /// Tokens are signed with another key.
    TokenKeyRotated("token_key_rotated"),
    /// A key that signed tokens verifies no more.
    TokenKeyRetired("token_key_retired"),
    /// The authorization server seals with another key.
    AuthorizationKeyRotated("authorization_key_rotated"),
    /// A key that it sealed with opens no more.
    AuthorizationKeyRetired("authorization_key_retired"),
    /// A transmitter said that something happened to a person, or to its stream.
    SignalReceived("signal_received"),
    /// A person's sessions are over.
    SessionsEnded("sessions_ended"),
    /// A directory says that there is this person, or what they are like.
    PersonProvisioned("person_provisioned"),
    /// A directory says that a person has another name.
    PersonRenamed("person_renamed"),
    /// A directory has deleted a person.
    PersonDeprovisioned("person_deprovisioned"),
    /// A directory says that there is this group, or what it is called.
    GroupProvisioned("group_provisioned"),
    /// A directory says that a group has another name.
    GroupRenamed("group_renamed"),
    /// A directory says who is in a group.
    GroupMembersChanged("group_members_changed"),
    /// A directory has deleted a group.
    GroupDeprovisioned("group_deprovisioned"),
    /// A directory says that there is this agent, or what it is like.
    AgentProvisioned("agent_provisioned"),
    /// A directory has deleted an agent, which is retired by that.
    AgentDeprovisioned("agent_deprovisioned"),
    /// A directory may be let in by a token.
    ScimTokenCreated("scim_token_created"),
    /// It is good no more.
    ScimTokenRevoked("scim_token_revoked"),
    /// Binding keys are sealed under another key in tokens.
    BindingKeyRotated("binding_key_rotated"),
    /// A key that they were sealed under opens no more.
    BindingKeyRetired("binding_key_retired"),
    /// What servers are told of calls is signed with another key.
    ContextKeyRotated("context_key_rotated"),
    /// A key that it was signed with verifies no more.
    ContextKeyRetired("context_key_retired"),
    /// A consent's tokens are bound to a key.
    GrantBound("grant_bound"),
}

/// The event as the ledger records it: with the revision it got, without tool definitions (their hashes stay), as
/// those may be larger than a record. `None` for what the ledger itself caused (recording a checkpoint would make
/// the next one necessary) and for ciphertexts, which the ledger need not keep for ever.
#[must_use]
pub fn recorded(event: &Event, revision: u64) -> Option<Value> {
    let mut fields = match serde_json::to_value(event) {
        Ok(Value::Object(fields)) => fields,
        // INVARIANT: an event is a struct of strings, lists and maps with string keys, which always is an object.
        Ok(_) | Err(_) => Map::new(),
    };
    match &event.change {
        Change::CheckpointCommitted(_) | Change::SecretSealed(_) => return None,
        Change::NodeEpochOpened(_) | Change::NodeEpochReserved(_) => {
            fields.insert("epoch".into(), revision.to_string().into());
        }
        Change::ToolsPinned(_) => {
            for tool in fields.get_mut("tools").and_then(Value::as_array_mut).into_iter().flatten() {
                tool.as_object_mut().and_then(|tool| tool.remove("definition"));
            }
        }
        Change::ToolDriftObserved(_) | Change::ToolApproved(_) => {
            fields.remove("definition");
        }
        Change::PersonProvisioned(_) | Change::AgentProvisioned(_) => {
            fields.remove("profile");
        }
        Change::ServerApplied(_)
        | Change::ServerDeleted(_)
        | Change::VirtualServerApplied(_)
        | Change::VirtualServerDeleted(_)
        | Change::UserApplied(_)
        | Change::UserDeleted(_)
        | Change::AgentApplied(_)
        | Change::AgentDeleted(_)
        | Change::PolicyApplied(_)
        | Change::PolicyDeleted(_)
        | Change::ConsentGranted(_)
        | Change::ConsentRevoked(_)
        | Change::TokenIssued(_)
        | Change::NodeDeleted(_)
        | Change::TokenKeyRegistered(_)
        | Change::TokenKeyRotated(_)
        | Change::TokenKeyRetired(_)
        | Change::AuthorizationKeyRotated(_)
        | Change::AuthorizationKeyRetired(_)
        | Change::BindingKeyRotated(_)
        | Change::BindingKeyRetired(_)
        | Change::ContextKeyRotated(_)
        | Change::ContextKeyRetired(_)
        | Change::GrantBound(_)
        | Change::IssuerSet(_)
        | Change::ClusterFounded(_)
        | Change::JoinTokenCreated(_)
        | Change::MemberEnrolled(_)
        | Change::MemberMoved(_)
        | Change::MemberRemoved(_)
        | Change::MasterKeyRotated(_)
        | Change::RevocationReceipted(_)
        | Change::RolloutBegun(_)
        | Change::RolloutStaged(_)
        | Change::RolloutStepped(_)
        | Change::RolloutEnded(_)
        | Change::NodeReserveBegun(_)
        | Change::CredentialSet(_)
        | Change::CredentialDeleted(_)
        | Change::ClientApplied(_)
        | Change::ClientDeleted(_)
        | Change::IdentityProviderApplied(_)
        | Change::IdentityProviderDeleted(_)
        | Change::DecisionClientApplied(_)
        | Change::DecisionClientDeleted(_)
        | Change::AssertionUsed(_)
        | Change::PersonSignedIn(_)
        | Change::SignalReceived(_)
        | Change::SessionsEnded(_)
        | Change::ConsentDeclined(_)
        | Change::CodeIssued(_)
        | Change::CodeRedeemed(_)
        | Change::TokenRefreshed(_)
        | Change::RequestRefused(_)
        | Change::TokenExchanged(_)
        | Change::PersonRenamed(_)
        | Change::PersonDeprovisioned(_)
        | Change::GroupProvisioned(_)
        | Change::GroupRenamed(_)
        | Change::GroupMembersChanged(_)
        | Change::GroupDeprovisioned(_)
        | Change::AgentDeprovisioned(_)
        | Change::ScimTokenCreated(_)
        | Change::ScimTokenRevoked(_) => {}
    }
    fields.insert("revision".into(), revision.to_string().into());
    Some(Value::Object(fields))
}
