//! Request states: what a modern client brings back when it repeats a request with the input that was asked for.
//!
//! Called by the edge around `tools/call`, `prompts/get` and `resources/read`. A state is bound to the server, the
//! method and the request's salient parameters, so that nobody goes on with another request than the one that was
//! judged and recorded. It holds either a modern server's own state, never looked into, or what a legacy server waits
//! for. Specification: MCP 2026-07-28, multi round-trip requests, "Server requirements".

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use bailiwick_proto::mcp::{Members, push_string};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
use crate::caller::Caller;

/// How long a state is accepted: a person may have to fill in a form, or to sign in somewhere.
pub const REQUEST_STATE_SECONDS_MAX: i64 = 30 * 60;
/// Longest state of a server's that is carried. Servers keep a form's progress in it.
pub const SERVER_STATE_BYTES_MAX: usize = 64 * 1024;
/// Longest state accepted or made: one of a server's in which every character is escaped.
pub const REQUEST_STATE_BYTES_MAX: usize = 3 * SERVER_STATE_BYTES_MAX;

/// Room for what is hashed.
const SALIENT_BYTES_EXPECTED: usize = 512;

const KIND: Kind = Kind { word: "r2", seconds_max: REQUEST_STATE_SECONDS_MAX, text_bytes_max: REQUEST_STATE_BYTES_MAX };

/// Parameters that say what is asked for; `_meta` and the answers to what was asked change from try to try.
const SALIENT: [&str; 3] = ["name", "uri", "arguments"];

/// What a state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The server that asked for input.
    pub server: &'a str,
    /// The request's method.
    pub method: &'a str,
    /// From [`salient`].
    pub salient: [u8; 32],
}

/// SHA-256 of the parameters that say what is asked for: object members in any order, white space and the way
/// characters are escaped make no difference; numbers count as they are written.
#[must_use]
pub fn salient(params: &Members<'_>) -> [u8; 32] {
    let mut text = String::with_capacity(SALIENT_BYTES_EXPECTED);
    for name in SALIENT {
        text.push_str(name);
        match params.get(name) {
            Some(value) => {
                text.push('=');
                canonical(value, &mut text);
            }
            None => text.push('-'),
        }
        text.push('\n');
    }
    let mut sum = [0; 32];
    sum.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    sum
}

/// A string, borrowed where the text needs no unescaping.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// INVARIANT: the text was read by `check_json`, so keys are unique and the depth is bounded.
fn canonical(value: &RawValue, text: &mut String) {
    if let Some(members) = Members::of(value) {
        text.push('{');
        for (key, value) in members.iter() {
            push_string(text, key);
            text.push(':');
            canonical(value, text);
            text.push(',');
        }
        text.push('}');
    } else if value.get().starts_with('[')
        && let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(value.get())
    {
        text.push('[');
        for item in items {
            canonical(item, text);
            text.push(',');
        }
        text.push(']');
    } else if value.get().starts_with('"')
        && let Ok(string) = serde_json::from_str::<Text<'_>>(value.get())
    {
        push_string(text, &string.0);
    } else {
        text.push_str(value.get());
    }
}

/// What is needed to go on with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RequestState {
    /// A modern server asked: its own state, to be given back exactly as it was, if it sent one.
    #[serde(rename = "m")]
    Server(Option<String>),
    /// A legacy server asked while its answer is still owed: the number of the call, drawn at random by the node that
    /// keeps it.
    #[serde(rename = "l")]
    Waiting(u64),
}

impl RequestState {
    /// Seals a state.
    ///
    /// # Errors
    /// There is no key, or the server's state is too long.
    pub fn seal(
        &self,
        keys: &SealingKeys,
        caller: &Caller,
        subject: &Subject<'_>,
        now_unix: i64,
        nonce: SealNonce,
    ) -> Result<String, NotSealed> {
        if matches!(self, Self::Server(Some(state)) if state.len() > SERVER_STATE_BYTES_MAX) {
            return Err(NotSealed::TooLong);
        }
        keys.seal(&KIND, caller, &subject.about(), self, (now_unix, nonce))
    }

    /// Opens the state a caller sent with a request.
    ///
    /// # Errors
    /// It is not of this caller, server and request, or too old.
    pub fn open(
        keys: &SealingKeys,
        caller: &Caller,
        subject: &Subject<'_>,
        text: &str,
        now_unix: i64,
    ) -> Result<Self, NotOurs> {
        keys.open(&KIND, caller, &subject.about(), text, now_unix).map(|(state, _)| state)
    }
}

impl Subject<'_> {
    fn about(&self) -> [&[u8]; 3] {
        [self.server.as_bytes(), self.method.as_bytes(), &self.salient]
    }
}
