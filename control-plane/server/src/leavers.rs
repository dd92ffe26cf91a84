//! Leavers with more consents or agents than one change may end: further changes end the rest.
//!
//! Called after a change that deactivated people, by `decisions` (directories) and by `admin` (manifests,
//! revocations), so that whoever asked hears of it when all has ended, of agents that a directory retired too; and by
//! `leadership`: whatever is left of anybody, of an earlier leader's or of a signal's too, is ended without another
//! word. Invariants: what is left counts for nobody meanwhile, as the person is inactive, and who is not activated
//! before it has ended; everybody is looked at once a node leads, and again after each change by which somebody may
//! leave. Absent: what ends with whom (`core::leaver`).

use std::{collections::BTreeSet, time::Duration};

use bailiwick_control_plane_core::{
    Answer, Command, State, Wish,
    agent::AGENTS_MAX,
    consent::CONSENTS_MAX,
    leaver::{self, AGENTS_AT_ONCE_MAX},
    provisioning::{agents, wish::Operation},
    revocation::{REVOKED_AT_ONCE_MAX, Revoke, Target},
};
use bailiwick_runtime::Shutdown;

use crate::domain::{Caller, Domain, WriteError};

/// Changes that one person's consents and agents can take.
const CHANGES_MAX: usize = CONSENTS_MAX / REVOKED_AT_ONCE_MAX + AGENTS_MAX / AGENTS_AT_ONCE_MAX + 2;
/// Between two looks of the leader at whether somebody may have left.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Ends what is left of anybody, until shutdown; dropped when this node leads no more.
pub(crate) async fn see_off(domain: &Domain, node: &str, shutdown: &Shutdown) {
    let actor = format!("node:{node}");
    let mut done = None;
    loop {
        let left_at = domain.left_at();
        if done != Some(left_at) {
            done = end_all(domain, &actor).await.then_some(left_at);
        }
        if shutdown.or_stop(tokio::time::sleep(LOOK_EVERY)).await.is_none() {
            return;
        }
    }
}

/// Whether nothing is left of anybody.
async fn end_all(domain: &Domain, actor: &str) -> bool {
    // Away from the tasks that serve others: perhaps a million consents are looked at, on a copy that costs nothing.
    let (state, now) = (domain.read(Clone::clone), domain.now_micros() / 1_000_000);
    let looking = tokio::task::spawn_blocking(move || {
        let users = leaver::all_unfinished(&state, now).into_iter().map(|user| Command::SeeOff { user });
        users.chain(agents::all_unfinished(&state, now).into_iter().map(retired)).collect::<Vec<_>>()
    });
    let Ok(left) = looking.await else { return false };
    for command in left {
        if let Err(error) = end(domain, &command, actor).await {
            tracing::warn!(%error, "what a leaver had cannot be ended now; trying again");
            return false;
        }
        tracing::info!("what was left of a leaver has ended");
    }
    true
}

/// The users who may become inactive by a wish.
pub(crate) fn of_wish(state: &State, wish: &Wish) -> BTreeSet<String> {
    let Wish::Provision(provision) = wish else { return BTreeSet::new() };
    let leaving = provision.operations.iter().filter_map(|operation| match operation {
        Operation::ReplacePerson { id, .. } | Operation::DeletePerson { id, .. } => {
            state.provisioned.person(id).map(|(name, _)| name)
        }
        // Who comes back may have to wait for what is left.
        Operation::CreatePerson { person, .. } => Some(&person.user_name),
        Operation::CreateGroup { .. }
        | Operation::ChangeGroup { .. }
        | Operation::DeleteGroup { .. }
        | Operation::CreateAgent { .. }
        | Operation::ReplaceAgent { .. }
        | Operation::DeleteAgent { .. } => None,
    });
    leaving.cloned().collect()
}

/// The agents that may be retired by a wish.
pub(crate) fn agents_of_wish(state: &State, wish: &Wish) -> BTreeSet<String> {
    let Wish::Provision(provision) = wish else { return BTreeSet::new() };
    let retired = provision.operations.iter().filter_map(|operation| {
        let Operation::DeleteAgent { id, .. } = operation else { return None };
        state.provisioned.agent(id).map(|(name, _)| name.clone())
    });
    retired.collect()
}

/// Ends what is left of those of these users who are inactive.
///
/// # Errors
/// Some of it may be left.
pub(crate) async fn finish(domain: &Domain, users: &BTreeSet<String>, actor: &str) -> Result<(), WriteError> {
    if users.is_empty() {
        return Ok(());
    }
    let now = domain.now_micros() / 1_000_000;
    for user in domain.read(|state| leaver::unfinished(state, users, now)) {
        end(domain, &Command::SeeOff { user }, actor).await?;
    }
    Ok(())
}

/// Ends what is left of those of these agents that are retired.
///
/// # Errors
/// Some of it may be left.
pub(crate) async fn finish_agents(domain: &Domain, names: &BTreeSet<String>, actor: &str) -> Result<(), WriteError> {
    if names.is_empty() {
        return Ok(());
    }
    let now = domain.now_micros() / 1_000_000;
    for agent in domain.read(|state| agents::unfinished(state, names, now)) {
        end(domain, &retired(agent), actor).await?;
    }
    Ok(())
}

fn retired(agent: String) -> Command {
    Command::Revoke(Revoke { target: Target::Agent(agent), reason: "the agent is retired".to_owned() })
}

/// Asks until nothing is left.
async fn end(domain: &Domain, command: &Command, actor: &str) -> Result<(), WriteError> {
    for _ in 0..CHANGES_MAX {
        let caller = Caller { actor: actor.to_owned(), request_id: String::new() };
        let written = domain.write(command.clone(), caller).await?;
        if !matches!(written.answer, Answer::Revoked(revoked) if revoked.more) {
            return Ok(());
        }
    }
    // Consents do not come for who is inactive.
    Err(WriteError::Busy)
}

#[cfg(test)]
mod tests;
