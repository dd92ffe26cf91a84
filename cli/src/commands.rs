//! What each command does. One file per family; each ends in a `Result` that `main` turns into an exit code.

pub(crate) mod agents;
pub(crate) mod audit;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod connect;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod explain;
pub(crate) mod keys;
pub(crate) mod ledger;
pub(crate) mod reference;
pub(crate) mod resources;
pub(crate) mod revoke;
pub(crate) mod role;
pub(crate) mod rollout;
pub(crate) mod scim;
pub(crate) mod secret;
pub(crate) mod signals;
pub(crate) mod token;
