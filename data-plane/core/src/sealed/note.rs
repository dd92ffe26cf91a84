//! Notes on their way between nodes: a legacy client subscribed to a resource at one node, and may listen at another; or
//! it began to listen, and an older stream of the session, wherever it is, has to end.
//!
//! Called by the server. The session's key stands before the envelope, so that only a node where that session listens
//! looks further. Sealed, because nobody who can write to the event stream may subscribe for others, or see what they
//! read.

use serde::{Deserialize, Serialize};

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
use crate::{caller::Caller, edge::SessionKey};

/// How long a note is taken. A client that subscribes listens soon.
pub const NOTE_SECONDS_MAX: i64 = 10 * 60;
/// Longest note: one with the longest URI that is listened to, every character escaped.
pub const NOTE_BYTES_MAX: usize = 20 * 1024;

const KIND: Kind = Kind { word: "w2", seconds_max: NOTE_SECONDS_MAX, text_bytes_max: NOTE_BYTES_MAX };

/// How long it is taken that a stream is the newest: nodes hear it at once or never.
const NEWEST_SECONDS_MAX: i64 = 60;
const NEWEST: Kind = Kind { word: "n2", seconds_max: NEWEST_SECONDS_MAX, text_bytes_max: 1024 };

/// A session has a newer stream than all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Newest {
    /// Drawn at random.
    #[serde(rename = "n")]
    pub stream: u64,
}

impl Newest {
    /// Seals a note about a caller's session.
    ///
    /// # Errors
    /// There is no key.
    pub fn seal(
        &self,
        keys: &SealingKeys,
        caller: &Caller,
        session: &SessionKey,
        now_unix: i64,
        nonce: SealNonce,
    ) -> Result<String, NotSealed> {
        let sealed = keys.seal(&NEWEST, caller, &[session], self, (now_unix, nonce))?;
        Ok(format!("{}.{sealed}", hex::encode(session)))
    }

    /// Whether a note is one of these, before it is opened.
    #[must_use]
    pub fn is_one(text: &str) -> bool {
        let kind = text.split('.').nth(1);
        kind == Some(NEWEST.word)
    }

    /// Opens what was brought.
    ///
    /// # Errors
    /// Nobody sealed this for this caller and session, or too long ago.
    pub fn open(keys: &SealingKeys, caller: &Caller, text: &str, now_unix: i64) -> Result<Self, NotOurs> {
        let session = Note::session_of(text).ok_or(NotOurs)?;
        let (_, sealed) = text.split_once('.').ok_or(NotOurs)?;
        keys.open(&NEWEST, caller, &[&session], sealed, now_unix).map(|(newest, _)| newest)
    }
}

/// A subscription of a legacy session's, or its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The resource, towards the client.
    #[serde(rename = "u")]
    pub uri: String,
    /// False: no longer.
    #[serde(rename = "w")]
    pub wished: bool,
}

impl Note {
    /// Seals a note about a caller's session.
    ///
    /// # Errors
    /// There is no key, or the URI is too long.
    pub fn seal(
        &self,
        keys: &SealingKeys,
        caller: &Caller,
        session: &SessionKey,
        now_unix: i64,
        nonce: SealNonce,
    ) -> Result<String, NotSealed> {
        let sealed = keys.seal(&KIND, caller, &[session], self, (now_unix, nonce))?;
        Ok(format!("{}.{sealed}", hex::encode(session)))
    }

    /// Which session it is about, before it is opened.
    #[must_use]
    pub fn session_of(text: &str) -> Option<SessionKey> {
        let written = text.split_once('.')?.0;
        let session: SessionKey = hex::decode(written).ok()?.try_into().ok()?;
        (hex::encode(session) == written).then_some(session)
    }

    /// Opens what was brought.
    ///
    /// # Errors
    /// Nobody sealed this for this caller and session, or too long ago.
    pub fn open(keys: &SealingKeys, caller: &Caller, text: &str, now_unix: i64) -> Result<Self, NotOurs> {
        let session = Self::session_of(text).ok_or(NotOurs)?;
        let (_, sealed) = text.split_once('.').ok_or(NotOurs)?;
        keys.open(&KIND, caller, &[&session], sealed, now_unix).map(|(note, _)| note)
    }
}
