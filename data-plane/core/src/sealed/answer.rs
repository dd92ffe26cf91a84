//! Answers on their way between nodes: what a legacy client posted to one node, for a call that waits at another.
//!
//! Called by the server. The number of the waiting call stands before the envelope, so that only the node that knows it
//! looks further. Sealed, because answers hold what people typed, and because nobody who can write to the event stream
//! may answer for them.

use bailiwick_proto::mcp::{Answered, RequestId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
use crate::caller::Caller;

/// How long an answer is taken: it is brought at once.
pub const ANSWER_SECONDS_MAX: i64 = 60;
/// Longest answer brought to another node; a message of the event stream may have a mebibyte.
pub const ANSWER_BYTES_MAX: usize = 768 * 1024;

const KIND: Kind = Kind { word: "n2", seconds_max: ANSWER_SECONDS_MAX, text_bytes_max: ANSWER_BYTES_MAX };

/// A client's answer to one request of a server's.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The call that waits for it.
    pub waiter: u64,
    /// The server's id of its request.
    pub id: RequestId,
    /// What the client said.
    pub answered: Answered,
}

#[derive(Serialize, Deserialize)]
struct Content {
    i: Box<RawValue>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    r: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    e: Option<Box<RawValue>>,
}

impl Answer {
    /// Seals an answer of a caller's.
    ///
    /// # Errors
    /// There is no key, or the answer is too long.
    pub fn seal(
        &self,
        keys: &SealingKeys,
        caller: &Caller,
        now_unix: i64,
        nonce: SealNonce,
    ) -> Result<String, NotSealed> {
        let i = RawValue::from_string(self.id.to_json()).map_err(|_not_json| NotSealed::TooLong)?;
        let (r, e) = match &self.answered {
            Answered::Result(result) => (Some(result.clone()), None),
            Answered::Error(error) => (None, Some(error.clone())),
        };
        let waiter = self.waiter.to_be_bytes();
        let sealed = keys.seal(&KIND, caller, &[&waiter], &Content { i, r, e }, (now_unix, nonce))?;
        Ok(format!("{:016x}.{sealed}", self.waiter))
    }

    /// Which call it is for, before it is opened.
    #[must_use]
    pub fn waiter_of(text: &str) -> Option<u64> {
        let written = text.split_once('.')?.0;
        let waiter = u64::from_str_radix(written, 16).ok()?;
        (format!("{waiter:016x}") == written).then_some(waiter)
    }

    /// Opens what was brought.
    ///
    /// # Errors
    /// Nobody sealed this for this caller and call, or too long ago.
    pub fn open(keys: &SealingKeys, caller: &Caller, text: &str, now_unix: i64) -> Result<Self, NotOurs> {
        let waiter = Self::waiter_of(text).ok_or(NotOurs)?;
        let (_, sealed) = text.split_once('.').ok_or(NotOurs)?;
        let about = waiter.to_be_bytes();
        let (content, _) = keys.open::<Content>(&KIND, caller, &[&about], sealed, now_unix)?;
        let id = RequestId::read(&content.i).ok_or(NotOurs)?;
        let answered = match (content.r, content.e) {
            (Some(result), None) => Answered::Result(result),
            (None, Some(error)) => Answered::Error(error),
            (Some(_), Some(_)) | (None, None) => return Err(NotOurs),
        };
        Ok(Self { waiter, id, answered })
    }
}
