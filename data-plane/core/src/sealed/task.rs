//! Task ids: a task that runs at a server, as the client names it.
//!
//! Called by the edge around `tools/call` (a server answered with a task) and the tasks extension's own methods. The
//! tool is kept with it, because whoever asks for the result must still be allowed to call the tool.
//! Specification: extension `io.modelcontextprotocol/tasks`, "Task Identifiers".

use serde::{Deserialize, Serialize};

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
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
}

impl Task {
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
        keys.open(&KIND, caller, &[], text, now_unix).map(|(task, _)| task)
    }
}
