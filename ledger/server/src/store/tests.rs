//! The store's contract, and the fault injection that other tests use to make any write fail.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use proptest::prelude::*;

use super::*;

/// What the next write does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Fault {
    #[default]
    None,
    Failed,
    FailedButStored,
}

/// Planned outcomes of the writes to come; without a plan they succeed.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<VecDeque<Fault>>);

impl Faults {
    pub(crate) fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(faults);
    }

    pub(super) fn next(&self) -> Fault {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front().unwrap_or_default()
    }
}

impl Fault {
    pub(super) fn before(self) -> Result<(), StoreError> {
        if self == Self::Failed { Err(StoreError::Interrupted) } else { Ok(()) }
    }

    pub(super) fn after(self) -> Result<(), StoreError> {
        if self == Self::FailedButStored { Err(StoreError::Interrupted) } else { Ok(()) }
    }
}

fn leaf(user: &str, agent: &str, at_us: i64) -> NewLeaf {
    let ts = bailiwick_ledger_core::time::format_ts(at_us);
    let mut record = serde_json::json!({"agent": agent, "ts": ts, "user": user});
    // Not every record is of a use.
    if let Some(method) = method(at_us) {
        record["trace"] = serde_json::json!({"method": method});
    }
    let bytes = serde_json::to_vec(&record).unwrap();
    NewLeaf { bytes, terms: vec![(Field::User, user.into()), (Field::Agent, agent.into())], at_us }
}

fn method(at_us: i64) -> Option<&'static str> {
    [None, Some("tools/call"), Some("resources/read")][usize::try_from(at_us % 3).unwrap()]
}

fn batch(first: u64, leaves: Vec<NewLeaf>) -> Batch {
    Batch { first, leaves, ..Batch::default() }
}

fn users(users: &[&str]) -> Filter {
    Filter { terms: users.iter().map(|user| (Field::User, (*user).to_owned())).collect(), ..Filter::default() }
}

fn indexes(page: &Page) -> Vec<u64> {
    page.items.iter().map(|found| found.index).collect()
}

#[test]
fn a_batch_is_whole_after_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let leaves = vec![leaf("jane", "a", 1), leaf("joe", "b", 2)];
    {
        let store = Store::open(folder.path()).unwrap();
        store.commit(&batch(0, leaves.clone())).unwrap();
        // No flush: what counts is the write-ahead log.
    }
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.size().unwrap(), 2);
    assert_eq!(store.leaf(1).unwrap().as_ref(), Some(&leaves[1].bytes));
    assert_eq!(indexes(&store.search(&users(&["joe"]), u64::MAX, 10).unwrap()), [1]);
}

#[test]
fn a_store_of_the_format_before_is_read_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let jane = || leaf("jane", "a", 1);
    {
        // One leaf a write: its entries are those of the format before.
        let store = Store::open(folder.path()).unwrap();
        store.commit(&batch(0, vec![jane()])).unwrap();
        store.commit(&batch(1, vec![jane()])).unwrap();
        store.put_synced(META, META_FORMAT, &FORMAT_BEFORE.to_be_bytes()).unwrap();
    }
    let found = |store: &Store| indexes(&store.search(&users(&["jane"]), u64::MAX, 10).unwrap());
    assert_eq!(found(&Store::open_read_only(folder.path()).unwrap()), [1, 0]);
    let store = Store::open(folder.path()).unwrap();
    store.commit(&batch(2, vec![jane(), leaf("joe", "b", 2), jane(), jane()])).unwrap();
    assert_eq!(found(&store), [5, 4, 2, 1, 0]);
    assert_eq!(store.number(META_FORMAT).unwrap(), Some(FORMAT), "the program before refuses it from now on");
}

#[test]
fn a_batch_that_does_not_continue_the_log_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.commit(&batch(0, vec![leaf("jane", "a", 1)])).unwrap();
    for first in [0, 2] {
        let refused = store.commit(&batch(first, vec![leaf("joe", "b", 2)]));
        assert!(matches!(refused, Err(StoreError::NotNext { size: 1, .. })), "{refused:?}");
    }
    assert_eq!(store.size().unwrap(), 1);
    assert!(store.search(&users(&["joe"]), u64::MAX, 10).unwrap().items.is_empty());
}

#[test]
fn a_checkpoint_never_covers_what_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.commit(&batch(0, vec![leaf("jane", "a", 1)])).unwrap();
    assert!(matches!(store.put_checkpoint(2, "no"), Err(StoreError::BeyondLog { checkpoint: 2, size: 1 })));
    assert_eq!(store.latest_checkpoint().unwrap(), None);
    store.put_checkpoint(1, "note").unwrap();
    assert_eq!(store.latest_checkpoint().unwrap(), Some((1, "note".into())));
}

#[test]
fn a_log_keeps_its_name_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.bind_identity("example.org/log", "key").unwrap();
    store.bind_identity("example.org/log", "key").unwrap();
    for (origin, key) in [("example.org/other", "key"), ("example.org/log", "other")] {
        assert!(matches!(store.bind_identity(origin, key), Err(StoreError::Identity { .. })));
    }
}

