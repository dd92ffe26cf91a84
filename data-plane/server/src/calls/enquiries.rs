//! What servers are asked on a client's behalf without it being a call: what they can do, lists, the level of their logs.
//!
//! Called by `listener`. Nothing here changes anything at a server but the level of its log, so nothing is recorded;
//! all of it needs the caller's authority and a node that is current enough to read. What a caller sees of a list,
//! `listing` in the core decides. Every enquiry ends within a bound, however many servers there are.

use std::time::Duration;

use bailiwick_data_plane_core::{
    admission::{Admission, SpoolLevel, node_gate},
    edge::{HttpReply, Introduction, ListRequest, NotTaken, SetLevel, Subscribe},
    forward,
    listening::source::Offers,
    listing::{Failure, Listing, Page},
    operation::Operation,
};
use bailiwick_proto::{
    Reason, Tier,
    mcp::{Members, method},
    v1::Server,
};
use futures::future::join_all;
use serde_json::value::RawValue;

use super::{Asked, Calls, forwarding::principal_with, unix_seconds};
use crate::{random, upstream::UpstreamFault};

/// Longest wait for servers to say what they can do: whoever does not answer by then can do nothing.
const INTRODUCTION_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a page of a list, over all servers.
const LIST_WAIT_MAX: Duration = Duration::from_secs(20);

impl Calls {
    /// What the servers behind a virtual server can do. For somebody without authority none is asked.
    pub(crate) async fn introduce(
        &self,
        asked: &Asked,
        virtual_server: &str,
        introduction: &Introduction,
    ) -> HttpReply {
        if self.may_not_ask(asked).is_some() {
            return introduction.reply(&[]);
        }
        let principal = principal_with(&asked.caller, introduction.capabilities.as_deref());
        let servers = self.servers(asked, virtual_server);
        let told = servers.iter().map(|server| async {
            let told = self.upstream.capabilities(server, &principal);
            match tokio::time::timeout(INTRODUCTION_WAIT_MAX, told).await {
                Ok(Ok(told)) => told,
                Ok(Err(fault)) => {
                    tracing::warn!(server = server.name, %fault, "a server does not say what it can do");
                    None
                }
                Err(_elapsed) => {
                    tracing::warn!(server = server.name, "a server does not say in time what it can do");
                    None
                }
            }
        });
        let told: Vec<Box<RawValue>> = join_all(told).await.into_iter().flatten().collect();
        introduction.reply(&told)
    }

    /// A page of a list.
    pub(crate) async fn list(&self, asked: &Asked, list: &ListRequest) -> HttpReply {
        let page = match self.may_not_ask(asked) {
            Some(reason) => Err(Failure::Fault(reason)),
            None => self.page(asked, list).await,
        };
        match page {
            Ok(page) => {
                for (server, failure) in &page.left_out {
                    tracing::warn!(server, ?failure, method = list.listed.method(), "a server is left out of a list");
                }
                let next = page.next.as_ref().map(|next| {
                    let (keys, now) = (self.state.sealing_keys(), unix_seconds());
                    let nonce = random().ok_or(())?;
                    next.seal(&keys, &asked.caller, list.listed.method(), now, nonce).map_err(|_not_sealed| ())
                });
                match next.transpose() {
                    Ok(cursor) => list.page(&page, cursor.as_deref()),
                    Err(()) => list.failed(&asked.request_id, &Failure::Fault(Reason::ConfigStale)),
                }
            }
            Err(failure) => list.failed(&asked.request_id, &failure),
        }
    }

    /// Tells the legacy servers that keep logs from which level on they are wanted.
    pub(crate) async fn set_level(&self, asked: &Asked, virtual_server: &str, level: &SetLevel) -> HttpReply {
        if let Some(reason) = self.may_not_ask(asked) {
            return level.refused(&asked.request_id, reason);
        }
        let principal = principal_with(&asked.caller, level.capabilities.as_deref());
        let servers = self.servers(asked, virtual_server);
        let told = servers.iter().map(|server| async {
            let logs = match self.upstream.capabilities(server, &principal).await? {
                Some(told) => Members::of(&told).is_some_and(|told| told.get("logging").is_some()),
                None => false,
            };
            if logs && !self.upstream.is_modern(server, &principal) {
                let params = level.params.clone();
                self.upstream.ask(server, &principal, method::SET_LEVEL, params).await?;
            }
            Ok::<(), UpstreamFault>(())
        });
        let told = tokio::time::timeout(INTRODUCTION_WAIT_MAX, join_all(told)).await.unwrap_or_default();
        for fault in told.into_iter().filter_map(Result::err) {
            tracing::warn!(%fault, "a server does not take the level of its log");
        }
        level.reply()
    }

