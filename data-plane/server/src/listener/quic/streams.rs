//! QUIC's streams as the HTTP/3 library wants them, with what it does not see to itself.
//!
//! Used by `quic`. The library gathers whole frames before it looks at them, however large they say they are; so each
//! stream brings only so many bytes, fewer until its request's head is read. It does not tell when a client gives up on
//! an answer; so whoever serves a request gets that beside it ([`Opened`]). Only the client opens requests.
//! Specification: RFC 9114 §4.1 and §7.1; RFC 9000 §3.5.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use h3::{
    error::Code,
    quic::{
        BidiStream, Connection, ConnectionErrorIncoming, OpenStreams, RecvStream, SendStream, StreamErrorIncoming,
        StreamId, WriteBuf,
    },
};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::super::HEAD_BYTES_MAX;
use crate::config::REQUEST_BYTES_MAX;

/// Bytes until a request's head is read: the head, and frames that mean nothing.
const UNREAD_BYTES_MAX: usize = 2 * HEAD_BYTES_MAX;
/// Bytes after that: the body, in frames that may be small.
const BODY_BYTES_MAX: usize = 2 * REQUEST_BYTES_MAX;
/// Bytes of a stream that is no request, for as long as the connection lasts: settings, and a few dozen bytes for each
/// request from clients that give requests priorities.
const CONTROL_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes read at once.
const PIECE_BYTES: usize = 4096;

type Accepted<T> = BoxStream<'static, Result<T, ConnectionError>>;

/// What is known of a request's stream beside its bytes.
pub(super) struct Opened {
    left: Arc<AtomicUsize>,
    /// Ends when the client wants no answer any more, or has all of it.
    pub(super) given_up: BoxFuture<'static, ()>,
}

impl Opened {
    /// The head is read: now comes the body.
    pub(super) fn head_is_read(&self) {
        self.left.store(BODY_BYTES_MAX, Ordering::Relaxed);
    }
}

/// What was opened last.
#[derive(Clone, Default)]
pub(super) struct Latest(Arc<Mutex<Option<Opened>>>);

impl Latest {
    pub(super) fn take(&self) -> Option<Opened> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A connection.
pub(super) struct Quic {
    requests: Accepted<(quinn::SendStream, quinn::RecvStream)>,
    others: Accepted<quinn::RecvStream>,
    opener: Opener,
    latest: Latest,
}

/// Opens the server's own streams.
pub(super) struct Opener {
    connection: quinn::Connection,
    opening: Option<BoxFuture<'static, Result<quinn::SendStream, ConnectionError>>>,
}

/// Bytes from the client.
pub(super) struct Receiving {
    stream: quinn::RecvStream,
    id: StreamId,
    left: Arc<AtomicUsize>,
}

/// Bytes to the client.
pub(super) struct Sending {
    stream: quinn::SendStream,
    id: StreamId,
    rest: Option<WriteBuf<Bytes>>,
}

/// A request's stream.
pub(super) struct Both {
    sending: Sending,
    receiving: Receiving,
}

impl Quic {
    pub(super) fn new(connection: &quinn::Connection) -> (Self, Latest) {
        let requests = stream::unfold(connection.clone(), async |connection| {
            let accepted = connection.accept_bi().await;
            Some((accepted, connection))
        });
        let others = stream::unfold(connection.clone(), async |connection| {
            let accepted = connection.accept_uni().await;
            Some((accepted, connection))
        });
        let latest = Latest::default();
        let opener = Opener { connection: connection.clone(), opening: None };
        (Self { requests: requests.boxed(), others: others.boxed(), opener, latest: latest.clone() }, latest)
    }
}

impl Connection<Bytes> for Quic {
    type RecvStream = Receiving;
    type OpenStreams = Opener;

    fn poll_accept_recv(&mut self, context: &mut Context<'_>) -> Poll<Result<Receiving, ConnectionErrorIncoming>> {
        let accepted = ready!(self.others.poll_next_unpin(context)).ok_or_else(over)?;
        Poll::Ready(Receiving::new(accepted.map_err(lost)?, CONTROL_BYTES_MAX))
    }

    fn poll_accept_bidi(&mut self, context: &mut Context<'_>) -> Poll<Result<Both, ConnectionErrorIncoming>> {
        let accepted = ready!(self.requests.poll_next_unpin(context)).ok_or_else(over)?;
        let (sending, receiving) = accepted.map_err(lost)?;
        let given_up = sending.stopped().map(|_how| ()).boxed();
        let (sending, receiving) = (Sending::new(sending)?, Receiving::new(receiving, UNREAD_BYTES_MAX)?);
        let opened = Opened { left: Arc::clone(&receiving.left), given_up };
        *self.latest.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened);
        Poll::Ready(Ok(Both { sending, receiving }))
    }

    fn opener(&self) -> Opener {
        Opener { connection: self.opener.connection.clone(), opening: None }
    }
}

