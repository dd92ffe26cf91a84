//! Legacy session ids: sealed envelopes, so that any node can open them and none has to remember a client.
//!
//! Called by `edge`: `seal` answers `initialize`, `open` reads the header of every later legacy request. The id is
//! `v1.` and base64url of a nonce and an AES-256-GCM ciphertext; the associated data names user, agent and virtual
//! server, so a stolen id is of no use to anybody else and no use on another server. An id is no authentication: the
//! token is checked on every request. Keys come from the config stream, newest first; older ones still open.
//! Specification: MCP 2025-11-25 transports, "Session Management".

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use bailiwick_proto::{mcp::Era, v1};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::caller::Caller;

/// How long an id is accepted. Clients start a new session without asking anybody, so a day costs nothing.
pub const SESSION_SECONDS_MAX: i64 = 24 * 60 * 60;
/// How far another node's clock may be ahead.
pub const CLOCK_SKEW_SECONDS: i64 = 60;
/// Longest id accepted or made; well below what proxies allow for one header.
pub const SESSION_ID_BYTES_MAX: usize = 1024;
/// Longest client name or version kept in an id.
pub const CLIENT_TEXT_CHARS_MAX: usize = 64;

const PREFIX: &str = "v1.";
const DOMAIN: &[u8] = b"bailiwick/session/v1\n";

/// A nonce for [`SessionKeys::seal`], fresh from the system's random source.
pub type SessionNonce = [u8; NONCE_LEN];

/// What a legacy client agreed at `initialize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The negotiated revision; always a legacy one.
    pub era: Era,
    /// What the client calls itself.
    pub client_name: Option<String>,
    /// The version it claims.
    pub client_version: Option<String>,
    /// Unix seconds.
    pub issued_at: i64,
}

#[derive(Serialize, Deserialize)]
struct Content {
    v: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    c: Option<String>,
    i: i64,
}

/// The id is not one of ours, not this caller's, or too old. Not told apart: the answer is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is not known")]
pub struct UnknownSession;

/// No usable key: either none has arrived yet or one has the wrong length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no key for sealing session ids")]
pub struct NoSessionKey;

/// Keys that seal and open session ids. Cannot be printed.
#[derive(Default)]
pub struct SessionKeys(Vec<LessSafeKey>);

impl std::fmt::Debug for SessionKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SessionKeys").field(&self.0.len()).finish()
    }
}

impl SessionKeys {
    /// Keys as streamed, newest first.
    ///
    /// # Errors
    /// A key has not 32 bytes; none is taken then.
    pub fn new(keys: &[v1::SealingKey]) -> Result<Self, NoSessionKey> {
        let key = |key: &v1::SealingKey| UnboundKey::new(&AES_256_GCM, &key.key).map(LessSafeKey::new);
        keys.iter().map(key).collect::<Result<_, _>>().map(Self).map_err(|_length| NoSessionKey)
    }

    /// True before keys have arrived.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Seals a session for a caller, with the newest key. Visible ASCII, below [`SESSION_ID_BYTES_MAX`].
    ///
    /// # Errors
    /// There is no key.
    pub fn seal(&self, caller: &Caller, session: &Session, nonce: SessionNonce) -> Result<String, NoSessionKey> {
        let key = self.0.first().ok_or(NoSessionKey)?;
        let content = Content {
            v: session.era.version().to_owned(),
            n: session.client_name.as_deref().map(short),
            c: session.client_version.as_deref().map(short),
            i: session.issued_at,
        };
        let mut sealed = serde_json::to_vec(&content).map_err(|_unserialisable| NoSessionKey)?;
        let aad = Aad::from(associated(caller));
        key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut sealed)
            .map_err(|_too_long| NoSessionKey)?;
        let envelope = [nonce.as_slice(), &sealed].concat();
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(envelope)))
    }

    /// Opens the id a caller sent, at `now_unix` seconds.
    ///
    /// # Errors
    /// Nothing here opens it for this caller, or it is too old.
    pub fn open(&self, caller: &Caller, id: &str, now_unix: i64) -> Result<Session, UnknownSession> {
        if id.len() > SESSION_ID_BYTES_MAX {
            return Err(UnknownSession);
        }
        let encoded = id.strip_prefix(PREFIX).ok_or(UnknownSession)?;
        let envelope = URL_SAFE_NO_PAD.decode(encoded).map_err(|_undecodable| UnknownSession)?;
        let (nonce, sealed) = envelope.split_first_chunk::<NONCE_LEN>().ok_or(UnknownSession)?;
        let content = self.0.iter().find_map(|key| open_with(key, caller, *nonce, sealed)).ok_or(UnknownSession)?;
        let era = Era::of_version(&content.v).filter(|era| !era.is_modern()).ok_or(UnknownSession)?;
        let age = now_unix.saturating_sub(content.i);
        if !(-CLOCK_SKEW_SECONDS..SESSION_SECONDS_MAX).contains(&age) {
            return Err(UnknownSession);
        }
        Ok(Session { era, client_name: content.n, client_version: content.c, issued_at: content.i })
    }
}

