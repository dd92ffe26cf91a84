//! Records of calls: what the ledger is told, and when.
//!
//! Called by the recorder: `denied` instead of forwarding, `intent` before it, `outcome` before the answer is released.
//! Each names the whole attribution chain as it stood when the decision was made. Payloads appear only as salted
//! commitments. Texts from outside are bounded here, so that a record always fits its limit.
//! Deliberately absent: the chain, the spool and the clock (`data-plane/server`).

use bailiwick_ledger_core::{
    commitment::{self, SALT_BYTES},
    record::{Binding, Commitment, DecisionRecord, Effect, Kind, Outcome, PolicyRef, Record, Trace},
};
use bailiwick_proto::{Reason, mcp::method};
use serde_json::Value;

use crate::{admission::Decision, caller::Caller, edge::ToolCall};

/// Most policies named in one record. Each takes up to 100 bytes of a record of 32 KiB.
pub const POLICIES_MAX: usize = 128;
/// Longest text of a client's own choosing kept in a record.
pub const CLIENT_TEXT_CHARS_MAX: usize = 128;

/// One call that was asked for.
#[derive(Clone, Copy, Debug)]
pub struct Attempt<'a> {
    /// Who asked.
    pub caller: &'a Caller,
    /// For what.
    pub call: &'a ToolCall,
    /// What was decided.
    pub decision: &'a Decision,
    /// The id refusals carry.
    pub request_id: &'a str,
    /// Age of the configuration that decided, milliseconds.
    pub config_age_ms: u64,
}

/// A commitment to a payload that is JSON text, or to nothing.
#[must_use]
pub fn committed(salt: &[u8; SALT_BYTES], json: Option<&str>) -> Commitment {
    let summary = match json.map(serde_json::from_str::<Value>) {
        None => "absent".to_owned(),
        Some(Ok(value)) => commitment::summarise(&value),
        Some(Err(_)) => "not JSON".to_owned(),
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
        Record { decision, args: Some(args), ..self.record(Kind::CallDenied, ts) }
    }

    /// The call ended; `intent` is `bailiwick_ledger_core::record::record_id` of the intent's bytes.
    #[must_use]
    pub fn outcome(&self, ts: String, intent: String, outcome: Outcome, result: Option<Commitment>) -> Record {
        Record { intent: Some(intent), outcome: Some(outcome), result, ..self.record(Kind::CallOutcome, ts) }
    }

    fn decision(&self, effect: Effect, reason: Option<Reason>) -> DecisionRecord {
        let policies = self.decision.policies.iter().take(POLICIES_MAX);
        let policies = policies.map(|policy| PolicyRef { name: policy.name.clone(), version: policy.version });
        let reason = reason.map(|reason| reason.as_str().to_owned());
        DecisionRecord { effect, reason, policies: policies.collect(), would_be: None }
    }

    fn record(&self, kind: Kind, ts: String) -> Record {
        let Self { caller, call, decision, .. } = self;
        let tool = decision.tool.as_deref();
        Record {
            rev: Some(decision.revision),
            rev_age_ms: Some(self.config_age_ms),
            rollout: decision.rollout.as_deref().map(str::to_owned),
            user: Some(caller.user.clone()),
            agent: Some(caller.agent.clone()),
            owner: decision.owner.clone(),
            project: Some(decision.project.as_ref().unwrap_or(&caller.project).clone()),
            client: Some(caller.client.clone()),
            session: Some(caller.session.clone()),
            consent: Some(caller.consent.clone()),
            binding: Some(Binding::NotRequired),
            server: tool.map(|tool| tool.server.clone()),
            tool: Some(tool.map_or_else(|| bounded(&call.name), |tool| tool.name.clone())),
            tool_hash: tool.map(|tool| tool.hash.clone()),
            tier: tool.map(|tool| tool.tier.as_str().to_owned()),
            virtual_server: Some(call.virtual_server.clone()),
            request_id: Some(self.request_id.to_owned()),
            trace: Some(Trace {
                trace_id: call.trace_id.clone(),
                jsonrpc_id: Some(call.id.to_json()),
                protocol_version: Some(call.era.version().to_owned()),
                client_name: call.client_name.as_deref().map(bounded),
                client_version: call.client_version.as_deref().map(bounded),
                method: Some(method::TOOLS_CALL.to_owned()),
            }),
            ..Record::new(kind, ts)
        }
    }
}

fn bounded(text: &str) -> String {
    text.chars().take(CLIENT_TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests;
