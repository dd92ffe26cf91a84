//! One request to an MCP endpoint: authenticate, read, decide, and either answer or carry a call through.
//!
//! Called by `visit`. When the client goes away, this handler is dropped: then the call goes on as a task of its own and
//! is told to stop waiting for the server. Refusals of authenticated callers are recorded; who is one, `asking`
//! says.

mod asking;
mod proving;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bailiwick_data_plane_core::{
    Config,
    edge::{self, Exchange, HttpReply, ListRequest, Listen, NOBODY_WAITS, Names, ScopeNeeded, Step, answer_taken},
    listing::Failure,
    sealed::{SealNonce, SealingKeys, answer::Answer},
};
use bailiwick_proto::{
    Reason,
    mcp::{self, RpcError, code, header_name},
};
use bailiwick_runtime::{OnEnd, Shutdown};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use self::{
    asking::{ask, record_refused},
    proving::{TakenIn, prove, renew_nonce, take_in},
};
use super::{
    Gateway,
    answer::{self, Response},
    body::{self, RequestBody},
    event_stream, metadata,
    room::CallerKey,
    visit::Visit,
};
use crate::{
    auth::proofs::unix_ms,
    calls::{Asked, Calls, NotBrought, Outlet, unix_seconds},
    listening,
    metrics::{Counted, StreamKind},
    random,
    telemetry::{Underway, Wire},
};

/// Longest wait for a slot when too many calls are under way.
const SLOT_WAIT_MAX: Duration = Duration::from_secs(2);
/// Random bytes of a request's id: nobody guesses the id of a request of somebody else.
const REQUEST_ID_BYTES: usize = 16;
/// Messages before an answer that wait to be sent; the server waits when there are more.
const BEFORE_MAX: usize = 16;
/// Refusals of authentic tokens that are recorded per second; the rest is counted only.
pub(crate) const ATTRIBUTED_DENIALS_PER_SECOND: u64 = 20;

/// Requests the stop of a call when the handler that waits for it is dropped.
struct CancelOnDrop(Shutdown);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.request();
    }
}

/// The head of a request to an MCP endpoint.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) virtual_server: &'a str,
    pub(super) version: Version,
    pub(super) headers: &'a HeaderMap,
    pub(super) arrived: Instant,
}

pub(super) async fn handle(visit: &Visit, method: &Method, head: Head<'_>, body: RequestBody) -> Response {
    // Only legacy clients have a session, and only they listen so.
    if method == Method::GET && head.headers.contains_key(header_name::SESSION_ID) {
        let mut answer = Box::pin(get(visit, head)).await;
        renew_nonce(&visit.gateway, head.headers, &mut answer);
        return answer;
    }
    if method != Method::POST {
        let mut refusal = answer::empty(StatusCode::METHOD_NOT_ALLOWED);
        refusal.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
        return refusal;
    }
    let mut answer = post(visit, head, body).await;
    renew_nonce(&visit.gateway, head.headers, &mut answer);
    answer
}

