//! Admission: may this caller call this tool, get this prompt, read this resource now? The one rule, for listing and
//! for using.
//!
//! Called by `edge` and `listing`. Effective authority is human ∧ agent ∧ consent ∧ policy ∧ the token's scope, asked
//! in a fixed order whose first failure is the reason given: person, agent, its owner, consent, whether there is what
//! is wanted (`wanted`), a tool's quarantine, whether the consent is for it, consent level, ceiling, policy, scope,
//! binding. The last two ask for another token, so a client is sent for one only where that will do. What is listed is
//! exactly what `admit` permits. Pure: the same configuration, caller, tool and second give the same answer.
//! Deliberately absent: tokens (verified before), freshness of the configuration and the spool (`node_gate`, asked
//! afterwards by the server because they are facts about the node).

use std::sync::Arc;

use bailiwick_policy::{PolicyRef, Request, RequestAgent};
use bailiwick_proto::{Reason, Tier, scope::Scopes, v1::Server};

pub use crate::wanted::{Found, ToolRef, Wanted, What};
use crate::{
    caller::Caller,
    config::{Config, ExposedTool, Tool, VirtualServer},
    people::{Agent, Consent, Parties, User},
};

/// What was decided, and everything the record of it needs.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Why not; `None` permits.
    pub reason: Option<Reason>,
    /// The policies that decided; empty when something else did.
    pub policies: Arc<[PolicyRef]>,
    /// The scope that a token needs for this, where nothing but the caller's own, or its not being bound, is in the way.
    pub scope_needed: Option<Scopes>,
    /// Why policies could not be evaluated; for logs, not for clients.
    pub policy_error: Option<String>,
    /// The configuration's revision.
    pub revision: u64,
    /// The rollout whose candidate decided, where this node is in its share.
    pub rollout: Option<Arc<str>>,
    /// The agents through which the consent came, the latest first, where the consent is known.
    pub earlier_agents: Arc<[String]>,
    /// The agent's owner, where the agent is known.
    pub owner: Option<Arc<str>>,
    /// The agent's project, where the agent is known.
    pub project: Option<Arc<str>>,
    /// What was wanted as its server has it, where it is known on this virtual server.
    pub found: Option<Found>,
}

impl Decision {
    /// May the call go on?
    #[must_use]
    pub const fn permits(&self) -> bool {
        self.reason.is_none()
    }

    /// The tier of what is wanted; unknown counts as destructive.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.found.as_ref().map_or(Tier::Destructive, Found::tier)
    }

    /// The tool, where one was wanted, or a task of one, and is known.
    #[must_use]
    pub const fn tool(&self) -> Option<&Arc<Tool>> {
        match &self.found {
            Some(Found::Tool(tool) | Found::Task(tool)) => Some(tool),
            Some(Found::Prompt(_) | Found::Resource(_)) | None => None,
        }
    }

    /// The server, where it is known.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        self.found.as_ref().map(Found::server)
    }
}

/// Decides whether a caller may have what they want at `now_unix` (seconds).
#[must_use]
pub fn admit<'a>(config: &Config, caller: &Caller, wanted: impl Into<Wanted<'a>>, now_unix: i64) -> Decision {
    Admission::of(config, caller, now_unix).admit(wanted.into())
}

/// The tools a caller may call on a virtual server at `now_unix`, by name: those that [`admit`] permits.
#[must_use]
pub fn listable<'c>(config: &'c Config, caller: &Caller, virtual_server: &str, now_unix: i64) -> Vec<&'c ExposedTool> {
    let Some(server) = config.virtual_servers.get(virtual_server) else { return Vec::new() };
    let admission = Admission::of(config, caller, now_unix);
    let permitted = |exposed: &&Arc<ExposedTool>| {
        admission.decide(virtual_server, Ok(Found::Tool(Arc::clone(&exposed.tool)))).permits()
    };
    server.tools.values().filter(permitted).map(AsRef::as_ref).collect()
}

/// Many questions of one caller at one moment: who they are is looked up once.
#[derive(Debug)]
pub struct Admission<'c> {
    config: &'c Config,
    caller: &'c Caller,
    parties: Arc<Parties>,
    now_unix: i64,
}

impl<'c> Admission<'c> {
    /// For a caller at `now_unix` (seconds).
    #[must_use]
    pub fn of(config: &'c Config, caller: &'c Caller, now_unix: i64) -> Self {
        Self { config, caller, parties: parties(config, caller), now_unix }
    }

    /// Has the caller any authority on this virtual server now? Without it [`Admission::admit`] permits nothing.
    #[must_use]
    pub fn stands(&self, virtual_server: &str) -> bool {
        let authority = self.parties.authority(self.caller, virtual_server);
        authority.is_ok_and(|(_, _, consent)| self.now_unix < consent.expires_at)
    }

