//! The hash tiles above the lowest: each hash is compared with the one computed from the leaves.
//!
//! Called by `verify` with the subtrees each leaf completes. Holds at most one tile per level. A hash that differs is
//! reported as the first leaf under it: the tile may be the changed part, or any leaf below.

use super::{ExportReader, Fault, read_tile, report::Faulty};
use crate::{
    hash::Hash,
    tile::{TILE_LEVEL_MAX, TileKind, TilePath, WIDTH},
    tree::Node,
};

/// Hashes computed but not yet compared, per tile level from 1.
#[derive(Debug, Default)]
pub(super) struct UpperTiles {
    levels: [Level; TILE_LEVEL_MAX as usize],
}

#[derive(Debug, Default)]
struct Level {
    /// Tiles already compared.
    compared: u64,
    pending: Vec<Hash>,
}

impl UpperTiles {
    /// Takes the subtrees that a leaf completed.
    pub(super) fn add(&mut self, reader: &dyn ExportReader, completed: &[Node]) -> Result<(), Faulty> {
        for (level, tile_level) in self.levels.iter_mut().zip(1_u8..) {
            let Some(node) = completed.iter().find(|node| node.level == 8 * tile_level) else { break };
            level.pending.push(node.hash);
            if level.pending.len() as u64 == WIDTH {
                level.compare(reader, tile_level)?;
            }
        }
        Ok(())
    }

    /// Compares the partial tiles at the end of the log.
    pub(super) fn finish(&mut self, reader: &dyn ExportReader) -> Result<(), Faulty> {
        for (level, tile_level) in self.levels.iter_mut().zip(1_u8..) {
            if !level.pending.is_empty() {
                level.compare(reader, tile_level)?;
            }
        }
        Ok(())
    }
}

impl Level {
    fn compare(&mut self, reader: &dyn ExportReader, tile_level: u8) -> Result<(), Faulty> {
        let first = self.compared * WIDTH;
        // The leaves under hash number `offset` of this tile begin here.
        let leaf = |offset: u16| (first + u64::from(offset)) << (8 * tile_level);
        let width = u16::try_from(self.pending.len()).map_err(|_| Faulty::at(leaf(0), Fault::HashMissing))?;
        let path = TilePath { kind: TileKind::Hashes(tile_level), index: self.compared, width };
        let tile = read_tile(reader, path).map_err(|fault| Faulty::at(leaf(0), fault))?;
        for (offset, computed) in (0..width).zip(&self.pending) {
            let listed = tile.hash(offset).ok_or(Faulty::at(leaf(offset), Fault::HashMissing))?;
            if listed != computed {
                return Err(Faulty::at(leaf(offset), Fault::TileMismatch { path: path.to_string() }));
            }
        }
        if !tile.has_its_length() {
            return Err(Faulty::at(leaf(width), Fault::Surplus { path: path.to_string() }));
        }
        self.compared += 1;
        self.pending.clear();
        Ok(())
    }
}
