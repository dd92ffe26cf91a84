//! Rotation of the cluster's own keys: of the one that signs tokens, of the one that the authorization server seals
//! with, of the one that binding keys are sealed under in tokens, and of the one that data planes sign contexts with.
//!
//! The server seals the new key first, in the next edition of its secret; the word that is decided here makes it count,
//! for everybody at one revision. The key before it goes on to be believed until the last of what it may have made has
//! ended, and is then retired; `at_once`, for a key that somebody else may have, retires it with the same word.
//! Called by `command`, `state` and `view`; the leader asks [`overdue`] and [`is_due`].
//! Invariants: one key of each kind is in use; it cannot be retired; one in use is sealed in the edition that the word
//! names, so whatever breaks off between sealing and word leaves the key before it in use; and whoever seals says which
//! key is in use, so that it is never sealed away.
//! Absent: the keys themselves (`secret` has the ciphertexts), what a token key is (`token_key`).

mod events;
mod seals;

use serde::{Deserialize, Serialize};

pub(crate) use self::events::{evolve_seal_retired, evolve_seal_rotated, evolve_token_retired, evolve_token_rotated};
use self::seals::Seals;
pub use self::{
    events::{
        AuthorizationKeyRetired, AuthorizationKeyRotated, BindingKeyRetired, BindingKeyRotated, ContextKeyRetired,
        ContextKeyRotated, TokenKeyRetired, TokenKeyRotated,
    },
    seals::{in_use, seal_keys},
};
use crate::{
    Rejection,
    command::{Context, Decision},
    consent::{self, Consent},
    event::Event,
    secret::{self, SealSecret},
    standing,
    state::{Changed, State},
    token_key::{self, StoredTokenKey, TOKEN_KEYS_MAX, TokenKey},
};

/// Most keys of the authorization server at a time: what comes back is tried against each.
pub const AUTHORIZATION_KEYS_MAX: usize = 3;
/// Most keys that binding keys are sealed under at a time. Tokens name theirs, so none is tried in vain.
pub const BINDING_KEYS_MAX: usize = 8;
/// Most keys of contexts at a time: services look theirs up by its id.
pub const CONTEXT_KEYS_MAX: usize = 8;
/// How long a data plane may sign with a key that was replaced: it serves so long without control planes, by default.
pub const CONTEXT_SECONDS_MAX: u64 = 24 * 3_600;
/// Longest that anything but refresh tokens and codes is sealed for: the session of a browser.
pub const SEALED_SECONDS_MAX: u64 = 10 * 3_600;
/// How much longer than what it made a key is kept, in seconds: for nodes that heard of its replacement late.
pub const KEPT_SECONDS: u64 = 300;
/// Where the secrets lie: column, and the one key there is in it.
pub const TOKEN_SIGNING: &str = "token_signing";
/// As [`TOKEN_SIGNING`].
pub const AUTHORIZATION: &str = "authorization";
/// As [`TOKEN_SIGNING`].
pub const TOKEN_BINDING: &str = "token_binding";
/// As [`TOKEN_SIGNING`].
pub const CONTEXT_SIGNING: &str = "context_signing";
/// As [`TOKEN_SIGNING`].
pub const THE_KEY: &str = "1";
/// Why keys are retired by a rotation.
const AT_ONCE: &str = "replaced at once";
const DAY_MICROS: u64 = 24 * 3_600 * 1_000_000;

/// How a key was replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replaced {
    /// When.
    pub changed: Changed,
    /// Until when what it made may count, Unix seconds.
    pub until: u64,
}

/// A key that seals in the state, once its kind was rotated for the first time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealKey {
    /// Since when it is in use; revision 0: since there is one.
    pub changed: Changed,
    /// Absent while it is in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<Replaced>,
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyWish {
    /// Sign tokens with another key.
    RotateToken(RotateToken),
    /// Seal with another key.
    RotateAuthorization(RotateSeal),
    /// Seal binding keys with another key.
    RotateBinding(RotateSeal),
    /// Sign contexts with another key.
    RotateContext(RotateSeal),
    /// Keep the keys of a kind in the next edition of their secret.
    Seal {
        /// Of which kind.
        kind: KeyKind,
        /// The id of the one in use, which is among them; none while none is listed.
        in_use: Option<String>,
        /// The edition.
        sealing: SealSecret,
    },
    /// Believe a key no more.
    Retire {
        /// Of which kind.
        kind: KeyKind,
        /// Its id.
        key: String,
    },
}

/// A kind of key that is rotated here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// Signs tokens.
    TokenSigning,
    /// Seals what clients and browsers bring back.
    Authorization,
    /// Binding keys are sealed under it in tokens.
    TokenBinding,
    /// Data planes sign with it what servers are told of calls.
    ContextSigning,
}

impl KeyKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::TokenSigning, Self::Authorization, Self::TokenBinding, Self::ContextSigning];

    /// The word for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TokenSigning => "token-signing",
            Self::Authorization => "authorization",
            Self::TokenBinding => "token-binding",
            Self::ContextSigning => "context-signing",
        }
    }

    /// What a word is for.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.word() == word)
    }
}

