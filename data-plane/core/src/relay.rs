//! What a server says while a client waits for its answer: told to the client, asked of the client, answered here, or
//! dropped.
//!
//! Called by the server for every message of a server's event stream but the answer itself. One [`Relay`] serves one
//! forwarded request, over all rounds of it. It remembers only how much was passed on and until when it waits; time is the time since the
//! request was forwarded, given as an argument. A client hears what it asked for: progress under its own token, log
//! lines from its level on, and a legacy server's requests only where it declared the capability. Everything is bounded,
//! so a server that floods fills no queue and holds no call for ever.
//! Specification: MCP 2026-07-28 and 2025-11-25: progress, logging, cancellation; 2025-11-25: elicitation, sampling,
//! roots.

pub mod input;
pub mod parked;

use std::time::Duration;

use bailiwick_proto::mcp::{
    self, Era, Incoming, Members, Notification, Request, RequestId, RpcError, code, method, raw_object,
};
use serde_json::value::RawValue;

use crate::edge::Call;

/// Most notifications passed on for one request: a progress bar needs a hundred. More are dropped.
pub const NOTIFICATIONS_MAX: u32 = 1_000;
/// Most requests of a server while it works on one request of a client.
pub const ASKS_MAX: u32 = 32;
/// Longest a request is kept waiting for a person's answer.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10 * 60);
/// Longest a request that makes progress is waited for, whatever happens.
pub const TOTAL_MAX: Duration = Duration::from_secs(60 * 60);

/// How loud a line of a log is; the order of RFC 5424, quiet first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The least.
    Debug,
    /// Normal operation.
    Info,
    /// Normal, but worth a look.
    Notice,
    /// Something may go wrong.
    Warning,
    /// Something did.
    Error,
    /// A part is down.
    Critical,
    /// Somebody has to act.
    Alert,
    /// Nothing works.
    Emergency,
}

impl Level {
    /// Its name in the protocol.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
            Self::Alert => "alert",
            Self::Emergency => "emergency",
        }
    }

    /// By its name in the protocol.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Some(match word {
            "debug" => Self::Debug,
            "info" => Self::Info,
            "notice" => Self::Notice,
            "warning" => Self::Warning,
            "error" => Self::Error,
            "critical" => Self::Critical,
            "alert" => Self::Alert,
            "emergency" => Self::Emergency,
            _ => return None,
        })
    }
}

/// What to do about a server's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Send it to the client as it stands here.
    Tell(Vec<u8>),
    /// Ask the client: the method and parameters of the server's request, whose id is given.
    Ask(Question),
    /// Send this answer to the server.
    Answer(Vec<u8>),
    /// Nothing.
    Drop,
    /// The server does what no server may: end the call.
    Cut(&'static str),
}

/// What a server wants to know of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The server's id of it.
    pub id: RequestId,
    /// E.g. `elicitation/create`.
    pub method: String,
    /// As they were written.
    pub params: Option<String>,
}

impl Question {
    /// The request as a legacy client gets it, under an id that says who asked.
    #[must_use]
    pub fn body(&self, id: &str) -> Vec<u8> {
        let params = self.params.clone().and_then(|params| RawValue::from_string(params).ok());
        mcp::request_body(Some(&RequestId::Text(id.into())), &self.method, params.as_deref())
    }
}

/// See the file's header.
#[derive(Clone, Debug)]
pub struct Relay {
    client: Era,
    capabilities: Option<Box<RawValue>>,
    /// What the client calls its progress.
    progress_token: Option<Box<RawValue>>,
    level: Option<Level>,
    /// How long a server may be silent.
    patience: Duration,
    until: Duration,
    told: u32,
    asked: u32,
}

impl Relay {
    /// For a call whose server may be silent for so long.
    #[must_use]
    pub fn new(call: &Call, patience: Duration) -> Self {
        let meta = call.meta.as_deref().and_then(Members::of).unwrap_or_default();
        let progress_token = meta.get(mcp::meta_key::PROGRESS_TOKEN).filter(|token| RequestId::read(token).is_some());
        Self {
            client: call.era,
            capabilities: call.capabilities.clone(),
            progress_token: progress_token.map(ToOwned::to_owned),
            level: level_wanted(call.era, &meta),
            patience,
            until: patience,
            told: 0,
            asked: 0,
        }
    }

    /// When there is nothing to wait for any more, counted from the forwarding.
    #[must_use]
    pub const fn until(&self) -> Duration {
        self.until
    }

    /// The server, of this era, said this `now`, having been sent the request under `own` id.
    pub fn heard(&mut self, server: Era, own: &RequestId, message: &Incoming, now: Duration) -> Act {
        match message {
            // Not for here: the answer ends the exchange.
            Incoming::Response(_) => Act::Drop,
            Incoming::Notification(notification) => self.notified(own, notification, now),
            Incoming::Request(_) if server.is_modern() => Act::Cut("the server sends a request"),
            Incoming::Request(request) => self.asked(request, now),
        }
    }

