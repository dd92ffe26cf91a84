//! Nodes: data planes and ledgers that registered the key with which they sign during one run.
//!
//! A node's epoch is the revision at which its key was registered (`ledger.md`, node chain), so no epoch is ever used
//! twice; the event cannot hold it, as it is known only once Raft has ordered it. Called by `command`, `state` and
//! `show`. Absent: runs that may begin without a control plane (`reserve`), whether a node is connected (the server
//! knows), the private key (only the node has it).

use bailiwick_proto::names;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::{Context, Decision},
    reserve::Reserve,
    state::{Changed, State},
};

/// Most nodes known at a time; forgotten ones are deleted by hand.
pub const NODES_MAX: usize = 10_000;

/// A node may be started this often in quick succession; each start leaves a chain in the ledger for good, and one that
/// crashes at every start must not fill it.
pub const RUNS_AT_ONCE_MAX: u64 = 32;
/// After that, once in this time.
const RUN_MICROS: u64 = 60_000_000;
const RUNS_MICROS_MAX: u64 = RUNS_AT_ONCE_MAX * RUN_MICROS;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Serves MCP.
    DataPlane,
    /// Sequences records.
    Ledger,
}

impl Role {
    /// The word in events and on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DataPlane => "data-plane",
            Self::Ledger => "ledger",
        }
    }

    /// The role of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::DataPlane, Self::Ledger].into_iter().find(|role| role.as_str() == word)
    }
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// What it is.
    pub role: Role,
    /// Its present run.
    pub epoch: u64,
    /// Raw Ed25519 public key of its present run, lower-case hex.
    pub public_key: String,
    /// When it registered.
    pub changed: Changed,
    /// Until when its runs so far count, at one per [`RUN_MICROS`]; microseconds since 1970.
    pub runs_until: u64,
    /// What its next runs may begin with, ascending by epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reserves: Vec<Reserve>,
}

pub(crate) fn decide_register(
    state: &State,
    node: &str,
    role: Role,
    public_key: [u8; 32],
    context: &Context,
) -> Result<Decision, Rejection> {
    if !names::is_resource_name(node) || node == bailiwick_proto::subjects::CONTROL_NODE {
        let rule = "1 to 63 lower-case letters, digits and inner hyphens, dots or underscores, not `control-plane`";
        return Err(Rejection::Malformed { what: "node name", rule });
    }
    let public_key = hex::encode(public_key);
    match state.nodes.get(node) {
        // The same run asking again, because the answer was lost: it keeps its epoch.
        Some(known) if known.public_key == public_key && known.role == role => {
            return Ok(Decision { repeated: Some(known.epoch), ..Decision::default() });
        }
        Some(known) if known.role != role => return Err(Rejection::NodeRoleConflict { node: node.to_owned() }),
        Some(known) if known.runs_too_often(context.now_micros) => {
            return Err(Rejection::TooManyRuns { node: node.to_owned() });
        }
        Some(_) => {}
        None if state.nodes.len() >= NODES_MAX => {
            return Err(Rejection::TooMany { what: "nodes", max: NODES_MAX });
        }
        None => {}
    }
    let event = NodeEpochOpened { node: node.to_owned(), role, public_key };
    Ok(Decision::done(vec![context.event(event)]))
}

impl Node {
    /// Whether one more run now would be too many.
    pub(crate) fn runs_too_often(&self, now: u64) -> bool {
        counted_until(self.runs_until, now) > latest(now)
    }
}

/// Until when runs count once another is opened `now`. What no clock that only goes forward could have led to is
/// forgotten, or a clock that was wrong once would lock the node out.
pub(crate) fn counted_until(runs_until: u64, now: u64) -> u64 {
    let start = if runs_until > latest(now) { now } else { runs_until.max(now) };
    start.saturating_add(RUN_MICROS)
}

const fn latest(now: u64) -> u64 {
    now.saturating_add(RUNS_MICROS_MAX)
}

/// Payload of `node_epoch_opened`; the epoch is the event's revision.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeEpochOpened {
    /// The node.
    pub node: String,
    /// What it is.
    pub role: Role,
    /// Raw Ed25519 public key, lower-case hex.
    pub public_key: String,
}

/// Payload of `node_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeDeleted {
    /// The node.
    pub node: String,
}

pub(crate) fn evolve_opened(state: &mut State, event: &NodeEpochOpened, changed: Changed) {
    let earlier = state.nodes.get(&event.node).map_or(0, |known| known.runs_until);
    let (public_key, runs_until) = (event.public_key.clone(), counted_until(earlier, changed.time));
    let node =
        Node { role: event.role, epoch: changed.revision, public_key, changed, runs_until, reserves: Vec::new() };
    state.nodes.insert(event.node.clone(), node);
}

pub(crate) fn evolve_deleted(state: &mut State, event: &NodeDeleted) {
    state.nodes.remove(&event.node);
}
