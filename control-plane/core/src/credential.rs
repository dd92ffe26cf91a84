//! Credentials: secrets that are shown to others, by name. Here is that there is one, for whom, and who set it; what it
//! is, lies sealed beside it (`secret`).
//!
//! Those for servers go to data planes, those for identity providers never leave control planes; a name is of one of
//! the two. Setting and deleting are events of their own, so the ledger records who did it, while a ciphertext can be
//! forgotten once a later edition voids it. The word comes first and the sealing after it: what was announced and not
//! sealed is not delivered, and what was deleted is not delivered from that moment on, even where the ciphertext is
//! still there. Called by `command`, `state`, `apply` and `show`. Absent: sealing, opening and delivering (server,
//! `vault`).

use bailiwick_proto::names;
use serde::{Deserialize, Serialize};

use crate::{
    Kind, Rejection, ResourceRef,
    command::{Context, Decision},
    state::{Changed, State},
};

/// Most credentials for servers: all of them travel to every data plane in one frame.
pub const CREDENTIALS_MAX: usize = 256;
/// Most for identity providers: one each, and as many that are about to replace these.
pub const PROVIDER_SECRETS_MAX: usize = 128;
/// Longest value: a certificate chain with its key, in PEM; sealed it fits into `secret::SEALED_CHARS_MAX`.
pub const VALUE_BYTES_MAX: usize = 8_000;

/// To whom a credential is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Audience {
    /// MCP servers, by data planes.
    #[default]
    Servers,
    /// Identity providers, by control planes.
    IdentityProvider,
}

impl Audience {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Servers, Self::IdentityProvider];

    /// The kind of sealed secret that these are (`secret::name`).
    #[must_use]
    pub const fn column(self) -> &'static str {
        match self {
            Self::Servers => "credential",
            Self::IdentityProvider => "provider",
        }
    }

    /// The word on command lines and in answers.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::IdentityProvider => "identity-provider",
        }
    }

    /// Who that word is about; nobody said: servers.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|audience| audience.word() == word || word.is_empty() && audience.is_default())
    }

    const fn is_default(&self) -> bool {
        matches!(self, Self::Servers)
    }

    const fn most(self) -> (&'static str, usize) {
        match self {
            Self::Servers => ("secrets for servers", CREDENTIALS_MAX),
            Self::IdentityProvider => ("secrets for identity providers", PROVIDER_SECRETS_MAX),
        }
    }
}

/// That there is a credential.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Who set it last.
    pub actor: String,
    /// For whom.
    #[serde(default, skip_serializing_if = "Audience::is_default")]
    pub audience: Audience,
    /// When.
    pub changed: Changed,
}

/// Payload of `credential_set`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialSet {
    /// Its name.
    pub name: String,
    /// For whom.
    #[serde(default, skip_serializing_if = "Audience::is_default")]
    pub audience: Audience,
}

/// Payload of `credential_deleted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialDeleted {
    /// Its name.
    pub name: String,
}

/// Whether there is one of this name for them.
#[must_use]
pub fn is_set(state: &State, name: &str, audience: Audience) -> bool {
    state.credentials.get(name).is_some_and(|known| known.audience == audience)
}

/// The servers and identity providers whose manifests name it.
#[must_use]
pub fn used_by(state: &State, name: &str, audience: Audience) -> Vec<ResourceRef> {
    match audience {
        Audience::Servers => {
            let uses = |server: &crate::server::Server| server.spec.secrets().any(|(_, used)| used == name);
            let using = state.servers.iter().filter(|(_, server)| uses(server));
            using.map(|(server, _)| ResourceRef::new(Kind::Server, server)).collect()
        }
        Audience::IdentityProvider => {
            let uses =
                |known: &crate::identity_provider::IdentityProvider| known.spec.secrets().any(|(_, used)| used == name);
            let using = state.identity_providers.iter().filter(|(_, known)| uses(known));
            using.map(|(provider, _)| ResourceRef::new(Kind::IdentityProvider, provider)).collect()
        }
    }
}

pub(crate) fn decide_set(
    state: &State,
    name: String,
    audience: Audience,
    context: &Context,
) -> Result<Decision, Rejection> {
    if !names::is_resource_name(&name) {
        let rule = "1 to 63 lower-case letters, digits and inner hyphens, dots or underscores";
        return Err(Rejection::Malformed { what: "name of a secret", rule });
    }
    match state.credentials.get(&name) {
        Some(known) if known.audience != audience => {
            return Err(Rejection::SecretForOthers { name, audience: known.audience });
        }
        Some(_) => {}
        None => {
            let (what, max) = audience.most();
            let number = state.credentials.values().filter(|known| known.audience == audience).count();
            if number >= max {
                return Err(Rejection::TooMany { what, max });
            }
        }
    }
    Ok(Decision::done(vec![context.event(CredentialSet { name, audience })]))
}

pub(crate) fn decide_delete(state: &State, name: String, context: &Context) -> Result<Decision, Rejection> {
    if !state.credentials.contains_key(&name) {
        return Err(Rejection::SecretUnknown { name });
    }
    Ok(Decision::done(vec![context.event(CredentialDeleted { name })]))
}

pub(crate) fn evolve_set(state: &mut State, event: &CredentialSet, actor: &str, changed: Changed) {
    let credential = Credential { actor: actor.to_owned(), audience: event.audience, changed };
    state.credentials.insert(event.name.clone(), credential);
}

pub(crate) fn evolve_deleted(state: &mut State, event: &CredentialDeleted) {
    state.credentials.remove(&event.name);
}