    /// Takes a legacy client's subscription to a resource, or its end.
    pub(crate) async fn subscribe(&self, asked: &Asked, wish: &Subscribe) -> HttpReply {
        let taken = match self.tells(asked, wish).await {
            Ok(()) => self.listeners.subscribe(&asked.caller, wish).await,
            Err(fault) => Err(fault),
        };
        wish.reply(&asked.request_id, taken)
    }

    /// Whether the resource's server can tell when it changes.
    async fn tells(&self, asked: &Asked, wish: &Subscribe) -> Result<(), NotTaken> {
        self.may_not_ask(asked).map_or(Ok(()), |reason| Err(NotTaken::Unable(reason)))?;
        let unreachable = || NotTaken::Unable(Reason::UpstreamUnreachable);
        let server = asked.config.servers.get(&wish.server).ok_or_else(unreachable)?;
        let principal = principal_with(&asked.caller, wish.capabilities.as_deref());
        let told = self.upstream.capabilities(server, &principal);
        let told = match tokio::time::timeout(INTRODUCTION_WAIT_MAX, told).await {
            Ok(told) => told.map_err(|fault| NotTaken::Unable(fault.reason()))?,
            Err(_elapsed) => return Err(NotTaken::Unable(Reason::UpstreamTimeout)),
        };
        let offers = Offers::of(&told.as_deref().and_then(Members::of).unwrap_or_default());
        if offers.subscribe { Ok(()) } else { Err(NotTaken::Unsupported) }
    }

    /// Why no server may be asked for this caller at the moment, whatever it is.
    fn may_not_ask(&self, asked: &Asked) -> Option<Reason> {
        let gate = node_gate(Tier::Retrieval, self.state.freshness(), SpoolLevel::Free);
        gate.or_else(|| self.state.is_taken_away(&asked.caller))
    }

    async fn page(&self, asked: &Asked, list: &ListRequest) -> Result<Page, Failure> {
        let gone = || Failure::Fault(Reason::VirtualServerUnknown);
        let virtual_server = asked.config.virtual_servers.get(&list.virtual_server).ok_or_else(gone)?;
        let admission = Admission::of(&asked.config, &asked.caller, unix_seconds());
        let named = (list.virtual_server.as_str(), virtual_server);
        let mut listing = Listing::begin(list.listed, &admission, named, list.from.clone());
        let principal = principal_with(&asked.caller, list.capabilities.as_deref());
        let gathered = async {
            while let Some(cursor) = listing.ask().cloned() {
                let answer = match asked.config.servers.get(&cursor.server) {
                    Some(server) => {
                        let id = self.upstream.next_id();
                        let operation = Operation::named(list.listed.method(), None, Some(id.clone()));
                        let mut asks = asked.cause.ask(operation, &server.url);
                        let (params, trace) = (Listing::params(&cursor), asks.carry_on());
                        let request = |era| {
                            let of = (list.listed.method(), params.as_slice());
                            forward::list_request(era, &id, of, list.capabilities.as_deref(), &trace)
                        };
                        let answer = self.upstream.enquire(server, &principal, &id, request).await;
                        asks.speaks(self.upstream.era(server, &principal));
                        asks.answered(answer.as_ref().map_err(UpstreamFault::reason));
                        answer.map_err(|fault| fault.reason())
                    }
                    None => Err(Reason::UpstreamUnreachable),
                };
                listing.take(answer.as_ref().map_err(|reason| *reason));
            }
        };
        let gathered = tokio::select! {
            biased;
            reason = self.state.taken_away(&asked.caller) => Err(reason),
            gathered = tokio::time::timeout(LIST_WAIT_MAX, gathered) => {
                gathered.map_err(|_elapsed| Reason::UpstreamTimeout)
            }
        };
        gathered.map_err(Failure::Fault)?;
        listing.finish()
    }

    fn servers(&self, asked: &Asked, virtual_server: &str) -> Vec<Server> {
        let behind = asked.config.virtual_servers.get(virtual_server).map(|server| &server.servers);
        let servers = behind.into_iter().flatten().filter_map(|name| asked.config.servers.get(name));
        servers.cloned().collect()
    }
}