impl OpenStreams<Bytes> for Opener {
    type BidiStream = Both;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, _context: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        Poll::Ready(Err(StreamErrorIncoming::Unknown("a server opens no request".into())))
    }

    fn poll_open_send(&mut self, context: &mut Context<'_>) -> Poll<Result<Sending, StreamErrorIncoming>> {
        let connection = &self.connection;
        let opening = self.opening.get_or_insert_with(|| {
            let connection = connection.clone();
            async move { connection.open_uni().await }.boxed()
        });
        let opened = ready!(opening.poll_unpin(context));
        self.opening = None;
        let of_connection = |connection_error| StreamErrorIncoming::ConnectionErrorIncoming { connection_error };
        Poll::Ready(opened.map_err(lost).and_then(Sending::new).map_err(of_connection))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.connection.close(VarInt::from_u64(code.value()).unwrap_or_default(), reason);
    }
}

impl OpenStreams<Bytes> for Quic {
    type BidiStream = Both;
    type SendStream = Sending;

    fn poll_open_bidi(&mut self, context: &mut Context<'_>) -> Poll<Result<Both, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(context)
    }

    fn poll_open_send(&mut self, context: &mut Context<'_>) -> Poll<Result<Sending, StreamErrorIncoming>> {
        self.opener.poll_open_send(context)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

impl Receiving {
    fn new(stream: quinn::RecvStream, bytes_max: usize) -> Result<Self, ConnectionErrorIncoming> {
        let id = id_of(stream.id())?;
        Ok(Self { stream, id, left: Arc::new(AtomicUsize::new(bytes_max)) })
    }
}

impl RecvStream for Receiving {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        let mut piece = [0; PIECE_BYTES];
        let read = match ready!(self.stream.poll_read(context, &mut piece)) {
            Ok(0) => return Poll::Ready(Ok(None)),
            Ok(read) => read,
            Err(ReadError::Reset(code)) => {
                return Poll::Ready(Err(StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }));
            }
            Err(ReadError::ConnectionLost(error)) => {
                return Poll::Ready(Err(StreamErrorIncoming::ConnectionErrorIncoming {
                    connection_error: lost(error),
                }));
            }
            Err(error) => return Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(error)))),
        };
        let less = |left: usize| left.checked_sub(read);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_err() {
            let error_code = Code::H3_EXCESSIVE_LOAD.value();
            self.stop_sending(error_code);
            return Poll::Ready(Err(StreamErrorIncoming::StreamTerminated { error_code }));
        }
        Poll::Ready(Ok(piece.get(..read).map(Bytes::copy_from_slice)))
    }

    fn stop_sending(&mut self, error_code: u64) {
        // It may have ended by itself.
        drop(self.stream.stop(VarInt::from_u64(error_code).unwrap_or_default()));
    }

    fn recv_id(&self) -> StreamId {
        self.id
    }
}

impl Sending {
    fn new(stream: quinn::SendStream) -> Result<Self, ConnectionErrorIncoming> {
        let id = id_of(stream.id())?;
        Ok(Self { stream, id, rest: None })
    }
}

impl SendStream<Bytes> for Sending {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        while let Some(rest) = &mut self.rest {
            if !rest.has_remaining() {
                self.rest = None;
                break;
            }
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, rest.chunk()));
            match written {
                Ok(written) => rest.advance(written),
                Err(WriteError::Stopped(code)) => {
                    return Poll::Ready(Err(StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }));
                }
                Err(WriteError::ConnectionLost(error)) => {
                    return Poll::Ready(Err(StreamErrorIncoming::ConnectionErrorIncoming {
                        connection_error: lost(error),
                    }));
                }
                Err(error) => return Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(error)))),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.rest.is_some() {
            return Err(StreamErrorIncoming::Unknown("what was sent before is not written yet".into()));
        }
        self.rest = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        ready!(self.poll_ready(context))?;
        Poll::Ready(self.stream.finish().map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        // It may have ended by itself.
        drop(self.stream.reset(VarInt::from_u64(reset_code).unwrap_or_default()));
    }

    fn send_id(&self) -> StreamId {
        self.id
    }
}

impl SendStream<Bytes> for Both {
    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_ready(context)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.sending.send_data(data)
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.sending.poll_finish(context)
    }

    fn reset(&mut self, reset_code: u64) {
        self.sending.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.sending.send_id()
    }
}

impl RecvStream for Both {
    type Buf = Bytes;

    fn poll_data(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receiving.poll_data(context)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.receiving.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.receiving.recv_id()
    }
}

impl BidiStream<Bytes> for Both {
    type SendStream = Sending;
    type RecvStream = Receiving;

    fn split(self) -> (Sending, Receiving) {
        (self.sending, self.receiving)
    }
}

fn id_of(id: quinn::StreamId) -> Result<StreamId, ConnectionErrorIncoming> {
    let id = VarInt::from(id).into_inner();
    StreamId::try_from(id).map_err(|error| ConnectionErrorIncoming::InternalError(error.to_string()))
}

fn lost(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        error => ConnectionErrorIncoming::Undefined(Arc::new(error)),
    }
}

fn over() -> ConnectionErrorIncoming {
    ConnectionErrorIncoming::InternalError("no stream comes any more".to_owned())
}

impl fmt::Debug for Receiving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiving").field("id", &self.id).finish_non_exhaustive()
    }
}
