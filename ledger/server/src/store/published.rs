//! What the log says of itself: its name, its verifier key, and the checkpoints it has published.
//!
//! Called when a ledger starts, by the publisher and by exports. The private key is not here (`identity`).

use super::{CHECKPOINTS, META, META_ORIGIN, META_VERIFIER, Store, StoreError, keys};

impl Store {
    /// Keeps a signed checkpoint; storing the same one again changes nothing.
    /// # Errors
    /// `BeyondLog` writes nothing; after `Database` the outcome is unknown.
    pub fn put_checkpoint(&self, checkpoint: u64, note: &str) -> Result<(), StoreError> {
        let size = self.size()?;
        if checkpoint > size {
            return Err(StoreError::BeyondLog { checkpoint, size });
        }
        self.put_synced(CHECKPOINTS, &checkpoint.to_be_bytes(), note.as_bytes())
    }

    /// The largest published checkpoint as (size, note).
    /// # Errors
    /// When the database fails or the entry is damaged.
    pub fn latest_checkpoint(&self) -> Result<Option<(u64, String)>, StoreError> {
        let mut entries = self.db.raw_iterator_cf(&self.family(CHECKPOINTS)?);
        entries.seek_to_last();
        entries.status()?;
        let Some((key, value)) = entries.item() else { return Ok(None) };
        let damaged = || StoreError::Damaged { what: "checkpoint", at: 0 };
        let size = keys::decode_number(key).ok_or_else(damaged)?;
        let note = String::from_utf8(value.to_vec()).map_err(|_| damaged())?;
        Ok(Some((size, note)))
    }

    /// Fixes the log's name and verifier key at first use and compares them ever after.
    /// # Errors
    /// `Identity` when one differs.
    pub fn bind_identity(&self, origin: &str, verifier_key: &str) -> Result<(), StoreError> {
        for (what, meta, given) in [("origin", META_ORIGIN, origin), ("verifier key", META_VERIFIER, verifier_key)] {
            match self.text(meta)? {
                None => self.put_synced(META, meta, given.as_bytes())?,
                Some(stored) if stored == given => {}
                Some(stored) => return Err(StoreError::Identity { what, stored, given: given.to_owned() }),
            }
        }
        Ok(())
    }

    /// The verifier key that was bound, in the form of signed notes.
    /// # Errors
    /// When the database fails.
    pub fn verifier_key(&self) -> Result<Option<String>, StoreError> {
        self.text(META_VERIFIER)
    }

    fn text(&self, key: &[u8]) -> Result<Option<String>, StoreError> {
        let found = self.db.get_cf(&self.family(META)?, key)?;
        let damaged = StoreError::Damaged { what: "identity", at: 0 };
        found.map(|bytes| String::from_utf8(bytes).map_err(|_| damaged)).transpose()
    }
}
