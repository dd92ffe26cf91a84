//! Channels to the other control planes' APIs, over mutual TLS, one each, made when first needed.
//!
//! `forward` hands requests on through them, `internal` asks what the others know. The certificate at the other end must
//! be that of exactly the node that is meant. Absent: consensus among the same nodes, which has a transport of its own.

use std::{
    collections::BTreeMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
};

use bailiwick_control_plane_core::{State, member};
use bailiwick_runtime::{
    Identity,
    connect::{Targets, TargetsError},
    identity::{Expect, IdentityError},
};
use tonic::transport::Channel;

/// What HTTP/2 is called in a TLS handshake.
const ALPN_H2: &[u8] = b"h2";

/// Another control plane, as the state has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Colleague {
    pub(crate) node_id: u64,
    pub(crate) name: String,
    /// Its API's URL.
    pub(crate) api: String,
}

/// Why there is no channel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Address(#[from] TargetsError),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// All channels of this node; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Links {
    identity: Identity,
    channels: Arc<Mutex<BTreeMap<u64, (String, Channel)>>>,
}

impl Links {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity, channels: Arc::default() }
    }

    /// A channel to a colleague; connects when it is used.
    pub(crate) fn to(&self, colleague: &Colleague) -> Result<Channel, LinkError> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((api, channel)) = channels.get(&colleague.node_id)
            && *api == colleague.api
        {
            return Ok(channel.clone());
        }
        let expect = Expect::control_plane(colleague.node_id);
        let tls = Arc::new(self.identity.client_config(&[ALPN_H2], expect)?);
        let channel = Targets::parse(std::slice::from_ref(&colleague.api))?.channel(Some(tls));
        channels.insert(colleague.node_id, (colleague.api.clone(), channel.clone()));
        Ok(channel)
    }

    /// Forgets a channel that failed, so that the next use begins with a fresh connection.
    pub(crate) fn forget(&self, node_id: u64) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).remove(&node_id);
    }
}

/// The other control planes.
pub(crate) fn colleagues(state: &State, own: u64) -> Vec<Colleague> {
    let others = member::control_planes(state).filter(|(_, member)| member.node_id != own);
    let colleague = |(name, member): (&str, &member::Member)| Colleague {
        node_id: member.node_id,
        name: name.to_owned(),
        api: member.api.clone(),
    };
    others.map(colleague).collect()
}

/// Whether a call failed before anything of it was sent.
pub(crate) fn never_sent(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| (*error).source()).any(|cause| cause.is::<tonic::ConnectError>())
}
