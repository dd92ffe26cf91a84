//! Verifies an export of a log with no network and no server: all the structures together, one leaf after another.
//!
//! The export is read through [`ExportReader`], in the layout of `tile` plus the file `checkpoint`. Checked, in this
//! order: the checkpoint's signature; for each leaf its hash against the tile, its form as a record, its place in its
//! node's chain, heads and registrations (`chain`), intents and outcomes (`calls`); every tile above; earlier
//! checkpoints that the caller kept; the root. The first thing that is wrong ends the walk and names a leaf.
//!
//! Called by `bailiwick ledger verify` and by tests. Memory does not grow with the log: one bundle, the right edge of
//! the tree, one cursor per run, and the intents still open. Absent: files (the caller reads), and any trust in
//! numbers the export states about itself.

mod calls;
mod report;
mod upper;

use std::io;

use self::{
    calls::Calls,
    report::{Counts, Faulty},
    upper::UpperTiles,
};
pub use self::{
    calls::OPEN_INTENTS_MAX,
    report::{EpochReport, Fault, NodeReport, OPEN_INTENTS_LISTED_MAX, Report, Verdict},
};
use crate::{
    chain::{ChainFault, ChainVerifier},
    checkpoint::{self, Checkpoint, VerifierKey},
    hash::{HASH_BYTES, Hash},
    record::Record,
    tile::{TileKind, TilePath, split_entries},
    tree::{Frontier, leaf_hash},
};

/// Where the export's files come from.
pub trait ExportReader {
    /// The whole file at `path` (with `/` between its parts); `Ok(None)` when there is none.
    fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>>;
}

/// What the verifier believes beforehand.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    /// Keys of the log, obtained elsewhere than from the export.
    pub keys: Vec<VerifierKey>,
    /// Checkpoints of the same log seen earlier (whole notes): the export must contain what they vouch for.
    pub earlier: Vec<Vec<u8>>,
}

/// Verifies the export. Never fails: what cannot be read is `INVALID` too.
#[must_use]
pub fn verify_export(reader: &dyn ExportReader, trust: &Trust) -> Report {
    let opened = open_checkpoint(reader, trust);
    let (checkpoint, earlier) = match opened {
        Ok(opened) => opened,
        Err(faulty) => return Report::refused(faulty),
    };
    let mut walk = Walk {
        reader,
        checkpoint: &checkpoint,
        earlier: &earlier,
        frontier: Frontier::new(),
        upper: UpperTiles::default(),
        chains: ChainVerifier::new(),
        calls: Calls::default(),
        counts: Counts::default(),
        vouched: 0,
    };
    let result = walk.run();
    Report::new(&checkpoint, result, &walk.counts, &walk.chains, &walk.calls)
}

/// The export's checkpoint, and the earlier ones by ascending size.
fn open_checkpoint(reader: &dyn ExportReader, trust: &Trust) -> Result<(Checkpoint, Vec<Checkpoint>), Faulty> {
    let note = read(reader, "checkpoint").map_err(Faulty::nowhere)?;
    let note = note.ok_or_else(|| Faulty::nowhere(Fault::FileMissing { path: "checkpoint".to_owned() }))?;
    let refused = |error| Faulty::nowhere(Fault::Checkpoint(error));
    let checkpoint = checkpoint::open(&note, &trust.keys).map_err(refused)?;
    let mut earlier = Vec::new();
    for note in &trust.earlier {
        let opened = checkpoint::open(note, &trust.keys);
        let opened = opened.map_err(|error| Faulty::nowhere(Fault::EarlierCheckpoint(error)))?;
        if opened.origin != checkpoint.origin {
            return Err(Faulty::nowhere(Fault::OtherLog));
        }
        earlier.push(opened);
    }
    earlier.sort_by_key(|checkpoint| checkpoint.size);
    Ok((checkpoint, earlier))
}

fn read(reader: &dyn ExportReader, path: &str) -> Result<Option<Vec<u8>>, Fault> {
    let unreadable = |error: io::Error| Fault::Unreadable { path: path.to_owned(), error: error.to_string() };
    reader.read(path).map_err(unreadable)
}

/// A tile file; of a partial one that is gone, the beginning of the full one (C2SP lets logs delete partial tiles).
struct TileFile {
    path: TilePath,
    bytes: Vec<u8>,
    /// Whether more than `path.width` may follow.
    longer: bool,
}

fn read_tile(reader: &dyn ExportReader, path: TilePath) -> Result<TileFile, Fault> {
    if let Some(bytes) = read(reader, &path.to_string())? {
        return Ok(TileFile { path, bytes, longer: false });
    }
    match read(reader, &path.full().to_string())? {
        Some(bytes) => Ok(TileFile { path, bytes, longer: true }),
        None => Err(Fault::FileMissing { path: path.to_string() }),
    }
}

