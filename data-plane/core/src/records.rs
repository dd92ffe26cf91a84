//! Records of uses: what the ledger is told, and when.
//!
//! Called by the recorder: `denied` instead of forwarding, `intent` before it, `outcome` before the answer is released.
//! Each names the whole attribution chain as it stood when the decision was made. Payloads appear only as salted
//! commitments. Texts from outside are bounded here, so that a record always fits its limit.
//! Deliberately absent: the chain, the spool and the clock (`data-plane/server`).

use crate::{
    admission::Decision,
    caller::{Caller, is_bound},
    edge::Call,
};
use bailiwick_ledger_core::{
    commitment::{self, SALT_BYTES},
    record::{Binding, Commitment, DecisionRecord, Effect, Kind, Outcome, PolicyRef, Record, Trace},
};
use bailiwick_proto::{
    Reason,
    mcp::{Era, RequestId},
};
use bailiwick_token::Claims;

/// Most policies named in one record. Each takes up to 100 bytes of a record of 32 KiB.
pub const POLICIES_MAX: usize = 128;
/// Longest text of a client's own choosing kept in a record.
pub const CLIENT_TEXT_CHARS_MAX: usize = 128;

/// What a client asked for: the call of a tool, or the use of a prompt or resource, which is recorded in the same way
/// under its method and without a tool.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// E.g. `resources/read`.
    pub method: &'a str,
    /// Of a call: the tool's name towards clients.
    pub tool: Option<&'a str>,
    /// The virtual server it was asked of.
    pub virtual_server: &'a str,
    /// The client's id of the request.
    pub id: &'a RequestId,
    /// How the client speaks.
    pub era: Era,
    /// Self-reported.
    pub client_name: Option<&'a str>,
    /// Self-reported.
    pub client_version: Option<&'a str>,
    /// W3C trace id.
    pub trace_id: Option<&'a str>,
}

impl<'a> From<&'a Call> for Asked<'a> {
    fn from(call: &'a Call) -> Self {
        Self {
            method: call.method,
            tool: call.tool(),
            virtual_server: &call.virtual_server,
            id: &call.id,
            era: call.era,
            client_name: call.client_name.as_deref(),
            client_version: call.client_version.as_deref(),
            trace_id: call.trace_id.as_deref(),
        }
    }
}

/// One use that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Who asked.
    pub caller: &'a Caller,
    /// For what.
    pub call: Asked<'a>,
    /// What was decided.
    pub decision: &'a Decision,
    /// The id refusals carry.
    pub request_id: &'a str,
    /// Age of the configuration that decided, milliseconds.
    pub config_age_ms: u64,
}

/// What a record says of a token's binding, for a request that was refused for this reason or for none. A bound token's
/// request is looked at no further than its proof until that holds.
#[must_use]
pub const fn binding_of(bound: bool, refused: Option<Reason>) -> Binding {
    match refused {
        Some(Reason::ProofMissing | Reason::BindingRequired) => Binding::Missing,
        Some(Reason::ProofInvalid) => Binding::Invalid,
        Some(Reason::ProofStale) => Binding::Stale,
        Some(Reason::ProofReplayed) => Binding::Replayed,
        _ if bound => Binding::Bound,
        _ => Binding::NotRequired,
    }
}

/// The same for a request that was refused before it became a call: where a bound token was refused for something else
/// than its proof, nothing is said of that.
#[must_use]
pub fn binding_unproven(bound: bool, refused: Reason) -> Option<Binding> {
    Some(binding_of(bound, Some(refused))).filter(|status| *status != Binding::Bound)
}

/// The same of an authentic token's claims.
#[must_use]
pub fn binding_of_claims(claims: &Claims, refused: Reason) -> Option<Binding> {
    binding_unproven(is_bound(claims), refused)
}

