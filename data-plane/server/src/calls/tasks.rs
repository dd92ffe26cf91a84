//! Tasks: their ids, sealed for those who began them, and what has become of them, told to those who listen.
//!
//! Called by `calls` for a result that says that the call goes on, and by `listening` for each `notifications/tasks`,
//! which is recorded before it is released, as asking for it is. Nothing is forwarded for it, so intent and outcome
//! follow each other at once.
//! Deliberately absent: who may be told (`listening` in the core), and what.

use bailiwick_data_plane_core::{
    Decision,
    edge::PermittedCall,
    forward::tasks::Seen,
    records::{self, Attempt},
    sealed::task::Task,
};
use bailiwick_ledger_core::record::Outcome;
use bailiwick_proto::{
    Reason, Tier,
    mcp::{Era, RequestId, method},
};

use super::{Asked, Calls, unix_seconds};
use crate::{random, recorder::now_ts};

/// To whom, and what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct News<'a> {
    /// The listener.
    pub(crate) asked: &'a Asked,
    pub(crate) virtual_server: &'a str,
    /// Of its request.
    pub(crate) id: &'a RequestId,
    /// The how manieth news of this listener's it is.
    pub(crate) number: u64,
    /// That the caller may know.
    pub(crate) decision: &'a Decision,
    /// The task, by its server's id.
    pub(crate) task: &'a str,
    pub(crate) seen: &'a Seen,
}

impl Calls {
    /// The id by which the client asks what has become of its call.
    pub(super) fn seal_task(
        &self,
        asked: &Asked,
        permitted: &PermittedCall,
        id: String,
        ttl_ms: Option<u64>,
    ) -> Option<String> {
        let tool = permitted.decision.tool()?;
        let lasts_seconds = ttl_ms.map(Task::seconds_of);
        let task = Task { server: tool.server.clone(), tool: tool.name.clone(), id, lasts_seconds };
        task.seal(&self.state.sealing_keys(), &asked.caller, unix_seconds(), random()?).ok()
    }

    /// Records that a listener is told what has become of a task.
    ///
    /// # Errors
    /// Why it must not be told: that cannot be recorded.
    pub(crate) async fn tell(&self, news: News<'_>) -> Result<(), Reason> {
        let News { asked, virtual_server, id, number, decision, task, seen } = news;
        let request_id = format!("{}.{number}", asked.request_id);
        let attempt = Attempt {
            caller: &asked.caller,
            call: records::Asked {
                method: method::TASK_TOLD,
                tool: decision.tool().map(|tool| tool.name.as_str()),
                virtual_server,
                id,
                era: Era::Modern,
                client_name: None,
                client_version: None,
                trace_id: None,
            },
            decision,
            request_id: &request_id,
            config_age_ms: self.state.age_ms(),
        };
        let subject = serde_json::json!({"taskId": task}).to_string();
        let args = self.commit(&request_id, "args", Some(&subject));
        let intent = self.recorder.intent(attempt.intent(now_ts(), args), Tier::Retrieval).await;
        let intent = intent.map_err(|refused| refused.reason)?;
        let payload = seen.payload.as_deref().unwrap_or(&seen.shown).get();
        let bytes = u64::try_from(payload.len()).ok();
        let outcome =
            Outcome { status: seen.status, error_code: seen.error_code.clone(), latency_us: None, bytes, cost: None };
        let result = Some(self.commit(&request_id, "result", Some(payload)));
        self.recorder.outcome(attempt.outcome(now_ts(), intent.id, outcome, result), Tier::Retrieval).await?;
        Ok(())
    }
}
