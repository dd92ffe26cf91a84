//! Cursors: where a list of prompts or resources goes on, over several servers.
//!
//! Called by the edge for each page of a list that is asked of the servers. A cursor says at which server to go on and
//! with which cursor of that server's; it is bound to the list's method. A server that is no longer behind the virtual
//! server when the cursor comes back is the caller's to notice. Specification: MCP 2026-07-28 and 2025-11-25,
//! pagination.

use serde::{Deserialize, Serialize};

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
use crate::{caller::Caller, handshake::CURSOR_BYTES_MAX};

/// How long a cursor is accepted: lists are paged through at once, by a program.
pub const CURSOR_SECONDS_MAX: i64 = 60 * 60;
/// Longest cursor accepted or made: one of a server's in which every character is escaped.
pub const CURSOR_TEXT_BYTES_MAX: usize = 3 * CURSOR_BYTES_MAX;

const KIND: Kind = Kind { word: "c2", seconds_max: CURSOR_SECONDS_MAX, text_bytes_max: CURSOR_TEXT_BYTES_MAX };

/// Where a list goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The server whose page comes next.
    #[serde(rename = "s")]
    pub server: String,
    /// Its own cursor; `None` for its first page.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

impl Cursor {
    /// Seals a cursor of the list that `method` asks for.
    ///
    /// # Errors
    /// There is no key, or the server's cursor is too long.
    pub fn seal(
        &self,
        keys: &SealingKeys,
        caller: &Caller,
        method: &str,
        now_unix: i64,
        nonce: SealNonce,
    ) -> Result<String, NotSealed> {
        if self.cursor.as_ref().is_some_and(|cursor| cursor.len() > CURSOR_BYTES_MAX) {
            return Err(NotSealed::TooLong);
        }
        keys.seal(&KIND, caller, &[method.as_bytes()], self, (now_unix, nonce))
    }

    /// Opens the cursor a caller sent with `method`.
    ///
    /// # Errors
    /// It is not one of this caller's and this list's, or too old.
    pub fn open(keys: &SealingKeys, caller: &Caller, method: &str, text: &str, now_unix: i64) -> Result<Self, NotOurs> {
        keys.open(&KIND, caller, &[method.as_bytes()], text, now_unix).map(|(cursor, _)| cursor)
    }
}
