//! Where the browser comes back to: a listener on this machine, for one answer.
//!
//! Made for each sign-in, on a port of its own. Invariants: only a GET of the one path, under the address it was bound
//! to, with the question's state is an answer; everything else gets 404 and changes nothing; after one answer nobody
//! listens. The page says nothing of the answer. Absent: reading it (`question`), how long (`sign_in`).
//! Specification: RFC 8252 §7.3, §8.3.

use std::{
    convert::Infallible,
    future::ready,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

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

use super::question::{ANSWER_BYTES_MAX, Answer, Question};
use crate::fault::Fault;

const PATH: &str = "/callback";
/// Connections at a time; a browser opens two or three.
const CONNECTIONS_MAX: usize = 16;
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(10);
/// Room for the head of a request beside the answer in it.
const HEAD_BYTES_MAX: usize = ANSWER_BYTES_MAX + 24 * 1024;
const PAGE: &str = "<!doctype html><meta charset=utf-8><title>Bailiwick</title>\
    <p>Bailiwick has got the answer. You can close this page and go back to where you came from.";

/// A listener.
pub(crate) struct Callback {
    listener: TcpListener,
    address: SocketAddr,
}

impl Callback {
    pub(crate) async fn bind() -> Result<Self, Fault> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(crate) fn redirect_uri(&self) -> String {
        format!("http://{}{PATH}", self.address)
    }

    /// The answer to the question, once the browser has been told that it came.
    pub(crate) async fn answer(&self, question: &Question) -> Result<Answer, Fault> {
        let answered = Mutex::new(None);
        let mut connections = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                    let (stream, _) = accepted?;
                    connections.push(self.serve(stream, question, &answered));
                }
                Some(()) = connections.next() => {
                    if let Some(answer) = taken(&answered).take() {
                        return Ok(answer);
                    }
                }
            }
        }
    }

    async fn serve(&self, stream: TcpStream, question: &Question, answered: &Mutex<Option<Answer>>) {
        let service = service_fn(|request: Request<Incoming>| {
            let mut place = taken(answered);
            let answer = self.read(&request, question).filter(|_| place.is_none());
            let response = page(answer.is_some());
            if answer.is_some() {
                *place = answer;
            }
            ready(Ok::<_, Infallible>(response))
        });
        let mut builder = http1::Builder::new();
        builder.keep_alive(false).max_buf_size(HEAD_BYTES_MAX);
        builder.timer(TokioTimer::new()).header_read_timeout(CONNECTION_WAIT_MAX);
        // What goes wrong with a connection is its browser's to tell.
        drop(timeout(CONNECTION_WAIT_MAX, builder.serve_connection(TokioIo::new(stream), service)).await);
    }

    fn read(&self, request: &Request<Incoming>, question: &Question) -> Option<Answer> {
        let host = request.headers().get(header::HOST).map(HeaderValue::as_bytes);
        let is_here = host == Some(self.address.to_string().as_bytes());
        if !is_here || request.method() != Method::GET || request.uri().path() != PATH {
            return None;
        }
        question.answer(request.uri().query()?)
    }
}

fn taken(answered: &Mutex<Option<Answer>>) -> std::sync::MutexGuard<'_, Option<Answer>> {
    answered.lock().unwrap_or_else(PoisonError::into_inner)
}

fn page(is_answer: bool) -> Response<Full<Bytes>> {
    let (status, body) = if is_answer { (StatusCode::OK, PAGE) } else { (StatusCode::NOT_FOUND, "") };
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