    /// The servers behind a virtual server that the caller's consent leads to, by name. The others are not to be asked
    /// anything for this caller, nor is anything of theirs to be told.
    pub fn servers<'v>(&self, virtual_server: &'v VirtualServer) -> impl Iterator<Item = &'v str> + use<'_, 'v, 'c> {
        virtual_server.servers.iter().map(String::as_str).filter(|server| self.parties.reach(server))
    }

    /// Whether the caller is known as the same, with the same authority: then only what is offered can differ.
    #[must_use]
    pub fn is_of_same_parties(&self, other: &Self) -> bool {
        self.parties == other.parties
    }

    /// As [`admit`].
    #[must_use]
    pub fn admit(&self, wanted: Wanted<'_>) -> Decision {
        self.decide(wanted.virtual_server, wanted.find(self.config))
    }

    fn decide(&self, virtual_server: &str, found: Result<Found, Reason>) -> Decision {
        let Self { config, caller, parties, now_unix } = self;
        let mut decision = Decision {
            reason: None,
            policies: Arc::default(),
            scope_needed: None,
            policy_error: None,
            revision: config.revision,
            rollout: config.staging.as_ref().map(|staging| Arc::clone(&staging.rollout)),
            earlier_agents: parties.consent.as_ref().map_or_else(Arc::default, |one| Arc::clone(&one.earlier_agents)),
            owner: parties.agent.as_ref().map(|agent| Arc::clone(&agent.owner)),
            project: parties.agent.as_ref().map(|agent| Arc::clone(&agent.project)),
            found: None,
        };
        match standing(parties, caller, virtual_server, found.as_ref(), *now_unix) {
            Err(reason) => decision.reason = Some(reason),
            Ok(standing) => {
                ask_policies(config, caller, virtual_server, &standing, &mut decision);
                ask_token(config, caller, virtual_server, standing.found.tier(), &mut decision);
            }
        }
        decision.found = found.ok();
        decision
    }
}

/// The servers behind a virtual server that may be asked for a caller, by name: see [`Admission::servers`].
#[must_use]
pub fn reachable<'c>(config: &'c Config, caller: &Caller, virtual_server: &str) -> Vec<&'c Arc<Server>> {
    let Some(offered) = config.virtual_servers.get(virtual_server) else { return Vec::new() };
    let parties = parties(config, caller);
    let servers = offered.servers.iter().filter(|server| parties.reach(server));
    servers.filter_map(|server| config.servers.get(server)).collect()
}

impl Parties {
    /// Whether the consent leads to a server.
    fn reach(&self, server: &str) -> bool {
        self.consent.as_ref().is_some_and(|consent| consent.reaches(server))
    }

    /// Those who act, if they have any authority on this virtual server.
    fn authority(&self, caller: &Caller, virtual_server: &str) -> Result<(&User, &Agent, &Consent), Reason> {
        let user = self.user.as_ref().ok_or(Reason::UserUnknown)?;
        if !user.active {
            return Err(Reason::UserInactive);
        }
        let agent = self.agent.as_ref().ok_or(Reason::AgentUnknown)?;
        // An agent acts only while somebody answers for it.
        let acts = |agent: &Agent, owner: Option<&User>| agent.active && owner.is_some_and(|owner| owner.active);
        if !acts(agent, self.owner.as_ref()) {
            return Err(Reason::AgentInactive);
        }
        let consent = self.consent.as_ref().ok_or(Reason::ConsentMissing)?;
        let covers = consent.user == caller.user
            && consent.agent == caller.agent
            && consent.client == caller.client
            && consent.virtual_server == virtual_server
            && caller.virtual_server == virtual_server;
        if !covers {
            return Err(Reason::ConsentMissing);
        }
        if consent.revoked {
            return Err(Reason::ConsentRevoked);
        }
        // Nobody acts for an agent that may not act itself.
        let stands = |(agent, owner): &(Option<Agent>, _)| {
            agent.as_ref().is_some_and(|agent| acts(agent, Option::as_ref(owner)))
        };
        if !self.earlier.iter().all(stands) {
            return Err(Reason::AgentInactive);
        }
        Ok((user, agent, consent))
    }
}

/// Who and what was found in order, so that only policy is left to ask.
struct Standing<'c> {
    user: &'c User,
    agent: &'c Agent,
    owner: Option<&'c User>,
    consent: &'c Consent,
    found: &'c Found,
}

/// Why a caller's authority is no longer there, whatever they want: person, agent, its owner or consent is gone,
/// inactive or revoked. For calls under way and for what is remembered of a caller; time alone takes nothing away here.
#[must_use]
pub fn taken_away(config: &Config, caller: &Caller) -> Option<Reason> {
    parties(config, caller).authority(caller, &caller.virtual_server).err()
}

