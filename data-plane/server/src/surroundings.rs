//! Time and jitter: what following the control plane asks of the machine it runs on.
//!
//! Leases are measured on the monotonic clock given here, and nowhere on another one. A simulation has [`Surroundings`]
//! of its own, with clocks that run too fast or too slowly.

use std::fmt::Debug;

use aws_lc_rs::rand;
use tokio::time::Instant;

/// The machine under a data plane.
pub trait Surroundings: Debug + Send + Sync + 'static {
    /// The monotonic clock: never goes back, whoever sets the time of day.
    fn now(&self) -> Instant;
    /// A number for jitter; need not be secret.
    fn random(&self) -> u8;
}

/// The operating system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host;

impl Surroundings for Host {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn random(&self) -> u8 {
        let mut random = [0_u8; 1];
        // Without randomness a pause is merely not jittered.
        let [random] = rand::fill(&mut random).map_or([u8::MAX], |()| random);
        random
    }
}
