//! Reading one JSON-RPC request, notification or response from a body.
//!
//! Called by the data plane's edge with the whole body. A body that passes is one object with exactly the members
//! JSON-RPC allows; batches (removed from MCP in 2025-06-18) are refused by name. Ids are kept as they were written,
//! because the answer must carry the same. Which era lets a client answer anything, is the edge's to know.
//! Specification: JSON-RPC 2.0 §4; MCP 2026-07-28 basic, "Requests" and "Notifications".

use std::{borrow::Cow, fmt, sync::Arc};

use serde_json::value::RawValue;

use super::{
    code,
    raw::{Members, is_object, push_string},
    strict::{StrictFault, check_json},
};

/// Longest id as text. Ids are echoed in answers and records; SDKs count up or send UUIDs.
pub const ID_BYTES_MAX: usize = 256;
/// Longest method name. The longest of the protocol has 36 characters.
pub const METHOD_BYTES_MAX: usize = 128;

/// A request's id: what the answer must repeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RequestId {
    /// An integer, digits exactly as they were sent.
    Integer(Arc<str>),
    /// A string.
    Text(Arc<str>),
}

impl RequestId {
    /// Reads an id from its JSON text; `None` for anything but a string or an integer within bounds.
    #[must_use]
    pub fn read(value: &RawValue) -> Option<Self> {
        let text = value.get();
        if text.len() > ID_BYTES_MAX {
            return None;
        }
        if text.starts_with('"') {
            return serde_json::from_str::<Cow<'_, str>>(text).ok().map(|text| Self::Text(text.into()));
        }
        let digits = text.strip_prefix('-').unwrap_or(text);
        let integer = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        integer.then(|| Self::Integer(text.into()))
    }

    /// The id as JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        match self {
            Self::Integer(digits) => digits.as_ref().to_owned(),
            Self::Text(text) => {
                let mut json = String::with_capacity(text.len() + 2);
                push_string(&mut json, text);
                json
            }
        }
    }
}

impl From<u64> for RequestId {
    fn from(number: u64) -> Self {
        Self::Integer(number.to_string().into())
    }
}

/// The JSON form: `7` or `"seven"`.
impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Integer(digits) => f.write_str(digits),
            Self::Text(_) => f.write_str(&self.to_json()),
        }
    }
}

/// A request: an answer with the same id is owed.
#[derive(Clone, Debug)]
pub struct Request {
    /// To be repeated in the answer.
    pub id: RequestId,
    /// E.g. `tools/call`.
    pub method: String,
    /// An object, as it was written.
    pub params: Option<Box<RawValue>>,
}

/// A notification: never answered.
#[derive(Clone, Debug)]
pub struct Notification {
    /// E.g. `notifications/initialized`.
    pub method: String,
    /// An object, as it was written.
    pub params: Option<Box<RawValue>>,
}

impl Request {
    /// The parameters, split; no members when absent.
    #[must_use]
    pub fn members(&self) -> Members<'_> {
        self.params.as_deref().and_then(Members::of).unwrap_or_default()
    }
}

impl Notification {
    /// The parameters, split; no members when absent.
    #[must_use]
    pub fn members(&self) -> Members<'_> {
        self.params.as_deref().and_then(Members::of).unwrap_or_default()
    }
}

/// A client's answer to a request of the server, as the legacy era has them.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The id the server's request had.
    pub id: RequestId,
    /// `result`, an object, or `error`, with a code and a message.
    pub answer: Answered,
}

/// How a client answers.
#[derive(Clone, Debug)]
pub enum Answered {
    /// An object, as it was written.
    Result(Box<RawValue>),
    /// An object, as it was written.
    Error(Box<RawValue>),
}

/// What a client may send.
#[derive(Clone, Debug)]
pub enum Message {
    /// With an id.
    Request(Request),
    /// Without.
    Notification(Notification),
    /// To a request of the server's.
    Reply(Reply),
}

/// Why a body is not one message. Every variant knows its JSON-RPC code.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageFault {
    /// No single reading as JSON.
    #[error(transparent)]
    Json(#[from] StrictFault),
    /// An array of messages.
    #[error("batches are not served: send one message per request")]
    Batch,
    /// A JSON value that is no object.
    #[error("the body is not a JSON object")]
    NotObject,
    /// `jsonrpc` is absent or not "2.0".
    #[error("`jsonrpc` must be \"2.0\"")]
    Version,
    /// `id` is null, a fraction, too long, or no string or integer.
    #[error("`id` must be a string or an integer of at most {ID_BYTES_MAX} characters")]
    Id,
    /// `method` is absent, no string, empty or too long.
    #[error("`method` must be a string of 1 to {METHOD_BYTES_MAX} bytes")]
    Method,
    /// `params` is present and no object.
    #[error("`params` must be an object")]
    Params,
    /// Both or neither of `result` and `error`, or one that is no object.
    #[error("a response must have an object as `result` or as `error`")]
    Reply,
    /// A member JSON-RPC does not know.
    #[error("the message has a member that JSON-RPC does not define")]
    UnknownMember,
}

