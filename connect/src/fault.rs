//! Why the bridge cannot do what it is asked, in words for the person at the machine.
//!
//! Made everywhere in this package; `bridge` turns them into JSON-RPC errors, the command line into exit codes.
//! Invariant: nothing secret is in them, and nothing that a terminal would obey: what comes from outside is cut and
//! stripped by [`printable`].

use std::io;

/// Longest text of a stranger that is shown.
const SHOWN_CHARS_MAX: usize = 200;

/// See the file's header.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The URL that was given.
    #[error("{0}")]
    Url(&'static str),
    /// No connection, or no answer in time.
    #[error("{host} does not answer")]
    Unreachable {
        /// Host and port.
        host: String,
    },
    /// The answer is not what the specification says it must be.
    #[error("{host} answers in a way that is not safe to go on with: {what}")]
    Answer {
        /// Host and port.
        host: String,
        /// Which rule is broken.
        what: &'static str,
    },
    /// The authorization server says no.
    #[error("the authorization server refuses: {word}{}", in_brackets(said))]
    Refused {
        /// Its error code.
        word: String,
        /// Its description.
        said: String,
    },
    /// The person did not answer in time.
    #[error("nobody signed in within five minutes")]
    NobodySignedIn,
    /// There is no browser here, and nobody to ask.
    #[error("not signed in, and there is no browser here: run `{command}` in a terminal")]
    SignInFirst {
        /// What to run.
        command: String,
    },
    /// A sign-in failed a moment ago; nobody is asked again so soon.
    #[error("signing in failed a moment ago ({0}); try again in half a minute")]
    FailedBefore(String),
    /// What was pasted is not an answer.
    #[error("{0}")]
    Pasted(&'static str),
    /// Keys cannot be read or written.
    #[error("keys cannot be kept: {0}")]
    Keeping(String),
    /// Keys that could not be read were deleted, so nobody could be told which grant ends.
    #[error("what was kept could not be read and is deleted; the server was not told, so take the consent back there")]
    NotTakenBack,
    /// The server wants more scope, and there is none to be had.
    #[error("the server asks for the scope `{scope}` for this, and that cannot be had: {why}")]
    ScopeRefused {
        /// All that was asked for.
        scope: String,
        /// What became of it.
        why: String,
    },
    /// Somebody else listens where this endpoint's clients send their secret.
    #[error(
        "{address} is taken by a program that is no bridge of yours, which may have been shown the endpoint's \
        secret; that one counts no longer. Free the port or use another, and set the clients up again"
    )]
    PortTaken {
        /// Of the endpoint.
        address: String,
    },
    /// A right token, by its own issuer, is turned away again and again.
    #[error("the server turns away the token that its authorization server just gave: {0}")]
    TurnedAway(String),
    /// A limit of the bridge itself.
    #[error("{0}")]
    Limit(&'static str),
    /// The process stops.
    #[error("the bridge is stopping")]
    Stopping,
    /// The operating system gives no randomness.
    #[error("the operating system gives no randomness")]
    Randomness,
}

impl Fault {
    pub(crate) fn answer(url: &url::Url, what: &'static str) -> Self {
        Self::Answer { host: authority(url), what }
    }

    pub(crate) fn unreachable(url: &url::Url) -> Self {
        Self::Unreachable { host: authority(url) }
    }

    /// A stable word for programs.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Url(_) => "url_invalid",
            Self::Unreachable { .. } => "server_unreachable",
            Self::Answer { .. } => "server_answer_invalid",
            Self::Refused { .. } => "authorization_refused",
            Self::NobodySignedIn | Self::SignInFirst { .. } | Self::FailedBefore(_) => "sign_in_required",
            Self::Pasted(_) => "sign_in_answer_invalid",
            Self::Keeping(_) | Self::NotTakenBack => "keys_unusable",
            Self::TurnedAway(_) => "token_turned_away",
            Self::ScopeRefused { .. } => "scope_refused",
            Self::PortTaken { .. } => "port_taken",
            Self::Limit(_) => "bridge_overloaded",
            Self::Stopping => "bridge_stopping",
            Self::Randomness => "no_randomness",
        }
    }

    /// The JSON-RPC code: outside the band that the protocol reserves, and named after the status in HTTP.
    #[must_use]
    pub const fn code(&self) -> i64 {
        match self {
            Self::Refused { .. }
            | Self::NobodySignedIn
            | Self::SignInFirst { .. }
            | Self::FailedBefore(_)
            | Self::Pasted(_)
            | Self::TurnedAway(_) => 401,
            Self::ScopeRefused { .. } => 403,
            Self::Limit(_) => 429,
            Self::Url(_) | Self::Unreachable { .. } | Self::Answer { .. } => 502,
            Self::Keeping(_) | Self::NotTakenBack | Self::PortTaken { .. } | Self::Stopping | Self::Randomness => 503,
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Keeping(error.to_string())
    }
}

/// Host and port of a URL.
pub(crate) fn authority(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn in_brackets(said: &str) -> String {
    if said.is_empty() { String::new() } else { format!(" ({said})") }
}

/// Of a text from outside, what may stand on a terminal.
pub(crate) fn printable(text: &str) -> String {
    let plain = |c: &char| *c == ' ' || c.is_ascii_graphic() || (c.is_alphanumeric() && !c.is_control());
    text.chars().filter(plain).take(SHOWN_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_shown() {
        assert_eq!(printable("no\u{1b}[2J\u{202e}\r\nway é"), "no[2Jway é");
        assert_eq!(printable(&"x".repeat(1000)).len(), SHOWN_CHARS_MAX);
    }

    #[test]
    fn codes_are_outside_the_band_of_the_protocol() {
        for fault in [Fault::NobodySignedIn, Fault::Stopping, Fault::Limit("x"), Fault::Url("x")] {
            assert!(!(-32_768..=-32_000).contains(&fault.code()) && !fault.word().is_empty());
        }
    }
}
