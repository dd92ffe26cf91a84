//! A whole ledger over HTTP and the in-process event stream, against a control plane that only keeps checkpoints.
//!
//! Waiting is always for an announcement of the ledger or an answer that changes, never for time to pass.

use std::{future::Future, time::Duration};

use bailiwick_ledger_core::{
    checkpoint::VerifierKey,
    verify::{Trust, Verdict, verify_export},
};
use bailiwick_proto::{
    subjects,
    v1::{LedgerNotice, RecordBatch, ReplayRequest, ledger_notice::Notice},
};
use bailiwick_runtime::event_stream::Listener;
use prost::Message;
use serde_json::Value;

use self::control_plane::FakeControlPlane;
use super::*;
use crate::{
    export::{ExportDir, Source, export},
    fixture::Node,
    store::tests::Fault,
};

mod control_plane;
mod queries;

/// Far more than anything here takes; only a hanging test meets it.
const PATIENCE: Duration = Duration::from_secs(30);

/// One ledger with what it talks to.
struct Bench {
    folder: tempfile::TempDir,
    control_plane: FakeControlPlane,
    stream: EventStream,
    notices: Listener,
    shutdown: Shutdown,
    running: Running,
}

impl Bench {
    /// A fresh ledger that has asked the control plane, so that it says what it stores.
    async fn new() -> Self {
        let bench = Self::over(tempfile::tempdir().unwrap(), FakeControlPlane::start().await, []).await;
        eventually(async || (bench.readyz().await.0 == 200).then_some(())).await;
        bench
    }

    /// A ledger whose first writes go as planned in `faults`.
    async fn over(
        folder: tempfile::TempDir,
        control_plane: FakeControlPlane,
        faults: impl IntoIterator<Item = Fault>,
    ) -> Self {
        let stream = EventStream::in_process();
        let notices = stream.listen(&subjects::checkpoint("local")).await.unwrap();
        let shutdown = Shutdown::new();
        let mut config = LedgerConfig::embedded(folder.path().to_owned(), control_plane.url());
        config.master_key = crate::fixture::master_key();
        let opened = open(&config).unwrap();
        let plan = |store: &Store| {
            store.faults.plan(faults);
            Ok(())
        };
        opened.store.lend(plan).unwrap();
        let listeners = bind(&config).await.unwrap();
        let running = run(config, stream.clone(), opened, listeners, shutdown.clone()).await.unwrap();
        Self { folder, control_plane, stream, notices, shutdown, running }
    }

    async fn stop(self) -> (tempfile::TempDir, FakeControlPlane) {
        self.shutdown.request();
        tokio::time::timeout(PATIENCE, self.running.stopped()).await.unwrap().unwrap();
        (self.folder, self.control_plane)
    }

    async fn send(&self, batch: &RecordBatch) {
        let subject = match batch.node.as_str() {
            "control-plane" => subjects::CONTROL.to_owned(),
            node => subjects::record("local", node),
        };
        let id = subjects::message_id(&batch.node, batch.epoch, batch.first_seq);
        self.stream.publish(&subject, &id, batch.encode_to_vec().into()).await.unwrap();
    }

    /// Waits until the ledger announces that `batch` is stored, or published; gives how often it named its chain
    /// otherwise before.
    async fn heard(&mut self, batch: &RecordBatch, published: bool) -> u32 {
        let last = batch.first_seq + batch.records.len() as u64 - 1;
        let hear = async {
            let mut otherwise = 0;
            loop {
                let notice = LedgerNotice::decode(self.notices.next().await.unwrap()).unwrap();
                assert_eq!(notice.kinds, bailiwick_ledger_core::record::Kind::known(), "each notice says what is read");
                let notice = notice.notice.unwrap();
                let (cursors, of_checkpoint) = match notice {
                    Notice::Stored(stored) => (stored.cursors, false),
                    Notice::Published(published) => (published.cursors, true),
                };
                let covers = |cursor: &bailiwick_proto::v1::Cursor| {
                    cursor.node == batch.node && cursor.epoch == batch.epoch && cursor.seq >= last
                };
                if of_checkpoint == published && cursors.iter().any(covers) {
                    return otherwise;
                }
                let of_chain =
                    |cursor: &bailiwick_proto::v1::Cursor| cursor.node == batch.node && cursor.epoch == batch.epoch;
                otherwise += u32::from(of_checkpoint != published && cursors.iter().any(of_chain));
            }
        };
        tokio::time::timeout(PATIENCE, hear).await.expect("the ledger announces what it has")
    }

