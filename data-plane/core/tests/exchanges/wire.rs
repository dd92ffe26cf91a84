//! Virtual time and the wires between client, nodes and server: what is sent arrives after a delay that the seed
//! decides, in order on each stream, and nothing else happens in between.

use std::collections::BTreeMap;

use bailiwick_data_plane_core::sealed::answer::Answer;

use crate::{faults::Fault, random::Random};

/// Longest a message is under way, milliseconds.
const DELAY_MS_MAX: u64 = 200;

/// One client's request and everything that comes back on it.
pub(crate) type Connection = u64;
/// One POST to a server and everything that comes back on it.
pub(crate) type Exchange = u64;

/// A POST.
#[derive(Clone, Debug)]
pub(crate) struct Post {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// A whole HTTP answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) session: Option<String>,
    pub(crate) body: Vec<u8>,
}

/// What arrives.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// At this node, from a client.
    Posted(Connection, usize, Post),
    /// A client went away.
    Left(Connection),
    /// At a client, before the answer.
    Told(Connection, Vec<u8>),
    /// At a client: the answer.
    Replied(Connection, Reply),
    /// At the server, from a node.
    Asked(Exchange, Post),
    /// At the server: nobody reads this any more.
    Dropped(Exchange),
    /// At a node: one event of a stream.
    Said(Exchange, Vec<u8>),
    /// At a node: an answer that is no stream.
    Answered(Exchange, Reply),
    /// At a node: the stream is over.
    Broke(Exchange),
    /// At all nodes: what one of them says to whoever waits under a number.
    Brought(Answer),
    /// At whoever wanted to be woken.
    ClientWakes(u64),
    ServerWakes(Exchange),
    NodeWakes(u64),
}

/// Which stream an event belongs to: nothing overtakes on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stream {
    Up(Connection),
    Down(Connection),
    To(Exchange),
    From(Exchange),
}

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Wires {
    pub(crate) now: u64,
    pub(crate) random: Random,
    /// What goes wrong here, in tests of the promises.
    fault: Option<Fault>,
    queue: BTreeMap<(u64, u64), Event>,
    sent: u64,
    /// When the last event of a stream arrives.
    last: BTreeMap<Stream, u64>,
}

impl Wires {
    pub(crate) fn new(random: Random, fault: Option<Fault>) -> Self {
        Self { now: 0, random, fault, queue: BTreeMap::new(), sent: 0, last: BTreeMap::new() }
    }

    /// On its way, after whatever was sent on the same stream.
    pub(crate) fn send(&mut self, event: Event) {
        let sent = match &mut self.fault {
            Some(fault) => fault.instead_of(event),
            None => vec![event],
        };
        sent.into_iter().for_each(|event| self.carry(event));
    }

    fn carry(&mut self, event: Event) {
        // Mostly quick: then what is sent at once arrives mixed with what others send.
        let delay = if self.random.percent(80) { self.random.below(5) } else { self.random.below(DELAY_MS_MAX) };
        let mut at = self.now + delay;
        if let Some(stream) = stream(&event) {
            let last = self.last.entry(stream).or_default();
            at = at.max(*last);
            *last = at;
        }
        self.at(at, event);
    }

    /// At that moment, or now.
    pub(crate) fn at(&mut self, at: u64, event: Event) {
        self.sent += 1;
        self.queue.insert((at.max(self.now), self.sent), event);
    }

    /// What happens next; time passes.
    pub(crate) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.queue.pop_first()?;
        self.now = at;
        Some(event)
    }
}

fn stream(event: &Event) -> Option<Stream> {
    Some(match event {
        Event::Posted(connection, ..) | Event::Left(connection) => Stream::Up(*connection),
        Event::Told(connection, _) | Event::Replied(connection, _) => Stream::Down(*connection),
        Event::Asked(exchange, _) | Event::Dropped(exchange) => Stream::To(*exchange),
        Event::Said(exchange, _) | Event::Answered(exchange, _) | Event::Broke(exchange) => Stream::From(*exchange),
        Event::Brought(_) | Event::ClientWakes(_) | Event::ServerWakes(_) | Event::NodeWakes(_) => return None,
    })
}
