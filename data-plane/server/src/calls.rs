//! The life of one permitted call: gate, intent, forward, outcome, release.
//!
//! Called by `listener` as work that goes on without it, so that a client that goes away cancels the forwarding but never
//! the recording. The order is the promise: nothing is forwarded before its intent is recorded, nothing is released before
//! its outcome is. A crash between the two leaves an intent without outcome, which the next run declares unknown.
//! Recording and connecting may take a while, so what permits the call is asked once more before it is forwarded, and
//! lease and revocation at its first byte. When the caller's authority is taken away later, the forwarding is cut and the
//! outcome is unknown. What the server says while it works goes to the client at once (`forwarding`).
//! Deliberately absent: admission and all shapes (`data-plane/core`), durability (`recorder`).

mod answers;
mod enquiries;
mod forwarding;
mod levels;
mod parking;
mod passage;
mod tasks;

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use bailiwick_data_plane_core::{
    Caller, Config,
    admission::{SpoolLevel, Wanted, admit, node_gate},
    edge::{Call, DeniedCall, HttpReply, Names, PermittedCall, refuse_call},
    forward::{self, Answer, Answerer, Keepsake},
    naming::Naming,
    operation::{CANCELLED, Ended},
    records::{Attempt, binding_of_claims, binding_unproven, committed},
    sealed::request_state::{RequestState, Subject},
};
use bailiwick_ledger_core::record::{Commitment, DecisionRecord, Effect, Kind, Outcome, Record, Status};
use bailiwick_proto::{Reason, mcp::Era, names::SERVER_NAME_CHARS_MAX, scope::Scopes};
use bailiwick_runtime::{Shutdown, Supervisor};
use bailiwick_token::Claims;

use self::forwarding::{Forwarding, Said, principal};
use crate::{
    commitments::CommitmentKey,
    config_state::ConfigState,
    listening::Listeners,
    metrics::Metrics,
    random,
    recorder::{Recorded, Recorder, now_ts},
    telemetry::Cause,
    upstream::{Gate, Upstream, UpstreamFault},
};

/// What every call needs; shared by reference.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) state: Arc<ConfigState>,
    pub(crate) recorder: Recorder,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) commitments: CommitmentKey,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) supervisor: Supervisor,
    /// What clients answer servers, and who waits for it.
    pub(crate) answers: Arc<Answers>,
    /// Calls that wait for a client's input.
    pub(crate) kept: Arc<Kept>,
    /// From which level on clients want logs.
    pub(crate) levels: Arc<Levels>,
    /// Who listens to changes.
    pub(crate) listeners: Arc<Listeners>,
}

/// Who asks, under which configuration and id.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) config: Arc<Config>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) request_id: String,
    pub(crate) config_age_ms: u64,
    pub(crate) arrived: Instant,
    /// What this makes necessary is told as caused by it.
    pub(crate) cause: Cause,
}

pub(crate) use self::{
    answers::{Answers, NotBrought},
    forwarding::{Outlet, principal_with},
    levels::Levels,
    parking::Kept,
    tasks::News,
};

/// How forwarding ended.
enum Forwarded {
    Answered(Box<Answer>, u64),
    Cancelled,
    /// The caller's authority was taken away meanwhile.
    Cut(Reason),
}

impl Calls {
    /// Records an admission's refusal; the reply to send.
    pub(crate) async fn deny(&self, asked: &Asked, denied: DeniedCall) -> HttpReply {
        self.metrics.calls_decided.inc();
        self.metrics.calls_denied.inc();
        let DeniedCall { call, decision, reply } = denied;
        let reason = decision.reason.unwrap_or(Reason::ToolUnknown);
        if let Some(error) = &decision.policy_error {
            tracing::warn!(error, request_id = asked.request_id, "a policy could not be evaluated");
        }
        tracing::info!(
            request_id = asked.request_id,
            user = asked.caller.user,
            agent = asked.caller.agent,
            method = call.method,
            name = call.tool(),
            %reason,
            "call denied"
        );
        let attempt = asked.attempt(&call, &decision);
        let args = self.committed(asked, &call);
        match self.recorder.denied(attempt.denied(now_ts(), reason, args)).await {
            Ok(_) => reply,
            Err(unrecorded) => refuse_call(&call, asked.names(), unrecorded, &[]),
        }
    }

