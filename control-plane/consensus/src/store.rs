//! What a control-plane node keeps, and the contract of it.
//!
//! # Storage contract
//! | family | key | value | written |
//! |---|---|---|---|
//! | `log` | index | `format::Entry` | synced before Raft is told |
//! | `meta` | a name | vote, purged, committed, applied, birth, starts, snapshot | synced but for committed, applied |
//! | `events` | revision | `format::Change` | in one batch with `meta/applied`, not synced |
//! | `tree` | first leaf, level (8 bits) | hash of forgotten changes | in one batch with removing them |
//!
//! Numbers in keys are 64 bits, big endian.
//!
//! 1. A crash keeps a prefix of all writes in the order they were made (`disk`).
//! 2. Nothing is acknowledged that is not in a synced prefix: a vote before it is cast, an entry before it counts.
//! 3. `events` and `meta/applied`, with the root of all changes, change in one batch. A crash may forget that batch;
//!    the entries it came from are still in `log`, because purging them is a later write. They are applied again.
//! 4. The state is the fold of `events`, and nothing else is kept of it. Nothing in it is edited; only changes that
//!    later ones made void are removed, when a snapshot is made, and `tree` keeps their hashes.
//! 5. After any failed write the node stops; it never writes again over a log of which the end is unknown.
//!
//! Called by `log`, `machine` and `snapshot`. Deliberately absent: meaning of events (`domain`).

use std::{io, sync::Arc};

use openraft::{
    async_runtime::watch::WatchSender as _,
    type_config::{
        TypeConfigExt as _,
        alias::{WatchReceiverOf, WatchSenderOf},
    },
};
use tokio::sync::watch;

use crate::{
    disk::{Disk, Durability, FORMAT_VERSION, Family, Write, corrupted, other_layout},
    format,
    raft::Types,
};

/// Single values in `meta`.
pub(super) mod meta_key {
    pub(crate) const VOTE: &str = "vote";
    pub(crate) const PURGED: &str = "purged";
    pub(crate) const COMMITTED: &str = "committed";
    pub(crate) const APPLIED: &str = "applied";
    pub(crate) const CLUSTER: &str = "cluster";
    pub(crate) const INCARNATION: &str = "incarnation";
    pub(crate) const NODE: &str = "node";
    pub(crate) const STARTS: &str = "starts";
    pub(crate) const FORMAT: &str = "format";
    /// The name of the snapshot's file.
    pub(crate) const SNAPSHOT: &str = "snapshot";
    /// The name of a snapshot's file while its rows replace the stored ones.
    pub(crate) const INSTALLING: &str = "installing";
    /// There while a restore is under way.
    pub(crate) const RESTORING: &str = "restoring";
    /// Followed by a peer's node id.
    pub(crate) const PEER_STARTS: &str = "peer-starts/";
}

/// Hex digits of a cluster id and of an incarnation.
const CLUSTER_ID_DIGITS: usize = 32;
const INCARNATION_DIGITS: usize = 16;

/// Whom a data directory belongs to. Claimed when it is first opened and insisted on ever after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Birth {
    /// Which cluster: 32 lower-case hex digits, the same for as long as it lives, restored backups included.
    pub cluster_id: String,
    /// Which life of the cluster: 16 lower-case hex digits, new when it is restored from a backup.
    pub incarnation: String,
    /// Which node; never reused.
    pub node_id: u64,
}

impl Birth {
    /// Whom the data on `disk` belongs to; nobody while it is empty.
    ///
    /// # Errors
    /// When the disk cannot be read, or another version of this program wrote it.
    pub fn read(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let value = |key: &str| disk.get(Family::Meta, key.as_bytes());
        if value(meta_key::RESTORING)?.is_some() {
            let text = "a restore into this data directory was interrupted; restore the backup again";
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        match value(meta_key::FORMAT)? {
            None if disk.last(Family::Log)?.is_some() || disk.last(Family::Events)?.is_some() => {
                return Err(corrupted("the data directory has rows and no layout"));
            }
            None => return Ok(None),
            Some(found) if found == FORMAT_VERSION.to_be_bytes() => {}
            Some(found) => return Err(other_layout(&format::index_of(&found)?.to_string())),
        }
        let missing = || corrupted("the data directory does not say whom it belongs to");
        let text = |key| String::from_utf8(value(key)?.ok_or_else(missing)?).map_err(|_| missing());
        let birth = Self {
            cluster_id: text(meta_key::CLUSTER)?,
            incarnation: text(meta_key::INCARNATION)?,
            node_id: format::index_of(&value(meta_key::NODE)?.ok_or_else(missing)?)?,
        };
        Ok(Some(birth))
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        let digits = |text: &str, count| {
            text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
        };
        if digits(&self.cluster_id, CLUSTER_ID_DIGITS) && digits(&self.incarnation, INCARNATION_DIGITS) {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidInput, "a cluster id or an incarnation has the wrong form"))
    }
}

