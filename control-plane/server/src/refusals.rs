//! Refusals of the authorization server: each is counted, and what was refused alike is on record as one event.
//!
//! [`note`] is the layer around everything that is served below the issuer: whoever refuses says why on the answer
//! ([`told`]), and an answer with an error that says nothing is noted by its status, so none is missed. [`Noting`]
//! hands on what is held, in one write at a time, through the gate that decisions pass (`decisions`). Invariants: no
//! request waits for it; however much is refused, a node writes at most once a second, and so many kinds (`held`); a
//! write that failed is tried again and counts once. What was not handed on when a process dies is lost. Absent: what
//! may stand in a refusal (`refusal` of the domain).

mod held;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    extract::{Request, State},
    http::StatusCode,
    middleware::Next,
    response::Response,
};
use bailiwick_control_plane_core::{
    Wish,
    refusal::{Endpoint, NoteRefusals, Refusal},
};
use bailiwick_runtime::{OnEnd, Shutdown, Supervisor};
use tokio::sync::mpsc;

use self::held::Held;
use crate::{
    clock,
    decisions::{Decisions, Undecided},
};

/// Pause between writes. While there is something at each, it grows, so that a flood that goes on stays small on
/// record.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// At a stop: longest wait for requests that are still answered, and for what they leave to be on record.
const LAST_WAIT_MAX: Duration = Duration::from_secs(2);

/// Takes refusals in; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Refusals {
    held: Arc<Mutex<Held>>,
    /// Gone with the last of these handles.
    _open: mpsc::Sender<Infallible>,
}

/// Has them put on record: the one end of all [`Refusals`].
#[derive(Debug)]
struct Noting {
    held: Arc<Mutex<Held>>,
    closed: mpsc::Receiver<Infallible>,
    node: String,
}

/// What somebody who refuses says of it, on the answer; nothing where there is nothing to note.
#[derive(Clone, Debug)]
struct Told(Option<Refusal>);

fn refusals(node: &str) -> (Refusals, Noting) {
    let (open, closed) = mpsc::channel(1);
    let held = Arc::<Mutex<Held>>::default();
    (Refusals { held: Arc::clone(&held), _open: open }, Noting { held, closed, node: node.to_owned() })
}

/// The answer, which says what was refused; where that was is filled in by [`note`].
pub(crate) fn told(mut answer: Response, refusal: Refusal) -> Response {
    answer.extensions_mut().insert(Told(Some(refusal)));
    answer
}

/// The same of an answer that has no word of OAuth's.
pub(crate) fn told_why(answer: Response, why: &str, about: Refusal) -> Response {
    let refusal = Refusal { error: word(answer.status()).to_owned(), why: why.to_owned(), ..about };
    told(answer, refusal)
}

/// The answer, of which nothing is to be noted: its error is a step of a protocol, or between the two of them.
pub(crate) fn untold(mut answer: Response) -> Response {
    answer.extensions_mut().insert(Told(None));
    answer
}

/// The layer: `axum::middleware::from_fn_with_state(refusals, note)`.
pub(crate) async fn note(State(refusals): State<Refusals>, request: Request, next: Next) -> Response {
    let endpoint = endpoint(request.uri().path());
    let mut response = next.run(request).await;
    let refusal = match response.extensions_mut().remove::<Told>() {
        Some(Told(refusal)) => refusal,
        // A filter of the timeline that cannot be read refuses nobody anything.
        None => of_status(response.status()).filter(|_| endpoint != Endpoint::Audit),
    };
    if let Some(refusal) = refusal {
        refusals.note(Refusal { endpoint, ..refusal }, clock::now_micros());
    }
    response
}

