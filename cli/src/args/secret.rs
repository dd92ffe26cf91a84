//! What can be asked of `bailiwick secret`. The help texts here are also the reference in `docs/reference/cli.md`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueHint};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Seal a secret under a name, in place of the one there was.
    ///
    /// The value is read from standard input or a file, never from the command line; one line end behind it is left
    /// out. Manifests refer to it by name. Data planes use it from then on, without a restart.
    Set(SecretSetArgs),
    /// List the secrets: their names, who set them and which servers use them, never their values.
    List(SecretListArgs),
    /// Delete a secret. Calls of servers that still refer to it are refused from then on.
    Delete(SecretDeleteArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SecretSetArgs {
    /// Its name.
    pub(crate) name: String,
    /// The file that holds the value; standard input where absent.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) from_file: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct SecretListArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct SecretDeleteArgs {
    /// Its name.
    pub(crate) name: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}
