//! Writing requests and answers, and reading a server's answers strictly.
//!
//! Called by the data plane: towards clients for answers, towards servers for requests. A server's answer must carry
//! the id that was asked and either a result or an error, never both; a body that does not is treated as no answer.
//! Members JSON-RPC does not define are dropped, since the envelope towards the client is written anew.
//! Specification: JSON-RPC 2.0 §5; MCP 2026-07-28 basic, "Responses".

use serde_json::value::RawValue;

use super::{
    message::{Message, MessageFault, Notification, Request, RequestId, read_message},
    raw::{Members, is_object, push_string, raw},
    strict::{StrictFault, check_json},
};

/// Longest error message taken over from a server; beyond that it is cut.
pub const ERROR_MESSAGE_CHARS_MAX: usize = 1024;

/// What a message has beside its id and its parts.
const ENVELOPE_BYTES: usize = 32;

/// A JSON-RPC error.
#[derive(Clone, Debug)]
pub struct RpcError {
    /// See [`super::code`].
    pub code: i64,
    /// One sentence.
    pub message: String,
    /// Anything, as JSON text.
    pub data: Option<Box<RawValue>>,
}

/// A server's answer.
#[derive(Clone, Debug)]
pub enum Response {
    /// The `result` object, as it was written.
    Result(Box<RawValue>),
    /// The `error` object.
    Error(RpcError),
}

/// One message of a server's event stream.
#[derive(Clone, Debug)]
pub enum Incoming {
    /// The answer that ends the stream.
    Response(Response),
    /// Progress, logging and the like.
    Notification(Notification),
    /// A legacy server asks something of the client.
    Request(Request),
}

/// Why a server's message is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResponseFault {
    /// No single reading as JSON.
    #[error(transparent)]
    Json(#[from] StrictFault),
    /// Neither a response nor another message.
    #[error("the server's message is malformed: {0}")]
    Message(MessageFault),
    /// A JSON value that is no object.
    #[error("the server's message is not a JSON object")]
    NotObject,
    /// `jsonrpc` is absent or not "2.0".
    #[error("`jsonrpc` must be \"2.0\"")]
    Version,
    /// The id is absent or another than was asked.
    #[error("the answer carries another id than the request")]
    Id,
    /// Both, or neither of `result` and `error`.
    #[error("an answer has either `result` or `error`")]
    NotOneOf,
    /// `result` is no object.
    #[error("`result` must be an object")]
    Result,
    /// `error` lacks an integer `code` or a string `message`.
    #[error("`error` must have an integer `code` and a string `message`")]
    Error,
}

/// Reads a server's answer to the request with this id. An error without an id is accepted: the server may have been
/// unable to read the request.
///
/// # Errors
/// The first rule the answer breaks.
pub fn read_response(body: &[u8], asked: &RequestId) -> Result<Response, ResponseFault> {
    let text = check_json(body)?;
    let value: &RawValue = serde_json::from_str(text).map_err(|_unsplit| ResponseFault::NotObject)?;
    let members = Members::of(value).ok_or(ResponseFault::NotObject)?;
    read_answer(&members, asked)
}

/// Reads one message of a server's event stream.
///
/// # Errors
/// The first rule the message breaks.
pub fn read_incoming(data: &[u8], asked: &RequestId) -> Result<Incoming, ResponseFault> {
    let text = check_json(data)?;
    let value: &RawValue = serde_json::from_str(text).map_err(|_unsplit| ResponseFault::NotObject)?;
    let members = Members::of(value).ok_or(ResponseFault::NotObject)?;
    if members.get("method").is_none() {
        return read_answer(&members, asked).map(Incoming::Response);
    }
    match read_message(data) {
        Ok(Message::Notification(notification)) => Ok(Incoming::Notification(notification)),
        Ok(Message::Request(request)) => Ok(Incoming::Request(request)),
        Ok(Message::Reply(_)) => Err(ResponseFault::NotOneOf),
        Err((fault, _)) => Err(ResponseFault::Message(fault)),
    }
}

