//! Server-sent events, as far as MCP needs them: the data of each event, in order, and from where a stream goes on.
//!
//! Called by who reads answers and streams, and bounds their total. Event types are read over: MCP's meaning is in the
//! data alone. Sans-I/O. Specification: WHATWG HTML §9.2.6.

use std::time::Duration;

use http::HeaderValue;

/// Longest event id that is sent back; servers use some dozen bytes.
const ID_BYTES_MAX: usize = 4 * 1024;

/// From where a stream can be gone on with, and after which time, as far as the server has said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mark {
    pub(crate) last_id: Option<HeaderValue>,
    pub(crate) retry: Option<Duration>,
}

/// Splits a byte stream into the data of its events.
#[derive(Debug, Default)]
pub(crate) struct SseReader {
    /// Bytes of the line that has not ended yet.
    line: Vec<u8>,
    /// Data lines of the event that has not ended yet.
    data: Option<Vec<u8>>,
    /// The same event's id.
    id: Option<Vec<u8>>,
    /// The last id of an event that has ended.
    last_id: Option<Vec<u8>>,
    retry: Option<Duration>,
    /// The last byte was a carriage return, so a line feed now belongs to it.
    after_return: bool,
    started: bool,
}

impl SseReader {
    /// Takes a chunk; gives the data of every event that ends in it.
    pub(crate) fn feed(&mut self, chunk: &[u8]) -> Vec<Vec<u8>> {
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
        }
        events
    }

    fn end_line(&mut self) -> Option<Vec<u8>> {
        let mut line = std::mem::take(&mut self.line);
        if !std::mem::replace(&mut self.started, true)
            && let Some(rest) = line.strip_prefix("\u{feff}".as_bytes())
        {
            line = rest.to_vec();
        }
        if line.is_empty() {
            self.last_id = self.id.take().or(self.last_id.take());
            return self.data.take();
        }
        let (field, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => {
                let (field, value) = line.split_at(colon);
                let value = value.strip_prefix(b":").unwrap_or(value);
                (field, value.strip_prefix(b" ").unwrap_or(value))
            }
            None => (line.as_slice(), &[][..]),
        };
        match field {
            b"data" => match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            },
            b"id" if !value.contains(&0) => self.id = Some(value.to_vec()),
            b"retry" if value.iter().all(u8::is_ascii_digit) => {
                let millis = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
                self.retry = millis.map(Duration::from_millis).or(self.retry);
            }
            _ => {}
        }
        None
    }

    /// Notes what has been said so far. An id that no header can carry is none.
    pub(crate) fn note(&self, mark: &mut Mark) {
        if let Some(id) = &self.last_id {
            let carried = HeaderValue::from_bytes(id).ok();
            mark.last_id = carried.filter(|id| !id.is_empty() && id.len() <= ID_BYTES_MAX);
        }
        mark.retry = self.retry.or(mark.retry);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(text: &str) -> Vec<String> {
        SseReader::default().feed(text.as_bytes()).into_iter().map(|data| String::from_utf8(data).unwrap()).collect()
    }

    #[test]
    fn events_end_at_blank_lines_of_any_kind() {
        for (text, expected) in [
            ("data: {}\n\n", vec!["{}"]),
            ("event: message\r\nid: 7\r\ndata: {\"a\":1}\r\n\r\n", vec!["{\"a\":1}"]),
            ("data:1\rdata:2\r\rdata:3\n\n", vec!["1\n2", "3"]),
            (": keep-alive\n\n\n\ndata: x\n\n", vec!["x"]),
            ("retry: 10\n\ndata\n\n", vec![""]),
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
            ("id: 7\n\ndata: x\n\n", Some("7"), None),
            ("id: 7\n\nid\n\n", None, None),
            ("id: a\u{0}b\nretry: 1s\n\nretry:\n\n", None, None),
            ("id: a\u{1}b\n\nretry: 99999999999999999999\n\n", None, None),
        ] {
            let (mut reader, mut mark) = (SseReader::default(), Mark::default());
            reader.feed(text.as_bytes());
            reader.note(&mut mark);
            let said = mark.last_id.as_ref().map(|id| id.to_str().unwrap());
            assert_eq!((said, mark.retry), (last_id, retry.map(Duration::from_millis)), "{text:?}");
        }
        let long = format!("id: {}\n\n", "x".repeat(ID_BYTES_MAX + 1));
        let (mut reader, mut mark) = (SseReader::default(), Mark::default());
        reader.feed(long.as_bytes());
        reader.note(&mut mark);
        assert!(mark.last_id.is_none());
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_into_chunks_does_not_matter(
            text in "(data: ?[a-z]{0,3}|:|id: 1|\r|\n|\r\n){0,30}", cut in 0usize..200,
        ) {
            let cut = cut.min(text.len());
            let mut reader = SseReader::default();
            let mut pieces = reader.feed(&text.as_bytes()[..cut]);
            pieces.extend(reader.feed(&text.as_bytes()[cut..]));
            let whole: Vec<Vec<u8>> = SseReader::default().feed(text.as_bytes());
            prop_assert_eq!(pieces, whole);
        }
    }
}
