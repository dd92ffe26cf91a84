//! Is a history of concurrent operations on one register one that a single register could have shown?
//!
//! The search of Wing and Gong with Lowe's memory of configurations seen. Each register is checked by itself, which is
//! enough: linearizability is local. An operation of unknown outcome may have taken effect at any time after it began,
//! or never; it never has to. Called by `history`; knows nothing of clusters.

use std::collections::HashSet;

/// A register's value; 0 stands for none.
pub(crate) type Value = u32;

/// What an operation did, as its caller was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Set the value.
    Write(Value),
    /// Saw this value.
    Read(Value),
    /// Found `from` (or `to` already) and set `to`.
    Swap { from: Value, to: Value },
    /// Found neither `from` nor `to`.
    SwapRefused { from: Value, to: Value },
    /// Removed what was there.
    Delete,
    /// Found nothing to remove.
    DeleteRefused,
}

impl Action {
    /// The value afterwards, if this can happen at `value`.
    fn step(self, value: Value) -> Option<Value> {
        match self {
            Self::Write(to) => Some(to),
            Self::Read(seen) => (seen == value).then_some(value),
            Self::Swap { from, to } => (value == from || value == to).then_some(to),
            Self::SwapRefused { from, to } => (value != from && value != to).then_some(value),
            Self::Delete => (value != 0).then_some(0),
            Self::DeleteRefused => (value == 0).then_some(0),
        }
    }
}

/// One operation: when it was asked, when it was answered, in steps of one clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) began: u64,
    /// Absent: the outcome is unknown.
    pub(crate) ended: Option<u64>,
    pub(crate) action: Action,
}

/// What a check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Linearizable,
    /// The answer at this step (of the history's clock) fits no order. Later ones may not either.
    Violated {
        at: u64,
    },
    /// Too many configurations to tell.
    Undecided,
}

/// Configurations remembered before a check gives up; far more than the histories here need.
const CONFIGURATIONS_MAX: usize = 3_000_000;

/// Checks the operations on one register, which holds nothing at first.
pub(crate) fn check(operations: &[Operation]) -> Verdict {
    let mut search = Search::new(operations);
    search.run()
}

/// A call or an answer, in the list of what is not yet placed.
#[derive(Clone, Copy)]
struct Entry {
    operation: usize,
    is_call: bool,
    before: usize,
    after: usize,
}

struct Search<'a> {
    operations: &'a [Operation],
    /// In order of time; entry 0 is the head of a circular list.
    entries: Vec<Entry>,
    /// The answer's entry of each operation, where it has one.
    answers: Vec<Option<usize>>,
    /// Operations with a known outcome that are not yet placed.
    known_left: usize,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation]) -> Self {
        let mut points = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            points.push((operation.began, index, true));
            points.extend(operation.ended.map(|ended| (ended, index, false)));
        }
        // A call at the same step as an answer counts as concurrent with it: calls first.
        points.sort_by_key(|(at, index, is_call)| (*at, !is_call, *index));
        let count = points.len() + 1;
        let mut entries = vec![Entry { operation: usize::MAX, is_call: false, before: count - 1, after: 1 % count }];
        let mut answers = vec![None; operations.len()];
        for (place, (_, operation, is_call)) in points.into_iter().enumerate() {
            let here = place + 1;
            if !is_call {
                answers[operation] = Some(here);
            }
            entries.push(Entry { operation, is_call, before: place, after: (here + 1) % count });
        }
        let known_left = operations.iter().filter(|operation| operation.ended.is_some()).count();
        Self { operations, entries, answers, known_left }
    }

    fn run(&mut self) -> Verdict {
        let mut seen = HashSet::new();
        let mut placed = vec![0_u64; self.operations.len().div_ceil(64)];
        let mut stack: Vec<(usize, Value)> = Vec::new();
        let (mut value, mut at, mut latest) = (0, self.entries[0].after, 0);
        while self.known_left > 0 {
            if seen.len() > CONFIGURATIONS_MAX {
                return Verdict::Undecided;
            }
            if at != 0 && self.entries[at].is_call {
                let operation = self.entries[at].operation;
                if let Some(next) = self.operations[operation].action.step(value) {
                    placed[operation / 64] |= 1 << (operation % 64);
                    if seen.insert((placed.clone(), next)) {
                        stack.push((at, value));
                        value = next;
                        self.lift(at);
                        at = self.entries[0].after;
                        continue;
                    }
                    placed[operation / 64] &= !(1 << (operation % 64));
                }
                at = self.entries[at].after;
                continue;
            }
            // An answer whose operation is not yet placed: something before it was placed wrongly.
            let ended = self.entries.get(at).and_then(|entry| self.operations.get(entry.operation));
            latest = latest.max(ended.and_then(|operation| operation.ended).unwrap_or(u64::MAX));
            let Some((call, earlier)) = stack.pop() else { return Verdict::Violated { at: latest } };
            value = earlier;
            let operation = self.entries[call].operation;
            placed[operation / 64] &= !(1 << (operation % 64));
            self.unlift(call);
            at = self.entries[call].after;
        }
        Verdict::Linearizable
    }

    fn lift(&mut self, call: usize) {
        self.unlink(call);
        if let Some(answer) = self.answers[self.entries[call].operation] {
            self.unlink(answer);
            self.known_left -= 1;
        }
    }

    fn unlift(&mut self, call: usize) {
        if let Some(answer) = self.answers[self.entries[call].operation] {
            self.relink(answer);
            self.known_left += 1;
        }
        self.relink(call);
    }

    fn unlink(&mut self, entry: usize) {
        let Entry { before, after, .. } = self.entries[entry];
        self.entries[before].after = after;
        self.entries[after].before = before;
    }

    fn relink(&mut self, entry: usize) {
        let Entry { before, after, .. } = self.entries[entry];
        self.entries[before].after = entry;
        self.entries[after].before = entry;
    }
}

