//! Tiles and entry bundles read straight from the store: C2SP tlog-tiles.
//!
//! Called by the HTTP handlers and by exports. A tile is cut to what a log of the given size holds, so a caller that
//! passes the published size never shows a leaf that no checkpoint covers.

use bailiwick_ledger_core::tile::{TILE_WIDTH, TileKind, TilePath, count_at, encode_entries};

use super::{Store, StoreError};

impl Store {
    /// A tile of the log of `size` leaves; `None` when that log has no such tile.
    /// # Errors
    /// When the database fails.
    pub fn tile(&self, path: TilePath, size: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let (first, width) = (path.index.saturating_mul(TILE_WIDTH.into()), u64::from(path.width));
        if first.saturating_add(width) > count_at(path.kind, size) {
            return Ok(None);
        }
        match path.kind {
            TileKind::Hashes(level) => self.hashes(level.saturating_mul(8), first, width).map(Some),
            TileKind::Entries => {
                let leaves = self.leaves(first, width)?;
                let bundle = encode_entries(leaves.iter().map(Vec::as_slice));
                bundle.map(Some).map_err(|_| StoreError::Damaged { what: "leaf", at: first })
            }
        }
    }
}