async fn post(visit: &Visit, head: Head<'_>, body: RequestBody) -> Response {
    let gateway = &visit.gateway;
    let Head { virtual_server, version, headers, arrived, .. } = head;
    let Some(calls) = gateway.calls.get() else { return not_ready() };
    let Some(request_id) = request_id() else { return not_ready() };
    let taken_in = match take_in(visit, calls, head, &request_id, body).await {
        Ok(taken_in) => taken_in,
        Err(refusal) => return *refusal,
    };
    let TakenIn { mut asked, caller, body, room: _room } = taken_in;
    let Some(nonce) = random() else { return not_ready() };
    let sealing_keys = gateway.state.sealing_keys();
    let exchange = exchange(&asked, virtual_server, &sealing_keys, nonce);
    let told = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let (step, seen) = edge::handle(&exchange, told, &body);
    let mut served = gateway.telemetry.serve(seen, Wire::of(version, headers), arrived);
    served.note("bailiwick.request_id", &asked.request_id);
    served.note("bailiwick.virtual_server", virtual_server);
    asked.cause = served.cause();
    let reply = match step {
        Step::Respond(reply) => {
            if let Some(hidden) = reply.hidden_thousandths {
                gateway.metrics.listed(hidden);
            }
            if reply.reason == Some(Reason::RequestMalformed) && body::names_a_call(headers, &body) {
                Box::pin(record_refused(calls, &asked, virtual_server, Reason::RequestMalformed)).await;
            }
            reply
        }
        Step::Deny(mut denied) => {
            served.judged(&mut denied.call, &denied.decision);
            Box::pin(calls.deny(&asked, *denied)).await
        }
        Step::Introduce(introduction) => Box::pin(calls.introduce(&asked, virtual_server, &introduction)).await,
        Step::SetLevel(level) => Box::pin(calls.set_level(&asked, virtual_server, &level)).await,
        Step::List(request) => Box::pin(list(gateway, calls, &asked, &request)).await,
        Step::Listen(wish) => {
            let response = Box::pin(listen(gateway, calls, asked, (virtual_server, headers), *wish)).await;
            served.opened(response.status().is_success());
            return response;
        }
        Step::Subscribe(wish) => Box::pin(calls.subscribe(&asked, &wish)).await,
        Step::Answer(answer) => Box::pin(bring(calls, &asked, answer)).await,
        Step::Call(mut permitted) => {
            served.judged(&mut permitted.call, &permitted.decision);
            return carry(gateway, calls, asked, permitted, (served, caller)).await;
        }
    };
    served.replied(&reply);
    finish(gateway, reply, caller)
}

/// What the request is answered from.
fn exchange<'a>(
    asked: &'a Asked,
    virtual_server: &'a str,
    sealing_keys: &'a SealingKeys,
    nonce: SealNonce,
) -> Exchange<'a> {
    Exchange {
        config: &asked.config,
        caller: &asked.caller,
        virtual_server,
        sealing_keys,
        nonce,
        now_unix: unix_seconds(),
        request_id: &asked.request_id,
    }
}

/// A legacy client's GET.
async fn get(visit: &Visit, head: Head<'_>) -> Response {
    let (gateway, Head { virtual_server, headers, .. }) = (&visit.gateway, head);
    let Some(calls) = gateway.calls.get() else { return not_ready() };
    let (Some(request_id), Some(nonce)) = (request_id(), random()) else { return not_ready() };
    let (asked, shown) = match ask(visit, calls, (&Method::GET, head), &request_id).await {
        Ok(known) => known,
        Err(refusal) => return *refusal,
    };
    if let Err(refusal) = prove(visit, calls, (&asked, &shown), (&Method::GET, head), &[]).await {
        return *refusal;
    }
    let caller = gateway.caller_key(&asked.caller);
    visit.control().is_of(caller);
    let sealing_keys = gateway.state.sealing_keys();
    let exchange = exchange(&asked, virtual_server, &sealing_keys, nonce);
    let wish = edge::listen(&exchange, headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())));
    match wish {
        Ok(wish) => listen(gateway, calls, asked, (virtual_server, headers), wish).await,
        Err(reply) => finish(gateway, reply, caller),
    }
}

/// A stream of changes, if there is room for one more.
async fn listen(
    gateway: &Arc<Gateway>,
    calls: &Arc<Calls>,
    asked: Asked,
    (virtual_server, headers): (&str, &HeaderMap),
    listen: Listen,
) -> Response {
    let Some(place) = calls.listeners.place(&asked.caller, listen.session) else {
        let caller = gateway.caller_key(&asked.caller);
        return finish(gateway, listen.refuse(&asked.request_id, Reason::NodeOverloaded), caller);
    };
    let (known, name, shown) = (Arc::clone(gateway), virtual_server.to_owned(), shown(headers));
    let is_good = Box::new(move |config: &Config| {
        let shown = shown.iter().map(|shown| (header::AUTHORIZATION, shown.clone()));
        known.authenticator.authenticate(config, &name, &shown.collect(), unix_seconds()).is_ok()
    });
    let (calls, stop, virtual_server) = (Arc::clone(calls), gateway.stopping.clone(), virtual_server.to_owned());
    let unread_wait_max = gateway.unread_wait_max;
    listening::Stream { calls, asked, virtual_server, listen, is_good, place, stop, unread_wait_max }.respond().await
}

