//! What was used once: proofs that do not count again.
//!
//! Called by `proofs`, for those used here and those that other nodes tell of. Exact: a proof is remembered by its id,
//! whatever time it says, for as long as it could be taken; what is forgotten moves a floor up, and what lies below that
//! is stale, whatever the clock says by then. So a clock that is set forward and back again lets
//! nothing count twice, and a node takes nothing from before its start. Bounded, and fair: a person's proofs, of all their
//! tokens, may take up a share of the room and no more than is left for others; beyond it the oldest second of their own
//! goes, and their own floor moves, nobody else's. Never a proof without a memory. Deliberately absent: what makes a
//! proof good (`possession`), the clock.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bailiwick_data_plane_core::sealed::used_proofs::PROOF_ID_BYTES;

/// Proofs remembered: of ten thousand bound calls a second in the whole cluster for as long as they could be taken. Each
/// takes some 80 bytes where a person has many in a second, and 300 where each is somebody else's.
pub(super) const PROOFS_MAX: usize = 1 << 20;
/// One person's proofs take up such a part of them at most: six hundred bound calls a second for as long as they could
/// be taken, and more where they come young.
const SHARES: usize = 16;

const SECOND_MS: u64 = 1000;
/// Bytes of [`PersonKey`].
pub(super) const PERSON_BYTES: usize = 8;

/// Stands for a person, at all nodes.
pub(crate) type PersonKey = [u8; PERSON_BYTES];

/// What tells a proof from all others; it begins with whose it is.
pub(crate) type ProofId = [u8; PROOF_ID_BYTES];

/// Whose proof it is.
pub(super) fn person_of(id: &ProofId) -> PersonKey {
    id.first_chunk().copied().unwrap_or_default()
}

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
    people: HashMap<PersonKey, Share>,
    /// Who has, or had, proofs that say a second, each once: what goes first.
    seconds: BTreeMap<u64, Vec<PersonKey>>,
    /// The floors of those who have one of their own. Each counts as a proof, of which it takes the place.
    floors: BTreeSet<(u64, PersonKey)>,
}

/// What one person has used.
#[derive(Debug, Default)]
struct Share {
    /// What says a time before this one is stale if it is theirs.
    floor_ms: u64,
    held: usize,
    /// By the second that they say, in order.
    seconds: VecDeque<(u64, Vec<ProofId>)>,
}

impl Memory {
    /// Of a node that starts now; a proof is remembered for so long from the time that it says.
    pub(super) fn of_size(start_ms: u64, keep: Duration, proofs_max: usize) -> Self {
        let kept = Kept {
            floor_ms: start_ms,
            proofs: HashMap::new(),
            people: HashMap::new(),
            seconds: BTreeMap::new(),
            floors: BTreeSet::new(),
        };
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
        let (person, mut kept) = (person_of(&id), self.kept());
        kept.check(&id, time_ms)?;
        kept.forget_before(now_ms.saturating_sub(self.keep_ms));
        let mut has_forgotten = false;
        while !kept.has_room_for(&person, self.proofs_max) {
            // What says now, or a time to come, stays: whoever fills that up shuts out themselves.
            if !kept.make_room_for(person, now_ms) {
                if !here {
                    // It was used there, and cannot be remembered here: then nothing of theirs from that time counts.
                    kept.raise(person, after(time_ms / SECOND_MS));
                }
                return Err(Unusable::Stale);
            }
            has_forgotten = true;
        }
        // Its own second may have had to go.
        if has_forgotten && kept.is_stale(&person, time_ms) {
            return Err(Unusable::Stale);
        }
        kept.remember(id, time_ms, here);
        Ok(())
    }

    /// Why a proof that says `time_ms` cannot be used, as far as is known before it is.
    pub(super) fn check(&self, id: &ProofId, time_ms: u64) -> Result<(), Unusable> {
        self.kept().check(id, time_ms)
    }

    /// Whether nobody's proof that says `time_ms` is known any more.
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
    fn check(&self, id: &ProofId, time_ms: u64) -> Result<(), Unusable> {
        if self.is_stale(&person_of(id), time_ms) {
            return Err(Unusable::Stale);
        }
        self.proofs.get(id).map_or(Ok(()), |here| Err(Unusable::Replayed { here: *here }))
    }

