//! The stored changes in the order of their numbers, and how void ones are forgotten.
//!
//! What later changes made void is removed, and its leaf hash stays in `tree`: two neighbours that are both void become
//! the hash over both, and so on, so any stretch of void changes is a few maximal complete subtrees. A row of `tree`
//! has the first number it stands for (64 bits, big endian) and its level (8 bits) as key.
//! Called by `machine` and `snapshot`. Readers hold bounded memory, and see one state as long as nobody forgets or
//! replaces changes meanwhile (`snapshot` holds the lock on that). Absent: which changes are void (`Applier`).

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    ops::Range,
};

use bailiwick_ledger_core::{
    hash::{Hash, from_slice},
    tree::node_hash,
};

use super::{
    disk::{Durability, Family, corrupted},
    format::{self, ChangeNumber},
    merkle::leaf,
    store::{Batch, Store},
};

/// Changes read at once: enough to make the seek cheap, little beside what else is in memory.
const PAGE_BYTES: usize = 512 * 1024;
/// Rows of `tree` read at once.
const PAGE_VOIDS: usize = 1024;
/// Changes forgotten in one write.
const FORGET_AT_ONCE: usize = 2048;
/// The tallest subtree: the tree's size fits 62 bits.
const LEVEL_MAX: u8 = 62;

/// One row of what is stored, in the order of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Row<'a> {
    /// A change.
    Change {
        /// Its revision.
        revision: u64,
        /// How many came before it.
        number: u64,
        /// A `format::Change`, as stored.
        bytes: &'a [u8],
    },
    /// What stands for forgotten ones.
    Void(Void),
}

/// What stands for `2^level` forgotten changes from number `first` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Void {
    pub(super) first: u64,
    pub(super) level: u8,
    pub(super) hash: Hash,
}

impl Void {
    /// The key of its row.
    pub(super) fn key(first: u64, level: u8) -> Vec<u8> {
        let mut key = first.to_be_bytes().to_vec();
        key.push(level);
        key
    }

    fn from_row(key: &[u8], value: &[u8]) -> io::Result<Self> {
        let wrong = || corrupted("a row of forgotten changes is none");
        let (level, first) = key.split_last().ok_or_else(wrong)?;
        let hash = from_slice(value).ok_or_else(wrong)?;
        Ok(Self { first: format::index_of(first)?, level: *level, hash })
    }
}

/// Hands over everything up to revision `last`, in the order of numbers. Blocks.
pub(super) fn read(store: &Store, last: u64, mut visit: impl FnMut(Row<'_>) -> io::Result<()>) -> io::Result<()> {
    let (mut voids, mut next) = (Voids::new(store), Some(0));
    while let Some(from) = next {
        let page = Page::read(store, from, last)?;
        for (revision, range) in &page.rows {
            let bytes = page.bytes.get(range.clone()).unwrap_or_default();
            let number = format::decode::<ChangeNumber>(bytes)?.number;
            while let Some(void) = voids.before(number)? {
                visit(Row::Void(void))?;
            }
            visit(Row::Change { revision: *revision, number, bytes })?;
        }
        next = page.next;
    }
    while let Some(void) = voids.before(u64::MAX)? {
        visit(Row::Void(void))?;
    }
    Ok(())
}

/// Some changes in the order of revisions, which is that of numbers.
struct Page {
    bytes: Vec<u8>,
    rows: Vec<(u64, Range<usize>)>,
    /// Where the next page begins, if this one is full.
    next: Option<u64>,
}

impl Page {
    fn read(store: &Store, from: u64, last: u64) -> io::Result<Self> {
        let mut page = Self { bytes: Vec::new(), rows: Vec::new(), next: None };
        store.scan(Family::Events, from, |revision, bytes| {
            if revision > last {
                return Ok(false);
            }
            if page.bytes.len() >= PAGE_BYTES {
                page.next = Some(revision);
                return Ok(false);
            }
            let start = page.bytes.len();
            page.bytes.extend_from_slice(bytes);
            page.rows.push((revision, start..page.bytes.len()));
            Ok(true)
        })?;
        Ok(page)
    }
}

/// What stands for forgotten changes, in order.
struct Voids<'a> {
    store: &'a Store,
    page: std::vec::IntoIter<Void>,
    /// Where the next page begins.
    next: Option<Vec<u8>>,
    waiting: Option<Void>,
}

