//! An answer on its way to a client: in pieces, within the room all large answers share, and with an end to waiting.
//!
//! Put around every answer by `listener`. On an HTTP/1 connection a client that takes nothing blocks the connection,
//! which `patience` ends. On HTTP/2 it need not: it can leave one stream's window closed, or all of them, and take
//! whatever else there is; so each answer says since when it waits for the client (`Owing`), and `listener` ends a
//! connection that lets one wait for too long. A large answer counts against the room while it waits.
//! Specification: RFC 9113 §5.2.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, MissedTickBehavior, interval},
};

/// Bytes of an answer that are handed to a connection at once: what it has taken it keeps until it is sent, and a client
/// has to take so many within its patience.
const PIECE_BYTES_MAX: usize = 16 * 1024;
/// Looks at a connection in the time a client may let an answer wait.
const LOOKS: u32 = 4;

/// Answers up to here take no room: as many as there are connections fit a node.
const SMALL_BYTES_MAX: u32 = 64 * 1024;

/// Too many large answers wait for their clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NoRoom;

/// The room that an answer of so many bytes takes up, one permit a byte; a small one takes none.
pub(super) fn room_for(room: &Arc<Semaphore>, bytes: u64) -> Result<Option<OwnedSemaphorePermit>, NoRoom> {
    if bytes <= SMALL_BYTES_MAX.into() {
        return Ok(None);
    }
    let bytes = u32::try_from(bytes).map_err(|_too_large| NoRoom)?;
    Arc::clone(room).try_acquire_many_owned(bytes).map(Some).map_err(|_none_left| NoRoom)
}

/// What one connection's client has not taken yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Owing(Arc<Mutex<Owed>>);

#[derive(Debug, Default)]
struct Owed {
    answers: u64,
    /// Those under way, by number: since when they wait for the client.
    waiting: HashMap<u64, Option<Instant>>,
}

