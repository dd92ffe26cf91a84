//! Commitments to arguments and results: what stands in a record instead of a payload.
//!
//! Called by `calls` for every recorded payload. The salt is HMAC-SHA256 under this node's commitment key over node,
//! epoch, request id and field, so whoever holds the key can open a commitment later and nobody else can guess what
//! was committed to. The request id rather than the sequence number names the record, because the commitment to a
//! large payload is computed before the record gets its place. The key lies in `DATA/keys/commitment.key`,
//! sealed.

use std::{fmt, path::Path};

use aws_lc_rs::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use bailiwick_runtime::{
    MasterKeys,
    sealed_file::{self, SealedFileError},
};
use zeroize::Zeroizing;

/// Bytes of the commitment key.
const KEY_BYTES: usize = 32;

/// The key from which every salt of this node derives.
pub(crate) struct CommitmentKey(hmac::Key);

impl fmt::Debug for CommitmentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CommitmentKey(…)")
    }
}

impl CommitmentKey {
    /// Reads the node's key, or makes it at the first start.
    pub(crate) fn load(path: &Path, master_keys: &MasterKeys) -> Result<Self, SealedFileError> {
        let bytes = sealed_file::read_or_create(path, master_keys, || {
            let mut key = Zeroizing::new(vec![0; KEY_BYTES]);
            SystemRandom::new().fill(&mut key).map_err(|_| std::io::Error::other("no randomness"))?;
            Ok(key)
        })?;
        if bytes.len() != KEY_BYTES {
            return Err(SealedFileError::Damaged(path.display().to_string()));
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes)))
    }

    /// The salt of one field of one record.
    pub(crate) fn salt(&self, node: &str, epoch: u64, request_id: &str, field: &str) -> [u8; 32] {
        let tag = hmac::sign(&self.0, format!("{node}.{epoch}.{request_id}.{field}").as_bytes());
        let mut salt = [0; 32];
        salt.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        salt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_salt_is_the_same_after_a_restart_and_differs_for_every_field_of_every_record() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys/commitment.key");
        let keys = crate::tests::master_keys();
        let load = || CommitmentKey::load(&path, &keys);
        let (one, again) = (load().unwrap(), load().unwrap());
        let salt = one.salt("n", 7, "r-1", "args");
        assert_eq!(again.salt("n", 7, "r-1", "args"), salt);
        for other in
            [one.salt("n", 7, "r-1", "result"), one.salt("n", 7, "r-2", "args"), one.salt("n", 8, "r-1", "args")]
        {
            assert_ne!(other, salt);
        }
        assert_eq!(format!("{one:?}"), "CommitmentKey(…)");
        sealed_file::write(&path, &keys, b"short").unwrap();
        assert!(load().is_err());
    }
}
