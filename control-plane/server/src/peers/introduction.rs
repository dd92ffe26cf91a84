//! The first stream of a connection: both ends say who they are, and whether they will talk.
//!
//! Fields are only ever added; a reader skips those it does not know.

use std::{io, time::Duration};

use bailiwick_consensus::{Introduction, Lane, Refusal};
use bailiwick_runtime::identity::{self, Role};
use prost::Message;
use quinn::{Connection, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;

/// An introduction with all there may be in it.
const INTRODUCTION_BYTES_MAX: usize = 4 * 1024;

/// From the one that dialled.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Hello {
    #[prost(message, optional, tag = "1")]
    pub(super) introduction: Option<Introduction>,
    /// 1: control; 2: snapshot.
    #[prost(uint32, tag = "2")]
    pub(super) lane: u32,
    /// For people.
    #[prost(string, tag = "3")]
    pub(super) version: String,
}

/// From the one that was dialled.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Welcome {
    #[prost(message, optional, tag = "1")]
    pub(super) introduction: Option<Introduction>,
    /// The code of a refusal; 0: welcome.
    #[prost(uint32, tag = "2")]
    pub(super) refused: u32,
    /// For people.
    #[prost(string, tag = "3")]
    pub(super) version: String,
}

impl Hello {
    pub(super) fn new(introduction: Introduction, lane: Lane) -> Self {
        let lane = match lane {
            Lane::Control => 1,
            Lane::Snapshot => 2,
        };
        Self { introduction: Some(introduction), lane, version: version() }
    }

    pub(super) fn lane(&self) -> Option<Lane> {
        match self.lane {
            1 => Some(Lane::Control),
            2 => Some(Lane::Snapshot),
            _ => None,
        }
    }
}

impl Welcome {
    pub(super) fn new(introduction: Introduction, refused: Option<Refusal>) -> Self {
        Self { introduction: Some(introduction), refused: refused.map_or(0, Refusal::code), version: version() }
    }
}

fn version() -> String {
    env!("CARGO_PKG_VERSION").to_owned()
}

pub(super) async fn send(stream: &mut SendStream, message: &impl Message) -> io::Result<()> {
    stream.write_all(&message.encode_to_vec()).await?;
    stream.finish().map_err(io::Error::other)
}

pub(super) async fn receive<M: Message + Default>(stream: &mut RecvStream) -> io::Result<M> {
    let bytes = stream.read_to_end(INTRODUCTION_BYTES_MAX).await.map_err(io::Error::other)?;
    M::decode(bytes.as_slice()).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// What the other end's certificate, which TLS has checked, proves.
pub(super) struct Proven {
    pub(super) cluster_id: String,
    pub(super) node_id: u64,
    /// How long the certificate counts; so long may the connection live.
    pub(super) remaining: Duration,
}

/// Reads what the other end's certificate proves; `now` in Unix seconds.
pub(super) fn proven(connection: &Connection, now: u64) -> io::Result<Proven> {
    let denied = |what: &str| io::Error::new(io::ErrorKind::PermissionDenied, what.to_owned());
    let shown = connection.peer_identity().and_then(|shown| shown.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = shown.and_then(|chain| chain.first().cloned()).ok_or_else(|| denied("a peer shows no certificate"))?;
    let (id, validity, _) = identity::read(&leaf).map_err(|error| denied(&error.to_string()))?;
    let remaining = Duration::from_secs(validity.not_after.saturating_sub(now));
    match id.node_id {
        Some(node_id) if id.role == Role::ControlPlane => Ok(Proven { cluster_id: id.cluster, node_id, remaining }),
        _ => Err(denied("a peer's certificate is not one of a control plane")),
    }
}

/// Whether what an end claims is what its certificate proves.
pub(super) fn is_proven(claimed: &Introduction, proven: &Proven) -> bool {
    claimed.cluster_id == proven.cluster_id && claimed.node_id == proven.node_id
}
