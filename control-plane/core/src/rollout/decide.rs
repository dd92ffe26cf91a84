//! Deciding on rollouts: begin one, go on to the next share or to everybody, take it back.
//!
//! What is to be rolled out is checked just as an apply of it would be, at the beginning and once more at the end:
//! where it can no longer be applied by then, it goes back. Steps name the step they start from, so a step that is
//! asked for twice, or by a leader of yesterday, happens once.

use std::collections::BTreeMap;

use bailiwick_proto::rollout::is_in_share;

use super::{
    Outcome, Plan, Rollout, RolloutBegun, RolloutEnded, RolloutStaged, RolloutStepped, SHARES_MAX, STAGED_MAX, Staged,
    WATCH_SECONDS_MAX, below, data_planes,
};
use crate::{
    Kind, Manifest, Problem, Rejection, ResourceRef, Spec, State, apply,
    command::{Action, Answer, Context, Decision, ResourceChange},
    consent,
    event::Event,
};

/// Longest reason that is made of problems.
const REASON_CHARS_MAX: usize = 512;

/// A wish to roll a change out in stages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BeginRollout {
    /// What is to be, from `manifest::parse`.
    pub manifests: Vec<Manifest>,
    /// How it is to get there.
    pub plan: Plan,
}

/// A wish that a rollout goes on to its next share, and from the last one to everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdvanceRollout {
    /// Which; absent: the one under way.
    pub rollout: Option<u64>,
    /// Only from this step; absent: from wherever it is.
    pub from: Option<u64>,
    /// Why.
    pub reason: String,
}

/// A wish that a rollout counts for nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeBackRollout {
    /// Which; absent: the one under way.
    pub rollout: Option<u64>,
    /// Why.
    pub reason: String,
}

/// What a step came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stepped {
    /// The rollout; 0: nothing was different, so there is none.
    pub rollout: u64,
    /// What is different for whom it counts.
    pub changes: Vec<ResourceChange>,
    /// Of a rollout that begins: the data planes in its first share, in the order of their names.
    pub first_share: Vec<String>,
}

pub(crate) fn decide_begin(state: &State, wish: &BeginRollout, context: &Context) -> Result<Decision, Rejection> {
    let BeginRollout { manifests, plan } = wish;
    check_plan(plan)?;
    if let Some(rollout) = &state.rollouts.under_way {
        return Err(Rejection::RolloutUnderWay { rollout: rollout.id });
    }
    let differing = manifests.iter().filter(|manifest| apply::differs(state, manifest, context));
    let problems: Vec<Problem> = differing.filter_map(|manifest| unstageable(state, manifest)).collect();
    if !problems.is_empty() {
        return Err(Rejection::Invalid(problems));
    }
    let applied = apply::decide_apply(state, manifests, &BTreeMap::new(), context)?;
    let Answer::Changes(changes) = applied.answer else { return Ok(Decision::default()) };
    let differ = |change: &ResourceChange| change.action != Action::Unchanged;
    let different = manifests.iter().zip(&changes).filter(|(_, change)| differ(change));
    let staged: Vec<(String, Staged)> =
        different.filter_map(|(manifest, _)| Some((manifest.name.clone(), Staged::of(&manifest.spec)?))).collect();
    if staged.is_empty() {
        return Ok(Decision { answer: answer(0, changes), ..Decision::default() });
    }
    if staged.len() > STAGED_MAX {
        return Err(Rejection::TooMany { what: "resources in one rollout", max: STAGED_MAX });
    }
    if data_planes(state).next().is_none() {
        return Err(Rejection::NobodyToRollOutTo);
    }
    let rollout = state.rollouts.begun.saturating_add(1);
    let below = below(state, rollout, plan.share(0).unwrap_or(100));
    let begun = context.event(RolloutBegun { rollout, plan: plan.clone(), below });
    let staged = staged.into_iter().map(|(name, staged)| context.event(RolloutStaged { rollout, name, staged }));
    let events = std::iter::once(begun).chain(staged).collect();
    let is_first = |name: &&String| is_in_share(&rollout.to_string(), name, below);
    let first_share = data_planes(state).filter(is_first).cloned().collect();
    let answer = Answer::Rollout(Stepped { rollout, changes, first_share });
    Ok(Decision { events, answer, repeated: None, warnings: applied.warnings })
}

fn check_plan(plan: &Plan) -> Result<(), Rejection> {
    let ascends = plan.shares.is_sorted_by(|a, b| a < b) && plan.shares.iter().all(|share| (1..=100).contains(share));
    if plan.shares.is_empty() || plan.shares.len() > SHARES_MAX || !ascends {
        return Err(Rejection::Malformed { what: "shares", rule: "1 to 16 ascending percentages from 1 to 100" });
    }
    if plan.watch_seconds == 0 || plan.watch_seconds > WATCH_SECONDS_MAX {
        return Err(Rejection::Malformed { what: "time of watching", rule: "between a second and a week" });
    }
    if plan.denials_max > 100 {
        return Err(Rejection::Malformed { what: "bound on denials", rule: "0 to 100 percentage points" });
    }
    Ok(())
}

