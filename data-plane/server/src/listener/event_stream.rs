//! An answer in parts: what comes before it as server-sent events, then the answer itself.
//!
//! Used by `endpoint` for a call whose server has something to say before it answers; all other answers are plain JSON.
//! While nothing comes, a comment is sent now and then, so that proxies keep the connection. When the client goes away
//! the body is dropped, and with it what stops the call. Specification: WHATWG HTML §9.2.6; MCP 2026-07-28 and
//! 2025-11-25 Streamable HTTP.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, Stream};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Interval, MissedTickBehavior, interval},
};

use super::answer::{self, Response};

/// How often a silent stream shows that it lives. Proxies close what is silent for a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const KEEP_ALIVE_COMMENT: &[u8] = b":\n\n";

/// The parts of one answer. `G` is dropped with it.
pub(super) struct Parts<G> {
    /// What is already there.
    pub(super) first: Option<Vec<u8>>,
    /// What comes before the answer.
    pub(super) before: mpsc::Receiver<Vec<u8>>,
    /// The answer's body; none ends the stream without one.
    pub(super) answer: oneshot::Receiver<Option<Vec<u8>>>,
    /// Kept for as long as the client listens.
    #[expect(dead_code, reason = "what counts is when it is dropped")]
    pub(super) guard: G,
}

impl<G: Send + Unpin + 'static> Parts<G> {
    pub(super) fn respond(self) -> Response {
        let mut alive = interval(KEEP_ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        alive.reset();
        answer::events(Events { parts: self, alive, is_over: false })
    }
}

struct Events<G> {
    parts: Parts<G>,
    alive: Interval,
    is_over: bool,
}

impl<G: Unpin> Stream for Events<G> {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.is_over {
            return Poll::Ready(None);
        }
        if let Some(first) = this.parts.first.take() {
            return Poll::Ready(Some(event(&first)));
        }
        if let Poll::Ready(Some(message)) = this.parts.before.poll_recv(context) {
            this.alive.reset();
            return Poll::Ready(Some(event(&message)));
        }
        if let Poll::Ready(answer) = this.parts.answer.poll_unpin(context) {
            this.is_over = true;
            // Everything said before was sent before the answer was.
            if let Ok(message) = this.parts.before.try_recv() {
                this.is_over = false;
                return Poll::Ready(Some(event(&message)));
            }
            return Poll::Ready(answer.ok().flatten().map(|body| event(&body)));
        }
        if this.alive.poll_tick(context).is_ready() {
            return Poll::Ready(Some(Bytes::from_static(KEEP_ALIVE_COMMENT)));
        }
        Poll::Pending
    }
}

/// One message. JSON as this gateway writes it has no line breaks outside of strings, where they are escaped; what a
/// server wrote may have, so each line becomes a line of data.
fn event(message: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(message.len() + 32);
    bytes.extend_from_slice(b"event: message\n");
    for line in message.split(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.extend_from_slice(b"data: ");
        bytes.extend_from_slice(line);
        bytes.push(b'\n');
    }
    bytes.push(b'\n');
    Bytes::from(bytes)
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn all(parts: Parts<()>) -> String {
        let body = parts.respond().into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(body.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn what_was_said_comes_before_the_answer_however_late_it_is_read() {
        let ((said, before), (answered, answer)) = (mpsc::channel(4), oneshot::channel());
        said.send(b"2".to_vec()).await.unwrap();
        said.send(b"{\n}".to_vec()).await.unwrap();
        answered.send(Some(b"{}".to_vec())).unwrap();
        drop(said);
        let text = all(Parts { first: Some(b"1".to_vec()), before, answer, guard: () }).await;
        let events: Vec<&str> = text.split("\n\n").filter(|event| !event.is_empty()).collect();
        assert_eq!(
            events,
            [
                "event: message\ndata: 1",
                "event: message\ndata: 2",
                "event: message\ndata: {\ndata: }",
                "event: message\ndata: {}"
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_stream_shows_that_it_lives() {
        let ((said, before), (answered, answer)) = (mpsc::channel::<Vec<u8>>(1), oneshot::channel());
        let (text, ()) = tokio::join!(all(Parts { first: None, before, answer, guard: () }), async {
            tokio::time::sleep(KEEP_ALIVE * 2 + KEEP_ALIVE / 2).await;
            answered.send(Some(b"{}".to_vec())).unwrap();
            drop(said);
        });
        assert_eq!(text, ":\n\n:\n\nevent: message\ndata: {}\n\n");
    }

    #[tokio::test]
    async fn a_call_that_ends_without_an_answer_ends_the_stream() {
        let ((said, before), (answered, answer)) = (mpsc::channel::<Vec<u8>>(1), oneshot::channel());
        drop((said, answered));
        assert_eq!(
            all(Parts { first: Some(b"1".to_vec()), before, answer, guard: () }).await.matches("data").count(),
            1
        );
    }
}