/// What a client authenticated with. Copied: a value as it came holds the connection's whole buffer, and the connection
/// gets another, for as long as the stream lasts; and a map of headers is larger than what is in it.
fn shown(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut copy = HeaderValue::from_bytes(headers.get(header::AUTHORIZATION)?.as_bytes()).ok()?;
    copy.set_sensitive(true);
    Some(copy)
}

/// A page of a list, with a slot: servers are asked for it.
async fn list(gateway: &Gateway, calls: &Calls, asked: &Asked, request: &ListRequest) -> HttpReply {
    let Some(_slot) = slot_in_time(gateway).await else {
        let names = Names::of(&asked.request_id, &asked.caller);
        return request.failed(names, &Failure::Fault(Reason::NodeOverloaded));
    };
    let reply = calls.list(asked, request).await;
    if let Some(hidden) = reply.hidden_thousandths {
        gateway.metrics.listed(hidden);
    }
    reply
}

/// Counts a refusal, and sends the reply, with a challenge where a token with more scope would do.
fn finish(gateway: &Gateway, reply: HttpReply, caller: CallerKey) -> Response {
    if let Some(reason) = reply.reason {
        gateway.metrics.refused(reason);
    }
    let (reason, needed) = (reply.reason.unwrap_or(Reason::ScopeInsufficient), reply.scope_needed.clone());
    let mut response = respond(reply);
    if let Some(ScopeNeeded { virtual_server, scope }) = needed {
        let config = gateway.state.config();
        let issuer = config.as_ref().and_then(|config| config.issuer.as_ref());
        metadata::challenge_along(&mut response, (issuer, &virtual_server), (reason, None), scope);
    }
    response.body_mut().caller = caller;
    response
}

/// Brings a client's answer to where it is waited for.
async fn bring(calls: &Calls, asked: &Asked, answer: Answer) -> HttpReply {
    let brought = calls.answers.bring(&asked.caller, answer).await;
    let taken = brought.map_err(|fault| match fault {
        NotBrought::Unknown => NOBODY_WAITS,
        NotBrought::TooLong => "the answer is too long to be brought to the node that waits for it",
        NotBrought::Unable => "the answer cannot be brought to the node that waits for it at the moment",
    });
    answer_taken(&asked.request_id, taken)
}

/// Runs the call, with a slot. The answer is one JSON body, unless the server has something to say before it: then all
/// of it is a stream of events.
async fn carry(
    gateway: &Arc<Gateway>,
    calls: &Arc<Calls>,
    asked: Asked,
    permitted: Box<edge::PermittedCall>,
    (served, caller): (Underway, CallerKey),
) -> Response {
    gateway.metrics.calls_decided.inc();
    let slot = match Arc::clone(&gateway.slots).try_acquire_owned() {
        Ok(slot) => Some(slot),
        Err(_) => slot_in_time(gateway).await,
    };
    let Some(slot) = slot else {
        let reply = Box::pin(calls.refuse(&asked, &permitted, Reason::NodeOverloaded)).await;
        served.replied(&reply);
        return finish(gateway, reply, caller);
    };
    let cancel = gateway.abort.child();
    let (outlet, mut before) = mpsc::channel(BEFORE_MAX);
    let (calls, cancelled) = (Arc::clone(calls), cancel.clone());
    let guard = CancelOnDrop(cancel);
    // The client may go; the outcome is recorded all the same.
    let mut carried = gateway.supervisor.persist("call", async move {
        let reply = calls.carry(asked, Arc::new(*permitted), cancelled, Outlet(outlet)).await;
        served.replied(&reply);
        drop(slot);
        reply
    });
    let (first, reply) = tokio::select! {
        biased;
        Some(first) = before.recv() => (first, None),
        reply = &mut carried => match before.try_recv() {
            Ok(first) => (first, Some(reply)),
            Err(_) => return finish(gateway, reply, caller),
        }
    };
    let (tell, answered) = oneshot::channel();
    match reply {
        Some(reply) => drop(tell.send(reply)),
        None => carried.go_on(|reply| drop(tell.send(reply))),
    }
    let counted = gateway.metrics.stream(StreamKind::Call);
    stream(gateway, first, before, answered, (guard, counted))
}