    /// Records that this node could not take a permitted call on; the reply to send.
    pub(crate) async fn refuse(&self, asked: &Asked, permitted: &PermittedCall, reason: Reason) -> HttpReply {
        let PermittedCall { call, decision, .. } = permitted;
        let args = self.committed(asked, call);
        let recorded = self.recorder.denied(asked.attempt(call, decision).denied(now_ts(), reason, args)).await;
        refuse_call(call, asked.names(), recorded.err().unwrap_or(reason), &decision.policies)
    }

    /// Carries a permitted call through; the reply to send. What comes before it goes to `outlet`. `cancel` is requested
    /// when nobody waits for it any more.
    pub(crate) async fn carry(
        &self,
        asked: Asked,
        permitted: Arc<PermittedCall>,
        cancel: Shutdown,
        outlet: Outlet,
    ) -> HttpReply {
        let (call, decision) = (&permitted.call, &permitted.decision);
        let tier = permitted.found.tier();
        let attempt = asked.attempt(call, decision);
        let refuse = |reason| refuse_call(call, asked.names(), reason, &decision.policies);
        let args = self.committed(&asked, call);
        // How full the spool is, the recorder asks itself.
        if let Some(reason) = node_gate(tier, self.state.freshness(), SpoolLevel::Free) {
            return self.refuse(&asked, &permitted, reason).await;
        }
        let intent = match self.recorder.intent(attempt.intent(now_ts(), args.clone()), tier).await {
            Ok(recorded) => recorded,
            Err(refused) => {
                match refused.recorded {
                    Some(intent) => self.close_unsent(&attempt, intent, refused.reason, tier).await,
                    None if refused.reason == Reason::SpoolPressure => {
                        // Refusals still have room; if not, the client is refused all the same.
                        let _unrecorded = self.recorder.denied(attempt.denied(now_ts(), refused.reason, args)).await;
                    }
                    None => {}
                }
                return refuse(refused.reason);
            }
        };
        if let Some((reason, scope)) = self.no_longer(&asked, &permitted) {
            self.close_unsent(&attempt, intent, reason, tier).await;
            return refuse(reason).needing(call, scope);
        }
        let sent = Instant::now();
        let forwarded = self.forward(&asked, &permitted, &cancel, &outlet).await;
        let latency = sent.elapsed();
        self.metrics.upstream_seconds.observe(latency.as_secs_f64());
        let latency_us = u64::try_from(latency.as_micros()).ok();
        let (reply, outcome, result) = match forwarded {
            Forwarded::Answered(answer, bytes) => {
                let Answer { reply, status, error_code, payload } = *answer;
                // What a task costs, the call that began it has cost.
                let called = decision.tool().filter(|_| call.task.is_none());
                let cost = called.and_then(|tool| tool.cost.clone());
                let outcome = Outcome { status, error_code, latency_us, bytes: Some(bytes), cost };
                let result = payload.map(|payload| self.commit(&asked.request_id, "result", Some(payload.get())));
                (reply, outcome, result)
            }
            Forwarded::Cancelled => {
                let reply = HttpReply { ended: Ended::without_answer(CANCELLED), ..refuse(Reason::UpstreamTimeout) };
                (reply, unknown(CANCELLED, latency_us), None)
            }
            Forwarded::Cut(reason) => (refuse(reason), unknown(reason.as_str(), latency_us), None),
        };
        let status = status_word(outcome.status);
        self.metrics.called(status);
        // The record tells it; a line for each call would cost as much as all the rest.
        tracing::debug!(
            request_id = asked.request_id,
            user = asked.caller.user,
            agent = asked.caller.agent,
            server = permitted.found.server(),
            method = call.method,
            name = call.tool(),
            status,
            latency_us,
            "call"
        );
        let record = attempt.outcome(now_ts(), intent.id, outcome, result);
        let reply = match self.recorder.outcome(record, tier).await {
            Ok(_) => reply,
            // The effect is there and the intent is on record; what came of it must not leave unrecorded.
            Err(reason) => refuse(reason),
        };
        self.metrics.call_seconds.observe(asked.arrived.elapsed().as_secs_f64());
        reply
    }