fn open_with(key: &LessSafeKey, caller: &Caller, nonce: SessionNonce, sealed: &[u8]) -> Option<Content> {
    let mut buffer = sealed.to_vec();
    let aad = Aad::from(associated(caller));
    let plain = key.open_in_place(Nonce::assume_unique_for_key(nonce), aad, &mut buffer).ok()?;
    serde_json::from_slice(plain).ok()
}

/// Each part with its length, so that no two callers give the same bytes.
fn associated(caller: &Caller) -> Vec<u8> {
    let mut bytes = DOMAIN.to_vec();
    for part in [&caller.user, &caller.agent, &caller.virtual_server] {
        bytes.extend_from_slice(&(part.len() as u64).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(CLIENT_TEXT_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use bailiwick_proto::mcp::VERSION_2025_06_18;
    use proptest::prelude::*;

    use super::*;
    use crate::fixture;

    const NOW: i64 = 1_800_000_000;

    fn keys(seeds: &[u8]) -> SessionKeys {
        let key = |seed: &u8| v1::SealingKey { id: seed.to_string(), key: vec![*seed; 32] };
        SessionKeys::new(&seeds.iter().map(key).collect::<Vec<_>>()).unwrap()
    }

    fn session() -> Session {
        Session {
            era: Era::Legacy(VERSION_2025_06_18),
            client_name: Some("inspector".into()),
            client_version: Some("2.12.0".into()),
            issued_at: NOW,
        }
    }

    #[test]
    fn any_node_with_the_key_opens_what_another_sealed() {
        let id = keys(&[1]).seal(&fixture::caller(), &session(), [7; NONCE_LEN]).unwrap();
        assert!(id.bytes().all(|byte| (0x21..=0x7e).contains(&byte)), "{id}");
        assert_eq!(keys(&[2, 1]).open(&fixture::caller(), &id, NOW + 5), Ok(session()));
        assert_eq!(keys(&[2]).open(&fixture::caller(), &id, NOW), Err(UnknownSession));
        assert_eq!(SessionKeys::default().open(&fixture::caller(), &id, NOW), Err(UnknownSession));
    }

    #[test]
    fn an_id_is_of_no_use_to_another_user_agent_or_virtual_server() {
        let id = keys(&[1]).seal(&fixture::caller(), &session(), [7; NONCE_LEN]).unwrap();
        let caller = fixture::caller();
        for other in [
            Caller { user: "eve@example.com".into(), ..caller.clone() },
            Caller { agent: "other".into(), ..caller.clone() },
            Caller { virtual_server: "hr".into(), ..caller },
        ] {
            assert_eq!(keys(&[1]).open(&other, &id, NOW), Err(UnknownSession));
        }
    }

    #[test]
    fn old_ids_and_ids_from_the_future_are_refused() {
        let id = keys(&[1]).seal(&fixture::caller(), &session(), [7; NONCE_LEN]).unwrap();
        for (now, known) in [
            (NOW + SESSION_SECONDS_MAX - 1, true),
            (NOW + SESSION_SECONDS_MAX, false),
            (NOW - CLOCK_SKEW_SECONDS, true),
            (NOW - CLOCK_SKEW_SECONDS - 1, false),
        ] {
            assert_eq!(keys(&[1]).open(&fixture::caller(), &id, now).is_ok(), known, "{now}");
        }
    }

    #[test]
    fn without_keys_of_the_right_length_nothing_is_sealed() {
        assert_eq!(SessionKeys::default().seal(&fixture::caller(), &session(), [0; NONCE_LEN]), Err(NoSessionKey));
        let short = v1::SealingKey { id: "k".into(), key: vec![0; 16] };
        assert!(SessionKeys::new(&[short]).is_err());
    }

    #[test]
    fn the_longest_session_fits_in_the_bound() {
        for text in ["🦀", "\u{1}", "\"", "\u{7f}"] {
            let wide = Some(text.repeat(CLIENT_TEXT_CHARS_MAX + 10));
            let session = Session { client_name: wide.clone(), client_version: wide, ..session() };
            let id = keys(&[1]).seal(&fixture::caller(), &session, [7; NONCE_LEN]).unwrap();
            assert!(id.len() <= SESSION_ID_BYTES_MAX, "{}", id.len());
            assert!(keys(&[1]).open(&fixture::caller(), &id, NOW).is_ok());
        }
    }

    proptest! {
        #[test]
        fn a_changed_id_does_not_open(at in 0_usize..1000, with in 0x21_u8..0x7f) {
            let id = keys(&[1]).seal(&fixture::caller(), &session(), [7; NONCE_LEN]).unwrap();
            let mut bytes = id.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] = with;
            let changed = String::from_utf8(bytes).unwrap();
            prop_assume!(changed != id);
            prop_assert_eq!(keys(&[1]).open(&fixture::caller(), &changed, NOW), Err(UnknownSession));
        }

        #[test]
        fn any_text_is_refused_without_panic(id in any::<String>()) {
            prop_assert!(keys(&[1]).open(&fixture::caller(), &id, NOW).is_err());
        }
    }
}
