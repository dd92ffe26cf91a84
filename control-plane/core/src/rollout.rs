//! Rollouts: a change that goes to a share of the data planes first, is watched there, and then on, or back by itself.
//!
//! What is staged is kept beside the state that counts for everybody; `view` hands both to all data planes, and each of
//! them finds out for itself whether it is in the share (`bailiwick_proto::rollout`). One rollout at a time; what it
//! touches may be changed by nothing else meanwhile. Called by `command` (deciding), `apply`, `state` and `view`; the
//! leader's watch (`watch`) says when to go on and when to go back, and an administrator may say so at any time.
//! Invariants: only what gives nobody authority by itself is staged; a rollout ends in one change, which either applies
//! all that was staged to everybody or nothing of it. Absent: looking at nodes (server).

mod decide;
pub mod show;
pub mod watch;

use bailiwick_proto::rollout;
use serde::{Deserialize, Serialize};

pub use self::decide::{AdvanceRollout, BeginRollout, Stepped, TakeBackRollout};
pub(crate) use self::decide::{decide_advance, decide_begin, decide_take_back, refuse_touched, repeat};
use crate::{
    Kind, Manifest, ResourceRef, Spec,
    manifest::Source,
    node::Role,
    resource::{PolicySpec, ServerSpec, VirtualServerSpec},
    state::{Changed, State},
    table::Table,
};

/// Most resources in one rollout: each is looked at for every change of what it touches.
pub const STAGED_MAX: usize = 256;
/// Most shares of one plan: each is a change and a time of watching.
pub const SHARES_MAX: usize = 16;
/// Longest time of watching a share: a week.
pub const WATCH_SECONDS_MAX: u64 = 7 * 24 * 3_600;
/// Ended rollouts that are kept to be looked at; the ledger keeps all.
pub const ENDED_KEPT_MAX: usize = 32;

/// How a change is to reach everybody.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Percent of the data planes, ascending, each from 1 to 100. After the last one everybody.
    #[serde(with = "crate::decimal::list")]
    pub shares: Vec<u64>,
    /// How long each share is watched before the next.
    #[serde(with = "crate::decimal")]
    pub watch_seconds: u64,
    /// It goes back when the share denies more calls than the others, or hides more tools, by more than so many
    /// percentage points.
    #[serde(with = "crate::decimal")]
    pub denials_max: u64,
    /// It goes back when more nodes of the share than this cannot use it.
    #[serde(with = "crate::decimal")]
    pub refusals_max: u64,
}

impl Plan {
    /// The percentage of a step; `None` beyond the last one.
    #[must_use]
    pub fn share(&self, step: u64) -> Option<u64> {
        self.shares.get(usize::try_from(step).ok()?).copied()
    }
}

/// A resource as it is to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "spec")]
#[expect(clippy::large_enum_variant, reason = "there is one rollout at a time, of a few resources")]
pub enum Staged {
    /// An existing server: its tools' tiers and costs, its timeout.
    Server(ServerSpec),
    /// A virtual server.
    VirtualServer(VirtualServerSpec),
    /// A policy.
    Policy(PolicySpec),
}

impl Staged {
    /// What a manifest says, where that may be staged.
    fn of(spec: &Spec) -> Option<Self> {
        match spec {
            Spec::Server(spec) => Some(Self::Server(spec.clone())),
            Spec::VirtualServer(spec) => Some(Self::VirtualServer(spec.clone())),
            Spec::Policy(spec) => Some(Self::Policy(spec.clone())),
            Spec::User(_) | Spec::Agent(_) | Spec::Client(_) | Spec::IdentityProvider(_) | Spec::DecisionClient(_) => {
                None
            }
        }
    }

    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Server(_) => Kind::Server,
            Self::VirtualServer(_) => Kind::VirtualServer,
            Self::Policy(_) => Kind::Policy,
        }
    }

    fn manifest(&self, name: &str) -> Manifest {
        let spec = match self {
            Self::Server(spec) => Spec::Server(spec.clone()),
            Self::VirtualServer(spec) => Spec::VirtualServer(spec.clone()),
            Self::Policy(spec) => Spec::Policy(spec.clone()),
        };
        Manifest { name: name.to_owned(), spec, source: Source::default(), read: None }
    }
}

/// All rollouts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollouts {
    /// How many there were; the last one's id.
    pub begun: u64,
    /// The one that is under way.
    pub under_way: Option<Rollout>,
    /// Those that ended last, oldest first.
    pub ended: Vec<Ended>,
}

/// A rollout under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Counts from 1.
    pub id: u64,
    /// Who began it.
    pub by: String,
    /// How it goes on.
    pub plan: Plan,
    /// What is to be, by `<kind>/<name>`.
    pub staged: Table<String, Staged>,
    /// When it began; the revision is the version of its policies.
    pub began: Changed,
    /// Which share of the plan it has reached, from 0.
    pub step: u64,
    /// Nodes whose place is below this are in the share.
    pub below: u64,
    /// When it reached this share.
    pub stepped: Changed,
}

/// A rollout that ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its id.
    pub id: u64,
    /// Who began it.
    pub by: String,
    /// How it was to go on.
    pub plan: Plan,
    /// What it was about.
    pub resources: Vec<ResourceRef>,
    /// When it began.
    pub began: Changed,
    /// The last share it reached, from 0.
    pub step: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
    /// Who ended it.
    pub ended_by: String,
    /// When.
    pub ended: Changed,
}

/// How a rollout ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It counts for everybody.
    Finished,
    /// It counts for nobody.
    TakenBack,
}

impl Outcome {
    /// The stable word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::TakenBack => "taken_back",
        }
    }
}

