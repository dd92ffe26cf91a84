//! The one history that all nodes must share, and what every node is watched for while it applies changes.
//!
//! Each node's applier is a [`Witness`] in front of the real one. Whatever any node applies first becomes canonical;
//! from then on every node, in every life, has to apply the same bytes at the same revision, in order, once, leaving
//! nothing out but what later changes made void. Merkle roots are computed here a second time, from the changes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex},
};

use bailiwick_consensus::{Applier, Change};
use bailiwick_control_plane_core::Event;
use bailiwick_ledger_core::tree::{self, Frontier};

use crate::{
    authority::Authority,
    world::{World, fnv, lock},
};

type Hash = [u8; 32];

/// The canonical history of one simulation.
#[derive(Debug)]
pub(crate) struct Canon {
    world: Arc<World>,
    authority: Arc<Authority>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Digest of each change's events by revision.
    changes: BTreeMap<u64, u64>,
    void: BTreeSet<u64>,
    /// Revisions of each request id that left events.
    requests: HashMap<String, u64>,
    frontier: Frontier,
    /// Root after each version; version 0 first.
    roots: Vec<Hash>,
    acknowledged: BTreeMap<String, u64>,
    leaders: BTreeMap<u64, BTreeSet<u64>>,
}

impl Canon {
    pub(crate) fn new(world: &Arc<World>, authority: &Arc<Authority>) -> Arc<Self> {
        let inner = Inner { roots: vec![tree::empty_root()], ..Inner::default() };
        Arc::new(Self { world: world.clone(), authority: authority.clone(), inner: Mutex::new(inner) })
    }

    /// Puts a witness in front of a node's applier.
    pub(crate) fn witness(self: &Arc<Self>, node: u64, inner: Box<dyn Applier>) -> Box<dyn Applier> {
        Box::new(Witness { canon: self.clone(), node, inner, last: 0, taken: 0, replaying: true })
    }

    /// A client was told that this request is done.
    pub(crate) fn acknowledge(&self, request_id: &str, revision: u64) {
        let mut inner = lock(&self.inner);
        let applied = inner.requests.get(request_id).copied();
        let earlier = inner.acknowledged.insert(request_id.to_owned(), revision);
        drop(inner);
        if applied != Some(revision) || earlier.is_some_and(|earlier| earlier != revision) {
            let detail =
                format!("{request_id} was acknowledged at {revision}, before at {earlier:?}, is at {applied:?}");
            self.world.violate("request", detail);
        }
    }

    /// A node says what the root of all its changes is.
    pub(crate) fn root(&self, node: u64, version: u64, root: &Hash) {
        let expected = usize::try_from(version).ok().and_then(|version| lock(&self.inner).roots.get(version).copied());
        if expected.as_ref() != Some(root) {
            let (root, expected) = (hex::encode(root), expected.map(hex::encode));
            self.world.violate("root", format!("node {node} has {root} at version {version}, not {expected:?}"));
        }
    }

    /// A node takes itself for the leader of a term.
    pub(crate) fn leader(&self, node: u64, term: u64) {
        if lock(&self.inner).leaders.entry(term).or_default().insert(node) {
            self.world.trace(format_args!("node {node} leads term {term}"));
        }
    }

