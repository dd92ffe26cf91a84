//! Rollouts as people and programs read them: JSON with the plan, how far it has come, and how it ended.
//!
//! Called by the server, which adds what it knows of the nodes. Numbers of 64 bits are decimal strings, as everywhere.

use serde_json::{Map, Value, json};

use super::{Ended, Plan, Rollout};
use crate::{ResourceRef, State, show::time, state::Changed};

/// The rollout of this id; `None` where there was none, or where it is forgotten.
#[must_use]
pub fn one(state: &State, id: u64) -> Option<Value> {
    let rollouts = &state.rollouts;
    let under_way = rollouts.under_way.as_ref().filter(|rollout| rollout.id == id).map(under_way);
    under_way.or_else(|| rollouts.ended.iter().find(|ended| ended.id == id).map(ended))
}

/// The one under way and those that ended last, the latest first.
#[must_use]
pub fn all(state: &State) -> Vec<Value> {
    let rollouts = &state.rollouts;
    rollouts.under_way.iter().map(under_way).chain(rollouts.ended.iter().rev().map(ended)).collect()
}

fn under_way(rollout: &Rollout) -> Value {
    let Rollout { id, by, plan, began, step, stepped, .. } = rollout;
    let mut shown = begun(*id, "under_way", by, &rollout.resources(), plan, *began, *step);
    shown.insert("share".into(), rollout.share().into());
    shown.insert("stepped_at".into(), time(stepped.time).into());
    shown.insert("stepped_revision".into(), stepped.revision.to_string().into());
    Value::Object(shown)
}

fn ended(rollout: &Ended) -> Value {
    let Ended { id, by, plan, resources, began, step, outcome, reason, ended_by, ended } = rollout;
    let mut shown = begun(*id, outcome.as_str(), by, resources, plan, *began, *step);
    shown.insert("reason".into(), reason.as_str().into());
    shown.insert("ended_by".into(), ended_by.as_str().into());
    shown.insert("ended_at".into(), time(ended.time).into());
    shown.insert("ended_revision".into(), ended.revision.to_string().into());
    Value::Object(shown)
}

fn begun(
    id: u64,
    state: &str,
    by: &str,
    resources: &[ResourceRef],
    plan: &Plan,
    began: Changed,
    step: u64,
) -> Map<String, Value> {
    let resource = |one: &ResourceRef| json!({"kind": one.kind.as_str(), "name": one.name});
    let members = [
        ("id", id.to_string().into()),
        ("state", state.into()),
        ("resources", resources.iter().map(resource).collect()),
        ("shares", plan.shares.clone().into()),
        ("step", step.into()),
        ("watch_seconds", plan.watch_seconds.into()),
        ("denials_max", plan.denials_max.into()),
        ("refusals_max", plan.refusals_max.into()),
        ("by", by.into()),
        ("began_at", time(began.time).into()),
        ("began_revision", began.revision.to_string().into()),
    ];
    members.into_iter().map(|(key, value): (&str, Value)| (key.to_owned(), value)).collect()
}
