//! A conversation with a server over one channel of messages: many requests under way, each with its own id, and
//! everything the server says in one row.
//!
//! Called by the server's `upstream::channel` for programs (a line each) and for HTTP+SSE (an event each). Sans-I/O: it
//! knows which requests wait for an answer, and says of each message whom it is for. Over Streamable HTTP a message's
//! stream tells that; here only the message can. An answer belongs to the request with its id, progress to the request
//! that is its token, what is heard of a subscription to the request that opened it. A log line has no address: it goes
//! to the call that began last, and to nobody where different people share the channel. A question goes to the call
//! that is under way, if there is one only, and nobody shares the channel; else it is answered here. Changes go to
//! listeners. Everything else is nobody's. What is no message is read over, up to a bound: many programs write a
//! greeting to their output. Half a message is the end: nobody knows what it was. Deliberately absent: bytes, queues
//! and time; what a client gets of it (`relay`). Specification: MCP 2026-07-28 and 2025-11-25, transports, "stdio";
//! 2024-11-05, "HTTP with SSE".

use std::collections::BTreeMap;

use bailiwick_proto::mcp::{
    self, Era, Incoming, Members, Notification, Request, RequestId, Response, ResponseFault, meta_key, method, read_any,
};
use serde_json::value::RawValue;

use crate::relay;

/// Most requests under way on one channel: as many as one program can be busy with.
pub const REQUESTS_MAX: usize = 256;
/// Most lines that are no message, of one channel: greetings and debugging have some dozens.
pub const JUNK_MAX: u32 = 1_000;

/// See the file's header.
#[derive(Clone, Debug)]
pub struct Conversation {
    era: Era,
    /// Different people use it.
    shared: bool,
    under_way: BTreeMap<RequestId, Asked>,
    begun: u64,
    junk: u32,
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// When it began, among the others.
    turn: u64,
    of: Sort,
}

/// What is heard beside a request's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// Nothing.
    Plain,
    /// Whatever is said meanwhile.
    Call,
    /// What it asked to be told.
    Subscription,
}

/// Whom a message is for.
#[derive(Clone, Debug)]
pub enum Said {
    /// For who waits for this answer, which breaks a rule if it is an error; the request is over.
    Answer(RequestId, Result<Response, String>),
    /// For who listens to this request.
    Beside(RequestId, Incoming),
    /// For listeners.
    Change(Notification),
    /// To be sent to the server: an answer to what it asked.
    Reply(Vec<u8>),
    /// The server ends this subscription.
    Over(RequestId),
    /// For nobody.
    Nothing,
    /// The server does what no server may; the channel is of no use any more.
    Broken(&'static str),
}

/// The channel has as many requests under way as it may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("more than {REQUESTS_MAX} requests are under way")]
pub struct Full;

impl Conversation {
    /// A channel on which nothing was said. `shared`: different people use it.
    #[must_use]
    pub const fn new(shared: bool) -> Self {
        let era = Era::Legacy(mcp::VERSION_2025_11_25);
        Self { era, shared, under_way: BTreeMap::new(), begun: 0, junk: 0 }
    }

    /// The server turned out to speak this.
    pub const fn speaks(&mut self, era: Era) {
        self.era = era;
    }

    /// What the server speaks.
    #[must_use]
    pub const fn era(&self) -> Era {
        self.era
    }

    /// A request is sent; its id is no other's.
    ///
    /// # Errors
    /// Too many are under way.
    pub fn begin(&mut self, id: RequestId, of: Sort) -> Result<(), Full> {
        if self.under_way.len() >= REQUESTS_MAX {
            return Err(Full);
        }
        self.begun += 1;
        self.under_way.insert(id, Asked { turn: self.begun, of });
        Ok(())
    }

    /// Nobody waits for this answer any more. Whether somebody did.
    pub fn forget(&mut self, id: &RequestId) -> bool {
        self.under_way.remove(id).is_some()
    }

    /// How many requests are under way.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The server said this.
    pub fn heard(&mut self, message: &[u8]) -> Said {
        match read_any(message) {
            Ok((Some(id), Incoming::Response(answer))) => self.answered(id, Ok(answer)),
            // The server could not read what it was sent; which request that was, is clear if there is one only.
            Ok((None, Incoming::Response(answer))) => match self.under_way.keys().next().cloned() {
                Some(id) if self.under_way.len() == 1 => self.answered(id, Ok(answer)),
                _ => Said::Nothing,
            },
            Ok((_, Incoming::Notification(notification))) => self.notified(notification),
            Ok((_, Incoming::Request(request))) => self.asked(request),
            Err((fault, Some(id))) if self.under_way.contains_key(&id) => self.answered(id, Err(fault.to_string())),
            Err((ResponseFault::Json(_), _)) if begins_as_message(message) => {
                Said::Broken("the server says half of something")
            }
            Err(_) => {
                self.junk += 1;
                if self.junk > JUNK_MAX {
                    Said::Broken("the server says too much that is no message")
                } else {
                    Said::Nothing
                }
            }
        }
    }

