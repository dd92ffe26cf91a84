//! What nodes tell each other about a call that waits for a modern client's input at a legacy server.
//!
//! Such a server holds its answer back on a stream that one node reads; the client's next request may come to another.
//! So the two talk, in sealed answers (`sealed::answer`): the node that got the input says so to the one that keeps the
//! call, and hears how it goes on. Called by the server on both sides. Nothing here comes from a client: numbers of kept
//! calls stand only inside sealed request states.

use bailiwick_proto::{
    Reason,
    mcp::{Answered, Members, RequestId, Response, RpcError, raw, raw_object},
};
use serde_json::{json, value::RawValue};

use super::Question;
use crate::sealed::answer::Answer;

/// One word between the node that keeps a call and the one that goes on with it.
#[derive(Clone, Debug)]
pub enum Word {
    /// The client gave this, by the keys it was asked under; answer to the waiter with this number.
    Resume {
        /// An object.
        responses: Option<Box<RawValue>>,
        /// Waits for the words below.
        reply_to: u64,
    },
    /// Nobody waits for the call any more.
    Cancel,
    /// The call is kept here, and goes on.
    Taken,
    /// The server asks again: the result that says so.
    Asks(Box<RawValue>),
    /// The server answered, with so many bytes.
    Done(Response, u64),
    /// There is no answer.
    Failed(Reason),
}

impl Word {
    /// For the waiter with this number.
    #[must_use]
    pub fn to(self, waiter: u64) -> Answer {
        let no_more = || raw_object([]);
        let (word, content) = match self {
            Self::Resume { responses, reply_to } => {
                // As text: numbers of 64 bits do not survive all readers of JSON.
                let to = raw(&reply_to.to_string());
                let members = [Some(("to", &*to)), responses.as_deref().map(|responses| ("responses", responses))];
                ("resume", raw_object(members.into_iter().flatten()))
            }
            Self::Cancel => ("cancel", no_more()),
            Self::Taken => ("taken", no_more()),
            Self::Asks(result) => ("asks", result),
            Self::Done(Response::Result(result), bytes) => {
                let bytes = raw(&bytes);
                ("result", raw_object([("result", &*result), ("bytes", &*bytes)]))
            }
            Self::Done(Response::Error(error), bytes) => {
                let (code, message, bytes) = (raw(&error.code), raw(&error.message), raw(&bytes));
                let members =
                    [Some(("code", &*code)), Some(("message", &*message)), Some(("bytes", &*bytes))].into_iter();
                let data = error.data.as_deref().map(|data| ("data", data));
                ("error", raw_object(members.chain([data]).flatten()))
            }
            Self::Failed(reason) => ("failed", raw(&json!({"reason": reason.as_str()}))),
        };
        Answer { waiter, id: RequestId::Text(word.into()), answered: Answered::Result(content) }
    }

    /// What was said; `None` where it is nothing of this.
    #[must_use]
    pub fn of(answer: &Answer) -> Option<Self> {
        let (RequestId::Text(word), Answered::Result(content)) = (&answer.id, &answer.answered) else { return None };
        let members = Members::of(content)?;
        let bytes = || members.read::<u64>("bytes").ok().flatten().unwrap_or(0);
        Some(match word.as_ref() {
            "resume" => Self::Resume {
                responses: members.get("responses").map(ToOwned::to_owned),
                reply_to: members.string("to").ok().flatten()?.parse().ok()?,
            },
            "cancel" => Self::Cancel,
            "taken" => Self::Taken,
            "asks" => Self::Asks(content.clone()),
            "result" => Self::Done(Response::Result(members.get("result")?.to_owned()), bytes()),
            "error" => {
                let code = members.read("code").ok().flatten()?;
                let (message, data) = (members.required_string("message").ok()?, members.get("data"));
                let error = RpcError { code, message, data: data.map(ToOwned::to_owned) };
                Self::Done(Response::Error(error), bytes())
            }
            "failed" => {
                let reason = members.string("reason").ok().flatten()?;
                Self::Failed(reason.parse().ok()?)
            }
            _ => return None,
        })
    }
}

/// The result that asks a modern client for what a legacy server wants to know, by keys counted from 1. The state to be
/// brought back is put in where it is sealed.
#[must_use]
pub fn asking(questions: &[Question]) -> Box<RawValue> {
    let mut requests = Vec::with_capacity(questions.len());
    for (number, question) in questions.iter().enumerate() {
        let method = raw(&question.method);
        let params = question.params.clone().and_then(|params| RawValue::from_string(params).ok());
        let members = [Some(("method", &*method)), params.as_deref().map(|params| ("params", params))];
        requests.push(((number + 1).to_string(), raw_object(members.into_iter().flatten())));
    }
    let requests = raw_object(requests.iter().map(|(key, request)| (key.as_str(), &**request)));
    let (kind, state) = (raw("input_required"), raw(""));
    raw_object([("resultType", &*kind), ("inputRequests", &*requests), ("requestState", &*state)])
}

#[cfg(test)]
mod tests {
    use bailiwick_proto::mcp::method;

    use super::*;

    #[test]
    fn every_word_is_heard_as_it_was_said() {
        let error = RpcError { code: -1, message: "no".into(), data: Some(raw(&json!({"x": 1}))) };
        for (word, heard) in [
            (Word::Resume { responses: Some(raw(&json!({"1": {}}))), reply_to: u64::MAX }, "resume"),
            (Word::Resume { responses: None, reply_to: 0 }, "resume"),
            (Word::Cancel, "cancel"),
            (Word::Taken, "taken"),
            (Word::Asks(asking(&[])), "asks"),
            (Word::Done(Response::Result(raw(&json!({"content": []}))), 17), "result"),
            (Word::Done(Response::Error(error), 18), "error"),
            (Word::Failed(Reason::UpstreamTimeout), "failed"),
        ] {
            let said = format!("{word:?}");
            let answer = word.to(9);
            assert_eq!((answer.waiter, &answer.id), (9, &RequestId::Text(heard.into())));
            assert_eq!(format!("{:?}", Word::of(&answer).unwrap()), said);
        }
        let other = Answer { waiter: 1, id: RequestId::from(1), answered: Answered::Result(raw_object([])) };
        assert!(Word::of(&other).is_none());
        for word in ["nothing", "resume", "result", "error", "failed"] {
            let empty =
                Answer { waiter: 1, id: RequestId::Text(word.into()), answered: Answered::Result(raw_object([])) };
            assert!(Word::of(&empty).is_none(), "{word}");
        }
    }

    #[test]
    fn a_modern_client_is_asked_in_its_own_words() {
        let question = |params: Option<&str>| Question {
            id: RequestId::from(5),
            method: method::ELICIT.to_owned(),
            params: params.map(str::to_owned),
        };
        assert_eq!(
            asking(&[question(Some(r#"{"message":"n?"}"#)), question(None)]).get(),
            r#"{"resultType":"input_required","inputRequests":{"1":{"method":"elicitation/create","params":{"message":"n?"}},"2":{"method":"elicitation/create"}},"requestState":""}"#
        );
    }
}
