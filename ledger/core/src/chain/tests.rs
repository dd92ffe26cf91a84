//! Chains: what continues one, what does not, and how declared holes open and close.

use serde_json::json;

use super::*;
use crate::record::{EpochOpen, Gap};

const TS: &str = "2026-11-21T00:14:04.000123Z";

fn signer() -> NodeSigner {
    NodeSigner::from_seed(&[1; 32]).unwrap()
}

fn blank(kind: Kind) -> Record {
    Record::new(kind, TS.into())
}

fn opened(node: &str, epoch: &str, key: &str) -> Record {
    let event = json!({"type": "node_epoch_opened", "node": node, "epoch": epoch, "public_key": key});
    Record { control: Some(event), ..blank(Kind::ControlEvent) }
}

fn gap(kind: Kind, node: &str, first_seq: u64, last_seq: u64) -> Record {
    let gap = Gap { node: node.into(), epoch: 7, first_seq, last_seq, cause: None };
    Record { gap: Some(gap), ..blank(kind) }
}

/// A log in which the run `(edge-1, 7)` is registered, its chain, and the ledger's own.
struct Bench {
    verifier: ChainVerifier,
    control: NodeChain,
    ledger: NodeChain,
    edge: NodeChain,
}

impl Bench {
    fn new() -> Self {
        let mut bench = Self {
            verifier: ChainVerifier::new(),
            control: NodeChain::open(CONTROL_NODE, 0),
            ledger: NodeChain::open(LEDGER_NODE, 0),
            edge: NodeChain::open("edge-1", 7),
        };
        let bytes = bench.control.append(opened("edge-1", "7", &signer().public_key_hex())).unwrap();
        bench.accept(&bytes).unwrap();
        bench
    }

    fn accept(&mut self, bytes: &[u8]) -> Result<(), ChainFault> {
        let before = self.verifier.clone();
        let result = self.verifier.accept(&Record::parse(bytes).unwrap(), bytes);
        if result.is_err() {
            assert!(before.cursors().eq(self.verifier.cursors()), "a refused record changes nothing");
        }
        result
    }

    fn edge(&mut self) -> Vec<u8> {
        self.edge.append(blank(Kind::ConfigApplied)).unwrap()
    }

    fn ledger(&mut self, record: Record) -> Result<(), ChainFault> {
        let bytes = self.ledger.append(record).unwrap();
        self.accept(&bytes)
    }

    fn cursor(&self) -> &ChainCursor {
        self.verifier.cursor("edge-1", 7).unwrap()
    }
}

#[test]
fn the_chain_hash_is_the_documented_one() {
    assert_eq!(genesis("edge-1", 7), sha256(&[b"bailiwick/node/v1\nedge-1\n7\n"]));
    assert_eq!(link(b"{}"), sha256(&[b"bailiwick/node/v1\n{}"]));
    let note = String::from_utf8(head_note_bytes("edge-1", 7, 3, &[0; 32])).unwrap();
    assert_eq!(note, "bailiwick/head/v1\nedge-1\n7\n3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n");
}

#[test]
fn records_count_from_zero_and_name_the_one_before() {
    let mut chain = NodeChain::open("edge-1", 7);
    assert_eq!(chain.head(), None);
    let first = chain.append(blank(Kind::ConfigApplied)).unwrap();
    let second = Record::parse(&chain.append(blank(Kind::ConfigApplied)).unwrap()).unwrap();
    assert_eq!((second.seq, second.prev_hash()), (1, Some(link(&first))));
    assert_eq!(Record::parse(&first).unwrap().prev_hash(), Some(genesis("edge-1", 7)));
    assert_eq!(chain.head(), Some(ChainHead { seq: 1, chain: *chain.prev() }));
}

#[test]
fn a_refused_record_does_not_use_up_a_number() {
    let mut chain = NodeChain::open("edge-1", 7);
    assert!(chain.append(blank(Kind::CallIntent)).is_err());
    assert_eq!((chain.next_seq(), *chain.prev()), (0, genesis("edge-1", 7)));
}

#[test]
fn a_resumed_chain_continues_where_it_was() {
    let mut bench = Bench::new();
    let first = bench.edge();
    bench.accept(&first).unwrap();
    bench.edge = NodeChain::resume("edge-1", 7, bench.edge.next_seq(), *bench.edge.prev());
    let second = bench.edge();
    bench.verifier = ChainVerifier::resume(bench.verifier.cursors().cloned().collect::<Vec<_>>());
    bench.accept(&second).unwrap();
    assert_eq!((bench.cursor().next_seq, bench.cursor().unsigned_records()), (2, 2));
}

#[test]
fn a_cursor_survives_storage() {
    let mut bench = Bench::new();
    let _lost = bench.edge();
    bench.ledger(gap(Kind::GapOpen, "edge-1", 0, 0)).unwrap();
    let stored = serde_json::to_vec(bench.cursor()).unwrap();
    assert_eq!(&serde_json::from_slice::<ChainCursor>(&stored).unwrap(), bench.cursor());
}