    fn answered(&mut self, id: RequestId, answer: Result<Response, String>) -> Said {
        if self.forget(&id) { Said::Answer(id, answer) } else { Said::Nothing }
    }

    fn notified(&self, notification: Notification) -> Said {
        let members = notification.members();
        let subscription = subscription(&members);
        let id = match notification.method.as_str() {
            method::PROGRESS => members.get("progressToken").and_then(RequestId::read),
            method::CANCELLED => {
                let id = members.get("requestId").and_then(RequestId::read);
                return match id.filter(|id| self.era.is_modern() && self.under_way.contains_key(id)) {
                    Some(id) => Said::Over(id),
                    None => Said::Nothing,
                };
            }
            _ if subscription.is_some() => subscription,
            _ if relay::is_change(&notification.method) => {
                return if self.era.is_modern() { Said::Nothing } else { Said::Change(notification) };
            }
            _ if self.shared => None,
            _ => self.calls().max_by_key(|(_, asked)| asked.turn).map(|(id, _)| id.clone()),
        };
        match id.filter(|id| self.under_way.get(id).is_some_and(|asked| asked.of != Sort::Plain)) {
            Some(id) => Said::Beside(id, Incoming::Notification(notification)),
            None => Said::Nothing,
        }
    }

    fn asked(&self, request: Request) -> Said {
        let mut calls = self.calls();
        let only = calls.next().filter(|_| calls.next().is_none()).map(|(id, _)| id.clone());
        match only.filter(|_| !self.shared && !self.era.is_modern() && request.method != method::PING) {
            Some(id) => Said::Beside(id, Incoming::Request(request)),
            None => Said::Reply(relay::unheard(&request)),
        }
    }

    fn calls(&self) -> impl Iterator<Item = (&RequestId, &Asked)> {
        self.under_way.iter().filter(|(_, asked)| asked.of == Sort::Call)
    }
}

/// Whether what cannot be read was meant as a message: then it is not clear what became of it, and whose it was.
fn begins_as_message(text: &[u8]) -> bool {
    const KEY: &[u8] = br#""jsonrpc""#;
    text.first() == Some(&b'{') && text.windows(KEY.len()).take(64).any(|window| window == KEY)
}

/// The id of the request that opened the subscription a notification belongs to.
fn subscription(members: &Members<'_>) -> Option<RequestId> {
    members.object("_meta").ok()??.get(meta_key::SUBSCRIPTION_ID).and_then(RequestId::read)
}

/// Tells the server that nobody waits for the answer to this request.
#[must_use]
pub fn cancelled(id: &RequestId) -> Vec<u8> {
    let params = RawValue::from_string(format!(r#"{{"requestId":{id},"reason":"cancelled"}}"#)).ok();
    mcp::request_body(None, method::CANCELLED, params.as_deref())
}

/// Cuts what a program writes into lines.
#[derive(Clone, Debug)]
pub struct Lines {
    line: Vec<u8>,
    bytes_max: usize,
}

/// A line is longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line has more than {0} bytes")]
pub struct TooLong(pub usize);

impl Lines {
    /// Of so many bytes at most.
    #[must_use]
    pub const fn new(bytes_max: usize) -> Self {
        Self { line: Vec::new(), bytes_max }
    }

    /// Takes a chunk; gives the lines that end in it, without their ends and without empty ones.
    ///
    /// # Errors
    /// A line is too long. What comes afterwards is of no use.
    pub fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Vec<u8>>, TooLong> {
        let mut lines = Vec::new();
        let mut parts = chunk.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            if self.line.len() + part.len() > self.bytes_max {
                return Err(TooLong(self.bytes_max));
            }
            self.line.extend_from_slice(part);
            if parts.peek().is_none() {
                break;
            }
            let mut line = std::mem::take(&mut self.line);
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            if !line.iter().all(u8::is_ascii_whitespace) {
                lines.push(line);
            }
        }
        Ok(lines)
    }
}

#[cfg(test)]
mod tests;
