//! What can be asked of `bailiwick revoke`. The help texts here are also the reference in `docs/reference/cli.md`.

use clap::{Args, ValueEnum};

use super::Output;

/// Whose authority is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RevokeKind {
    /// A person: is deactivated, and all their consents are revoked.
    User,
    /// What a person has begun: sessions in browsers end and all their consents are revoked; they may sign in anew.
    UserSessions,
    /// An agent: is deactivated, and all consents for it are revoked.
    Agent,
    /// What everybody allowed an OAuth client; it may ask them again.
    Client,
    /// What one token was issued with (session_id).
    Session,
    /// One consent, by its id.
    Consent,
}

impl RevokeKind {
    /// The word on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::UserSessions => "user-sessions",
            Self::Agent => "agent",
            Self::Client => "client",
            Self::Session => "session",
            Self::Consent => "consent",
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RevokeArgs {
    /// Whose authority is taken away.
    #[arg(value_enum)]
    pub(crate) kind: RevokeKind,
    /// Name of the user, agent or client, or id of the session or consent.
    pub(crate) name: String,
    /// Why; kept for the record.
    #[arg(long, value_name = "TEXT", default_value = "revoked by an administrator")]
    pub(crate) reason: String,
    /// Return once it is in force at every data plane, or once the lease of those that are silent has run out, and keep
    /// a receipt of that in the ledger.
    #[arg(long)]
    pub(crate) wait: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}