/// A commitment to a payload that is JSON text, or to nothing.
#[must_use]
pub fn committed(salt: &[u8; SALT_BYTES], json: Option<&str>) -> Commitment {
    let summary = match json {
        None => "absent".to_owned(),
        Some(json) => commitment::summarise(json).unwrap_or_else(|| "not JSON".to_owned()),
    };
    commitment::commitment(salt, json.unwrap_or_default().as_bytes(), summary)
}

impl Attempt<'_> {
    /// The call is about to be forwarded. `ts` as `bailiwick_ledger_core::time::format_ts` writes it.
    #[must_use]
    pub fn intent(&self, ts: String, args: Commitment) -> Record {
        let decision = Some(self.decision(Effect::Permit, None));
        Record { decision, args: Some(args), ..self.record(Kind::CallIntent, ts) }
    }

    /// The call was refused, by admission or by the node's own condition.
    #[must_use]
    pub fn denied(&self, ts: String, reason: Reason, args: Commitment) -> Record {
        let decision = Some(self.decision(Effect::Deny, Some(reason)));
        let binding = binding_of(self.caller.bound, Some(reason));
        Record { decision, args: Some(args), binding: Some(binding), ..self.record(Kind::CallDenied, ts) }
    }

    /// The call ended; `intent` is `bailiwick_ledger_core::record::record_id` of the intent's bytes.
    #[must_use]
    pub fn outcome(&self, ts: String, intent: String, outcome: Outcome, result: Option<Commitment>) -> Record {
        Record { intent: Some(intent), outcome: Some(outcome), result, ..self.record(Kind::CallOutcome, ts) }
    }

    fn decision(&self, effect: Effect, reason: Option<Reason>) -> DecisionRecord {
        decided(&self.decision.policies, effect, reason)
    }

    fn record(&self, kind: Kind, ts: String) -> Record {
        let Self { caller, call, decision, .. } = self;
        let tool = decision.tool();
        Record {
            rev: Some(decision.revision),
            rev_age_ms: Some(self.config_age_ms),
            rollout: decision.rollout.as_deref().map(str::to_owned),
            user: Some(caller.user.clone()),
            agent: Some(caller.agent.clone()),
            earlier_agents: Some(&decision.earlier_agents)
                .filter(|agents| !agents.is_empty())
                .map(|agents| agents.to_vec()),
            owner: decision.owner.as_deref().map(str::to_owned),
            project: Some(decision.project.as_deref().unwrap_or(&caller.project).to_owned()),
            client: Some(caller.client.clone()),
            session: Some(caller.session.clone()),
            consent: Some(caller.consent.clone()),
            binding: Some(binding_of(caller.bound, None)),
            server: decision.server().map(str::to_owned),
            tool: call.tool.map(|name| tool.map_or_else(|| bounded(name), |tool| tool.name.clone())),
            tool_hash: tool.map(|tool| tool.hash.clone()),
            tier: decision.found.as_ref().map(|found| found.tier().as_str().to_owned()),
            virtual_server: Some(call.virtual_server.to_owned()),
            request_id: Some(self.request_id.to_owned()),
            trace: Some(Trace {
                trace_id: call.trace_id.map(str::to_owned),
                jsonrpc_id: Some(call.id.to_json()),
                protocol_version: Some(call.era.version().to_owned()),
                client_name: call.client_name.map(bounded),
                client_version: call.client_version.map(bounded),
                method: Some(call.method.to_owned()),
            }),
            ..Record::new(kind, ts)
        }
    }
}

/// What was decided, and by what.
pub(crate) fn decided(
    policies: &[bailiwick_policy::PolicyRef],
    effect: Effect,
    reason: Option<Reason>,
) -> DecisionRecord {
    let policies = policies.iter().take(POLICIES_MAX);
    let policies = policies.map(|policy| PolicyRef { name: policy.name.clone(), version: policy.version });
    let reason = reason.map(|reason| reason.as_str().to_owned());
    DecisionRecord { effect, reason, policies: policies.collect(), would_be: None }
}

fn bounded(text: &str) -> String {
    text.chars().take(CLIENT_TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
