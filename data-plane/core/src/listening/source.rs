//! One server as a listener hears it: a `subscriptions/listen` stream of a modern server, a GET stream and resource
//! subscriptions of a legacy one.
//!
//! Called by the server, which opens and closes what this says and feeds what comes. Whatever a listener wants, in
//! either era, comes out as [`Change`]s in the server's own words. A stream that breaks is opened again, with pauses
//! that grow; what may have been missed meanwhile counts as changed, because telling too much costs a look and telling
//! too little costs the truth. What became of a task meanwhile nobody can say: it counts as lost. When wishes change, a
//! modern server gets a new stream, and the old one is closed once the new one is acknowledged. Time is milliseconds of
//! any clock that never goes back, given as an argument. Specification: as `listening`.

use std::collections::{BTreeSet, VecDeque};

use bailiwick_proto::mcp::{EXTENSION_TASKS, Era, Members, Notification};

use super::change::{Change, Wishes};

/// The first pause before a broken stream is opened again; each further one is twice as long.
pub const PAUSE_MS_MIN: u64 = 500;
/// The longest pause.
pub const PAUSE_MS_MAX: u64 = 30_000;
/// A stream that lasted so long was a good one: the next pause is short again.
pub const GOOD_MS: u64 = 60_000;

/// A modern server's first message on a stream.
const ACKNOWLEDGED: &str = "notifications/subscriptions/acknowledged";

/// What to do. Streams are numbered, because an old and a new one may be open at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceOutput {
    /// Open a stream: `subscriptions/listen` with these wishes, or GET at a legacy server.
    Open(u64, Wishes),
    /// Close a stream.
    Close(u64),
    /// Ask a legacy server for a resource's changes.
    Subscribe(String),
    /// No longer.
    Unsubscribe(String),
    /// The server honours this; said again whenever it changes.
    Settled(Wishes),
    /// Something changed at the server. Of a task: what becomes of it may have been missed.
    Changed(Change),
    /// What has become of the task with this id at the server: the notification's parameters.
    Told(String, String),
}

/// How a stream ended, or did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The server does not have such streams: it is not asked again until wishes change.
    Refused,
    /// Anything else.
    Broken,
}

/// See the file's header.
#[derive(Clone, Debug)]
pub struct Source {
    era: Era,
    /// What the server says it can tell; resources are any or none.
    offers: Offers,
    wishes: Wishes,
    next_stream: u64,
    /// The stream that was opened last, and since when it is good.
    opening: Option<u64>,
    open: Option<(u64, u64)>,
    /// A legacy server's.
    subscribed: BTreeSet<String>,
    pauses: u32,
    open_at: Option<u64>,
    /// Something may have been missed since the last stream was good.
    missed: bool,
    outputs: VecDeque<SourceOutput>,
}

/// What a server declares that it tells of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// `tools.listChanged`.
    pub tools: bool,
    /// `prompts.listChanged`.
    pub prompts: bool,
    /// `resources.listChanged`.
    pub resources: bool,
    /// `resources.subscribe`.
    pub subscribe: bool,
    /// The tasks extension.
    pub tasks: bool,
}

impl Source {
    /// Begins to listen to a server for what it offers of what is wished for, in the server's words.
    #[must_use]
    pub fn new(era: Era, offers: Offers, wishes: Wishes) -> Self {
        let offers = Offers { tasks: offers.tasks && era.is_modern(), ..offers };
        let mut source = Self {
            era,
            offers,
            wishes: offers.within(wishes),
            next_stream: 0,
            opening: None,
            open: None,
            subscribed: BTreeSet::new(),
            pauses: 0,
            open_at: None,
            missed: false,
            outputs: VecDeque::new(),
        };
        source.begin();
        source
    }

    /// Something else is wished for than before.
    pub fn handle_wishes(&mut self, wishes: Wishes) {
        let wishes = self.offers.within(wishes);
        if wishes == self.wishes {
            return;
        }
        self.wishes = wishes;
        if !self.era.is_modern() && self.open.is_some() && !self.wishes.is_empty() {
            self.subscribe_as_wished();
            self.outputs.push_back(SourceOutput::Settled(self.wishes.clone()));
        } else if self.era.is_modern() || self.opening.is_none() || self.wishes.is_empty() {
            self.begin();
        }
    }

    /// A legacy server's stream is open. A modern one says so itself.
    pub fn handle_opened(&mut self, now: u64, stream: u64) {
        if !self.era.is_modern() && self.opening == Some(stream) {
            self.good(now, stream);
            self.subscribed.clear();
            self.subscribe_as_wished();
            self.settled(self.wishes.clone());
        }
    }

