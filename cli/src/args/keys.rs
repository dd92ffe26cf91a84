//! What can be asked of `bailiwick keys`. The help texts here are also the reference in `docs/reference/cli.md`.

use clap::{Args, Subcommand, ValueEnum};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List the cluster's own keys: which is in use, and which are kept until what they made has ended; never the keys
    /// themselves.
    List(KeysListArgs),
    /// Put another key in use.
    ///
    /// What the key before it made goes on to count until it ends: tokens, or refresh tokens and sessions. With
    /// --at-once, for a key that somebody else may have, none of it counts any more.
    Rotate(KeysRotateArgs),
}

/// Which key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum OwnKey {
    /// Signs access tokens; its public half is in the JWKS.
    TokenSigning,
    /// Seals authorization codes, refresh tokens and the sessions of browsers.
    Authorization,
    /// Seals, in tokens, the keys that those are bound to, for data planes.
    TokenBinding,
    /// Signs what servers are told of each call; its public half is in a set of its own.
    ContextSigning,
}

impl OwnKey {
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::TokenSigning => "token-signing",
            Self::Authorization => "authorization",
            Self::TokenBinding => "token-binding",
            Self::ContextSigning => "context-signing",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct KeysListArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct KeysRotateArgs {
    /// Which key.
    #[arg(value_enum)]
    pub(crate) key: OwnKey,
    /// What the keys before it made counts no more, from now on: with token-signing every access token is refused, with
    /// authorization every refresh token and code, and everybody has to sign in again; with token-binding every access
    /// token that is bound to a key given out with it; with context-signing services refuse what nodes sign that have not
    /// heard of it.
    #[arg(long)]
    pub(crate) at_once: bool,
    /// Why; kept on record.
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) reason: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}
