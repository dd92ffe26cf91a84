//! Server-sent events, as far as MCP needs them: the data of each event, and from where a stream goes on.
//!
//! Called by `bridge` for answers and for the stream of a session. An event that is larger than the bound ends the
//! stream. Sans-I/O. Specification: WHATWG HTML §9.2.6.

use std::time::Duration;

use http::HeaderValue;

/// Largest event, and so the largest message towards the client.
pub(crate) const EVENT_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest event id that is sent back.
const ID_BYTES_MAX: usize = 4 * 1024;

/// Splits a byte stream into the data of its events.
#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    data: Option<Vec<u8>>,
    after_return: bool,
    started: bool,
    id: Option<Vec<u8>>,
    /// Of the last event that has ended.
    pub(crate) last_id: Option<HeaderValue>,
    pub(crate) retry: Option<Duration>,
}

/// An event is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

impl Events {
    /// Takes a chunk; gives the data of every event that ends in it.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Result<Vec<Vec<u8>>, TooLarge> {
        let mut events = Vec::new();
        for &byte in chunk {
            let follows_return = std::mem::take(&mut self.after_return);
            match byte {
                b'\n' if follows_return => {}
                b'\n' => events.extend(self.end_line()),
                b'\r' => {
                    self.after_return = true;
                    events.extend(self.end_line());
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.as_ref().map_or(0, Vec::len) > EVENT_BYTES_MAX {
                return Err(TooLarge);
            }
        }
        Ok(events)
    }

    /// The stream that goes on after this one: half an event that was lost with it is none.
    pub(crate) fn goes_on(&self) -> Self {
        Self { last_id: self.last_id.clone(), retry: self.retry, ..Self::default() }
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        let is_first = !std::mem::replace(&mut self.started, true);
        let line = line.strip_prefix("\u{feff}".as_bytes()).filter(|_| is_first).unwrap_or(&line);
        if line.is_empty() {
            if let Some(id) = self.id.take() {
                let fits = Some(id).filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
                self.last_id = fits.and_then(|id| HeaderValue::from_bytes(&id).ok());
            }
            return self.data.take();
        }
        let mut parts = line.splitn(2, |byte| *byte == b':');
        let (field, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            },
            b"id" if !value.contains(&0) => self.id = Some(value.to_vec()),
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                let millis = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                self.retry = millis.map(Duration::from_millis).or(self.retry);
            }
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Vec<String> {
        let events = Events::default().feed(text.as_bytes()).unwrap();
        events.into_iter().map(|data| String::from_utf8(data).unwrap()).collect()
    }

    #[test]
    fn events_end_at_blank_lines_of_any_kind() {
        for (text, expected) in [
            ("data: {}\n\n", vec!["{}"]),
            ("event: message\r\nid: 7\r\ndata: {\"a\":1}\r\n\r\n", vec!["{\"a\":1}"]),
            ("data:1\rdata:2\r\rdata:3\n\n", vec!["1\n2", "3"]),
            (": keep-alive\n\n\n\ndata: x\n\n", vec!["x"]),
            ("\u{feff}data: first\n\n", vec!["first"]),
            ("data: unfinished\n", vec![]),
            ("datax: no\n\n", vec![]),
        ] {
            assert_eq!(all(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_stream_goes_on_after_the_last_event_that_ended() {
        for (text, last_id, retry) in [
            ("id: 7\nretry: 500\ndata:\n\n", Some("7"), Some(500)),
            ("id: 7\n\nid: 8\ndata: unfinished\n", Some("7"), None),
            ("id: 7\n\nid\n\n", None, None),
            ("id: a\u{0}b\nretry: 1s\n\n", None, None),
        ] {
            let mut events = Events::default();
            events.feed(text.as_bytes()).unwrap();
            let said = events.last_id.as_ref().map(|id| id.to_str().unwrap());
            assert_eq!((said, events.retry), (last_id, retry.map(Duration::from_millis)), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_into_chunks_does_not_matter(
            text in "(data: ?[a-z]{0,3}|:|id: 1|\r|\n|\r\n){0,30}", cut in 0usize..200,
        ) {
            let cut = cut.min(text.len());
            let mut events = Events::default();
            let mut pieces = events.feed(&text.as_bytes()[..cut]).unwrap();
            pieces.extend(events.feed(&text.as_bytes()[cut..]).unwrap());
            prop_assert_eq!(pieces, Events::default().feed(text.as_bytes()).unwrap());
        }
    }
}
