//! What was used once: proofs that do not count again.
//!
//! Called by `proofs`, for those used here and those that other nodes tell of. Exact: a proof is remembered by its id,
//! whatever time it says, for as long as it could be taken; what is forgotten moves a floor up, and what lies below that
//! is stale, whatever the clock says by then. So a clock that is set forward and back again lets
//! nothing count twice, and a node takes nothing from before its start. Bounded: where more proofs come than there is
//! room for, the oldest second goes, and proofs have to be younger than they had to be before; never a proof without a
//! memory. Deliberately absent: what makes a proof good (`possession`), the clock.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bailiwick_data_plane_core::sealed::used_proofs::PROOF_ID_BYTES;

/// Proofs remembered: of ten thousand bound calls a second in the whole cluster for as long as they could be taken. Each
/// takes 40 to 80 bytes, so all of them at most 80 MiB.
pub(super) const PROOFS_MAX: usize = 1 << 20;

const SECOND_MS: u64 = 1000;

/// What tells a proof from all others.
pub(crate) type ProofId = [u8; PROOF_ID_BYTES];

/// A proof does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unusable {
    /// Whether it was used before is not known any more.
    Stale,
    /// It was used before; here, or as another node said.
    Replayed { here: bool },
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Memory {
    kept: Mutex<Kept>,
    keep_ms: u64,
    proofs_max: usize,
}

#[derive(Debug)]
struct Kept {
    /// What says a time before this one is stale, in milliseconds since 1970.
    floor_ms: u64,
    /// Whether they were used here.
    proofs: HashMap<ProofId, bool>,
    /// By the second that they say.
    seconds: BTreeMap<u64, Vec<ProofId>>,
}

impl Memory {
    /// Of a node that starts now; a proof is remembered for so long from the time that it says.
    pub(super) fn new(start_ms: u64, keep: Duration) -> Self {
        Self::of_size(start_ms, keep, PROOFS_MAX)
    }

    fn of_size(start_ms: u64, keep: Duration, proofs_max: usize) -> Self {
        let kept = Kept { floor_ms: start_ms, proofs: HashMap::new(), seconds: BTreeMap::new() };
        let keep_ms = u64::try_from(keep.as_millis()).unwrap_or(u64::MAX);
        Self { kept: Mutex::new(kept), keep_ms, proofs_max }
    }

    /// Uses a proof up that says `time_ms`.
    pub(super) fn use_up(&self, id: ProofId, time_ms: u64, now_ms: u64) -> Result<(), Unusable> {
        self.note(id, (time_ms, now_ms), true)
    }

    /// Takes another node's word that a proof was used.
    pub(super) fn learn(&self, id: ProofId, time_ms: u64, now_ms: u64) -> Result<(), Unusable> {
        self.note(id, (time_ms, now_ms), false)
    }

    /// Takes nothing that says an earlier time than `time_ms`: what others used before is not known here.
    pub(super) fn begin(&self, time_ms: u64) {
        let mut kept = self.kept();
        kept.floor_ms = kept.floor_ms.max(time_ms);
    }

    fn note(&self, id: ProofId, (time_ms, now_ms): (u64, u64), here: bool) -> Result<(), Unusable> {
        let mut kept = self.kept();
        if time_ms < kept.floor_ms {
            return Err(Unusable::Stale);
        }
        if let Some(here) = kept.proofs.get(&id) {
            return Err(Unusable::Replayed { here: *here });
        }
        kept.forget_before(now_ms.saturating_sub(self.keep_ms));
        while kept.proofs.len() >= self.proofs_max {
            // What says now, or a time to come, stays: whoever fills that up shuts out themselves, and not all others.
            if kept.seconds.first_key_value().is_none_or(|(second, _)| after(*second) > now_ms) {
                return Err(Unusable::Stale);
            }
            kept.forget_oldest();
        }
        // Its own second may have had to go.
        if time_ms < kept.floor_ms {
            return Err(Unusable::Stale);
        }
        kept.seconds.entry(time_ms / SECOND_MS).or_default().push(id);
        kept.proofs.insert(id, here);
        Ok(())
    }

    /// Whether a proof that says `time_ms` is too old to be known.
    pub(super) fn is_stale(&self, time_ms: u64) -> bool {
        time_ms < self.kept().floor_ms
    }

