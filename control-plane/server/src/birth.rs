//! How a data directory comes to belong to a cluster: founded, joined with a token, or as it was before.
//!
//! Which cluster and which node is in the directory itself and never changes. An empty one becomes nothing by itself: a
//! lost disk must not become a second, empty cluster. The node's key is made first and stays, so that an enrolment whose
//! answer was lost is asked for again as the same member. Called by `serve` and `offline`.
//! Absent: consensus and services on top (`serve`), what redeeming a token means (`enrolment`).

use std::{io, path::Path, sync::Arc};

use bailiwick_consensus::{Birth, Disk, RocksDisk};
use bailiwick_control_plane_core::{
    Command,
    member::{FoundCluster, Role},
};
use bailiwick_enrolment::{JoinToken, Membership, Store, Wish, enrol};
use bailiwick_runtime::{
    Identity, MasterKeys,
    connect::{TARGETS_MAX, Targets},
    identity::{self, NodeKey},
};

use crate::{
    authority::{Elsewhere, Own},
    clock,
    config::ControlPlaneConfig,
    domain::{Caller, Domain},
    enrolment::spiffe,
    error::ControlPlaneError,
    vault::Vault,
};

/// A control plane's data directory, and who it is.
#[derive(Debug)]
pub(crate) struct Home {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) store: Store,
    pub(crate) key: Arc<NodeKey>,
    pub(crate) identity: Identity,
    pub(crate) vault: Vault,
}

/// Where others reach a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Addresses {
    /// `host:port`.
    pub(crate) peer: String,
    /// URL.
    pub(crate) api: String,
}

impl Home {
    /// Opens the folder, makes it where it is missing, and this node's key with it.
    pub(crate) async fn open(config: &ControlPlaneConfig) -> Result<Self, ControlPlaneError> {
        let folder = |source| ControlPlaneError::Folder { path: config.data_dir.clone(), source };
        std::fs::create_dir_all(&config.data_dir).map_err(folder)?;
        config.master_key.outside(&config.data_dir)?;
        let masters = MasterKeys::load(&config.master_key)?;
        let store = Store::new(config.data_dir.join("keys"), masters.clone());
        let key = Arc::new(store.key().map_err(bailiwick_enrolment::EnrolError::from)?);
        let vault = Vault::new(masters, store.files().to_vec());
        let disk = open_disk(&config.data_dir.join("raft")).await.map_err(folder)?;
        Ok(Self { disk, store, key, identity: Identity::default(), vault })
    }

