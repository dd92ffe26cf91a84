//! The questions of one request: decided one after the other, put on record together, then told.
//!
//! Called by `decisions` once the body is read and the service known. The order is the promise: nothing is told that is
//! not in the spool, so a decision that was told survives the process. What cannot be recorded is not told at all, for
//! the request as a whole; what of it is on record by then was decided, and nobody acts on it. Refusals of requests
//! (nobody's secret, no question, too many of them) leave no record. Absent: what records say
//! (`evaluation::Recorded`), when there is no room for them (`recorder`).

use std::{slice, str};

use bailiwick_data_plane_core::{
    Config,
    admission::Freshness,
    decision_clients::DecisionClient,
    evaluation::{
        Evaluated, Recorded, TRIES_MAX, evaluate,
        question::{Asked, Question, Semantic},
    },
};
use bailiwick_proto::Reason;
use serde_json::{Value, json};

use super::super::Gateway;
use crate::{
    calls::{Calls, unix_seconds},
    recorder::now_ts,
};

/// One request's round.
pub(super) struct Round<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) calls: &'a Calls,
    pub(super) config: &'a Config,
    pub(super) service: &'a DecisionClient,
    pub(super) freshness: Freshness,
    pub(super) request_id: String,
}

/// Why no decision is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unanswered {
    /// More was asked than services may.
    TooOften,
    /// It is not on record.
    Unrecorded(Reason),
}

/// One question's decision.
struct Decided<'q> {
    question: &'q Question,
    evaluated: Evaluated,
    config_age_ms: u64,
}

impl Round<'_> {
    /// What to tell. `body` is what the questions were read from.
    pub(super) async fn answer(&self, asked: &Asked, body: &[u8]) -> Result<Value, Unanswered> {
        let (questions, semantic) = match asked {
            Asked::One(question) => (slice::from_ref(question.as_ref()), Semantic::default()),
            Asked::Several { questions, semantic } => (questions.as_slice(), *semantic),
        };
        self.take(questions.len())?;
        let (mut tries, mut all) = (TRIES_MAX, Vec::with_capacity(questions.len()));
        for question in questions {
            let decided = self.decide(question, &mut tries)?;
            let is_enough = semantic.ends_with(decided.evaluated.permits());
            all.push(decided);
            if is_enough {
                break;
            }
            if questions.len() > 1 {
                // Others wait for this worker.
                tokio::task::yield_now().await;
            }
        }
        self.record(&all, body).await?;
        all.iter().for_each(|decided| self.count(decided));
        let mut told = all.iter().map(|Decided { evaluated, config_age_ms, .. }| {
            evaluated.to_json(self.config.revision, *config_age_ms, &self.request_id)
        });
        Ok(match asked {
            Asked::One(_) => told.next().unwrap_or_default(),
            Asked::Several { .. } => json!({"evaluations": told.collect::<Vec<_>>()}),
        })
    }

    fn take(&self, questions: usize) -> Result<(), Unanswered> {
        let is_left = self.gateway.shares.take(&self.service.name, questions as u64, self.config);
        if is_left { Ok(()) } else { Err(Unanswered::TooOften) }
    }

    /// Decides one. What it took beyond the first try is taken of the share.
    fn decide<'q>(&self, question: &'q Question, tries: &mut usize) -> Result<Decided<'q>, Unanswered> {
        let before = *tries;
        let config_age_ms = self.gateway.state.age_ms();
        let evaluated = evaluate(self.config, self.service, question, (self.freshness, unix_seconds()), tries);
        self.take(before.saturating_sub(*tries).saturating_sub(1))?;
        Ok(Decided { question, evaluated, config_age_ms })
    }

    async fn record(&self, all: &[Decided<'_>], body: &[u8]) -> Result<(), Unanswered> {
        let args = self.calls.commit(&self.request_id, "args", str::from_utf8(body).ok());
        let record = |Decided { question, evaluated, config_age_ms }: &Decided<'_>| {
            let recorded = Recorded {
                service: self.service,
                question,
                evaluated,
                config: self.config,
                config_age_ms: *config_age_ms,
                request_id: &self.request_id,
            };
            recorded.record(now_ts(), args.clone())
        };
        self.calls.recorder.evaluated(all.iter().map(record)).await.map_err(Unanswered::Unrecorded)
    }

    fn count(&self, Decided { question, evaluated, .. }: &Decided<'_>) {
        self.gateway.metrics.evaluated(evaluated.reason);
        if let Some(error) = &evaluated.policy_error {
            tracing::warn!(error, request_id = self.request_id, "a policy could not be evaluated");
        }
        let (Some(reason), Question::Read(words)) = (evaluated.reason, question) else { return };
        tracing::info!(
            request_id = self.request_id,
            service = self.service.name,
            user = words.user,
            agent = words.agent,
            method = words.action,
            %reason,
            "decision denied"
        );
    }
}
