//! Leavers with more consents than one change may end: further changes end the rest.
//!
//! Called on the leader after a change that deactivated people: by `decisions` (directories, signals) and by `admin`
//! (manifests, revocations). A crash in between leaves consents and agents that count for nobody, as the person is
//! inactive, and who is not activated before they have ended; the next word on the person goes on with them.
//! Absent: what ends with whom (`core::leaver`).

use std::collections::BTreeSet;

use bailiwick_control_plane_core::{
    Answer, Command, State, Wish,
    agent::AGENTS_MAX,
    consent::CONSENTS_MAX,
    leaver::{self, AGENTS_AT_ONCE_MAX},
    provisioning::wish::Operation,
    revocation::REVOKED_AT_ONCE_MAX,
};

use crate::domain::{Caller, Domain, WriteError};

/// Changes that one person's consents and agents can take.
const CHANGES_MAX: usize = CONSENTS_MAX / REVOKED_AT_ONCE_MAX + AGENTS_MAX / AGENTS_AT_ONCE_MAX + 2;

/// The users who may become inactive by a wish.
pub(crate) fn of_wish(state: &State, wish: &Wish) -> BTreeSet<String> {
    let Wish::Provision(provision) = wish else { return BTreeSet::new() };
    let leaving = provision.operations.iter().filter_map(|operation| match operation {
        Operation::ReplacePerson { id, .. } | Operation::DeletePerson { id, .. } => {
            state.provisioned.person(id).map(|(name, _)| name)
        }
        // Who comes back may have to wait for what is left.
        Operation::CreatePerson { person, .. } => Some(&person.user_name),
        Operation::CreateGroup { .. } | Operation::ChangeGroup { .. } | Operation::DeleteGroup { .. } => None,
    });
    leaving.cloned().collect()
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
        for _ in 0..CHANGES_MAX {
            let command = Command::SeeOff { user: user.clone() };
            let caller = Caller { actor: actor.to_owned(), request_id: String::new() };
            let written = domain.write(command, caller).await?;
            if !matches!(written.answer, Answer::Revoked(revoked) if revoked.more) {
                break;
            }
        }
    }
    Ok(())
}
