//! When a server that fails is left alone, and when what failed is tried again. Sans-I/O: time and chance are
//! arguments.
//!
//! A server whose connections fail so many times in a row is not asked for a pause; then one request is let through,
//! and what becomes of it decides: the server is asked again, or left alone for twice as long. Called by the server's
//! connector for each request, which says what counts as a fault: never what a server answers.

use std::time::Duration;

/// Longest pause, whatever was asked for: somebody waits for the server to come back.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Doublings after which a pause has long reached its maximum.
const DOUBLINGS_MAX: u32 = 16;

/// How a server stands. Times are durations since any moment that does not change.
#[derive(Clone, Debug)]
pub struct Breaker {
    faults_max: u32,
    pause: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Asked as ever, after so many faults in a row.
    Closed { faults: u32 },
    /// Left alone until then, for the so-manieth time.
    Open { until: Duration, times: u32 },
    /// One request finds out.
    Trying { times: u32 },
}

/// Leave to ask a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// As ever.
    Usual,
    /// The one request that finds out.
    Trial,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server can be reached.
    Answered,
    /// It cannot.
    Failed,
    /// Nothing was learned.
    Unknown,
}

impl Breaker {
    /// Opens after so many faults in a row, at least one, for so long the first time.
    #[must_use]
    pub fn new(faults_max: u32, pause: Duration) -> Self {
        Self { faults_max: faults_max.max(1), pause, state: State::Closed { faults: 0 } }
    }

    /// Whether the server is asked as ever and has answered the last time.
    #[must_use]
    pub fn is_untroubled(&self) -> bool {
        matches!(self.state, State::Closed { faults: 0 })
    }

    /// Whether the server is left alone, or being tried.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    /// Leave to ask.
    ///
    /// # Errors
    /// The server is left alone for so long yet; zero while somebody else tries it.
    pub fn pass(&mut self, now: Duration) -> Result<Pass, Duration> {
        match self.state {
            State::Closed { .. } => Ok(Pass::Usual),
            State::Open { until, times } if until <= now => {
                self.state = State::Trying { times };
                Ok(Pass::Trial)
            }
            State::Open { until, .. } => Err(until.saturating_sub(now)),
            State::Trying { .. } => Err(Duration::ZERO),
        }
    }

    /// What became of a request that had this leave. `chance` is any number.
    pub fn ended(&mut self, pass: Pass, verdict: Verdict, now: Duration, chance: u8) {
        match (self.state, pass, verdict) {
            (State::Closed { .. }, _, Verdict::Answered) | (State::Trying { .. }, Pass::Trial, Verdict::Answered) => {
                self.state = State::Closed { faults: 0 };
            }
            (State::Closed { faults }, _, Verdict::Failed) => {
                let faults = faults.saturating_add(1);
                self.state = if faults >= self.faults_max {
                    State::Open { until: now + backoff(self.pause, 0, chance), times: 1 }
                } else {
                    State::Closed { faults }
                };
            }
            (State::Trying { times }, Pass::Trial, Verdict::Failed) => {
                let until = now + backoff(self.pause, times, chance);
                self.state = State::Open { until, times: times.saturating_add(1) };
            }
            // Somebody else may find out, at once.
            (State::Trying { times }, Pass::Trial, Verdict::Unknown) => self.state = State::Open { until: now, times },
            // Of before the server was left alone: says nothing of now.
            (State::Open { .. } | State::Trying { .. }, _, _) | (State::Closed { .. }, _, Verdict::Unknown) => {}
        }
    }
}

/// The pause before the next attempt after `times` others: doubled each time, and between three quarters and all of
/// that, so that those who failed together do not come back together.
#[must_use]
pub fn backoff(pause: Duration, times: u32, chance: u8) -> Duration {
    let whole = pause.saturating_mul(1 << times.min(DOUBLINGS_MAX)).min(PAUSE_MAX);
    whole - whole / 4 * u32::from(chance) / u32::from(u8::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAUSE: Duration = Duration::from_secs(1);

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn open() -> Breaker {
        let mut breaker = Breaker::new(3, PAUSE);
        for _ in 0..3 {
            breaker.ended(Pass::Usual, Verdict::Failed, at(0), 0);
        }
        breaker
    }

    #[test]
    fn faults_in_a_row_open_it_and_an_answer_between_them_does_not_let_them_count() {
        let mut breaker = Breaker::new(3, PAUSE);
        for verdict in
            [Verdict::Failed, Verdict::Failed, Verdict::Answered, Verdict::Failed, Verdict::Unknown, Verdict::Failed]
        {
            assert_eq!(breaker.pass(at(0)), Ok(Pass::Usual));
            breaker.ended(Pass::Usual, verdict, at(0), 0);
        }
        assert!(!breaker.is_open() && !breaker.is_untroubled());
        breaker.ended(Pass::Usual, Verdict::Failed, at(0), 0);
        assert_eq!((breaker.is_open(), breaker.pass(at(400))), (true, Err(at(600))));
    }

    #[test]
    fn one_request_tries_and_decides() {
        let mut breaker = open();
        assert_eq!(breaker.pass(at(1_000)), Ok(Pass::Trial));
        assert_eq!(breaker.pass(at(1_000)), Err(Duration::ZERO), "one at a time");
        breaker.ended(Pass::Trial, Verdict::Failed, at(1_100), 0);
        assert_eq!(breaker.pass(at(1_100)), Err(at(2_000)), "twice as long");
        assert_eq!(breaker.pass(at(3_100)), Ok(Pass::Trial));
        breaker.ended(Pass::Trial, Verdict::Unknown, at(3_200), 0);
        assert_eq!(breaker.pass(at(3_200)), Ok(Pass::Trial), "nothing was learned: the next one tries");
        breaker.ended(Pass::Usual, Verdict::Failed, at(3_200), 0);
        breaker.ended(Pass::Trial, Verdict::Answered, at(3_300), 0);
        assert!(breaker.is_untroubled());
    }

    #[test]
    fn what_was_asked_before_says_nothing_while_it_is_open() {
        let mut breaker = open();
        for verdict in [Verdict::Answered, Verdict::Failed, Verdict::Unknown] {
            breaker.ended(Pass::Usual, verdict, at(10), 0);
            assert_eq!(breaker.pass(at(10)), Err(at(990)));
        }
    }

    proptest! {
        #[test]
        fn a_pause_doubles_up_to_its_maximum_and_is_jittered_by_a_quarter(times in 0_u32..100, chance: u8) {
            let whole = PAUSE.saturating_mul(1 << times.min(6)).min(PAUSE_MAX);
            let pause = backoff(PAUSE, times, chance);
            prop_assert!(pause <= whole && pause >= whole * 3 / 4, "{pause:?} {whole:?}");
        }

        #[test]
        fn a_server_that_answers_again_is_always_asked_again(steps in prop::collection::vec((0_u8..3, 0_u64..3_000), 0..60)) {
            let (mut breaker, mut now) = (Breaker::new(2, PAUSE), 0);
            for (what, later) in steps {
                now += later;
                if let Ok(pass) = breaker.pass(at(now)) {
                    let verdict = [Verdict::Answered, Verdict::Failed, Verdict::Unknown][usize::from(what)];
                    breaker.ended(pass, verdict, at(now), what);
                }
            }
            let pass = breaker.pass(at(now) + PAUSE_MAX).unwrap();
            breaker.ended(pass, Verdict::Answered, at(now) + PAUSE_MAX, 0);
            prop_assert!(breaker.is_untroubled());
        }
    }
}
