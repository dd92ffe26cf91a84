//! What all parts of one simulation share: the seed, the virtual clock, the trace and the violations found.
//!
//! The trace is a hash over everything that happens, in order: messages delivered, writes to disks, faults, what
//! clients ask and get. Two runs of one seed have the same trace, or the simulation is not what it claims to be.

use std::{
    fmt::Arguments,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::random::Random;

/// Where virtual time starts: microseconds since 1970.
const EPOCH_MICROS: u64 = 1_800_000_000_000_000;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// Which promise, as a stable word.
    pub(crate) kind: &'static str,
    pub(crate) detail: String,
    pub(crate) at: Duration,
}

/// Shared by all parts of one simulation.
#[derive(Debug)]
pub(crate) struct World {
    seed: u64,
    began: Instant,
    print: bool,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    hash: u64,
    events: u64,
    violations: Vec<Violation>,
}

impl World {
    pub(crate) fn new(seed: u64, print: bool) -> Arc<Self> {
        Arc::new(Self { seed, began: Instant::now(), print, inner: Mutex::new(Inner::default()) })
    }

    /// The stream of random numbers of this name.
    pub(crate) fn random(&self, name: &str) -> Random {
        Random::new(self.seed, name)
    }

    /// Virtual time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// What a clock without skew shows.
    pub(crate) fn now_micros(&self) -> u64 {
        EPOCH_MICROS.saturating_add(u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    /// Adds to the trace.
    pub(crate) fn trace(&self, what: Arguments<'_>) {
        let line = format!("{:>10.3} {what}", self.elapsed().as_secs_f64() * 1e3);
        let mut inner = lock(&self.inner);
        inner.events += 1;
        inner.hash = fnv(inner.hash, line.as_bytes());
        drop(inner);
        if self.print {
            println!("{line}");
        }
    }

    /// Notes a broken promise.
    pub(crate) fn violate(&self, kind: &'static str, detail: String) {
        let violation = Violation { kind, detail, at: self.elapsed() };
        // What is looked at again and again is broken again and again.
        if self.violations().iter().any(|known| known.kind == kind && known.detail == violation.detail) {
            return;
        }
        self.trace(format_args!("VIOLATION {kind}: {}", violation.detail));
        lock(&self.inner).violations.push(violation);
    }

    pub(crate) fn violations(&self) -> Vec<Violation> {
        lock(&self.inner).violations.clone()
    }

    /// Hash and length of the trace so far.
    pub(crate) fn digest(&self) -> (u64, u64) {
        let inner = lock(&self.inner);
        (inner.hash, inner.events)
    }
}

/// A lock whose holder panicked is still good here: the panic is a violation of its own.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// FNV-1a, continued from `hash`.
pub(crate) fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(hash ^ 0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
