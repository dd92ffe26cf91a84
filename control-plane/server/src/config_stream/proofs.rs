//! Proofs that this control plane is current, shared by all lanes.
//!
//! A lease says that the node has every denial there was when it asked, so the proof must begin after the question
//! came. One proof serves all questions that came before it began: a thousand nodes that ask each second cost no more
//! rounds among the control planes than one per [`PACE`]. Called by `lane`.
//! Invariant: a ticket is covered only by a proof that began after it was taken.

use std::{future::Future, time::Duration};

use bailiwick_runtime::Shutdown;
use tokio::sync::watch;

/// Pause between proofs, which bounds what leases cost, and gathers those who ask: waking one lane costs more than
/// answering it. A question waits that much longer at most, which leaves nine tenths of its lease.
const PACE: Duration = Duration::from_millis(250);

/// Where to ask for proofs, and to hear of them.
#[derive(Clone, Debug)]
pub(crate) struct Proofs {
    asked: watch::Sender<u64>,
    proven: watch::Receiver<Proof>,
}

/// The last attempt to prove that this control plane is current.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Proof {
    /// The last ticket that was taken before it began.
    pub(crate) ticket: u64,
    /// A revision that holds everything committed when it began; `None` if nobody confirmed that.
    pub(crate) revision: Option<u64>,
}

/// The other end of [`Proofs`], for the one task that proves.
#[derive(Debug)]
pub(crate) struct Prover {
    asked: watch::Receiver<u64>,
    proven: watch::Sender<Proof>,
}

/// Both ends.
pub(crate) fn proofs() -> (Proofs, Prover) {
    let (asked, questions) = watch::channel(0);
    let (answers, proven) = watch::channel(Proof::default());
    (Proofs { asked, proven }, Prover { asked: questions, proven: answers })
}

impl Proofs {
    /// Asks for a proof that begins after this; one with this ticket or a later one is such a proof.
    pub(crate) fn ask(&self) -> u64 {
        let mut ticket = 0;
        self.asked.send_modify(|asked| {
            *asked += 1;
            ticket = *asked;
        });
        ticket
    }

    /// Tells of each proof, and of each that failed.
    pub(crate) fn proven(&self) -> watch::Receiver<Proof> {
        let mut proven = self.proven.clone();
        proven.mark_unchanged();
        proven
    }
}

impl Prover {
    /// Proves whenever somebody has asked, by `prove`, until shutdown.
    pub(crate) async fn run<F>(mut self, prove: impl Fn() -> F + Send, shutdown: Shutdown)
    where
        F: Future<Output = Option<u64>> + Send,
    {
        while let Some(Ok(())) = shutdown.or_stop(self.asked.changed()).await {
            // Before the proof begins: whoever asks from here on is not covered by it.
            let ticket = *self.asked.borrow_and_update();
            let Some(revision) = shutdown.or_stop(prove()).await else { return };
            self.proven.send_replace(Proof { ticket, revision });
            if shutdown.or_stop(tokio::time::sleep(PACE)).await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use bailiwick_runtime::{OnEnd, Supervisor};
    use tokio::sync::Semaphore;

    use super::*;

    /// A prover whose proofs end one by one, as `ends` gets permits; each gives how many began so far.
    fn prover(ends: &Arc<Semaphore>) -> (Proofs, Supervisor, Arc<AtomicU64>) {
        let (proofs, prover) = proofs();
        let (supervisor, began, ends) =
            (Supervisor::new(Shutdown::new()), Arc::new(AtomicU64::new(0)), Arc::clone(ends));
        let counted = Arc::clone(&began);
        let prove = move || {
            let (number, ends) = (counted.fetch_add(1, Ordering::SeqCst) + 1, Arc::clone(&ends));
            async move {
                ends.acquire().await.unwrap().forget();
                Some(number)
            }
        };
        supervisor.spawn("proofs", OnEnd::Critical, prover.run(prove, supervisor.shutdown().clone()));
        (proofs, supervisor, began)
    }

    async fn until_began(began: &AtomicU64, count: u64) {
        while began.load(Ordering::SeqCst) < count {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_proof_that_began_before_the_question_does_not_answer_it() {
        let ends = Arc::new(Semaphore::new(0));
        let (proofs, _supervisor, began) = prover(&ends);
        let mut proven = proofs.proven();
        let early = proofs.ask();
        until_began(&began, 1).await;
        let late = proofs.ask();
        ends.add_permits(1);
        let proof = *proven.wait_for(|proof| proof.ticket >= early).await.unwrap();
        assert_eq!(proof, Proof { ticket: early, revision: Some(1) });
        assert!(proof.ticket < late, "another proof has to begin first");
        ends.add_permits(1);
        let proof = *proven.wait_for(|proof| proof.ticket >= late).await.unwrap();
        assert_eq!(proof, Proof { ticket: late, revision: Some(2) });
    }

    #[tokio::test(start_paused = true)]
    async fn one_proof_answers_all_who_asked_before_it_and_nobody_asked_means_none() {
        let ends = Arc::new(Semaphore::new(1_000));
        let (proofs, supervisor, began) = prover(&ends);
        let mut proven = proofs.proven();
        let last = (0..1_000).map(|_| proofs.ask()).max().unwrap();
        proven.wait_for(|proof| proof.ticket == last).await.unwrap();
        tokio::time::sleep(PACE * 100).await;
        assert_eq!(began.load(Ordering::SeqCst), 1);
        supervisor.shutdown().request();
        supervisor.ended().await.unwrap();
    }
}
