//! Whether a server is asked at all just now, and what each request says of that.
//!
//! Called by `exchange` around every request that has an answer; `breaker` in the core decides. A fault is: no
//! connection, an untrusted certificate, a connection that breaks before the answer is whole, no head of an answer
//! within the time of a call, and HTTP 502, 503 and 504, with which a proxy says the same. Whatever else a server
//! answers shows that it is there: errors of tools and of MCP, other statuses, answers that are invalid or too large.
//! What this node keeps back says nothing. While a server is well this costs two loads of a flag.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bailiwick_data_plane_core::breaker::{Breaker, Pass, Verdict};
use bailiwick_proto::v1;

use super::{exchange::Answer, fault::UpstreamFault, metrics::OfServer};
use crate::{config::UpstreamConfig, random::random};

/// How one server stands.
#[derive(Debug)]
pub(super) struct Standing {
    began: Instant,
    /// There was a fault since the last answer: only then the rest is looked at.
    is_troubled: AtomicBool,
    breaker: Option<Mutex<Breaker>>,
    metrics: OfServer,
}

/// One request, until it is known what became of it.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    standing: &'a Standing,
    pass: Pass,
    began: Instant,
    /// Silence for so long is a fault.
    patience: Duration,
    /// The server has begun to answer.
    pub(super) is_heard: bool,
    verdict: Verdict,
}

impl Standing {
    pub(super) fn new(server: &v1::Server, limits: &UpstreamConfig, metrics: OfServer) -> Self {
        let faults = if server.breaker_faults > 0 { server.breaker_faults } else { limits.breaker_faults };
        let pause = if server.breaker_pause_ms > 0 { server.breaker_pause_ms } else { limits.breaker_pause_ms };
        let is_wanted = faults != u32::MAX && faults > 0;
        let breaker = is_wanted.then(|| Mutex::new(Breaker::new(faults, Duration::from_millis(pause))));
        Self { began: Instant::now(), is_troubled: AtomicBool::new(false), breaker, metrics }
    }

    /// Leave to ask the server.
    ///
    /// # Errors
    /// It is left alone for a while.
    pub(super) fn attempt(&self, patience: Duration) -> Result<Attempt<'_>, UpstreamFault> {
        let began = Instant::now();
        let pass = match &self.breaker {
            Some(breaker) if self.is_troubled.load(Ordering::Acquire) => {
                let mut breaker = breaker.lock().unwrap_or_else(PoisonError::into_inner);
                breaker
                    .pass(began.saturating_duration_since(self.began))
                    .map_err(|wait| UpstreamFault::Suspended(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))?
            }
            Some(_) | None => Pass::Usual,
        };
        Ok(Attempt { standing: self, pass, began, patience, is_heard: false, verdict: Verdict::Unknown })
    }

    fn ended(&self, pass: Pass, verdict: Verdict) {
        let Some(breaker) = &self.breaker else { return };
        if !self.is_troubled.load(Ordering::Acquire) && verdict != Verdict::Failed {
            return;
        }
        let mut breaker = breaker.lock().unwrap_or_else(PoisonError::into_inner);
        let was_open = breaker.is_open();
        let [chance] = random().unwrap_or([0]);
        breaker.ended(pass, verdict, self.began.elapsed(), chance);
        self.is_troubled.store(!breaker.is_untroubled(), Ordering::Release);
        if was_open != breaker.is_open() {
            self.metrics.left_alone(!was_open);
        }
    }
}

impl Attempt<'_> {
    /// From now on the server could answer.
    pub(super) fn begins(&mut self) {
        self.began = Instant::now();
    }

    /// What became of it.
    pub(super) fn became(&mut self, answer: &Result<Answer, UpstreamFault>) {
        self.verdict = match answer {
            Ok(answer) if is_of_proxy(answer.status.as_u16()) => Verdict::Failed,
            Err(UpstreamFault::Status(status)) if is_of_proxy(*status) => Verdict::Failed,
            Err(UpstreamFault::Unreachable(_) | UpstreamFault::Untrusted(_) | UpstreamFault::Broken(_)) => {
                Verdict::Failed
            }
            Err(
                UpstreamFault::Timeout(_)
                | UpstreamFault::AddressRefused(_)
                | UpstreamFault::Busy
                | UpstreamFault::NoCredential(_)
                | UpstreamFault::NotAllowed(_)
                | UpstreamFault::Suspended(_)
                | UpstreamFault::Unusable(_)
                | UpstreamFault::Withheld(_)
                | UpstreamFault::InputRefused,
            ) => Verdict::Unknown,
            Ok(_)
            | Err(
                UpstreamFault::Invalid(_)
                | UpstreamFault::Redirected(_)
                | UpstreamFault::SessionGone
                | UpstreamFault::Status(_)
                | UpstreamFault::TooLarge(_),
            ) => Verdict::Answered,
        };
    }
}

/// Statuses with which a proxy says that there is no server behind it.
pub(super) const fn is_of_proxy(status: u16) -> bool {
    matches!(status, 502..=504)
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        // Whoever waited gave up: because of the server, if it said nothing in all its time, or nearly: who waits may
        // have begun to count before.
        let is_silent =
            self.verdict == Verdict::Unknown && !self.is_heard && self.began.elapsed() >= self.patience * 9 / 10;
        if is_silent {
            let millis = u64::try_from(self.patience.as_millis()).unwrap_or(u64::MAX);
            self.standing.metrics.fault(&UpstreamFault::Timeout(millis));
        }
        let verdict = if is_silent { Verdict::Failed } else { self.verdict };
        self.standing.ended(self.pass, verdict);
    }
}
