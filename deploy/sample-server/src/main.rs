//! `bailiwick-sample-server`: a small MCP server to put Bailiwick in front of.
//!
//! Started by `deploy/quickstart` and by the end-to-end tests. It speaks both eras of MCP over Streamable HTTP at
//! `/mcp`, keeps no sessions (so any client may send any request to it), and tells at `/calls` how often each tool
//! really ran, at `/reads` how many prompts and resources were asked for. It has no authentication of its own and therefore listens on loopback unless told otherwise; requests
//! with a foreign `Host` are refused either way. The tools are in `finance`, prompts and resources
//! in `reading`.

mod calls;
mod finance;
mod reading;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::{Json, Router, routing};
use clap::Parser;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use calls::CallLog;
use finance::Finance;

/// A sample MCP server: query_data, create_charge and delete_ledger over Streamable HTTP.
#[derive(Debug, Parser)]
#[command(name = "bailiwick-sample-server", version)]
struct Arguments {
    /// Where to listen; port 0 takes a free one, and the line on stdout names it.
    #[arg(long, default_value = "127.0.0.1:9801")]
    listen: SocketAddr,
    /// Speak only 2026-07-28, as a server without `initialize`.
    #[arg(long)]
    modern_only: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let stop = CancellationToken::new();
    let calls = Arc::new(CallLog::default());
    let app = router(Arc::clone(&calls), arguments.modern_only, &stop);

    let listener =
        TcpListener::bind(arguments.listen).await.with_context(|| format!("cannot listen on {}", arguments.listen))?;
    println!("sample MCP server at http://{}/mcp", listener.local_addr()?);
    axum::serve(listener, app).with_graceful_shutdown(stop_requested(stop)?).await?;
    println!("sample MCP server stopped; calls executed: {}", serde_json::to_string(&calls.counts())?);
    Ok(())
}

fn router(calls: Arc<CallLog>, modern_only: bool, stop: &CancellationToken) -> Router {
    let config = StreamableHttpServerConfig::default()
        .with_legacy_session_mode(false)
        .with_json_response(true)
        .with_cancellation_token(stop.child_token());
    let finance = Finance::new(Arc::clone(&calls), modern_only);
    let mcp: StreamableHttpService<Finance, LocalSessionManager> =
        StreamableHttpService::new(move || Ok(finance.clone()), Arc::default(), config);
    let reads = Arc::clone(&calls);
    Router::new()
        .nest_service("/mcp", mcp)
        .route("/calls", routing::get(async move || Json(calls.counts())))
        .route("/reads", routing::get(async move || Json(reads.reads())))
}

/// Resolves at SIGTERM or SIGINT, having told the MCP service to end its streams.
fn stop_requested(stop: CancellationToken) -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    })
}
