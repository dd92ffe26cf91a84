//! What can be asked of `bailiwick scim`. The help texts here are also the reference in `docs/reference/cli.md`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum ScimCommand {
    /// Tokens by which directories (Okta, Entra ID and others) are let in.
    #[command(subcommand)]
    Token(ScimTokenCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScimTokenCommand {
    /// Make a token. It is shown once, on standard output, and kept nowhere.
    ///
    /// Whoever has it says who is a user here and who is in which group. Everything that comes of it is on record under
    /// its name.
    Create(ScimTokenCreateArgs),
    /// List the tokens: their names, who made them, and until when they are good.
    List(ScimTokenListArgs),
    /// Let nobody in by a token any more.
    Revoke(ScimTokenRevokeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ScimTokenCreateArgs {
    /// What it is called, e.g. okta.
    pub(crate) name: String,
    /// For how long it is good, e.g. 365d; where absent, until it is revoked.
    #[arg(long, value_name = "DURATION", value_parser = lifetime)]
    pub(crate) ttl: Option<Duration>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ScimTokenListArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ScimTokenRevokeArgs {
    /// What it is called.
    pub(crate) name: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// Longest life of a token that has an end.
const DAYS_MAX: u64 = 3_650;

fn lifetime(text: &str) -> Result<Duration, String> {
    let wrong = || format!("use e.g. 12h or 365d; at most {DAYS_MAX}d");
    let days = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok());
    let lifetime = match days {
        Some(days) => Duration::from_secs(days.saturating_mul(24 * 3600)),
        None => {
            let span: jiff::SignedDuration = text.parse().map_err(|_| wrong())?;
            Duration::try_from(span).map_err(|_| wrong())?
        }
    };
    let is_fit = (1..=DAYS_MAX * 24 * 3600).contains(&lifetime.as_secs());
    if is_fit { Ok(lifetime) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_lives_for_as_long_as_is_said_within_reason() {
        assert_eq!(lifetime("12h"), Ok(Duration::from_secs(43_200)));
        assert_eq!(lifetime("365d"), Ok(Duration::from_secs(31_536_000)));
        for wrong in ["", "0d", "0s", "-1h", "3651d", "soon", "99999999999999999999d"] {
            assert!(lifetime(wrong).is_err(), "{wrong}");
        }
    }
}
