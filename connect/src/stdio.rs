//! Lines in and lines out: the transport towards a client that started this program.
//!
//! Called by `bridge`. Two threads of their own, as a read of standard input can be ended by nobody: the end of the
//! process must not wait for one. Invariant: nothing but messages is written to standard output, each on one line; what
//! a server says that is none is read over.
//! Specification: MCP, stdio transport.

use std::io::{BufRead, BufReader, Read as _, Write as _};

use bailiwick_proto::mcp::Members;
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};

/// Longest line from the client: what data planes take.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Lines that were read and not handled yet.
const LINES_MAX: usize = 16;
/// Messages that were not written yet.
const MESSAGES_MAX: usize = 64;

/// What the client sent.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// Without its end.
    Message(Vec<u8>),
    /// It was read over.
    TooLong,
}

/// The client's lines, until it has no more.
pub(crate) fn lines() -> mpsc::Receiver<Line> {
    let (say, heard) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || {
        let mut input = BufReader::new(std::io::stdin());
        while let Some(line) = next(&mut input) {
            if say.blocking_send(line).is_err() {
                break;
            }
        }
    });
    heard
}

fn next(input: &mut impl BufRead) -> Option<Line> {
    loop {
        let mut line = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX).saturating_add(1);
        let read = input.by_ref().take(limit).read_until(b'\n', &mut line).ok()?;
        if read == 0 {
            return None;
        }
        if line.last() != Some(&b'\n') && line.len() > LINE_BYTES_MAX {
            skip_line(input)?;
            return Some(Line::TooLong);
        }
        let text = line.trim_ascii();
        if !text.is_empty() {
            return Some(Line::Message(text.to_vec()));
        }
    }
}

/// Reads over the rest of a line; `None` at the end of everything.
fn skip_line(input: &mut impl BufRead) -> Option<()> {
    loop {
        let room = input.fill_buf().ok()?;
        if room.is_empty() {
            return None;
        }
        let (used, is_done) = match room.iter().position(|byte| *byte == b'\n') {
            Some(end) => (end + 1, true),
            None => (room.len(), false),
        };
        input.consume(used);
        if is_done {
            return Some(());
        }
    }
}

/// Where messages to the client go.
#[derive(Clone, Debug)]
pub(crate) struct Out(mpsc::Sender<Vec<u8>>);

impl Out {
    /// Begins to write; the other one says when everything is written, or nobody reads.
    pub(crate) fn start() -> (Self, oneshot::Receiver<()>) {
        let (say, mut heard) = mpsc::channel::<Vec<u8>>(MESSAGES_MAX);
        let (end, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let mut output = std::io::stdout().lock();
            while let Some(message) = heard.blocking_recv() {
                if output.write_all(&message).and_then(|()| output.flush()).is_err() {
                    break;
                }
            }
            // Nobody may wait for it any more.
            end.send(()).unwrap_or(());
        });
        (Self(say), ended)
    }

    /// One message: whatever white space it has between its words, it is one line.
    pub(crate) async fn say(&self, message: &[u8]) {
        if !is_message(message) {
            return tracing::warn!(bytes = message.len(), "what the server says is no message; it is left out");
        }
        let mut line = message.trim_ascii().to_vec();
        // Within a string of JSON there is neither.
        line.iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
        line.push(b'\n');
        drop(self.0.send(line).await);
    }

    #[cfg(test)]
    pub(crate) fn heard() -> (Self, mpsc::Receiver<Vec<u8>>) {
        let (say, heard) = mpsc::channel(MESSAGES_MAX);
        (Self(say), heard)
    }
}

/// Whether a client can read it as a message: a request, a notification, or an answer.
pub(crate) fn is_message(text: &[u8]) -> bool {
    let has_form = || {
        let value: &RawValue = serde_json::from_slice(text).ok()?;
        let members = Members::of(value)?;
        let is_said = members.get("jsonrpc")?.get() == r#""2.0""#;
        let says = ["method", "result", "error"].iter().any(|name| members.get(name).is_some());
        (is_said && says).then_some(())
    };
    has_form().is_some()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn a_line_that_is_too_long_is_read_over_and_the_next_one_counts() {
        let mut text = b"{\"a\":1}\r\n\n  \n".to_vec();
        text.extend(vec![b'x'; LINE_BYTES_MAX + 10]);
        text.extend(b"\n{}\nlast");
        let mut input = BufReader::new(Cursor::new(text));
        let mut read = Vec::new();
        while let Some(line) = next(&mut input) {
            read.push(line);
        }
        let message = |text: &[u8]| Line::Message(text.to_vec());
        assert_eq!(read, [message(b"{\"a\":1}"), Line::TooLong, message(b"{}"), message(b"last")]);
    }

    #[tokio::test]
    async fn a_message_is_one_line() {
        let (out, mut heard) = Out::heard();
        out.say(b"{\n  \"jsonrpc\":\"2.0\",\"method\": \"b\\n\"\r\n}\n").await;
        assert_eq!(heard.recv().await.unwrap(), b"{   \"jsonrpc\":\"2.0\",\"method\": \"b\\n\"  }\n");
    }

    #[tokio::test]
    async fn what_is_no_message_is_not_said() {
        let (out, mut heard) = Out::heard();
        for nonsense in
            ["", "hello", "<html>", "{}", "[]", "null", r#"{"jsonrpc":"2.0"}"#, r#"{"jsonrpc":"1.0","method":"x"}"#]
        {
            out.say(nonsense.as_bytes()).await;
        }
        out.say(br#"{"jsonrpc":"2.0","id":1,"result":{}} {"jsonrpc":"2.0","id":2,"result":{}}"#).await;
        out.say(br#"{"jsonrpc":"2.0","id":3,"result":{}}"#).await;
        assert_eq!(heard.recv().await.unwrap(), b"{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{}}\n");
    }
}
