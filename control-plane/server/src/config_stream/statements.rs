//! Statements: this control plane's signed word on what is in force, made once for all sessions at the same revision.
//!
//! Asked by `session` after a bookmark. What a data plane keeps of it lets that node start without any control plane.
//! The time in it is that of the last proof that this node is current, so a statement never claims to be younger than
//! what it is about. Absent: the signature's text (`proto`, `statement`) and how it is checked (`runtime`, `identity`).

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bailiwick_proto::{
    config_digest::Digest,
    statement,
    v1::{self, config_frame},
};
use bailiwick_runtime::Identity;

use super::wire::Frame;

/// How often a data plane gets one: what it keeps is older than what it knew by so much, and costs both a signature.
pub(super) const STATEMENT_EVERY: Duration = Duration::from_secs(5);
/// A statement this much older than the last proof still does: sessions whose turns come within it share one.
const SHARED_MICROS: u64 = 1_000_000;

/// See the file's header.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    /// Who signs; nobody in simulations.
    identity: Option<Identity>,
    last: Mutex<Option<Made>>,
}

#[derive(Clone, Debug)]
struct Made {
    revision: u64,
    time: u64,
    frame: Frame,
}

impl Statements {
    pub(crate) fn new(identity: Identity) -> Self {
        Self { identity: Some(identity), last: Mutex::default() }
    }

    /// That `digest` was that of everything in force at `revision`, when it was proven at `time`. `None` while this node
    /// has no certificate.
    pub(super) fn at(&self, revision: u64, digest: &Digest, time: u64) -> Option<Frame> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let shared = last.as_ref().filter(|made| made.revision == revision && made.time + SHARED_MICROS >= time);
        if let Some(made) = shared {
            return Some(made.frame.clone());
        }
        let frame = self.sign(v1::Statement { revision, digest: digest.to_vec(), time, ..v1::Statement::default() })?;
        *last = Some(Made { revision, time, frame: frame.clone() });
        Some(frame)
    }

    fn sign(&self, said: v1::Statement) -> Option<Frame> {
        let identity = self.identity.as_ref()?;
        let word = identity.sign(&statement::message(&identity.id()?.cluster, &said))?;
        let signed = v1::Statement { certificate: word.certificate, signature: word.signature, ..said };
        Some(Frame::encode(config_frame::Frame::Statement(signed)))
    }
}
