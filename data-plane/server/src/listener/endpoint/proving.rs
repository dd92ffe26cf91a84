//! Whether a request is the one that its sender made a proof of; and nonces for the next proofs.
//!
//! Called by `endpoint`: once a request's body is there and before anybody looks at what it says, and for every answer
//! to a client that speaks DPoP. A refusal is answered and recorded like that of a token. Absent: what a proof is
//! (`auth::possession`). Specification: RFC 9449 §8.2 and §9.

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::{
    super::{Gateway, answer::Response, visit::Visit},
    Head,
    asking::{Shown, refuse},
};
use crate::{
    auth::possession::{DPOP, Sent, speaks_dpop},
    calls::{Asked, Calls},
};

/// Where a client finds the nonce for its next proof.
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Uses up the proof of this very request; or the refusal to send.
pub(super) async fn prove(
    visit: &Visit,
    calls: &Calls,
    (asked, shown): (&Asked, &Shown),
    (method, head): (&Method, Head<'_>),
    body: &[u8],
) -> Result<(), Box<Response>> {
    let gateway = &visit.gateway;
    let Head { virtual_server, headers, .. } = head;
    let local_host = head.host.filter(|_| gateway.guard.bound_to_loopback);
    let sent = Sent { method: method.as_str(), headers, body, local_host };
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