/// A wish to sign tokens with another key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotateToken {
    /// Its public half.
    pub key: TokenKey,
    /// The edition in which its private half is sealed.
    pub edition: u64,
    /// What the keys before it signed counts no more.
    pub at_once: bool,
    /// Why.
    pub reason: String,
}

/// A wish to seal with another key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RotateSeal {
    /// Its id.
    pub key: String,
    /// The id of the one in use.
    pub replaces: String,
    /// The edition in which it is sealed.
    pub edition: u64,
    /// What the keys before it sealed counts no more.
    pub at_once: bool,
    /// Why.
    pub reason: String,
}

/// Why the keys stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysStay {
    /// Another key was sealed meanwhile, or put in use.
    #[error("the key to be put in use is not what {column} holds; ask again")]
    NotSealed {
        /// Kind of secret.
        column: &'static str,
    },
    /// So many keys are kept for what they sealed.
    #[error(
        "{max} keys are kept already, for what they sealed and still counts, one of them until {until} (Unix seconds); \
         ask again then, or with --at-once, which ends it all"
    )]
    Kept {
        /// How many there may be.
        max: usize,
        /// When there will be one less, Unix seconds.
        until: u64,
    },
    /// It cannot be retired.
    #[error("key {key} is in use")]
    InUse {
        /// Its id.
        key: String,
    },
    /// It cannot be retired yet.
    #[error("what key {key} made counts until {until} (Unix seconds)")]
    StillCounts {
        /// Its id.
        key: String,
        /// Unix seconds.
        until: u64,
    },
}

/// The key that signs tokens.
#[must_use]
pub fn signer(state: &State) -> Option<&StoredTokenKey> {
    let in_use = state.token_keys.values().filter(|one| one.replaced.is_none());
    in_use.max_by_key(|one| one.changed.revision)
}

/// The key that is sealed with, once it was rotated for the first time.
#[must_use]
pub fn sealer(state: &State) -> Option<(&str, &SealKey)> {
    in_use(&state.authorization_keys)
}

/// The keys whose time has come.
#[must_use]
pub fn overdue(state: &State, now_seconds: u64) -> Vec<KeyWish> {
    let is_over = |replaced: &Option<Replaced>| replaced.is_some_and(|replaced| replaced.until <= now_seconds);
    let tokens = state.token_keys.iter().filter(|(_, one)| is_over(&one.replaced));
    let tokens = tokens.map(|(kid, _)| KeyWish::Retire { kind: KeyKind::TokenSigning, key: kid.clone() });
    let sealing = KeyKind::ALL.into_iter().filter_map(|kind| Some((kind, seal_keys(state, kind)?)));
    let seals = sealing.flat_map(|(kind, keys)| {
        let over = keys.iter().filter(|(_, one)| is_over(&one.replaced));
        over.map(move |(id, _)| KeyWish::Retire { kind, key: id.clone() })
    });
    tokens.chain(seals).collect()
}

/// Whether the key that signs tokens is so many days old; 0: it never is.
#[must_use]
pub fn is_due(state: &State, now_micros: u64, days: u64) -> bool {
    let age = signer(state).map_or(0, |key| now_micros.saturating_sub(key.changed.time));
    days > 0 && age >= days.saturating_mul(DAY_MICROS)
}

/// Consents that count and have a token that does.
#[must_use]
pub fn with_tokens(state: &State, now_seconds: u64) -> usize {
    let has = |one: &&Consent| one.token.as_ref().is_some_and(|token| token.expires_at > now_seconds);
    live(state, now_seconds).filter(has).count()
}

/// Consents that count and have a refresh token.
#[must_use]
pub fn with_refresh_tokens(state: &State, now_seconds: u64) -> usize {
    live(state, now_seconds).filter(|one| one.refresh.is_some()).count()
}

fn live(state: &State, now_seconds: u64) -> impl Iterator<Item = &Consent> {
    state.consents.values().filter(move |one| one.is_live(now_seconds))
}

/// When the last token has ended that was signed by now. A consent names its last token alone, but those before it
/// were no longer than tokens are, unless it is an administrator's, which has one.
fn last_token_ends(state: &State, now: u64) -> u64 {
    let shortly = now.saturating_add(standing::TOKEN_LIFETIME_SECONDS_MAX);
    let ends = |one: &Consent| {
        let last = one.token.as_ref()?.expires_at;
        Some(last.max(shortly.min(one.granted.expires_at)))
    };
    live(state, now).filter_map(ends).max().unwrap_or(now).max(now)
}

/// When the last of what was sealed by now has ended.
fn last_seal_ends(state: &State, now: u64) -> u64 {
    let has = |one: &&Consent| one.refresh.is_some() || one.code.as_ref().is_some_and(|code| !code.redeemed);
    let last = live(state, now).filter(has).map(|one| one.granted.expires_at).max().unwrap_or(now);
    last.max(now.saturating_add(SEALED_SECONDS_MAX))
}

