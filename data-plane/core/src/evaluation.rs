//! Decisions for services that ask for them instead of calling: may this person's agent do this now?
//!
//! Called by `data-plane/server` with a question that was read (`question`) and the service that asks. A question
//! becomes a caller and something wanted, and `admission` decides it under the same configuration as a call; no rule is
//! written here a second time. There is no token, so its scope is not asked about: what a consent covers is the bound.
//! Where no consent is named, all that the person gave for this agent there are tried, and one that permits is enough.
//! Invariant: about what is not the service's to ask about it learns nothing but that. Each decision is on record
//! (`recorded`) before it is told. Absent: who asks (`decision_clients`), how often. Specification: AuthZEN Authorization API 1.0 §5 to §7; COAZ-MCP binding, draft 1, for the
//! words.

pub mod question;
mod recorded;

use std::sync::Arc;

use bailiwick_policy::PolicyRef;
use bailiwick_proto::{Reason, Tier, mcp::method};
use serde_json::{Map, Value, json};

use self::question::{Question, Words};
pub use self::recorded::Recorded;
use crate::{
    admission::{Decision, Freshness, SpoolLevel, Wanted, What, admit, node_gate},
    caller::Caller,
    config::{Config, VirtualServer},
    decision_clients::DecisionClient,
    people::Consent,
    wanted::Found,
};

/// Most consents of one person for one agent that are looked at.
const CONSENTS_READ_MAX: usize = 1_024;
/// Most of them that are tried at one virtual server: more than somebody gives who goes on consenting every day.
const CONSENTS_TRIED_MAX: usize = 64;
/// Most consents that are tried for all questions of one request: each may have every policy evaluated.
pub const TRIES_MAX: usize = 256;
/// Most virtual servers at which a server's own thing is looked for.
const PLACES_MAX: usize = 64;

/// What was decided, and what decided it.
#[derive(Clone, Debug, Default)]
pub struct Evaluated {
    /// Why not; `None` permits.
    pub reason: Option<Reason>,
    /// The policies that decided.
    pub policies: Vec<PolicyRef>,
    /// How much harm it can do, where it is known.
    pub tier: Option<Tier>,
    /// The consent that permits, or that was not enough.
    pub consent: Option<String>,
    /// Why policies could not be evaluated; for logs alone.
    pub policy_error: Option<String>,
    /// As whom, and what admission said; `None` where it was not asked.
    pub admitted: Option<Box<Admitted>>,
}

/// Who was judged, at which place, and how.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// On the consent that counted.
    pub caller: Caller,
    /// With what the record needs.
    pub decision: Decision,
}

impl Evaluated {
    /// May it go on?
    #[must_use]
    pub const fn permits(&self) -> bool {
        self.reason.is_none()
    }

    fn refused(reason: Reason) -> Self {
        Self { reason: Some(reason), ..Self::default() }
    }

    fn of(mut decision: Decision, caller: Caller) -> Self {
        Self {
            reason: decision.reason,
            policies: decision.policies.to_vec(),
            tier: decision.found.as_ref().map(Found::tier),
            consent: Some(&caller.consent).filter(|consent| !consent.is_empty()).cloned(),
            policy_error: decision.policy_error.take(),
            admitted: Some(Box::new(Admitted { caller, decision })),
        }
    }

    /// How far a refusal came; of several the one is told that came furthest.
    fn progress(&self) -> u8 {
        match self.reason {
            Some(Reason::ConsentMissing) => 0,
            Some(Reason::ConsentRevoked) => 1,
            Some(Reason::ConsentExpired) => 2,
            Some(_) | None => 3,
        }
    }

    /// As it is answered, with the revision that decided, its age in milliseconds, and the id that is on record.
    #[must_use]
    pub fn to_json(&self, revision: u64, config_age_ms: u64, request_id: &str) -> Value {
        let mut context = Map::new();
        let mut put = |key: &str, value: Value| drop(context.insert(key.to_owned(), value));
        if let Some(reason) = self.reason {
            put("reason", reason.as_str().into());
            put("sentence", reason.sentence().into());
        }
        put("revision", revision.to_string().into());
        put("config_age_ms", config_age_ms.into());
        put("request_id", request_id.into());
        put("policies", self.policies.iter().map(|policy| policy.name.as_str()).collect());
        self.tier.iter().for_each(|tier| put("tier", tier.as_str().into()));
        self.consent.iter().for_each(|consent| put("consent", consent.as_str().into()));
        json!({"decision": self.permits(), "context": context})
    }
}

/// Where a question leads at one virtual server.
struct Place<'q> {
    virtual_server: &'q str,
    /// The server whose own it is, where that is said.
    server: Option<&'q str>,
    /// The name towards clients, where it is made from the server's own.
    name: Option<String>,
}

