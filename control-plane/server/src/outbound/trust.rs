//! TLS towards hosts outside: whose certificates are believed.
//!
//! A host's certificate is always checked, against the host of the URL; there is no way to leave that out. TLS 1.2 and
//! 1.3, HTTP/1.1, no certificate of this node's. The system's authorities are read when the first URL needs them: many
//! nodes need them never.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;

use super::FetchError;
use bailiwick_proto::address::Host;

/// A file of authorities of which nothing can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub(crate) struct TrustError {
    pub(crate) path: PathBuf,
    pub(crate) fault: TrustFault,
}

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TrustFault {
    #[error("cannot be read as certificates in PEM")]
    Unreadable,
    #[error("holds no certificate")]
    Empty,
    #[error("holds a certificate that cannot be an authority's")]
    NotAnAuthority,
}

/// See the file's header.
#[derive(Debug)]
pub(super) struct Trust {
    /// Beside the system's.
    own: RootCertStore,
    /// Once it was needed.
    config: OnceLock<Arc<ClientConfig>>,
}

impl Trust {
    pub(super) fn new(authorities: Option<&Path>) -> Result<Self, TrustError> {
        let own = authorities.map_or_else(|| Ok(RootCertStore::empty()), read)?;
        Ok(Self { own, config: OnceLock::new() })
    }

    pub(super) fn connector(&self) -> Result<TlsConnector, FetchError> {
        let config = match self.config.get() {
            Some(config) => config,
            None => {
                let config = self.config()?;
                self.config.get_or_init(|| config)
            }
        };
        Ok(TlsConnector::from(Arc::clone(config)))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, FetchError> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = self.own.clone();
        let (read, unread) = roots.add_parsable_certificates(found.certs);
        tracing::debug!(read, unread, errors = found.errors.len(), "the system's certificates are read");
        if roots.is_empty() {
            return Err(FetchError::Untrusted);
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|_| FetchError::Tls)?;
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Whose certificate a host must show.
pub(super) fn name(host: &Host) -> Result<ServerName<'static>, FetchError> {
    match host {
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| FetchError::Url),
        Host::Address(address) => Ok(ServerName::IpAddress((*address).into())),
    }
}

/// The authorities of a file in PEM.
///
/// # Errors
/// It cannot be read, holds none, or something else.
pub(crate) fn read(path: &Path) -> Result<RootCertStore, TrustError> {
    let bad = |fault| TrustError { path: path.to_owned(), fault };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|_| bad(TrustFault::Unreadable))?;
    let mut roots = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|_| bad(TrustFault::Unreadable))?;
        roots.add(certificate).map_err(|_| bad(TrustFault::NotAnAuthority))?;
    }
    if roots.is_empty() { Err(bad(TrustFault::Empty)) } else { Ok(roots) }
}
