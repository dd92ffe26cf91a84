//! A client's connection with an end to patience: whoever sends no request or takes no answer is let go.
//!
//! Wrapped around every stream by `connection`. The HTTP server bounds the wait for header lines, but only once
//! it knows which HTTP is spoken, and it never bounds how long a client may leave an answer unread; without these two
//! limits silent clients could hold every connection for ever. Reading is limited until the first bytes are there,
//! which are fewer than the shortest request that can be served. A slow call keeps its connection: only a client that
//! blocks this side is let go. Patience that was used up comes back with the bytes that are taken, so a client that
//! takes one now and then is let go as well, and what waits for it does not stay in memory for hours. The first bytes
//! are looked at here too: they tell which HTTP server the connection needs. Specification: RFC 9113 §3.4.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

/// What a client says first that speaks HTTP/2.
const PREFACE: &[u8; OPENING_BYTES] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that tell which HTTP is spoken.
const OPENING_BYTES: usize = 24;

/// What a client takes of an answer in a second at least, on average, while it keeps this side waiting: a tenth of a
/// bad mobile connection.
const BYTES_PER_SECOND_MIN: u32 = 2 * 1024;

/// See the file's header.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    /// What was looked at and is not read yet.
    ahead: Vec<u8>,
    /// Until the opening is complete: when patience ends, and how many bytes are there.
    opening: Option<(Pin<Box<Sleep>>, usize)>,
    /// While the client takes nothing: since when, and when patience ends.
    blocked: Option<(Instant, Pin<Box<Sleep>>)>,
    /// The same for those to whom this is out of sight.
    is_blocked: Arc<AtomicBool>,
    /// How much longer it may take nothing.
    patience: Duration,
    unread_wait_max: Duration,
}

impl<S> Patient<S> {
    /// Waits at most `opening_wait_max` for the opening, and `unread_wait_max` for a client that takes nothing.
    pub(super) fn new(stream: S, opening_wait_max: Duration, unread_wait_max: Duration) -> Self {
        let opening = Some((Box::pin(sleep(opening_wait_max)), 0));
        let (ahead, is_blocked) = (Vec::new(), Arc::default());
        Self { stream, ahead, opening, blocked: None, is_blocked, patience: unread_wait_max, unread_wait_max }
    }

    /// Whether the client does not take what was written last.
    pub(super) fn is_blocked(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_blocked)
    }

    /// Looks at an attempt to write, which the client took so many bytes of.
    fn wrote<T>(
        &mut self,
        context: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
        taken: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        let Poll::Ready(done) = attempt else {
            self.is_blocked.store(true, Ordering::Relaxed);
            let patience = self.patience;
            let (_, end) = self.blocked.get_or_insert_with(|| (Instant::now(), Box::pin(sleep(patience))));
            return end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        };
        if let Some((since, _)) = self.blocked.take() {
            self.is_blocked.store(false, Ordering::Relaxed);
            self.patience = self.patience.saturating_sub(since.elapsed());
        }
        let taken = u32::try_from(done.as_ref().map_or(0, taken)).unwrap_or(u32::MAX);
        let earned = Duration::from_secs(taken.into()) / BYTES_PER_SECOND_MIN;
        self.patience = self.patience.saturating_add(earned).min(self.unread_wait_max);
        Poll::Ready(done)
    }
}

impl<S: AsyncRead + Unpin> Patient<S> {
    /// Whether the client speaks HTTP/2, once its first bytes tell; they are read again afterwards.
    ///
    /// # Errors
    /// They cannot be read, or do not come.
    pub(super) async fn speaks_http2(&mut self) -> io::Result<bool> {
        let mut said = [0; OPENING_BYTES];
        let mut said = ReadBuf::new(&mut said);
        while said.remaining() > 0 && PREFACE.starts_with(said.filled()) {
            let before = said.filled().len();
            poll_fn(|context| self.poll_stream(context, &mut said)).await?;
            if said.filled().len() == before {
                break;
            }
        }
        self.ahead = said.filled().to_vec();
        Ok(said.filled() == PREFACE)
    }

    fn poll_stream(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some((end, bytes)) = &mut self.opening else { return read };
        if read.is_pending() {
            return end.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()));
        }
        *bytes += buffer.filled().len() - before;
        if *bytes >= OPENING_BYTES {
            self.opening = None;
        }
        read
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return this.poll_stream(context, buffer);
        }
        let rest = this.ahead.split_off(this.ahead.len().min(buffer.remaining()));
        buffer.put_slice(&std::mem::replace(&mut this.ahead, rest));
        // With what follows, if that is there: a server that reads a few bytes first makes room for them apart. A fault
        // or the end is met again by whoever reads on.
        if buffer.remaining() > 0 {
            let _met_again = this.poll_stream(context, buffer);
        }
        Poll::Ready(Ok(()))
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

    #[tokio::test(start_paused = true)]
    async fn the_first_bytes_tell_which_http_is_spoken_and_are_read_all_the_same() {
        let long = [PREFACE.as_slice(), b"and more"].concat();
        for (said, is_http2) in [
            (PREFACE.as_slice(), true),
            (&long, true),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r_", false),
            (b"POST /mcp/finance HTTP/1.1\r\n\r\n", false),
            (b"PRI", false),
            (b"", false),
        ] {
            // All at once, and byte by byte.
            for pieces in [1, said.len().max(1)] {
                let (mut client, server) = duplex(64);
                let mut server = Patient::new(server, OPENING, UNREAD);
                let saying = async {
                    for piece in said.chunks(said.len().max(1).div_ceil(pieces)) {
                        client.write_all(piece).await.unwrap();
                        tokio::task::yield_now().await;
                    }
                    drop(client);
                };
                let (answer, ()) = tokio::join!(server.speaks_http2(), saying);
                assert_eq!(answer.unwrap(), is_http2, "{said:?}");
                let mut read = Vec::new();
                server.read_to_end(&mut read).await.unwrap();
                assert_eq!(read, said);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_there_is_read_in_one_piece() {
        let (mut client, mut server) = pair();
        client.write_all(b"POST /mcp/finance HTTP/1.1\r\n").await.unwrap();
        assert!(!server.speaks_http2().await.unwrap());
        assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 8);
        assert_eq!(server.read(&mut [0; 64]).await.unwrap(), 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_say_which_http_it_speaks_is_let_go() {
        for said in ["", "P", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let (mut client, mut server) = pair();
            client.write_all(said.as_bytes()).await.unwrap();
            let started = Instant::now();
            assert_eq!(server.speaks_http2().await.unwrap_err().kind(), io::ErrorKind::TimedOut, "{said:?}");
            assert_eq!(started.elapsed().as_secs(), OPENING.as_secs());
        }
    }

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
        let (started, is_blocked) = (Instant::now(), server.is_blocked());
        assert!(!is_blocked.load(Ordering::Relaxed));
        let ended = server.write_all(b"x").await;
        assert!(is_blocked.load(Ordering::Relaxed));
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), UNREAD.as_secs());
        client.read_exact(&mut [0; 64]).await.unwrap();
        server.write_all(b"x").await.unwrap();
        assert!(!is_blocked.load(Ordering::Relaxed));
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
