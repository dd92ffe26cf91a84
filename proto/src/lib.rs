//! The words every Bailiwick process shares: wire messages, tiers, reason codes, names and subjects.
//!
//! Called by all other packages; calls none of them. Nothing here decides, waits or reads a clock.
//! Deliberately absent: record formats (`ledger/core`), claims (`token`), policy (`policy`).

pub mod address;
pub mod config_digest;
pub mod denial;
pub mod mcp;
pub mod names;
pub mod reason;
pub mod rollout;
pub mod scope;
pub mod statement;
pub mod subjects;
pub mod tier;
pub mod tool_view;

/// Messages and, behind the `grpc` feature, services of package `bailiwick.v1`.
#[cfg_attr(
    feature = "grpc",
    expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated code")
)]
#[expect(clippy::large_enum_variant, reason = "generated code; a server says much, and is held once")]
pub mod v1 {
    include!(concat!(env!("OUT_DIR"), "/bailiwick.v1.rs"));
}

pub use reason::Reason;
pub use tier::Tier;
