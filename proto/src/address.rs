//! Addresses of servers: the one reading of a host, which network it lies in, and what lies in none that all may call.
//!
//! Called by the control plane when a manifest is applied and by data planes before they connect, so both read a host
//! alike. A host has one spelling here: what some software reads as an address and other software as a name (octal,
//! hexadecimal or short IPv4, zone ids, trailing dots, percent signs) is refused. An address that carries another one
//! inside (IPv4-mapped, 6to4, NAT64, Teredo and the like) counts as both. What may be connected to all the same,
//! [`Leave`] says. Deliberately absent: resolving names.
//! Specification: RFC 6890 and IANA's registries of special-purpose addresses; WHATWG URL §3.5 for what to refuse.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

mod leave;
#[cfg(test)]
mod tests;

pub use leave::{ADDRESSES_MAX, AddressRefusal, Leave};

/// Longest name of a host (RFC 1035).
const NAME_CHARS_MAX: usize = 253;
const LABEL_CHARS_MAX: usize = 63;

/// A host, in the one spelling it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// In lower case.
    Name(String),
    /// Given as a number.
    Address(IpAddr),
}

/// Why a host is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// Octal, hexadecimal, short or too large.
    #[error("an IPv4 address must be written as four decimal numbers without leading zeros")]
    Ipv4,
    /// Also with a zone.
    #[error("an IPv6 address must be written in brackets and without a zone")]
    Ipv6,
    /// Anything else.
    #[error(
        "a host is a name of letters, digits, hyphens and underscores in labels joined by single dots, or an address"
    )]
    Name,
}

impl FromStr for Host {
    type Err = HostFault;

    /// As it stands in a URL: an IPv6 address in brackets.
    fn from_str(text: &str) -> Result<Self, HostFault> {
        if let Some(inner) = text.strip_prefix('[') {
            let inner = inner.strip_suffix(']').ok_or(HostFault::Ipv6)?;
            return inner.parse().map(|address| Self::Address(IpAddr::V6(address))).map_err(|_| HostFault::Ipv6);
        }
        if text.contains(':') {
            return Err(HostFault::Ipv6);
        }
        // Software takes a host for an IPv4 address when its last label looks like a number.
        let last = text.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
        if last.starts_with(|first: char| first.is_ascii_digit()) && is_number(last) {
            return text.parse().map(|address| Self::Address(IpAddr::V4(address))).map_err(|_| HostFault::Ipv4);
        }
        let is_label = |label: &str| {
            let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            (1..=LABEL_CHARS_MAX).contains(&label.len())
                && label.chars().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if text.len() > NAME_CHARS_MAX || !text.split('.').all(is_label) {
            return Err(HostFault::Name);
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

/// Decimal, octal or hexadecimal, with `0x` or without digits after it.
fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.chars().all(|c| c.is_ascii_hexdigit()),
        None => label.chars().all(|c| c.is_ascii_digit()),
    }
}

/// Addresses with the same first bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

/// The text names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no network: write its first address, a slash and how many bits are fixed, e.g. \"10.1.0.0/16\"")]
pub struct NotANetwork(String);

impl Network {
    /// Whether an address lies in it. One that is IPv4 inside IPv6 counts as what it is: IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        self.holds(address.to_canonical())
    }

    fn holds(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                same(first.to_bits().into(), address.to_bits().into(), 32, self.prefix)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => same(first.to_bits(), address.to_bits(), 128, self.prefix),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }

    /// Whether it is this one address.
    #[must_use]
    pub fn is_only(&self, address: IpAddr) -> bool {
        let all = if self.first.is_ipv4() { 32 } else { 128 };
        self.prefix == all && self.contains(address)
    }
}

fn same(one: u128, other: u128, bits: u8, prefix: u8) -> bool {
    let differing = u32::from(bits.saturating_sub(prefix));
    (one ^ other).checked_shr(differing).unwrap_or(0) == 0
}

impl FromStr for Network {
    type Err = NotANetwork;

