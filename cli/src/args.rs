//! What can be asked of `bailiwick`. The help texts here are also the reference in `docs/reference/cli.md`.

mod agent;
mod audit;
mod client;
mod cluster;
mod connect;
mod explain;
mod keys;
mod revoke;
mod rollout;
mod scim;
mod secret;
mod signals;
mod upstream;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};

pub(crate) use self::agent::{AgentCommand, AgentListArgs, AgentStateCommand};
pub(crate) use self::audit::{AuditArgs, AuditCommand, AuditExportArgs, AuditFilter, ExportFormat};
pub(crate) use self::client::{ClientCommand, ClientListArgs, ClientNewSecretArgs, ClientSetupArgs, SetupScope};
pub(crate) use self::cluster::{
    ClusterBackupArgs, ClusterCommand, ClusterEnrolArgs, ClusterInitArgs, ClusterJoinTokenArgs, ClusterOutputArgs,
    ClusterRemoveArgs, ClusterRestoreArgs, ClusterTransferArgs,
};
pub(crate) use self::connect::{Binding, ConnectArgs, IdentityArgs, Keys};
pub(crate) use self::explain::ExplainArgs;
pub(crate) use self::keys::{KeysCommand, KeysListArgs, KeysRotateArgs, OwnKey};
pub(crate) use self::revoke::RevokeArgs;
pub(crate) use self::rollout::{RolloutCommand, RolloutStatusArgs, RolloutStepArgs, StagesArgs};
pub(crate) use self::scim::{
    ScimCommand, ScimTokenCommand, ScimTokenCreateArgs, ScimTokenListArgs, ScimTokenRevokeArgs,
};
pub(crate) use self::secret::{SecretCommand, SecretDeleteArgs, SecretListArgs, SecretSetArgs, ShownTo};
pub(crate) use self::signals::{
    SignalStreamArgs, SignalStreamCommand, SignalSubjectArgs, SignalVerifyArgs, SignalsCommand,
};
pub(crate) use self::upstream::{Place, Upstream};

