//! Heartbeats: this node proves each second that what is fed here is current, and says so to the nodes in turns.
//!
//! Each session is in one of a few groups, and each proof is told to one of them: what idle nodes cost is mostly that
//! they are woken, and a bookmark tells them nothing that the lane does not show within a second, too. Written by
//! `config_stream::beat`, read by `session` and `lane`. Absent: leases, which have proofs of their own (`proofs`).

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
};

use tokio::sync::watch;

/// Groups, and so seconds between two bookmarks: a node may miss one, and the next comes before it takes that for
/// silence.
const GROUPS: usize = 3;

/// Tells of proofs.
#[derive(Debug)]
pub(crate) struct Beats {
    proven: watch::Sender<u64>,
    turns: Vec<watch::Sender<u64>>,
    next: usize,
}

/// Hears of proofs; each is the time it began, in microseconds since 1970. 0 before the first.
#[derive(Clone, Debug)]
pub(crate) struct Heartbeats {
    proven: watch::Receiver<u64>,
    turns: Arc<[watch::Receiver<u64>]>,
}

/// Both ends.
pub(crate) fn heartbeats() -> (Beats, Heartbeats) {
    let (proven, heard) = watch::channel(0);
    let (turns, hearing): (Vec<_>, Vec<_>) = (0..GROUPS).map(|_| watch::channel(0)).unzip();
    (Beats { proven, turns, next: 0 }, Heartbeats { proven: heard, turns: hearing.into() })
}

impl Beats {
    /// A proof that began then.
    pub(crate) fn proven(&mut self, began: u64) {
        self.proven.send_replace(began);
        if let Some(turn) = self.turns.get(self.next) {
            turn.send_replace(began);
        }
        self.next = (self.next + 1) % GROUPS;
    }
}

impl Heartbeats {
    /// Those that are told to a node.
    pub(crate) fn of(&self, node: &str) -> watch::Receiver<u64> {
        let mut hasher = DefaultHasher::new();
        node.hash(&mut hasher);
        let group = usize::try_from(hasher.finish() % GROUPS as u64).unwrap_or(0);
        self.turns.get(group).unwrap_or(&self.proven).clone()
    }

    /// When the last proof began.
    pub(crate) fn last(&self) -> u64 {
        *self.proven.borrow()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_node_is_told_of_one_proof_in_a_few_and_all_know_the_last() {
        let (mut beats, heartbeats) = heartbeats();
        let mut nodes: Vec<_> = (0..300).map(|n| heartbeats.of(&format!("data-plane-{n}"))).collect();
        let mut told = 0;
        for began in 1..=GROUPS as u64 {
            beats.proven(began);
            assert_eq!(heartbeats.last(), began);
            let woken = nodes.iter_mut().filter(|node| node.has_changed().unwrap());
            let woken = woken.map(|node| assert_eq!(*node.borrow_and_update(), began)).count();
            assert!((70..130).contains(&woken), "{woken} at once");
            told += woken;
        }
        assert_eq!(told, nodes.len());
    }
}
