//! Snapshot files: the whole event log up to one position, for peers that are too far behind and for purging the log.
//! Making one first forgets the changes that later ones made void, here as in the file.
//!
//! Layout: magic line; then messages, each after its length (32 bits, big endian): a header, then every change in
//! revision order; then SHA-256 of all that precedes. A file is written beside its name, synced and renamed, so a
//! name always stands for a whole file. A file that does not verify is never used. Only the newest is kept.

use std::io::{self, BufReader, BufWriter, Read, Write};

use aws_lc_rs::digest::{Context, Digest, SHA256, SHA256_OUTPUT_LEN};
use openraft::RaftSnapshotBuilder;
use prost::Message;

use super::{
    disk::{Durability, Family},
    format::{self, Applied, SnapshotChange, SnapshotHeader},
    raft::{self, Types},
    store::{Batch, Store},
};

const MAGIC: &[u8] = b"bailiwick/snapshot/v1\n";
/// One change is one proposal, which admission bounds far below this.
const MESSAGE_BYTES_MAX: u32 = 64 * 1024 * 1024;
const SUFFIX: &str = ".snapshot";

/// A snapshot on the disk.
#[derive(Clone, Debug)]
pub(super) struct SnapshotFile {
    store: Store,
    name: String,
}

/// The files of snapshots.
#[derive(Clone, Debug)]
pub(super) struct Snapshots {
    store: Store,
}

impl Snapshots {
    /// Snapshots on the disk of `store`.
    pub(super) const fn open(store: Store) -> Self {
        Self { store }
    }

    /// The newest snapshot that verifies.
    pub(super) fn newest(&self) -> io::Result<Option<raft::Snapshot>> {
        let mut names = self.names()?;
        while let Some(name) = names.pop() {
            let file = self.file(name);
            match file.applied() {
                Ok(applied) => return Ok(Some(snapshot(&applied, file)?)),
                Err(error) => tracing::warn!(name = %file.name, %error, "snapshot does not verify; ignored"),
            }
        }
        Ok(None)
    }

    /// The snapshot in a file that has come from elsewhere, if it verifies.
    pub(super) fn arrived(&self, name: &str) -> io::Result<raft::Snapshot> {
        let file = self.file(name.to_owned());
        let applied = file.applied()?;
        snapshot(&applied, file)
    }

    /// Takes over a snapshot from elsewhere, unless it lies here already.
    pub(super) fn keep(&self, from: &SnapshotFile) -> io::Result<SnapshotFile> {
        let applied = from.applied()?;
        let kept = self.file(name(&applied));
        if kept.name != from.name || !std::sync::Arc::ptr_eq(self.store.disk(), from.store.disk()) {
            let mut out = self.store.disk().blob_create(&kept.name)?;
            io::copy(&mut from.open()?, &mut out)?;
            out.publish()?;
            self.forget_others(&kept.name)?;
        }
        kept.applied()?;
        Ok(kept)
    }

    fn write(&self, store: &Store, applied: Applied) -> io::Result<SnapshotFile> {
        let last = applied.position.map_or(0, |position| position.index);
        let mut changes = 0;
        store.scan(Family::Events, 0, |revision, _| {
            changes += u64::from(revision <= last);
            Ok(revision <= last)
        })?;
        let name = name(&applied);
        let mut out = Hashing::new(BufWriter::new(self.store.disk().blob_create(&name)?));
        out.write_all(MAGIC)?;
        write_message(&mut out, &SnapshotHeader { applied: Some(applied), changes })?;
        store.scan(Family::Events, 0, |revision, bytes| {
            if revision > last {
                return Ok(false);
            }
            write_message(&mut out, &SnapshotChange { revision, change: Some(format::decode(bytes)?) })?;
            Ok(true)
        })?;
        let (mut file, digest) = out.finish();
        file.write_all(digest.as_ref())?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.publish()?;
        self.forget_others(&name)?;
        Ok(self.file(name))
    }