/// Longest life of an admin-issued token.
const TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// The control plane for what AI agents may do.
///
/// Every MCP tool call passes through Bailiwick, which decides it by person, agent, consent and policy before it
/// runs, and keeps a record that verifies offline.
///
/// Exit codes: 0 ok, 1 refused or verification failed, 2 usage, 3 unreachable.
#[derive(Debug, Parser)]
#[command(name = "bailiwick", version, propagate_version = true, subcommand_required = true)]
pub(crate) struct Cli {
    /// The admin endpoint of a control plane, or of several, separated by commas: the next is tried when one does not
    /// answer.
    #[arg(long, global = true, env = "BAILIWICK_ADMIN", default_value = "http://127.0.0.1:8431", value_name = "URL,…")]
    pub(crate) admin: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything in one process: control plane, data plane and ledger.
    ///
    /// With manifests the ready token is for the first User, Agent and VirtualServer in them; without, for
    /// dev@localhost through dev-agent, who may use all that the given upstreams have.
    Dev(DevArgs),
    /// Be the MCP server of a local client, and pass everything on to a Bailiwick elsewhere.
    ///
    /// Signs in through the browser, keeps its keys in the keyring of the system, renews tokens and binds each call to
    /// a key that never leaves this machine. Speaks MCP on standard input and output; `client setup` writes the line
    /// that starts it into a client's configuration.
    Connect(ConnectArgs),
    /// Run a control-plane node.
    ControlPlane(RoleArgs),
    /// Run a data-plane node.
    DataPlane(RoleArgs),
    /// Run the ledger, or export and verify what it holds.
    #[command(args_conflicts_with_subcommands = true)]
    Ledger(LedgerArgs),
    /// Apply manifests: all of them or none; with --share, to a share of the data planes first.
    Apply(ApplyArgs),
    /// Delete resources, named by manifests or by kind and name.
    Delete(DeleteArgs),
    /// Show what applying manifests would change. Exits 1 if something would.
    Diff(FilesArgs),
    /// List resources of a kind, or show one.
    Get(GetArgs),
    /// Show one resource with all its details.
    Describe(DescribeArgs),
    /// Accept the tool definitions that a server shows now as the approved ones.
    ///
    /// First sight pins a server's tools by itself. A definition that changes afterwards is quarantined, and a tool
    /// that appears afterwards stays hidden, until it is accepted here.
    Pin(PinArgs),
    /// Tokens for agents.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Take authority away from a person, an agent, a client, a session or a consent, before it ends by itself.
    ///
    /// Data planes hear of it at once. May be repeated: what is gone stays gone. Whoever is activated again needs new
    /// consents; applying a manifest that does not say `active: false` activates.
    Revoke(RevokeArgs),
    /// List agents; pause, resume or retire one.
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Look at changes that are applied in stages (`apply --share`), push one on, or take it back.
    ///
    /// There is one at a time. The control plane watches it and goes on or back by itself; what it is about can be
    /// changed by nothing else meanwhile.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// Secrets that data planes show to servers, or give to them: sealed, by name.
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Directories that provision people (SCIM 2.0).
    #[command(subcommand)]
    Scim(ScimCommand),
    /// Signals of companies' providers (OpenID Shared Signals): streams at their transmitters.
    #[command(subcommand)]
    Signals(SignalsCommand),
    /// The cluster's own keys: which sign tokens and seal refresh tokens and sessions, and putting others in use.
    #[command(subcommand)]
    Keys(KeysCommand),
    /// OAuth clients' secrets, and MCP clients on this machine: finding them, and leading them through Bailiwick.
    #[command(subcommand)]
    Client(ClientCommand),
    /// Begin a cluster, let nodes in and out, back up and restore.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Ask the ledger what happened.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Say of a past call who said that this agent could do that.
    ///
    /// From the ledger alone: who called (or which service asked about whom) through which agent and client, what was decided by which policies, and the
    /// consent it rested on: who granted it, when, for what and why, and since when it is taken back, if it is. Says
    /// what is not found; exits 1 if the call is not.
    Explain(ExplainArgs),
    /// Check this machine, the nodes that a configuration names, and the cluster.
    ///
    /// Looks at disks (kind, room, and how long a sync takes), clocks, certificates, the master key file, versions,
    /// listeners and the members' agreement, and says what to do. Works as far as nodes answer. Changes nothing, but
    /// writes a small file into each data folder and removes it. Exits 1 if anything fails; a warning is no failure.
    Doctor(DoctorArgs),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the generated reference pages.
    #[command(hide = true)]
    Reference {
        /// The folder to write to.
        #[arg(value_hint = ValueHint::DirPath)]
        out: PathBuf,
    },
    /// Print the version.
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Where to keep everything.
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub(crate) data: Option<PathBuf>,
    /// An MCP server to put behind the gateway under this name; may be repeated. NAME=sse:URL speaks HTTP+SSE to it;
    /// NAME='stdio:PROGRAM ARGUMENTS…' runs a program, in this folder and with this search path.
    #[arg(long, value_name = "NAME=URL", value_parser = upstream::upstream)]
    pub(crate) upstream: Vec<Upstream>,
    /// Manifests to apply at start; may be repeated. `-` reads standard input.
    #[arg(short, long = "file", value_name = "MANIFEST", value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    /// Listen on free ports instead of the usual ones; DIR/cluster.json names them.
    #[arg(long)]
    pub(crate) free_ports: bool,
    /// Bound on records waiting for the ledger, in bytes.
    #[arg(long, value_name = "BYTES", hide = true)]
    pub(crate) spool_bytes_max: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RoleArgs {
    /// The node's configuration (TOML). Every key may be overridden by BAILIWICK_SECTION__KEY.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// The configuration of this machine's nodes (TOML); without it only the cluster and the machine are looked at.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) config: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    #[command(flatten)]
    pub(crate) role: RoleArgs,
    #[command(subcommand)]
    pub(crate) command: Option<LedgerCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum LedgerCommand {
    /// Copy the log, up to its latest checkpoint, into a folder that verifies offline.
    Export(ExportArgs),
    /// Check an exported log: no network, no server. Exits 1 naming the first bad leaf.
    Verify(VerifyArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The ledger: its URL, or its data folder.
    #[arg(value_name = "DIR|URL")]
    pub(crate) source: String,
    /// The folder to write; created if missing, refused if it holds another log.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// An exported log.
    #[arg(value_hint = ValueHint::DirPath)]
    pub(crate) out: PathBuf,
    /// The log's verifier key (name+hash+key), obtained from somewhere you trust. Without it the key inside the
    /// export is used, which proves only that the export agrees with itself.
    #[arg(long, value_name = "VKEY")]
    pub(crate) key: Option<String>,
    /// A checkpoint kept from earlier or elsewhere; the export must contain its history. May be repeated.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) checkpoint: Vec<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct FilesArgs {
    /// A manifest file (YAML, several documents allowed); may be repeated. `-` reads standard input.
    #[arg(short, long = "file", value_name = "FILE", required = true, value_hint = ValueHint::FilePath)]
    pub(crate) files: Vec<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub(crate) files: FilesArgs,
    /// Check everything and show what would change, but write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) stages: StagesArgs,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Manifests whose resources are to go; may be repeated.
    #[arg(short, long = "file", value_name = "FILE", value_hint = ValueHint::FilePath, conflicts_with = "kind")]
    pub(crate) files: Vec<PathBuf>,
    /// The kind of the resources to delete.
    #[arg(required_unless_present = "files", requires = "names")]
    pub(crate) kind: Option<String>,
    /// Their names.
    pub(crate) names: Vec<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Server, VirtualServer, User, Group, Agent, Project, Policy, Consent or Node.
    pub(crate) kind: String,
    /// One resource; without it, all of the kind.
    pub(crate) name: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// Server, VirtualServer, User, Group, Agent, Project, Policy, Consent or Node.
    pub(crate) kind: String,
    /// The resource.
    pub(crate) name: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct PinArgs {
    /// The server.
    pub(crate) server: String,
    /// Only these tools; without any, all that the server shows.
    pub(crate) tools: Vec<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Issue a token for a person's agent; records an admin-granted consent.
    Issue(TokenIssueArgs),
}

#[derive(Debug, Args)]
pub(crate) struct TokenIssueArgs {
    /// On whose behalf the agent acts.
    #[arg(long)]
    pub(crate) user: String,
    /// The agent.
    #[arg(long)]
    pub(crate) agent: String,
    /// The virtual server the token is good for.
    #[arg(long, value_name = "NAME")]
    pub(crate) virtual_server: String,
    /// The highest tier consented to: retrieval, transactional or destructive. Default: the agent's ceiling.
    #[arg(long)]
    pub(crate) level: Option<String>,
    /// How long the token and the consent last, e.g. 10m, 8h, 30d.
    #[arg(long, default_value = "10m", value_parser = ttl)]
    pub(crate) ttl: Duration,
    /// Why; kept on the consent.
    #[arg(long, default_value = "issued by an administrator")]
    pub(crate) reason: String,
    /// Binds the token to a key, which is shown with it and never again: without a proof made with that key the token is
    /// of no use.
    #[arg(long)]
    pub(crate) bind: bool,
    /// Binds the token to the DPoP key (RFC 9449) of this thumbprint.
    #[arg(long, value_name = "THUMBPRINT", conflicts_with = "bind")]
    pub(crate) dpop_jkt: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

/// How results look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    #[default]
    Table,
    /// Stable, for programs.
    Json,
    /// Manifests, as they can be applied again.
    Yaml,
}

fn ttl(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration =
        text.parse().map_err(|_| "use e.g. 90s, 10m, 8h or 30d".to_owned()).or_else(|e: String| {
            let days = text.strip_suffix('d').and_then(|days| days.parse::<i64>().ok()).ok_or(e)?;
            Ok::<_, String>(jiff::SignedDuration::from_hours(days.saturating_mul(24)))
        })?;
    let ttl = Duration::try_from(span).map_err(|_| "a time to live is positive".to_owned())?;
    if ttl < Duration::from_secs(1) || ttl > TTL_MAX {
        return Err("a token lives between 1s and 30d".to_owned());
    }
    Ok(ttl)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_to_live_are_read_and_bounded() {
        assert_eq!(ttl("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(ttl("2d"), Ok(Duration::from_secs(172_800)));
        for wrong in ["", "x", "-5m", "0s", "31d", "99999999999999d"] {
            assert!(ttl(wrong).is_err(), "{wrong}");
        }
    }
}
