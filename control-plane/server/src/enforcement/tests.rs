//! Waiting, in paused time: how long it takes is exactly what the words that come, and those that do not, make of it.

use std::{
    future::pending,
    sync::{Mutex, PoisonError},
};

use super::*;

const REVISION: u64 = 42;

/// Words as a test has them: at once here, later or never elsewhere.
#[derive(Debug)]
struct Scripted {
    here: Mutex<BTreeMap<String, u64>>,
    heard: watch::Sender<u64>,
    /// Since when, by the test's clock, and at which node.
    elsewhere: Vec<(Instant, &'static str)>,
    /// A control plane that was asked does not answer.
    hangs: bool,
}

impl Scripted {
    fn new() -> Self {
        Self { here: Mutex::default(), heard: watch::Sender::new(0), elsewhere: Vec::new(), hangs: false }
    }

    fn hear(&self, name: &str, at: u64) {
        self.here.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), at);
        self.heard.send_modify(|count| *count += 1);
    }
}

impl Witness for Scripted {
    fn here(&self, revision: u64) -> BTreeMap<String, u64> {
        assert_eq!(revision, REVISION);
        self.here.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn everywhere(&self, _: u64) -> BTreeMap<String, u64> {
        if self.hangs {
            pending::<()>().await;
        }
        let said = self.elsewhere.iter().filter(|(since, _)| *since <= Instant::now());
        said.map(|(_, name)| ((*name).to_owned(), 7)).collect()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.heard.subscribe()
    }
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn committed() -> Committed {
    Committed { instant: Instant::now(), micros: 1_000 }
}

async fn wait(witness: &Scripted, nodes: &[&str]) -> (Duration, Vec<Since>) {
    let start = Instant::now();
    let enforced = until_enforced(witness, &names(nodes), REVISION, committed()).await;
    assert_eq!(enforced.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), nodes);
    (start.elapsed(), enforced.into_iter().map(|one| one.since).collect())
}

fn deadline() -> Since {
    Since::Deadline(1_000 + u64::try_from(silence_max().as_micros()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn nobody_is_waited_for_where_nobody_is() {
    assert_eq!(wait(&Scripted::new(), &[]).await, (Duration::ZERO, vec![]));
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_the_last_word_and_each_node_keeps_its_first() {
    let witness = Scripted::new();
    witness.hear("dp-1", 5);
    let words = async {
        sleep(Duration::from_millis(30)).await;
        witness.hear("dp-1", 30);
        witness.hear("dp-2", 30);
    };
    let ((waited, since), ()) = tokio::join!(wait(&witness, &["dp-1", "dp-2"]), words);
    assert_eq!(since, [Since::AcknowledgedAt(5), Since::AcknowledgedAt(30)]);
    assert_eq!(waited, Duration::from_millis(30) + GATHER);
}

#[tokio::test(start_paused = true)]
async fn what_another_control_plane_hears_counts_within_a_look() {
    let mut witness = Scripted::new();
    witness.elsewhere = vec![(Instant::now() + Duration::from_millis(120), "dp-1")];
    let (waited, since) = wait(&witness, &["dp-1"]).await;
    assert_eq!(since, [Since::AcknowledgedAt(7)]);
    assert!(waited >= Duration::from_millis(120) && waited <= Duration::from_millis(120) + ASK_EVERY * 2, "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_silent_node_is_waited_for_until_its_lease_has_run_out_and_no_longer() {
    let witness = Scripted::new();
    witness.hear("dp-1", 5);
    let (waited, since) = wait(&witness, &["dp-1", "dp-2"]).await;
    assert_eq!(since, [Since::AcknowledgedAt(5), deadline()]);
    assert!(waited >= silence_max() && waited < silence_max() + Duration::from_millis(5), "{waited:?}");
    assert!(silence_max() > LEASE && silence_max() < LEASE + LEASE / 10);
}

#[tokio::test(start_paused = true)]
async fn a_control_plane_that_does_not_answer_delays_nobody_else() {
    let mut witness = Scripted::new();
    witness.hangs = true;
    let words = async {
        sleep(Duration::from_millis(30)).await;
        witness.hear("dp-1", 30);
    };
    let ((waited, since), ()) = tokio::join!(wait(&witness, &["dp-1"]), words);
    assert_eq!((waited, since), (Duration::from_millis(30) + GATHER, vec![Since::AcknowledgedAt(30)]));
    let (_, since) = wait(&witness, &["dp-1", "dp-2"]).await;
    assert_eq!(since, [Since::AcknowledgedAt(30), deadline()]);
}

#[tokio::test(start_paused = true)]
async fn time_that_has_passed_since_the_commit_counts() {
    let witness = Scripted::new();
    let committed = committed();
    tokio::time::advance(silence_max()).await;
    let start = Instant::now();
    let enforced = until_enforced(&witness, &names(&["dp-1"]), REVISION, committed).await;
    assert!(start.elapsed() < Duration::from_millis(5), "{:?}", start.elapsed());
    assert_eq!(enforced[0].since, deadline());
}
