//! The servers of one listener: opened, heard and closed as the core says.
//!
//! Used by the listener's task alone. Everything that takes time is polled here and nowhere else, so what is dropped
//! with the task is over.

use std::{sync::Arc, time::Duration};

use bailiwick_data_plane_core::{
    Caller, Config,
    admission::reachable,
    listening::{
        Hearer, Listening, Wishes,
        source::{Closed, Offers, PAUSE_MS_MAX, PAUSE_MS_MIN, Source, SourceOutput},
    },
};
use bailiwick_proto::{
    mcp::{Era, Notification},
    v1::Server,
};
use futures::{
    FutureExt, StreamExt as _,
    future::{BoxFuture, join_all},
    stream::{self, BoxStream, FuturesUnordered},
};
use serde_json::value::RawValue;
use tokio_stream::StreamMap;

use super::Stream;
use crate::{
    calls::principal_with,
    upstream::{Hearing, Notifications},
};

/// One server.
struct Heard {
    server: Arc<Server>,
    hearing: Arc<Hearing>,
    /// Once it is known what the server offers.
    source: Option<Source>,
}

/// What comes from a server.
enum Event {
    Offers(Era, Offers),
    Opened,
    Message(Notification),
    Closed(Closed),
}

enum Reading {
    Begins(Arc<Hearing>, Wishes),
    Goes(Box<Notifications>),
    Over,
}

/// See the file's header.
pub(super) struct Sources {
    /// In the order of their names; no more room than they take, because most listeners hear one or two.
    heard: Vec<Heard>,
    /// By server, where that is in `heard`, and stream; stream 0 finds out what the server offers.
    streams: StreamMap<(usize, u64), BoxStream<'static, Event>>,
    /// Subscriptions under way.
    chores: FuturesUnordered<BoxFuture<'static, ()>>,
    wishes: Wishes,
    /// Servers whose wishes are not known to their source yet: it was not there.
    fresh: Vec<(usize, Era, Offers)>,
}

impl Sources {
    pub(super) fn begin(stream: &Stream, config: &Config) -> Self {
        let principal = principal_with(&stream.asked.caller, stream.listen.capabilities.as_deref());
        let servers = reachable(config, &stream.asked.caller, &stream.virtual_server);
        let heard = servers.into_iter().map(|server| {
            let hearing = Arc::new(stream.calls.upstream.hearing(server, &principal));
            Heard { server: Arc::clone(server), hearing, source: None }
        });
        let mut sources = Self {
            heard: heard.collect(),
            streams: StreamMap::new(),
            chores: FuturesUnordered::new(),
            wishes: stream.listen.wishes.clone(),
            fresh: Vec::new(),
        };
        sources.heard.shrink_to_fit();
        for (server, heard) in sources.heard.iter().enumerate() {
            sources.streams.insert((server, 0), offers(Arc::clone(&heard.hearing)).into_stream().boxed());
        }
        sources
    }

    /// Gives back what servers keep for this listener.
    pub(super) async fn close(self) {
        drop((self.streams, self.chores));
        join_all(self.heard.iter().map(|heard| heard.hearing.close())).await;
    }

    pub(super) fn servers(&self) -> Vec<String> {
        self.heard.iter().map(|heard| heard.server.name.clone()).collect()
    }

    /// Whether the virtual server still consists of these servers, as far as the caller's consent leads.
    pub(super) fn are_of(&self, config: &Config, caller: &Caller, virtual_server: &str) -> bool {
        let now = reachable(config, caller, virtual_server);
        config.virtual_servers.contains_key(virtual_server)
            && now.into_iter().eq(self.heard.iter().map(|heard| &heard.server))
    }

