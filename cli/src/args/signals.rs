//! What can be asked of `bailiwick signals`. The help texts here are also the reference in `docs/reference/cli.md`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum SignalsCommand {
    /// The stream of signals at a provider's transmitter, if the provider's manifest has `signals.stream`.
    #[command(subcommand)]
    Stream(SignalStreamCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SignalStreamCommand {
    /// Make the stream as the manifest says, or make the one there is so, and verify it.
    Create(SignalVerifyArgs),
    /// Show what the transmitter says of the stream, and what has come of it here.
    Status(SignalStreamArgs),
    /// Have the transmitter send a verification event, and wait until it has come. Exits 1 if it does not.
    Verify(SignalVerifyArgs),
    /// End the stream.
    Delete(SignalStreamArgs),
    /// Make the stream be about a user too; for transmitters whose streams begin with nobody.
    Add(SignalSubjectArgs),
    /// Make the stream be about a user no more.
    Remove(SignalSubjectArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SignalStreamArgs {
    /// The identity provider.
    pub(crate) provider: String,
    /// The stream's id there, if the transmitter has several of ours.
    #[arg(long, value_name = "ID")]
    pub(crate) stream: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct SignalVerifyArgs {
    #[command(flatten)]
    pub(crate) stream: SignalStreamArgs,
    /// How long to wait for the verification event, at most 10m; 0s: do not ask for one.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = wait)]
    pub(crate) wait: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct SignalSubjectArgs {
    /// The identity provider.
    pub(crate) provider: String,
    /// The user.
    pub(crate) user: String,
    /// The stream's id there, if the transmitter has several of ours.
    #[arg(long, value_name = "ID")]
    pub(crate) stream: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// Longest wait.
const WAIT_MAX: Duration = Duration::from_secs(600);

fn wait(text: &str) -> Result<Duration, String> {
    let wrong = || "use e.g. 60s; at most 10m".to_owned();
    let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
    let wait = Duration::try_from(span).map_err(|_| wrong())?;
    if wait <= WAIT_MAX { Ok(wait) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_an_end() {
        assert_eq!(wait("0s"), Ok(Duration::ZERO));
        assert_eq!(wait("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "-1s", "11m", "ever"] {
            assert!(wait(wrong).is_err(), "{wrong}");
        }
    }
}