    /// Records the refusal of a request that is no well-formed call, or whose authentic token is not good here.
    pub(crate) async fn deny_request(&self, denial: RequestDenial<'_>) -> Result<u64, Reason> {
        self.recorder.denied(denial.record(now_ts())).await
    }

    /// Why the call may not be forwarded any more, by what is in force now; and with which scope it might.
    fn no_longer(&self, asked: &Asked, permitted: &PermittedCall) -> Option<(Reason, Option<Scopes>)> {
        let stale = node_gate(permitted.found.tier(), self.state.freshness(), SpoolLevel::Free);
        let config = self.state.config()?;
        if stale.is_some() || Arc::ptr_eq(&config.contents, &asked.config.contents) {
            return stale.map(|reason| (reason, None));
        }
        let wanted = Wanted { virtual_server: &permitted.call.virtual_server, what: permitted.call.what() };
        let decision = admit(&config, &asked.caller, wanted, unix_seconds());
        decision.reason.map(|reason| (reason, decision.scope_needed))
    }

    async fn forward(
        &self,
        asked: &Asked,
        permitted: &Arc<PermittedCall>,
        cancel: &Shutdown,
        outlet: &Outlet,
    ) -> Forwarded {
        let Some(server) = asked.config.servers.get(permitted.found.server()) else {
            return self.answered(asked, permitted, Err(UpstreamFault::Unreachable("not configured".to_owned())), None);
        };
        let mut forwarding = Forwarding {
            calls: self,
            asked,
            permitted: Arc::clone(permitted),
            server,
            principal: principal(&asked.caller, &permitted.call),
            id: self.upstream.next_id(),
            gate: self.gate(asked, permitted),
            outlet,
            era: None,
        };
        let answer = tokio::select! {
            biased;
            reason = self.state.taken_away(&asked.caller) => {
                forwarding.cancel();
                return Forwarded::Cut(reason);
            }
            answer = cancel.or_stop(forwarding.run()) => answer,
        };
        let Some(answer) = answer else {
            forwarding.cancel();
            return Forwarded::Cancelled;
        };
        if let Err(fault) = &answer {
            tracing::warn!(server = server.name, %fault, request_id = asked.request_id, "a call has no answer");
            if matches!(fault, UpstreamFault::Timeout(_)) {
                forwarding.cancel();
            }
        }
        let era = forwarding.era();
        self.answered(asked, permitted, answer, era)
    }

    /// What may still keep the call when its first byte could leave.
    fn gate(&self, asked: &Asked, permitted: &PermittedCall) -> Gate {
        let (state, caller, tier) = (Arc::clone(&self.state), Arc::clone(&asked.caller), permitted.found.tier());
        Gate::new(move || node_gate(tier, state.freshness(), SpoolLevel::Free).or_else(|| state.is_taken_away(&caller)))
    }

    /// `era` is the server's, where it is known.
    fn answered(
        &self,
        asked: &Asked,
        permitted: &PermittedCall,
        answer: Result<Said, UpstreamFault>,
        era: Option<Era>,
    ) -> Forwarded {
        let (response, bytes, kept) = match answer {
            Ok(Said { response, bytes, kept }) => (Ok(response), bytes, kept),
            Err(fault) => (Err(fault.reason()), 0, None),
        };
        let seal = |keepsake: Keepsake| match (keepsake, kept) {
            (Keepsake::State(_), Some(number)) => self.seal(asked, permitted, &RequestState::Waiting(number)),
            (Keepsake::State(state), None) => self.seal(asked, permitted, &state),
            (Keepsake::Task { id, ttl_ms }, _) => self.seal_task(asked, permitted, id, ttl_ms),
        };
        let prefixed = Naming::default();
        let virtual_server = asked.config.virtual_servers.get(&permitted.call.virtual_server);
        let naming = virtual_server.map_or(&prefixed, |server| &server.naming);
        let of = Answerer { naming, server: permitted.found.server(), era };
        Forwarded::Answered(Box::new(forward::answer(&permitted.call, &asked.request_id, response, of, seal)), bytes)
    }

