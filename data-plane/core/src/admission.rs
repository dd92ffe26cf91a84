//! Admission: may this caller call this tool now? The one rule, for listing and for calling.
//!
//! Called by `edge`. Effective authority is human ∧ agent ∧ consent ∧ policy, asked in a fixed order whose first
//! failure is the reason given: person, agent, consent, tool, quarantine, consent level, ceiling, policy. What is
//! listed is exactly what `admit` permits. Pure: the same configuration, caller, tool and second give the same answer.
//! Deliberately absent: tokens (verified before), freshness of the configuration and the spool (`node_gate`, asked
//! afterwards by the server because they are facts about the node).

use std::sync::Arc;

use bailiwick_policy::{PolicyRef, Request, RequestAgent};
use bailiwick_proto::{Reason, Tier};

use crate::{
    caller::Caller,
    config::{Config, ExposedTool, Tool},
    people::{Agent, Consent, User},
};

/// A tool as a client names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolRef<'a> {
    /// The virtual server in the URL.
    pub virtual_server: &'a str,
    /// The name towards clients.
    pub name: &'a str,
}

/// What was decided, and everything the record of it needs.
#[derive(Clone, Debug)]
pub struct Decision {
    /// Why not; `None` permits.
    pub reason: Option<Reason>,
    /// The policies that decided; empty when something before policy did.
    pub policies: Vec<PolicyRef>,
    /// Why policies could not be evaluated; for logs, not for clients.
    pub policy_error: Option<String>,
    /// The configuration's revision.
    pub revision: u64,
    /// The rollout whose candidate decided, where this node is in its share.
    pub rollout: Option<Arc<str>>,
    /// The agent's owner, where the agent is known.
    pub owner: Option<String>,
    /// The agent's project, where the agent is known.
    pub project: Option<String>,
    /// The tool, where it is known on this virtual server.
    pub tool: Option<Arc<Tool>>,
}

impl Decision {
    /// May the call go on?
    #[must_use]
    pub const fn permits(&self) -> bool {
        self.reason.is_none()
    }

    /// The tool's tier; unknown counts as destructive.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tool.as_ref().map_or(Tier::Destructive, |tool| tool.tier)
    }
}

/// Decides whether a caller may call a tool at `now_unix` (seconds).
#[must_use]
pub fn admit(config: &Config, caller: &Caller, tool: ToolRef<'_>, now_unix: i64) -> Decision {
    let exposed = config.exposed(tool.virtual_server, tool.name);
    decide(config, caller, &Parties::of(config, caller), tool.virtual_server, exposed, now_unix)
}

/// The tools a caller may call on a virtual server at `now_unix`, by name: those that [`admit`] permits.
#[must_use]
pub fn listable<'c>(config: &'c Config, caller: &Caller, virtual_server: &str, now_unix: i64) -> Vec<&'c ExposedTool> {
    let Some(server) = config.virtual_servers.get(virtual_server) else { return Vec::new() };
    let parties = Parties::of(config, caller);
    let permitted =
        |tool: &&Arc<ExposedTool>| decide(config, caller, &parties, virtual_server, Some(tool), now_unix).permits();
    server.tools.values().filter(permitted).map(AsRef::as_ref).collect()
}

/// Who a caller says they are, as far as that is known.
struct Parties {
    user: Option<User>,
    agent: Option<Agent>,
    consent: Option<Consent>,
    /// Of the agent's owner.
    owner_groups: Vec<String>,
}

impl Parties {
    fn of(config: &Config, caller: &Caller) -> Self {
        let people = &config.people;
        let agent = people.agent(&caller.agent);
        let owner = agent.as_ref().and_then(|agent| people.user(&agent.owner));
        Self {
            user: people.user(&caller.user),
            consent: people.consent(&caller.consent),
            owner_groups: owner.map(|owner| owner.groups).unwrap_or_default(),
            agent,
        }
    }

