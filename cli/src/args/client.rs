//! What can be asked of `bailiwick client`. The help texts here are also the reference in `docs/reference/cli.md`.

use std::net::SocketAddr;

use clap::{Args, Subcommand, ValueEnum};

use super::{Binding, Keys, Output};

#[derive(Debug, Subcommand)]
pub(crate) enum ClientCommand {
    /// Make a secret for an OAuth client, and the hash of it that the client's manifest names.
    ///
    /// The secret is shown once and kept nowhere; it has 256 random bits. Asks nobody.
    NewSecret(ClientNewSecretArgs),
    /// List the MCP clients on this machine, where they keep their servers, and which of those lead through Bailiwick.
    List(ClientListArgs),
    /// Write `bailiwick connect URL` into an MCP client's configuration, or take it out again.
    ///
    /// Shows what changes and asks first. What else is in the file stays as it is, byte for byte; a file that is not
    /// well formed is left alone. What was there before is kept for --undo.
    Setup(ClientSetupArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ClientListArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// Whose file is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum SetupScope {
    /// This user's, for all projects.
    #[default]
    User,
    /// The one in this folder, for all who work on it.
    Project,
}

#[derive(Debug, Args)]
pub(crate) struct ClientSetupArgs {
    /// The MCP client: claude-code, claude-desktop, codex, cursor, gemini, vscode, windsurf or zed.
    pub(crate) client: String,
    /// The MCP URL of a virtual server.
    #[arg(long, required_unless_present = "undo")]
    pub(crate) url: Option<String>,
    /// What the client calls the server; the last word of the URL's path without it.
    #[arg(long, value_name = "SERVER", required_if_eq("undo", "true"))]
    pub(crate) name: Option<String>,
    /// Whose file.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) scope: SetupScope,
    /// The OAuth client to be; see `connect`.
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// How tokens may be bound; see `connect`.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) binding: Binding,
    /// Where keys are kept; see `connect`.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) keys: Keys,
    /// Lead the client to `bailiwick connect URL --http ADDR`, which has to be running, with the secret that it asks
    /// for, rather than have it start a bridge of its own.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:8410")]
    pub(crate) http: Option<SocketAddr>,
    /// Write without asking.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Make the file what it was before; where it was changed since, take out this one entry only.
    #[arg(long, conflicts_with_all = ["url", "http"])]
    pub(crate) undo: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClientNewSecretArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}
