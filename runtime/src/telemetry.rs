//! Structured logs on standard error: text for people, JSON for machines. Beside it, what goes to a collector.
//!
//! `BAILIWICK_LOG` filters (`info`, `bailiwick_data_plane=debug`, …). Messages are constant, values are fields.
//! Spans and metrics: `config` (what an operator may set), `span` and `durations` (what is told), `otlp` (how it gets
//! there).

pub mod config;
pub mod durations;
pub mod otlp;
pub mod span;

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

pub use self::{config::TelemetryConfig, durations::Durations, otlp::Spans, span::Span};

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// One readable line each.
    Text,
    /// One JSON object each.
    Json,
}

/// Starts logging; a second call does nothing. A filter that cannot be read counts as `info`.
pub fn init(format: LogFormat, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let terminal = std::io::stderr().is_terminal();
    let color = terminal && crate::config::env("NO_COLOR").is_none();
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(color);
    let json = format == LogFormat::Json || (format == LogFormat::Auto && !terminal);
    let started = if json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}
