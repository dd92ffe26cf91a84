//! How a command fails: what it says, and the exit code scripts rely on.

use std::{fmt::Display, process::ExitCode};

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Refused, or verification failed: exit code 1. The text says what to do.
    Refused(String),
    /// The command itself makes no sense: exit code 2.
    Usage(String),
    /// Nobody answers at the address: exit code 3.
    Unreachable(String),
    /// Already said on the output: exit code 1.
    Said,
}

impl Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(message) | Self::Usage(message) | Self::Unreachable(message) => f.write_str(message),
            Self::Said => Ok(()),
        }
    }
}

impl Failure {
    pub(crate) fn refused(error: impl Display) -> Self {
        Self::Refused(error.to_string())
    }

    pub(crate) fn print(&self) {
        match self {
            Self::Refused(message) | Self::Usage(message) | Self::Unreachable(message) => eprintln!("error: {message}"),
            Self::Said => {}
        }
    }

    pub(crate) fn code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Refused(_) | Self::Said => 1,
            Self::Usage(_) => 2,
            Self::Unreachable(_) => 3,
        })
    }
}
