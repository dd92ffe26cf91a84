//! Bytes are for ever: what is on disks, in snapshots and between members of different versions.
//!
//! `tests/golden/bytes.txt` holds one message of every kind as a released version wrote it, one a line: name and hex. A
//! line is never edited. A message without a line gets one by the test, which then fails so that somebody looks at it.

use std::{collections::BTreeMap, fmt::Debug, fs, path::PathBuf};

use openraft::raft::{AppendEntriesRequest, VoteRequest};
use prost::Message;

use crate::{
    format::{
        Applied, Change, ChangeNumber, Entry, Members, Payload, Position, RowKind, SnapshotChange, SnapshotEnd,
        SnapshotHeader, SnapshotRow, SnapshotVoid, Vote, Voters, decode,
    },
    messages::{
        Answer, Append, AppendOutcome, Appended, Ask, Ballot, Candidacy, Chunk, ChunkTaken, ReadFrom, Reply, Request,
        Transfer,
    },
    raft::{self, Proposal, Types},
    transport::{Introduction, Member},
};

const POSITION: Position = Position { term: 3, node: 2, index: 300 };
const VOTE: Vote = Vote { term: 4, node: 2, committed: true };

fn file() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/bytes.txt"))
}

fn proposal() -> Proposal {
    Proposal {
        expected_version: 7,
        events: vec![b"{}".to_vec(), b"[]".to_vec()],
        root_version: 5,
        root: vec![0xab; 32],
        base_version: 0,
        chain: 0,
    }
}

fn members() -> Members {
    let member =
        |name: &str| Member { name: name.into(), peer: format!("{name}:8432"), api: format!("https://{name}:8431") };
    let nodes = BTreeMap::from([(1, member("a")), (2, member("b"))]);
    Members { voters: vec![Voters { nodes: vec![1] }, Voters { nodes: vec![1, 2] }], nodes }
}

fn applied() -> Applied {
    Applied {
        position: Some(POSITION),
        members: Some(members()),
        members_position: Some(Position { term: 1, node: 1, index: 1 }),
        version: 9,
        root: vec![0xcd; 32],
        former: vec![3],
        chain: 0,
        chain_since: 0,
    }
}

fn entry(payload: Payload) -> Entry {
    Entry { position: Some(POSITION), payload: Some(payload) }
}

fn request(ask: Ask) -> Request {
    let from = Introduction {
        cluster_id: "0123456789abcdef0123456789abcdef".into(),
        incarnation: "0123456789abcdef".into(),
        node_id: 2,
        starts: 5,
        run: 77,
    };
    Request { from: Some(from), to: 1, ask: Some(ask) }
}

fn reply(answer: Answer) -> Reply {
    Reply { from: request(Ask::ReadIndex(true)).from, answer: Some(answer) }
}

/// Calls `with` for one message of every kind.
fn each(with: &mut impl Visit) {
    with.message("position", &POSITION);
    with.message("vote", &VOTE);
    with.message("entry-blank", &entry(Payload::Blank(true)));
    with.message("entry-proposal", &entry(Payload::Proposal(proposal())));
    with.message("entry-members", &entry(Payload::Members(members())));
    with.message("applied", &applied());
    with.message("change", &Change { events: vec![b"{}".to_vec()], number: 8 });
    let header = SnapshotHeader {
        applied: Some(applied()),
        cluster_id: "0123456789abcdef0123456789abcdef".into(),
        incarnation: "0123456789abcdef".into(),
        created_unix_ms: 1_795_219_200_000,
    };
    with.message("snapshot-header", &header);
    let change = SnapshotChange { revision: 300, change: vec![1, 2] };
    let void = SnapshotVoid { first: 4, level: 2, hash: vec![0xef; 32] };
    for (name, kind) in [
        ("snapshot-change", RowKind::Change(change)),
        ("snapshot-void", RowKind::Void(void)),
        ("snapshot-end", RowKind::End(SnapshotEnd { changes: 9 })),
    ] {
        with.message(name, &SnapshotRow { kind: Some(kind) });
    }
    asks(with);
    answers(with);
}

fn asks(with: &mut impl Visit) {
    let entries =
        vec![Entry { position: Some(Position { index: 301, ..POSITION }), payload: Some(Payload::Blank(true)) }];
    let append = Append { vote: Some(VOTE), after: Some(POSITION), entries, committed: Some(POSITION) };
    let candidacy = Candidacy { vote: Some(VOTE), last: Some(POSITION), handed_over: true };
    let chunk = Chunk { vote: Some(VOTE), position: Some(POSITION), offset: 9, bytes: vec![1, 2], last: true };
    for (name, ask) in [
        ("ask-append", Ask::Append(append)),
        ("ask-vote", Ask::Vote(candidacy.clone())),
        ("ask-pre-vote", Ask::PreVote(candidacy)),
        ("ask-transfer", Ask::Transfer(Transfer { vote: Some(VOTE), to: 1, last: Some(POSITION) })),
        ("ask-snapshot", Ask::Snapshot(chunk)),
        ("ask-read-index", Ask::ReadIndex(true)),
    ] {
        with.message(name, &request(ask));
    }
}

