//! The recorder against an in-process event stream and a ledger played by the test.

mod evaluated;
mod open;

use std::{path::Path, sync::atomic::Ordering};

use bailiwick_ledger_core::{
    chain,
    record::{DecisionRecord, Effect, Kind, Outcome, Status},
};
use bailiwick_proto::v1::{Cursor, LedgerNotice, RecordBatch, ReplayRequest, Stored, ledger_notice};
use bailiwick_runtime::{event_stream::Consumer, metrics::Registry, shutdown::Shutdown};
use prost::Message;

use super::*;
use crate::spool::{
    disk::{Disk, RealDisk},
    fault_disk::FaultDisk,
};

const NODE: &str = "dp-1";
const REGION: &str = "local";

struct Run {
    recorder: Recorder,
    supervisor: Supervisor,
    metrics: Arc<Metrics>,
}

impl Run {
    fn start(dir: &Path, epoch: u64, stream: &EventStream) -> Self {
        Self::start_on(Arc::new(RealDisk), dir, epoch, stream, 16 * 1024 * 1024)
    }

    fn start_on(disk: Arc<dyn Disk>, dir: &Path, epoch: u64, stream: &EventStream, bytes_max: u64) -> Self {
        let (spool, recovered) = Spool::open(disk, dir, bytes_max).unwrap();
        let recovery = recover(&spool, NODE, &recovered, &owner::now_ts()).unwrap();
        let (supervisor, metrics) = (Supervisor::new(Shutdown::new()), Arc::new(Metrics::new(&Registry::new())));
        let start = Start {
            node: NODE.into(),
            region: REGION.into(),
            epoch,
            signer: NodeSigner::from_seed(&[7; 32]).unwrap(),
            spool,
            recovered,
            recovery,
            reader: Arc::new(Reader::open(dir.join("ledger-kinds"))),
            stream: stream.clone(),
            metrics: Arc::clone(&metrics),
            readiness: Readiness::new(),
        };
        Self { recorder: Recorder::start(start, &supervisor).unwrap(), supervisor, metrics }
    }

    async fn close(self) {
        self.supervisor.shutdown().request();
        self.recorder.close().await;
        self.supervisor.ended().await.unwrap();
    }
}

fn intent(request: &str) -> Record {
    let decision = DecisionRecord { effect: Effect::Permit, reason: None, policies: Vec::new(), would_be: None };
    Record {
        decision: Some(decision),
        request_id: Some(request.into()),
        user: Some("jane@example.com".into()),
        ..Record::new(Kind::CallIntent, owner::now_ts())
    }
}

fn outcome(intent: &Recorded) -> Record {
    let outcome = Outcome { status: Status::Ok, error_code: None, latency_us: Some(5), bytes: None, cost: None };
    Record {
        intent: Some(intent.id.clone()),
        outcome: Some(outcome),
        ..Record::new(Kind::CallOutcome, owner::now_ts())
    }
}

/// Plays the ledger: takes batches, drops repeats, checks every chain link.
struct FakeLedger {
    stream: EventStream,
    consumer: Consumer,
    records: Vec<(u64, Record)>,
    prev: std::collections::BTreeMap<u64, (u64, [u8; 32])>,
    /// How many kinds it says that it knows.
    kinds: u32,
}

impl FakeLedger {
    async fn new(stream: &EventStream) -> Self {
        let consumer = stream.consume(&[subjects::RECORDS], "ledger").await.unwrap();
        let (records, prev, kinds) = (Vec::new(), Default::default(), Kind::known());
        Self { stream: stream.clone(), consumer, records, prev, kinds }
    }

    async fn receive(&mut self) -> RecordBatch {
        let message = self.consumer.next().await.unwrap();
        let batch = RecordBatch::decode(message.payload.clone()).unwrap();
        let (next, prev) = self.prev.entry(batch.epoch).or_insert((0, chain::genesis(NODE, batch.epoch)));
        for (seq, bytes) in (batch.first_seq..).zip(&batch.records) {
            let record = Record::parse(bytes).unwrap();
            assert_eq!((record.epoch, record.seq), (batch.epoch, seq));
            if seq == *next {
                assert_eq!(record.prev_hash(), Some(*prev));
                (*next, *prev) = (seq + 1, chain::link(bytes));
                self.records.push((batch.epoch, record));
            }
        }
        message.ack().await;
        batch
    }

    async fn receive_until(&mut self, done: impl Fn(&Record) -> bool) {
        while !self.records.iter().any(|(_, record)| done(record)) {
            self.receive().await;
        }
    }

