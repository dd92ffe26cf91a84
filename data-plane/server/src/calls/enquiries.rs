//! What servers are asked on a client's behalf without it being a call: what they can do, lists, the level of their
//! logs.
//!
//! Called by `listener`. Nothing here changes anything at a server but the level of its log, so nothing is recorded;
//! all of it needs the caller's authority and a node that is current enough to read, and goes to those servers only
//! that the caller's consent leads to. What a caller sees of a list, `listing` in the core decides. Several servers are
//! asked at the same time, and each is waited for on its own: one that is slow or dead costs its own time, hides no
//! other, and is told of in the log and in a metric.

use std::{sync::Arc, time::Duration};

use bailiwick_data_plane_core::{
    admission::{Admission, SpoolLevel, node_gate, reachable},
    edge::{HttpReply, Introduction, ListRequest, NotTaken, SetLevel, Subscribe},
    forward,
    listening::source::Offers,
    listing::{Failure, Listing, Page},
    operation::Operation,
    relay::Level,
    sealed::cursor::Cursor,
};
use bailiwick_proto::{
    Reason, Tier,
    mcp::{self, Members, Response},
    v1::Server,
};
use futures::{
    StreamExt,
    stream::{self, FuturesOrdered},
};
use serde_json::value::RawValue;

use super::{Asked, Calls, forwarding::principal_with, passage::timeout, unix_seconds};
use crate::{
    random,
    upstream::{Principal, UpstreamFault},
};

