//! Shutdown as a request that everyone can wait for.
//!
//! One [`Shutdown`] per process; each role takes a child, so that a role can stop without its neighbours while a
//! stop of the process reaches all. A request is never taken back. What is done in which order after a request is
//! written in each role's own `serve`.

use tokio_util::sync::CancellationToken;

/// A request to stop: cheap to clone, shared by all holders.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Nobody has asked yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stops when this one stops; its own request does not reach the parent.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Asks all holders and children to stop.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether somebody has asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Returns once somebody has asked.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// Runs `future` to its end, or gives `None` if the stop comes first.
    pub async fn or_stop<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.run_until_cancelled(future).await
    }
}

/// Returns at the first SIGTERM or SIGINT (Ctrl-C).
///
/// # Errors
/// When the process may not install signal handlers.
pub async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
