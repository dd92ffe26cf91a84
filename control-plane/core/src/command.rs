//! Commands: everything that can be asked of the control plane, and what an answer looks like.
//!
//! The server builds a [`Command`] and a [`Context`] for each request and calls [`decide`] against committed plus
//! in-flight state; it replicates the events of the [`Decision`] and then gives its answer. Same state, command and
//! context: same decision. A request id that was carried out before is answered without new events.
//! Absent: how each command is decided (the aggregate's own file), and applying events (`state`).

use std::collections::BTreeMap;

use bailiwick_proto::Tier;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Fulfilled, Manifest, Rejection, ResourceRef, State, Wish,
    agent::life,
    apply, checkpoint, consent, credential,
    event::{Change, Event},
    handed_on, join_token, key_rotation, leaver, member, node, receipt, requests, reserve, revocation, rollout,
    scim_token, secret, token_key, tool, wish,
};

pub use crate::wish::Exchanged;

/// What can be asked.
#[derive(Clone, Debug)]
pub enum Command {
    /// Make these resources be as written; all or nothing.
    Apply {
        /// What was written, from `manifest::parse`.
        manifests: Vec<Manifest>,
        /// What servers of the manifests show now, where somebody could look.
        discovered: BTreeMap<String, Result<Vec<ToolDefinition>, String>>,
    },
    /// Make these resources go; all or nothing.
    Delete {
        /// What should go.
        resources: Vec<ResourceRef>,
    },
    /// Let resources be as written for a share of the data planes first.
    BeginRollout(rollout::BeginRollout),
    /// Let the change under way go to the next share, and from the last to everybody.
    AdvanceRollout(rollout::AdvanceRollout),
    /// Let the change under way count for nobody.
    TakeBackRollout(rollout::TakeBackRollout),
    /// Record an admin-granted consent and a token for it.
    IssueToken(IssueToken),
    /// What the authorization server asks for.
    Wish(Wish),
    /// Pause an agent, let it go on, or retire it.
    SetAgentState(life::SetAgentState),
    /// Take authority away.
    Revoke(revocation::Revoke),
    /// Go on with what ends and passes on with somebody who is inactive; whoever is active loses nothing.
    SeeOff {
        /// Their user.
        user: String,
    },
    /// Keep on record since when a revocation is in force where.
    RecordReceipt(receipt::RecordReceipt),
    /// What a data plane saw on a server: the first sight pins, later differences are drift.
    ReportTools {
        /// The server.
        server: String,
        /// What it shows.
        tools: Vec<ToolDefinition>,
    },
    /// Accept what a server shows as the approved definitions.
    PinTools {
        /// The server.
        server: String,
        /// Only these tools; empty: all that differ.
        tools: Vec<String>,
        /// What the server shows now, where somebody could look; otherwise what was last observed counts.
        discovered: Option<Vec<ToolDefinition>>,
    },
    /// A node's signing key for its present run; its epoch is the revision at which this is applied.
    RegisterNode {
        /// The node's name.
        node: String,
        /// What it is.
        role: node::Role,
        /// Raw Ed25519 public key.
        public_key: [u8; 32],
    },
    /// The key of a data plane's next run, which gets its epoch in advance: the revision at which this is applied.
    ReserveEpoch {
        /// The node's name.
        node: String,
        /// The epoch of its present run, which alone may ask.
        run: u64,
        /// Raw Ed25519 public key.
        public_key: [u8; 32],
    },
    /// The run that was reserved has begun.
    BeginReserved {
        /// The node's name.
        node: String,
        /// The run's epoch.
        epoch: u64,
        /// Raw Ed25519 public key.
        public_key: [u8; 32],
    },
    /// The ledger's next checkpoint, if it extends the last one.
    CommitCheckpoint(checkpoint::CommitCheckpoint),
    /// A public key that signs access tokens.
    RegisterTokenKey(token_key::TokenKey),
    /// Another key in use, or one less believed.
    Keys(key_rotation::KeyWish),
    /// Who signs tokens and what audiences are made from.
    SetIssuer(token_key::Issuer),
    /// Begin a cluster, or begin it anew from a backup, with one member.
    FoundCluster(member::FoundCluster),
    /// Leave for somebody to become a member.
    CreateJoinToken(join_token::CreateJoinToken),
    /// Become a member.
    Enrol(member::Enrol),
    /// Get a fresh certificate, as a member; a control plane may say that it listens elsewhere now.
    RenewMember(member::RenewMember),
    /// Be a member no more.
    RemoveMember(member::RemoveMember),
    /// Keep a secret in its next edition.
    SealSecret(secret::SealSecret),
    /// Announce a secret for servers or identity providers, before it is sealed.
    SetCredential {
        /// Its name.
        name: String,
        /// For whom.
        audience: credential::Audience,
    },
    /// Deliver such a secret no more.
    DeleteCredential {
        /// Its name.
        name: String,
    },
    /// Let a directory in by a token.
    CreateScimToken(scim_token::CreateScimToken),
    /// Let nobody in by it any more.
    RevokeScimToken {
        /// Its name.
        name: String,
    },
    /// All secrets are sealed under the master key of this name now.
    RotateMasterKey {
        /// Its name.
        master: String,
    },
}

