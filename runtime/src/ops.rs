//! The operations listener: `/livez`, `/readyz`, `/metrics`.
//!
//! Live means the process answers. Ready means every named condition holds; `/readyz` lists them all and answers
//! 503 while one does not, so that a load balancer can leave the node out and a person can see why.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Router, extract::State, http::StatusCode, http::header, response::IntoResponse, routing::get};
use tokio::net::TcpListener;

use crate::{metrics::Registry, shutdown::Shutdown};

/// Named conditions for readiness; cheap to clone. Without a condition nothing is ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, Result<(), String>>>>);

impl Readiness {
    /// No condition yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The condition holds.
    pub fn ready(&self, condition: &'static str) {
        self.set(condition, Ok(()));
    }

    /// The condition does not hold, for this reason.
    pub fn not_ready(&self, condition: &'static str, why: impl Into<String>) {
        self.set(condition, Err(why.into()));
    }

    fn set(&self, condition: &'static str, state: Result<(), String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(condition, state);
    }

    /// Whether all conditions hold (and there is one).
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        !conditions.is_empty() && conditions.values().all(Result::is_ok)
    }

    fn describe(&self) -> String {
        let conditions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = |(name, state): (&&str, &Result<(), String>)| match state {
            Ok(()) => format!("{name}: ok\n"),
            Err(why) => format!("{name}: {why}\n"),
        };
        conditions.iter().map(line).collect()
    }
}

/// Serves until shutdown is requested.
///
/// # Errors
/// I/O errors of the listener.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    registry: Registry,
    shutdown: Shutdown,
) -> std::io::Result<()> {
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state((readiness, registry));
    axum::serve(listener, app).with_graceful_shutdown(async move { shutdown.requested().await }).await
}

async fn readyz(State((readiness, _)): State<(Readiness, Registry)>) -> impl IntoResponse {
    let status = if readiness.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, readiness.describe())
}

async fn metrics(State((_, registry)): State<(Readiness, Registry)>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], registry.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_ready_until_every_condition_holds() {
        let readiness = Readiness::new();
        assert!(!readiness.is_ready());
        readiness.ready("config");
        readiness.not_ready("spool", "full");
        assert!(!readiness.is_ready());
        assert_eq!(readiness.describe(), "config: ok\nspool: full\n");
        readiness.ready("spool");
        assert!(readiness.is_ready());
    }
}
