//! What is to be sent to the ledger next: a plan over sequence numbers, without records, clock or network.
//!
//! Called by `recorder::owner`, which reads the records from the spool and publishes them. One lane per epoch that
//! still has records here. Everything is sent once in order; ranges that failed, that the ledger asks for again or
//! that it seems to have missed are sent again, before new ones. Repeats are harmless: the ledger's cursor drops
//! them. Invariant per lane: `published <= stored <= sent <= end`, as far as notices have arrived.

use std::{collections::BTreeMap, ops::Range};

/// A run of records to send; at most as many as fit into one batch are taken of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    pub(crate) epoch: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
    /// Was sent before, so it needs a message id of its own.
    pub(crate) again: bool,
}

/// All values are one past the last sequence number they speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Lane {
    sent: u64,
    end: u64,
    stored: u64,
    published: u64,
}

/// The plan.
#[derive(Debug, Default)]
pub(crate) struct Shipping {
    lanes: BTreeMap<u64, Lane>,
    again: BTreeMap<u64, Range<u64>>,
}

impl Shipping {
    /// Records of `epoch` exist up to `end`; a lane that is new starts at `from`.
    pub(crate) fn extend(&mut self, epoch: u64, from: u64, end: u64) {
        let new = Lane { sent: from, end, stored: from, published: from };
        let lane = self.lanes.entry(epoch).or_insert(new);
        lane.end = lane.end.max(end);
    }

    /// What to send next; the same until [`Shipping::took`] is called.
    pub(crate) fn next_job(&self) -> Option<Job> {
        if let Some((epoch, range)) = self.again.first_key_value() {
            return Some(Job { epoch: *epoch, from: range.start, to: range.end, again: true });
        }
        let (epoch, lane) = self.lanes.iter().find(|(_, lane)| lane.sent < lane.end)?;
        Some(Job { epoch: *epoch, from: lane.sent, to: lane.end, again: false })
    }

    /// Everything of `job` below `through` is on its way (or does not exist any more).
    pub(crate) fn took(&mut self, job: &Job, through: u64) {
        if job.again {
            match self.again.get_mut(&job.epoch) {
                Some(range) if through < range.end => range.start = range.start.max(through),
                Some(_) => {
                    self.again.remove(&job.epoch);
                }
                None => {}
            }
        } else if let Some(lane) = self.lanes.get_mut(&job.epoch) {
            lane.sent = lane.sent.max(through.min(lane.end));
        }
    }

    /// This range has to be sent again.
    pub(crate) fn send_again(&mut self, epoch: u64, range: Range<u64>) {
        let Some(lane) = self.lanes.get(&epoch) else { return };
        let (start, end) = (range.start.max(lane.published), range.end.min(lane.sent));
        if start >= end {
            return;
        }
        let known = self.again.entry(epoch).or_insert(start..end);
        known.start = known.start.min(start);
        known.end = known.end.max(end);
    }

    /// The ledger asks for everything from `from` on.
    pub(crate) fn replay(&mut self, epoch: u64, from: u64) {
        self.send_again(epoch, from..u64::MAX);
    }

