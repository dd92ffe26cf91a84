//! How much one request may have looked for and written, however many operations it has, those of a bulk request
//! together: a few kilobytes that are sent could cost minutes and gigabytes otherwise.
//!
//! Begun by `service` and `bulk`, and charged by `patch` and `groups` before they do what they are asked for. For one
//! resource the bounds are far above what there is to do; a bulk request that needs more has to be sent in parts.

use super::{fault::Fault, filter::Filter};

/// Most comparisons of values with terms of filters: the longest filter, once, on as many values as there may be.
const COMPARISONS_MAX: usize = 64 * 1024;
/// Most bytes that are written into several values each.
const WRITTEN_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Most filters that all members of a group are looked at for.
const LOOKS_MAX: usize = 16;
/// Most comparisons of members: each of those looks may be at everybody.
const MEMBERS_MAX: usize = LOOKS_MAX * 250_000;

/// What is left.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    comparisons: usize,
    written: usize,
    looks: usize,
    members: usize,
}

impl Default for Budget {
    fn default() -> Self {
        let (comparisons, written) = (COMPARISONS_MAX, WRITTEN_BYTES_MAX);
        Self { comparisons, written, looks: LOOKS_MAX, members: MEMBERS_MAX }
    }
}

impl Budget {
    /// Each of so many values is asked whether it matches.
    ///
    /// # Errors
    /// It is too much.
    pub(super) fn compare(&mut self, values: usize, filter: &Filter) -> Result<(), Fault> {
        let message = || format!("the filters of a request are compared at most {COMPARISONS_MAX} times");
        take(&mut self.comparisons, values.saturating_mul(filter.terms()), message)
    }

    /// So many bytes are written into each of so many values.
    ///
    /// # Errors
    /// It is too much.
    pub(super) fn write(&mut self, values: usize, bytes: usize) -> Result<(), Fault> {
        let message = || format!("a request writes at most {WRITTEN_BYTES_MAX} bytes into several values");
        take(&mut self.written, values.saturating_mul(bytes), message)
    }

    /// Each of so many members of a group is asked whether they match.
    ///
    /// # Errors
    /// It is too much.
    pub(super) fn look(&mut self, members: usize, filter: &Filter) -> Result<(), Fault> {
        take(&mut self.looks, 1, || format!("at most {LOOKS_MAX} filters that name no member"))?;
        let message = || format!("the filters of a request are compared with members at most {MEMBERS_MAX} times");
        take(&mut self.members, members.saturating_mul(filter.terms()), message)
    }
}

fn take(left: &mut usize, wanted: usize, message: impl FnOnce() -> String) -> Result<(), Fault> {
    *left = left.checked_sub(wanted).ok_or_else(|| Fault::too_many(message()))?;
    Ok(())
}