/// What keeps a manifest from being rolled out in stages.
fn unstageable(state: &State, manifest: &Manifest) -> Option<Problem> {
    let name = &manifest.name;
    match &manifest.spec {
        Spec::User(_) | Spec::Agent(_) | Spec::Client(_) | Spec::IdentityProvider(_) | Spec::DecisionClient(_) => {
            let kind = manifest.kind();
            let article = if matches!(kind, Kind::Agent | Kind::IdentityProvider) { "an" } else { "a" };
            let message =
                format!("{article} {kind} cannot be rolled out in stages: who may act is the same everywhere");
            Some(manifest.problem("kind", message))
        }
        Spec::Server(spec) => match state.servers.get(name) {
            None => {
                let message = "a new Server cannot be rolled out in stages: apply it first; nobody reaches it before a \
                               VirtualServer lists it";
                Some(manifest.problem("metadata.name", message))
            }
            Some(known) if known.spec.endpoint != spec.endpoint => {
                let message = "where a Server is cannot be rolled out in stages: its tools are approved for all nodes";
                Some(manifest.problem("spec.endpoint", message))
            }
            Some(_) => None,
        },
        Spec::VirtualServer(_) | Spec::Policy(_) => None,
    }
}

pub(crate) fn decide_advance(state: &State, wish: &AdvanceRollout, context: &Context) -> Result<Decision, Rejection> {
    consent::check_reason(&wish.reason)?;
    let rollout = under_way(state, wish.rollout)?;
    if wish.from.is_some_and(|from| from != rollout.step) {
        return Ok(Decision { answer: answer(rollout.id, Vec::new()), ..Decision::default() });
    }
    let step = rollout.step.saturating_add(1);
    let Some(share) = rollout.plan.share(step) else { return Ok(conclude(state, rollout, wish, context)) };
    // Nodes that have gone since leave the share no smaller.
    let below = below(state, rollout.id, share).max(rollout.below);
    let stepped = RolloutStepped { rollout: rollout.id, step, below, reason: wish.reason.clone() };
    let answer = answer(rollout.id, Vec::new());
    Ok(Decision { events: vec![context.event(stepped)], answer, ..Decision::default() })
}

/// Everybody gets it, or, where it can no longer be applied, nobody.
fn conclude(state: &State, rollout: &Rollout, wish: &AdvanceRollout, context: &Context) -> Decision {
    let applied = apply::apply_all(state, &rollout.manifests(), &BTreeMap::new(), context);
    let end = |outcome, reason| ended(rollout, outcome, reason, context);
    match applied {
        Ok(Decision { mut events, answer: applied, warnings, .. }) => {
            events.push(end(Outcome::Finished, wish.reason.clone()));
            let changes = if let Answer::Changes(changes) = applied { changes } else { Vec::new() };
            Decision { events, answer: answer(rollout.id, changes), repeated: None, warnings }
        }
        Err(rejection) => {
            let problems: Vec<String> = rejection.problems().iter().map(ToString::to_string).collect();
            let reason = format!("it can no longer be applied: {}", problems.join("; "));
            let reason = reason.chars().take(REASON_CHARS_MAX).collect();
            let events = vec![end(Outcome::TakenBack, reason)];
            Decision { events, answer: answer(rollout.id, Vec::new()), ..Decision::default() }
        }
    }
}

pub(crate) fn decide_take_back(
    state: &State,
    wish: &TakeBackRollout,
    context: &Context,
) -> Result<Decision, Rejection> {
    consent::check_reason(&wish.reason)?;
    let id = wish.rollout;
    let gone = state.rollouts.ended.iter().find(|ended| Some(ended.id) == id);
    if let Some(gone) = gone.filter(|gone| gone.outcome == Outcome::TakenBack) {
        return Ok(Decision { answer: answer(gone.id, Vec::new()), ..Decision::default() });
    }
    let rollout = under_way(state, id)?;
    let events = vec![ended(rollout, Outcome::TakenBack, wish.reason.clone(), context)];
    Ok(Decision { events, answer: answer(rollout.id, Vec::new()), ..Decision::default() })
}

/// The answer to a request that was carried out before.
pub(crate) fn repeat(state: &State, rollout: Option<u64>) -> Answer {
    answer(rollout.unwrap_or(state.rollouts.begun), Vec::new())
}

/// Refuses to change what is being rolled out.
pub(crate) fn refuse_touched<'a>(
    state: &State,
    resources: impl IntoIterator<Item = &'a ResourceRef>,
) -> Result<(), Rejection> {
    let Some(rollout) = &state.rollouts.under_way else { return Ok(()) };
    let touched = resources.into_iter().find(|resource| rollout.touches(resource));
    touched.map_or(Ok(()), |resource| Err(Rejection::RolledOut { resource: resource.clone(), rollout: rollout.id }))
}

fn under_way(state: &State, id: Option<u64>) -> Result<&Rollout, Rejection> {
    let rollouts = &state.rollouts;
    match (&rollouts.under_way, id) {
        (Some(rollout), None) => Ok(rollout),
        (Some(rollout), Some(id)) if rollout.id == id => Ok(rollout),
        (None, None) => Err(Rejection::NoRollout),
        (_, Some(id)) => {
            let ended = rollouts.ended.iter().find(|ended| ended.id == id);
            Err(ended.map_or(Rejection::RolloutUnknown(id), |ended| {
                let outcome = ended.outcome.as_str();
                Rejection::RolloutEnded { rollout: id, outcome }
            }))
        }
    }
}

fn ended(rollout: &Rollout, outcome: Outcome, reason: String, context: &Context) -> Event {
    context.event(RolloutEnded { rollout: rollout.id, outcome, reason })
}

const fn answer(rollout: u64, changes: Vec<ResourceChange>) -> Answer {
    Answer::Rollout(Stepped { rollout, changes, first_share: Vec::new() })
}
