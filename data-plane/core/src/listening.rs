//! Listening: one client's stream of what changes.
//!
//! Called by the server for each `subscriptions/listen` of a modern client and each GET stream of a legacy one. A
//! [`Listening`] is told what changes, in the client's own words: at servers (`source`, one for each server behind the
//! virtual server), in the configuration, in the client's authority. It says what to write. A modern client first gets
//! what is honoured of its wishes; what was not asked for is never told. Equal changes close together are told once, so
//! a server that floods costs what a quiet one does, and a client that reads slowly misses nothing: what is pending is
//! a set, not a queue. Time is milliseconds of any clock that never goes back, given as an argument.
//!
//! What has become of a task is told in full, so the newest news of one replaces what was not told yet. After its last
//! news a task is not followed any more, and a stream on which nothing else can come ends.
//!
//! Contract: after every `handle_…`, `poll_output` until it gives nothing, then again at `poll_timeout`. Nothing
//! follows [`Output::End`]. Specification: MCP 2026-07-28 `subscriptions/listen`; 2025-11-25 transports, "Listening for
//! Messages from the Server", and resource subscriptions; extension `io.modelcontextprotocol/tasks`, "Task Status
//! Notifications".

mod change;
pub mod source;
#[cfg(test)]
mod tests;
mod words;

use std::collections::{BTreeMap, BTreeSet};

use bailiwick_proto::mcp::{self, RESULT_COMPLETE, RequestId, meta_key, method, raw, raw_object};
use serde_json::value::RawValue;

pub use self::{
    change::{Change, TASKS_MAX, URI_BYTES_MAX, URIS_MAX, Wishes, WishesFault},
    words::{Hearer, Tasks},
};

use crate::{edge::SERVER_INFO, forward::tasks::Seen, sealed::subscription::Subscription};

/// Equal changes within so long are told once: a person does not see the difference, a flood shrinks to four a second.
pub const COALESCE_MS: u64 = 250;
/// Most changes told within [`COALESCE_MS`], equal or not: more than a client could act on.
pub const BURST_MAX: usize = 64;
/// Most changes that wait to be told: beyond it, changes of parts count as changes of the whole.
pub const PENDING_MAX: usize = 3 + 2 * URIS_MAX + TASKS_MAX;
/// Longest silence: proxies close a connection that says nothing for a minute.
pub const KEEP_ALIVE_MS: u64 = 15_000;
/// Longest wait for servers to say what they honour; whoever has not answered then is not promised.
pub const SETTLING_MS_MAX: u64 = 2_000;
/// Longest life of a stream. Clients listen again at once, maybe at another node, so streams spread over new nodes.
pub const STREAM_MS_MAX: u64 = 60 * 60 * 1_000;

/// Acknowledges a modern client's wishes.
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// Whose stream it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listener {
    /// A modern client: the id of its request is the subscription's.
    Modern(RequestId),
    /// A legacy client: it is told of all changes of lists, and of the resources it subscribes to.
    Legacy,
}

/// What the client can see, as numbers: another number means another sight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Its tools.
    pub tools: u64,
    /// What decides which prompts and resources it is shown: servers and policies.
    pub others: u64,
}

impl Sight {
    /// Both, as one number.
    #[must_use]
    pub const fn sum(self) -> u64 {
        self.tools.rotate_left(1) ^ self.others
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write this message as an event. On a legacy stream its id is [`Listening::seen`], sealed.
    Message(Vec<u8>),
    /// Record what has become of the task with this id, and write this message then.
    News(String, Box<Seen>, Vec<u8>),
    /// Write a comment.
    KeepAlive,
    /// Close the stream.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A modern client waits for its acknowledgement, while servers say what they honour.
    Settling,
    /// Changes are told.
    Open,
    /// All is said but that it is over.
    Ending,
    /// Only to be closed.
    Closing,
    Ended,
}

/// See the file's header.
#[derive(Clone, Debug)]
pub struct Listening {
    listener: Listener,
    phase: Phase,
    wishes: Wishes,
    /// What of them is promised; on a legacy stream nothing is promised and everything told.
    honoured: Wishes,
    /// Servers that have not said yet what they honour, and until when they may.
    unsettled: BTreeSet<String>,
    settles_at: u64,
    sight: Sight,
    /// What is to be told, and from when on.
    pending: BTreeMap<Change, u64>,
    /// Of tasks, by their ids: what is to be told.
    news: BTreeMap<String, Box<Seen>>,
    /// What was told within [`COALESCE_MS`], and when.
    told: BTreeMap<Change, u64>,
    said_at: u64,
    ends_at: u64,
}

impl Listening {
    /// A stream that begins `now` and lasts until `ends_at` (the token's end), over these servers.
    #[must_use]
    pub fn new(
        now: u64,
        listener: Listener,
        wishes: Wishes,
        sight: Sight,
        servers: impl IntoIterator<Item = String>,
        ends_at: u64,
    ) -> Self {
        let (phase, honoured, unsettled) = match listener {
            // Tools are pinned: the gateway itself knows when they change.
            Listener::Modern(_) => {
                let honoured = Wishes { tools: wishes.tools, ..Wishes::default() };
                (Phase::Settling, honoured, servers.into_iter().collect())
            }
            Listener::Legacy => (Phase::Open, wishes.clone(), BTreeSet::new()),
        };
        Self {
            listener,
            phase,
            wishes,
            honoured,
            unsettled,
            settles_at: now.saturating_add(SETTLING_MS_MAX),
            sight,
            pending: BTreeMap::new(),
            news: BTreeMap::new(),
            told: BTreeMap::new(),
            said_at: now,
            ends_at: ends_at.min(now.saturating_add(STREAM_MS_MAX)),
        }
    }

