//! A server at the other end of a channel: its era, and what is asked of it.
//!
//! Opened by `channel::pool` on a channel that was just opened, once; a modern server is known by its answer to
//! `server/discover`, a legacy one gets its handshake. Some old programs say nothing to what they do not know, so a
//! silent one is shaken hands with meanwhile, and the first word counts. A session is used by one person through one
//! agent, unless the server is shared on purpose; then it declares nothing that a client could be asked for.
//! Deliberately absent: when a session begins and ends (`pool`). Specification: MCP 2026-07-28 versioning, "Backward
//! Compatibility", stdio; 2025-11-25 lifecycle.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bailiwick_data_plane_core::{
    conversation::Sort,
    forward::{ServerRequest, list_request},
    handshake::{self, Probe},
    listening::{
        Wishes,
        source::{Closed, Offers},
    },
    relay::Level,
    trace::Carried,
};
use bailiwick_proto::mcp::{Era, Incoming, Members, Notification, RequestId, Response, method, raw};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Fuse},
};
use http::HeaderValue;
use serde_json::value::RawValue;
use tokio::{sync::mpsc, time::timeout};

use super::{Channel, Question};
use crate::upstream::{
    context::Context,
    exchange::{Bounds, Heard},
    fault::UpstreamFault,
    peer::{Aside, level_request},
};

/// How long a program may be silent before it is shaken hands with as well. Fast ones have answered by then.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// Longest wait for a server to take what has no answer.
const TELL_MAX: Duration = Duration::from_secs(5);
/// Messages of a subscription that wait to be heard.
const HEARD_MAX: usize = 64;

/// See the file's header.
#[derive(Debug)]
pub(in crate::upstream) struct Session {
    pub(in crate::upstream) channel: Channel,
    era: Era,
    /// What the server says that it can do: an object.
    capabilities: Option<Box<RawValue>>,
    /// How many listeners asked to be told of each resource.
    subscribed: Mutex<BTreeMap<String, usize>>,
}

/// What is known of a server before a session is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum Known {
    Nothing,
    Legacy,
}

/// The notifications of a modern server's subscription.
pub(crate) struct Subscription {
    first: Option<Notification>,
    asking: Fuse<BoxFuture<'static, ()>>,
    hearing: mpsc::Receiver<Heard>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

fn invalid(rpc_method: &str, answer: &Response) -> UpstreamFault {
    match answer {
        Response::Error(error) => {
            UpstreamFault::Invalid(format!("{rpc_method}: error {}: {}", error.code, error.message))
        }
        Response::Result(_) => UpstreamFault::Invalid(format!("{rpc_method}: a result of another kind")),
    }
}

impl Session {
    /// Gets to know the server. `capabilities`: what the client behind the session can be asked for, an object.
    pub(in crate::upstream) async fn open(
        channel: Channel,
        known: Known,
        capabilities: Option<&RawValue>,
        level: Option<Level>,
        bounds: Bounds,
    ) -> Result<Self, UpstreamFault> {
        let greeting = async {
            match known {
                Known::Nothing => Self::greet(&channel, capabilities).await,
                Known::Legacy => Self::initialize(&channel, capabilities).await,
            }
        };
        let millis = u64::try_from(bounds.timeout.as_millis()).unwrap_or(u64::MAX);
        let greeted = timeout(bounds.timeout, Box::pin(greeting)).await;
        let (era, capabilities) = greeted.unwrap_or(Err(UpstreamFault::Timeout(millis)))?;
        channel.speaks(era);
        let session = Self { channel, era, capabilities, subscribed: Mutex::default() };
        if !era.is_modern() {
            let ServerRequest { body, .. } = handshake::initialized_notification(era);
            session.channel.tell(body, TELL_MAX).await?;
        }
        if let Some(level) = level
            && let Err(fault) = session.tell_level(&RequestId::Text("level".into()), level, bounds).await
        {
            tracing::debug!(%fault, "a server does not take the level of its log");
        }
        Ok(session)
    }