impl MessageFault {
    /// The JSON-RPC code of the refusal.
    #[must_use]
    pub const fn code(&self) -> i64 {
        match self {
            Self::Json(StrictFault::NotJson { .. } | StrictFault::NotUtf8) => code::PARSE_ERROR,
            Self::Json(StrictFault::RepeatedKey | StrictFault::TooDeep)
            | Self::Batch
            | Self::NotObject
            | Self::Version
            | Self::Id
            | Self::Method
            | Self::Params
            | Self::Reply
            | Self::UnknownMember => code::INVALID_REQUEST,
        }
    }
}

/// Reads a body as one request or notification.
///
/// # Errors
/// The first rule the body breaks, and the id where the body is an object with a readable one, so that the refusal
/// can carry it.
pub fn read_message(body: &[u8]) -> Result<Message, (MessageFault, Option<RequestId>)> {
    let text = check_json(body).map_err(|fault| (MessageFault::from(fault), None))?;
    if text.trim_start().starts_with('[') {
        return Err((MessageFault::Batch, None));
    }
    let value: &RawValue = serde_json::from_str(text).map_err(|_unsplit| (MessageFault::NotObject, None))?;
    let members = Members::of(value).ok_or((MessageFault::NotObject, None))?;
    let id = members.get("id").map(RequestId::read);
    read_members(&members, id.clone()).map_err(|fault| (fault, id.flatten()))
}

fn read_members(members: &Members<'_>, id: Option<Option<RequestId>>) -> Result<Message, MessageFault> {
    if !members.is_version_2() {
        return Err(MessageFault::Version);
    }
    let id = match id {
        Some(None) => return Err(MessageFault::Id),
        Some(Some(id)) => Some(id),
        None => None,
    };
    let holds = |name| members.get(name).is_some();
    if !holds("method") && (holds("result") || holds("error")) {
        return read_reply(members, id);
    }
    let method = members.required_string("method").map_err(|_absent| MessageFault::Method)?;
    if method.is_empty() || method.len() > METHOD_BYTES_MAX {
        return Err(MessageFault::Method);
    }
    if members.get("params").is_some_and(|params| !is_object(params)) {
        return Err(MessageFault::Params);
    }
    if members.iter().any(|(name, _)| !matches!(name, "jsonrpc" | "id" | "method" | "params")) {
        return Err(MessageFault::UnknownMember);
    }
    let params = members.get("params").map(ToOwned::to_owned);
    Ok(match id {
        Some(id) => Message::Request(Request { id, method, params }),
        None => Message::Notification(Notification { method, params }),
    })
}

