//! A client's connection with an end to patience: whoever sends no request or takes no answer is let go.
//!
//! Wrapped around every accepted stream by `listener`. The HTTP server bounds the wait for header lines, but only once
//! it knows which HTTP is spoken, and it never bounds how long a client may leave an answer unread; without these two
//! limits silent clients could hold every connection for ever. Reading is limited until the first bytes are there,
//! which are fewer than the shortest request that can be served. A slow call keeps its connection: only a client that
//! blocks this side is let go.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

/// Bytes that tell which HTTP is spoken: the preface of HTTP/2.
const OPENING_BYTES: usize = 24;

/// See the file's header.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    /// Until the opening is complete: when patience ends, and how many bytes are there.
    opening: Option<(Pin<Box<Sleep>>, usize)>,
    /// While the client takes nothing: when patience ends.
    blocked: Option<Pin<Box<Sleep>>>,
    unread_wait_max: Duration,
}

impl<S> Patient<S> {
    /// Waits at most `opening_wait_max` for the opening, and `unread_wait_max` for a client that takes nothing.
    pub(super) fn new(stream: S, opening_wait_max: Duration, unread_wait_max: Duration) -> Self {
        Self { stream, opening: Some((Box::pin(sleep(opening_wait_max)), 0)), blocked: None, unread_wait_max }
    }

    /// Looks at an attempt to write.
    fn wrote<T>(&mut self, context: &mut Context<'_>, attempt: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if attempt.is_ready() {
            self.blocked = None;
            return attempt;
        }
        let wait = self.unread_wait_max;
        let end = self.blocked.get_or_insert_with(|| Box::pin(sleep(wait)));
        end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let Some((end, bytes)) = &mut this.opening else { return read };
        if read.is_pending() {
            return end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        *bytes += buffer.filled().len() - before;
        if *bytes >= OPENING_BYTES {
            this.opening = None;
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.wrote(context, attempt)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.wrote(context, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.stream).poll_flush(context);
        this.wrote(context, attempt)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.stream).poll_shutdown(context);
        this.wrote(context, attempt)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{Instant, advance},
    };

    use super::*;

    const OPENING: Duration = Duration::from_secs(15);
    const UNREAD: Duration = Duration::from_secs(30);

    fn pair() -> (DuplexStream, Patient<DuplexStream>) {
        let (client, server) = duplex(64);
        (client, Patient::new(server, OPENING, UNREAD))
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_says_which_http_it_speaks_is_let_go() {
        for said in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (mut client, mut server) = pair();
            client.write_all(said.as_bytes()).await.unwrap();
            let started = Instant::now();
            let mut bytes = Vec::new();
            let ended = server.read_to_end(&mut bytes).await;
            assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut, "{said:?}");
            assert_eq!((bytes.as_slice(), started.elapsed().as_secs()), (said.as_bytes(), OPENING.as_secs()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_its_answer_unread_is_let_go() {
        let (mut client, mut server) = pair();
        server.write_all(&[b'x'; 64]).await.unwrap();
        let started = Instant::now();
        let ended = server.write_all(b"x").await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), UNREAD.as_secs());
        client.read_exact(&mut [0; 64]).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_waits_for_a_slow_answer_keeps_its_connection() {
        let (mut client, mut server) = pair();
        client.write_all(&[b'x'; OPENING_BYTES]).await.unwrap();
        server.read_exact(&mut [0; OPENING_BYTES]).await.unwrap();
        advance(Duration::from_secs(3600)).await;
        server.write_all(b"answer").await.unwrap();
        advance(Duration::from_secs(3600)).await;
        client.write_all(b"again").await.unwrap();
        server.read_exact(&mut [0; 5]).await.unwrap();
    }
}
