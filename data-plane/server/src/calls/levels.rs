//! From which level on clients want the logs of legacy servers, told to all nodes.
//!
//! A legacy client says so once, to whichever node it meets; but each node has sessions of its own with legacy servers.
//! So all are told, sealed with the keys they share, and each tells the servers that it has a session with for this
//! person, agent and client, and those that it opens one with later. Nothing of this authorises anything. A node that
//! starts later, or forgot, does not know the level; servers then send what they think worth sending.

use std::sync::Arc;

use bailiwick_data_plane_core::{Caller, relay::Level, sealed::level::WantedLevel};
use bailiwick_proto::{subjects, v1::Server};
use bailiwick_runtime::{EventStream, OnEnd, Supervisor};
use bytes::Bytes;
use tokio::sync::Semaphore;

use super::unix_seconds;
use crate::{
    budget::Budget,
    config_state::ConfigState,
    random,
    upstream::{Principal, Upstream},
};

/// Levels that one node tells all others in a second, some hundred bytes each.
const TOLD_PER_SECOND: u64 = 1_000;
/// Servers told at once what another node was asked; others learn it with their next session.
const TELLING_MAX: usize = 256;

/// One per node.
#[derive(Debug)]
pub(crate) struct Levels {
    state: Arc<ConfigState>,
    stream: EventStream,
    upstream: Arc<Upstream>,
    supervisor: Supervisor,
    told: Budget,
    telling: Arc<Semaphore>,
}

impl Levels {
    pub(crate) fn new(
        state: Arc<ConfigState>,
        stream: EventStream,
        upstream: Arc<Upstream>,
        supervisor: Supervisor,
    ) -> Arc<Self> {
        let (told, telling) = (Budget::new(TOLD_PER_SECOND), Arc::new(Semaphore::new(TELLING_MAX)));
        Arc::new(Self { state, stream, upstream, supervisor, told, telling })
    }

    /// Tells all other nodes what a caller wants, of all servers or of some, as far as it gets there.
    pub(crate) async fn tell(
        &self,
        caller: &Caller,
        principal: &Principal,
        servers: Option<Vec<String>>,
        level: Level,
    ) {
        let Principal::Caller { user, agent, capabilities } = principal.clone() else { return };
        let wanted = WantedLevel {
            user: user.as_ref().to_owned(),
            agent: agent.as_ref().to_owned(),
            capabilities: capabilities.as_deref().map(str::to_owned),
            virtual_server: caller.virtual_server.clone(),
            servers,
            level,
        };
        let sealed = random().and_then(|nonce| wanted.seal(&self.state.sealing_keys(), unix_seconds(), nonce).ok());
        let Some(sealed) = sealed.filter(|_| self.told.take(1)) else {
            tracing::warn!("other nodes are not told the level of a log");
            return;
        };
        if let Err(error) = self.stream.broadcast(subjects::LEVELS, Bytes::from(sealed)).await {
            tracing::warn!(%error, "the level of a log cannot be brought to other nodes");
        }
    }

    /// Takes what other nodes were asked, for ever.
    pub(crate) async fn follow(self: Arc<Self>) {
        self.stream.follow(subjects::LEVELS, |told| self.brought(told)).await;
    }

    fn brought(&self, note: &Bytes) {
        let (Ok(text), Some(config)) = (std::str::from_utf8(note), self.state.config()) else { return };
        let Ok(wanted) = WantedLevel::open(&self.state.sealing_keys(), text, unix_seconds()) else {
            tracing::warn!("a log level was brought that this cluster did not seal");
            return;
        };
        let WantedLevel { user, agent, capabilities, virtual_server, servers, level } = wanted;
        let capabilities = capabilities.map(Into::into);
        let principal = Principal::Caller { user: user.into(), agent: agent.into(), capabilities };
        let behind = config.virtual_servers.get(&virtual_server).map(|offered| &offered.servers);
        let wanted_of = |name: &&String| servers.as_ref().is_none_or(|servers| servers.contains(name));
        let behind = behind.into_iter().flatten().filter(wanted_of);
        for server in behind.filter_map(|name| config.servers.get(name)) {
            if self.upstream.want_level(server, &principal, level) {
                self.tell_server(server.clone(), principal.clone(), level);
            }
        }
    }

    fn tell_server(&self, server: Arc<Server>, principal: Principal, level: Level) {
        let Ok(place) = Arc::clone(&self.telling).try_acquire_owned() else { return };
        let upstream = Arc::clone(&self.upstream);
        self.supervisor.spawn("log-level", OnEnd::Finish, async move {
            if let Err(fault) = upstream.set_level(&server, &principal, level).await {
                tracing::debug!(server = server.name, %fault, "a server does not take the level of its log");
            }
            drop(place);
        });
    }
}
