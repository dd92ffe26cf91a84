//! What can be asked of `bailiwick client`. The help texts here are also the reference in `docs/reference/cli.md`.

use clap::{Args, Subcommand};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Make a secret for an OAuth client, and the hash of it that the client's manifest names.
    ///
    /// The secret is shown once and kept nowhere; it has 256 random bits. Asks nobody.
    NewSecret(ClientNewSecretArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ClientNewSecretArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}
