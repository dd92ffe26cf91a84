//! Waiting for a condition, bounded, instead of sleeping.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// Long enough for a loaded two-core machine; a condition that holds is seen within milliseconds.
pub const WAIT_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(25);

/// Polls `condition` until it gives `Some`.
///
/// # Errors
/// After [`WAIT_MAX`], naming what was waited for.
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        if let Some(found) = condition().await {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("waited {WAIT_MAX:?} in vain: {what}");
        }
        sleep(POLL).await;
    }
}