    async fn announce(&self, published: bool, epoch: u64, seq: u64) {
        let cursors = vec![Cursor { node: NODE.into(), epoch, seq }];
        let notice = if published {
            ledger_notice::Notice::Published(bailiwick_proto::v1::Published { checkpoint: String::new(), cursors })
        } else {
            ledger_notice::Notice::Stored(Stored { cursors })
        };
        let notice = LedgerNotice { notice: Some(notice), kinds: self.kinds }.encode_to_vec();
        self.stream.broadcast(&subjects::checkpoint(REGION), notice.into()).await.unwrap();
    }

    fn kinds(&self, epoch: u64) -> Vec<Kind> {
        self.records.iter().filter(|(of, _)| *of == epoch).map(|(_, record)| record.kind).collect()
    }
}

#[tokio::test]
async fn a_run_opens_with_its_key_and_closes_under_a_signed_head() {
    let dir = tempfile::tempdir().unwrap();
    let stream = EventStream::in_process();
    let mut ledger = FakeLedger::new(&stream).await;
    let run = Run::start(dir.path(), 7, &stream);
    let recorded = run.recorder.intent(intent("r-1"), Tier::Retrieval).await.unwrap();
    run.recorder.outcome(outcome(&recorded), Tier::Retrieval).await.unwrap();
    run.close().await;
    ledger.receive_until(|record| record.kind == Kind::NodeEpochClose).await;
    ledger.receive_until(|record| record.head.as_ref().is_some_and(|head| head.seq >= 4)).await;
    let expected = [
        Kind::NodeEpochOpen,
        Kind::NodeHead,
        Kind::CallIntent,
        Kind::CallOutcome,
        Kind::NodeEpochClose,
        Kind::NodeHead,
    ];
    assert_eq!(ledger.kinds(7), expected);
    let key = NodeSigner::from_seed(&[7; 32]).unwrap();
    let opened = ledger.records[0].1.epoch_open.clone().unwrap();
    assert_eq!((opened.public_key, opened.recovered), (key.public_key_hex(), vec![]));
    let heads = ledger.records.iter().filter(|(_, record)| record.kind == Kind::NodeHead);
    assert_eq!(heads.map(|(_, head)| chain::head_is_signed(head, key.public_key())).collect::<Vec<_>>(), [true, true]);
    assert_eq!(ledger.records[3].1.intent.as_deref(), Some(recorded.id.as_str()));
}

/// One worker, as where a node has one processor: whoever records wakes the owner, which would run next.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_is_recorded_at_the_same_time_shares_a_write_and_a_message() {
    const CALLERS: usize = 50;
    let (dir, disk, stream) = (tempfile::tempdir().unwrap(), FaultDisk::default(), EventStream::in_process());
    let mut ledger = FakeLedger::new(&stream).await;
    let run = Run::start_on(Arc::new(disk.clone()), dir.path(), 7, &stream, 16 * 1024 * 1024);
    let before = disk.0.writes.load(Ordering::SeqCst);
    let (recorder, callers) = (run.recorder.clone(), run.supervisor.clone());
    let (done, mut all_done) = mpsc::channel(CALLERS);
    run.supervisor.spawn("callers", OnEnd::Finish, async move {
        for _ in 0..CALLERS {
            let (recorder, done) = (recorder.clone(), done.clone());
            callers.spawn("caller", OnEnd::Finish, async move {
                recorder.denied(Record { kind: Kind::CallDenied, ..intent("r") }).await.unwrap();
                done.send(()).await.unwrap();
            });
        }
    });
    while all_done.recv().await.is_some() {}
    let writes = disk.0.writes.load(Ordering::SeqCst) - before;
    assert!(writes <= CALLERS / 10, "{writes} writes of {CALLERS} records");
    let mut with_denied = 0;
    while ledger.kinds(7).iter().filter(|kind| **kind == Kind::CallDenied).count() < CALLERS {
        let batch = ledger.receive().await;
        let kinds = batch.records.iter().map(|record| Record::parse(record).unwrap().kind);
        with_denied += usize::from(kinds.into_iter().any(|kind| kind == Kind::CallDenied));
    }
    assert!(with_denied <= writes, "{with_denied} messages");
    run.close().await;
}

