//! TLS towards one server: whom it is believed to be, and who this node is to it.
//!
//! Called by `connector` for each connection. The server's certificate is checked against the certificates of its
//! manifest, or else the system's, always; there is no way to leave that out. A client certificate comes from a sealed
//! secret and is read again when that changes. TLS 1.2 and 1.3; HTTP/2 or HTTP/1.1, as the server chooses (ALPN).

use std::sync::{Arc, LazyLock};

use arc_swap::ArcSwapOption;
use bailiwick_proto::{address::Host, v1};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;

use super::{
    credential::{Credential, Credentials},
    fault::UpstreamFault,
};

/// Read once, when the first server needs them: some hundred files.
static SYSTEM: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (read, unread) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(read, unread, errors = found.errors.len(), "the system's certificates are read");
    Arc::new(roots)
});

/// How to speak TLS to one server.
#[derive(Debug)]
pub(super) struct Tls {
    roots: Option<Arc<RootCertStore>>,
    name: ServerName<'static>,
    /// The secret with the certificate and key of this node.
    client: Option<String>,
    ready: ArcSwapOption<Ready>,
}

/// Made from one value of the client's secret.
#[derive(Debug)]
struct Ready {
    client: Option<Credential>,
    config: Arc<ClientConfig>,
}

impl Tls {
    /// # Errors
    /// The certificates or the name cannot be read.
    pub(super) fn new(said: Option<&v1::Tls>, host: &Host) -> Result<Self, UpstreamFault> {
        let said = said.cloned().unwrap_or_default();
        let host = match said.server_name.as_str() {
            "" => host.clone(),
            name => name.parse().map_err(|_| invalid("its name in `tls.server_name` cannot be read"))?,
        };
        let name = match host {
            Host::Name(name) => {
                ServerName::try_from(name).map_err(|_| invalid("its name cannot be in a certificate"))?
            }
            Host::Address(address) => ServerName::IpAddress(address.into()),
        };
        let roots = match said.ca.as_str() {
            "" => None,
            ca => Some(Arc::new(own_roots(ca)?)),
        };
        let client = (!said.client.is_empty()).then_some(said.client);
        Ok(Self { roots, name, client, ready: ArcSwapOption::empty() })
    }

    pub(super) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// The secret with this node's certificate as it is now.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn client(&self, credentials: &Credentials) -> Result<Option<Credential>, UpstreamFault> {
        match &self.client {
            None => Ok(None),
            Some(name) => match credentials.find(name) {
                Some(client) => Ok(Some(client)),
                None => Err(UpstreamFault::NoCredential(name.clone())),
            },
        }
    }

    /// What makes connections with this client certificate.
    pub(super) fn connector(&self, client: Option<Credential>) -> Result<TlsConnector, UpstreamFault> {
        let is_same = |ready: &Ready| match (&ready.client, &client) {
            (None, None) => true,
            (Some(held), Some(now)) => held.is(now),
            (None, Some(_)) | (Some(_), None) => false,
        };
        if let Some(ready) = self.ready.load().as_ref().filter(|ready| is_same(ready)) {
            return Ok(TlsConnector::from(Arc::clone(&ready.config)));
        }
        let config = Arc::new(self.config(client.as_ref())?);
        self.ready.store(Some(Arc::new(Ready { client, config: Arc::clone(&config) })));
        Ok(TlsConnector::from(config))
    }

    fn config(&self, client: Option<&Credential>) -> Result<ClientConfig, UpstreamFault> {
        let roots = self.roots.clone().unwrap_or_else(|| Arc::clone(&SYSTEM));
        if roots.is_empty() {
            return Err(UpstreamFault::Untrusted("this system has no certificates to check it against".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| invalid(&error.to_string()))?.with_root_certificates(roots);
        let mut config = match client {
            None => builder.with_no_client_auth(),
            Some(client) => {
                let bad = |_| invalid("the secret of `tls.client` is no certificate chain and its key in PEM");
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(client.as_bytes()).collect();
                let key = PrivateKeyDer::from_pem_slice(client.as_bytes()).map_err(bad)?;
                let configured = builder.with_client_auth_cert(chain.map_err(bad)?, key);
                // Details could tell of the key.
                configured.map_err(|_error| invalid("the key of `tls.client` does not fit its certificate"))?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn own_roots(pem: &str) -> Result<RootCertStore, UpstreamFault> {
    let bad = || invalid("the certificates in `tls.ca` cannot be read");
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate.map_err(|_| bad())?).map_err(|_| bad())?;
    }
    if roots.is_empty() { Err(bad()) } else { Ok(roots) }
}

fn invalid(what: &str) -> UpstreamFault {
    UpstreamFault::Unusable(what.to_owned())
}
