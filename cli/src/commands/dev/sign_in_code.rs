//! The code of the local sign-in: whoever has it signs in at this one process as anybody, to try things out.
//!
//! Another one at every start, printed and kept in `DIR/sign-in-code` for scripts, readable by its owner alone.

use std::path::Path;

use aws_lc_rs::rand;
use bailiwick_runtime::private_file;
use zeroize::Zeroizing;

use crate::failure::Failure;

const FILE: &str = "sign-in-code";
/// Bytes of randomness.
const BYTES: usize = 10;

pub(super) fn fresh(data: &Path) -> Result<Zeroizing<String>, Failure> {
    let mut bytes = Zeroizing::new([0; BYTES]);
    let filled = rand::fill(bytes.as_mut_slice());
    filled.map_err(|_| Failure::Refused("the operating system gives no randomness".to_owned()))?;
    let groups = bytes.chunks(2).map(|pair| pair.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let code = Zeroizing::new(groups.collect::<Vec<_>>().join("-"));
    private_file::write(&data.join(FILE), code.as_bytes()).map_err(Failure::refused)?;
    Ok(code)
}
