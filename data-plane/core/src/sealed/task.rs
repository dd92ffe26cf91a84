//! Task ids: a task that runs at a server, as the client names it.
//!
//! Called by the server half when a `tools/call` was answered with a task, and by the edge for the extension's own
//! methods and for listeners. The tool is kept with it, because whoever asks for the result must still be allowed to
//! call the tool. A task that its server keeps for a shorter time is not known for longer here.
//! Specification: extension `io.modelcontextprotocol/tasks`, "Task Creation", "Security Considerations".

use serde::{Deserialize, Serialize};

use super::{CLOCK_SKEW_SECONDS, Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
use crate::caller::Caller;

/// How long a task is found. Servers forget tasks after hours; one that runs longer than a week is not a call any more.
pub const TASK_SECONDS_MAX: i64 = 7 * 24 * 60 * 60;
/// Longest id of a server's own that is carried. Servers use UUIDs.
pub const SERVER_TASK_BYTES_MAX: usize = 512;
/// Longest id accepted or made. It goes into a header.
pub const TASK_ID_BYTES_MAX: usize = 2 * 1024;

const KIND: Kind = Kind { word: "t2", seconds_max: TASK_SECONDS_MAX, text_bytes_max: TASK_ID_BYTES_MAX };

/// A task at a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// The server where it runs.
    #[serde(rename = "s")]
    pub server: String,
    /// The tool that was called, by its own name there.
    #[serde(rename = "t")]
    pub tool: String,
    /// The server's own id of it.
    #[serde(rename = "i")]
    pub id: String,
    /// For how many seconds its server keeps it, where it says so.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub lasts_seconds: Option<i64>,
}

impl Task {
    /// How long a task is known, from the milliseconds that its server says: never shorter, whatever the clocks.
    #[must_use]
    pub const fn seconds_of(ttl_ms: u64) -> i64 {
        let seconds = ttl_ms.div_ceil(1_000);
        let seconds = if seconds < TASK_SECONDS_MAX.cast_unsigned() { seconds.cast_signed() } else { TASK_SECONDS_MAX };
        seconds + CLOCK_SKEW_SECONDS
    }

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
        if self.id.len() > SERVER_TASK_BYTES_MAX {
            return Err(NotSealed::TooLong);
        }
        keys.seal(&KIND, caller, &[], self, (now_unix, nonce))
    }

    /// Opens the id a caller sent.
    ///
    /// # Errors
    /// It is not one of this caller's, or too old.
    pub fn open(keys: &SealingKeys, caller: &Caller, text: &str, now_unix: i64) -> Result<Self, NotOurs> {
        let (task, sealed_at): (Self, _) = keys.open(&KIND, caller, &[], text, now_unix)?;
        let age = now_unix.saturating_sub(sealed_at);
        if task.lasts_seconds.is_none_or(|lasts| age < lasts) { Ok(task) } else { Err(NotOurs) }
    }
}