/// A tool as its server shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolDefinition {
    /// The tool's own name.
    pub name: String,
    /// The whole tool object as JSON; canonicalised here.
    pub json: String,
}

/// A wish for a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssueToken {
    /// On whose behalf calls are made.
    pub user: String,
    /// Who makes them.
    pub agent: String,
    /// Where.
    pub virtual_server: String,
    /// The most harmful tier it is good for; absent: the agent's ceiling.
    pub level: Option<Tier>,
    /// How long, in seconds.
    pub ttl_seconds: u64,
    /// Why; kept on the consent.
    pub reason: String,
    /// The OAuth client it is issued to.
    pub client: String,
}

/// What a decision may depend on besides state and command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Context {
    /// Microseconds since 1970, UTC.
    pub now_micros: u64,
    /// Who asks, e.g. `admin`, `node:dp-1`.
    pub actor: String,
    /// Identifies the request across retries; empty: the request cannot be retried safely.
    pub request_id: String,
    /// Identifiers nobody has used before; taken where a command needs one.
    pub ids: FreshIds,
}

/// Unguessable identifiers, made by the server for each request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FreshIds {
    /// For a consent, e.g. `c-5f0c…`.
    pub consent: String,
    /// For a session (`sid`).
    pub session: String,
    /// For a token (`jti`).
    pub token: String,
}

/// What follows from a command.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// To replicate, in order and together; empty: nothing changes.
    pub events: Vec<Event>,
    /// To give once the events are committed.
    pub answer: Answer,
    /// The request had been carried out before, at this revision; `events` is empty.
    pub repeated: Option<u64>,
    /// Worth telling whoever asked, although it refuses nothing.
    pub warnings: Vec<String>,
}

/// The answer to a command.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Answer {
    /// Nothing to say beyond the revision.
    #[default]
    Done,
    /// What happened to each resource (Apply, Delete, PinTools).
    Changes(Vec<ResourceChange>),
    /// What the rollout changes for whom it counts (BeginRollout, AdvanceRollout, TakeBackRollout).
    Rollout(rollout::Stepped),
    /// What the token says (IssueToken).
    Granted(Grant),
    /// What came of it (Wish).
    Fulfilled(Fulfilled),
    /// What was taken away (Revoke).
    Revoked(revocation::Revoked),
    /// Until when the join token is good, Unix seconds (CreateJoinToken).
    JoinToken {
        /// Unix seconds.
        expires_at: u64,
    },
    /// The member's node id; 0 for all but control planes (FoundCluster, Enrol, RenewMember).
    Member {
        /// The id.
        node_id: u64,
    },
}

