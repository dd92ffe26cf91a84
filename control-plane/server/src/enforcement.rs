//! Enforcement: waiting until every data plane holds to a revocation, or must.
//!
//! A data plane that hears of a revocation says so at once, to the control plane it is connected to. One that is silent
//! has a lease at most, and no lease that it asked for before the commit outlives the commit by more than its length:
//! whoever grants one proves first that it knows all there is, so after the commit none is granted without the
//! revocation. So there is one deadline for all, on this node's monotonic clock: the bound is max(push, lease).
//! Called by `admin`. What words it waits for comes through [`Witness`], so that tests have them at will.
//! Absent: leases and denials (`config_stream`), how far silence reaches per tier (`docs/security/revocation.md`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bailiwick_control_plane_core::receipt::{Enforcement, Since};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, sleep, timeout_at},
};

use crate::{
    clock,
    config_stream::{LEASE, LEASE_SLACK},
    internal::Colleagues,
};

/// How often other control planes are asked; nodes connected here are heard at once.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// Words that come together are looked at together: with a thousand nodes a look at all costs far more than a word.
const GATHER: Duration = Duration::from_millis(2);
/// Revocations for which other control planes are asked at a time, as each answer names every node; the rest wait a
/// moment longer, at most until their deadline.
const ASKING_MAX: usize = 8;
/// Places for that.
static ASKING: Semaphore = Semaphore::const_new(ASKING_MAX);

/// The moment a change was known to be committed: not before it was.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Committed {
    instant: Instant,
    /// Microseconds since 1970, UTC.
    pub(crate) micros: u64,
}

impl Committed {
    /// What was written before is committed now.
    pub(crate) fn now() -> Self {
        Self { instant: Instant::now(), micros: clock::now_micros() }
    }

    /// How long ago, on the monotonic clock.
    pub(crate) fn elapsed(&self) -> Duration {
        self.instant.elapsed()
    }
}

/// Who knows since when denials are in force.
pub(crate) trait Witness {
    /// At nodes connected to this control plane: since when all denials up to `revision` are; microseconds since 1970.
    fn here(&self, revision: u64) -> BTreeMap<String, u64>;
    /// The same for nodes connected to any control plane that answers.
    fn everywhere(&self, revision: u64) -> impl Future<Output = BTreeMap<String, u64>> + Send;
    /// Wakes when there may be more to know here.
    fn changed(&self) -> watch::Receiver<u64>;
}

/// How long after a commit a silent node may still let something through that needs a lease.
pub(crate) fn silence_max() -> Duration {
    LEASE + LEASE_SLACK
}

/// Waits until all of `nodes` hold to what is denied up to `revision`, or the silent ones' lease has run out.
pub(crate) async fn until_enforced(
    witness: &impl Witness,
    nodes: &BTreeSet<String>,
    revision: u64,
    committed: Committed,
) -> Vec<Enforcement> {
    let mut heard = BTreeMap::new();
    let mut changed = witness.changed();
    let all = async {
        let asking = ask(witness, revision, Duration::ZERO);
        tokio::pin!(asking);
        loop {
            changed.borrow_and_update();
            take_in(&mut heard, witness.here(revision));
            if nodes.iter().all(|name| heard.contains_key(name)) {
                return;
            }
            tokio::select! {
                words = &mut asking => {
                    take_in(&mut heard, words);
                    asking.set(ask(witness, revision, ASK_EVERY));
                }
                Ok(()) = changed.changed() => sleep(GATHER).await,
            }
        }
    };
    if timeout_at(committed.instant + silence_max(), all).await.is_err() {
        let silent: Vec<&String> = nodes.iter().filter(|name| !heard.contains_key(*name)).collect();
        tracing::warn!(revision, ?silent, "data planes did not acknowledge a revocation before their lease ran out");
    }
    let deadline = committed.micros.saturating_add(u64::try_from(silence_max().as_micros()).unwrap_or(u64::MAX));
    let since = |name: &String| heard.get(name).map_or(Since::Deadline(deadline), |at| Since::AcknowledgedAt(*at));
    nodes.iter().map(|name| Enforcement { name: name.clone(), since: since(name) }).collect()
}

async fn ask(witness: &impl Witness, revision: u64, pause: Duration) -> BTreeMap<String, u64> {
    sleep(pause).await;
    witness.everywhere(revision).await
}

/// The first word counts: a node that has moved is heard of twice.
fn take_in(heard: &mut BTreeMap<String, u64>, words: BTreeMap<String, u64>) {
    for (name, at) in words {
        let first = heard.entry(name).or_insert(at);
        *first = at.min(*first);
    }
}

impl Witness for Colleagues {
    fn here(&self, revision: u64) -> BTreeMap<String, u64> {
        self.nodes.denied_through(revision)
    }

    async fn everywhere(&self, revision: u64) -> BTreeMap<String, u64> {
        // Nobody closes it.
        let _place = ASKING.acquire().await.ok();
        self.enforcement(revision).await
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.nodes.changed()
    }
}

#[cfg(test)]
mod tests;