impl<'a> Voids<'a> {
    fn new(store: &'a Store) -> Self {
        Self { store, page: Vec::new().into_iter(), next: Some(Vec::new()), waiting: None }
    }

    /// The next one, if it comes before change number `number`.
    fn before(&mut self, number: u64) -> io::Result<Option<Void>> {
        if self.waiting.is_none() {
            self.waiting = self.advance()?;
        }
        Ok(self.waiting.take_if(|void| void.first < number))
    }

    fn advance(&mut self) -> io::Result<Option<Void>> {
        if let Some(void) = self.page.next() {
            return Ok(Some(void));
        }
        let Some(start) = self.next.take() else { return Ok(None) };
        let mut page = Vec::new();
        self.store.disk().scan(Family::Tree, &start, &mut |key, value| {
            if page.len() == PAGE_VOIDS {
                self.next = Some(key.to_vec());
                return Ok(false);
            }
            page.push(Void::from_row(key, value)?);
            Ok(true)
        })?;
        self.page = page.into_iter();
        Ok(self.page.next())
    }
}

/// Removes the changes of these revisions and keeps what stands for them. Those already gone are passed over. A crash
/// in between leaves some forgotten and the rest to be forgotten another time. Blocks.
pub(super) fn forget(store: &Store, revisions: &[u64]) -> io::Result<()> {
    // Twice in one write would count it twice: it is still there until the write is done.
    let revisions: Vec<u64> = revisions.iter().copied().collect::<BTreeSet<u64>>().into_iter().collect();
    for some in revisions.chunks(FORGET_AT_ONCE) {
        let (mut batch, mut merging) = (Batch::default(), Merging { store, rows: BTreeMap::new() });
        for revision in some {
            let Some(bytes) = store.get(Family::Events, revision.to_be_bytes())? else { continue };
            let number = format::decode::<ChangeNumber>(&bytes)?.number;
            merging.add(Void { first: number, level: 0, hash: leaf(*revision, &bytes) })?;
            batch.delete_change(*revision);
        }
        for ((first, level), hash) in merging.rows {
            match hash {
                Some(hash) => batch.put(Family::Tree, Void::key(first, level), hash.to_vec()),
                None => batch.delete(Family::Tree, Void::key(first, level)),
            }
        }
        store.commit(batch, Durability::Written)?;
    }
    Ok(())
}

/// Rows of `tree` as they will be: set, or removed.
struct Merging<'a> {
    store: &'a Store,
    rows: BTreeMap<(u64, u8), Option<Hash>>,
}

impl Merging<'_> {
    fn add(&mut self, mut void: Void) -> io::Result<()> {
        while void.level < LEVEL_MAX {
            let sibling = void.first ^ (1 << void.level);
            let Some(hash) = self.hash(sibling, void.level)? else { break };
            self.rows.insert((sibling, void.level), None);
            let parent = if sibling < void.first { node_hash(&hash, &void.hash) } else { node_hash(&void.hash, &hash) };
            void = Void { first: void.first.min(sibling), level: void.level + 1, hash: parent };
        }
        self.rows.insert((void.first, void.level), Some(void.hash));
        Ok(())
    }

    fn hash(&self, first: u64, level: u8) -> io::Result<Option<Hash>> {
        if let Some(known) = self.rows.get(&(first, level)) {
            return Ok(*known);
        }
        let Some(bytes) = self.store.get(Family::Tree, Void::key(first, level))? else { return Ok(None) };
        from_slice(&bytes).map(Some).ok_or_else(|| corrupted("a row of forgotten changes is none"))
    }
}

#[cfg(test)]
mod tests;
