//! Reserves: runs that a node may begin while no control plane can be reached.
//!
//! Without an epoch a node can keep no record, and without a record it lets no call through. So a data plane that is
//! connected registers the keys of its next runs in advance and gets their epochs, the revisions of the events, as with
//! any registration: the ledger takes records of those runs from then on, and of no others. Once it reaches a control
//! plane it says which run has begun, which makes it the node's present run. A reserve is good for one run; registering
//! another run, or beginning a later reserve, ends it. Called by `command` and `state`. Absent: the private keys, and
//! that a node uses each once (`data-plane/server`).

use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::{Context, Decision},
    node::{Role, counted_until},
    state::{Changed, State},
};

/// A node may have so many: restarts in one outage. Of more the oldest is forgotten.
pub const RESERVES_MAX: usize = 4;

/// A run that has not begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// Its epoch.
    pub epoch: u64,
    /// Raw Ed25519 public key, lower-case hex.
    pub public_key: String,
}

/// Payload of `node_epoch_reserved`; the epoch is the event's revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEpochReserved {
    /// The node.
    pub node: String,
    /// Raw Ed25519 public key of its next run, lower-case hex.
    pub public_key: String,
}

/// Payload of `node_reserve_begun`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReserveBegun {
    /// The node.
    pub node: String,
    /// The epoch of the reserve that is its present run now.
    #[serde(with = "crate::decimal")]
    pub epoch: u64,
}

pub(crate) fn decide_reserve(
    state: &State,
    node: &str,
    run: u64,
    public_key: [u8; 32],
    context: &Context,
) -> Result<Decision, Rejection> {
    let public_key = hex::encode(public_key);
    let Some(known) = state.nodes.get(node).filter(|known| known.role == Role::DataPlane && known.epoch == run) else {
        return Err(Rejection::NotThatRun { node: node.to_owned() });
    };
    // Asked again, because the answer was lost.
    if let Some(reserve) = known.reserves.iter().find(|reserve| reserve.public_key == public_key) {
        return Ok(Decision { repeated: Some(reserve.epoch), ..Decision::default() });
    }
    if known.public_key == public_key {
        return Err(Rejection::Malformed { what: "public key", rule: "another one than the present run's" });
    }
    if known.runs_too_often(context.now_micros) {
        return Err(Rejection::TooManyRuns { node: node.to_owned() });
    }
    let event = NodeEpochReserved { node: node.to_owned(), public_key };
    Ok(Decision::done(vec![context.event(event)]))
}

pub(crate) fn decide_begin(
    state: &State,
    node: &str,
    epoch: u64,
    public_key: [u8; 32],
    context: &Context,
) -> Result<Decision, Rejection> {
    let public_key = hex::encode(public_key);
    let Some(known) = state.nodes.get(node) else { return Err(Rejection::ReserveGone { node: node.to_owned() }) };
    if known.epoch == epoch && known.public_key == public_key {
        return Ok(Decision { repeated: Some(epoch), ..Decision::default() });
    }
    if !known.reserves.contains(&Reserve { epoch, public_key }) {
        return Err(Rejection::ReserveGone { node: node.to_owned() });
    }
    Ok(Decision::done(vec![context.event(NodeReserveBegun { node: node.to_owned(), epoch })]))
}

pub(crate) fn evolve_reserved(state: &mut State, event: &NodeEpochReserved, changed: Changed) {
    if let Some(known) = state.nodes.get_mut(&event.node) {
        known.reserves.push(Reserve { epoch: changed.revision, public_key: event.public_key.clone() });
        let surplus = known.reserves.len().saturating_sub(RESERVES_MAX);
        known.reserves.drain(..surplus);
        known.runs_until = counted_until(known.runs_until, changed.time);
    }
}

pub(crate) fn evolve_begun(state: &mut State, event: &NodeReserveBegun, changed: Changed) {
    if let Some(known) = state.nodes.get_mut(&event.node)
        && let Some(at) = known.reserves.iter().position(|reserve| reserve.epoch == event.epoch)
    {
        // Epochs of a node only grow: what was reserved before this one can be begun no more.
        if let Some(Reserve { epoch, public_key }) = known.reserves.drain(..=at).next_back() {
            (known.epoch, known.public_key, known.changed) = (epoch, public_key, changed);
        }
    }
}
