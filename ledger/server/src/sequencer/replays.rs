//! What has to be sent again, and how often that may be asked.
//!
//! Owned by the sequencer. Sans-io: time arrives as an argument, requests are handed out for broadcasting. A request
//! may be lost like any broadcast, so it is repeated until the chain has moved on.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::store::ChainId;

/// Pause between two requests to one node: a replay reads its spool, which must not become a burden.
const PAUSE: Duration = Duration::from_secs(1);
/// Chains remembered; more than that many broken ones at once are asked for as their next batches come.
const CHAINS_MAX: usize = 4096;
/// Requests after which a chain is forgotten until its next batch: nobody answers for nodes that are gone.
const REQUESTS_MAX: u32 = 120;

#[derive(Debug)]
struct Wanted {
    from_seq: u64,
    asked_at: Option<Instant>,
    requests: u32,
}

/// The requests in progress.
#[derive(Debug, Default)]
pub(super) struct Replays(BTreeMap<ChainId, Wanted>);

impl Replays {
    /// Chain `id` is to be sent again from `from_seq`.
    pub(super) fn want(&mut self, id: ChainId, from_seq: u64) {
        if let Some(wanted) = self.0.get_mut(&id) {
            wanted.from_seq = from_seq;
        } else if self.0.len() < CHAINS_MAX {
            self.0.insert(id, Wanted { from_seq, asked_at: None, requests: 0 });
        }
    }

    /// Chain `id` now expects `next_seq`; what came need not be asked for.
    pub(super) fn moved(&mut self, id: &ChainId, next_seq: u64) {
        if self.0.get(id).is_some_and(|wanted| next_seq > wanted.from_seq) {
            self.0.remove(id);
        }
    }

    /// What to ask for now.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(ChainId, u64)> {
        self.0.retain(|_, wanted| wanted.requests < REQUESTS_MAX);
        let mut due = Vec::new();
        for (id, wanted) in &mut self.0 {
            if wanted.asked_at.is_none_or(|asked| now.saturating_duration_since(asked) >= PAUSE) {
                wanted.asked_at = Some(now);
                wanted.requests += 1;
                due.push((id.clone(), wanted.from_seq));
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> ChainId {
        ChainId { node: "n".into(), epoch: 1 }
    }

    #[test]
    fn a_request_is_repeated_with_pauses_until_the_chain_moves() {
        let (mut replays, now) = (Replays::default(), Instant::now());
        replays.want(id(), 5);
        assert_eq!(replays.due(now), [(id(), 5)]);
        replays.want(id(), 5);
        assert!(replays.due(now + PAUSE / 2).is_empty());
        assert_eq!(replays.due(now + PAUSE), [(id(), 5)]);
        replays.moved(&id(), 5);
        assert_eq!(replays.due(now + PAUSE * 2), [(id(), 5)]);
        replays.moved(&id(), 6);
        assert!(replays.due(now + PAUSE * 3).is_empty());
    }

    #[test]
    fn nobody_is_asked_for_ever() {
        let (mut replays, now) = (Replays::default(), Instant::now());
        replays.want(id(), 5);
        let asked = (0..REQUESTS_MAX * 2).map(|round| replays.due(now + PAUSE * round).len()).sum::<usize>();
        assert_eq!(asked, REQUESTS_MAX as usize);
        replays.want(id(), 5);
        assert_eq!(replays.due(now + PAUSE * (REQUESTS_MAX * 2)).len(), 1);
    }
}
