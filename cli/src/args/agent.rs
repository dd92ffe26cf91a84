//! What can be asked of `bailiwick agent`. The help texts here are also the reference in `docs/reference/cli.md`.

use clap::{Args, Subcommand};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// Stop an agent at once, and take nothing away: it goes on where it was when it is resumed.
    Pause(AgentArgs),
    /// Let an agent act that was requested, paused or deactivated.
    Resume(AgentArgs),
    /// Stop an agent for ever and revoke all consents for it; its name stays taken.
    Retire(AgentArgs),
}

impl AgentCommand {
    /// The state it leads to, and for which agent.
    pub(crate) fn into_parts(self) -> (&'static str, AgentArgs) {
        match self {
            Self::Pause(args) => ("paused", args),
            Self::Resume(args) => ("active", args),
            Self::Retire(args) => ("retired", args),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The agent.
    pub(crate) name: String,
    /// Why; kept for the record.
    #[arg(long, value_name = "TEXT", default_value = "by an administrator")]
    pub(crate) reason: String,
    /// Return once it is in force at every data plane, or once the lease of those that are silent has run out, and keep
    /// a receipt of that in the ledger.
    #[arg(long)]
    pub(crate) wait: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}
