//! Why nothing was fetched.
//!
//! Nothing of an answer stands in a message: whoever can have a URL fetched learns no content by faults. Addresses do,
//! for operators; so messages are for logs, and words for everybody.

use bailiwick_proto::address::AddressRefusal;

/// See the file's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FetchError {
    #[error("the URL is not an http or https URL with a host and without user or fragment")]
    Url,
    #[error("the host's name has no address")]
    NoAddress,
    #[error("the host may not be connected to: {0}")]
    Address(AddressRefusal),
    #[error("plain http goes only to addresses within networks that were named")]
    PlainText,
    #[error("the host takes no connection")]
    Unreachable,
    #[error("the host's certificate is not believed")]
    Untrusted,
    #[error("there is no TLS with the host")]
    Tls,
    #[error("the answer is no HTTP/1.1, or was cut off")]
    Broken,
    #[error("the answer is compressed, which was not asked for")]
    Encoded,
    #[error("the form to send is too large")]
    FormTooLarge,
    #[error("the answer is too large")]
    TooLarge,
    #[error("the answer did not come in time")]
    Late,
}

impl FetchError {
    /// The stable word for responses, records and metrics.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Url => "url_refused",
            Self::NoAddress => "name_unresolved",
            Self::Address(_) => "address_refused",
            Self::PlainText => "plain_text_refused",
            Self::Unreachable => "unreachable",
            Self::Untrusted => "certificate_untrusted",
            Self::Tls => "tls_failed",
            Self::Broken => "answer_broken",
            Self::Encoded => "answer_encoded",
            Self::FormTooLarge => "form_too_large",
            Self::TooLarge => "answer_too_large",
            Self::Late => "answer_late",
        }
    }
}
