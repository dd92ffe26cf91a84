//! An answer that lasts, over HTTP/1: it takes its connection out of the HTTP server's hands.
//!
//! A stream of changes goes on for an hour and says next to nothing, while the HTTP server keeps some thirty KiB for a
//! connection: what it reads and writes with, and the request. So `visit` leaves such an answer at a [`Handover`] and
//! gives the server its head alone; once that is written, `connection` lets go of the server and has the answer
//! delivered here. It is the last one on its connection, which its head says.
//! HTTP/2 and 3 keep their streams, which share what a connection costs. Specification: RFC 9112 §7.1 and §9.6.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use http::{HeaderValue, Version, header};
use http_body_util::BodyExt as _;
use tokio::io::{self, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::answer::{AnswerBody, Response};

/// An answer without its head.
#[derive(Debug)]
pub(super) struct Lasting {
    body: AnswerBody,
    /// In chunks; without them, the end of the connection is the answer's.
    is_chunked: bool,
}

/// Where the answer that lasts is left, one for each connection.
#[derive(Debug, Default)]
pub(super) struct Handover(Mutex<Option<Lasting>>);

impl Handover {
    /// Leaves the body of an answer to a request of this version. What is given back is for the HTTP server, which
    /// writes the head of it and waits for ever for the rest.
    pub(super) fn leave(&self, answer: Response, version: Version) -> Response {
        let (mut head, body) = answer.into_parts();
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        *self.left() = Some(Lasting { body, is_chunked: version >= Version::HTTP_11 });
        Response::from_parts(head, AnswerBody::elsewhere())
    }

    /// Whether something was left, and all before it is written: what the HTTP server has not written would be lost
    /// with it. Whenever the server has been driven, that is nothing, unless the client does not take it.
    pub(super) fn is_due(&self, is_blocked: &AtomicBool) -> bool {
        !is_blocked.load(Ordering::Relaxed) && self.left().is_some()
    }

    /// What was left.
    pub(super) fn take(&self) -> Option<Lasting> {
        self.left().take()
    }

    fn left(&self) -> MutexGuard<'_, Option<Lasting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lasting {
    /// Sends it, until it ends or the client goes away.
    ///
    /// # Errors
    /// The client cannot be reached any more, or takes nothing.
    pub(super) async fn deliver(&mut self, client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
        loop {
            let next = tokio::select! {
                biased;
                next = self.body.frame() => next,
                () = gone(client) => return Ok(()),
            };
            let Some(Ok(frame)) = next else { break };
            let Ok(data) = frame.into_data() else { continue };
            match self.is_chunked {
                true => {
                    client.write_all(&[format!("{:x}\r\n", data.len()).as_bytes(), &data, b"\r\n"].concat()).await?
                }
                false => client.write_all(&data).await?,
            }
            client.flush().await?;
        }
        if self.is_chunked {
            client.write_all(b"0\r\n\r\n").await?;
        }
        client.shutdown().await
    }
}

/// Returns once the client is gone. It was told that nothing will be read here, so what it sends is not kept.
async fn gone(client: &mut (impl AsyncRead + Unpin)) {
    while let Ok(1..) = client.read(&mut [0; 64]).await {}
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::{
        io::{DuplexStream, duplex},
        sync::mpsc,
    };
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::listener::answer;

    /// An answer to a request of this version that was left here, and what it says.
    fn left(version: Version) -> (mpsc::Sender<Bytes>, Response, Lasting) {
        let (say, events) = mpsc::channel(4);
        let handover = Handover::default();
        let is_due = |is_blocked| handover.is_due(&AtomicBool::new(is_blocked));
        assert!(!is_due(false) && handover.take().is_none());
        let head = handover.leave(answer::lasting(ReceiverStream::new(events)), version);
        assert!(is_due(false) && !is_due(true));
        (say, head, handover.take().unwrap())
    }

    async fn read(client: &mut DuplexStream, bytes: usize) -> String {
        let mut read = vec![0; bytes];
        client.read_exact(&mut read).await.unwrap();
        String::from_utf8(read).unwrap()
    }

    #[tokio::test]
    async fn an_answer_is_sent_as_it_comes_in_the_form_that_the_client_knows() {
        for (version, expected) in [
            (Version::HTTP_11, ["6\r\nevent1\r\n", "10\r\n0123456789abcdef\r\n", "0\r\n\r\n"]),
            (Version::HTTP_10, ["event1", "0123456789abcdef", ""]),
        ] {
            let (say, head, mut lasting) = left(version);
            assert_eq!(head.headers()["connection"], "close");
            let (mut client, mut wire) = duplex(1024);
            let listening = async {
                for (said, expected) in ["event1", "0123456789abcdef"].into_iter().zip(expected) {
                    say.send(Bytes::from(said)).await.unwrap();
                    assert_eq!(read(&mut client, expected.len()).await, expected);
                    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
                }
                drop(say);
                let mut rest = String::new();
                client.read_to_string(&mut rest).await.unwrap();
                assert_eq!(rest, expected[2]);
            };
            let (delivered, ()) = tokio::join!(lasting.deliver(&mut wire), listening);
            delivered.unwrap();
        }
    }

    #[tokio::test]
    async fn an_answer_ends_with_its_client() {
        let (_say, _head, mut lasting) = left(Version::HTTP_11);
        let (client, mut wire) = duplex(1024);
        drop(client);
        lasting.deliver(&mut wire).await.unwrap();
    }

    #[tokio::test]
    async fn the_server_has_a_body_that_never_ends_by_itself() {
        let (_say, head, _lasting) = left(Version::HTTP_11);
        let mut body = head.into_body();
        assert!(!hyper::body::Body::is_end_stream(&body) && futures::poll!(body.frame()).is_pending());
    }
}