#[tokio::test]
async fn retrieval_and_transactional_calls_go_on_without_a_ledger() {
    let dir = tempfile::tempdir().unwrap();
    let run = Run::start(dir.path(), 7, &EventStream::in_process());
    for tier in [Tier::Retrieval, Tier::Transactional] {
        let recorded = run.recorder.intent(intent("r"), tier).await.unwrap();
        run.recorder.outcome(outcome(&recorded), tier).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_destructive_call_without_the_ledger_is_refused_and_its_intent_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let run = Run::start(dir.path(), 7, &EventStream::in_process());
    let refused = run.recorder.intent(intent("r"), Tier::Destructive).await.unwrap_err();
    assert_eq!(refused.reason, Reason::LedgerUnreachable);
    let recorded = refused.recorded.unwrap();
    run.recorder.outcome(outcome(&recorded), Tier::Destructive).await.unwrap();
}

#[tokio::test]
async fn a_destructive_call_goes_on_once_the_ledger_has_stored_its_intent() {
    let dir = tempfile::tempdir().unwrap();
    let stream = EventStream::in_process();
    let mut ledger = FakeLedger::new(&stream).await;
    let run = Run::start(dir.path(), 7, &stream);
    let recorder = run.recorder.clone();
    let call = async move { recorder.intent(intent("r"), Tier::Destructive).await };
    let ledger = async move {
        ledger.receive_until(|record| record.kind == Kind::CallIntent).await;
        let seq = ledger.records.last().unwrap().1.seq;
        ledger.announce(false, 7, seq).await;
        seq
    };
    let (recorded, seq) = tokio::join!(call, ledger);
    assert_eq!(recorded.unwrap().seq, seq);
}

#[tokio::test]
async fn an_intent_without_outcome_is_declared_unknown_by_the_next_run() {
    let dir = tempfile::tempdir().unwrap();
    let stream = EventStream::in_process();
    let run = Run::start(dir.path(), 7, &stream);
    let done = run.recorder.intent(intent("done"), Tier::Transactional).await.unwrap();
    run.recorder.outcome(outcome(&done), Tier::Transactional).await.unwrap();
    let open = run.recorder.intent(intent("open"), Tier::Transactional).await.unwrap();
    // A crash: nothing is closed, the next run starts from the same folder.
    let crashed = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, crashed.path().join(path.file_name().unwrap())).unwrap();
    }
    let mut ledger = FakeLedger::new(&stream).await;
    let next = Run::start(crashed.path(), 9, &stream);
    next.close().await;
    ledger.receive_until(|record| record.epoch == 9 && record.kind == Kind::NodeEpochClose).await;
    let (_, opened) = ledger.records.iter().find(|(epoch, _)| *epoch == 9).unwrap();
    let recovered = &opened.epoch_open.as_ref().unwrap().recovered[0];
    assert_eq!((recovered.epoch, recovered.next_seq, recovered.open_intents), (7, open.seq + 1, 1));
    assert_eq!(recovered.chain, hex::encode(ledger.prev[&7].1));
    let unknown: Vec<_> =
        ledger.records.iter().filter(|(epoch, record)| *epoch == 9 && record.kind == Kind::CallOutcome).collect();
    assert_eq!(unknown.len(), 1);
    let unknown = &unknown[0].1;
    assert_eq!(unknown.intent.as_deref(), Some(open.id.as_str()));
    assert_eq!(unknown.outcome.as_ref().unwrap().status, Status::Unknown);
    assert_eq!((unknown.request_id.as_deref(), unknown.user.as_deref()), (Some("open"), Some("jane@example.com")));
    assert_eq!(ledger.kinds(7).iter().filter(|kind| **kind == Kind::CallIntent).count(), 2, "the old run is shipped");
}

#[tokio::test]
async fn records_are_sent_again_on_request_under_another_message_id() {
    let dir = tempfile::tempdir().unwrap();
    let stream = EventStream::in_process();
    let mut ledger = FakeLedger::new(&stream).await;
    let run = Run::start(dir.path(), 7, &stream);
    run.recorder.denied(denied("r")).await.unwrap();
    ledger.receive_until(|record| record.kind == Kind::CallDenied).await;
    // The follower may not listen yet; asking again is what a ledger does too.
    let again = loop {
        let request = ReplayRequest { node: NODE.into(), epoch: 7, from_seq: 1 }.encode_to_vec();
        stream.broadcast(&subjects::replay(NODE), request.into()).await.unwrap();
        let received = tokio::time::timeout(Duration::from_millis(200), ledger.receive()).await;
        if let Ok(batch) = received
            && batch.first_seq == 1
        {
            break batch;
        }
    };
    assert!(Record::parse(&again.records[0]).is_ok());
    run.close().await;
}

fn denied(request: &str) -> Record {
    let decision = DecisionRecord {
        effect: Effect::Deny,
        reason: Some(Reason::PolicyDenied.to_string()),
        policies: Vec::new(),
        would_be: None,
    };
    Record {
        decision: Some(decision),
        request_id: Some(request.into()),
        ..Record::new(Kind::CallDenied, owner::now_ts())
    }
}

