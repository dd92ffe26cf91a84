//! A connection to a target, and one call over it, told apart by how it ended.
//!
//! A connection that the other side closed between two calls is opened again without a word: that is its right. A call
//! that was sent and got no good answer counts, as refused (there is a JSON-RPC or HTTP error) or as failed (there is
//! no answer to speak of). With HTTP/2 several callers share one connection.

use std::{cell::RefCell, rc::Rc};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
    rt::Executor,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Mutex,
    task::spawn_local,
    time::timeout,
};

use super::{
    possession::DPOP_NONCE,
    target::{CALL_WAIT_MAX, Era, Http, SESSION_HEADER, SoFar, Target},
};

/// More than any answer that is measured.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Why a call did not bring a result.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// The other side answered an error.
    Refused(String),
    /// It did not answer, or not HTTP.
    Failed(String),
}

/// A connection that is opened when it is needed.
#[derive(Debug)]
pub(crate) struct Connection {
    target: Rc<Target>,
    sender: Mutex<Option<Sender>>,
    session: RefCell<Option<HeaderValue>>,
    /// What was handed out last for the next DPoP proof.
    nonce: RefCell<Option<String>>,
}

#[derive(Debug)]
enum Sender {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

/// Runs what HTTP/2 does beside, on the thread of the connection.
#[derive(Clone, Copy, Debug)]
struct OnThisThread;

impl<F: Future + 'static> Executor<F> for OnThisThread {
    fn execute(&self, future: F) {
        spawn_local(async {
            future.await;
        });
    }
}

impl Connection {
    pub(crate) fn new(target: Rc<Target>) -> Self {
        Self { target, sender: Mutex::new(None), session: RefCell::default(), nonce: RefCell::default() }
    }

    /// Connects and, in the legacy era, opens a session.
    pub(crate) async fn open(&self) -> Result<()> {
        let mut sender = self.sender.lock().await;
        if sender.is_none() {
            *sender = Some(connect(&self.target).await?);
        }
        drop(sender);
        if self.target.needs_nonce() && self.nonce.borrow().is_none() {
            let first = self.asking(|so_far| self.target.call(0, so_far))?;
            self.exchange(first).await.context("the first nonce")?;
            ensure!(self.nonce.borrow().is_some(), "the other side hands out no DPoP-Nonce");
        }
        if self.target.era == Era::Legacy && self.session.borrow().is_none() {
            let initialize = self.asking(|so_far| self.target.initialize(so_far))?;
            let (head, _) = self.exchange(initialize).await.context("initialize")?;
            let Some(session) = head.headers().get(SESSION_HEADER).cloned() else {
                // A server may have no sessions: then every request stands alone.
                return Ok(());
            };
            *self.session.borrow_mut() = Some(session);
            let initialized = self.asking(|so_far| self.target.initialized(so_far))?;
            self.exchange(initialized).await.context("notifications/initialized")?;
        }
        Ok(())
    }