    fn forget_others(&self, kept: &str) -> io::Result<()> {
        let mut names = self.names()?;
        names.retain(|name| name != kept);
        names.iter().try_for_each(|name| self.store.disk().blob_remove(name))
    }

    fn file(&self, name: String) -> SnapshotFile {
        SnapshotFile { store: self.store.clone(), name }
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = self.store.disk().blob_list()?;
        names.retain(|name| name.ends_with(SUFFIX));
        Ok(names)
    }
}

/// Names sort by position.
fn name(applied: &Applied) -> String {
    let position = applied.position.unwrap_or_default();
    format!("{:020}-{}-{}{SUFFIX}", position.index, position.term, position.node)
}

impl SnapshotFile {
    /// Its bytes.
    pub(super) fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        self.store.disk().blob_open(&self.name)
    }

    /// How far it goes. Verifies the whole file.
    pub(super) fn applied(&self) -> io::Result<Applied> {
        self.read(|_, _| Ok(()))
    }

    /// Hands over every change in order. What was handed over counts only if this returns `Ok`.
    pub(super) fn read(&self, mut visit: impl FnMut(u64, format::Change) -> io::Result<()>) -> io::Result<Applied> {
        let mut input = Hashing::new(BufReader::new(self.open()?));
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(invalid("not a snapshot"));
        }
        let header: SnapshotHeader = read_message(&mut input)?;
        for _ in 0..header.changes {
            let change: SnapshotChange = read_message(&mut input)?;
            visit(change.revision, change.change.unwrap_or_default())?;
        }
        let (mut file, digest) = input.finish();
        let mut expected = Vec::with_capacity(SHA256_OUTPUT_LEN);
        file.read_to_end(&mut expected)?;
        if expected != digest.as_ref() {
            return Err(invalid("a snapshot's checksum does not match"));
        }
        header.applied.ok_or_else(|| invalid("a snapshot without a position"))
    }
}

/// Builds one snapshot of the state as it was when the builder was made.
#[derive(Debug)]
pub(super) struct SnapshotBuilder {
    store: Store,
    snapshots: Snapshots,
    applied: Applied,
    void: Vec<u64>,
}

impl SnapshotBuilder {
    /// `void`: changes up to `applied` that others up to `applied` made void.
    pub(super) const fn new(store: Store, snapshots: Snapshots, applied: Applied, void: Vec<u64>) -> Self {
        Self { store, snapshots, applied, void }
    }
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> Result<raft::Snapshot, io::Error> {
        let (store, snapshots, applied) = (self.store.clone(), self.snapshots.clone(), self.applied.clone());
        let void = std::mem::take(&mut self.void);
        let build = move || {
            // Nobody else removes changes meanwhile, so what is counted in the file is what is written to it.
            let mut batch = Batch::default();
            void.into_iter().for_each(|revision| batch.delete_change(revision));
            store.commit(batch, Durability::Written)?;
            snapshots.write(&store, applied)
        };
        let file = tokio::task::spawn_blocking(build).await.map_err(io::Error::other)??;
        snapshot(&self.applied, file)
    }
}

fn snapshot(applied: &Applied, file: SnapshotFile) -> io::Result<raft::Snapshot> {
    let meta = raft::SnapshotMeta { last_log_id: applied.log_id(), last_membership: applied.stored_members()? };
    Ok(raft::Snapshot { meta, snapshot: file })
}

fn write_message(out: &mut impl Write, message: &impl Message) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&bytes)
}

fn read_message<M: Message + Default>(input: &mut impl Read) -> io::Result<M> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MESSAGE_BYTES_MAX {
        return Err(invalid("a snapshot's message is too long"));
    }
    let mut bytes = Vec::new();
    input.take(u64::from(length)).read_to_end(&mut bytes)?;
    format::decode(&bytes)
}

fn invalid(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// Hashes all that passes through.
struct Hashing<T> {
    inner: T,
    context: Context,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, context: Context::new(&SHA256) }
    }

    fn finish(self) -> (T, Digest) {
        (self.inner, self.context.finish())
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.context.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.context.update(bytes.get(..read).unwrap_or_default());
        Ok(read)
    }
}
