//! Access tokens: what they claim, how they are signed, how they are verified.
//!
//! The control plane mints (`mint`, `SigningKey`); data planes verify (`VerifyingKeys::verify`). A token is a JWT in
//! JWS compact form, signed with EdDSA (Ed25519, the default) or ES256, with header `{alg, kid, typ: "at+jwt"}`.
//!
//! Invariants: the algorithm belongs to the key, never to the token; one audience; a token that is not exactly what
//! [`mint`] writes is refused; time is an argument; tokens and private keys cannot be printed.
//!
//! JWTs that strangers sign (ID-JAGs, client assertions, workload and ID tokens) are another matter, with rules of
//! their own: [`assertion`]. What data planes sign for servers is another again: [`context`].
//!
//! Deliberately absent: revocation, consent and the state of people and agents (`data-plane/core`); opaque refresh
//! tokens and the OAuth endpoints (control plane). Specifications: RFC 7515, 7517, 7518, 7519, 7638, 8037, 9068, 8725.

pub mod assertion;
pub mod binding;
mod claims;
mod client;
pub mod context;
pub mod dpop;
mod envelope;
mod jwk;
mod key;
mod mint;
pub mod proof;
mod secret;
mod verify;

pub use claims::{ACT_DEPTH_MAX, Actor, Claims, Confirmation, Thumbprint};
pub use client::{DpopClaims, client_assertion, dpop_proof, dpop_proof_over};
pub use jwk::{Algorithm, PublicJwk};
pub use key::{KeyError, SigningKey};
pub use mint::{MintError, mint};
pub use secret::{AccessToken, TokenHash, same_secret};
pub use verify::{CLOCK_SKEW_SECONDS, Expect, TOKEN_BYTES_MAX, TokenError, VerifyingKeys};