    /// A legacy client listens again: it is told of everything that may have changed while it did not.
    pub fn handle_resumed(&mut self, now: u64, seen: &Subscription) {
        for uri in &seen.uris {
            if self.subscribe(uri).is_ok() {
                self.handle_change(now, Change::Updated(uri.clone()));
            }
        }
        if seen.visible != self.sight.sum() {
            Wishes::lists().changes().for_each(|change| self.handle_change(now, change));
        }
    }

    /// A server honours this much, in the client's words; nothing, where it cannot be listened to.
    pub fn handle_settled(&mut self, server: &str, honoured: &Wishes) {
        if self.unsettled.remove(server) && self.phase == Phase::Settling {
            self.honoured.add(&honoured.within(&self.wishes));
        }
    }

    /// Something changed, in the client's words. That the caller may know of it, is for whoever calls to see to.
    pub fn handle_change(&mut self, now: u64, change: Change) {
        if !self.honoured.covers(&change) {
            return;
        }
        let change = match change {
            // What became of it is not known any more. The client sees its stream end, asks, and listens again.
            Change::Task(_) => return self.handle_end(),
            Change::Updated(part) if self.pending.len() >= PENDING_MAX => {
                Change::Updated(self.honoured.subject(&part).map_or(part.clone(), ToOwned::to_owned))
            }
            change => change,
        };
        self.tell_of(now, change);
    }

    /// This has become of a task. That the caller may know of it, is for whoever calls to see to.
    pub fn handle_task(&mut self, now: u64, id: &str, seen: Seen) {
        let is_told_all = self.news.get(id).is_some_and(|news| news.progress.is_final());
        if self.honoured.tasks.contains(id) && !is_told_all {
            self.news.insert(id.to_owned(), Box::new(seen));
            self.tell_of(now, Change::Task(id.to_owned()));
        }
    }

    /// What the client can see is this now.
    pub fn handle_sight(&mut self, now: u64, sight: Sight) {
        if sight.tools != self.sight.tools {
            self.handle_change(now, Change::Tools);
        }
        if sight.others != self.sight.others {
            self.handle_change(now, Change::Prompts);
            self.handle_change(now, Change::Resources);
        }
        self.sight = sight;
    }

    /// The client's authority was taken away, or the node stops.
    pub fn handle_end(&mut self) {
        match self.phase {
            // Whatever comes, the acknowledgement comes first.
            Phase::Settling => (self.settles_at, self.ends_at) = (0, 0),
            Phase::Open => self.phase = Phase::Ending,
            Phase::Ending | Phase::Closing | Phase::Ended => {}
        }
    }

    /// A legacy client wants to be told of a resource.
    ///
    /// # Errors
    /// It has too many, or the URI is too long.
    pub fn subscribe(&mut self, uri: &str) -> Result<(), WishesFault> {
        self.wishes.insert(uri)?;
        self.honoured.insert(uri)
    }

    /// A legacy client no longer wants to be told of a resource.
    pub fn unsubscribe(&mut self, uri: &str) {
        self.wishes.uris.remove(uri);
        self.honoured.uris.remove(uri);
        let honoured = &self.honoured;
        self.pending.retain(|change, _| honoured.covers(change));
    }

    /// What servers must be listened to for.
    #[must_use]
    pub const fn wishes(&self) -> &Wishes {
        &self.wishes
    }

    /// What a legacy client has seen, to be brought back when it listens again.
    #[must_use]
    pub fn seen(&self) -> Subscription {
        Subscription { visible: self.sight.sum(), uris: self.wishes.uris.iter().cloned().collect() }
    }

    /// When to poll again at the latest; `None` when it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<u64> {
        let quiet_until = self.said_at.saturating_add(KEEP_ALIVE_MS);
        Some(match self.phase {
            Phase::Ended => return None,
            Phase::Ending | Phase::Closing => 0,
            Phase::Settling if self.unsettled.is_empty() => 0,
            Phase::Settling => self.settles_at.min(self.ends_at).min(quiet_until),
            Phase::Open => {
                let due = self.pending.values().copied().min().unwrap_or(u64::MAX);
                due.max(self.burst_over()).min(self.ends_at).min(quiet_until)
            }
        })
    }