    #[cfg(test)]
    pub(super) fn is_known(&self, id: ProofId) -> bool {
        self.kept().proofs.contains_key(&id)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn forget_before(&mut self, time_ms: u64) {
        while self.seconds.first_key_value().is_some_and(|(second, _)| after(*second) <= time_ms) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((second, ids)) = self.seconds.pop_first() {
            for id in &ids {
                self.proofs.remove(id);
            }
            self.floor_ms = self.floor_ms.max(after(second));
        }
    }
}

/// The first millisecond after a second.
const fn after(second: u64) -> u64 {
    second.saturating_add(1).saturating_mul(SECOND_MS)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const START: u64 = 1_800_000_000_500;
    const REPLAYED: Unusable = Unusable::Replayed { here: true };
    const KEEP: Duration = Duration::from_secs(100);

    fn id(n: u64) -> ProofId {
        let mut id = [0; PROOF_ID_BYTES];
        id[..8].copy_from_slice(&n.to_be_bytes());
        id
    }

    #[test]
    fn a_proof_counts_once_and_nothing_from_before_the_start_does() {
        let memory = Memory::new(START, KEEP);
        assert_eq!(memory.use_up(id(1), START, START), Ok(()));
        for later in [0, 1, 99_000] {
            assert_eq!(memory.use_up(id(1), START, START + later), Err(REPLAYED));
        }
        assert_eq!(memory.use_up(id(1), START + 5_000, START), Err(REPLAYED), "whatever time it says");
        assert_eq!(memory.use_up(id(2), START, START), Ok(()), "another one of the same time");
        assert_eq!(memory.use_up(id(3), START - 1, START), Err(Unusable::Stale));
        assert!(memory.is_stale(START - 1) && !memory.is_stale(START));
    }

    #[test]
    fn what_another_node_used_counts_no_more_here() {
        let memory = Memory::new(START, KEEP);
        assert_eq!(memory.learn(id(1), START, START), Ok(()));
        assert_eq!(memory.use_up(id(1), START, START), Err(Unusable::Replayed { here: false }));
        assert_eq!(memory.use_up(id(2), START, START), Ok(()));
        assert_eq!(memory.learn(id(2), START, START), Err(REPLAYED), "it was used at both");
        assert_eq!(memory.learn(id(3), START - 1, START), Err(Unusable::Stale));
    }

    #[test]
    fn what_is_forgotten_is_stale_from_then_on_also_when_the_clock_goes_back() {
        let memory = Memory::new(START, KEEP);
        memory.use_up(id(1), START, START).unwrap();
        let jumped = START + 3_600_000;
        memory.use_up(id(2), jumped, jumped).unwrap();
        assert_eq!(memory.use_up(id(1), START, jumped), Err(Unusable::Stale));
        assert_eq!(memory.use_up(id(1), START, START), Err(Unusable::Stale), "the clock is set back");
        assert_eq!(memory.use_up(id(3), START + 2_000, START + 2_000), Ok(()), "what is new goes on");
        assert_eq!(memory.use_up(id(2), jumped, START), Err(REPLAYED));
    }

    #[test]
    fn a_full_memory_refuses_older_proofs_and_never_takes_one_twice() {
        let memory = Memory::of_size(START, KEEP, 10);
        for n in 0..10 {
            memory.use_up(id(n), START + n * SECOND_MS, START).unwrap();
        }
        memory.use_up(id(10), START + 9 * SECOND_MS, START + 9 * SECOND_MS).unwrap();
        assert_eq!(memory.use_up(id(0), START, START), Err(Unusable::Stale));
        assert_eq!(memory.use_up(id(1), START + SECOND_MS, START), Err(REPLAYED));
        // All of one second, which is not over: there is no room for more of it, and it stays known.
        let memory = Memory::of_size(START, KEEP, 2);
        assert_eq!(memory.use_up(id(1), START, START), Ok(()));
        assert_eq!(memory.use_up(id(2), START + 5_000, START), Ok(()));
        assert_eq!(memory.use_up(id(3), START, START), Err(Unusable::Stale));
        assert_eq!(
            memory.use_up(id(4), START + 5_000, START),
            Err(Unusable::Stale),
            "nobody is shut out by the future"
        );
        assert_eq!(memory.use_up(id(1), START, START), Err(REPLAYED));
        assert_eq!(memory.use_up(id(5), START + 2_000, START + 2_000), Ok(()), "once it is over");
        assert_eq!(memory.use_up(id(1), START, START + 2_000), Err(Unusable::Stale));
    }

    proptest! {
        /// Whatever the clock does and however much comes, no proof is taken twice, and memory stays bounded.
        #[test]
        fn nothing_counts_twice(uses in proptest::collection::vec((0_u64..40, 0_u64..200_000, 0_u64..400_000), 1..200)) {
            let memory = Memory::of_size(START, Duration::from_secs(60), 16);
            let mut taken = HashSet::new();
            for (n, says, now) in uses {
                // A proof's time belongs to it.
                let time = START + (says + n * 7_919) % 200_000;
                if memory.use_up(id(n * 1_000_000 + time % 1_000_000), time, START + now).is_ok() {
                    prop_assert!(taken.insert((n, time)));
                }
                let kept = memory.kept();
                prop_assert!(kept.proofs.len() <= 16);
                prop_assert_eq!(kept.proofs.len(), kept.seconds.values().map(Vec::len).sum::<usize>());
            }
        }
    }
}
