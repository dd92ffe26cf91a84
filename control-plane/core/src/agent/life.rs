//! The life of an agent: asked for, at work, paused, retired; and until when somebody has looked at it again.
//!
//! Whoever pauses an agent stops it at once and takes nothing away: it goes on where it was. Retired is for ever: its
//! name stays as that of what it was, and its consents are revoked (by the server, as a revocation). Called by `command`
//! and `parties`. Invariant: an agent acts only while it is active in every sense and its review is not overdue; the
//! date is looked at whenever a token is given.

use crate::{
    Kind, Rejection, ResourceRef,
    agent::AgentApplied,
    command::{Action, Answer, Context, Decision, ResourceChange},
    consent,
    problem::Problem,
    provisioning,
    resource::{AgentSpec, AgentState},
    show,
    state::State,
};

/// A wish that an agent be in a state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAgentState {
    /// The agent.
    pub agent: String,
    /// How it should be.
    pub state: AgentState,
    /// Why; in the event.
    pub reason: String,
}

pub(crate) fn decide_set(state: &State, wish: &SetAgentState, context: &Context) -> Result<Decision, Rejection> {
    consent::check_reason(&wish.reason)?;
    let resource = ResourceRef::new(Kind::Agent, &wish.agent);
    let unknown = || Rejection::NotFound(vec![resource.clone()]);
    let spec = &state.agents.get(&wish.agent).ok_or_else(unknown)?.spec;
    if spec.state == AgentState::Retired && wish.state != AgentState::Retired {
        return Err(Rejection::Retired { agent: wish.agent.clone() });
    }
    // Who resumes an agent means that it acts, however it was stopped.
    let active = spec.active || wish.state == AgentState::Active;
    let after = AgentSpec { state: wish.state, active, ..spec.clone() };
    let before = show::without_status(state, &resource);
    if let Some((_, message)) = provisioning::agents::conflict(state, &wish.agent, &after) {
        return Err(Rejection::Invalid(vec![Problem { message, ..Problem::default() }]));
    }
    let held = !after.acts() && provisioning::agents::may_be_held(state, &wish.agent);
    if *spec == after && !held {
        let change = ResourceChange { resource, action: Action::Unchanged, after: before.clone(), before };
        return Ok(Decision { answer: Answer::Changes(vec![change]), ..Decision::default() });
    }
    let (name, reason) = (wish.agent.clone(), wish.reason.clone());
    let applied = AgentApplied { name, spec: after, reason, held, owner_left: false };
    let change = ResourceChange { resource, action: Action::Configured, before, after: None };
    let answer = Answer::Changes(vec![change]);
    Ok(Decision { events: vec![context.event(applied)], answer, ..Decision::default() })
}

/// That an agent's review is not overdue at that time.
pub(crate) fn check_review(agent: &str, spec: &AgentSpec, now_seconds: u64) -> Result<(), Rejection> {
    match &spec.review_by {
        Some(date) if spec.is_review_due(now_seconds) => {
            Err(Rejection::ReviewDue { agent: agent.to_owned(), date: date.clone() })
        }
        Some(_) | None => Ok(()),
    }
}