    /// What to do next, if there is anything to be done `now`.
    pub fn poll_output(&mut self, now: u64) -> Option<Output> {
        if self.phase == Phase::Open && now >= self.ends_at {
            self.phase = Phase::Ending;
        }
        match self.phase {
            Phase::Settling => {
                if now < self.settles_at.min(self.ends_at) && !self.unsettled.is_empty() {
                    return self.keep_alive(now);
                }
                // A stream on which nothing can come is of no use to anybody.
                self.phase = if self.honoured.is_empty() { Phase::Ending } else { Phase::Open };
                let acknowledged = self.acknowledgement();
                Some(self.say(now, acknowledged))
            }
            Phase::Open => match self.due(now) {
                Some(change) => {
                    self.pending.remove(&change);
                    self.told.insert(change.clone(), now);
                    if let Change::Task(id) = change {
                        return self.tell(now, id);
                    }
                    let told = self.notification(&change);
                    Some(self.say(now, told))
                }
                None => self.keep_alive(now),
            },
            Phase::Ending => {
                self.phase = Phase::Closing;
                match self.farewell() {
                    Some(farewell) => Some(self.say(now, farewell)),
                    None => self.poll_output(now),
                }
            }
            Phase::Closing => {
                self.phase = Phase::Ended;
                Some(Output::End)
            }
            Phase::Ended => None,
        }
    }

    fn tell_of(&mut self, now: u64, change: Change) {
        let due = self.told.get(&change).map_or(now, |told| told.saturating_add(COALESCE_MS).max(now));
        self.pending.entry(change).or_insert(due);
    }

    /// What has become of a task; nothing of it follows its last news.
    fn tell(&mut self, now: u64, id: String) -> Option<Output> {
        let news = self.news.remove(&id)?;
        if news.progress.is_final() {
            self.honoured.tasks.remove(&id);
            if self.honoured.is_empty() {
                self.phase = Phase::Ending;
            }
        }
        let tie = self.tie();
        let members = mcp::ordered_members(&news.shown).unwrap_or_default();
        let own = members.iter().filter(|(name, _)| name != "_meta").map(|(name, value)| (name.as_ref(), *value));
        let params = raw_object(own.chain(tie.iter().map(|tie| ("_meta", &**tie))));
        self.said_at = now;
        Some(Output::News(id, news, mcp::request_body(None, method::TASK_TOLD, Some(&params))))
    }

    fn due(&mut self, now: u64) -> Option<Change> {
        self.told.retain(|_, told| now < told.saturating_add(COALESCE_MS));
        if now < self.burst_over() {
            return None;
        }
        let due = self.pending.iter().filter(|(_, due)| **due <= now);
        due.min_by_key(|(_, due)| **due).map(|(change, _)| change.clone())
    }

    /// Until when enough was told; 0 when there is room.
    fn burst_over(&self) -> u64 {
        if self.told.len() < BURST_MAX {
            return 0;
        }
        self.told.values().copied().min().unwrap_or_default().saturating_add(COALESCE_MS)
    }

    fn say(&mut self, now: u64, message: Vec<u8>) -> Output {
        self.said_at = now;
        Output::Message(message)
    }

    fn keep_alive(&mut self, now: u64) -> Option<Output> {
        if now < self.said_at.saturating_add(KEEP_ALIVE_MS) {
            return None;
        }
        self.said_at = now;
        Some(Output::KeepAlive)
    }

    /// The member `_meta` that ties a message to a modern client's request.
    fn tie(&self) -> Option<Box<RawValue>> {
        match &self.listener {
            Listener::Modern(id) => Some(raw_object([(meta_key::SUBSCRIPTION_ID, &*id_json(id))])),
            Listener::Legacy => None,
        }
    }

    fn acknowledgement(&self) -> Vec<u8> {
        let honoured = self.honoured.json();
        let tie = self.tie();
        let meta = tie.iter().map(|tie| ("_meta", &**tie));
        let params = raw_object([("notifications", &*honoured)].into_iter().chain(meta));
        mcp::request_body(None, ACKNOWLEDGED, Some(&params))
    }

    fn notification(&self, change: &Change) -> Vec<u8> {
        let uri = match change {
            Change::Updated(uri) => Some(raw(uri)),
            Change::Tools | Change::Prompts | Change::Resources | Change::Task(_) => None,
        };
        let tie = self.tie();
        let members = uri.iter().map(|uri| ("uri", &**uri)).chain(tie.iter().map(|tie| ("_meta", &**tie)));
        let params = (uri.is_some() || tie.is_some()).then(|| raw_object(members));
        mcp::request_body(None, change.method(), params.as_deref())
    }

    /// The answer to a modern client's request ends its stream.
    fn farewell(&self) -> Option<Vec<u8>> {
        let Listener::Modern(id) = &self.listener else { return None };
        let (id_json, kind) = (id_json(id), raw(RESULT_COMPLETE));
        let meta = raw_object([(meta_key::SUBSCRIPTION_ID, &*id_json), (meta_key::SERVER_INFO, &**SERVER_INFO)]);
        Some(mcp::result_body(id, &raw_object([("resultType", &*kind), ("_meta", &*meta)])))
    }
}

fn id_json(id: &RequestId) -> Box<RawValue> {
    // INVARIANT: an id is JSON.
    RawValue::from_string(id.to_json()).unwrap_or_else(|_not_json| RawValue::NULL.to_owned())
}