fn read_reply(members: &Members<'_>, id: Option<RequestId>) -> Result<Message, MessageFault> {
    if members.iter().any(|(name, _)| !matches!(name, "jsonrpc" | "id" | "result" | "error")) {
        return Err(MessageFault::UnknownMember);
    }
    let object = |name| members.object(name).map_err(|_no_object| MessageFault::Reply);
    let answer = match (object("result")?, object("error")?) {
        (Some(_), None) => members.get("result").map(|result| Answered::Result(result.to_owned())),
        (None, Some(_)) => members.get("error").map(|error| Answered::Error(error.to_owned())),
        (Some(_), Some(_)) | (None, None) => None,
    };
    let (id, answer) = (id.ok_or(MessageFault::Id)?, answer.ok_or(MessageFault::Reply)?);
    Ok(Message::Reply(Reply { id, answer }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fault(body: &str) -> (MessageFault, Option<RequestId>) {
        read_message(body.as_bytes()).expect_err(body)
    }

    #[test]
    fn malformed_messages_are_refused_by_name() {
        let id = || Some(RequestId::Integer("1".into()));
        for (body, expected, carried) in [
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, MessageFault::Batch, None),
            (" \n[]", MessageFault::Batch, None),
            ("null", MessageFault::NotObject, None),
            ("\"x\"", MessageFault::NotObject, None),
            (r#"{"id":1,"method":"ping"}"#, MessageFault::Version, id()),
            (r#"{"jsonrpc":2.0,"id":1,"method":"ping"}"#, MessageFault::Version, id()),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, MessageFault::Version, id()),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, MessageFault::Id, None),
            (r#"{"jsonrpc":"2.0","id":1.0,"method":"ping"}"#, MessageFault::Id, None),
            (r#"{"jsonrpc":"2.0","id":1e2,"method":"ping"}"#, MessageFault::Id, None),
            (r#"{"jsonrpc":"2.0","id":[1],"method":"ping"}"#, MessageFault::Id, None),
            (r#"{"jsonrpc":"2.0","id":true,"method":"ping"}"#, MessageFault::Id, None),
            (r#"{"jsonrpc":"2.0","id":1}"#, MessageFault::Method, id()),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, MessageFault::Method, id()),
            (r#"{"jsonrpc":"2.0","id":1,"method":""}"#, MessageFault::Method, id()),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, MessageFault::Params, id()),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":null}"#, MessageFault::Params, id()),
            (r#"{"jsonrpc":"2.0","id":1,"result":[]}"#, MessageFault::Reply, id()),
            (r#"{"jsonrpc":"2.0","id":1,"error":"no"}"#, MessageFault::Reply, id()),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#, MessageFault::Reply, id()),
            (r#"{"jsonrpc":"2.0","result":{}}"#, MessageFault::Id, None),
            (r#"{"jsonrpc":"2.0","id":1,"result":{},"params":{}}"#, MessageFault::UnknownMember, id()),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":1}"#, MessageFault::UnknownMember, id()),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#, MessageFault::Json(StrictFault::RepeatedKey), None),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","n\u0061me":"b"}}"#,
                MessageFault::Json(StrictFault::RepeatedKey),
                None,
            ),
        ] {
            assert_eq!(fault(body), (expected, carried), "{body}");
        }
        let long = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(ID_BYTES_MAX));
        assert_eq!(fault(&long), (MessageFault::Id, None));
        let method = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "x".repeat(METHOD_BYTES_MAX + 1));
        assert_eq!(fault(&method), (MessageFault::Method, id()));
        assert_eq!(fault(r#"{"jsonrpc":"2.0"} trailing"#).0.code(), code::PARSE_ERROR);
        assert_eq!(fault("[]").0.code(), code::INVALID_REQUEST);
    }

    #[test]
    fn ids_are_repeated_exactly_as_sent() {
        for id in ["0", "-7", "9007199254740993", "123456789012345678901234567890", r#""a\"b""#, r#""""#] {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping","params":{{}}}}"#);
            let Ok(Message::Request(request)) = read_message(body.as_bytes()) else { panic!("{body}") };
            assert_eq!(request.id.to_json(), id);
            assert_eq!(request.method, "ping");
        }
    }

    #[test]
    fn a_message_without_id_is_a_notification() {
        let body = br#" {"method":"notifications/initialized","jsonrpc":"2.0"} "#;
        let Ok(Message::Notification(notification)) = read_message(body) else { panic!("refused") };
        assert_eq!(notification.method, "notifications/initialized");
        assert!(notification.params.is_none() && notification.members().is_empty());
    }

    #[test]
    fn a_clients_answer_keeps_its_text() {
        let body = br#"{"jsonrpc":"2.0","id":"ask.1","result":{"action":"accept","content":{"n":1.10}}}"#;
        let Ok(Message::Reply(Reply { id, answer: Answered::Result(result) })) = read_message(body) else {
            panic!("refused")
        };
        assert_eq!(
            (id, result.get()),
            (RequestId::Text("ask.1".into()), r#"{"action":"accept","content":{"n":1.10}}"#)
        );
        let refused = br#"{"jsonrpc":"2.0","id":7,"error":{"code":-1,"message":"no"}}"#;
        assert!(matches!(read_message(refused), Ok(Message::Reply(Reply { answer: Answered::Error(_), .. }))));
    }

    #[test]
    fn parameters_keep_their_text() {
        let body = br#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"n":1.10,"big":12345678901234567890123}}"#;
        let Ok(Message::Request(request)) = read_message(body) else { panic!("refused") };
        assert_eq!(request.params.unwrap().get(), r#"{"n":1.10,"big":12345678901234567890123}"#);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            drop(read_message(&bytes));
        }

        #[test]
        fn well_formed_requests_are_always_read(id in any::<i64>(), method in "[a-z/]{1,20}", text in any::<String>()) {
            let body = serde_json::json!({"jsonrpc": "2.0", "id": id, "method": method, "params": {"t": text}});
            let read = read_message(body.to_string().as_bytes());
            let Ok(Message::Request(request)) = read else { return Err(TestCaseError::fail("refused")) };
            prop_assert_eq!(&request.id, &RequestId::Integer(id.to_string().into()));
            prop_assert_eq!(request.members().string("t"), Ok(Some(text)));
        }
    }
}