#[test]
fn omission_repetition_and_change_are_told_apart() {
    let mut bench = Bench::new();
    let (first, second, third) = (bench.edge(), bench.edge(), bench.edge());
    assert_eq!(bench.accept(&second), Err(ChainFault::Hole { expected: 0, found: 1 }));
    bench.accept(&first).unwrap();
    assert_eq!(bench.accept(&first), Err(ChainFault::Repeated { expected: 1, found: 0 }));
    assert_eq!(bench.accept(&third), Err(ChainFault::Hole { expected: 1, found: 2 }));
    let mut other = NodeChain::open("edge-1", 7);
    other.append(Record { user: Some("eve".into()), ..blank(Kind::ConfigApplied) }).unwrap();
    let forged = other.append(blank(Kind::ConfigApplied)).unwrap();
    assert_eq!(bench.accept(&forged), Err(ChainFault::PrevMismatch));
    bench.accept(&second).unwrap();
    bench.accept(&third).unwrap();
}

#[test]
fn only_registered_runs_are_accepted() {
    let mut bench = Bench::new();
    for (node, epoch) in [("edge-1", 8), ("edge-2", 7), (CONTROL_NODE, 1)] {
        let bytes = NodeChain::open(node, epoch).append(blank(Kind::ConfigApplied)).unwrap();
        assert_eq!(bench.accept(&bytes), Err(ChainFault::EpochNotRegistered), "{node} {epoch}");
    }
    let key = signer().public_key_hex();
    let again = NodeChain::resume(CONTROL_NODE, 0, 1, *bench.control.prev()).append(opened("edge-1", "7", &key));
    assert_eq!(bench.accept(&again.unwrap()), Err(ChainFault::EpochRegisteredTwice));
    for (epoch, key) in [("07", key.as_str()), ("-1", &key), ("9", "00"), ("9", &key.to_uppercase())] {
        let bad = NodeChain::resume(CONTROL_NODE, 0, 1, *bench.control.prev()).append(opened("edge-1", epoch, key));
        assert_eq!(bench.accept(&bad.unwrap()), Err(ChainFault::RegistrationMalformed));
    }
    let ledger = bench.control.append(opened(LEDGER_NODE, "9", &key)).unwrap();
    bench.accept(&ledger).unwrap();
    assert_eq!(bench.verifier.cursor(LEDGER_NODE, 9), None);
}

#[test]
fn a_run_that_was_reserved_is_registered_and_one_with_a_made_up_epoch_is_not() {
    let mut bench = Bench::new();
    let key = signer().public_key_hex();
    for epoch in ["9", "10"] {
        let event = json!({"type": "node_epoch_reserved", "node": "edge-1", "epoch": epoch, "public_key": key});
        let reserved = bench.control.append(Record { control: Some(event), ..blank(Kind::ControlEvent) }).unwrap();
        bench.accept(&reserved).unwrap();
    }
    let other = NodeSigner::from_seed(&[3; 32]).unwrap().public_key_hex();
    let unregistered = Err(ChainFault::EpochNotRegistered);
    for (epoch, key, expected) in
        [(8, &key, unregistered), (9, &key, Ok(())), (10, &other, Err(ChainFault::KeyMismatch))]
    {
        let epoch_open = Some(EpochOpen { public_key: key.clone(), recovered: Vec::new() });
        let opening = Record { epoch_open, ..blank(Kind::NodeEpochOpen) };
        let first = NodeChain::open("edge-1", epoch).append(opening).unwrap();
        assert_eq!(bench.accept(&first), expected, "{epoch}");
    }
}

#[test]
fn heads_must_be_signed_by_the_registered_key_over_what_is_there() {
    let mut bench = Bench::new();
    let first = bench.edge();
    bench.accept(&first).unwrap();
    let place = || NodeChain::resume("edge-1", 7, 1, link(&first));
    let stranger = NodeSigner::from_seed(&[2; 32]).unwrap();
    let by_stranger = place().append_head(TS.into(), &stranger).unwrap().unwrap();
    assert_eq!(bench.accept(&by_stranger), Err(ChainFault::HeadForged));
    let good = place().append_head(TS.into(), &signer()).unwrap().unwrap();
    let head = Record::parse(&good).unwrap().head.unwrap();
    for changed in [
        Head { seq: 1, ..head.clone() },
        Head { chain: hash::to_hex(&[0; 32]), ..head.clone() },
        Head { sig: "00".into(), ..head.clone() },
        Head { sig: "not hex".into(), ..head },
    ] {
        let forged = place().append(Record { head: Some(changed), ..blank(Kind::NodeHead) }).unwrap();
        assert_eq!(bench.accept(&forged), Err(ChainFault::HeadForged));
    }
    bench.accept(&good).unwrap();
    assert_eq!((bench.cursor().signed_through, bench.cursor().unsigned_records()), (Some(0), 0));
    assert!(NodeChain::open("edge-1", 8).append_head(TS.into(), &signer()).unwrap().is_none());
}

