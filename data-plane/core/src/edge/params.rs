//! The parameters of one message, split once for everybody who looks into them.

use bailiwick_proto::mcp::{Members, Message, Request};
use serde_json::value::RawValue;

/// A message's parameters and what `_meta` holds, where they are objects.
#[derive(Clone, Debug, Default)]
pub struct Params<'a> {
    /// All of them; none where the message has no parameters.
    pub all: Members<'a>,
    /// Those of `_meta`; none where it is absent or no object.
    pub meta: Members<'a>,
}

impl<'a> Params<'a> {
    /// What a message from outside says.
    #[must_use]
    pub fn of(message: &'a Message) -> Self {
        match message {
            Message::Request(request) => Self::of_request(request),
            Message::Notification(notification) => Self::split(notification.params.as_deref()),
            Message::Reply(_) => Self::default(),
        }
    }

    /// What a request asks with.
    #[must_use]
    pub fn of_request(request: &'a Request) -> Self {
        Self::split(request.params.as_deref())
    }

    fn split(params: Option<&'a RawValue>) -> Self {
        let all = params.and_then(Members::of).unwrap_or_default();
        let meta = all.object("_meta").ok().flatten().unwrap_or_default();
        Self { all, meta }
    }
}