    /// Whom the directory belongs to: as before, joined now, or (`None`) to nobody.
    pub(crate) async fn belongs(
        &self,
        config: &ControlPlaneConfig,
        addresses: &Addresses,
    ) -> Result<Option<Birth>, ControlPlaneError> {
        let kept = self.store.membership().map_err(bailiwick_enrolment::EnrolError::from)?;
        if let Some(birth) = Birth::read(self.disk.as_ref()).map_err(unusable)? {
            if let Some(kept) = kept {
                if kept.id.name != config.node {
                    let (kept, wanted) = (kept.id.name, config.node.clone());
                    return Err(ControlPlaneError::Renamed { kept, wanted });
                }
                // It may have expired meanwhile; it is renewed as soon as the authority's key is opened.
                self.identity.install(&kept.certificate, &kept.authority, &self.key)?;
            }
            return Ok(Some(birth));
        }
        let token = token(config)?;
        if kept.is_none() && token.is_none() {
            return Ok(None);
        }
        let wish = Wish {
            role: identity::Role::ControlPlane,
            name: config.node.clone(),
            urls: config.join.clone(),
            token,
            peer_address: addresses.peer.clone(),
            api_address: addresses.api.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let member = Box::pin(enrol(&self.store, &wish, &self.identity)).await?;
        let node_id = member.id.node_id.ok_or(ControlPlaneError::NotMember)?;
        Ok(Some(Birth { cluster_id: member.id.cluster, incarnation: member.incarnation, node_id }))
    }

    /// Says in the state that the cluster begins, or begins anew, with this node; makes its secrets; certifies itself.
    pub(crate) async fn found(
        &self,
        config: &ControlPlaneConfig,
        birth: &Birth,
        addresses: &Addresses,
        domain: &Domain,
    ) -> Result<(), ControlPlaneError> {
        let wish = FoundCluster {
            cluster_id: birth.cluster_id.clone(),
            incarnation: birth.incarnation.clone(),
            name: config.node.clone(),
            public_key: self.key.public_key().to_vec(),
            peer: addresses.peer.clone(),
            api: addresses.api.clone(),
        };
        let caller = Caller { actor: format!("node:{}", config.node), request_id: String::new() };
        let stated = |error: crate::domain::WriteError| ControlPlaneError::Statement {
            what: "that the cluster begins",
            why: error.to_string(),
        };
        domain.write(Command::FoundCluster(wish), caller).await.map_err(stated)?;
        self.vault.create_missing(domain).await?;
        self.certify(config, birth)?;
        Ok(())
    }

    /// Signs this node's certificate, if the authority is there, and keeps the membership.
    pub(crate) fn certify(&self, config: &ControlPlaneConfig, birth: &Birth) -> Result<Own, ControlPlaneError> {
        let id = spiffe(&birth.cluster_id, Role::ControlPlane, birth.node_id, &config.node);
        let own = Own { id: id.clone(), key: Arc::clone(&self.key), identity: self.identity.clone() };
        let certified =
            own.certify(&self.vault.keys()).map_err(|error| ControlPlaneError::Certificate(error.to_string()))?;
        if certified
            && let (Some(certificate), Some(authority)) = (self.identity.certificate(), self.identity.authority())
        {
            let incarnation = birth.incarnation.clone();
            let membership = Membership { id, incarnation, certificate, authority, members: Vec::new() };
            self.store.keep(&membership).map_err(bailiwick_enrolment::EnrolError::from)?;
        }
        Ok(own)
    }
}

impl Home {
    /// Where a certificate is renewed while this node cannot sign one: at the control planes it joined.
    pub(crate) fn elsewhere(&self, config: &ControlPlaneConfig) -> Option<Elsewhere> {
        let membership = self.store.membership().ok().flatten()?;
        let known = membership.members.iter().map(|member| &member.api);
        let urls: Vec<&String> = config.join.iter().chain(known).filter(|url| url.starts_with("https")).collect();
        let targets = Targets::parse(urls.get(..TARGETS_MAX.min(urls.len()))?).ok()?;
        Some(Elsewhere { membership, targets })
    }
}

/// A new cluster with this node as its first.
pub(crate) fn new_cluster() -> io::Result<Birth> {
    Ok(Birth { cluster_id: hex::encode(random::<16>()?), incarnation: new_incarnation()?, node_id: 1 })
}

/// A new life of a cluster.
pub(crate) fn new_incarnation() -> io::Result<String> {
    Ok(hex::encode(random::<8>()?))
}

fn random<const N: usize>() -> io::Result<[u8; N]> {
    clock::random::<N>().map_err(|_| io::Error::other("the operating system gives no randomness"))
}

fn unusable(source: io::Error) -> ControlPlaneError {
    bailiwick_consensus::ConsensusError::Open(source).into()
}

async fn open_disk(folder: &Path) -> io::Result<Arc<dyn Disk>> {
    let folder = folder.to_owned();
    let opened = tokio::task::spawn_blocking(move || {
        std::fs::create_dir_all(&folder)?;
        RocksDisk::open(&folder)
    });
    Ok(Arc::new(opened.await.map_err(io::Error::other)??))
}

/// The join token, if there is one. A file that is gone was used and taken away.
fn token(config: &ControlPlaneConfig) -> Result<Option<JoinToken>, ControlPlaneError> {
    let text = match (&config.join_token, &config.join_token_file) {
        (Some(text), _) => text.clone(),
        (None, Some(file)) if file.exists() => {
            std::fs::read_to_string(file).map_err(|source| ControlPlaneError::Folder { path: file.clone(), source })?
        }
        (None, Some(_) | None) => return Ok(None),
    };
    let bad = |error: bailiwick_enrolment::NotToken| bailiwick_enrolment::EnrolError::Token(error.to_string());
    Ok(Some(text.parse().map_err(bad)?))
}
