//! The configuration in force: everything a decision needs, compiled, never changed.
//!
//! Made by `catalogue` from the entries of one revision; read by `admission`, `edge` and the server's connectors
//! through an `Arc`. People, agents and consents, of which there may be a million, are in `people`. What could not be
//! read or is not safe to offer is left out and named in `warnings`: an absent user, agent, consent or tool is refused,
//! so leaving out fails closed. Revisions that change nothing here share `Contents`; those that only change people,
//! agents and consents share the `Offer`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    sync::Arc,
};

use bailiwick_proto::{Tier, v1};
use bailiwick_token::VerifyingKeys;
use serde_json::value::RawValue;

use crate::{
    decision_clients::DecisionClients,
    header_params::HeaderParam,
    naming::{Naming, Own},
    people::People,
    policies::Policies,
    search::SearchIndex,
};

/// A pinned tool of a server.
#[derive(Debug)]
pub struct Tool {
    /// Name of the server.
    pub server: String,
    /// The tool's own name there.
    pub name: String,
    /// SHA-256 of the approved definition, lower-case hex.
    pub hash: String,
    /// Effective tier.
    pub tier: Tier,
    /// Cost of one call, a decimal.
    pub cost: Option<String>,
    /// The server shows something else now.
    pub quarantined: bool,
    /// The approved definition; `None` where it must not be offered (see `Config::warnings`).
    pub definition: Option<Box<RawValue>>,
    /// Arguments that are mirrored into `Mcp-Param-…` headers.
    pub header_params: Vec<HeaderParam>,
}

/// A tool as one virtual server shows it.
#[derive(Debug)]
pub struct ExposedTool {
    /// Its name towards clients.
    pub name: String,
    /// What it is.
    pub tool: Arc<Tool>,
    /// The approved definition with the name replaced, and what else a view says; nothing else is changed.
    pub definition: Box<RawValue>,
    /// What is said of how it is shown, where anything is.
    pub view: Option<Box<View>>,
}

/// How a virtual server shows a tool otherwise than it was approved.
#[derive(Debug)]
pub struct View {
    /// As the control plane says it.
    pub said: v1::ToolView,
    /// Arguments that every call is made with; clients can neither see nor send them.
    pub fixed: Vec<(String, Box<RawValue>)>,
    /// Of the arguments that clients send, those that are mirrored into `Mcp-Param-…` headers.
    pub header_params: Vec<HeaderParam>,
}

/// A virtual server: what is behind one MCP URL.
#[derive(Debug, Default)]
pub struct VirtualServer {
    /// By the name towards clients.
    pub tools: BTreeMap<String, Arc<ExposedTool>>,
    /// The servers behind it whose prompts and resources may be asked for.
    pub servers: BTreeSet<String>,
    /// How those are named.
    pub naming: Naming,
    /// Where its tools are found by searching instead of being listed: what is searched.
    pub search: Option<Arc<SearchIndex>>,
    /// Whether any of its tools has arguments that are fixed.
    pub fixes: bool,
    /// The tier from which on it is for bound tokens only, if any.
    pub bound_from: Option<Tier>,
}

impl VirtualServer {
    /// Whether something of this tier is for bound tokens only.
    #[must_use]
    pub fn needs_binding(&self, tier: Tier) -> bool {
        self.bound_from.is_some_and(|from| tier >= from)
    }

    /// Whose prompt a client means.
    #[must_use]
    pub fn prompt(&self, name: &str) -> Option<Own> {
        self.naming.prompt_of(name).filter(|own| self.servers.contains(&own.server))
    }

    /// Whose resource or resource template a client means.
    #[must_use]
    pub fn resource(&self, uri: &str) -> Option<Own> {
        self.naming.uri_of(uri).filter(|own| self.servers.contains(&own.server))
    }
}

/// The configuration of one revision: a revision and, through `Deref`, what it contains.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The control plane's revision; 0 before the first snapshot.
    pub revision: u64,
    /// What is in force since then.
    pub contents: Arc<Contents>,
}

impl Deref for Config {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.contents
    }
}

/// Everything entries say, compiled: who there is and, through `Deref`, what is offered to them.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Digest over all entries.
    pub digest: Vec<u8>,
    /// Persons, agents and consents.
    pub people: People,
    /// All the rest.
    pub offer: Arc<Offer>,
}

impl Deref for Contents {
    type Target = Offer;

    fn deref(&self) -> &Offer {
        &self.offer
    }
}

/// What entries say of servers, tools, policies and tokens.
#[derive(Debug, Default)]
pub struct Offer {
    /// Who signs tokens and what their audiences start with.
    pub issuer: Option<v1::Issuer>,
    /// Keys that verify tokens.
    pub token_keys: VerifyingKeys,
    /// By name.
    pub servers: BTreeMap<String, Arc<v1::Server>>,
    /// By server, then by the tool's own name. Includes tools that are not shown.
    pub tools: BTreeMap<(String, String), Arc<Tool>>,
    /// By name.
    pub virtual_servers: BTreeMap<String, VirtualServer>,
    /// Compiled policies.
    pub policies: Policies,
    /// Who may ask for decisions without calling.
    pub decision_clients: DecisionClients,
    /// What was left out, one sentence each: the entry's key, a colon, and why.
    pub warnings: Vec<String>,
    /// A change in stages that counts here: this node is in its share.
    pub staging: Option<Staging>,
}

/// A rollout's candidate is in force at this node, laid over what the entries say to all.
#[derive(Clone, Debug)]
pub struct Staging {
    /// The rollout's id.
    pub rollout: Arc<str>,
    /// The policies that are in force without it.
    pub base: Policies,
}

impl Offer {
    /// The audience of tokens for a virtual server: the MCP URL, a slash and its name. `None` before an issuer is
    /// known.
    #[must_use]
    pub fn audience(&self, virtual_server: &str) -> Option<String> {
        let mcp_url = self.issuer.as_ref()?.mcp_url.trim_end_matches('/');
        Some(format!("{mcp_url}/{virtual_server}"))
    }

    /// Whether this is [`Self::audience`].
    #[must_use]
    pub fn is_audience(&self, audience: &str, virtual_server: &str) -> bool {
        let mcp_url = self.issuer.as_ref().map(|issuer| issuer.mcp_url.trim_end_matches('/'));
        let name = mcp_url.and_then(|mcp_url| audience.strip_prefix(mcp_url)?.strip_prefix('/'));
        name == Some(virtual_server)
    }

    /// A tool by its name towards clients.
    #[must_use]
    pub fn exposed(&self, virtual_server: &str, name: &str) -> Option<&Arc<ExposedTool>> {
        self.virtual_servers.get(virtual_server)?.tools.get(name)
    }
}