fn parties(config: &Config, caller: &Caller) -> Arc<Parties> {
    config.people.parties(&caller.user, &caller.agent, &caller.consent)
}

fn standing<'c>(
    parties: &'c Parties,
    caller: &Caller,
    virtual_server: &str,
    found: Result<&'c Found, &Reason>,
    now_unix: i64,
) -> Result<Standing<'c>, Reason> {
    let (user, agent, consent) = parties.authority(caller, virtual_server)?;
    if now_unix >= consent.expires_at {
        return Err(Reason::ConsentExpired);
    }
    let found = found.map_err(|reason| *reason)?;
    if matches!(found, Found::Tool(tool) if tool.quarantined) {
        return Err(Reason::ToolQuarantined);
    }
    if !is_for(consent, found) {
        return Err(Reason::ConsentToolNotListed);
    }
    if found.tier() > consent.level {
        return Err(Reason::ConsentLevelExceeded);
    }
    let earlier = parties.earlier.iter().filter_map(|(agent, _)| agent.as_ref());
    if found.tier() > earlier.map(|agent| agent.ceiling).min().unwrap_or(agent.ceiling).min(agent.ceiling) {
        return Err(Reason::CeilingExceeded);
    }
    Ok(Standing { user, agent, owner: parties.owner.as_ref(), consent, found })
}

/// Whether a consent is for what was found. Prompts and resources are not listed one by one: they go with their server.
fn is_for(consent: &Consent, found: &Found) -> bool {
    match found {
        Found::Tool(tool) | Found::Task(tool) => consent.lists(&tool.server, &tool.name),
        Found::Prompt(own) | Found::Resource(own) => consent.reaches(&own.server),
    }
}

fn ask_policies(
    config: &Config,
    caller: &Caller,
    virtual_server: &str,
    standing: &Standing<'_>,
    decision: &mut Decision,
) {
    let verdict = config.policies.decide(&Request {
        user: &caller.user,
        groups: &standing.user.groups,
        agent: RequestAgent {
            name: &caller.agent,
            owner: &standing.agent.owner,
            owner_groups: standing.owner.map_or(&[], |owner| &owner.groups),
            project: &standing.agent.project,
            ceiling: standing.agent.ceiling,
        },
        virtual_server,
        level: standing.consent.level,
        bound: caller.bound,
        wanted: standing.found.wanted(),
    });
    decision.policies = verdict.policies;
    decision.reason = match (&verdict.error, verdict.permit) {
        (Some(_), _) => Some(Reason::PolicyError),
        (None, false) => Some(Reason::PolicyDenied),
        (None, true) => None,
    };
    decision.policy_error = verdict.error;
}

/// What all else permits, the token's scope must reach; and it must be bound where the virtual server says so.
fn ask_token(config: &Config, caller: &Caller, virtual_server: &str, tier: Tier, decision: &mut Decision) {
    if !decision.permits() {
        return;
    }
    let offered = config.virtual_servers.get(virtual_server);
    let needs_binding = !caller.bound && offered.is_some_and(|offered| offered.needs_binding(tier));
    let reason = match tier > caller.scope_level {
        true => Reason::ScopeInsufficient,
        false if needs_binding => Reason::BindingRequired,
        false => return,
    };
    decision.reason = Some(reason);
    decision.policies = Arc::default();
    decision.scope_needed = Some(Scopes::of_level(tier));
}

/// How current the node's configuration is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// Within the lease.
    Leased,
    /// The lease has run out, but not the longest staleness allowed.
    Unleased,
    /// Older than the longest staleness allowed, or nothing was ever received.
    Expired,
}

/// How full the node's spool is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpoolLevel {
    /// Below the watermark.
    Free,
    /// At or above the watermark: only retrieval goes on.
    Pressed,
    /// No room.
    Full,
}

/// May this node forward a permitted call of this tier in its present condition? `Some` refuses.
#[must_use]
pub const fn node_gate(tier: Tier, freshness: Freshness, spool: SpoolLevel) -> Option<Reason> {
    let reads = matches!(tier, Tier::Retrieval);
    match (freshness, spool) {
        (Freshness::Expired, _) => Some(Reason::ConfigStale),
        (Freshness::Unleased, _) if !reads => Some(Reason::ConfigStale),
        (_, SpoolLevel::Full) => Some(Reason::SpoolFull),
        (_, SpoolLevel::Pressed) if !reads => Some(Reason::SpoolPressure),
        (Freshness::Leased | Freshness::Unleased, SpoolLevel::Free | SpoolLevel::Pressed) => None,
    }
}

#[cfg(test)]
mod tests;
