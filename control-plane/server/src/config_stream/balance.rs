//! Balance: a control plane that serves more than its share of the nodes lets some of them go to others.
//!
//! After a rolling restart the last one to start has nobody, for nodes stay where they are. Every so often each control
//! plane asks the others how many sessions and lanes they serve. One that has clearly more than its share asks those
//! that have been here longest to go, a few at a time and never more than half of what is too much; where they go they
//! are the newest, and the last to be asked again. Nothing moves while the numbers differ by little. Who does not
//! answer is not counted. Called by `serve`. Absent: how a node is let go (`farewell`).

use std::{sync::Arc, time::Duration};

use bailiwick_runtime::Shutdown;

use super::nodes::Nodes;
use crate::internal::Colleagues;

/// Between two looks: nodes that were let go have come to rest by the next one.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How much more than its share a control plane may serve: a tenth of it, and with few nodes some of them.
const SURPLUS_PARTS: usize = 10;
const SURPLUS_MIN: usize = 3;
/// At most this part of what is served is let go at a time.
const AT_A_TIME_PARTS: usize = 20;

/// How many nodes a control plane serves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) sessions: usize,
    pub(crate) lanes: usize,
}

/// Lets nodes go wherever that is called for, until shutdown.
pub(crate) async fn run(nodes: Arc<Nodes>, colleagues: Colleagues, shutdown: Shutdown) {
    while shutdown.or_stop(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
        let own = nodes.load();
        if own.sessions.max(own.lanes) <= SURPLUS_MIN {
            continue;
        }
        let Some(Some(others)) = shutdown.or_stop(colleagues.loads()).await else { continue };
        let of = |part: fn(&Load) -> usize| surplus(part(&own), &others.iter().map(part).collect::<Vec<_>>());
        let (sessions, lanes) = (of(|load| load.sessions), of(|load| load.lanes));
        if sessions + lanes > 0 {
            tracing::info!(sessions, lanes, ?own, ?others, "this control plane has more than its share of the nodes");
            nodes.let_go(sessions, lanes);
        }
    }
}

/// How many to let go now.
fn surplus(own: usize, others: &[usize]) -> usize {
    let all = others.iter().fold(own, |all, other| all.saturating_add(*other));
    let share = all.div_ceil(others.len() + 1);
    if own <= share + (share / SURPLUS_PARTS).max(SURPLUS_MIN) {
        return 0;
    }
    (own / AT_A_TIME_PARTS).clamp(1, (own - share).div_ceil(2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_who_has_clearly_more_than_its_share_lets_a_few_go() {
        for (own, others, expected) in [
            (1_000, &[][..], 0),
            (2, &[0, 0], 0),
            (4, &[0, 0], 0),
            (6, &[0, 0], 1),
            (500, &[500, 0], 25),
            (334, &[333, 333], 0),
            (360, &[320, 320], 0),
            (370, &[315, 315], 18),
            (1_000, &[0, 0], 50),
            (0, &[1_000, 0], 0),
        ] {
            assert_eq!(surplus(own, others), expected, "{own} {others:?}");
        }
    }

    proptest! {
        /// Each node that is let go turns up at the next control plane in its list, as data planes do.
        #[test]
        fn the_load_becomes_even_and_then_nobody_moves(mut loads in prop::collection::vec(0_usize..2_000, 2..6)) {
            let count = loads.len();
            for _ in 0..400 {
                let leaving: Vec<usize> = (0..count).map(|at| {
                    let others: Vec<_> = (0..count).filter(|other| *other != at).map(|other| loads[other]).collect();
                    surplus(loads[at], &others)
                }).collect();
                for (at, leaving) in leaving.into_iter().enumerate() {
                    loads[at] -= leaving;
                    loads[(at + 1) % count] += leaving;
                }
            }
            let share = loads.iter().sum::<usize>().div_ceil(count);
            let most = loads.iter().max().copied().unwrap_or(0);
            prop_assert!(most <= share + (share / SURPLUS_PARTS).max(SURPLUS_MIN), "{loads:?}");
        }
    }
}
