//! Farewells: nodes are let go one after the other, so that those who stay are not stormed by all of them at once.
//!
//! A control plane that stops lets all its sessions and lanes go, one that has more than its share of them a few
//! (`balance`). Each waits for its turn, which hangs on its node's name; the node is told to go elsewhere, and its own
//! pauses do the rest. All turns are over within a second, so a lease outlasts the way to another control plane.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use tonic::Status;

use super::nodes::Leave;

/// How far apart the farewells of two nodes are, on average: a control plane takes a new node in less.
const APART: Duration = Duration::from_millis(1);
/// The last farewell; a third of a lease.
const LAST: Duration = Duration::from_secs(1);

/// Waits for a node's turn among so many; somebody who was replaced goes at once.
pub(super) async fn turn(why: Leave, node: &str, among: usize) {
    match why {
        Leave::Replaced => {}
        Leave::GoElsewhere | Leave::Stopping => tokio::time::sleep(pause(node, among)).await,
    }
}

/// What a node is told.
pub(super) fn status(why: Leave) -> Status {
    match why {
        Leave::GoElsewhere => Status::unavailable("other control planes have more room; go to another one"),
        Leave::Stopping => Status::unavailable("this control plane stops; go to another one"),
        Leave::Replaced => Status::aborted("another connection of this node has taken over"),
    }
}

fn pause(node: &str, among: usize) -> Duration {
    let all = APART.saturating_mul(u32::try_from(among).unwrap_or(u32::MAX)).min(LAST);
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    // A thousandth is as good as any finer measure.
    let thousandths = u32::try_from(hasher.finish() % 1_000).unwrap_or(0);
    all * thousandths / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_farewells_fill_a_second_evenly_and_two_take_no_time() {
        let pauses: Vec<_> = (0..1_000).map(|n| pause(&format!("data-plane-{n}"), 1_000)).collect();
        let within = |from: u64, until: u64| {
            let range = Duration::from_millis(from)..Duration::from_millis(until);
            pauses.iter().filter(|pause| range.contains(*pause)).count()
        };
        for tenth in 0..10 {
            assert!((60..140).contains(&within(tenth * 100, tenth * 100 + 100)), "tenth {tenth}");
        }
        assert!(pauses.iter().all(|pause| *pause < LAST));
        assert!(pause("data-plane-1", 2) < Duration::from_millis(2));
        assert!(pause("data-plane-1", usize::MAX) < LAST);
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_replaced_goes_at_once() {
        let began = tokio::time::Instant::now();
        turn(Leave::Replaced, "data-plane-7", 1_000).await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        turn(Leave::Stopping, "data-plane-7", 1_000).await;
        assert!(began.elapsed() > Duration::ZERO);
    }
}
