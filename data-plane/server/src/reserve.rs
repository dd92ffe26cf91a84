//! Reserves: keys and epochs of runs that may begin when no control plane can be reached.
//!
//! Kept as one sealed file by `registration`, in the order of their epochs, as those of a node only grow; each used for
//! one run, so it is spent, durably, before that run writes its first record. Not among the sealed files that others
//! seal anew: one that is spent must never come back. Deliberately absent: how an epoch is got (`registration`), what
//! the control plane makes of it.

use std::path::{Path, PathBuf};

use bailiwick_ledger_core::key::NodeSigner;
use bailiwick_runtime::{
    MasterKeys,
    sealed_file::{self, SealedFileError},
};
use zeroize::Zeroizing;

const EPOCH_BYTES: usize = 8;
const SEED_BYTES: usize = 32;

/// A run that was registered and has not begun. Prints no key.
pub(crate) struct Reserve {
    pub(crate) epoch: u64,
    seed: Zeroizing<[u8; SEED_BYTES]>,
}

impl std::fmt::Debug for Reserve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reserve").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Reserve {
    /// What that run signs with; `None` when cryptography is not usable.
    pub(crate) fn signer(&self) -> Option<NodeSigner> {
        NodeSigner::from_seed(&self.seed).ok()
    }

    /// The same key, for the run of this epoch.
    pub(crate) fn of(self, epoch: u64) -> Self {
        Self { epoch, ..self }
    }

    /// A key that has no epoch yet; `None` when the operating system gives no randomness.
    pub(crate) fn fresh() -> Option<Self> {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        aws_lc_rs::rand::fill(seed.as_mut()).ok()?;
        Some(Self { epoch: 0, seed })
    }
}

/// Where reserves are kept.
#[derive(Clone, Debug)]
pub(crate) struct Reserves {
    path: PathBuf,
    master_keys: MasterKeys,
}

impl Reserves {
    /// In the folder of keys.
    pub(crate) fn new(keys: &Path, master_keys: MasterKeys) -> Self {
        Self { path: keys.join("reserve.key"), master_keys }
    }

    /// What is kept, ascending by epoch.
    pub(crate) fn load(&self) -> Result<Vec<Reserve>, SealedFileError> {
        match sealed_file::read(&self.path, &self.master_keys) {
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            kept => Ok(parse(&kept?)),
        }
    }

    /// Keeps these and no others; durable before it returns.
    pub(crate) fn keep(&self, reserves: &[Reserve]) -> Result<(), SealedFileError> {
        let mut kept = Zeroizing::new(Vec::new());
        for Reserve { epoch, seed } in reserves {
            kept.extend_from_slice(&epoch.to_be_bytes());
            kept.extend_from_slice(seed.as_slice());
        }
        sealed_file::write(&self.path, &self.master_keys, &kept)
    }

    /// The name of the newest master key: what is kept has to be sealed under it.
    pub(crate) fn master(&self) -> String {
        self.master_keys.newest()
    }
}

fn parse(kept: &[u8]) -> Vec<Reserve> {
    let one = |bytes: &[u8]| {
        let (epoch, seed) = bytes.split_first_chunk::<EPOCH_BYTES>()?;
        Some(Reserve { epoch: u64::from_be_bytes(*epoch), seed: Zeroizing::new(seed.try_into().ok()?) })
    };
    kept.chunks(EPOCH_BYTES + SEED_BYTES).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use bailiwick_runtime::MasterKeyConfig;

    use super::*;

    #[test]
    fn reserves_are_kept_until_they_are_spent_and_their_file_shows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let config = MasterKeyConfig::ensure_file(&folder.path().join("master.key")).unwrap();
        let reserves = Reserves::new(&folder.path().join("keys"), MasterKeys::load(&config).unwrap());
        assert!(reserves.load().unwrap().is_empty());
        let mut kept: Vec<_> = (7..9).map(|epoch| Reserve { epoch, ..Reserve::fresh().unwrap() }).collect();
        reserves.keep(&kept).unwrap();
        let key = |reserve: &Reserve| (reserve.epoch, *reserve.signer().unwrap().public_key());
        assert_eq!(reserves.load().unwrap().iter().map(key).collect::<Vec<_>>(), [key(&kept[0]), key(&kept[1])]);
        let content = std::fs::read_to_string(folder.path().join("keys/reserve.key")).unwrap();
        assert!(!content.contains(&hex::encode(kept[0].seed.as_slice())));
        kept.remove(0);
        reserves.keep(&kept).unwrap();
        assert_eq!(reserves.load().unwrap().iter().map(key).collect::<Vec<_>>(), [key(&kept[0])]);
        reserves.keep(&[]).unwrap();
        assert!(reserves.load().unwrap().is_empty());
        sealed_file::write(&folder.path().join("keys/reserve.key"), &reserves.master_keys, b"no reserve").unwrap();
        assert!(reserves.load().unwrap().is_empty());
    }
}
