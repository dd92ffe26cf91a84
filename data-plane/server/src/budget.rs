//! So much a second and no more: for work that a caller can have done at others' expense.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// What is left in the present second.
#[derive(Debug)]
pub(crate) struct Budget {
    per_second: u64,
    spent: Mutex<(Instant, u64)>,
}

impl Budget {
    pub(crate) fn new(per_second: u64) -> Self {
        Self { per_second, spent: Mutex::new((Instant::now(), 0)) }
    }

    /// Takes so much, if it is left.
    pub(crate) fn take(&self, amount: u64) -> bool {
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.0.elapsed() >= Duration::from_secs(1) {
            *spent = (Instant::now(), 0);
        }
        let after = spent.1.saturating_add(amount);
        if after > self.per_second {
            return false;
        }
        spent.1 = after;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spent_is_gone_until_the_next_second() {
        let budget = Budget::new(10);
        assert!(budget.take(4) && budget.take(6) && !budget.take(1));
        budget.spent.lock().unwrap().0 = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        assert!(!budget.take(11) && budget.take(10));
    }
}