/// What happened, or with a dry run would happen, to one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceChange {
    /// Which.
    pub resource: ResourceRef,
    /// What happened.
    pub action: Action,
    /// Its manifest before, without status.
    pub before: Option<Value>,
    /// Its manifest after, without status.
    pub after: Option<Value>,
}

/// What happened to a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It is new.
    Created,
    /// It is different.
    Configured,
    /// It was already so.
    Unchanged,
    /// It is gone.
    Deleted,
    /// It stays, and may do nothing any more.
    Deactivated,
    /// It stays to be looked at, and counts no more.
    Revoked,
    /// It stays as it is; what it has begun is over.
    SessionsEnded,
}

impl Action {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Deleted => "deleted",
            Self::Deactivated => "deactivated",
            Self::Revoked => "revoked",
            Self::SessionsEnded => "sessions ended",
        }
    }
}

/// Everything a token for a consent says; signing it is the server's work.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// `consent_id`.
    pub consent: String,
    /// `sid`.
    pub session: String,
    /// `jti`.
    pub jti: String,
    /// `sub`.
    pub user: String,
    /// `agent_sub`.
    pub agent: String,
    /// The agents through which it came, the latest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier_agents: Vec<String>,
    /// `project_id`.
    pub project: String,
    /// `client_id`.
    pub client: String,
    /// The last part of `aud`.
    pub virtual_server: String,
    /// The consent's level.
    pub level: Tier,
    /// `iat`, Unix seconds.
    pub issued_at: u64,
    /// `exp`, Unix seconds.
    pub expires_at: u64,
}

/// Decides a command.
///
/// # Errors
/// A [`Rejection`] says why nothing happens.
pub fn decide(state: &State, command: Command, context: &Context) -> Result<Decision, Rejection> {
    let mut decision = decide_itself(state, command, context)?;
    leaver::see_off(state, &mut decision, context)?;
    handed_on::end_descendants(state, &mut decision, context);
    Ok(decision)
}

fn decide_itself(state: &State, command: Command, context: &Context) -> Result<Decision, Rejection> {
    requests::check(context)?;
    if let Some(earlier) = state.requests.earlier(&context.request_id) {
        return repeat(state, &command, earlier, context);
    }
    match command {
        Command::Apply { manifests, discovered } => apply::decide_apply(state, &manifests, &discovered, context),
        Command::Delete { resources } => apply::decide_delete(state, &resources, context),
        Command::BeginRollout(wish) => rollout::decide_begin(state, &wish, context),
        Command::AdvanceRollout(wish) => rollout::decide_advance(state, &wish, context),
        Command::TakeBackRollout(wish) => rollout::decide_take_back(state, &wish, context),
        Command::IssueToken(wish) => consent::decide_issue(state, wish, context),
        Command::Wish(wish) => wish::decide(state, wish, context),
        Command::SetAgentState(wish) => life::decide_set(state, &wish, context),
        Command::Revoke(wish) => revocation::decide_revoke(state, &wish, context),
        Command::SeeOff { user } => Ok(leaver::decide_rest(state, &user, context)),
        Command::RecordReceipt(wish) => receipt::decide_record(state, wish, context),
        Command::ReportTools { server, tools } => tool::decide_report(state, &server, &tools, context),
        Command::PinTools { server, tools, discovered } => {
            tool::decide_pin(state, &server, &tools, discovered.as_deref(), context)
        }
        Command::RegisterNode { node, role, public_key } => {
            node::decide_register(state, &node, role, public_key, context)
        }
        Command::ReserveEpoch { node, run, public_key } => {
            reserve::decide_reserve(state, &node, run, public_key, context)
        }
        Command::BeginReserved { node, epoch, public_key } => {
            reserve::decide_begin(state, &node, epoch, public_key, context)
        }
        Command::CommitCheckpoint(commit) => checkpoint::decide_commit(state, &commit, context),
        Command::RegisterTokenKey(key) => token_key::decide_register(state, key, context),
        Command::Keys(wish) => key_rotation::decide(state, wish, context),
        Command::SetIssuer(issuer) => token_key::decide_set_issuer(state, issuer, context),
        Command::FoundCluster(wish) => member::decide_found(state, wish, context),
        Command::CreateJoinToken(wish) => join_token::decide_create(state, wish, context),
        Command::Enrol(wish) => member::decide_enrol(state, wish, context),
        Command::RenewMember(wish) => member::decide_renew(state, wish, context),
        Command::RemoveMember(wish) => member::decide_remove(state, &wish, context),
        Command::SealSecret(wish) => secret::decide_seal(state, wish, context),
        Command::SetCredential { name, audience } => credential::decide_set(state, name, audience, context),
        Command::DeleteCredential { name } => credential::decide_delete(state, name, context),
        Command::CreateScimToken(wish) => scim_token::decide_create(state, wish, context),
        Command::RevokeScimToken { name } => scim_token::decide_revoke(state, name, context),
        Command::RotateMasterKey { master } => secret::decide_rotated(state, master, context),
    }
}

