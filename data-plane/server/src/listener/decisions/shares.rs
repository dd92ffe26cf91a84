//! How much services may ask: each has a share of what a node decides and records for all of them.
//!
//! Asked by `round` with every question. Each decision becomes a record of some 800 bytes, so this bounds what services
//! put into a node's spool and send to its ledger, whatever they ask: at most 8 MB a second. There are as many shares
//! as there may be services, so few. Each node counts for itself. Absent: the part of the spool that may be filled with
//! them, and how many may wait for the ledger (`recorder`).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bailiwick_data_plane_core::Config;

use crate::budget::Budget;

/// Questions that one service may ask of one node in a second: as many as a core decides in a tenth of it.
const PER_SECOND_MAX: u64 = 5_000;
/// Questions of all services in a second: a third of what a ledger with a processor to itself seals. Twice a share, so
/// that no service alone keeps others from asking.
const OF_ALL_PER_SECOND_MAX: u64 = 2 * PER_SECOND_MAX;

/// How much of its share each service has used, and all together.
#[derive(Debug)]
pub(crate) struct Shares {
    each: Mutex<HashMap<String, Arc<Budget>>>,
    all: Budget,
}

impl Default for Shares {
    fn default() -> Self {
        Self { each: Mutex::default(), all: Budget::new(OF_ALL_PER_SECOND_MAX) }
    }
}

impl Shares {
    /// Takes so many questions of a service's share and of the whole, if they are left of both.
    pub(super) fn take(&self, service: &str, questions: u64, config: &Config) -> bool {
        let mut shares = self.each.lock().unwrap_or_else(PoisonError::into_inner);
        let share = match shares.get(service) {
            Some(share) => Arc::clone(share),
            None => {
                shares.retain(|known, _| config.decision_clients.knows(known));
                let share = Arc::new(Budget::new(PER_SECOND_MAX));
                shares.insert(service.to_owned(), Arc::clone(&share));
                share
            }
        };
        drop(shares);
        share.take(questions) && self.all.take(questions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_service_has_a_share_of_its_own_and_all_together_no_more_than_the_whole() {
        let (shares, config) = (Shares::default(), Config::default());
        assert!(shares.take("a", PER_SECOND_MAX, &config) && !shares.take("a", 1, &config));
        assert!(shares.take("b", 1, &config));
        assert!(shares.take("c", PER_SECOND_MAX - 1, &config));
        assert!(!shares.take("b", 1, &config), "the whole is used up");
    }
}
