//! The layout of snapshot and backup files (version 2).
//!
//! A magic line; then messages, each after its length (32 bits, big endian): a header, one row for each change and for
//! each stretch of forgotten ones in the order of their numbers, and an end with how many changes there were; then
//! SHA-256 of all that precedes. A file is good if its checksum matches, its rows give the Merkle root that its header
//! names, and nothing follows. It is written and read as a stream, in bounded memory.

use std::io::{self, BufReader, BufWriter, Read, Write};

use aws_lc_rs::digest::{Context, Digest, SHA256, SHA256_OUTPUT_LEN};
use bailiwick_ledger_core::hash::from_slice;
use prost::Message;

use crate::{
    changes::{Row, Void},
    disk::corrupted,
    format::{
        self, Applied, ChangeNumber, RowKind, SnapshotChange, SnapshotEnd, SnapshotHeader, SnapshotRow, SnapshotVoid,
    },
    merkle::{Tree, leaf},
};

const MAGIC: &[u8] = b"bailiwick/snapshot/v2\n";
/// One change is one proposal, which admission bounds far below this.
const MESSAGE_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Read and written at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// A file in the making.
pub(crate) struct Writer<W: Write> {
    out: Hashing<BufWriter<W>>,
    applied: Applied,
    tree: Tree,
    changes: u64,
}

impl<W: Write> Writer<W> {
    /// Begins a file with its header, which must name a position.
    pub(crate) fn new(out: W, header: &SnapshotHeader) -> io::Result<Self> {
        let applied = header.applied.clone().unwrap_or_default();
        let mut out = Hashing::new(BufWriter::with_capacity(BUFFER_BYTES, out));
        out.write_all(MAGIC)?;
        write_message(&mut out, header)?;
        Ok(Self { out, applied, tree: Tree::default(), changes: 0 })
    }

    /// Adds the next row.
    pub(crate) fn row(&mut self, row: Row<'_>) -> io::Result<()> {
        grow(&mut self.tree, row)?;
        let kind = match row {
            Row::Change { revision, bytes, .. } => {
                self.changes += 1;
                RowKind::Change(SnapshotChange { revision, change: bytes.to_vec() })
            }
            Row::Void(Void { first, level, hash }) => {
                RowKind::Void(SnapshotVoid { first, level: u32::from(level), hash: hash.to_vec() })
            }
        };
        write_message(&mut self.out, &SnapshotRow { kind: Some(kind) })
    }

    /// Ends the file, if its rows give the root in its header; says how many changes are in it.
    pub(crate) fn finish(mut self) -> io::Result<(W, u64)> {
        self.tree.insist(self.applied.version, &self.applied.root()?)?;
        let end = RowKind::End(SnapshotEnd { changes: self.changes });
        write_message(&mut self.out, &SnapshotRow { kind: Some(end) })?;
        let (mut out, digest) = self.out.finish();
        out.write_all(digest.as_ref())?;
        let out = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok((out, self.changes))
    }
}

/// A file being read.
pub(crate) struct Reader<R: Read> {
    input: Hashing<BufReader<R>>,
    header: SnapshotHeader,
}

impl<R: Read> Reader<R> {
    /// Reads the header. It counts only once all rows have been read.
    pub(crate) fn open(input: R) -> io::Result<Self> {
        let mut input = Hashing::new(BufReader::with_capacity(BUFFER_BYTES, input));
        let mut magic = [0; MAGIC.len()];
        input.read_exact(&mut magic).map_err(cut_short)?;
        if magic != MAGIC {
            return Err(damaged("it is no snapshot or backup of this version"));
        }
        let header = read_message(&mut input)?;
        Ok(Self { input, header })
    }

    pub(crate) const fn header(&self) -> &SnapshotHeader {
        &self.header
    }

    /// Hands over every row in order, and says how many of them were changes. What was handed over counts only if this
    /// returns `Ok`.
    pub(crate) fn rows(mut self, mut visit: impl FnMut(Row<'_>) -> io::Result<()>) -> io::Result<u64> {
        let applied = self.header.applied.as_ref().ok_or_else(|| damaged("it names no position"))?;
        let (mut tree, mut changes, mut newest) = (Tree::default(), 0, None);
        let end = loop {
            let message: SnapshotRow = read_message(&mut self.input)?;
            let stored;
            let row = match message.kind.ok_or_else(|| damaged("a row is empty"))? {
                RowKind::Change(change) => {
                    if newest >= Some(change.revision) || change.revision > applied.revision() {
                        return Err(damaged("its changes are out of order"));
                    }
                    (newest, changes) = (Some(change.revision), changes + 1);
                    stored = change.change;
                    let number = format::decode::<ChangeNumber>(&stored)?.number;
                    Row::Change { revision: change.revision, number, bytes: &stored }
                }
                RowKind::Void(void) => Row::Void(void.try_into()?),
                RowKind::End(end) => break end,
            };
            grow(&mut tree, row)?;
            visit(row)?;
        };
        let (mut rest, digest) = self.input.finish();
        let mut expected = Vec::with_capacity(SHA256_OUTPUT_LEN);
        rest.by_ref().take(SHA256_OUTPUT_LEN as u64 + 1).read_to_end(&mut expected)?;
        if expected != digest.as_ref() {
            return Err(damaged("its checksum does not match"));
        }
        if end.changes != changes {
            return Err(damaged("changes are missing"));
        }
        tree.insist(applied.version, &applied.root()?)?;
        Ok(changes)
    }
}

impl TryFrom<SnapshotVoid> for Void {
    type Error = io::Error;

    fn try_from(void: SnapshotVoid) -> io::Result<Self> {
        let hash = from_slice(&void.hash).ok_or_else(|| damaged("a hash is not 32 bytes long"))?;
        let level = u8::try_from(void.level).map_err(|_| damaged("a level is too high"))?;
        Ok(Self { first: void.first, level, hash })
    }
}

/// Adds a row to the tree.
pub(crate) fn grow(tree: &mut Tree, row: Row<'_>) -> io::Result<()> {
    match row {
        Row::Change { revision, number, bytes } => tree.push(number, leaf(revision, bytes)),
        Row::Void(void) => tree.push_void(void.first, void.level, void.hash),
    }
}

fn damaged(what: &'static str) -> io::Error {
    corrupted(format!("a snapshot or backup file cannot be used: {what}"))
}

fn cut_short(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::UnexpectedEof { damaged("it ends too early") } else { error }
}

fn write_message(out: &mut impl Write, message: &impl Message) -> io::Result<()> {
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&length.to_be_bytes())?;
    out.write_all(&bytes)
}

fn read_message<M: Message + Default>(input: &mut impl Read) -> io::Result<M> {
    let mut length = [0; 4];
    input.read_exact(&mut length).map_err(cut_short)?;
    let length = u32::from_be_bytes(length);
    if length > MESSAGE_BYTES_MAX {
        return Err(damaged("a message is too long"));
    }
    let mut bytes = Vec::new();
    let read = input.take(u64::from(length)).read_to_end(&mut bytes)?;
    if u32::try_from(read).ok() != Some(length) {
        return Err(damaged("it ends too early"));
    }
    format::decode(&bytes)
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
