//! A request's way in and its answer's way out: limits, guard, routes; room for the answer, and the end of the visit.
//!
//! Called by `connection` for each request of any HTTP version. There are two places to go, so they are told apart here
//! and not by a router: an MCP endpoint (`endpoint`) and the metadata of resources (`metadata`). Once the node drains,
//! every answer tells its client to come back elsewhere.
//! Specification: RFC 9112 §3.2 and §9.6; RFC 9113 §6.8; RFC 7838 (`Alt-Svc`).

use std::{net::IpAddr, sync::Arc, time::Instant};

use bailiwick_proto::Reason;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header};

use super::{
    Gateway, HEADERS_MAX,
    answer::{self, Response},
    body::RequestBody,
    cors,
    delivery::Owing,
    endpoint::{self, Head},
    guard::Turned,
    metadata,
    places::{Asked, Control, Places},
    room::SMALL_BYTES_MAX,
};

/// Where MCP endpoints lie; what follows is a virtual server's name. Names have no letters that would be escaped, so
/// one that is written with escapes is the name of none.
const ENDPOINTS: &str = "/mcp/";

/// What the requests of one connection have in common.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) gateway: Arc<Gateway>,
    pub(super) places: Arc<Places>,
    pub(super) control: Arc<Control>,
    pub(super) owing: Owing,
    /// Where the client is, as far as that is known.
    pub(super) client: IpAddr,
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
        answer
    }

    async fn let_in(
        &self,
        method: &Method,
        uri: &Uri,
        (version, headers, arrived): (Version, &HeaderMap, Instant),
        body: RequestBody,
    ) -> Response {
        let origin = headers.get(header::ORIGIN);
        if let Err(refusal) = self.check(uri, headers, origin) {
            return refusal;
        }
        if !self.gateway.has_started() {
            Box::pin(self.gateway.start()).await;
        }
        let mut answer = match cors::preflight(method, headers) {
            Some(answer) => answer,
            None => match uri.path().strip_prefix(ENDPOINTS) {
                Some(virtual_server) if !virtual_server.is_empty() && !virtual_server.contains('/') => {
                    let head = Head { virtual_server, version, headers, arrived };
                    endpoint::handle(self, method, head, body).await
                }
                _ => metadata::answer(&self.gateway, method, uri.path()),
            },
        };
        if let Some(origin) = origin {
            cors::allow(&mut answer, origin.clone());
        }
        answer
    }

    /// Whether the request may come in at all.
    fn check(&self, uri: &Uri, headers: &HeaderMap, origin: Option<&HeaderValue>) -> Result<(), Response> {
        // With two of them, the one that is checked need not be the one that counts (RFC 9112 §3.2).
        if [header::HOST, header::ORIGIN].iter().any(|name| headers.get_all(name).iter().nth(1).is_some()) {
            return Err(answer::text(StatusCode::BAD_REQUEST, "a header that may stand once is repeated\n"));
        }
        let guard = &self.gateway.guard;
        if origin.is_none() && !guard.bound_to_loopback {
            return Ok(());
        }
        let config = self.gateway.state.config();
        let mcp_url = config.as_ref().and_then(|config| config.issuer.as_ref()).map(|issuer| issuer.mcp_url.as_str());
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = uri.authority().map(http::uri::Authority::as_str).or(host);
        guard.check(origin.map(HeaderValue::as_bytes), host, mcp_url).map_err(|turned| {
            let message = match turned {
                Turned::Origin => "this origin may not call this gateway\n",
                Turned::Host => "this gateway is not known under this host name\n",
            };
            tracing::debug!(?turned, client = %self.client, "a request was turned away");
            answer::text(StatusCode::FORBIDDEN, message)
        })
    }
}
