//! What may be appended, and that every way a write can fail still ends in the same valid log.

use std::sync::Arc;

use bailiwick_ledger_core::verify;
use proptest::prelude::*;

use super::*;
use crate::{
    fixture::{Node, verify_store},
    store::tests::Fault,
};

struct Bench {
    folder: tempfile::TempDir,
    store: Arc<Store>,
    log: Log,
}

impl Bench {
    fn new() -> Self {
        Self::over(tempfile::tempdir().unwrap())
    }

    fn over(folder: tempfile::TempDir) -> Self {
        let store = Arc::new(Store::open(folder.path()).unwrap());
        let log = Log::open(&store).unwrap();
        Self { folder, store, log }
    }

    /// Throws all memory away and reads the disk again, as after a crash.
    fn crash(self) -> Self {
        let Self { folder, store, .. } = self;
        drop(store);
        Self::over(folder)
    }

    fn group(&mut self, batches: &[RecordBatch]) -> Result<Sequenced, StoreError> {
        self.log.sequence(&self.store, batches)
    }

    fn one(&mut self, batch: &RecordBatch) -> Verdict {
        self.group(std::slice::from_ref(batch)).unwrap().verdicts.remove(0)
    }

    fn assert_valid(&self) {
        let report = verify_store(&self.store);
        assert_eq!(report.verdict, verify::Verdict::Valid, "{report:?}");
    }
}

/// The control plane's registration of one run, and that run's calls.
fn registered(node: &mut Node, calls: usize) -> (RecordBatch, RecordBatch) {
    let registration = Node::control().batch(|control| vec![control.register(node)]);
    (registration, node.batch(|node| node.calls(calls)))
}

#[test]
fn a_batch_seen_twice_is_stored_once() {
    let mut bench = Bench::new();
    let (registration, calls) = registered(&mut Node::run("dp-1", 7), 3);
    assert_eq!(bench.one(&registration).stored, 1);
    assert_eq!(bench.one(&calls), Verdict { stored: 8, covered: Some(8), ..Verdict::default() });
    for _ in 0..2 {
        assert_eq!(bench.one(&registration), Verdict { repeated: 1, covered: Some(1), ..Verdict::default() });
        assert_eq!(bench.one(&calls), Verdict { repeated: 8, covered: Some(8), ..Verdict::default() });
        bench = bench.crash();
    }
    assert_eq!(bench.log.size(), 9);
    bench.assert_valid();
}

#[test]
fn overlapping_batches_add_only_what_is_new() {
    let mut bench = Bench::new();
    let (registration, calls) = registered(&mut Node::run("dp-1", 7), 3);
    let half = RecordBatch { records: calls.records[..5].to_vec(), ..calls.clone() };
    let group = bench.group(&[registration, half, calls]).unwrap();
    let counts: Vec<_> = group.verdicts.iter().map(|verdict| (verdict.stored, verdict.repeated)).collect();
    assert_eq!(counts, [(1, 0), (5, 0), (3, 5)]);
    bench.assert_valid();
}

#[test]
fn a_hole_waits_for_what_is_missing() {
    let mut bench = Bench::new();
    let mut node = Node::run("dp-1", 7);
    let (registration, first) = registered(&mut node, 2);
    let (second, third) = (node.batch(|node| node.calls(2)), node.batch(|node| node.calls(2)));
    bench.group(&[registration, first.clone()]).unwrap();
    let early = bench.one(&third);
    let id = ChainId { node: "dp-1".into(), epoch: 7 };
    assert_eq!((early.stored, early.early, early.needs), (0, true, vec![(id, first.records.len() as u64)]));
    assert_eq!(bench.one(&second).stored, 5);
    assert_eq!(bench.one(&third).stored, 5);
    bench.assert_valid();
}

#[test]
fn a_run_waits_for_its_registration() {
    let mut bench = Bench::new();
    let (registration, calls) = registered(&mut Node::run("dp-1", 7), 1);
    let early = bench.one(&calls);
    let control = ChainId { node: "control-plane".into(), epoch: 0 };
    assert_eq!((early.stored, early.early, early.needs), (0, true, vec![(control, 0)]));
    let opened = bench.group(std::slice::from_ref(&registration)).unwrap();
    assert!(opened.moved.contains(&(ChainId { node: "dp-1".into(), epoch: 7 }, 0)), "{opened:?}");
    assert_eq!(bench.one(&calls).stored, 4);
    bench.assert_valid();
}

