//! Credentials: secrets that data planes show to servers, by name. Here is that there is one, and who set it; what it
//! is, lies sealed beside it (`secret`).
//!
//! Setting and deleting are events of their own, so the ledger records who did it, while a ciphertext can be forgotten
//! once a later edition voids it. The word comes first and the sealing after it: what was announced and not sealed is
//! not delivered, and what was deleted is not delivered from that moment on, even where the ciphertext is still there.
//! Called by `command`, `state`, `apply` and `show`. Absent: sealing, opening and delivering (server, `vault`).

use bailiwick_proto::names;
use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::{Context, Decision},
    state::{Changed, State},
};

/// The kind of sealed secret that credentials are (`secret::name`).
pub const COLUMN: &str = "credential";
/// Most credentials: all of them travel to every data plane in one frame.
pub const CREDENTIALS_MAX: usize = 256;
/// Longest value: a certificate chain with its key, in PEM; sealed it fits into `secret::SEALED_CHARS_MAX`.
pub const VALUE_BYTES_MAX: usize = 8_000;

/// That there is a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Who set it last.
    pub actor: String,
    /// When.
    pub changed: Changed,
}

/// Payload of `credential_set`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialSet {
    /// Its name.
    pub name: String,
}

/// Payload of `credential_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialDeleted {
    /// Its name.
    pub name: String,
}

/// Whether there is one of this name.
#[must_use]
pub fn is_set(state: &State, name: &str) -> bool {
    state.credentials.contains_key(name)
}

/// The servers that are shown it, or given it.
pub fn used_by<'a>(state: &'a State, name: &'a str) -> impl Iterator<Item = &'a str> {
    let uses = move |server: &crate::server::Server| server.spec.secrets().any(|(_, used)| used == name);
    state.servers.iter().filter(move |(_, server)| uses(server)).map(|(server, _)| server.as_str())
}

pub(crate) fn decide_set(state: &State, name: String, context: &Context) -> Result<Decision, Rejection> {
    if !names::is_resource_name(&name) {
        let rule = "1 to 63 lower-case letters, digits and inner hyphens, dots or underscores";
        return Err(Rejection::Malformed { what: "name of a secret", rule });
    }
    if !is_set(state, &name) && state.credentials.len() >= CREDENTIALS_MAX {
        return Err(Rejection::TooMany { what: "secrets for servers", max: CREDENTIALS_MAX });
    }
    Ok(Decision::done(vec![context.event(CredentialSet { name })]))
}

pub(crate) fn decide_delete(state: &State, name: String, context: &Context) -> Result<Decision, Rejection> {
    if !is_set(state, &name) {
        return Err(Rejection::SecretUnknown { name });
    }
    Ok(Decision::done(vec![context.event(CredentialDeleted { name })]))
}

pub(crate) fn evolve_set(state: &mut State, event: &CredentialSet, actor: &str, changed: Changed) {
    state.credentials.insert(event.name.clone(), Credential { actor: actor.to_owned(), changed });
}

pub(crate) fn evolve_deleted(state: &mut State, event: &CredentialDeleted) {
    state.credentials.remove(&event.name);
}