#[cfg(test)]
mod tests {
    use super::{Action::*, *};

    fn history(operations: &[(u64, Option<u64>, Action)]) -> Vec<Operation> {
        operations
            .iter()
            .map(|(began, ended, action)| Operation { began: *began, ended: *ended, action: *action })
            .collect()
    }

    #[test]
    fn histories_of_one_register_are_told_from_others() {
        let swap = Swap { from: 1, to: 2 };
        let good = [
            vec![],
            vec![(0, Some(1), Write(1)), (2, Some(3), Read(1))],
            // Concurrent: either order.
            vec![(0, Some(5), Write(1)), (1, Some(2), Read(0)), (3, Some(4), Read(1))],
            // Unknown, and seen much later.
            vec![(0, None, Write(1)), (1, Some(2), Read(0)), (3, Some(4), Read(1))],
            // Unknown, and never seen.
            vec![(0, None, Write(1)), (1, Some(2), Read(0)), (3, Some(4), Read(0))],
            vec![(0, Some(1), Write(1)), (2, Some(3), swap), (4, Some(5), SwapRefused { from: 1, to: 3 })],
            vec![(0, Some(1), Write(1)), (2, None, swap), (4, Some(5), SwapRefused { from: 1, to: 3 })],
            vec![(0, Some(1), Write(1)), (2, Some(3), Delete), (4, Some(5), DeleteRefused), (6, Some(7), Read(0))],
        ];
        for operations in good {
            assert_eq!(check(&history(&operations)), Verdict::Linearizable, "{operations:?}");
        }
        let bad = [
            // Lost.
            (vec![(0, Some(1), Write(1)), (2, Some(3), Read(0))], 3),
            // Stale.
            (vec![(0, Some(1), Write(1)), (2, Some(3), Write(2)), (4, Some(5), Read(1))], 5),
            // Seen, then not.
            (vec![(0, None, Write(1)), (1, Some(2), Read(1)), (3, Some(4), Read(0))], 4),
            // From the future.
            (vec![(0, Some(1), Read(1)), (2, Some(3), Write(1))], 1),
            // Two swaps of one value.
            (vec![(0, Some(1), Write(1)), (2, Some(9), swap), (2, Some(9), Swap { from: 1, to: 3 })], 9),
            (vec![(0, Some(1), DeleteRefused), (2, Some(3), Delete)], 3),
        ];
        for (operations, at) in bad {
            assert_eq!(check(&history(&operations)), Verdict::Violated { at }, "{operations:?}");
        }
    }

    /// Every order of a few operations, tried one by one.
    fn by_force(operations: &[Operation], value: Value, left: &mut Vec<usize>) -> bool {
        if left.iter().all(|index| operations[*index].ended.is_none()) {
            return true;
        }
        let first_answer = left.iter().filter_map(|index| operations[*index].ended).min().unwrap();
        for place in 0..left.len() {
            let index = left[place];
            if operations[index].began > first_answer {
                continue;
            }
            if let Some(next) = operations[index].action.step(value) {
                left.remove(place);
                let found = by_force(operations, next, left);
                left.insert(place, index);
                if found {
                    return true;
                }
            }
        }
        false
    }

    #[test]
    fn the_search_agrees_with_trying_every_order() {
        let random = crate::random::Random::new(1, "checker");
        let mut verdicts = [0; 2];
        for _ in 0..4_000 {
            let operations: Vec<Operation> = (0..=random.below(6))
                .map(|_| {
                    let (value, other) = (random.below(3) as Value, random.below(3) as Value);
                    let action = match random.below(6) {
                        0 | 1 => Write(value),
                        2 => Swap { from: value, to: other },
                        3 => SwapRefused { from: value, to: other },
                        4 => Delete,
                        _ => Read(value),
                    };
                    let began = random.below(12);
                    let ended = (!random.chance(200)).then(|| began + random.below(6));
                    Operation { began, ended, action }
                })
                .collect();
            let expected = by_force(&operations, 0, &mut (0..operations.len()).collect());
            assert_eq!(check(&operations) == Verdict::Linearizable, expected, "{operations:?}");
            verdicts[usize::from(expected)] += 1;
        }
        assert!(verdicts.iter().all(|count| *count > 400), "{verdicts:?}");
    }
}