    /// Those who act, if they have any authority on this virtual server.
    fn authority(&self, caller: &Caller, virtual_server: &str) -> Result<(&User, &Agent, &Consent), Reason> {
        let user = self.user.as_ref().ok_or(Reason::UserUnknown)?;
        if !user.active {
            return Err(Reason::UserInactive);
        }
        let agent = self.agent.as_ref().ok_or(Reason::AgentUnknown)?;
        if !agent.active {
            return Err(Reason::AgentInactive);
        }
        let consent = self.consent.as_ref().ok_or(Reason::ConsentMissing)?;
        let covers = consent.user == caller.user
            && consent.agent == caller.agent
            && consent.virtual_server == virtual_server
            && caller.virtual_server == virtual_server;
        if !covers {
            return Err(Reason::ConsentMissing);
        }
        if consent.revoked {
            return Err(Reason::ConsentRevoked);
        }
        Ok((user, agent, consent))
    }
}

fn decide(
    config: &Config,
    caller: &Caller,
    parties: &Parties,
    virtual_server: &str,
    exposed: Option<&Arc<ExposedTool>>,
    now_unix: i64,
) -> Decision {
    let mut decision = Decision {
        reason: None,
        policies: Vec::new(),
        policy_error: None,
        revision: config.revision,
        rollout: config.staging.as_ref().map(|staging| Arc::clone(&staging.rollout)),
        owner: parties.agent.as_ref().map(|agent| agent.owner.clone()),
        project: parties.agent.as_ref().map(|agent| agent.project.clone()),
        tool: exposed.map(|exposed| Arc::clone(&exposed.tool)),
    };
    match standing(parties, caller, virtual_server, exposed, now_unix) {
        Err(reason) => decision.reason = Some(reason),
        Ok(standing) => ask_policies(config, caller, virtual_server, &standing, &mut decision),
    }
    decision
}

/// Who and what was found in order, so that only policy is left to ask.
struct Standing<'c> {
    user: &'c User,
    agent: &'c Agent,
    owner_groups: &'c [String],
    consent: &'c Consent,
    tool: &'c Tool,
}

/// Why a caller's authority is no longer there, whatever they want to call: person, agent or consent is gone, inactive
/// or revoked. For calls under way and for what is remembered of a caller; time alone takes nothing away here.
#[must_use]
pub fn taken_away(config: &Config, caller: &Caller) -> Option<Reason> {
    Parties::of(config, caller).authority(caller, &caller.virtual_server).err()
}

fn standing<'c>(
    parties: &'c Parties,
    caller: &Caller,
    virtual_server: &str,
    exposed: Option<&'c Arc<ExposedTool>>,
    now_unix: i64,
) -> Result<Standing<'c>, Reason> {
    let (user, agent, consent) = parties.authority(caller, virtual_server)?;
    if now_unix >= consent.expires_at {
        return Err(Reason::ConsentExpired);
    }
    let tool = exposed.map(|exposed| exposed.tool.as_ref()).ok_or(Reason::ToolUnknown)?;
    if tool.quarantined {
        return Err(Reason::ToolQuarantined);
    }
    if tool.tier > consent.level {
        return Err(Reason::ConsentLevelExceeded);
    }
    if tool.tier > agent.ceiling {
        return Err(Reason::CeilingExceeded);
    }
    Ok(Standing { user, agent, owner_groups: &parties.owner_groups, consent, tool })
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
            owner_groups: standing.owner_groups,
            project: &standing.agent.project,
            ceiling: standing.agent.ceiling,
        },
        virtual_server,
        level: standing.consent.level,
        tool: (&standing.tool.server, &standing.tool.name),
    });
    decision.policies = verdict.policies;
    decision.reason = match (&verdict.error, verdict.permit) {
        (Some(_), _) => Some(Reason::PolicyError),
        (None, false) => Some(Reason::PolicyDenied),
        (None, true) => None,
    };
    decision.policy_error = verdict.error;
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
