//! Random bytes for ids, nonces and the numbers of waiting calls, from the system's source.

use aws_lc_rs::rand;

/// Fresh bytes; `None` without a source, and then nothing is served.
pub(crate) fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).ok()?;
    Some(bytes)
}
