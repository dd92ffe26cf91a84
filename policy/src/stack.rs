//! Room on the stack for Cedar, which parses, checks and evaluates recursively.
//!
//! Called by `compiled.rs` around everything that walks a syntax tree. What fits must not depend on how deep the
//! caller's stack already is: the same policy must be accepted, and decide the same, on every thread.
//! The sizes hold for texts within the bounds of `text.rs`, also in builds without optimisation.

/// What parsing, validating and compiling may need: measured, under 20 KiB for each operator of a statement.
const COMPILE_BYTES: usize = 8 * 1024 * 1024;
/// What evaluating one request may need. Cedar itself gives up, and so denies, below 100 KiB.
const DECIDE_BYTES: usize = 1024 * 1024;

/// Runs `work` with room for reading policies; takes a fresh stack when the caller's has less.
pub(crate) fn for_compiling<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(COMPILE_BYTES, COMPILE_BYTES, work)
}

/// Runs `work` with room for one decision. On an ordinary thread this costs one comparison.
pub(crate) fn for_deciding<T>(work: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(DECIDE_BYTES, DECIDE_BYTES, work)
}
