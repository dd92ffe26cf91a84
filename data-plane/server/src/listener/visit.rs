//! A request's way in and its answer's way out: limits, guard, routes; room for the answer, and the end of the visit.
//!
//! Called by `connection` for each request of any HTTP version. There are three places to go, so they are told apart
//! here and not by a router: an MCP endpoint (`endpoint`), decisions for services (`decisions`) and the metadata of
//! resources (`metadata`). Once the node drains,
//! every answer tells its client to come back elsewhere.
//! Specification: RFC 9112 §3.2 and §9.6; RFC 9113 §6.8; RFC 7838 (`Alt-Svc`).

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::Instant};

use bailiwick_proto::Reason;
use bailiwick_token::Thumbprint;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};

use super::{
    Gateway, HEADERS_MAX,
    answer::{self, Response},
    body::RequestBody,
    cors,
    decisions::{self, Wish},
    delivery::Owing,
    endpoint::{self, Head},
    guard::Turned,
    lasting::Handover,
    metadata,
    places::{Asked, Control, Places},
    room::SMALL_BYTES_MAX,
};

/// Where MCP endpoints lie; what follows is a virtual server's name.
const ENDPOINTS: &str = "/mcp/";

/// What the requests of one connection have in common.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) gateway: Arc<Gateway>,
    pub(super) places: Arc<Places>,
    pub(super) control: Arc<Control>,
    pub(super) owing: Owing,
    pub(super) handover: Handover,
    /// Where the client is, as far as that is known.
    pub(super) client: IpAddr,
    /// The certificate it has shown, by its thumbprint.
    pub(super) certificate: Option<Thumbprint>,
    /// Where else it may ask.
    pub(super) alternative: Option<HeaderValue>,
}

impl Visit {
    pub(super) fn control(&self) -> &Control {
        &self.control
    }

    /// Answers, and sees to it that the answer is either taken or given up.
    pub(super) async fn answer(&self, request: Request<RequestBody>) -> Response {
        let (head, body) = request.into_parts();
        let (arrived, is_shared) = (Instant::now(), head.version >= Version::HTTP_2);
        let busy = self.control.begin(self.places.at(arrived), is_shared);
        let mut answer = match head.headers.len() > HEADERS_MAX {
            true => answer::text(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "too many headers\n"),
            false => self.let_in(&head.method, &head.uri, (head.version, &head.headers, arrived), body).await,
        };
        let owing = Some(&self.owing).filter(|_| is_shared);
        let body = answer.body();
        let (bytes, goes_on, caller) = (body.len(), body.goes_on(), body.caller);
        if bytes > SMALL_BYTES_MAX || goes_on || owing.is_some() {
            let mut room = (bytes > SMALL_BYTES_MAX).then(|| self.gateway.answer_room.enter(caller));
            if room.as_mut().is_some_and(|room| room.grow(bytes).is_err()) {
                self.gateway.metrics.refused(Reason::NodeOverloaded);
                answer = endpoint::no_room();
                room = None;
            }
            answer = answer.map(|body| body.delivered(room, Some(busy), owing));
        }
        if let Some(alternative) = &self.alternative {
            answer.headers_mut().insert(header::ALT_SVC, alternative.clone());
        }
        if self.places.is_draining() {
            match is_shared {
                // The protocol tells the client; streams it has opened go on.
                true => self.control.ask(Asked::Finish),
                false => drop(answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"))),
            }
        }
        match answer.body().lasts() && !is_shared {
            true => self.handover.leave(answer, head.version),
            false => answer,
        }
    }

    async fn let_in(
        &self,
        method: &Method,
        uri: &Uri,
        (version, headers, arrived): (Version, &HeaderMap, Instant),
        body: RequestBody,
    ) -> Response {
        let origin = headers.get(header::ORIGIN);
        if let Some(refusal) = self.turned_away(uri, headers, origin) {
            return refusal;
        }
        if !self.gateway.has_started() {
            Box::pin(self.gateway.start()).await;
        }
        let mut answer = match cors::preflight(method, headers) {
            Some(answer) => answer,
            None => match uri.path().strip_prefix(ENDPOINTS) {
                Some(virtual_server) if !virtual_server.is_empty() && !virtual_server.contains('/') => {
                    let Some(virtual_server) = unescaped(virtual_server) else {
                        return answer::text(StatusCode::BAD_REQUEST, "the path is not UTF-8\n");
                    };
                    let head = Head { virtual_server: &virtual_server, version, headers, arrived };
                    endpoint::handle(self, method, head, body).await
                }
                _ => match Wish::of(uri.path()) {
                    Some(wish) => {
                        let head = decisions::Head { method, path: uri.path(), version, headers, arrived };
                        Box::pin(decisions::handle(self, wish, head, body)).await
                    }
                    None => metadata::answer(&self.gateway, method, uri.path()),
                },
            },
        };
        if let Some(origin) = origin {
            cors::allow(&mut answer, origin.clone());
        }
        answer
    }

    /// What a request gets that may not come in at all.
    fn turned_away(&self, uri: &Uri, headers: &HeaderMap, origin: Option<&HeaderValue>) -> Option<Response> {
        // With two of them, the one that is checked need not be the one that counts (RFC 9112 §3.2).
        if [header::HOST, header::ORIGIN].iter().any(|name| headers.get_all(name).iter().nth(1).is_some()) {
            return Some(answer::text(StatusCode::BAD_REQUEST, "a header that may stand once is repeated\n"));
        }
        let guard = &self.gateway.guard;
        if origin.is_none() && !guard.bound_to_loopback {
            return None;
        }
        let config = self.gateway.state.config();
        let mcp_url = config.as_ref().and_then(|config| config.issuer.as_ref()).map(|issuer| issuer.mcp_url.as_str());
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = uri.authority().map(http::uri::Authority::as_str).or(host);
        let turned = guard.check(origin.map(HeaderValue::as_bytes), host, mcp_url).err()?;
        let message = match turned {
            Turned::Origin => "this origin may not call this gateway\n",
            Turned::Host => "this gateway is not known under this host name\n",
        };
        tracing::debug!(?turned, client = %self.client, "a request was turned away");
        Some(answer::text(StatusCode::FORBIDDEN, message))
    }
}

/// A part of a path as it was meant. `None` if it is no text. What is no escape stands for itself (RFC 3986 §2.1).
fn unescaped(part: &str) -> Option<Cow<'_, str>> {
    let Some((plain, escaped)) = part.split_once('%') else { return Some(Cow::Borrowed(part)) };
    let mut bytes = plain.as_bytes().to_vec();
    for piece in escaped.split('%') {
        let value = piece.get(..2).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match value.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(piece.get(2..).unwrap_or_default().as_bytes());
            }
            None => {
                bytes.push(b'%');
                bytes.extend_from_slice(piece.as_bytes());
            }
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_the_meaning_that_its_escapes_have() {
        for (part, expected) in [
            ("finance", Some("finance")),
            ("f%69nance", Some("finance")),
            ("%66%69", Some("fi")),
            ("a%2Fb", Some("a/b")),
            ("%c3%a4", Some("ä")),
            ("%ff", None),
            ("%", Some("%")),
            ("a%2", Some("a%2")),
            ("%+1", Some("%+1")),
            ("%zz%41", Some("%zzA")),
        ] {
            assert_eq!(unescaped(part).as_deref(), expected, "{part}");
        }
    }
}
