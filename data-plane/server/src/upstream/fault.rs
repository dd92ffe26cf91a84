//! What can go wrong with an MCP server, and which stable reason each fault becomes.
//!
//! Made by `upstream`; `calls` turns it into the client's answer and the outcome's error code. Details are for logs.

use bailiwick_proto::Reason;

/// The server gave no usable answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UpstreamFault {
    /// No connection, or it broke before an answer began.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// No whole answer in time.
    #[error("no answer within {0} ms")]
    Timeout(u64),
    /// The answer breaks HTTP, JSON or MCP.
    #[error("the answer is invalid: {0}")]
    Invalid(String),
    /// The answer exceeds the bound.
    #[error("the answer has more than {0} bytes")]
    TooLarge(usize),
    /// An HTTP status that is no answer of MCP (redirects are not followed).
    #[error("the server answered HTTP {0}")]
    Status(u16),
    /// The node kept the call back before it left.
    #[error("the call did not leave: {0}")]
    Withheld(Reason),
    /// The client did not answer what the server wanted to know first.
    #[error("the client refused to answer what the server asked")]
    InputRefused,
    /// The legacy session this request named is gone; the request was not processed.
    #[error("the server no longer knows the session")]
    SessionGone,
}

impl UpstreamFault {
    /// The stable word for responses, records and metrics.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Unreachable(_) | Self::SessionGone => Reason::UpstreamUnreachable,
            Self::Timeout(_) => Reason::UpstreamTimeout,
            Self::Invalid(_) => Reason::UpstreamInvalid,
            Self::TooLarge(_) => Reason::UpstreamTooLarge,
            Self::Status(_) => Reason::UpstreamRefused,
            Self::InputRefused => Reason::InputRefused,
            Self::Withheld(reason) => *reason,
        }
    }
}
