//! The events of a long-lived stream of a server's, as they come.
//!
//! An event has the bound of an answer. A stream that says nothing for long is given up, because a server that vanished
//! says nothing either, and so is one that says more than anybody means.

use std::{collections::VecDeque, time::Duration};

use crate::{
    budget::Budget,
    upstream::{
        answer_stream::is_event_stream,
        reply::Reply,
        sse::{Mark, SseReader},
    },
};

/// Longest silence of a server. Many send a comment every few seconds, some never; what is given up is opened again.
const SILENCE_MAX: Duration = Duration::from_secs(15 * 60);
/// Most events of one stream in a second; reading so many takes some hundredths of it. Busy servers send a few.
const PER_SECOND_MAX: u64 = 10_000;

/// See the file's header.
#[derive(Debug)]
pub(crate) struct Events {
    response: Reply,
    reader: SseReader,
    ready: VecDeque<Vec<u8>>,
    /// Bytes since the last event ended.
    unfinished: usize,
    bytes_max: usize,
    flood: Budget,
}

impl Events {
    /// Of this response; `None` if it is no event stream.
    pub(in crate::upstream) fn of(response: Reply, bytes_max: usize) -> Option<Self> {
        let is_stream = response.status().is_success() && is_event_stream(response.headers());
        let (reader, ready, flood) = (SseReader::default(), VecDeque::new(), Budget::new(PER_SECOND_MAX));
        is_stream.then_some(Self { response, reader, ready, unfinished: 0, bytes_max, flood })
    }

    /// The data of the next one; `None` when the stream is over, or not worth being followed any more. Can be asked
    /// again when it was not waited for to the end.
    pub(in crate::upstream) async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return Some(ready);
            }
            let chunk = tokio::time::timeout(SILENCE_MAX, self.response.chunk()).await.ok()?.ok()??;
            self.unfinished += chunk.len();
            let events = self.reader.feed(&chunk);
            if !events.is_empty() {
                self.unfinished = 0;
            }
            let is_flood = !self.flood.take(events.len() as u64);
            if is_flood || self.unfinished > self.bytes_max {
                tracing::warn!(is_flood, "a server's stream has no measure; it is given up");
                return None;
            }
            self.ready.extend(events);
        }
    }

    /// Notes from where the stream can be gone on with.
    pub(super) fn note(&self, mark: &mut Mark) {
        self.reader.note(mark);
    }
}
