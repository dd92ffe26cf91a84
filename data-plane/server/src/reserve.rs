//! The reserve: key and epoch of the run that may begin when no control plane can be reached.
//!
//! Kept as a sealed file by `registration`; used for one run, so it is spent, durably, before that run writes its first
//! record. Not among the sealed files that others seal anew: one that is spent must never come back. Deliberately
//! absent: how an epoch is got (`registration`), what the control plane makes of it.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
};

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
    pub(crate) signer: NodeSigner,
}

impl std::fmt::Debug for Reserve {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reserve").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// The key of a run, before it is given an epoch. Prints nothing of it.
pub(crate) struct Seed(Zeroizing<[u8; SEED_BYTES]>);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(…)")
    }
}

impl Seed {
    /// A fresh one; `None` when the operating system gives no randomness.
    pub(crate) fn fresh() -> Option<Self> {
        let mut seed = Zeroizing::new([0; SEED_BYTES]);
        aws_lc_rs::rand::fill(seed.as_mut()).ok()?;
        Some(Self(seed))
    }

    /// What it signs with.
    pub(crate) fn signer(&self) -> Option<NodeSigner> {
        NodeSigner::from_seed(&self.0).ok()
    }
}

/// Where the reserve is kept.
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

    /// What is kept, if anything is.
    pub(crate) fn load(&self) -> Result<Option<Reserve>, SealedFileError> {
        let kept = match sealed_file::read(&self.path, &self.master_keys) {
            Err(error) if error.is_not_found() => return Ok(None),
            kept => kept?,
        };
        Ok(parse(&kept))
    }

    /// Keeps a reserve in place of any before.
    pub(crate) fn keep(&self, epoch: u64, seed: &Seed) -> Result<(), SealedFileError> {
        let kept = Zeroizing::new([epoch.to_be_bytes().as_slice(), seed.0.as_slice()].concat());
        sealed_file::write(&self.path, &self.master_keys, &kept)
    }

    /// There is none any more; durable before it returns.
    pub(crate) fn spend(&self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    /// The name of the newest master key: what is kept has to be sealed under it.
    pub(crate) fn master(&self) -> String {
        self.master_keys.newest()
    }
}

fn parse(kept: &[u8]) -> Option<Reserve> {
    let (epoch, seed) = kept.split_first_chunk::<EPOCH_BYTES>()?;
    let seed = Zeroizing::new(<[u8; SEED_BYTES]>::try_from(seed).ok()?);
    Some(Reserve { epoch: u64::from_be_bytes(*epoch), signer: NodeSigner::from_seed(&seed).ok()? })
}

#[cfg(test)]
mod tests {
    use bailiwick_runtime::MasterKeyConfig;

    use super::*;

    #[test]
    fn a_reserve_is_kept_until_it_is_spent_and_its_file_shows_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let config = MasterKeyConfig::ensure_file(&folder.path().join("master.key")).unwrap();
        let reserves = Reserves::new(&folder.path().join("keys"), MasterKeys::load(&config).unwrap());
        assert!(reserves.load().unwrap().is_none());
        let seed = Seed::fresh().unwrap();
        reserves.keep(7, &seed).unwrap();
        let kept = reserves.load().unwrap().unwrap();
        assert_eq!((kept.epoch, kept.signer.public_key()), (7, seed.signer().unwrap().public_key()));
        let content = std::fs::read_to_string(folder.path().join("keys/reserve.key")).unwrap();
        assert!(!content.contains(&hex::encode(seed.0.as_slice())));
        reserves.spend().unwrap();
        reserves.spend().unwrap();
        assert!(reserves.load().unwrap().is_none());
    }

    #[test]
    fn what_is_no_reserve_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let config = MasterKeyConfig::ensure_file(&folder.path().join("master.key")).unwrap();
        let reserves = Reserves::new(folder.path(), MasterKeys::load(&config).unwrap());
        sealed_file::write(&folder.path().join("reserve.key"), &reserves.master_keys, b"too short").unwrap();
        assert!(reserves.load().unwrap().is_none());
    }
}