#[test]
fn an_outcome_waits_for_its_intent_in_an_earlier_run() {
    let mut bench = Bench::new();
    let (mut before, mut after, mut control) = (Node::run("dp-1", 7), Node::run("dp-1", 9), Node::control());
    let registrations = control.batch(|control| vec![control.register(&before), control.register(&after)]);
    let cut_short = before.batch(|node| vec![node.open(), node.intent("jane", "pay")]);
    let recovered = after.batch(|node| vec![node.open(), node.outcome(&cut_short.records[1])]);
    bench.one(&registrations);
    let early = bench.one(&recovered);
    let earlier = ChainId { node: "dp-1".into(), epoch: 7 };
    assert_eq!((early.stored, early.early, early.needs), (1, true, vec![(earlier, 0)]));
    assert_eq!(bench.one(&cut_short).stored, 2);
    assert_eq!(bench.one(&recovered), Verdict { stored: 1, repeated: 1, covered: Some(2), ..Verdict::default() });
    bench.assert_valid();
}

#[test]
fn a_call_has_one_outcome() {
    let mut bench = Bench::new();
    let mut node = Node::run("dp-1", 7);
    let registration = Node::control().batch(|control| vec![control.register(&node)]);
    let call = node.batch(|node| {
        let (open, intent) = (node.open(), node.intent("jane", "pay"));
        let outcomes = [node.outcome(&intent), node.outcome(&intent)];
        [vec![open, intent], outcomes.to_vec()].concat()
    });
    let group = bench.group(&[registration, call]).unwrap();
    assert_eq!((group.verdicts[1].stored, group.verdicts[1].refused), (3, Some(Refusal::Unpaired)));
    bench.assert_valid();
}

#[test]
fn a_call_has_one_outcome_whenever_it_comes_and_whatever_is_still_remembered() {
    for disturbance in [None, Some(Fault::Failed), Some(Fault::FailedButStored)] {
        let mut bench = Bench::new();
        let (mut control, mut node) = (Node::control(), Node::run("dp-1", 7));
        bench.one(&control.batch(|control| vec![control.register(&node)]));
        let call = node.batch(|node| vec![node.open(), node.intent("jane", "pay")]);
        bench.one(&call);
        if disturbance.is_some() {
            let group = control.batch(|control| vec![control.register(&Node::run("dp-2", 9))]);
            bench.store.faults.plan(disturbance);
            assert!(bench.group(&[group]).is_err());
        }
        for (stored, refused) in [(1, None), (0, Some(Refusal::Unpaired))] {
            let outcome = node.batch(|node| vec![node.outcome(&call.records[1])]);
            let verdict = bench.one(&outcome);
            assert_eq!((verdict.stored, verdict.refused), (stored, refused), "{disturbance:?}");
        }
        bench.assert_valid();
    }
}

#[test]
fn what_is_not_right_is_never_stored() {
    let mut bench = Bench::new();
    let mut node = Node::run("dp-1", 7);
    let (registration, good) = registered(&mut node, 1);
    bench.one(&registration);
    let spoilt = |spoil: &dyn Fn(&mut RecordBatch)| {
        let mut batch = good.clone();
        spoil(&mut batch);
        batch
    };
    let mut other_key = Node::run("dp-1", 8);
    let other_key = RecordBatch { epoch: 7, ..other_key.batch(|node| node.calls(1)) };
    for (batch, refusal) in [
        (spoilt(&|batch| batch.records[0].push(b' ')), Refusal::Unreadable),
        (spoilt(&|batch| batch.records[0] = b"{}".to_vec()), Refusal::Unreadable),
        (spoilt(&|batch| batch.records[0] = vec![b'x'; 40_000]), Refusal::Unreadable),
        (spoilt(&|batch| batch.node = "dp-2".into()), Refusal::Mislabelled),
        (spoilt(&|batch| batch.first_seq = 1), Refusal::Mislabelled),
        // Numbers beyond every number.
        (spoilt(&|batch| batch.first_seq = u64::MAX), Refusal::Mislabelled),
        (other_key, Refusal::Mislabelled),
    ] {
        let verdict = bench.one(&batch);
        assert_eq!((verdict.stored, verdict.refused), (0, Some(refusal)));
    }
    let mut swapped = good.clone();
    swapped.records[1] =
        Node::run("dp-1", 7).batch(|node| vec![node.open(), node.intent("eve", "pay")]).records.remove(1);
    let swapped = RecordBatch { records: [&swapped.records[..2], &good.records[2..]].concat(), ..swapped };
    let verdict = bench.one(&swapped);
    // Another intent is a fork the node itself may have made; what follows it does not fit and shows it.
    assert!(verdict.refused.is_some() || verdict.early, "{verdict:?}");
    bench.assert_valid();
}

