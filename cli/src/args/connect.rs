//! What can be asked of `bailiwick connect`. The help texts here are also the reference in `docs/reference/cli.md`.

use std::net::SocketAddr;

use clap::{Args, ValueEnum};

/// Where keys are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Keys {
    /// In the keyring of the system if there is one, else in a file that only its owner may read.
    #[default]
    Auto,
    /// In the keyring of the system, or not at all.
    Keyring,
    /// In a file that only its owner may read.
    File,
}

/// How tokens may be bound, so that a thief cannot use them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Binding {
    /// As the server offers it: by an envelope, as Bailiwick does, else by DPoP, else not.
    #[default]
    Auto,
    /// By a key that comes with each token, or not at all.
    Envelope,
    /// By DPoP with a key of the sign-in, or not at all.
    Dpop,
    /// Not, though the server offers it.
    None,
}

#[derive(Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The MCP URL of a virtual server.
    pub(crate) url: String,
    /// Serve clients over HTTP on this machine instead of one on standard input and output; prints the URL and the
    /// secret that clients have to show.
    #[arg(long, value_name = "ADDR", num_args = 0..=1, default_missing_value = "127.0.0.1:8410")]
    #[arg(conflicts_with_all = ["sign_in", "sign_out"])]
    pub(crate) http: Option<SocketAddr>,
    #[command(flatten)]
    pub(crate) identity: IdentityArgs,
    /// Open no browser: print where to go, and with --sign-in take the address that the browser was sent to at the end.
    #[arg(long)]
    pub(crate) no_browser: bool,
    /// Sign in if that is needed, and end.
    #[arg(long, conflicts_with = "sign_out")]
    pub(crate) sign_in: bool,
    /// Give back what was granted, forget its keys, and end.
    #[arg(long)]
    pub(crate) sign_out: bool,
}

/// As whom, for what, and where that is kept: together with the URL it says which keys are used.
#[derive(Clone, Debug, Args)]
pub(crate) struct IdentityArgs {
    /// The client to be. Without it, one that registers itself where the server takes such; else `bailiwick-connect`,
    /// which an administrator registers.
    #[arg(long, value_name = "ID")]
    pub(crate) client_id: Option<String>,
    /// What to ask for, and no more, in place of what the server names: mcp:read, mcp:write or mcp:tools.
    #[arg(long, value_name = "SCOPE")]
    pub(crate) scope: Option<String>,
    /// How tokens may be bound, so that a thief cannot use them.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) binding: Binding,
    /// Where keys are kept.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) keys: Keys,
}
