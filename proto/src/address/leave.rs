//! Whether addresses may be connected to on behalf of somebody: the rule of both planes.
//!
//! Called by whoever connects, with every address that a name gave, before the first connection. What is not public
//! is allowed by a manifest or by the node's operator; where a cloud tells machines its secrets, by the operator
//! alone, address by address. One address that is not allowed refuses all: a name that mixes public and internal
//! addresses is an attack or a mistake. Deliberately absent: resolving, connecting, and how a refusal is worded for
//! those who can change what is allowed.

use core::net::{IpAddr, SocketAddr};

use super::{Network, Reach, reach};

/// Most addresses of a name that are looked at; more are refused, as nobody needs them.
pub const ADDRESSES_MAX: usize = 64;

/// What may be connected to although it is not public.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leave<'a> {
    /// By the manifest of whatever is connected to.
    pub manifest: &'a [Network],
    /// By the node's operator.
    pub node: &'a [Network],
}

/// An address that may not be connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressRefusal {
    /// It is not public and lies in no network that was allowed.
    #[error("{address} is not public ({what})")]
    Internal {
        /// As resolved.
        address: IpAddr,
        /// Whose it is, e.g. "loopback".
        what: &'static str,
    },
    /// Nobody but the node's operator may allow it.
    #[error("{0} is where a cloud keeps its machines' secrets")]
    Metadata(IpAddr),
    /// More than [`ADDRESSES_MAX`].
    #[error("the name has too many addresses")]
    TooMany,
}

impl Leave<'_> {
    /// Whether all of these may be connected to.
    ///
    /// # Errors
    /// Says which address may not.
    pub fn check(&self, addresses: &[SocketAddr]) -> Result<(), AddressRefusal> {
        if addresses.len() > ADDRESSES_MAX {
            return Err(AddressRefusal::TooMany);
        }
        addresses.iter().try_for_each(|address| self.check_one(address.ip()))
    }

    /// Whether the address lies in a network that was named, be it public or not.
    #[must_use]
    pub fn names(&self, address: IpAddr) -> bool {
        self.manifest.iter().chain(self.node).any(|network| network.contains(address))
    }

    fn check_one(&self, address: IpAddr) -> Result<(), AddressRefusal> {
        match reach(address) {
            Reach::Public => Ok(()),
            Reach::Internal(_) if self.names(address) => Ok(()),
            Reach::Internal(what) => Err(AddressRefusal::Internal { address, what }),
            Reach::Metadata if self.node.iter().any(|network| network.is_only(address)) => Ok(()),
            Reach::Metadata => Err(AddressRefusal::Metadata(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Vec<Network> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_is_not_public_needs_leave_and_metadata_the_nodes_for_it_alone() {
        for (address, manifest, node, allowed) in [
            ("8.8.8.8", &[][..], &[][..], true),
            ("127.0.0.1", &[], &[], false),
            ("127.0.0.1", &["127.0.0.0/8"], &[], true),
            ("127.0.0.1", &[], &["127.0.0.0/8"], true),
            ("::ffff:127.0.0.1", &["127.0.0.0/8"], &[], true),
            ("::1", &["127.0.0.0/8"], &[], false),
            ("10.1.2.3", &["10.1.0.0/16"], &[], true),
            ("10.2.2.3", &["10.1.0.0/16"], &[], false),
            ("64:ff9b::10.1.2.3", &["10.1.0.0/16"], &[], false),
            ("169.254.169.254", &["169.254.169.254/32", "0.0.0.0/0"], &[], false),
            ("169.254.169.254", &[], &["169.254.0.0/16", "0.0.0.0/0"], false),
            ("169.254.169.254", &[], &["169.254.169.254/32"], true),
            ("::ffff:169.254.169.254", &[], &["169.254.169.254/32"], true),
            ("fd00:ec2::254", &["::/0"], &["fd00::/8"], false),
        ] {
            let (manifest, node) = (networks(manifest), networks(node));
            let leave = Leave { manifest: &manifest, node: &node };
            let checked = leave.check(&[SocketAddr::new(address.parse().unwrap(), 80)]);
            assert_eq!(checked.is_ok(), allowed, "{address} {manifest:?} {node:?}: {checked:?}");
        }
    }

    #[test]
    fn one_address_that_is_not_allowed_refuses_all() {
        let both = ["8.8.8.8:80", "10.0.0.1:80"].map(|text| text.parse().unwrap());
        let refused = Leave::default().check(&both);
        assert!(matches!(refused, Err(AddressRefusal::Internal { what: "private", .. })), "{refused:?}");
        let many = vec!["8.8.8.8:80".parse().unwrap(); ADDRESSES_MAX + 1];
        assert_eq!(Leave::default().check(&many), Err(AddressRefusal::TooMany));
    }

    #[test]
    fn a_public_address_is_named_only_where_it_was_named() {
        let (address, networks) = ("8.8.8.8".parse().unwrap(), networks(&["8.8.8.0/24"]));
        assert!(!Leave::default().names(address));
        assert!(Leave { manifest: &networks, node: &[] }.names(address));
        assert!(Leave { manifest: &[], node: &networks }.names(address));
    }
}
