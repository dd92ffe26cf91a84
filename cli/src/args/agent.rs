//! What can be asked of `bailiwick agent`. The help texts here are also the reference in `docs/reference/cli.md`.

use clap::{Args, Subcommand};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum AgentCommand {
    /// List agents: who answers for each, who may act as it, and when it was last used.
    ///
    /// What is asked of the ledger, the last calls, is bounded; without a ledger everything else is shown.
    List(AgentListArgs),
    #[command(flatten)]
    SetState(AgentStateCommand),
}

#[derive(Debug, Args)]
pub(crate) struct AgentListArgs {
    /// Only those for which nobody answers: the owner is unknown or not active, and no active successor is named.
    #[arg(long)]
    pub(crate) orphaned: bool,
    /// Only those that made no call and got no token for so many days; younger ones are left out.
    #[arg(long, value_name = "DAYS", num_args = 0..=1, default_missing_value = "30",
          value_parser = clap::value_parser!(u32).range(1..=3_650))]
    pub(crate) dormant: Option<u32>,
    /// Only those that this user answers for.
    #[arg(long, value_name = "USER")]
    pub(crate) owner: Option<String>,
    /// The ledger's URL.
    #[arg(long, env = "BAILIWICK_LEDGER", default_value = "http://127.0.0.1:8440", value_name = "URL")]
    pub(crate) ledger: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AgentStateCommand {
    /// Stop an agent at once, and take nothing away: it goes on where it was when it is resumed.
    Pause(AgentArgs),
    /// Let an agent act that was requested, paused or deactivated.
    Resume(AgentArgs),
    /// Stop an agent for ever and revoke all consents for it; its name stays taken.
    Retire(AgentArgs),
}

impl AgentStateCommand {
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
