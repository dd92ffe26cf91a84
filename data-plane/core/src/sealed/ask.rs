//! Asks: the id under which a server's request reaches a legacy client, and comes back with its answer.
//!
//! Called by the relay. Any node that gets the answer knows from the id alone which server asked, under which id of its
//! own, and which request is waiting for it. The text fits into a JSON-RPC id as this gateway reads them, so a server's
//! own id beyond [`SERVER_ID_BYTES_MAX`] is not carried. Specification: MCP 2025-11-25, elicitation, sampling, roots;
//! JSON-RPC 2.0 §4.

use bailiwick_proto::mcp::{ID_BYTES_MAX, RequestId};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
use crate::caller::Caller;

/// How long an answer is accepted: a person may have to fill in a form, or to sign in somewhere.
pub const ASK_SECONDS_MAX: i64 = 60 * 60;
/// Longest id of a server's own, as JSON. Servers count up or use UUIDs.
pub const SERVER_ID_BYTES_MAX: usize = 64;
/// Longest text: with its quotes an id this gateway reads.
pub const ASK_BYTES_MAX: usize = ID_BYTES_MAX - 2;

const KIND: Kind = Kind { word: "a2", seconds_max: ASK_SECONDS_MAX, text_bytes_max: ASK_BYTES_MAX };

/// A server's request, as its answer must find it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The server that asks.
    pub server: String,
    /// The id it gave its request.
    pub id: RequestId,
    /// Which of the client's requests is waiting: drawn at random by the node that forwards it.
    pub waiter: u64,
}

/// Server, id as JSON, waiter: as an array, to be short.
type Content = (String, Box<RawValue>, u64);

#[derive(Serialize)]
struct Short<'a>(&'a str, &'a RawValue, u64);

impl Ask {
    /// Seals the id for a caller.
    ///
    /// # Errors
    /// There is no key, or the server's id is too long.
    pub fn seal(
        &self,
        keys: &SealingKeys,
        caller: &Caller,
        now_unix: i64,
        nonce: SealNonce,
    ) -> Result<String, NotSealed> {
        let id = self.id.to_json();
        if id.len() > SERVER_ID_BYTES_MAX {
            return Err(NotSealed::TooLong);
        }
        let id = RawValue::from_string(id).map_err(|_not_json| NotSealed::TooLong)?;
        keys.seal(&KIND, caller, &[], &Short(&self.server, &id, self.waiter), (now_unix, nonce))
    }

    /// Opens the id a caller answered.
    ///
    /// # Errors
    /// This caller was not asked so, or too long ago.
    pub fn open(keys: &SealingKeys, caller: &Caller, text: &str, now_unix: i64) -> Result<Self, NotOurs> {
        let ((server, id, waiter), _) = keys.open::<Content>(&KIND, caller, &[], text, now_unix)?;
        let id = RequestId::read(&id).ok_or(NotOurs)?;
        Ok(Self { server, id, waiter })
    }
}
