//! Where this node may connect to on behalf of others, and how names become addresses.
//!
//! Called by `connector`, for every connection anew: a name is resolved once, every address it gives is looked at, and
//! the connection goes to an address that was looked at, so a name that answers differently the second time gains
//! nothing. What may be connected to, `bailiwick_proto::address::Leave` decides, with the networks of the server's
//! manifest and of the node's operator; here a refusal says where those are written.

use std::{fmt, io, net::SocketAddr, pin::Pin, sync::Arc};

use bailiwick_proto::address::{ADDRESSES_MAX, AddressRefusal, Leave, Network};

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

/// An address that may not be connected to, for those who can allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{refusal}{advice}", refusal = .0, advice = self.advice())]
pub(super) struct Refused(AddressRefusal);

impl Guard {
    /// Whether all of these may be connected to.
    pub(super) fn check(&self, addresses: &[SocketAddr]) -> Result<(), Refused> {
        Leave { manifest: &self.server, node: &self.node }.check(addresses).map_err(Refused)
    }
}

impl Refused {
    const fn advice(&self) -> &'static str {
        match self.0 {
            AddressRefusal::Internal { .. } => {
                "; if the server may be there, say so in its manifest (endpoint.networks) or in the data plane's \
                 configuration (upstream.allowed_networks)"
            }
            AddressRefusal::Metadata(_) => {
                "; only the data plane's configuration can allow it, as that one address (upstream.allowed_networks)"
            }
            AddressRefusal::TooMany => "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_who_can_allow_it_and_each_of_them_can() {
        let guard = |server: &[&str], node: &[&str]| Guard {
            server: server.iter().map(|text| text.parse().unwrap()).collect(),
            node: node.iter().map(|text| text.parse().unwrap()).collect(),
        };
        let at = |address: &str| [SocketAddr::new(address.parse().unwrap(), 80)];
        let why = |address: &str| guard(&[], &[]).check(&at(address)).unwrap_err().to_string();
        let internal = why("10.1.2.3");
        assert!(internal.starts_with("10.1.2.3 is not public (private); if the server may be there"), "{internal}");
        let metadata = why("169.254.169.254");
        assert!(metadata.contains("secrets; only the data plane's configuration"), "{metadata}");
        assert_eq!(guard(&["10.1.0.0/16"], &[]).check(&at("10.1.2.3")), Ok(()));
        assert_eq!(guard(&[], &["169.254.169.254/32"]).check(&at("169.254.169.254")), Ok(()));
        assert!(guard(&["169.254.169.254/32"], &[]).check(&at("169.254.169.254")).is_err());
    }
}
