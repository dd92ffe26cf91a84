//! Watching a rollout: while one is under way, the leader looks at all data planes and has it go on, or back.
//!
//! What follows from what is seen says `core::rollout::watch`; here the nodes are asked for, through all control
//! planes, and the verdict is carried out as a command like any administrator's. Each names the step it is about, so what a
//! leader of yesterday still wishes happens once at most. A leader that loses touch with nodes sees them as gone, which
//! never makes a rollout go on.
//! Absent: what a rollout is (`core::rollout`), how nodes hear of it (`config_stream`).

use std::{collections::BTreeMap, time::Duration};

use bailiwick_control_plane_core::{
    Command, State,
    node::Role,
    rollout::{
        AdvanceRollout, Rollout, TakeBackRollout,
        watch::{Counts, Judged, Seen, Verdict, Watch},
    },
};
use bailiwick_proto::{rollout::is_refusal, v1};
use bailiwick_runtime::Shutdown;
use tokio::time::Instant;

use crate::{
    config_stream::nodes::Progress,
    domain::{Caller, Domain},
    internal::Colleagues,
    metrics::Metrics,
};

/// How often the nodes are looked at: a bad change is found as soon as it shows.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What watching needs.
#[derive(Clone, Debug)]
pub(crate) struct Rollouts {
    pub(crate) domain: Domain,
    pub(crate) colleagues: Colleagues,
    /// This control-plane node's own name.
    pub(crate) node: String,
    pub(crate) metrics: Metrics,
}

impl Rollouts {
    /// Watches whatever is rolled out, until shutdown; only on the leader.
    pub(crate) async fn watch(&self, shutdown: &Shutdown) {
        let start = Instant::now();
        let mut watch: Option<Watch> = None;
        let mut said = None;
        while shutdown.or_stop(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let under_way = self.domain.read(|state| state.rollouts.under_way.clone());
            let Some(rollout) = under_way else {
                self.metrics.rollout(0);
                watch = None;
                continue;
            };
            if watch.as_ref().is_none_or(|watch| !watch.is_of(&rollout)) {
                watch = Some(Watch::new(&rollout, start.elapsed()));
                tracing::info!(rollout = rollout.id, share = rollout.share(), "a rollout is watched");
            }
            let Some(watch) = &mut watch else { continue };
            let progress = self.colleagues.progress().await;
            let seen = self.domain.read(|state| seen(state, &rollout, &progress));
            let verdict = watch.look(&rollout, &seen, start.elapsed());
            self.metrics.rollout(rollout.share());
            match verdict {
                Verdict::Wait(why) => {
                    if why.is_some() && why != said {
                        tracing::warn!(rollout = rollout.id, why, "a rollout is held up");
                    }
                    said = why;
                }
                Verdict::Advance(reason) => self.advance(&rollout, reason).await,
                Verdict::Back(reason) => self.take_back(&rollout, reason).await,
            }
        }
    }

    async fn advance(&self, rollout: &Rollout, reason: String) {
        tracing::info!(rollout = rollout.id, step = rollout.step, reason, "a rollout goes on");
        let (id, from) = (Some(rollout.id), Some(rollout.step));
        self.carry_out(Command::AdvanceRollout(AdvanceRollout { rollout: id, from, reason })).await;
    }

    async fn take_back(&self, rollout: &Rollout, reason: String) {
        tracing::error!(rollout = rollout.id, step = rollout.step, reason, "ALARM: a rollout goes back by itself");
        self.metrics.rollout_taken_back();
        let command = Command::TakeBackRollout(TakeBackRollout { rollout: Some(rollout.id), reason });
        self.carry_out(command).await;
    }

    /// What fails is wished for again at the next look, if it is still so.
    async fn carry_out(&self, command: Command) {
        let caller = Caller { actor: format!("node:{}", self.node), request_id: String::new() };
        if let Err(error) = self.domain.write(command, caller).await {
            tracing::warn!(%error, "a rollout's step was not taken; looking again");
        }
    }
}

fn counts(said: &v1::Counts) -> Counts {
    Counts {
        calls: Judged { all: said.calls, denied: said.denied },
        lists: Judged { all: said.lists.saturating_mul(1_000), denied: said.hidden },
    }
}

/// All data planes there are, with what is known of them.
pub(crate) fn seen(state: &State, rollout: &Rollout, progress: &BTreeMap<String, Progress>) -> BTreeMap<String, Seen> {
    let id = rollout.id.to_string();
    let data_planes = state.nodes.iter().filter(|(_, node)| node.role == Role::DataPlane);
    let look = |name: &String| {
        let Some(known) = progress.get(name) else { return Seen::default() };
        Seen {
            epoch: known.epoch,
            connected: known.connected,
            acknowledged: known.acknowledged,
            refuses: is_refusal(&id, &known.refused),
            counts: counts(&known.counts),
            before: known.before.as_ref().map(counts),
        }
    };
    data_planes.map(|(name, _)| (name.clone(), look(name))).collect()
}