pub(crate) fn decide(state: &State, wish: KeyWish, context: &Context) -> Result<Decision, Rejection> {
    match wish {
        KeyWish::RotateToken(wish) => decide_token(state, wish, context),
        KeyWish::RotateAuthorization(wish) => seals::decide_rotate(state, Seals::Authorization, wish, context),
        KeyWish::RotateBinding(wish) => seals::decide_rotate(state, Seals::TokenBinding, wish, context),
        KeyWish::RotateContext(wish) => seals::decide_rotate(state, Seals::ContextSigning, wish, context),
        KeyWish::Seal { kind, in_use, sealing } => {
            let (known, column) = match kind {
                KeyKind::TokenSigning => (signer(state).map(|known| known.key.kid.as_str()), TOKEN_SIGNING),
                KeyKind::Authorization => (sealer(state).map(|(id, _)| id), AUTHORIZATION),
                KeyKind::TokenBinding => (seals::in_use(&state.binding_keys).map(|(id, _)| id), TOKEN_BINDING),
                KeyKind::ContextSigning => (seals::in_use(&state.context_keys).map(|(id, _)| id), CONTEXT_SIGNING),
            };
            // A rotation may be under way whose outcome whoever seals does not know.
            if known != in_use.as_deref() || sealing.column != column || sealing.key != THE_KEY {
                return Err(KeysStay::NotSealed { column }.into());
            }
            secret::decide_seal(state, sealing, context)
        }
        KeyWish::Retire { kind: KeyKind::TokenSigning, key } => {
            let known = state.token_keys.get(&key).map(|one| one.replaced);
            let retired = |kid| context.event(TokenKeyRetired { kid, reason: String::new() });
            decide_retire(known, key, retired, context)
        }
        KeyWish::Retire { kind: KeyKind::Authorization, key } => {
            let known = state.authorization_keys.get(&key).map(|one| one.replaced);
            let retired = |key| context.event(Seals::Authorization.retired(key, String::new()));
            decide_retire(known, key, retired, context)
        }
        KeyWish::Retire { kind: KeyKind::TokenBinding, key } => {
            let known = state.binding_keys.get(&key).map(|one| one.replaced);
            let retired = |key| context.event(Seals::TokenBinding.retired(key, String::new()));
            decide_retire(known, key, retired, context)
        }
        KeyWish::Retire { kind: KeyKind::ContextSigning, key } => {
            let known = state.context_keys.get(&key).map(|one| one.replaced);
            let retired = |key| context.event(Seals::ContextSigning.retired(key, String::new()));
            decide_retire(known, key, retired, context)
        }
    }
}

fn decide_token(state: &State, wish: RotateToken, context: &Context) -> Result<Decision, Rejection> {
    let RotateToken { key, edition, at_once, reason } = wish;
    token_key::check(&key)?;
    consent::check_reason(&reason)?;
    check_sealed(state, TOKEN_SIGNING, edition)?;
    if state.token_keys.contains_key(&key.kid) {
        return Err(Rejection::TokenKeyConflict(key.kid));
    }
    if state.token_keys.len() >= TOKEN_KEYS_MAX && !at_once {
        return Err(Rejection::TooMany { what: "token keys", max: TOKEN_KEYS_MAX });
    }
    let now = context.now_seconds();
    let in_use = state.token_keys.iter().filter(|(_, one)| one.replaced.is_none());
    let until = if at_once { now } else { last_token_ends(state, now).saturating_add(KEPT_SECONDS) };
    let rotated = TokenKeyRotated {
        kid: key.kid.clone(),
        replaces: in_use.map(|(kid, _)| kid.clone()).collect(),
        until,
        at_once,
        reason,
    };
    let mut events = vec![context.event(crate::Change::TokenKeyRegistered(key)), context.event(rotated)];
    if at_once {
        let retired = |kid: &String| TokenKeyRetired { kid: kid.clone(), reason: AT_ONCE.to_owned() };
        events.extend(state.token_keys.keys().map(|kid| context.event(retired(kid))));
    }
    Ok(Decision::done(events))
}

/// That the new key is what is sealed now, so that nobody counts on one that no node can open.
fn check_sealed(state: &State, column: &'static str, edition: u64) -> Result<(), Rejection> {
    let sealed = state.secrets.get(&secret::name(column, THE_KEY)).map(|sealed| sealed.edition);
    if sealed == Some(edition) { Ok(()) } else { Err(KeysStay::NotSealed { column }.into()) }
}

/// `known`: of a key that there is, how it was replaced.
fn decide_retire(
    known: Option<Option<Replaced>>,
    key: String,
    retired: impl FnOnce(String) -> Event,
    context: &Context,
) -> Result<Decision, Rejection> {
    match known {
        // Somebody else was faster.
        None => Ok(Decision::default()),
        Some(None) => Err(KeysStay::InUse { key }.into()),
        Some(Some(replaced)) if context.now_seconds() < replaced.until => {
            Err(KeysStay::StillCounts { key, until: replaced.until }.into())
        }
        Some(Some(_)) => Ok(Decision::done(vec![retired(key)])),
    }
}