/// Decides a question of a service at `now_unix` (seconds). Each consent that is tried takes one of `tries`, of which a
/// request has [`TRIES_MAX`] for all its questions; one that needs more is denied as too broad.
#[must_use]
pub fn evaluate(
    config: &Config,
    service: &DecisionClient,
    question: &Question,
    (freshness, now_unix): (Freshness, i64),
    tries: &mut usize,
) -> Evaluated {
    let Question::Read(words) = question else { return Evaluated::refused(Reason::QuestionMalformed) };
    if let Err(reason) = check_kinds(words) {
        return Evaluated::refused(reason);
    }
    let places = match places(config, service, words) {
        Ok(places) => places,
        Err(reason) => return Evaluated::refused(reason),
    };
    let asked = Asking::of(config, words, now_unix);
    let mut furthest: Option<Evaluated> = None;
    for place in &places {
        let Some(wanted) = wanted(words, place) else { continue };
        if !may_ask(config, service, place, wanted) {
            continue;
        }
        for caller in asked.callers(place.virtual_server) {
            if !caller.consent.is_empty() {
                let Some(left) = tries.checked_sub(1) else { return Evaluated::refused(Reason::QuestionTooBroad) };
                *tries = left;
            }
            let evaluated = decide(config, caller, (words, wanted), freshness, now_unix);
            if evaluated.permits() {
                return evaluated;
            }
            if furthest.as_ref().is_none_or(|known| evaluated.progress() > known.progress()) {
                furthest = Some(evaluated);
            }
        }
    }
    furthest.unwrap_or_else(|| Evaluated::refused(Reason::DecisionNotForClient))
}

/// That something is decided about such a subject, action and resource at all.
fn check_kinds(words: &Words) -> Result<(), Reason> {
    let of_action = match words.action.as_str() {
        method::TOOLS_CALL => "tool",
        method::PROMPTS_GET => "prompt",
        method::RESOURCES_READ => "resource",
        _unknown => return Err(Reason::MethodUnsupported),
    };
    // The word of COAZ-MCP for a person is `identity`.
    let is_person = matches!(words.subject.as_str(), "user" | "identity");
    if is_person && words.resource == of_action { Ok(()) } else { Err(Reason::QuestionUnsupported) }
}

/// Where what is asked about may be. A service that may ask about one virtual server, or one server, need not name it.
fn places<'q>(config: &'q Config, service: &'q DecisionClient, words: &'q Words) -> Result<Vec<Place<'q>>, Reason> {
    let only = |names: &'q std::collections::BTreeSet<String>, others: usize| {
        names.first().filter(|_| names.len() == 1 && others == 0).map(String::as_str)
    };
    let (places, servers) = (&service.virtual_servers, &service.servers);
    let (virtual_server, server) = match (words.virtual_server.as_deref(), words.server.as_deref()) {
        (None, None) => (only(places, servers.len()), only(servers, places.len())),
        named => named,
    };
    let at = |name: &'q str, offered: Option<&VirtualServer>| Place {
        virtual_server: name,
        server,
        name: server.zip(offered).and_then(|(server, offered)| towards_clients(offered, server, words)),
    };
    match (virtual_server, server) {
        (Some(name), _) => Ok(vec![at(name, config.virtual_servers.get(name))]),
        (None, Some(server)) => {
            let behind = config.virtual_servers.iter().filter(|(_, offered)| offered.servers.contains(server));
            Ok(behind.take(PLACES_MAX).map(|(name, offered)| at(name, Some(offered))).collect())
        }
        (None, None) => Err(Reason::QuestionMalformed),
    }
}

/// What a server's own prompt or resource is called towards clients.
fn towards_clients(offered: &VirtualServer, server: &str, words: &Words) -> Option<String> {
    if !offered.servers.contains(server) {
        return None;
    }
    match words.action.as_str() {
        method::PROMPTS_GET => Some(offered.naming.prompt(server, &words.id).into_owned()),
        method::RESOURCES_READ => Some(offered.naming.uri(server, &words.id).into_owned()),
        _tool => None,
    }
}

/// What is wanted at a place, as admission is asked; `None` where a server's own thing cannot be there.
fn wanted<'a>(words: &'a Words, place: &'a Place<'_>) -> Option<Wanted<'a>> {
    let id = if place.server.is_some() { place.name.as_deref() } else { Some(words.id.as_str()) };
    let what = match (words.action.as_str(), place.server) {
        // A tool by its server's own name, as one asks about its tasks: permitted is who may call it.
        (method::TOOLS_CALL, Some(server)) => What::Task { server, tool: &words.id },
        (method::TOOLS_CALL, None) => What::Tool(&words.id),
        (method::PROMPTS_GET, _) => What::Prompt(id?),
        (method::RESOURCES_READ, _) => What::Resource(id?),
        _unknown => return None,
    };
    Some(Wanted { virtual_server: place.virtual_server, what })
}

