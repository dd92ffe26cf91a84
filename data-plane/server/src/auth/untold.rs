//! Used proofs that other nodes have not been told of yet, within a bound that people share.
//!
//! Called by `proofs`. Who has more than is left for others loses the oldest of their own, which are the first that do not
//! count any more anyway; and each batch takes of everybody in turn, so that nobody's flood delays what is told of others.
//! Pure.

use std::collections::{HashMap, VecDeque};

use bailiwick_data_plane_core::sealed::used_proofs::UsedProof;

use super::replay::{PersonKey, person_of};

/// See the file's header.
#[derive(Debug)]
pub(super) struct Untold {
    people: HashMap<PersonKey, VecDeque<UsedProof>>,
    /// Whose turn it is next; everybody who has something, once.
    turns: VecDeque<PersonKey>,
    held: usize,
    proofs_max: usize,
}

impl Untold {
    pub(super) fn new(proofs_max: usize) -> Self {
        Self { people: HashMap::new(), turns: VecDeque::new(), held: 0, proofs_max }
    }

    /// One that was just used.
    pub(super) fn push(&mut self, used: UsedProof) {
        let (person, left) = (person_of(&used.id), self.left());
        let held = self.people.get(&person).map_or(0, VecDeque::len);
        if held == 0 {
            if left == 0 {
                return;
            }
            self.turns.push_back(person);
        }
        let queue = self.people.entry(person).or_default();
        queue.push_back(used);
        match held < left {
            true => self.held += 1,
            false => drop(queue.pop_front()),
        }
    }

    /// The next ones to be told, at most so many.
    pub(super) fn batch(&mut self, proofs_max: usize) -> Vec<UsedProof> {
        let mut batch = Vec::with_capacity(proofs_max.min(self.held));
        while batch.len() < proofs_max {
            let Some(person) = self.turns.pop_front() else { break };
            let Some(queue) = self.people.get_mut(&person) else { continue };
            let Some(used) = queue.pop_front() else { continue };
            batch.push(used);
            self.held = self.held.saturating_sub(1);
            match queue.is_empty() {
                true => drop(self.people.remove(&person)),
                false => self.turns.push_back(person),
            }
        }
        batch
    }

    /// What could not be told, before what came since, as far as there is room.
    pub(super) fn keep(&mut self, batch: Vec<UsedProof>) {
        for used in batch.into_iter().rev() {
            let (person, left) = (person_of(&used.id), self.left());
            let held = self.people.get(&person).map_or(0, VecDeque::len);
            if held >= left {
                continue;
            }
            if held == 0 {
                self.turns.push_front(person);
            }
            self.people.entry(person).or_default().push_front(used);
            self.held += 1;
        }
    }

    const fn left(&self) -> usize {
        self.proofs_max.saturating_sub(self.held)
    }

    #[cfg(test)]
    pub(super) const fn held(&self) -> usize {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use bailiwick_data_plane_core::sealed::used_proofs::PROOF_ID_BYTES;

    use super::*;

    fn used(person: u8, n: u64) -> UsedProof {
        let mut id = [0; PROOF_ID_BYTES];
        id[0] = person;
        UsedProof { dpop: false, id, unix_ms: n }
    }

    fn told(untold: &mut Untold) -> Vec<(u8, u64)> {
        untold.batch(usize::MAX).iter().map(|used| (used.id[0], used.unix_ms)).collect()
    }

    #[test]
    fn everybody_is_told_of_in_turn_and_in_order() {
        let mut untold = Untold::new(100);
        (0..40).for_each(|n| untold.push(used(1, n)));
        (0..3).for_each(|n| untold.push(used(2, n)));
        let first: Vec<_> = untold.batch(5).iter().map(|used| (used.id[0], used.unix_ms)).collect();
        assert_eq!(first, [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]);
        assert_eq!(untold.held(), 38);
        let kept = untold.batch(3);
        untold.keep(kept);
        let rest = told(&mut untold);
        assert_eq!((rest.len(), rest[..3].to_vec()), (38, vec![(2, 2), (1, 3), (1, 4)]));
        assert!(rest.iter().filter(|(person, _)| *person == 1).is_sorted());
        assert!(untold.held() == 0 && untold.people.is_empty() && untold.turns.is_empty());
    }

    #[test]
    fn a_flood_loses_its_own_oldest_and_nothing_of_others() {
        let mut untold = Untold::new(100);
        untold.push(used(2, 7));
        (0..10_000).for_each(|n| untold.push(used(1, n)));
        assert!(untold.held() < 100);
        untold.push(used(3, 8));
        let batch = untold.batch(60);
        (10_000..20_000).for_each(|n| untold.push(used(1, n)));
        untold.keep(batch);
        assert!(untold.held() <= 100);
        let told = told(&mut untold);
        assert!(told.contains(&(2, 7)) && told.contains(&(3, 8)) && told.contains(&(1, 19_999)), "{told:?}");
    }

    #[test]
    fn nothing_is_kept_without_room() {
        let mut untold = Untold::new(0);
        untold.push(used(1, 1));
        untold.keep(vec![used(2, 1)]);
        assert!(untold.held() == 0 && untold.people.is_empty() && untold.turns.is_empty());
    }
}
