//! How much the public HTTP listener takes, in all and from one address or client: `[control_plane.http_limits]`.
//!
//! Part of `ControlPlaneConfig`, checked with it; used by `http` (connections) and `oauth::limits` (requests). An
//! address is an IPv4 address, or the /64 of an IPv6 one. What is not configured is a constant there.

use bailiwick_runtime::config::ConfigProblems;
use serde::{Deserialize, Serialize};

/// Requests of `/oauth/` worked on at a time: each may wait for the cluster, and none waits long.
pub(crate) const AT_ONCE_MAX: u32 = 256;
/// Largest number of anything here: no node does more in a second.
const NUMBER_MAX: u32 = 1_000_000;

/// Every key has a default fit for clients that each have an address of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpLimits {
    /// Connections at once. Each is a file descriptor; whether there are enough, `bailiwick doctor` says.
    pub connections: u32,
    /// Of those, from one address; proxies (`http_proxies`) may have all.
    pub connections_per_address: u32,
    /// Requests of `/oauth/` from one address, in a second on average: an office behind one address signs in, and its
    /// gateway exchanges tokens.
    pub requests_per_second: u32,
    /// As many may come at once.
    pub requests_burst: u32,
    /// Of those 256 that are worked on at a time, so many may be from one address: an eighth, so that no address keeps
    /// others waiting.
    pub requests_at_once: u32,
    /// Requests of one client that proved who it is, in a second on average; from wherever.
    pub client_requests_per_second: u32,
    /// As many may come at once.
    pub client_requests_burst: u32,
    /// Failed proofs of who a client is from one address, in a second on average: honest clients fail when a secret was
    /// changed, and then a few times. Whoever has used them up is not heard, right or wrong.
    pub failures_per_second: u32,
    /// As many may come at once.
    pub failures_burst: u32,
    /// Clients that register themselves from one address, in a second on average: each is kept by every node.
    pub registrations_per_second: u32,
    /// As many may come at once.
    pub registrations_burst: u32,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            connections: 1_024,
            connections_per_address: 128,
            requests_per_second: 50,
            requests_burst: 200,
            requests_at_once: AT_ONCE_MAX / 8,
            client_requests_per_second: 200,
            client_requests_burst: 500,
            failures_per_second: 5,
            failures_burst: 30,
            registrations_per_second: 1,
            registrations_burst: 20,
        }
    }
}

impl HttpLimits {
    /// Adds what is wrong: zero would shut everybody out.
    pub(super) fn check(&self, problems: &mut ConfigProblems) {
        for (key, number, most) in [
            ("connections", self.connections, NUMBER_MAX),
            ("connections_per_address", self.connections_per_address, NUMBER_MAX),
            ("requests_per_second", self.requests_per_second, NUMBER_MAX),
            ("requests_burst", self.requests_burst, NUMBER_MAX),
            ("requests_at_once", self.requests_at_once, AT_ONCE_MAX),
            ("client_requests_per_second", self.client_requests_per_second, NUMBER_MAX),
            ("client_requests_burst", self.client_requests_burst, NUMBER_MAX),
            ("failures_per_second", self.failures_per_second, NUMBER_MAX),
            ("failures_burst", self.failures_burst, NUMBER_MAX),
            ("registrations_per_second", self.registrations_per_second, NUMBER_MAX),
            ("registrations_burst", self.registrations_burst, NUMBER_MAX),
        ] {
            if !(1..=most).contains(&number) {
                problems.add(format!("http_limits.{key}"), format!("must be 1 to {most}"));
            }
        }
    }
}
