//! Decisions for services: written before they are told, kept from a ledger that cannot read them, and never in the way
//! of calls.

use super::*;

fn decided(request: &str) -> Record {
    Record { decision_client: Some("billing".into()), kind: Kind::DecisionEvaluated, ..denied(request) }
}

fn some(requests: std::ops::Range<usize>) -> impl Iterator<Item = Record> {
    requests.map(|number| decided(&format!("r-{number}")))
}

/// The ledger says what it reads until the recorder has heard it; `told`: decisions are taken.
async fn hears(ledger: &FakeLedger, recorder: &Recorder, told: bool) {
    while recorder.reader.knows(Kind::DecisionEvaluated) != told {
        ledger.announce(false, 1, 0).await;
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn decisions_of_one_request_are_written_in_their_order() {
    let (dir, disk, stream) = (tempfile::tempdir().unwrap(), FaultDisk::default(), EventStream::in_process());
    let mut ledger = FakeLedger::new(&stream).await;
    let run = Run::start_on(Arc::new(disk.clone()), dir.path(), 7, &stream, 16 * 1024 * 1024);
    hears(&ledger, &run.recorder, true).await;
    let before = disk.0.writes.load(Ordering::SeqCst);
    run.recorder.evaluated(some(0..100)).await.unwrap();
    let writes = disk.0.writes.load(Ordering::SeqCst) - before;
    assert!(writes <= 20, "{writes} writes of 100 records");
    run.close().await;
    ledger.receive_until(|record| record.kind == Kind::NodeEpochClose).await;
    let decided = ledger.records.iter().filter(|(_, record)| record.kind == Kind::DecisionEvaluated);
    let requests: Vec<_> = decided.map(|(_, record)| record.request_id.clone().unwrap()).collect();
    assert_eq!(requests, (0..100).map(|number| format!("r-{number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_ledger_that_does_not_know_them_never_gets_one_and_calls_go_on() {
    let (dir, stream) = (tempfile::tempdir().unwrap(), EventStream::in_process());
    let mut ledger = FakeLedger::new(&stream).await;
    ledger.kinds = 0;
    let run = Run::start(dir.path(), 7, &stream);
    assert_eq!(run.recorder.evaluated(some(0..1)).await, Err(Reason::LedgerOutdated), "nothing was heard yet");
    // It is heard, also by the folder, and still does not know them.
    ledger.kinds = 17;
    while std::fs::read_to_string(dir.path().join("ledger-kinds")).ok().as_deref() != Some("17") {
        ledger.announce(false, 1, 0).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(run.recorder.evaluated(some(1..2)).await, Err(Reason::LedgerOutdated));
    run.recorder.denied(denied("call")).await.unwrap();
    // It is upgraded, and put back again.
    ledger.kinds = Kind::known();
    hears(&ledger, &run.recorder, true).await;
    run.recorder.evaluated(some(2..3)).await.unwrap();
    ledger.kinds = 0;
    hears(&ledger, &run.recorder, false).await;
    assert_eq!(run.recorder.evaluated(some(3..4)).await, Err(Reason::LedgerOutdated));
    run.close().await;
    ledger.receive_until(|record| record.kind == Kind::NodeEpochClose).await;
    let decided: Vec<_> = ledger.records.iter().filter(|(_, record)| record.kind == Kind::DecisionEvaluated).collect();
    assert_eq!(decided.len(), 1);
    assert_eq!(decided[0].1.request_id.as_deref(), Some("r-2"));
}

#[tokio::test]
async fn the_next_run_needs_no_ledger_to_know_what_it_reads() {
    let (dir, stream) = (tempfile::tempdir().unwrap(), EventStream::in_process());
    let ledger = FakeLedger::new(&stream).await;
    let run = Run::start(dir.path(), 7, &stream);
    hears(&ledger, &run.recorder, true).await;
    run.close().await;
    let next = Run::start(dir.path(), 9, &EventStream::in_process());
    next.recorder.evaluated(some(0..1)).await.unwrap();
}

#[tokio::test]
async fn decisions_take_half_of_the_spool_at_most_and_calls_the_rest() {
    let (dir, stream) = (tempfile::tempdir().unwrap(), EventStream::in_process());
    let ledger = FakeLedger::new(&stream).await;
    let spool_bytes = 1024 * 1024;
    let run = Run::start_on(Arc::new(RealDisk), dir.path(), 7, &stream, spool_bytes);
    hears(&ledger, &run.recorder, true).await;
    let refused = loop {
        if let Err(reason) = run.recorder.evaluated(some(0..100)).await {
            break reason;
        }
    };
    assert_eq!(refused, Reason::SpoolPressure);
    let call = async |request: &str| run.recorder.intent(intent(request), Tier::Transactional).await;
    assert!(call("risky").await.is_ok(), "a service that asks without end stops no call");
    run.recorder.denied(denied("call")).await.unwrap();
    assert_eq!(run.recorder.evaluated(some(0..1)).await, Err(Reason::SpoolPressure));
    while run.recorder.denied(denied("call")).await.is_ok() {}
    assert_eq!(run.recorder.evaluated(some(0..1)).await, Err(Reason::SpoolFull));
}

/// The ledger stores 2,000 a second: 1,000 in each half of a second of the 5 s that the call waits.
#[tokio::test]
async fn services_that_ask_all_the_time_do_not_delay_a_destructive_call_beyond_its_wait() {
    let (dir, stream) = (tempfile::tempdir().unwrap(), EventStream::in_process());
    let mut ledger = FakeLedger::new(&stream).await;
    let run = Run::start_on(Arc::new(RealDisk), dir.path(), 7, &stream, 64 * 1024 * 1024);
    hears(&ledger, &run.recorder, true).await;
    let ask_all_you_can = async || loop {
        if let Err(reason) = run.recorder.evaluated(some(0..100)).await {
            break reason;
        }
    };
    assert_eq!(ask_all_you_can().await, Reason::SpoolPressure);
    let call = run.recorder.intent(intent("erase"), Tier::Destructive);
    let slowly = async {
        ledger.receive_until(|record| record.kind == Kind::CallIntent).await;
        let intent = ledger.records.last().unwrap().1.seq;
        let mut halves = 0;
        while halves * 1_000 <= intent {
            halves += 1;
            ledger.announce(false, 7, (halves * 1_000 - 1).min(intent)).await;
            assert_eq!(ask_all_you_can().await, Reason::SpoolPressure);
        }
        halves
    };
    let (called, halves) = tokio::join!(call, slowly);
    assert!(called.is_ok(), "{called:?}");
    assert!((8..10).contains(&halves), "{halves} halves of a second");
    run.recorder.intent(intent("read"), Tier::Retrieval).await.unwrap();
}

#[tokio::test]
async fn what_the_disk_does_not_take_is_not_on_record_and_the_chain_goes_on() {
    let (dir, disk, stream) = (tempfile::tempdir().unwrap(), FaultDisk::default(), EventStream::in_process());
    let mut ledger = FakeLedger::new(&stream).await;
    let run = Run::start_on(Arc::new(disk.clone()), dir.path(), 7, &stream, 16 * 1024 * 1024);
    hears(&ledger, &run.recorder, true).await;
    disk.0.out_of_space.store(true, Ordering::SeqCst);
    assert_eq!(run.recorder.evaluated(some(0..3)).await, Err(Reason::SpoolFull));
    disk.0.out_of_space.store(false, Ordering::SeqCst);
    run.recorder.evaluated(some(3..4)).await.unwrap();
    run.close().await;
    ledger.receive_until(|record| record.kind == Kind::NodeEpochClose).await;
    let decided: Vec<_> = ledger.records.iter().filter(|(_, record)| record.kind == Kind::DecisionEvaluated).collect();
    assert_eq!(decided.len(), 1);
    assert_eq!(decided[0].1.request_id.as_deref(), Some("r-3"));
}
