//! Event ids of a legacy client's stream of changes: what it listened to, and what it had seen.
//!
//! Called by `listening`: sent as the id of events, brought back in `Last-Event-ID` when the client listens again,
//! maybe at another node. That node then knows which resources the client subscribed to and whether its tools have
//! changed meanwhile, so no change is missed and none has to be kept. Resources that do not fit are left out.
//! Specification: MCP 2025-11-25 transports, "Resumability and Redelivery".

use serde::{Deserialize, Serialize};

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
use crate::caller::Caller;

/// How long an event id is accepted: as long as the session it belongs to.
pub const SUBSCRIPTION_SECONDS_MAX: i64 = super::session::SESSION_SECONDS_MAX;
/// Longest event id accepted or made: with the header's name below 4 KiB, which every proxy and server lets pass.
pub const SUBSCRIPTION_BYTES_MAX: usize = 4_000;

const KIND: Kind = Kind { word: "e2", seconds_max: SUBSCRIPTION_SECONDS_MAX, text_bytes_max: SUBSCRIPTION_BYTES_MAX };

/// What a client listened to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscription {
    /// What the client could see, as one number: another means that something changed.
    #[serde(rename = "v")]
    pub visible: u64,
    /// Resources it wants to be told about, by their URIs towards the client.
    #[serde(rename = "u", default, skip_serializing_if = "Vec::is_empty")]
    pub uris: Vec<String>,
}

impl Subscription {
    /// Seals the id for a caller. The last resources are left out where the header would become too long.
    ///
    /// # Errors
    /// There is no key.
    pub fn seal(
        &self,
        keys: &SealingKeys,
        caller: &Caller,
        now_unix: i64,
        nonce: SealNonce,
    ) -> Result<String, NotSealed> {
        let mut room = SUBSCRIPTION_BYTES_MAX;
        let fits = |uri: &&String| room.checked_sub(uri.len()).map(|left| room = left).is_some();
        let mut content = Self { visible: self.visible, uris: self.uris.iter().take_while(fits).cloned().collect() };
        loop {
            match keys.seal(&KIND, caller, &[], &content, (now_unix, nonce)) {
                Err(NotSealed::TooLong) if content.uris.pop().is_some() => {}
                sealed => return sealed,
            }
        }
    }

    /// Opens the id a caller sent.
    ///
    /// # Errors
    /// It is not one of this caller's, or too old.
    pub fn open(keys: &SealingKeys, caller: &Caller, text: &str, now_unix: i64) -> Result<Self, NotOurs> {
        keys.open(&KIND, caller, &[], text, now_unix).map(|(subscription, _)| subscription)
    }
}