async fn slot_in_time(gateway: &Gateway) -> Option<OwnedSemaphorePermit> {
    tokio::time::timeout(SLOT_WAIT_MAX, Arc::clone(&gateway.slots).acquire_owned()).await.ok()?.ok()
}

/// What came before the answer, and then that.
fn stream(
    gateway: &Arc<Gateway>,
    first: Vec<u8>,
    before: mpsc::Receiver<Vec<u8>>,
    answered: oneshot::Receiver<HttpReply>,
    guard: (CancelOnDrop, Counted),
) -> Response {
    let (body, answer) = oneshot::channel();
    let metrics = Arc::clone(&gateway.metrics);
    gateway.supervisor.spawn("call-stream", OnEnd::Finish, async move {
        let Ok(reply) = answered.await else { return };
        if let Some(reason) = reply.reason {
            metrics.refused(reason);
        }
        drop(body.send(reply.body));
    });
    event_stream::Parts { first: Some(first), before, answer, guard }.respond()
}

fn body_refused(reason: Reason, request_id: &str, version: Version) -> Response {
    let status = match reason {
        Reason::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::NodeOverloaded => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    };
    let response = answer::json(status, refusal_body(code::INVALID_REQUEST, reason, request_id));
    closing(response, version)
}

/// A refusal of a request whose body nobody has read.
pub(super) async fn unread(refusal: Response, body: RequestBody, version: Version) -> Response {
    if body::pass_over(body).await { refusal } else { closing(refusal, version) }
}

/// The rest of the body is not read, so the connection cannot be used again; HTTP/2 ends only the stream.
pub(super) fn closing(mut response: Response, version: Version) -> Response {
    if version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// 503: no configuration has arrived yet, or one that is older than the token; or this run is not registered.
pub(super) fn not_ready() -> Response {
    let body = json!({"error": "not_ready", "message": "this node's configuration is not there yet, or older than your token"}).to_string();
    let mut response = answer::json(StatusCode::SERVICE_UNAVAILABLE, body.into_bytes());
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// 503: too many large answers wait for their clients. What was called was called, and is on record.
pub(super) fn no_room() -> Response {
    let body = json!({"error": Reason::NodeOverloaded.as_str(), "message": "there is an answer, and no room to keep it until you take it"});
    answer::json(StatusCode::SERVICE_UNAVAILABLE, body.to_string().into_bytes())
}

fn refusal_body(rpc_code: i64, reason: Reason, request_id: &str) -> Vec<u8> {
    let mut data = json!({"reason": reason.as_str(), "requestId": request_id, "policies": []});
    // By this a client whose clock is wrong makes its next proofs.
    if let (Reason::ProofStale, Some(data)) = (reason, data.as_object_mut()) {
        data.insert("serverTime".to_owned(), unix_ms().into());
    }
    let data = Some(mcp::raw(&data));
    mcp::error_body(None, &RpcError { code: rpc_code, message: reason.sentence().to_owned(), data })
}

fn respond(reply: HttpReply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = match reply.body {
        Some(body) => answer::json(status, body),
        None => answer::empty(status),
    };
    if let Some(session) = reply.session_id.and_then(|id| HeaderValue::try_from(id).ok()) {
        response.headers_mut().insert(header_name::SESSION_ID, session);
    }
    response
}

/// `None` without randomness: then nothing is served.
pub(super) fn request_id() -> Option<String> {
    let mut id = [0; 2 + 2 * REQUEST_ID_BYTES];
    let (prefix, digits) = id.split_at_mut(2);
    prefix.copy_from_slice(b"r-");
    hex::encode_to_slice(random::<REQUEST_ID_BYTES>()?, digits).ok()?;
    Some(String::from_utf8_lossy(&id).into_owned())
}
