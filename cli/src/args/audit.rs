//! `bailiwick audit`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum, ValueHint};

use super::Output;

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show records, newest first: one line per call, or every record with -o json.
    Query(AuditArgs),
    /// Write records in the order of the log.
    Export(AuditExportArgs),
}

/// Which records.
#[derive(Clone, Debug, Args)]
pub(crate) struct AuditFilter {
    /// The ledger's URL.
    #[arg(long, env = "BAILIWICK_LEDGER", default_value = "http://127.0.0.1:8440", value_name = "URL")]
    pub(crate) ledger: String,
    /// On whose behalf.
    #[arg(long)]
    pub(crate) user: Option<String>,
    /// Through which agent.
    #[arg(long)]
    pub(crate) agent: Option<String>,
    /// Of which server.
    #[arg(long)]
    pub(crate) server: Option<String>,
    /// Which tool.
    #[arg(long)]
    pub(crate) tool: Option<String>,
    /// Which method of MCP, e.g. tools/call, resources/read.
    #[arg(long)]
    pub(crate) method: Option<String>,
    /// Which kind of record, e.g. call.denied, decision.evaluated, control.event.
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// permit or deny.
    #[arg(long)]
    pub(crate) decision: Option<String>,
    /// bound, missing, invalid, stale, replayed or not_required.
    #[arg(long)]
    pub(crate) binding: Option<String>,
    /// One request.
    #[arg(long, value_name = "ID")]
    pub(crate) request_id: Option<String>,
    /// All that was done on one consent.
    #[arg(long, value_name = "ID")]
    pub(crate) consent: Option<String>,
    /// What was decided for one service.
    #[arg(long, value_name = "NAME")]
    pub(crate) decision_client: Option<String>,
    /// Not before: a time (2026-07-28T12:00:00Z) or an age (15m, 24h, 7d).
    #[arg(long, value_name = "TIME|AGE")]
    pub(crate) since: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    pub(crate) filter: AuditFilter,
    /// At most this many records.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) limit: u32,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct AuditExportArgs {
    #[command(flatten)]
    pub(crate) filter: AuditFilter,
    /// csv (RFC 4180) or jsonl.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) format: ExportFormat,
    /// The file to write; standard output without it.
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum ExportFormat {
    /// RFC 4180, with a header line.
    #[default]
    Csv,
    /// One JSON record a line, exactly as chained.
    Jsonl,
}
