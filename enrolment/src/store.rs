//! What a member keeps of its membership: its key and its last certificate, in sealed files.
//!
//! `identity.key` is made before the first request and stays: an enrolment whose answer was lost is asked for again
//! with the same key and gets the same membership. `identity.member` comes with the answer. Both are sealed, the second
//! so that nobody who can only write the disk can make this node believe another authority.

use std::path::{Path, PathBuf};

use bailiwick_runtime::{
    MasterKeys,
    identity::{IdentityError, NodeKey, Role, SpiffeId},
    sealed_file::{self, SealedFileError},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const KEY_FILE: &str = "identity.key";
const MEMBER_FILE: &str = "identity.member";

/// What a member keeps cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file, or the master key it is sealed under.
    #[error(transparent)]
    File(#[from] SealedFileError),
    /// What was in it.
    #[error("{0} does not hold what this version keeps there")]
    Content(PathBuf),
    /// No key can be made.
    #[error(transparent)]
    Key(#[from] IdentityError),
}

/// Where a control plane is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberAddress {
    /// Its id.
    pub node_id: u64,
    /// Its name.
    pub name: String,
    /// Where peers reach it (`host:port`).
    pub peer: String,
    /// Where its gRPC listens (URL).
    pub api: String,
}

/// A membership, as it was last confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Who this is.
    pub id: SpiffeId,
    /// Control planes: which life of the cluster.
    pub incarnation: String,
    /// DER.
    pub certificate: Vec<u8>,
    /// DER.
    pub authority: Vec<u8>,
    /// The control planes there were.
    pub members: Vec<MemberAddress>,
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    incarnation: String,
    certificate: String,
    authority: String,
    members: Vec<MemberAddress>,
}

/// A folder for the sealed files of one member.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    master_keys: MasterKeys,
}

impl Store {
    /// The store in `folder`, such as `DATA/keys`.
    #[must_use]
    pub const fn new(folder: PathBuf, master_keys: MasterKeys) -> Self {
        Self { folder, master_keys }
    }

    /// The key of this member, made when there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn key(&self) -> Result<NodeKey, StoreError> {
        let path = self.folder.join(KEY_FILE);
        let fresh = NodeKey::generate()?;
        let make = || Ok(Zeroizing::new(fresh.pkcs8().to_vec()));
        let kept = sealed_file::read_or_create(&path, &self.master_keys, make)?;
        NodeKey::from_pkcs8(&kept).map_err(|_| StoreError::Content(path))
    }

    /// The membership, if there is one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn membership(&self) -> Result<Option<Membership>, StoreError> {
        let path = self.folder.join(MEMBER_FILE);
        match sealed_file::read(&path, &self.master_keys) {
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
            Ok(kept) => parse(&kept).map(Some).ok_or(StoreError::Content(path)),
        }
    }

    /// Keeps a membership; durable before it returns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep(&self, membership: &Membership) -> Result<(), StoreError> {
        let path = self.folder.join(MEMBER_FILE);
        let kept = Kept {
            id: membership.id.to_string(),
            incarnation: membership.incarnation.clone(),
            certificate: hex::encode(&membership.certificate),
            authority: hex::encode(&membership.authority),
            members: membership.members.clone(),
        };
        let json = serde_json::to_vec(&kept).map_err(|_| StoreError::Content(path.clone()))?;
        Ok(sealed_file::write(&path, &self.master_keys, &json)?)
    }

    /// The sealed files, which follow a new master key.
    #[must_use]
    pub fn files(&self) -> [PathBuf; 2] {
        [self.folder.join(KEY_FILE), self.folder.join(MEMBER_FILE)]
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What the files are sealed under.
    #[must_use]
    pub const fn master_keys(&self) -> &MasterKeys {
        &self.master_keys
    }
}

fn parse(kept: &[u8]) -> Option<Membership> {
    let kept: Kept = serde_json::from_slice(kept).ok()?;
    let id: SpiffeId = kept.id.parse().ok()?;
    let is_node = id.role == Role::ControlPlane;
    (is_node == id.node_id.is_some()).then_some(())?;
    let (certificate, authority) = (hex::decode(kept.certificate).ok()?, hex::decode(kept.authority).ok()?);
    Some(Membership { id, incarnation: kept.incarnation, certificate, authority, members: kept.members })
}

#[cfg(test)]
mod tests {
    use bailiwick_runtime::MasterKeyConfig;

    use super::*;

    #[test]
    fn key_and_membership_are_kept_and_their_files_show_neither() {
        let folder = tempfile::tempdir().unwrap();
        let config = MasterKeyConfig::ensure_file(&folder.path().join("master.key")).unwrap();
        let store = Store::new(folder.path().join("keys"), MasterKeys::load(&config).unwrap());
        let key = store.key().unwrap();
        assert_eq!(store.key().unwrap().public_key(), key.public_key());
        assert_eq!(store.membership().unwrap(), None);
        let membership = Membership {
            id: "spiffe://aa.bailiwick/control-plane/3/cp-3".parse().unwrap(),
            incarnation: "b".to_owned(),
            certificate: vec![1, 2],
            authority: vec![3],
            members: vec![MemberAddress {
                node_id: 1,
                name: "cp-1".into(),
                peer: "h:1".into(),
                api: "https://h:2".into(),
            }],
        };
        store.keep(&membership).unwrap();
        assert_eq!(store.membership().unwrap(), Some(membership));
        for file in store.files() {
            let content = std::fs::read_to_string(file).unwrap();
            let secret = hex::encode(key.pkcs8());
            assert!(!content.contains("spiffe") && !content.contains(&secret), "{content}");
        }
    }
}