/// Reads one message of a channel that carries the answers to many requests: with the id that it has. An error without
/// an id, or with null, is an answer without one.
///
/// # Errors
/// The first rule the message breaks, and the id where the message is an object with a readable one.
pub fn read_any(data: &[u8]) -> Result<(Option<RequestId>, Incoming), (ResponseFault, Option<RequestId>)> {
    let value: &RawValue = serde_json::from_slice(data).map_err(|_unsplit| match check_json(data) {
        Err(fault) => (ResponseFault::Json(fault), None),
        Ok(_) => (ResponseFault::NotObject, None),
    })?;
    let members = Members::of(value).ok_or((ResponseFault::NotObject, None))?;
    let id = members.get("id").and_then(RequestId::read);
    if members.get("method").is_none() {
        let asked = id.clone().unwrap_or_else(|| RequestId::from(0));
        check_json(data).map_err(|fault| (fault.into(), id.clone()))?;
        return match read_answer(&members, &asked) {
            Ok(answer) => Ok((id, Incoming::Response(answer))),
            Err(fault) => Err((fault, id)),
        };
    }
    match read_message(data) {
        Ok(Message::Notification(notification)) => Ok((None, Incoming::Notification(notification))),
        Ok(Message::Request(request)) => Ok((id, Incoming::Request(request))),
        Ok(Message::Reply(_)) => Err((ResponseFault::NotOneOf, id)),
        Err((fault, _)) => Err((ResponseFault::Message(fault), None)),
    }
}

fn read_answer(members: &Members<'_>, asked: &RequestId) -> Result<Response, ResponseFault> {
    if !members.is_version_2() {
        return Err(ResponseFault::Version);
    }
    let same_id = members.get("id").map(|id| RequestId::read(id).as_ref() == Some(asked));
    match (members.get("result"), members.get("error")) {
        (Some(result), None) => {
            if same_id != Some(true) {
                return Err(ResponseFault::Id);
            }
            if !is_object(result) {
                return Err(ResponseFault::Result);
            }
            Ok(Response::Result(result.to_owned()))
        }
        (None, Some(error)) => {
            let unread = members.get("id").is_none_or(|id| id.get() == "null");
            if !unread && same_id != Some(true) {
                return Err(ResponseFault::Id);
            }
            read_error(error).map(Response::Error)
        }
        (Some(_), Some(_)) | (None, None) => Err(ResponseFault::NotOneOf),
    }
}

fn read_error(error: &RawValue) -> Result<RpcError, ResponseFault> {
    let members = Members::of(error).ok_or(ResponseFault::Error)?;
    let code = members.read("code").ok().flatten().ok_or(ResponseFault::Error)?;
    let message = members.required_string("message").map_err(|_absent| ResponseFault::Error)?;
    let message = message.chars().take(ERROR_MESSAGE_CHARS_MAX).collect();
    Ok(RpcError { code, message, data: members.get("data").map(ToOwned::to_owned) })
}

