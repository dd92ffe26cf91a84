//! Attacks by somebody who holds the log's own key and rebuilds tiles, root and checkpoint: what the chains, the
//! nodes' signatures and checkpoints kept elsewhere still show.

use bailiwick_ledger_core::{
    chain::{NodeChain, link},
    checkpoint::{Checkpoint, sign},
    hash,
    record::{Kind, Record, record_id},
    verify::Report,
};
use serde_json::json;

use crate::fixture::{Export, Log, ORIGIN, assert_invalid, assert_valid, denied, intent, outcome, signer, ts};

/// Rebuilds the export of a busy log after `attack` on its leaves; returns what verification says.
fn after(attack: impl FnOnce(&mut Vec<Vec<u8>>)) -> Report {
    let mut leaves = Log::busy().leaves;
    attack(&mut leaves);
    Export::of(&leaves).verify()
}

/// Leaves of `edge-1` in a busy log, whose seventh record is the last.
const EDGE_1: [usize; 6] = [1, 4, 6, 8, 11, 15];

fn edit(leaf: &[u8], from: &str, to: &str) -> Vec<u8> {
    let text = std::str::from_utf8(leaf).unwrap();
    assert!(text.contains(from), "{text}");
    text.replacen(from, to, 1).into_bytes()
}

#[test]
fn the_fixture_is_what_the_tables_below_say() {
    let log = Log::busy();
    assert_eq!(log.leaves.len(), 16);
    let of_edge_1 = |leaf: &usize| Record::parse(&log.leaves[*leaf]).unwrap().node == "edge-1";
    assert_eq!((0..16).filter(of_edge_1).collect::<Vec<_>>(), EDGE_1);
    assert_valid(&log.export().verify());
}

#[test]
fn a_changed_record_is_found_at_itself() {
    for leaf in [4, 6, 8] {
        let report = after(|leaves| leaves[leaf] = edit(&leaves[leaf], "T00:14", "T00:13"));
        assert_invalid(&report, Some(leaf as u64), "does not name the hash");
    }
}

#[test]
fn a_removed_record_is_found_at_the_next_of_its_node() {
    for (position, leaf) in EDGE_1.iter().enumerate().take(EDGE_1.len() - 1) {
        let next = EDGE_1[position + 1] - 1;
        let report = after(|leaves| {
            leaves.remove(*leaf);
        });
        assert_invalid(&report, Some(next as u64), "is missing before");
    }
}

#[test]
fn records_of_one_node_exchanged_are_found_at_the_first() {
    assert_invalid(&after(|leaves| leaves.swap(4, 6)), Some(4), "sequence number 1 is missing before 2");
    assert_invalid(&after(|leaves| leaves.swap(6, 8)), Some(6), "sequence number 2 is missing before 3");
}

#[test]
fn a_repeated_record_is_found() {
    assert_invalid(&after(|leaves| leaves.insert(9, leaves[8].clone())), Some(9), "is repeated");
}

#[test]
fn an_inserted_record_is_found() {
    let report = after(|leaves| {
        let forged = NodeChain::resume("edge-1", 7, 3, [0; 32]).append(denied(ts(7))).unwrap();
        leaves.insert(8, forged);
    });
    assert_invalid(&report, Some(6), "does not name the hash");
}