/// The answer a request got before, as far as it can still be told.
fn repeat(
    state: &State,
    command: &Command,
    earlier: &requests::Remembered,
    context: &Context,
) -> Result<Decision, Rejection> {
    let answer = match command {
        Command::IssueToken(_) => {
            earlier.consent.as_deref().and_then(|id| consent::grant_of(state, id)).map_or(Answer::Done, Answer::Granted)
        }
        Command::Apply { manifests, .. } => Answer::Changes(apply::unchanged(state, manifests)),
        Command::Delete { .. } | Command::PinTools { .. } | Command::SetAgentState(_) => Answer::Changes(Vec::new()),
        Command::BeginRollout(_) => rollout::repeat(state, None),
        Command::AdvanceRollout(rollout::AdvanceRollout { rollout, .. })
        | Command::TakeBackRollout(rollout::TakeBackRollout { rollout, .. }) => rollout::repeat(state, *rollout),
        Command::Revoke(wish) => revocation::repeat(state, wish, earlier.revision, context),
        Command::CreateJoinToken(wish) => join_token::repeat(state, wish)?,
        Command::CreateScimToken(wish) => scim_token::repeat(state, wish)?,
        Command::FoundCluster(member::FoundCluster { name, .. })
        | Command::Enrol(member::Enrol { name, .. })
        | Command::RenewMember(member::RenewMember { name, .. }) => {
            Answer::Member { node_id: state.members.get(name).map_or(0, |member| member.node_id) }
        }
        // What is used once is not given again.
        Command::Wish(_)
        | Command::SeeOff { .. }
        | Command::RecordReceipt(_)
        | Command::ReportTools { .. }
        | Command::RegisterNode { .. }
        | Command::ReserveEpoch { .. }
        | Command::BeginReserved { .. }
        | Command::CommitCheckpoint(_)
        | Command::RegisterTokenKey(_)
        | Command::Keys(_)
        | Command::SetIssuer(_)
        | Command::RemoveMember(_)
        | Command::SealSecret(_)
        | Command::SetCredential { .. }
        | Command::DeleteCredential { .. }
        | Command::RevokeScimToken { .. }
        | Command::RotateMasterKey { .. } => Answer::Done,
    };
    Ok(Decision { answer, repeated: Some(earlier.revision), ..Decision::default() })
}

impl Context {
    /// An event of this request.
    pub(crate) fn event(&self, change: impl Into<Change>) -> Event {
        Event {
            actor: self.actor.clone(),
            request_id: self.request_id.clone(),
            time: self.now_micros,
            change: change.into(),
        }
    }

    /// Unix seconds.
    pub(crate) const fn now_seconds(&self) -> u64 {
        self.now_micros / 1_000_000
    }
}

impl Decision {
    pub(crate) fn done(events: Vec<Event>) -> Self {
        Self { events, ..Self::default() }
    }
}
