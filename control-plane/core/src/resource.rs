//! Resources as people write them: kinds, references and the `spec` of every kind that can be applied.
//!
//! Called by `manifest` (reading), by the aggregates (deciding, and as part of their events) and by `show`.
//! Field types are plain, so an event written under older, laxer rules always parses again; what a value must look
//! like is checked by [`Spec::faults`] when a manifest arrives. Absent: status, which is derived from state (`show`).

use std::{collections::BTreeMap, collections::BTreeSet, fmt, str::FromStr};

use bailiwick_proto::Tier;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::manifest::suggest;

mod checks;
pub mod client_auth;
mod command;
mod decision;
mod identity;
mod openapi;
mod people;
pub mod redirect;
mod signal_stream;
mod signals;
mod transport;
mod virtual_server;
mod workload;

pub use command::{CommandSpec, Sharing, Transport, Variable};
pub use decision::DecisionClientSpec;
pub use identity::{
    AgentClientsSpec, AssertionsSpec, ClientAuth, ClientBinding, ClientSpec, HeadlessSpec, IdentityProviderSpec,
    KEY_SET_BYTES_MAX, ProviderAlgorithm,
};
pub use openapi::OpenApiSpec;
pub use people::{GroupsSpec, Nobody, PeopleSpec, ProviderAuth, SignInSpec};
pub use signal_stream::StreamSpec;
pub use signals::{PollSpec, PushSpec, SignalEffect, SignalKind, SignalsSpec};
pub use transport::{BreakerSpec, CredentialSpec, LimitsSpec, RetrySpec, SecretRef, TlsSpec};

pub use checks::{ADMINISTRATORS_CLIENT, Fault, is_http_url, name_fault};
pub use virtual_server::{BindingSpec, Naming, ServerEntry, ToolView, ToolsShown, VirtualServerSpec};
pub use workload::{WorkloadSpec, WorkloadsSpec, trust_domain_of};

/// The only `apiVersion` so far.
pub const API_VERSION: &str = "bailiwick/v1";

/// Largest resource as JSON: fits, with its envelope, into one ledger record of 32 KiB even when escaped.
pub const SPEC_BYTES_MAX: usize = 20 * 1024;

/// How long a call to a server may take where its manifest says nothing.
pub const TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// Longest timeout that may be asked for: a call holds memory and a connection while it waits.
pub const TIMEOUT_MS_MAX: u64 = 600_000;

/// What a resource is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// An MCP server behind the gateway.
    Server,
    /// A set of servers under one URL towards clients.
    VirtualServer,
    /// A person.
    User,
    /// People named together; exists while a user names it.
    Group,
    /// A program acting for a person.
    Agent,
    /// Agents named together; exists while an agent names it.
    Project,
    /// Cedar text.
    Policy,
    /// A program that may ask for tokens.
    Client,
    /// A company's own, whose word about its people is taken.
    IdentityProvider,
    /// A service that may ask whether a call would be permitted.
    DecisionClient,
    /// What a person allowed an agent to do; comes from issuing a token.
    Consent,
    /// A data plane or ledger that registered its key.
    Node,
}

impl Kind {
    /// All kinds, in the order people should read them.
    pub const ALL: [Self; 12] = [
        Self::Server,
        Self::VirtualServer,
        Self::User,
        Self::Group,
        Self::Agent,
        Self::Project,
        Self::Policy,
        Self::Client,
        Self::IdentityProvider,
        Self::DecisionClient,
        Self::Consent,
        Self::Node,
    ];

    /// The word in manifests.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::VirtualServer => "VirtualServer",
            Self::User => "User",
            Self::Group => "Group",
            Self::Agent => "Agent",
            Self::Project => "Project",
            Self::Policy => "Policy",
            Self::Client => "Client",
            Self::IdentityProvider => "IdentityProvider",
            Self::DecisionClient => "DecisionClient",
            Self::Consent => "Consent",
            Self::Node => "Node",
        }
    }

    /// Whether a manifest of this kind may be applied; the others come into being by themselves.
    #[must_use]
    pub const fn can_be_applied(self) -> bool {
        match self {
            Self::Server
            | Self::VirtualServer
            | Self::User
            | Self::Agent
            | Self::Policy
            | Self::Client
            | Self::IdentityProvider
            | Self::DecisionClient => true,
            Self::Group | Self::Project | Self::Consent | Self::Node => false,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The word names no kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown kind \"{name}\"{hint}", name = .0, hint = suggest::hint(.0, Kind::ALL.map(Kind::as_str)))]
pub struct UnknownKind(pub String);

/// As people type it on a command line: any case, singular or plural, with or without hyphens.
impl FromStr for Kind {
    type Err = UnknownKind;
    fn from_str(word: &str) -> Result<Self, UnknownKind> {
        let typed = word.to_ascii_lowercase().replace(['-', '_'], "");
        let is_typed = |kind: &Self| {
            let name = kind.as_str().to_ascii_lowercase();
            let plural = name.strip_suffix('y').map_or_else(|| format!("{name}s"), |stem| format!("{stem}ies"));
            typed == name || typed == plural
        };
        Self::ALL.into_iter().find(is_typed).ok_or_else(|| UnknownKind(word.to_owned()))
    }
}

/// A resource by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ResourceRef {
    /// Its kind.
    pub kind: Kind,
    /// Its name.
    pub name: String,
}