    fn notified(&mut self, own: &RequestId, notification: &Notification, now: Duration) -> Act {
        let told = match notification.method.as_str() {
            method::PROGRESS => {
                let told = self.progress(own, notification);
                if told.is_some() {
                    self.wait(now, self.patience);
                }
                told
            }
            method::LOG => self.is_loud_enough(notification).then(|| body(notification)),
            // It asks for something of ours; what the client was asked, it answers or not.
            method::CANCELLED => None,
            // Under an id that is not the client's to know; whoever follows a task listens.
            method::TASK_TOLD => None,
            // Changes belong on the stream of those who listen; only the old era has them anywhere.
            _ if is_change(&notification.method) => (!self.client.is_modern()).then(|| body(notification)),
            _ => Some(body(notification)),
        };
        match told {
            Some(_) if self.told >= NOTIFICATIONS_MAX => Act::Drop,
            Some(body) => {
                self.told += 1;
                Act::Tell(body)
            }
            None => Act::Drop,
        }
    }

    /// The notification under the client's own token.
    fn progress(&self, own: &RequestId, notification: &Notification) -> Option<Vec<u8>> {
        let token = self.progress_token.as_deref()?;
        let params = notification.params.as_deref()?;
        let is_of_this = Members::of(params)?.get("progressToken").and_then(RequestId::read).as_ref() == Some(own);
        let members = is_of_this.then(|| mcp::ordered_members(params)).flatten()?;
        let renamed =
            members.iter().map(|(key, value)| (key.as_ref(), if key == "progressToken" { token } else { *value }));
        Some(mcp::request_body(None, method::PROGRESS, Some(&raw_object(renamed))))
    }

    fn is_loud_enough(&self, notification: &Notification) -> bool {
        let level = notification.members().string("level").ok().flatten();
        let level = level.as_deref().and_then(Level::from_word);
        matches!((level, self.level), (Some(level), Some(wanted)) if level >= wanted)
    }

    fn asked(&mut self, request: &Request, now: Duration) -> Act {
        if !self.may_be_asked(&request.method) {
            return Act::Answer(unheard(request));
        }
        self.asked += 1;
        if self.asked > ASKS_MAX {
            return Act::Cut("the server asks the client too often");
        }
        self.wait(now, ANSWER_WAIT_MAX.max(self.patience));
        let params = request.params.as_deref().map(|params| params.get().to_owned());
        Act::Ask(Question { id: request.id.clone(), method: request.method.clone(), params })
    }

    fn may_be_asked(&self, asked: &str) -> bool {
        let Some(capability) = capability_for(asked) else { return false };
        let declared = self.capabilities.as_deref().and_then(Members::of).unwrap_or_default();
        declared.get(capability).is_some()
    }

    /// A modern server wants so many answers, and then the call again. Whether it may: all rounds of a call count.
    #[must_use]
    pub fn may_ask(&mut self, questions: usize) -> bool {
        self.asked = self.asked.saturating_add(u32::try_from(questions).unwrap_or(u32::MAX));
        self.asked <= ASKS_MAX
    }

    /// What the server asked is answered `now`, or it is sent the call again: it has its time again.
    pub fn resumed(&mut self, now: Duration) {
        self.wait(now, self.patience);
    }

    fn wait(&mut self, now: Duration, length: Duration) {
        self.until = self.until.max(now + length).min(TOTAL_MAX.max(self.patience));
    }
}

/// The answer to what a server asks that no client hears: a ping needs none, and for everything else there is nobody.
#[must_use]
pub fn unheard(request: &Request) -> Vec<u8> {
    if request.method == method::PING {
        return mcp::result_body(&request.id, &raw_object([]));
    }
    let message = format!("nobody is there who was declared to answer `{}`", request.method);
    let error = RpcError { code: code::METHOD_NOT_FOUND, message, data: None };
    mcp::error_body(Some(&request.id), &error)
}

/// Whether a client that declared this, an object, can be asked for anything.
#[must_use]
pub fn can_be_asked(declared: Option<&RawValue>) -> bool {
    let declared = declared.and_then(Members::of).unwrap_or_default();
    let asked = [method::ELICIT, method::SAMPLE, method::ROOTS];
    asked.into_iter().filter_map(capability_for).any(|capability| declared.get(capability).is_some())
}

/// What a client must have declared to be asked this; `None` for what no server asks.
#[must_use]
pub fn capability_for(asked: &str) -> Option<&'static str> {
    match asked {
        method::ELICIT => Some("elicitation"),
        method::SAMPLE => Some("sampling"),
        method::ROOTS => Some("roots"),
        _ => None,
    }
}

/// A modern client says with each request from which level on it wants log lines; a legacy one gets what a server
/// thinks worth sending.
fn level_wanted(era: Era, meta: &Members<'_>) -> Option<Level> {
    match era {
        Era::Legacy(_) => Some(Level::Debug),
        Era::Modern => meta.string(mcp::meta_key::LOG_LEVEL).ok().flatten().as_deref().and_then(Level::from_word),
    }
}

pub(crate) fn is_change(notified: &str) -> bool {
    notified.ends_with("/list_changed") || notified == "notifications/resources/updated"
}

fn body(notification: &Notification) -> Vec<u8> {
    mcp::request_body(None, &notification.method, notification.params.as_deref())
}

#[cfg(test)]
mod tests;