#[test]
fn a_run_opens_with_the_registered_key() {
    let mut bench = Bench::new();
    let open = |key: String| Record {
        epoch_open: Some(EpochOpen { public_key: key, recovered: Vec::new() }),
        ..blank(Kind::NodeEpochOpen)
    };
    let other = NodeChain::open("edge-1", 7).append(open("11".repeat(32))).unwrap();
    assert_eq!(bench.accept(&other), Err(ChainFault::KeyMismatch));
    let good = bench.edge.append(open(signer().public_key_hex())).unwrap();
    bench.accept(&good).unwrap();
}

#[test]
fn nodes_may_not_write_what_belongs_to_others() {
    let mut bench = Bench::new();
    for record in [
        opened("edge-2", "9", &signer().public_key_hex()),
        gap(Kind::GapOpen, "edge-1", 0, 0),
        gap(Kind::GapDeclared, "edge-2", 0, 0),
        blank(Kind::LedgerHeads),
    ] {
        let bytes = NodeChain::open("edge-1", 7).append(record).unwrap();
        assert_eq!(bench.accept(&bytes), Err(ChainFault::KindNotAllowed));
    }
    assert_eq!(bench.ledger(blank(Kind::ConfigApplied)), Err(ChainFault::KindNotAllowed));
}

#[test]
fn late_records_fill_a_declared_hole_from_its_beginning() {
    let mut bench = Bench::new();
    let records: Vec<_> = (0..6).map(|_| bench.edge()).collect();
    bench.accept(&records[0]).unwrap();
    bench.ledger(gap(Kind::GapOpen, "edge-1", 1, 3)).unwrap();
    bench.accept(&records[4]).unwrap();
    bench.accept(&records[5]).unwrap();
    assert_eq!((bench.cursor().next_seq, bench.cursor().missing_records()), (6, 3));
    assert_eq!(bench.accept(&records[2]), Err(ChainFault::Hole { expected: 1, found: 2 }));
    bench.accept(&records[1]).unwrap();
    bench.accept(&records[2]).unwrap();
    let mut early = NodeChain::resume(LEDGER_NODE, 0, 1, *bench.ledger.prev());
    let early = early.append(gap(Kind::GapClose, "edge-1", 1, 3)).unwrap();
    assert_eq!(bench.accept(&early), Err(ChainFault::GapStillOpen));
    bench.accept(&records[3]).unwrap();
    bench.ledger(gap(Kind::GapClose, "edge-1", 1, 3)).unwrap();
    assert!(!bench.verifier.has_open_gaps("edge-1"));
    assert_eq!(bench.accept(&records[3]), Err(ChainFault::Repeated { expected: 6, found: 3 }));
}

#[test]
fn a_hole_filled_before_anything_follows_it_closes_too() {
    let mut bench = Bench::new();
    let records: Vec<_> = (0..3).map(|_| bench.edge()).collect();
    bench.ledger(gap(Kind::GapOpen, "edge-1", 0, 1)).unwrap();
    records.iter().for_each(|record| bench.accept(record).unwrap());
    assert_eq!((bench.cursor().next_seq, bench.cursor().missing_records()), (3, 0));
}

#[test]
fn what_fills_a_hole_must_meet_what_stands_after_it() {
    let mut bench = Bench::new();
    let records: Vec<_> = (0..3).map(|_| bench.edge()).collect();
    bench.accept(&records[0]).unwrap();
    bench.ledger(gap(Kind::GapOpen, "edge-1", 1, 1)).unwrap();
    bench.accept(&records[2]).unwrap();
    let mut other = NodeChain::resume("edge-1", 7, 1, link(&records[0]));
    let forged = other.append(Record { user: Some("eve".into()), ..blank(Kind::ConfigApplied) }).unwrap();
    assert_eq!(bench.accept(&forged), Err(ChainFault::PrevMismatch));
    bench.accept(&records[1]).unwrap();
}

#[test]
fn gaps_that_fit_no_chain_are_refused() {
    for (node, first, last, fault) in [
        ("edge-1", 1, 2, ChainFault::GapMisplaced),
        ("edge-1", 0, u64::MAX, ChainFault::GapMisplaced),
        ("edge-2", 0, 0, ChainFault::EpochNotRegistered),
        (LEDGER_NODE, 1, 1, ChainFault::GapMisplaced),
    ] {
        assert_eq!(Bench::new().ledger(gap(Kind::GapOpen, node, first, last)), Err(fault), "{node} {first} {last}");
    }
    let mut bench = Bench::new();
    bench.ledger(gap(Kind::GapOpen, "edge-1", 0, 1)).unwrap();
    assert_eq!(bench.ledger(gap(Kind::GapOpen, "edge-1", 2, 3)), Err(ChainFault::GapMisplaced));
}