impl ResourceRef {
    /// A reference.
    #[must_use]
    pub fn new(kind: Kind, name: impl Into<String>) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for ResourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// An MCP server behind the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerSpec {
    /// Where the server is reached.
    pub endpoint: Endpoint,
    /// What is decided for single tools, by the tool's own name; everything else comes from the server's annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tools: BTreeMap<String, ToolOverride>,
    /// Longest time for one call, e.g. "30s", "500ms" or "2m"; 30s where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// What the server is shown with every request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialSpec>,
    /// How long things may take, and how much may be asked at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<LimitsSpec>,
    /// When a server that fails is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerSpec>,
    /// What is sent again when a connection fails; nothing where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetrySpec>,
    /// Whether the server is told, in a signed header, on whose behalf each call is made; it is where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<bool>,
}

/// Where a server is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// An http or https URL without user, password or fragment.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// How the URL is spoken to.
    #[serde(default, skip_serializing_if = "Transport::is_default")]
    pub transport: Transport,
    /// A program that data planes run, instead of a URL; it speaks MCP over its standard input and output.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandSpec>,
    /// The URL is an HTTP API's; its operations are the server's tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub openapi: Option<OpenApiSpec>,
    /// Networks in which the server may be although they are not public, e.g. "10.2.0.0/16".
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<String>,
    /// How the server proves who it is, and the gateway too, where the system's certificates do not do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsSpec>,
}

/// What is decided for one tool instead of what its server says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ToolOverride {
    /// How much harm a call can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// What one call costs: a decimal with at most four digits after the point, in quotes, e.g. "0.02".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
}

impl ServerSpec {
    /// The call timeout in milliseconds.
    #[must_use]
    pub fn timeout_ms(&self) -> u64 {
        self.timeout.as_deref().and_then(checks::timeout_ms).unwrap_or(TIMEOUT_MS_DEFAULT)
    }
}

/// A person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UserSpec {
    /// Groups the person is in; a group exists while somebody names it.
    #[serde(default)]
    pub groups: BTreeSet<String>,
    /// Whether agents may act for this person.
    #[serde(default = "active")]
    pub active: bool,
}

/// A program acting for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AgentSpec {
    /// The user who answers for the agent.
    pub owner: String,
    /// The user who answers for it once the owner is not active any more; where absent, it stops then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<String>,
    /// The project it belongs to; a project exists while an agent names it.
    pub project: String,
    /// The most harmful tier the agent may ever use.
    #[serde(default = "safest")]
    pub ceiling: Tier,
    /// Which clients may act as this agent beside those that are registered for it.
    #[serde(default, skip_serializing_if = "AgentClientsSpec::is_default")]
    pub clients: AgentClientsSpec,
    /// Where it is in its life; an agent acts only while it is active.
    #[serde(default, skip_serializing_if = "AgentState::is_active")]
    pub state: AgentState,
    /// The last day, UTC, e.g. "2027-06-30", on which it gets tokens unless somebody has looked at it again by then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review_by: Option<String>,
    /// Whether the agent may act.
    #[serde(default = "active")]
    pub active: bool,
}

/// Where an agent is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// Somebody wants it; nobody has allowed it yet.
    Requested,
    /// It may act.
    #[default]
    Active,
    /// It may not for now; what it was allowed stands.
    Paused,
    /// It may never again.
    Retired,
}

impl AgentState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Requested, Self::Active, Self::Paused, Self::Retired];

    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Retired => "retired",
        }
    }

    fn is_active(&self) -> bool {
        *self == Self::Active
    }
}

impl AgentSpec {
    /// Whether it may act, as far as it depends on the agent alone.
    #[must_use]
    pub fn acts(&self) -> bool {
        self.active && self.state == AgentState::Active
    }

    /// Whether the day is past by which somebody should have looked at it.
    #[must_use]
    pub fn is_review_due(&self, now_seconds: u64) -> bool {
        let last_day = self.review_by.as_deref().and_then(checks::date);
        let end = last_day.and_then(|day| day.tomorrow().ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok());
        end.is_some_and(|end| u64::try_from(end.timestamp().as_second()).is_ok_and(|end| now_seconds >= end))
    }
}

/// Rules in Cedar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicySpec {
    /// Cedar policies; see docs/reference for the schema they are checked against.
    pub cedar: String,
}

/// The spec of a resource that can be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spec {
    /// Of a `Server`.
    Server(ServerSpec),
    /// Of a `VirtualServer`.
    VirtualServer(VirtualServerSpec),
    /// Of a `User`.
    User(UserSpec),
    /// Of an `Agent`.
    Agent(AgentSpec),
    /// Of a `Policy`.
    Policy(PolicySpec),
    /// Of a `Client`.
    Client(ClientSpec),
    /// Of an `IdentityProvider`.
    IdentityProvider(IdentityProviderSpec),
    /// Of a `DecisionClient`.
    DecisionClient(DecisionClientSpec),
}

impl Spec {
    /// The kind it belongs to.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Server(_) => Kind::Server,
            Self::VirtualServer(_) => Kind::VirtualServer,
            Self::User(_) => Kind::User,
            Self::Agent(_) => Kind::Agent,
            Self::Policy(_) => Kind::Policy,
            Self::Client(_) => Kind::Client,
            Self::IdentityProvider(_) => Kind::IdentityProvider,
            Self::DecisionClient(_) => Kind::DecisionClient,
        }
    }
}

const fn active() -> bool {
    true
}

pub(crate) const fn safest() -> Tier {
    Tier::Retrieval
}
