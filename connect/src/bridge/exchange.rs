//! One request and its answer: as one document, or as a stream of messages of which the answer is the last.
//!
//! Called by `bridge` for each request. What servers say on the way is passed on at once. An answer that never comes,
//! or is none, is a [`Fault`], for which `bridge` answers. Specification: MCP 2026-07-28 and 2025-11-25 Streamable
//! HTTP.

use bailiwick_proto::mcp::{Members, Request, RequestId};
use bytes::Bytes;
use http::{StatusCode, header};
use reqwest::Response;
use serde_json::value::RawValue;

use super::{Bridge, envelope};
use crate::{
    caller::Answered,
    fault::Fault,
    sse::{EVENT_BYTES_MAX, Events},
    stdio::is_message,
    web,
};

const INITIALIZE: &str = "initialize";
const LISTEN: &str = "subscriptions/listen";
const TOOLS_CALL: &str = "tools/call";
const TOOLS_LIST: &str = "tools/list";
/// Reasons for which the next request gets another token, or a person is asked: this one can get nothing any more.
const SPENT: [&str; 4] = ["consent_revoked", "consent_expired", "consent_missing", "token_expired"];
/// A mirrored header is missing or differs.
const HEADER_MISMATCH: i64 = -32_020;

/// What a message is to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Its answer.
    Answer,
    /// Something else.
    Other,
}

impl Bridge {
    /// Sends a request and passes on what comes of it.
    pub(super) async fn exchange(&self, request: &Request, text: Bytes) -> Result<(), Fault> {
        let mut envelope = envelope::of(&request.method, &request.members());
        if let Some(headers) = &mut envelope.modern {
            if request.method == LISTEN {
                return self.listen(&request.id, text, &envelope).await;
            }
            if request.method == TOOLS_CALL {
                self.tools.mirror(request, headers);
            }
        }
        if request.method == INITIALIZE && envelope.modern.is_none() {
            self.session.begins(text.clone());
        }
        let answered = self.post(text.clone(), &envelope).await?;
        let answer = self.receive(&request.id, answered, request.method == INITIALIZE).await?;
        let Some(answer) = self.with_learned_headers(request, text, &mut envelope, answer).await? else {
            return Ok(());
        };
        if request.method == TOOLS_LIST {
            self.tools.learn(&answer);
        }
        self.out.say(&answer).await;
        Ok(())
    }

    /// The answer; what else is said goes to the client at once.
    pub(super) async fn receive(
        &self,
        id: &RequestId,
        answered: Answered,
        is_greeting: bool,
    ) -> Result<Vec<u8>, Fault> {
        let Answered { response, held } = answered;
        if is_greeting {
            self.session.is_called(response.headers());
        }
        let status = response.status();
        let answer = if is_stream(&response) {
            self.read_stream(id, response).await?
        } else {
            let url = self.caller.url.url();
            let body = web::read(url, response, EVENT_BYTES_MAX).await?;
            answer_of(id, &body).ok_or_else(|| no_answer(url, status))?
        };
        if is_greeting {
            self.session.speaks(&answer);
        }
        if reason(&answer).is_some_and(|reason| SPENT.contains(&reason.as_str())) {
            self.caller.credentials.spend(&held).await;
        }
        Ok(answer)
    }

    async fn read_stream(&self, id: &RequestId, mut response: Response) -> Result<Vec<u8>, Fault> {
        let url = self.caller.url.url();
        let mut events = Events::default();
        while let Some(chunk) = web::chunk(url, &mut response).await? {
            let read = events.feed(&chunk).map_err(|_| Fault::answer(url, "an event is too large"))?;
            for data in read.into_iter().filter(|data| !data.trim_ascii().is_empty()) {
                if told(id, &data) == Told::Answer {
                    return Ok(data);
                }
                self.out.say(&data).await;
            }
        }
        Err(Fault::answer(url, "the connection broke before the answer came; whether the call ran is not known"))
    }