    /// A request, with what is known so far.
    fn asking<T>(&self, make: impl FnOnce(SoFar<'_>) -> T) -> T {
        let (session, nonce) = (self.session.borrow(), self.nonce.borrow());
        make(SoFar { session: session.as_ref(), nonce: nonce.as_deref() })
    }

    /// One call, which should bring a result.
    pub(crate) async fn call(&self, id: u64) -> Result<(), Unanswered> {
        let exchanged = async { self.exchange(self.asking(|so_far| self.target.call(id, so_far))?).await };
        let (head, body) = exchanged.await.map_err(|error| Unanswered::Failed(format!("{error:#}")))?;
        if head.status() == StatusCode::OK && is_result(&body) {
            return Ok(());
        }
        let mut text = String::from_utf8_lossy(&body).into_owned();
        text.truncate(text.floor_char_boundary(500));
        Err(Unanswered::Refused(format!("{}: {text}", head.status())))
    }

    /// Opens the stream of a legacy session; it lasts as long as what comes back is kept.
    pub(crate) async fn listen(&self) -> Result<Incoming> {
        let request = self.asking(|so_far| self.target.listen(so_far))?;
        let mut held = self.sender.lock().await;
        let answer = match held.as_mut().context("no connection")? {
            Sender::One(sender) => timeout(CALL_WAIT_MAX, sender.send_request(request)).await,
            Sender::Two(sender) => timeout(CALL_WAIT_MAX, sender.send_request(request)).await,
        };
        let answer = answer.context("no answer in time")??;
        if answer.status() != StatusCode::OK {
            let (head, body) = read(answer).await?;
            bail!("{}: {}", head.status(), String::from_utf8_lossy(&body));
        }
        Ok(answer.into_body())
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(Response<()>, Bytes)> {
        match timeout(CALL_WAIT_MAX, self.exchange_unbounded(request)).await {
            Ok(answered) => {
                if let Ok((head, _)) = &answered
                    && let Some(nonce) = head.headers().get(DPOP_NONCE)
                {
                    *self.nonce.borrow_mut() = nonce.to_str().ok().map(str::to_owned);
                }
                answered
            }
            Err(_) => {
                *self.sender.lock().await = None;
                bail!("no answer in {} s", CALL_WAIT_MAX.as_secs())
            }
        }
    }

    async fn exchange_unbounded(&self, request: Request<Full<Bytes>>) -> Result<(Response<()>, Bytes)> {
        let mut held = self.sender.lock().await;
        let ready = match held.as_mut() {
            Some(sender) => sender.is_ready().await,
            None => false,
        };
        if !ready {
            *held = Some(connect(&self.target).await?);
        }
        let answer = match held.as_mut().context("no connection")? {
            Sender::One(sender) => {
                // Over HTTP/1.1 the connection is this call's until the answer has been read.
                let answer = sender.send_request(request).await;
                let read = match answer {
                    Ok(answer) => read(answer).await,
                    Err(error) => Err(error.into()),
                };
                if read.is_err() {
                    *held = None;
                }
                return read;
            }
            Sender::Two(sender) => sender.clone().send_request(request),
        };
        drop(held);
        read(answer.await?).await
    }
}

impl Sender {
    /// Whether a request can be sent, and not: whether the other side has closed the connection.
    async fn is_ready(&mut self) -> bool {
        match self {
            Self::One(sender) => sender.ready().await.is_ok(),
            Self::Two(sender) => sender.ready().await.is_ok(),
        }
    }
}

async fn connect(target: &Target) -> Result<Sender> {
    let stream = timeout(CALL_WAIT_MAX, TcpStream::connect(&target.address)).await;
    let stream =
        stream.context("no connection in time")?.with_context(|| format!("cannot reach {}", target.address))?;
    stream.set_nodelay(true)?;
    match &target.secure {
        None => shake_hands(stream, target.http).await,
        Some(secure) => {
            let stream = timeout(CALL_WAIT_MAX, secure.connect(stream)).await;
            shake_hands(stream.context("no TLS in time")??, target.http).await
        }
    }
}

async fn shake_hands<S>(stream: S, http: Http) -> Result<Sender>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let stream = TokioIo::new(stream);
    Ok(match http {
        Http::One => {
            let (sender, connection) = http1::handshake(stream).await?;
            spawn_local(connection);
            Sender::One(sender)
        }
        Http::Two => {
            let mut two = http2::Builder::new(OnThisThread);
            let (sender, connection) = two.timer(TokioTimer::new()).handshake(stream).await?;
            spawn_local(connection);
            Sender::Two(sender)
        }
    })
}

async fn read(answer: Response<Incoming>) -> Result<(Response<()>, Bytes)> {
    let (head, body) = answer.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    Ok((Response::from_parts(head, ()), body.to_bytes()))
}

/// Whether an answer, JSON or an event stream, holds a result that is no tool's error. Cheap: servers print the members
/// without spaces or with one.
fn is_result(body: &[u8]) -> bool {
    let holds = |wanted: &[u8]| body.windows(wanted.len()).any(|window| window == wanted);
    holds(b"\"result\":") && !holds(b"\"isError\":true") && !holds(b"\"isError\": true")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_result_without_a_tools_error_is_good() {
        assert!(is_result(br#"{"jsonrpc":"2.0","id":1,"result":{"isError":false}}"#));
        assert!(is_result(b"event: message\ndata: {\"result\": {}}\n\n"));
        assert!(!is_result(br#"{"jsonrpc":"2.0","id":1,"result":{"isError":true}}"#));
        assert!(!is_result(br#"{"jsonrpc":"2.0","id":1,"error":{"code":403}}"#));
    }
}
