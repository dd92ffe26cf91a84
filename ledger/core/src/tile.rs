//! Tiles and entry bundles as files: the layout of C2SP tlog-tiles.
//!
//! A tile at tile level L holds up to 256 hashes of tree level 8·L; an entry bundle holds the leaves themselves, each
//! after its length in two bytes, big endian. Paths are `tile/<L>/<N>` and `tile/entries/<N>`, where N is written in
//! groups of three digits (`x001/x234/067`); a tile that is not full yet ends in `.p/<W>` with its width.
//!
//! The ledger server answers such paths, exports write them, `verify` reads them. Nothing here checks a hash: `tree`
//! and `verify` do.

use std::fmt;

use crate::{
    hash::{HASH_BYTES, Hash},
    tree::HashReader,
};

/// Hashes in a full tile, entries in a full bundle.
pub const TILE_WIDTH: u16 = 256;
/// The same as a count of leaves.
pub(crate) const WIDTH: u64 = TILE_WIDTH as u64;
/// Highest tile level: eight levels of 256 exceed any tree.
pub const TILE_LEVEL_MAX: u8 = 7;
/// Longest path: `tile/entries/`, seven groups, `.p/255`.
const PATH_BYTES_MAX: usize = 64;

/// What a tile holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TileKind {
    /// Leaves.
    Entries,
    /// Hashes of tree level 8·L.
    Hashes(u8),
}

/// One file of the layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TilePath {
    /// What it holds.
    pub kind: TileKind,
    /// Its number within its level.
    pub index: u64,
    /// How many hashes or entries it holds: 1 to 256.
    pub width: u16,
}

/// Why bytes are no tile or bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TileError {
    /// An entry does not fit the two bytes of its length.
    #[error("an entry has more than 65535 bytes")]
    EntryTooLong,
    /// The bytes end inside an entry, or hold more than 256.
    #[error("the bundle is malformed after {whole} entries")]
    Malformed {
        /// How many entries before that are whole.
        whole: usize,
    },
    /// Not a multiple of 32 bytes, empty, or more than 256 hashes.
    #[error("the tile is not 1 to 256 hashes")]
    NotHashes,
}

impl TilePath {
    /// The tile that leaf or hash number `position` of `kind` falls into, in a log of `size` leaves; `None` when the
    /// log has no such leaf or hash.
    #[must_use]
    pub fn containing(kind: TileKind, position: u64, size: u64) -> Option<Self> {
        let count = count_at(kind, size);
        let index = position / WIDTH;
        let width = u16::try_from(count.saturating_sub(index * WIDTH).min(WIDTH)).ok()?;
        (position < count).then_some(Self { kind, index, width })
    }

    /// The same tile once it is full.
    #[must_use]
    pub const fn full(self) -> Self {
        Self { width: TILE_WIDTH, ..self }
    }

    /// Reads a path as [`fmt::Display`] writes it; any other spelling is `None`.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        let (kind, rest) = path.strip_prefix("tile/")?.split_once('/')?;
        let kind = match kind {
            "entries" => TileKind::Entries,
            level => TileKind::Hashes(level.parse().ok().filter(|level| *level <= TILE_LEVEL_MAX)?),
        };
        let (number, width) = match rest.split_once(".p/") {
            Some((number, width)) => (number, width.parse().ok().filter(|width| (1..TILE_WIDTH).contains(width))?),
            None => (rest, TILE_WIDTH),
        };
        let digits: String = number.chars().filter(char::is_ascii_digit).collect();
        let parsed = Self { kind, index: digits.parse().ok()?, width };
        (parsed.to_string() == path).then_some(parsed)
    }
}

impl fmt::Display for TilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            TileKind::Entries => f.write_str("tile/entries/")?,
            TileKind::Hashes(level) => write!(f, "tile/{level}/")?,
        }
        let mut groups = vec![self.index % 1000];
        let mut rest = self.index / 1000;
        while rest > 0 {
            groups.push(rest % 1000);
            rest /= 1000;
        }
        for (position, group) in groups.iter().enumerate().rev() {
            if position > 0 { write!(f, "x{group:03}/")? } else { write!(f, "{group:03}")? }
        }
        if self.width == TILE_WIDTH { Ok(()) } else { write!(f, ".p/{}", self.width) }
    }
}

/// How many leaves or hashes of `kind` a log of `size` leaves has.
#[must_use]
pub const fn count_at(kind: TileKind, size: u64) -> u64 {
    match kind {
        TileKind::Entries => size,
        TileKind::Hashes(level) if level <= TILE_LEVEL_MAX => size >> (8 * level),
        TileKind::Hashes(_) => 0,
    }
}

/// Every file of a log of `size` leaves: bundles, then tiles level by level.
pub fn paths_at(size: u64) -> impl Iterator<Item = TilePath> {
    let kinds = std::iter::once(TileKind::Entries).chain((0..=TILE_LEVEL_MAX).map(TileKind::Hashes));
    kinds.flat_map(move |kind| {
        let count = count_at(kind, size).div_ceil(WIDTH);
        (0..count).filter_map(move |index| TilePath::containing(kind, index * WIDTH, size))
    })
}

/// The bytes of a hash tile, read from stored hashes; `None` when one is missing or `path` is a bundle.
#[must_use]
pub fn hash_tile(reader: &impl HashReader, path: TilePath) -> Option<Vec<u8>> {
    let TileKind::Hashes(level) = path.kind else { return None };
    let first = path.index.checked_mul(WIDTH)?;
    let tree_level = level.checked_mul(8)?;
    let hashes: Option<Vec<Hash>> =
        (0..u64::from(path.width)).map(|offset| reader.hash(tree_level, first + offset)).collect();
    Some(encode_hashes(&hashes?))
}

