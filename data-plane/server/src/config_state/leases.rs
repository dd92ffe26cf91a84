//! The lease rule: until when this node may count on having every denial there is.
//!
//! Owned by `config_state`. A lease holds for its length from when it was **asked for**, on the monotonic clock. It
//! counts only while the configuration is at or beyond the revision its lane was opened at: what was denied before came
//! by the config stream alone. A lease that cannot count yet waits for that revision; the one before it, whose own proof
//! stands, counts on meanwhile. When the configuration goes back, nothing that was granted before counts any more, and
//! no lane opened before can grant.

use std::time::Duration;

use tokio::time::Instant;

/// One grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) asked: Instant,
    pub(super) length: Duration,
    /// From when it was asked for until what it covers is too old for anything.
    pub(super) usable: Duration,
}

/// See the file's header.
#[derive(Debug, Default)]
pub(super) struct Leases {
    /// The number of the lane that may grant.
    lane: u64,
    /// The revision it was opened at.
    floor: u64,
    /// The configuration's revision; `None` before the first.
    held: Option<u64>,
    counting: Option<Lease>,
    /// With the revision it waits for.
    waiting: Option<(u64, Lease)>,
}

impl Leases {
    /// A lane was opened at a revision; the number it grants under.
    pub(super) const fn open(&mut self, revision: u64) -> u64 {
        self.lane += 1;
        self.floor = revision;
        self.lane
    }

    /// Takes a grant. False when the lane may not grant any more.
    pub(super) fn grant(&mut self, lane: u64, lease: Lease) -> bool {
        if lane != self.lane {
            return false;
        }
        if self.held.is_some_and(|held| held >= self.floor) {
            self.count(lease);
        } else {
            self.waiting = Some((self.floor, lease));
        }
        true
    }

    /// The configuration is at this revision now, and was not beyond it before.
    pub(super) fn reached(&mut self, revision: u64) {
        self.held = Some(revision);
        if let Some((_, lease)) = self.waiting.take_if(|(floor, _)| *floor <= revision) {
            self.count(lease);
        }
    }

    /// The configuration is about to go back to this revision.
    pub(super) fn went_back(&mut self, revision: u64) {
        *self = Self { lane: self.lane + 1, held: Some(revision), ..Self::default() };
    }

    /// Goes on with one of before a restart, unless another counts already; whether it does.
    pub(super) fn resume(&mut self, lease: Lease) -> bool {
        let first = self.counting.is_none();
        self.counting.get_or_insert(lease);
        first
    }

    /// The lease that counts, though it may have run out.
    pub(super) const fn counting(&self) -> Option<Lease> {
        self.counting
    }

    fn count(&mut self, lease: Lease) {
        if self.counting.is_none_or(|counting| counting.asked <= lease.asked) {
            self.counting = Some(lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(now: Instant, seconds: u64) -> Lease {
        Lease {
            asked: now + Duration::from_secs(seconds),
            length: Duration::from_secs(3),
            usable: Duration::from_secs(60),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_waits_for_the_revision_its_lane_was_opened_at() {
        let now = Instant::now();
        let mut leases = Leases::default();
        let lane = leases.open(7);
        assert!(leases.grant(lane, lease(now, 0)));
        assert_eq!(leases.counting(), None, "nothing is held");
        leases.reached(6);
        assert_eq!(leases.counting(), None);
        assert!(leases.grant(lane, lease(now, 1)));
        leases.reached(7);
        assert_eq!(leases.counting(), Some(lease(now, 1)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_before_counts_on_while_the_next_waits() {
        let now = Instant::now();
        let mut leases = Leases::default();
        leases.reached(7);
        let first = leases.open(7);
        assert!(leases.grant(first, lease(now, 0)));
        let second = leases.open(9);
        assert!(!leases.grant(first, lease(now, 1)), "another lane has taken over");
        assert!(leases.grant(second, lease(now, 2)));
        leases.reached(8);
        assert_eq!(leases.counting(), Some(lease(now, 0)));
        leases.reached(12);
        assert_eq!(leases.counting(), Some(lease(now, 2)));
        assert!(leases.grant(second, lease(now, 1)));
        assert_eq!(leases.counting(), Some(lease(now, 2)), "an older one never replaces a younger one");
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_configuration_goes_back_nothing_counts_until_a_new_lane_grants() {
        let now = Instant::now();
        let mut leases = Leases::default();
        leases.reached(10);
        let lane = leases.open(5);
        assert!(leases.grant(lane, lease(now, 0)));
        leases.went_back(8);
        assert!(leases.counting().is_none() && !leases.grant(lane, lease(now, 1)));
        let lane = leases.open(10);
        assert!(leases.grant(lane, lease(now, 2)));
        assert_eq!(leases.counting(), None);
        leases.reached(10);
        assert_eq!(leases.counting(), Some(lease(now, 2)));
    }
}
