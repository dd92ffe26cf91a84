//! A client's connection with an end to patience: whoever sends no request or takes no answer is let go.
//!
//! Wrapped around every stream by `connection`. The HTTP server bounds the wait for header lines, but only once
//! it knows which HTTP is spoken, and it never bounds how long a client may leave an answer unread; without these two
//! limits silent clients could hold every connection for ever. Reading is limited until the first bytes are there,
//! which are fewer than the shortest request that can be served. A slow call keeps its connection: only a client that
//! blocks this side is let go. Patience that was used up comes back with the bytes that are taken, so a client that
//! takes one now and then is let go as well, and what waits for it does not stay in memory for hours.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// Bytes that tell which HTTP is spoken: the preface of HTTP/2.
const OPENING_BYTES: usize = 24;

/// What a client takes of an answer in a second at least, on average, while it keeps this side waiting: a tenth of a
/// bad mobile connection.
const BYTES_PER_SECOND_MIN: u32 = 2 * 1024;

/// See the file's header.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    /// Until the opening is complete: when patience ends, and how many bytes are there.
    opening: Option<(Pin<Box<Sleep>>, usize)>,
    /// While the client takes nothing: since when, and when patience ends.
    blocked: Option<(Instant, Pin<Box<Sleep>>)>,
    /// How much longer it may take nothing.
    patience: Duration,
    unread_wait_max: Duration,
}

impl<S> Patient<S> {
    /// Waits at most `opening_wait_max` for the opening, and `unread_wait_max` for a client that takes nothing.
    pub(super) fn new(stream: S, opening_wait_max: Duration, unread_wait_max: Duration) -> Self {
        let opening = Some((Box::pin(sleep(opening_wait_max)), 0));
        Self { stream, opening, blocked: None, patience: unread_wait_max, unread_wait_max }
    }

    /// Looks at an attempt to write, which the client took so many bytes of.
    fn wrote<T>(
        &mut self,
        context: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
        taken: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        let Poll::Ready(done) = attempt else {
            let patience = self.patience;
            let (_, end) = self.blocked.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(patience))));
            return end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        };
        if let Some((since, _)) = self.blocked.take() {
            self.patience = self.patience.saturating_sub(since.elapsed());
        }
        let taken = u32::try_from(done.as_ref().map_or(0, taken)).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(taken.into()) / BYTES_PER_SECOND_MIN;
        self.patience = self.patience.saturating_add(earned).min(self.unread_wait_max);
        Poll::Ready(done)
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
        this.wrote(context, attempt, |bytes| *bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        this.wrote(context, attempt, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.stream).poll_flush(context);
        this.wrote(context, attempt, |()| 0)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let attempt = Pin::new(&mut this.stream).poll_shutdown(context);
        this.wrote(context, attempt, |()| 0)
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
    async fn a_client_that_takes_a_byte_now_and_then_is_let_go_and_a_slow_one_is_not() {
        for (bytes, every, is_let_go) in [(1, 20, true), (16, 29, true), (64, 1, true), (4096, 1, false)] {
            let (mut client, server) = duplex(4096);
            let mut server = Patient::new(server, OPENING, UNREAD);
            let writing = async move { server.write_all(&vec![b'x'; 1024 * 1024]).await };
            let reading = async move {
                let mut buffer = vec![0; bytes];
                while client.read_exact(&mut buffer).await.is_ok() {
                    sleep(Duration::from_secs(every)).await;
                }
            };
            let (written, ()) = tokio::join!(writing, reading);
            assert_eq!(written.is_err(), is_let_go, "{bytes} bytes every {every} s");
        }
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