impl std::fmt::Display for Birth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "node {} of cluster {}, incarnation {}", self.node_id, self.cluster_id, self.incarnation)
    }
}

/// A handle on the disk; clones share it.
#[derive(Clone)]
pub(super) struct Store(Arc<Open>);

/// The open disk. Fields are dropped in this order: first it is let go, then whoever waits is told.
struct Open {
    disk: Arc<dyn Disk>,
    birth: Birth,
    starts: u64,
    /// Set by the first write that fails (rule 5).
    failed: WatchSenderOf<Types, Option<String>>,
    closed: watch::Sender<()>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("disk", &self.0.disk).finish_non_exhaustive()
    }
}

impl Store {
    /// Claims an empty disk for `birth`, or insists that it belongs to it; counts the start. Blocks.
    pub(super) fn open(disk: Arc<dyn Disk>, birth: Birth) -> io::Result<Self> {
        birth.check()?;
        let mut batch = Batch::default();
        let mut starts = 1;
        match Birth::read(disk.as_ref())? {
            None => batch.put_birth(&birth),
            Some(found) if found == birth => {
                let before = disk.get(Family::Meta, meta_key::STARTS.as_bytes())?;
                starts += before.map_or(Ok(0), |bytes| format::index_of(&bytes))?;
            }
            Some(found) => {
                let text = format!("this data directory belongs to {found}, not to {birth}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        batch.put_meta(meta_key::STARTS, &starts.to_be_bytes());
        disk.write(batch.writes, Durability::Synced)?;
        Ok(Self::of(disk, birth, starts))
    }

    /// An empty disk, or one that a restore was interrupted on, to be filled for `birth`. It belongs to nobody until
    /// [`Batch::put_birth`] is committed. Blocks.
    pub(super) fn restoring(disk: Arc<dyn Disk>, birth: &Birth) -> io::Result<Self> {
        birth.check()?;
        let interrupted = disk.get(Family::Meta, meta_key::RESTORING.as_bytes())?.is_some();
        if !interrupted && let Some(found) = Birth::read(disk.as_ref())? {
            let text = format!("this data directory belongs to {found}; a backup needs an empty one");
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
        }
        let mut batch = Batch::default();
        batch.put_meta(meta_key::RESTORING, &[1]);
        batch.delete_changes();
        disk.write(batch.writes, Durability::Synced)?;
        Ok(Self::of(disk, birth.clone(), 0))
    }

    /// A disk to be read and never written, as it is; `None` if it belongs to nobody. Blocks.
    pub(super) fn reading(disk: Arc<dyn Disk>) -> io::Result<Option<Self>> {
        let Some(birth) = Birth::read(disk.as_ref())? else { return Ok(None) };
        let starts = disk.get(Family::Meta, meta_key::STARTS.as_bytes())?;
        let starts = starts.map_or(Ok(0), |bytes| format::index_of(&bytes))?;
        Ok(Some(Self::of(disk, birth, starts)))
    }

    fn of(disk: Arc<dyn Disk>, birth: Birth, starts: u64) -> Self {
        let ((failed, _), closed) = (Types::watch_channel(None), watch::Sender::new(()));
        Self(Arc::new(Open { disk, birth, starts, failed, closed }))
    }

    /// Whom the data belongs to.
    pub(super) fn birth(&self) -> &Birth {
        &self.0.birth
    }

    /// How often this data directory has been opened, this time included. An older copy of it has fewer.
    pub(super) fn starts(&self) -> u64 {
        self.0.starts
    }

    /// The disk, for files.
    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.0.disk
    }

    /// Ends when the disk has been let go, after the last clone of this handle.
    pub(super) fn closed(&self) -> watch::Receiver<()> {
        self.0.closed.subscribe()
    }

    /// One value.
    pub(super) fn get(&self, family: Family, key: impl AsRef<[u8]>) -> io::Result<Option<Vec<u8>>> {
        self.0.disk.get(family, key.as_ref())
    }

    /// The greatest number of a family with its value.
    pub(super) fn last(&self, family: Family) -> io::Result<Option<(u64, Vec<u8>)>> {
        let Some((key, value)) = self.0.disk.last(family)? else { return Ok(None) };
        Ok(Some((format::index_of(&key)?, value)))
    }

    /// Rows from number `start` (inclusive) in order, handed to `visit` until it says `false`.
    pub(super) fn scan(
        &self,
        family: Family,
        start: u64,
        mut visit: impl FnMut(u64, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        let numbered = &mut |key: &[u8], value: &[u8]| visit(format::index_of(key)?, value);
        self.0.disk.scan(family, &start.to_be_bytes(), numbered)
    }

    /// What the first write that failed said, once there was one. Whoever made it, the node has to stop (rule 5).
    pub(super) fn failure(&self) -> WatchReceiverOf<Types, Option<String>> {
        self.0.failed.subscribe()
    }

    /// Writes a batch whole or not at all. Blocks; `Synced` waits for the disk.
    pub(super) fn commit(&self, batch: Batch, durability: Durability) -> io::Result<()> {
        self.guarded(|disk| disk.write(batch.writes, durability))
    }

    /// Waits until everything written is on the disk. Blocks.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.guarded(Disk::sync)
    }

    /// As [`Store::commit`], off the async threads: a sync can take many milliseconds.
    pub(super) async fn commit_synced(&self, batch: Batch) -> io::Result<()> {
        let delay = self.0.disk.sync_delay();
        // A simulated crash may come before the write as well as between the write and the answer.
        self.pause(delay / 2).await;
        let written = self.run(move |store| store.commit(batch, Durability::Synced)).await;
        self.pause(delay / 2).await;
        written
    }

    /// Does what may block where that does no harm.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        if self.0.disk.inline() {
            return work(self);
        }
        let store = self.clone();
        tokio::task::spawn_blocking(move || work(&store)).await.map_err(io::Error::other)?
    }

