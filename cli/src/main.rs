//! `bailiwick`: the one binary. Runs each role, everything at once (`dev`), and talks to a running control plane.
//!
//! `args` says what can be asked, `commands` does it, `output` shows it, `failure` maps errors to exit codes:
//! 0 ok, 1 refused or verification failed, 2 usage, 3 unreachable.

mod admin;
mod args;
mod clients;
mod commands;
mod config;
mod enrolled;
mod failure;
mod ledger_client;
mod output;
mod yaml;

use std::process::ExitCode;

use args::{AgentCommand, Cli, Command, LedgerCommand};
use bailiwick_data_plane::warden;
use clap::Parser;
use failure::Failure;

/// What the system has costs a cluster a third of its commands a second (`bailiwick-loadtest cluster`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A process of its own beside each program that a data plane runs: before anything else is set up.
    if let Some(program) = warden::asked(std::env::args_os()) {
        return warden::run(&program);
    }
    let cli = Cli::parse();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.code()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Failure::refused)?;
    runtime.block_on(dispatch(cli))
}

async fn dispatch(cli: Cli) -> Result<(), Failure> {
    let admin = cli.admin;
    match cli.command {
        Command::Dev(args) => Box::pin(commands::dev::run(args)).await,
        Command::Connect(args) => Box::pin(commands::connect::run(args)).await,
        Command::ControlPlane(args) => Box::pin(commands::role::control_plane(args)).await,
        Command::DataPlane(args) => Box::pin(commands::role::data_plane(args)).await,
        Command::Ledger(args) => match args.command {
            None => Box::pin(commands::role::ledger(args.role)).await,
            Some(LedgerCommand::Export(args)) => commands::ledger::export(args).await,
            Some(LedgerCommand::Verify(args)) => commands::ledger::verify(args),
        },
        Command::Apply(args) if !args.stages.shares.is_empty() => commands::rollout::begin(&admin, args).await,
        Command::Apply(args) => commands::resources::apply(&admin, args).await,
        Command::Delete(args) => commands::resources::delete(&admin, args).await,
        Command::Diff(args) => commands::resources::diff(&admin, args).await,
        Command::Get(args) => commands::resources::get(&admin, args).await,
        Command::Describe(args) => commands::resources::describe(&admin, args).await,
        Command::Pin(args) => commands::resources::pin(&admin, args).await,
        Command::Token(args::TokenCommand::Issue(args)) => commands::token::issue(&admin, args).await,
        Command::Revoke(args) => commands::revoke::revoke(&admin, args).await,
        Command::Agent(AgentCommand::List(args)) => commands::agents::list(&admin, args).await,
        Command::Agent(AgentCommand::SetState(command)) => commands::revoke::agent(&admin, command).await,
        Command::Rollout(command) => commands::rollout::run(&admin, command).await,
        Command::Client(command) => Box::pin(commands::client::run(command)).await,
        Command::Keys(command) => commands::keys::run(&admin, command).await,
        Command::Scim(command) => commands::scim::run(&admin, command).await,
        Command::Signals(command) => commands::signals::run(&admin, command).await,
        Command::Secret(command) => commands::secret::run(&admin, command).await,
        Command::Cluster(command) => commands::cluster::run(&admin, command).await,
        Command::Doctor(args) => Box::pin(commands::doctor::run(&admin, args)).await,
        Command::Audit(args) => commands::audit::run(args).await,
        Command::Explain(args) => commands::explain::run(args).await,
        Command::Completions { shell } => {
            commands::reference::completions(shell);
            Ok(())
        }
        Command::Reference { out } => commands::reference::write(&out),
        Command::Version => {
            output::show(&format!("bailiwick {}\n", env!("CARGO_PKG_VERSION")));
            Ok(())
        }
    }
}
