//! Server-sent events, as far as an MCP answer needs them: the data of each event, in order.
//!
//! Called by `upstream::exchange`, which feeds chunks as they arrive and bounds their total. Event types, ids and
//! retry hints are read over: MCP's meaning is in the data alone. Sans-I/O. Specification: WHATWG HTML §9.2.6.

/// Splits a byte stream into the data of its events.
#[derive(Debug, Default)]
pub(crate) struct SseReader {
    /// Bytes of the line that has not ended yet.
    line: Vec<u8>,
    /// Data lines of the event that has not ended yet.
    data: Option<Vec<u8>>,
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
        if field == b"data" {
            match &mut self.data {
                Some(data) => {
                    data.push(b'\n');
                    data.extend_from_slice(value);
                }
                None => self.data = Some(value.to_vec()),
            }
        }
        None
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
