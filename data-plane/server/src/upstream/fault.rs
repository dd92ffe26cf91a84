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
    /// The connection broke before the answer was whole.
    #[error("the answer broke off: {0}")]
    Broken(String),
    /// The server is elsewhere, it says; nobody approved what is there.
    #[error("the server answered HTTP {0}, a redirect; redirects are not followed: write the address it leads to")]
    Redirected(u16),
    /// It may not be called where it is; nothing was sent.
    #[error("the server's address may not be called: {0}")]
    AddressRefused(String),
    /// Its certificate does not show that it is the server.
    #[error("the server is not trusted: {0}")]
    Untrusted(String),
    /// Its connections failed again and again; it is not asked for so many milliseconds yet.
    #[error("the server failed again and again and is left alone for {0} ms yet")]
    Suspended(u64),
    /// It cannot be reached as its manifest describes it.
    #[error("the server cannot be reached as it is described: {0}")]
    Unusable(String),
    /// An HTTP status that is no answer of MCP.
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
    /// The server has as much to do as it may have; the request did not leave.
    #[error("the server has as much to do as it may have")]
    Busy,
    /// The node's operator does not allow the program; nothing was run.
    #[error("this node's operator does not allow the program `{0}`: see `upstream.commands`")]
    NotAllowed(String),
    /// What the server is to be given is not there, or not any more; nothing was sent.
    #[error("there is no secret `{0}`: seal one with `bailiwick secret set {0}`")]
    NoCredential(String),
}

impl UpstreamFault {
    /// The stable word for responses, records and metrics.
    pub(crate) const fn reason(&self) -> Reason {
        match self {
            Self::Unreachable(_) | Self::SessionGone | Self::Unusable(_) => Reason::UpstreamUnreachable,
            Self::Timeout(_) => Reason::UpstreamTimeout,
            Self::Invalid(_) | Self::Broken(_) => Reason::UpstreamInvalid,
            Self::TooLarge(_) => Reason::UpstreamTooLarge,
            Self::Status(_) | Self::Redirected(_) => Reason::UpstreamRefused,
            Self::InputRefused => Reason::InputRefused,
            Self::Withheld(reason) => *reason,
            Self::AddressRefused(_) => Reason::UpstreamAddressRefused,
            Self::Untrusted(_) => Reason::UpstreamUntrusted,
            Self::Suspended(_) => Reason::UpstreamSuspended,
            Self::Busy => Reason::UpstreamBusy,
            Self::NotAllowed(_) => Reason::CommandNotAllowed,
            Self::NoCredential(_) => Reason::CredentialMissing,
        }
    }
}

/// How much of an error's text is kept for a log line. Nothing of a body is: results are not for logs.
const DETAIL_CHARS_MAX: usize = 200;

/// The error with its causes; the outermost alone says too little.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text.chars().take(DETAIL_CHARS_MAX).collect()
}