#[test]
fn a_rewritten_record_is_not_taken_for_a_repeat() {
    let mut bench = Bench::new();
    let (registration, calls) = registered(&mut Node::run("dp-1", 7), 1);
    bench.group(&[registration, calls]).unwrap();
    // As after a control plane that lost its data: the same places, other events.
    let rewritten = Node::control().batch(|control| vec![control.register(&Node::run("dp-2", 9))]);
    let verdict = bench.one(&rewritten);
    assert_eq!(verdict, Verdict { refused: Some(Refusal::Forked), ..Verdict::default() });
    bench.assert_valid();
}

#[test]
fn a_node_cannot_write_control_events() {
    let mut bench = Bench::new();
    let mut node = Node::run("dp-1", 7);
    let registration = Node::control().batch(|control| vec![control.register(&node)]);
    let forged = node.batch(|node| vec![node.open(), node.event(serde_json::json!({"type": "user_applied"}))]);
    bench.one(&registration);
    let verdict = bench.one(&forged);
    assert_eq!((verdict.stored, verdict.refused), (1, Some(Refusal::Unchained)));
    bench.assert_valid();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whoever reaches the event stream can send anything: it is refused or waits, and the log stays valid.
    #[test]
    fn nothing_that_arrives_makes_it_fail(
        arrivals in prop::collection::vec((
            prop::sample::select(vec!["dp-1", "dp-2", "control-plane", "ledger", ""]),
            prop::sample::select(vec![0, 7, 8, u64::MAX]),
            prop::sample::select(vec![0, 1, 3, 8, u64::MAX - 1, u64::MAX]),
            prop::collection::vec((0_usize..12, 0_usize..400, any::<bool>()), 0..4),
        ), 1..24),
    ) {
        let mut bench = Bench::new();
        let (registration, calls) = registered(&mut Node::run("dp-1", 7), 3);
        bench.one(&registration);
        let real = [calls.records.as_slice(), registration.records.as_slice()].concat();
        let spoilt = |(which, at, spoil): (usize, usize, bool)| {
            let mut bytes = real.get(which).cloned().unwrap_or_default();
            if let Some(byte) = bytes.get_mut(at).filter(|_| spoil) {
                *byte ^= 1;
            }
            bytes
        };
        let group: Vec<RecordBatch> = arrivals
            .into_iter()
            .map(|(node, epoch, first_seq, records)| {
                let records = records.into_iter().map(spoilt).collect();
                RecordBatch { node: node.to_owned(), epoch, first_seq, records }
            })
            .collect();
        bench.group(&group).unwrap();
        bench.one(&calls);
        prop_assert!(bench.log.size() <= 9, "something was stored that nobody wrote");
        let report = verify_store(&bench.store);
        prop_assert_eq!(report.verdict, verify::Verdict::Valid);
    }

    /// Every write × {failed, failed but stored}, with and without a crash after it, ends in the same log.
    #[test]
    fn no_failing_write_loses_or_repeats_a_record(
        faults in prop::collection::vec((0_u8..3, any::<bool>()), 1..24),
        cuts in prop::collection::vec(1_usize..5, 3..8),
    ) {
        let mut bench = Bench::new();
        let (mut one, mut two, mut control) = (Node::run("dp-1", 3), Node::run("dp-2", 5), Node::control());
        let mut batches = vec![control.batch(|control| vec![control.register(&one), control.register(&two)])];
        for cut in &cuts {
            batches.push(one.batch(|node| node.calls(*cut)));
            batches.push(two.batch(|node| node.calls(1)));
        }
        let records = batches.iter().map(|batch| batch.records.len() as u64).sum::<u64>();
        let mut faults = faults.into_iter();
        for group in batches.chunks(3) {
            loop {
                let (fault, crash) = faults.next().unwrap_or_default();
                bench.store.faults.plan([[Fault::None, Fault::Failed, Fault::FailedButStored][usize::from(fault)]]);
                let acknowledged = bench.group(group).is_ok();
                if crash {
                    bench = bench.crash();
                }
                if acknowledged {
                    break;
                }
            }
        }
        prop_assert_eq!(bench.log.size(), records);
        let sequenced = bench.group(&batches).unwrap();
        prop_assert_eq!(sequenced.verdicts.iter().map(|verdict| verdict.repeated).sum::<u64>(), records);
        let report = verify_store(&bench.store);
        prop_assert_eq!(report.verdict, verify::Verdict::Valid);
    }
}