    /// Does everything that is to be done, and tells the client's side.
    pub(super) fn carry_out(&mut self, now: u64, hearer: &Hearer<'_>, listening: &mut Listening) {
        self.wish(hearer, listening.wishes());
        for (server, era, offers) in std::mem::take(&mut self.fresh) {
            if let Some(heard) = self.heard.get_mut(server) {
                heard.source = Some(Source::new(era, offers, hearer.to_server(&heard.server.name, &self.wishes)));
            }
        }
        for (server, heard) in self.heard.iter_mut().enumerate() {
            let Some(source) = &mut heard.source else { continue };
            let name = &heard.server.name;
            while let Some(output) = source.poll_output() {
                match output {
                    SourceOutput::Open(stream, wishes) => {
                        let reading = Reading::Begins(Arc::clone(&heard.hearing), wishes);
                        self.streams.insert((server, stream), stream::unfold(reading, read).boxed());
                    }
                    SourceOutput::Close(stream) => drop(self.streams.remove(&(server, stream))),
                    SourceOutput::Subscribe(uri) => self.chores.push(subscribe(&heard.hearing, uri, true)),
                    SourceOutput::Unsubscribe(uri) => self.chores.push(subscribe(&heard.hearing, uri, false)),
                    SourceOutput::Settled(honoured) => {
                        listening.handle_settled(name, &hearer.honoured(name, &honoured));
                    }
                    SourceOutput::Changed(change) => {
                        if let Some(change) = hearer.heard(name, change) {
                            listening.handle_change(now, change);
                        }
                    }
                    SourceOutput::Told(own, said) => {
                        let said = RawValue::from_string(said).ok();
                        if let Some((id, seen)) = said.and_then(|said| hearer.told(name, &own, &said)) {
                            listening.handle_task(now, &id, seen);
                        }
                    }
                }
            }
        }
    }

    /// The client wishes something else.
    pub(super) fn wish(&mut self, hearer: &Hearer<'_>, wishes: &Wishes) {
        if *wishes == self.wishes {
            return;
        }
        self.wishes.clone_from(wishes);
        for heard in &mut self.heard {
            if let Some(source) = &mut heard.source {
                source.handle_wishes(hearer.to_server(&heard.server.name, wishes));
            }
        }
    }

    /// Waits until something comes from a server.
    pub(super) async fn hear(&mut self, now: impl Fn() -> u64) {
        let ((server, stream), event) = tokio::select! {
            Some(came) = self.streams.next(), if !self.streams.is_empty() => came,
            Some(()) = self.chores.next(), if !self.chores.is_empty() => return,
            else => std::future::pending().await,
        };
        if let Event::Offers(era, offers) = event {
            self.fresh.push((server, era, offers));
            return;
        }
        let Some(source) = self.heard.get_mut(server).and_then(|heard| heard.source.as_mut()) else { return };
        match event {
            Event::Opened => source.handle_opened(now(), stream),
            Event::Message(message) => source.handle_message(now(), stream, &message),
            Event::Closed(how) => source.handle_closed(now(), stream, how),
            Event::Offers(..) => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: u64) {
        self.heard.iter_mut().filter_map(|heard| heard.source.as_mut()).for_each(|source| source.handle_timeout(now));
    }

    pub(super) fn poll_timeout(&self) -> Option<u64> {
        self.heard.iter().filter_map(|heard| heard.source.as_ref()?.poll_timeout()).min()
    }
}

/// Finds out what a server offers, however long that takes.
async fn offers(hearing: Arc<Hearing>) -> Event {
    let mut pause = PAUSE_MS_MIN;
    loop {
        match hearing.offers().await {
            Ok((era, offers)) => return Event::Offers(era, offers),
            Err(fault) => tracing::debug!(%fault, "a server cannot be listened to at the moment"),
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        pause = (pause * 2).min(PAUSE_MS_MAX);
    }
}

async fn read(reading: Reading) -> Option<(Event, Reading)> {
    Some(match reading {
        Reading::Begins(hearing, wishes) => match hearing.open(&wishes).await {
            Ok(notifications) => (Event::Opened, Reading::Goes(Box::new(notifications))),
            Err(how) => (Event::Closed(how), Reading::Over),
        },
        Reading::Goes(mut notifications) => match notifications.next().await {
            Some(notification) => (Event::Message(notification), Reading::Goes(notifications)),
            None => (Event::Closed(Closed::Broken), Reading::Over),
        },
        Reading::Over => return None,
    })
}

fn subscribe(hearing: &Arc<Hearing>, uri: String, wished: bool) -> BoxFuture<'static, ()> {
    let hearing = Arc::clone(hearing);
    async move {
        if let Err(fault) = hearing.subscribe(&uri, wished).await {
            tracing::debug!(%fault, wished, "a server did not take a subscription");
        }
    }
    .boxed()
}
