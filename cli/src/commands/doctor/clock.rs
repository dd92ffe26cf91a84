//! Clocks: this machine's against those of the nodes it can reach, and its own steadiness.
//!
//! A node's time comes from the `Date` of an answer, which has whole seconds, so what is known of a difference is an
//! interval; its end nearest to zero is what counts. Nodes need clocks that agree to seconds: for certificates, join
//! tokens and tokens. Order of changes, leases and elections use no wall clock.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::finding::Finding;

/// From here on people see wrong times in records.
const SKEW_WARN: Duration = Duration::from_secs(1);
/// From here on certificates and tokens may be refused.
const SKEW_FAIL: Duration = Duration::from_secs(60);
/// Wall clock against monotonic clock, while the doctor ran: more is a step, not a slew.
const JUMP_WARN: Duration = Duration::from_millis(500);
/// A `Date` has whole seconds, and servers may keep one for as long.
const DATE_RESOLUTION_MILLIS: i64 = 2_000;

/// How far another clock is ahead of this one: somewhere in an interval, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Skew {
    low: i64,
    high: i64,
}

impl Skew {
    /// From the `Date` (Unix milliseconds) of an answer to a question sent and answered at these Unix milliseconds.
    pub(crate) const fn of(date: i64, sent: i64, received: i64) -> Self {
        Self { low: date - received, high: date + DATE_RESOLUTION_MILLIS - sent }
    }

    /// The least difference that explains what was seen.
    pub(crate) const fn least(self) -> Duration {
        if self.low > 0 {
            Duration::from_millis(self.low.unsigned_abs())
        } else if self.high < 0 {
            Duration::from_millis(self.high.unsigned_abs())
        } else {
            Duration::ZERO
        }
    }
}

/// The clock of the node `name`.
pub(crate) fn check(name: &str, skew: Skew) -> Finding {
    let least = skew.least();
    let seconds = least.as_secs_f64();
    let advice = "synchronise this machine and that one (chrony, systemd-timesyncd)";
    if least > SKEW_FAIL {
        Finding::fail("clock", name, format!("differs by {seconds:.0} s or more"), advice)
    } else if least > SKEW_WARN {
        Finding::warn("clock", name, format!("differs by {seconds:.1} s or more"), advice)
    } else {
        Finding::ok("clock", name, "agrees, as far as whole seconds tell")
    }
}

/// Both clocks of this machine at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    monotonic: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self { monotonic: Instant::now(), wall: SystemTime::now() }
    }

    /// How far the wall clock has stepped against the monotonic one since.
    pub(crate) fn stepped(self) -> Duration {
        let elapsed = self.monotonic.elapsed();
        let wall = SystemTime::now();
        let expected = self.wall + elapsed;
        wall.duration_since(expected).unwrap_or_else(|error| error.duration())
    }
}

/// Whether this machine's clock kept still while the doctor ran.
pub(crate) fn check_step(stepped: Duration) -> Finding {
    if stepped > JUMP_WARN {
        let detail = format!("stepped by {:.1} s while the doctor ran", stepped.as_secs_f64());
        let advice = "let the clock be slewed, not stepped; look for two time services, or a paused virtual machine";
        return Finding::warn("clock-steady", "this machine", detail, advice);
    }
    Finding::ok("clock-steady", "this machine", "did not step while the doctor ran")
}

/// Unix milliseconds now.
pub(crate) fn now_millis() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Unix milliseconds of an HTTP date (RFC 9110, the preferred form).
pub(crate) fn date_millis(text: &str) -> Option<i64> {
    let time = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
    Some(time.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::Level;

    #[test]
    fn only_a_difference_that_whole_seconds_cannot_explain_counts() {
        for (date, sent, received, least_millis, level) in [
            // The date was cut to whole seconds, and is as old as the resolution allows.
            (10_000, 10_900, 10_950, 0, Level::Ok),
            (10_000, 11_950, 11_990, 0, Level::Ok),
            // A slow answer tells little.
            (10_000, 10_000, 40_000, 0, Level::Ok),
            (10_000, 12_900, 12_950, 900, Level::Ok),
            (10_000, 17_000, 17_010, 5_000, Level::Warn),
            (10_000, 4_990, 5_000, 5_000, Level::Warn),
            (100_000, 29_990, 30_000, 70_000, Level::Fail),
            (100_000, 172_000, 172_010, 70_000, Level::Fail),
        ] {
            let skew = Skew::of(date, sent, received);
            assert_eq!(skew.least(), Duration::from_millis(least_millis), "{date} {sent} {received}");
            assert_eq!(check("a", skew).level, level, "{date} {sent} {received}");
        }
    }

    #[test]
    fn a_step_of_the_clock_is_warned_of() {
        assert_eq!(check_step(Duration::from_millis(20)).level, Level::Ok);
        assert_eq!(check_step(Duration::from_secs(3)).level, Level::Warn);
        assert!(Moment::now().stepped() < JUMP_WARN);
    }

    #[test]
    fn http_dates_are_read() {
        assert_eq!(date_millis("Sat, 21 Nov 2026 03:30:00 GMT"), Some(1_795_231_800_000));
        assert_eq!(date_millis("yesterday"), None);
    }
}
