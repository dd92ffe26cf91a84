//! The gate in front of every service: who calls, may they, and does this node or the leader carry it out.
//!
//! A tower layer on the gRPC server. It knows the caller from the connection, asks the table in `authorisation`, and
//! hands what only the leader can do on to the leader, with the caller's name beside it; that name counts only from
//! another control plane. Every answer says who leads (`bailiwick-leader`). A request that certainly had no effect
//! (nobody led, or the leader had just changed) is tried again here until its time is up; one whose fate is unknown is
//! answered so, and its sender repeats it under the same request id.
//! Invariant: a request is handed on at most once. Absent: what the methods do.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bailiwick_control_plane_core::{State, member};
use bailiwick_runtime::PeerIdentity;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, request::Parts};
use http_body_util::{BodyExt as _, Full, Limited};
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service, ServiceExt as _};

use crate::{
    authorisation::{self, Method, Place, Who},
    domain::Domain,
    links::{Colleague, Links, never_sent},
    metrics::Metrics,
    status,
};

/// Largest request that is held here to be handed on or tried again: a server's whole tool list, with room.
const BODY_BYTES_MAX: usize = 9 * 1024 * 1024;
/// Largest request of somebody who is no member: a token, a key, a proof and a few names.
const ANONYMOUS_BODY_BYTES_MAX: usize = 16 * 1024;
/// Longest wait for a whole request once it has begun; it is held in memory meanwhile.
const BODY_WAIT_MAX: Duration = Duration::from_secs(30);
/// Longest wait for somebody to lead: a few elections; less if the caller waits less.
const LEADER_WAIT_MAX: Duration = Duration::from_secs(8);
/// Pause before a request that had no effect is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// A leader that hands over still answers what it carried out; one that is paused or cut off does not.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// On every answer: the name of the node that leads, if it is known.
const LEADER_HEADER: &str = "bailiwick-leader";
/// On a request handed on: for whom.
const CALLER_HEADER: &str = "bailiwick-caller";

/// What the gate of one node needs to know.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    pub(crate) domain: Domain,
    pub(crate) links: Links,
    pub(crate) metrics: Metrics,
}

/// A service behind the gate.
#[derive(Clone)]
pub(crate) struct Gated<S> {
    gate: Gate,
    inner: S,
}

impl<S> fmt::Debug for Gated<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gated").finish_non_exhaustive()
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { gate: self.clone(), inner }
    }
}

type Answered = Result<Response<Body>, Infallible>;

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (gate, inner) = (self.gate.clone(), self.inner.clone());
        Box::pin(async move {
            let mut response = gate.pass(inner, request).await.unwrap_or_else(Status::into_http);
            if let Some(name) = gate.leader_name().and_then(|name| HeaderValue::from_str(&name).ok()) {
                response.headers_mut().insert(LEADER_HEADER, name);
            }
            Ok(response)
        })
    }
}

/// Who leads, as seen from here.
enum Leader {
    Here,
    There(Colleague),
    Nobody,
}

/// What became of a request that was handed to the leader.
enum Fate {
    Answered(Response<Body>),
    /// It certainly had no effect.
    Void,
}

