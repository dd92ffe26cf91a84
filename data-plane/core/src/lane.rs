//! The revocation lane as a data plane speaks it: questions with the time they were asked, and what the frames mean.
//!
//! The server's `lane` owns the connection and the clock; it hands every frame to `handle` and does what the
//! [`LaneStep`] says, in that order. A lease counts from when it was asked for, never from when the answer came: the
//! control plane proved only after the question that it was current. Every frame says what must have come before it; one
//! that is out of order, lost or repeated ends the lane, whatever the transport promised. Deliberately absent: what a denial does (`catalogue`), when a lease counts (`config_state` in the
//! server). Words: `proto/bailiwick/v1/config.proto`, `Lane`.

use std::{collections::VecDeque, time::Duration};

use bailiwick_proto::v1::{self, lane_frame::Frame};

/// Questions remembered. One goes out each second, and a lane that is silent for two is given up.
pub const ASKS_MAX: usize = 16;
/// Longest lease believed: a control plane that counts on more than this is not one of ours.
pub const LEASE_MAX: Duration = Duration::from_secs(10);

/// The control plane broke the lane's order; only a new lane helps.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaneFault {
    /// The first frame, or another one later.
    #[error("the lane must be opened once, at first")]
    Opening,
    /// Denials of an older revision, or an unfinished revision.
    #[error("revision {revision} came after {after}")]
    Order {
        /// Of the frame.
        revision: u64,
        /// The one before it.
        after: u64,
    },
    /// Denials of this revision, or a part of them, never came.
    #[error("denials of revision {revision} were lost")]
    Lost {
        /// Which.
        revision: u64,
    },
}

/// What the server has to do about a frame.
#[derive(Clone, Debug, PartialEq)]
pub enum LaneStep<T> {
    /// Denials after this revision will come by this lane.
    Opened {
        /// Which.
        revision: u64,
    },
    /// Put these in force; then, if `complete`, answer `Denied` with their revision.
    Deny {
        /// What is taken away.
        denials: v1::Denials,
        /// The last part of their revision.
        complete: bool,
    },
    /// A lease.
    Lease {
        /// When it was asked for.
        asked: T,
        /// How long it holds from then on.
        length: Duration,
    },
    /// Nothing: an answer to a question that is forgotten, or a frame of a later version.
    Nothing,
}

/// One lane, from its opening to its end. `T` is a time on the server's monotonic clock.
#[derive(Clone, Debug)]
pub struct Lane<T> {
    /// The latest revision spoken of; `None` before the opening.
    revision: Option<u64>,
    /// The part of that revision's denials that must follow.
    expected: Option<u32>,
    asked: VecDeque<(u64, T)>,
    next_ask: u64,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { revision: None, expected: None, asked: VecDeque::new(), next_ask: 1 }
    }
}

impl<T: Copy> Lane<T> {
    /// The id for a question that goes out at `now` or later.
    pub fn ask(&mut self, now: T) -> u64 {
        let id = self.next_ask;
        self.next_ask += 1;
        if self.asked.len() >= ASKS_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((id, now));
        id
    }

    /// Takes a frame.
    ///
    /// # Errors
    /// [`LaneFault`]: the lane is of no more use.
    pub fn handle(&mut self, frame: v1::LaneFrame) -> Result<LaneStep<T>, LaneFault> {
        match (frame.frame, self.revision) {
            (Some(Frame::Opened(opened)), None) => {
                self.revision = Some(opened.revision);
                Ok(LaneStep::Opened { revision: opened.revision })
            }
            (Some(Frame::Opened(_)), Some(_)) | (_, None) => Err(LaneFault::Opening),
            (Some(Frame::Denials(denials)), Some(after)) => self.denials(denials, after),
            (Some(Frame::Lease(_)), Some(revision)) if self.expected.is_some() => Err(LaneFault::Lost { revision }),
            (Some(Frame::Lease(lease)), Some(revision)) if lease.denied > revision => {
                Err(LaneFault::Lost { revision: lease.denied })
            }
            (Some(Frame::Lease(lease)), Some(_)) => Ok(self.lease(&lease)),
            (None, Some(_)) => Ok(LaneStep::Nothing),
        }
    }

    fn denials(&mut self, denials: v1::Denials, after: u64) -> Result<LaneStep<T>, LaneFault> {
        let revision = denials.revision;
        let follows = if self.expected.is_some() { revision == after } else { revision > after };
        if !follows {
            return Err(LaneFault::Order { revision, after });
        }
        if self.expected.is_none() && denials.after > after {
            return Err(LaneFault::Lost { revision: denials.after });
        }
        if denials.part != self.expected.unwrap_or(0) {
            return Err(LaneFault::Lost { revision });
        }
        self.revision = Some(revision);
        self.expected = denials.more.then(|| denials.part.saturating_add(1));
        let complete = !denials.more;
        Ok(LaneStep::Deny { denials, complete })
    }