impl Rollout {
    /// What it is about, in the order of kinds and names.
    #[must_use]
    pub fn resources(&self) -> Vec<ResourceRef> {
        let mut resources: Vec<_> =
            self.staged.iter().map(|(key, staged)| ResourceRef::new(staged.kind(), name(key))).collect();
        resources.sort();
        resources
    }

    /// Whether a resource is staged.
    #[must_use]
    pub fn touches(&self, resource: &ResourceRef) -> bool {
        self.staged.contains_key(&key(resource.kind, &resource.name))
    }

    /// Whether a data plane of this name is in the share.
    #[must_use]
    pub fn has_in_share(&self, node: &str) -> bool {
        rollout::is_in_share(&self.id.to_string(), node, self.below)
    }

    /// Percent of the data planes in the share.
    #[must_use]
    pub fn share(&self) -> u64 {
        self.plan.share(self.step).unwrap_or(100)
    }

    pub(crate) fn server(&self, name: &str) -> Option<&ServerSpec> {
        match self.staged.get(&key(Kind::Server, name))? {
            Staged::Server(spec) => Some(spec),
            Staged::VirtualServer(_) | Staged::Policy(_) => None,
        }
    }

    pub(crate) fn virtual_server(&self, name: &str) -> Option<&VirtualServerSpec> {
        match self.staged.get(&key(Kind::VirtualServer, name))? {
            Staged::VirtualServer(spec) => Some(spec),
            Staged::Server(_) | Staged::Policy(_) => None,
        }
    }

    pub(crate) fn policy(&self, name: &str) -> Option<&PolicySpec> {
        match self.staged.get(&key(Kind::Policy, name))? {
            Staged::Policy(spec) => Some(spec),
            Staged::Server(_) | Staged::VirtualServer(_) => None,
        }
    }

    fn manifests(&self) -> Vec<Manifest> {
        self.staged.iter().map(|(key, staged)| staged.manifest(name(key))).collect()
    }
}

/// Under which a resource is staged.
fn key(kind: Kind, name: &str) -> String {
    format!("{kind}/{name}")
}

fn name(key: &str) -> &str {
    key.split_once('/').map_or(key, |(_, name)| name)
}

/// What the share must end below to hold so many percent of the data planes there are.
fn below(state: &State, id: u64, percent: u64) -> u64 {
    rollout::below(&id.to_string(), data_planes(state).map(String::as_str), percent)
}

/// The names of all data planes that are registered.
fn data_planes(state: &State) -> impl Iterator<Item = &String> {
    state.nodes.iter().filter(|(_, node)| node.role == Role::DataPlane).map(|(name, _)| name)
}

/// Payload of `rollout_begun`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutBegun {
    /// Its id.
    #[serde(with = "crate::decimal")]
    pub rollout: u64,
    /// How it goes on.
    pub plan: Plan,
    /// Where the first share ends.
    #[serde(with = "crate::decimal")]
    pub below: u64,
}

/// Payload of `rollout_staged`: one resource of the rollout that has just begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStaged {
    /// Its id.
    #[serde(with = "crate::decimal")]
    pub rollout: u64,
    /// The resource.
    pub name: String,
    /// As it is to be.
    pub staged: Staged,
}

/// Payload of `rollout_stepped`: it has gone on to another share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStepped {
    /// Its id.
    #[serde(with = "crate::decimal")]
    pub rollout: u64,
    /// Which share of the plan, from 0.
    #[serde(with = "crate::decimal")]
    pub step: u64,
    /// Where that share ends.
    #[serde(with = "crate::decimal")]
    pub below: u64,
    /// Why.
    pub reason: String,
}

/// Payload of `rollout_ended`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutEnded {
    /// Its id.
    #[serde(with = "crate::decimal")]
    pub rollout: u64,
    /// How.
    pub outcome: Outcome,
    /// Why.
    pub reason: String,
}

pub(crate) fn evolve_begun(state: &mut State, event: &RolloutBegun, actor: &str, changed: Changed) {
    let RolloutBegun { rollout: id, plan, below } = event.clone();
    let (by, staged) = (actor.to_owned(), Table::default());
    let rollout = Rollout { id, by, plan, staged, began: changed, step: 0, below, stepped: changed };
    state.rollouts.begun = state.rollouts.begun.max(id);
    state.rollouts.under_way = Some(rollout);
}

pub(crate) fn evolve_staged(state: &mut State, event: &RolloutStaged) {
    if let Some(rollout) = state.rollouts.under_way.as_mut().filter(|rollout| rollout.id == event.rollout) {
        rollout.staged.insert(key(event.staged.kind(), &event.name), event.staged.clone());
    }
}

pub(crate) fn evolve_stepped(state: &mut State, event: &RolloutStepped, changed: Changed) {
    if let Some(rollout) = state.rollouts.under_way.as_mut().filter(|rollout| rollout.id == event.rollout) {
        (rollout.step, rollout.below, rollout.stepped) = (event.step, event.below, changed);
    }
}

pub(crate) fn evolve_ended(state: &mut State, event: &RolloutEnded, actor: &str, changed: Changed) {
    let Some(rollout) = state.rollouts.under_way.take_if(|rollout| rollout.id == event.rollout) else { return };
    let resources = rollout.resources();
    let Rollout { id, by, plan, began, step, .. } = rollout;
    let (outcome, reason, ended_by) = (event.outcome, event.reason.clone(), actor.to_owned());
    let ended = Ended { id, by, plan, resources, began, step, outcome, reason, ended_by, ended: changed };
    state.rollouts.ended.push(ended);
    let surplus = state.rollouts.ended.len().saturating_sub(ENDED_KEPT_MAX);
    state.rollouts.ended.drain(..surplus);
}