    /// Sends again, per lane, the first `count` records that were sent but are not known to be stored.
    pub(crate) fn resend_unstored(&mut self, count: u64) {
        let stuck: Vec<_> = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.stored < lane.sent)
            .map(|(epoch, lane)| (*epoch, lane.stored..lane.sent.min(lane.stored.saturating_add(count))))
            .collect();
        for (epoch, range) in stuck {
            self.send_again(epoch, range);
        }
    }

    /// The ledger holds everything of `epoch` up to and with `seq`. True when that is news.
    pub(crate) fn stored(&mut self, epoch: u64, seq: u64) -> bool {
        let Some(lane) = self.lanes.get_mut(&epoch) else { return false };
        let next = seq.saturating_add(1).min(lane.end);
        let news = next > lane.stored;
        lane.stored = lane.stored.max(next);
        lane.sent = lane.sent.max(next);
        if let Some(range) = self.again.get_mut(&epoch) {
            range.start = range.start.max(next);
            if range.is_empty() {
                self.again.remove(&epoch);
            }
        }
        news
    }

    /// A published checkpoint covers everything of `epoch` up to and with `seq`. True when that is news.
    pub(crate) fn published(&mut self, epoch: u64, seq: u64) -> bool {
        self.stored(epoch, seq);
        let Some(lane) = self.lanes.get_mut(&epoch) else { return false };
        let next = seq.saturating_add(1).min(lane.end);
        let news = next > lane.published;
        lane.published = lane.published.max(next);
        news
    }

    /// A finished epoch that a checkpoint covers to its end needs no lane any more. True when it was removed.
    pub(crate) fn retire(&mut self, epoch: u64) -> bool {
        let done = self.lanes.get(&epoch).is_some_and(|lane| lane.published >= lane.end);
        if done {
            self.lanes.remove(&epoch);
            self.again.remove(&epoch);
        }
        done
    }

    /// Something was sent that is not known to be stored.
    pub(crate) fn is_waiting(&self) -> bool {
        self.lanes.values().any(|lane| lane.stored < lane.sent)
    }

    /// Nothing is left to send.
    pub(crate) fn is_drained(&self) -> bool {
        self.next_job().is_none()
    }

    /// Records of `epoch` that the ledger is not known to hold.
    pub(crate) fn unstored(&self, epoch: u64) -> u64 {
        self.lanes.get(&epoch).map_or(0, |lane| lane.end - lane.stored)
    }

    /// Records not covered by a published checkpoint.
    pub(crate) fn unpublished(&self) -> u64 {
        self.lanes.values().map(|lane| lane.end - lane.published).sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn job(epoch: u64, from: u64, to: u64, again: bool) -> Option<Job> {
        Some(Job { epoch, from, to, again })
    }

    #[test]
    fn older_epochs_go_first_and_everything_once() {
        let mut plan = Shipping::default();
        plan.extend(7, 0, 2);
        plan.extend(3, 10, 12);
        assert_eq!(plan.next_job(), job(3, 10, 12, false));
        plan.took(&plan.next_job().unwrap(), 11);
        assert_eq!(plan.next_job(), job(3, 11, 12, false));
        plan.took(&plan.next_job().unwrap(), 12);
        assert_eq!(plan.next_job(), job(7, 0, 2, false));
        plan.took(&plan.next_job().unwrap(), 2);
        assert!(plan.is_drained() && plan.is_waiting());
        assert_eq!(plan.unpublished(), 4);
    }

    #[test]
    fn what_failed_or_is_asked_for_goes_again_until_it_is_stored() {
        let mut plan = Shipping::default();
        plan.extend(7, 0, 100);
        plan.took(&plan.next_job().unwrap(), 50);
        plan.send_again(7, 20..30);
        plan.replay(7, 25);
        assert_eq!(plan.next_job(), job(7, 20, 50, true));
        plan.took(&plan.next_job().unwrap(), 35);
        assert!(plan.stored(7, 39));
        assert_eq!((plan.unstored(7), plan.unstored(9), plan.unpublished()), (60, 0, 100));
        assert_eq!(plan.next_job(), job(7, 40, 50, true));
        assert!(plan.stored(7, 49));
        assert_eq!(plan.next_job(), job(7, 50, 100, false), "what the ledger holds is not sent again");
        plan.replay(9, 0);
        assert_eq!(plan.next_job(), job(7, 50, 100, false), "an unknown epoch cannot be replayed");
    }

    #[test]
    fn a_silent_ledger_gets_a_bounded_part_again() {
        let mut plan = Shipping::default();
        plan.extend(7, 0, 1000);
        plan.took(&plan.next_job().unwrap(), 1000);
        plan.stored(7, 99);
        plan.resend_unstored(256);
        assert_eq!(plan.next_job(), job(7, 100, 356, true));
    }

    #[test]
    fn an_epoch_ends_once_a_checkpoint_covers_all_of_it() {
        let mut plan = Shipping::default();
        plan.extend(7, 0, 10);
        assert!(plan.published(7, 8) && !plan.retire(7) && !plan.published(7, 8));
        assert!(plan.published(7, 500) && plan.retire(7));
        assert!(plan.is_drained() && !plan.published(7, 9));
    }

    proptest! {
        #[test]
        fn every_record_is_sent_whatever_comes_in_between(
            events in proptest::collection::vec((0u8..5, 0u64..40), 0..60),
        ) {
            let mut plan = Shipping::default();
            plan.extend(7, 0, 40);
            let mut sent = [false; 40];
            let take = |plan: &mut Shipping, sent: &mut [bool; 40], most: u64| {
                if let Some(job) = plan.next_job() {
                    let through = job.to.min(job.from + most);
                    (job.from..through).for_each(|seq| sent[usize::try_from(seq).unwrap()] = true);
                    plan.took(&job, through);
                }
            };
            for (event, seq) in events {
                match event {
                    0 => take(&mut plan, &mut sent, seq + 1),
                    1 => plan.replay(7, seq),
                    2 => plan.send_again(7, seq..seq + 3),
                    3 => plan.resend_unstored(seq),
                    _ if sent[usize::try_from(seq).unwrap()] && sent[..usize::try_from(seq).unwrap()].iter().all(|s| *s) => {
                        plan.stored(7, seq);
                    }
                    _ => {}
                }
            }
            while !plan.is_drained() {
                take(&mut plan, &mut sent, 7);
            }
            prop_assert!(sent.iter().all(|sent| *sent));
        }
    }
}