    async fn stored(&mut self, batch: &RecordBatch) {
        self.heard(batch, false).await;
    }

    /// Gives how often its chain was said to be stored before.
    async fn published(&mut self, batch: &RecordBatch) -> u32 {
        self.heard(batch, true).await
    }

    async fn size_is(&self, size: u64) {
        eventually(async || {
            let status = self.json("/v1/status").await;
            (status["size"].as_str()?.parse() == Ok(size)).then_some(())
        })
        .await;
    }

    async fn get(&self, path: &str) -> reqwest::Response {
        get(format!("http://{}{path}", self.running.http_addr)).await
    }

    async fn json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    async fn readyz(&self) -> (u16, String) {
        let answer = get(format!("http://{}/readyz", self.running.ops_addr)).await;
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    fn trust(&self, earlier: Vec<Vec<u8>>) -> Trust {
        Trust { keys: vec![self.running.verifier_key.parse::<VerifierKey>().unwrap()], earlier }
    }

    async fn export(&self, source: &Source, trust: &Trust) -> (Verdict, tempfile::TempDir) {
        let out = tempfile::tempdir().unwrap();
        export(source, out.path(), |_| {}).await.unwrap();
        (verify_export(&ExportDir::new(out.path()), trust).verdict, out)
    }
}

/// No proxy of the machine stands between a test and its ledger.
fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn get(url: String) -> reqwest::Response {
    client().get(url).send().await.unwrap()
}

/// Repeats `attempt` until it gives something; for conditions that nothing announces.
async fn eventually<T, F: Future<Output = Option<T>>>(mut attempt: impl FnMut() -> F) -> T {
    let repeated = async {
        loop {
            if let Some(found) = attempt().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, repeated).await.expect("the condition comes true")
}

/// The registration of one run, and some of its calls.
fn registered(control: &mut Node, node: &mut Node) -> (RecordBatch, RecordBatch) {
    (control.batch(|control| vec![control.register(node)]), node.batch(|node| node.calls(3)))
}

#[tokio::test]
async fn a_batch_seen_twice_is_stored_once() {
    let mut bench = Bench::new().await;
    let (registration, calls) = registered(&mut Node::control(), &mut Node::run("dp-1", 7));
    for _ in 0..2 {
        bench.send(&registration).await;
        bench.stored(&registration).await;
        bench.send(&calls).await;
        bench.stored(&calls).await;
    }
    assert_eq!(bench.json("/v1/status").await["size"], "9");
    bench.stop().await;
}

#[tokio::test]
async fn a_hole_is_asked_for_and_then_closed() {
    let mut bench = Bench::new().await;
    let mut node = Node::run("dp-1", 7);
    let (registration, first) = registered(&mut Node::control(), &mut node);
    let (lost, last) = (node.batch(|node| node.calls(2)), node.batch(|node| node.calls(2)));
    let mut replays = bench.stream.listen(&subjects::replay("dp-1")).await.unwrap();
    for batch in [&registration, &first, &last] {
        bench.send(batch).await;
    }
    let asked = tokio::time::timeout(PATIENCE, replays.next()).await.unwrap().unwrap();
    let wanted = ReplayRequest { node: "dp-1".into(), epoch: 7, from_seq: lost.first_seq };
    assert_eq!(ReplayRequest::decode(asked).unwrap(), wanted);
    bench.send(&lost).await;
    bench.stored(&last).await;
    bench.published(&last).await;
    bench.stop().await;
}

#[tokio::test]
async fn a_node_nobody_registered_is_held_until_the_control_plane_says_who_it_is() {
    let mut bench = Bench::new().await;
    let (registration, calls) = registered(&mut Node::control(), &mut Node::run("dp-1", 7));
    let mut replays = bench.stream.listen(&subjects::replay("control-plane")).await.unwrap();
    bench.send(&calls).await;
    let asked = tokio::time::timeout(PATIENCE, replays.next()).await.unwrap().unwrap();
    assert_eq!(ReplayRequest::decode(asked).unwrap().from_seq, 0);
    bench.send(&registration).await;
    bench.stored(&calls).await;
    bench.stop().await;
}

#[tokio::test]
async fn nothing_is_published_while_the_control_plane_is_away() {
    let mut bench = Bench::new().await;
    let (registration, calls) = registered(&mut Node::control(), &mut Node::run("dp-1", 7));
    bench.send(&registration).await;
    bench.published(&registration).await;
    bench.control_plane.set_away(true);
    bench.send(&calls).await;
    bench.stored(&calls).await;
    let refused = bench.control_plane.refused();
    eventually(async || (bench.control_plane.refused() > refused + 1).then_some(())).await;
    assert_eq!(bench.json("/v1/status").await["published_size"], "1");
    bench.control_plane.set_away(false);
    bench.published(&calls).await;
    assert_eq!(bench.control_plane.committed().0, 9);
    bench.stop().await;
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_published_all_the_same() {
    let mut bench = Bench::new().await;
    bench.control_plane.lose_answers(1);
    let (registration, _) = registered(&mut Node::control(), &mut Node::run("dp-1", 7));
    bench.send(&registration).await;
    bench.published(&registration).await;
    assert_eq!(bench.control_plane.committed().0, 1);
    bench.stop().await;
}

#[tokio::test]
async fn an_export_of_a_running_ledger_verifies() {
    let mut bench = Bench::new().await;
    let mut node = Node::run("dp-1", 7);
    let (registration, _) = registered(&mut Node::control(), &mut node);
    bench.send(&registration).await;
    bench.send(&RecordBatch { node: "dp-1".into(), epoch: 7, ..Default::default() }).await;
    let mut first = Node::run("dp-1", 7);
    let mut last = registration;
    for _ in 0..6 {
        // More than two full tiles in all.
        last = first.batch(|node| node.calls(50));
        bench.send(&last).await;
    }
    bench.published(&last).await;
    let trust = bench.trust(vec![]);
    let sources =
        [Source::Dir(bench.folder.path().to_owned()), Source::Url(format!("http://{}", bench.running.http_addr))];
    for source in sources {
        let (verdict, out) = bench.export(&source, &trust).await;
        assert_eq!(verdict, Verdict::Valid, "{source:?}");
        let bundle = out.path().join("tile/entries/001");
        let mut bytes = std::fs::read(&bundle).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&bundle, bytes).unwrap();
        let changed = verify_export(&ExportDir::new(out.path()), &trust).verdict;
        assert!(matches!(changed, Verdict::Invalid { first_bad_leaf: Some(256), .. }), "{changed:?}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn restart_continues_the_same_tree() {
    let mut bench = Bench::new().await;
    let (mut control, mut node) = (Node::control(), Node::run("dp-1", 7));
    let (registration, calls) = registered(&mut control, &mut node);
    bench.send(&registration).await;
    bench.send(&calls).await;
    bench.published(&calls).await;
    let before = bench.get("/checkpoint").await.text().await.unwrap();
    let key = bench.running.verifier_key.clone();
    let (folder, control_plane) = bench.stop().await;

    let mut bench = Bench::over(folder, control_plane, []).await;
    assert_eq!(bench.running.verifier_key, key);
    assert_eq!(bench.get("/checkpoint").await.text().await.unwrap(), before);
    // Covered already: the node that asks again by sending again hears so.
    bench.send(&calls).await;
    bench.published(&calls).await;
    let more = node.batch(|node| node.calls(2));
    bench.send(&more).await;
    bench.published(&more).await;
    let trust = bench.trust(vec![before.into_bytes()]);
    let (verdict, _) = bench.export(&Source::Dir(bench.folder.path().to_owned()), &trust).await;
    assert_eq!(verdict, Verdict::Valid);
    bench.stop().await;
}

#[tokio::test]
async fn what_was_stored_last_is_published_at_shutdown() {
    let mut bench = Bench::new().await;
    let (registration, calls) = registered(&mut Node::control(), &mut Node::run("dp-1", 7));
    bench.send(&registration).await;
    bench.published(&registration).await;
    // Within the pause after a publication.
    bench.send(&calls).await;
    bench.stored(&calls).await;
    let (_folder, control_plane) = bench.stop().await;
    assert_eq!(control_plane.committed().0, 9);
}

/// Until it is known whether the log extends what was committed, no call may rely on it.
#[tokio::test]
async fn a_ledger_that_could_not_ask_vouches_for_nothing() {
    let control_plane = FakeControlPlane::start().await;
    control_plane.set_away(true);
    let mut bench = Bench::over(tempfile::tempdir().unwrap(), control_plane, []).await;
    let (registration, calls) = registered(&mut Node::control(), &mut Node::run("dp-1", 7));
    bench.send(&registration).await;
    bench.send(&calls).await;
    bench.size_is(9).await;
    bench.control_plane.set_away(false);
    let heard = bench.published(&calls).await;
    assert_eq!(heard, 0, "something was said to be stored before the log was compared with the committed one");
    bench.stop().await;
}

#[tokio::test]
async fn a_restored_backup_publishes_nothing_takes_nothing_and_says_so() {
    let control_plane = FakeControlPlane::start().await;
    control_plane.pretend_committed(100, [7; 32]);
    let mut bench = Bench::over(tempfile::tempdir().unwrap(), control_plane, []).await;
    let (registration, calls) = registered(&mut Node::control(), &mut Node::run("dp-1", 7));
    let told = eventually(async || {
        let (status, text) = bench.readyz().await;
        (status == 503 && text.contains("restored backup")).then_some(text)
    });
    told.await;
    bench.send(&registration).await;
    bench.send(&calls).await;
    assert_eq!(bench.get("/checkpoint").await.status(), 404);
    assert_eq!(bench.json("/v1/status").await["size"], "0");
    // What is committed turns out to be what this log extends: what waited is taken in.
    bench.control_plane.pretend_committed(0, [0; 32]);
    bench.published(&registration).await;
    bench.stop().await;
}

#[tokio::test]
async fn another_history_is_neither_published_nor_vouched_for() {
    let control_plane = FakeControlPlane::start().await;
    let mut bench = Bench::over(tempfile::tempdir().unwrap(), control_plane, []).await;
    let mut node = Node::run("dp-1", 7);
    let (registration, calls) = registered(&mut Node::control(), &mut node);
    bench.send(&registration).await;
    bench.published(&registration).await;
    bench.control_plane.pretend_committed(1, [7; 32]);
    // The first attempt to publish after this tells the ledger.
    bench.send(&calls).await;
    eventually(async || bench.readyz().await.1.contains("another history").then_some(())).await;
    bench.send(&node.batch(|node| node.calls(1))).await;
    assert_eq!(bench.json("/v1/status").await["published_size"], "1");
    assert_eq!(bench.json("/v1/status").await["size"], "9", "it went on");
    bench.stop().await;
}

#[tokio::test]
async fn a_disk_that_refuses_loses_nothing() {
    // The first writes of a start fix the log's identity; these here are those of the sequencer.
    let faults = [Fault::Failed, Fault::FailedButStored, Fault::Failed];
    let mut bench = Bench::over(tempfile::tempdir().unwrap(), FakeControlPlane::start().await, faults).await;
    let (registration, calls) = registered(&mut Node::control(), &mut Node::run("dp-1", 7));
    bench.send(&registration).await;
    eventually(async || bench.readyz().await.1.contains("nothing is acknowledged").then_some(())).await;
    bench.send(&calls).await;
    bench.published(&calls).await;
    assert_eq!(bench.json("/v1/status").await["size"], "9");
    assert_eq!(bench.readyz().await.0, 200);
    bench.stop().await;
}
