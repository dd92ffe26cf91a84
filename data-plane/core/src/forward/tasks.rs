//! Tasks in a server's answers, as clients see them.
//!
//! Called by `forward` for the result that says a call goes on, and for what `tasks/get` brings; by `listening` for
//! what a server tells of a task by itself. The server's id of a task becomes the sealed one everywhere. Of what a task has
//! come to, only what belongs to its status passes: the input it waits for, within what the client declared, the result
//! under the names the client knows, or the error. A server that speaks of another task, or of a status that is none,
//! is not believed. Specification: extension `io.modelcontextprotocol/tasks`, "Tasks", "Task Polling", "Task Status
//! Notifications".

use bailiwick_ledger_core::record::Status;
use bailiwick_proto::mcp::{self, Members, RESULT_COMPLETE, RpcError, method};
use serde_json::value::RawValue;

use super::{Answerer, Keepsake, may_ask};
use crate::{edge::declares, sealed::task::SERVER_TASK_BYTES_MAX, shown};

/// Members that tell what a task has come to; each belongs to one status.
const PAYLOADS: [&str; 3] = ["inputRequests", "result", "error"];

/// How far a task is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It goes on.
    Working,
    /// It waits for the client.
    InputRequired,
    /// The tool has a result.
    Completed,
    /// The call failed.
    Failed,
    /// It was ended.
    Cancelled,
}

impl Progress {
    fn of(word: &str) -> Option<Self> {
        [Self::Working, Self::InputRequired, Self::Completed, Self::Failed, Self::Cancelled]
            .into_iter()
            .find(|known| known.word() == word)
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::InputRequired => "input_required",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The member that belongs to it.
    const fn payload(self) -> Option<&'static str> {
        match self {
            Self::InputRequired => Some("inputRequests"),
            Self::Completed => Some("result"),
            Self::Failed => Some("error"),
            Self::Working | Self::Cancelled => None,
        }
    }

    /// Nothing follows it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// A task that a client follows.
#[derive(Clone, Copy, Debug)]
pub struct Followed<'a> {
    /// Its id as the client knows it.
    pub id: &'a str,
    /// Its id at the server.
    pub own: &'a str,
    /// What the client can be asked for: an object.
    pub capabilities: Option<&'a RawValue>,
}

/// What has become of a task.
#[derive(Clone, Debug)]
pub struct Seen {
    /// For the client.
    pub shown: Box<RawValue>,
    /// How far it is.
    pub progress: Progress,
    /// For the record.
    pub status: Status,
    /// For the record: of a failed task the JSON-RPC code, of one that is not finished its status.
    pub error_code: Option<String>,
    /// For the record: the result or error, as the server sent it.
    pub payload: Option<Box<RawValue>>,
}

impl PartialEq for Seen {
    fn eq(&self, other: &Self) -> bool {
        let of = |seen: &Self| (seen.progress, seen.status, seen.error_code.clone());
        let payload = |seen: &Self| seen.payload.as_ref().map(|payload| payload.get().to_owned());
        of(self) == of(other) && self.shown.get() == other.shown.get() && payload(self) == payload(other)
    }
}

impl Eq for Seen {}

/// The result that says that the call goes on as a task. `None` for a client that cannot have tasks, and where there is
/// nothing by which the task could be asked for.
pub(super) fn created(
    call: &crate::edge::Call,
    result: &RawValue,
    members: &Members<'_>,
    seal: impl FnOnce(Keepsake) -> Option<String>,
) -> Option<Box<RawValue>> {
    if call.method != method::TOOLS_CALL || !declares(call.capabilities.as_deref()) {
        return None;
    }
    progress(members)?;
    let id = members.required_string("taskId").ok()?;
    if id.is_empty() || id.len() > SERVER_TASK_BYTES_MAX {
        return None;
    }
    // How long it is kept, null means for ever.
    let ttl_ms = members.read::<Option<u64>>("ttlMs").ok().flatten().flatten();
    let sealed = seal(Keepsake::Task { id, ttl_ms })?;
    // What it has come to already, the client asks for.
    written(result, &sealed, None)
}

/// What has become of a task, from the members of `said`. `None` where that is nothing a server may say of it.
#[must_use]
pub fn seen(task: &Followed<'_>, said: &RawValue, of: &Answerer<'_>) -> Option<Seen> {
    let members = Members::of(said)?;
    let progress = progress(&members)?;
    if members.required_string("taskId").ok()? != task.own {
        return None;
    }
    let belonging = match progress.payload() {
        Some(name) => Some(members.object(name).ok().flatten()?),
        None => None,
    };
    let (status, error_code) = match (progress, belonging) {
        (Progress::Completed, Some(result)) => (finished(&result)?, None),
        (Progress::Failed, Some(error)) => (Status::Error, Some(error.read::<i64>("code").ok()??.to_string())),
        (Progress::InputRequired, _) if !may_ask(task.capabilities, &members) => return None,
        (unfinished, _) => (Status::Ok, Some(unfinished.word().to_owned())),
    };
    let payload = match progress {
        Progress::Completed | Progress::Failed => progress.payload().and_then(|name| members.get(name)),
        Progress::Working | Progress::InputRequired | Progress::Cancelled => None,
    };
    let (payload, shown) = (payload.map(ToOwned::to_owned), written(said, task.id, Some((progress, of)))?);
    Some(Seen { shown, progress, status, error_code, payload })
}

/// How a call ended whose result this is; `None` where it has not.
fn finished(result: &Members<'_>) -> Option<Status> {
    let kind = result.string("resultType").ok()?;
    let is_error = result.read::<bool>("isError").ok().flatten() == Some(true);
    let status = if is_error { Status::ToolError } else { Status::Ok };
    kind.is_none_or(|kind| kind == RESULT_COMPLETE).then_some(status)
}

fn progress(members: &Members<'_>) -> Option<Progress> {
    Progress::of(&members.required_string("status").ok()?)
}

/// All that was said, under the client's id, without what does not belong to its progress.
fn written(said: &RawValue, id: &str, of: Option<(Progress, &Answerer<'_>)>) -> Option<Box<RawValue>> {
    let id = mcp::raw(id);
    let kept = of.and_then(|(progress, _)| progress.payload());
    let own = mcp::ordered_members(said)?;
    let own = own.iter().filter(|(name, _)| !PAYLOADS.contains(&name.as_ref()) || kept == Some(name.as_ref()));
    let own: Vec<(&str, Box<RawValue>)> = own
        .map(|(name, value)| match (name.as_ref(), of) {
            ("taskId", _) => ("taskId", id.clone()),
            ("result", Some((_, of))) => ("result", shown::result(method::TOOLS_CALL, of.naming, of.server, value)),
            (name, _) => (name, (*value).to_owned()),
        })
        .collect();
    Some(mcp::raw_object(own.iter().map(|(name, value)| (*name, &**value))))
}

/// A server's error about a task. It names the task by an id that is not the client's to know.
pub(super) fn error(own: &str, error: RpcError) -> RpcError {
    let RpcError { code, message, data } = error;
    let names_it = |text: &str| text.contains(own);
    let message = if names_it(&message) { "the server does not do this for the task".to_owned() } else { message };
    RpcError { code, message, data: data.filter(|data| !names_it(data.get())) }
}