    /// How many terms had a leader, and how many leaders there were.
    pub(crate) fn leaders(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.leaders.len(), inner.leaders.values().map(BTreeSet::len).sum())
    }

    /// The last revision any node applied.
    pub(crate) fn last(&self) -> u64 {
        lock(&self.inner).changes.last_key_value().map_or(0, |(revision, _)| *revision)
    }

    fn take(&self, node: u64, last: u64, change: &Change) {
        let revision = change.revision;
        let digest = change.events.iter().fold(0, |hash, event| fnv(hash ^ 1, event));
        let mut inner = lock(&self.inner);
        let mut broken = Vec::new();
        if revision <= last {
            broken.push(("applied twice", format!("node {node} applied {revision} after {last}")));
        }
        let left_out = inner.changes.range(last.saturating_add(1)..revision.max(last.saturating_add(1)));
        let left_out: Vec<u64> =
            left_out.map(|(other, _)| *other).filter(|other| !inner.void.contains(other)).collect();
        if !left_out.is_empty() {
            broken.push(("lost", format!("node {node} applied {revision} after {last} without {left_out:?}")));
        }
        match inner.changes.get(&revision).copied() {
            Some(known) if known != digest => {
                broken.push(("diverged", format!("node {node} applied another change at {revision}")));
            }
            Some(_) => {}
            None => {
                if let Some((later, _)) = inner.changes.last_key_value().filter(|(later, _)| **later > revision) {
                    broken
                        .push(("diverged", format!("node {node} applied {revision}; others went to {later} without")));
                }
                let events: Vec<Event> =
                    change.events.iter().filter_map(|bytes| serde_json::from_slice(bytes).ok()).collect();
                broken.extend(inner.record(revision, digest, &change.events, &events));
                events.iter().for_each(|event| self.authority.applied(event, revision));
            }
        }
        drop(inner);
        broken.into_iter().for_each(|(kind, detail)| self.world.violate(kind, detail));
    }

    fn made_void(&self, revision: u64) {
        lock(&self.inner).void.insert(revision);
    }

    fn published(&self, node: u64, last: u64, version: u64) {
        let expected = lock(&self.inner).changes.range(..=last).count() as u64;
        if expected != version {
            self.world.violate("version", format!("node {node} is at version {version} after {last}, not {expected}"));
        }
    }
}

impl Inner {
    fn record(
        &mut self,
        revision: u64,
        digest: u64,
        stored: &[Vec<u8>],
        events: &[Event],
    ) -> Option<(&'static str, String)> {
        self.changes.insert(revision, digest);
        let leaf = leaf_hash(revision, stored, self.frontier.size());
        if let Err(error) = self.frontier.push(leaf, &mut Vec::new()) {
            return Some(("root", error.to_string()));
        }
        self.roots.push(self.frontier.root());
        let mut twice = None;
        let requests: BTreeSet<String> =
            events.iter().map(|event| event.request_id.clone()).filter(|id| !id.is_empty()).collect();
        for id in requests {
            if let Some(earlier) = self.requests.insert(id.clone(), revision) {
                twice = Some(("request", format!("{id} was carried out at {earlier} and at {revision}")));
            }
        }
        twice
    }
}

/// RFC 6962's leaf over the revision and the stored change: a protobuf message of `events` (1) and `number` (2).
fn leaf_hash(revision: u64, events: &[Vec<u8>], number: u64) -> Hash {
    let mut leaf = revision.to_be_bytes().to_vec();
    for event in events {
        leaf.push(0x0a);
        push_varint(&mut leaf, event.len() as u64);
        leaf.extend_from_slice(event);
    }
    if number > 0 {
        leaf.push(0x10);
        push_varint(&mut leaf, number);
    }
    tree::leaf_hash(&leaf)
}

fn push_varint(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number % 0x80) as u8 | 0x80);
        number /= 0x80;
    }
    bytes.push(number as u8);
}

/// Stands in front of one node's applier, for one life.
struct Witness {
    canon: Arc<Canon>,
    node: u64,
    inner: Box<dyn Applier>,
    last: u64,
    taken: u64,
    replaying: bool,
}

impl Applier for Witness {
    fn reset(&mut self) {
        (self.last, self.taken, self.replaying) = (0, 0, true);
        self.inner.reset();
    }

    fn apply(&mut self, change: &Change) -> io::Result<Option<u64>> {
        self.canon.take(self.node, self.last, change);
        self.last = change.revision;
        self.taken += 1;
        let void = self.inner.apply(change)?;
        void.iter().for_each(|revision| self.canon.made_void(*revision));
        Ok(void)
    }

    fn publish(&mut self, version: u64) {
        self.canon.published(self.node, self.last, version);
        if self.replaying {
            let (node, taken, last) = (self.node, self.taken, self.last);
            self.canon.world.trace(format_args!("node {node} has {taken} changes up to {last}, version {version}"));
            self.replaying = false;
        }
        self.inner.publish(version);
    }
}