    fn is_stale(&self, person: &PersonKey, time_ms: u64) -> bool {
        time_ms < self.floor_ms || self.people.get(person).is_some_and(|share| time_ms < share.floor_ms)
    }

    /// Whether one more of theirs leaves others as much as they have, and is within their share.
    fn has_room_for(&self, person: &PersonKey, proofs_max: usize) -> bool {
        let left = proofs_max.saturating_sub(self.proofs.len() + self.floors.len());
        let held = self.people.get(person).map_or(0, |share| share.held);
        held < left.min((proofs_max / SHARES).max(1))
    }

    /// Forgets what has to go first for a proof of theirs, unless that says now or a time to come.
    fn make_room_for(&mut self, person: PersonKey, now_ms: u64) -> bool {
        if let Some(second) =
            self.people.get(&person).and_then(|share| share.seconds.front()).map(|(second, _)| *second)
        {
            let is_over = after(second) <= now_ms;
            if is_over {
                self.raise(person, after(second));
                self.forget(second, person);
            }
            return is_over;
        }
        // So many people have used proofs that nothing is left for one more.
        let Some(oldest) = self.oldest().filter(|second| after(*second) <= now_ms) else { return false };
        self.forget_before(after(oldest));
        true
    }

    /// Nothing of theirs from before this time counts.
    fn raise(&mut self, person: PersonKey, floor_ms: u64) {
        let share = self.people.entry(person).or_default();
        if floor_ms > share.floor_ms {
            self.floors.remove(&(share.floor_ms, person));
            self.floors.insert((floor_ms, person));
            share.floor_ms = floor_ms;
        }
    }

    /// Forgets everybody's seconds and floors that end at this time.
    fn forget_before(&mut self, time_ms: u64) {
        while let Some(second) = self.oldest().filter(|second| after(*second) <= time_ms) {
            self.floor_ms = self.floor_ms.max(after(second));
            for person in self.seconds.remove(&second).unwrap_or_default() {
                self.forget(second, person);
            }
        }
        while let Some((floor_ms, person)) = self.floors.first().copied().filter(|(floor_ms, _)| *floor_ms <= time_ms) {
            self.floor_ms = self.floor_ms.max(floor_ms);
            self.floors.pop_first();
            if let Some(share) = self.people.get_mut(&person) {
                share.floor_ms = 0;
            }
            self.leave(person);
        }
    }

    fn oldest(&self) -> Option<u64> {
        self.seconds.first_key_value().map(|(second, _)| *second)
    }

    /// Forgets a person's second, where that is the first of theirs; else it has had to go already.
    fn forget(&mut self, second: u64, person: PersonKey) {
        let Some(share) = self.people.get_mut(&person) else { return };
        let Some((_, ids)) = share.seconds.pop_front_if(|(first, _)| *first == second) else { return };
        share.held = share.held.saturating_sub(ids.len());
        for id in &ids {
            self.proofs.remove(id);
        }
        self.leave(person);
    }

    /// Whoever has nothing here is not kept.
    fn leave(&mut self, person: PersonKey) {
        if self.people.get(&person).is_some_and(|share| share.held == 0 && share.floor_ms == 0) {
            self.people.remove(&person);
        }
    }

    fn remember(&mut self, id: ProofId, time_ms: u64, here: bool) {
        let (person, second) = (person_of(&id), time_ms / SECOND_MS);
        let share = self.people.entry(person).or_default();
        share.held += 1;
        // Nearly always the last one.
        let at = share.seconds.iter().rposition(|(held, _)| *held <= second);
        match at.and_then(|at| share.seconds.get_mut(at)).filter(|(held, _)| *held == second) {
            Some((_, ids)) => ids.push(id),
            None => {
                share.seconds.insert(at.map_or(0, |at| at + 1), (second, vec![id]));
                self.seconds.entry(second).or_default().push(person);
            }
        }
        self.proofs.insert(id, here);
    }
}

/// The first millisecond after a second.
const fn after(second: u64) -> u64 {
    second.saturating_add(1).saturating_mul(SECOND_MS)
}

#[cfg(test)]
mod tests;
