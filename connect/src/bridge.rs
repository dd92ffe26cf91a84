//! Between a client on standard input and output, and the MCP server: whose each message is, and where it goes.
//!
//! Started by the command line. Requests run side by side (`exchange`), each with the headers of its era (`envelope`);
//! notifications and replies go one by one, in order. What a legacy session needs is in `session`, its own stream in
//! `stream`, modern listening in `listen`. Messages pass as they were written. Invariants: each request gets one
//! answer, if only that it failed, unless its client took it back; no more run at once than the bound. Specification:
//! MCP 2026-07-28 and 2025-11-25, stdio and Streamable HTTP.

mod envelope;
mod exchange;
mod listen;
mod session;
mod stream;
mod tools;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bailiwick_proto::mcp::{Message, MessageFault, Notification, Request, RequestId, read_message};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{sync::oneshot, time::timeout};

use self::{session::Session, tools::Tools};
use crate::{
    caller::Caller,
    fault::Fault,
    stdio::{self, Line, Out},
};

/// Requests at once; clients send some dozens at most.
const REQUESTS_MAX: usize = 256;
/// For what is still to be said and done at the end.
const END_WAIT_MAX: Duration = Duration::from_secs(2);
/// For a notification or a reply to be taken, with a sign-in on the way left out.
const NOTICE_WAIT_MAX: Duration = Duration::from_secs(30);
const CANCELLED: &str = "notifications/cancelled";
const INITIALIZED: &str = "notifications/initialized";

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Bridge {
    caller: Caller,
    out: Out,
    supervisor: Supervisor,
    session: Session,
    tools: Tools,
    /// What runs, and how to end it; whether the request is a modern one.
    running: Mutex<BTreeMap<RequestId, (Shutdown, bool)>>,
}

/// Serves the client until it has no more to say, or the process is to stop.
pub(crate) async fn run(caller: Caller, supervisor: Supervisor) {
    let (out, written) = Out::start();
    let stop = supervisor.shutdown().clone();
    let bridge = Arc::new(Bridge::new(caller, out, supervisor));
    let mut lines = stdio::lines();
    while let Some(Some(line)) = stop.or_stop(lines.recv()).await {
        // A stop does not wait for a notification that nobody takes.
        if stop.or_stop(bridge.take(line)).await.is_none() {
            break;
        }
    }
    bridge.end(written).await;
}

impl Bridge {
    pub(crate) fn new(caller: Caller, out: Out, supervisor: Supervisor) -> Self {
        let (session, tools, running) = (Session::default(), Tools::default(), Mutex::default());
        Self { caller, out, supervisor, session, tools, running }
    }

    async fn take(self: &Arc<Self>, line: Line) {
        let text = match line {
            Line::Message(text) => Bytes::from(text),
            Line::TooLong => return self.refuse(None, -32_600, "the message is too large", "request_too_large").await,
        };
        match read_message(&text) {
            Ok(Message::Request(request)) => self.begin(request, text).await,
            Ok(Message::Notification(notification)) => self.notify(&notification, text).await,
            Ok(Message::Reply(_)) => self.pass(text, &envelope::Envelope::default()).await,
            Err((fault, id)) => self.malformed(&fault, id.as_ref()).await,
        }
    }

    async fn malformed(&self, fault: &MessageFault, id: Option<&RequestId>) {
        self.refuse(id, fault.code(), &fault.to_string(), "request_malformed").await;
    }

    async fn begin(self: &Arc<Self>, request: Request, text: Bytes) {
        let cancelled = self.supervisor.shutdown().child();
        let is_modern = envelope::version(&request.members()).is_some();
        let begun = {
            let mut running = self.running();
            let is_known = running.contains_key(&request.id);
            let is_full = running.len() >= REQUESTS_MAX;
            if !is_known && !is_full {
                running.insert(request.id.clone(), (cancelled.clone(), is_modern));
            }
            (is_known, is_full)
        };
        match begun {
            (true, _) => self.refuse(Some(&request.id), -32_600, "this id is in use", "request_malformed").await,
            (_, true) => self.fail(&request.id, &Fault::Limit("too many requests are under way")).await,
            (false, false) => {
                let this = Arc::clone(self);
                self.supervisor.spawn("request", OnEnd::Finish, async move {
                    let answered = cancelled.or_stop(Box::pin(this.exchange(&request, text))).await;
                    this.running().remove(&request.id);
                    if let Some(Err(fault)) = answered {
                        this.fail(&request.id, &fault).await;
                    }
                });
            }
        }
    }

    async fn notify(self: &Arc<Self>, notification: &Notification, text: Bytes) {
        let members = notification.members();
        if notification.method == CANCELLED {
            let id = members.get("requestId").and_then(RequestId::read);
            let running = id.as_ref().and_then(|id| self.running().get(id).cloned());
            // To a modern server, the end of the exchange says it; to a legacy one, this message does.
            if let Some((cancelled, true)) = running {
                return cancelled.request();
            }
        }
        self.pass(text, &envelope::of(&notification.method, &members)).await;
        if notification.method == INITIALIZED {
            self.open_stream();
        }
    }

    /// Sends what has no answer.
    async fn pass(self: &Arc<Self>, text: Bytes, envelope: &envelope::Envelope) {
        let sent = timeout(NOTICE_WAIT_MAX, self.post(text, envelope)).await;
        if let Ok(Err(fault)) = sent {
            tracing::warn!(%fault, "a notification does not arrive");
        }
    }

    /// Answers a request with a failure of ours.
    async fn fail(&self, id: &RequestId, fault: &Fault) {
        tracing::warn!(%fault, "a request fails");
        self.refuse(Some(id), fault.code(), &fault.to_string(), fault.word()).await;
    }

    async fn refuse(&self, id: Option<&RequestId>, code: i64, message: &str, reason: &str) {
        let id = id.map_or_else(|| "null".to_owned(), RequestId::to_json);
        let error: Value = json!({"code": code, "message": message, "data": {"reason": reason}});
        self.out.say(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#).as_bytes()).await;
    }

    /// Ends what runs, gives the session back, and lets everything be written.
    async fn end(self: Arc<Self>, written: oneshot::Receiver<()>) {
        let goodbye = self.goodbye();
        drop(timeout(END_WAIT_MAX, goodbye).await);
        let supervisor = self.supervisor.clone();
        supervisor.shutdown().request();
        self.caller.credentials.settled().await;
        drop(self);
        drop(timeout(END_WAIT_MAX, supervisor.ended()).await);
        drop(timeout(END_WAIT_MAX, written).await);
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<RequestId, (Shutdown, bool)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