/// Longest wait for servers to say what they can do: whoever does not answer by then can do nothing.
const INTRODUCTION_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a server's page of a list, getting to know the server included.
const LIST_WAIT_MAX: Duration = Duration::from_secs(20);
/// Servers asked at the same time for one introduction, or told a level: more than people put behind one virtual server.
/// Those of a list have a bound of their own, `listing::ASKS_MAX`.
const AT_ONCE_MAX: usize = 32;

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
        let servers = servers(asked, virtual_server);
        let told = stream::iter(servers).map(|server| self.can_do(server, &principal)).buffered(AT_ONCE_MAX);
        introduction.reply(&told.collect::<Vec<_>>().await)
    }

    /// What a server says that it can do: nothing, if it does not say so in time.
    async fn can_do(&self, server: Arc<Server>, principal: &Principal) -> Box<RawValue> {
        let told = in_time(INTRODUCTION_WAIT_MAX, self.upstream.capabilities(&server, principal)).await;
        let told = told.unwrap_or_else(|fault| {
            tracing::warn!(server = server.name, %fault, "a server does not say what it can do");
            self.metrics.left_out(fault.reason());
            None
        });
        told.unwrap_or_else(|| mcp::raw_object([]))
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
                    self.metrics.left_out(failure.reason());
                }
                let next = page.next.as_ref().map(|next| {
                    let (keys, now) = (self.state.sealing_keys(), unix_seconds());
                    let nonce = random().ok_or(())?;
                    next.seal(&keys, &asked.caller, list.listed.method(), now, nonce).map_err(|_not_sealed| ())
                });
                match next.transpose() {
                    Ok(cursor) => list.page(&page, cursor.as_deref()),
                    Err(()) => list.failed(asked.names(), &Failure::Fault(Reason::ConfigStale)),
                }
            }
            Err(failure) => list.failed(asked.names(), &failure),
        }
    }

    /// Tells the legacy servers that keep logs from which level on they are wanted.
    pub(crate) async fn set_level(&self, asked: &Asked, virtual_server: &str, level: &SetLevel) -> HttpReply {
        if let Some(reason) = self.may_not_ask(asked) {
            return level.refused(asked.names(), reason);
        }
        let principal = principal_with(&asked.caller, level.capabilities.as_deref());
        let servers = servers(asked, virtual_server);
        let told = stream::iter(servers.clone()).map(|server| self.tell_level(server, &principal, level.level));
        told.buffered(AT_ONCE_MAX).collect::<()>().await;
        let behind = asked.config.virtual_servers.get(virtual_server).map_or(0, |offered| offered.servers.len());
        let some = (servers.len() < behind).then(|| servers.iter().map(|server| server.name.clone()).collect());
        self.levels.tell(&asked.caller, &principal, some, level.level).await;
        level.reply()
    }

    async fn tell_level(&self, server: Arc<Server>, principal: &Principal, level: Level) {
        let told = in_time(INTRODUCTION_WAIT_MAX, self.upstream.set_level(&server, principal, level)).await;
        if let Err(fault) = told {
            tracing::warn!(server = server.name, %fault, "a server does not take the level of its log");
            self.metrics.left_out(fault.reason());
        }
    }

    /// Takes a legacy client's subscription to a resource, or its end.
    pub(crate) async fn subscribe(&self, asked: &Asked, wish: &Subscribe) -> HttpReply {
        let taken = match self.tells(asked, wish).await {
            Ok(()) => self.listeners.subscribe(&asked.caller, wish).await,
            Err(fault) => Err(fault),
        };
        wish.reply(asked.names(), taken)
    }

    /// Whether the resource's server can tell when it changes.
    async fn tells(&self, asked: &Asked, wish: &Subscribe) -> Result<(), NotTaken> {
        self.may_not_ask(asked).map_or(Ok(()), |reason| Err(NotTaken::Unable(reason)))?;
        let unreachable = || NotTaken::Unable(Reason::UpstreamUnreachable);
        let server = asked.config.servers.get(&wish.server).ok_or_else(unreachable)?;
        let principal = principal_with(&asked.caller, wish.capabilities.as_deref());
        let told = in_time(INTRODUCTION_WAIT_MAX, self.upstream.capabilities(server, &principal)).await;
        let told = told.map_err(|fault| NotTaken::Unable(fault.reason()))?;
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
            while !listing.is_complete() {
                // At most `listing::ASKS_MAX`. Those that turn out not to be needed are dropped unheard.
                let asks = listing.asks().into_iter();
                let mut answers: FuturesOrdered<_> =
                    asks.map(|cursor| self.page_of(asked, list, &principal, cursor)).collect();
                while !listing.is_complete()
                    && let Some(answer) = answers.next().await
                {
                    listing.take(answer.as_ref().map_err(|reason| *reason));
                }
            }
        };
        let gathered = tokio::select! {
            biased;
            reason = self.state.taken_away(&asked.caller) => Err(reason),
            () = gathered => Ok(()),
        };
        gathered.map_err(Failure::Fault)?;
        listing.finish()
    }

    /// One server's page.
    async fn page_of(
        &self,
        asked: &Asked,
        list: &ListRequest,
        principal: &Principal,
        cursor: Cursor,
    ) -> Result<Response, Reason> {
        let server = asked.config.servers.get(&cursor.server).ok_or(Reason::UpstreamUnreachable)?;
        let id = self.upstream.next_id();
        let operation = Operation::named(list.listed.method(), None, Some(id.clone()));
        let mut asks = asked.cause.ask(operation, &server.url);
        let (params, trace) = (Listing::params(&cursor), asks.carry_on());
        let request = |era| {
            let of = (list.listed.method(), params.as_slice());
            forward::list_request(era, &id, of, list.capabilities.as_deref(), &trace)
        };
        let answer = in_time(LIST_WAIT_MAX, self.upstream.enquire(server, principal, &id, request)).await;
        asks.speaks(self.upstream.era(server, principal));
        asks.answered(answer.as_ref().map_err(UpstreamFault::reason));
        answer.map_err(|fault| fault.reason())
    }
}

fn servers(asked: &Asked, virtual_server: &str) -> Vec<Arc<Server>> {
    reachable(&asked.config, &asked.caller, virtual_server).into_iter().cloned().collect()
}

/// What a server is asked, or that it took too long.
async fn in_time<T>(
    longest: Duration,
    asked: impl Future<Output = Result<T, UpstreamFault>>,
) -> Result<T, UpstreamFault> {
    tokio::time::timeout(longest, asked).await.unwrap_or_else(|_elapsed| Err(timeout(longest)))
}
