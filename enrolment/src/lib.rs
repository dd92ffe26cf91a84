//! How a process becomes a member of a cluster, stays one, and reaches the control planes.
//!
//! A newcomer has a join token ([`JoinToken`]) from an administrator and proves that it holds the key its certificate
//! will be for; it believes only a control plane whose authority has the fingerprint in the token ([`enrol`]). Key and
//! membership are kept in sealed files ([`Store`]); a certificate lasts an hour and is renewed at half of that for
//! ever, also after it has expired ([`keep`]). Data planes and ledgers do all of it through [`join`], which hands out
//! channels ([`ControlPlane`]). Absent: redeeming tokens and signing certificates (`control-plane/server`).

mod client;
mod control_plane;
mod store;
mod token;

pub use self::{
    client::{EnrolError, Wish, enrol, keep, renew},
    control_plane::{ControlPlane, Joining, TokenText, Urls, configured_token, join},
    store::{MemberAddress, Membership, Store, StoreError},
    token::{JoinToken, NotToken, enrol_message, fresh_secret, renew_message},
};