    async fn greet(
        channel: &Channel,
        capabilities: Option<&RawValue>,
    ) -> Result<(Era, Option<Box<RawValue>>), UpstreamFault> {
        let id = RequestId::from(0);
        let body = handshake::discover_request(&id).body;
        let question = Question { id: &id, body, gate: None, context: None, heard: None };
        let mut probe = Box::pin(channel.ask(question, None));
        let probed = match timeout(PROBE_PATIENCE, &mut probe).await {
            Ok(probed) => probed,
            Err(_silent) => tokio::select! {
                probed = &mut probe => probed,
                greeted = Box::pin(Self::initialize(channel, capabilities)) => return greeted,
            },
        };
        let answer = match probed {
            Ok((answer, _)) => Some(answer),
            // Some old servers answer what they do not know with something that is no JSON-RPC.
            Err(UpstreamFault::Invalid(_)) => None,
            Err(fault) => return Err(fault),
        };
        match (handshake::read_probe(200, answer.as_ref()), &answer) {
            (Probe::Modern, Some(Response::Result(result))) => Ok((Era::Modern, handshake::capabilities(result))),
            (Probe::Modern, _) => Ok((Era::Modern, None)),
            (Probe::Legacy | Probe::Inconclusive, _) => Self::initialize(channel, capabilities).await,
        }
    }

    async fn initialize(
        channel: &Channel,
        capabilities: Option<&RawValue>,
    ) -> Result<(Era, Option<Box<RawValue>>), UpstreamFault> {
        let id = RequestId::Text("initialize".into());
        let body = handshake::initialize_request(&id, capabilities).body;
        let question = Question { id: &id, body, gate: None, context: None, heard: None };
        let (answer, _) = channel.ask(question, None).await?;
        let Response::Result(result) = &answer else { return Err(invalid(method::INITIALIZE, &answer)) };
        let era = handshake::read_channel_initialize(result);
        let era = era.map_err(|fault| UpstreamFault::Invalid(fault.to_string()))?;
        Ok((era, handshake::legacy_capabilities(result)))
    }

    pub(in crate::upstream) fn era(&self) -> Era {
        self.era
    }

    pub(in crate::upstream) fn capabilities(&self) -> Option<Box<RawValue>> {
        self.capabilities.clone()
    }

    /// A legacy server that keeps a log.
    pub(in crate::upstream) fn logs(&self) -> bool {
        !self.era.is_modern() && self.members().get("logging").is_some()
    }

    fn members(&self) -> Members<'_> {
        self.capabilities.as_deref().and_then(Members::of).unwrap_or_default()
    }

    /// Asks once; the answer and its length in bytes.
    pub(in crate::upstream) async fn ask(
        &self,
        id: &RequestId,
        request: ServerRequest,
        bounds: Bounds,
        aside: Aside<'_>,
    ) -> Result<(Response, u64), UpstreamFault> {
        let heard = aside.heard.map(|heard| (Sort::Call, heard));
        let longest = heard.is_none().then_some(bounds.timeout);
        let Aside { gate, context, .. } = aside;
        let question = Question { id, body: request.body, gate, context, heard };
        self.channel.ask(question, longest).await
    }

    /// Tells a legacy server that keeps a log the level that is wanted.
    pub(in crate::upstream) async fn tell_level(
        &self,
        id: &RequestId,
        level: Level,
        bounds: Bounds,
    ) -> Result<(), UpstreamFault> {
        if !self.logs() {
            return Ok(());
        }
        let request = level_request(self.era, id, level);
        self.ask(id, request, bounds, Aside::default()).await.map(|_taken| ())
    }

    /// Sends an answer to what the server asked in this session.
    pub(in crate::upstream) async fn answer(
        &self,
        (body, context): (Vec<u8>, Option<&Context>),
        asked_in: Option<&HeaderValue>,
        longest: Duration,
    ) -> Result<(), UpstreamFault> {
        if asked_in != Some(self.channel.number()) {
            return Err(UpstreamFault::SessionGone);
        }
        self.channel.tell_of(body, context, longest).await
    }