    /// `address/bits`, with nothing set behind those bits.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let fault = || NotANetwork(text.chars().take(64).collect());
        let (first, prefix) = text.split_once('/').ok_or_else(fault)?;
        let first: IpAddr = first.parse().map_err(|_| fault())?;
        let digits = !prefix.is_empty() && prefix.bytes().all(|c| c.is_ascii_digit());
        let prefix: u8 = prefix.parse().ok().filter(|_| digits).ok_or_else(fault)?;
        let (bits, width) = match first {
            IpAddr::V4(first) => (u128::from(first.to_bits()), 32),
            IpAddr::V6(first) => (first.to_bits(), 128),
        };
        // What is IPv4 is compared as IPv4, so a mapped network would hold nothing.
        let is_mapped = matches!(first, IpAddr::V6(first) if first.to_ipv4_mapped().is_some());
        let behind = bits & !u128::MAX.checked_shl(u32::from(width - prefix.min(width))).unwrap_or(0);
        if prefix > width || behind != 0 || is_mapped {
            return Err(fault());
        }
        Ok(Self { first, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

/// Whom an address belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Anybody may call there.
    Public,
    /// This machine, a network of its own, or nobody: called with leave only. Says what it is.
    Internal(&'static str),
    /// Where a cloud tells a machine its secrets: called with the node's leave for this address alone.
    Metadata,
}

/// Cloud metadata and credential services that do not lie in a network to which nothing else belongs.
const METADATA: [IpAddr; 9] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    // Containers and pods at AWS.
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 23)),
    // Alibaba, Oracle, Azure.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    // AWS by IPv6, pods there, Google.
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)),
];

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Network {
    Network { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Network {
    Network { first: IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), prefix }
}

/// IPv4 networks that are not anybody's to call.
const SPECIAL_4: [(Network, &str); 16] = [
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(10, 0, 0, 0, 8), "private"),
    (v4(100, 64, 0, 0, 10), "shared by a carrier"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(172, 16, 0, 0, 12), "private"),
    (v4(192, 0, 0, 0, 24), "reserved"),
    (v4(192, 0, 2, 0, 24), "for documentation"),
    (v4(192, 88, 99, 0, 24), "reserved"),
    (v4(192, 168, 0, 0, 16), "private"),
    (v4(198, 18, 0, 0, 15), "for benchmarks"),
    (v4(198, 51, 100, 0, 24), "for documentation"),
    (v4(203, 0, 113, 0, 24), "for documentation"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(255, 255, 255, 255, 32), "broadcast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
];

/// IPv6 networks that are not anybody's to call, within what is global.
const SPECIAL_6: [(Network, &str); 4] = [
    (v6(0x2001, 0, 0, 23), "reserved"),
    (v6(0x2001, 0xdb8, 0, 32), "for documentation"),
    (v6(0x3fff, 0, 0, 20), "for documentation"),
    (v6(0x2620, 0x4f, 0x8000, 48), "reserved"),
];

/// IPv6 networks outside of what is global that have a name.
const LOCAL_6: [(Network, &str); 4] = [
    (v6(0xfc00, 0, 0, 7), "private"),
    (v6(0xfe80, 0, 0, 10), "link-local"),
    (v6(0xfec0, 0, 0, 10), "site-local"),
    (v6(0xff00, 0, 0, 8), "multicast"),
];

const GLOBAL_6: Network = v6(0x2000, 0, 0, 3);

/// Whom an address belongs to, and the address inside it too, if it carries one.
#[must_use]
pub fn reach(address: IpAddr) -> Reach {
    let address = address.to_canonical();
    if METADATA.contains(&address) {
        return Reach::Metadata;
    }
    match address {
        IpAddr::V4(address) => reach_4(address),
        IpAddr::V6(address) => match carried(address) {
            Some((inner, how)) => match reach(IpAddr::V4(inner)) {
                Reach::Public if how == Carries::Nat64 => Reach::Public,
                Reach::Public if how == Carries::Identifier => reach_6(address),
                Reach::Public => Reach::Internal("a tunnel to IPv4"),
                inner => inner,
            },
            None => reach_6(address),
        },
    }
}

fn reach_4(address: Ipv4Addr) -> Reach {
    let special = SPECIAL_4.iter().find(|(network, _)| network.holds(IpAddr::V4(address)));
    special.map_or(Reach::Public, |(_, what)| Reach::Internal(what))
}

fn reach_6(address: Ipv6Addr) -> Reach {
    match address {
        Ipv6Addr::UNSPECIFIED => return Reach::Internal("unspecified"),
        Ipv6Addr::LOCALHOST => return Reach::Internal("loopback"),
        _ => {}
    }
    let known = SPECIAL_6.iter().chain(&LOCAL_6).find(|(network, _)| network.holds(IpAddr::V6(address)));
    match known {
        Some((_, what)) => Reach::Internal(what),
        None if GLOBAL_6.holds(IpAddr::V6(address)) => Reach::Public,
        None => Reach::Internal("reserved"),
    }
}

/// How an IPv6 address carries an IPv4 one.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// A router translates: the IPv4 address is called.
    Nat64,
    /// 6to4, Teredo, IPv4-compatible.
    Tunnel,
    /// ISATAP: the last half of an address in any network.
    Identifier,
}

fn carried(address: Ipv6Addr) -> Option<(Ipv4Addr, Carries)> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let of = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match (a, b, c, d, e, f) {
        // `::` and `::1` carry nothing.
        (0, 0, 0, 0, 0, 0) if (g, h) != (0, 0) && (g, h) != (0, 1) => Some((of(g, h), Carries::Tunnel)),
        (0x64, 0xff9b, 0, 0, 0, 0) => Some((of(g, h), Carries::Nat64)),
        (0x2002, _, _, _, _, _) => Some((of(b, c), Carries::Tunnel)),
        (0x2001, 0, _, _, _, _) => Some((of(!g, !h), Carries::Tunnel)),
        (_, _, _, _, 0 | 0x200, 0x5efe) => Some((of(g, h), Carries::Identifier)),
        _ => None,
    }
}
