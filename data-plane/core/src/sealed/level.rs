//! Notes on their way between nodes: from which level on a legacy client wants the log of servers.
//!
//! Called by the server. Every node has sessions of its own with legacy servers, for the same person, agent and client;
//! so all are told what one was asked. Whoever opens it does not know whose it is before: it is sealed for the nodes, and
//! no envelope of a caller's opens as one.

use serde::{Deserialize, Serialize};

use super::{Kind, NotOurs, NotSealed, SealNonce, SealingKeys};
use crate::{caller::Caller, relay::Level};

/// How long a note is taken: nodes hear it at once or never.
pub const LEVEL_SECONDS_MAX: i64 = 60;
/// Longest note: one whose client declares as much as a server is told.
pub const LEVEL_BYTES_MAX: usize = 16 * 1024;

const KIND: Kind = Kind { word: "l2", seconds_max: LEVEL_SECONDS_MAX, text_bytes_max: LEVEL_BYTES_MAX };

/// Who wants which level, at the servers behind which virtual server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedLevel {
    /// The person.
    pub user: String,
    /// The agent acting for them.
    pub agent: String,
    /// What the client can be asked for: an object, as it was written.
    pub capabilities: Option<String>,
    /// Where it was asked.
    pub virtual_server: String,
    /// At which of its servers alone, where the consent does not lead to all of them.
    pub servers: Option<Vec<String>>,
    /// From this one on.
    pub level: Level,
}

#[derive(Serialize, Deserialize)]
struct Content {
    u: String,
    a: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    k: Option<String>,
    v: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    s: Option<Vec<String>>,
    l: String,
}

impl WantedLevel {
    /// Seals a note.
    ///
    /// # Errors
    /// There is no key, or the client declares too much.
    pub fn seal(&self, keys: &SealingKeys, now_unix: i64, nonce: SealNonce) -> Result<String, NotSealed> {
        let Self { user, agent, capabilities, virtual_server, servers, level } = self.clone();
        let l = level.word().to_owned();
        let content = Content { u: user, a: agent, k: capabilities, v: virtual_server, s: servers, l };
        keys.seal(&KIND, &nobody(), &[], &content, (now_unix, nonce))
    }

    /// Opens what was brought.
    ///
    /// # Errors
    /// No node sealed this, or too long ago.
    pub fn open(keys: &SealingKeys, text: &str, now_unix: i64) -> Result<Self, NotOurs> {
        let (content, _) = keys.open::<Content>(&KIND, &nobody(), &[], text, now_unix)?;
        let level = Level::from_word(&content.l).ok_or(NotOurs)?;
        let Content { u: user, a: agent, k: capabilities, v: virtual_server, s: servers, .. } = content;
        Ok(Self { user, agent, capabilities, virtual_server, servers, level })
    }
}

/// No token names such a caller.
pub(super) fn nobody() -> Caller {
    let none = String::new;
    Caller {
        user: none(),
        agent: none(),
        project: none(),
        client: none(),
        consent: none(),
        session: none(),
        token_id: none(),
        scope_level: bailiwick_proto::Tier::Retrieval,
        virtual_server: none(),
        min_revision: 0,
        bound: false,
    }
}
