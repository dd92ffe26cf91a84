//! Time and randomness: the only place of this package that asks the operating system for either.
//!
//! Called where a request enters; everything further in gets both as arguments. A simulation has [`Surroundings`] of
//! its own.

use std::{
    fmt::Debug,
    time::{SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{error::Unspecified, rand};

/// Where the commands of a node get their time and their identifiers from.
pub trait Surroundings: Debug + Send + Sync + 'static {
    /// Microseconds since 1970, UTC.
    fn now_micros(&self) -> u64;
    /// Unguessable bytes.
    ///
    /// # Errors
    /// When there are none.
    fn random(&self) -> Result<[u8; 16], Unspecified>;
}

/// The operating system.
#[derive(Clone, Copy, Debug)]
pub struct Host;

impl Surroundings for Host {
    fn now_micros(&self) -> u64 {
        now_micros()
    }

    fn random(&self) -> Result<[u8; 16], Unspecified> {
        random()
    }
}

/// Microseconds since 1970, UTC.
pub(crate) fn now_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Seconds since 1970, UTC.
pub(crate) fn now_seconds() -> i64 {
    i64::try_from(now_micros() / 1_000_000).unwrap_or(i64::MAX)
}

/// Unguessable bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], Unspecified> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes)?;
    Ok(bytes)
}

/// `prefix` and 128 random bits as hex.
pub(crate) fn random_id(prefix: &str) -> Result<String, Unspecified> {
    Ok(format!("{prefix}{}", hex::encode(random::<16>()?)))
}