impl Owing {
    /// Until an answer has waited for the client for so long; looked at now and then.
    pub(super) async fn too_long(&self, wait_max: Duration) {
        let mut looks = interval((wait_max / LOOKS).max(Duration::from_millis(1)));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if self.lock().waiting.values().flatten().any(|since| since.elapsed() > wait_max) {
                return;
            }
        }
    }

    fn begin(&self) -> Line {
        let mut owed = self.lock();
        owed.answers += 1;
        let number = owed.answers;
        owed.waiting.insert(number, Some(Instant::now()));
        Line { owing: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, Owed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One answer's place among what is owed.
#[derive(Clone, Debug)]
struct Line {
    owing: Owing,
    number: u64,
}

impl Line {
    /// There is something for the client, as of now. Nothing, once the answer is over.
    fn waits(&self) {
        self.set(Some(Instant::now()));
    }

    /// There is nothing for the client.
    fn rests(&self) {
        self.set(None);
    }

    fn set(&self, since: Option<Instant>) {
        if let Some(waiting) = self.owing.lock().waiting.get_mut(&self.number) {
            *waiting = since;
        }
    }

    fn is_over(&self) {
        self.owing.lock().waiting.remove(&self.number);
    }
}

/// Wakes whoever writes the answer, and notes that there is something to write: it comes only once the client takes it.
struct Woken {
    line: Line,
    writer: Waker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.line.waits();
        self.writer.wake_by_ref();
    }
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Delivery {
    answer: Body,
    /// Of what the answer gave, the part that is not handed over yet.
    rest: Bytes,
    line: Option<Line>,
    /// Given back with the answer.
    _room: Option<OwnedSemaphorePermit>,
}

impl Delivery {
    /// The answer, with the room it takes up; `owing` where the connection would not notice that nobody takes it.
    pub(super) fn new(answer: Body, room: Option<OwnedSemaphorePermit>, owing: Option<&Owing>) -> Self {
        Self { answer, rest: Bytes::new(), line: owing.map(Owing::begin), _room: room }
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let answer = Pin::new(&mut self.answer);
        let Some(line) = &self.line else { return answer.poll_frame(context) };
        // Before it is asked: what comes between the answer's `Pending` and this would be forgotten otherwise.
        line.rests();
        let woken = Waker::from(Arc::new(Woken { line: line.clone(), writer: context.waker().clone() }));
        answer.poll_frame(&mut Context::from_waker(&woken))
    }
}

impl HttpBody for Delivery {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            match ready!(this.poll_answer(context)).map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => this.rest = data,
                Some(Ok(Err(trailers))) => return Poll::Ready(Some(Ok(trailers))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
            }
        }
        // It is asked for the next piece once this one is taken.
        if let Some(line) = &this.line {
            line.waits();
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES_MAX));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let answer = self.answer.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(answer.lower().saturating_add(rest));
        if let Some(upper) = answer.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.is_over();
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::{
        sync::mpsc,
        time::{advance, timeout},
    };

    use super::*;

    const WAIT_MAX: Duration = Duration::from_secs(30);

    /// Is the connection let go within this time?
    async fn is_let_go(owing: &Owing, within: u64) -> bool {
        timeout(Duration::from_secs(within), owing.too_long(WAIT_MAX)).await.is_ok()
    }

    #[test]
    fn large_answers_share_a_room_and_small_ones_need_none() {
        let (room, large) = (Arc::new(Semaphore::new(100_000)), u64::from(SMALL_BYTES_MAX) + 1);
        let taken = room_for(&room, large).unwrap();
        let answer = Delivery::new(Body::from("large"), taken, None);
        assert_eq!(room_for(&room, large).unwrap_err(), NoRoom);
        assert_eq!(room_for(&room, u64::MAX).unwrap_err(), NoRoom);
        assert!(room_for(&room, large - 1).unwrap().is_none());
        drop(answer);
        assert!(room_for(&room, large).unwrap().is_some(), "what is delivered gives its room back");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_asks_for_ends_the_connection_and_one_that_is_gone_does_not() {
        let owing = Owing::default();
        let answer = Delivery::new(Body::from("answer"), None, Some(&owing));
        assert!(!is_let_go(&owing, 29).await);
        assert!(is_let_go(&owing, 10).await);
        drop(answer);
        assert!(!is_let_go(&owing, 3600).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_goes_in_pieces_and_each_has_its_own_time() {
        let owing = Owing::default();
        let text: Vec<u8> = (0..100_000_u32).map(|number| number.to_be_bytes()[3]).collect();
        let mut answer = Delivery::new(Body::from(text.clone()), None, Some(&owing));
        assert_eq!(answer.size_hint().exact(), Some(100_000));
        let mut taken = Vec::new();
        while taken.len() < text.len() {
            let piece = answer.frame().await.unwrap().unwrap().into_data().unwrap();
            assert!(piece.len() <= PIECE_BYTES_MAX);
            taken.extend_from_slice(&piece);
            assert_eq!(answer.size_hint().exact(), Some(100_000 - u64::try_from(taken.len()).unwrap()));
            advance(Duration::from_secs(25)).await;
        }
        assert_eq!(taken, text);
        assert!(answer.is_end_stream());
        assert!(is_let_go(&owing, 40).await, "the last piece is not taken");
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_has_nothing_to_say_waits_for_nobody_until_it_has() {
        let owing = Owing::default();
        let (sender, events) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
        let events = tokio_stream::wrappers::ReceiverStream::new(events);
        let mut stream = Delivery::new(Body::from_stream(events), None, Some(&owing));
        assert!(futures::poll!(stream.frame()).is_pending());
        assert!(!is_let_go(&owing, 3600).await);
        sender.send(Ok(Bytes::from_static(b"event"))).await.unwrap();
        assert!(!is_let_go(&owing, 29).await);
        assert!(is_let_go(&owing, 10).await, "the event is not taken");
        assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "event");
        drop(stream);
        drop(sender);
        assert!(!is_let_go(&owing, 3600).await, "what wakes it later wakes nobody");
    }
}