    /// What the server offers to listen to.
    pub(in crate::upstream) fn offers(&self) -> Offers {
        Offers::of(&self.members())
    }

    /// Asks a modern server to be told of changes.
    pub(in crate::upstream) async fn subscription(
        &self,
        id: RequestId,
        wishes: &Wishes,
        bounds: Bounds,
    ) -> Result<Subscription, Closed> {
        let wished = [("notifications", wishes.json())];
        let needs = wishes.needs();
        let request = list_request(Era::Modern, &id, (method::LISTEN, &wished), Some(&needs), &Carried::default());
        let (heard, mut hearing) = mpsc::channel(HEARD_MAX);
        let (channel, (refused, mut refusal)) = (self.channel.clone(), mpsc::channel(1));
        let asking = async move {
            let heard = Some((Sort::Subscription, &heard));
            let question = Question { id: &id, body: request.body, gate: None, context: None, heard };
            if let Ok((Response::Error(error), _)) = channel.ask(question, None).await {
                tracing::debug!(code = error.code, "a server gives no subscription");
                _ = refused.try_send(());
            }
        };
        let mut asking = asking.boxed().fuse();
        // It is there once it is acknowledged.
        let first = timeout(bounds.timeout, async {
            loop {
                tokio::select! {
                    biased;
                    first = hearing.recv() => match first?.message {
                        Incoming::Notification(first) => return Some(first),
                        Incoming::Request(_) | Incoming::Response(_) => {}
                    },
                    () = &mut asking => return None,
                }
            }
        });
        match first.await {
            Ok(Some(first)) => Ok(Subscription { first: Some(first), asking, hearing }),
            Ok(None) if refusal.try_recv().is_ok() => Err(Closed::Refused),
            Ok(None) | Err(_) => Err(Closed::Broken),
        }
    }

    /// Asks a legacy server to tell of a resource's changes, or no longer to: the first who wishes it asks, the last
    /// who does not any more takes it back.
    pub(in crate::upstream) async fn subscribe(
        &self,
        id: &RequestId,
        (uri, wished): (&str, bool),
        bounds: Bounds,
    ) -> Result<(), UpstreamFault> {
        let changes = {
            let mut subscribed = self.subscribed.lock().unwrap_or_else(PoisonError::into_inner);
            let wishes = subscribed.entry(uri.to_owned()).or_default();
            let before = *wishes;
            *wishes = if wished { before + 1 } else { before.saturating_sub(1) };
            let after = *wishes;
            if after == 0 {
                subscribed.remove(uri);
            }
            (before == 0) != (after == 0)
        };
        if !changes {
            return Ok(());
        }
        let rpc_method = if wished { method::RESOURCES_SUBSCRIBE } else { method::RESOURCES_UNSUBSCRIBE };
        let request = list_request(self.era, id, (rpc_method, &[("uri", raw(uri))]), None, &Carried::default());
        let taken = match self.ask(id, request, bounds, Aside::default()).await {
            Ok((Response::Result(_), _)) => Ok(()),
            Ok((answer, _)) => Err(invalid(rpc_method, &answer)),
            Err(fault) => Err(fault),
        };
        if wished && taken.is_err() {
            // The next one who wishes it asks again.
            self.subscribed.lock().unwrap_or_else(PoisonError::into_inner).remove(uri);
        }
        taken
    }
}

impl Subscription {
    /// The next notification; `None` when the subscription is over.
    pub(crate) async fn next(&mut self) -> Option<Notification> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        loop {
            tokio::select! {
                biased;
                heard = self.hearing.recv() => match heard?.message {
                    Incoming::Notification(notification) => return Some(notification),
                    Incoming::Request(_) | Incoming::Response(_) => {}
                },
                () = &mut self.asking => return None,
            }
        }
    }
}