/// A successful answer.
#[must_use]
pub fn result_body(id: &RequestId, result: &RawValue) -> Vec<u8> {
    message(Some(id), &[r#""result":"#, result.get()])
}

/// An error of somebody else's, as it was written.
#[must_use]
pub fn raw_error_body(id: &RequestId, error: &RawValue) -> Vec<u8> {
    message(Some(id), &[r#""error":"#, error.get()])
}

/// A refusal. Without an id where none could be read; MCP ids are never null.
#[must_use]
pub fn error_body(id: Option<&RequestId>, error: &RpcError) -> Vec<u8> {
    let id = id.map(|id| format!(r#""id":{id},"#)).unwrap_or_default();
    let data = error.data.as_ref().map(|data| format!(r#","data":{}"#, data.get())).unwrap_or_default();
    let message = raw(&error.message);
    format!(r#"{{"jsonrpc":"2.0",{id}"error":{{"code":{},"message":{message}{data}}}}}"#, error.code).into_bytes()
}

/// A request, or a notification when there is no id.
#[must_use]
pub fn request_body(id: Option<&RequestId>, method: &str, params: Option<&RawValue>) -> Vec<u8> {
    let mut name = String::with_capacity(method.len() + 2);
    push_string(&mut name, method);
    match params {
        Some(params) => message(id, &[r#""method":"#, &name, r#","params":"#, params.get()]),
        None => message(id, &[r#""method":"#, &name]),
    }
}

/// A message of these parts.
fn message(id: Option<&RequestId>, parts: &[&str]) -> Vec<u8> {
    let id = id.map(RequestId::to_json);
    let long = parts.iter().map(|part| part.len()).sum::<usize>() + id.as_ref().map_or(0, String::len);
    let mut text = String::with_capacity(long + ENVELOPE_BYTES);
    text.push_str(r#"{"jsonrpc":"2.0","#);
    if let Some(id) = &id {
        for part in [r#""id":"#, id, ","] {
            text.push_str(part);
        }
    }
    parts.iter().for_each(|part| text.push_str(part));
    text.push('}');
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> RequestId {
        RequestId::from(7)
    }

    #[test]
    fn answers_that_break_a_rule_are_refused() {
        for (body, expected) in [
            (r#"{"jsonrpc":"2.0","id":8,"result":{}}"#, ResponseFault::Id),
            (r#"{"jsonrpc":"2.0","id":"7","result":{}}"#, ResponseFault::Id),
            (r#"{"jsonrpc":"2.0","id":7.0,"result":{}}"#, ResponseFault::Id),
            (r#"{"jsonrpc":"2.0","result":{}}"#, ResponseFault::Id),
            (r#"{"jsonrpc":"2.0","id":null,"result":{}}"#, ResponseFault::Id),
            (r#"{"jsonrpc":"2.0","id":8,"error":{"code":1,"message":"m"}}"#, ResponseFault::Id),
            (r#"{"jsonrpc":"2.0","id":7}"#, ResponseFault::NotOneOf),
            (r#"{"jsonrpc":"2.0","id":7,"result":{},"error":null}"#, ResponseFault::NotOneOf),
            (r#"{"jsonrpc":"2.0","id":7,"result":[]}"#, ResponseFault::Result),
            (r#"{"jsonrpc":"2.0","id":7,"result":null}"#, ResponseFault::Result),
            (r#"{"jsonrpc":"2.0","id":7,"error":{"code":1.5,"message":"m"}}"#, ResponseFault::Error),
            (r#"{"jsonrpc":"2.0","id":7,"error":{"code":1}}"#, ResponseFault::Error),
            (r#"{"jsonrpc":"2.0","id":7,"error":"x"}"#, ResponseFault::Error),
            (r#"{"id":7,"result":{}}"#, ResponseFault::Version),
            ("[]", ResponseFault::NotObject),
            (r#"{"jsonrpc":"2.0","id":7,"result":{"a":1,"a":2}}"#, ResponseFault::Json(StrictFault::RepeatedKey)),
        ] {
            assert_eq!(read_response(body.as_bytes(), &asked()).unwrap_err(), expected, "{body}");
        }
    }

    #[test]
    fn results_keep_their_text_and_errors_their_parts() {
        let body = br#"{"id":7,"result":{"n": 1.0, "big":123456789012345678901},"jsonrpc":"2.0"}"#;
        let Ok(Response::Result(result)) = read_response(body, &asked()) else { panic!("refused") };
        assert_eq!(result.get(), r#"{"n": 1.0, "big":123456789012345678901}"#);
        for id in ["7", "null"] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32602,"message":"no","data":[1]}}}}"#);
            let Ok(Response::Error(error)) = read_response(body.as_bytes(), &asked()) else { panic!("refused") };
            assert_eq!((error.code, error.message.as_str()), (-32602, "no"));
            assert_eq!(error.data.unwrap().get(), "[1]");
        }
    }

    #[test]
    fn an_event_stream_carries_answers_notifications_and_requests() {
        let progress = br#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#;
        assert!(matches!(read_incoming(progress, &asked()), Ok(Incoming::Notification(_))));
        let ping = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        assert!(matches!(read_incoming(ping, &asked()), Ok(Incoming::Request(_))));
        let answer = br#"{"jsonrpc":"2.0","id":7,"result":{}}"#;
        assert!(matches!(read_incoming(answer, &asked()), Ok(Incoming::Response(Response::Result(_)))));
        assert!(read_incoming(b"{\"jsonrpc\":\"2.0\",\"method\":1}", &asked()).is_err());
    }

    #[test]
    fn what_is_written_reads_back() {
        let data = RawValue::from_string(r#"{"reason":"policy_denied"}"#.into()).unwrap();
        let error = RpcError { code: 403, message: "say \"no\"".into(), data: Some(data) };
        let body = error_body(Some(&asked()), &error);
        let Ok(Response::Error(read)) = read_response(&body, &asked()) else { panic!("refused") };
        assert_eq!((read.code, read.message), (403, error.message));
        let anonymous = error_body(None, &RpcError { code: -32700, message: "m".into(), data: None });
        assert_eq!(anonymous, br#"{"jsonrpc":"2.0","error":{"code":-32700,"message":"m"}}"#);
        let request = request_body(Some(&asked()), "tools/list", Some(&data_of("{}")));
        assert_eq!(request, br#"{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{}}"#);
        assert!(matches!(read_message(&request), Ok(Message::Request(_))));
        assert_eq!(result_body(&asked(), &data_of("{}")), br#"{"jsonrpc":"2.0","id":7,"result":{}}"#);
    }

    fn data_of(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.into()).unwrap()
    }
}
