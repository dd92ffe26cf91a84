//! Policy: Cedar texts become one compiled set; a request and that set become a verdict.
//!
//! Called by `control-plane/core` (`Reader`, before a policy is accepted) and `data-plane/core`
//! (`CompiledPolicies::compile` when the configuration changes, `decide` on everything that is listed or used).
//!
//! Invariants: no policy means deny; a matching `forbid` beats every `permit`; a policy that fails while it is
//! evaluated means deny, whatever the others say (Cedar's own default skips it). The same inputs give the same verdict.
//!
//! Deliberately absent: people's and agents' state, consent, ceilings and quarantine (`data-plane/core`, admission);
//! clocks, randomness, files. Cedar is named in `cedar.rs` and `cedar/` only; everything else speaks the types of
//! this crate.

mod catalogue;
mod cedar;
mod compiled;
mod references;
mod request;
mod schema;
mod settled;
mod stack;
mod text;
mod validation;

pub use catalogue::{CatalogueTool, KnownNames, Universe, is_cost};
pub use compiled::CompiledPolicies;
pub use request::{PolicyRef, Request, RequestAgent, Use, Verdict};
pub use text::{
    CATALOGUE, POLICIES_MAX, POLICY_NESTING_MAX, POLICY_OPERATORS_MAX, POLICY_TEXT_BYTES_MAX, PolicyProblem, PolicyText,
};
pub use validation::{Names, ReadPolicy, Reader, validate};
