//! One life of a simulated node: from a start to a crash, with pauses.
//!
//! All tasks of a node run under its life (`bailiwick_consensus::runtime::Host`). A pause stops every one of them where
//! it waits, as SIGSTOP would, while time goes on for the others. A crash is final: no task of the life runs again,
//! its disk refuses every access, and nothing of it reaches the network.

use std::{
    mem,
    sync::{Arc, Mutex},
    task::Waker,
};

use bailiwick_consensus::runtime::{Host, Turn};

use crate::{random::Random, world::lock};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Paused,
    Over,
}

/// One life of a node.
#[derive(Debug)]
pub(crate) struct Life {
    random: Random,
    phase: Mutex<Phase>,
    waiting: Mutex<Vec<Waker>>,
}

impl Life {
    pub(crate) fn new(random: Random) -> Arc<Self> {
        Arc::new(Self { random, phase: Mutex::new(Phase::Running), waiting: Mutex::new(Vec::new()) })
    }

    /// Nothing of it runs, is written or sent from now on.
    pub(crate) fn end(&self) {
        self.change(Phase::Over);
    }

    pub(crate) fn pause(&self) {
        if *lock(&self.phase) == Phase::Running {
            self.change(Phase::Paused);
        }
    }

    pub(crate) fn resume(&self) {
        if *lock(&self.phase) == Phase::Paused {
            self.change(Phase::Running);
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        *lock(&self.phase) == Phase::Over
    }

    pub(crate) fn is_running(&self) -> bool {
        *lock(&self.phase) == Phase::Running
    }

    fn change(&self, phase: Phase) {
        *lock(&self.phase) = phase;
        let waiting = mem::take(&mut *lock(&self.waiting));
        waiting.into_iter().for_each(Waker::wake);
    }
}

impl Host for Life {
    fn turn(&self, waker: &Waker) -> Turn {
        match *lock(&self.phase) {
            Phase::Running => Turn::Run,
            Phase::Paused => {
                lock(&self.waiting).push(waker.clone());
                Turn::Wait
            }
            Phase::Over => Turn::Gone,
        }
    }

    fn random(&self) -> u64 {
        self.random.next()
    }
}