/// The bytes of a tile.
#[must_use]
pub fn encode_hashes(hashes: &[Hash]) -> Vec<u8> {
    hashes.concat()
}

/// The hashes of a tile.
pub fn decode_hashes(bytes: &[u8]) -> Result<Vec<Hash>, TileError> {
    let (hashes, rest) = bytes.as_chunks::<HASH_BYTES>();
    let fits = rest.is_empty() && (1..=usize::from(TILE_WIDTH)).contains(&hashes.len());
    if fits { Ok(hashes.to_vec()) } else { Err(TileError::NotHashes) }
}

/// The bytes of a bundle.
pub fn encode_entries<'a>(entries: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<u8>, TileError> {
    let mut bytes = Vec::new();
    for entry in entries {
        let length = u16::try_from(entry.len()).map_err(|_| TileError::EntryTooLong)?;
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(entry);
    }
    Ok(bytes)
}

/// The entries of a bundle.
pub fn decode_entries(bytes: &[u8]) -> Result<Vec<&[u8]>, TileError> {
    let (entries, whole) = split_entries(bytes);
    whole.map(|()| entries)
}

/// The entries of a bundle as far as it is well formed, and whether it is to its end.
pub fn split_entries(bytes: &[u8]) -> (Vec<&[u8]>, Result<(), TileError>) {
    let mut entries: Vec<&[u8]> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let next = split_entry(rest).filter(|_| entries.len() < usize::from(TILE_WIDTH));
        let Some((entry, after)) = next else {
            let malformed = TileError::Malformed { whole: entries.len() };
            return (entries, Err(malformed));
        };
        entries.push(entry);
        rest = after;
    }
    (entries, Ok(()))
}

fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, after) = bytes.split_first_chunk()?;
    after.split_at_checked(u16::from_be_bytes(*length).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_spelt_as_c2sp_says_and_read_back() {
        for (kind, index, width, path) in [
            (TileKind::Hashes(0), 0, 256, "tile/0/000"),
            (TileKind::Hashes(0), 0, 1, "tile/0/000.p/1"),
            (TileKind::Hashes(1), 999, 256, "tile/1/999"),
            (TileKind::Hashes(3), 1_234_067, 256, "tile/3/x001/x234/067"),
            (TileKind::Entries, 1_234_067, 255, "tile/entries/x001/x234/067.p/255"),
            (TileKind::Entries, 1000, 256, "tile/entries/x001/000"),
            (TileKind::Entries, u64::MAX, 256, "tile/entries/x018/x446/x744/x073/x709/x551/615"),
        ] {
            let tile = TilePath { kind, index, width };
            assert_eq!(tile.to_string(), path);
            assert_eq!(TilePath::parse(path), Some(tile));
        }
    }

    #[test]
    fn other_spellings_of_paths_are_refused() {
        for path in [
            "",
            "tile/0/0",
            "tile/0/0000",
            "tile/00/000",
            "tile/+0/000",
            "tile/8/000",
            "tile/-1/000",
            "tile/0/x000/001",
            "tile/0/001/002",
            "tile/0/x001",
            "tile/0/000.p/0",
            "tile/0/000.p/01",
            "tile/0/000.p/256",
            "tile/0/000.p/",
            "tile/0/000/",
            "/tile/0/000",
            "tile/data/000",
            "tile/entries/../checkpoint",
            "tile/entries/x018/x446/x744/x073/x709/x551/616",
        ] {
            assert_eq!(TilePath::parse(path), None, "{path}");
        }
    }

    fn check_layout(size: u64, expected: &[&str]) {
        assert_eq!(paths_at(size).map(|path| path.to_string()).collect::<Vec<_>>(), expected, "size {size}");
    }

    #[test]
    fn a_log_has_exactly_the_tiles_its_size_implies() {
        check_layout(0, &[]);
        check_layout(1, &["tile/entries/000.p/1", "tile/0/000.p/1"]);
        check_layout(256, &["tile/entries/000", "tile/0/000", "tile/1/000.p/1"]);
        check_layout(
            513,
            &[
                "tile/entries/000",
                "tile/entries/001",
                "tile/entries/002.p/1",
                "tile/0/000",
                "tile/0/001",
                "tile/0/002.p/1",
                "tile/1/000.p/2",
            ],
        );
    }

    #[test]
    fn bundles_round_trip_and_broken_ones_say_how_much_is_whole() {
        let entries: [&[u8]; 3] = [b"one", b"", b"three"];
        let bytes = encode_entries(entries).unwrap();
        assert_eq!(bytes, b"\x00\x03one\x00\x00\x00\x05three");
        assert_eq!(decode_entries(&bytes).unwrap(), entries);
        assert_eq!(decode_entries(&bytes[..bytes.len() - 1]), Err(TileError::Malformed { whole: 2 }));
        assert_eq!(decode_entries(&bytes[..1]), Err(TileError::Malformed { whole: 0 }));
        assert_eq!(decode_entries(&[0; 2 * 257]), Err(TileError::Malformed { whole: 256 }));
        assert_eq!(encode_entries([[0; 65_536].as_slice()]), Err(TileError::EntryTooLong));
    }

    #[test]
    fn hash_tiles_hold_1_to_256_hashes() {
        assert_eq!(decode_hashes(&encode_hashes(&[[1; 32], [2; 32]])), Ok(vec![[1; 32], [2; 32]]));
        for bytes in [0, 31, 33, 257 * 32] {
            assert_eq!(decode_hashes(&vec![0; bytes]), Err(TileError::NotHashes));
        }
    }
}