fn endpoint(path: &str) -> Endpoint {
    match path {
        "/oauth/authorize" => Endpoint::Authorize,
        "/oauth/token" => Endpoint::Token,
        "/oauth/revoke" => Endpoint::Revoke,
        "/oauth/introspect" => Endpoint::Introspect,
        "/oauth/register" => Endpoint::Register,
        "/oauth/consent" | "/consents" => Endpoint::Consent,
        "/mcp/audit" => Endpoint::Audit,
        _ if path.starts_with("/sign-") => Endpoint::SignIn,
        _ if path.starts_with("/ssf/") => Endpoint::Signals,
        _ if path.starts_with("/scim/") => Endpoint::Scim,
        _ => Endpoint::Other,
    }
}

/// What is known of an answer that says no more.
fn of_status(status: StatusCode) -> Option<Refusal> {
    let why = match status {
        StatusCode::FORBIDDEN => "the request is not one that a page of ours makes now",
        StatusCode::SERVICE_UNAVAILABLE => "the cluster does not answer",
        _ => "the request cannot be read, or is for nothing that is here",
    };
    let is_error = status.is_client_error() || status.is_server_error();
    is_error.then(|| Refusal { error: word(status).to_owned(), why: why.to_owned(), ..Refusal::default() })
}

/// OAuth's word for a status.
const fn word(status: StatusCode) -> &'static str {
    match status {
        StatusCode::FORBIDDEN | StatusCode::OK => "access_denied",
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::TOO_MANY_REQUESTS => {
            "temporarily_unavailable"
        }
        StatusCode::INTERNAL_SERVER_ERROR => "server_error",
        _ => "invalid_request",
    }
}

impl Refusals {
    /// For the node of this name; what they take in is on record from now on.
    pub(crate) fn start(node: &str, decisions: Decisions, supervisor: &Supervisor) -> Self {
        let (refusals, noting) = refusals(node);
        let noting = noting.run(decisions, supervisor.shutdown().clone());
        supervisor.spawn("control-plane-refusals", OnEnd::Critical, noting);
        refusals
    }

    fn note(&self, refusal: Refusal, now: u64) {
        locked(&self.held).note(refusal, now);
    }
}

impl Noting {
    /// Puts on record what is refused until a stop, and then what the last requests leave.
    async fn run(self, decisions: Decisions, shutdown: Shutdown) {
        let actor = format!("node:{}", self.node);
        let write = move |batch| {
            let (decisions, actor) = (decisions.clone(), actor.clone());
            async move { decisions.ask(&Wish::NoteRefusals(batch), actor).await.map(|_| ()) }
        };
        self.run_with(write, shutdown).await;
    }

    async fn run_with<F>(mut self, write: impl Fn(NoteRefusals) -> F + Send + Sync, shutdown: Shutdown)
    where
        F: Future<Output = Result<(), Undecided>> + Send,
    {
        let mut pause = PAUSE_MIN;
        while shutdown.or_stop(tokio::time::sleep(pause)).await.is_some() {
            // What is broken off by a stop is sent again below, under the same id.
            let had_some = shutdown.or_stop(self.write_next(&write)).await.is_some_and(|wrote| wrote.is_some());
            pause = if had_some { (pause * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
        }
        drop(tokio::time::timeout(LAST_WAIT_MAX, self.closed.recv()).await);
        let rest = async { while self.write_next(&write).await == Some(true) {} };
        if tokio::time::timeout(LAST_WAIT_MAX, rest).await.is_err() {
            tracing::warn!("the latest refusals are not on record: nobody decided in time");
        }
    }

    /// Writes the next batch, if there is one; whether that is settled.
    async fn write_next<F>(&self, write: impl Fn(NoteRefusals) -> F) -> Option<bool>
    where
        F: Future<Output = Result<(), Undecided>>,
    {
        let batch = locked(&self.held).batch(&self.node, || clock::random_id("n-").ok())?;
        let kinds = batch.refused.len();
        let written = write(batch).await;
        if let Err(Undecided::Refused(why)) = &written {
            tracing::error!(kinds, why, "refusals are not on record: the leader does not take them");
        }
        let is_settled = written != Err(Undecided::Unavailable);
        if is_settled {
            locked(&self.held).settled();
        }
        Some(is_settled)
    }
}

fn locked(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
