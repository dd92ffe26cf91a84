//! When each call of an open loop is to start.
//!
//! Calls arrive at a rate that does not depend on how fast they are answered, as those of many independent clients do.
//! Each has the time at which it was to start, and its latency counts from there: a call that had to wait for a free
//! connection waited, and says so ("coordinated omission" is to leave that out). Tokio's timers count milliseconds, far
//! too coarse for calls of a hundred microseconds; the kernel's timer (timerfd) counts as finely as it can.
//!
//! Pure but for `Alarm`.

use std::{
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::{
    io::{Errno, read},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime},
};
use tokio::io::unix::AsyncFd;

/// Calls at even distances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    first: Instant,
    distance: Duration,
}

impl Schedule {
    /// The share of thread `number` of `threads` in `rate` calls a second from `start` on: every thread has its own
    /// phase, so that all together are even too.
    pub(crate) fn share(start: Instant, rate: f64, number: u32, threads: u32) -> Self {
        let between_all = Duration::from_secs_f64(1.0 / rate);
        Self { first: start + between_all * number, distance: between_all * threads }
    }

    /// When the call of this number is to start.
    pub(crate) fn start_of(&self, call: u64) -> Instant {
        self.first
            + Duration::from_nanos(u64::try_from(self.distance.as_nanos()).unwrap_or(u64::MAX).saturating_mul(call))
    }

    /// How many calls were to start before `now`.
    pub(crate) fn due(&self, now: Instant) -> u64 {
        match now.checked_duration_since(self.first) {
            None => 0,
            Some(since) => u64::try_from(since.as_nanos() / self.distance.as_nanos().max(1)).unwrap_or(u64::MAX) + 1,
        }
    }
}

/// A timer as fine as the kernel's.
#[derive(Debug)]
pub(crate) struct Alarm(AsyncFd<OwnedFd>);

impl Alarm {
    pub(crate) fn new() -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for descriptors that close early; this one is owned here"
        )]
        let timer = AsyncFd::new(timer)?;
        Ok(Self(timer))
    }

    /// Waits until then.
    pub(crate) async fn wait_until(&self, then: Instant) -> Result<()> {
        let left = then.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // Others on this thread get their turn even when the schedule is behind.
            tokio::task::yield_now().await;
            return Ok(());
        }
        let left = Timespec::try_from(left)?;
        let once = Itimerspec { it_interval: Timespec::default(), it_value: left };
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        loop {
            let mut ready = self.0.readable().await?;
            let mut expirations = [0; 8];
            match read(self.0.get_ref(), &mut expirations) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_threads_together_start_calls_at_even_distances() {
        let start = Instant::now();
        let shares: Vec<_> = (0..4).map(|number| Schedule::share(start, 1_000.0, number, 4)).collect();
        let mut starts: Vec<_> =
            (0..3).flat_map(|call| shares.iter().map(move |share| share.start_of(call) - start)).collect();
        starts.sort_unstable();
        assert_eq!(starts, (0..12).map(Duration::from_millis).collect::<Vec<_>>());
    }

    #[test]
    fn a_call_is_due_from_its_start_on() {
        let start = Instant::now();
        let share = Schedule::share(start, 100.0, 1, 2);
        let due: Vec<_> = [0, 9, 10, 29, 30].map(|ms| share.due(start + Duration::from_millis(ms))).into();
        assert_eq!(due, [0, 0, 1, 1, 2]);
    }
}