#[test]
fn records_under_another_nodes_name_are_found() {
    let report = after(|leaves| {
        leaves.iter_mut().filter(|leaf| leaf.windows(15).any(|part| part == br#""node":"edge-1""#)).for_each(|leaf| {
            *leaf = edit(leaf, r#""node":"edge-1""#, r#""node":"edge-2""#);
        });
    });
    assert_invalid(&report, Some(1), "does not name the hash");
}

#[test]
fn two_nodes_exchanged_are_found() {
    let swap = |text: &str, one: &str, other: &str| {
        text.replace(one, "\u{1}").replace(other, one).replace('\u{1}', other).into_bytes()
    };
    let report = after(|leaves| {
        for leaf in leaves.iter_mut().filter(|leaf| Record::parse(leaf).unwrap().kind != Kind::ControlEvent) {
            let names = swap(std::str::from_utf8(leaf).unwrap(), "edge-1", "edge-2");
            *leaf = swap(std::str::from_utf8(&names).unwrap(), r#""epoch":"7""#, r#""epoch":"9""#);
        }
    });
    assert_invalid(&report, Some(1), "not registered");
}

/// A node's chain rewritten from its second record on, with correct hashes, and heads signed by `key`.
fn rewritten(key: u8) -> Vec<Vec<u8>> {
    let mut log = Log::new();
    let backdated = log.write("edge-1", intent("2020-01-01T00:00:00.000000Z".into()));
    log.outcome("edge-1", &backdated);
    log.head("edge-1", key);
    log.leaves
}

#[test]
fn a_chain_rewritten_or_backdated_without_the_nodes_key_fails_at_its_next_head() {
    assert_valid(&Export::of(&rewritten(1)).verify());
    assert_invalid(&Export::of(&rewritten(2)).verify(), Some(6), "signed head does not fit");
}

#[test]
fn a_head_moved_to_another_place_is_found() {
    let mut log = Log::new();
    log.denied("edge-1");
    log.head("edge-1", 1);
    let head = Record::parse(&log.leaves[5]).unwrap();
    log.write("edge-1", Record { ts: ts(6), ..head });
    assert_invalid(&log.export().verify(), Some(6), "signed head does not fit");
}

#[test]
fn a_whole_run_smuggled_in_without_registration_is_found() {
    let mut log = Log::new();
    log.chains.insert("edge-3".into(), NodeChain::open("edge-3", 11));
    log.denied("edge-3");
    assert_invalid(&log.export().verify(), Some(4), "not registered");
}

#[test]
fn a_registration_not_written_by_the_control_plane_is_found() {
    let mut log = Log::new();
    let event = json!({"type": "node_epoch_opened", "node": "edge-3", "epoch": "11", "public_key": "00".repeat(32)});
    log.write("edge-1", Record { control: Some(event), ..Record::new(Kind::ControlEvent, ts(4)) });
    assert_invalid(&log.export().verify(), Some(4), "may not write");
}

#[test]
fn a_run_hidden_with_its_registration_breaks_the_control_planes_chain() {
    let mut leaves = Log::busy().leaves;
    leaves.remove(2);
    leaves.retain(|leaf| Record::parse(leaf).unwrap().node != "edge-2");
    assert_invalid(&Export::of(&leaves).verify(), Some(5), "is missing before");
}

#[test]
fn a_hidden_run_whose_registration_stays_is_reported_as_empty() {
    let mut leaves = Log::busy().leaves;
    leaves.retain(|leaf| Record::parse(leaf).unwrap().node != "edge-2");
    let report = Export::of(&leaves).verify();
    assert_valid(&report);
    assert_eq!((report.nodes["edge-2"].records, report.nodes["edge-2"].epochs[0].records), (0, 0));
}

#[test]
fn a_record_that_is_not_canonical_is_found() {
    for (from, to, words) in [
        (r#""kind":"#, r#""kind": "#, "canonical"),
        (r#""v":1,"#, r#""v":1,"v":1,"#, "canonical"),
        (r#""v":1,"#, r#""v":1.0,"#, "integer"),
        (r#""v":1,"#, r#""v":1,"value":null,"#, "null"),
    ] {
        assert_invalid(&after(|leaves| leaves[15] = edit(&leaves[15], from, to)), Some(15), words);
    }
    assert_invalid(&after(|leaves| leaves[6] = b"not a record".to_vec()), Some(6), "not JSON");
    assert_invalid(&after(|leaves| leaves[6] = Vec::new()), Some(6), "not JSON");
}

#[test]
fn an_outcome_needs_an_open_intent_of_its_own_node() {
    let mut log = Log::new();
    let id = log.intent("edge-1");
    log.outcome("edge-2", &id);
    assert_invalid(&log.export().verify(), Some(5), "another node's intent");
    let mut log = Log::new();
    let id = log.intent("edge-1");
    log.outcome("edge-1", &id);
    assert_valid(&log.export().verify());
    log.outcome("edge-1", &id);
    assert_invalid(&log.export().verify(), Some(6), "no intent that is open");
    let mut log = Log::new();
    log.outcome("edge-1", &hash::to_hex(&[0; 32]));
    assert_invalid(&log.export().verify(), Some(4), "no intent that is open");
}

#[test]
fn a_cut_tail_is_found_by_a_checkpoint_kept_elsewhere() {
    let log = Log::busy();
    let kept = log.export().checkpoint();
    let cut = Export::of(&log.leaves[..12]);
    assert_valid(&cut.verify());
    assert_invalid(&cut.verify_after(std::slice::from_ref(&kept)), Some(12), "16 leaves, there are 12");
    assert_valid(&log.export().verify_after(&[kept]));
}

#[test]
fn every_earlier_checkpoint_fits_a_log_that_only_grew() {
    let log = Log::busy();
    let earlier: Vec<_> = (0..=16).rev().map(|size| Export::of(&log.leaves[..size]).checkpoint()).collect();
    assert_valid(&log.export().verify_after(&earlier));
}

#[test]
fn a_rewritten_history_is_found_between_the_checkpoints_that_were_kept() {
    let log = Log::busy();
    let earlier: Vec<_> = [4, 8, 16].map(|size| Export::of(&log.leaves[..size]).checkpoint()).into();
    let mut forked = Log::new();
    (0..20).for_each(|_| forked.denied("edge-1"));
    assert_valid(&forked.export().verify());
    assert_invalid(&forked.export().verify_after(&earlier), Some(4), "other first 8 leaves");
}

#[test]
fn checkpoints_by_others_or_of_other_logs_are_refused() {
    let export = Log::busy().export();
    let theirs = Checkpoint { origin: ORIGIN.into(), size: 4, root: [0; 32] };
    let theirs = sign(&theirs, &signer(9)).unwrap().into_bytes();
    assert_invalid(&export.verify_after(std::slice::from_ref(&theirs)), None, "an earlier checkpoint");
    let mut resigned = export;
    resigned.files.insert("checkpoint".into(), theirs);
    assert_invalid(&resigned.verify(), None, "no signature by a trusted key");
}

#[test]
fn an_old_checkpoint_over_a_changed_log_does_not_help() {
    let log = Log::busy();
    let mut leaves = log.leaves.clone();
    leaves[15] = NodeChain::resume("edge-1", 7, 5, link(&leaves[11])).append(denied(ts(15))).unwrap();
    let mut export = Export::of(&leaves);
    assert_valid(&export.verify());
    export.files.insert("checkpoint".into(), log.export().checkpoint());
    let vouched = Export::of(&log.leaves[..15]).checkpoint();
    assert_invalid(&export.verify_after(&[vouched]), Some(15), "root over the leaves");
    assert_invalid(&export.verify(), Some(0), "root over the leaves");
}

#[test]
fn an_undeclared_hole_is_found_even_when_only_an_intent_is_lost() {
    let mut log = Log::new();
    let lost = log.lose("edge-1", intent(ts(4)));
    let id = record_id(&lost);
    let late = log.lose("edge-1", outcome(ts(5), &id));
    log.leaves.push(late);
    assert_invalid(&log.export().verify(), Some(4), "is missing before");
}
