//! An answer on its way to a client: in pieces, within the room all large answers share, and with an end to waiting.
//!
//! The body of every answer. On an HTTP/1 connection a client that takes nothing blocks the connection, which
//! `patience` ends. On HTTP/2 it need not: it can leave one stream's window closed, or all of them, and take whatever
//! else there is; so each answer says since when it waits for the client (`Owing`), and `connection` ends a connection
//! that lets one wait for too long. A large answer counts against the room while it waits, and one that goes on keeps
//! its connection from counting as idle.
//! Specification: RFC 9113 §5.2.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures::Stream;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    places::Busy,
    room::{CallerKey, Taken},
};

/// Bytes of an answer that are handed to a connection at once: what it has taken it keeps until it is sent, and a
/// client has to take so many within its patience.
const PIECE_BYTES_MAX: usize = 16 * 1024;
/// Looks at a connection in the time a client may let an answer wait.
const LOOKS: u32 = 4;
/// A body that does not come is noticed at such a look as well (`body`).
const LOOK_EVERY_MAX: Duration = Duration::from_secs(8);

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
        let mut looks = interval((wait_max / LOOKS).clamp(Duration::from_millis(1), LOOK_EVERY_MAX));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            if self.is_overdue(wait_max) {
                return;
            }
        }
    }

    /// Has an answer waited for the client for so long?
    fn is_overdue(&self, wait_max: Duration) -> bool {
        self.lock().waiting.values().flatten().any(|since| since.elapsed() > wait_max)
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

/// What is not handed over yet.
enum Content {
    /// All of it is there.
    Whole,
    /// It comes as it comes.
    Events(Pin<Box<dyn Stream<Item = Bytes> + Send>>),
    /// Somebody else sends it (`lasting`).
    Elsewhere,
}

/// What an answer has beside its bytes while it is on its way. Most answers are small, go over HTTP/1 and have none of
/// it.
#[derive(Debug, Default)]
struct Delivery {
    line: Option<Line>,
    /// Given back with the answer.
    _room: Option<Taken>,
    _busy: Option<Busy>,
}

/// See the file's header.
pub(crate) struct AnswerBody {
    content: Content,
    /// Of what there is, the part that is not handed over yet.
    rest: Bytes,
    delivery: Option<Box<Delivery>>,
    /// Whether it is going to last for longer than anything else on its connection.
    lasts: bool,
    /// Whose answer it is, where that is known.
    pub(super) caller: CallerKey,
}

impl AnswerBody {
    /// All of it.
    pub(super) const fn whole(bytes: Bytes) -> Self {
        Self { content: Content::Whole, rest: bytes, delivery: None, lasts: false, caller: 0 }
    }

    /// As it comes.
    pub(super) fn events(events: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self { content: Content::Events(Box::pin(events)), ..Self::whole(Bytes::new()) }
    }

    /// As it comes, for hours maybe.
    pub(super) fn lasting(events: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self { lasts: true, ..Self::events(events) }
    }

    /// Stands where somebody else sends the body: it has nothing, and no end.
    pub(super) fn elsewhere() -> Self {
        Self { content: Content::Elsewhere, ..Self::whole(Bytes::new()) }
    }

    /// Bytes of what is whole.
    pub(super) const fn len(&self) -> usize {
        self.rest.len()
    }

    /// Whether it comes as it comes.
    pub(super) const fn goes_on(&self) -> bool {
        matches!(self.content, Content::Events(_) | Content::Elsewhere)
    }

    /// Whether it is going to last for longer than anything else on its connection.
    pub(super) const fn lasts(&self) -> bool {
        self.lasts
    }

    /// The answer with the room it takes up and what it keeps from being idle; `owing` where the connection would not
    /// notice that nobody takes it.
    pub(super) fn delivered(mut self, room: Option<Taken>, busy: Option<Busy>, owing: Option<&Owing>) -> Self {
        if room.is_some() || busy.is_some() || owing.is_some() {
            let line = owing.map(Owing::begin);
            self.delivery = Some(Box::new(Delivery { line, _room: room, _busy: busy }));
        }
        self
    }

    fn line(&self) -> Option<&Line> {
        self.delivery.as_ref()?.line.as_ref()
    }

    fn poll_events(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let line = self.line().cloned();
        let events = match &mut self.content {
            Content::Whole => return Poll::Ready(None),
            Content::Events(events) => events,
            Content::Elsewhere => return Poll::Pending,
        };
        let Some(line) = line else { return events.as_mut().poll_next(context) };
        // Before it is asked: what comes between the answer's `Pending` and this would be forgotten otherwise.
        line.rests();
        let woken = Waker::from(Arc::new(Woken { line, writer: context.waker().clone() }));
        events.as_mut().poll_next(&mut Context::from_waker(&woken))
    }
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        while this.rest.is_empty() {
            match this.poll_events(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(data)) => this.rest = data,
                Poll::Ready(None) => {
                    this.content = Content::Whole;
                    return Poll::Ready(None);
                }
            }
        }
        let Some(delivery) = &this.delivery else {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.rest)))));
        };
        // It is asked for the next piece once this one is taken.
        if let Some(line) = &delivery.line {
            line.waits();
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES_MAX));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && !self.goes_on()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        if !self.goes_on() {
            return SizeHint::with_exact(rest);
        }
        let mut hint = SizeHint::new();
        hint.set_lower(rest);
        hint
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (bytes, goes_on) = (self.rest.len(), self.goes_on());
        f.debug_struct("AnswerBody").field("bytes", &bytes).field("goes_on", &goes_on).finish_non_exhaustive()
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

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_asks_for_ends_the_connection_and_one_that_is_gone_does_not() {
        let owing = Owing::default();
        let answer = AnswerBody::whole(Bytes::from_static(b"answer")).delivered(None, None, Some(&owing));
        assert!(!is_let_go(&owing, 29).await);
        assert!(is_let_go(&owing, 10).await);
        drop(answer);
        assert!(!is_let_go(&owing, 3600).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_answer_goes_in_pieces_and_each_has_its_own_time() {
        let owing = Owing::default();
        let text: Vec<u8> = (0..100_000_u32).map(|number| number.to_be_bytes()[3]).collect();
        let mut answer = AnswerBody::whole(text.clone().into()).delivered(None, None, Some(&owing));
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
        let (sender, events) = mpsc::channel(1);
        let events = tokio_stream::wrappers::ReceiverStream::new(events);
        let mut stream = AnswerBody::events(events).delivered(None, None, Some(&owing));
        assert!(futures::poll!(stream.frame()).is_pending());
        assert!(!is_let_go(&owing, 3600).await);
        sender.send(Bytes::from_static(b"event")).await.unwrap();
        assert!(!is_let_go(&owing, 29).await);
        assert!(is_let_go(&owing, 10).await, "the event is not taken");
        assert_eq!(stream.frame().await.unwrap().unwrap().into_data().unwrap(), "event");
        drop(stream);
        drop(sender);
        assert!(!is_let_go(&owing, 3600).await, "what wakes it later wakes nobody");
    }
}