    /// Lets (virtual) time pass.
    pub(super) async fn pause(&self, delay: std::time::Duration) {
        if !delay.is_zero() {
            Types::sleep(delay).await;
        }
    }

    fn guarded(&self, act: impl FnOnce(&dyn Disk) -> io::Result<()>) -> io::Result<()> {
        if self.0.failed.borrow_watched().is_some() {
            return Err(io::Error::other("an earlier write failed; nothing is written any more"));
        }
        act(self.0.disk.as_ref()).inspect_err(|error| {
            self.0.failed.send_if_modified(|failed| failed.replace(error.to_string()).is_none());
        })
    }
}

/// Writes that happen together.
#[derive(Debug, Default)]
pub(super) struct Batch {
    writes: Vec<Write>,
}

impl Batch {
    pub(super) fn put_meta(&mut self, key: &str, value: &[u8]) {
        self.put(Family::Meta, key.as_bytes().to_vec(), value.to_vec());
    }

    /// Makes the data belong to `birth`.
    pub(super) fn put_birth(&mut self, birth: &Birth) {
        self.put_meta(meta_key::FORMAT, &FORMAT_VERSION.to_be_bytes());
        self.put_meta(meta_key::CLUSTER, birth.cluster_id.as_bytes());
        self.put_meta(meta_key::INCARNATION, birth.incarnation.as_bytes());
        self.put_meta(meta_key::NODE, &birth.node_id.to_be_bytes());
        self.delete_meta(meta_key::RESTORING);
    }

    pub(super) fn delete_meta(&mut self, key: &str) {
        self.writes.push(Write::Delete { family: Family::Meta, key: key.as_bytes().to_vec() });
    }

    pub(super) fn put_entry(&mut self, index: u64, value: Vec<u8>) {
        self.put(Family::Log, index.to_be_bytes().to_vec(), value);
    }

    /// Removes log entries from `start` on.
    pub(super) fn delete_entries_from(&mut self, start: u64) {
        self.delete_range(Family::Log, start.to_be_bytes().to_vec(), BEYOND_EVERY_KEY.to_vec());
    }

    /// Removes log entries up to and including `last`.
    pub(super) fn delete_entries_to(&mut self, last: u64) {
        let end = last.saturating_add(1).to_be_bytes();
        self.delete_range(Family::Log, 0_u64.to_be_bytes().to_vec(), end.to_vec());
    }

    pub(super) fn put_change(&mut self, revision: u64, value: Vec<u8>) {
        self.put(Family::Events, revision.to_be_bytes().to_vec(), value);
    }

    /// Removes a void change.
    pub(super) fn delete_change(&mut self, revision: u64) {
        self.writes.push(Write::Delete { family: Family::Events, key: revision.to_be_bytes().to_vec() });
    }

    /// Removes every applied change and what stands for forgotten ones: a snapshot's follow.
    pub(super) fn delete_changes(&mut self) {
        for family in [Family::Events, Family::Tree] {
            self.delete_range(family, 0_u64.to_be_bytes().to_vec(), BEYOND_EVERY_KEY.to_vec());
        }
    }

    pub(super) fn put(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        self.writes.push(Write::Put { family, key, value });
    }

    pub(super) fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.writes.push(Write::Delete { family, key });
    }

    fn delete_range(&mut self, family: Family, start: Vec<u8>, end: Vec<u8>) {
        self.writes.push(Write::DeleteRange { family, start, end });
    }
}

/// Longer than any key of a number, so greater than all of them.
const BEYOND_EVERY_KEY: [u8; 10] = [0xff; 10];