    /// A call whose mirrored headers were not right, as the tool was never seen, is sent again once it was. `None` if
    /// another answer was passed on.
    async fn with_learned_headers(
        &self,
        request: &Request,
        text: Bytes,
        envelope: &mut envelope::Envelope,
        answer: Vec<u8>,
    ) -> Result<Option<Vec<u8>>, Fault> {
        let Some(headers) = envelope.modern.as_mut().filter(|_| request.method == TOOLS_CALL) else {
            return Ok(Some(answer));
        };
        if error_code(&answer) != Some(HEADER_MISMATCH) || !self.look_at_tools(request).await? {
            return Ok(Some(answer));
        }
        self.tools.mirror(request, headers);
        let answered = self.post(text, envelope).await?;
        let answer = self.receive(&request.id, answered, false).await?;
        self.out.say(&answer).await;
        Ok(None)
    }
}

pub(super) fn is_stream(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.trim_start().get(..17).is_some_and(|start| start.eq_ignore_ascii_case("text/event-stream"))
}

fn no_answer(url: &url::Url, status: StatusCode) -> Fault {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Fault::Limit("the server is asked too often"),
        status if status.is_server_error() => Fault::unreachable(url),
        _ => Fault::answer(url, "this is no answer to the request"),
    }
}

/// Whether a message answers a request.
pub(super) fn told(id: &RequestId, message: &[u8]) -> Told {
    let is_answer = || {
        let value: &RawValue = serde_json::from_slice(message).ok()?;
        let members = Members::of(value)?;
        let answers = members.get("method").is_none() && RequestId::read(members.get("id")?).as_ref() == Some(id);
        (answers && is_message(message)).then_some(())
    };
    if is_answer().is_some() { Told::Answer } else { Told::Other }
}

/// A document as the answer to a request: a refusal that could not know the id gets it.
fn answer_of(id: &RequestId, body: &[u8]) -> Option<Vec<u8>> {
    if told(id, body) == Told::Answer {
        return Some(body.to_vec());
    }
    let value: &RawValue = serde_json::from_slice(body).ok()?;
    let members = Members::of(value)?;
    let is_without = members.get("id").is_none_or(|id| id.get() == "null");
    let error = members.get("error").filter(|_| is_without)?;
    Some(format!(r#"{{"jsonrpc":"2.0","id":{},"error":{}}}"#, id.to_json(), error.get()).into_bytes())
}

fn error_of(answer: &[u8]) -> Option<serde_json::Value> {
    let value: &RawValue = serde_json::from_slice(answer).ok()?;
    serde_json::from_str(Members::of(value)?.get("error")?.get()).ok()
}

fn error_code(answer: &[u8]) -> Option<i64> {
    error_of(answer)?.get("code")?.as_i64()
}

fn reason(answer: &[u8]) -> Option<String> {
    error_of(answer)?.pointer("/data/reason")?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> RequestId {
        RequestId::read(&RawValue::from_string(text.to_owned()).unwrap()).unwrap()
    }

    #[test]
    fn a_message_answers_the_request_of_its_id_alone() {
        for (own, message, expected) in [
            ("7", r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, Told::Answer),
            ("\"7\"", r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, Told::Other),
            ("7", r#"{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage"}"#, Told::Other),
            ("7", r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#, Told::Other),
            ("7", "not json", Told::Other),
            ("7", r#"{"id":7,"result":{}}"#, Told::Other),
            ("7", r#"{"jsonrpc":"2.0","id":7}"#, Told::Other),
        ] {
            assert_eq!(told(&id(own), message.as_bytes()), expected, "{message}");
        }
    }

    #[test]
    fn a_refusal_that_knew_no_id_gets_the_request_s() {
        let answer =
            |body: &str| answer_of(&id("\"a\""), body.as_bytes()).map(|bytes| String::from_utf8(bytes).unwrap());
        let expected = r#"{"jsonrpc":"2.0","id":"a","error":{"code":-32600,"message":"x"}}"#;
        assert_eq!(
            answer(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"x"}}"#).as_deref(),
            Some(expected)
        );
        assert_eq!(answer(r#"{"jsonrpc":"2.0","id":8,"error":{"code":-32600,"message":"x"}}"#), None);
        assert_eq!(answer("<html>"), None);
    }

    #[test]
    fn reasons_are_read_from_refusals() {
        let text =
            br#"{"jsonrpc":"2.0","id":1,"error":{"code":403,"message":"x","data":{"reason":"consent_revoked"}}}"#;
        assert_eq!((error_code(text), reason(text).as_deref()), (Some(403), Some("consent_revoked")));
        assert_eq!(reason(br#"{"jsonrpc":"2.0","id":1,"result":{"reason":"consent_revoked"}}"#), None);
    }
}