impl TileFile {
    /// Hash number `offset`.
    fn hash(&self, offset: u16) -> Option<&Hash> {
        self.bytes.as_chunks::<HASH_BYTES>().0.get(usize::from(offset))
    }

    /// Whether a hash tile holds as much as its path says and no more.
    fn has_its_length(&self) -> bool {
        let expected = usize::from(self.path.width) * HASH_BYTES;
        self.bytes.len() == expected || (self.longer && self.bytes.len() > expected)
    }
}

struct Walk<'a> {
    reader: &'a dyn ExportReader,
    checkpoint: &'a Checkpoint,
    earlier: &'a [Checkpoint],
    frontier: Frontier,
    upper: UpperTiles,
    chains: ChainVerifier,
    calls: Calls,
    counts: Counts,
    /// Leaves that an earlier checkpoint vouches for.
    vouched: u64,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<(), Faulty> {
        let size = self.checkpoint.size;
        self.check_earlier()?;
        while let Some(path) = TilePath::containing(TileKind::Entries, self.frontier.size(), size) {
            self.bundle(path)?;
        }
        self.upper.finish(self.reader)?;
        if self.frontier.root() != self.checkpoint.root {
            return Err(Faulty { first_bad_leaf: (size > 0).then_some(self.vouched), fault: Fault::RootMismatch });
        }
        match self.earlier.last() {
            Some(latest) if latest.size > size => {
                Err(Faulty::at(size, Fault::TailCut { expected: latest.size, found: size }))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// One entry bundle and the tile of its hashes.
    fn bundle(&mut self, path: TilePath) -> Result<(), Faulty> {
        let first = self.frontier.size();
        let bundle = read_tile(self.reader, path).map_err(|fault| Faulty::at(first, fault))?;
        let tile = TilePath { kind: TileKind::Hashes(0), ..path };
        let tile = read_tile(self.reader, tile).map_err(|fault| Faulty::at(first, fault))?;
        let (entries, whole) = split_entries(&bundle.bytes);
        for (offset, leaf) in (0..path.width).zip(first..) {
            let entry = entries.get(usize::from(offset)).ok_or(Faulty::at(leaf, Fault::LeafMissing))?;
            let listed = tile.hash(offset).ok_or(Faulty::at(leaf, Fault::HashMissing))?;
            let hash = leaf_hash(entry);
            if hash != *listed {
                return Err(Faulty::at(leaf, Fault::LeafMismatch));
            }
            self.leaf(leaf, entry, hash)?;
        }
        let end = first + u64::from(path.width);
        let surplus = entries.len() > path.width.into() && !bundle.longer;
        if surplus || whole.is_err() {
            return Err(Faulty::at(end, Fault::Surplus { path: path.to_string() }));
        }
        if !tile.has_its_length() {
            return Err(Faulty::at(end, Fault::Surplus { path: tile.path.to_string() }));
        }
        Ok(())
    }

    fn leaf(&mut self, leaf: u64, entry: &[u8], hash: Hash) -> Result<(), Faulty> {
        let mut completed = Vec::new();
        self.frontier.push(hash, &mut completed).map_err(|_| Faulty::at(leaf, Fault::RootMismatch))?;
        self.upper.add(self.reader, &completed)?;
        let record = Record::parse(entry).map_err(|error| Faulty::at(leaf, Fault::Record(error.to_string())))?;
        if let Err(fault) = self.chains.accept(&record, entry) {
            return Err(self.chain_fault(leaf, &record, fault));
        }
        self.calls.see(leaf, &record, entry, &self.chains).map_err(|fault| Faulty::at(leaf, fault))?;
        self.counts.see(leaf, &record);
        self.check_earlier()
    }

    /// When a record does not name the hash of the one before it, either may be the changed one: the first is named.
    fn chain_fault(&self, leaf: u64, record: &Record, fault: ChainFault) -> Faulty {
        let before = self.counts.last_leaf(record).filter(|_| fault == ChainFault::PrevMismatch);
        Faulty::at(before.unwrap_or(leaf), Fault::Chain { leaf, node: record.node.clone(), epoch: record.epoch, fault })
    }

    /// Compares the root with earlier checkpoints of exactly the present size.
    fn check_earlier(&mut self) -> Result<(), Faulty> {
        let size = self.frontier.size();
        let position = self.earlier.partition_point(|earlier| earlier.size < size);
        for earlier in self.earlier.iter().skip(position).take_while(|earlier| earlier.size == size) {
            if earlier.root != self.frontier.root() {
                let fault = Fault::HistoryRewritten { size };
                return Err(Faulty { first_bad_leaf: (size > 0).then_some(self.vouched), fault });
            }
            self.vouched = size;
        }
        Ok(())
    }
}
