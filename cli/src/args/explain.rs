//! `bailiwick explain`.

use clap::Args;

use super::Output;

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The call, or the decision that a service asked for: the id that the refusal or the answer carried, and that
    /// `audit query` shows.
    pub(crate) request_id: String,
    /// The ledger's URL.
    #[arg(long, env = "BAILIWICK_LEDGER", default_value = "http://127.0.0.1:8440", value_name = "URL")]
    pub(crate) ledger: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Output,
}
