//! A registry of metrics for one process, rendered as OpenMetrics text.
//!
//! Names and help texts live in each server's own `metrics.rs`. In one process with several roles (`dev`) they
//! share one registry, so names carry their role.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{encoding::text, registry};

/// Cheap to clone; all clones are one registry.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<registry::Registry>>);

impl Registry {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metric.
    pub fn register(&self, name: &str, help: &str, metric: impl registry::Metric) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric);
    }

    /// All metrics as OpenMetrics text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut rendered = String::new();
        let registry = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if text::encode(&mut rendered, &registry).is_err() {
            tracing::error!("metrics could not be rendered");
        }
        rendered
    }
}
