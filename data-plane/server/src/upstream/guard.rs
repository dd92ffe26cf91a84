//! Where this node may connect to on behalf of others, and how names become addresses.
//!
//! Called by `connector`, for every connection anew: a name is resolved once, every address it gives is looked at, and
//! the connection goes to an address that was looked at, so a name that answers differently the second time gains
//! nothing. One address that is not allowed refuses all: a name that mixes public and internal addresses is an attack
//! or a mistake. Whom an address belongs to, `bailiwick_proto::address` says. What is not public is allowed by the
//! server's manifest or by the node's operator; where a cloud tells machines its secrets, by the operator alone,
//! address by address.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
};

use bailiwick_proto::address::{Network, Reach, reach};

/// Most addresses of a name that are looked at; more are refused, as nobody needs them.
const ADDRESSES_MAX: usize = 64;

/// How names become addresses.
pub(crate) trait Resolver: fmt::Debug + Send + Sync {
    /// The addresses of a name.
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a>;
}

/// Addresses to come.
pub(crate) type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>>;

/// As the operating system does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct System;

impl Resolver for System {
    fn resolve<'a>(&'a self, name: &'a str, port: u16) -> Resolving<'a> {
        Box::pin(async move { Ok(tokio::net::lookup_host((name, port)).await?.take(ADDRESSES_MAX + 1).collect()) })
    }
}

/// What may be connected to for one server.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    /// Of the server's manifest.
    pub(super) server: Vec<Network>,
    /// Of the node's operator.
    pub(super) node: Arc<[Network]>,
}

/// An address that may not be connected to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "{address} is not public ({what}); if the server may be there, say so in its manifest (endpoint.networks) or \
         in the data plane's configuration (upstream.allowed_networks)"
    )]
    Internal { address: IpAddr, what: &'static str },
    #[error(
        "{0} is where a cloud keeps its machines' secrets; only the data plane's configuration can allow it, as that \
         one address (upstream.allowed_networks)"
    )]
    Metadata(IpAddr),
    #[error("the name has too many addresses")]
    TooMany,
}

impl Guard {
    /// Whether all of these may be connected to.
    pub(super) fn check(&self, addresses: &[SocketAddr]) -> Result<(), Refused> {
        if addresses.len() > ADDRESSES_MAX {
            return Err(Refused::TooMany);
        }
        addresses.iter().try_for_each(|address| self.check_one(address.ip()))
    }

    fn check_one(&self, address: IpAddr) -> Result<(), Refused> {
        match reach(address) {
            Reach::Public => Ok(()),
            Reach::Internal(what) => {
                let is_allowed = self.server.iter().chain(self.node.iter()).any(|network| network.contains(address));
                if is_allowed { Ok(()) } else { Err(Refused::Internal { address, what }) }
            }
            Reach::Metadata => {
                let is_allowed = self.node.iter().any(|network| network.is_only(address));
                if is_allowed { Ok(()) } else { Err(Refused::Metadata(address)) }
            }
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
        for (address, server, node, allowed) in [
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
            let guard = Guard { server: networks(server), node: networks(node).into() };
            let checked = guard.check(&[SocketAddr::new(address.parse().unwrap(), 80)]);
            assert_eq!(checked.is_ok(), allowed, "{address} {server:?} {node:?}: {checked:?}");
        }
    }

    #[test]
    fn one_address_that_is_not_allowed_refuses_all() {
        let guard = Guard { server: Vec::new(), node: Arc::new([]) };
        let both = ["8.8.8.8:80", "10.0.0.1:80"].map(|text| text.parse().unwrap());
        assert!(matches!(guard.check(&both), Err(Refused::Internal { what: "private", .. })));
        let many = vec!["8.8.8.8:80".parse().unwrap(); ADDRESSES_MAX + 1];
        assert_eq!(guard.check(&many), Err(Refused::TooMany));
    }
}
