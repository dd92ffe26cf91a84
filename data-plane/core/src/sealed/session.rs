//! Legacy session ids: what a legacy client agreed at `initialize`, brought back in a header of every later request.
//!
//! Called by `edge`: sealed into the answer to `initialize`, opened from every later legacy request. Besides the
//! revision it holds what the client can answer. Sessions of legacy servers are not in it: a server may give a session
//! one stream only, and forget it, so each node has its own. Specification: MCP 2025-11-25 transports, "Session Management".

use std::collections::BTreeMap;

use bailiwick_proto::mcp::{Era, Members, raw, raw_object};
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
use crate::caller::Caller;

/// How long an id is accepted. Clients start a new session without asking anybody, so a day costs nothing.
pub const SESSION_SECONDS_MAX: i64 = 24 * 60 * 60;
/// Longest id accepted or made: with the header's name below 4 KiB, which every proxy and server lets pass.
pub const SESSION_ID_BYTES_MAX: usize = 4_000;
/// Longest client name or version kept in an id.
pub const CLIENT_TEXT_CHARS_MAX: usize = 64;
/// Longest text of what a client can answer. The largest known client declares some 200 bytes.
pub const CAPABILITIES_BYTES_MAX: usize = 512;

const KIND: Kind = Kind { word: "s2", seconds_max: SESSION_SECONDS_MAX, text_bytes_max: SESSION_ID_BYTES_MAX };

/// What a client declares first where not everything fits: what servers ask for most, first.
const CAPABILITIES_KEPT_FIRST: [&str; 5] = ["elicitation", "sampling", "roots", "extensions", "tasks"];

/// What a legacy client agreed at `initialize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The negotiated revision; always a legacy one.
    pub era: Era,
    /// What the client calls itself.
    pub client_name: Option<String>,
    /// The version it claims.
    pub client_version: Option<String>,
    /// What the client can answer.
    pub capabilities: Capabilities,
    /// Unix seconds.
    pub issued_at: i64,
}

/// What a client can answer, as the JSON object it declared.
#[derive(Clone, Debug)]
pub struct Capabilities(Box<RawValue>);

impl Capabilities {
    /// What a client declared, without white space; beyond [`CAPABILITIES_BYTES_MAX`] as much of it as fits.
    #[must_use]
    pub fn of(declared: Option<&RawValue>) -> Self {
        let Some(members) = declared.and_then(Members::of) else { return Self::default() };
        let known = CAPABILITIES_KEPT_FIRST.into_iter();
        let others = members.iter().map(|(name, _)| name).filter(|name| !CAPABILITIES_KEPT_FIRST.contains(name));
        let mut kept = BTreeMap::new();
        let mut room = CAPABILITIES_BYTES_MAX - "{}".len();
        for name in known.chain(others) {
            let Some(value) = members.get(name).and_then(compact) else { continue };
            let bytes = raw(name).get().len() + value.get().len() + ":,".len();
            if let Some(left) = room.checked_sub(bytes) {
                room = left;
                kept.insert(name, value);
            }
        }
        Self(raw_object(kept.iter().map(|(name, value)| (*name, &**value))))
    }

    /// The JSON object.
    #[must_use]
    pub fn json(&self) -> &RawValue {
        &self.0
    }

    /// Whether the client declared this.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        Members::of(&self.0).is_some_and(|members| members.get(name).is_some())
    }
}

impl Default for Capabilities {
    fn default() -> Self {
        Self(raw_object([]))
    }
}

impl PartialEq for Capabilities {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for Capabilities {}

fn compact(value: &RawValue) -> Option<Box<RawValue>> {
    serde_json::from_str::<Value>(value.get()).ok().map(|value| raw(&value))
}

#[derive(Serialize, Deserialize)]
struct Content {
    v: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    c: Option<String>,
    k: Box<RawValue>,
}

impl Session {
    /// Seals a session for a caller.
    ///
    /// # Errors
    /// There is no key.
    pub fn seal(&self, keys: &SealingKeys, caller: &Caller, nonce: SealNonce) -> Result<String, NotSealed> {
        let content = Content {
            v: self.era.version().to_owned(),
            n: self.client_name.as_deref().map(short),
            c: self.client_version.as_deref().map(short),
            k: self.capabilities.0.clone(),
        };
        keys.seal(&KIND, caller, &[], &content, (self.issued_at, nonce))
    }

    /// Opens the id a caller sent, at `now_unix` seconds.
    ///
    /// # Errors
    /// Nothing here opens it for this caller, or it is too old.
    pub fn open(keys: &SealingKeys, caller: &Caller, id: &str, now_unix: i64) -> Result<Self, NotOurs> {
        let (content, issued_at) = keys.open::<Content>(&KIND, caller, &[], id, now_unix)?;
        let era = Era::of_version(&content.v).filter(|era| !era.is_modern()).ok_or(NotOurs)?;
        let Content { n: client_name, c: client_version, k, .. } = content;
        Ok(Self { era, client_name, client_version, capabilities: Capabilities(k), issued_at })
    }
}

fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(CLIENT_TEXT_CHARS_MAX).collect()
}
