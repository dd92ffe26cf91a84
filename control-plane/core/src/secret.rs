//! Secrets of the cluster, sealed: the authority's key, the key that signs tokens, the key that seals sessions.
//!
//! Only ciphertexts under a master key are here; the master key never is, so neither the log nor a backup of it gives a
//! secret away. Every sealing is an edition, counted per secret and bound into the ciphertext by whoever seals
//! (column, key, edition), so an older one cannot be put in its place. An edition makes the one before it void: the log
//! of events may forget that. Called by `command` and `state`. Absent: sealing and opening (server, `vault`).

use serde::{Deserialize, Serialize};

use crate::{
    Rejection,
    command::{Context, Decision},
    event::{Change, Event},
    requests,
    state::{Changed, State},
};

/// Most secrets: far more than there are kinds of them.
pub const SECRETS_MAX: usize = 1_000;
/// Longest ciphertext in hex: a certificate with its key has a tenth.
pub const SEALED_CHARS_MAX: usize = 16 * 1024;
/// A nonce of AES-256-GCM in hex.
const NONCE_CHARS: usize = 24;
/// The name of a master key: 64 bits in hex.
const MASTER_CHARS: usize = 16;

/// A wish to keep a secret in its next edition. Also the payload of `secret_sealed` (as [`SecretSealed`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealSecret {
    /// Kind of secret.
    pub column: String,
    /// Which of its kind.
    pub key: String,
    /// One more than the edition there is; 1 for the first.
    #[serde(with = "crate::decimal")]
    pub edition: u64,
    /// Name of the master key it is sealed under.
    pub master: String,
    /// Lower-case hex.
    pub nonce: String,
    /// Ciphertext and tag, lower-case hex.
    pub sealed: String,
}

/// Payload of `secret_sealed`.
pub type SecretSealed = SealSecret;

/// A sealed secret in the state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// Kind of secret.
    pub column: String,
    /// Which of its kind.
    pub key: String,
    /// How often it was sealed.
    pub edition: u64,
    /// Name of the master key.
    pub master: String,
    /// Lower-case hex.
    pub nonce: String,
    /// Ciphertext and tag, lower-case hex.
    pub sealed: String,
    /// When this edition came.
    pub changed: Changed,
}

/// Payload of `master_key_rotated`: from here on secrets are sealed under this key, and all are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MasterKeyRotated {
    /// Its name.
    pub master: String,
    /// How many secrets there were.
    #[serde(with = "crate::decimal")]
    pub secrets: u64,
}

/// What a secret is found under in the state.
#[must_use]
pub fn name(column: &str, key: &str) -> String {
    format!("{column}/{key}")
}

/// The master key that a new edition is sealed under: what was agreed on last, or what the oldest secret has.
#[must_use]
pub fn master_in_use(state: &State) -> Option<&str> {
    let oldest = || state.secrets.iter().min_by_key(|(_, secret)| secret.changed.revision);
    state.master_key.as_deref().or_else(|| oldest().map(|(_, secret)| secret.master.as_str()))
}

pub(crate) fn decide_seal(state: &State, wish: SealSecret, context: &Context) -> Result<Decision, Rejection> {
    check(&wish)?;
    let name = name(&wish.column, &wish.key);
    let known = state.secrets.get(&name);
    let same = |known: &Secret| {
        (known.edition, &known.nonce, &known.sealed, &known.master)
            == (wish.edition, &wish.nonce, &wish.sealed, &wish.master)
    };
    // The answer to the same sealing was lost.
    if known.is_some_and(same) {
        return Ok(Decision::default());
    }
    let next = known.map_or(0, |known| known.edition).saturating_add(1);
    if wish.edition != next {
        return Err(Rejection::SecretEdition { column: wish.column, key: wish.key, next });
    }
    if known.is_none() && state.secrets.len() >= SECRETS_MAX {
        return Err(Rejection::TooMany { what: "secrets", max: SECRETS_MAX });
    }
    // A later edition makes this change void, so nothing else may follow from it: not even a remembered request.
    let event = Event { request_id: String::new(), ..context.event(Change::SecretSealed(wish)) };
    Ok(Decision::done(vec![event]))
}

fn check(wish: &SealSecret) -> Result<(), Rejection> {
    let is_hex = |text: &str| text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c));
    if !requests::is_id(&wish.column) || !requests::is_id(&wish.key) || wish.column.contains('/') {
        let rule = "a column without `/` and a key, each of 1 to 128 visible ASCII characters";
        return Err(Rejection::Malformed { what: "name of a secret", rule });
    }
    check_master(&wish.master)?;
    if wish.nonce.len() != NONCE_CHARS || !is_hex(&wish.nonce) {
        return Err(Rejection::Malformed { what: "nonce", rule: "24 hexadecimal digits" });
    }
    if wish.sealed.is_empty() || wish.sealed.len() > SEALED_CHARS_MAX || !is_hex(&wish.sealed) {
        return Err(Rejection::Malformed { what: "sealed secret", rule: "at most 16 KiB of hexadecimal digits" });
    }
    Ok(())
}

fn check_master(master: &str) -> Result<(), Rejection> {
    if master.len() != MASTER_CHARS || !master.bytes().all(|c| c.is_ascii_hexdigit() && !c.is_ascii_uppercase()) {
        return Err(Rejection::Malformed { what: "name of a master key", rule: "16 hexadecimal digits" });
    }
    Ok(())
}

pub(crate) fn decide_rotated(state: &State, master: String, context: &Context) -> Result<Decision, Rejection> {
    check_master(&master)?;
    if state.secrets.values().any(|secret| secret.master != master) {
        return Err(Rejection::SecretsUnderOther { master });
    }
    if state.master_key.as_deref() == Some(&master) {
        return Ok(Decision::default());
    }
    let rotated = MasterKeyRotated { master, secrets: u64::try_from(state.secrets.len()).unwrap_or(u64::MAX) };
    Ok(Decision::done(vec![context.event(Change::MasterKeyRotated(rotated))]))
}

/// The revision of the change that `events`, the next change, make void: the edition before theirs.
#[must_use]
pub fn made_void_by(state: &State, events: &[Event]) -> Option<u64> {
    match events {
        [Event { change: Change::SecretSealed(next), .. }] => {
            state.secrets.get(&name(&next.column, &next.key)).map(|last| last.changed.revision)
        }
        _ => None,
    }
}

pub(crate) fn evolve_sealed(state: &mut State, event: &SecretSealed, changed: Changed) {
    let SecretSealed { column, key, edition, master, nonce, sealed } = event.clone();
    let secret = Secret { column, key, edition, master, nonce, sealed, changed };
    state.secrets.insert(name(&event.column, &event.key), secret);
}

pub(crate) fn evolve_rotated(state: &mut State, event: &MasterKeyRotated) {
    state.master_key = Some(event.master.clone());
}
