//! A listener and a server in virtual time, of any eras: the world of these tests, and what holds in whatever happens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bailiwick_proto::mcp::{Era, Notification, raw};
use proptest::prelude::*;
use serde_json::{Value, json, value::RawValue};

use super::{ALL, LEGACY, drain, legacy, notification, told, updated};
use crate::{
    forward::{
        Answerer,
        tasks::{Followed, seen},
    },
    listening::{
        ACKNOWLEDGED, Change, Listening, Output, Sight, Wishes,
        source::{Closed, Offers, PAUSE_MS_MAX, Source, SourceOutput},
    },
    naming::Naming,
};

/// A server behind a source, and the moments at which something happens.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) listening: Listening,
    pub(super) source: Source,
    era: Era,
    /// What the server would acknowledge.
    pub(super) streams: BTreeSet<u64>,
    pub(super) subscribed: BTreeSet<String>,
    pub(super) opened: Vec<(u64, Wishes)>,
    written: Vec<Output>,
    /// The server is there.
    pub(super) up: bool,
}

impl World {
    pub(super) fn new(listening: Listening, era: Era, offers: Offers) -> Self {
        let source = Source::new(era, offers, listening.wishes().clone());
        let mut world = Self {
            now: 0,
            listening,
            source,
            era,
            streams: BTreeSet::new(),
            subscribed: BTreeSet::new(),
            opened: Vec::new(),
            written: Vec::new(),
            up: true,
        };
        world.settle();
        world
    }

    /// A task, which both sides know by the same id.
    fn told(&mut self, id: &str, said: &str) {
        let said = RawValue::from_string(said.to_owned()).unwrap();
        let of = Answerer { naming: &Naming::default(), server: "s", era: None };
        if let Some(seen) = seen(&Followed { id, own: id, capabilities: None }, &said, &of) {
            self.listening.handle_task(self.now, id, seen);
        }
    }

    /// Carries out everything that is to be done now.
    pub(super) fn settle(&mut self) {
        let mut pending: VecDeque<SourceOutput> = std::iter::from_fn(|| self.source.poll_output()).collect();
        while let Some(output) = pending.pop_front() {
            match output {
                SourceOutput::Open(stream, wishes) => {
                    self.opened.push((stream, wishes.clone()));
                    if !self.up {
                        self.source.handle_closed(self.now, stream, Closed::Broken);
                    } else if self.era.is_modern() {
                        self.streams.insert(stream);
                        let params =
                            raw(&json!({"notifications": serde_json::from_str::<Value>(wishes.json().get()).unwrap()}));
                        let acknowledged = Notification { method: ACKNOWLEDGED.into(), params: Some(params) };
                        self.source.handle_message(self.now, stream, &acknowledged);
                    } else {
                        self.streams.insert(stream);
                        self.subscribed.clear();
                        self.source.handle_opened(self.now, stream);
                    }
                }
                SourceOutput::Close(stream) => assert!(self.streams.remove(&stream)),
                SourceOutput::Subscribe(uri) => assert!(self.subscribed.insert(uri)),
                SourceOutput::Unsubscribe(uri) => assert!(self.subscribed.remove(&uri)),
                SourceOutput::Settled(honoured) => self.listening.handle_settled("s", &honoured),
                SourceOutput::Changed(change) => self.listening.handle_change(self.now, change),
                SourceOutput::Told(id, said) => self.told(&id, &said),
            }
            pending.extend(std::iter::from_fn(|| self.source.poll_output()));
        }
        self.written.extend(drain(&mut self.listening, self.now));
    }

    pub(super) fn changes(&mut self, change: &Change) {
        self.says(&notification(change));
    }

    pub(super) fn says(&mut self, said: &Notification) {
        for stream in self.streams.clone() {
            self.source.handle_message(self.now, stream, said);
        }
        self.settle();
    }

    pub(super) fn breaks(&mut self) {
        self.up = false;
        for stream in std::mem::take(&mut self.streams) {
            self.source.handle_closed(self.now, stream, Closed::Broken);
        }
        self.settle();
    }

    /// Lets time pass, from one moment to the next.
    pub(super) fn pass(&mut self, millis: u64) {
        let until = self.now + millis;
        for _ in 0..100_000 {
            let next = self.listening.poll_timeout().into_iter().chain(self.source.poll_timeout()).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                self.now = until;
                return;
            };
            self.now = self.now.max(next);
            self.source.handle_timeout(self.now);
            self.settle();
        }
        panic!("time does not pass");
    }

    pub(super) fn take(&mut self) -> Vec<Output> {
        std::mem::take(&mut self.written)
    }
}

#[derive(Clone, Debug)]
enum Event {
    Change(u8),
    Break,
    Mend,
    Pass(u16),
    Subscribe(u8),
    Unsubscribe(u8),
    Sight(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0_u8..8).prop_map(Event::Change),
        Just(Event::Break),
        Just(Event::Mend),
        (0_u16..5_000).prop_map(Event::Pass),
        (0_u8..5).prop_map(Event::Subscribe),
        (0_u8..5).prop_map(Event::Unsubscribe),
        (0_u8..3).prop_map(Event::Sight),
    ]
}

proptest! {
    /// Whatever happens in whatever order: what changed while it was wished for is told by the time all is quiet, nothing
    /// else than changes of what is wished for is told, and at most one stream stays open.
    #[test]
    fn nothing_that_changes_is_missed(is_modern_server in any::<bool>(), events in prop::collection::vec(event(), 1..40)) {
        let era = if is_modern_server { Era::Modern } else { LEGACY };
        let mut world = World::new(legacy(), era, ALL);
        let mut owed: BTreeMap<Change, usize> = BTreeMap::new();
        let uri = |n: u8| format!("file:///{n}");
        let mut told_so_far = Vec::new();
        for event in events {
            match event {
                Event::Change(n) => {
                    let change = match n {
                        0 => Change::Tools,
                        1 => Change::Prompts,
                        2 => Change::Resources,
                        n => updated(&uri(n - 3)),
                    };
                    // Told after this moment, unless it is not wished for.
                    if world.listening.wishes().covers(&change) {
                        told_so_far.extend(told(&world.take()));
                        owed.insert(change.clone(), told_so_far.len());
                    }
                    world.changes(&change);
                }
                Event::Break => world.breaks(),
                Event::Mend => world.up = true,
                Event::Pass(millis) => world.pass(millis.into()),
                Event::Subscribe(n) => {
                    world.listening.subscribe(&uri(n)).unwrap();
                    world.source.handle_wishes(world.listening.wishes().clone());
                    world.settle();
                }
                Event::Unsubscribe(n) => {
                    owed.remove(&updated(&uri(n)));
                    world.listening.unsubscribe(&uri(n));
                    world.source.handle_wishes(world.listening.wishes().clone());
                    world.settle();
                }
                Event::Sight(n) => {
                    world.listening.handle_sight(world.now, Sight { tools: n.into(), others: 0 });
                    world.settle();
                }
            }
        }
        world.up = true;
        world.pass(2 * PAUSE_MS_MAX);
        told_so_far.extend(told(&world.take()));
        for (change, from) in owed {
            prop_assert!(told_so_far[from..].contains(&change), "{:?} after {}", change, from);
        }
        prop_assert_eq!(world.streams.len(), 1);
        if !is_modern_server {
            prop_assert_eq!(&world.subscribed, &world.listening.wishes().uris);
        }
    }
}
