//! Where the browser starts and comes back to: a listener on this machine, for one answer.
//!
//! Made for each sign-in, on a port of its own. A browser that is started gets a way here, with a ticket in it, and is
//! led on to the question: what it is started with, every user of the machine can read. So whoever is another user is
//! shown nothing; where the system does not say who it is (`peer`), the way leads on once, and who asks again ends the
//! sign-in, as somebody else may have been first. Invariants: only a GET of the one path, under the address it was
//! bound to, with the question's state is an answer; everything else gets 404 and changes nothing; after one answer
//! nobody listens. The page says nothing of the answer. Absent: reading it (`question`), how long (`sign_in`).
//! Specification: RFC 8252 §7.3, §8.3.

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bailiwick_token::same_secret;
use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use url::Url;
use zeroize::Zeroizing;

use super::question::{ANSWER_BYTES_MAX, Answer, Question, random};
use crate::{
    fault::Fault,
    peer::{self, Peer},
};

const PATH: &str = "/callback";
/// Before the ticket.
const WAY: &str = "/sign-in/";
/// Connections at a time; a browser opens two or three.
const CONNECTIONS_MAX: usize = 16;
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(10);
/// Room for the head of a request beside the answer in it.
const HEAD_BYTES_MAX: usize = ANSWER_BYTES_MAX + 24 * 1024;
const AGAIN: &str = "the way to the sign-in was asked for twice, so somebody else may have been first: sign in again";
const PAGE: &str = "<!doctype html><meta charset=utf-8><title>Bailiwick</title>\
    <p>Bailiwick has got the answer. You can close this page and go back to where you came from.";

/// A listener.
pub(crate) struct Callback {
    listener: TcpListener,
    address: SocketAddr,
    ticket: Zeroizing<String>,
}

/// What has come so far.
#[derive(Default)]
struct Came {
    is_led_on: bool,
    end: Option<Result<Answer, Fault>>,
}

impl Callback {
    pub(crate) async fn bind() -> Result<Self, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, ticket: random()? })
    }

    /// What leads a browser on to the question.
    pub(crate) fn way(&self) -> Result<Url, Fault> {
        let way = Url::parse(&format!("http://{}{WAY}{}", self.address, *self.ticket));
        way.map_err(|_| Fault::Url("this machine has no address"))
    }

    pub(crate) fn redirect_uri(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// The answer to the question, once the browser has been told that it came; of this user's browser alone, where it
    /// was started here.
    pub(crate) async fn answer(&self, question: &Question, is_own: bool) -> Result<Answer, Fault> {
        let came = Mutex::new(Came::default());
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                    let (stream, _) = accepted?;
                    let peer = peer::of(&stream);
                    if !is_own || peer != Peer::Other {
                        connections.push(self.serve(stream, peer, question, &came));
                    }
                }
                Some(()) = connections.next() => {
                    if let Some(end) = locked(&came).end.take() {
                        return end;
                    }
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, peer: Peer, question: &Question, came: &Mutex<Came>) {
        let service = service_fn(|request: Request<Incoming>| {
            let mut came = locked(came);
            let response = match came.end {
                Some(_) => page(StatusCode::NOT_FOUND, ""),
                None => self.respond(&request, peer, question, &mut came),
            };
            ready(Ok::<_, Infallible>(response))
        });
        let mut builder = http1::Builder::new();
        builder.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
        builder.timer(TokioTimer::new()).header_read_timeout(CONNECTION_WAIT_MAX);
        // What goes wrong with a connection is its browser's to tell.
        drop(timeout(CONNECTION_WAIT_MAX, builder.serve_connection(TokioIo::new(stream), service)).await);
    }

    fn respond<B>(
        &self,
        request: &Request<B>,
        peer: Peer,
        question: &Question,
        came: &mut Came,
    ) -> Response<Full<Bytes>> {
        let nothing = page(StatusCode::NOT_FOUND, "");
        let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
        if host != Some(self.address.to_string().as_bytes()) || request.method() != Method::GET {
            return nothing;
        }
        let (path, query) = (request.uri().path(), request.uri().query());
        let ticket = path.strip_prefix(WAY).unwrap_or_default();
        if same_secret(ticket.as_bytes(), self.ticket.as_bytes()) {
            let is_again = std::mem::replace(&mut came.is_led_on, true);
            if is_again && peer != Peer::Own {
                came.end = Some(Err(Fault::Pasted(AGAIN)));
                return nothing;
            }
            return led_on(question.url()).unwrap_or(nothing);
        }
        let answer = query.filter(|_| path == PATH).and_then(|query| question.answer(query));
        let Some(answer) = answer else { return nothing };
        came.end = Some(Ok(answer));
        page(StatusCode::OK, PAGE)
    }
}

fn locked(came: &Mutex<Came>) -> std::sync::MutexGuard<'_, Came> {
    came.lock().unwrap_or_else(PoisonError::into_inner)
}

fn led_on(url: &Url) -> Option<Response<Full<Bytes>>> {
    let mut response = page(StatusCode::SEE_OTHER, "");
    response.headers_mut().insert(header::LOCATION, HeaderValue::from_str(url.as_str()).ok()?);
    Some(response)
}

fn page(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{discovery::Authority, possession::Offers};

    fn question(redirect_uri: &str) -> Question {
        let url = |path: &str| Url::parse(&format!("https://login.example/{path}")).unwrap();
        let authority = Authority {
            resource: "https://mcp.example/mcp".to_owned(),
            issuer: "https://login.example".to_owned(),
            authorization_endpoint: url("a"),
            token_endpoint: url("t"),
            registration_endpoint: None,
            revocation_endpoint: None,
            names_itself: false,
            scope: None,
            offers: Offers::default(),
        };
        Question::new(&authority, "c", None, None, redirect_uri).unwrap()
    }

    #[tokio::test]
    async fn the_way_leads_on_and_where_nobody_knows_whom_once() {
        for (peer, again) in [(Peer::Own, StatusCode::SEE_OTHER), (Peer::Unknown, StatusCode::NOT_FOUND)] {
            let callback = Callback::bind().await.unwrap();
            let question = question(&callback.redirect_uri());
            let mut came = Came::default();
            let mut visit = |path: &str| {
                let request = Request::get(path).header("host", callback.address.to_string()).body(()).unwrap();
                let response = callback.respond(&request, peer, &question, &mut came);
                let location = response.headers().get(header::LOCATION).map(|at| at.to_str().unwrap().to_owned());
                (response.status(), location)
            };
            let way = callback.way().unwrap();
            assert!(!way.as_str().contains("state"), "{way}");
            for forged in [WAY, "/sign-in", "/sign-in/x", &way.path().to_uppercase()] {
                assert_eq!(visit(forged), (StatusCode::NOT_FOUND, None), "{forged}");
            }
            assert_eq!(visit(way.path()), (StatusCode::SEE_OTHER, Some(question.url().to_string())));
            assert_eq!(visit(way.path()).0, again);
            let is_over = matches!(came.end, Some(Err(Fault::Pasted(_))));
            assert_eq!(is_over, peer == Peer::Unknown, "somebody else may have been first");
        }
    }
}
