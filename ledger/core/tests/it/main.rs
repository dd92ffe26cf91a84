//! The ledger core from outside: golden bytes of records, and attacks on whole exports.
//!
//! `fixture` builds logs and exports in memory; the other modules hold claims.

#[cfg(test)]
mod attacks;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod decisions;
#[cfg(test)]
mod fixture;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod reports;
