//! Whether a request is the one that its sender made a proof of; and nonces for the next proofs.
//!
//! Called by `endpoint`: to take a request's body in before anybody looks at what it says, and for every answer to a
//! client that speaks DPoP. Until a sender has shown that the token is theirs, nothing is held in the person's name but
//! in that of where it came from: whoever has the token alone must not be able to take the person's room. A refusal is
//! answered and recorded like that of a token. Absent: what a proof is (`auth::possession`).
//! Specification: RFC 9449 §8.2 and §9.

use std::{sync::Arc, time::Duration};

use bailiwick_proto::Reason;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{
    super::{
        Gateway,
        answer::Response,
        body::{self, RequestBody},
        room::{CallerKey, Taken},
        visit::Visit,
    },
    Head,
    asking::{Shown, ask, record_refused, refuse},
    body_refused, unread,
};
use crate::{
    auth::possession::{DPOP, Sent, speaks_dpop},
    calls::{Asked, Calls},
};

/// Where a client finds the nonce for its next proof.
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");
/// A body that is there so soon came with its head: under the same configuration, nothing that counts has changed.
const AT_ONCE: Duration = Duration::from_millis(20);

/// A request whose sender has shown all there is to show.
pub(super) struct TakenIn {
    pub(super) asked: Asked,
    pub(super) caller: CallerKey,
    pub(super) body: Bytes,
    /// What the body takes up.
    pub(super) room: Taken,
}

/// Takes a POST's body in, and uses its proof up; or the refusal to send.
pub(super) async fn take_in(
    visit: &Visit,
    calls: &Calls,
    head: Head<'_>,
    request_id: &str,
    body: RequestBody,
) -> Result<TakenIn, Box<Response>> {
    let (gateway, request) = (&visit.gateway, (&Method::POST, head));
    let Head { virtual_server, version, headers, arrived, .. } = head;
    let (asked, shown) = match ask(visit, calls, request, request_id).await {
        Ok(known) => known,
        Err(refusal) => return Err(Box::new(Box::pin(unread(*refusal, body, version)).await)),
    };
    let caller = gateway.caller_key(&asked.caller);
    let whose = match shown.is_proven() {
        true => {
            visit.control().is_of(caller);
            caller
        }
        false => gateway.unproven_key(visit.client, &asked.caller),
    };
    let refused = async |asked: &Asked, may_fill: bool, reason: Reason| {
        if may_fill {
            Box::pin(record_refused(calls, asked, virtual_server, reason)).await;
        }
        gateway.metrics.refused(reason);
        Box::new(body_refused(reason, &asked.request_id, version))
    };
    let (body, mut room) = match body::read(headers, body, &gateway.body_room, (whose, arrived)).await {
        Ok(read) => read,
        Err(reason) => return Err(refused(&asked, shown.may_fill(gateway), reason).await),
    };
    // A body may come slowly; what was revoked or has expired meanwhile counts.
    let now = gateway.state.config();
    let is_in_force = now.is_some_and(|now| Arc::ptr_eq(&now.contents, &asked.config.contents));
    let (asked, shown) = match is_in_force && arrived.elapsed() < AT_ONCE {
        true => (asked, shown),
        false => Box::pin(ask(visit, calls, request, request_id)).await?,
    };
    prove(visit, calls, (&asked, &shown), request, &body).await?;
    visit.control().is_of(caller);
    if room.pass_to(caller).is_err() {
        return Err(refused(&asked, true, Reason::NodeOverloaded).await);
    }
    Ok(TakenIn { asked, caller, body, room })
}

/// Uses up the proof of this very request; or the refusal to send.
pub(super) async fn prove(
    visit: &Visit,
    calls: &Calls,
    (asked, shown): (&Asked, &Shown),
    (method, head): (&Method, Head<'_>),
    body: &[u8],
) -> Result<(), Box<Response>> {
    let gateway = &visit.gateway;
    let virtual_server = head.virtual_server;
    let sent = Sent { method: method.as_str(), body };
    let Err(why) = gateway.proofs.use_up(&shown.pending, &shown.authentic, &sent) else { return Ok(()) };
    let refused = shown.authentic.unproven(why);
    Err(Box::new(Box::pin(refuse(visit, calls, asked, virtual_server, refused)).await))
}

/// Gives a client that speaks DPoP a nonce, where it has none that lasts.
pub(super) fn renew_nonce(gateway: &Gateway, headers: &HeaderMap, response: &mut Response) {
    if !speaks_dpop(headers) {
        return;
    }
    let is_refused = response.status() == StatusCode::UNAUTHORIZED;
    let proof = headers.get(DPOP).and_then(|proof| proof.to_str().ok());
    if !is_refused && proof.is_some_and(|proof| gateway.proofs.has_time(proof)) {
        return;
    }
    let nonce = gateway.proofs.nonce().and_then(|nonce| HeaderValue::try_from(nonce).ok());
    if let Some(nonce) = nonce {
        response.headers_mut().insert(DPOP_NONCE, nonce);
    }
}