    fn lease(&mut self, lease: &v1::Lease) -> LaneStep<T> {
        let length = Duration::from_millis(lease.lease_ms).min(LEASE_MAX);
        while let Some((id, asked)) = self.asked.pop_front_if(|(id, _)| *id <= lease.ask) {
            if id == lease.ask {
                return LaneStep::Lease { asked, length };
            }
        }
        LaneStep::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(revision: u64) -> v1::LaneFrame {
        v1::LaneFrame { frame: Some(Frame::Opened(v1::LaneOpened { revision })) }
    }

    fn denials(revision: u64, more: bool) -> v1::LaneFrame {
        part(revision, 0, more)
    }

    fn part(revision: u64, part: u32, more: bool) -> v1::LaneFrame {
        v1::LaneFrame { frame: Some(Frame::Denials(of(revision, 0, part, more))) }
    }

    fn of(revision: u64, after: u64, part: u32, more: bool) -> v1::Denials {
        let changes = vec![v1::EntryChange { key: "consent/c-1".into(), value: None }];
        v1::Denials { revision, changes, more, after, part }
    }

    fn lease(ask: u64, lease_ms: u64) -> v1::LaneFrame {
        v1::LaneFrame { frame: Some(Frame::Lease(v1::Lease { ask, lease_ms, revision: 7, denied: 0 })) }
    }

    fn at(revision: u64) -> Lane<u64> {
        let mut lane = Lane::default();
        assert_eq!(lane.handle(opened(revision)), Ok(LaneStep::Opened { revision }));
        lane
    }

    fn granted(lane: &mut Lane<u64>, ask: u64) -> Option<u64> {
        match lane.handle(lease(ask, 3_000)).unwrap() {
            LaneStep::Lease { asked, length } if length == Duration::from_secs(3) => Some(asked),
            LaneStep::Lease { .. } | LaneStep::Opened { .. } | LaneStep::Deny { .. } | LaneStep::Nothing => None,
        }
    }

    #[test]
    fn a_lease_counts_from_its_own_question() {
        let mut lane = at(7);
        let (first, second, third) = (lane.ask(100), lane.ask(200), lane.ask(300));
        assert_eq!(granted(&mut lane, second), Some(200));
        assert_eq!(granted(&mut lane, first), None, "a later question was answered already");
        assert_eq!(granted(&mut lane, second), None, "an answer counts once");
        assert_eq!(granted(&mut lane, third + 1), None, "nobody asked that");
        assert_eq!(granted(&mut lane, third), None, "and with it older ones are forgotten");
    }

    #[test]
    fn unanswered_questions_are_bounded() {
        let mut lane = at(7);
        let ids: Vec<_> = (0..=ASKS_MAX as u64).map(|now| lane.ask(now)).collect();
        assert_eq!(lane.asked.len(), ASKS_MAX);
        assert_eq!((granted(&mut lane, ids[0]), granted(&mut lane, ids[1])), (None, Some(1)));
    }

    #[test]
    fn no_lease_is_longer_than_any_control_plane_counts_on() {
        let mut lane = at(7);
        let ask = lane.ask(1);
        let expected = LaneStep::Lease { asked: 1, length: LEASE_MAX };
        assert_eq!(lane.handle(lease(ask, u64::MAX)), Ok(expected));
    }

    #[test]
    fn denials_come_in_order_and_whole_or_the_lane_ends() {
        let complete = |step| matches!(step, Ok(LaneStep::Deny { complete: true, .. }));
        let mut lane = at(7);
        assert!(complete(lane.handle(denials(9, false))) && complete(lane.handle(denials(12, false))));
        assert!(matches!(lane.handle(denials(13, true)), Ok(LaneStep::Deny { complete: false, .. })));
        assert_eq!(lane.clone().handle(denials(14, false)), Err(LaneFault::Order { revision: 14, after: 13 }));
        assert_eq!(lane.clone().handle(lease(1, 3_000)), Err(LaneFault::Lost { revision: 13 }));
        assert_eq!(lane.clone().handle(part(13, 2, false)), Err(LaneFault::Lost { revision: 13 }));
        assert!(complete(lane.handle(part(13, 1, false))));
        assert_eq!(lane.handle(denials(13, false)), Err(LaneFault::Order { revision: 13, after: 13 }));
        assert_eq!(at(7).handle(denials(7, false)), Err(LaneFault::Order { revision: 7, after: 7 }));
    }

    #[test]
    fn a_frame_that_was_lost_is_missed_by_the_next_one() {
        let after = |revision, after| v1::LaneFrame { frame: Some(Frame::Denials(of(revision, after, 0, false))) };
        let lease = |denied| {
            let lease = v1::Lease { ask: 1, lease_ms: 3_000, revision: 20, denied };
            v1::LaneFrame { frame: Some(Frame::Lease(lease)) }
        };
        let mut lane = at(7);
        assert!(lane.handle(after(9, 3)).is_ok(), "what came before the opening is the config stream's");
        assert!(lane.handle(after(12, 9)).is_ok());
        assert_eq!(lane.clone().handle(after(15, 13)), Err(LaneFault::Lost { revision: 13 }));
        assert_eq!(lane.clone().handle(lease(13)), Err(LaneFault::Lost { revision: 13 }));
        assert!(lane.handle(lease(12)).is_ok());
        assert_eq!(lane.handle(part(15, 1, false)), Err(LaneFault::Lost { revision: 15 }));
    }

    #[test]
    fn a_lane_opens_once_and_before_all_else() {
        for first in [denials(9, false), lease(1, 3_000)] {
            assert_eq!(Lane::<u64>::default().handle(first), Err(LaneFault::Opening));
        }
        assert_eq!(at(7).handle(opened(8)), Err(LaneFault::Opening));
        assert_eq!(at(7).handle(v1::LaneFrame { frame: None }), Ok(LaneStep::Nothing));
    }
}