#[tokio::test]
async fn only_a_published_checkpoint_frees_the_spool_and_never_an_open_intent() {
    let dir = tempfile::tempdir().unwrap();
    let stream = EventStream::in_process();
    let mut ledger = FakeLedger::new(&stream).await;
    let run = Run::start_on(Arc::new(RealDisk), dir.path(), 7, &stream, 512 * 1024);
    let open = run.recorder.intent(intent("open"), Tier::Retrieval).await.unwrap();
    let mut last = 0;
    while last < 300 {
        let big = Record { client: Some("x".repeat(400)), ..denied("r") };
        last = run.recorder.denied(big).await.unwrap();
    }
    ledger.receive_until(|record| record.seq >= last).await;
    let is_segment = |path: &Path| path.extension().is_some_and(|extension| extension == "seg");
    let files =
        || std::fs::read_dir(dir.path()).unwrap().filter(|entry| is_segment(&entry.as_ref().unwrap().path())).count();
    let before = files();
    assert!(before > 3);
    ledger.announce(false, 7, last).await;
    ledger.announce(true, 7, last).await;
    // Another record passes through the owner after the notices; what they caused is then visible.
    run.recorder.denied(denied("r")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(files(), before, "the first segment holds an open intent");
    let closed = run.recorder.outcome(outcome(&open), Tier::Retrieval).await.unwrap();
    ledger.receive_until(|record| record.seq >= closed).await;
    while files() > 2 {
        ledger.announce(true, 7, closed).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run.close().await;
}

#[tokio::test]
async fn a_filling_spool_refuses_risky_calls_first_then_all_but_outcomes() {
    let dir = tempfile::tempdir().unwrap();
    let run = Run::start_on(Arc::new(RealDisk), dir.path(), 7, &EventStream::in_process(), 256 * 1024);
    let open = run.recorder.intent(intent("open"), Tier::Retrieval).await.unwrap();
    let mut refusals = Vec::new();
    let reason = loop {
        let big = Record { client: Some("x".repeat(2000)), ..intent("r") };
        match run.recorder.intent(big.clone(), Tier::Transactional).await {
            Ok(_) => continue,
            Err(refused) => refusals.push(refused.reason),
        }
        match run.recorder.intent(big, Tier::Retrieval).await {
            Ok(_) => {}
            Err(refused) => break refused.reason,
        }
    };
    assert_eq!(reason, Reason::SpoolFull);
    assert_eq!(refusals.first(), Some(&Reason::SpoolPressure));
    assert_eq!(run.recorder.denied(denied("r")).await, Err(Reason::SpoolFull));
    run.recorder.outcome(outcome(&open), Tier::Retrieval).await.unwrap();
}

#[tokio::test]
async fn a_disk_that_refuses_leaves_the_chain_whole() {
    let dir = tempfile::tempdir().unwrap();
    let stream = EventStream::in_process();
    let mut ledger = FakeLedger::new(&stream).await;
    let disk = FaultDisk::default();
    let faults = Arc::clone(&disk.0);
    let run = Run::start_on(Arc::new(disk), dir.path(), 7, &stream, 16 * 1024 * 1024);
    let before = run.recorder.denied(denied("r-1")).await.unwrap();
    faults.short_write.store(20, Ordering::SeqCst);
    assert_eq!(run.recorder.denied(denied("r-2")).await, Err(Reason::SpoolFull));
    faults.out_of_space.store(true, Ordering::SeqCst);
    assert_eq!(run.recorder.intent(intent("r-3"), Tier::Retrieval).await.unwrap_err().reason, Reason::SpoolFull);
    faults.out_of_space.store(false, Ordering::SeqCst);
    let after = run.recorder.denied(denied("r-4")).await.unwrap();
    assert!(after > before);
    run.close().await;
    ledger.receive_until(|record| record.kind == Kind::NodeEpochClose).await;
    let named = |request: &str| ledger.records.iter().any(|(_, r)| r.request_id.as_deref() == Some(request));
    assert_eq!([named("r-1"), named("r-2"), named("r-3"), named("r-4")], [true, false, false, true]);
}

#[tokio::test]
async fn the_spool_of_another_node_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let run = Run::start(dir.path(), 7, &EventStream::in_process());
    run.recorder.denied(denied("r")).await.unwrap();
    let (spool, recovered) = Spool::open(Arc::new(RealDisk), dir.path(), 1024 * 1024).unwrap();
    let refused = recover(&spool, "dp-2", &recovered, &owner::now_ts());
    assert!(matches!(refused, Err(RecoveryError::OtherNode { found }) if found == NODE));
}