fn answers(with: &mut impl Visit) {
    let appended = |outcome| Answer::Append(Appended { outcome: Some(outcome) });
    let ballot = Ballot { vote: Some(VOTE), granted: true, last: Some(POSITION) };
    let taken = ChunkTaken { vote: Some(VOTE), next: 11, installed: true };
    for (name, answer) in [
        ("answer-refused", Answer::Refused(2)),
        ("answer-append-whole", appended(AppendOutcome::Whole(true))),
        ("answer-append-part", appended(AppendOutcome::Part(POSITION))),
        ("answer-append-conflict", appended(AppendOutcome::Conflict(true))),
        ("answer-append-later", appended(AppendOutcome::Later(VOTE))),
        ("answer-vote", Answer::Vote(ballot)),
        ("answer-transfer", Answer::Transfer(true)),
        ("answer-snapshot", Answer::Snapshot(taken)),
        ("answer-read-index", Answer::ReadIndex(ReadFrom { index: Some(300), leader: Some(2) })),
    ] {
        with.message(name, &reply(answer));
    }
}

trait Visit {
    fn message<M: Message + Default + Debug + PartialEq>(&mut self, name: &str, message: &M);
}

/// Compares with the golden lines.
struct Golden {
    lines: BTreeMap<String, String>,
    missing: String,
    seen: usize,
}

impl Visit for Golden {
    fn message<M: Message + Default + Debug + PartialEq>(&mut self, name: &str, message: &M) {
        let bytes = message.encode_to_vec();
        match self.lines.get(name) {
            None => self.missing += &format!("{name} {}\n", hex::encode(bytes)),
            Some(golden) => {
                assert_eq!(hex::encode(&bytes), *golden, "{name} is written otherwise than it was");
                assert_eq!(decode::<M>(&hex::decode(golden).unwrap()).unwrap(), *message, "{name}");
                self.seen += 1;
            }
        }
    }
}

#[test]
fn every_message_is_written_and_read_as_its_golden_line_says() {
    let text = fs::read_to_string(file()).unwrap_or_default();
    let lines: BTreeMap<String, String> =
        text.lines().map(|line| line.split_once(' ').unwrap()).map(|(a, b)| (a.to_owned(), b.to_owned())).collect();
    let known = lines.len();
    let mut golden = Golden { lines, missing: String::new(), seen: 0 };
    each(&mut golden);
    if !golden.missing.is_empty() {
        fs::create_dir_all(file().parent().unwrap()).unwrap();
        fs::write(file(), text + &golden.missing).unwrap();
        panic!("golden lines were missing and are written; look at them:\n{}", golden.missing);
    }
    assert_eq!(golden.seen, known, "a message that was shipped is read for ever");
}

/// Reads each message as an older version would read a newer one's.
struct Newer;

impl Visit for Newer {
    fn message<M: Message + Default + Debug + PartialEq>(&mut self, name: &str, message: &M) {
        let mut bytes = message.encode_to_vec();
        // Field 1000 as a number, field 1001 as bytes.
        bytes.extend_from_slice(&[0xc0, 0x3e, 0x07, 0xca, 0x3e, 0x02, 0x01, 0x02]);
        assert_eq!(decode::<M>(&bytes).unwrap(), *message, "{name}");
    }
}

#[test]
fn fields_that_come_later_are_passed_over() {
    each(&mut Newer);
}

/// Cuts and flips every message at every place.
struct Damage;

impl Visit for Damage {
    fn message<M: Message + Default + Debug + PartialEq>(&mut self, name: &str, message: &M) {
        let bytes = message.encode_to_vec();
        for place in 0..bytes.len() {
            drop(decode::<M>(&bytes[..place]));
            for bit in 0..8 {
                let mut flipped = bytes.clone();
                flipped[place] ^= 1 << bit;
                // Checksums and roots find what still decodes; here only that reading is total.
                if let Ok(read) = decode::<M>(&flipped) {
                    assert!(read.encoded_len() <= 16 * bytes.len(), "{name} grows");
                }
            }
        }
    }
}

#[test]
fn damaged_bytes_are_errors_or_other_messages_but_never_a_panic() {
    each(&mut Damage);
}

#[test]
fn a_log_entry_of_a_kind_that_comes_later_is_an_error_and_not_an_empty_one() {
    // Field 9: bytes.
    let mut bytes = Entry { position: Some(POSITION), payload: None }.encode_to_vec();
    bytes.extend_from_slice(&[0x4a, 0x01, 0x01]);
    let entry: Entry = decode(&bytes).unwrap();
    assert!(raft::Entry::try_from(entry).is_err());
}

#[test]
fn an_append_that_lacks_its_vote_or_has_a_hole_is_an_error() {
    let at = |index| Entry { position: Some(Position { index, ..POSITION }), payload: Some(Payload::Blank(true)) };
    let append = |vote, entries| Append { vote, after: Some(POSITION), entries, committed: None };
    assert!(AppendEntriesRequest::<Types>::try_from(append(Some(VOTE), vec![at(301), at(302)])).is_ok());
    for wrong in [
        append(None, vec![at(301)]),
        append(Some(VOTE), vec![at(302)]),
        append(Some(VOTE), vec![at(301), at(303)]),
        append(Some(VOTE), vec![at(301), at(301)]),
        append(Some(VOTE), vec![Entry { position: None, payload: Some(Payload::Blank(true)) }]),
    ] {
        assert!(AppendEntriesRequest::<Types>::try_from(wrong.clone()).is_err(), "{wrong:?}");
    }
    assert!(VoteRequest::<Types>::try_from(Candidacy { vote: None, last: None, handed_over: false }).is_err());
}

#[test]
fn what_tells_where_a_change_belongs_is_read_without_the_rest() {
    let change = Change { events: vec![b"{}".to_vec()], number: 8 };
    assert_eq!(decode::<ChangeNumber>(&change.encode_to_vec()).unwrap().number, 8);
}
