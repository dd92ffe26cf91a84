//! What can be asked of `bailiwick secret`. The help texts here are also the reference in `docs/reference/cli.md`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Seal a secret under a name, in place of the one there was.
    ///
    /// The value is read from standard input or a file, never from the command line; one line end behind it is left
    /// out. Manifests refer to it by name. It is used from then on, without a restart: by data planes, or, for identity
    /// providers, by control planes alone.
    Set(SecretSetArgs),
    /// List the secrets: their names, for whom they are, who set them and what uses them, never their values.
    List(SecretListArgs),
    /// Delete a secret. Calls of servers that still refer to it are refused from then on, and nobody signs in at an
    /// identity provider that does.
    Delete(SecretDeleteArgs),
}

/// To whom a secret is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShownTo {
    /// MCP servers; data planes get it.
    #[default]
    Servers,
    /// Identity providers, when people sign in there; data planes never get it.
    IdentityProvider,
}

impl ShownTo {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Servers => "servers",
            Self::IdentityProvider => "identity-provider",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct SecretSetArgs {
    /// Its name.
    pub(crate) name: String,
    /// To whom it is shown. A name is of one of them: delete it first to change that.
    #[arg(long = "for", value_name = "WHOM", value_enum, default_value_t)]
    pub(crate) shown_to: ShownTo,
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