impl Gate {
    async fn pass<S>(&self, inner: S, mut request: Request<Body>) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let method = authorisation::find(request.uri().path());
        let method = method.ok_or_else(|| Status::unimplemented("no such method"))?;
        let Caller { peer, node_id, who, handed_on } = caller(&mut request)?;
        self.check_member(&peer, node_id).await.map_err(|status| match status.code() {
            // Its client did nothing wrong, and another control plane will take the request.
            Code::Unauthenticated if handed_on => {
                Status::unavailable("the control plane that was asked has been removed from the cluster; ask another")
            }
            _ => status,
        })?;
        if handed_on {
            self.check_member(&who, None).await?;
        }
        authorise(method, &who)?;
        request.extensions_mut().insert(who.clone());
        match method.place {
            Place::Here => run(inner, request).await,
            Place::Leader => self.at_the_leader(inner, request, &who, handed_on).await,
        }
    }

    /// Refuses whoever was a member and is one no more, whatever its certificate says.
    async fn check_member(&self, who: &Who, node_id: Option<u64>) -> Result<(), Status> {
        let Who::Member { role, name } = who else { return Ok(()) };
        let is_member = |state: &State| {
            let one = state.members.get(name).filter(|one| one.role == *role);
            one.is_some_and(|one| node_id.is_none_or(|id| id == one.node_id))
        };
        // Here it may not be known yet that it joined.
        if self.domain.read(is_member)
            || self.domain.read_latest(is_member).await.map_err(|error| status::of_consensus(&error))?
        {
            return Ok(());
        }
        tracing::warn!(caller = %who, "a caller with a certificate is no member any more");
        Err(Status::unauthenticated("the caller has been removed from the cluster"))
    }

    async fn at_the_leader<S>(
        &self,
        inner: S,
        request: Request<Body>,
        who: &Who,
        handed_on: bool,
    ) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let patience = patience(request.headers());
        let (parts, body) = request.into_parts();
        let bytes_max = if *who == Who::Anonymous { ANONYMOUS_BODY_BYTES_MAX } else { BODY_BYTES_MAX };
        let body = tokio::time::timeout(BODY_WAIT_MAX, Limited::new(body, bytes_max).collect()).await;
        let body = body.map_err(|_| Status::deadline_exceeded("the request never came to its end"))?;
        let until = Instant::now() + patience;
        let body = body.map_err(|_| Status::resource_exhausted("the request is too large, or broke off"))?.to_bytes();
        loop {
            let fate = match self.leader() {
                Leader::Here => {
                    let mut again = rebuilt(&parts, &body);
                    again.extensions_mut().insert(who.clone());
                    let response = run(inner.clone(), again).await?;
                    if status::says_void(response.headers()) { Fate::Void } else { Fate::Answered(response) }
                }
                Leader::There(_) | Leader::Nobody if handed_on => return Err(status::not_leader()),
                Leader::There(leader) => self.hand_on(&leader, rebuilt(&parts, &body), who).await?,
                Leader::Nobody => Fate::Void,
            };
            match fate {
                Fate::Answered(response) => return Ok(response),
                Fate::Void if handed_on || Instant::now() >= until => return Err(status::not_leader()),
                Fate::Void => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Hands a request to the leader and waits for its answer, as long as it leads.
    async fn hand_on(&self, leader: &Colleague, mut request: Request<Body>, who: &Who) -> Result<Fate, Status> {
        let channel = self.links.to(leader).map_err(|error| {
            tracing::error!(leader = %leader.name, %error, "the leader's address or this node's certificate is unusable");
            Status::unavailable("the leader cannot be reached from this node")
        })?;
        let value = HeaderValue::from_str(&who.to_string()).map_err(|_| Status::internal("a name is no header"))?;
        request.headers_mut().insert(CALLER_HEADER, value);
        self.metrics.handed_on();
        let mut leaders = self.domain.consensus().leader();
        let replaced = async {
            drop(leaders.wait_for(|now| now.is_some_and(|now| now != leader.node_id)).await);
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            answer = channel.oneshot(request) => match answer {
                Ok(response) if status::says_void(response.headers()) => Ok(Fate::Void),
                Ok(response) => Ok(Fate::Answered(response)),
                Err(error) if never_sent(&error) => {
                    tracing::debug!(leader = %leader.name, %error, "the leader cannot be reached");
                    self.links.forget(leader.node_id);
                    Ok(Fate::Void)
                }
                Err(error) => {
                    tracing::warn!(leader = %leader.name, %error, "the leader's answer was lost");
                    self.links.forget(leader.node_id);
                    Err(status::outcome_unknown())
                }
            },
            () = replaced => {
                self.links.forget(leader.node_id);
                Err(status::outcome_unknown())
            }
        }
    }

    fn leader(&self) -> Leader {
        let consensus = self.domain.consensus();
        let Some(leader) = *consensus.leader().borrow() else { return Leader::Nobody };
        if leader == consensus.node_id() {
            return Leader::Here;
        }
        // Consensus knows addresses before the state does, on a node that has just joined.
        consensus.membership().get(leader).map_or(Leader::Nobody, |member| {
            Leader::There(Colleague { node_id: leader, name: member.name.clone(), api: member.api.clone() })
        })
    }

    fn leader_name(&self) -> Option<String> {
        let consensus = self.domain.consensus();
        let leader = (*consensus.leader().borrow())?;
        let of_state = self.domain.read(|state| {
            member::control_planes(state).find(|(_, one)| one.node_id == leader).map(|(name, _)| name.to_owned())
        });
        of_state.or_else(|| consensus.membership().get(leader).map(|member| member.name.clone()))
    }
}

/// Who calls.
#[derive(Debug, PartialEq, Eq)]
struct Caller {
    /// At the other end of the connection.
    peer: Who,
    /// Its node id, where it is a control plane.
    node_id: Option<u64>,
    /// Who asks.
    who: Who,
    /// Another control plane hands the request on.
    handed_on: bool,
}

/// Refuses whoever may not call this method.
fn authorise(method: &Method, who: &Who) -> Result<(), Status> {
    if method.is_open_to(who) {
        return Ok(());
    }
    tracing::warn!(caller = %who, method = method.path, "a call is refused");
    Err(match who {
        Who::Anonymous => Status::unauthenticated("this needs a certificate of the cluster: enrol first"),
        Who::Loopback | Who::Member { .. } => Status::permission_denied("this caller may not call this method"),
    })
}

fn caller(request: &mut Request<Body>) -> Result<Caller, Status> {
    let connection = request.extensions().get::<PeerIdentity>();
    let peer = Who::of(connection);
    let node_id = connection.and_then(|connection| match connection {
        PeerIdentity::Node { node_id, .. } => *node_id,
        PeerIdentity::Loopback | PeerIdentity::Anonymous => None,
    });
    let Some(said) = request.headers_mut().remove(CALLER_HEADER) else {
        return Ok(Caller { who: peer.clone(), peer, node_id, handed_on: false });
    };
    if !matches!(&peer, Who::Member { role: member::Role::ControlPlane, .. }) {
        return Err(Status::permission_denied("only control planes hand requests on"));
    }
    let who = said.to_str().ok().and_then(Who::parse);
    let who = who.ok_or_else(|| Status::invalid_argument("the caller's name cannot be read"))?;
    Ok(Caller { peer, node_id, who, handed_on: true })
}

/// How long the caller waits at most (gRPC over HTTP/2: `grpc-timeout`), within our own bound.
fn patience(headers: &HeaderMap) -> Duration {
    let text = headers.get("grpc-timeout").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let unit = text.chars().next_back();
    let amount = text.get(..text.len().saturating_sub(1)).and_then(|digits| digits.parse::<u64>().ok());
    let wanted = amount.zip(unit).and_then(|(amount, unit)| {
        Some(match unit {
            'H' => Duration::from_secs(amount.saturating_mul(3600)),
            'M' => Duration::from_secs(amount.saturating_mul(60)),
            'S' => Duration::from_secs(amount),
            'm' => Duration::from_millis(amount),
            'u' => Duration::from_micros(amount),
            'n' => Duration::from_nanos(amount),
            _ => return None,
        })
    });
    wanted.map_or(LEADER_WAIT_MAX, |wanted| wanted.min(LEADER_WAIT_MAX))
}

fn rebuilt(parts: &Parts, body: &Bytes) -> Request<Body> {
    let mut request = Request::new(Body::new(Full::new(body.clone())));
    *request.method_mut() = parts.method.clone();
    *request.uri_mut() = parts.uri.clone();
    *request.version_mut() = parts.version;
    *request.headers_mut() = parts.headers.clone();
    request
}

async fn run<S>(inner: S, request: Request<Body>) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let Ok(response) = inner.oneshot(request).await;
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(peer: Option<PeerIdentity>, said: Option<&str>) -> Request<Body> {
        let mut request = Request::new(Body::empty());
        request.extensions_mut().extend(
            peer.map(|peer| {
                let mut extensions = http::Extensions::new();
                extensions.insert(peer);
                extensions
            })
            .unwrap_or_default(),
        );
        if let Some(said) = said {
            request.headers_mut().insert(CALLER_HEADER, said.parse().unwrap());
        }
        request
    }

    fn node(role: bailiwick_runtime::identity::Role) -> Option<PeerIdentity> {
        Some(PeerIdentity::Node { role, name: "n".into(), node_id: None })
    }

    #[test]
    fn only_a_control_plane_is_believed_about_somebody_else() {
        use bailiwick_runtime::identity::Role;
        let of = |peer, said| caller(&mut request(peer, said)).map(|caller| (caller.who, caller.handed_on));
        assert_eq!(of(Some(PeerIdentity::Loopback), None).unwrap(), (Who::Loopback, false));
        assert_eq!(of(None, None).unwrap(), (Who::Anonymous, false));
        let handed_on = of(node(Role::ControlPlane), Some("admin/jo")).unwrap();
        assert_eq!(handed_on, (Who::parse("admin/jo").unwrap(), true));
        for peer in [Some(PeerIdentity::Loopback), Some(PeerIdentity::Anonymous), node(Role::Admin), node(Role::Ledger)]
        {
            assert!(of(peer, Some("admin/jo")).is_err());
        }
        assert!(of(node(Role::ControlPlane), Some("root")).is_err());
    }

    #[test]
    fn nobody_waits_longer_for_a_leader_than_the_caller_does() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            patience(&headers)
        };
        assert_eq!(of("250m"), Duration::from_millis(250));
        assert_eq!(of("2S"), Duration::from_secs(2));
        for text in ["1H", "99999999H", "", "x", "S", "5"] {
            assert_eq!(of(text), LEADER_WAIT_MAX, "{text}");
        }
        assert_eq!(patience(&HeaderMap::new()), LEADER_WAIT_MAX);
    }
}
