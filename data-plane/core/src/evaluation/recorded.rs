//! Decisions for services as the ledger is told of them.
//!
//! Called by `data-plane/server` for each decision of a request, before any of them is told. What was judged is named
//! as a call's record names it: the consent that counted, the agent's owner and project as they stood, the tool by its
//! server's own name. Invariant: a name that a service says is on record only if this node knows it as that; whatever
//! else it says nobody could take out of a ledger again. Of all of it there is a salted commitment to the request's
//! body, as there is of a call's arguments. No token was shown, so nothing is said of session and binding. Absent: the
//! chain, the clock, salts (`data-plane/server`).

use bailiwick_ledger_core::record::{Commitment, Effect, Kind, Record, Trace};
use bailiwick_proto::mcp::method;

use super::{
    Admitted, Evaluated,
    question::{Question, Words},
};
use crate::{config::Config, decision_clients::DecisionClient, records::decided};

/// What can be asked about.
const METHODS: [&str; 3] = [method::TOOLS_CALL, method::PROMPTS_GET, method::RESOURCES_READ];

/// One decision for a service.
#[derive(Clone, Copy, Debug)]
pub struct Recorded<'a> {
    /// Who asked.
    pub service: &'a DecisionClient,
    /// For what.
    pub question: &'a Question,
    /// What was decided.
    pub evaluated: &'a Evaluated,
    /// By which configuration.
    pub config: &'a Config,
    /// How old that was, milliseconds.
    pub config_age_ms: u64,
    /// The id that the answer carries; the same for all questions of one request.
    pub request_id: &'a str,
}

impl Recorded<'_> {
    /// The record. `ts` as `bailiwick_ledger_core::time::format_ts` writes it; `args` commits to the request's body.
    #[must_use]
    pub fn record(&self, ts: String, args: Commitment) -> Record {
        let Self { service, evaluated, config, .. } = self;
        let effect = if evaluated.permits() { Effect::Permit } else { Effect::Deny };
        let record = Record {
            rev: Some(config.revision),
            rev_age_ms: Some(self.config_age_ms),
            rollout: config.staging.as_ref().map(|staging| staging.rollout.as_ref().to_owned()),
            decision_client: Some(service.name.clone()),
            request_id: Some(self.request_id.to_owned()),
            decision: Some(decided(&evaluated.policies, effect, evaluated.reason)),
            args: Some(args),
            ..Record::new(Kind::DecisionEvaluated, ts)
        };
        match (self.question, &evaluated.admitted) {
            (Question::Malformed, _) => record,
            (Question::Read(words), None) => asked(config, words, record),
            (Question::Read(words), Some(admitted)) => judged(config, words, admitted, record),
        }
    }
}

/// Who and where, as far as they are known; in the words of a question that was not judged.
fn asked(config: &Config, words: &Words, record: Record) -> Record {
    let offered = words.virtual_server.as_deref().and_then(|name| Some((name, config.virtual_servers.get(name)?)));
    let is_tool = words.action == method::TOOLS_CALL && words.server.is_none();
    let tool = offered.filter(|_| is_tool).and_then(|(_, offered)| Some(&offered.tools.get(words.id.as_str())?.tool));
    let server = words.server.as_deref().filter(|name| config.servers.contains_key(*name));
    let agent = words.agent.as_deref().unwrap_or_default();
    Record {
        server: tool.map(|tool| tool.server.clone()).or_else(|| server.map(str::to_owned)),
        tool: tool.map(|tool| tool.name.clone()),
        tool_hash: tool.map(|tool| tool.hash.clone()),
        virtual_server: offered.map(|(name, _)| name.to_owned()),
        trace: method_of(words),
        ..people(config, [&words.user, agent, words.consent.as_deref().unwrap_or_default()], record)
    }
}

/// The same of one that was.
fn judged(config: &Config, words: &Words, Admitted { caller, decision }: &Admitted, record: Record) -> Record {
    let tool = decision.tool();
    Record {
        earlier_agents: Some(decision.earlier_agents.to_vec()).filter(|agents| !agents.is_empty()),
        owner: decision.owner.as_deref().map(str::to_owned),
        project: decision.project.as_deref().map(str::to_owned),
        server: decision.server().map(str::to_owned),
        tool: tool.map(|tool| tool.name.clone()),
        tool_hash: tool.map(|tool| tool.hash.clone()),
        tier: decision.found.as_ref().map(|found| found.tier().as_str().to_owned()),
        virtual_server: Some(&caller.virtual_server).filter(|name| config.virtual_servers.contains_key(*name)).cloned(),
        trace: method_of(words),
        ..people(config, [&caller.user, &caller.agent, &caller.consent], record)
    }
}

fn method_of(words: &Words) -> Option<Trace> {
    let known = METHODS.into_iter().find(|known| *known == words.action)?;
    Some(Trace { method: Some(known.to_owned()), ..Trace::default() })
}

/// Those of a person, an agent and a consent that are known, and whose client the consent is.
fn people(config: &Config, [user, agent, consent]: [&str; 3], record: Record) -> Record {
    let parties = config.people.parties(user, agent, consent);
    Record {
        user: parties.user.as_ref().map(|_| user.to_owned()),
        agent: parties.agent.as_ref().map(|_| agent.to_owned()),
        consent: parties.consent.as_ref().map(|_| consent.to_owned()),
        client: parties.consent.as_ref().map(|known| known.client.clone()),
        ..record
    }
}