    /// What the client has to bring back, bound to this very request.
    fn seal(&self, asked: &Asked, permitted: &PermittedCall, state: &RequestState) -> Option<String> {
        let PermittedCall { call, found, .. } = permitted;
        let subject = Subject { server: found.server(), method: call.method, salient: call.retry.salient };
        state.seal(&self.state.sealing_keys(), &asked.caller, &subject, unix_seconds(), random()?).ok()
    }

    /// The intent is on record but the call was not forwarded: its outcome says so.
    async fn close_unsent(&self, attempt: &Attempt<'_>, intent: Recorded, reason: Reason, tier: bailiwick_proto::Tier) {
        let error_code = Some(reason.as_str().to_owned());
        let outcome = Outcome { status: Status::Error, error_code, latency_us: None, bytes: None, cost: None };
        let record = attempt.outcome(now_ts(), intent.id, outcome, None);
        if let Err(error) = self.recorder.outcome(record, tier).await {
            tracing::warn!(%error, "the outcome of an unsent call is not recorded; the next run declares it unknown");
        }
    }

    fn committed(&self, asked: &Asked, call: &Call) -> Commitment {
        self.commit(&asked.request_id, "args", call.recorded().as_ref().map(|recorded| recorded.get()))
    }

    pub(crate) fn commit(&self, request_id: &str, field: &str, json: Option<&str>) -> Commitment {
        let (node, epoch) = self.recorder.chain();
        committed(&self.commitments.salt(node, epoch, request_id, field), json)
    }
}

impl Asked {
    /// What a refusal is known by.
    fn names(&self) -> Names<'_> {
        Names::of(&self.request_id, &self.caller)
    }

    fn attempt<'a>(&'a self, call: &'a Call, decision: &'a bailiwick_data_plane_core::Decision) -> Attempt<'a> {
        Attempt {
            caller: &self.caller,
            call: call.into(),
            decision,
            request_id: &self.request_id,
            config_age_ms: self.config_age_ms,
        }
    }
}

/// A refused request that never became a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestDenial<'a> {
    pub(crate) who: Who<'a>,
    pub(crate) virtual_server: &'a str,
    pub(crate) request_id: &'a str,
    pub(crate) reason: Reason,
    pub(crate) revision: u64,
    pub(crate) config_age_ms: u64,
}

/// Whom the refusal is attributed to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Who<'a> {
    Caller(&'a Caller),
    /// The claims of an authentic token.
    Claims(&'a Claims),
}

impl RequestDenial<'_> {
    fn record(&self, ts: String) -> Record {
        let reason = Some(self.reason.as_str().to_owned());
        let decision = DecisionRecord { effect: Effect::Deny, reason, policies: Vec::new(), would_be: None };
        let (user, agent, project, client, session, consent) = match self.who {
            Who::Caller(who) => (&who.user, &who.agent, &who.project, &who.client, &who.session, &who.consent),
            Who::Claims(who) => (&who.sub, &who.agent_sub, &who.project_id, &who.client_id, &who.sid, &who.consent_id),
        };
        let binding = match self.who {
            Who::Caller(who) => binding_unproven(who.bound, self.reason),
            Who::Claims(who) => binding_of_claims(who, self.reason),
        };
        Record {
            rev: Some(self.revision),
            rev_age_ms: Some(self.config_age_ms),
            user: Some(user.clone()),
            agent: Some(agent.clone()),
            project: Some(project.clone()),
            client: Some(client.clone()),
            session: Some(session.clone()),
            consent: Some(consent.clone()),
            binding,
            // As the URL says it: any text, also one that names nothing.
            virtual_server: Some(self.virtual_server.chars().take(SERVER_NAME_CHARS_MAX).collect()),
            request_id: Some(self.request_id.to_owned()),
            decision: Some(decision),
            ..Record::new(Kind::CallDenied, ts)
        }
    }
}

/// Seconds since 1970 by the wall clock, for what expires at a date.
pub(crate) fn unix_seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// What the server did is not known.
fn unknown(error_code: &str, latency_us: Option<u64>) -> Outcome {
    let error_code = Some(error_code.to_owned());
    Outcome { status: Status::Unknown, error_code, latency_us, bytes: None, cost: None }
}

const fn status_word(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::ToolError => "tool_error",
        Status::Error => "error",
        Status::Unknown => "unknown",
    }
}

#[cfg(test)]
mod tests;