#[test]
fn a_reader_beside_the_writer_sees_whole_batches_and_disturbs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Store::open(folder.path()).unwrap();
    writer.commit(&batch(0, vec![leaf("jane", "a", 1)])).unwrap();
    let reader = Store::open_read_only(folder.path()).unwrap();
    writer.commit(&batch(1, vec![leaf("joe", "b", 2)])).unwrap();
    assert_eq!(reader.size().unwrap(), 1);
    assert!(reader.commit(&batch(1, vec![leaf("eve", "c", 3)])).is_err());
    assert_eq!(Store::open_read_only(folder.path()).unwrap().size().unwrap(), 2);
}

#[test]
fn a_database_has_one_writer() {
    let folder = tempfile::tempdir().unwrap();
    let _writer = Store::open(folder.path()).unwrap();
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Database(_))));
}

#[test]
fn a_page_says_where_the_next_begins() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let leaves = (0..10).map(|at| leaf(if at % 2 == 0 { "jane" } else { "joe" }, "a", at)).collect();
    store.commit(&batch(0, leaves)).unwrap();
    let first = store.search(&users(&["jane"]), u64::MAX, 2).unwrap();
    assert_eq!((indexes(&first), first.next), (vec![8, 6], Some(6)));
    let second = store.search(&users(&["jane"]), 6, 9).unwrap();
    assert_eq!((indexes(&second), second.next), (vec![4, 2, 0], None));
}

#[test]
fn uses_and_changes_of_a_consent_are_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let leaf = |kind: &str, mut fields: serde_json::Value, at_us: i64| {
        fields["ts"] = bailiwick_ledger_core::time::format_ts(at_us).into();
        let bytes = serde_json::to_vec(&fields).unwrap();
        NewLeaf { bytes, terms: vec![(Field::Kind, kind.into())], at_us }
    };
    let leaves = vec![
        leaf("control.event", serde_json::json!({"control": {"consent": "c-1", "type": "consent_granted"}}), 1),
        leaf("control.event", serde_json::json!({"control": {"consent": "c-2"}}), 2),
        leaf("call.intent", serde_json::json!({"consent": "c-1"}), 3),
        leaf("control.event", serde_json::json!({"control": {"type": "user_applied"}}), 4),
        leaf("node.head", serde_json::json!({}), 5),
    ];
    store.commit(&batch(0, leaves)).unwrap();
    let found = |filter: Filter| indexes(&store.search(&filter, u64::MAX, 10).unwrap());
    let of = |consent: &str| Filter { consent: Some(consent.into()), ..Filter::default() };
    assert_eq!(found(of("c-1")), [2, 0]);
    assert_eq!(found(Filter { terms: vec![(Field::Kind, "control.event".into())], ..of("c-1") }), [0]);
    assert!(found(of("c-3")).is_empty());
}

/// The slow, obvious search.
fn scan(
    leaves: &[(u8, u8, i64)],
    (user, agent): (Option<u8>, Option<u8>),
    since: Option<i64>,
    wanted: Option<&str>,
) -> Vec<u64> {
    let fits = |(_, (of_user, of_agent, at)): &(usize, &(u8, u8, i64))| {
        user.is_none_or(|user| user == *of_user)
            && agent.is_none_or(|agent| agent == *of_agent)
            && since.is_none_or(|since| *at >= since)
            && wanted.is_none_or(|wanted| method(*at) == Some(wanted))
    };
    leaves.iter().enumerate().filter(fits).map(|(index, _)| index as u64).rev().collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn searches_find_what_a_scan_finds(
        // More than two spans, with times that jump back and forth as those of many nodes do.
        leaves in prop::collection::vec((0_u8..3, 0_u8..3, 0_i64..1000), 1..700),
        cuts in prop::collection::vec(1_usize..200, 0..6),
        user in prop::option::of(0_u8..4),
        agent in prop::option::of(0_u8..4),
        since in prop::option::of(0_i64..1001),
        wanted in prop::option::of(prop::sample::select(vec!["tools/call", "resources/read", "none/such"])),
        limit in 1_usize..300,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        let mut rest: Vec<_> = leaves.iter().map(|(u, a, at)| leaf(&format!("u{u}"), &format!("a{a}"), *at)).collect();
        for cut in cuts.into_iter().chain([usize::MAX]) {
            let tail = rest.split_off(cut.min(rest.len()));
            store.commit(&batch(store.size().unwrap(), std::mem::replace(&mut rest, tail))).unwrap();
        }
        let terms = user.map(|user| (Field::User, format!("u{user}"))).into_iter();
        let terms = terms.chain(agent.map(|agent| (Field::Agent, format!("a{agent}")))).collect();
        let filter = Filter { terms, method: wanted.map(str::to_owned), since_us: since, ..Filter::default() };
        let (mut found, mut before) = (Vec::new(), u64::MAX);
        loop {
            let page = store.search(&filter, before, limit).unwrap();
            found.extend(indexes(&page));
            prop_assert!(page.items.len() <= limit);
            match page.next {
                Some(next) => before = next,
                None => break,
            }
        }
        prop_assert_eq!(found, scan(&leaves, (user, agent), since, wanted));
    }
}
