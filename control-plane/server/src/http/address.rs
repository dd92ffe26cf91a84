//! Where a request comes from: the address of its connection, or the one a trusted proxy says.
//!
//! Asked by `connection` for each request; limits are counted by what it finds (`shares`, `oauth::limits`). Only
//! connections from networks that the operator names are asked for whom they pass on; of what those say, the right-most
//! address that is no proxy's counts, as everything to the left of it was written by a stranger. What cannot be read is
//! as if it were not there: then the proxy itself is the client. Deliberately absent: `Forwarded` (RFC 7239).

use std::net::{IpAddr, SocketAddr};

use axum::http::HeaderMap;
use bailiwick_proto::address::Network;

/// What proxies tell the client's address in.
const FORWARDED_FOR: &str = "x-forwarded-for";
/// Entries looked at: more proxies than anybody has one behind another.
const HOPS_MAX: usize = 16;
/// Bits of an IPv6 address that lie within one customer's network.
const CUSTOMER_BITS: u32 = 64;

/// Whom a request is from; in the extensions of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientAddress(pub(crate) IpAddr);

/// Whom limits count together: an IPv4 address, or the network that one customer gets of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Origin(u128);

impl Origin {
    pub(crate) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_bits().into()),
            // No network has only zeros there that an address comes from.
            IpAddr::V6(address) => Self(address.to_bits() >> CUSTOMER_BITS << CUSTOMER_BITS),
        }
    }
}

/// Networks of proxies that say for whom they ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies {
    networks: Vec<Network>,
    pub(super) tell_certificates: bool,
}

impl Proxies {
    pub(crate) const fn new(networks: Vec<Network>) -> Self {
        Self { networks, tell_certificates: false }
    }

    /// The same, and whether they also say which certificate the client has shown (`client_certificate`).
    pub(super) fn telling_certificates(self, tell_certificates: bool) -> Self {
        Self { tell_certificates, ..self }
    }

    pub(crate) fn holds(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Whom a request with these headers is from that came from `peer`.
    pub(crate) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let told = if self.holds(peer) { self.forwarded_for(headers) } else { None };
        ClientAddress(told.unwrap_or(peer).to_canonical())
    }

    fn forwarded_for(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for entry in entries.take(HOPS_MAX) {
            let address = address(entry)?;
            if !self.holds(address) {
                return Some(address);
            }
        }
        None
    }
}

/// Some proxies write the port too.
fn address(entry: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(entry).ok()?.trim_matches([' ', '\t']);
    text.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn found(peer: &str, lines: &[&str]) -> String {
        let proxies = ["10.0.0.0/8", "2001:db8:1::/48"].map(|network| network.parse().unwrap());
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
        }
        let ClientAddress(address) = Proxies::new(proxies.into()).client(peer.parse().unwrap(), &headers);
        address.to_string()
    }

    #[test]
    fn the_right_most_address_that_is_no_proxys_counts_and_only_a_proxy_is_asked() {
        let long = ["10.0.0.1"; HOPS_MAX].join(",");
        for (what, peer, lines, expected) in [
            ("no proxy's word", "192.0.2.9", &["198.51.100.1"][..], "192.0.2.9"),
            ("a proxy that says nothing", "10.0.0.1", &[], "10.0.0.1"),
            ("one hop", "10.0.0.1", &["198.51.100.1"], "198.51.100.1"),
            ("what a stranger wrote before", "10.0.0.1", &["203.0.113.5, 198.51.100.1"], "198.51.100.1"),
            ("two hops", "10.0.0.1", &["203.0.113.5, 198.51.100.1, 10.2.2.2"], "198.51.100.1"),
            ("several lines are one list", "10.0.0.1", &["198.51.100.1", "203.0.113.5", "10.2.2.2"], "203.0.113.5"),
            ("a stranger's word that is none", "10.0.0.1", &["unknown, 198.51.100.1"], "198.51.100.1"),
            ("nothing but proxies", "10.0.0.1", &["10.2.2.2"], "10.0.0.1"),
            ("what is no address", "10.0.0.1", &["198.51.100.1, unknown"], "10.0.0.1"),
            ("an empty entry", "10.0.0.1", &["198.51.100.1,"], "10.0.0.1"),
            ("with a port", "10.0.0.1", &["198.51.100.1:4711"], "198.51.100.1"),
            ("IPv6", "2001:db8:1::2", &["2001:db8:2::3"], "2001:db8:2::3"),
            ("IPv6 with a port", "2001:db8:1::2", &["[2001:db8:2::3]:4711"], "2001:db8:2::3"),
            ("IPv4 inside IPv6", "::ffff:10.0.0.1", &["::ffff:198.51.100.1"], "198.51.100.1"),
            ("too many hops", "10.0.0.1", &["198.51.100.1", &long], "10.0.0.1"),
        ] {
            assert_eq!(found(peer, lines), expected, "{what}");
        }
    }

    #[test]
    fn a_customer_of_an_ipv6_network_is_one_and_so_is_an_address_written_either_way() {
        let origin = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(origin("2001:db8:1:2::1"), origin("2001:db8:1:2:ffff::9"));
        assert_ne!(origin("2001:db8:1:2::1"), origin("2001:db8:1:3::1"));
        assert_eq!(origin("::ffff:192.0.2.1"), origin("192.0.2.1"));
        assert_ne!(origin("192.0.2.1"), origin("192.0.2.2"));
    }
}