/// Whether this is the service's to ask about. Who may ask about a server may do so where the server is offered, and
/// learns nothing of other places by naming both.
fn may_ask(config: &Config, service: &DecisionClient, place: &Place<'_>, wanted: Wanted<'_>) -> bool {
    let offered = config.virtual_servers.get(wanted.virtual_server);
    let is_there = |server: &str| offered.is_some_and(|offered| offered.servers.contains(server));
    let is_its_own = |server: &str| service.servers.contains(server) && is_there(server);
    service.virtual_servers.contains(wanted.virtual_server)
        || match wanted.find(config) {
            Ok(found) => is_its_own(found.server()),
            Err(_unknown) => place.server.is_some_and(is_its_own),
        }
}

/// As whom what is asked about may be done.
struct Asking<'q> {
    words: &'q Words,
    agent: String,
    /// The consent that is named, with what there is of it.
    named: Option<(&'q str, Option<Consent>)>,
    /// All that the person gave for the agent where none is named, in the order in which they are tried.
    given: Vec<(Box<str>, Consent)>,
    now_unix: i64,
}

impl<'q> Asking<'q> {
    fn of(config: &Config, words: &'q Words, now_unix: i64) -> Self {
        let named = words.consent.as_ref().map(|id| (id.as_str(), config.people.consent(id)));
        let agent = words.agent.clone().or_else(|| Some(named.as_ref()?.1.as_ref()?.agent.clone())).unwrap_or_default();
        let mut given = match &named {
            Some(_) => Vec::new(),
            None => config.people.consents(&words.user, &agent, CONSENTS_READ_MAX),
        };
        given.retain(|(_, consent)| words.client.as_ref().is_none_or(|client| consent.client == *client));
        given.sort_by_key(|(_, consent)| (consent.revoked, std::cmp::Reverse(consent.expires_at)));
        Self { words, agent, named, given, now_unix }
    }

    /// Those who may do it at a virtual server: on the consent that is named, or on each that counts now. Where none
    /// does, one that does not, or nobody's, has admission say so.
    fn callers(&self, virtual_server: &str) -> Vec<Caller> {
        if let Some((id, consent)) = &self.named {
            return vec![self.caller(virtual_server, id, consent.as_ref())];
        }
        let there = || self.given.iter().filter(|(_, consent)| consent.virtual_server == virtual_server);
        let counts = |consent: &Consent| !consent.revoked && self.now_unix < consent.expires_at;
        let live = there().filter(|(_, consent)| counts(consent)).take(CONSENTS_TRIED_MAX);
        let live: Vec<_> = live.map(|(id, consent)| self.caller(virtual_server, id, Some(consent))).collect();
        match (live.is_empty(), there().next()) {
            (false, _) => live,
            (true, Some((id, past))) => vec![self.caller(virtual_server, id, Some(past))],
            (true, None) => vec![self.caller(virtual_server, "", None)],
        }
    }

    fn caller(&self, virtual_server: &str, id: &str, consent: Option<&Consent>) -> Caller {
        let client = self.words.client.as_deref().or(consent.map(|consent| consent.client.as_str()));
        Caller {
            user: self.words.user.clone(),
            agent: self.agent.clone(),
            project: String::new(),
            client: client.unwrap_or_default().to_owned(),
            consent: id.to_owned(),
            session: String::new(),
            token_id: String::new(),
            scope_level: Tier::Destructive,
            virtual_server: virtual_server.to_owned(),
            min_revision: 0,
            bound: self.words.bound,
        }
    }
}

fn decide(
    config: &Config,
    caller: Caller,
    (words, wanted): (&Words, Wanted<'_>),
    freshness: Freshness,
    now_unix: i64,
) -> Evaluated {
    let mut decision = admit(config, &caller, wanted, now_unix);
    if decision.permits() {
        // As a call goes on from here: what it may not send, and whether this node may still let it go.
        decision.reason = match sets_fixed(config, wanted.virtual_server, &decision, words) {
            true => Some(Reason::ArgumentFixed),
            false => node_gate(decision.tier(), freshness, SpoolLevel::Free),
        };
    }
    Evaluated::of(decision, caller)
}

/// Whether an argument is among those that the virtual server sets itself.
fn sets_fixed(config: &Config, virtual_server: &str, decision: &Decision, words: &Words) -> bool {
    let offered = config.virtual_servers.get(virtual_server).filter(|offered| offered.fixes);
    let (Some(offered), Some(tool)) = (offered, decision.tool()) else { return false };
    let shown = offered.tools.values().find(|exposed| Arc::ptr_eq(&exposed.tool, tool));
    let fixed = shown.and_then(|exposed| exposed.view.as_deref()).map_or(&[][..], |view| &view.fixed);
    fixed.iter().any(|(name, _)| words.arguments.contains(name))
}

#[cfg(test)]
mod tests;