    /// A message of a stream.
    pub fn handle_message(&mut self, now: u64, stream: u64, message: &Notification) {
        let is_current = self.opening == Some(stream) || self.open.is_some_and(|(open, _)| open == stream);
        if !is_current {
            return;
        }
        if self.era.is_modern() && message.method == ACKNOWLEDGED && self.opening == Some(stream) {
            let honoured = Wishes::of(&message.members()).unwrap_or_default();
            let before = self.open.map(|(open, _)| open);
            self.good(now, stream);
            self.outputs.extend(before.map(SourceOutput::Close));
            self.settled(honoured.within(&self.wishes));
        } else if let Some(Change::Task(id)) = Change::of(message) {
            let params = message.params.as_deref().filter(|_| self.wishes.tasks.contains(&id));
            self.outputs.extend(params.map(|params| SourceOutput::Told(id, params.get().to_owned())));
        } else if let Some(change) = Change::of(message).filter(|change| self.wishes.covers(change)) {
            self.outputs.push_back(SourceOutput::Changed(change));
        }
    }

    /// A stream ended, or could not be opened.
    pub fn handle_closed(&mut self, now: u64, stream: u64, how: Closed) {
        if self.opening == Some(stream) {
            self.opening = None;
        } else if let Some((_, since)) = self.open.take_if(|(open, _)| *open == stream) {
            if now.saturating_sub(since) >= GOOD_MS {
                self.pauses = 0;
            }
        } else {
            return;
        }
        self.outputs.extend(self.wishes.tasks.iter().cloned().map(Change::Task).map(SourceOutput::Changed));
        match how {
            Closed::Refused => self.outputs.push_back(SourceOutput::Settled(Wishes::default())),
            // An older stream that is still open goes on meanwhile.
            Closed::Broken => {
                self.missed = true;
                let pause = PAUSE_MS_MIN.saturating_mul(1 << self.pauses.min(16)).min(PAUSE_MS_MAX);
                self.pauses = self.pauses.saturating_add(1);
                self.open_at = Some(now.saturating_add(pause));
            }
        }
    }

    /// A pause may be over.
    pub fn handle_timeout(&mut self, now: u64) {
        if self.open_at.is_some_and(|at| at <= now) {
            self.open_stream();
        }
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<u64> {
        self.open_at
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<SourceOutput> {
        let output = self.outputs.pop_front();
        if output.is_none() {
            // There may be thousands of these, and nothing to do for most of them for hours.
            self.outputs = VecDeque::new();
        }
        output
    }

    /// Opens a stream for what is wished for, or closes what is open where that is nothing.
    fn begin(&mut self) {
        if self.wishes.is_empty() {
            self.open_at = None;
            self.subscribed.clear();
            let open = self.open.take().map(|(stream, _)| stream);
            self.outputs.extend(self.opening.take().into_iter().chain(open).map(SourceOutput::Close));
            self.outputs.push_back(SourceOutput::Settled(Wishes::default()));
        } else {
            self.open_stream();
        }
    }

    fn open_stream(&mut self) {
        self.open_at = None;
        self.next_stream += 1;
        self.outputs.extend(self.opening.replace(self.next_stream).map(SourceOutput::Close));
        self.outputs.push_back(SourceOutput::Open(self.next_stream, self.wishes.clone()));
    }

    fn good(&mut self, now: u64, stream: u64) {
        self.opening = None;
        self.open = Some((stream, now));
    }

    fn settled(&mut self, honoured: Wishes) {
        let missed = std::mem::take(&mut self.missed).then(|| {
            let is_list_or_resource = |change: &Change| !matches!(change, Change::Task(_));
            honoured.changes().filter(is_list_or_resource).collect::<Vec<_>>()
        });
        self.outputs.push_back(SourceOutput::Settled(honoured));
        self.outputs.extend(missed.into_iter().flatten().map(SourceOutput::Changed));
    }

    /// INVARIANT: called only for a legacy server with an open stream.
    fn subscribe_as_wished(&mut self) {
        let gone = self.subscribed.difference(&self.wishes.uris).cloned().map(SourceOutput::Unsubscribe);
        self.outputs.extend(gone);
        let new = self.wishes.uris.difference(&self.subscribed).cloned().map(SourceOutput::Subscribe);
        self.outputs.extend(new);
        self.subscribed.clone_from(&self.wishes.uris);
    }
}

impl Offers {
    /// What a server's `capabilities` say, in either era.
    #[must_use]
    pub fn of(capabilities: &Members<'_>) -> Self {
        let says = |kind: &'static str, what: &'static str| {
            let kind = capabilities.object(kind).ok().flatten();
            kind.and_then(|kind| kind.read::<bool>(what).ok().flatten()).unwrap_or_default()
        };
        Self {
            tools: says("tools", "listChanged"),
            prompts: says("prompts", "listChanged"),
            resources: says("resources", "listChanged"),
            subscribe: says("resources", "subscribe"),
            tasks: capabilities.object("extensions").ok().flatten().is_some_and(|it| it.get(EXTENSION_TASKS).is_some()),
        }
    }

    fn within(self, wishes: Wishes) -> Wishes {
        Wishes {
            tools: wishes.tools && self.tools,
            prompts: wishes.prompts && self.prompts,
            resources: wishes.resources && self.resources,
            uris: if self.subscribe { wishes.uris } else { BTreeSet::new() },
            tasks: if self.tasks { wishes.tasks } else { BTreeSet::new() },
        }
    }
}
